"""Write the tables of results, README.md's and docs/results.md, from benchmarks/results: no number there is typed by hand.

    python docs/results.py [--check]

Files that are not there yet leave out their rows. ``--check`` writes nothing and fails where a page differs. A row cites its
file, and `tests/test_docs.py` looks its decimals up there.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))

from _rows import Row, estimate, ratios, seeds, times  # noqa: E402
from _rows_control import control, control_brief, control_exactness, control_text  # noqa: E402
from _rows_memory import memory, memory_brief, memory_exactness  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
PAGE = ROOT / "docs" / "results.md"
SECTION = re.compile(r"(?<=<!-- results -->\n).*(?=<!-- /results -->)", re.DOTALL)


def perceptron_paper(result: dict[str, Any]) -> Iterator[Row]:
    """The paper's own curve."""
    for name, measures in result["summary"].items():
        figures = ratios(measures, {"acceleration_on_target": "acceleration"})
        held_out = estimate(measures["area_ratio"])
        yield (
            f"perceptron, 512 fixed targets, {name}, measured on those 512 as in the paper; {seeds(result)}",
            f"{figures}; on held-out data the area ratio is {held_out}",
        )


CLAIMS = {"acceleration": "acceleration", "area_ratio": "area ratio", "final_ratio": "final-loss ratio"}


def perceptron_fresh(result: dict[str, Any]) -> Iterator[Row]:
    """Claim (a), held out."""
    for name, measures in result["summary"].items():
        yield f"perceptron, claim (a), fresh targets, {name}, held out; {seeds(result)}", ratios(measures, CLAIMS)
        if "seconds" in measures:
            seconds = measures["seconds"]
            cores = result["environment"]["cpu_count"]
            yield f"wall time of such a search, {cores} logical cores", f"{seconds['min']:.1f} to {seconds['max']:.1f} s"


def perceptron_best_rates(result: dict[str, Any]) -> Iterator[Row]:
    """Claim (b), held out."""
    for measures in result["summary"].values():
        names = {name: shown for name, shown in CLAIMS.items() if name != "acceleration"}
        yield f"perceptron, claim (b), each side at its best learning rate, held out; {seeds(result)}", ratios(measures, names)


def perceptron_honest(result: dict[str, Any]) -> Iterator[Row]:
    """Few fixed targets with the guard on, by policy class."""
    classes = ", ".join(f"{name} {estimate(measures['area_ratio'], 3)}" for name, measures in result["summary"].items())
    yield f"perceptron, 512 fixed targets, a quarter kept back, area ratio held out; {seeds(result)}", classes


def _language(data: str, result: dict[str, Any]) -> Iterator[Row]:
    names = {**CLAIMS, "area_above_entropy_ratio": "ratio of areas above the entropy"}
    names |= {"area_fall": "area lower by (nats)", "final_fall": "final loss lower by (nats)"}
    for claim, measures in result["summary"].items():
        yield f"language, {data}, {claim}, 10 evaluations, held out; {seeds(result)}", ratios(measures, names)
        if "seconds" in measures:
            yield (
                f"time of such a search's evaluations, {data}",
                f"{measures['seconds']['min']:.0f} to {measures['seconds']['max']:.0f} s",
            )


def language_stories(result: dict[str, Any]) -> Iterator[Row]:
    """Both claims on generated stories, fresh targets."""
    return _language("generated stories", result)


def language_files(result: dict[str, Any]) -> Iterator[Row]:
    """Both claims on text files, fixed targets."""
    return _language("text files", result)


def cost(result: dict[str, Any]) -> Iterator[Row]:
    """Ratios of time, and of memory where there is one."""
    for row in result["rows"]:
        memory = f" in time, {row['memory_ratio']:.1f} in temporary memory" if row.get("memory_ratio") else ""
        yield row["what"], f"{row['ratio']:.2f}{memory}"
    equal = [value for name, value in result["checks"].items() if "bitwise" in name]
    if equal:
        yield "uniform weights against bare optax: parameters", "bitwise equal" if all(equal) else "not bitwise equal"


