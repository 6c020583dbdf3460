"""The models: their derivatives of first and second order, the published sizes, causality, masks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from olm.errors import InputError
from olm.models import perceptron, transformer
from olm.models.transformer import TransformerConfig, causal_attention, causal_softmax, cross_entropy

TINY = TransformerConfig(vocabulary=11, length=5, width=8, layers=2, heads=2)


def random_batch(config: TransformerConfig, n: int, seed: int = 0) -> dict:
    tokens = jax.random.randint(jax.random.key(seed), (n, config.length + 1), 0, config.vocabulary, jnp.int32)
    mask = jnp.arange(config.length) < jnp.array([config.length - i % 3 for i in range(n)])[:, None]
    return {"tokens": tokens, "mask": mask}


# --- perceptron -------------------------------------------------------------------------------------------------------


def perceptron_batch(n: int, width: int) -> dict:
    x = jax.random.normal(jax.random.key(3), (n, width))
    return {"x": x, "y": (x[:, 0] > 0.3).astype(x.dtype)}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_perceptron_derivatives_of_both_orders_are_the_closed_forms(scale: float) -> None:
    """∇ℓ = (o − y)x and ∇²ℓ·v = o(1 − o)(x·v)x, also at w = 0, where max(x, 0) and |x| have no derivative."""
    batch, weight = perceptron_batch(20, 6), jax.random.uniform(jax.random.key(4), (20,))
    w = scale * jax.random.normal(jax.random.key(5), (6,))
    v = jax.random.normal(jax.random.key(6), (6,))

    def total(w: jax.Array) -> jax.Array:
        return weight @ perceptron.losses({"w": w}, batch)

    x, y = np.asarray(batch["x"]), np.asarray(batch["y"])
    o = 1 / (1 + np.exp(-x @ np.asarray(w)))
    gradient, product = jax.jvp(jax.grad(total), (w,), (v,))
    np.testing.assert_allclose(total(w), weight @ np.logaddexp(0, -(2 * y - 1) * (x @ np.asarray(w))), rtol=1e-13)
    np.testing.assert_allclose(gradient, (weight * (o - y)) @ x, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(product, (weight * o * (1 - o) * (x @ v)) @ x, rtol=1e-10, atol=1e-14)
    reverse = jax.grad(lambda w: jax.grad(total)(w) @ v)(w)
    np.testing.assert_allclose(reverse, product, rtol=1e-12, atol=1e-14)


def test_perceptron_keeps_the_tiny_losses_of_learned_examples() -> None:
    batch = {"x": jnp.array([[40.0], [-40.0], [90.0]]), "y": jnp.array([1.0, 0.0, 0.0])}
    losses = perceptron.losses({"w": jnp.ones(1)}, batch)
    assert losses.dtype == jnp.float32
    np.testing.assert_allclose(losses, [math.exp(-40), math.exp(-40), 90.0], rtol=1e-5)


def test_perceptron_starts_within_its_bounds() -> None:
    w = perceptron.init(jax.random.key(0), 4096)["w"]
    assert float(abs(w).max()) <= 1 / 64
    np.testing.assert_allclose(w.std(), 1 / 64 / math.sqrt(3), rtol=0.03)


# --- transformer ------------------------------------------------------------------------------------------------------


def test_the_papers_transformer_has_the_published_number_of_parameters() -> None:
    shapes = jax.eval_shape(transformer.init(transformer.PAPER), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 1_682_688 == transformer.PAPER.parameters
    assert (transformer.PAPER.length, transformer.PAPER.heads, transformer.PAPER.score_scale) == (64, 8, "width")


def plain_logits(config: TransformerConfig, params: dict, tokens: np.ndarray) -> np.ndarray:
    """The same model, one head and one query at a time."""

    def norm(x: np.ndarray, p: dict) -> np.ndarray:
        return x / (np.sqrt((x * x).mean(-1, keepdims=True)) + 1e-8) * p["weight"] + p["bias"]

    p = jax.tree.map(np.asarray, params)
    size, length = config.width // config.heads, len(tokens)
    x = p["embedding"][tokens] + p["position"][:length]
    for layer in range(config.layers):
        b = p[f"block_{layer}"]
        q, k, v = np.split(norm(x, b["norm_attention"]) @ b["qkv"], 3, axis=1)
        mixed = np.zeros_like(x)
        for head in range(config.heads):
            part = slice(head * size, (head + 1) * size)
            for i in range(length):
                scores = np.exp(
                    k[: i + 1, part] @ q[i, part] / math.sqrt(config.width if config.score_scale == "width" else size)
                )
                mixed[i, part] = scores / scores.sum() @ v[: i + 1, part]
        x = x + mixed @ b["out"]
        x = x + np.maximum(norm(x, b["norm_mlp"]) @ b["up"], 0) @ b["down"]
    return norm(x, p["norm"]) @ p["head"]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("scale", "lengths"), [("width", (5, 3)), ("head", (5, 3)), ("head", (33, 32))])
def test_transformer_computes_what_its_description_says(scale: str, lengths: tuple[int, int]) -> None:
    config = replace(TINY, score_scale=scale, length=lengths[0])
    params = transformer.init(config)(jax.random.key(1))
    params = jax.tree.map(lambda leaf: leaf + 0.3 * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), params)
    batch = random_batch(config, 3)
    for length in lengths:
        logits = jax.jit(transformer.logits(config))(params, batch["tokens"][:, :length])
        for row, tokens in zip(logits, np.asarray(batch["tokens"]), strict=True):
            np.testing.assert_allclose(row, plain_logits(config, params, tokens[:length]), rtol=1e-11, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_positions_see_no_later_position() -> None:
    """The logits at position l depend on what is put in at 0 … l, every one of them, and on nothing after."""
    params = transformer.init(TINY)(jax.random.key(0))
    tokens = random_batch(TINY, 1)["tokens"][:, :-1]
    weight = jax.random.normal(jax.random.key(9), (TINY.vocabulary,))

    def seen(position: jax.Array) -> jax.Array:
        return (transformer.logits(TINY)({**params, "position": position}, tokens)[0] * weight).sum(-1)

    influence = abs(jax.jit(jax.jacrev(seen))(params["position"])).max(-1)
    assert (np.asarray(influence > 1e-9) == np.tril(np.ones((5, 5), bool))).all()
    assert (np.triu(influence, 1) == 0).all()


@pytest.mark.usefixtures("x64")
def test_own_derivative_rules_agree_with_those_of_the_plain_formulas() -> None:
    z, v = jax.random.normal(jax.random.key(0), (2, 4, 4)) * 3
    labels = jnp.array([3, 0, 1, 1])
    causal = jnp.tril(jnp.ones((4, 4), bool))
    weight = jax.random.normal(jax.random.key(1), (4, 4))
    values = jax.random.normal(jax.random.key(2), (1, 33, 1, 2))
    lower = jnp.tril(jnp.ones((33, 33), bool))

    def attention(z: jax.Array, rule: Callable) -> jax.Array:
        """Queries from the one row of z, keys from another, so that 33 positions depend on few numbers."""
        q, k = (jnp.outer(jnp.sin(jnp.arange(33.0) + shift), row).reshape(1, 33, 1, 4) for shift, row in enumerate(z[:2]))
        return rule(q, k, values * z[2, :2])

    def mixed(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        weights = jax.nn.softmax(jnp.where(lower, jnp.einsum("bqhd,bkhd->bhqk", q, k), -1e30))
        return jnp.einsum("bhqk,bkhd->bqhd", weights, v)

    pairs = [
        (lambda z: cross_entropy(z, labels), lambda z: jax.scipy.special.logsumexp(z, -1) - z[jnp.arange(4), labels]),
        (lambda z: causal_softmax(z) * weight, lambda z: jax.nn.softmax(jnp.where(causal, z, -1e30)) * weight),
        (lambda z: causal_softmax(z[1:]) * weight[1:], lambda z: jax.nn.softmax(jnp.where(causal, z, -1e30))[1:] * weight[1:]),
        (lambda z: attention(z, causal_attention), lambda z: attention(z, mixed)),
    ]
    for own, plain in pairs:
        np.testing.assert_allclose(own(z), plain(z), rtol=1e-13, atol=1e-15)
        gradients = [
            jax.jit(lambda z, v, f=f: jax.jvp(jax.grad(lambda z: (f(z) ** 2).sum()), (z,), (v,)))(z, v) for f in (own, plain)
        ]
        for mine, other in zip(*gradients, strict=True):
            assert float(abs(other).max()) > 0.1
            np.testing.assert_allclose(mine, other, rtol=1e-10, atol=1e-12)


def test_cross_entropy_and_softmax_stand_large_scores() -> None:
    z = jnp.array([[1e4, -1e4], [-1e4, 1e4]])
    np.testing.assert_allclose(cross_entropy(z, jnp.array([0, 0])), [0.0, 2e4])
    np.testing.assert_allclose(causal_softmax(z), [[1.0, 0.0], [0.0, 1.0]])


@pytest.mark.usefixtures("x64")
def test_gradients_and_their_derivatives_are_exact() -> None:
    """The derivative of the weighted gradient along a direction: two orders of differentiation, finite differences."""
    params, batch = transformer.init(TINY)(jax.random.key(0)), random_batch(TINY, 4)
    losses, weight = transformer.per_sequence_losses(TINY), jnp.array([0.1, 0.0, 0.6, 0.3])
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    v = tree.unflatten([jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)])
    along = jax.jit(lambda s: jax.tree.map(lambda a, b: a + s * b, params, v))

    def total(p: dict) -> jax.Array:
        return weight @ losses(p, batch)

    def dot(a: dict, b: dict) -> jax.Array:
        return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, a, b)))

    gradient, product = jax.jit(lambda p: jax.jvp(jax.grad(total), (p,), (v,)))(params)
    reverse = jax.jit(jax.grad(lambda p: dot(jax.grad(total)(p), v)))(params)
    for forward, backward in zip(jax.tree.leaves(product), jax.tree.leaves(reverse), strict=True):
        np.testing.assert_allclose(forward, backward, rtol=1e-9, atol=1e-13)
    value = jax.jit(total)
    slope = (value(along(1e-5)) - value(along(-1e-5))) / 2e-5
    np.testing.assert_allclose(dot(gradient, v), slope, rtol=1e-7)
    curvature = (value(along(2e-4)) - 2 * value(params) + value(along(-2e-4))) / 4e-8
    np.testing.assert_allclose(dot(product, v), curvature, rtol=1e-4)


@pytest.mark.usefixtures("x64")
def test_the_loss_is_the_mean_over_labels_that_count() -> None:
    params, batch = transformer.init(TINY)(jax.random.key(0)), random_batch(TINY, 3)
    losses = jax.jit(transformer.per_sequence_losses(TINY))
    for tokens, mask, loss in zip(batch["tokens"], np.asarray(batch["mask"]), losses(params, batch), strict=True):
        logits = plain_logits(TINY, params, np.asarray(tokens[:-1]))
        nats = np.log(np.exp(logits).sum(-1)) - logits[np.arange(5), tokens[1:]]
        np.testing.assert_allclose(loss, nats[mask].mean(), rtol=1e-12)
    padded = {**batch, "tokens": jnp.where(jnp.pad(batch["mask"], ((0, 0), (1, 0)), constant_values=True), batch["tokens"], 1)}
    assert (padded["tokens"] != batch["tokens"]).any()
    np.testing.assert_array_equal(losses(params, padded), losses(params, batch))
    full = {"tokens": batch["tokens"]}
    np.testing.assert_allclose(losses(params, full), losses(params, {**full, "mask": jnp.ones((3, 5))}), rtol=1e-14)
    assert (losses(params, {**full, "mask": jnp.zeros((3, 5), bool)}) == 0).all()


def test_initial_weights_follow_the_chosen_law() -> None:
    config = TransformerConfig(vocabulary=300, length=8, width=64, layers=2, heads=4)
    params = transformer.init(config)(jax.random.PRNGKey(0))
    down = params["block_1"]["down"]
    assert down.dtype == jnp.float32
    np.testing.assert_allclose(abs(down).max(), 1 / 16, rtol=1e-3)
    np.testing.assert_allclose(down.std(), 1 / 16 / math.sqrt(3), rtol=0.02)
    np.testing.assert_allclose(params["embedding"].std(), 1.0, rtol=0.02)
    small = transformer.init(replace(config, init="gpt2"))(jax.random.key(0))
    np.testing.assert_allclose([small["embedding"].std(), small["block_0"]["qkv"].std()], 0.02, rtol=0.03)
    np.testing.assert_allclose(small["block_1"]["down"].std(), 0.01, rtol=0.03)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"width": 30}, "width 30 is not a multiple of heads 4"),
        ({"layers": 0}, "layers must be at least 1, not 0"),
        ({"score_scale": "depth"}, "score_scale must be one of width, head"),
        ({"init": "zeros"}, "init must be one of torch, gpt2"),
    ],
)
def test_impossible_sizes_say_what_to_change(settings: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        TransformerConfig(**settings)


def test_too_long_sequences_say_what_to_change() -> None:
    with pytest.raises(InputError, match="9 inputs exceed the model's length 5"):
        jax.eval_shape(transformer.logits(TINY), transformer.init(TINY)(jax.random.key(0)), jnp.zeros((1, 9), jnp.int32))
