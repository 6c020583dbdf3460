"""Low-rank adapters: how they start, merged and kept apart, their gradients, and what cannot be adapted."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from olm.errors import InputError
from olm.models import lora, transformer
from olm.models.lora import Adapter
from olm.models.transformer import TransformerConfig

TINY = TransformerConfig(vocabulary=11, length=6, width=8, layers=2, heads=2)
ALL = ("qkv", "out", "up", "down", "head")
ALPHA = 3.0


def made() -> tuple[dict, dict, np.ndarray]:
    """Parameters, adapters of every matrix with both factors filled, and tokens."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(transformer.init(TINY), jax.random.key(0))
    low_rank = jax.eval_shape(lambda params: lora.init(jax.random.key(1), params, rank=2, targets=ALL), shapes)
    params, adapters = (
        jax.tree.map(lambda leaf: rng.normal(0.05, 0.25, leaf.shape).astype(leaf.dtype), tree) for tree in (shapes, low_rank)
    )
    return params, adapters, rng.integers(0, TINY.vocabulary, (3, TINY.length), np.int32)


def by_hand(params: dict, adapters: dict) -> dict:
    """W + (α/r)·A·B, matrix by matrix in numpy."""
    changed = {name: dict(leaf) if isinstance(leaf, dict) else leaf for name, leaf in params.items()}
    for block in ("block_0", "block_1"):
        for name in ("qkv", "out", "up", "down"):
            a, b = adapters[block][name]
            changed[block][name] = params[block][name] + ALPHA / a.shape[1] * a @ b
    a, b = adapters["head"]
    return {**changed, "head": params["head"] + ALPHA / a.shape[1] * a @ b}


def test_adapters_start_as_published() -> None:
    """A from U(±1/√in), different for every matrix, and B zero, at the matrices asked for alone."""
    config = TransformerConfig(width=64, layers=2)
    params = transformer.init(config)(jax.random.key(0))
    start = jax.jit(lambda key, params: lora.init(key, params, rank=16, targets=("qkv", "down")))
    adapters = jax.tree.map(np.asarray, start(jax.random.key(1), params))
    assert {name: sorted(leaves) for name, leaves in adapters.items()} == {
        "block_0": ["down", "qkv"],
        "block_1": ["down", "qkv"],
    }
    for name, inputs, outputs in (("qkv", 64, 192), ("down", 256, 64)):
        adapter = adapters["block_0"][name]
        assert adapter.a.shape == (inputs, 16) and adapter.b.shape == (16, outputs) and not adapter.b.any()
        np.testing.assert_allclose([abs(adapter.a).max(), adapter.a.max()], 1 / math.sqrt(inputs), rtol=0.02)
        np.testing.assert_allclose(adapter.a.std(), 1 / math.sqrt(3 * inputs), rtol=0.06)
        assert float(abs(adapter.a - adapters["block_1"][name].a).max()) > 0.1
    assert lora.count(adapters) == 2 * 16 * (64 + 192 + 256 + 64) == sum(leaf.size for leaf in jax.tree.leaves(adapters))
    default = jax.eval_shape(lambda key: lora.init(key, params, rank=1), jax.random.key(1))
    assert sorted(default) == ["block_0", "block_1"] and sorted(default["block_1"]) == ["down", "out", "qkv", "up"]
    backwards = {name: params[name] for name in sorted(params, reverse=True)}
    again = lora.init(jax.random.key(1), backwards, rank=16, targets=("down", "qkv"))
    jax.tree.map(np.testing.assert_array_equal, again, adapters)


def test_adapters_at_their_start_change_nothing_at_all() -> None:
    params, _, tokens = made()
    adapters = lora.init(jax.random.key(1), params, rank=2, targets=ALL)
    merged = lora.merge(params, adapters, ALPHA)
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, merged, params)
    forward = jax.jit(transformer.logits(TINY))
    np.testing.assert_array_equal(forward(params, tokens, adapters=lora.scaled(adapters, ALPHA)), forward(params, tokens))


@pytest.mark.usefixtures("x64")
def test_merged_and_unmerged_adapters_are_the_same_model() -> None:
    """And so are those of the path with remembered keys and values."""
    params, adapters, tokens = made()
    merged, expected = jax.jit(lora.merge)(params, adapters, ALPHA), by_hand(params, adapters)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-15), merged, expected)
    forward, kept_apart = jax.jit(transformer.logits(TINY)), lora.scaled(adapters, ALPHA)
    base, unmerged = forward(params, tokens), forward(params, tokens, adapters=kept_apart)
    assert float(abs(unmerged - base).max()) > 0.1
    np.testing.assert_allclose(unmerged, forward(expected, tokens), rtol=1e-12, atol=1e-12)
    advance = jax.jit(transformer.advance(TINY))
    cache, first = advance(params, transformer.start(TINY, 3), tokens[:, :3], adapters=kept_apart)
    _, rest = advance(params, cache, tokens[:, 3:], adapters=kept_apart)
    np.testing.assert_allclose(np.concatenate([first, rest], 1), unmerged, rtol=1e-12, atol=1e-12)
    states = jax.jit(transformer.hidden(TINY))(params, tokens, adapters=kept_apart)
    np.testing.assert_allclose(states @ expected["head"], unmerged, rtol=1e-12, atol=1e-12)


