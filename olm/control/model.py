"""Autoregressive models of token sequences y_1 … y_T, guides that steer them, and their product.

A `Model` gives log p(y_t | y_<t), for a whole sequence or a token at a time; a `Guide` gives the values log R(y_≤t) of all
next tokens; `guided` is their product, q(y_t | y_<t) ∝ p(y_t | y_<t) R(y_≤t)^α. NADO (Meng et al. 2022, arXiv 2205.14219),
FUDGE, GeLaTo and masking all have this form. A product is a model again, and `olm.control.decode` takes any.

What a sequence is conditioned on is a *context*: a dictionary of arrays with a leading axis B, such as ``{"prompt": [B, P]}`` or
``{"which": [B]}`` (a constraint of a stack). Models read what they know and pass over the rest.

Not done: rows of a batch at different positions, encoders (a context is read as a prompt), sequences longer than a model's T.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from olm.errors import InputError, check_number, check_whole
from olm.learner import examples
from olm.models import hmm as hmms
from olm.models import transformer as transformers
from olm.models.hmm import HMM
from olm.models.transformer import TransformerConfig
from olm.types import Array, PyTree

Context = Mapping[str, Array]


class Model(NamedTuple):
    """A distribution over sequences of T tokens, one token after the other.

    Attributes:
      vocabulary: V.
      length: T, the longest sequence.
      start: ``start(params, context) -> (state, log p(y_1) [B, V])``. Leaves of a state have a leading axis B, so that beams
        can be reordered.
      advance: ``advance(params, state, tokens [B]) -> (state, log p(y_t+1 | y_≤t) [B, V])``.
      whole: ``whole(params, tokens [B, T], context) -> [B, T, V]``, entry t is log p(y_t | y_<t); all positions at once.
    """

    vocabulary: int
    length: int
    start: Callable[[PyTree, Context], tuple[PyTree, Array]]
    advance: Callable[[PyTree, PyTree, Array], tuple[PyTree, Array]]
    whole: Callable[[PyTree, Array, Context], Array]


class Guide(NamedTuple):
    """Values of next tokens: how likely the constraint will be met, log R(y_≤t), for each y_t.

    Attributes:
      start: ``start(params, context, log_p [B, V]) -> (state, log_r [B, V])``; ``log_p`` is the base's at the same place.
      advance: ``advance(params, state, tokens [B], log_p [B, V]) -> (state, log_r [B, V])``.
      whole: ``whole(params, tokens [B, T], context, log_p [B, T, V]) -> [B, T, V]``, entry t holds log R(y_<t v) for every v.
      length: ``length(params) -> T`` where parameters are tables for sequences of one length; None: they are for any.
    """

    start: Callable[[PyTree, Context, Array], tuple[PyTree, Array]]
    advance: Callable[[PyTree, PyTree, Array, Array], tuple[PyTree, Array]]
    whole: Callable[[PyTree, Array, Context, Array], Array]
    length: Callable[[PyTree], int] | None = None


@functools.lru_cache(maxsize=256)
def compiled(model: Model) -> Callable[[PyTree, Array, Context], Array]:
    """``model.whole``, compiled: one program for a model and the shapes of its arguments, however often it is asked for.

    Args:
      model: any.

    Returns:
      ``(params, tokens [B, T], context) -> [B, T, V]``.

    >>> compiled(hmm(3, 4)) is compiled(hmm(3, 4))
    True
    """
    return jax.jit(model.whole)


def log_likelihood(log_p_BxTxV: Array, tokens_BxT: Array) -> Array:
    """Log-probability of each token that came, log p(y_t | y_<t).

    Args:
      log_p_BxTxV: what `Model.whole` gives.
      tokens_BxT: the sequences.

    Returns:
      [B, T], nats; their sum is that of the sequence.

    >>> log_likelihood(jnp.log(jnp.array([[[0.25, 0.75]]])), jnp.array([[1]])).round(3).tolist()
    [[-0.288]]
    """
    return jnp.take_along_axis(log_p_BxTxV, tokens_BxT[..., None], -1)[..., 0]


def _only(log_p: Array, ended: Array, end: int) -> Array:
    """Certainty of ``end`` where a sequence has ended."""
    forced = jnp.where(jnp.arange(log_p.shape[-1]) == end, 0.0, -jnp.inf).astype(log_p.dtype)
    return jnp.where(ended[..., None], forced, log_p)


def which_of(context: Context, batch: int) -> Array:
    """The condition of each sequence, context["which"]; without it the first.

    Args:
      context: arrays with a leading axis B.
      batch: B.

    Returns:
      int32 [B].

    >>> which_of({"prompt": jnp.zeros((2, 3))}, 2).tolist()
    [0, 0]
    """
    return context["which"].astype(jnp.int32) if "which" in context else jnp.zeros(batch, jnp.int32)


def chain_predict(chain: HMM, log_f: Array, which: Array, place: Array) -> Array:
    """`olm.models.hmm.predict` of a batch whose rows may have chains of their own.

    Args:
      chain: an `HMM`; emissions [X, T, S, V] are of condition, position, state.
      log_f: [B, S], filters.
      which: [B], conditions.
      place: [B], tokens read so far, the same for all.

    Returns:
      [B, V].

    No example: see `hmm`.
    """
    if chain.log_emission.ndim < 4:
        return hmms.predict(chain, log_f, place[0])
    return jax.nn.logsumexp(log_f[..., None] + chain.log_emission[which, place], -2)


def chain_advance(chain: HMM, log_f: Array, tokens: Array, which: Array, place: Array) -> Array:
    """`olm.models.hmm.advance` of a batch whose rows may have chains of their own.

    Args:
      chain, log_f, which, place: as for `chain_predict`.
      tokens: [B], what was written.

    Returns:
      [B, S].

    No example: see `hmm`.
    """
    if chain.log_emission.ndim < 4:
        return hmms.advance(chain, log_f, tokens, place[0])
    rows = chain.log_emission[which, place]
    return jax.vmap(lambda f, e, v: hmms.advance(chain._replace(log_emission=e), f[None], v[None], 0)[0])(log_f, rows, tokens)


@functools.cache
def hmm(vocabulary: int, length: int) -> Model:
    """A hidden Markov model as a `Model`; its parameters are an `olm.models.hmm.HMM`, whose emissions may also be [X, T, S, V].

    Args:
      vocabulary, length: V, T.

    Returns:
      A `Model`; of the context it reads "which", where emissions depend on it.

    Raises:
      InputError: sizes below 1.

    >>> source = hmms.random(jax.random.key(0), 2, 3)
    >>> model = hmm(3, 4)
    >>> state, log_p = model.start(source, {"which": jnp.zeros(5, int)})
    >>> log_p.shape, float(jnp.exp(log_p).sum(-1)[0])
    ((5, 3), 1.0)
    """
    check_whole("vocabulary", vocabulary, 1)
    check_whole("length", length, 1)

    def start(params: PyTree, context: Context) -> tuple[PyTree, Array]:
        batch = examples(context, "context")
        place, which = jnp.zeros(batch, jnp.int32), which_of(context, batch)
        log_f = hmms.start(params, batch)
        return (log_f, which, place), chain_predict(params, log_f, which, place)

    def advance(params: PyTree, state: PyTree, tokens: Array) -> tuple[PyTree, Array]:
        log_f, which, place = state
        log_f = chain_advance(params, log_f, tokens, which, place)
        return (log_f, which, place + 1), chain_predict(params, log_f, which, place + 1)

    def whole(params: PyTree, tokens: Array, context: Context) -> Array:
        if params.log_emission.ndim < 4:
            return hmms.log_probabilities(params, tokens)
        state, first = start(params, context)
        _, rest = jax.lax.scan(lambda state, tokens: advance(params, state, tokens), state, tokens[:, :-1].T)
        return jnp.concatenate([first[:, None], jnp.moveaxis(rest, 0, 1)], 1)

    return Model(vocabulary, length, start, advance, whole)


def opening(context: Context, begin: int) -> Array:
    """What stands before y_1: the prompt, if there is one, and the begin symbol.

    Args:
      context: arrays with a leading axis B; "prompt" is read.
      begin: the symbol.

    Returns:
      int32 [B, P+1].

    >>> opening({"prompt": jnp.array([[7, 8]])}, 1).tolist()
    [[7, 8, 1]]
    """
    first = jnp.full((examples(context, "context"), 1), begin, jnp.int32)
    return jnp.concatenate([context["prompt"].astype(jnp.int32), first], 1) if "prompt" in context else first


@functools.cache
def transformer(config: TransformerConfig, length: int, *, begin: int, end: int | None = None) -> Model:
    """`olm.models.transformer` as a `Model`: it reads context["prompt"] (if there), a begin symbol, and what was written.

    Args:
      config: its sizes; P + T inputs must fit in its length.
      length: T.
      begin: the id that stands before y_1.
      end: after this id nothing but itself follows; None: sequences have no end.

    Returns:
      A `Model` whose parameters are the transformer's, or {"params": …, "adapters": …} with adapters of `olm.models.lora`.

    Raises:
      InputError: where T exceeds the model's length, or ids its vocabulary.

    >>> config = TransformerConfig(vocabulary=5, length=8, width=8, layers=1, heads=2)
    >>> model = transformer(config, 6, begin=1)
    >>> params = transformers.init(config)(jax.random.key(0))
    >>> model.whole(params, jnp.zeros((2, 6), int), {"prompt": jnp.ones((2, 2), int)}).shape
    (2, 6, 5)
    """
    if check_whole("length", length, 1) > config.length:
        raise InputError(f"sequences of {length} tokens exceed the model's length {config.length}: shorten them or raise length")
    for name, token in (("begin", begin), ("end", end)):
        if token is not None and not 0 <= token < config.vocabulary:
            raise InputError(f"{name} is {token}: give an id within 0 … {config.vocabulary - 1}")
    forward, step = transformers.logits(config), transformers.advance(config)

    def split(params: PyTree) -> tuple[PyTree, dict[str, Any]]:
        return (params["params"], {"adapters": params["adapters"]}) if "adapters" in params else (params, {})

    def normalised(logits: Array, ended: Array) -> Array:
        log_p = jax.nn.log_softmax(logits)
        return log_p if end is None else _only(log_p, ended, end)

    def start(params: PyTree, context: Context) -> tuple[PyTree, Array]:
        weights, more = split(params)
        inputs = opening(context, begin)
        cache, logits = step(weights, transformers.start(config, inputs.shape[0]), inputs, **more)
        ended = jnp.zeros(inputs.shape[0], bool)
        return (cache, ended), normalised(logits[:, -1], ended)

    def advance(params: PyTree, state: PyTree, tokens: Array) -> tuple[PyTree, Array]:
        (weights, more), (cache, ended) = split(params), state
        if end is not None:
            ended = ended | (tokens == end)
        cache, logits = step(weights, cache, tokens[:, None], **more)
        return (cache, ended), normalised(logits[:, 0], ended)

    def whole(params: PyTree, tokens: Array, context: Context) -> Array:
        weights, more = split(params)
        inputs = jnp.concatenate([opening(context, begin), tokens[:, :-1].astype(jnp.int32)], 1)
        logits = forward(weights, inputs, last=tokens.shape[1], **more)
        ended = jnp.cumsum(tokens == end, 1) > 0 if end is not None else jnp.zeros(tokens.shape, bool)
        return normalised(logits, jnp.pad(ended[:, :-1], ((0, 0), (1, 0))))

    return Model(config.vocabulary, length, start, advance, whole)


def from_logits(logits: Callable[[Array], Array], vocabulary: int, length: int, *, begin: int, end: int | None = None) -> Model:
    """Any function of whole token arrays as a `Model`; every step evaluates it anew on all tokens, as it has no cache.

    Args:
      logits: ``logits(tokens [B, L]) -> [B, L, V]``, causal; position l scores the token after tokens 0 … l.
      vocabulary, length: V, T.
      begin: the id that stands before y_1.
      end: after this id nothing but itself follows; None: sequences have no end.

    Returns:
      A `Model` without parameters (``()``).

    Raises:
      InputError: a begin or an end outside the vocabulary, and, when called, logits of another vocabulary.

    >>> model = from_logits(lambda tokens: jnp.zeros((*tokens.shape, 4)), 4, 3, begin=0)
    >>> model.advance((), model.start((), {"which": jnp.zeros(2)})[0], jnp.array([1, 2]))[1].round(2)[0].tolist()
    [-1.39, -1.39, -1.39, -1.39]
    """
    check_whole("length", length, 1)
    for name, token in (("begin", begin), ("end", end)):
        if token is not None and not 0 <= token < vocabulary:
            raise InputError(f"{name} is {token}: give an id within 0 … {vocabulary - 1}")

    def whole(params: PyTree, tokens: Array, context: Context) -> Array:
        inputs = jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=begin)
        log_p = jax.nn.log_softmax(logits(inputs))
        if log_p.shape != (*tokens.shape, vocabulary):
            raise InputError(f"logits have shape {log_p.shape}: give {(*tokens.shape, vocabulary)}, a number for each next token")
        if end is None:
            return log_p
        ended = jnp.cumsum(tokens == end, 1) > 0
        return _only(log_p, jnp.pad(ended[:, :-1], ((0, 0), (1, 0))), end)

    def at(written: Array, place: Array) -> Array:
        return jnp.take_along_axis(whole((), written, {}), place[:, None, None], 1)[:, 0]

    def start(params: PyTree, context: Context) -> tuple[PyTree, Array]:
        batch = examples(context, "context")
        state = jnp.full((batch, length), begin, jnp.int32), jnp.zeros(batch, jnp.int32)
        return state, at(*state)

    def advance(params: PyTree, state: PyTree, tokens: Array) -> tuple[PyTree, Array]:
        written, place = state
        written = jnp.where(jnp.arange(length) == place[:, None], tokens[:, None].astype(jnp.int32), written)
        place = jnp.minimum(place + 1, length - 1)  # past the last token there is nothing more to score
        return (written, place), at(written, place)

    return Model(vocabulary, length, start, advance, whole)


def stepwise(start: Callable[..., Any], advance: Callable[..., Any], tokens_BxT: Array, log_p_BxTxV: Array) -> Array:
    """The `Guide.whole` of a guide that only knows steps.

    Args:
      start: ``log_p [B, V] -> (state, log_r [B, V])``.
      advance: ``(state, tokens [B], log_p [B, V]) -> (state, log_r [B, V])``.
      tokens_BxT: sequences.
      log_p_BxTxV: the base's log-probabilities along them.

    Returns:
      [B, T, V].

    >>> one = lambda log_p: (0, log_p)
    >>> stepwise(one, lambda s, y, log_p: (s, log_p), jnp.zeros((1, 2), int), jnp.zeros((1, 2, 3))).shape
    (1, 2, 3)
    """
    state, first = start(log_p_BxTxV[:, 0])

    def step(state: PyTree, inputs: tuple[Array, Array]) -> tuple[PyTree, Array]:
        return advance(state, *inputs)

    _, rest = jax.lax.scan(step, state, (tokens_BxT[:, :-1].T, jnp.moveaxis(log_p_BxTxV[:, 1:], 1, 0)))
    return jnp.concatenate([first[:, None], jnp.moveaxis(rest, 0, 1)], 1)


@functools.cache
def guided(base: Model, guide: Guide, strength: float = 1.0) -> Model:
    """The product of a base and a guide, log q(y_t | y_<t) = log p + α log R − log Σ_v p R^α.

    Args:
      base: p.
      guide: R.
      strength: α ≥ 0; 0 is the base.

    Returns:
      A `Model` with parameters ``{"base": …, "guide": …}``. Where R is 0 for all that p allows (the constraint is lost) it is p.

    Raises:
      InputError: a strength below 0; when called, a guide's tables that are for another length.

    >>> base = from_logits(lambda tokens: jnp.zeros((*tokens.shape, 2)), 2, 3, begin=0)
    >>> steady = lambda *given: (given[1], jnp.log(jnp.array([[0.1, 0.3]])))
    >>> whole = lambda params, tokens, context, log_p: jnp.broadcast_to(jnp.log(jnp.array([0.1, 0.3])), log_p.shape)
    >>> model = guided(base, Guide(steady, steady, whole))
    >>> jnp.exp(model.whole({"base": (), "guide": ()}, jnp.zeros((1, 3), int), {}))[0, 0].round(3).tolist()
    [0.25, 0.75]

    Source: Meng et al. 2022, section 3.
    """
    check_number("strength", strength, "give a number of at least 0", 0, float("inf"))

    def check(params: PyTree) -> None:
        if guide.length is not None and (tables := guide.length(params["guide"])) != base.length:
            raise InputError(f"the guide's tables are for {tables} tokens, the base writes {base.length}: build them for as many")

    def start(params: PyTree, context: Context) -> tuple[PyTree, Array]:
        check(params)
        of_base, log_p = base.start(params["base"], context)
        of_guide, log_r = guide.start(params["guide"], context, log_p)
        return (of_base, of_guide), product(log_p, log_r, strength)

    def advance(params: PyTree, state: PyTree, tokens: Array) -> tuple[PyTree, Array]:
        of_base, log_p = base.advance(params["base"], state[0], tokens)
        of_guide, log_r = guide.advance(params["guide"], state[1], tokens, log_p)
        return (of_base, of_guide), product(log_p, log_r, strength)

    def whole(params: PyTree, tokens: Array, context: Context) -> Array:
        check(params)
        log_p = base.whole(params["base"], tokens, context)
        return product(log_p, guide.whole(params["guide"], tokens, context, log_p), strength)

    return Model(base.vocabulary, base.length, start, advance, whole)


def product(log_p: Array, log_r: Array, strength: float = 1.0) -> Array:
    """Normalised log p + α log R over the last axis; log p where R is 0 for all that p allows.

    Args:
      log_p, log_r: [..., V].
      strength: α.

    Returns:
      [..., V].

    >>> jnp.exp(product(jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([1.0, 0.0])))).tolist()
    [1.0, 0.0]
    """
    score = log_p + strength * log_r if strength else log_p
    possible = (score != -jnp.inf).any(-1, keepdims=True)  # NaN is no zero: it must show
    return jax.nn.log_softmax(jnp.where(possible, score, log_p))
