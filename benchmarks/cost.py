"""What an exact policy gradient costs, in training runs and in memory.

The denominator is a bare-optax scan (``_bare.py``) with the target loss evaluated at every step; numerator and denominator run
alternately in one process. "Products kept" is ``residuals=True``, "wide products kept" those that sum over at least the
transformer's 4·width terms. Rows: a transformer (2 layers, width 128, length 64, vocabulary 512, 32 training and 64 target
sequences, T = 16), the perceptron of the paper (D = 128, N = 4096, 512 targets, T = 2000), `jax.grad` through a plain scan on
the transformer, and plain training with uniform weights, whose parameters must be equal bit for bit. The scan meets the
transformer as a textbook writes it, which is what one has without olm; the same function on both sides, textbook or
`olm.models.transformer` (made to be differentiated twice, by whomever), is measured too.

    python benchmarks/cost.py [--quick]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import _bare
import _bench
import jax
import numpy as np
import optax

import olm
from olm.models import transformer
from olm.tasks.perceptron import perceptron

HEADS = 8
SIZES = {False: {"vocabulary": 512, "length": 64, "width": 128}, True: {"vocabulary": 64, "length": 16, "width": 32}}


def language(quick: bool) -> tuple[olm.Task, int, float]:
    """The transformer task with random tokens: costs do not depend on their values."""
    config = transformer.TransformerConfig(**SIZES[quick], layers=2, heads=HEADS)
    keys = jax.random.split(jax.random.key(0), 2)
    tokens = [jax.random.randint(k, (n, config.length + 1), 0, config.vocabulary) for k, n in zip(keys, (32, 64), strict=True)]
    task = olm.Task(
        transformer.init(config), transformer.per_sequence_losses(config), {"tokens": tokens[0]}, {"tokens": tokens[1]}
    )
    return task, 16, 0.1


def linear(quick: bool) -> tuple[olm.Task, int, float]:
    """The paper's perceptron without a test set."""
    task = perceptron(jax.random.key(0), **({"width": 16, "examples": 256, "targets": 64} if quick else {}))
    return task._replace(test=None, draw=None), 100 if quick else 2000, 0.1


def wide(quick: bool) -> int:
    """Terms of the sums in the transformer's wide layer: four times its width."""
    return 4 * SIZES[quick]["width"]


def gradient(task: olm.Task, rate: float, steps: int, adjoint: olm.adjoint.Adjoint) -> tuple[Callable, Any]:
    """A jitted policy gradient of the table, data as arguments, and where it starts."""
    learner, policy = olm.Learner(optax.sgd(rate)), olm.policy.table()

    @jax.jit
    def run(phi: Any, train: Any, target: Any) -> Any:
        there = task._replace(train=train, target=target)
        return olm.policy_gradient(there, learner, policy, phi, steps=steps, key=jax.random.key(0), adjoint=adjoint)

    n = jax.tree.leaves(task.train)[0].shape[0]
    return run, policy.init(steps, n, n)


def memory(jitted: Any, *arguments: Any) -> int:
    """XLA's temporary memory of a compiled function, bytes."""
    return jitted.lower(*arguments).compile().memory_analysis().temp_size_in_bytes


