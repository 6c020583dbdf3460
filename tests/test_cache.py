"""The transformer beside its training path: remembered keys and values, hidden states, added vectors, learned prompts."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from olm.errors import InputError
from olm.models import transformer
from olm.models.transformer import TransformerConfig

TINY = TransformerConfig(vocabulary=11, length=6, width=8, layers=2, heads=2)


def made(config: TransformerConfig, batch: int = 3) -> tuple[dict, np.ndarray]:
    """Parameters that no symmetry or zero of the start hides anything in, and tokens of the full length."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(transformer.init(config), jax.random.key(0))
    params = jax.tree.map(lambda leaf: rng.normal(0.2, 0.7, leaf.shape).astype(leaf.dtype), shapes)
    return params, rng.integers(0, config.vocabulary, (batch, config.length), np.int32)


def one_by_one(config: TransformerConfig, params: dict, tokens: jax.Array, cache: dict, **inputs: object) -> jax.Array:
    """Logits [B, L, V] from a scan that reads one token a step."""

    def step(cache: dict, token_B: jax.Array) -> tuple[dict, jax.Array]:
        cache, logits = transformer.advance(config)(params, cache, token_B[:, None], **inputs)
        return cache, logits[:, 0]

    return jax.lax.scan(step, cache, tokens.T)[1].swapaxes(0, 1)


