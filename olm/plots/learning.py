"""Figures of learning curves and of a search: loss over steps, objective over evaluations, area over learning rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from olm.errors import InputError
from olm.plots.style import (
    BASELINE,
    BLUE,
    FOUND,
    GREEN,
    GREY,
    ORANGE,
    VERMILLION,
    drawing,
    numbers,
    off_scale,
    plain_log_axis,
    spread,
)

__all__ = ["learning_rate_grid", "loss_curves", "objective_history", "policies_compared"]


def _reached(baseline: np.ndarray, found: np.ndarray) -> int | None:
    """The first step from which ``found`` stays at or below the baseline's last loss."""
    stays = np.flip(np.logical_and.accumulate(np.flip(found <= baseline[-1])))
    return int(np.argmax(stays)) if stays.any() else None


def loss_curves(
    baseline: Any,
    found: Any = None,
    ax: Any = None,
    *,
    label: str = "loss",
    entropy: float | None = None,
    log_x: bool = False,
    log_y: bool | None = None,
) -> Any:
    """Loss over training steps with uniform weights and with the found policy, and where the second overtakes the first.

    The acceleration T / t* is marked where the found curve stays at or below the baseline's last loss from t* on.

    Args:
      baseline: [T+1] losses in nats, entry t after t steps.
      found: [T+1] likewise; None: not there yet.
      ax: axes to draw on; None: a new figure.
      label: what loss this is, for the vertical axis.
      entropy: the loss nothing can beat, in nats, where it is known.
      log_x: a logarithmic axis of steps; step 0 is then left out.
      log_y: a logarithmic axis of losses; None: where the largest is over four times the least.

    Returns:
      The axes.

    Raises:
      InputError: an empty curve, or two of different lengths.

    Source: Gu et al. 2024, Figure 5 and Eq. 9, with "stays" in place of "first crosses".

    >>> loss_curves([1.0, 0.8, 0.6, 0.5, 0.4], [1.0, 0.4, 0.3, 0.3, 0.2]).get_title("left")
    '4× faster'
    """
    base = numbers(baseline, "the baseline's curve")
    new = None if found is None else numbers(found, "the found curve")
    if new is not None and new.shape != base.shape:
        raise InputError(f"the curves have {len(base)} and {len(new)} entries: give two of one length, T+1")
    steps, first = np.arange(len(base)), 1 if log_x and len(base) > 1 else 0
    with drawing(ax) as ax:
        dot = {"marker": "o", "markersize": 4} if len(base) - first == 1 else {}
        ax.plot(steps[first:], base[first:], label="uniform weights", **BASELINE, **dot)
        if new is not None:
            ax.plot(steps[first:], new[first:], label="found policy", **FOUND, **dot)
        if entropy is not None and np.isfinite(entropy):
            ax.axhline(entropy, color=GREEN, linewidth=1.2, linestyle=":", label=f"entropy of the source, {entropy:.3g}")
        ax.set(xlabel="training step", ylabel=f"{label} (nats)")
        if log_x and len(base) > 2:
            ax.set_xscale("log")
            plain_log_axis(ax.xaxis)
        drawn = np.r_[base[first:], [] if new is None else new[first:], [] if entropy is None else entropy]
        drawn = drawn[np.isfinite(drawn)]
        usual = base[np.isfinite(base)] if np.isfinite(base).any() else drawn
        if drawn.size:  # a curve that explodes leaves the figure; losses may be negative
            drawn = drawn[drawn <= usual.max() + 2 * max(abs(usual.max()), np.ptp(usual))]
        if log_y is None:
            log_y = bool(drawn.size) and drawn.max() > 4 * drawn.min() > 0
        if log_y and drawn.size and drawn.min() > 0:
            ax.set_yscale("log")
            ax.set_ylim(drawn.min() / 1.08, drawn.max() * 1.08)
            plain_log_axis(ax.yaxis)
        else:
            ax.set_ylim(spread(drawn))
        if new is not None:
            _mark_acceleration(ax, base, new)
        ax.legend(loc="best" if log_x else "upper right")
    return ax


def _mark_acceleration(ax: Any, base: np.ndarray, new: np.ndarray) -> None:
    last, step = len(base) - 1, _reached(base, new)
    if not np.isfinite(base[-1]):
        ax.set_title("the baseline did not stay finite", loc="left")
    elif step:
        level = base[-1]
        ax.plot([step, last], [level, level], color=VERMILLION, linewidth=1.1, marker="|", markersize=8)
        ax.plot(step, new[step], "o", color=VERMILLION, markersize=5.5, zorder=4,
                label=f"at or below the baseline's last loss from step {step} on")  # fmt: skip
        ax.set_title(f"{last / step:.3g}× faster", loc="left")
    elif step == 0:
        ax.set_title("starts at or below the baseline's last loss", loc="left")
    else:
        ax.set_title("does not reach the baseline's last loss", loc="left")