def exactness(result: dict[str, Any]) -> Iterator[Row]:
    """The largest error over all combinations."""
    for task in ("toy", "transformer"):
        if task in result:
            found = result[task]
            yield (
                f"policy gradient against reverse mode through a Python loop, float64, {task}",
                f"largest relative error {found['max_gradient_error']:.1e} over {found['combinations']} combinations",
            )


def peer(result: dict[str, Any]) -> Iterator[Row]:
    """One search iteration of the published algorithm."""
    programmes = result["weights"]["uniform"]["programmes"]
    timed = f", of {programmes['rows_timed']} programmes extrapolated to all T" if programmes["extrapolated"] else ""
    repeats = len(programmes["wall_s"])
    where = {"uniform": "on uniform weights, where a search starts", "sparse": "on the sparse weights of a later iteration"}
    for name, shown in (("published", "as published"), ("sort projection", "with a sort projection")):
        figures = [
            f"{times(result['weights'][weights]['comparisons'][f'{name} / olm projected gradient']['ratio'])} {place}"
            for weights, place in where.items()
        ]
        more = (timed if name == "published" else "") + f"; median of {repeats}"
        yield f"one search iteration, the published algorithm in PyTorch {shown} / olm{more}", ", ".join(figures)


def import_time(result: dict[str, Any]) -> Iterator[Row]:
    """Importing olm."""
    yield f"`{result['olm']}` / `{result['libraries']}`, time", f"{result['ratio']:.2f}"


def percent(value: float, decimals: int = 1) -> str:
    """A share as a percentage."""
    return f"{100 * value:.{decimals}f}%"


def span(measure: dict[str, Any], shown: Callable[[float], str]) -> str:
    """``mean [low, high]`` of an interval over seeds, each as ``shown`` has it; – where a seed has no value."""
    if isinstance(measure["mean"], str):  # JSON's word for NaN
        return "–"
    if measure.get("low") is None or measure.get("high") is None:
        return shown(measure["mean"])
    return f"{shown(measure['mean'])} [{shown(measure['low'])}, {shown(measure['high'])}]"


def _law(task: str, result: dict[str, Any]) -> Iterator[Row]:
    count = seeds(result)
    for name, measures in result["summary"].items():
        similar = "; ".join(f"{on} {estimate(measures[f'sim_active_{on}'], 3)}" for on in ("target", "test", "costate"))
        every = ", ".join(f"{measures[f'sim_{on}']['mean']:.3f}" for on in ("target", "test", "costate"))
        yield (
            f"Learning Law, {task}, {name}: mean SIM of the weights above 10⁻²/N (in brackets: of all above 0); {count}",
            f"{similar} ({every})",
        )
        if not name.startswith("uniform"):
            dropped = ", ".join(
                f"{on} {span(measures[f'harmful_zero_{on}@0.01'], percent)}" for on in ("target", "test", "costate")
            )
            yield (
                f"property 4.1, {task}, {name}: share of the harmful examples that weigh at most 10⁻²/N; {count}",
                f"{dropped}; of all weights {span(measures['zero@0.01'], percent)}",
            )
        if "corrupted_weight" in measures:
            clean, corrupted = (
                f"{group} {estimate(measures[f'{group}_weight'])}, {estimate(measures[f'{group}_test'], 3)}"
                for group in ("clean", "corrupted")
            )
            yield f"{task}, {name}: weight relative to 1/N and held-out contribution, means; {count}", f"{clean}; {corrupted}"


def law_perceptron(result: dict[str, Any]) -> Iterator[Row]:
    """The Learning Law on the perceptron."""
    return _law("perceptron", result)


