"""The gradient of a weighted loss and its rule: every derivative is that of the plain expression, in chunks or not."""

from __future__ import annotations

from collections.abc import Callable

import cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from olm.types import Array, PyTree
from olm.weighted import example_losses, mean_loss, weighted_gradient


def plain_gradient(losses: Callable) -> Callable[[PyTree, Array, PyTree], PyTree]:
    """The same quantity as one writes it without a rule of one's own."""
    return lambda params, weights, batch: jax.grad(lambda p: jnp.sum(weights * losses(p, batch)))(params)


def problem(n: int = cases.EXAMPLES) -> tuple[PyTree, Array, PyTree]:
    """Parameters, weights (one of them zero, one negative) and examples of the toy."""
    keys = jax.random.split(jax.random.key(2), 3)
    weights = jax.random.normal(keys[1], (n,)).at[0].set(0.0)
    return cases.toy_init(keys[0]), weights, cases.toy_examples(keys[2], n)


def functional(gradient: Callable) -> Callable[..., Array]:
    """A scalar of the gradient that is not linear in it."""

    def value(params: PyTree, weights: Array, batch: PyTree) -> Array:
        found = gradient(params, weights, batch)
        return jnp.sum(jnp.sin(found["w"])) + found["b"] ** 2 + jnp.sum(found["w"]) * jnp.sum(params["w"])

    return value


@pytest.mark.parametrize("chunk_size", [None, 1, 4, 9, 20])
def test_value_and_all_derivatives_are_those_of_the_plain_expression(chunk_size: int | None, x64: None) -> None:
    """In parameters, weights and data; 9 examples in chunks that divide them, leave one over, or exceed them."""
    arguments = problem()
    found = jax.jit(jax.value_and_grad(functional(weighted_gradient(cases.toy_losses, chunk_size)), (0, 1, 2)))(*arguments)
    expected = jax.jit(jax.value_and_grad(functional(plain_gradient(cases.toy_losses)), (0, 1, 2)))(*arguments)
    assert cases.relative_error(found[0], expected[0]) <= 1e-14
    for name, mine, theirs in zip(("params", "weights", "batch"), found[1], expected[1], strict=True):
        assert cases.relative_error(mine, theirs) <= 1e-13, name


def planted(change: Callable[[PyTree, Array, PyTree], tuple[PyTree, Array, PyTree]]) -> Callable:
    """`weighted_gradient` with a rule whose results ``change`` spoils."""

    @jax.custom_vjp
    def gradient(params: PyTree, weights: Array, batch: PyTree) -> PyTree:
        return plain_gradient(cases.toy_losses)(params, weights, batch)

    def forward(*arguments: PyTree) -> tuple[PyTree, PyTree]:
        return gradient(*arguments), arguments

    def backward(arguments: PyTree, cotangent: PyTree) -> PyTree:
        return change(*jax.vjp(plain_gradient(cases.toy_losses), *arguments)[1](cotangent))

    gradient.defvjp(forward, backward)
    return gradient


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda params, weights, batch: (params, weights, batch), []),
        (lambda params, weights, batch: (jax.tree.map(jnp.negative, params), weights, batch), [0]),
        (lambda params, weights, batch: (params, weights.at[-1].set(0), batch), [1]),
        (lambda params, weights, batch: (params, weights, jax.tree.map(jnp.zeros_like, batch)), [2]),
    ],
    ids=["right", "sign of the Hessian product", "a padded example", "data dropped"],
)
def test_the_comparison_finds_a_planted_bug(change: Callable, wrong: list[int], x64: None) -> None:
    arguments = problem()
    found = jax.grad(functional(planted(change)), (0, 1, 2))(*arguments)
    expected = jax.grad(functional(plain_gradient(cases.toy_losses)), (0, 1, 2))(*arguments)
    assert [i for i in range(3) if cases.relative_error(found[i], expected[i]) > 1e-13] == wrong


