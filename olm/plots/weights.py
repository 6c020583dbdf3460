"""Figures of what a policy does: its weights over steps and examples, and how they go with the examples' contributions.

Weights are shown relative to uniform, N·γ: 1 is the weight every example has without a policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from olm.errors import InputError
from olm.plots.style import BLACK, BLUE, GREY, ORANGE, VERMILLION, drawing, numbers

__all__ = ["contributions", "weights_distribution", "weights_heatmap"]

GROUPS = ("clean", "corrupted")


def _relative(weights: np.ndarray, n_examples: int | None) -> np.ndarray:
    """N·γ. Without N: relative to the mean weight, which is 1/N for a whole table and close to it for a sample."""
    if n_examples is not None:
        return weights * n_examples
    finite = weights[np.isfinite(weights)]
    mean = finite.mean() if finite.size else np.nan
    if not mean > 0:
        raise InputError("the weights have no positive mean: give weights that are not negative and not all zero")
    return weights / mean


def _axis(values: Any, length: int, what: str) -> np.ndarray:
    names = np.arange(length, dtype=np.float64) if values is None else numbers(values, what)
    if len(names) != length:
        raise InputError(f"{what} has {len(names)} entries for weights with {length}: give one for each")
    return names


def _thinned(length: int, most: int) -> np.ndarray:
    """At most ``most`` places out of ``length``, evenly spaced, the ends included."""
    return np.unique(np.round(np.linspace(0, length - 1, min(length, most))).astype(int))


def _edges(centres: np.ndarray) -> np.ndarray:
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    return np.r_[2 * centres[0] - middle[0], middle, 2 * centres[-1] - middle[-1]]


def _times(value: float, _: Any = None) -> str:
    return f"{value:.4g}×" if value >= 1 else f"1/{1 / value:.4g}×"


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.095 else f"{100 * share:.1g}%"


def weights_heatmap(
    weights_TxN: Any,
    ax: Any = None,
    *,
    steps: Any = None,
    group: Any = None,
    group_names: Sequence[str] = GROUPS,
    n_examples: int | None = None,
    max_steps: int = 400,
    max_examples: int = 400,
    bound: float | None = None,
) -> Any:
    """Weights relative to uniform over steps (across) and examples (down, the heaviest on top), on a logarithmic colour scale.

    Args:
      weights_TxN: [T', N'] weights, possibly of some steps and examples only.
      ax: axes to draw on; None: a new figure.
      steps: [T'] the steps' numbers; None: 0 … T'-1.
      group: [N'] 0 or 1, for example 1 for corrupted: the groups are then drawn apart, group 0 on top.
      group_names: what 0 and 1 mean.
      n_examples: N, where only some examples are given; None: estimated as one over the mean weight.
      max_steps, max_examples: how many to draw at most, evenly spaced (the examples after sorting).
      bound: colours run from 1/bound to bound; None: from the weights, between 3 and 100.

    Returns:
      The axes.

    Raises:
      InputError: no weights, all zero, or names of another length.

    Source: Gu et al. 2024, Figure 10.

    >>> weights_heatmap([[0.1, 0.9], [0.5, 0.5]]).get_xlabel()
    'training step'
    """
    weights = numbers(weights_TxN, "the weights", 2)
    x = _axis(steps, weights.shape[0], "steps")
    relative = _relative(weights, n_examples)
    kind = np.zeros(weights.shape[1]) if group is None else _axis(group, weights.shape[1], "group")
    mean = np.nanmean(np.where(np.isfinite(relative), relative, 0.0), axis=0)
    order = np.lexsort((-mean, kind))[_thinned(weights.shape[1], max_examples)]
    rows = np.argsort(x, kind="stable")[_thinned(len(x), max_steps)]
    shown = relative[np.ix_(rows, order)].T
    if bound is None:
        positive = shown[np.isfinite(shown) & (shown > 0)]
        reach = np.quantile(np.maximum(positive, 1 / positive), 0.98) if positive.size else 3.0
        bound = float(np.clip(reach, 3.0, 100.0))
    with drawing(ax, 6.8, 4.2) as ax:
        from matplotlib.colors import LinearSegmentedColormap, LogNorm
        from matplotlib.ticker import FixedLocator, NullFormatter

        colours = LinearSegmentedColormap.from_list(
            "olm", ["#003a5d", BLUE, "#9ccbe8", "#f7f7f7", "#f5c08a", VERMILLION, "#6b2e00"]
        )
        palette = colours.with_extremes(bad="#c0c0c0")
        image = ax.pcolormesh(
            _edges(x[rows]), np.arange(len(order) + 1), np.clip(shown, 1 / bound, bound),
            cmap=palette, norm=LogNorm(1 / bound, bound), rasterized=True,
        )  # fmt: skip
        ax.invert_yaxis()
        ax.grid(False)
        bar = ax.figure.colorbar(image, ax=ax, pad=0.02, label="weight relative to uniform, N·γ", extend="both")
        decades = [
            tick for tick in (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100) if 1 / bound <= tick * 1.001 and tick <= bound * 1.001
        ]
        ticks = [tick for tick in decades if bound < 9 or np.isclose(np.log10(tick) % 1, 0)]
        bar.ax.yaxis.set_major_locator(FixedLocator(ticks))
        bar.ax.yaxis.set_minor_formatter(NullFormatter())
        bar.ax.yaxis.set_major_formatter(_times)
        some = len(order) < (n_examples or weights.shape[1])
        drawn = f"{len(order)} of the examples" if some else f"{len(order)} examples"
        ax.set(xlabel="training step", ylabel=f"{drawn}, by mean weight")
        ax.set_yticks([])
        kinds = kind[order]
        if group is not None and len(np.unique(kinds)) == 2:
            ax.axhline(int((kinds == kinds[0]).sum()), color=BLACK, linewidth=1.2)
        if group is not None:
            values = np.unique(kinds)
            middles = [float(np.flatnonzero(kinds == value).mean() + 0.5) for value in values]
            ax.set_yticks(middles, [group_names[int(value)] for value in values], rotation=90, va="center")
            ax.tick_params(axis="y", length=0)
    return ax


def weights_distribution(
    weights_TxN: Any, steps: Any = None, ax: Any = None, *, at: Any = None, n_examples: int | None = None, floor: float = 1e-3
) -> Any:
    """The share of examples whose weight relative to uniform is at most a value, at a few steps; with the effective sample size.

    A curve that starts at 40% on the left says that 40% of the examples have almost no weight at that step. The effective
    sample size 1 / (N Σ γ²) is the share of examples that would carry the same spread with equal weights.

    Args:
      weights_TxN: [T', N'] weights, possibly of some steps and examples only.
      steps: [T'] the steps' numbers; None: 0 … T'-1.
      ax: axes to draw on; None: a new figure.
      at: the steps to draw, each replaced by the nearest given one; None: the first, the last and three between.
      n_examples: N, where only some examples are given; None: estimated as one over the mean weight.
      floor: relative weights below this are drawn at the left edge.

    Returns:
      The axes.

    Raises:
      InputError: no weights, all zero, or names of another length.

    >>> len(weights_distribution([[0.1, 0.9], [0.5, 0.5]]).get_lines())  # two steps and the line of uniform weights
    3
    """
    weights = numbers(weights_TxN, "the weights", 2)
    names = _axis(steps, weights.shape[0], "steps")
    relative = _relative(weights, n_examples)
    order = np.argsort(names, kind="stable")
    if at is None:
        chosen = order[_thinned(len(order), 5)]
    else:
        nearest = [int(np.argmin(np.abs(names - step))) for step in numbers(at, "the steps to draw")]
        chosen = np.array(list(dict.fromkeys(nearest)))
    with drawing(ax) as ax:
        from matplotlib import colormaps
        from matplotlib.ticker import PercentFormatter

        ax.axvline(1.0, color=GREY, linewidth=1.0, linestyle="--", label="uniform")
        top = 3.0
        for place, shade in zip(chosen, np.linspace(0.0, 0.85, len(chosen)), strict=True):
            row = relative[place][np.isfinite(relative[place])]
            if row.size == 0:
                continue
            size = row.mean() ** 2 / np.mean(row**2) if row.any() else np.nan
            values, counts = np.unique(np.maximum(row, floor), return_counts=True)
            share = np.cumsum(counts) / row.size
            start = [] if values[0] == floor else [floor]
            ax.step(
                np.r_[start, values, 1e12], np.r_[np.zeros(len(start)), share, 1.0], where="post", linewidth=1.6,
                color=colormaps["viridis"](shade), label=f"{names[place]:g} ({_percent(size)})",
            )  # fmt: skip
            top = max(top, 1.5 * float(values[-1]))
        ax.set_xscale("log")
        ax.set(
            xlim=(floor, top), ylim=(0, 1.02), xlabel="weight relative to uniform, N·γ", ylabel="share of examples at or below"
        )
        ax.xaxis.set_major_formatter(_times)
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        ax.legend(title="step\n(effective sample)", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax


def contributions(
    contributions_N: Any,
    weights_N: Any,
    ax: Any = None,
    *,
    group: Any = None,
    group_names: Sequence[str] = GROUPS,
    n_examples: int | None = None,
    floor: float = 1e-3,
) -> Any:
    """The weight of each example against its contribution ∇L·∇ℓ_n at one step.

    The Learning Law says that under an optimal policy all examples with positive weight contribute equally: they then stand
    on the vertical line, and what contributes less lies on the floor.

    Args:
      contributions_N: [N'] ∇L·∇ℓ_n, nats lost on the desired data per unit of η·step spent on example n.
      weights_N: [N'] the weights at the same step.
      ax: axes to draw on; None: a new figure.
      group: [N'] 0 or 1, for example 1 for corrupted.
      group_names: what 0 and 1 mean.
      n_examples: N, where only some examples are given; None: estimated as one over the mean weight.
      floor: relative weights below this are drawn at the lower edge.

    Returns:
      The axes.

    Raises:
      InputError: no examples, or two arrays of different lengths.

    Source: Gu et al. 2024, Theorem 3.1 (Eq. 5).

    >>> contributions([0.1, 0.2], [0.0, 1.0]).get_ylabel()
    'weight relative to uniform, N·γ'
    """
    x, weights = numbers(contributions_N, "the contributions"), numbers(weights_N, "the weights")
    _axis(x, len(weights), "the contributions")
    y = np.maximum(_relative(weights, n_examples), floor)
    kind = np.zeros(len(x)) if group is None else _axis(group, len(x), "group")
    usable = np.isfinite(x) & np.isfinite(weights)
    with drawing(ax) as ax:
        size = float(np.clip(12000 / len(x), 7, 36))
        for value, colour, marker in ((0, BLUE, "o"), (1, ORANGE, "^")):
            here = usable & (kind == value)
            if here.any():
                name = "examples" if group is None else group_names[value]
                ax.scatter(
                    x[here],
                    y[here],
                    s=size,
                    color=colour,
                    marker=marker,
                    alpha=0.6,
                    linewidths=0,
                    label=name,
                    rasterized=len(x) > 3000,
                )
        ax.axvline(0.0, color=GREY, linewidth=1.0)
        total = weights[usable].sum()
        if total > 0:
            mean = float(weights[usable] @ x[usable] / total)
            ax.axvline(mean, color=VERMILLION, linewidth=1.2, linestyle="--", label=f"weighted mean, {mean:.3g}")
        ax.set_yscale("log")
        ax.set_ylim(bottom=0.7 * floor)
        ax.yaxis.set_major_formatter(_times)
        ax.set(xlabel="contribution ∇L·∇ℓₙ (nats per unit of η·step)", ylabel="weight relative to uniform, N·γ")
        if ax.get_legend_handles_labels()[0]:
            ax.legend(loc="upper left", markerscale=max(1.0, (24 / size) ** 0.5))
    return ax
