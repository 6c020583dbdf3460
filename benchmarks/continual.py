"""Continual pre-training on two cores: the tables of Ibrahim et al. 2024 (arXiv 2403.08763), and a searched schedule.

A transformer is trained on one dataset and continues on a second: generated languages of known entropy (weak shift: other
topics of one grammar; strong: another grammar over the same ids) in two sizes, nine times apart, and the Python standard
library's own files (weak: docstrings of one half of the files, then of the other; strong: docstrings, then source without
docstrings and comments). Every number is a mean over the evaluations in a run's last 100 steps, on held-out windows; what is
chosen (a replay share, a point of a grid) is chosen on other held-out windows. Presets are in LOG.md.

Sections: ``replay`` (shares, union, scratch), ``rates`` (constant η_min, peaks), ``warmup``, ``same`` (re-warming on the same
data), ``infinite`` (three datasets), ``ties``, ``search`` (share and rate by the policy gradient, against a grid). Every run is a
file below --cells once it is done, so that an interrupted benchmark goes on, and two processes may share the work:

    python benchmarks/continual.py --shifts weak & python benchmarks/continual.py --shifts strong; wait
    python benchmarks/continual.py            # reads what is there, runs what is not, writes results/continual.json
    python benchmarks/continual.py --quick    # a tiny model, all sections, generated languages
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import _bench
import jax
import numpy as np
from _continual_runs import FULL, HORIZON, PUBLISHED, QUICK, Bench

import olm
from olm import schedules
from olm.continual.plan import plan
from olm.continual.search import relaxed
from olm.scaling.steps import over_seeds

SECTIONS = ("replay", "rates", "warmup", "same", "infinite", "ties", "search")
REPLAY = (0.0, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5)
WARMUPS = (0.0, 0.005, 0.01, 0.02)
INFINITE = ("cosine", "inverse_sqrt", "linear")
PEAKS = (0.5, 1.0, 2.0)  # times the preset's
GRID = [(share, factor) for share in REPLAY for factor in (0.5, 1.0, 2.0, 4.0)]


# --- tables -----------------------------------------------------------------------------------------------------------


def losses(cell: dict[str, Any], part: str = "test") -> np.ndarray:
    """[D] of a run."""
    return np.asarray(cell["final"][part], np.float64)


def row(bench: Bench, cell: dict[str, Any], compute: float = 0.5) -> dict[str, float]:
    """What a table shows of a run of the pair; compute: its steps over those of the union."""
    old, new = losses(cell)
    return {
        "old": float(old),
        "new": float(new),
        "mean": float((old + new) / 2),
        "forgetting": float(old - bench.before[1]["test"][0]),
        "compute": compute,
    }


def summary(rows: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """Intervals over seeds of every measure of every row."""
    return {
        name: {measure: over_seeds([one[name][measure] for one in rows]) for measure in rows[0][name]}
        for name in rows[0]
        if all(name in one for one in rows)
    }


def verdict(values: Sequence[float], bound: float, below: bool) -> dict[str, Any]:
    """Whether an interval over seeds lies on one side of a bound: held, not held, or open where it holds the bound."""
    found = over_seeds(list(values))
    low, high = found["low"], found["high"]
    if low is None:
        word = "open"
    else:
        inside = high <= bound if below else low > bound
        outside = low > bound if below else high <= bound
        word = "held" if inside else "not held" if outside else "open"
    return {**found, "bound": bound, "side": "below" if below else "above", "verdict": word}


def within(values: Sequence[float], bound: float) -> dict[str, Any]:
    """Whether an interval over seeds lies within ±bound."""
    found = over_seeds(list(values))
    low, high = found["low"], found["high"]
    if low is None:
        word = "open"
    else:
        word = "held" if max(-low, high) <= bound else "not held" if low > bound or high < -bound else "open"
    return {**found, "bound": bound, "side": "within", "verdict": word}


def chosen(bench: Bench) -> float:
    """The replay share whose mean loss is least on validation windows."""
    return min(REPLAY, key=lambda share: float(losses(bench.replayed(share), "validation").mean()))


def best_of_grid(bench: Bench) -> tuple[float, float]:
    """The grid point whose mean loss is least on validation windows."""
    return min(GRID, key=lambda point: float(losses(bench.replayed(*point), "validation").mean()))


def replay_rows(bench: Bench) -> dict[str, dict[str, float]]:
    """The published table."""
    found = {"first dataset only": row(bench, {"final": bench.before[1]})}
    found["second dataset only"] = row(bench, bench.scratch())
    found |= {f"replay {100 * share:g}%": row(bench, bench.replayed(share)) for share in REPLAY}
    found["union"] = row(bench, bench.union(), 1.0)
    return found


def orderings(benches: Sequence[Bench], sections: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The published statements, each on every seed."""
    found: dict[str, dict[str, Any]] = {}
    shift = benches[0].shift

    def of(bench: Bench, cell: dict[str, Any], what: str) -> float:
        return row(bench, cell)[what]

    if "replay" in sections:
        falls = [
            min(of(b, b.replayed(x), "forgetting") - of(b, b.replayed(y), "forgetting") for x, y in itertools.pairwise(REPLAY))
            for b in benches
        ]
        found["1 replay cuts forgetting monotonically: the least fall of forgetting from one share to the next, nats"] = verdict(
            falls, 0.0, below=False
        )
        if shift == "weak":
            costs = [
                max(of(b, b.replayed(x), "new") / of(b, b.replayed(0.0), "new") - 1 for x in (0.005, 0.01, 0.05)) for b in benches
            ]
            found["2 replay of 5% or less costs at most 1% adaptation: the largest relative rise"] = verdict(
                costs, 0.01, below=True
            )
        shares = [chosen(b) for b in benches]
        gaps = [of(b, b.replayed(x), "mean") / of(b, b.union(), "mean") - 1 for b, x in zip(benches, shares, strict=True)]
        found["5 the chosen replay share is within 2% of the union's mean loss: relative difference"] = {
            **verdict(gaps, 0.02, below=True), "shares": shares,
        }  # fmt: skip
    if "rates" in sections:
        adapted = [of(b, constant(b), "new") - of(b, b.replayed(0.0), "new") for b in benches]
        found["3 re-warming adapts better than constant η_min: loss on the new data, constant less re-warmed, nats"] = verdict(
            adapted, 0.0, below=False
        )
        forgot = [of(b, b.replayed(0.0), "forgetting") - of(b, constant(b), "forgetting") for b in benches]
        found["4 re-warming forgets more than constant η_min: forgetting, re-warmed less constant, nats"] = verdict(
            forgot, 0.0, below=False
        )
    if "warmup" in sections:
        for what, shown in (("new", "loss on the new data"), ("mean", "mean loss")):
            spread = []
            for b in benches:
                seen = [of(b, warmed(b, share), what) for share in WARMUPS]
                spread.append((max(seen) - min(seen)) / min(seen))
            statement = f"6 the length of warm-up, 0 to 2%, does not matter to the {shown}: largest over least, less 1"
            found[statement] = verdict(spread, 0.01, below=True)
    if "infinite" in sections:
        for kind in INFINITE:
            ratios = [float(losses(b.infinite(kind)).mean() / losses(b.infinite("re-warmed")).mean() - 1) for b in benches]
            found[
                f"7 infinite schedule ({kind}) matches re-warmed cosines: mean loss over three datasets, relative difference"
            ] = within(ratios, 0.01)
    return found