def test_it_serves_in_a_training_step_of_ones_own(x64: None) -> None:
    """A jitted step that knows nothing else of olm: the loss after two steps, differentiated in the weights of the first."""
    _, weights, batch = problem()
    params, optimiser = cases.toy_init(jax.random.key(9)), optax.adam(0.1, eps_root=1e-8)

    def loss(gradient: Callable) -> Callable[[Array], Array]:
        @jax.jit
        def step(params: PyTree, state: PyTree, weights: Array) -> tuple[PyTree, PyTree]:
            updates, state = optimiser.update(gradient(params, weights, batch), state)
            return optax.apply_updates(params, updates), state

        def after(weights: Array) -> Array:
            later, state = step(params, optimiser.init(params), weights)
            return jnp.mean(cases.toy_losses(step(later, state, jnp.ones_like(weights))[0], batch))

        return after

    found = jax.grad(loss(weighted_gradient(cases.toy_losses, 4)))(weights)
    assert cases.relative_error(found, jax.grad(loss(plain_gradient(cases.toy_losses)))(weights)) <= 1e-12


@pytest.mark.parametrize(("over_params", "over_weights", "chunk_size"), [(0, None, None), (None, 0, None), (0, 0, 4)])
def test_rows_under_vmap_are_what_they_are_alone(
    over_params: int | None, over_weights: int | None, chunk_size: int | None, x64: None
) -> None:
    """Over parameters, over weights, and over both: the derivative too."""
    params, weights, batch = problem()
    many = jax.tree.map(lambda x: jnp.stack([x, 2 * x + 0.1]), (params, weights))
    one = jax.jit(jax.grad(functional(weighted_gradient(cases.toy_losses, chunk_size)), (0, 1)))
    mapped = [params if over_params is None else many[0], weights if over_weights is None else many[1]]
    found = jax.vmap(one, (over_params, over_weights, None))(*mapped, batch)
    alone = []
    for i in range(2):
        row = jax.tree.map(lambda x, i=i: x[i], many)
        alone.append(one(params if over_params is None else row[0], weights if over_weights is None else row[1], batch))
    assert cases.relative_error(found, jax.tree.map(lambda *rows: jnp.stack(rows), *alone)) <= 1e-13


@pytest.mark.parametrize(("dtype", "chunk_size"), [(jnp.float32, None), (jnp.bfloat16, 4), (jnp.float16, None)])
def test_dtypes_are_kept(dtype: jnp.dtype, chunk_size: int | None) -> None:
    """Low-precision parameters under float32 weights: results in each argument's own type, and near those of float32."""
    params, weights, batch = problem()
    low = jax.tree.map(lambda x: x.astype(dtype), params), weights, jax.tree.map(lambda x: x.astype(dtype), batch)
    gradient = weighted_gradient(cases.toy_losses, chunk_size)
    found, pullback = jax.vjp(gradient, *low)
    bars = pullback(jax.tree.map(jnp.ones_like, found))
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(dtype)}
    for bar, argument in zip(bars, low, strict=True):
        assert jax.tree.map(lambda x: x.dtype, bar) == jax.tree.map(lambda x: x.dtype, argument)
    exact, exact_pullback = jax.vjp(plain_gradient(cases.toy_losses), params, weights, batch)
    expected = exact_pullback(jax.tree.map(jnp.ones_like, exact))
    tolerance = 30 * float(jnp.finfo(dtype).eps)
    assert cases.relative_error(found, exact) < tolerance
    assert cases.relative_error(bars, expected) < tolerance


