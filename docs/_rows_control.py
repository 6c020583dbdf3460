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
    """Every method at every rate, every other section, samples needed, and the claims with their verdicts."""
    summary, count = result["summary"], len(result["runs"])
    yield from _rates(
        result,
        ("kl", 3, "KL(q* ‖ q), nats a sequence, geometric mean"),
        ("satisfaction", 2, "satisfaction"),
        ("gap", 2, "consistency gap of the values, relative"),
        ("forgetting", 3, "KL(p ‖ q) where q* is p, nats a token"),
    )
    yield from _longer(result)
    by_method: dict[str, list[str]] = {}
    for name, row in summary["budget"].items():
        if "kl" in row:
            method, samples = name.rsplit(", ", 1)
            by_method.setdefault(method, []).append((int(samples), f"{int(samples):,}: {estimate(row['kl'], 3)}"))
    for method, cells in by_method.items():
        shown = "; ".join(text for _, text in sorted(cells))
        yield f"two clauses of rare tokens, {method}: KL(q* ‖ q) by number of samples; {count} seeds", shown
    yield from _needed(result)
    widths = sorted(summary["capacity"].items(), key=lambda item: int(item[0].split()[-1]))
    yield (
        f"DiNADO-Soft, explored, R(x) ≈ 0.01, networks of growing width: KL(q* ‖ q); {count} seeds",
        "; ".join(f"{name} {estimate(row['kl'], 3)}" for name, row in widths),
    )
    yield (
        f"initialisations, R(x) ≈ 0.1: standard deviation of log R(y_≤t) and of log q(y_t) between them; {count} seeds",
        "; ".join(
            f"{name} {estimate(row['log_r'], 3)} and {estimate(row['log_q'], 3)}" for name, row in summary["inits"].items()
        ),
    )
    pairs = summary["compositional"]
    yield (
        f"pairs of clauses, KL(q* ‖ q) of those trained on and of those never seen; {count} seeds",
        "; ".join(
            f"{name} {estimate(row.get('kl', row.get('seen')), 2)} and {estimate(row.get('unseen, kl', row.get('unseen')), 2)}"
            for name, row in pairs.items()
        ),
    )
    for name, row in sorted(summary["gradients"].items(), key=lambda item: -item[1]["rate"]["mean"]):
        shown = "; ".join(f"{when} {estimate(value, 4)}" for when, value in row.items() if when != "rate")
        yield f"signal to noise of a batch's gradient, {name.replace('rate ', 'R(x) ≈ ')}; {count} seeds", shown
    for measure, digits, words in (
        ("kl", 3, "KL(q* ‖ q)"), ("satisfaction", 2, "satisfaction"), ("accuracy", 2, "content accuracy"),
        ("informal", 2, "informal words a sequence"),
    ):  # fmt: skip
        shown = "; ".join(
            f"{name} {estimate(row[measure], digits)}" for name, row in summary["formality"].items() if measure in row
        )
        yield f"formality transfer, sources never trained on, {words}; {count} seeds", shown
    found = summary["weights"]["found"]
    names = [name.removesuffix(", area") for name in found if name.endswith(", area")]
    yield (
        f"weights of {result['runs'][0]['weights']['found']['samples']} tempered samples, R(x) ≈ 0.01: area under "
        f"KL(q* ‖ q), held out, and its last value; {count} seeds",
        "; ".join(f"{name} {estimate(found[f'{name}, area'])} and {estimate(found[f'{name}, final'])}" for name in names),
    )
    shares = "; ".join(f"{name} {estimate(found[f'share of accepted, {name}'], 3)}" for name in ("uniform", "exact", "found"))
    yield f"the same, share of all weight on accepted samples; {count} seeds", shares
    yield from _verdicts(result)


def control_brief(result: dict[str, Any]) -> Iterator[Row]:
    """What README shows."""
    yield from _rates(result, ("kl", 3, "KL(q* ‖ q), nats a sequence, geometric mean"))
    yield from _longer(result)
    yield from _needed(result)
    yield from _verdicts(result, whole=False)