def against_jax_grad(
    task: olm.Task, rate: float, steps: int, terms: int, repeats: int
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """`jax.grad` through a plain scan over olm's gradient, in time and memory; and by how much the two gradients differ."""
    rows, checks = [], {}
    start = (task.init(jax.random.split(jax.random.key(0))[0]), task.train, task.target)
    textbook = task._replace(losses=_bare.transformer_losses(HEADS))
    difference = np.abs(np.asarray(textbook.losses(*start[:2]) - task.losses(*start[:2]))).max()
    checks["losses of the textbook transformer and of olm.models.transformer, largest difference, nats"] = float(difference)
    sides = {
        "textbook transformer, olm's on the other side": (textbook, task),
        "textbook on both sides": (textbook, textbook),
        "olm.models on both sides": (task, task),
    }
    adjoints = {
        "stored": olm.adjoint.direct(),
        "stored, wide products kept": olm.adjoint.direct(residuals=terms),
        "segmented": olm.adjoint.segmented(),
    }
    for models, (plain, ours) in sides.items():
        naive = jax.jit(_bare.naive_policy_gradient(plain.losses, optax.sgd(rate)))
        for label, adjoint in adjoints.items():
            run, phi = gradient(ours, rate, steps, adjoint)
            ratio = _bench.paired_ratio(
                lambda n=naive, p=phi: n(p, *start), lambda r=run, p=phi: r(p, task.train, task.target), repeats
            )
            needed = memory(naive, phi, *start)
            what = f"transformer, T = {steps}: jax.grad through a plain scan ({models}) / policy gradient ({label})"
            share = needed / memory(run, phi, task.train, task.target)
            rows.append({"what": what, **ratio, "memory_ratio": share, "temporary_MiB": needed / 2**20})
            mine, theirs = (np.asarray(g) for g in (run(phi, task.train, task.target)[1], naive(phi, *start)[1]))
            difference = np.linalg.norm(mine - theirs) / np.linalg.norm(theirs)
            checks[f"gradient against jax.grad ({models}), float32 relative ({label})"] = float(difference)
    return rows, checks


def main() -> None:
    """Measure, print, save."""
    parser = _bench.parser(__doc__, seeds=())
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    checks: dict[str, Any] = {}
    adjoints = {
        "stored": olm.adjoint.direct(),
        "segmented": olm.adjoint.segmented(),
        "stored, products kept": olm.adjoint.direct(residuals=True),
        "segmented, products kept": olm.adjoint.segmented(residuals=True),
    }
    for name, make in {"transformer": language, "perceptron": linear}.items():
        task, steps, rate = make(arguments.quick)
        params = task.init(jax.random.split(jax.random.key(0))[0])
        bare = jax.jit(_bare.train(task.losses, optax.sgd(rate), steps))
        plain = (params, task.train, task.target)
        terms = wide(arguments.quick)
        more = {"stored, wide products kept": olm.adjoint.direct(residuals=terms)} if name == "transformer" else {}
        for label, adjoint in (adjoints | more).items():
            run, phi = gradient(task, rate, steps, adjoint)
            ratio = _bench.paired_ratio(
                lambda r=run, p=phi, t=task: r(p, t.train, t.target), lambda b=bare, a=plain: b(*a), arguments.repeats
            )
            mebibytes = memory(run, phi, task.train, task.target) / 2**20
            rows.append({"what": f"{name}: policy gradient ({label}) / training run", **ratio, "temporary_MiB": mebibytes})
        if name == "transformer":
            compared, differences = against_jax_grad(task, rate, steps, terms, max(5, arguments.repeats // 3))
            rows += compared
            checks |= differences
        learner, uniform = olm.Learner(optax.sgd(rate)), olm.policy.uniform()

        @jax.jit
        def ours(
            train: Any, target: Any, task: Any = task, learner: Any = learner, policy: Any = uniform, steps: int = steps
        ) -> Any:
            there = task._replace(train=train, target=target)
            curve = olm.train(there, learner, policy, (), steps=steps, key=jax.random.key(0))
            return curve.params, curve.target

        # olm's curve starts at θ_0: so does the one it is compared with.
        same = jax.jit(_bare.train(task.losses, optax.sgd(rate), steps, from_start=True))
        mine, theirs = ours(task.train, task.target), same(*plain)
        equal = jax.tree.map(lambda a, b: bool((a == b).all()), mine[0], theirs[0])
        checks[f"{name}: parameters bitwise equal to bare optax"] = all(jax.tree.leaves(equal))
        ratio = _bench.paired_ratio(lambda o=ours, t=task: o(t.train, t.target), lambda b=same, a=plain: b(*a), arguments.repeats)
        rows.append({"what": f"{name}: olm.train with uniform weights, parameters and target curve / bare optax", **ratio})
    shown = ("what", "ratio", "a_median_s", "b_median_s", "temporary_MiB", "memory_ratio")
    _bench.table({k: row.get(k) for k in shown} for row in rows)
    for check, value in checks.items():
        print(f"{check}: {value}")
    _bench.save("cost", {"rows": rows, "checks": checks}, arguments)


if __name__ == "__main__":
    main()
