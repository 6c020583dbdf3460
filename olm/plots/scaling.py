"""Figures of scaling laws: losses against size, data or compute, predictions, isoFLOP parabolas, budgets, curves, improvement.

Everything comes as plain arrays and numbers; what fitted them is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from olm.errors import InputError
from olm.plots.style import BASELINE, BLACK, BLUE, FOUND, GREY, VERMILLION, drawing, numbers, plain_log_axis, spread

__all__ = [
    "allocation",
    "improvement",
    "isoflop_parabolas",
    "law_curves",
    "loss_by_size",
    "predicted_measured",
]

_AXES = {"C": "training compute (FLOPs)", "N": "parameters", "D": "training tokens"}
_SHOWN = 12  # groups that a legend lists


def _same_length(**arrays: np.ndarray) -> None:
    if len({len(array) for array in arrays.values()}) > 1:
        lengths = ", ".join(f"{name} {len(array)}" for name, array in arrays.items())
        raise InputError(f"the arrays differ in length ({lengths}): give one value for each row")


def _shades(count: int) -> list[Any]:
    """Colours for an ordered set, light to dark enough for white paper."""
    import matplotlib

    return list(matplotlib.colormaps["viridis_r"](np.linspace(0.12, 1, count)))


def _counted(value: float) -> str:
    """124000000 → "124M"."""
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


def loss_by_size(
    x: Any,
    loss: Any,
    group: Any,
    ax: Any = None,
    *,
    lines: Mapping[float, tuple[Any, Any]] | None = None,
    axis: str = "C",
    name: str = "N",
    legend: bool = True,
) -> Any:
    """Losses of runs against compute, size or tokens, a shade for each group, with the law's curve of each.

    Args:
      x: [rows], positive.
      loss: [rows], nats.
      group: [rows] numbers, such as each run's N; beyond 12 different ones the legend names a few.
      ax: axes to draw on; None: a new figure.
      lines: {group: (x [n], loss [n])}, the law's curves.
      axis: what ``x`` is, "C", "N" or "D", or a label.
      name: what the groups are.
      legend: whether to show which shade is which group.

    Returns:
      The axes.

    Raises:
      InputError: arrays of different lengths, or none.

    >>> loss_by_size([1e18, 2e18], [3.0, 2.9], [1e8, 1e8], lines={1e8: ([1e18, 2e18], [3.0, 2.9])}).get_xscale()
    'log'
    """
    x, loss, group = numbers(x, "the axis"), numbers(loss, "the loss"), numbers(group, "the groups")
    _same_length(x=x, loss=loss, group=group)
    with drawing(ax) as ax:
        values = np.unique(group)
        shades = _shades(len(values))
        named = set(range(len(values))) if len(values) <= _SHOWN else set(np.linspace(0, len(values) - 1, 6).astype(int))
        for place, (value, shade) in enumerate(zip(values, shades, strict=True)):
            rows = group == value
            label = f"{name} = {_counted(float(value))}" if place in named else None
            ax.plot(x[rows], loss[rows], "o", markersize=3.6, color=shade, alpha=0.85, label=label, zorder=3)
            if lines is not None and value in lines:
                at, fitted = (numbers(part, "a law's curve") for part in lines[value])
                ax.plot(at, fitted, color=shade, linewidth=1.1)
        ax.set_xscale("log")
        ax.set(xlabel=_AXES.get(axis, axis), ylabel="loss (nats)")
        if loss.min() > 0:
            ax.set_yscale("log")
            plain_log_axis(ax.yaxis)
        if lines:
            ax.plot([], [], color=GREY, linewidth=1.1, label="the law")
        if legend:
            ax.legend(fontsize=7.5, ncols=1 if len(named) < 8 else 2)
    return ax


def predicted_measured(predicted: Any, measured: Any, ax: Any = None, *, held_out: Any = None, relative: bool = False) -> Any:
    """Predicted against measured losses, or their relative differences.

    Args:
      predicted, measured: [rows], nats.
      ax: axes to draw on; None: a new figure.
      held_out: [rows] bool, rows that the fit did not see; None: none.
      relative: draw (predicted − measured) / measured in per cent instead, against the measured loss.

    Returns:
      The axes.

    Raises:
      InputError: arrays of different lengths, or none.

    >>> predicted_measured([3.0, 2.1], [3.0, 2.0], relative=True).get_ylabel()
    'predicted − measured (%)'
    """
    x, y = numbers(measured, "the measured losses"), numbers(predicted, "the predicted losses")
    out = np.zeros(len(x), bool) if held_out is None else np.asarray(held_out, bool)
    _same_length(predicted=y, measured=x, held_out=out)
    with drawing(ax, 4.6, 4.0) as ax:
        shown = 100 * (y - x) / x if relative else y
        ends = np.array(spread(x))
        ax.plot(ends, [0, 0] if relative else ends, color=GREY, linewidth=1.0, zorder=1)
        for rows, look in ((~out, {"color": BLUE, "marker": "o", "label": "fitted"}),
                           (out, {"color": VERMILLION, "marker": "^", "label": "held out"})):  # fmt: skip
            if rows.any():
                ax.plot(x[rows], shown[rows], linestyle="none", markersize=4, alpha=0.8, **look)
        ax.set(xlabel="measured loss (nats)", ylabel="predicted − measured (%)" if relative else "predicted loss (nats)")
        ax.set_xlim(*ends)
        if relative:
            ax.set_title(f"mean error {np.abs(shown[out] if out.any() else shown).mean():.2f}%", loc="left")
        if out.any():
            ax.legend()
    return ax


def isoflop_parabolas(
    N: Any, loss: Any, group: Any, flops: Any, best_N: Any, best_loss: Any, curvature: Any, ax: Any = None
) -> Any:
    """Losses against size at each budget, the parabola in ln N through them, and its minimum.

    Args:
      N, loss: [rows].
      group: [rows], the place of each row's budget in ``flops``; negative: none.
      flops: [b] budgets.
      best_N, best_loss: [b], the minima.
      curvature: [b], the factor of (ln N − ln N*)².
      ax: axes to draw on; None: a new figure.

    Returns:
      The axes.

    Raises:
      InputError: arrays that do not fit together.

    >>> isoflop_parabolas([1e7, 1e8, 1e9], [3.1, 3.0, 3.1], [0, 0, 0], [1e18], [1e8], [3.0], [0.02]).get_xlabel()
    'parameters'
    """
    N, loss, place = numbers(N, "N"), numbers(loss, "the loss"), numbers(group, "the groups").astype(int)
    _same_length(N=N, loss=loss, group=place)
    flops, best, least, bend = (numbers(v, n) for v, n in ((flops, "flops"), (best_N, "N*"), (best_loss, "the minima"),
                                                          (curvature, "the curvature")))  # fmt: skip
    _same_length(flops=flops, best_N=best, best_loss=least, curvature=bend)
    with drawing(ax) as ax:
        for i, shade in enumerate(_shades(len(flops))):
            rows = place == i
            if not rows.any():
                continue
            at = np.geomspace(min(N[rows].min(), best[i]), max(N[rows].max(), best[i]), 60)
            ax.plot(at, least[i] + bend[i] * np.log(at / best[i]) ** 2, color=shade, linewidth=1.2)
            ax.plot(N[rows], loss[rows], "o", markersize=3.8, color=shade, label=f"{flops[i]:.3g} FLOPs")
        ax.plot(best, least, color=VERMILLION, marker="*", markersize=10, markeredgecolor="white", linewidth=1.0,
                linestyle=":", label="minimum", zorder=4)  # fmt: skip
        ax.set_xscale("log")
        ax.set(xlabel=_AXES["N"], ylabel="loss (nats)")
        ax.legend(fontsize=7.5)
    return ax


def allocation(flops: Any, best: Any, ax: Any = None, *, interval: Any = None, bootstrap: Any = None, name: str = "N") -> Any:
    """What to spend a budget on: the best size or tokens against compute, with intervals.

    Args:
      flops: [n] budgets.
      best: [n], the best N or D at each.
      ax: axes to draw on; None: a new figure.
      interval: [n, 2] of the delta method; None: none.
      bootstrap: [n, 2] percentiles; None: none.
      name: "N" or "D".

    Returns:
      The axes.

    Raises:
      InputError: arrays of different lengths.

    >>> allocation([1e18, 1e20], [1e8, 1e9], interval=[[9e7, 2e8], [8e8, 2e9]]).get_ylabel()
    'best N: parameters'
    """
    x, y = numbers(flops, "flops"), numbers(best, "the best " + name)
    order = np.argsort(x)
    with drawing(ax, 5.2, 4.0) as ax:
        _same_length(flops=x, best=y)
        for values, look in ((interval, {"color": BLUE, "alpha": 0.18, "label": "interval, delta method"}),
                             (bootstrap, {"color": VERMILLION, "alpha": 0.9, "label": "interval, bootstrap"})):  # fmt: skip
            if values is None:
                continue
            ends = numbers(values, "an interval", 2)
            _same_length(flops=x, interval=ends)
            if values is bootstrap:
                ax.vlines(x, ends[:, 0], ends[:, 1], linewidth=1.4, **look)
            else:
                ax.fill_between(x[order], ends[order, 0], ends[order, 1], linewidth=0, **look)
        mark = {"marker": "o", "markersize": 4} if len(x) <= 40 else {}
        ax.plot(x[order], y[order], label=f"best {name}", **mark, **FOUND)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set(xlabel=_AXES["C"], ylabel=f"best {name}: {_AXES.get(name, name)}")
        ax.legend(loc="upper left")
    return ax


def law_curves(curves: Sequence[Mapping[str, Any]], ax: Any = None, *, errors: bool = False) -> Any:
    """Loss curves under several schedules and what a law foretells for them.

    Args:
      curves: one dict a curve: ``name``, ``steps``, ``losses``, ``predicted``, and ``test`` (True: the fit did not see it).
      ax: axes to draw on; None: a new figure.
      errors: draw predicted − measured instead.

    Returns:
      The axes.

    Raises:
      InputError: no curve, or one whose arrays differ in length.

    >>> law_curves([{"name": "a", "steps": [1, 2], "losses": [3.0, 2.0], "predicted": [3.0, 2.1]}]).get_xlabel()
    'training step'
    """
    if not curves:
        raise InputError("there is no curve to draw: give at least one")
    with drawing(ax) as ax:
        shades, seen = _shades(len(curves)), []
        for curve, shade in zip(curves, shades, strict=True):
            steps, losses, predicted = (
                numbers(curve[key], f"{key} of {curve['name']}") for key in ("steps", "losses", "predicted")
            )
            _same_length(steps=steps, losses=losses, predicted=predicted)
            label = f"{curve['name']}{', not fitted' if curve.get('test') else ''}"
            if errors:
                look: dict[str, Any] = {"linestyle": (0, (4, 1.6))} if curve.get("test") else {}
                ax.plot(steps, predicted - losses, color=shade, linewidth=1.1, label=label, **look)
                seen.append((predicted - losses)[len(losses) // 20 :])  # the first steps are far off under any law
            else:
                ax.plot(
                    steps, losses, "o" if not curve.get("test") else "x", markersize=2.4, color=shade, alpha=0.55, label=label
                )
                ax.plot(steps, predicted, color=shade, linewidth=1.3)
                seen.append(np.r_[losses[len(losses) // 20 :], predicted[len(losses) // 20 :]])
        if errors:
            ax.axhline(0, color=GREY, linewidth=1.0, zorder=1)
        ax.set_ylim(*spread(np.concatenate(seen)))
        ax.set(xlabel="training step", ylabel="predicted − measured (nats)" if errors else "loss (nats)")
        ax.legend(fontsize=7.5, title=None if errors else "points: measured, lines: the law", title_fontsize=7.5)
    return ax


def improvement(
    steps: Any,
    baseline: Any,
    found: Any,
    L0: float,
    fits: tuple[tuple[float, float], tuple[float, float]],
    ax: Any = None,
    *,
    t0: float = 1.0,
    labels: tuple[str, str] = ("uniform weights", "found policy"),
) -> Any:
    """L − L0 against t, both logarithmic, for two policies with the line that each follows, (B/t)^β, and its equation.

    Args:
      steps: [n].
      baseline, found: [n] losses, nats.
      L0: the irreducible loss both share.
      fits: ((B, β) of the baseline, (B, β) of the found policy).
      ax: axes to draw on; None: a new figure.
      t0: the lines are drawn from this step on; earlier points are pale.
      labels: of the two.

    Returns:
      The axes; the title says by how much B and β changed.

    Raises:
      InputError: arrays of different lengths, or B or β that is not positive.

    Source: Gu et al. 2024, Figure 11 and Eq. 8.

    >>> t = np.arange(1, 50)
    >>> ax = improvement(t, 1 + (9 / t) ** 0.5, 1 + (3 / t) ** 0.6, 1.0, ((9.0, 0.5), (3.0, 0.6)))
    >>> ax.get_title("left")
    'B −66.7%, β +20.0%'
    """
    t, *both = (numbers(v, n) for v, n in ((steps, "steps"), (baseline, "the baseline's losses"), (found, "the found losses")))
    _same_length(steps=t, baseline=both[0], found=both[1])
    if not all(np.isfinite(value) and value > 0 for pair in fits for value in pair):
        raise InputError(f"the fits are {fits}: give a positive B and β for each curve")
    even = np.unique(np.geomspace(1, len(t), 300).astype(int)) - 1  # as many points as the eye can tell apart
    t = t[even]
    with drawing(ax, 5.6, 4.2) as ax:
        for losses, (B, beta), label, look, color in zip(both, fits, labels, (BASELINE, FOUND), (BLACK, BLUE), strict=True):
            above = losses[even] - L0
            shown, late = (above > 0) & (t > 0), t >= t0
            ax.plot(t[shown & ~late], above[shown & ~late], ".", markersize=3, color=color, alpha=0.15)
            ax.plot(t[shown & late], above[shown & late], ".", markersize=4, color=color, alpha=0.3)
            at = np.geomspace(max(t0, t[t > 0].min()), t.max(), 50)
            equation = f"{L0:.3g} + ({B:.3g}/t)$^{{{beta:.3f}}}$"
            ax.plot(at, (B / at) ** beta, label=f"{label}: {equation}", zorder=4, **look)
        ax.set_xscale("log")
        ax.set_yscale("log")
        plain_log_axis(ax.xaxis)
        plain_log_axis(ax.yaxis)
        ax.set(xlabel="training step t", ylabel="L − L$_0$ (nats)")
        (first, slow), (second, fast) = fits
        ax.set_title(f"B {_signed(second / first - 1)}, β {_signed(fast / slow - 1)}", loc="left")
        ax.legend()
    return ax


def _signed(change: float) -> str:
    return f"{'−' if change < 0 else '+'}{abs(100 * change):.1f}%"