def law_path(result: dict[str, Any]) -> Iterator[Row]:
    """Similarity and compression along a search, and the paper's curve through them."""
    for on in ("target", "test"):
        shown = []
        for run in result["runs"]:
            rows, fit = run[on]["rows"], run[on]["fit"]
            ends = " → ".join(
                f"SIM {row['similarity_above_zero']:.3f} at CR {row['compression_ratio']:.2f}" for row in (rows[0], rows[-1])
            )
            shape = f"r² {fit['r2']:.2f}" if isinstance(fit, dict) else fit
            if isinstance(fit, dict):
                shape += f", asymptote b = {fit['b']:.2f}" if not (fit["at_bound"] or fit["falling"]) else ", no asymptote"
            shown.append(f"{ends} ({shape})")
        count = result["runs"][0]["evaluations"][-1]
        yield f"along a search on 512 targets, uniform weights → {count} evaluations, {on}; each seed", "; ".join(shown)


def law_language(result: dict[str, Any]) -> Iterator[Row]:
    """The Learning Law on stories."""
    return _law("stories", result)


def law_cost(result: dict[str, Any]) -> Iterator[Row]:
    """What measuring the law costs."""
    for row in result["rows"]:
        yield row["what"], f"{row['ratio']:.2f}"


def scaling_fits(result: dict[str, Any]) -> Iterator[Row]:
    """Public tables refitted, recovery, time."""
    sections = result["sections"]
    for name, found in sections.get("approach3", {}).items():
        if not isinstance(found, dict):
            continue
        fresh = sorted(run["seconds"] for run in found["fresh_process"])
        starts = found["starts"]
        yield (
            f"Approach 3 on {name}, 4,500 starts, objective − published, exponents − published",
            f"{found['objective_difference']:.1e}; α {found['alpha_difference']:.1e}, β {found['beta_difference']:.1e}",
        )
        yield (
            "the same in fresh processes, compilation included; starts that converged, were given up, reached the best basin",
            f"{fresh[0]:.1f} to {fresh[-1]:.1f} s; {starts['converged']}, {starts['abandoned']}, {starts['in_best_basin']}",
        )
    if "data_constrained" in sections:
        part = sections["data_constrained"]
        printed, given = part["published"], part["rows"][0]
        yield (
            f"data-constrained law, published parameters: objective (published {printed['objective']}), R² ({printed['r2']})",
            f"{given['objective']:.7f}, {given['r2']:.7f}",
        )
        best = part["fits"]["both, from the grid"]
        low, high = best["intervals"]["R_D"]
        yield (
            "the same, R_D and R_N fitted from a grid, the other five held: the published optimum (15.39, 5.31) is a local one",
            f"R_D {best['parameters']['R_D']:.2f} [{low:.2f}, {high:.2f}], R_N {best['parameters']['R_N']:.2f}, "
            f"objective {best['objective']:.7f} against {given['objective']:.7f}",
        )
    if "over_training" in sections:
        errors = ", ".join(f"{value:.1e}" for value in sections["over_training"]["error_differences"].values())
        yield "over-training law, RedPajama extrapolation errors minus those published, percentage points", errors
    times_s = [part["seconds"] for part in sections.get("bootstrap", {}).values() if isinstance(part, dict)]
    if times_s:
        yield "1,000 bootstrap refits, Gemstones tables", f"{min(times_s):.1f} to {max(times_s):.1f} s"


def scaling_recovery(result: dict[str, Any]) -> Iterator[Row]:
    """Synthetic tables of known laws: how often intervals hold the truth."""
    sections = result["sections"]
    for name, found in sections.get("recovery", {}).items():
        if isinstance(found, dict):
            covered = ", ".join(f"{parameter} {percent(share)}" for parameter, share in found["covered"].items())
            yield f"{name}, noise 1%, {found['repeats']} repeats: inside the 95% interval of the delta method", covered
    if "coverage" in sections:
        part = sections["coverage"]
        covered = ", ".join(f"{name} {percent(share)}" for name, share in part["covered"].items())
        yield f"bootstrap intervals, Chinchilla, {part['repeats']} × {part['refits']} refits", covered