def _rates(result: dict[str, Any], *measures: tuple[str, int, str]) -> Iterator[Row]:
    """The methods at each rate, the closest first."""
    summary, count = result["summary"], len(result["runs"])
    groups = sorted((name for name in summary if name.startswith("sparse-")), key=lambda name: -float(name.partition("-")[2]))
    for group in groups:
        rows, rate = summary[group], summary[group]["task"]["rate"]["mean"]
        for measure, digits, words in measures:
            ranked = sorted((name for name in rows if measure in rows[name]), key=lambda name: _rank(rows[name]))
            shown = "; ".join(f"{name} {estimate(rows[name][measure], digits)}" for name in ranked)
            lacking = [name for name in rows if measure == "kl" and measure not in rows[name] and "satisfaction" in rows[name]]
            lacking = [name for name in lacking if not name.startswith("rejection")]  # which has no probabilities
            shown += f"; no number on all seeds: {', '.join(lacking)}" if lacking else ""
            yield f"controlled generation, R(x) ≈ {rate:.1g}, {words}; {count} seeds", shown


def _rank(row: dict[str, Any]) -> float:
    return row["kl"]["mean"] if "kl" in row else float("inf")


def _longer(result: dict[str, Any]) -> Iterator[Row]:
    """The two methods with more samples and steps."""
    for group, rows in sorted(result["summary"].items(), reverse=True):
        if group.startswith("longer-"):
            shown = "; ".join(f"{name} {estimate(row['kl'], 3)}" for name, row in rows.items())
            what = f"KL(q* ‖ q), R(x) ≈ {float(group.partition('-')[2]):g}, five times the samples, four times the steps"
            yield f"{what}; {len(result['runs'])} seeds", shown


def _needed(result: dict[str, Any]) -> Iterator[Row]:
    """Samples for NADO's final divergence."""
    for name, found in result["samples_needed"].items():
        ratios, least = [float(ratio) for ratio in found["ratios"]], found["least"]  # ∞ is a word in JSON
        what = f"samples with which {name} stays below the KL of the better NADO at 20,000, rare keywords"
        short = sum(ratio == float("inf") for ratio in ratios)
        if short:
            shown = f"not reached on {short} of {len(ratios)} seeds"
        elif all(ratio <= least for ratio in ratios):
            shown = f"at most {least:.3f} of them, the least that was tried"
        else:
            bounds = sum(ratio <= least for ratio in ratios)
            shown = f"{estimate(found)} of them" + (f" (a bound on {bounds} of the seeds)" if bounds else "")
        yield f"{what}; {len(ratios)} seeds", shown


def _verdicts(result: dict[str, Any], *, whole: bool = True) -> Iterator[Row]:
    """Claims by verdict, with the interval of what each is about, or with the rates R(x) alone."""
    verdicts: dict[str, dict[str, list[str]]] = {}
    for claim, found in result["statements"].items():
        what, _, rate = claim.rpartition(", ") if claim[-1].isdigit() else (claim, "", "")
        shown = f"{rate}: {estimate(found)}".removeprefix(": ") if whole and "mean" in found else rate
        verdicts.setdefault(found["verdict"], {}).setdefault(what, []).append(shown)
    title = f"claims by R(x), each at 95% over {len(result['runs'])} seeds"
    title += ", with the log of the ratio (regularisation: largest value along training)" if whole else ""
    for word, claims in verdicts.items():
        listed = [
            f"{what} ({'; '.join(rates) if whole else ', '.join(rates)})" if any(rates) else what
            for what, rates in claims.items()
        ]
        yield f"{title}: {word}", "; ".join(listed)


def control_text(result: dict[str, Any]) -> Iterator[Row]:
    """Coverage of concepts in CommonGen sentences, guide by guide."""
    measures = (
        ("coverage", 3, "concepts covered"), ("complete", 3, "sentences with all concepts"), ("bleu", 1, "BLEU"),
        ("nats_per_token", 2, "nats a token under the base"),
    )  # fmt: skip
    for (collection, summary), (measure, digits, words) in itertools.product(result["summary"].items(), measures):
        shown = "; ".join(
            f"{name} ({row['sets']['mean']:.0f} sets) {estimate(row[measure], digits)}"
            for name, row in summary.items()
            if measure in row
        )
        yield f"CommonGen, {collection} sets, {words}; {len(result['seeds'])} seeds of guides and samples", shown
    for collection, differences in result["differences"].items():
        shown = "; ".join(f"{name} {estimate(one, 3)}" for name, one in differences.items())
        yield f"CommonGen, {collection} sets, difference of coverage on the same sets; interval over sets", shown
