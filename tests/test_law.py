"""The Learning Law's measures against their definitions, and its sign on a run that a search has improved."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

import olm
from olm import law
from olm.tasks.perceptron import perceptron


def test_contributions_are_inner_products_of_gradients(x64) -> None:
    task = perceptron(jax.random.key(0), width=5, examples=7, targets=6, tests=2)
    params = task.init(jax.random.key(1))
    each = jax.vmap(lambda i: jax.grad(lambda p: task.losses(p, task.train)[i])(params)["w"])(jnp.arange(7))
    target = jax.grad(lambda p: jnp.mean(task.losses(p, task.target)))(params)["w"]
    np.testing.assert_allclose(law.contributions(task, params, task.train, task.target), each @ target, rtol=1e-12)


def test_similarity_counts_only_active_examples() -> None:
    contributions, weights = np.array([1.0, 3.0, 100.0]), np.array([0.25, 0.75, 0.0])
    mean = 0.25 * 1 + 0.75 * 3
    expected = mean / np.sqrt((1 - mean) ** 2 + (3 - mean) ** 2)
    np.testing.assert_allclose(law.similarity(jnp.array(contributions), jnp.array(weights)), expected, rtol=1e-6)


def test_stationarity_is_zero_exactly_at_a_vertex_of_least_gradient_and_falls_in_a_search() -> None:
    gradient = jnp.array([[3.0, 1.0, 2.0]])
    assert float(law.stationarity(gradient, jnp.array([[0.0, 1.0, 0.0]]))[0]) == 0.0
    assert float(law.stationarity(gradient, jnp.array([[1.0, 0.0, 0.0]]))[0]) == 2.0
    task = perceptron(jax.random.key(0), width=4, examples=16, targets=64, tests=8)
    learner, policy, steps, key = olm.Learner(optax.sgd(0.2)), olm.policy.table(), 12, jax.random.key(3)
    found = olm.find_policy(
        task, learner, steps=steps, key=key, evaluations=30, target_draws=0, validation_fraction=0, policy=policy
    )
    key_train = jax.random.split(key)[0]

    def gap(phi):
        _, gradient = olm.policy_gradient(task, learner, policy, phi, steps=steps, key=key_train)
        return float(jnp.sum(law.stationarity(gradient, phi)))

    assert gap(found.phi) < 0.5 * gap(policy.init(steps, 16, 16))
