"""Models as one, and decoding them: against enumeration, against each other, and step by step against all at once."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from olm.control import automata, decode, posterior
from olm.control.model import Model, from_logits, guided, hmm, log_likelihood, product, transformer
from olm.errors import InputError
from olm.models import hmm as hmms
from olm.models import lora
from olm.models import transformer as transformers
from olm.models.hmm import HMM
from olm.models.transformer import TransformerConfig

V, T = 3, 4
TOKENS = np.array(list(itertools.product(range(V), repeat=T)), np.int32)
EVERY = {"which": np.zeros(len(TOKENS), int)}
CONFIG = TransformerConfig(vocabulary=5, length=8, width=8, layers=2, heads=2)
BEGIN, END = 1, 0


def weights(config: TransformerConfig = CONFIG) -> dict:
    """Parameters under which no two continuations are alike, in JAX's default float."""
    rng, shapes = np.random.default_rng(0), jax.eval_shape(transformers.init(config), jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.1, 0.8, leaf.shape), jnp.result_type(float)), shapes)


def chain() -> HMM:
    return hmms.random(jax.random.key(5), 3, V)


def along(model: Model, params: Any, tokens: np.ndarray, context: dict) -> np.ndarray:
    """log p(y_t | y_<t) [B, T, V], all positions at once."""
    return np.asarray(jax.jit(model.whole)(params, tokens, context))