def constant(bench: Bench) -> dict[str, Any]:
    """η_min all along."""
    floor = bench.preset.floor * bench.shape.peak
    return bench.continued("constant", 0.0, schedules.warmup_cosine(floor, floor, bench.preset.steps))


def warmed(bench: Bench, share: float) -> dict[str, Any]:
    """No replay, another warm-up."""
    if share == bench.preset.warmup:
        return bench.replayed(0.0)
    return bench.continued(f"warm-up {share:g}", 0.0, bench.rewarmed(warmup=share))


def rise_on_the_same(bench: Bench) -> dict[str, float]:
    """How far the loss on the first dataset rises when training goes on, on the same data or on other data."""
    found = {}
    for factor in (1.0, 2.0):
        for what, cell in (("the same data", same(bench, factor)), (f"{bench.shift} shift", bench.replayed(0.0, factor))):
            old = [point[1] for point in cell["curve"]]
            found[f"peak × {factor:g}, {what}"] = float(max(old) - bench.before[1]["test"][0])
    return found


def same(bench: Bench, factor: float) -> dict[str, Any]:
    """Re-warming on more of the first dataset."""

    def run() -> dict[str, Any]:
        p = bench.preset
        rates = bench.rates(bench.rewarmed(factor), p.steps)
        first = bench.pair[0]
        more = first._replace(train=first.train[p.steps * p.batch :])
        made = plan([more], [p.steps], rates, batch_size=p.batch)
        return bench.result(bench.train([more], made, bench.before[0]))

    return bench.cell(f"same data, peak × {factor:g}", run)


def to_zero(bench: Bench, share: float, factor: float) -> dict[str, Any]:
    """A point of the grid with a cosine that ends at zero."""
    p, peak = bench.preset, bench.shape.peak
    schedule = schedules.warmup_cosine(factor * peak, 0.0, p.steps, round(p.warmup * p.steps), start=p.floor * peak)
    return bench.continued(f"replay {share:g}, peak × {factor:g}, to zero", share, schedule)


