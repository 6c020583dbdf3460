"""Figures of the Learning Law from tables of a study: similarity, dropped examples, groups (Gu et al. 2024, Figures 6–10).

`figures` says what a file of such tables allows, with a heading and how to read each; it reads plain arrays and knows no study.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from olm.errors import InputError
from olm.plots.style import (
    BASELINE,
    BLACK,
    BLUE,
    FOUND,
    GREEN,
    GREY,
    ORANGE,
    VERMILLION,
    drawing,
    numbers,
    plain_log_axis,
    spread,
)
from olm.plots.weights import GROUPS, weights_heatmap

__all__ = [
    "LawFigure",
    "by_group",
    "dropped_examples",
    "figures",
    "learned_weights",
    "over_steps",
    "redundant_weights",
    "similarity_against_loss",
    "similarity_trend",
]

LINES = ((BLUE, "-"), (VERMILLION, (0, (4, 1.6))), (GREEN, (0, (1, 1.2))), (ORANGE, "-."), (BLACK, ":"))
SIM = "similarity SIMₜ of the contributions"


def over_steps(
    at: Any,
    lines: Mapping[str, Any],
    ax: Any = None,
    *,
    ylabel: str = SIM,
    log_y: bool = False,
    looks: Mapping[str, Mapping[str, Any]] | None = None,
) -> Any:
    """Quantities by training step, one line for each name.

    Args:
      at: [S] steps.
      lines: [S] values by the name that the legend gives them.
      ax: axes to draw on; None: a new figure.
      ylabel: what the values are.
      log_y: a logarithmic axis; values of 0 and below are left out.
      looks: matplotlib's line settings by name; others are told apart by colour and dash.

    Returns:
      The axes.

    Raises:
      InputError: no lines, or one of another length.

    >>> over_steps([0, 1], {"target": [0.1, 0.3]}).get_xlabel()
    'training step'
    """
    steps = numbers(at, "the steps")
    if not lines:
        raise InputError("there is no line to draw: give at least one")
    with drawing(ax) as ax:
        shown = []
        for place, (name, values) in enumerate(lines.items()):
            y = numbers(values, name)
            if y.shape != steps.shape:
                raise InputError(f"{name} has {len(y)} values for {len(steps)} steps: give one for each")
            y = np.where(np.isfinite(y) & ((y > 0) | (not log_y)), y, np.nan)
            colour, dash = LINES[place % len(LINES)]
            look = {"color": colour, "linestyle": dash, "linewidth": 1.4, **(looks or {}).get(name, {})}
            ax.plot(steps, y, label=name, **look, **({"marker": "o", "markersize": 4} if len(steps) == 1 else {}))
            shown.append(y[np.isfinite(y)])
        values = np.concatenate(shown)
        if values.size:  # a step or two at which a spread nearly vanishes would hide all others
            low, high = np.quantile(values, [0.002, 0.998])
            if log_y:
                ax.set_yscale("log")
                ax.set_ylim(low / 1.3, high * 1.3)
                plain_log_axis(ax.yaxis)
            else:
                ax.set_ylim(spread(np.clip(values, low, high)))
        ax.set(xlabel="training step", ylabel=ylabel)
        ax.legend(loc="best")
    return ax


def similarity_against_loss(losses: Sequence[Any], similarities: Sequence[Any], compression: Any, ax: Any = None) -> Any:
    """SIM_t against the loss at the same step, one line for each policy of a search, coloured by its compression ratio.

    Training runs from left to right, from high losses to low. The law holds where the lines rise.

    Args:
      losses: for each policy [S], nats, at the steps of its similarities.
      similarities: for each policy [S].
      compression: [P] compression ratios.
      ax: axes to draw on; None: a new figure.

    Returns:
      The axes.

    Raises:
      InputError: no policy, or lists of different lengths.

    Source: Gu et al. 2024, Figure 6.

    >>> similarity_against_loss([[0.5, 0.1]], [[0.1, 0.2]], [4.0]).get_xlabel()
    'loss L(θₜ) (nats)'
    """
    ratios = numbers(compression, "the compression ratios")
    if not len(losses) == len(similarities) == len(ratios):
        raise InputError(
            f"{len(losses)} losses, {len(similarities)} similarities, {len(ratios)} ratios: give one for each policy"
        )
    with drawing(ax, 6.8, 4.0) as ax:
        from matplotlib import colormaps
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        widen = 0.5 if np.ptp(ratios) == 0 else 0.0
        norm = Normalize(ratios.min() - widen, ratios.max() + widen)
        tops = []
        for loss, similarity, ratio in sorted(zip(losses, similarities, ratios, strict=True), key=lambda row: row[2]):
            x, y = numbers(loss, "the loss"), numbers(similarity, "the similarity")
            if x.shape != y.shape:
                raise InputError(f"a policy has {len(x)} losses and {len(y)} similarities: give both at the same steps")
            ax.plot(x, np.where(np.isfinite(y), y, np.nan), color=colormaps["viridis"](0.92 * norm(ratio)), linewidth=1.2)
            tops.append(np.quantile(y[np.isfinite(y)], [0.002, 0.995]) if np.isfinite(y).any() else [0.0, 1.0])
        ax.set_ylim(spread(np.ravel(tops)))
        ax.set_xscale("log")
        plain_log_axis(ax.xaxis)
        ax.invert_xaxis()
        ax.set(xlabel="loss L(θₜ) (nats)", ylabel=SIM)
        ax.figure.colorbar(ScalarMappable(norm, colormaps["viridis"]), ax=ax, pad=0.02, label="compression ratio")
    return ax


def similarity_trend(compression: Any, similarity: Any, ax: Any = None, *, fit: tuple[float, float, float] | None = None) -> Any:
    """Mean similarity of each policy of a search against its compression ratio, with the fit SIM = c·log(a / (b − CR)).

    Args:
      compression, similarity: [P].
      ax: axes to draw on; None: a new figure.
      fit: (a, b, c); the asymptote b is drawn where it is not far off.

    Returns:
      The axes.

    Raises:
      InputError: no policy, or arrays of different lengths.

    Source: Gu et al. 2024, Figure 7.

    >>> similarity_trend([4.0, 4.5], [0.1, 0.2], fit=(2.0, 5.0, 0.2)).get_ylabel()
    'mean similarity'
    """
    x, y = numbers(compression, "the compression ratios"), numbers(similarity, "the similarities")
    if x.shape != y.shape:
        raise InputError(f"{len(x)} compression ratios and {len(y)} similarities: give one of each for every policy")
    with drawing(ax) as ax:
        ax.plot(x, y, "o", color=BLUE, markersize=5, label="policies of the search")
        if fit is not None and np.isfinite(fit).all():
            a, b, c = fit
            far = b > x.max() + 2 * np.ptp(x)
            grid = np.linspace(x.min(), x.max() if far else x.max() + 0.9 * (b - x.max()), 400)
            ax.plot(
                grid, c * np.log(a / (b - grid)), color=VERMILLION, linewidth=1.2, label=f"{c:.3g}·log({a:.3g} / ({b:.4g} − CR))"
            )
            if not far:
                ax.axvline(b, color=GREY, linewidth=1.0, linestyle="--")
        ax.set_ylim(spread(np.r_[y, 0.0], cap=np.inf))
        ax.set(xlabel="compression ratio", ylabel="mean similarity")
        ax.legend(loc="best")
    return ax


def dropped_examples(x: Any, lines: Mapping[str, tuple[Any, Any]], ax: Any = None, *, xlabel: str = "compression ratio") -> Any:
    """The share of harmful examples (contribution 0 or less) that weigh nothing; thin: the share of all examples that do.

    A share of harmful examples says something only as far as it is above the thin line.

    Args:
      x: [P] compression ratios of policies, or training steps.
      lines: by the name of a threshold, (share of the harmful [P], share of all [P]).
      ax: axes to draw on; None: a new figure.
      xlabel: what ``x`` is.

    Returns:
      The axes.

    Raises:
      InputError: no lines, or one of another length.

    Source: Gu et al. 2024, Property 4.1 and Figure 8.

    >>> dropped_examples([4.0, 5.0], {"10⁻² of 1/N": ([0.1, 0.6], [0.1, 0.3])}).get_ylabel()
    'share with zero weight'
    """
    places = numbers(x, "the horizontal axis")
    if not lines:
        raise InputError("there is no threshold to draw: give at least one")
    marker = {"marker": "o", "markersize": 4} if len(places) < 60 else {}
    with drawing(ax) as ax:
        from matplotlib.ticker import PercentFormatter

        for number, (name, pair) in enumerate(lines.items()):
            harmful, everything = (numbers(values, name) for values in pair)
            if not harmful.shape == everything.shape == places.shape:
                raise InputError(
                    f"{name} has {len(harmful)} and {len(everything)} shares for {len(places)} places: give one for each"
                )
            colour, dash = LINES[number % len(LINES)]
            ax.plot(places, harmful, color=colour, linestyle=dash, linewidth=1.5, label=f"zero: up to {name}", **marker)
            ax.plot(places, everything, color=colour, linestyle=dash, linewidth=0.8, alpha=0.6)
        ax.plot([], [], color=GREY, linewidth=0.8, label="thin: of all examples")
        ax.set(ylim=(-0.02, 1.02), xlabel=xlabel, ylabel="share with zero weight")
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        ax.legend(loc="best")
    return ax


def learned_weights(
    weights: Any,
    losses: Any,
    ax: Any = None,
    *,
    limit: float = 1e-6,
    quantile: float | None = None,
    small: float = 0.2,
    largest: Any = None,
) -> Any:
    """The distribution of γ / max γ over learned examples, and over all.

    Args:
      weights, losses: [S, C] of some steps and examples.
      ax: axes to draw on; None: a new figure.
      limit: an example whose loss is at most this is learned.
      quantile: instead, those among this share of each step's least losses are.
      small: a vertical line.
      largest: [S], the largest weight of each step among all its examples; None: among those given.

    Returns:
      The axes.

    Raises:
      InputError: no weights, losses of another shape, or no example that is learned.

    Source: Gu et al. 2024, Property 4.2 and Figure 9.

    >>> learned_weights([[0.0, 1.0]], [[0.0, 1.0]]).get_title("left")
    '100% of the learned examples are at or below 0.2'
    """
    gamma, loss = numbers(weights, "the weights", 2), numbers(losses, "the losses", 2)
    if gamma.shape != loss.shape:
        raise InputError(f"weights have shape {gamma.shape}, losses {loss.shape}: give both of the same examples and steps")
    most = gamma.max(axis=1) if largest is None else numbers(largest, "the largest weights")
    if most.shape != gamma.shape[:1]:
        raise InputError(f"{most.size} largest weights for {len(gamma)} steps: give one a step")
    ratio = gamma / np.maximum(most[:, None], np.finfo(np.float64).tiny)
    learned, name, which = loss <= limit, f"learned, ℓ ≤ {limit:.0e}", "learned examples"
    if quantile is not None:
        learned = loss <= np.quantile(loss, quantile, axis=1, keepdims=True)
        name, which = f"the {quantile:.0%} of least loss", "examples of least loss"
    if not learned.any():
        raise InputError(f"no example's loss is at most {limit:g} nats: raise the limit, or name a share of the least losses")
    with drawing(ax) as ax:
        from matplotlib.ticker import PercentFormatter

        for values, look, label in (
            (ratio.ravel(), BASELINE, "all examples"),
            (ratio[learned], FOUND, name),
        ):
            grid = np.linspace(0, 1, 501)
            share = np.searchsorted(np.sort(values), grid, side="right") / values.size
            ax.step(grid, share, where="post", label=f"{label} ({values.size:,} of all steps)", **look)
        ax.axvline(small, color=GREY, linewidth=1.0, linestyle=":")
        ax.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="weight over the largest of its step, γ / max γ", ylabel="share at or below")
        ax.set_title(f"{np.mean(ratio[learned] <= small):.0%} of the {which} are at or below {small:g}", loc="left")
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        ax.legend(loc="lower right")
    return ax


def redundant_weights(
    weights: Any, contributions: Any, ax: Any = None, *, steps: Any = None, n_examples: int | None = None
) -> Any:
    """Weights of the examples that help (contribution above 0) over steps; grey where an example does not.

    Blue among them is what Property 4.3 speaks of: examples that would help, but that others make redundant.

    Args:
      weights, contributions: [S, C] of some steps and examples.
      ax: axes to draw on; None: a new figure.
      steps: [S] the steps' numbers.
      n_examples: N, where only some examples are given.

    Returns:
      The axes.

    Raises:
      InputError: arrays of different shapes, or no example that helps.

    Source: Gu et al. 2024, Property 4.3 and Figure 10.

    >>> redundant_weights([[0.0, 1.0]], [[1.0, 1.0]]).get_xlabel()
    'training step'
    """
    gamma, each = numbers(weights, "the weights", 2), numbers(contributions, "the contributions", 2)
    if gamma.shape != each.shape:
        raise InputError(
            f"weights have shape {gamma.shape}, contributions {each.shape}: give both of the same examples and steps"
        )
    helpful = each > 0
    if not helpful.any():
        raise InputError("no example has a contribution above 0: there is no redundant one to show")
    return weights_heatmap(np.where(helpful, gamma, np.nan), ax, steps=steps, n_examples=n_examples, bound=100.0)


def by_group(
    at: Any,
    values_Sx2: Any,
    ax: Any = None,
    *,
    baseline_Sx2: Any = None,
    ylabel: str = "weight relative to uniform",
    group_names: Sequence[str] = GROUPS,
) -> Any:
    """A quantity of two groups of examples by step, of the found policy and, thin and dashed, with uniform weights.

    Args:
      at: [S] steps.
      values_Sx2: of group 0 and of group 1.
      ax: axes to draw on; None: a new figure.
      baseline_Sx2: the same with uniform weights.
      ylabel: what the values are.
      group_names: what 0 and 1 mean.

    Returns:
      The axes.

    Raises:
      InputError: arrays that do not go with the steps.

    >>> len(by_group([0, 1], [[1.0, 0.5], [1.2, 0.1]]).get_lines())
    2
    """
    steps, values = numbers(at, "the steps"), numbers(values_Sx2, "the groups' values", 2)
    sides: list[tuple[np.ndarray, dict[str, Any], str]] = [(values, {"linewidth": 1.6}, "")]
    if baseline_Sx2 is not None:
        sides.append(
            (numbers(baseline_Sx2, "the baseline's values", 2), {"linewidth": 0.9, "linestyle": "--"}, ", uniform weights")
        )
    with drawing(ax) as ax:
        for side, look, remark in sides:
            if side.shape != (len(steps), 2):
                raise InputError(f"values of groups have shape {side.shape}: give one of each group for {len(steps)} steps")
            for group, colour in ((0, BLUE), (1, ORANGE)):
                ax.plot(steps, side[:, group], color=colour, label=f"{group_names[group]}{remark}", **look)
        ax.set(xlabel="training step", ylabel=ylabel)
        ax.margins(y=0.08)
        ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(sides), fontsize=8)
    return ax


class LawFigure(NamedTuple):
    """A figure that the tables allow.

    Attributes:
      title: its heading.
      caption: how to read it.
      draw: ``draw(ax)`` returns the axes.

    No example: see `figures`.
    """

    title: str
    caption: str
    draw: Callable[[Any], Any]


def _power(threshold: float) -> str:
    return "0" if threshold == 0 else f"{threshold:g} of 1/N"


def _dropped(at: Any, lines: Any, ax: Any) -> Any:
    return dropped_examples(at, lines, ax, xlabel="training step")


def _grouped(at: Any, values: Any, baseline: Any, what: str, ax: Any) -> Any:
    return by_group(at, values, ax, baseline_Sx2=baseline, ylabel=what)


def figures(found: Mapping[str, Any], uniform: Mapping[str, Any] | None = None) -> dict[str, LawFigure]:
    """What the tables of a study allow, by file name.

    Args:
      found: tables of the found policy, as ``olm.law.Study.tables`` gives them.
      uniform: the same of uniform weights.

    Returns:
      Figures by name.

    No example: see ``olm law RUN``.
    """
    at, sides = found["at"], {"found": found, **({} if uniform is None else {"uniform": uniform})}
    names = [name for name in ("target", "test") if name in found["similarity"]]
    looks = {"found, target": FOUND, "uniform, target": BASELINE}
    looks |= {"found, test": {**FOUND, "linewidth": 0.9}, "uniform, test": {**BASELINE, "linewidth": 0.9}}
    similar = {f"{side}, {name}": tables["similarity"][name] for side, tables in sides.items() for name in names}
    costate = {side: tables["similarity"]["costate"] for side, tables in sides.items()}
    gaps = {side: tables["seen"]["gap"] for side, tables in sides.items()}
    pair = {"found": FOUND, "uniform": BASELINE}
    result = {
        "law_similarity": LawFigure(
            "Do all examples contribute alike?",
            "The mean contribution ∇L·∇ℓₙ over the spread among examples with weight: infinite where the Learning Law holds "
            "exactly. The target is the run's fixed sample, which a search that draws its targets did not see; thin lines: "
            "against the gradient on held-out data.",
            lambda ax: over_steps(at, similar, ax, looks=looks),
        ),
        "law_similarity_costate": LawFigure(
            "The same with all that is to come",
            "Contributions to the whole area under the loss, −∂J/∂γ. This is what the best policy of this very run equalises.",
            lambda ax: over_steps(at, costate, ax, looks=pair, ylabel="similarity of the contributions −∂J/∂γ"),
        ),
        "law_gap": LawFigure(
            "The distance from an optimum",
            "How far each step's weights are from the exact condition: zero where all weight is on the examples that help the "
            "rest of the run most. Below uniform weights' line is better.",
            lambda ax: over_steps(at, gaps, ax, looks=pair, ylabel="Σₙ γₙ (Gₙ − min G), G = ∂J/∂γ (nats)", log_y=True),
        ),
    }
    thresholds, size = np.asarray(found["thresholds"]), int(found["examples"])
    everything = found["seen"]["zero"] / size
    for name in names:
        part = found["seen"][name]
        with np.errstate(divide="ignore", invalid="ignore"):
            share = part["harmful_zero"] / part["harmful"][:, None]
        lines = {_power(z): (share[:, place], everything[:, place]) for place, z in enumerate(thresholds)}
        result[f"law_dropped_{name}"] = LawFigure(
            f"Are harmful examples dropped? ({name})",
            "Of the examples whose contribution is 0 or less at a step, the share whose weight is zero, for several "
            "meanings of zero. Thin: the share of all examples with such a weight.",
            functools.partial(_dropped, at, lines),
        )
    if "kept" in found:
        kept, (limit, share) = found["kept"], map(float, found["learned"])
        learned = {
            "limit": limit,
            "quantile": share if share == share else None,
            "small": float(found["small"]),
            "largest": found["seen"]["largest"],
        }
        if learned["quantile"] is not None or (np.asarray(kept["losses"]) <= limit).any():
            result["law_learned"] = LawFigure(
                "Do learned examples lose their weight?",
                "The weights of examples that the model has learned, over the largest of their step; dashed: all examples.",
                lambda ax: learned_weights(kept["weights"], kept["losses"], ax, **learned),
            )
        if (np.asarray(kept["target"]) > 0).any():
            result["law_redundant"] = LawFigure(
                "Are redundant examples dropped?",
                "Weights of the examples that help at a step; grey where one does not. Blue: it would help, and weighs nothing.",
                lambda ax: redundant_weights(kept["weights"], kept["target"], ax, steps=at, n_examples=size),
            )
    if "group" in found:
        group, base = found["group"], None if uniform is None else uniform.get("group")
        words = {"weight": "weight relative to uniform", "target": "mean contribution ∇L·∇ℓₙ to the target"}
        for key, what in words.items():
            result[f"law_group_{key}"] = LawFigure(
                f"Corrupted and clean examples: {what.split(' ∇')[0]}",
                "Means over the examples of each group at each step. Dashed: with uniform weights.",
                functools.partial(_grouped, at, group[key], None if base is None else base[key], what),
            )
    return result