def curve_fits(result: dict[str, Any]) -> Iterator[Row]:
    """Laws of loss curves: published scores, own fits, and what is recovered from noisy curves."""
    rows = result.get("public", [])
    if rows:
        given = [row for row in rows if "all digits" in row]
        yield (
            f"multi-power law, published parameters on {len(given)} model sizes: published R², MAE, RMSE, PredE, WorstE",
            "reproduced to every digit" if all(row["all digits"] for row in given) else "not reproduced",
        )
        for fit in dict.fromkeys(row["fit"] for row in rows if "r2 - published" in row):
            own = [row for row in rows if row["fit"] == fit]
            figures = ", ".join(f"{row['size']}M {row['r2 - published']:.5f}" for row in own)
            yield f"own fit of three curves, {fit}: R² of the six others minus that of the published multi-power law", figures
    for fit, measures in result["recovery"].items():
        shown = {name: value for name, value in measures.items() if name != "converged"}
        biases = ", ".join(f"{name} {span(value, lambda x: f'{x:.4f}')}" for name, value in shown.items())
        runs, done = next(iter(shown.values()))["n"], measures.get("converged")
        reached = "" if done is None else f", {sum(done['values']):.0f} of which converged"
        yield f"recovery, noise 1%, {fit}: mean error; {runs} seeds{reached}", biases


def scaling_improvement(result: dict[str, Any]) -> Iterator[Row]:
    """ΔB, Δβ and the acceleration of every rung, held out."""
    for claim, parts in result["claims"].items():
        for rung, found in parts.get("ladder", {}).get("rungs", {}).items():
            summary = found["summary"]
            changes = "; ".join(
                f"{fit}: ΔB {span(summary[fit]['delta_B_percent'], lambda x: f'{x:.1f}%')}, "
                f"Δβ {span(summary[fit]['delta_beta_percent'], lambda x: f'{x:.1f}%')}, "
                f"r² {estimate(summary[fit]['r2_base'])} and {estimate(summary[fit]['r2_mine'])}"
                for fit in ("correlation", "least squares", "L0 = 0.051, t0 = T/10")
            )
            measured = "; ".join(
                f"{shown} {estimate(summary['measured'][name], unit='×' if 'acceleration' in name else '')}"
                for name, shown in MEASURED.items()
            )
            yield f"scaling law of a run, stories {rung}, claim ({claim}), held out; {seeds(found)}", f"{changes}; {measured}"
        yield from _sizes(claim, parts.get("sizes", {}).get("laws"))


STRAIGHT = 0.9  # r² below which README gives no coefficients
MEASURED = {
    "acceleration": "acceleration",
    "acceleration_least": "acceleration to the baseline's least loss",
    "area_ratio": "area ratio",
    "final_ratio": "final-loss ratio",
}
SIZES = {
    "chinchilla_D_c_ratio": "Chinchilla, E the source's entropy: D_c = B^(1/β)",
    "chinchilla_beta_ratio": "Chinchilla: β",
    "kaplan_ns_S_c_ratio": "Kaplan L(N, S): S_c",
    "kaplan_ns_alpha_S_ratio": "Kaplan L(N, S): α_S",
}


def _sizes(claim: str, laws: dict[str, Any] | None, brief: bool = False) -> Iterator[Row]:
    if laws:
        worst = min(fit["r2"] for run in laws["runs"] for fit in run.values() if isinstance(fit, dict))
        shown = [f"{shown} × {estimate(laws['summary'][name])}" for name, shown in SIZES.items() if name in laws["summary"]]
        if brief and worst < STRAIGHT:
            shown = ["no power laws"]
        what = f"laws of {len(laws['sizes'])} model sizes, embedding parameters counted, claim ({claim}), policy / uniform"
        yield f"{what}; {seeds(laws)}", "; ".join([*shown, f"r² {worst:.2f} at worst"])


