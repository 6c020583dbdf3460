"""Controlled generation judged against the exact posterior: NADO, DiNADO, GeLaTo and the usual baselines.

The base is a random hidden Markov model of 8 states over 32 tokens, the oracle an automaton over sequences of 16 of them, so
KL(q* ‖ q) is computed exactly at every step, along fresh samples of q*. Methods have the same number of labelled samples; those
called "explored" draw a part of them from what they have learned. Presets are in LOG.md. Sections:

``sparse``         every method at R(x) of about 10⁻¹ … 10⁻⁴
``longer``         two methods at the smallest R(x), five times the samples and four times the steps
``budget``         KL against the number of samples, two clauses of rare tokens
``capacity``       networks of growing size at R(x) = 10⁻²
``inits``          ten initialisations of one run (four on later seeds): spread of R and of q
``compositional``  pairs of clauses named by a prompt, some pairs never seen
``gradients``      signal to noise of a batch's gradient against R(x)
``formality``      formal and informal synonyms, a source for each sequence
``weights``        the weights of the samples of R, found by `olm.find_policy` against KL(q* ‖ q)

Every run is a file below --cells once it is done, so that an interrupted benchmark goes on and two processes may share the work:

    python benchmarks/control.py --seeds 0 & python benchmarks/control.py --seeds 1 2; wait
    python benchmarks/control.py             # reads what is there, runs what is not, writes results/control.json
    python benchmarks/control.py --quick     # tiny sizes, one seed, one section; others with --only
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import _bench
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _control_runs import FULL, METHODS, NADO, QUICK, SOFT, Bench, Method, config

import olm
from olm.control import decode, formality, nado, network, posterior, samples, tasks
from olm.control.model import compiled, guided, log_likelihood, product
from olm.fitting import task as task_of

SECTIONS = ("sparse", "longer", "budget", "capacity", "inits", "compositional", "gradients", "formality", "weights")
QUICK_SECTIONS = ("sparse",)  # each other one compiles for another minute
RATES = (1e-1, 1e-2, 1e-3, 1e-4)
UNTRAINED = ("base", "masking", "GeLaTo, chain of 8 states", "GeLaTo, chain of 4 states", "rejection, 64 tries")
LONGER = ("NADO, explored", "DiNADO-Soft, explored")
BUDGETS = (2500, 5000, 10_000, 20_000)
BUDGETED = ("NADO", "NADO, explored", "DiNADO-Soft", "DiNADO-Soft, explored", "DiNADO-Hard, explored")
WIDTHS = (8, 16, 32, 64)
INITS = (10, 4)  # on the first seed and on each other one


def sparse(bench: Bench, quick: bool) -> None:
    """Every method at every rate."""
    for rate in RATES[:1] if quick else RATES:
        task, group = bench.sparse(rate), f"sparse-{rate:g}"
        bench.cell(group, "task", lambda task=task: {"rate": float(task.rates[0]), "keys": task.keys})
        for name in UNTRAINED[:3] if quick else UNTRAINED:
            bench.cell(group, name, lambda name=name, task=task: bench.untrained(name, task))
        for name in list(METHODS)[:1] + list(METHODS)[4:5] if quick else METHODS:
            bench.cell(group, name, lambda name=name, task=task: bench.run(METHODS[name], task))


def longer(bench: Bench, quick: bool) -> None:
    """Whether what the small rates lack is samples and steps."""
    p = bench.preset
    for rate, name in itertools.product(RATES[2:3] if quick else RATES[2:], LONGER):
        task = bench.sparse(rate)
        bench.cell(
            f"longer-{rate:g}", name,
            lambda name=name, task=task: bench.run(METHODS[name], task, n=5 * p.samples, steps=4 * p.steps),
        )  # fmt: skip


def budget(bench: Bench, quick: bool) -> None:
    """KL against the number of samples."""
    task = bench.rare()
    bench.cell("budget", "task", lambda: {"rate": float(task.rates[0]), "keys": task.keys})
    for n, name in itertools.product((400,) if quick else BUDGETS, BUDGETED[:1] + BUDGETED[3:4] if quick else BUDGETED):
        bench.cell("budget", f"{name}, {n}", lambda n=n, name=name: bench.run(METHODS[name], task, n=n))


def capacity(bench: Bench, quick: bool) -> None:
    """DiNADO-Soft with small networks of growing width; Merge by LoRA and with all weights are in the sparse table."""
    task = bench.sparse(1e-2)
    for width in (8,) if quick else WIDTHS:
        method = replace(METHODS["DiNADO-Soft, explored"], width=width)
        bench.cell("capacity", f"width {width}", lambda method=method: bench.run(method, task))


def inits(bench: Bench, quick: bool) -> None:
    """One task and one set of samples, several initialisations: how far R and q differ between them, along samples of q*."""
    task = bench.sparse(1e-1)
    exact, exact_params = task.posterior
    context = task.context(np.zeros(bench.preset.judged, int))
    tokens = decode.sample(exact, exact_params, bench.key(20), context).tokens
    log_p = compiled(task.base)(task.tables.hmm, tokens, context)

    def spread(name: str) -> dict[str, Any]:
        log_r, log_q, kl = [], [], []
        for seed in range(2 if quick else INITS[min(bench.seed, 1)]):
            found = bench.run(METHODS[name], task, init=seed, keep=True)
            params, guide = found.pop("_params"), found.pop("_guide")
            values = jax.jit(guide.whole)(params, tokens, context, log_p)
            log_r.append(np.asarray(log_likelihood(values, tokens)))
            model = compiled(guided(task.base, guide))
            log_q.append(np.asarray(log_likelihood(model({"base": task.tables.hmm, "guide": params}, tokens, context), tokens)))
            kl.append(found["kl"])
        return {"log_r": float(np.std(log_r, 0, ddof=1).mean()), "log_q": float(np.std(log_q, 0, ddof=1).mean()), "kl": kl}

    for name in ("NADO", "DiNADO-Soft"):
        bench.cell("inits", name, lambda name=name: spread(name))


def compositional(bench: Bench, quick: bool) -> None:
    """Fifteen pairs out of six clauses, five of them never trained on."""
    p = bench.preset
    task = tasks.combinations(
        bench.seed,
        pool=3 if quick else 6,
        clauses=2,
        kind="mid",
        most=1,
        vocabulary=p.vocabulary,
        states=p.states,
        length=p.length,
    )
    order = np.random.default_rng(bench.seed).permutation(len(task.prompts))
    unseen, seen = order[: len(order) // 3], order[len(order) // 3 :]
    for name in ("NADO", "NADO, explored", "DiNADO-Soft, explored", "DiNADO-Hard, explored")[
        2 if quick else 0 : 3 if quick else 4
    ]:

        def run(name: str = name) -> dict[str, Any]:
            found = bench.run(METHODS[name], task, train_on=seen, test_on=seen, keep=True)
            params, guide = found.pop("_params"), found.pop("_guide")
            both = {"base": task.tables.hmm, "guide": params}
            n = max(p.judged // len(unseen), 8)
            other = tasks.judge(task, guided(task.base, guide), both, bench.key(21), which=unseen, n=n)
            return {**found, "unseen": other, "rates": task.rates.tolist(), "unseen_conditions": unseen.tolist()}

        bench.cell("compositional", name, run)
    bench.cell(
        "compositional", "base",
        lambda: {
            "seen": tasks.judge(task, task.base, task.tables.hmm, bench.key(22), which=seen, n=64)["kl"],
            "unseen": tasks.judge(task, task.base, task.tables.hmm, bench.key(23), which=unseen, n=64)["kl"],
        },
    )  # fmt: skip


def gradients(bench: Bench, quick: bool) -> None:
    """‖E g‖² / E ‖g − E g‖² of a batch's gradient, at the start (q = p) and after a tenth of a run, on samples of the base."""
    p, batches = bench.preset, 8 if quick else 64
    for rate in RATES[:1] if quick else RATES:
        task = bench.sparse(rate)

        def run(task: Any = task) -> dict[str, Any]:
            found: dict[str, Any] = {"rate": float(task.rates[0])}
            n = batches * p.batch
            drawn = samples.draw(task.base, task.tables.hmm, task.oracle, bench.key(30), task.context(np.zeros(n, int)), chunk=n)
            for name, settings in (("NADO", NADO), ("DiNADO-Soft", SOFT)):
                losses, params, _, _ = bench.made(Method(settings), task)
                gradient = jax.jit(jax.grad(lambda params, batch, losses=losses: losses(params, batch).mean()))
                trained = bench.run(METHODS[name], task, steps=p.steps // 10, keep=True)["_params"]
                for when, at in (("start", params), ("later", trained)):
                    every = []
                    for i in range(batches):
                        part = jax.tree.map(lambda x, i=i: x[i * p.batch : (i + 1) * p.batch], drawn.batch)
                        flat = jax.tree.leaves(gradient(at, part)["theta"])
                        every.append(np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in flat]))
                    every = np.stack(every)
                    noise = every.var(0, ddof=1).sum()
                    # The squared mean of few batches holds a share of the noise, which is taken off.
                    signal = (every.mean(0) ** 2).sum() - noise / batches
                    found[f"{name}, {when}"] = float(signal / noise)
            return found

        bench.cell("gradients", f"rate {rate:g}", run)


def style(bench: Bench, quick: bool) -> None:
    """Formality transfer: sources are prompts, and the judged ones were never trained on."""
    task = (
        formality.transfer(bench.seed, sources=12, contents=8, length=bench.preset.length)
        if quick
        else formality.transfer(bench.seed)
    )
    train, held = formality.split(task, held_out=4 if quick else 32)
    for name in ("NADO", "DiNADO-Soft", "DiNADO-Soft, explored", "DiNADO-Hard, explored")[1 if quick else 0 : 2 if quick else 4]:

        def run(name: str = name) -> dict[str, Any]:
            found = bench.run(METHODS[name], task, train_on=train, test_on=held, keep=True)
            params, guide = found.pop("_params"), found.pop("_guide")
            context = task.context(np.repeat(held, 16))
            model, both = guided(task.base, guide), {"base": task.tables.hmm, "guide": params}
            drawn = decode.sample(model, both, bench.key(24), context).tokens
            return {**found, **_style(task, drawn, context)}

        bench.cell("formality", name, run)
    for name in ("base", "posterior"):

        def known(name: str = name) -> dict[str, Any]:
            model, params = (task.base, task.tables.hmm) if name == "base" else task.posterior
            context = task.context(np.repeat(held, 16))
            found = tasks.judge(task, model, params, bench.key(25), which=held, n=16)
            return {**found, **_style(task, decode.sample(model, params, bench.key(26), context).tokens, context)}

        bench.cell("formality", name, known)


def _style(task: Any, tokens: Any, context: Any) -> dict[str, float]:
    return {
        "accuracy": float(np.mean(formality.accuracy(task, tokens, context["which"]))),
        "informal": float(np.mean(formality.informal(tokens))),
    }


def weights(bench: Bench, quick: bool) -> None:
    """The weight of each of N tempered samples: uniform, exact, rebalanced, found; the same short full-batch run for each."""
    p = bench.preset
    n, steps, evaluations = (64, 10, 3) if quick else (256, 60, 15)
    task = bench.sparse(1e-2)
    net = network.small(config(p, task.symbols, 16), p.vocabulary, task.begin)
    losses = nado.losses(NADO, net)
    drawn = samples.draw(
        task.base, task.tables.hmm, task.oracle, bench.key(31), task.context(np.zeros(n, int)), temperature=2.0, chunk=n
    )
    exact, exact_params = task.posterior

    def wanted(key: Any, count: int) -> dict[str, Any]:
        context = task.context(np.zeros(count, int))
        tokens = decode.sample(exact, exact_params, key, context).tokens
        return {
            "tokens": tokens, "context": context, "log_p": compiled(task.base)(task.tables.hmm, tokens, context),
            "log_q": compiled(exact)(exact_params, tokens, context),
        }  # fmt: skip

    guide = nado.guide(NADO, net)

    def divergences(params: Any, batch: Any) -> Any:
        log_r = guide.whole(params, batch["tokens"], batch["context"], batch["log_p"])
        return posterior.divergences(batch["log_q"], product(batch["log_p"], log_r)).sum(1)

    params = nado.start(net, bench.key(32))
    whole = task_of(
        losses, params, drawn.batch, wanted(bench.key(33), 16 if quick else 256),
        test=wanted(bench.key(34), 16 if quick else 512),
        target_losses=divergences,
    )  # fmt: skip
    whole = whole._replace(init=lambda key: params)
    learner = olm.Learner(optax.adam(2e-3, eps_root=1e-8))

    def run() -> dict[str, Any]:
        policy = olm.policy.static()
        found: dict[str, Any] = {"samples": n, "accepted": float(drawn.batch["label"].sum())}
        given = {"uniform": jnp.ones(n), "exact": drawn.weights, "rebalanced": samples.rebalanced(drawn)}
        given["rebalanced, without exact"] = samples.rebalanced(drawn._replace(weights=jnp.ones(n)))
        for name, values in given.items():
            curve = olm.train(whole, learner, policy, values / values.sum(), steps=steps, key=bench.key(35))
            found[name] = {"area": float(curve.test[1:].mean()), "final": float(curve.test[-1])}
        solution = olm.find_policy(
            whole, learner, steps=steps, policy=policy, evaluations=evaluations, key=bench.key(35), validation_fraction=0.25
        )
        curve = olm.train(whole, learner, policy, solution.phi, steps=steps, key=bench.key(35))
        found["found"] = {"area": float(curve.test[1:].mean()), "final": float(curve.test[-1])}
        label = np.asarray(drawn.batch["label"]) > 0.5
        phi = np.asarray(solution.phi, np.float64)
        found["share of accepted"] = {
            "uniform": float(label.mean()),
            "found": float(phi[label].sum()),
            "exact": float((np.asarray(drawn.weights) * label).sum() / n),
        }
        found["effective"] = float(1 / (phi**2).sum())
        return found

    bench.cell("weights", "found", run)


RUNS = {
    "sparse": sparse, "longer": longer, "budget": budget, "capacity": capacity, "inits": inits, "compositional": compositional,
    "gradients": gradients, "formality": style, "weights": weights,
}  # fmt: skip


# --- tables -----------------------------------------------------------------------------------------------------------


def cells(bench: Bench) -> dict[str, dict[str, Any]]:
    """Finished runs of a seed, by group and name."""
    folder = _bench.kept_below(bench.folder, bench.preset) / f"seed-{bench.seed}"
    return {
        group.name: {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(group.glob("*.json"))}
        for group in sorted(folder.iterdir())
        if group.is_dir()
    }


def verdict(values: Sequence[float | None], *, below: bool = True, bound: float = 0.0) -> dict[str, Any]:
    """Whether the 95% interval over seeds of a difference lies on the claimed side of a bound: held, not held, or open.

    A seed without a number leaves the claim open: what it lacks may be what speaks against it.
    """
    if len(values) < 2 or not all(value is not None and np.isfinite(value) for value in values):
        return {"verdict": "open", "values": values}
    found = _bench.interval(values)
    inside, outside = (found["high"] < bound, found["low"] > bound) if below else (found["low"] > bound, found["high"] < bound)
    return {"verdict": "held" if inside else "not held" if outside else "open", **found}


def log_ratio(a: dict[str, Any], b: dict[str, Any], measure: str = "kl") -> float | None:
    """log(a / b) of two runs; None where one has no number."""
    pair = [one.get(measure) for one in (a, b)]
    if not all(isinstance(value, float) and value > 0 for value in pair):
        return None
    return float(np.log(pair[0] / pair[1]))