def exploding(bench: Bench) -> dict[str, Any]:
    """The gradient in share and rate by eighths of the run, through all steps and through the last 30%."""

    def run() -> dict[str, Any]:
        p = bench.preset
        problem = relaxed(
            bench.pair, bench.model, bench.rewarmed(), p.steps, batch_size=p.batch, replay=PUBLISHED[bench.shift], pieces=8,
            horizon=1.0, last=p.last,
        )  # fmt: skip
        found = {}
        for name, adjoint in (("all", olm.adjoint.direct()), ("the last 30%", olm.adjoint.truncated(round(0.3 * p.steps)))):
            _, (shares, factors) = olm.policy_gradient(
                problem.task, problem.learner, problem.policy, problem.phi, steps=p.steps, key=jax.random.key(0),
                objective=problem.objective, order=problem.order, params=bench.before[0], adjoint=adjoint,
            )  # fmt: skip
            found[name] = {"share": (shares[:, 0] - shares[:, 1]).tolist(), "rate": factors.tolist()}
        return found

    return bench.cell("gradients", run)


def search_rows(bench: Bench) -> dict[str, dict[str, float]]:
    """The searched schedule beside the best of the grid, and what each cost in training runs."""
    point = best_of_grid(bench)
    cell, grid = bench.searched(), bench.replayed(*point)
    plain = cell["plain_seconds"]
    gradients = [one["seconds"] for one in cell["history"][1:]]  # the first compiles
    found = {"searched": row(bench, cell), "best of the grid": row(bench, grid)}
    found["searched"] |= {
        # Each gradient, the three runs with which a search ends, and the plain runs between which validation decides.
        "cost_runs_by_time": len(cell["history"]) * float(np.median(gradients)) / plain + 3 + len(cell["plain_runs"]),
        # The same by products of a layer: a gradient takes a run, and 11/3 of the steps that it goes back through.
        "cost_runs_by_products": len(cell["history"]) * (1 + HORIZON * 11 / 3) + 3 + len(cell["plain_runs"]),
        "gradient_runs_by_time": float(np.median(gradients)) / plain,
        "seconds": cell["seconds"],  # compilation included
        "old share": float(np.mean(cell["shares"])),
        "last rate / peak": cell["rates"][-1] / bench.shape.peak,
    }
    found["best of the grid"] |= {
        "cost_runs_by_time": float(len(GRID)),
        "seconds": sum(bench.replayed(*other)["seconds"] for other in GRID),
        "old share": point[0],
        "last rate / peak": bench.preset.floor,
    }
    # What of a difference is the last rate: every point of the grid ends at η_min.
    found["best of the grid, its rate to zero"] = row(bench, to_zero(bench, *point))
    found["difference"] = {"mean": found["searched"]["mean"] - found["best of the grid"]["mean"]}
    return found


def run_table(name: str, benches: Sequence[Bench], sections: Sequence[str], searched: Sequence[Bench]) -> dict[str, Any]:
    """All sections of one source, shift and size over the seeds; the search has more of them."""
    tables: dict[str, Any] = {"entropy": [one.entropy for one in benches[0].pair], "parameters": benches[0].model.parameters}
    if "replay" in sections:
        tables["replay"] = summary([replay_rows(b) for b in benches])
    if "rates" in sections:
        rows = []
        for b in benches:
            rows.append({"constant η_min": row(b, constant(b))} | {f"peak × {f:g}": row(b, b.replayed(0.0, f)) for f in PEAKS})
        tables["rates"] = summary(rows)
    if "warmup" in sections:
        tables["warmup"] = summary([{f"warm-up {x:.1%}": row(b, warmed(b, x)) for x in WARMUPS} for b in benches])
    if "same" in sections:
        rises = [rise_on_the_same(b) for b in benches]
        tables["same"] = {what: over_seeds([one[what] for one in rises]) for what in rises[0]}
    if "infinite" in sections:
        kinds = ("re-warmed", *INFINITE)
        rows = [{kind: dict(enumerated(losses(b.infinite(kind)))) for kind in kinds} for b in benches]
        tables["infinite"] = summary(rows)
    if "ties" in sections:
        ties = {"TIES of two from one start": False, "TIES with the continuation": True}
        rows = [
            {name: row(b, b.merged(continued)) for name, continued in ties.items()}
            | {"chosen replay": row(b, b.replayed(chosen(b)))}
            for b in benches
        ]
        tables["ties"] = summary(rows)
    if "search" in sections:
        rows = [search_rows(b) for b in searched]
        tables["search"] = summary(rows)
        differences = {b.seed: one["difference"]["mean"] for b, one in zip(searched, rows, strict=True)}
        fresh = [x for seed, x in differences.items() if seed not in {b.seed for b in benches}]
        costs = [one["searched"]["cost_runs_by_time"] for one in rows]
        tables["searched against the grid"] = {
            "mean loss, nats": {**verdict(list(differences.values()), 0.0, below=True), "seeds": differences},
            # Whoever chose the settings had seen an earlier search on the seeds of the other sections.
            "mean loss, nats, seeds never looked at before": verdict(fresh, 0.0, below=True) if fresh else None,
            "cost, training runs by time": {**verdict(costs, float(len(GRID)), below=True), "seeds": costs},
        }
        told = ("shares", "rates", "history", "mean of", "plain_runs", "plain_seconds", "search_seconds")
        tables["searched"] = [{"seed": b.seed, **{k: b.searched()[k] for k in told}} for b in searched]
        tables["gradients"] = {k: v for k, v in exploding(benches[0]).items() if k not in ("seconds", "commit")}
        tables["scatter"] = {
            f"replay 50%, peak × {factor:g}": {
                k: v for k, v in benches[0].scattered(0.5, factor).items() if k not in ("seconds", "commit")
            }
            for factor in (1.0, 2.0)
        }
        tables["start"] = {
            "shares": [PUBLISHED[benches[0].shift]] * benches[0].preset.steps,
            "rates": benches[0].rates(benches[0].rewarmed(), benches[0].preset.steps).tolist(),
        }
        tables["grid point"] = [list(best_of_grid(b)) for b in searched]
    tables["orderings"] = orderings(benches, sections)
    print(f"\n{name}")
    for part in ("replay", "rates", "warmup", "infinite", "ties", "search"):
        if part in tables:
            print(part)
            _bench.table(
                {"row": key, **{m: v["mean"] for m, v in one.items() if isinstance(v, dict)}} for key, one in tables[part].items()
            )
    for statement, found in tables["orderings"].items():
        print(f"{statement}: {found['mean']:.4g} [{found['low']}, {found['high']}]: {found['verdict']}")
    return tables