def test_examples_may_hold_integers_and_keys(x64: None) -> None:
    """Tokens and dropout keys: nothing is differentiated in them, and chunks carry them along."""

    def losses(params: Array, batch: PyTree) -> Array:
        noise = jax.vmap(lambda key: jax.random.normal(key, (3,)))(batch["key"])
        return jnp.sum(jnp.tanh(params[batch["token"]] + 0.1 * noise), axis=1)

    tokens = jax.random.randint(jax.random.key(0), (5, 3), 0, 4)
    batch = {"token": tokens, "key": jax.random.split(jax.random.key(1), 5)}
    params, weights = jax.random.normal(jax.random.key(2), (4,)), jnp.arange(5.0)

    def value(gradient: Callable) -> Callable[[Array, Array], Array]:
        return lambda params, weights: jnp.sum(gradient(params, weights, batch) ** 3)

    expected = jax.jit(jax.grad(value(plain_gradient(losses)), (0, 1)))(params, weights)
    for chunk_size in (None, 2):
        found = jax.jit(jax.grad(value(weighted_gradient(losses, chunk_size)), (0, 1)))(params, weights)
        assert cases.relative_error(found, expected) <= 1e-13


def test_padding_never_meets_a_loss_it_could_break(x64: None) -> None:
    """A loss that is infinite at zero input: filling the last chunk up with zeros would give 0 · ∞."""
    x = jnp.array([1.0, 2.0, 3.0])
    gradient = weighted_gradient(lambda w, x: w / x, chunk_size=2)
    weights = jnp.array([0.2, 0.3, 0.5])
    assert float(gradient(jnp.array(1.0), weights, x)) == pytest.approx(0.2 + 0.15 + 0.5 / 3, rel=1e-15)
    assert np.allclose(jax.grad(lambda w: gradient(jnp.array(1.0), w, x))(weights), 1 / x, rtol=1e-15)


def test_forward_mode_is_refused_and_not_wrong() -> None:
    params, weights, batch = problem()
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda w: weighted_gradient(cases.toy_losses)(params, w, batch), (weights,), (weights,))


def test_the_rule_costs_eight_products_a_layer() -> None:
    """3 for a gradient (forward, for the input, for the weights) and 8 for its derivative, by the compiler's own count."""
    width = 64
    weights, x = jnp.ones(width), jnp.ones((width, width))

    def losses(params: PyTree, x: Array) -> Array:
        for matrix in params:
            x = jnp.tanh(x @ matrix)
        return jnp.sum(x, axis=1)

    gradient = weighted_gradient(losses)

    def derivative(params: PyTree, weights: Array, cotangent: PyTree) -> PyTree:
        return jax.vjp(lambda p, w: gradient(p, w, x), params, weights)[1](cotangent)

    def products(function: Callable, copies: int) -> float:
        """What one layer more costs, in matrix products."""
        flops = []
        for layers in (2, 3):
            params = [jnp.eye(width)] * layers
            arguments = (params, weights, params)[:copies]
            flops.append(jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"])
        return (flops[1] - flops[0]) / (2 * width**3)

    assert products(lambda params, weights: gradient(params, weights, x), 2) == pytest.approx(3, abs=0.2)
    assert products(derivative, 3) == pytest.approx(8, abs=0.2)


@pytest.mark.parametrize("chunk_size", [None, 1, 4, 11, 30])
def test_the_mean_does_not_depend_on_chunks(chunk_size: int | None, x64: None) -> None:
    params, _, batch = problem(11)
    found = jax.value_and_grad(mean_loss(cases.toy_losses, chunk_size))(params, batch)
    expected = jax.value_and_grad(lambda p: jnp.mean(cases.toy_losses(p, batch)))(params)
    assert cases.relative_error(found, expected) <= 1e-14


@pytest.mark.parametrize("chunk_size", [None, 1, 4, 30])
def test_losses_example_losses_are_the_losses(chunk_size: int | None, x64: None) -> None:
    params, weights, batch = problem()
    found = jax.vjp(example_losses(cases.toy_losses, chunk_size), params, batch)
    expected = jax.vjp(cases.toy_losses, params, batch)
    assert cases.relative_error(found[0], expected[0]) <= 1e-15
    assert cases.relative_error(found[1](weights), expected[1](weights)) <= 1e-14
