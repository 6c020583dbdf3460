"""Learning policies compared: how much faster each makes a model learn, held out, and what that costs in training runs.

Tasks: the perceptron of the paper (no example of it is spoiled, so it has no oracle); `labels`, the same with 30% of the training
labels flipped; `stories`, the second rung of `scaling_improvement` with the learner of its claim (b), half of the examples
spoiled. Rows: uniform weights; tables, static weights (the problem of PDS) and scorers found by search (40 evaluations, 10 on
stories); one-step lookahead; high and low loss; RHO-loss, its reference trained on the target draw; the oracle that drops what is
spoiled; the law-guided table.

Policies without a search see one draw of target examples, as many as each evaluation of a search draws anew. Their settings
come from GRID, every side's learning rate from η·2^k, both chosen by the area on the validation draw that searches reserve; the
test set is reported and decides nothing. Claim (a): all at one η. Claim (b): each at the η where its area is least, sought up and
down until the area has risen twice in a row, from the η of claim (a) and from uniform's best; settings are then chosen anew, of
the SHORTLIST that did best in claim (a), until both stay. Searches follow `olm.search.best_rates`. Ratios are to uniform weights
of the same seed and claim. `targets_seen` counts the target examples that were looked at, the validation draw among them.

Costs, in uniform training runs whose target loss is evaluated at every step: `run_*` one run with the policy, `obtain_*` all that
its settings and its rate took, its search or its reference. `*_products` are counted as in docs/architecture.md (a uniform run is
T (3 N + K)); `*_seconds` measured in this process, a run by alternating calls, a search by its median evaluation, a grid in
proportion to its products. Looking for the rate is counted in claim (b), for uniform weights too.

What is done lies in a folder under --runs, a file for each policy: a stopped benchmark goes on where it was.

    python benchmarks/policies_compared.py [--quick] [--seeds 0 1 2] [--only perceptron labels stories] [--no-search]
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import _bench
import jax
import jax.numpy as jnp
import numpy as np
import optax
from scaling_improvement import PRESETS

import olm
from olm import baselines
from olm.errors import DivergenceError, InputError
from olm.records import fingerprint, read_json, write_json
from olm.search import above_entropy, best_rates, compare, targets
from olm.tasks.perceptron import perceptron

LOSS = (*({"temperature": x} for x in (0.3, 1.0, 3.0)), {"share": 0.5})
GRID: dict[str, tuple[dict[str, float], ...]] = {
    "lookahead": ({},),
    "high loss": LOSS,
    "low loss": LOSS,
    "RHO-loss": (*LOSS, {"share": 0.1}),
    "oracle": ({},),
    "law-guided": tuple(
        {"rate": rate, "forget": rate / 10, "memory": memory} for rate in (0.003, 0.01, 0.03, 0.1, 0.3) for memory in (0.0, 1.0)
    ),
}
SEARCHED = {"table, search": olm.policy.table, "static, search": olm.policy.static, "scorer, search": olm.policy.scorer}
SHORTLIST = 3
FLIPPED = 0.3


class Setting(NamedTuple):
    """A task of one seed with the run it is judged by; ``seen`` and ``validation`` are the draws that choices may look at."""

    task: olm.Task
    steps: int
    learner: Callable[[float], olm.Learner]
    rate: float
    key: jax.Array
    search: dict[str, Any]
    search_rates: Sequence[float] | None
    corrupted: jax.Array | None = None
    entropy: float | None = None
    seen: Any = None
    validation: Any = None


def with_draws(setting: Setting) -> Setting:
    """The setting with a search's first target draw and its validation draw."""
    found = targets(setting.task, setting.search["target_draws"], 0.25, jax.random.split(setting.key)[1])
    return setting._replace(seen=found.sample(setting.task, 1), validation=found.validation)


def gentle(rate: float) -> olm.Learner:
    """Plain gradient descent."""
    return olm.Learner(optax.sgd(rate))


def perceptrons(seed: int, quick: bool, flipped: float = 0.0) -> Setting:
    """The paper's sizes, a share of the labels flipped."""
    sizes = {"width": 16, "examples": 128, "targets": 32, "tests": 256} if quick else {}
    task, corrupted = perceptron(jax.random.key(seed), **sizes), None
    if flipped:
        labels = task.train["y"]
        corrupted = jax.random.permutation(jax.random.key(500 + seed), labels.size) < round(flipped * labels.size)
        task = task._replace(train={**task.train, "y": jnp.where(corrupted, 1 - labels, labels)})
    search = {"evaluations": 3 if quick else 40, "target_draws": 128 if quick else 4096}
    return Setting(task, 40 if quick else 2000, gentle, 0.1, jax.random.key(1000 + seed), search, None, corrupted)


def language(seed: int, quick: bool) -> Setting:
    """A rung of the ladder of scaling laws; it is searched at its own rate only, as there."""
    rung = PRESETS["quick"]["ladder"][0] if quick else PRESETS["cpu"]["ladder"][1]
    made = rung.language(seed)
    search = {
        "evaluations": 2 if quick else rung.evaluations,
        "target_draws": rung.draws,
        "adjoint": olm.adjoint.direct(),
    }
    rate, key = rung.own_rate, jax.random.key(1000 + seed)
    return Setting(made.task, 6 if quick else rung.steps, rung.clipped, rate, key, search, [rate], made.corrupted, made.entropy)


TASKS: dict[str, Callable[[int, bool], Setting]] = {
    "perceptron": perceptrons,
    "labels": functools.partial(perceptrons, flipped=FLIPPED),
    "stories": language,
}


# --- cost in matrix products ------------------------------------------------------------------------------------------


def sizes(setting: Setting) -> tuple[int, int]:
    """N and K, K that of a draw."""
    return olm.learner.examples(setting.task.train), setting.search["target_draws"]


def plain_run(setting: Setting) -> float:
    """Products of a uniform run with its target loss at every step: the unit of every cost."""
    n, k = sizes(setting)
    return setting.steps * (3 * n + k)


def products(setting: Setting, name: str, memory: float = 0.0) -> float:
    """One run with a policy in that unit: beside the step's 3 N what its weights need, and the target loss.

    Losses and the forward half of every derivative are the step's own, which XLA computes once: loss-based weights are free.
    """
    n, k = sizes(setting)
    extra = {"lookahead": 2 * n + 3 * k, "law-guided": (6 if memory else 2) * n + 3 * k}
    return setting.steps * (3 * n + k + extra.get(name, 0)) / plain_run(setting)


def evaluation(setting: Setting, name: str) -> float:
    """One evaluation of a search: run and adjoint, with the validation draw watched."""
    n, k = sizes(setting)
    segments = 0 if "adjoint" in setting.search else 3 * n  # segmented, the default, goes forward once more
    features = 3 * n if name == "scorer, search" else 0
    return setting.steps * (11 * n + 3 * k + segments + features + k) / plain_run(setting)


# --- policies ---------------------------------------------------------------------------------------------------------


@functools.cache
def paced(policy: olm.Policy) -> olm.Policy:
    """The same policy with a factor on each update in φ: one compiled program for all learning rates."""
    return olm.Policy(
        f"paced {policy.name}",
        lambda steps, n, batch: {"inner": policy.init(steps, n, batch), "factor": jnp.ones(())},
        lambda phi_t, t, index, features: policy.weights(phi_t["inner"], t, index, features),
        {"inner": policy.stepwise, "factor": False},
        {"inner": policy.feasible, "factor": olm.Free()},
        rate=lambda phi_t, t: phi_t["factor"],
        features=policy.features,
    )


