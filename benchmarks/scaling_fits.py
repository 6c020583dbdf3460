"""Scaling-law fits against published ones, on the authors' own tables, and against known truths on synthetic ones.

Sections (``--only``): ``approach3`` the objective and exponents of two published Chinchilla fits, with the time of a fresh
process and every start accounted for, screened and not; ``data_constrained`` and ``over_training`` published fits of those laws;
``bootstrap`` 1,000 refits, and why their mean β lies below the fitted one; ``recovery`` how often delta-method intervals hold
the truth; ``coverage`` the same of bootstrap intervals.

The public tables are not part of this repository. ``--data`` names a folder with four files of these columns:

- ``gemstones_hot.csv``, ``gemstones_cool_end.csv`` (params_active_precise, tokens, final_loss, width, depth, run_name):
  github.com/mcleish7/gemstone-scaling-laws @ 5f420478f6057b0cbb4d13405fb10ca64675bccb,
  ``wandb_dfs/wandb_df_for_fitting_*.jsonl``, those columns of all rows; MIT.
- ``datablations_c4_runs_fit182.csv`` (name, N_params, D_tokens, unique_tokens, val_loss_c4):
  github.com/huggingface/datablations @ 13701315b163f1c54642b94ad237b2699187c3ee, ``utils/parametric_fit.ipynb``, outputs of cells
  26 and 2, the 182 runs of the published fit; Apache-2.0.
- ``gadre2024_models.csv`` (name, train_set, model, N, D, token_multiplier, loss_c4_val, …): github.com/mlfoundations/scaling @
  a003c4913793ac2ae7ef87b28ecb562955d026d5, ``exp_data/models/*.json``, a row a file; MIT.

Run: ``python benchmarks/scaling_fits.py --data FOLDER``; without it only ``recovery`` and ``coverage`` are measured.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import _bench
import numpy as np

sys.path[:0] = [str(_bench.ROOT)]

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from olm import scaling  # noqa: E402

# objective, alpha, beta: McLeish et al. 2025 (arXiv 2502.06857), Approach 3, all rows
GEMSTONES = {"gemstones_hot": (0.0019816129, 0.29287, 0.71287), "gemstones_cool_end": (0.0019640865, 0.30027, 0.58024)}
CHINCHILLA_COLUMNS = ("params_active_precise", "tokens", "final_loss")

# Muennighoff et al. 2023: five parameters from single-epoch runs, then the two decay constants
FIVE = {"E": np.exp(0.6254804), "A": np.exp(6.255414), "B": np.exp(7.3049974), "alpha": 0.3526596, "beta": 0.3526596}
DECAY, DATABLATIONS = {"R_D": 15.387756, "R_N": 5.309743}, {"objective": 0.0158259, "r2": 0.7722046}

# Gadre et al. 2024, C4 evaluation, fits on five runs
GADRE = {
    "c4_original": {"a": 141.28, "b": 189.52, "eta": 0.12124, "E": 1.5083},
    "rpj": {"a": 212.24, "b": 366.69, "eta": 0.13643, "E": 1.8366},
    "rw_original": {"a": 157.12, "b": 246.21, "eta": 0.12720, "E": 1.7345},
}
GADRE_ERRORS = {"rpj-open_lm_1b-32.0": 0.7103, "rpj-open_lm_7b-1.0": 0.7320}
GADRE_SMALL = ("d=96_l=8_h=4", "d=512_l=8_h=4", "d=576_l=24_h=8", "d=1024_l=24_h=8")

TRUTHS = {
    "chinchilla": {"E": 1.69337, "A": 406.4, "B": 410.72, "alpha": 0.33917, "beta": 0.28491},
    "kaplan_nd": {"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103},
    "over_training": {"E": 1.8366, "a": 212.24, "b": 366.69, "eta": 0.13643},
}
FLOPS = 1e21


def read(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def columns(rows: list[dict[str, str]], *names: str) -> list[np.ndarray]:
    """Columns of those names as numbers."""
    return [np.array([float(row[name]) for row in rows]) for name in names]


FRESH = """
import csv, json, sys, time
import numpy as np
begin = time.perf_counter()
from olm import scaling
imported = time.perf_counter()
rows = list(csv.DictReader(open(sys.argv[1])))
table = [np.array([float(row[name]) for row in rows]) for name in sys.argv[2].split(",")]
start, cpu = time.perf_counter(), time.process_time()
found = scaling.fit(*table)
print(json.dumps({"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu,
  "import_seconds": imported - begin, "objective": found.objective}))