def _ladder(result: dict[str, Any]) -> Iterator[Row]:
    """A row for each claim: coefficients by the published criterion, where both curves are power laws; else what was gained."""
    for claim, parts in result["claims"].items():
        shown = []
        for rung, found in parts.get("ladder", {}).get("rungs", {}).items():
            fitted, measured = found["summary"]["correlation"], found["summary"]["measured"]
            straight = [fitted[f"r2_{side}"] for side in ("base", "mine")]
            if min(r2["mean"] for r2 in straight) >= STRAIGHT:
                bound = sum("t0" in run["correlation"]["on_bound"] for run in found["runs"])
                figures = (
                    f"ΔB {span(fitted['delta_B_percent'], lambda x: f'{x:.1f}%')}, "
                    f"Δβ {span(fitted['delta_beta_percent'], lambda x: f'{x:.1f}%')}, "
                    f"acceleration {estimate(measured['acceleration'], unit='×')}"
                    + (f", t0 at its bound T/4 on {bound} of {len(found['runs'])} seeds" if bound else "")
                )
            else:
                figures = (
                    f"no power laws (r² {straight[0]['mean']:.2f} and {straight[1]['mean']:.2f}); "
                    f"area ratio {estimate(measured['area_ratio'])}, final-loss ratio {estimate(measured['final_ratio'])}, "
                    f"acceleration to the baseline's least loss {estimate(measured['acceleration_least'], unit='×')}"
                )
            shown.append(f"{rung.split()[0]}: {figures}")
        if shown:
            what = f"scaling law L0 + (B/t)^β of a run by the published criterion, stories, claim ({claim}), held out"
            yield f"{what}; {seeds(found)}", "; ".join(shown)
        yield from _sizes(claim, parts.get("sizes", {}).get("laws"), brief=True)


def _policies(task: str, result: dict[str, Any]) -> Iterator[Row]:
    for name, measures in result["summary"].items():
        if name.startswith("uniform"):
            continue
        paid, each = measures["obtain_products"]["mean"], measures["run_products"]["mean"]
        gains = f"area ratio {estimate(measures['area_ratio'], 3)}, final-loss ratio {estimate(measures['final_ratio'], 3)}"
        seen = f"{measures['targets_seen']['mean']:,.0f} target examples"
        yield (
            f"{task}, policy {name}, held out; {seeds(result)}",
            f"{gains}; found for {paid:.0f} training runs and {seen}, each run costs {each:.2f}",
        )


def policies_compared_perceptron(result: dict[str, Any]) -> Iterator[Row]:
    """Policies on the perceptron."""
    return _policies("perceptron", result)


def policies_compared_labels(result: dict[str, Any]) -> Iterator[Row]:
    """Policies on the perceptron with flipped labels."""
    return _policies("perceptron, 30% of the labels flipped", result)


def policies_compared_stories(result: dict[str, Any]) -> Iterator[Row]:
    """Policies on stories."""
    return _policies("stories", result)


MEASURED_OF = {"old": "old data", "new": "new data", "mean": "mean", "forgetting": "forgetting"}


def continual(result: dict[str, Any]) -> Iterator[Row]:
    """The published tables, the statements, the searched schedule."""
    for setting, tables in result["tables"].items():
        count = next(iter(tables["replay"].values()))["mean"]["n"]
        for part in ("replay", "rates", "warmup", "infinite", "ties"):
            for name, measures in tables.get(part, {}).items():
                shown = "; ".join(f"{MEASURED_OF.get(m, m)} {estimate(x, 3)}" for m, x in measures.items() if m != "compute")
                if "compute" in measures:
                    shown += f"; {percent(measures['compute']['mean'], 0)} of the union's compute"
                yield f"{setting}, {part}: {name}; held-out nats, {count} seeds", shown
        for name, rise in tables.get("same", {}).items():
            yield f"{setting}, largest rise of the old data's loss: {name}; {count} seeds", estimate(rise, 3)
        yield from _statements(setting, tables)
        yield from _searched(setting, tables)


def _statements(setting: str, tables: dict[str, Any]) -> Iterator[Row]:
    for statement, found in tables["orderings"].items():
        yield f"{setting}: {statement}; {found['n']} seeds", f"{estimate(found, 4)}: {found['verdict']}"


