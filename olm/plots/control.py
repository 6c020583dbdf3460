"""Figures of controlled generation: how far methods are from the posterior, what a sample is worth, values and next tokens.

Everything comes as plain arrays, numbers and words; q* is the posterior p(y) C(y) / R(x), R the probability that the constraint C
is met (Meng et al. 2022, arXiv 2205.14219; Lu et al. 2024, arXiv 2306.11825). Nothing is computed here but where things stand,
and −log R(x), which is KL(q* ‖ p).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from olm.errors import InputError
from olm.plots.law import LINES
from olm.plots.style import BASELINE, BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, drawing, numbers, plain_log_axis

__all__ = ["divergences", "next_tokens", "sample_efficiency", "values_along"]

_MARKS = ("o", "s", "D", "^", "v", "P", "X", "*")
_COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, GREY)
_DASHES = ("-", (0, (4, 1.6)), (0, (1, 1.2)), "-.")
_HATCHES = ("", "///", "...", "xx")


def _tables(by_method: Mapping[str, Any], places: np.ndarray, what: str) -> dict[str, np.ndarray]:
    """(value, low, high) of each method at each place; low and high are NaN where there is no interval."""
    found = {}
    for name, values in by_method.items():
        table = numbers(values, f"the divergence of {name}", 2 if np.ndim(values) == 2 else 1)
        table = np.stack([table, np.full_like(table, np.nan), np.full_like(table, np.nan)], 1) if table.ndim == 1 else table
        if table.shape != (len(places), 3):
            raise InputError(
                f"the divergence of {name} has shape {table.shape} for {len(places)} {what}: give a number for each, "
                "or (mean, low, high)"
            )
        found[str(name)] = table
    if not found:
        raise InputError("there is no method to draw: give the divergences of at least one")
    return found


def _curves(ax: Any, places: np.ndarray, tables: Mapping[str, np.ndarray], base: np.ndarray | None) -> None:
    """Lines of positive numbers with bars, on logarithmic axes that all means fit in."""
    means = np.concatenate([table[:, 0] for table in tables.values()] + ([] if base is None else [base]))
    means = means[np.isfinite(means) & (means > 0)]
    low, high = (means.min(), means.max()) if means.size else (1.0, 1.0)
    margin = 1.25 * (high / low) ** 0.05
    bottom, top = low / margin, high * margin
    order = np.argsort(places, kind="stable")
    # Bars of neighbouring methods stand a little apart, so that none hides another.
    apart = np.linspace(-1, 1, len(tables)) * (0.012 * np.log(places.max() / places.min()) if len(places) > 1 else 0.01)
    for number, ((name, table), shift) in enumerate(zip(tables.items(), apart, strict=True)):
        colour, dash = _COLOURS[number % len(_COLOURS)], _DASHES[number % len(_DASHES)]
        x = places[order] * np.exp(shift)
        mean, least, most = table[order].T
        shown = np.isfinite(mean) & (mean > 0)
        barred = shown & np.isfinite(least) & np.isfinite(most)
        # An interval that reaches 0 goes to the edge of the axis.
        ax.vlines(
            x[barred], np.maximum(least[barred], bottom), np.minimum(most[barred], top), color=colour, linewidth=1.0, alpha=0.6
        )
        ax.plot(x[shown], mean[shown], color=colour, linestyle=dash, linewidth=1.4, marker=_MARKS[number % len(_MARKS)],
                markersize=4.5, label=name)  # fmt: skip
    ax.set(xscale="log", yscale="log", ylim=(bottom, top), ylabel="KL(q* ‖ q) (nats per sequence)")
    wide = 0.06 * np.log(places.max() / places.min()) or 0.5
    ax.set_xlim(places.min() * np.exp(-wide), places.max() * np.exp(wide))
    plain_log_axis(ax.yaxis)


def _places(values: Any, what: str, most: float = np.inf) -> np.ndarray:
    places = numbers(values, f"the {what}")
    if not (np.isfinite(places) & (places > 0) & (places <= most)).all():
        raise InputError(f"the {what} are not all within 0 … {most:g}: leave out what cannot stand on a logarithmic axis")
    return places


def divergences(rates: Any, kl_by_method: Mapping[str, Any], ax: Any = None, *, base: str = "base, −log R(x)") -> Any:
    """How far each method is from the posterior, KL(q* ‖ q), against how rare the constraint is, R(x); both logarithmic.

    The unguided base is a line, KL(q* ‖ p) = −log R(x). A constraint gets rarer from left to right.

    Args:
      rates: [R], R(x) of the tasks.
      kl_by_method: by name [R], nats a sequence, or [R, 3], mean and the ends of its interval; what is not finite is left out.
      ax: axes to draw on; None: a new figure.
      base: what the base's line is called.

    Returns:
      The axes.

    Raises:
      InputError: no method, arrays of other lengths, rates outside (0, 1].

    >>> from olm.plots import new_figure
    >>> ax = divergences([0.1, 0.01], {"NADO": [0.2, 1.1], "DiNADO": [[0.1, 0.05, 0.15], [0.3, 0.2, 0.4]]}, new_figure())
    >>> ax.get_xlabel(), [line.get_label() for line in ax.get_lines()]
    ('R(x), probability that the base meets the constraint', ['base, −log R(x)', 'NADO', 'DiNADO'])
    """
    places = _places(rates, "rates", 1.0)
    tables = _tables(kl_by_method, places, "rates")
    with drawing(ax, 6.4, 4.2) as ax:
        span = np.geomspace(places.min(), places.max(), 50)
        known = np.where(span < 1, -np.log(span), np.nan)
        ax.plot(span, known, label=base, **BASELINE)
        _curves(ax, places, tables, known)
        ax.invert_xaxis()
        ax.set_xlabel("R(x), probability that the base meets the constraint")
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return ax


def sample_efficiency(samples: Any, kl_by_method: Mapping[str, Any], ax: Any = None, *, base: float | None = None) -> Any:
    """How far each method is from the posterior, KL(q* ‖ q), against the number of samples it learned from; both logarithmic.

    Args:
      samples: [N], labelled samples.
      kl_by_method: by name [N], nats a sequence, or [N, 3], mean and the ends of its interval; what is not finite is left out.
      ax: axes to draw on; None: a new figure.
      base: KL(q* ‖ p) = −log R(x) of the unguided base, a dashed line; None: not drawn.

    Returns:
      The axes.

    Raises:
      InputError: no method, arrays of other lengths, numbers of samples that are not positive.

    >>> from olm.plots import new_figure
    >>> ax = sample_efficiency([100, 1000], {"NADO": [2.0, 0.5]}, new_figure(), base=4.6)
    >>> ax.get_xlabel(), len(ax.get_lines())
    ('labelled samples', 2)
    """
    places = _places(samples, "numbers of samples")
    tables = _tables(kl_by_method, places, "numbers of samples")
    with drawing(ax, 6.4, 4.2) as ax:
        level = np.array([np.nan if base is None else float(base)])
        if base is not None:
            ax.axhline(float(base), label="base, −log R(x)", **BASELINE)
        _curves(ax, places, tables, level)
        ax.set_xticks(np.unique(places), [f"{place:,.0f}" for place in np.unique(places)])
        ax.set_xticks([], minor=True)
        ax.set_xlabel("labelled samples")
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return ax


def values_along(
    words: Sequence[Sequence[str]],
    learned: Mapping[str, Any],
    exact: Any,
    ax: Any = None,
    *,
    marked: Any = None,
) -> list[Any]:
    """The value R(y_≤t) along a few sequences, learned against exact, a panel for each sequence.

    Args:
      words: for each of K sequences its T tokens, as words.
      learned: by method [K, T], log R(y_≤t), nats.
      exact: [K, T], the same of the exact values; −∞, where the constraint is lost, is a cross at the lower edge.
      ax: axes to draw on, which are divided; None: a new figure.
      marked: bool [K, T], tokens to print bold, such as keywords; None: none.

    Returns:
      K axes; they share the scale of R, which is logarithmic.

    Raises:
      InputError: no sequence, arrays of other shapes, axes that are not of a grid.

    >>> from olm.plots import new_figure
    >>> panels = values_along([["a", "b"]], {"NADO": [[-1.0, -0.2]]}, [[-1.2, -0.1]], new_figure())
    >>> [line.get_label() for line in panels[0].get_lines()], panels[0].get_yscale()
    (['exact', 'NADO'], 'log')
    """
    right = numbers(exact, "the exact values", 2)
    tables = {str(name): numbers(values, f"the values of {name}", 2) for name, values in learned.items()}
    for name, table in tables.items():
        if table.shape != right.shape:
            raise InputError(f"the values of {name} have shape {table.shape}, the exact ones {right.shape}: make them equal")
    if [len(one) for one in words] != [right.shape[1]] * len(right):
        raise InputError(f"values are {right.shape[0]} sequences of {right.shape[1]} tokens: give words for each of them")
    bold = np.zeros(right.shape, bool) if marked is None else np.asarray(marked, bool)
    if bold.shape != right.shape:
        raise InputError(f"marked has shape {bold.shape}, the values {right.shape}: make them equal")
    every = np.concatenate([table.ravel() for table in (right, *tables.values())])
    low, high = np.exp(np.clip([every[np.isfinite(every)].min(initial=0.0), 0.0], -80, 0))
    low, high = low / 1.6, high * 1.25
    steps = np.arange(1, right.shape[1] + 1)
    with drawing(ax, max(4.0, 0.42 * right.shape[1] + 1.6), 1.5 * len(right) + 0.5) as ax:
        panels = _stacked(ax, len(right))
        for row, panel in enumerate(panels):
            panel.set_yscale("log")
            panel.set_ylim(low, high)
            for number, (name, table) in enumerate({"exact": right, **tables}.items()):
                colour, dash = (BLACK, "-") if not number else LINES[(number - 1) % len(LINES)]
                shown = np.isfinite(table[row])
                look = {"linewidth": 2.2, "alpha": 0.45} if not number else {"linewidth": 1.3, "linestyle": dash}
                marker = {"marker": "o" if not number else _MARKS[number % len(_MARKS)], "markersize": 3.5}
                panel.plot(steps[shown], np.exp(table[row][shown]), color=colour, label=name, **look, **marker)
                if (lost := table[row] == -np.inf).any():
                    panel.plot(steps[lost], np.zeros(lost.sum()), "x", color=colour, transform=panel.get_xaxis_transform(),
                               clip_on=False, label="_lost")  # fmt: skip
            panel.set_xlim(0.5, len(steps) + 0.5)
            panel.set_xticks(steps, [str(word) for word in words[row]])
            for label, heavy in zip(panel.get_xticklabels(), bold[row], strict=True):
                label.set_fontweight("bold" if heavy else "normal")
            plain_log_axis(panel.yaxis)
            panel.set_ylabel("R(y≤t)")
        panels[0].legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=1 + len(tables), borderaxespad=0.1)
        panels[-1].set_xlabel("token y_t" + (", bold: a keyword" if bold.any() else ""))
    return panels


def _stacked(ax: Any, number: int) -> list[Any]:
    """``ax`` made the first of several panels, one below the other."""
    place = ax.get_subplotspec()
    if not number or place is None:
        raise InputError("the axes are not of a grid: give some that figure.add_subplot or plt.subplots made")
    parts = place.subgridspec(number, 1)
    ax.set_subplotspec(parts[0])
    return [ax, *(ax.figure.add_subplot(parts[row]) for row in range(1, number))]


def next_tokens(
    words: Sequence[str],
    base: Any,
    guided: Mapping[str, Any],
    exact: Any,
    ax: Any = None,
    *,
    prefix: str = "",
    most: int = 8,
) -> Any:
    """Bars of what may come next after one prefix: the base, guided models, and the posterior q*.

    Args:
      words: the V tokens, as words.
      base: [V], p(y_t | y_<t).
      guided: by method [V].
      exact: [V], q*(y_t | y_<t).
      ax: axes to draw on; None: a new figure.
      prefix: y_<t, written above.
      most: how many tokens are shown, those of most probability under any of the distributions; "others" are the rest.

    Returns:
      The axes.

    Raises:
      InputError: distributions of other lengths than ``words``, or ``most`` below 1.

    >>> from olm.plots import new_figure
    >>> ax = next_tokens(["a", "b", "c"], [0.6, 0.3, 0.1], {"NADO": [0.2, 0.6, 0.2]}, [0.1, 0.8, 0.1], new_figure(), most=2)
    >>> [label.get_text() for label in ax.get_xticklabels()]
    ['a', 'b', 'others']
    """
    rows = {"base": base, **guided, "posterior q*": exact}
    table = {str(name): numbers(values, f"the distribution of {name}") for name, values in rows.items()}
    for name, values in table.items():
        if len(values) != len(words):
            raise InputError(f"the distribution of {name} has {len(values)} numbers for {len(words)} tokens: give one for each")
    if most < 1:
        raise InputError(f"most is {most}: give a number of tokens to show, at least 1")
    heights = np.stack(list(table.values()))
    peak = np.nan_to_num(heights).max(0)
    chosen = np.sort(np.argsort(-peak, kind="stable")[:most])
    rest = np.setdiff1d(np.arange(len(words)), chosen)
    shown = np.concatenate([heights[:, chosen], heights[:, rest].sum(1, keepdims=True)] if len(rest) else [heights[:, chosen]], 1)
    names = [str(words[place]) for place in chosen] + (["others"] if len(rest) else [])
    with drawing(ax, 6.8, 3.4) as ax:
        width = 0.84 / len(table)
        places = np.arange(len(names))
        for number, (name, values) in enumerate(zip(table, shown, strict=True)):
            last = number == len(table) - 1
            colour = GREY if not number else BLACK if last else _COLOURS[(number - 1) % len(_COLOURS)]
            hatch = _HATCHES[number % len(_HATCHES)] if not last else ""
            ax.bar(places + (number - (len(table) - 1) / 2) * width, values, width, label=name, color=colour,
                   hatch=hatch, edgecolor="white", linewidth=0.5)  # fmt: skip
        ax.set_xticks(places, names)
        ax.grid(visible=False, axis="x")
        ax.set(ylim=(0, 1.06 * np.nanmax(shown, initial=0.0) or 1.0), ylabel="probability of the next token", xlabel="next token")
        if prefix:
            ax.set_title(f"after {prefix}", loc="left")
        ax.legend(loc="best")
    return ax
