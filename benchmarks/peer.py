"""One search iteration of the published algorithm in PyTorch over one of olm's, on the perceptron of the paper.

Both sides get the same data, start and weights, and must agree on the gradient before anything is timed. The PyTorch side is
`peers/learning_law_torch.py` at the fastest of its settings; its projection is timed twice, by a quadratic programme for every
training step as published and by sorting. Programmes take minutes, so only ``--rows`` of them, spread evenly over the steps, are
solved in each repeat and their wall time is multiplied by T/rows: such figures are named "extrapolated". A programme's time
depends on how many weights are zero, hence two sets of weights: uniform, where a search starts, and sparse, after ``--late``
iterations of a faster search.
Run: ``make peer``, which installs torch and cvxpy, then ``python benchmarks/peer.py``.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import _bench

AUTHORS_100_STEPS_S = {"forward": 0.17, "backward": 0.84}  # the authors' release on a comparable two-core machine


class Iteration(NamedTuple):
    """One iteration of an olm search: ``init(phi) -> state`` and ``step(phi, state) -> (phi, state)``."""

    init: Callable[[Any], Any]
    step: Callable[[Any, Any], tuple[Any, Any]]


def olm_side(task: Any, steps: int, key: Any, rate: float) -> tuple[Callable[[Any], Any], dict[str, Iteration]]:
    """olm's objective with its gradient, as a function of the weights [T, N], and its iterations by name."""
    import jax
    import optax

    import olm

    learner, policy = olm.Learner(optax.sgd(0.1)), olm.policy.table()

    def gradient(weights: Any) -> Any:
        return olm.policy_gradient(
            task, learner, policy, weights, steps=steps, key=key, adjoint=olm.adjoint.direct(residuals=True)
        )

    def iteration(method: Any) -> Iteration:
        @jax.jit
        def update(weights: Any, direction: Any, value: Any, state: Any) -> tuple[Any, Any]:
            return method.update(policy.feasible, weights, direction, value, state, 1.0)[:2]

        def step(weights: Any, state: Any) -> tuple[Any, Any]:
            value, direction = gradient(weights)
            return update(weights, direction, value, state)

        return Iteration(partial(method.init, policy.feasible), step)

    methods = {"projected gradient": olm.search.projected_gradient(rate), "mirror descent": olm.search.mirror_descent()}
    return gradient, {name: iteration(method) for name, method in methods.items()}


def torch_setting(task: Any, start: Any) -> Any:
    """The peer's copy of a perceptron task's data and of the start θ_0."""
    import numpy as np
    import torch
    from peers.learning_law_torch import Setting

    arrays = [start["w"], task.train["x"], task.train["y"], task.target["x"], task.target["y"]]
    return Setting(*(torch.from_numpy(np.array(array)) for array in arrays))


def fastest(setting: Any, weights: Any) -> tuple[int, Any, list[dict[str, Any]]]:
    """The number of threads and the batching with which the peer is fastest, and what every candidate took for 100 steps."""
    import torch
    from peers import learning_law_torch as peer

    rows = []
    for threads, batching in peer.CANDIDATES:
        torch.set_num_threads(threads)
        peer.time_passes(setting, weights[:5], batching, 1)
        trial = sum(peer.time_passes(setting, weights[:20], batching, 1))
        # A setting far slower than the best so far (threads waiting for a busy core) is not worth 100 steps.
        if rows and trial * 5 > 2 * min(row["forward s"] + row["backward s"] for row in rows):
            continue
        forward_s, backward_s = peer.time_passes(setting, weights[:100], batching, 3)
        rows.append({"threads": threads, "batching": batching, "forward s": forward_s, "backward s": backward_s})
    best = min(rows, key=lambda row: row["forward s"] + row["backward s"])
    return best["threads"], best["batching"], rows