def _searched(setting: str, tables: dict[str, Any]) -> Iterator[Row]:
    if "search" not in tables:
        return
    sides = tables["search"]
    figures = "; ".join(
        f"{name}: mean loss {estimate(sides[name]['mean'], 4)} for {sides[name]['cost_runs_by_time']['mean']:.0f} training runs"
        for name in ("searched", "best of the grid")
    )
    zero = estimate(sides["best of the grid, its rate to zero"]["mean"], 4)
    count = sides["searched"]["mean"]["n"]
    against = "share and rate by gradient descent against the best point of a grid"
    verdicts = tables["searched against the grid"]
    difference, cost = (verdicts[name] for name in ("mean loss, nats", "cost, training runs by time"))
    fresh = verdicts["mean loss, nats, seeds never looked at before"]
    more = f", on the {fresh['n']} seeds never looked at before {estimate(fresh, 4)}: {fresh['verdict']}" if fresh else ""
    yield (
        f"{setting}: {against}, held out; {count} seeds",
        f"{figures}; difference {estimate(difference, 4)}: {difference['verdict']}{more}; "
        f"cost {estimate(cost, 1)}: {cost['verdict']}; the grid's best with its rate to zero: {zero}",
    )


def continual_exactness(result: dict[str, Any]) -> Iterator[Row]:
    """Schedules, accounting, gradients, published tables."""
    rows = result["schedules"]
    error, gap = (max(row[name] for row in rows) for name in ("error", "gap at joints"))
    points = min(row["points"] for row in rows)
    yield (
        f"{len(rows)} learning-rate schedules against their equations, {points:,} points each, float64; across joints",
        f"largest error {error:.1e} of the peak; {gap:.1e}",
    )
    exact = all(row["tokens"] == row["asked"] for row in result["accounting"])
    yield "tokens of old data for every published replay share, order of reading", "exact" if exact else "not exact"
    worst = max(row["error"] for row in result["gradients"])
    entries = sum(row["entries"] for row in result["gradients"])
    yield (
        "derivatives of final losses in share, rate and peak through two phases of AdamW against differences, float64",
        f"largest error {worst:.1e} over {entries} entries",
    )
    misses = ", ".join(f"{row['difference']:.4f}" for row in result["cmr_table_2"])
    yield "CMR law, table 2: loss at a share of 25% foretold from four others, less the measured one", misses
    budget = result["d_cpt_table_5"]
    found = f"{budget['domain share']:.3f} [{budget['low']:.3f}, {budget['high']:.3f}]"
    yield f"D-CPT law, table 5: domain share that keeps the general loss within 3% (published {budget['published']})", found


def _continual_brief(result: dict[str, Any]) -> Iterator[Row]:
    """A row of losses and one of verdicts for each setting, and what the search found."""
    for setting, tables in result["tables"].items():
        rows = tables["replay"]
        count = rows["union"]["mean"]["n"]
        shown = [
            f"{name} {estimate(rows[name]['forgetting'], 3)} and {estimate(rows[name]['new'], 3)}"
            for name in ("replay 0%", "replay 1%", "replay 5%", "replay 25%", "replay 50%", "union")
        ]
        what = "forgetting of the old data and loss on the new, nats, held out"
        yield f"continual pre-training, {setting}: {what}; {count} seeds", "; ".join(shown)
        words: dict[str, list[str]] = {}
        for statement, found in tables["orderings"].items():
            words.setdefault(found["verdict"], []).append(statement.partition(":")[0])
        yield f"published statements, {setting}; {count} seeds", "; ".join(f"{word}: {', '.join(x)}" for word, x in words.items())
        yield from _searched(setting, tables)


ROWS: dict[str, Callable[[dict[str, Any]], Iterator[Row]]] = {
    function.__name__: function
    for function in (
        perceptron_fresh, perceptron_best_rates, perceptron_paper, perceptron_honest, language_stories, language_files,
        law_perceptron, law_path, law_language, law_cost, scaling_improvement, policies_compared_perceptron,
        policies_compared_labels, policies_compared_stories, continual, continual_exactness, control, control_text,
        control_exactness, memory, memory_exactness, scaling_fits, scaling_recovery, curve_fits, cost, exactness, peer,
        import_time,
    )
}  # fmt: skip
ROWS["memory_gpu"] = memory
ROWS |= dict.fromkeys(("scaling_improvement_sizes", "scaling_improvement_rows_4"), scaling_improvement)


