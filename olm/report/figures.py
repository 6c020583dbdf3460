"""What a run folder holds, and the figures that it allows."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from olm import plots
from olm.errors import InputError
from olm.plots.law import figures as law_figures
from olm.records import Run, load_arrays
from olm.report.memory import figures as memory_figures

__all__ = ["write_figures"]

# By file name: the heading, and how to read the figure.
TEXTS = {
    "loss_test": (
        "Learning curves on held-out data",
        "Lower is better. Dashed: every example has the same weight. Solid: the found policy, same start, same number of "
        "steps. The dot is the step from which the policy stays at or below the baseline's last loss; the line to its right "
        "is the training it saves. No choice was made on these data.",
    ),
    "loss_target": (
        "Learning curves on the target",
        "The same on the data that the search descended. A gain here that the held-out curves do not show is overfitting.",
    ),
    "objective": (
        "The search",
        "One point is one training run and its exact gradient. Crosses were too bold a step, taken back and retried with a "
        "smaller one (triangles: off the scale). The star is the evaluation that was kept, chosen on validation data where there "
        "are any; the legend says so where it is the start, or the step after the last, which has no gradient of its own.",
    ),
    "weights": (
        "The policy: a weight for every example at every step",
        "Orange: more than uniform; blue: less; white: uniform. With mini-batches a row is a place in the batch, which holds "
        "another example at every step. The rows are sorted by their mean weight, so a policy "
        "that moves from some examples to others shows as colours that change from left to right.",
    ),
    "weights_distribution": (
        "How unequal the weights are",
        "One curve is one step. It starts on the left with the share of examples that have almost no weight. The effective "
        "sample is the share of examples that would spread as widely with equal weights.",
    ),
    "learning_rates": (
        "Each side at its own best learning rate",
        "A policy may look fast only because it takes longer steps. Here both sides may choose their step: what counts is "
        "the distance between the two stars, which validation data chose.",
    ),
    "sequence_test": (
        "The loss of every dataset along the run, on test data",
        "Lower is better. One line is one dataset, named at its end; above each phase stands the dataset that is new in it, and "
        "thin vertical lines divide the phases. A dataset's own line falls while it is new: how low it gets is adaptation. How "
        "far it rises after that is forgetting. Below: the learning rate at each evaluation, so that a steep start between two "
        "evaluations looks like a slope. No choice was made on these data.",
    ),
    "sequence_validation": (
        "The same on validation data",
        "The windows on which a replay share or a learning rate may be chosen. Where lines differ from those above by more than "
        "their own bumps, the held-out parts are too small to tell such runs apart.",
    ),
}


class Facts(NamedTuple):
    """What the folder holds, and a line for each thing it does not."""

    run: Run
    summary: dict[str, Any]
    history: list[dict[str, Any]]
    curves: dict[str, np.ndarray]
    law: dict[str, Any]
    memory: dict[str, Any]
    missing: list[str]


class Drawn(NamedTuple):
    """A figure on disk, its heading, and how to read it."""

    title: str
    caption: str
    svg: Path
    png: Path


def gather(path: str | os.PathLike[str]) -> Facts:
    """Read a run folder; what is absent or damaged becomes a line of ``missing``, not an error."""
    run, missing = Run.open(path), []

    def read(name: str, reader: Callable[[], Any], empty: Any, why: str) -> Any:
        if not (run.path / name).exists():
            missing.append(f"{name} is not there: {why}.")
            return empty
        try:
            return reader()
        except InputError as error:
            missing.append(f"{error}.")
            return empty

    summary = read("summary.json", run.summary, {}, "the run goes on, or was killed")
    # A replayed policy is no search: it has no evaluations to show.
    searched = run.config.get("kind") != "train"
    history = read("metrics.jsonl", run.metrics, [], "no evaluation has ended yet") if searched else []
    curves = read("curves.npz", lambda: load_arrays(run.path / "curves.npz"), {}, "the learning curves are written at the end")
    curves = {name: curve for name, curve in curves.items() if curve is not None} if isinstance(curves, dict) else {}
    # Only `olm law` and `olm memory` write these: a run without them lacks nothing.
    later: dict[str, dict[str, Any]] = {}
    for name in ("law.npz", "memory.npz"):
        arrays = read(name, functools.partial(load_arrays, run.path / name), {}, "") if (run.path / name).exists() else {}
        later[name] = arrays if isinstance(arrays, dict) else {}
    return Facts(run, summary, history, curves, later["law.npz"], later["memory.npz"], missing)


def scalar(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def mappings(rows: Any) -> list[Mapping[str, Any]]:
    """The dicts of a list; whatever else is there is not shown."""
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def continues(facts: Facts) -> bool:
    """Whether the run trained over a sequence of datasets; it is then neither a search nor a replayed policy."""
    return facts.run.config.get("kind") == "continue"


def _phases(facts: Facts) -> tuple[list[int], list[str]]:
    """The step at which each phase of the plan ends, and the dataset that is new in it."""
    planned, names = facts.run.config["plan"], facts.run.config["data"]["names"]
    return np.cumsum(planned["steps"]).tolist(), [str(names[place]) for place in planned["new"]]


def _sequence_drawing(facts: Facts, part: str) -> Callable[[Any], Any]:
    """Draws the losses of all datasets, from the evaluations that have been done."""

    def drawing(ax: Any) -> Any:
        rows, (ends, new) = facts.history, _phases(facts)
        losses = {name: [row[part][name] for row in rows] for name in rows[0][part]}
        step, rate = ([row[key] for row in rows] for key in ("step", "rate"))
        return plots.sequence_curves(step, losses, rate, ends, ax, new=new, label=f"{part} loss")

    return drawing


def _baseline_objective(facts: Facts) -> float | None:
    """The objective of uniform weights on the search's own targets: that of its first evaluation, where it starts from them."""
    search = facts.run.config.get("search")
    start = search.get("start", "uniform") if isinstance(search, dict) else "uniform"
    return scalar(facts.history[0].get("objective")) if facts.history and start == "uniform" else None