"""


def fresh(path: Path) -> dict[str, float]:
    """Time of the 4,500-start fit in a new process without any compilation cache: compilation counts."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION_CACHE")}
    environment |= {"PYTHONPATH": str(_bench.ROOT), "JAX_ENABLE_COMPILATION_CACHE": "false"}
    command = [sys.executable, "-c", FRESH, str(path), ",".join(CHINCHILLA_COLUMNS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def approach3(data: Path, quick: bool, seed: int) -> dict[str, Any]:
    """Published objective and exponents; time; screened against unscreened."""
    results = {}
    for name, (objective, alpha, beta) in GEMSTONES.items():
        path = data / f"{name}.csv"
        table = columns(read(path), *CHINCHILLA_COLUMNS)
        found = scaling.fit(*table)
        results[name] = {
            **found.as_dict(),
            "published": {"objective": objective, "alpha": alpha, "beta": beta},
            "objective_difference": found.objective - objective,
            "alpha_difference": found.parameters["alpha"] - alpha,
            "beta_difference": found.parameters["beta"] - beta,
            "fresh_process": [fresh(path) for _ in range(1 if quick else 3)],
        }
        if not quick:
            whole, seconds = timed(lambda table=table: scaling.fit(*table, screen=None))
            results[name]["unscreened"] = {
                "objective_difference": whole.objective - found.objective,
                "starts": whole.starts_summary,
                "seconds": seconds,
            }
        print(f"{name}\n{found}\n")
    if not quick:
        results["resampled"] = screening(columns(read(data / "gemstones_hot.csv"), *CHINCHILLA_COLUMNS), seed)
    _bench.table(
        {
            "table": name,
            "objective − published": results[name]["objective_difference"],
            "α −": results[name]["alpha_difference"],
            "β −": results[name]["beta_difference"],
            **results[name]["starts"],
            "fresh process, s": min(run["seconds"] for run in results[name]["fresh_process"]),
        }
        for name in GEMSTONES
    )
    return results


def screening(table: list[np.ndarray], seed: int, repeats: int = 5) -> list[dict[str, float]]:
    """Screened against unscreened optimum on resampled and thinned tables, where optima are more."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(repeats):
        chosen = rng.choice(len(table[0]), size=60, replace=False)
        part = [column[chosen] for column in table]
        screened, whole = scaling.fit(*part), scaling.fit(*part, screen=None)
        rows.append({"screened": screened.objective, "unscreened": whole.objective, "rows": 60})
    _bench.table({**row, "difference": row["screened"] - row["unscreened"]} for row in rows)
    return rows


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """A call's result and its seconds."""
    begin = time.perf_counter()
    result = function()
    return result, time.perf_counter() - begin


def data_constrained(data: Path, quick: bool, seed: int) -> dict[str, Any]:
    """The published decay of repeated data: reproduced, and compared with the objective's least value."""
    N, D, U, loss = columns(
        read(data / "datablations_c4_runs_fit182.csv"), "N_params", "D_tokens", "unique_tokens", "val_loss_c4"
    )
    settings: dict[str, Any] = {"law": "data_constrained", "U": U}
    repeated = scaling.fit(N, D, loss, fixed={**FIVE, "R_N": DECAY["R_N"]}, **settings)
    near = scaling.fit(N, D, loss, fixed=FIVE, starts=[[DECAY["R_D"], DECAY["R_N"]]], **settings)
    best = scaling.fit(N, D, loss, fixed=FIVE, **settings)
    at_published = scaling.laws.data_constrained().predict({**FIVE, **DECAY}, {"N": N, "D": D, "U": U})
    residuals = np.abs(np.log(np.asarray(at_published, np.float64)) - np.log(loss))
    published = {
        "objective": float(np.where(residuals < 1e-3, residuals**2 / 2, 1e-3 * (residuals - 5e-4)).sum()),
        "r2": float(1 - np.sum((at_published - loss) ** 2) / np.sum((loss - loss.mean()) ** 2)),
    }
    results = {"R_D fitted": repeated, "both, from the published": near, "both, from the grid": best}
    rows = [{"fit": "published values", **DECAY, **published}]
    rows += [
        {
            "fit": name,
            "R_D": found.parameters["R_D"],
            "R_N": found.parameters["R_N"],
            "objective": found.objective,
            "r2": found.r2,
        }
        for name, found in results.items()
    ]
    _bench.table({**row, "objective": f"{row['objective']:.9f}", "r2": f"{row['r2']:.7f}"} for row in rows)
    return {
        "published": DATABLATIONS,
        "rows": rows,
        "objective_difference": repeated.objective - DATABLATIONS["objective"],
        "r2_difference": repeated.r2 - DATABLATIONS["r2"],
        "fits": {name: found.as_dict() for name, found in results.items()},
    }


def over_training(data: Path, quick: bool, seed: int) -> dict[str, Any]:
    """The published fits on five small runs, and their errors on the large ones."""
    rows = read(data / "gadre2024_models.csv")
    results: dict[str, Any] = {}
    for name, published in GADRE.items():
        runs = [row for row in rows if row["train_set"] == name]
        chosen = [
            row
            for row in runs
            if (row["model"] in GADRE_SMALL and float(row["token_multiplier"]) == 20)
            or (row["model"] == GADRE_SMALL[0] and float(row["token_multiplier"]) == 320)
        ]
        small = columns(chosen, "N", "D", "loss_c4_val")
        found = scaling.fit(*small, law="over_training", starts=[[1.0, 100.0, 100.0, 0.1]])
        grid = scaling.fit(*small, law="over_training")
        large = [row for row in runs if float(row["N"]) > 1e9]
        N, D, loss = columns(large, "N", "D", "loss_c4_val")
        error = 100 * np.abs(found.predict(N, D) / loss - 1)
        results[name] = {
            "parameters": found.parameters,
            "published": published,
            "status": found.status,
            "grid_objective_difference": grid.objective - found.objective,
            "errors_percent": dict(zip([row["name"] for row in large], error.tolist(), strict=True)),
        }
    errors = [
        {"run": run, "error %": f"{results['rpj']['errors_percent'][run]:.5f}", "published %": value}
        for run, value in GADRE_ERRORS.items()
    ]
    _bench.table(
        {"set": k, **{p: f"{v['parameters'][p]:.5f} ({v['published'][p]})" for p in v["published"]}} for k, v in results.items()
    )
    _bench.table(errors)
    results["error_differences"] = {run: results["rpj"]["errors_percent"][run] - value for run, value in GADRE_ERRORS.items()}
    return results


def bootstrap(data: Path, quick: bool, seed: int) -> dict[str, Any]:
    """1,000 refits: their time, and why their mean β is not the fitted one."""
    results = {}
    for name in GEMSTONES:
        rows = read(data / f"{name}.csv")
        table = columns(rows, *CHINCHILLA_COLUMNS)
        refits, key = 50 if quick else 1000, jax.random.key(seed)
        _, seconds_plain = timed(lambda table=table: scaling.fit(*table))
        found, seconds = timed(lambda table=table, refits=refits, key=key: scaling.fit(*table, bootstrap=refits, key=key))
        grouped = scaling.fit(*table, bootstrap=refits, key=key, groups=[row["run_name"] for row in rows])
        beta, value = found.samples[:, 4], found.parameters["beta"]
        counts = resampled_counts(key, refits, len(rows))
        results[name] = {
            "refits": refits,
            "seconds": seconds - seconds_plain,
            "report": found.bootstrap.summary(),
            "beta": {"fitted": value, "mean": float(beta.mean()), "median": float(np.median(beta)), "sd": float(beta.std())},
            "intervals": {
                "delta": found.intervals["beta"],
                "rows": found.bootstrap_intervals["beta"],
                "runs": grouped.bootstrap_intervals["beta"],
            },
            "histogram": dict(
                zip(["edges", "counts"], [a.tolist() for a in np.histogram(beta, np.arange(0.1, 1.3, 0.05))[::-1]], strict=True)
            ),
            "profile": profile(table, found, np.arange(-0.3, 0.301, 0.05)),
            "tokens": influence(table[1], counts, beta),
            "full_grid": from_the_grid(table, found, counts, 1 if quick else 5),
            "rows": influential_rows(rows, found, counts, beta),
        }
        summary = results[name]
        print(f"\n{name}: {refits} refits in {summary['seconds']:.1f} s, {summary['report']}")
        _bench.table([summary["beta"]])
        _bench.table({"interval": kind, "low": low, "high": high} for kind, (low, high) in summary["intervals"].items())
        _bench.table(summary["profile"])
        _bench.table(summary["full_grid"])
        _bench.table(summary["tokens"])
        _bench.table(summary["rows"][:12])
    return results


def resampled_counts(key: Any, refits: int, rows: int) -> np.ndarray:
    """How often each refit drew each row [refits, rows], as `olm.scaling` draws them."""
    draws = np.asarray(jax.random.randint(key, (refits, rows), 0, rows, dtype=jnp.int32))
    return np.stack([np.bincount(draw, minlength=rows) for draw in draws]).astype(float)


def profile(table: list[np.ndarray], found: scaling.Fit, offsets: np.ndarray) -> list[dict[str, float]]:
    """The least objective with β held: one flat, lopsided valley, or several."""
    rows = []
    for offset in offsets:
        beta = found.parameters["beta"] + float(offset)
        held = scaling.fit(*table, fixed={"beta": beta})
        rows.append(
            {"beta": beta, "offset": float(offset), "excess": held.objective - found.objective, "E": held.parameters["E"]}
        )
    return rows


def from_the_grid(table: list[np.ndarray], found: scaling.Fit, counts: np.ndarray, refits: int) -> list[dict[str, float]]:
    """The refits of least β once more from all 4,500 starts: is there an optimum that the warm start misses."""
    rows = []
    for i in np.argsort(found.samples[:, 4])[:refits]:
        whole = scaling.fit(*table, weights=counts[i])
        kept = found.bootstrap.objectives[i]
        rows.append(
            {
                "refit": int(i),
                "beta": found.samples[i, 4],
                "beta from the grid": whole.parameters["beta"],
                "objective": kept,
                "difference": whole.objective - kept,
            }
        )
    return rows


def influence(tokens: np.ndarray, counts: np.ndarray, beta: np.ndarray) -> list[dict[str, float]]:
    """Share of the variance of β over refits that is linear in how often the rows of each tenth of token counts were drawn."""
    order = np.array_split(np.argsort(tokens, kind="stable"), 10)
    centred = beta - beta.mean()
    rows = []
    for part in order:
        x = counts[:, part] - counts[:, part].mean(0)
        explained = x @ np.linalg.lstsq(x, centred, rcond=None)[0]
        share = float(explained.var() / beta.var())
        chance = len(part) / len(beta)  # what as many columns of noise would explain
        rows.append({"least tokens": tokens[part].min(), "most tokens": tokens[part].max(), "share": share, "chance": chance})
    return rows


def influential_rows(
    rows: list[dict[str, str]], found: scaling.Fit, counts: np.ndarray, beta: np.ndarray
) -> list[dict[str, Any]]:
    """Rows whose presence moves β most, largest effect first."""
    table = []
    for i, row in enumerate(rows):
        without, there = counts[:, i] == 0, counts[:, i] > 0
        table.append(
            {
                "row": i + 1,
                "run": row["run_name"],
                "tokens": float(row["tokens"]),
                "N": float(row["params_active_precise"]),
                "residual": float(found.residuals[i]),
                "mean beta without": float(beta[without].mean()),
                "mean beta with": float(beta[there].mean()),
            }
        )
    return sorted(table, key=lambda entry: -abs(entry["mean beta with"] - entry["mean beta without"]))


def optimal_size(name: str) -> Callable[[Mapping[str, Any]], Any]:
    """Compute-optimal N for `FLOPS` = 6ND as a function of a law's parameters."""

    def chinchilla(p: Mapping[str, Any]) -> Any:
        balance = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / (p["alpha"] + p["beta"]))
        return balance * (FLOPS / 6) ** (p["beta"] / (p["alpha"] + p["beta"]))

    def kaplan_nd(p: Mapping[str, Any]) -> Any:
        q = p["alpha_N"] / p["alpha_D"]
        return jnp.exp((jnp.log(q * FLOPS / 6) + q * jnp.log(p["N_c"]) - jnp.log(p["D_c"])) / (q + 1))

    def over_training(p: Mapping[str, Any]) -> Any:
        return jnp.sqrt(FLOPS / 6) * (p["a"] / p["b"]) ** (1 / (4 * p["eta"]))

    return {"chinchilla": chinchilla, "kaplan_nd": kaplan_nd, "over_training": over_training}[name]


def synthetic(name: str, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[list[float]]]:
    """N, D and noiseless loss on a square of sizes and token counts, and 32 starts of the law's grid."""
    law, truth = scaling.laws.named(name), TRUTHS[name]
    N, D = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e10, side), np.geomspace(1e9, 1e12, side)))
    with jax.enable_x64(True):
        clean = np.asarray(law.predict(truth, {"N": jnp.asarray(N), "D": jnp.asarray(D)}))
    posed = scaling.problem.pose(law, {"N": N, "D": D}, clean)
    grid = scaling.problem.grid(posed)
    starts = posed.natural(grid[np.linspace(0, len(grid) - 1, 32).astype(int)]).tolist()
    return N, D, clean, starts


