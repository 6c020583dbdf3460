"""Figures of continual pre-training: losses along a sequence of datasets, what replay costs, orderings, a found schedule.

Everything comes as plain arrays, numbers and words. A figure of two panels divides the axes it is given, which therefore have to
be of a grid, as ``figure.add_subplot`` and ``plt.subplots`` make them. The quantities are those of Ibrahim et al. 2024
(arXiv 2403.08763); nothing is computed here but where things stand.
"""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from olm.errors import InputError
from olm.plots.law import LINES
from olm.plots.style import BASELINE, BLACK, BLUE, GREEN, GREY, PURPLE, VERMILLION, drawing, numbers, plain_log_axis, spread

__all__ = ["interval_rows", "replay_tradeoff", "searched_schedule", "sequence_curves", "statements"]

_LINE = 0.065  # height of a line of text, in heights of an axes
_VERDICTS = {"held": ("✓", "#CFE3F3"), "not held": ("✗", "#F7D3BC"), "open": ("?", "#EFEFEF")}
_MARKS = (("s", GREEN), ("D", VERMILLION), ("^", PURPLE), ("v", BLACK))


def _divided(ax: Any, heights: tuple[float, float]) -> tuple[Any, Any]:
    """``ax`` made the upper of two panels, and the lower one, which shares its steps."""
    place = ax.get_subplotspec()
    if place is None:
        raise InputError("the axes are not of a grid: give some that figure.add_subplot or plt.subplots made")
    upper, lower = place.subgridspec(2, 1, height_ratios=heights, hspace=0.0)
    ax.set_subplotspec(upper)
    below = ax.figure.add_subplot(lower, sharex=ax)
    ax.tick_params(axis="x", labelbottom=False)
    below.set_xlabel("step")
    return ax, below


def _wide(values: np.ndarray) -> bool:
    """Whether the largest finite value is over four times the least, and both are positive."""
    finite = values[np.isfinite(values)]
    return bool(finite.size) and bool(finite.max() > 4 * finite.min() > 0)


def _scale(axis: Any, values: np.ndarray, wide: bool) -> None:
    """Limits that show ``values``; on a logarithmic axis, where it is wished, those above 0."""
    finite = values[np.isfinite(values) & ((values > 0) | (not wide))]
    low, high = spread(np.log(finite) if wide else finite)
    if wide:
        getattr(axis.axes, f"set_{axis.axis_name}scale")("log")
        low, high = np.exp(low), np.exp(high)
    getattr(axis.axes, f"set_{axis.axis_name}lim")(low, high)
    if wide:
        plain_log_axis(axis)


def _apart(heights: np.ndarray, gap: float) -> np.ndarray:
    """Heights moved as little as keeps them ``gap`` apart, in their order."""
    order = np.argsort(heights, kind="stable")
    moved = heights[order].astype(float)
    for _ in range(100):
        for i in range(1, len(moved)):
            short = gap - (moved[i] - moved[i - 1])
            if short > 1e-9:
                moved[i - 1 : i + 1] += (-short / 2, short / 2)
    result = np.empty_like(moved)
    result[order] = moved
    return result


def _phases(ends: Any, new: Sequence[str] | None, names: list[str]) -> tuple[np.ndarray, list[str]]:
    ends = numbers(ends, "the ends of the phases")
    if not (np.diff(ends, prepend=0) > 0).all():
        raise InputError("the phases do not end one after the other: give rising steps, the last at the end of the run")
    if new is None:
        return ends, (names[-len(ends) :] if len(ends) <= len(names) else [""] * len(ends))
    if len(new) != len(ends):
        raise InputError(f"{len(new)} new datasets for {len(ends)} phases: name one for each")
    return ends, [str(name) for name in new]