def _alphabet(facts: Facts) -> int | None:
    """|V| of a search whose objective is the area under the loss; None for any other."""
    search, size = facts.run.config.get("search"), scalar(facts.summary.get("alphabet"))
    return int(size) if isinstance(search, dict) and search.get("objective") == "area" and size and size > 1 else None


def _drawings(facts: Facts) -> dict[str, tuple[str, str, Callable[[Any], Any]]]:
    """Title, caption and drawing function of each figure that there are numbers for, by file name."""
    if continues(facts):
        parts = ("test", "validation") if facts.history else ()
        sequence = {f"sequence_{part}": (*TEXTS[f"sequence_{part}"], _sequence_drawing(facts, part)) for part in parts}
        return sequence | _memory_drawings(facts)
    curves, summary = facts.curves, facts.summary

    def loss(which: str) -> Callable[[Any], Any]:
        baseline, improved, entropy = curves[f"baseline_{which}"], curves.get(f"found_{which}"), scalar(summary.get("entropy"))
        return lambda ax: plots.loss_curves(baseline, improved, ax, label=f"{which} loss", entropy=entropy)

    # Curves that were measured at an objective's few steps alone have no start, and no line to draw.
    drawn = [which for which in ("test", "target") if np.isfinite(np.ravel(curves.get(f"baseline_{which}", [np.nan]))[:1]).all()]
    found = {f"loss_{which}": loss(which) for which in drawn}
    if facts.history:
        level, best, alphabet = _baseline_objective(facts), summary.get("best_evaluation"), _alphabet(facts)
        found["objective"] = lambda ax: plots.objective_history(facts.history, ax, baseline=level, best=best, alphabet=alphabet)
    if "weights" in curves:
        weights, steps, group = curves["weights"], curves.get("weights_steps"), curves.get("group")
        whole = int(curves["n_examples"]) if "n_examples" in curves else None
        found["weights"] = lambda ax: plots.weights_heatmap(weights, ax, steps=steps, group=group, n_examples=whole)
        found["weights_distribution"] = lambda ax: plots.weights_distribution(weights, steps, ax, n_examples=whole)
    if grid := mappings(summary.get("grid")):
        found["learning_rates"] = lambda ax: plots.learning_rate_grid(grid, ax)
    figures = {name: (*TEXTS[name], drawing) for name, drawing in found.items()}
    if {"found", "uniform"} <= set(facts.law):
        try:
            figures |= law_figures(facts.law["found"], facts.law["uniform"])
        except (ValueError, KeyError, TypeError, IndexError) as error:
            facts.missing.append(f"law.npz cannot be drawn ({error}): run olm law again.")
    return figures | _memory_drawings(facts)


def _memory_drawings(facts: Facts) -> dict[str, tuple[str, str, Callable[[Any], Any]]]:
    try:
        return dict(memory_figures(facts.memory))  # type: ignore[arg-type]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, StopIteration) as error:
        facts.missing.append(f"memory.npz cannot be drawn ({error}): run olm memory again.")
        return {}


def draw(facts: Facts) -> list[Drawn]:
    """Write every figure there are numbers for; one that cannot be drawn becomes a line of ``missing``."""
    done = []
    for name, (title, caption, drawing) in _drawings(facts).items():
        try:
            with plots.style():
                axes = plots.new_figure(6.8, 4.0)
                drawing(axes)
        except (ValueError, KeyError, TypeError, IndexError) as error:  # arrays of a damaged file that do not go together
            facts.missing.append(f"The figure “{title}” cannot be drawn: {error}.")
        else:
            with plots.style():
                done.append(Drawn(title, caption, *plots.save(axes.figure, facts.run.path / "figures", name)))
    return done


def write_figures(run_path: str | os.PathLike[str]) -> list[Path]:
    """Draw every figure that the files of a run allow into its folder ``figures``, as SVG and PNG.

    Args:
      run_path: a run folder, finished or not.

    Returns:
      The paths written, SVG and PNG of each figure in turn.

    Raises:
      InputError: not a run folder, or one that cannot be written to.
      StorageError: the disk is full.

    >>> import tempfile
    >>> with Run.create(tempfile.mkdtemp() + "/run", {"task": "perceptron"}) as run:
    ...     run.append_metrics({"evaluation": 1, "objective": 0.3})
    >>> [path.name for path in write_figures(run.path)]
    ['objective.svg', 'objective.png']
    """
    return [path for drawn in draw(gather(run_path)) for path in (drawn.svg, drawn.png)]
