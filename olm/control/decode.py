"""Decoding any `olm.control.model.Model`: sampling, greedy and beam search, each one compiled loop over a batch.

Models carry what they remember (key-value caches, filters, automaton states) in their state. Sampling at another temperature
returns the log-probability under which each sequence was drawn, normalised at every step, so that importance weights
p(y) / q_τ(y) are exact; released code for NADO leaves the normalisers out.

Not done: nucleus and top-k sampling, lengths that differ within a batch (give the model an end), penalties on length.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from olm.control.model import Context, Model
from olm.errors import check_number, check_whole
from olm.learner import examples
from olm.types import Array, PyTree


class Sampled(NamedTuple):
    """Sequences drawn from a model.

    Attributes:
      tokens: int32 [B, T].
      log_p: [B], log-probability under the model itself.
      log_drawn: [B], under the distribution that they were drawn from; ``log_p`` at temperature 1.
    """

    tokens: Array
    log_p: Array
    log_drawn: Array


class Beams(NamedTuple):
    """The best sequences that beam search found, best first.

    Attributes:
      tokens: int32 [B, K, T].
      log_p: [B, K].
    """

    tokens: Array
    log_p: Array


@functools.partial(jax.jit, static_argnames=("model", "greedy"))
def _sample(model: Model, params: PyTree, key: Array, context: Context, temperature: Array, greedy: bool) -> Sampled:
    def choose(log_p: Array, key: Array) -> tuple[Array, ...]:
        # At temperature 1 the model itself, so that weights are 1 to the last digit.
        drawn_from = log_p if greedy else jnp.where(temperature == 1, log_p, jax.nn.log_softmax(log_p / temperature))
        tokens = (jnp.argmax(log_p, -1) if greedy else jax.random.categorical(key, drawn_from)).astype(jnp.int32)
        at = [jnp.take_along_axis(table, tokens[:, None], 1)[:, 0] for table in (log_p, drawn_from)]
        return tokens, *at

    keys = jax.random.split(key, model.length)
    state, log_p = model.start(params, context)
    first = choose(log_p, keys[0])

    def step(carry: PyTree, key: Array) -> tuple[PyTree, PyTree]:
        state, tokens = carry
        state, log_p = model.advance(params, state, tokens)
        chosen = choose(log_p, key)
        return (state, chosen[0]), chosen

    _, rest = jax.lax.scan(step, (state, first[0]), keys[1:])
    tokens, log_p, log_drawn = (jnp.concatenate([one[:, None], more.T], 1) for one, more in zip(first, rest, strict=True))
    return Sampled(tokens, log_p.sum(1), log_p.sum(1) if greedy else log_drawn.sum(1))


def sample(model: Model, params: PyTree, key: Array, context: Context, *, temperature: float = 1.0) -> Sampled:
    """Draw one sequence for each row of the context, y_t ~ p(· | y_<t)^(1/τ), normalised at every step.

    Args:
      model, params: what is drawn from.
      key: random key.
      context: arrays with a leading axis B.
      temperature: τ > 0; above 1 flatter.

    Returns:
      `Sampled`.

    Raises:
      InputError: a temperature that is not positive and finite.

    >>> from olm.control.model import from_logits
    >>> even = from_logits(lambda tokens: jnp.zeros((*tokens.shape, 4)), 4, 3, begin=0)
    >>> drawn = sample(even, (), jax.random.key(0), {"which": jnp.zeros(5, int)})
    >>> drawn.tokens.shape, drawn.log_p.round(3)[0].item()
    ((5, 3), -4.159)
    """
    check_number("temperature", temperature, "give a positive number, or take greedy decoding", 0, float("inf"), open_low=True)
    return _sample(model, params, key, context, jnp.asarray(temperature, jnp.result_type(float)), False)


def greedy(model: Model, params: PyTree, context: Context) -> Sampled:
    """The likeliest token at every step.

    Args:
      model, params: what is decoded.
      context: arrays with a leading axis B.

    Returns:
      `Sampled`; ``log_drawn`` is ``log_p``.

    >>> from olm.control.model import from_logits
    >>> second = from_logits(lambda tokens: jnp.broadcast_to(jnp.array([0.0, 1.0]), (*tokens.shape, 2)), 2, 3, begin=0)
    >>> greedy(second, (), {"which": jnp.zeros(1, int)}).tokens.tolist()
    [[1, 1, 1]]
    """
    return _sample(model, params, jax.random.key(0), context, jnp.ones(()), True)


@functools.partial(jax.jit, static_argnames=("model", "width"))
def _beam(model: Model, params: PyTree, context: Context, width: int) -> Beams:
    batch, vocabulary = examples(context, "context"), model.vocabulary

    def best(scores: Array) -> tuple[Array, Array, Array]:
        """The K best of [B, J, V]: their scores, parents and tokens, [B, K]."""
        flat = scores.reshape(batch, -1)
        found, place = jax.lax.top_k(flat, width)
        return found, place // vocabulary, (place % vocabulary).astype(jnp.int32)

    # K copies of each context; at first only one of them is alive.
    repeated = jax.tree.map(lambda x: jnp.repeat(x, width, 0), dict(context))
    state, log_p = model.start(params, repeated)
    alive = jnp.where(jnp.arange(width) == 0, 0.0, -jnp.inf).astype(log_p.dtype)
    scores, parents, tokens = best(log_p.reshape(batch, width, vocabulary) + alive[:, None])
    written = jnp.zeros((batch, width, model.length), jnp.int32).at[:, :, 0].set(tokens)

    def step(carry: PyTree, place: Array) -> tuple[PyTree, None]:
        state, scores, parents, tokens, written = carry
        rows = (jnp.arange(batch)[:, None] * width + parents).reshape(-1)
        state, log_p = model.advance(params, jax.tree.map(lambda x: x[rows], state), tokens.reshape(-1))
        scores, parents, tokens = best(log_p.reshape(batch, width, vocabulary) + scores[..., None])
        written = jnp.take_along_axis(written, parents[..., None], 1).at[:, :, place].set(tokens)
        return (state, scores, parents, tokens, written), None

    carry = state, scores, parents, tokens, written
    (_, scores, _, _, written), _ = jax.lax.scan(step, carry, jnp.arange(1, model.length))
    return Beams(written, scores)


def beam(model: Model, params: PyTree, context: Context, *, width: int) -> Beams:
    """Beam search: at every step the K likeliest of all continuations of the K sequences kept.

    Args:
      model, params: what is decoded.
      context: arrays with a leading axis B.
      width: K; V^(T−1) or more is an exhaustive search.

    Returns:
      `Beams`. Fewer than K possible sequences leave rows of log-probability −∞.

    Raises:
      InputError: a width below 1.

    >>> from olm.control.model import from_logits
    >>> second = from_logits(lambda tokens: jnp.broadcast_to(jnp.array([0.0, 1.0]), (*tokens.shape, 2)), 2, 3, begin=0)
    >>> beam(second, (), {"which": jnp.zeros(1, int)}, width=2).tokens[0, 0].tolist()
    [1, 1, 1]
    """
    return _beam(model, params, context, check_whole("width", width, 1))