def sequence_curves(
    step: Any,
    losses: Mapping[str, Any],
    rate: Any,
    ends: Any,
    ax: Any = None,
    *,
    new: Sequence[str] | None = None,
    label: str = "held-out loss",
    entropies: Mapping[str, float | None] | None = None,
) -> tuple[Any, Any]:
    """The loss of every dataset along a run over a sequence of them, its phases, and below the learning rate.

    Args:
      step: [E] steps done at each evaluation.
      losses: by name of dataset [E], nats per token; what is not finite is left out.
      rate: [E], the learning rate of the last step done; that at step 0 is not drawn.
      ends: the step at which each phase ends.
      ax: axes to draw on, of which the lower part becomes the panel of the rate; None: a new figure.
      new: the name of the dataset that is new in each phase, written above it; None: the last of ``losses``, in order.
      label: what loss this is.
      entropies: losses that nothing can beat, nats per token, of those datasets where it is known.

    Returns:
      The axes of the losses and those of the rate.

    Raises:
      InputError: no dataset, arrays of different lengths, or phases that do not follow each other.

    >>> from olm.plots import new_figure
    >>> losses = {"a": [5, 1, 1.5], "b": [5, 6, 1]}
    >>> pair = sequence_curves([0, 10, 20], losses, [0, 0.1, 0.1], [10, 20], new_figure())
    >>> pair[0].get_ylabel(), pair[0].get_yscale(), [text.get_text() for text in pair[0].texts]
    ('held-out loss (nats per token)', 'log', ['new: a', 'new: b', 'a', 'b'])
    """
    steps, rates = numbers(step, "the steps"), numbers(rate, "the learning rate")
    curves = {str(name): numbers(values, f"the loss of {name}") for name, values in losses.items()}
    if not curves:
        raise InputError("there is no dataset to draw: give the losses of at least one")
    for name, values in {**curves, "the learning rate": rates}.items():
        if len(values) != len(steps):
            raise InputError(f"{name} has {len(values)} values for {len(steps)} steps: give one for each evaluation")
    floors = {name: float(value) for name, value in (entropies or {}).items() if name in curves and value is not None}
    ends, titles = _phases(ends, new, list(curves))
    looks = {name: LINES[place % len(LINES)] for place, name in enumerate(curves)}
    begin, end = min(0.0, steps.min()), max(ends[-1], steps.max())
    with drawing(ax, 6.8, 4.4) as ax:
        from matplotlib.ticker import MaxNLocator

        upper, lower = _divided(ax, (3.4, 1.0))
        drawn = np.concatenate([*curves.values(), list(floors.values())])
        _scale(upper.yaxis, drawn, _wide(drawn))
        upper.set_xlim(begin, end)
        dot = {"marker": "o", "markersize": 3.5} if len(steps) == 1 else {}
        for name, values in curves.items():
            colour, dash = looks[name]
            shown = np.isfinite(values)
            upper.plot(steps[shown], values[shown], color=colour, linestyle=dash, linewidth=1.7, label=name, **dot)
            if np.isfinite(floors.get(name, np.nan)):
                upper.axhline(floors[name], color=colour, linewidth=0.9, linestyle=(0, (1, 2)))
        if floors:
            upper.plot([], [], color=GREY, linewidth=0.9, linestyle=(0, (1, 2)), label="thin: entropy of each source")
            upper.legend(handles=[upper.get_lines()[-1]], loc="best")
        room = 88 - max(map(len, curves))  # characters above the axes, which names at its right make narrower
        for first, last, name in zip((0.0, *ends[:-1]), ends, titles, strict=True):
            if last < end:
                for panel in (upper, lower):
                    panel.axvline(last, color=GREY, linewidth=0.8)
            if name:
                words = textwrap.fill(f"new: {name}", max(8, int(room * (last - first) / (end - begin)) - 1))
                upper.text((first + last) / 2, 1.02, words, transform=upper.get_xaxis_transform(), ha="center", va="bottom",
                           fontsize=8.5, color=looks.get(name, (BLACK, "-"))[0])  # fmt: skip
        ended = {name: values[np.isfinite(values)][-1] for name, values in curves.items() if np.isfinite(values).any()}
        _label_ends(upper, ended, (steps.max() - begin) / (end - begin), looks)
        upper.set_ylabel(f"{label} (nats per token)")
        done = steps > 0
        lower.plot(steps[done], rates[done], color=BLACK, linewidth=1.2, **({"marker": "."} if done.sum() == 1 else {}))
        lower.set_ylim(0, 1.1 * np.nanmax(rates, where=np.isfinite(rates), initial=0) or 1)
        lower.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
        lower.yaxis.set_major_formatter("{x:.3g}")
        lower.set_ylabel("learning\nrate")
    return upper, lower