def recovery(quick: bool, seed: int, repeats: int = 200, noise: float = 0.01) -> dict[str, Any]:
    """How often 95% delta-method intervals hold the truth, 1% noise."""
    results: dict[str, Any] = {}
    repeats = 10 if quick else repeats
    for name, truth in TRUTHS.items():
        N, D, clean, starts = synthetic(name, side=10)
        best, rng = optimal_size(name), np.random.default_rng(seed)
        held: dict[str, list[bool]] = {}
        converged, width = 0, []
        for _ in range(repeats):
            found = scaling.fit(N, D, clean * np.exp(noise * rng.normal(size=len(N))), law=name, starts=starts)
            converged += found.status == "converged"
            for parameter, value in truth.items():
                low, high = found.intervals[parameter]
                held.setdefault(parameter, []).append(low <= value <= high)
            _, low, high = found.interval(best, log=True)
            held.setdefault("optimal N", []).append(low <= float(best(truth)) <= high)
            width.append(high / low)
        results[name] = {
            "rows": len(N),
            "repeats": repeats,
            "noise": noise,
            "converged": converged,
            "median_width_optimal_N": float(np.median(width)),
            "covered": {parameter: float(np.mean(values)) for parameter, values in held.items()},
        }
    _bench.table({"law": name, **{k: f"{v:.3f}" for k, v in r["covered"].items()}} for name, r in results.items())
    return results