def _best(rows: Sequence[Mapping[str, Any]], best: int | None) -> int | None:
    """The place of the best row: the one with evaluation ``best``, or the least accepted validation (else objective)."""
    if best is not None:
        return next((place for place, row in enumerate(rows) if row.get("evaluation") == best), None)
    accepted = np.array([bool(row.get("accepted", True)) for row in rows])
    for column in ("validation", "objective"):
        values = numbers([row.get(column) for row in rows], column)
        usable = accepted & np.isfinite(values)
        if usable.any():
            return int(np.argmin(np.where(usable, values, np.inf)))
    return None


def objective_history(
    history: Sequence[Mapping[str, Any]],
    ax: Any = None,
    *,
    baseline: float | None = None,
    best: int | None = None,
    alphabet: int | None = None,
) -> Any:
    """The objective of every evaluation of a search, what validation said, what was retried and which was kept.

    With ``alphabet`` the right axis reads the same heights as compression ratios, as in Figure 4 of Gu et al. 2024.

    Args:
      history: one dict an evaluation: ``evaluation``, ``objective`` and, where known, ``validation`` and ``accepted``.
      ax: axes to draw on; None: a new figure.
      baseline: the objective of uniform weights.
      best: the evaluation that was kept, 0 for the start, one more than there are for the step after the last; None: the
        accepted one of least validation (objective where there is none).
      alphabet: |V|, where the objective is the area J: CR = ln |V| / J; None: no right axis.

    Returns:
      The axes.

    Raises:
      InputError: no evaluations.

    >>> objective_history([{"evaluation": 1, "objective": 0.3}, {"evaluation": 2, "objective": 0.2}]).get_xlabel()
    'evaluation'
    """
    rows = list(history)
    if not rows:
        raise InputError("there is no evaluation to draw: give a history of at least one")
    x = numbers([row.get("evaluation", place) for place, row in enumerate(rows)], "the evaluations' numbers")
    objective, validation = (numbers([row.get(name) for row in rows], name) for name in ("objective", "validation"))
    accepted = np.array([bool(row.get("accepted", True)) for row in rows])
    place = _best(rows, best)
    with drawing(ax) as ax:
        from matplotlib.ticker import MaxNLocator

        if baseline is not None and np.isfinite(baseline):
            ax.axhline(baseline, **BASELINE, label=f"uniform weights, {baseline:.4g}")
        ax.plot(x[accepted], objective[accepted], marker="o", markersize=3.5, label="objective", **FOUND)
        if np.isfinite(validation).any():
            ax.plot(
                x[accepted], validation[accepted], color=ORANGE, marker="s", markersize=3.5, linewidth=1.2, label="validation"
            )
        kept = np.r_[objective[accepted], validation[accepted], np.nan if baseline is None else baseline]
        finite = kept[np.isfinite(kept)]
        ax.set_ylim(spread(np.r_[kept, objective], cap=2 * finite.max() - finite.min() if finite.size else np.inf))
        if not accepted.all():
            look = {"color": VERMILLION, "zorder": 3}
            ax.plot(x[~accepted], objective[~accepted], "x", markersize=6, label="retried with a smaller step", **look)
            off_scale(ax, x[~accepted], objective[~accepted], **look)
        if not np.isfinite(objective[accepted]).all():
            off_scale(ax, x[accepted], objective[accepted], color=BLUE)
        if place is not None:
            value = validation[place] if np.isfinite(validation[place]) else objective[place]
            ax.plot(
                x[place], value, "*", color=GREEN, markersize=13, markeredgecolor="white", zorder=4, label=f"kept: {x[place]:g}"
            )
        elif best is not None:  # kept, but no evaluation of the search
            ax.plot([], [], "*", color=GREEN, markersize=13, markeredgecolor="white",
                    label="kept: the step after the last" if best > x.max() else "kept: the start")  # fmt: skip
        if alphabet is not None and ax.get_ylim()[0] > 0:

            def turned(value: Any) -> Any:
                return np.log(alphabet) / np.maximum(value, 1e-12)

            ax.secondary_yaxis("right", functions=(turned, turned)).set_ylabel("compression ratio ln |V| / J")
        ax.set(xlabel="evaluation", ylabel="objective (nats)")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend(loc="best")
    return ax


