"""Draw the pictures of README.md and docs/results.md.

    python docs/figure.py               # all: three searches of 40 evaluations, some minutes on two cores
    python docs/figure.py --recorded    # those that need only the files of benchmarks/results

- `learning_curves`: the perceptron of the paper, learned with uniform weights and with found policies. Left, both sides at the
  paper's learning rate; right, each at its own best one by validation. The loss is that of 8,192 held-out examples.
- `scaling_improvement`: the scaling law of uniform weights and of the found policy at every rung of the ladder, in both claims.
- `law_language`: weights and contributions of clean and corrupted examples along the run.
- `continual_*`: replay shares, published statements and searched schedules of continual pre-training.
- `control_*`: how far methods of controlled generation are from the posterior, by the constraint's rate and by number of samples.
- `memory_*`: energies of an associative memory, what its theory says of training, and what is measured.
- `policies_compared_*`: the area ratio of every policy beside what it cost.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import olm
from olm import plots
from olm.memory import energy
from olm.plots import memory as memory_plots
from olm.plots.control import divergences, sample_efficiency
from olm.plots.law import by_group
from olm.plots.scaling import improvement
from olm.search import best_rates
from olm.tasks.perceptron import perceptron

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "docs" / "figures"


def keep(figure: Any, name: str) -> None:
    """Save the drawing that stays sharp."""
    svg, png = plots.save(figure, FIGURES, name)
    png.unlink()
    print(f"wrote {svg.relative_to(ROOT)}")


def learning_curves() -> None:
    """Search and draw."""
    task, key, settings = perceptron(jax.random.key(0)), jax.random.key(1), {"steps": 2000, "evaluations": 40, "progress": True}
    same = olm.find_policy(task, olm.Learner(optax.sgd(0.1)), key=key, **settings)
    grid = best_rates(task, lambda rate: olm.Learner(optax.sgd(rate)), learning_rate=12.8, key=key, searches=2, **settings)
    rates = grid.learning_rates
    with plots.style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.6, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        plots.loss_curves(same.baseline.test, same.curve.test, left, label="held-out loss")
        left.set_title(f"both at η = 0.1: {same.acceleration:.0f}× faster, area × {same.area_ratio:.2f}", loc="left")
        plots.loss_curves(grid.baseline.test, grid.found.test, right, label="held-out loss", log_x=True)
        title = f"each at its best η, {rates['uniform']:g} and {rates['found']:g}: area × {grid.claim['area_ratio']:.2f}"
        right.set_title(title, loc="left")
        keep(figure, "learning_curves")


def record(name: str) -> dict[str, Any]:
    """A file of benchmarks/results."""
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def scaling_improvement() -> None:
    """The first seed's curves with the law fitted by the published criterion, as Figure 11 of Gu et al. 2024."""
    claims = {claim: parts["ladder"]["rungs"] for claim, parts in record("scaling_improvement")["claims"].items()}
    with plots.style():
        from matplotlib.figure import Figure

        wide = max(map(len, claims.values()))
        figure = Figure(figsize=(4.6 * wide, 3.9 * len(claims)), layout="constrained")
        for row, (claim, rungs) in zip(figure.subplots(len(claims), wide, squeeze=False), claims.items(), strict=True):
            for ax, (rung, found) in zip(row, rungs.items(), strict=True):
                run, curves = found["runs"][0], found["curves"]
                fit, seed = run["correlation"], str(run["seed"])
                fits = (fit["B_base"], fit["beta_base"]), (fit["B_mine"], fit["beta_mine"])
                sides = (np.asarray(curves[side][seed]) for side in ("base", "mine"))
                improvement(curves["steps"], *sides, fit["L0"], fits, ax, t0=max(fit["t0"], 1.0))
                ax.set_title(f"({claim}) {rung.rsplit(' ', 1)[0]}: {ax.get_title('left')}", loc="left", fontsize=9.5)
        keep(figure, "scaling_improvement")