def statements(every: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """What is claimed of DiNADO, each with its interval over seeds: of log(KL / KL), log(forgetting / forgetting), and of the
    largest inconsistency along training, on held-out samples of the base."""
    found: dict[str, Any] = {}

    def compare(label: str, group: str, a: str, b: str, measure: str = "kl", **how: Any) -> None:
        pairs = [(one.get(group, {}).get(a), one.get(group, {}).get(b)) for one in every]
        if all(all(pair) for pair in pairs):
            found[label] = verdict([log_ratio(x, y, measure) for x, y in pairs], **how)

    for rate in RATES:
        group = f"sparse-{rate:g}"
        for form in ("Soft", "Hard"):
            compare(f"DiNADO-{form} below NADO, samples of the base, {rate:g}", group, f"DiNADO-{form}", "NADO")
            compare(f"DiNADO-{form} below NADO, explored, {rate:g}", group, f"DiNADO-{form}, explored", "NADO, explored")
        compare(f"Soft below Hard, {rate:g}", group, "DiNADO-Soft", "DiNADO-Hard")
        compare(f"Soft below Hard, explored, {rate:g}", group, "DiNADO-Soft, explored", "DiNADO-Hard, explored")
        compare(
            f"Merge (a copy of a model that imitates the base) below the small heads, {rate:g}",
            group,
            "DiNADO-Merge, explored",
            "DiNADO-Soft, explored",
        )
        for name in ("NADO's form, DiNADO's loss", "DiNADO's form, NADO's loss"):
            compare(f"{name}, below NADO, explored, {rate:g}", group, f"{name}, explored", "NADO, explored")
        for name in ("DiNADO-Soft, explored", "DiNADO-Merge, explored", "DiNADO-Merge by LoRA, explored"):
            compare(f"forgetting of {name} below fine-tuning's, {rate:g}", group, name, "fine-tuning", "forgetting")
        for name in ("NADO", "DiNADO-Soft", "NADO, explored", "DiNADO-Soft, explored"):
            runs = [one.get(group, {}).get(name) for one in every]
            if all(runs):
                found[f"regularisation of {name} below .5, {rate:g}"] = verdict(
                    [max(row["consistency"] for row in run["history"]) for run in runs], bound=0.5
                )
        compare(f"DiNADO-Soft below NADO, explored, five times the samples, {rate:g}", f"longer-{rate:g}", *reversed(LONGER))
    for measure in ("log_r", "log_q"):
        compare(
            f"spread of {measure[-1].upper() if measure == 'log_r' else 'q'} over initialisations below NADO's",
            "inits",
            "DiNADO-Soft",
            "NADO",
            measure,
        )
    for name in ("NADO", "NADO, explored", "DiNADO-Soft, explored", "DiNADO-Hard, explored"):
        pairs = [(one.get("compositional", {}).get(name), one.get("compositional", {}).get("base")) for one in every]
        if all(all(pair) for pair in pairs):
            found[f"unseen pairs of clauses, {name}, below the base's"] = verdict(
                [float(np.log(run["unseen"]["kl"] / base["unseen"])) for run, base in pairs]
            )
    return found


def needed(every: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Samples with which DiNADO reaches the KL of NADO at the largest budget, over that budget: log-linear between budgets.

    The goal is the better of NADO's two. ``ratios`` has ∞ where it is never reached, and ``least``, the smallest budget's share,
    where that is enough already: the interval is then of a bound.
    """
    found: dict[str, Any] = {}
    for name in BUDGETED[2:]:
        ratios, least = [], None
        for one in every:
            group = one.get("budget", {})
            budgets = sorted(
                {run["samples"] for label, run in group.items() if label.startswith(f"{name}, ") and "samples" in run}
            )
            own = [group[f"{name}, {n}"]["kl"] for n in budgets if f"{name}, {n}" in group]
            if len(own) < 2:
                continue
            goal = min(group[f"{other}, {budgets[-1]}"]["kl"] for other in BUDGETED[:2] if f"{other}, {budgets[-1]}" in group)
            ratios.append(_crossing(np.log(budgets), np.log(own), np.log(goal)) / budgets[-1])
            least = budgets[0] / budgets[-1]
        if len(ratios) == len(every):
            reached = bool(np.isfinite(ratios).all())
            found[name] = {"ratios": ratios, "least": least, **(_bench.interval(ratios, geometric=True) if reached else {})}
    return found


def _crossing(log_n: np.ndarray, log_kl: np.ndarray, goal: float) -> float:
    """The number of samples from which the curve stays at or below the goal; the least measured where all does, ∞ where none."""
    above = np.flatnonzero(log_kl > goal)
    if not len(above):
        return float(np.exp(log_n[0]))
    last = int(above[-1])
    if last + 1 == len(log_n):
        return float("inf")
    share = (log_kl[last] - goal) / (log_kl[last] - log_kl[last + 1])
    return float(np.exp(log_n[last] + share * (log_n[last + 1] - log_n[last])))


def summarised(every: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Every number of every run, with its interval over seeds."""
    found: dict[str, Any] = {}
    for group in every[0]:
        for name in every[0][group]:
            runs = [one.get(group, {}).get(name) for one in every]
            if not all(runs):
                continue
            flat = [_numbers(run) for run in runs]
            found.setdefault(group, {})[name] = {
                measure: _bench.interval(values, geometric=measure.split(", ")[-1] == "kl" and min(values) > 0)
                for measure in flat[0]
                if all(measure in one for one in flat) and np.isfinite(values := [one[measure] for one in flat]).all()
            }
    return found


def _numbers(run: dict[str, Any]) -> dict[str, float]:
    """The numbers of a run by name; of a table in it as "table, name"."""
    found = {}
    for measure, value in run.items():
        if isinstance(value, dict):
            found |= {f"{measure}, {name}": number for name, number in _numbers(value).items()}
        elif isinstance(value, float) and measure != "seconds":
            found[measure] = value
    return found


def main() -> None:
    """Run what is missing, print tables, record."""
    parser = _bench.parser(__doc__.splitlines()[0], seeds=(0, 1, 2))
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="sections to run; all, or with --quick the first")
    parser.add_argument("--cells", type=Path, default=_bench.ROOT / "runs" / "control", help="finished runs")
    args = parser.parse_args()
    preset, seeds = (QUICK, args.seeds[:1]) if args.quick else (FULL, args.seeds)
    benches = [Bench(preset, args.cells, seed) for seed in seeds]
    for section in args.only or (QUICK_SECTIONS if args.quick else SECTIONS):
        for bench in benches:
            RUNS[section](bench, args.quick)
            jax.clear_caches() if section in ("sparse", "inits") else None
    every = [cells(bench) for bench in benches]
    summary = summarised(every)
    _bench.table(
        {
            "table": group,
            "run": name,
            **{m: row[m]["mean"] for m in ("kl", "satisfaction", "forgetting", "log_r_error", "gap") if m in row},
        }
        for group, rows in summary.items()
        for name, row in rows.items()
    )
    claims = statements(every)
    _bench.table({"claim": name, **{k: one.get(k) for k in ("verdict", "mean", "low", "high")}} for name, one in claims.items())
    ratios = needed(every)
    _bench.table(
        {"samples for NADO's final KL": name, **{k: one.get(k) for k in ("mean", "low", "high")}} for name, one in ratios.items()
    )
    hours = sum(run.get("seconds", 0.0) for one in every for group in one.values() for run in group.values()) / 3600
    print(f"{hours:.2f} core-hours")
    found = {"preset": asdict(preset), "core_hours": hours, "summary": summary, "statements": claims, "samples_needed": ratios}
    thin = [
        {g: {n: {k: v for k, v in run.items() if k != "history"} for n, run in runs.items()} for g, runs in one.items()}
        for one in every
    ]
    regularisation = [
        {
            g: {
                n: [row["consistency"] for row in run["history"]]
                for n, run in runs.items()
                if "history" in run and "consistency" in run["history"][0]
            }
            for g, runs in one.items()
        }
        for one in every
    ]
    _bench.save("control", {**found, "runs": thin, "regularisation": regularisation}, args)


if __name__ == "__main__":
    main()