def coverage(quick: bool, seed: int, repeats: int = 50, refits: int = 200, noise: float = 0.01) -> dict[str, Any]:
    """How often 95% bootstrap intervals hold the truth: Chinchilla's law, 1% noise, 50 tables of 200 refits."""
    repeats, refits = (3, 20) if quick else (repeats, refits)
    truth, best = TRUTHS["chinchilla"], optimal_size("chinchilla")
    N, D, clean, starts = synthetic("chinchilla", side=10)
    rng = np.random.default_rng(seed)
    held: dict[str, list[bool]] = {}
    counts = {"other_basin": 0, "subset": 0, "moved": 0, "failed": 0}
    for repeat in range(repeats):
        loss = clean * np.exp(noise * rng.normal(size=len(N)))
        found = scaling.fit(N, D, loss, starts=starts, bootstrap=refits, key=jax.random.key(1000 * seed + repeat))
        for parameter, value in truth.items():
            low, high = found.bootstrap_intervals[parameter]
            held.setdefault(parameter, []).append(low <= value <= high)
        _, low, high = found.interval(best, method="bootstrap")
        held.setdefault("optimal N", []).append(low <= float(best(truth)) <= high)
        counts = {name: value + getattr(found.bootstrap, name) for name, value in counts.items()}
    covered = {name: float(np.mean(values)) for name, values in held.items()}
    _bench.table([{name: f"{value:.2f}" for name, value in covered.items()}])
    print(counts)
    return {"repeats": repeats, "refits": refits, "rows": len(N), "noise": noise, "covered": covered, "counts": counts}


