"""The one style of every figure, and saving that gives equal bytes for equal figures.

Colours are those of Okabe and Ito, told apart by colour-blind readers; lines differ in dash as well, for grey print.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from olm.errors import InputError
from olm.records.files import atomic_write, explained

__all__ = ["new_figure", "save", "style"]

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
GREY = "#767676"  # dark enough to read on white
BASELINE = {"color": BLACK, "linestyle": (0, (4, 1.6)), "linewidth": 1.5}
FOUND = {"color": BLUE, "linestyle": "-", "linewidth": 1.8}

SETTINGS = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same letters everywhere
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": True,
    "legend.framealpha": 0.9,
    "legend.edgecolor": "none",
    "figure.facecolor": "white",
    "figure.constrained_layout.h_pad": 0.08,  # inches
    "figure.constrained_layout.w_pad": 0.08,
    "axes.facecolor": "white",
}


@contextmanager
def style() -> Iterator[None]:
    """The settings of olm's figures, for a ``with`` block; outside it matplotlib is as it was.

    Returns:
      A context manager.

    >>> import matplotlib
    >>> with style():
    ...     inside = matplotlib.rcParams["axes.spines.top"]
    >>> inside, matplotlib.rcParams["axes.spines.top"]
    (False, True)
    """
    import matplotlib

    # Not matplotlib's rc_context: on leaving it also undoes the flag by which notebooks show figures.
    parameters: MutableMapping[str, Any] = matplotlib.rcParams  # type: ignore[assignment]
    before = {name: parameters[name] for name in SETTINGS}
    parameters.update(SETTINGS)
    try:
        yield
    finally:
        parameters.update(before)


def new_figure(width: float = 6.4, height: float = 4.0) -> Any:
    """An empty axes on a figure that no screen and no global list of figures knows of; for use inside `style`.

    Args:
      width, height: in inches.

    Returns:
      The axes; ``axes.figure`` is the figure.

    >>> new_figure(3, 2).figure.get_size_inches().tolist()
    [3.0, 2.0]
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained").add_subplot()


@contextmanager
def drawing(ax: Any, width: float = 6.4, height: float = 4.0) -> Iterator[Any]:
    """``ax`` as it is, or for None the axes of a new pyplot figure in olm's style."""
    if ax is not None:
        yield ax
        return
    import matplotlib.pyplot as plt

    with style():
        figure, ax = plt.subplots(figsize=(width, height), layout="constrained")
        try:
            yield ax
        except BaseException:
            plt.close(figure)
            raise


def save(figure: Any, folder: str | os.PathLike[str], name: str) -> tuple[Path, Path]:
    """Write a figure as ``name.svg`` and ``name.png``, atomically, the same bytes for the same figure.

    Args:
      figure: a matplotlib figure.
      folder: made where it does not exist.
      name: the files' name without an ending.

    Returns:
      The two paths, SVG first.

    Raises:
      InputError: the folder refuses.
      StorageError: the disk is full.

    >>> import tempfile
    >>> [path.name for path in save(new_figure().figure, tempfile.mkdtemp(), "empty")]
    ['empty.svg', 'empty.png']
    """
    import matplotlib

    folder = Path(folder)
    with explained(folder, "make the folder"):
        folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        svg = atomic_write(
            folder / f"{name}.svg", lambda file: figure.savefig(file, format="svg", dpi=160, metadata={"Date": None})
        )
        png = atomic_write(
            folder / f"{name}.png", lambda file: figure.savefig(file, format="png", dpi=160, metadata={"Software": None})
        )
    return svg, png


def inline(*panels: Callable[[Any], Any]) -> str:
    """An HTML image of panels side by side, for ``_repr_html_``.

    Args:
      panels: functions that draw on the axes they are given.

    Returns:
      One ``<img>`` element with the picture inside it.

    >>> inline(lambda ax: ax.plot([1, 2]))[:31]
    '<img src="data:image/png;base64'
    """
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(5.2 * len(panels), 3.6), layout="constrained")
        for panel, ax in zip(panels, np.atleast_1d(figure.subplots(1, len(panels))), strict=True):
            panel(ax)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
    return f'<img src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}" alt="figure">'


def numbers(values: Any, what: str, dimensions: int = 1) -> np.ndarray:
    """``values`` as floats, None as NaN; an `InputError` that says what is wrong with ``what`` otherwise."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{what} cannot be drawn: give numbers in an array of {dimensions} axes") from None
    if array.ndim != dimensions or array.size == 0:
        raise InputError(f"{what} has shape {array.shape}: give a non-empty array of {dimensions} axes")
    return array


def off_scale(ax: Any, x: np.ndarray, y: np.ndarray, **look: Any) -> np.ndarray:
    """Mark at the upper edge the points that are not finite or lie above it; returns which those are."""
    ax.set_ylim(*ax.get_ylim())  # no more autoscaling
    beyond = ~np.isfinite(y) | (y > ax.get_ylim()[1])
    if beyond.any():
        edge = np.full(beyond.sum(), 1.0)
        ax.plot(x[beyond], edge, "^", transform=ax.get_xaxis_transform(), markersize=7, clip_on=False, **look)
    return beyond


def plain_log_axis(axis: Any) -> None:
    """Labels such as 0.02 and 500 on a logarithmic axis, and few of them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = sorted(axis.get_view_interval())
    spans = ((500, (1,)), (30, (1, 2, 5)), (4, (1, 2, 3, 5)), (0, (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)))
    axis.set_major_locator(LogLocator(subs=next(subs for span, subs in spans if high > span * low)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axis.set_minor_formatter(NullFormatter())


def spread(values: np.ndarray, cap: float = np.inf) -> tuple[float, float]:
    """Limits of an axis that show every finite value up to ``cap``, with a margin."""
    shown = values[np.isfinite(values) & (values <= cap)]
    if shown.size == 0:
        return 0.0, 1.0
    low, high = float(shown.min()), float(shown.max())
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin
