"""Does a found policy obey the Learning Law? Similarity, dropped examples and distance from an optimum, and what measuring costs.

The perceptron of the paper (D = 128, N = 4096, T = 2000, η = 0.1; Gu et al. 2024, section 4.2) with policies found

- on the paper's 512 fixed targets by mirror descent, 40 and 400 evaluations ("target" is those 512);
- on the 512 by projected gradient, 40 and 500 evaluations, whose zeros are exact;
- on 4,096 fresh target draws an evaluation, mirror descent, 40 evaluations ("target" is a further draw of 4,096, as in the row
  of uniform weights beside it);

and language on the third rung of `scaling_improvement` with the learner of its claim (b), ten evaluations, fresh targets
("target" is the fixed sample, which this search does not see).
"test" is held out everywhere. Along the first search the path to the policy is measured too
(Figures 6 to 8): a search writes down no policies on its way, so the points are searches of 1, 2, 4 … evaluations with the same
key, each of which returns the best of the same sequence of evaluations.

"Harmful" is an example whose contribution is 0 or less; a weight is zero up to 0, 10⁻³, 10⁻², 10⁻¹ of 1/N, and beside each
fraction of the harmful examples stands the fraction of all. The cost is that of a study over that of `olm.policy_gradient` with
the same adjoint, run alternately in one process.

    python benchmarks/law.py [--quick] [--seeds 0 1 2] [--only cost perceptron path language] [--figures DIR]
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import _bench
import jax
import numpy as np
import optax
from language import generated
from perceptron import RATE, learner, setting
from scaling_improvement import PRESETS

import olm
from olm import law
from olm.search import projected_gradient
from olm.tasks.language import CPU

FIXED = {"target_draws": 0, "validation_fraction": 0}
# On the scale of the mean loss: 2e-4 on the paper's sum of losses over T = 2000 steps, where its own 5e-6 is 0.01.
PROJECTED = 0.4
SEARCHES: dict[str, dict[str, Any]] = {
    "512 targets": {**FIXED, "evaluations": 40},
    "512 targets, 400 evaluations": {**FIXED, "evaluations": 400},
    "512 targets, projected gradient": {**FIXED, "evaluations": 40, "method": projected_gradient(PROJECTED)},
    "512 targets, projected gradient, 500 evaluations": {**FIXED, "evaluations": 500, "method": projected_gradient(PROJECTED)},
    "fresh targets": {"evaluations": 40},
}


def numbers(study: law.Study) -> dict[str, Any]:
    """A study's summary as one flat row of numbers."""
    summary, properties = study.summary(), study.properties()
    row: dict[str, Any] = {"gap": summary["gap"]}
    for name, ratio in summary["compression_ratio"].items():
        row |= {
            f"area_{name}": summary["area"][name],
            f"cr_{name}": ratio["consistent"],
            f"cr_paper_mixed_{name}": ratio["paper_mixed"],
        }
    for name in study.names:
        noisy = properties["noisy"][name]
        similar = summary["similarity"][name]
        row |= {f"sim_{name}": similar["above_zero"], f"sim_active_{name}": similar["mean"]}
        row |= {f"harmful_share_{name}": noisy["share"], f"harmful_weight_{name}": noisy["weight"]}
    for place, threshold in enumerate(properties["thresholds"]):
        row[f"zero@{threshold:g}"] = properties["zero"][place]
        for name in study.names:
            row[f"harmful_zero_{name}@{threshold:g}"] = properties["noisy"][name]["zero"][place]
            redundant = properties["redundant"][name]
            row[f"helpful_zero_{name}@{threshold:g}"] = redundant["zero"][place]
            row[f"steps_with_helpful_zero_{name}@{threshold:g}"] = redundant["steps_with_zero"][place]
    learned = properties["learned"]
    row |= {"learned_share": learned["share"], "learned_small": learned["small"], "small_of_all": learned["small_of_all"]}
    for name, groups in summary.get("groups", {}).items():
        row |= {f"{group}_{name}": value for group, value in groups.items()}
    return row


def by_tenth(study: law.Study) -> dict[str, Any]:
    """The groups' numbers, averaged over tenths of the run."""
    parts = np.array_split(np.arange(len(study.at)), 10)
    return {name: [np.nanmean(x[part], axis=0).tolist() for part in parts] for name, x in study.groups().items()}


def perceptron(seed: int, quick: bool) -> tuple[dict[str, dict[str, Any]], dict[str, law.Study]]:
    """Uniform weights and the searches."""
    task, steps, key = setting(seed, quick)
    fresh, learn = task._replace(target=task.draw(jax.random.key(2000 + seed), 4096)), learner(RATE)
    arguments: dict[str, Any] = {
        "steps": steps,
        "key": jax.random.split(key)[0],
        "adjoint": olm.adjoint.direct(),
        "keep": 512,
        "every": 1,
    }
    uniform = olm.policy.uniform()
    studies = {
        "uniform": law.study(task, learn, uniform, (), **arguments),
        "uniform, fresh targets": law.study(fresh, learn, uniform, (), **arguments),
    }
    rows = {name: numbers(study) for name, study in studies.items()}
    for name, search in SEARCHES.items():
        start = time.perf_counter()
        settings = {"adjoint": olm.adjoint.direct(residuals=True), **search, **({"evaluations": 4} if quick else {})}
        solution = olm.find_policy(task, learn, steps=steps, key=key, **settings)
        seconds = time.perf_counter() - start
        there = task if "target_draws" in search else fresh
        studies[name] = law.study(there, learn, solution.policy, solution.phi, **arguments)
        rows[name] = {
            **numbers(studies[name]),
            "acceleration_target": solution.summary()["on_target"]["acceleration"],
            "acceleration_test": solution.acceleration,
            "search_seconds": seconds,
        }
        print(f"seed {seed}, {name}: {seconds:.0f} s", flush=True)
    return rows, studies


def path(seed: int, quick: bool) -> tuple[dict[str, Any], dict[str, list[law.Study]]]:
    """The first search at 1, 2, 4 … evaluations: rows for target and test, and the fit of Figure 7."""
    task, steps, key = setting(seed, quick)
    learn, studies, counts = learner(RATE), [], (1, 2, 3, 4) if quick else (1, 2, 4, 8, 12, 16, 24, 32, 40)
    arguments: dict[str, Any] = {"steps": steps, "key": jax.random.split(key)[0], "adjoint": olm.adjoint.direct(), "every": 1}
    studies.append(law.study(task, learn, olm.policy.uniform(), (), **arguments))
    for count in counts:
        adjoint = olm.adjoint.direct(residuals=True)
        solution = olm.find_policy(task, learn, steps=steps, key=key, evaluations=count, adjoint=adjoint, **FIXED)
        studies.append(law.study(task, learn, solution.policy, solution.phi, **arguments))
    found: dict[str, Any] = {"evaluations": [0, *counts]}
    for name in ("target", "test"):
        rows = law.trend(studies, name)
        found[name] = {"rows": rows}
        try:
            pairs = ([row[column] for row in rows] for column in ("compression_ratio", "similarity"))
            found[name]["fit"] = law.fit_similarity(*pairs)._asdict()
        except olm.errors.InputError as error:
            found[name]["fit"] = str(error)
    return found, {"path": studies}


def language(seed: int, quick: bool) -> tuple[dict[str, dict[str, Any]], dict[str, law.Study]]:
    """Uniform weights and the preset's search; half of the training sentences are corrupted."""
    rung = PRESETS["quick"]["ladder"][0] if quick else PRESETS["cpu"]["ladder"][2]
    built, steps, key, learn = rung.language(seed), rung.steps, jax.random.key(1000 + seed), rung.clipped(rung.own_rate)
    search = {"evaluations": rung.evaluations, "target_draws": rung.draws, "adjoint": olm.adjoint.direct()}
    solution = olm.find_policy(built.task, learn, steps=steps, key=key, **search)
    arguments: dict[str, Any] = {
        "steps": steps,
        "key": jax.random.split(key)[0],
        "adjoint": olm.adjoint.direct(),
        "keep": 256,
        "every": 1,
    }
    arguments |= {"group": np.asarray(built.corrupted), "quantile": 0.05}
    studies = {
        "uniform": law.study(built.task, learn, olm.policy.uniform(), (), **arguments),
        "fresh targets": law.study(built.task, learn, solution.policy, solution.phi, **arguments),
    }
    rows = {name: {**numbers(study), "groups_by_tenth": by_tenth(study)} for name, study in studies.items()}
    rows["fresh targets"]["acceleration_test"] = solution.acceleration
    return rows, studies


def cost(quick: bool, repeats: int) -> list[dict[str, Any]]:
    """Time of a study over time of the policy gradient."""
    linear, steps, _ = setting(0, quick)
    linear = linear._replace(test=jax.tree.map(lambda x: x[:512], linear.test))
    text = generated(0, quick).task
    text = text._replace(test=jax.tree.map(lambda x: x[:256], text.test))
    few = 5 if quick else 30
    rows, adjoints = [], {"stored": olm.adjoint.direct(), "segmented": olm.adjoint.segmented()}
    sides = {"perceptron": (linear, steps, learner(RATE)), "transformer": (text, few, olm.Learner(optax.sgd(CPU.rate)))}
    for name, (task, length, learn) in sides.items():
        policy, size = olm.policy.table(), olm.learner.examples(task.train)
        phi = jax.numpy.full((length, size), 1 / size, jax.numpy.result_type(float))
        arguments: dict[str, Any] = {"steps": length, "key": jax.random.key(0)}
        for label, adjoint in adjoints.items() if name == "perceptron" else [("stored", adjoints["stored"])]:
            for every in (1, 2, 8):
                for held_out in (False, True):

                    def measured(a=adjoint, e=every, h=held_out, t=task, x=learn, p=policy, f=phi, k=arguments) -> Any:
                        return law.study(t, x, p, f, adjoint=a, every=e, held_out=h, **k).seen["gap"]

                    def gradient(a=adjoint, t=task, x=learn, p=policy, f=phi, k=arguments) -> Any:
                        return olm.policy_gradient(t, x, p, f, adjoint=a, **k)

                    sample = "target and as many held out" if held_out else "target only"
                    what = f"{name}: study of every {every}. step ({sample}) / policy gradient ({label})"
                    rows.append({"what": what, **_bench.paired_ratio(measured, gradient, repeats)})
    _bench.table({key: row[key] for key in ("what", "ratio", "a_median_s", "b_median_s")} for row in rows)
    return rows