def _label_ends(ax: Any, lasts: Mapping[str, float], place: float, looks: Mapping[str, Any]) -> None:
    """Names to the right of the last step drawn, each at its line's last height where there is room."""
    points = ax.transData.transform([(0.0, last) for last in lasts.values()] or np.empty((0, 2)))
    heights = _apart(ax.transAxes.inverted().transform(points)[:, 1], _LINE)
    for name, height in zip(lasts, heights, strict=True):
        ax.text(place + 0.012, height, name, transform=ax.transAxes, va="center", fontsize=8.5, color=looks[name][0])


def _interval(row: Mapping[str, Any], name: str, measure: str) -> np.ndarray:
    """(mean, low, high) of a measure; low and high are NaN where a single seed gives none."""
    found = row.get(measure) if isinstance(row, Mapping) else None
    if not isinstance(found, Mapping):
        raise InputError(f"the row {name!r} has no {measure!r}: give a dict of mean, low and high")
    return numbers([found.get(part) for part in ("mean", "low", "high")], f"{measure} of {name}")


def replay_tradeoff(rows: Mapping[str, Mapping[str, Any]], ax: Any = None, *, x: str = "old", prefix: str = "replay ") -> Any:
    """The loss on the new data against that on the old, a point for each replay share, joined in order of the shares.

    Runs of another kind (the union of both, one dataset only) have markers of their own; one that is far beyond the replayed
    runs on the vertical axis stands at the edge, with its value in the legend.

    Args:
      rows: by name, dicts with ``new`` and ``x``, each a dict of ``mean``, ``low`` and ``high``, the ends of an interval or None.
      ax: axes to draw on; None: a new figure.
      x: "old", the loss on the old data, or "forgetting".
      prefix: how the names of replayed runs begin; the share follows, such as "5%".

    Returns:
      The axes; the horizontal one is logarithmic where the means span more than a factor of four.

    Raises:
      InputError: no replayed run, a row without a measure, or a mean that is not finite.

    >>> from olm.plots import new_figure
    >>> point = lambda mean: {"mean": mean, "low": None, "high": None}
    >>> rows = {"replay 0%": {"old": point(9.0), "new": point(1.4)}, "replay 5%": {"old": point(1.9), "new": point(1.5)}}
    >>> replay_tradeoff(rows, new_figure()).get_xscale()
    'log'
    """
    points = {name: np.array([_interval(row, name, measure) for measure in (x, "new")]) for name, row in rows.items()}
    for name, point in points.items():
        if not np.isfinite(point[:, 0]).all():
            raise InputError(f"the row {name!r} has a mean that is not finite: leave it out")
    shares = {name: name.removeprefix(prefix) for name in points if name.startswith(prefix)}
    if not shares:
        raise InputError(f"no row's name begins with {prefix!r}: give the replayed runs")
    try:
        order = sorted(shares, key=lambda name: float(shares[name].rstrip("%")))
    except ValueError:
        raise InputError(f"the rows {', '.join(shares)} do not all end in a share: name them such as '{prefix}5%'") from None
    others = [name for name in points if name not in shares]
    with drawing(ax, 6.4, 4.4) as ax:
        across = np.array([point[0] for point in points.values()])
        _scale(ax.xaxis, across.ravel(), _wide(across[:, 0]))
        replayed = np.concatenate([points[name][1] for name in order])
        middle = np.nanmin(replayed), np.nanmax(replayed)
        reach = 0.5 * (middle[1] - middle[0]) or 0.05 * abs(middle[0]) or 1.0
        seen = [points[name][1, 0] for name in others if middle[0] - reach <= points[name][1, 0] <= middle[1] + reach]
        _scale(ax.yaxis, np.r_[replayed, seen], False)
        means = np.array([points[name][:, 0] for name in order])
        _bars(ax, [points[name] for name in order], BLUE)
        ax.plot(*means.T, color=BLUE, linewidth=1.3, marker="o", markersize=5, label="replay share", zorder=3)
        for place, name in enumerate(others):
            marker, colour = _MARKS[place % len(_MARKS)]
            (at, value), inside = points[name][:, 0], points[name][1, 0] in seen
            if inside:
                _bars(ax, [points[name]], colour)
                ax.plot(at, value, marker, color=colour, markersize=7, label=name, linestyle="none", zorder=4)
            else:
                edge, arrow = (0, "↓") if value < middle[0] else (1, "↑")
                ax.plot(at, edge, marker, color=colour, markersize=7, label=f"{name} {arrow} {value:.3g}", linestyle="none",
                        transform=ax.get_xaxis_transform(), clip_on=False, zorder=4)  # fmt: skip
        _label_points(ax, means, [shares[name] for name in order], [points[name][:, 0] for name in others])
        what = "loss on the old data" if x == "old" else x
        ax.set(xlabel=f"{what} (nats per token)", ylabel="loss on the new data (nats per token)")
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1.04), ncols=2, borderaxespad=0.0)
    return ax