def policies_compared(task: str) -> None:
    """Both claims beside each other."""
    result = record(f"policies_compared_{task}")
    with plots.style():
        from matplotlib.figure import Figure

        panels = {
            claim: [
                {
                    "name": name.removesuffix(f" ({claim})"),
                    **{end: measures["area_ratio"][end] for end in ("mean", "low", "high")},
                    "searched": "search" in name,
                    "cost": f"{measures['obtain_products']['mean']:.0f} + {measures['run_products']['mean']:.1f}",
                }
                for name, measures in result["summary"].items()
                if name.endswith(f"({claim})") and not name.startswith("uniform")
            ]
            for claim in "ab"
        }
        figure = Figure(figsize=(11.5, 1.3 + 0.32 * len(panels["a"])), layout="constrained")
        for (claim, rows), ax in zip(panels.items(), figure.subplots(1, 2), strict=True):
            plots.policies_compared(rows, ax, xlabel="area ratio to uniform weights, held out")
            words = "one learning rate" if claim == "a" else "each at its best rate"
            ax.set_title(f"({claim}) {words}", loc="left")
            ax.text(1.01, -0.75, "training runs\nto find + to use", transform=ax.get_yaxis_transform(), va="center", fontsize=7.5)
        figure.suptitle(f"{task}: what each policy gains and costs", x=0.01, ha="left")
        keep(figure, f"policies_compared_{task}")


def law_language() -> None:
    """Corrupted and clean examples along the run, means over seeds and tenths of the run."""
    result = record("law_language")
    runs, tenths = result["runs"], np.arange(0.05, 1, 0.1)

    def mean(side: str, what: str) -> np.ndarray:
        return np.mean([run[side]["groups_by_tenth"][what] for run in runs], 0)

    with plots.style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10.4, 3.8), layout="constrained")
        shown = {"weight": "weight relative to uniform", "test": "mean contribution, held out"}
        for (what, label), ax in zip(shown.items(), figure.subplots(1, 2), strict=True):
            by_group(tenths, mean("fresh targets", what), ax, baseline_Sx2=mean("uniform", what), ylabel=label)
            ax.set_xlabel("share of the training run")
        figure.suptitle(f"stories, half of them corrupted, mean of {len(runs)} seeds", x=0.01, ha="left")
        keep(figure, "law_language")