def enumerated(values: np.ndarray) -> list[tuple[str, float]]:
    """Losses of three datasets and their mean."""
    return [*((f"dataset {i + 1}", float(x)) for i, x in enumerate(values)), ("mean", float(values.mean()))]


def provenance(benches: Sequence[Bench]) -> dict[str, Any]:
    """The commits that made the runs, how many there are, and their time in all."""
    cells = [json.loads(path.read_text(encoding="utf-8")) for bench in benches for path in sorted(bench.folder.glob("*.json"))]
    return {
        "commits": sorted({cell["commit"] for cell in cells}),
        "runs": len(cells),
        "seconds": sum(c["seconds"] for c in cells),
    }


def wanted(source: str, size: str, sections: Sequence[str]) -> list[str]:
    """Which sections a source and size have: the small model all, the large one all but two, files two."""
    if source == "library":
        return [s for s in sections if s in ("replay", "rates")]
    if size == "large":
        return [s for s in sections if s not in ("search", "same")]
    return list(sections)


def main() -> None:
    parser = _bench.parser(__doc__.splitlines()[0], seeds=(0, 1, 2))
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="these sections")
    parser.add_argument("--shifts", nargs="+", choices=("weak", "strong"), default=["weak", "strong"], help="these shifts")
    parser.add_argument("--sources", nargs="+", choices=("stories", "library"), default=["stories", "library"], help="these data")
    parser.add_argument("--cells", type=Path, default=_bench.ROOT / "runs" / "continual", help="where finished runs are kept")
    parser.add_argument("--search-seeds", type=int, nargs="+", default=list(range(8)), help="seeds of the search and its grid")
    args = parser.parse_args()
    preset = QUICK if args.quick else FULL
    cells = args.cells
    seeds = args.seeds[:1] if args.quick else args.seeds
    tables: dict[str, Any] = {}
    for source in args.sources:
        for size, _ in preset.sizes:
            if source == "library" and (size != "small" or args.quick):
                continue
            for shift in args.shifts:
                sections = wanted(source, size, args.only)
                if sections:
                    name = f"{source}, {shift} shift, {size} model"
                    benches = [Bench(preset, cells, source, shift, size, seed) for seed in seeds]
                    more = [s for s in args.search_seeds if s not in seeds] if "search" in sections and not args.quick else []
                    searched = [*benches, *(Bench(preset, cells, source, shift, size, seed) for seed in more)]
                    tables[name] = run_table(name, benches, sections, searched)
                    tables[name]["made by"] = provenance(searched)
                jax.clear_caches()
    whole = set(args.only) == set(SECTIONS) and len(args.shifts) == 2 and len(args.sources) == 2
    if whole or args.output is not None:
        args.seeds = seeds
        hours = sum(one["made by"]["seconds"] for one in tables.values()) / 3600
        print(f"{hours:.2f} core-hours in all")
        _bench.save("continual", {"preset": asdict(preset), "core_hours": hours, "tables": tables}, args)
    else:
        print("a part of the benchmark: nothing recorded; run it without --only, --shifts and --sources, or with --output")


if __name__ == "__main__":
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    main()