def _bars(ax: Any, points: Sequence[np.ndarray], colour: str) -> None:
    """Thin bars of each point's two intervals, cut where a logarithmic axis would end."""
    for (x, left, right), (y, low, high) in points:
        if np.isfinite([left, right]).all():
            left = max(left, ax.get_xlim()[0]) if ax.get_xscale() == "log" else left
            ax.plot([left, right], [y, y], color=colour, linewidth=0.9, alpha=0.45)
        if np.isfinite([low, high]).all():
            ax.plot([x, x], [low, high], color=colour, linewidth=0.9, alpha=0.45)


def _label_points(ax: Any, points: np.ndarray, words: Sequence[str], others: Sequence[np.ndarray]) -> None:
    """Words beside points, each where it covers no other word, point or join; further away with a leader where it is crowded."""
    from matplotlib.patheffects import withStroke

    inches = ax.figure.dpi / 72
    at = ax.transData.transform(points) / inches  # in points of print
    joins = [first + (second - first) * t for first, second in itertools.pairwise(at) for t in np.linspace(0, 1, 60)]
    taken = np.array([*at, *joins, *(ax.transData.transform(other) / inches for other in others)])
    boxes: list[np.ndarray] = []
    size = ax.get_window_extent()
    inner = np.array([[size.x0, size.y0], [size.x1, size.y1]]) / inches
    gaps = np.linalg.norm(at[:, None] - at, axis=-1) + np.diag(np.full(len(at), np.inf))
    for place in np.argsort(-gaps.min(axis=1), kind="stable"):  # those with most room first
        point, word = at[place], words[place]
        half = np.array([2.8 * len(word) + 2, 5.5])
        angles = np.deg2rad([90, 270, 45, 135, 315, 225, 0, 180, 67, 113, 247, 293])
        offsets = [(far, np.array([np.cos(a), np.sin(a)]) * (far + half)) for far in (5, 14, 24, 36, 50) for a in angles]

        def cost(choice: tuple[int, np.ndarray], point: np.ndarray = point, half: np.ndarray = half) -> float:
            far, offset = choice
            low, high = point + offset - half, point + offset + half
            covered = ((taken > low) & (taken < high)).all(1).sum()
            crossed = sum(bool(((box[1] > low) & (high > box[0])).all()) for box in boxes)
            outside = bool((low < inner[0]).any() or (high > inner[1]).any())
            return 10.0 * (covered + 5 * crossed + 5 * outside) + far

        far, offset = min(offsets, key=cost)
        boxes.append(np.array([point + offset - half, point + offset + half]))
        leader = (
            {"arrowprops": {"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2}} if far > 5 else {}
        )
        ax.annotate(
            word,
            points[place],
            offset,
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8.5,
            path_effects=[withStroke(linewidth=2, foreground="white")],
            **leader,
        )


def statements(orderings: Mapping[str, Mapping[str, Mapping[str, Any]]], ax: Any = None) -> Any:
    """Which published statements held in which setting: a cell each with a word, a sign, a colour, and the mean with interval.

    Args:
      orderings: by setting (a column) and statement (a row), dicts with ``mean``, ``low``, ``high`` (None: no interval) and
        ``verdict``: "held", "not held" or "open". A statement's first colon ends what it claims, the rest says what is measured.
        A statement that a setting lacks has an empty cell there.
      ax: axes to draw on; None: a new figure, as large as the table needs.

    Returns:
      The axes; statements from the top, by the number they begin with, then in order of first appearance.

    Raises:
      InputError: no statement, or an unknown verdict.

    >>> from olm.plots import new_figure
    >>> cell = {"mean": 0.02, "low": 0.01, "high": 0.03, "verdict": "held"}
    >>> [text.get_text() for text in statements({"weak": {"1 it pays: nats": cell}}, new_figure()).texts]
    ['✓ held', '0.020 [0.010, 0.030]']
    """
    rows = sorted(dict.fromkeys(statement for column in orderings.values() for statement in column), key=_number)
    if not rows:
        raise InputError("there is no statement to show: give at least one setting with one")
    for column in orderings.values():
        for statement, cell in column.items():
            if cell.get("verdict") not in _VERDICTS:
                raise InputError(f"the verdict on {statement!r} is {cell.get('verdict')!r}: give held, not held or open")
    claims = []
    for statement in rows:
        claim, _, measured = statement.partition(": ")
        claims.append("\n".join([textwrap.fill(claim, 64), *([textwrap.fill(f"({measured})", 64)] if measured else [])]))
    heights = np.array([max(0.4, 0.16 * (1 + text.count("\n")) + 0.1) for text in claims])
    edges = np.r_[0, np.cumsum(heights)]
    with drawing(ax, 4.4 + 1.45 * len(orderings), edges[-1] + 0.8) as ax:
        from matplotlib.patches import Rectangle

        for place, column in enumerate(orderings.values()):
            for top, bottom, statement in zip(edges, edges[1:], rows, strict=False):
                if statement not in column:
                    continue
                cell, centre = column[statement], (top + bottom) / 2
                sign, colour = _VERDICTS[cell["verdict"]]
                ax.add_patch(Rectangle((place + 0.02, top + 0.02), 0.96, bottom - top - 0.04, color=colour, linewidth=0))
                ax.text(place + 0.5, centre - 0.02, f"{sign} {cell['verdict']}", ha="center", va="bottom", fontsize=9)
                ax.text(place + 0.5, centre + 0.02, _figures(cell), ha="center", va="top", fontsize=6.8)
        ax.set(xlim=(0, len(orderings)), ylim=(edges[-1], 0))
        ax.set_xticks(np.arange(len(orderings)) + 0.5, [name.replace(", ", ",\n") for name in orderings], fontsize=8.5)
        ax.set_yticks((edges[1:] + edges[:-1]) / 2, claims, fontsize=8)
        ax.xaxis.tick_top()
        ax.tick_params(length=0)
        ax.grid(False)
        ax.spines[:].set_visible(False)
    return ax


def _number(statement: str) -> float:
    found = re.match(r"\d+", statement)
    return float(found[0]) if found else np.inf


def _figures(cell: Mapping[str, Any]) -> str:
    """0.020 [0.005, 0.035], with the decimals that give the interval two digits; or the mean alone."""
    values = [cell.get(part) for part in ("mean", "low", "high")]
    known = numbers([value for value in values if value is not None] or [np.nan], "a statement's numbers")
    largest = np.abs(known[np.isfinite(known)]).max(initial=0)
    decimals = int(np.clip(1 - np.floor(np.log10(largest or 1)), 0, 6))
    mean, low, high = (
        "" if value is None else f"{round(value, decimals) + 0.0:.{decimals}f}".replace("-", "−") for value in values
    )
    return f"{mean} [{low}, {high}]" if low and high else mean


def searched_schedule(shares: Any, rates: Any, base_rates: Any, ax: Any = None, *, base_shares: Any = None) -> tuple[Any, Any]:
    """The replay share and the learning rate that a search found, a thin line for each seed, beside where it started (dashed).

    Args:
      shares: [T] of the old dataset at each step, or [seeds, T].
      rates: [T], or [seeds, T].
      base_rates: [T], where the search began.
      ax: axes to draw on, which two panels divide; None: a new figure.
      base_shares: the share where the search began, a number or [T]; None: not drawn.

    Returns:
      The axes of the share and those of the rate.

    Raises:
      InputError: arrays of different lengths, or none.

    >>> from olm.plots import new_figure
    >>> shares, rates = [[0.1, 0.2], [0.1, 0.3]], [[1.0, 0.5], [1.0, 0.4]]
    >>> above, below = searched_schedule(shares, rates, [1.0, 0.1], new_figure(), base_shares=0.25)
    >>> above.get_ylabel(), len(above.get_lines()), below.get_xlabel()
    ('replay share', 3, 'step')
    """
    found = [
        numbers(np.atleast_2d(_plain(values, name)), name, 2) for values, name in ((shares, "the shares"), (rates, "the rates"))
    ]
    start = numbers(base_rates, "the rates at the start")
    for name, table in zip(("the shares", "the rates"), found, strict=True):
        if table.shape[1] != len(start):
            raise InputError(f"{name} have {table.shape[1]} steps, the rates at the start {len(start)}: give one of each a step")
    constant = base_shares is None or np.ndim(base_shares) == 0
    begun = None if base_shares is None else numbers([base_shares] * len(start) if constant else base_shares, "the first shares")
    if begun is not None and len(begun) != len(start):
        raise InputError(f"the shares at the start have {len(begun)} steps, the rates {len(start)}: give one a step")
    steps = np.arange(1, len(start) + 1)
    with drawing(ax, 6.4, 4.4) as ax:
        from matplotlib.ticker import PercentFormatter

        panels = _divided(ax, (1.0, 1.0))
        for panel, table, base in zip(panels, found, (begun, start), strict=True):
            for seed, values in enumerate(table):
                label = "found" if len(table) == 1 else f"found, {len(table)} seeds"
                panel.plot(steps, values, color=BLUE, linewidth=1.1, alpha=0.85, label=None if seed else label)
            if base is not None:
                panel.plot(steps, base, label="start of the search", zorder=1.9, **BASELINE)
            drawn = np.r_[table.ravel(), [] if base is None else base]
            panel.set_ylim(0, 1.1 * np.nanmax(drawn, where=np.isfinite(drawn), initial=0) or 1)
        panels[0].set_xlim(0, len(start))
        panels[0].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        panels[0].set_ylabel("replay share")
        panels[1].set_ylabel("learning rate")
        panels[1].legend(loc="best")
    return panels


def _plain(values: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} cannot be drawn: give numbers, as many for each seed") from None


def interval_rows(rows: Mapping[str, Mapping[str, Any]], measure: str, ax: Any = None, *, xlabel: str | None = None) -> Any:
    """One measure of several runs as dots with their intervals, a run a line.

    Args:
      rows: ``{run: {measure: {"mean", "low", "high"}}}``, drawn from top to bottom; low and high None: no interval.
      measure: which.
      ax: axes to draw on; None: a new figure.
      xlabel: of the horizontal axis; None: the measure.

    Returns:
      The axes.

    Raises:
      InputError: for no rows, or a run without that measure.

    >>> ax = interval_rows({"a": {"new": {"mean": 1.0, "low": 0.9, "high": 1.1}}}, "new")
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['a']
    """
    if not rows:
        raise InputError("there are no runs to draw")
    if missing := [name for name, measures in rows.items() if measure not in measures]:
        raise InputError(f"run {missing[0]!r} has no measure {measure!r}")
    with drawing(ax) as ax:
        for place, measures in enumerate(rows.values()):
            found = measures[measure]
            if found.get("low") is not None and found.get("high") is not None:
                ax.plot([found["low"], found["high"]], [place, place], color=BLUE, linewidth=1.6, solid_capstyle="butt")
            ax.plot([found["mean"]], [place], "o", color=BLUE, markersize=5)
        ax.set_yticks(range(len(rows)), list(rows))
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.set_xlabel(measure if xlabel is None else xlabel)
    return ax
