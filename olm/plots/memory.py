"""Figures of associative memory in transformers: energies, distances of patterns, retrieval, memorisation and plateaus.

Everything comes as plain arrays, numbers and words. The quantities are those of Niu, Bai, Deng and Han 2024 (arXiv 2405.08707):
a layer's energy has a basin around each pattern, patterns lie √(n/2πe) around, and the loss is said to end at 1 nat. Nothing is
computed here but where things stand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from olm.errors import InputError
from olm.plots.continual import _label_points
from olm.plots.style import BASELINE, BLACK, BLUE, GREEN, GREY, ORANGE, SKY, VERMILLION, drawing, numbers, plain_log_axis, spread

__all__ = [
    "data_needed",
    "energy_curves",
    "energy_map",
    "layer_radii",
    "nearest_distances",
    "plateaus",
    "retrieval",
    "training_and_validation",
]

_COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, SKY, GREY)
_DASHES = ("-", (0, (4, 1.6)), (0, (1, 1.2)), "-.", (0, (6, 1.5, 1, 1.5, 1, 1.5)))
_MARKS = ("o", "s", "D", "^", "v", "P", "X", "*")
_BOUND = {"color": BLACK, "linestyle": "-.", "linewidth": 1.3}
_FLOOR = {"color": GREY, "linestyle": (0, (1, 1.2)), "linewidth": 1.6}
_BESIDE = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
_ABOVE = {"loc": "lower left", "bbox_to_anchor": (0, 1.02), "borderaxespad": 0.0}
_WIDE = 10  # a ratio beyond which an axis is logarithmic


def _look(place: int, mark: bool = True) -> dict[str, Any]:
    """Colour, dash and mark of the series at ``place``; 30 differ in colour or dash."""
    look = {"color": _COLOURS[place % len(_COLOURS)], "linestyle": _DASHES[place % len(_DASHES)], "linewidth": 1.5}
    return look | ({"marker": _MARKS[place % len(_MARKS)], "markersize": 4.5} if mark else {})


def _finite(values: Any, what: str, dimensions: int = 1) -> np.ndarray:
    array = numbers(values, what, dimensions)
    if not np.isfinite(array).all():
        raise InputError(f"{what} is not finite everywhere: leave out what is not")
    return array


def _number_or_row(values: Any, what: str) -> np.ndarray:
    return _finite(values if np.iterable(values) else [values], what)


def _points(values: Any, what: str) -> np.ndarray:
    array = _finite(values, what, 2)
    if array.shape[1] != 2:
        raise InputError(f"{what} has shape {array.shape}: give two coordinates for each point")
    return array


def _some(by_name: Mapping[str, Any], what: str) -> None:
    if not by_name:
        raise InputError(f"there is nothing to draw: give {what} of at least one name")


def _interval_table(values: Any, count: int, what: str) -> np.ndarray:
    """(value, low, high) in ``count`` rows; low and high are NaN where only values are given."""
    try:
        dimensions = 2 if np.ndim(values) == 2 else 1
    except ValueError:  # rows of different lengths, which `numbers` refuses
        dimensions = 1
    table = numbers(values, what, dimensions)
    if table.shape not in ((count,), (count, 3)):
        raise InputError(f"{what} has shape {table.shape}: give {count} numbers, or {count} rows of (value, low, high)")
    return np.stack([table, *np.full((2, count), np.nan)], 1) if table.ndim == 1 else table


def _positive(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values) & (values > 0)]


def _is_wide(values: np.ndarray) -> bool:
    """Whether the largest of the positive values is more than ten times the least."""
    shown = _positive(values)
    return bool(shown.size) and bool(shown.max() > _WIDE * shown.min())


def _scaled(axis: Any, values: np.ndarray, log: bool) -> None:
    """Limits that show ``values``, on a logarithmic axis those above 0."""
    limits = np.exp(spread(np.log(_positive(values)))) if log else spread(values)
    if log:
        getattr(axis.axes, f"set_{axis.axis_name}scale")("log")
    getattr(axis.axes, f"set_{axis.axis_name}lim")(*limits)
    if log:
        plain_log_axis(axis)


def _series(ax: Any, x: np.ndarray, table: np.ndarray, look: dict[str, Any], name: str, first: int = 0, every: int = 1) -> None:
    """A line of the finite values with bars at their intervals, which end where the axis does."""
    value, low, high = table.T
    bottom, top = ax.get_ylim()
    shown = np.isfinite(x) & np.isfinite(value) & ((value > 0) | (ax.get_yscale() != "log"))
    first = max(0, min(first, int(shown.sum()) - 1))
    barred = [i for i in np.flatnonzero(shown)[first::every] if np.isfinite([low[i], high[i]]).all()]
    ends = np.clip(low[barred], bottom, top), np.clip(high[barred], bottom, top)
    ax.vlines(x[barred], *ends, color=look["color"], linewidth=1.1, alpha=0.6)
    ax.plot(x[shown], value[shown], label=name, markevery=(first, every), **look)


def _apart(count: int, width: float) -> np.ndarray:
    """Shifts of neighbouring series, so that no bar hides another."""
    return np.linspace(-1, 1, count) * width if count > 1 else np.zeros(1)


def energy_curves(x: Any, energies_by_name: Mapping[str, Any], patterns: Any = None, ax: Any = None) -> Any:
    """Energy landscapes over one dimension, with the stored patterns as ticks on the axis.

    Args:
      x: [X] states.
      energies_by_name: by name [X], without unit; what is not finite is a gap.
      patterns: [P] stored patterns; None: not marked.
      ax: axes to draw on; None: a new figure.

    Returns:
      The axes.

    Raises:
      InputError: no energy, arrays of other lengths, states or patterns that are not finite.

    >>> from olm.plots import new_figure
    >>> ax = energy_curves([-1, 0, 1], {"Hopfield, β = 1": [0.5, 0.0, 0.5], "layer": [1.0, 0.0, 1.0]}, [0.0], new_figure())
    >>> ax.get_ylabel(), [line.get_label() for line in ax.get_lines()]
    ('energy E(x) (no unit)', ['Hopfield, β = 1', 'layer', 'patterns'])

    Source: Niu et al. 2024 (arXiv 2405.08707), figure 1.
    """
    _some(energies_by_name, "the energies")
    states = _finite(x, "the array of states")
    curves = {str(name): numbers(values, f"the energy of {name}") for name, values in energies_by_name.items()}
    for name, curve in curves.items():
        if len(curve) != len(states):
            raise InputError(f"the energy of {name} has {len(curve)} values for {len(states)} states: give one for each")
    stored = None if patterns is None else _finite(patterns, "the array of patterns")
    order = np.argsort(states, kind="stable")
    with drawing(ax, 7.2, 3.8) as ax:
        for place, (name, curve) in enumerate(curves.items()):
            ax.plot(states[order], np.where(np.isfinite(curve), curve, np.nan)[order], label=name, **_look(place, mark=False))
        if stored is not None:
            ax.plot(stored, np.full(len(stored), 0.025), "|", color=BLACK, markersize=11, markeredgewidth=2.2, label="patterns",
                    transform=ax.get_xaxis_transform(), clip_on=False, zorder=4)  # fmt: skip
        ax.set_ylim(spread(np.concatenate(list(curves.values()))))
        ax.set_xlim(spread(np.r_[states, [] if stored is None else stored]))
        ax.set(xlabel="state x (no unit)", ylabel="energy E(x) (no unit)")
        ax.legend(**_BESIDE)
    return ax


def energy_map(x: Any, y: Any, energy: Any, patterns: Any = None, paths: Sequence[Any] | None = None, ax: Any = None) -> Any:
    """An energy landscape over two dimensions as filled contours, with patterns and the paths of descents.

    Args:
      x: [X] rising.
      y: [Y] rising.
      energy: [Y, X], without unit; what is not finite stays white.
      patterns: [P, 2] stored patterns, stars; None: not marked.
      paths: arrays [K, 2], the states of a descent from a ring to a cross; None: not drawn.
      ax: axes to draw on, at whose right a colour bar stands; None: a new figure.

    Returns:
      The axes.

    Raises:
      InputError: a grid that does not rise, an energy of another shape or without two finite values, points that have not
        two coordinates.

    >>> from olm.plots import new_figure
    >>> ax = energy_map([0, 1], [0, 1, 2], [[0, 1], [1, 2], [2, 3]], [[0.2, 0.3]], [[[1, 2], [0.5, 1], [0, 0]]], new_figure())
    >>> [line.get_label() for line in ax.get_lines() if line.get_label()[0] != "_"]
    ['start of a descent', 'its end', 'patterns']

    Source: Niu et al. 2024 (arXiv 2405.08707), section 4.
    """
    across, up, table = _finite(x, "the array x"), _finite(y, "the array y"), numbers(energy, "the energy", 2)
    for name, grid in (("x", across), ("y", up)):
        if len(grid) < 2 or not (np.diff(grid) > 0).all():
            raise InputError(f"the grid {name} does not rise: give at least two numbers, each above the one before")
    if table.shape != (len(up), len(across)):
        raise InputError(f"the energy has shape {table.shape}: make it ({len(up)}, {len(across)}), a row for each y")
    if np.isfinite(table).sum() < 2:
        raise InputError("the energy has less than two finite values: give a grid on which it can be computed")
    stored = None if patterns is None else _points(patterns, "the array of patterns")
    descents = [_points(path, f"descent path {place}") for place, path in enumerate(() if paths is None else paths)]
    with drawing(ax, 6.4, 4.6) as ax:
        from matplotlib.colors import PowerNorm
        from matplotlib.patheffects import withStroke

        ax.grid(visible=False)
        low, high = np.min(table[np.isfinite(table)]), np.max(table[np.isfinite(table)])
        # Levels are close near the bottom, where the basins are: the energy rises with the square of the distance.
        levels = low + (high - low if high > low else 1.0) * np.linspace(0, 1, 19) ** 2
        norm = PowerNorm(0.5, levels[0], levels[-1])
        filled = ax.contourf(across, up, np.ma.masked_invalid(table), levels=levels, norm=norm, cmap="viridis")
        beside = ax.inset_axes((1.03, 0, 0.045, 1))  # as high as the map, whatever room the axes have
        bar = ax.figure.colorbar(filled, cax=beside, label="energy (no unit)", ticks=levels[::3])
        bar.ax.set_yticklabels([f"{level:.3g}".replace("-", "−") for level in levels[::3]])
        outline = [withStroke(linewidth=3.0, foreground=BLACK)]
        for place, path in enumerate(descents):
            first = not place
            ax.plot(*path.T, color="white", linewidth=1.4, path_effects=outline, label="_path", zorder=3)
            ax.plot(*path[:1].T, "o", markersize=6.5, markerfacecolor="white", markeredgecolor=BLACK, zorder=4,
                    linestyle="none", label="start of a descent" if first else "_start")  # fmt: skip
            ax.plot(*path[-1:].T, "X", markersize=7, markerfacecolor=BLACK, markeredgecolor="white", zorder=5,
                    linestyle="none", label="its end" if first else "_end")  # fmt: skip
        if stored is not None:
            ax.plot(*stored.T, "*", markersize=18, markerfacecolor=ORANGE, markeredgecolor=BLACK, markeredgewidth=0.9,
                    linestyle="none", label="patterns", zorder=3.5)  # fmt: skip
        ax.set(xlim=(across[0], across[-1]), ylim=(up[0], up[-1]), xlabel="state x₁ (no unit)", ylabel="state x₂ (no unit)")
        ax.set_aspect("equal")  # a basin is a matter of distances
        if descents or stored is not None:
            ax.legend(ncols=3, **_ABOVE)
    return ax


def nearest_distances(
    distances_by_share: Mapping[str, Any], ax: Any = None, *, radius: float | None = None, twice: bool = True
) -> Any:
    """Histograms of the distance from each vector to its nearest neighbour, for some shares of the vectors.

    Each histogram sums to one, less the duplicates, which are at distance 0 and counted in the legend alone. A thousandth of the
    distances at either end stands in the outermost bins. The axis is logarithmic where medians and the line span more than
    a factor of ten.

    Args:
      distances_by_share: by name, such as "25%", [n] distances in units of the vectors; what is not finite is left out.
      ax: axes to draw on; None: a new figure.
      radius: the theory's radius of a ball around a pattern, √(n/2πe), in the same units; None: no line.
      twice: whether the line stands at 2·radius, where two such balls touch, or at the radius itself.

    Returns:
      The axes.

    Raises:
      InputError: no distances, negative ones, or a radius that is not positive.

    >>> from olm.plots import new_figure
    >>> ax = nearest_distances({"50%": [3.0, 4.0], "100%": [0.0, 0.0, 3.0]}, new_figure(), radius=1.5)
    >>> [line.get_label() for line in ax.get_lines()]
    ['50%', '100%, 2 duplicates', '2·radius of theory = 3']

    Source: Niu et al. 2024 (arXiv 2405.08707), section 6.1.
    """
    _some(distances_by_share, "the distances")
    shares = {str(name): numbers(values, f"the distances of {name}") for name, values in distances_by_share.items()}
    for name, values in shares.items():
        if (values < 0).any():
            raise InputError(f"the distances of {name} are negative somewhere: give distances, not their logarithms or squares")
    if radius is not None and not 0 < radius < np.inf:
        raise InputError(f"radius is {radius}: give a positive number")
    line = np.nan if radius is None else (2 if twice else 1) * float(radius)
    every = [_positive(values) for values in shares.values()]
    together = np.concatenate(every)
    log = _is_wide(np.array([*(np.median(values) for values in every if values.size), line]))
    with drawing(ax, 7.2, 3.8) as ax:
        low, high = np.quantile(together, [0.001, 0.999]) if together.size else (0.0, 1.0)
        low, high = (low, high) if high > low else (0.95 * low, 1.05 * high)
        bins = int(np.clip(2 * np.sqrt(max(map(len, every))), 5, 40))
        edges = np.geomspace(low, high, bins + 1) if log else np.linspace(low, high, bins + 1)
        for place, ((name, values), distances) in enumerate(zip(shares.items(), every, strict=True)):
            # Rounding must not leave an end out.
            counts = np.histogram(np.clip(distances, edges[0], edges[-1]), edges)[0]
            heights = counts / max(1, np.isfinite(values).sum())
            duplicates = int((values == 0).sum())
            words = f", {duplicates:,} duplicate{'s' if duplicates > 1 else ''}" if duplicates else ""
            ax.plot(np.r_[edges[0], edges], np.r_[0, heights, 0], drawstyle="steps-post", label=name + words,
                    **_look(place, mark=False))  # fmt: skip
        if radius is not None:
            ax.axvline(line, label=f"{'2·' if twice else ''}radius of theory = {line:.3g}", **BASELINE)
        _scaled(ax.xaxis, np.r_[edges, line], log)
        ax.set_ylim(bottom=0)
        ax.set(xlabel="distance to the nearest neighbour (units of the vectors)", ylabel="share of the vectors, per bin")
        ax.legend(**_BESIDE)
    return ax


def layer_radii(layers_by_name: Mapping[str, Any], theory: Any, ax: Any = None) -> Any:
    """The radius measured in each layer, half the median distance to the nearest neighbour, beside that of the theory.

    Args:
      layers_by_name: by name [l+1, 3], median and quartiles in units of the activations, layer 0 before the first block; what is
        not finite is left out. With one number as theory the names may differ in l.
      theory: √(n/2πe), a number or [l+1], a dashed line.
      ax: axes to draw on; None: a new figure.

    Returns:
      The axes; the vertical one is logarithmic where medians and theory span more than a factor of ten.

    Raises:
      InputError: no layers, or arrays of other shapes.

    >>> from olm.plots import new_figure
    >>> ax = layer_radii({"GPT-2": [[2.0, 1.5, 2.5], [50.0, 40.0, 60.0]]}, 6.7, new_figure())
    >>> ax.get_yscale(), [line.get_label() for line in ax.get_lines()]
    ('log', ['theory √(n/2πe) = 6.7', 'GPT-2'])

    Source: Niu et al. 2024 (arXiv 2405.08707), section 6.1.
    """
    _some(layers_by_name, "the radii")
    line = _number_or_row(theory, "the theory")
    tables = {str(name): numbers(values, f"the radii of {name}", 2) for name, values in layers_by_name.items()}
    for name, table in tables.items():
        if table.shape[1] != 3:
            raise InputError(f"the radii of {name} have shape {table.shape}: give median, lower and upper quartile of each layer")
        if len(line) not in (1, len(table)):
            raise InputError(f"the theory has {len(line)} values, {name} {len(table)} layers: give one number, or one for each")
    with drawing(ax, 7.2, 3.8) as ax:
        from matplotlib.ticker import MaxNLocator

        medians = np.concatenate([table[:, 0] for table in tables.values()])
        log = _is_wide(np.r_[medians, line])
        _scaled(ax.yaxis, np.r_[np.concatenate([table.ravel() for table in tables.values()]), line], log)
        last = max(map(len, tables.values())) - 1
        if len(line) > 1:
            ax.plot(np.arange(len(line)), line, label="theory √(n/2πe)", **BASELINE)
        else:
            ax.axhline(line[0], label=f"theory √(n/2πe) = {line[0]:.3g}", **BASELINE)
        for place, ((name, table), shift) in enumerate(zip(tables.items(), _apart(len(tables), 0.09), strict=True)):
            _series(ax, np.arange(len(table)) + shift, table, _look(place), name)
        ax.set_xlim(-0.4, last + 0.4)
        ax.xaxis.set_major_locator(MaxNLocator(min(last + 1, 13), integer=True))
        ax.set(xlabel="layer (0: before the first block)", ylabel="half the median nearest distance\n(units of the activations)")
        ax.legend(**_BESIDE)
    return ax


def retrieval(fractions: Any, rates_by_name: Mapping[str, Any], ax: Any = None, *, log: bool | None = None) -> Any:
    """The share of patterns that are recovered after a perturbation, against its size.

    Args:
      fractions: [F], sizes of the perturbation in radii of the ball.
      rates_by_name: by name [F], from 0 to 1, or [F, 3], share and the ends of its interval; what is not finite is left out.
      ax: axes to draw on; None: a new figure.
      log: whether the horizontal axis is logarithmic; None: where positive fractions span more than a factor of ten.

    Returns:
      The axes; a thin line at 1 is the ball's edge.

    Raises:
      InputError: no rates, arrays of other lengths, rates outside 0 … 1, or fractions that a logarithmic axis cannot have.

    >>> from olm.plots import new_figure
    >>> ax = retrieval([0.1, 1.0, 2.0], {"layer 1": [1.0, 0.9, 0.1]}, new_figure())
    >>> ax.get_xscale(), ax.get_ylabel(), [line.get_label() for line in ax.get_lines()]
    ('log', 'share of patterns recovered', ["the ball's edge", 'layer 1'])
    """
    _some(rates_by_name, "the rates")
    sizes = _finite(fractions, "the array of fractions")
    tables = {str(name): _interval_table(values, len(sizes), f"the rate of {name}") for name, values in rates_by_name.items()}
    for name, table in tables.items():
        if ((table[:, 0] < 0) | (table[:, 0] > 1)).any():
            raise InputError(f"the rate of {name} is not within 0 … 1: give shares, not percent")
    if log and not (sizes > 0).all():
        raise InputError("the fractions are not all positive: leave those at 0 out, or draw them with log=False")
    log = bool((sizes > 0).all() and _is_wide(sizes)) if log is None else log
    order = np.argsort(sizes, kind="stable")
    with drawing(ax, 7.2, 3.8) as ax:
        ax.set_ylim(-0.03, 1.03)
        _scaled(ax.xaxis, sizes, log)
        left, right = np.log(ax.get_xlim()) if log else ax.get_xlim()
        if left <= (0 if log else 1) <= right:
            ax.axvline(1.0, color=GREY, linewidth=1.0, label="the ball's edge")
        for place, ((name, table), shift) in enumerate(
            zip(tables.items(), _apart(len(tables), 0.006 * (right - left)), strict=True)
        ):
            x = sizes[order] * np.exp(shift) if log else sizes[order] + shift
            _series(ax, x, table[order], _look(place), name)
        ax.set(xlabel="size of the perturbation (radii of the ball)", ylabel="share of patterns recovered")
        ax.legend(**_BESIDE)
    return ax


def training_and_validation(
    steps: Any,
    curves_by_name: Mapping[str, Any],
    ax: Any = None,
    *,
    floor: float | None = None,
    bound: float | None = None,
    unit: str = "nats per token",
) -> Any:
    """Training and validation losses along runs on more and less data, a colour for each run.

    Args:
      steps: [E] steps done at each evaluation.
      curves_by_name: by name, such as "1% of the corpus", a pair (training, validation), each [E] in ``unit``, or [E, 3],
        loss and the ends of its interval, of which at most 13 are shown; what is not finite is left out.
      ax: axes to draw on; None: a new figure.
      floor: the entropy of the source, in ``unit``; None: no line.
      bound: the loss at which the theory says training ends, 1.0; None: no line.
      unit: of the losses; its first word is that of the numbers in the legend.

    Returns:
      The axes.

    Raises:
      InputError: no curve, something else than pairs, arrays of other lengths.

    >>> from olm.plots import new_figure
    >>> ax = training_and_validation([1, 2], {"100%": ([3, 2], [3, 2.1])}, new_figure(), floor=1.5, bound=1.0)
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['100%', 'validation', 'training', 'entropy of the source, 1.5 nats', "theory's bound, 1 nat"]
    """
    _some(curves_by_name, "the losses")
    at = _finite(steps, "the array of steps")
    pairs = {}
    for name, pair in curves_by_name.items():
        try:
            training, validation = pair
        except (TypeError, ValueError):
            raise InputError(f"the curves of {name} are not a pair: give (training, validation)") from None
        pairs[str(name)] = (
            _interval_table(training, len(at), f"the training loss of {name}"),
            _interval_table(validation, len(at), f"the validation loss of {name}"),
        )
    order = np.argsort(at, kind="stable")
    every = max(1, -(-len(at) // 13))
    levels = numbers([floor, bound], "floor or bound")
    with drawing(ax, 7.2, 4.0) as ax:
        from matplotlib.lines import Line2D

        _scaled(ax.yaxis, np.concatenate([*(table.ravel() for pair in pairs.values() for table in pair), levels]), False)
        handles: list[Any] = []
        grey: dict[str, Any] = {"color": GREY, "marker": "o", "markersize": 4.5}
        dashed: dict[str, Any] = {"linestyle": _DASHES[1], "linewidth": 1.2, "markerfacecolor": "white"}
        for place, (name, (training, validation)) in enumerate(pairs.items()):
            look = _look(place) | {"linewidth": 1.7}
            _series(ax, at[order], validation[order], look | {"linestyle": "-"}, f"{name}, validation", 0, every)
            # Marks of the two stand apart, so that equal losses are seen to be two lines.
            _series(ax, at[order], training[order], look | dashed, f"{name}, training", every // 2, every)
            handles.append(Line2D([], [], label=name, **(look | {"linestyle": "-"})))
        handles.append(Line2D([], [], label="validation", linewidth=1.7, **grey))
        handles.append(Line2D([], [], label="training", **(grey | dashed)))
        for level, what, look in zip(levels, ("entropy of the source", "theory's bound"), (_FLOOR, _BOUND), strict=True):
            if np.isfinite(level):
                handles.append(ax.axhline(level, label=f"{what}, {_amount(level, unit)}", **look))
        ax.set_xlim(spread(at))
        ax.set(xlabel="training steps", ylabel=f"loss ({unit})")
        ax.legend(handles=handles, **_BESIDE)
    return ax


def _amount(value: float, unit: str) -> str:
    """1 and "nats per token" → "1 nat"."""
    word = (unit.split() or [""])[0]
    return f"{value:.3g} {word.removesuffix('s') if value == 1 else word}".strip()


def plateaus(rows: Sequence[Mapping[str, Any]], ax: Any = None, *, bound: float = 1.0) -> Any:
    """The loss at which training ends against the entropy of the source, between two predictions: equal to it, or one bound.

    Args:
      rows: dicts with ``name``, ``entropy`` and ``loss``, nats per token, and ``low`` and ``high``, the ends of the loss's
        interval (None: no interval).
      ax: axes to draw on; None: a new figure.
      bound: the loss that the theory predicts whatever the source, nats per token.

    Returns:
      The axes; both of them have the same limits.

    Raises:
      InputError: no row, or a row without a name, entropy or finite loss.

    >>> from olm.plots import new_figure
    >>> ax = plateaus([{"name": "dice", "entropy": 1.79, "loss": 1.8, "low": 1.78, "high": 1.82}], new_figure())
    >>> [line.get_label() for line in ax.get_lines()], [text.get_text() for text in ax.texts]
    (['loss = entropy of the source', "theory's bound, 1 nat", 'measured plateau'], ['dice'])

    Source: Niu et al. 2024 (arXiv 2405.08707), section 5.
    """
    if not rows:
        raise InputError("there is no plateau to draw: give at least one row")
    names, table = [], []
    for place, row in enumerate(rows):
        known = row if isinstance(row, Mapping) else {}
        if lacking := [part for part in ("name", "entropy", "loss") if known.get(part) is None]:
            raise InputError(f"row {place} has no {lacking[0]!r}: give name, entropy and loss of each")
        name = str(row["name"])
        _finite([row["entropy"], row["loss"]], f"the row {name!r}")
        names.append(name)
        table.append(numbers([row.get(part) for part in ("entropy", "loss", "low", "high")], f"the row {name!r}"))
    order = np.argsort([values[0] for values in table], kind="stable")
    names, entropy, loss, low, high = [names[i] for i in order], *np.array(table)[order].T
    with drawing(ax, 5.2, 5.0) as ax:
        limits = spread(np.r_[entropy, loss, low, high, bound])
        ax.set(xlim=limits, ylim=limits)
        ax.plot(limits, limits, label="loss = entropy of the source", **BASELINE)
        ax.axhline(bound, label=f"theory's bound, {_amount(bound, 'nats')}", **_BOUND)
        barred = np.isfinite(low) & np.isfinite(high)
        ax.vlines(entropy[barred], low[barred], high[barred], color=BLUE, linewidth=1.4, alpha=0.7)
        ax.plot(entropy, loss, "o", color=BLUE, markersize=5.5, linestyle="none", label="measured plateau", zorder=3)
        ax.set(xlabel="entropy rate of the source (nats per token)", ylabel="plateau of the loss (nats per token)")
        ax.legend(ncols=2, **_ABOVE)
        along = np.linspace(*limits, 60)
        lines = [*np.stack([along, along], 1), *np.stack([along, np.full(60, bound)], 1)]
        bars = np.stack([np.broadcast_to(entropy, (9, len(rows))), np.linspace(low, high, 9)], -1)[:, barred].reshape(-1, 2)
        _label_points(ax, np.stack([entropy, loss], 1), names, [*lines, *bars])
    return ax


def data_needed(
    parameters: Any, tokens_by_name: Mapping[str, Any], ax: Any = None, *, exponents: Mapping[str, Any] | None = None
) -> Any:
    """The tokens D* that a model of N parameters needs, against N, both logarithmic, beside D ∝ √N and D ∝ N.

    The two guides go through the point of least N of the first name that has a finite one.

    Args:
      parameters: [M], N.
      tokens_by_name: by name [M], D* in tokens, or [M, 3], value and the ends of its interval. Censored values are NaN: they are
        left out, and counted in the legend.
      ax: axes to draw on; None: a new figure.
      exponents: by name the exponent a fitted to D* ∝ N^a, or (a, low, high), for the legend; None: not said.

    Returns:
      The axes.

    Raises:
      InputError: no tokens, arrays of other lengths, numbers that are not positive, or an exponent of an unknown name.

    >>> from olm.plots import new_figure
    >>> ax = data_needed([1e5, 1e6], {"stories": [1e6, float("nan")]}, new_figure(), exponents={"stories": 0.5})
    >>> [line.get_label() for line in ax.get_lines()]
    ['D ∝ √N', 'D ∝ N', 'stories, D* ∝ N^0.50, 1 censored']

    Source: Niu et al. 2024 (arXiv 2405.08707), section 5.
    """
    _some(tokens_by_name, "the tokens")
    sizes = _finite(parameters, "the array of parameters")
    tables = {str(name): _interval_table(values, len(sizes), f"the data of {name}") for name, values in tokens_by_name.items()}
    for name, values in {"parameters": sizes, **{name: table[:, 0] for name, table in tables.items()}}.items():
        if (values <= 0).any() or np.isinf(values).any():
            raise InputError(f"{name}: not all numbers are positive, write NaN where there is no D*")
    fitted = {str(name): _exponent(name, value) for name, value in (exponents or {}).items()}
    if unknown := [name for name in fitted if name not in tables]:
        raise InputError(f"exponents has {unknown[0]!r}, which has no tokens: give {', '.join(tables)} alone")
    order = np.argsort(sizes, kind="stable")
    with drawing(ax, 6.8, 4.2) as ax:
        every = np.concatenate([table.ravel() for table in tables.values()])
        anchors = [(sizes[i], table[i, 0]) for table in tables.values() for i in order if np.isfinite(table[i, 0])]
        ends = np.array([sizes.min(), sizes.max()])
        _scaled(ax.xaxis, sizes, True)
        guides = []
        for slope, label, look in ((0.5, "D ∝ √N", BASELINE), (1.0, "D ∝ N", _FLOOR)):
            if anchors:
                guides.append(anchors[0][1] * (ends / anchors[0][0]) ** slope)
                ax.plot(ends, guides[-1], label=label, **look)
        _scaled(ax.yaxis, np.concatenate([every, *guides]), True)
        wide = np.log(sizes.max() / sizes.min()) or 1.0
        for place, ((name, table), shift) in enumerate(zip(tables.items(), _apart(len(tables), 0.008 * wide), strict=True)):
            missing = int(np.isnan(table[:, 0]).sum())
            words = name + (f", D* ∝ {fitted[name]}" if name in fitted else "") + (f", {missing} censored" if missing else "")
            _series(ax, sizes[order] * np.exp(shift), table[order], _look(place), words)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(lambda value, _: _counted(value))
        ax.set(xlabel="parameters N", ylabel="tokens needed D*")
        ax.legend(ncols=2, **_ABOVE)
    return ax


def _exponent(name: str, value: Any) -> str:
    parts = _number_or_row(value, f"the exponent of {name}")
    if len(parts) not in (1, 3):
        raise InputError(f"the exponent of {name} has {len(parts)} numbers: give one, or (value, low, high)")
    return f"N^{parts[0]:.2f}" + (f" [{parts[1]:.2f}, {parts[2]:.2f}]" if len(parts) == 3 else "")


def _counted(value: float) -> str:
    """20000000 → "20M"."""
    unit, letter = next(((unit, letter) for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if value >= unit), (1.0, ""))
    return f"{value / unit:.4g}{letter}"