PUBLIC = {"approach3": approach3, "data_constrained": data_constrained, "over_training": over_training, "bootstrap": bootstrap}
SYNTHETIC = {"recovery": recovery, "coverage": coverage}


def main() -> None:
    parser = _bench.parser(__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, default=None, help="folder with the public tables; this file says where they are from"
    )
    parser.add_argument("--only", nargs="+", choices=[*PUBLIC, *SYNTHETIC], default=None, help="sections to measure")
    args = parser.parse_args()
    if len(args.seeds) > 1:
        parser.error("give one seed: it fixes resampling and noise")
    chosen = args.only or [*(PUBLIC if args.data else ()), *SYNTHETIC]
    if args.data is None and set(chosen) & set(PUBLIC):
        parser.error(f"--data is needed for {', '.join(name for name in chosen if name in PUBLIC)}")
    seed, results = args.seeds[0], {}
    for name in chosen:
        print(f"\n== {name}")
        begin = time.perf_counter()
        results[name] = PUBLIC[name](args.data, args.quick, seed) if name in PUBLIC else SYNTHETIC[name](args.quick, seed)
        results[name]["section_seconds"] = time.perf_counter() - begin
        # Two files: who has no public tables measures the second one alone.
        for file, sections in (("scaling_fits", PUBLIC), ("scaling_recovery", SYNTHETIC)):
            if name in sections:
                _bench.save(file, {"sections": {part: found for part, found in results.items() if part in sections}}, args)


if __name__ == "__main__":
    main()