class Side:
    """One row of the comparison: runs it with given settings at a given rate, and counts what choosing took."""

    def __init__(self, setting: Setting, name: str) -> None:
        self.setting, self.name = setting, name
        self.base = setting.learner(setting.rate)
        self.runs: dict[tuple[int, float], float] = {}
        self.once = 0.0  # a reference model, in runs
        self.tables: dict[tuple[int, float], Any] = {}
        self.key = jax.random.split(setting.key)[0]
        self.grid = GRID.get(name, ({},))
        if name == "RHO-loss":
            seen = setting.task._replace(target=setting.seen, test=None)
            reference_key = jax.random.fold_in(setting.key, 7)
            self.reference = baselines.reference_losses(seen, self.base, steps=setting.steps, key=reference_key)
            n, k = sizes(setting)
            self.once = (setting.steps * 4 * k + n) / plain_run(setting)

    def guided(self, which: int, rate: float) -> Any:
        """The law-guided table at a rate, built once."""
        if (which, rate) not in self.tables:
            seen = self.setting.task._replace(target=self.setting.seen, test=None)
            learner = self.base if rate == self.setting.rate else self.setting.learner(rate)
            self.tables = {key: table for key, table in self.tables.items() if key[1] == self.setting.rate}
            self.tables[which, rate] = baselines.law_guided(
                seen, learner, steps=self.setting.steps, key=self.key, **self.grid[which]
            )
        return self.tables[which, rate]

    def policy(self, which: int, rate: float) -> tuple[olm.Policy, Any]:
        """Policy and φ for entry ``which`` of the grid."""
        options = self.grid[which]
        match self.name:
            case "uniform":
                return olm.policy.uniform(), ()
            case "lookahead":
                return baselines.lookahead(), ()
            case "high loss":
                return baselines.high_loss(**options), ()
            case "low loss":
                return baselines.low_loss(**options), ()
            case "RHO-loss":
                return baselines.rho_loss(**options), self.reference
            case "oracle":
                return olm.policy.static(), baselines.clean_only(self.setting.corrupted)
            case "law-guided":
                return olm.policy.table(), self.guided(which, rate)
        raise ValueError(self.name)

    def curve(self, which: int, rate: float, test: Any) -> olm.Curve:
        """The learning curve on ``test`` of a run that sees the target draw."""
        task = self.setting.task._replace(target=self.setting.seen, test=test)
        policy, phi = self.policy(which, rate)
        factor = jnp.asarray(rate / self.setting.rate)
        paced_phi = {"inner": phi, "factor": factor}
        return olm.train(task, self.base, paced(policy), paced_phi, steps=self.setting.steps, key=self.key)

    def area(self, which: int, rate: float) -> float:
        """Validation area; infinite where the run diverges."""
        if (which, rate) not in self.runs:
            try:
                value = float(olm.area_under_loss(self.curve(which, rate, self.setting.validation).test))
            except DivergenceError:
                value = math.inf
            self.runs[which, rate] = value if math.isfinite(value) else math.inf
        return self.runs[which, rate]

    def cost(self) -> float:
        """Products of all runs so far, in plain runs; a table that was built is judged by a run of its own."""
        judged = 1 if self.name == "law-guided" else 0
        return self.once + sum(self.run_cost(which) + judged for which, _ in self.runs)

    def run_cost(self, which: int) -> float:
        return products(self.setting, self.name, self.grid[which].get("memory", 0.0))

    def targets_seen(self, cost: float) -> int:
        """Target examples behind a choice that took ``cost``: a draw where the policy looks at one, validation where it chose."""
        looks = self.name in ("lookahead", "RHO-loss", "law-guided")
        return sizes(self.setting)[1] * (looks + (cost > 0))

    def choose(self, rate: float) -> int:
        """The settings of least validation area at a rate; at another than that of claim (a), of its best few."""
        ranked = sorted(range(len(self.grid)), key=lambda which: self.area(which, self.setting.rate))
        return ranked[0] if rate == self.setting.rate else min(ranked[:SHORTLIST], key=lambda which: self.area(which, rate))

    def walk(self, which: int, rate: float) -> float:
        """The rate of least validation area on the grid ×2, each way until it has risen twice in a row."""
        areas = {rate: self.area(which, rate)}
        for factor in (2.0, 0.5):
            at, worse = rate, 0
            while worse < 2 and len(areas) < 24:
                at *= factor
                areas[at] = self.area(which, at)
                rose = areas[at] > min(areas.values()) or (factor > 1 and not math.isfinite(areas[at]))
                worse = worse + 1 if rose else 0
        return min(areas, key=areas.__getitem__)

    def settle(self, rate: float) -> tuple[int, float]:
        """Settings and rate in turns from a rate on, until both stay."""
        which = self.choose(rate)
        for _ in range(3):
            rate = self.walk(which, rate)
            again = self.choose(rate)
            if again == which:
                break
            which = again
        return which, rate

    def seconds(self, which: int, repeats: int) -> float:
        """Time of a run over that of a plain one, both with the target loss at every step; guided: of the run that builds."""
        setting = self.setting
        task = setting.task._replace(target=setting.seen, test=None)

        def plain() -> Any:
            return olm.train(task, self.base, olm.policy.uniform(), (), steps=setting.steps, key=self.key).target

        def mine() -> Any:
            if self.name == "law-guided":
                return baselines.law_guided(task, self.base, steps=setting.steps, key=self.key, **self.grid[which])
            policy, phi = self.policy(which, setting.rate)
            return olm.train(task, self.base, policy, phi, steps=setting.steps, key=self.key).target

        return _bench.paired_ratio(mine, plain, repeats)["ratio"]


NAMES = ("acceleration", "acceleration_first", "area_ratio", "final_ratio", "step_length_ratio")


def measured(setting: Setting, claim: dict[str, Any]) -> dict[str, float]:
    """The columns of a comparison."""
    areas = {"area": claim["area"]["found"], "final": claim["final"]["found"]}
    return {**{name: claim[name] for name in NAMES}, **areas, **above_entropy(claim, setting.entropy)}


def without_search(
    setting: Setting, name: str, repeats: int, uniform: tuple[tuple[olm.Curve, olm.Curve], float] | None
) -> dict[str, Any]:
    """Both claims of a policy that needs no search; ``uniform``: its curves and best rate, None for itself."""
    side = Side(setting, name)
    chosen = [(side.choose(setting.rate), setting.rate)]
    obtained = [side.cost() if len(side.grid) > 1 or side.once else 0.0]
    starts = [setting.rate] if uniform is None else list(dict.fromkeys([setting.rate, uniform[1]]))
    chosen.append(min((side.settle(start) for start in starts), key=lambda choice: side.area(*choice)))
    obtained.append(side.cost())
    curves = [side.curve(*choice, setting.task.test) for choice in chosen]
    timed = {which: side.seconds(which, repeats) for which in {choice[0] for choice in chosen}}
    rows = {}
    for claim, choice, curve, base, cost in zip(
        "ab", chosen, curves, curves if uniform is None else uniform[0], obtained, strict=True
    ):
        run = side.run_cost(choice[0])
        rows[claim] = {
            **measured(setting, compare(base, curve, setting.task.alphabet)),
            "learning_rate": choice[1],
            "run_products": run,
            "run_seconds": timed[choice[0]],
            "obtain_products": cost,
            "obtain_seconds": cost / run * timed[choice[0]],
            "targets_seen": side.targets_seen(cost),
            "settings": side.grid[choice[0]],
        }
    tried = [{"settings": side.grid[i], "learning_rate": r, "area_validation": x} for (i, r), x in side.runs.items()]
    return {"rows": rows, "tried": tried, "curves": tuple(curves)}


def searched(setting: Setting, name: str, repeats: int, uniform: tuple[tuple[olm.Curve, olm.Curve], float]) -> dict[str, Any]:
    """Both claims of a policy found by search."""
    options = {"steps": setting.steps, "key": setting.key, **setting.search, "policy": SEARCHED[name]()}
    grid = best_rates(setting.task, setting.learner, learning_rate=setting.rate, search_rates=setting.search_rates, **options)
    extra = 0
    if setting.rate in grid.solutions:
        same = grid.solutions[setting.rate]
    else:
        same, extra = olm.find_policy(setting.task, setting.learner(setting.rate), **options), 1
    side = Side(setting, "uniform")
    task = setting.task._replace(target=setting.seen, test=None)
    found = _bench.paired_ratio(
        lambda: olm.train(task, side.base, same.policy, same.phi, steps=setting.steps, key=side.key).target,
        lambda: olm.train(task, side.base, olm.policy.uniform(), (), steps=setting.steps, key=side.key).target,
        repeats,
    )
    step = float(np.median([row["seconds"] for row in same.history])) / found["b_median_s"]
    run, each = products(setting, name), evaluation(setting, name)
    spent = [len(same.history), sum(len(solution.history) for solution in grid.solutions.values())]
    # What a search decides by what it returns: the last step's, the start's and the best point's runs on validation draws.
    deciding = 3
    runs = [deciding, len(grid.rows) + deciding * len(grid.solutions)]
    draws = setting.search["target_draws"]
    claims = [
        compare(base, curve, setting.task.alphabet) for base, curve in zip(uniform[0], (same.curve, grid.found), strict=True)
    ]
    rates = [setting.rate, grid.learning_rates["found"]]
    rows = {
        claim: {
            **measured(setting, claims[i]),
            "learning_rate": rates[i],
            "run_products": run,
            "run_seconds": found["ratio"],
            "obtain_products": spent[i] * each + runs[i] * run,
            "obtain_seconds": spent[i] * step + runs[i] * found["ratio"],
            "targets_seen": draws * (setting.search["evaluations"] + 1),  # searches at other rates see the same draws
            "evaluation_seconds": step,
            "best_evaluation": [same, grid.solution][i].best_evaluation,
        }
        for i, claim in enumerate("ab")
    }
    return {
        "rows": rows,
        "tried": grid.rows,
        "searches": len(grid.solutions) + extra,
        "uniform_rate": grid.learning_rates["uniform"],
    }


def run(setting: Setting, quick: bool, search: bool, folder: Path) -> dict[str, dict[str, Any]]:
    """All policies on one setting, {"policy (claim)": columns}, with what was tried for each; ``folder`` keeps what is done."""
    repeats = 1 if quick else 5
    found = {"uniform": without_search(setting, "uniform", repeats, None)}
    curves = found["uniform"].pop("curves")
    base = curves, found["uniform"]["rows"]["b"]["learning_rate"]
    # Uniform's own areas, to the last bit, tell whether what is there was measured on this task with these settings.
    search_settings = {name: value for name, value in setting.search.items() if name != "adjoint"}
    settings = {"grid": GRID, "shortlist": SHORTLIST, "uniform": found["uniform"]["tried"], "search": search_settings}
    mark = fingerprint(np.frombuffer(repr(settings).encode(), np.uint8))
    for name in (*GRID, *(SEARCHED if search else ())):
        if name == "oracle" and setting.corrupted is None:
            continue
        file = folder / f"{name.replace(', ', '-').replace(' ', '-')}.json"
        if file.exists():
            kept = read_json(file)
            if kept["settings"] != mark:
                raise InputError(f"{file} was measured with other settings: remove it or choose another --runs")
            found[name] = kept["found"]
        else:
            found[name] = (searched if name in SEARCHED else without_search)(setting, name, repeats, base)
            found[name].pop("curves", None)
            folder.mkdir(parents=True, exist_ok=True)
            write_json(file, {"settings": mark, "found": found[name]})
        print(f"  {name}: {brief(found[name])}", flush=True)
        # A learning rate is a constant of its program: hundreds of them take more memory maps than Linux gives a process.
        jax.clear_caches()
    return found


def brief(found: dict[str, Any]) -> str:
    """A policy's two area ratios in a line."""
    return ", ".join(
        f"({claim}) area ratio {row['area_ratio']:.3f} at {row['learning_rate']:g}, {row['obtain_products']:.3g} runs"
        for claim, row in found["rows"].items()
    )


def summarise(runs: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Intervals over seeds of every column, and the table: ratios with their 95% intervals."""
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for claim in "ab":
        for name in runs[0]:
            rows = [seed[name]["rows"][claim] for seed in runs]
            columns = summary[f"{name} ({claim})"] = {}
            for column in (c for c, value in rows[0].items() if isinstance(value, (int, float))):
                values = [row[column] for row in rows]
                ratio = column.startswith("acceleration") or column.endswith("_ratio")
                columns[column] = _bench.interval(values, geometric=ratio and min(values) > 0 and all(map(math.isfinite, values)))

    def cell(measure: dict[str, Any]) -> str:
        low, high = measure["low"], measure["high"]
        return f"{measure['mean']:.3f}" + ("" if low is None else f" ({low:.3f} to {high:.3f})")

    _bench.table(
        {
            "policy": name,
            **{column: cell(columns[column]) for column in ("area_ratio", "final_ratio", "acceleration")},
            "step length": columns["step_length_ratio"]["mean"],
            "rate": columns["learning_rate"]["mean"],
            **{
                f"{what} {unit}": columns[f"{what}_{unit}"]["mean"]
                for what in ("obtain", "run")
                for unit in ("products", "seconds")
            },
        }
        for name, columns in summary.items()
    )
    return summary


def main() -> None:
    """Compare on the tasks asked for, print a table each, save one JSON a task."""
    parser = _bench.parser(__doc__, seeds=(0, 1, 2))
    parser.add_argument("--only", nargs="+", choices=list(TASKS), default=list(TASKS), help="tasks to compare on")
    parser.add_argument("--no-search", action="store_true", help="leave out the policies that are found by search")
    parser.add_argument("--runs", type=Path, default=_bench.ROOT / "runs" / "policies_compared", help="folder of what is done")
    arguments = parser.parse_args()
    output = arguments.output
    for task in arguments.only:
        runs: list[dict[str, dict[str, Any]]] = []
        for seed in arguments.seeds[:1] if arguments.quick else arguments.seeds:
            print(f"{task}, seed {seed}", flush=True)
            folder = arguments.runs / f"{task}{'-quick' if arguments.quick else ''}-seed={seed}"
            setting = with_draws(TASKS[task](seed, arguments.quick))
            runs.append(run(setting, arguments.quick, not arguments.no_search, folder))
            # After every seed, each of which takes minutes: what is done is not lost.
            summary = summarise(runs)
            if output is not None and len(arguments.only) > 1:
                arguments.output = output.with_name(f"{output.stem}_{task}{output.suffix}")
            done = {"task": task, "run_seeds": arguments.seeds[: len(runs)], "grid": GRID, "summary": summary, "runs": runs}
            _bench.save(f"policies_compared_{task}", done, arguments)


if __name__ == "__main__":
    main()