def draw(folder: Path, claim: str, studies: dict[str, Any]) -> None:
    """The figures of a claim's first seed."""
    from olm import plots
    from olm.plots import law as law_plots

    def keep(name: str, drawing: Any) -> None:
        with plots.style():
            axes = plots.new_figure(6.8, 4.0)
            drawing(axes)
            plots.save(axes.figure, folder, name)

    if claim == "path":
        along = studies["path"]
        for name in ("target", "test"):
            rows = law.trend(along, name)
            ratios = [row["compression_ratio"] for row in rows]
            losses = [study.curves[name][:-1] for study in along]
            similar = [study.similarity(name) for study in along]
            keep(f"path_similarity_{name}", lambda ax, a=(losses, similar, ratios): law_plots.similarity_against_loss(*a, ax))
            fit = law.fit_similarity(ratios, [row["similarity"] for row in rows])
            shown = (ratios, [row["similarity"] for row in rows], fit)
            keep(f"path_trend_{name}", lambda ax, s=shown: law_plots.similarity_trend(s[0], s[1], ax, fit=s[2][:3]))
            thresholds = [f"{z:g}" for z in along[0].settings.thresholds]
            lines = {
                f"{z} of 1/N": ([row[f"harmful_zero@{z}"] for row in rows], [row[f"zero@{z}"] for row in rows])
                for z in thresholds
            }
            keep(f"path_dropped_{name}", lambda ax, a=(ratios, lines): law_plots.dropped_examples(*a, ax))
        return
    for name, study in studies.items():
        if name.startswith("uniform"):
            continue
        base = studies["uniform, fresh targets" if claim == "perceptron" and name == "fresh targets" else "uniform"]
        word = "_".join(name.replace(",", "").split())
        for file, figure in law_plots.figures(study.tables(), base.tables()).items():
            keep(f"{claim}_{word}_{file}", figure.draw)
        if "test" in study.curves:
            curves = (base.curves["test"], study.curves["test"])
            keep(f"{claim}_{word}_loss_test", lambda ax, c=curves: plots.loss_curves(*c, ax, label="test loss"))


CLAIMS = {"perceptron": perceptron, "path": path, "language": language}


def main() -> None:
    """Run what was asked for, print tables, save one JSON for each part."""
    parser = _bench.parser(__doc__, seeds=(0, 1, 2))
    parser.add_argument("--only", nargs="+", choices=["cost", *CLAIMS], default=["cost", *CLAIMS], help="what to measure")
    parser.add_argument("--repeats", type=int, default=15, help="pairs timed for the cost")
    parser.add_argument("--figures", type=Path, default=None, help="draw the first seed's figures into this folder")
    arguments = parser.parse_args()
    quick = arguments.quick
    if "cost" in arguments.only:
        _bench.save("law_cost", {"rows": cost(quick, 2 if quick else arguments.repeats)}, arguments)
    for claim in (name for name in CLAIMS if name in arguments.only):
        runs = []
        for seed in arguments.seeds[:1] if quick else arguments.seeds:
            rows, studies = CLAIMS[claim](seed, quick)
            runs.append(rows)
            print(f"{claim}, seed {seed} done", flush=True)
            if arguments.figures is not None and seed == arguments.seeds[0]:
                draw(arguments.figures, claim, studies)
            # After every seed: what is done is not lost.
            summary = {} if claim == "path" else {"summary": _bench.summarise(runs)}
            _bench.save(f"law_{claim}", {"run_seeds": arguments.seeds[: len(runs)], **summary, "runs": runs}, arguments)
        if claim == "path":
            for run in runs:
                for name in ("target", "test"):
                    _bench.table({"evaluations": n, **row} for n, row in zip(run["evaluations"], run[name]["rows"], strict=True))
                    print(f"{name}: SIM = c·log(a / (b − CR)): {run[name]['fit']}")


if __name__ == "__main__":
    main()