def measure(setting: Any, batching: Any, olm: tuple[Any, dict[str, Iteration]], phi: Any, args: Any, pool: Any) -> dict[str, Any]:
    """Agreement of the gradients at the weights ``phi`` [T, N], then the times of both sides' parts, taken in turn."""
    import jax
    import numpy as np
    import torch
    from peers import learning_law_torch as peer
    from peers.simplex_qp import project_row

    weights = torch.from_numpy(np.array(phi))
    steps = len(weights)
    kept: dict[str, Any] = {}

    def passes() -> None:
        states, losses = peer.forward(setting, weights, batching)
        gradient = peer.backward(setting, weights, states, batching)
        kept.update(losses=losses, gradient=gradient, moved=weights - args.rate * gradient)

    def programmes() -> None:
        first = kept["offset"] = kept.get("offset", -1) + 1
        chosen = (np.linspace(0, steps, kept["rows"], endpoint=False).astype(int) + first) % steps
        kept["solved"] = chosen, pool.map(project_row, list(kept["moved"].numpy()[chosen]), chunksize=1)

    def sort() -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(args.processes)  # long independent rows gain from every core even where steps do not
        kept["sorted"] = peer.project_sort(kept["moved"])
        torch.set_num_threads(threads)

    passes()
    sort()
    olm_gradient, iterations = olm
    value, gradient = jax.device_get(olm_gradient(phi))
    ours, theirs = np.asarray(gradient, np.float64), kept["gradient"].double().numpy()
    difference = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
    value_difference = abs(float(value) / float(kept["losses"][1:].double().mean()) - 1)
    print(f"gradients of both sides differ by {difference:.1e}, objectives by {value_difference:.1e} (relative, float32)")
    if not max(difference, value_difference) < args.agreement:
        sys.exit(f"the two sides do not compute the same thing (allowed: {args.agreement:.0e}): nothing was timed")

    kept["rows"] = min(args.rows or steps, steps)
    sides = {"passes": passes, "programmes": programmes, "sort": sort}
    sides |= {name: partial(iteration.step, phi, iteration.init(phi)) for name, iteration in iterations.items()}
    for name in sides:
        if name not in ("passes", "programmes"):
            _bench.seconds(sides[name])
    times: dict[str, list[float]] = {name: [] for name in sides}
    names, statuses, errors, cpu = list(sides), Counter(), [], []
    for repeat in range(args.repeats):
        shift = repeat % len(names)
        for name in names[shift:] + names[:shift]:
            times[name].append(_bench.seconds(sides[name]))
        chosen, solved = kept["solved"]
        statuses.update(status for _, _, status in solved)
        cpu += [taken for _, taken, _ in solved]
        errors += [
            float(np.abs(found - kept["sorted"][t].numpy()).max()) for t, (found, _, _) in zip(chosen, solved, strict=True)
        ]
    factor = steps / kept["rows"]
    published = [a + factor * b for a, b in zip(times["passes"], times["programmes"], strict=True)]
    sorted_ = [a + b for a, b in zip(times["passes"], times["sort"], strict=True)]
    comparisons = {
        f"{label} / olm {name}": _bench.compare(theirs_s, times[name])
        for label, theirs_s in (("published", published), ("sort projection", sorted_))
        for name in iterations
    }
    return {
        "gradient_relative_difference": difference,
        "objective_relative_difference": value_difference,
        "positive_weights_after_step": float((kept["sorted"] > 0).double().mean()),
        "torch_passes_s": times["passes"],
        "torch_sort_s": times["sort"],
        "programmes": {
            "rows_timed": kept["rows"],
            "wall_s": times["programmes"],
            "extrapolated": kept["rows"] < steps,
            "extrapolated_s": [factor * wall for wall in times["programmes"]],
            "median_row_s": float(np.median(cpu)),
            "statuses": dict(statuses),
            "max_error_against_exact": max(errors),
        },
        "comparisons": comparisons,
    }


def main() -> None:
    parser = _bench.parser(__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000, help="T")
    parser.add_argument("--examples", type=int, default=4096, help="N")
    parser.add_argument("--repeats", type=int, default=5, help="times each part is timed, in turn")
    parser.add_argument("--rows", type=int, default=200, help="quadratic programmes solved in a repeat; 0: all T")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="processes that solve them")
    parser.add_argument("--rate", type=float, default=0.01, help="search rate timed: the paper's 5e-6 times its T, for a mean")
    parser.add_argument("--late", type=int, default=30, help="iterations of olm's projected gradient before the sparse weights")
    parser.add_argument("--late-rate", type=float, default=0.4, help="their search rate")
    parser.add_argument("--agreement", type=float, default=1e-4, help="largest relative difference of the two gradients")
    args = parser.parse_args()
    if args.quick:
        args.steps, args.examples, args.repeats, args.rows, args.late = 100, 256, 2, 8, 3
    import jax
    from peers import learning_law_torch as peer
    from peers.simplex_qp import process_pool

    from olm.policy import table
    from olm.tasks.perceptron import perceptron

    error = peer.check()
    if error > 1e-10:
        sys.exit(f"the peer's gradient is off by {error:.1e} against autograd: nothing was timed")
    seed = args.seeds[0]
    task_key, key = jax.random.split(jax.random.key(seed))
    task = perceptron(task_key, examples=args.examples)
    setting = torch_setting(task, task.init(jax.random.split(key)[0]))  # a run's key splits into start and order
    phi = table().init(args.steps, args.examples, args.examples)
    torch = peer.torch
    threads, batching, candidates = fastest(setting, torch.full((100, args.examples), 1 / args.examples))
    torch.set_num_threads(threads)
    _bench.table([{**row, "batching": tuple(row["batching"])} for row in candidates])
    best = min(candidates, key=lambda row: row["forward s"] + row["backward s"])
    ours, limit = best["forward s"] + best["backward s"], sum(AUTHORS_100_STEPS_S.values())
    print(f"100 steps: {ours:.3f} s, {ours / limit:.2f} of the authors' {limit:.2f} s; {threads} threads, {tuple(batching)}")

    sides = olm_side(task, args.steps, key, args.rate)
    faster = olm_side(task, args.steps, key, args.late_rate)[1]["projected gradient"]
    results = {}
    with process_pool(args.processes) as pool:
        for name in ("uniform", "sparse"):
            print(f"\n{name} weights")
            result = results[name] = measure(setting, batching, sides, phi, args, pool)
            _bench.table([
                {"iteration": what, "torch s": row["a_median_s"], "olm s": row["b_median_s"], "ratio": row["ratio"],
                 "pairs 25-75%": "{0:.3g}-{2:.3g}".format(*row["pair_ratio_quartiles"])}
                for what, row in result["comparisons"].items()
            ])  # fmt: skip
            rows = result["programmes"]["rows_timed"]
            print(f"published: seconds of {rows} programmes times {args.steps}/{rows}; {result['programmes']['statuses']}")
            if name == "uniform":
                for _ in range(args.late):
                    phi, _ = faster.step(phi, faster.init(phi))
    payload = {
        "check_relative_error_float64": error,
        "hundred_steps": {
            "candidates": candidates, "threads": threads, "batching": batching._asdict(), "authors_s": AUTHORS_100_STEPS_S,
            "over_authors": {name: best[f"{name} s"] / AUTHORS_100_STEPS_S[name] for name in AUTHORS_100_STEPS_S},
            "total_over_authors": ours / limit,
        },
        "weights": results,
    }  # fmt: skip
    _bench.save("peer", payload, args)


if __name__ == "__main__":
    main()
