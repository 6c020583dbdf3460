"""Figures of what `olm memory` measured, with headings and captions."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from olm import plots
from olm.plots import memory as memory_plots

__all__ = ["MemoryFigure", "figures", "write"]


class MemoryFigure(NamedTuple):
    """A figure with its words.

    Attributes:
      title: its heading.
      caption: how to read it.
      draw: ``draw(ax)``.
    """

    title: str
    caption: str
    draw: Callable[[Any], Any]


def figures(tables: Mapping[str, Any]) -> dict[str, MemoryFigure]:
    """What the tables of memory.npz allow, by file name.

    Args:
      tables: for each set and each model the arrays of `olm.memory.measure.Memory.tables`.

    Returns:
      Figures by name.

    No example: see ``olm memory RUN``.
    """
    found: dict[str, MemoryFigure] = {}
    for name, sides in tables.items():
        main = next(iter(sides.values()))
        word = "".join(letter if letter.isalnum() else "_" for letter in name)
        while f"memory_radii_{word}" in found:  # "a-1" and "a_1" are two sets
            word += "_"
        theory = float(main["theory"])
        shares = dict(sorted(main["by_share"].items(), key=lambda part: int(part[0].rstrip("%"))))
        radii = {side: side_tables["radii"] for side, side_tables in sides.items()}
        found[f"memory_distances_{word}"] = MemoryFigure(
            f"Distances to the nearest stored pattern, {name}",
            "Activations of the last layer, with a quarter, a half, three quarters and all of the stored sequences. The line: "
            "where balls of the theory's radius √(n/2πe) would touch. A radius has no unit of its own: a model's activations can "
            "be scaled without changing what it says.",
            functools.partial(_distances, shares, theory),
        )
        found[f"memory_radii_{word}"] = MemoryFigure(
            f"Radius of each layer's balls, {name}",
            "Half the distance to the nearest other stored pattern, median and quartiles, layer by layer from the embedding (0) "
            "to the states that the head multiplies.",
            functools.partial(memory_plots.layer_radii, radii, theory),
        )
        if main["retrieval"]:
            moved = next(iter(main["retrieval"].values()))["fractions"]
            rates = {kind: np.asarray(one["recovered"])[-1] for kind, one in main["retrieval"].items()}
            found[f"memory_retrieval_{word}"] = MemoryFigure(
                f"Does the stack return to the pattern? {name}",
                "The share of sequences whose last layer is still nearest to their own pattern after the input was moved, in "
                "radii of its ball. Held-out sequences are nothing that was stored: where they do as well, it is no memory.",
                functools.partial(memory_plots.retrieval, moved, rates),
            )
    return found


def _distances(shares: Mapping[str, Any], theory: float, ax: Any) -> Any:
    return memory_plots.nearest_distances(shares, ax, radius=theory)


def write(path: str | os.PathLike[str], tables: Mapping[str, Any]) -> Path:
    """Draw the figures into a run's folder.

    Args:
      path: a run folder.
      tables: as for `figures`.

    Returns:
      The folder of the figures.

    No example: see ``olm memory RUN``.
    """
    folder = Path(path) / "figures"
    for name, figure in figures(tables).items():
        with plots.style():
            axes = plots.new_figure(6.8, 4.0)
            figure.draw(axes)
            plots.save(axes.figure, folder, name)
    return folder