def scores(log_p: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    return np.take_along_axis(log_p, tokens[..., None], 2).sum((1, 2))


def tempered(log_p: np.ndarray, temperature: float) -> np.ndarray:
    """log p^(1/τ), normalised at every step."""
    with np.errstate(divide="ignore"):
        powers = np.exp(log_p) ** (1 / temperature)
        return np.log(powers / powers.sum(-1, keepdims=True))


def case(name: str) -> tuple[Model, Any]:
    """A model of V tokens: a chain, the posterior of one, or a transformer that ends its sequences."""
    if name == "chain":
        return hmm(V, T), chain()
    if name == "posterior":
        tables = posterior.lookahead(chain(), automata.clauses([[[1, 1], [2]]], V), T)
        return posterior.exact(V, T), posterior.exact_params(tables)
    config = TransformerConfig(vocabulary=V, length=T, width=8, layers=1, heads=2)
    return transformer(config, T, begin=BEGIN, end=END), weights(config)


# --- sampling ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
@pytest.mark.parametrize("name", ["chain", "posterior", "transformer"])
def test_samples_come_as_often_as_enumeration_says(name: str, temperature: float) -> None:
    n, (model, params) = 20_000, case(name)
    log_p = along(model, params, TOKENS, EVERY)
    own, drawn_from = scores(log_p, TOKENS), scores(tempered(log_p, temperature), TOKENS)
    np.testing.assert_allclose(np.exp(own).sum(), 1, rtol=1e-12)
    np.testing.assert_allclose(np.exp(drawn_from).sum(), 1, rtol=1e-12)
    drawn = decode.sample(model, params, jax.random.key(7), {"which": jnp.zeros(n, int)}, temperature=temperature)
    place = np.asarray(drawn.tokens) @ V ** np.arange(T)[::-1]
    wanted = np.exp(drawn_from)
    frequency = np.bincount(place, minlength=len(TOKENS)) / n
    assert np.all(frequency[wanted == 0] == 0)
    often = wanted * n > 10
    assert often.sum() > 10
    assert np.all(np.abs(frequency - wanted)[often] < 4 * np.sqrt(wanted * (1 - wanted) / n)[often])
    # Of each sequence both log-probabilities are exact, hence so are importance weights.
    np.testing.assert_allclose(drawn.log_p, own[place], rtol=0, atol=1e-12)
    np.testing.assert_allclose(drawn.log_drawn, drawn_from[place], rtol=0, atol=1e-12)
    weight = np.exp(np.asarray(drawn.log_p - drawn.log_drawn))
    if temperature == 1:
        assert np.all(weight == 1)
    else:
        assert abs(weight.mean() - 1) < 4 * weight.std() / np.sqrt(n) < 0.1
    assert model.length == T and model.vocabulary == V


def test_a_key_decides_what_comes_and_rows_differ() -> None:
    model, params = case("chain")
    first, again, other = (
        np.asarray(decode.sample(model, params, jax.random.key(k), {"which": jnp.zeros(50, int)}).tokens) for k in (1, 1, 2)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert len(np.unique(first, axis=0)) > 10 and first.dtype == np.int32


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["chain", "posterior", "transformer"])
def test_greedy_takes_the_likeliest_token_each_time(name: str) -> None:
    model, params = case(name)
    log_p, prefix = along(model, params, TOKENS, EVERY), np.zeros(0, int)
    for t in range(T):
        row = np.flatnonzero((TOKENS[:, :t] == prefix).all(1))[0]
        prefix = np.append(prefix, log_p[row, t].argmax())
    found = decode.greedy(model, params, {"which": jnp.zeros(2, int)})
    assert found.tokens.tolist() == [prefix.tolist()] * 2
    np.testing.assert_allclose(found.log_p, scores(log_p, TOKENS)[(prefix == TOKENS).all(1)].repeat(2), rtol=1e-12)
    assert np.array_equal(found.log_p, found.log_drawn)


# --- beams ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["chain", "posterior", "transformer"])
def test_a_full_beam_is_exhaustive_and_a_narrow_one_never_better(name: str) -> None:
    model, params = case(name)
    every = scores(along(model, params, TOKENS, EVERY), TOKENS)
    best = np.argsort(-every, kind="stable")[: V ** (T - 1)]
    full = decode.beam(model, params, {"which": jnp.zeros(1, int)}, width=V ** (T - 1))
    possible = every[best] > -np.inf
    np.testing.assert_allclose(full.log_p[0], every[best], rtol=1e-12)
    assert np.array_equal(np.asarray(full.tokens)[0][possible], TOKENS[best][possible])
    one = decode.beam(model, params, {"which": jnp.zeros(1, int)}, width=1)
    assert np.array_equal(one.tokens[:, 0], decode.greedy(model, params, {"which": jnp.zeros(1, int)}).tokens)
    for found in (one, decode.beam(model, params, {"which": jnp.zeros(1, int)}, width=3)):
        log_p = np.asarray(found.log_p)[0]
        width = len(log_p)
        assert np.all(np.diff(log_p) <= 0) and np.all(log_p <= every[best][:width] + 1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ["transformer", "posterior"])
def test_beams_carry_their_own_states(kind: str) -> None:
    """Each score is that of the tokens read anew: keys, values, filters and automata went along when beams were reordered."""
    length, batch, width = 5, 3, 6
    rng = np.random.default_rng(2)
    context = {"prompt": rng.integers(0, 5, (batch, 3)), "which": np.arange(batch) % 2}
    if kind == "transformer":
        model, params = transformer(CONFIG, length, begin=BEGIN, end=END), weights()
    else:
        # Emissions by condition and position, a constraint for each condition.
        emission = jax.nn.log_softmax(2 * jnp.asarray(rng.normal(size=(2, length, 3, 5))))
        several = [automata.count([2], 5, least=2), automata.clauses([[[3]], [[4, 1]]], 5)]
        tables = posterior.lookahead(hmms.random(jax.random.key(1), 3, 5)._replace(log_emission=emission), several, length)
        model, params = posterior.exact(5, length), posterior.exact_params(tables)
    found = decode.beam(model, params, context, width=width)
    tokens = np.asarray(found.tokens).reshape(-1, length)
    again = scores(along(model, params, tokens, {name: part.repeat(width, 0) for name, part in context.items()}), tokens)
    np.testing.assert_allclose(found.log_p.reshape(-1), again, rtol=1e-12)
    assert np.all(np.diff(np.asarray(found.log_p)) <= 0)
    assert all(len(np.unique(rows, axis=0)) == width for rows in np.asarray(found.tokens))
    # A batch is its rows one by one: beams do not cross from one to the next.
    for b in range(batch):
        alone = decode.beam(model, params, {name: part[b : b + 1] for name, part in context.items()}, width=width)
        assert np.array_equal(alone.tokens[0], found.tokens[b])


def test_a_beam_wider_than_what_is_possible_says_so() -> None:
    only = jnp.log(jnp.array([0.0, 0.25, 0.75]))
    model = from_logits(lambda tokens: jnp.broadcast_to(only, (*tokens.shape, 3)), 3, 2, begin=0)
    found = decode.beam(model, (), {"which": jnp.zeros(1, int)}, width=6)
    first, *ties, last = found.tokens[0, :4].tolist()
    assert (first, sorted(ties), last) == ([2, 2], [[1, 2], [2, 1]], [1, 1])
    np.testing.assert_allclose(np.exp(found.log_p[0]), [9 / 16, 3 / 16, 3 / 16, 1 / 16, 0, 0], rtol=1e-6)


# --- models -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("end", [None, END])
def test_a_function_of_whole_sequences_is_decoded_as_the_model_with_a_memory(end: int | None) -> None:
    params, n = weights(), 300
    cached = transformer(CONFIG, 6, begin=BEGIN, end=end)
    plain = from_logits(functools.partial(transformers.logits(CONFIG), params), 5, 6, begin=BEGIN, end=end)
    context, key = {"which": jnp.zeros(n, int)}, jax.random.key(3)
    drawn, again = (decode.sample(*pair, key, context, temperature=1.3) for pair in ((cached, params), (plain, ())))
    assert np.array_equal(drawn.tokens, again.tokens)
    np.testing.assert_allclose(drawn.log_p, again.log_p, rtol=1e-12)
    np.testing.assert_allclose(drawn.log_drawn, again.log_drawn, rtol=1e-12)
    tokens = np.asarray(drawn.tokens)
    of_cached, of_plain = along(cached, params, tokens, context), along(plain, (), tokens, context)
    np.testing.assert_allclose(np.exp(of_cached), np.exp(of_plain), rtol=1e-12)
    np.testing.assert_allclose(scores(of_cached, tokens), drawn.log_p, rtol=1e-12)
    few = {"which": jnp.zeros(2, int)}
    beams = [decode.beam(*pair, few, width=3) for pair in ((cached, params), (plain, ()))]
    assert np.array_equal(beams[0].tokens, beams[1].tokens)
    np.testing.assert_allclose(beams[0].log_p, beams[1].log_p, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_after_the_end_nothing_but_the_end_follows() -> None:
    model, params = transformer(CONFIG, 6, begin=BEGIN, end=END), weights()
    context = {"which": jnp.zeros(400, int)}
    tokens = np.asarray(decode.sample(model, params, jax.random.key(0), context).tokens)
    after = np.cumsum(tokens == END, 1) - (tokens == END) > 0
    assert after.sum() > 50 and np.all(tokens[after] == END)
    log_p = along(model, params, tokens, context)
    assert np.all(log_p[after] == np.where(np.arange(5) == END, 0, -np.inf))
    assert np.all(np.isfinite(log_p[~after]))
    # A token behind the end is impossible, and the position of the end itself is scored as any other.
    wrong = np.array([[2, END, 3, END, END, END]])
    each = np.asarray(log_likelihood(along(model, params, wrong, {"which": np.zeros(1, int)}), wrong))[0]
    assert np.isfinite(each[:2]).all() and each[2] == -np.inf and np.all(each[3:] == 0)


@pytest.mark.usefixtures("x64")
def test_prompts_are_read() -> None:
    """log p(y_t | prompt, y_<t) is what the transformer itself says of prompt, begin and y."""
    model, params = transformer(CONFIG, 5, begin=BEGIN), weights()
    prompts, tokens = np.array([[2, 3, 4], [4, 3, 2]]), np.array([[0, 2, 2, 4, 1]] * 2)
    inputs = np.concatenate([prompts, [[BEGIN]] * 2, tokens[:, :-1]], 1)
    wanted = np.asarray(jax.nn.log_softmax(transformers.logits(CONFIG)(params, inputs)))[:, 3:]
    found = along(model, params, tokens, {"prompt": prompts})
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert abs(found[0, 0] - found[1, 0]).max() > 0.1
    state, log_p = jax.jit(model.start)(params, {"prompt": prompts})
    for t in range(5):
        np.testing.assert_allclose(log_p, wanted[:, t], rtol=1e-12)
        if t < 4:
            state, log_p = jax.jit(model.advance)(params, state, tokens[:, t])


@pytest.mark.usefixtures("x64")
def test_adapters_are_those_merged_into_the_weights() -> None:
    model, params = transformer(CONFIG, 5, begin=BEGIN, end=END), weights()
    rng = np.random.default_rng(1)
    adapters = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), lora.init(jax.random.key(0), params, rank=2))
    tokens, context = rng.integers(0, 5, (3, 5)), {"prompt": rng.integers(0, 5, (3, 2))}
    apart = {"params": params, "adapters": lora.scaled(adapters, 3.0)}
    merged = lora.merge(params, adapters, 3.0)
    np.testing.assert_allclose(
        np.exp(along(model, apart, tokens, context)), np.exp(along(model, merged, tokens, context)), rtol=1e-10
    )
    drawn, again = (decode.greedy(model, one, context) for one in (apart, merged))
    assert np.array_equal(drawn.tokens, again.tokens)
    np.testing.assert_allclose(drawn.log_p, again.log_p, rtol=1e-10)