def test_merged_and_unmerged_adapters_agree_in_float32() -> None:
    params, adapters, tokens = made()
    forward = jax.jit(transformer.logits(TINY))
    merged, unmerged = (
        forward(lora.merge(params, adapters, 1.0), tokens),
        forward(params, tokens, adapters=lora.scaled(adapters, 1.0)),
    )
    assert unmerged.dtype == jnp.float32
    np.testing.assert_allclose(unmerged, merged, rtol=1e-6, atol=1e-6 * float(abs(merged).max()))


@pytest.mark.parametrize("name", ALL)
def test_each_matrix_is_adapted_by_itself(name: str) -> None:
    """A matrix that the unmerged path forgot, or took another one's adapter for, would differ from the merged model."""
    params, adapters, tokens = made()
    one = {"head": adapters["head"]} if name == "head" else {"block_1": {name: adapters["block_1"][name]}}
    forward = jax.jit(transformer.logits(TINY))
    merged, unmerged = forward(lora.merge(params, one, ALPHA), tokens), forward(params, tokens, adapters=lora.scaled(one, ALPHA))
    assert float(abs(merged - forward(params, tokens)).max()) > 0.01
    np.testing.assert_allclose(unmerged, merged, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("x64")
def test_gradients_in_the_adapters_follow_the_chain_rule_on_both_paths() -> None:
    """With G = ∂ℓ/∂W at the merged matrix, ∂ℓ/∂A = (α/r)·G·Bᵀ and ∂ℓ/∂B = (α/r)·Aᵀ·G."""
    params, adapters, tokens = made()

    def loss(params: dict, adapters: dict | None = None) -> jax.Array:
        logits = transformer.logits(TINY)(params, tokens[:, :-1], adapters=adapters)
        return transformer.cross_entropy(logits, tokens[:, 1:]).mean()

    merged = jax.jit(jax.grad(lambda adapters: loss(lora.merge(params, adapters, ALPHA))))(adapters)
    unmerged = jax.jit(jax.grad(lambda adapters: loss(params, lora.scaled(adapters, ALPHA))))(adapters)
    whole = jax.tree.map(np.asarray, jax.jit(jax.grad(loss))(by_hand(params, adapters)))

    def chain(adapter: Adapter, gradient: np.ndarray) -> Adapter:
        return Adapter(ALPHA / 2 * gradient @ adapter.b.T, ALPHA / 2 * adapter.a.T @ gradient)

    expected = {
        name: chain(part, whole[name])
        if isinstance(part, Adapter)
        else {inner: chain(adapter, whole[name][inner]) for inner, adapter in part.items()}
        for name, part in adapters.items()
    }
    for path in (merged, unmerged):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), path, expected)
    assert all(float(abs(leaf).max()) > 1e-3 for leaf in jax.tree.leaves(expected))


def test_the_scale_follows_each_adapters_own_rank() -> None:
    adapters = {"head": Adapter(jnp.ones((3, 1)), jnp.ones((1, 2))), "x": {"up": Adapter(jnp.ones((3, 4)), jnp.ones((4, 2)))}}
    scaled = lora.scaled(adapters, 8.0)
    assert (float(scaled["head"].b.max()), float(scaled["x"]["up"].b.min())) == (8.0, 2.0)
    params = {"head": jnp.zeros((3, 2)), "x": {"up": jnp.zeros((3, 2)), "other": jnp.ones(2)}}
    merged = lora.merge(params, adapters, 8.0)
    np.testing.assert_array_equal(merged["head"], np.full((3, 2), 8.0))
    np.testing.assert_array_equal(merged["x"]["up"], np.full((3, 2), 8.0))
    np.testing.assert_array_equal(merged["x"]["other"], np.ones(2))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rank": 0}, "rank is 0: give a whole number of at least 1"),
        ({"rank": 1.5}, "rank is 1.5: give a whole number of at least 1"),
        ({"rank": 9}, "rank 9 exceeds the 32×8 matrix block_0/down: lower it to at most 8"),
        ({"rank": 9, "targets": ("up",)}, "rank 9 exceeds the 8×32 matrix block_0/up: lower it to at most 8"),
        ({"rank": 2, "targets": ("qkv", "query")}, "no matrix is named 'query': choose targets among down, head, out, qkv, up"),
        ({"rank": 2, "targets": ("embedding",)}, "no matrix is named 'embedding'"),
        ({"rank": 2, "targets": ()}, "there are no targets: choose some of down, head, out, qkv, up"),
    ],
)
def test_impossible_adapters_say_what_to_change(settings: dict, says: str) -> None:
    params = jax.eval_shape(transformer.init(TINY), jax.random.key(0))
    with pytest.raises(InputError, match=says):
        lora.init(jax.random.key(0), params, **settings)


@pytest.mark.parametrize("where", [("block_2", "qkv"), ("embedding",)])
def test_adapters_of_another_model_are_refused(where: tuple[str, ...]) -> None:
    """On both paths: none is left out without a word."""
    params, adapters, tokens = made()
    foreign = adapters["block_0"]["qkv"]
    for name in reversed(where):
        foreign = {name: foreign}
    with pytest.raises(InputError, match=f"the parameters have no matrix {'/'.join(where)}: give adapters made for them"):
        lora.merge(params, foreign, ALPHA)
    with pytest.raises(InputError, match=f"the model has no matrix {'/'.join(where)}: give adapters made for its parameters"):
        transformer.logits(TINY)(params, tokens, adapters=lora.scaled(foreign, ALPHA))