# What README shows; the rest is one click away.
HEADLINES = (
    "perceptron_fresh", "perceptron_best_rates", "language_stories", "language_files",
    "law_perceptron", "law_language", "scaling_improvement",
    "scaling_improvement_rows_4", "scaling_improvement_sizes",
    "policies_compared_perceptron", "policies_compared_stories", "continual", "continual_exactness", "control", "control_text",
    "control_exactness", "memory", "memory_gpu", "memory_exactness",
    "scaling_fits", "scaling_recovery",
    "exactness", "peer",
)  # fmt: skip
HEAD = (ROOT / "docs" / "_results_head.md").read_text(encoding="utf-8") + "\n"  # what stands above the table, with its figures


def brief(name: str, result: dict[str, Any]) -> Iterator[Row]:
    """What README shows of a file: less than all rows of policies, of the ladder and of the Learning Law."""
    if name.startswith("scaling_improvement"):
        yield from _ladder(result)
        return
    if name.startswith("law_"):
        shown = "; ".join(
            f"{each} {estimate(of['sim_active_test'], 3)} ({of['sim_test']['mean']:.3f})"
            for each, of in result["summary"].items()
        )
        task = {"law_language": "stories"}.get(name, "perceptron")
        yield f"Learning Law, {task}, held-out mean SIM of the weights above 10⁻²/N (of all above 0); {seeds(result)}", shown
        return
    if name == "continual":
        yield from _continual_brief(result)
        return
    if name == "control":
        yield from control_brief(result)
        return
    if name in ("memory", "memory_gpu"):
        yield from memory_brief(result)
        return
    if not name.startswith("policies_compared"):
        yield from ROWS[name](result)
        return
    for claim, words in (("a", "at one learning rate"), ("b", "each at its best rate")):
        found = {row.removesuffix(f" ({claim})"): m for row, m in result["summary"].items() if row.endswith(f"({claim})")}
        ranked = sorted((m["area_ratio"]["mean"], row) for row, m in found.items() if row != "uniform")
        paid = {row: f"{measures['obtain_products']['mean']:.0f} runs" for row, measures in found.items()}
        shown = "; ".join(f"{row} {estimate(found[row]['area_ratio'])} for {paid[row]}" for _, row in ranked)
        what = f"policies compared, {name.removeprefix('policies_compared_')}, claim ({claim}), {words}"
        yield f"{what}: area ratio held out, and what finding took; {seeds(result)}", shown


def table(names: Iterable[str] = tuple(ROWS), up: str = "", folder: Path = RESULTS, *, whole: bool = True) -> str:
    """The rows of the results that are there, as a Markdown table; ``up`` leads from the page to the repository."""
    lines = ["| what | measured | from |", "|---|---|---|"]
    for name in names:
        path = folder / f"{name}.json"
        if path.is_file():
            cited = f"[{name}]({up}benchmarks/results/{name}.json)"
            result = json.loads(path.read_text(encoding="utf-8"))
            rows = ROWS[name](result) if whole else brief(name, result)
            lines += [f"| {what} | {figures} | {cited} |" for what, figures in rows]
    return "\n".join(lines) + "\n" if len(lines) > 2 else "No results are committed yet.\n"


def main() -> None:
    """Rewrite README's section and the page, or compare."""
    text = README.read_text(encoding="utf-8")
    if not SECTION.search(text):
        sys.exit("README.md has no section between <!-- results --> and <!-- /results -->")
    wanted = {README: SECTION.sub(lambda _: table(HEADLINES, whole=False), text), PAGE: HEAD + table(up="../")}
    if "--check" in sys.argv[1:]:
        stale = [path.name for path, new in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != new]
        sys.exit(f"{', '.join(stale)}: not of the committed results; run python docs/results.py" if stale else 0)
    for path, new in wanted.items():
        path.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