def test_a_product_is_normalised_falls_back_to_the_base_and_shows_nan() -> None:
    p, r = np.array([0.5, 0.3, 0.2, 0.0]), np.array([0.2, 0.0, 1.0, 0.7])
    with np.errstate(divide="ignore"):
        log_p, log_r, nothing = np.log(p), np.log(r), np.log(np.array([0, 0, 0, 1.0]))
    for strength in (0.0, 0.5, 1.0, 2.0):
        wanted = p * r**strength
        np.testing.assert_allclose(np.exp(product(log_p, log_r, strength)), wanted / wanted.sum(), rtol=1e-6)
    np.testing.assert_allclose(np.exp(product(log_p, nothing)), p, rtol=1e-6)
    assert np.isnan(product(log_p, np.full(4, np.nan))).all()


# --- errors -----------------------------------------------------------------------------------------------------------


def test_bad_arguments_are_named() -> None:
    model, params = case("chain")
    context, key = {"which": jnp.zeros(2, int)}, jax.random.key(0)
    for temperature in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match=f"temperature is {temperature}: give a positive number, or take greedy"):
            decode.sample(model, params, key, context, temperature=temperature)
    with pytest.raises(InputError, match="width is 0: give a whole number of at least 1"):
        decode.beam(model, params, context, width=0)
    with pytest.raises(InputError, match="sequences of 9 tokens exceed the model's length 8"):
        transformer(CONFIG, 9, begin=BEGIN)
    with pytest.raises(InputError, match="begin is 5: give an id within 0 … 4"):
        transformer(CONFIG, 5, begin=5)
    with pytest.raises(InputError, match="end is -1: give an id within 0 … 4"):
        transformer(CONFIG, 5, begin=BEGIN, end=-1)
    with pytest.raises(InputError, match="end is 3: give an id within 0 … 2"):
        from_logits(lambda tokens: jnp.zeros((*tokens.shape, 3)), 3, 2, begin=0, end=3)
    with pytest.raises(InputError, match="begin is 9: give an id within 0 … 2"):
        from_logits(lambda tokens: jnp.zeros((*tokens.shape, 3)), 3, 2, begin=9)
    for sizes in ((0, 4), (4, 0)):
        with pytest.raises(InputError, match="is 0: give a whole number of at least 1"):
            hmm(*sizes)
    with pytest.raises(InputError, match=r"logits have shape \(2, 2, 4\): give \(2, 2, 3\)"):
        from_logits(lambda tokens: jnp.zeros((*tokens.shape, 4)), 3, 2, begin=0).start((), context)
    with pytest.raises(InputError, match="context needs arrays with one common leading axis"):
        decode.sample(model, params, key, {})
    with pytest.raises(InputError, match="strength is nan: give a number of at least 0"):
        guided(model, posterior.MASK, float("nan"))
    long = transformer(CONFIG, 6, begin=BEGIN)
    with pytest.raises(InputError, match="sequences of 9 inputs exceed the model's length 8"):
        jax.jit(long.whole)(weights(), jnp.zeros((2, 6), int), {"prompt": jnp.zeros((2, 3), int)})
