"""Anybody's model: flax linen, flax nnx, equinox and plain functions go through one `Task` and get the right policy gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cases
import equinox
import flax.linen
import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import olm
from olm.types import Array, PyTree

HIDDEN, STEPS = 4, 5


@pytest.fixture(scope="module", autouse=True)
def few_programs() -> Iterator[None]:
    """Compiled programs hold memory maps, of which a process has a limited number: leave none behind."""
    yield
    jax.clear_caches()


def loss(score: Array, batch: PyTree) -> Array:
    """Squared error, so that no model is at a corner of its loss."""
    return 0.5 * (score - batch["y"]) ** 2


def plain() -> tuple[Callable, Callable]:
    """Two functions and a tuple of arrays."""

    def init(key: Array) -> PyTree:
        up, down = jax.random.split(key)
        return jax.random.normal(up, (cases.WIDTH, HIDDEN)) / 2, jax.random.normal(down, (HIDDEN,)) / 2

    def losses(params: PyTree, batch: PyTree) -> Array:
        return loss(jnp.tanh(batch["x"] @ params[0]) @ params[1], batch)

    return init, losses


def linen() -> tuple[Callable, Callable]:
    """A flax linen module: parameters are its variables."""

    class Network(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, x: Array) -> Array:
            x = flax.linen.tanh(flax.linen.Dense(HIDDEN, param_dtype=x.dtype)(x))
            return flax.linen.Dense(1, param_dtype=x.dtype)(x)[..., 0]

    network = Network()
    return (lambda key: network.init(key, jnp.zeros((1, cases.WIDTH)))), lambda p, b: loss(network.apply(p, b["x"]), b)


def nnx() -> tuple[Callable, Callable]:
    """A flax nnx module: split into a graph, which is static, and a state of parameters."""

    class Network(flax.nnx.Module):
        def __init__(self, rngs: flax.nnx.Rngs):
            dtype = jnp.result_type(float)
            self.up = flax.nnx.Linear(cases.WIDTH, HIDDEN, param_dtype=dtype, rngs=rngs)
            self.down = flax.nnx.Linear(HIDDEN, 1, param_dtype=dtype, rngs=rngs)

        def __call__(self, x: Array) -> Array:
            return self.down(jnp.tanh(self.up(x)))[..., 0]

    graph = flax.nnx.graphdef(flax.nnx.eval_shape(lambda: Network(flax.nnx.Rngs(0))))

    def init(key: Array) -> PyTree:
        return flax.nnx.state(Network(flax.nnx.Rngs(key)), flax.nnx.Param)

    return init, lambda params, batch: loss(flax.nnx.merge(graph, params)(batch["x"]), batch)


def eqx() -> tuple[Callable, Callable]:
    """An equinox module: its arrays are the parameters, the rest is static."""

    def network(key: Array) -> equinox.nn.MLP:
        return equinox.nn.MLP(cases.WIDTH, "scalar", HIDDEN, 1, activation=jnp.tanh, dtype=jnp.result_type(float), key=key)

    _, static = equinox.partition(network(jax.random.key(0)), equinox.is_inexact_array)

    def losses(params: PyTree, batch: PyTree) -> Array:
        return loss(jax.vmap(equinox.combine(params, static))(batch["x"]), batch)

    return (lambda key: equinox.filter(network(key), equinox.is_inexact_array)), losses


@pytest.mark.parametrize("model", [plain, linen, nnx, eqx])
def test_a_models_policy_gradient_is_that_of_finite_differences(model: Callable, x64: None) -> None:
    """Central differences of the run itself along two directions; the model's parameters keep their own type."""
    init, losses = model()
    task = cases.toy()._replace(init=init, losses=losses, test=None)
    learner = olm.Learner(optax.adam(0.02, eps_root=1e-8), cases.BATCH, cases.CHUNK)
    policy, key = olm.policy.static(), jax.random.key(1)
    phi = cases.start(policy, STEPS, cases.EXAMPLES, cases.BATCH)
    value, gradient = olm.policy_gradient(task, learner, policy, phi, steps=STEPS, key=key)

    def run(phi: Array) -> olm.Curve:
        return olm.train(task, learner, policy, phi, steps=STEPS, key=key)

    assert float(olm.area_under_loss(run(phi).target)) == pytest.approx(float(value), rel=1e-14)
    params = run(phi).params
    assert jax.tree.structure(params) == jax.tree.structure(init(key))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float64)}
    width = 1e-5
    for seed in range(2):
        direction = jax.random.normal(jax.random.key(seed), phi.shape)
        ahead, behind = (olm.area_under_loss(run(phi + sign * width * direction).target) for sign in (1, -1))
        slope = (ahead - behind) / (2 * width)
        assert float(jnp.vdot(gradient, direction)) == pytest.approx(float(slope), rel=1e-6)
        assert abs(float(slope)) > 1e-5
