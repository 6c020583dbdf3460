"""Small tasks, learners and policies that several tests and `benchmarks/exactness.py` share, and the reference they are held to.

The reference knows neither `olm.weighted_gradient` nor an adjoint: a Python loop takes the gradient of the weighted loss by
`jax.grad` at every step, and `jax.value_and_grad` goes through the whole loop. Only the order of the examples and the weights are
taken from olm. Sizes differ from each other wherever they can, so that a mixed-up axis is an error, and nothing divides evenly.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import olm
from olm.adjoint import Adjoint
from olm.offload import offloaded
from olm.types import Array, Box, Learner, Policy, PyTree, Simplex, Task, Time

# T, D, N, B, K, M, and the examples in a chunk: 7 steps are 3 + 3 + 1, 9 examples 4 + 4 + 1, 6 are 4 + 2, 11 are 4 + 4 + 3.
STEPS, WIDTH, EXAMPLES, BATCH, TARGETS, TESTS, CHUNK = 7, 5, 9, 6, 11, 3, 4

# The bound is met at some steps and not at others: a clip factor taken for a constant shows, and so does one never applied.
OPTIMISERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "sgd": lambda: optax.sgd(0.3),
    "momentum": lambda: optax.sgd(0.2, momentum=0.9),
    "adamw": lambda: optax.adamw(0.05, eps_root=1e-8),
    "clipped": lambda: optax.chain(optax.clip_by_global_norm(0.35), optax.sgd(0.5)),
}
POLICIES: dict[str, Callable[[], Policy]] = {
    "uniform": olm.policy.uniform,
    "table": olm.policy.table,
    "static": olm.policy.static,
    "piecewise": lambda: olm.policy.piecewise(3),
    "scorer": olm.policy.scorer,
    "learning_rate": olm.policy.learning_rate,
}
ADJOINTS: dict[str, Callable[[], Adjoint]] = {
    "direct": olm.adjoint.direct,
    "segmented(2)": lambda: olm.adjoint.segmented(2),
    "segmented(3)": lambda: olm.adjoint.segmented(3),
    "direct, residuals": lambda: olm.adjoint.direct(residuals=True),
    "segmented(2), residuals": lambda: olm.adjoint.segmented(2, residuals=True),
    "offloaded": lambda: offloaded(snapshots=2, segment=3),
}


def toy_losses(params: PyTree, batch: PyTree) -> Array:
    """Logistic loss of a bounded score, [B]: not convex, and between .13 and 2.13 nats, so that no run is chaotic."""
    score = jnp.tanh(batch["x"] @ params["w"] + params["b"])
    return jnp.log1p(jnp.exp(-2 * batch["y"] * score))


def toy_init(key: Array) -> PyTree:
    """Five weights and a bias."""
    return {"w": jax.random.normal(key, (WIDTH,)), "b": jnp.zeros(())}


def toy_examples(key: Array, n: int, shift: float = 0.0) -> PyTree:
    """Inputs [n, 5] and labels ±1, some of them wrong."""
    key_x, key_noise = jax.random.split(key)
    x = shift + jax.random.normal(key_x, (n, WIDTH))
    return {"x": x, "y": jnp.sign(x[:, 0] - x[:, 1] + 0.5 * jax.random.normal(key_noise, (n,)))}


def toy() -> Task:
    """The five-dimensional task: 9 training, 11 target, 3 test examples."""
    keys = jax.random.split(jax.random.key(20), 3)
    train, target, test = toy_examples(keys[0], EXAMPLES), toy_examples(keys[1], TARGETS, 0.5), toy_examples(keys[2], TESTS, 0.5)
    return Task(toy_init, toy_losses, train, target, test)


def transformer() -> Task:
    """Next-token prediction by two layers of width 8: 5 training and 4 target sequences, masks of unequal length."""
    from olm.models import transformer as model

    config = model.TransformerConfig(vocabulary=7, length=4, width=8, layers=2, heads=2)
    key_train, key_target, key_mask = jax.random.split(jax.random.key(21), 3)

    def sequences(key: Array, n: int) -> PyTree:
        lengths = jax.random.randint(key_mask, (n, 1), 2, config.length + 1)
        mask = (jnp.arange(config.length) < lengths).astype(float)
        return {"tokens": jax.random.randint(key, (n, config.length + 1), 0, config.vocabulary), "mask": mask}

    task = Task(model.init(config), model.per_sequence_losses(config), sequences(key_train, 5), sequences(key_target, 4))
    return task._replace(alphabet=config.vocabulary)


def start(policy: Policy, steps: int, examples: int, batch: int, seed: int = 0) -> PyTree:
    """Parameters away from the uniform start, inside their feasible set, so that every weight differs from every other."""
    key = jax.random.key(1000 + seed)

    def away(constraint: Any, leaf: Array) -> Array:
        noise = jax.random.normal(jax.random.fold_in(key, leaf.size), leaf.shape, leaf.dtype)
        match constraint:
            case Simplex():
                return jax.nn.softmax(noise, axis=-1)
            case Box():
                return leaf * jnp.exp(0.3 * noise)
        return leaf + 0.1 * noise

    return olm.simplex.map_constraints(away, policy.feasible, policy.init(steps, examples, batch))


class Rollout(NamedTuple):
    """What the reference loop sees: losses [T+1] on target and test examples, ‖θ_{t+1} − θ_t‖ [T], and θ_T."""

    target: Array
    test: Array | None
    step_lengths: Array
    params: PyTree


def rollout(task: Task, learner: Learner, policy: Policy, phi: PyTree, steps: int, key: Array) -> Rollout:
    """Train by a plain Python loop; every operation is one that JAX differentiates by itself."""
    key_init, key_order = jax.random.split(key)
    n_examples = jax.tree.leaves(task.train)[0].shape[0]
    if learner.batch_size is None:
        order = jnp.tile(jnp.arange(n_examples), (steps, 1))
    else:
        order = olm.learner.order(key_order, steps, n_examples, learner.batch_size)
    target_losses = task.target_losses or task.losses

    @jax.jit
    def means(params: PyTree) -> list[Array]:
        return [jnp.mean(target_losses(params, data)) for data in (task.target, task.test) if data is not None]

    @jax.jit  # each step by itself: the loop stays Python's
    def step(params: PyTree, state: PyTree, phi: PyTree, t: Array, index: Array) -> tuple[PyTree, PyTree, Array]:
        batch = jax.tree.map(lambda x: x[index], task.train)
        phi_t = jax.tree.map(lambda by_step, below: jax.tree.map(lambda x: x[t] if by_step else x, below), policy.stepwise, phi)
        features = policy.features(task, params, batch, task.target) if policy.features else None
        weights = policy.weights(phi_t, Time(t, steps), index, features)
        gradient = jax.grad(lambda p: jnp.sum(weights * task.losses(p, batch)))(params)
        updates, state = learner.optimiser.update(gradient, state, params)
        if policy.rate is not None:
            rate = policy.rate(phi_t, Time(t, steps))
            updates = jax.tree.map(lambda u: rate * u, updates)
        return optax.apply_updates(params, updates), state, optax.tree.norm(updates)

    params = task.init(key_init)
    state = learner.optimiser.init(params)
    curves, lengths = [means(params)], []
    for t in range(steps):
        params, state, length = step(params, state, phi, jnp.asarray(t), order[t])
        lengths.append(length)
        curves.append(means(params))
    target, *test = map(jnp.stack, zip(*curves, strict=True))
    return Rollout(target, test[0] if test else None, jnp.stack(lengths), params)


def reference(
    task: Task, learner: Learner, policy: Policy, phi: PyTree, *, steps: int, key: Array, weights: Sequence[float] | None = None
) -> tuple[Array, PyTree]:
    """Σ_t w_t L(θ_t) and its gradient in φ by reverse mode through the loop; ``weights`` [T+1], None: the area."""
    cost = np.r_[0.0, np.full(steps, 1 / steps)] if weights is None else np.asarray(weights)
    return jax.value_and_grad(lambda p: cost @ rollout(task, learner, policy, p, steps, key).target)(phi)


def relative_error(found: PyTree, expected: PyTree) -> float:
    """‖found − expected‖ / ‖expected‖ over all leaves together; structure and shapes must agree, NaN is an infinite error."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True))
    assert all(np.shape(a) == np.shape(b) for a, b in pairs), [(np.shape(a), np.shape(b)) for a, b in pairs]
    flat = [
        np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in side] or [np.zeros(0)]) for side in zip(*pairs, strict=True)
    ]
    if not flat:  # no parameters: nothing to compare
        return 0.0
    size = np.linalg.norm(flat[1])
    assert size > 0, "the reference gradient is zero: nothing is compared"
    error = np.linalg.norm(flat[0] - flat[1]) / size
    return float(error) if np.isfinite(error) else float("inf")


def pairwise(*factors: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """Few rows that hold every pair of values of two different factors: greedily, the row with most pairs not seen yet."""
    indices = list(itertools.product(*(range(len(factor)) for factor in factors)))

    def pairs(row: tuple[int, ...]) -> set[tuple[int, int, int, int]]:
        return {(i, row[i], j, row[j]) for i, j in itertools.combinations(range(len(row)), 2)}

    left = set().union(*map(pairs, indices))
    while left:
        row = max(indices, key=lambda candidate: len(pairs(candidate) & left))
        left -= pairs(row)
        yield tuple(factor[i] for factor, i in zip(factors, row, strict=True))


def richardson(function: Callable[[float], float], x: float, h: float) -> float:
    """A derivative by central differences, extrapolated twice: error O(h⁶)."""
    d = [(function(x + h / 2**i) - function(x - h / 2**i)) / (2 * h / 2**i) for i in range(3)]
    e = [(4 * d[i + 1] - d[i]) / 3 for i in range(2)]
    return (16 * e[1] - e[0]) / 15
