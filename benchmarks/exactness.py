"""How exact the policy gradient is: against reverse mode through a Python loop over the steps, in float64.

On a five-dimensional toy every policy meets every adjoint, every optimiser, full and mini-batches, whole and chunked losses;
on a two-layer transformer every pair of these occurs. The reference (`tests/cases.py`) takes `jax.grad` of the weighted loss
at every step and `jax.value_and_grad` of the whole loop, and knows no rule and no adjoint of olm's. An error is
‖g − g₀‖ / ‖g₀‖ over all of φ.
Run: ``python benchmarks/exactness.py``.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import _bench
import jax

sys.path[:0] = [str(_bench.ROOT / "tests"), str(_bench.ROOT)]

import cases  # noqa: E402

import olm  # noqa: E402

BATCHES, CHUNKS = ("full", "mini-batch"), ("whole", "chunked")
FACTORS = (list(cases.OPTIMISERS), list(cases.POLICIES), BATCHES, CHUNKS, list(cases.ADJOINTS))
NAMES = ("optimiser", "policy", "batch", "chunk", "adjoint")
BOUND = 1e-10


def measure(
    task: olm.Task, rows: Iterable[tuple[str, ...]], steps: int, sizes: dict[str, int | None], seed: int
) -> list[dict[str, Any]]:
    """Errors of every row; neighbouring rows with the same learner and policy share a reference."""
    n_examples = jax.tree.leaves(task.train)[0].shape[0]
    key = jax.random.key(seed)
    found = []
    for (optimiser, policy_name, batch), group in itertools.groupby(rows, key=lambda row: row[:3]):
        # A process has a limited number of memory maps, and every compiled program takes some.
        jax.clear_caches()
        policy, learner = cases.POLICIES[policy_name](), olm.Learner(cases.OPTIMISERS[optimiser](), sizes[batch])
        phi = cases.start(policy, steps, n_examples, learner.batch_size or n_examples, seed)
        value, gradient = cases.reference(task, learner, policy, phi, steps=steps, key=key)
        for row in group:
            run = {"steps": steps, "key": key, "adjoint": cases.ADJOINTS[row[4]]()}
            mine = olm.policy_gradient(task, learner._replace(chunk_size=sizes[row[3]]), policy, phi, **run)
            errors = {"value": cases.relative_error(mine[0], value), "gradient": cases.relative_error(mine[1], gradient)}
            found.append(dict(zip(NAMES, row, strict=True)) | errors)
    return found


def largest(found: list[dict[str, Any]], name: str) -> dict[str, dict[str, float]]:
    """The largest errors for each value of one factor."""
    groups = defaultdict(list)
    for row in found:
        groups[row[name]].append(row)
    return {value: {error: max(row[error] for row in rows) for error in ("value", "gradient")} for value, rows in groups.items()}


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """What is recorded: how many combinations, the largest errors, where, and by factor."""
    worst = max(found, key=lambda row: row["gradient"])
    return {
        "combinations": len(found),
        "max_value_error": max(row["value"] for row in found),
        "max_gradient_error": worst["gradient"],
        "worst": {name: worst[name] for name in NAMES},
        "by": {name: largest(found, name) for name in NAMES},
    }


def main() -> None:
    parser = _bench.parser(__doc__.splitlines()[0])
    args = parser.parse_args()
    start, seed = time.perf_counter(), args.seeds[0]
    if len(args.seeds) > 1:
        parser.error("give one seed: it fixes the start of φ and of θ")
    pairs = sorted(cases.pairwise(*FACTORS))
    with jax.enable_x64(True):
        toy_rows = pairs[:3] if args.quick else itertools.product(*FACTORS)
        sizes = {"full": None, "mini-batch": cases.BATCH, "whole": None, "chunked": cases.CHUNK}
        toy = measure(cases.toy(), toy_rows, cases.STEPS, sizes, seed)
        sizes = {"full": None, "mini-batch": 3, "whole": None, "chunked": 2}
        transformer = measure(cases.transformer(), pairs[:1] if args.quick else pairs, 5, sizes, seed)
    results = {"toy": summary(toy), "transformer": summary(transformer)}
    columns = {f"{task}, {error}": (task, error) for task in results for error in ("value", "gradient")}
    for name in NAMES:
        values = list(dict.fromkeys(value for result in results.values() for value in result["by"][name]))
        _bench.table(
            {name: value}
            | {title: results[task]["by"][name].get(value, {}).get(error) for title, (task, error) in columns.items()}
            for value in values
        )
        print()
    for task, result in results.items():
        print(f"{task}: {result['combinations']} combinations, largest error of a gradient {result['max_gradient_error']:.1e}")
    seconds = time.perf_counter() - start
    _bench.save(
        "exactness", {"bound": BOUND, "steps": {"toy": cases.STEPS, "transformer": 5}, "seconds": seconds, **results}, args
    )
    if max(result["max_gradient_error"] for result in results.values()) > BOUND:
        sys.exit(f"an error exceeds {BOUND}")


if __name__ == "__main__":
    main()