def continual() -> None:
    """What replay keeps and costs, the statements, and what the search found."""
    result = record("continual")
    tables = result["tables"]
    with plots.style():
        from matplotlib.figure import Figure

        shown = [name for name in tables if name.startswith("stories")]
        figure = Figure(figsize=(11.0, 3.9 * ((len(shown) + 1) // 2)), layout="constrained")
        for name, ax in zip(shown, figure.subplots(-(-len(shown) // 2), 2).ravel(), strict=True):
            plots.replay_tradeoff(tables[name]["replay"], ax)
            ax.set_title(name, loc="left", pad=48)  # above the legend
        keep(figure, "continual_replay")
        figure = Figure(figsize=(15.0, 7.0), layout="constrained")
        plots.statements({name: of["orderings"] for name, of in tables.items()}, figure.subplots())
        keep(figure, "continual_statements")
        searched = [name for name in tables if "searched" in tables[name]]
        figure = Figure(figsize=(11.0, 4.2), layout="constrained")
        for name, ax in zip(searched, figure.subplots(1, len(searched)), strict=True):
            runs = tables[name]["searched"]
            start = tables[name]["start"]
            plots.searched_schedule(
                [run["shares"] for run in runs], [run["rates"] for run in runs], start["rates"], ax, base_shares=start["shares"]
            )
            ax.set_title(name, loc="left")
        keep(figure, "continual_searched")
    continual_tables(tables)


def continual_tables(tables: dict[str, Any]) -> None:
    """Learning rates, warm-up, three datasets, merging: a figure for each table, a line of panels for each setting."""
    columns = {
        "rates": {"new": "loss on the new data (nats)", "forgetting": "forgetting (nats)"},
        "warmup": {"new": "loss on the new data (nats)", "forgetting": "forgetting (nats)"},
        "infinite": {"mean": "mean loss over three datasets (nats)", "dataset 3": "loss on the last one (nats)"},
        "ties": {"old": "loss on the old data (nats)", "new": "loss on the new data (nats)"},
    }
    with plots.style():
        from matplotlib.figure import Figure

        for part, measures in columns.items():
            shown = {name: of[part] for name, of in tables.items() if part in of}
            heights = [len(rows) + 2 for rows in shown.values()]
            figure = Figure(figsize=(10.0, 0.27 * sum(heights) + 0.6), layout="constrained")
            grid = figure.subplots(len(shown), 2, gridspec_kw={"height_ratios": heights})
            for (name, rows), panels in zip(shown.items(), grid, strict=True):
                for (measure, label), ax in zip(measures.items(), panels, strict=True):
                    plots.interval_rows(rows, measure, ax, xlabel=label)
                panels[0].set_title(name, loc="left")
            keep(figure, f"continual_{part}")
        shown = {name: of["same"] for name, of in tables.items() if "same" in of}
        figure = Figure(figsize=(10.0, 2.4), layout="constrained")
        for (name, rises), ax in zip(shown.items(), figure.subplots(1, len(shown)), strict=True):
            rows = {what: {"rise": rise} for what, rise in rises.items()}
            plots.interval_rows(rows, "rise", ax, xlabel="largest rise of the old data's loss (nats)")
            ax.set_title(name, loc="left")
        keep(figure, "continual_same")


DRAWN = (
    "masking", "GeLaTo, chain of 8 states", "NADO", "NADO, explored", "DiNADO-Soft", "DiNADO-Soft, explored",
    "DiNADO-Hard, explored",
)  # fmt: skip


def control() -> None:
    """KL(q* ‖ q) of every method against R(x), and against the number of samples."""
    summary = record("control")["summary"]

    def intervals(cells: list[dict[str, Any]]) -> np.ndarray:
        """(mean, low, high) of each cell's divergence, NaN where a run has none."""
        found = [[cell.get("kl", {}).get(part) for part in ("mean", "low", "high")] for cell in cells]
        return np.array(found, np.float64)

    with plots.style():
        groups = {name: cells for name, cells in summary.items() if name.startswith("sparse-")}
        tables = {name: intervals([cells[name] for cells in groups.values()]) for name in DRAWN}
        ax = plots.new_figure(9.0, 4.8)
        divergences([cells["task"]["rate"]["mean"] for cells in groups.values()], tables, ax)
        keep(ax.figure, "control_rates")
        budget = summary["budget"]
        sizes = sorted({int(name.rsplit(", ", 1)[1]) for name in budget if name != "task"})
        methods = dict.fromkeys(name.rsplit(", ", 1)[0] for name in budget if name != "task")
        ax = plots.new_figure(8.0, 4.2)
        tables = {name: intervals([budget.get(f"{name}, {n}", {}) for n in sizes]) for name in methods}
        sample_efficiency(sizes, tables, ax, base=float(-np.log(budget["task"]["rate"]["mean"])))
        keep(ax.figure, "control_samples")


def memory_energies() -> None:
    """The landscapes of Figure 1 of Niu et al. 2024, with paths of both kinds of descent."""
    line, plane = np.array([[-2.0], [0.0], [1.0]]), np.array([[-2.0, -0.5], [0.2, -0.3], [1.5, 1.5]])
    x, y = np.linspace(-3, 2.5, 400), np.linspace(-2, 2.8, 200)
    states = x[:, None]
    one = {f"Hopfield, β = {beta}": energy.hopfield_energy(states, line, beta) for beta in (1, 2)}
    one |= {"layer, E": energy.layer_energy(states, line), "nearest neighbour, g": energy.nearest_energy(states, line)}
    grid = np.stack(np.meshgrid(np.linspace(-3, 2.5, 200), y), -1)
    starts = np.array([[-0.9, 1.9], [-1.2, -1.6], [2.2, -0.9], [0.6, 2.4]])
    paths = energy.descend(starts, [plane], steps=60, radius=0.25).path
    with plots.style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11.0, 4.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        memory_plots.energy_curves(x, {name: np.asarray(values) for name, values in one.items()}, line[:, 0], left)
        memory_plots.energy_map(
            np.linspace(-3, 2.5, 200), y, np.asarray(energy.layer_energy(grid, plane)), plane,
            [np.asarray(paths[:, i]) for i in range(len(starts))], right,
        )  # fmt: skip
        keep(figure, "memory_energies")


def memory(name: str) -> None:
    """Shares of a corpus, plateaus against entropy, D* against N."""
    result = record(name)
    with plots.style():
        for corpus, part in result["shares"].items():
            rows = [row for row in part["rows"].values() if row["width"] == max(r["width"] for r in part["rows"].values())]
            steps = [each["step"] for each in rows[0]["history"]]
            curves = {
                f"{100 * row['share']:g}%, {row['tokens']:,} tokens": tuple(
                    np.array([each[side] for each in row["history"]]).mean(1) for side in ("train", "validation")
                )
                for row in rows
            }
            ax = plots.new_figure(8.4, 4.2)
            memory_plots.training_and_validation(steps, curves, ax, floor=rows[0]["entropy"], bound=1.0)
            ax.set_title(f"width {rows[0]['width']}, {corpus}", loc="left")
            keep(ax.figure, f"{name}_shares_{corpus}")
        rows = [
            {"name": title.replace(", sentence and copy or question", ""), "entropy": row["entropy"],
             "loss": row["train"]["mean"], "low": row["train"]["low"], "high": row["train"]["high"]}
            for title, row in result["questions"]["rows"].items()
        ]  # fmt: skip
        ax = plots.new_figure(7.6, 4.6)
        memory_plots.plateaus(rows, ax)
        keep(ax.figure, f"{name}_plateaus")
        rows = list(result["data"]["rows"].values())
        needed = {
            "at the validation minimum": [np.nanmean(row["needed"]) for row in rows],
            "at the end of training": [np.nanmean(np.array(row["needed_at_end"], float)) for row in rows],
        }
        needed["theory"] = [row["theory_tokens"] for row in rows]
        found = [result["data"][f"exponent_{which}layer_parameters"] for which in ("", "at_end_")]
        ax = plots.new_figure(8.6, 4.6)
        exponents: dict[str, Any] = dict(zip(needed, ((one["mean"], one["low"], one["high"]) for one in found), strict=False))
        exponents["theory"] = result["data"]["exponent_theory_layer_parameters"]
        memory_plots.data_needed([row["layer_parameters"] for row in rows], needed, ax, exponents=exponents)
        keep(ax.figure, f"{name}_data_needed")


def main() -> None:
    """Draw what was asked for."""
    if sys.argv[1:] not in ([], ["--recorded"]):
        sys.exit(f"{' '.join(sys.argv[1:])}: give --recorded, or nothing")
    if not sys.argv[1:]:
        learning_curves()
    scaling_improvement()
    law_language()
    for path in sorted((ROOT / "benchmarks" / "results").glob("policies_compared_*.json")):
        policies_compared(path.stem.removeprefix("policies_compared_"))
    continual()
    if (ROOT / "benchmarks" / "results" / "control.json").exists():
        control()
    memory_energies()
    for name in ("memory", "memory_gpu"):
        if (ROOT / "benchmarks" / "results" / f"{name}.json").exists():
            memory(name)


if __name__ == "__main__":
    main()
