"""Rows of `results.py` about associative memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from _rows import Row, estimate


def memory_exactness(result: dict[str, Any]) -> Iterator[Row]:
    """Propositions, integral, descent, attention, entropy rates, neighbours, the scale of a radius."""
    found = result["propositions"]
    shown = ", ".join(f"{found[name]:.1e}" for name in ("nearest", "hopfield", "nearest_hopfield"))
    yield (
        f"propositions 1, 2 and 3 (with − log d) on {found['sets']:,} pattern sets, n = 2 … 512, float64",
        f"largest violations {shown}; without − log d the third fails on {found['printed_fails_on']:.0%}",
    )
    ball = result["ball"]
    volume, integral = ball["log_patterns_by_volume_n_1024"], ball["log_patterns_by_integral_n_1024"]
    yield (
        "integral over a ball: quadrature, n = 1 … 64; asymptotics, n = 10⁴",
        f"relative errors {ball['quadrature_relative_error']:.1e}, {ball['asymptotic_relative_error_n_10000']:.1e}; log of the "
        f"patterns at which Z = 1, n = 1024: {volume:.1f} by the volume, {integral:.1f} by the integral",
    )
    descent = result["descent"]
    yield (
        f"global energy, {descent['trajectories']:,} trajectories among random patterns",
        f"largest rise in a step of the joint bound {descent['largest_rise']:.1e}; layer by layer, as published, "
        f"{descent['published_step_raises']:.1%} of the steps raise it, by up to {descent['published_step_largest_rise']:.2f}",
    )
    yield "one retrieval against attention with the same keys, float32", f"{result['attention']['largest_difference']:.1e}"
    shown = "; ".join(
        f"{row['words']} words{'' if row['copied'] else ', sentences alone'} {row['exact']:.4f} and {row['monte_carlo']:.4f} "
        f"({row['standard_errors_apart']:.1f} standard errors)"
        for row in result["entropies"]
    )
    yield f"question grammar, nats a label: exact and of {result['entropies'][0]['lines']:,} lines", shown
    near = result["neighbours"]
    cores = result["environment"]["cpu_count"]
    yield (
        f"nearest neighbours of {near['vectors']:,} × {near['width']:,}, {cores} logical cores",
        f"{near['seconds']:.1f} s; {near['wrong_of_sampled']} of the sampled ones wrong",
    )
    gauge = result["gauge"]
    yield (
        "stream scaled by 10: largest difference of logits, ratio of radii",
        f"{gauge['largest_difference_of_logits']:.1e}; {gauge['radius_ratio']['block 2']:.3f}",
    )


def _claims(title: str, claims: dict[str, Any], count: int) -> Iterator[Row]:
    words: dict[str, list[str]] = {}
    for claim, found in claims.items():
        words.setdefault(found["verdict"], []).append(f"{claim} {estimate(found, 3)}")
    for word in ("held", "open", "not held"):
        if word in words:
            yield f"{title}: {word}; {count} seeds", "; ".join(words[word])


def _place(result: dict[str, Any]) -> str:
    return "larger sizes, " if result["preset_name"] == "gpu" else ""


def memory(result: dict[str, Any]) -> Iterator[Row]:
    """Every section with its claims."""
    count, place = len(result["seeds"]), _place(result)
    for corpus, part in result["shares"].items():
        for name, row in part["rows"].items():
            yield (
                f"{place}{corpus}, {name} ({row['tokens']:,} tokens): training and held-out loss; {count} seeds",
                f"at the end {estimate(row['train_as_it_is'], 3)} and {estimate(row['validation'], 3)}; least held-out loss "
                f"{estimate(row['least_validation'], 3)}, {estimate(row['gap_at_least'], 3)} above training there; known by "
                f"heart {estimate(row['known'])} (chance 0.05), written {estimate(row['written_stored'])} (held out "
                f"{estimate(row['written_held_out'])}); radius {estimate(row['radius_over_theory'])} of the theory's, held "
                f"out inside a ball {estimate(row['held_out_inside'], 3)}",
            )
        yield from _claims(f"{place}{corpus}, shares of one corpus", part["claims"], count)
    yield from _questions(result)
    yield from _claims(f"{place}question formation", result["questions"]["claims"], count)
    yield from _data(result)
    found = result["data"]
    bounds = "; ".join(f"{bound:.0%} {estimate(found[f'exponent_layer_parameters_bound_{bound}'])}" for bound in (0.01, 0.04))
    yield f"{place}exponent of D* with other bounds of the gap at the validation minimum; {count} seeds", bounds
    yield from _claims(f"{place}D* against N", found["claims"], count)
    if "retrieval" in result:
        yield from _retrieval(result)
        yield from _claims("retrieval", result["retrieval"]["claims"], count)
    if "policy" in result:
        yield from _policy(result)
        yield from _claims("memory under a found policy", result["policy"]["claims"], _searches(result))


def memory_brief(result: dict[str, Any]) -> Iterator[Row]:
    """What README shows."""
    count, place = len(result["seeds"]), _place(result)
    for corpus, part in result["shares"].items():
        width = max(row["width"] for row in part["rows"].values())
        shown = "; ".join(
            f"{100 * row['share']:g}% {estimate(row['train_as_it_is'], 3)} and {estimate(row['validation'], 3)} (least "
            f"{estimate(row['least_validation'], 3)})"
            for row in part["rows"].values()
            if row["width"] == width
        )
        yield f"{place}{corpus}, width {width}, shares of one corpus: training and held-out loss, nats; {count} seeds", shown
    yield from _questions(result)
    yield from _data(result)
    if "retrieval" in result:
        yield from _retrieval(result)
    if "policy" in result:
        yield from _policy(result)


def _questions(result: dict[str, Any]) -> Iterator[Row]:
    rows = result["questions"]["rows"]
    shown = "; ".join(
        f"{name.replace(', sentence and copy or question', '')}: {estimate(row['train'], 3)}, entropy {row['entropy']:.3f}, "
        f"difference {estimate(row['train_less_entropy'], 4)}, {row['epochs']:.2f} epochs"
        for name, row in rows.items()
    )
    what = "question formation, training loss where it settles, nats a label; slope over the entropy"
    yield f"{_place(result)}{what}; {len(result['seeds'])} seeds", f"{shown}; slope {estimate(result['questions']['slope'], 3)}"
    again = result["questions"]["again"]
    yield (
        f"{_place(result)}question formation, 68 words, {again['lines']:,} lines for {again['epochs']:.0f} epochs; "
        f"{len(result['seeds'])} seeds",
        f"training loss {estimate(again['train'], 3)}, held out {estimate(again['validation'], 3)}, "
        f"entropy {again['entropy']:.3f}",
    )


def _data(result: dict[str, Any]) -> Iterator[Row]:
    found = result["data"]
    shown = "; ".join(
        f"N = {row['layer_parameters']:,}: {sum(row['needed']) / len(row['needed']) / 1000:.0f} thousand"
        for row in found["rows"].values()
    )
    law, count = found["law"], len(result["seeds"])
    yield (
        f"{_place(result)}stories: D*, tokens from which the gap at the validation minimum is within 2%; {count} seeds",
        f"{shown}; D* ∝ N^b, b = {estimate(found['exponent_layer_parameters'])}, at the end of training "
        f"{estimate(found['exponent_at_end_layer_parameters'])} (the theory: 0.5, with its constants at these sizes "
        f"{found['exponent_theory_layer_parameters']:.2f})",
    )
    yield (
        f"{_place(result)}irreducible term of L = E + B/D^β on the same runs, largest model; {count} seeds",
        f"{estimate(law['irreducible'], 3)}; less the source's entropy {found['entropy']:.3f}: "
        f"{estimate(law['irreducible_less_entropy'], 3)}; less the theory's 1: {estimate(law['irreducible_less_one'], 3)}",
    )


def _retrieval(result: dict[str, Any]) -> Iterator[Row]:
    for name, row in result["retrieval"]["rows"].items():
        shown = "; ".join(
            f"{direction} {estimate(row[f'stored, {direction}, 1 radii'])} and "
            f"{estimate(row[f'held out, {direction}, 1 radii'])}, "
            f"difference {estimate(row[f'stored less held out, {direction}, 1 radii'])}"
            for direction in ("random", "towards")
        )
        yield (
            f"stories, {name}: nearest to its own pattern at the last layer after a move of one radius, stored and held out; "
            f"{len(result['seeds'])} seeds",
            shown,
        )


def _searches(result: dict[str, Any]) -> int:
    return int(result["policy"]["area_ratio"]["n"])


def _policy(result: dict[str, Any]) -> Iterator[Row]:
    rows = result["policy"]["rows"]
    shown = "; ".join(
        f"{part} half, known by heart: uniform {estimate(rows[f'{part}, uniform']['known'])}, found "
        f"{estimate(rows[f'{part}, found']['known'])}, difference {estimate(rows[f'{part}, found less uniform']['known'])}"
        for part in ("corrupted", "clean")
    )
    yield f"a found policy and uniform weights on half-corrupted stories (chance 0.05); {_searches(result)} seeds", shown
