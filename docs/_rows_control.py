"""Rows of `results.py` about controlled generation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from _rows import Row, estimate


def control_exactness(result: dict[str, Any]) -> Iterator[Row]:
    """The exact engine, the tabular case, GeLaTo over its own chain, adapters, cost of guidance."""
    engine = result["engine"]
    count = sum(row["automata"] for row in engine)
    worst = {name: max(row[name] for row in engine) for name in ("R(x)", "R(prefix)", "log q*")}
    yield (
        f"exact posterior against enumeration, S = 3, V = 4, T = 5, {count} automata, float64",
        "largest errors: " + ", ".join(f"{name} {value:.1e}" for name, value in worst.items()),
    )
    forms = [row for row in result["forms"] if "kl" in row and row["form"] != "samples alone, no R"]
    for source in dict.fromkeys(row["learned from"] for row in forms):
        shown = "; ".join(f"{row['form']} {row['kl']:.1e}" for row in forms if row["learned from"] == source)
        yield f"tabular case, learned from {source}: KL(q* ‖ q), nats", shown
    gelato = result["gelato"]
    rates = [row["R(x)"] for row in gelato]
    worst_q, met = max(row["|log q − log q*|"] for row in gelato), min(row["satisfied"] for row in gelato)
    yield (
        f"GeLaTo over its own chain, R(x) from {max(rates):.2f} to {min(rates):.1e}, {gelato[0]['samples']:,} samples each",
        f"largest difference of log q and log q* {worst_q:.1e}; satisfied {met:.0%}",
    )
    lora = result["lora"]
    apart, relative = max(row["merged − unmerged"] for row in lora), max(row["relative"] for row in lora)
    yield (
        "adapters merged against unmerged, logits, float32",
        f"largest difference {apart:.1e}, {relative:.1e} of the largest logit",
    )
    shown = "; ".join(f"{row['guide']} {row['ratio']:.2f}×" for row in result["speed"])
    yield "guided over unguided sampling, time per token, V = 1000, D = 128, B = 64, chain of 64 states, two cores", shown


def control(result: dict[str, Any]) -> Iterator[Row]:
    """Every method at every rate, samples needed, and the claims with their verdicts."""
    summary, count = result["summary"], len(result["runs"])
    for group in sorted(
        (name for name in summary if name.startswith("sparse-")), key=lambda name: -float(name.partition("-")[2])
    ):
        rows = {name: row for name, row in summary[group].items() if "kl" in row}
        rate = summary[group]["task"]["rate"]["mean"]
        for measure, digits, words in (
            ("kl", 3, "KL(q* ‖ q), nats a sequence, geometric mean"),
            ("satisfaction", 2, "satisfaction"),
        ):
            ranked = sorted(rows, key=lambda name: rows[name]["kl"]["mean"])
            shown = "; ".join(f"{name} {estimate(rows[name][measure], digits)}" for name in ranked if measure in rows[name])
            yield f"controlled generation, R(x) ≈ {rate:.1g}, {words}; {count} seeds", shown
    for name, found in result["samples_needed"].items():
        if "mean" in found:
            yield (
                f"samples with which {name} reaches NADO's KL at 20,000, rare keywords; {count} seeds",
                f"{estimate(found)} of them",
            )
    verdicts: dict[str, list[str]] = {}
    for claim, found in result["statements"].items():
        verdicts.setdefault(found["verdict"], []).append(claim)
    for word, claims in verdicts.items():
        yield f"claims about DiNADO: {word}; {count} seeds", "; ".join(claims)


def control_text(result: dict[str, Any]) -> Iterator[Row]:
    """Coverage of concepts in CommonGen sentences, guide by guide."""
    measures = (
        ("coverage", 3, "concepts covered"), ("complete", 3, "sentences with all concepts"), ("bleu", 1, "BLEU"),
        ("nats_per_token", 2, "nats a token under the base"),
    )  # fmt: skip
    for (collection, summary), (measure, digits, words) in itertools.product(result["summary"].items(), measures):
        shown = "; ".join(f"{name} {estimate(row[measure], digits)}" for name, row in summary.items() if measure in row)
        yield f"CommonGen, {collection} sets, {words}; {len(result['seeds'])} seeds of guides and samples", shown
    for collection, differences in result["differences"].items():
        shown = "; ".join(f"{name} {estimate(one, 3)}" for name, one in differences.items())
        yield f"CommonGen, {collection} sets, difference of coverage on the same sets; interval over sets", shown