# --- keys and values that are remembered ------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("scale", "length", "prompt"), [("width", 6, 3), ("head", 34, 33)])
def test_remembered_keys_give_the_logits_of_whole_sequences(scale: str, length: int, prompt: int) -> None:
    config = replace(TINY, score_scale=scale, length=length)
    params, tokens = made(config)

    @jax.jit
    def program(params: dict, tokens: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        cache, first = transformer.advance(config)(params, transformer.start(config, 3), tokens[:, :prompt])
        rest = one_by_one(config, params, tokens[:, prompt:], cache)
        single = one_by_one(config, params, tokens, transformer.start(config, 3))
        return jnp.concatenate([first, rest], 1), single, transformer.logits(config)(params, tokens)

    prompted, single, whole = program(params, tokens)
    assert float(abs(whole[:, 1:] - whole[:, :-1]).max()) > 1
    np.testing.assert_allclose(prompted, whole, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(single, whole, rtol=1e-12, atol=1e-12)


def test_remembered_keys_are_exact_in_float32() -> None:
    params, tokens = made(TINY)
    single = jax.jit(lambda p, t: one_by_one(TINY, p, t, transformer.start(TINY, 3)))(params, tokens)
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, jax.jit(transformer.logits(TINY))(params, tokens), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("x64")
def test_derivatives_through_remembered_keys_are_those_of_whole_sequences() -> None:
    params, tokens = made(TINY)
    weight = np.random.default_rng(5).normal(size=(*tokens.shape, TINY.vocabulary))

    def total(forward: object) -> object:
        return lambda params: (jax.nn.log_softmax(forward(params)) * weight).sum()

    single = jax.jit(jax.grad(total(lambda p: one_by_one(TINY, p, tokens, transformer.start(TINY, 3)))))(params)
    whole = jax.jit(jax.grad(total(lambda p: transformer.logits(TINY)(p, tokens))))(params)
    for mine, other in zip(jax.tree.leaves(single), jax.tree.leaves(whole), strict=True):
        assert float(abs(other).max()) > 0.01
        np.testing.assert_allclose(mine, other, rtol=1e-9, atol=1e-11)


@pytest.mark.usefixtures("x64")
def test_a_cache_is_reordered_row_by_row() -> None:
    """A beam's children continue the sequences of their parents, repeated, dropped or exchanged."""
    params, tokens = made(TINY)
    parents = np.array([2, 0, 0, 1])
    advance = jax.jit(transformer.advance(TINY))
    cache, _ = advance(params, transformer.start(TINY, 3), tokens[:, :4])
    assert all(leaf.shape[0] == 3 for leaf in jax.tree.leaves(cache))
    last = tokens[[1, 1, 2, 0], 4:]
    children, continued = advance(params, jax.tree.map(lambda leaf: leaf[parents], cache), last)
    whole = jax.jit(transformer.logits(TINY))(params, np.concatenate([tokens[parents, :4], last], 1))[:, 4:]
    assert children["position"].tolist() == [6] * 4
    assert float(abs(whole[1] - whole[2]).max()) > 0.1
    np.testing.assert_allclose(continued, whole, rtol=1e-12, atol=1e-12)


def test_a_decoding_loop_writes_its_cache_in_place() -> None:
    """No copy of keys or values is made at a step: the loop's memory is that of one cache, however many steps it takes."""
    config = TransformerConfig(vocabulary=20, length=256, width=32, layers=2, heads=2)
    params, tokens = jax.eval_shape(transformer.init(config), jax.random.key(0)), jnp.zeros((8, 64), jnp.int32)
    program = jax.jit(lambda p, t: one_by_one(config, p, t, transformer.start(config, 8))).lower(params, tokens).compile()
    cache = 2 * 2 * 8 * 256 * 32 * 4
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(transformer.start(config, 8))) == cache + 8 * 4
    assert cache < program.memory_analysis().temp_size_in_bytes < 1.25 * cache + 64 * 8 * 20 * 4


def test_beyond_the_length_is_an_error_or_shows() -> None:
    """Compiled, a position cannot be looked at: nothing is moved or wrapped, the outputs are nan."""
    params, tokens = made(TINY)
    advance = transformer.advance(TINY)
    cache, fine = jax.jit(advance)(params, transformer.start(TINY, 3), tokens[:, :5])
    with pytest.raises(InputError, match="7 inputs exceed the model's length 6: shorten them or raise length"):
        advance(params, cache, tokens[:, :2])
    with pytest.raises(InputError, match="7 inputs exceed the model's length 6"):
        jax.eval_shape(advance, params, transformer.start(TINY, 3), jnp.zeros((3, 7), jnp.int32))
    assert np.isfinite(fine).all()
    one_more = jax.jit(advance)
    assert np.isfinite(one_more(params, cache, tokens[:, :1])[1]).all()
    cache, beyond = jax.jit(advance)(params, cache, tokens[:, :2])
    assert np.isnan(beyond).all()
    assert np.isnan(one_more(params, cache, tokens[:, :1])[1]).all()


def test_rows_of_a_cache_are_at_one_position() -> None:
    params, _ = made(TINY)
    advance = transformer.advance(TINY)
    short = {**transformer.start(TINY, 3), "position": jnp.full(3, 2)}
    mixed = {**transformer.start(TINY, 4), "position": jnp.array([2, 2, 2, 3])}
    with pytest.raises(InputError, match=r"rows of the cache are at positions \[2, 2, 2, 3\]: advance unequal ones separately"):
        advance(params, mixed, np.zeros((4, 1), np.int32))
    outputs = jax.jit(advance)(params, mixed, np.zeros((4, 1), np.int32))[1]
    assert np.isfinite(outputs).all((1, 2)).tolist() == [True, True, True, False]
    with pytest.raises(InputError, match=r"tokens have shape \(2, 1\): give one row for each of the cache's 3"):
        advance(params, short, np.zeros((2, 1), np.int32))
    with pytest.raises(InputError, match="batch is 0: give a whole number of at least 1"):
        transformer.start(TINY, 0)


# --- hidden states ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
def test_hidden_states_are_what_the_head_multiplies() -> None:
    params, tokens = made(TINY)
    body = {name: leaf for name, leaf in params.items() if name != "head"}
    states = jax.jit(transformer.hidden(TINY))(params, tokens)
    assert states.shape == (3, 6, 8)
    np.testing.assert_allclose(states @ params["head"], jax.jit(transformer.logits(TINY))(params, tokens), rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(jax.jit(transformer.hidden(TINY))(body, tokens), states)
    _, remembered = jax.jit(transformer.advance(TINY, headless=True))(body, transformer.start(TINY, 3), tokens)
    np.testing.assert_allclose(remembered, states, rtol=1e-12, atol=1e-13)


def test_a_body_starts_as_the_whole_does_but_has_no_head() -> None:
    whole, body = (make(TINY)(jax.random.key(3)) for make in (transformer.init, transformer.init_body))
    assert sorted({*whole} - {*body}) == ["head"]
    jax.tree.map(np.testing.assert_array_equal, body, {name: whole[name] for name in body})
    with pytest.raises(Exception, match="head"):
        jax.eval_shape(transformer.logits(TINY), body, jnp.zeros((1, 3), jnp.int32))


# --- added vectors and learned prompts --------------------------------------------------------------------------------


def with_more_symbols(params: dict, rows: np.ndarray) -> dict:
    """The same model, which has ``rows`` as the embeddings of more symbols."""
    head = np.pad(params["head"], ((0, 0), (0, len(rows))))
    return {**params, "embedding": np.concatenate([params["embedding"], rows]), "head": head}


@pytest.mark.usefixtures("x64")
def test_added_vectors_and_prompts_are_embeddings_of_symbols_that_do_not_exist() -> None:
    """Each is put into a larger table, and the model reads it there as a token."""
    params, tokens = made(TINY, 1)
    prefix, extra = np.random.default_rng(7).normal(size=(2, 8)), np.random.default_rng(8).normal(size=(1, 4, 8))
    rows = np.concatenate([prefix, params["embedding"][tokens[0, :4]] + extra[0]])
    larger = replace(TINY, vocabulary=17)
    read = jax.jit(transformer.logits(larger))(with_more_symbols(params, rows), np.arange(11, 17)[None])[:, 2:, :11]
    both = jax.jit(transformer.logits(TINY))(params, tokens[:, :4], extra=extra, prefix=prefix)
    assert float(abs(both - jax.jit(transformer.logits(TINY))(params, tokens[:, :4])).max()) > 0.1
    np.testing.assert_allclose(both, read, rtol=1e-12, atol=1e-12)
    cache, remembered = jax.jit(transformer.advance(TINY))(
        params, transformer.start(TINY, 1), tokens[:, :1], extra=extra[:, :1], prefix=prefix
    )
    assert cache["position"].tolist() == [3]
    _, rest = jax.jit(transformer.advance(TINY))(params, cache, tokens[:, 1:4], extra=extra[:, 1:])
    np.testing.assert_allclose(np.concatenate([remembered, rest], 1), read, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_every_sequence_of_a_batch_reads_the_prompt() -> None:
    params, tokens = made(TINY)
    prefix = np.random.default_rng(7).normal(size=(2, 8))
    forward = jax.jit(transformer.hidden(TINY))
    together = forward(params, tokens[:, :4], prefix=prefix)
    for row, states in zip(tokens[:, :4], together, strict=True):
        np.testing.assert_allclose(states, forward(params, row[None], prefix=prefix)[0], rtol=1e-12, atol=1e-12)
    some = transformer.hidden(TINY)(params, tokens[:, :4], prefix=prefix, last=2)
    np.testing.assert_allclose(some, together[:, 2:], rtol=1e-12, atol=1e-12)
    gradient = jax.jit(jax.grad(lambda prefix: (transformer.hidden(TINY)(params, tokens[:, :4], prefix=prefix) ** 3).sum()))(
        prefix
    )
    assert (abs(gradient).max(1) > 1e-3).all()


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"last": 0}, "last is 0: give a number of positions from 1 to 4"),
        ({"last": 5}, "last is 5"),
        ({"prefix": np.zeros((3, 8))}, "7 inputs exceed the model's length 6"),
        ({"prefix": np.zeros((1, 7))}, r"prefix has shape \(1, 7\): give K vectors of the model's width, \(K, 8\)"),
        ({"prefix": np.zeros(8)}, r"prefix has shape \(8,\)"),
        ({"extra": np.zeros((1, 8))}, r"extra has shape \(1, 8\): give a vector for each token, \(2, 4, 8\)"),
    ],
)
def test_vectors_that_do_not_fit_say_what_to_change(inputs: dict, says: str) -> None:
    params = jax.eval_shape(transformer.init(TINY), jax.random.key(0))
    with pytest.raises(InputError, match=says):
        jax.eval_shape(lambda p: transformer.logits(TINY)(p, jnp.zeros((2, 4), jnp.int32), **inputs), params)