def learning_rate_grid(rows: Sequence[Mapping[str, Any]], ax: Any = None, *, column: str = "area_validation") -> Any:
    """Area under the loss against the learning rate, for uniform weights and for found policies; the best of each is starred.

    Of several policies at one rate the best is drawn. Held-out areas (``area_test``), where given, are drawn thin beside the
    validation areas that chose.

    Args:
      rows: dicts with ``side`` (``"uniform"``, else found), ``learning_rate`` and ``column``; a run that diverged has a value
        that is not finite and is marked at the upper edge.
      ax: axes to draw on; None: a new figure.
      column: what chose the best learning rate.

    Returns:
      The axes.

    Raises:
      InputError: no rows, or a row without a positive learning rate.

    >>> learning_rate_grid([{"side": "uniform", "learning_rate": 0.1, "area_validation": 0.3}]).get_xlabel()
    'learning rate η'
    """
    rows = list(rows)
    if not rows:
        raise InputError("there is no learning rate to draw: give at least one row")
    rates = numbers([row.get("learning_rate") for row in rows], "learning_rate")
    if not (np.isfinite(rates) & (rates > 0)).all():
        raise InputError("a row has no positive learning_rate: give every row one")
    chosen, held_out = (numbers([row.get(name) for row in rows], name) for name in (column, "area_test"))
    uniform = np.array([str(row.get("side")) in ("uniform", "baseline") for row in rows])
    with drawing(ax) as ax:
        both = np.r_[chosen, held_out]
        shown = both[np.isfinite(both) & (both <= 20 * np.min(both[both > 0], initial=np.inf))]
        if shown.size and shown.max() > 3 * shown.min() > 0:
            ax.set_yscale("log")
            ax.set_ylim(shown.min() / 1.1, shown.max() * 1.1)
            plain_log_axis(ax.yaxis)
        else:
            ax.set_ylim(spread(shown))
        ax.set_xscale("log", base=2)
        lost = False
        for side, name, look, marker in ((uniform, "uniform weights", BASELINE, "o"), (~uniform, "found policy", FOUND, "s")):
            order = np.flatnonzero(side)[np.lexsort((chosen[side], rates[side]))]
            if not order.size:
                continue
            order = order[np.unique(rates[order], return_index=True)[1]]
            x, y, test = rates[order], chosen[order], held_out[order]
            beyond = off_scale(ax, x, y, color=look["color"])
            lost |= bool(beyond.any())
            best = int(np.argmin(np.where(beyond, np.inf, y)))
            label = name if beyond.all() else f"{name}, best at η = {x[best]:.4g}"
            ax.plot(x, np.where(beyond, np.nan, y), marker=marker, markersize=4.5, label=label, **look)
            thin = {**look, "linewidth": 0.9, "alpha": 0.55, "zorder": 1.9}
            ax.plot(x, np.where(beyond, np.nan, test), marker=marker, markersize=3, **thin)
            if not beyond.all():
                ax.plot(x[best], y[best], "*", markersize=15, markeredgecolor="white", color=look["color"], zorder=4)
        if np.isfinite(held_out).any():
            ax.plot([], [], color=GREY, linewidth=0.9, marker=".", label="thin: the same, held out")
        if lost:
            ax.plot([], [], "^", color=GREY, linestyle="none", label="diverged, or far off the scale")
        ticks = np.unique(rates)
        if len(ticks) <= 12:
            ax.set_xticks(ticks, [f"{rate:.4g}" for rate in ticks])
            ax.minorticks_off()
        ax.set(xlabel="learning rate η", ylabel="area under the loss (nats)")
        ax.legend(loc="best")
    return ax


def policies_compared(rows: Sequence[Mapping[str, Any]], ax: Any = None, *, xlabel: str = "area ratio") -> Any:
    """A ratio of each policy with its interval, best on top, and beside it what the policy cost; uniform weights are at 1.

    Args:
      rows: dicts with ``name``, ``mean`` and, where known, ``low``, ``high`` (of the ratio), ``searched`` (bool), ``cost`` (a
        line of text).
      ax: axes to draw on; None: a new figure.
      xlabel: what the ratio is.

    Returns:
      The axes.

    Raises:
      InputError: no rows, or a mean that is not positive and finite.

    >>> rows = [{"name": "table", "mean": 0.5, "low": 0.4, "high": 0.6, "searched": True}, {"name": "high loss", "mean": 1.1}]
    >>> [label.get_text() for label in policies_compared(rows).get_yticklabels()]
    ['table', 'high loss']
    """
    rows = list(rows)
    means = numbers([row.get("mean") for row in rows], "the ratios") if rows else np.array([])
    if not (means.size and np.isfinite(means).all() and (means > 0).all()):
        raise InputError("there is no policy to draw, or a ratio that is not positive: give rows with a mean each")
    order = np.argsort(means, kind="stable")
    with drawing(ax, 6.8, 0.9 + 0.32 * len(rows)) as ax:
        ax.axvline(1.0, **BASELINE)
        for kind, label, color, marker in ((True, "found by search", BLUE, "s"), (False, "no search", ORANGE, "o")):
            places = [place for place, at in enumerate(order) if bool(rows[at].get("searched")) == kind]
            for place in places:
                row = rows[order[place]]
                ends = [row.get(end) for end in ("low", "high")]
                if None not in ends:
                    ax.plot(ends, [place, place], color=color, linewidth=1.4)
            if places:
                ax.plot(means[order[places]], places, marker, color=color, markersize=5.5, label=label)
        for place, at in enumerate(order):
            if cost := rows[at].get("cost"):
                ax.text(1.01, place, cost, transform=ax.get_yaxis_transform(), va="center", fontsize=7.5, color=GREY)
        ax.set_xscale("log")
        plain_log_axis(ax.xaxis)
        ax.set_yticks(range(len(rows)), [str(rows[at]["name"]) for at in order])
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.set(xlabel=xlabel)
        ax.legend(loc="best")
    return ax
