"""Hidden Markov models over token sequences, in log space: filters, likelihoods, samples, and EM.

Pr(y, z) = Pr(z_1) e(z_1, y_1) Π_t a(z_{t−1}, z_t) e(z_t, y_t)

Fitted to a language model's samples, such a model is its tractable stand-in, under which the probability of a constraint is a
sum of products (GeLaTo, Zhang et al. 2023, arXiv 2304.07438, section 3; Ctrl-G, Zhang et al. 2024, arXiv 2406.13892). Positions
count from 0 in code: ``tokens[:, t]`` is y_{t+1}, and there is no token before y_1.

A sum over states, log Σ_z exp(x_z) M_zk, is one matrix product of exp(x − max x) and M with each column over its maximum. No term
is negative, so a sum is exact to rounding; a term counts as zero only where one of its factors lies below the float's smallest
normal number (1e-38 in float32) relative to the row's maximum, or the column's.

A token that has probability zero given those before it makes ``log_likelihood`` −∞, and the filter goes on from the predicted
states as if that position had not been seen: what follows stays finite, and the likelihood tells. In compiled code a token
outside the vocabulary is such a one; where values are at hand it is an `InputError`.

Not done: gradients through impossible entries (−∞), priors other than pseudocounts, sequences of unequal length (pad them with an
absorbing end: `starting_point`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from olm.errors import InputError, check_number, check_whole
from olm.types import Array


class HMM(NamedTuple):
    """A hidden Markov model of S states and V tokens; rows (last axis) are log-probabilities.

    Attributes:
      log_initial: [S], log Pr(z_1).
      log_transition: [S, S], log a(z, z') = log Pr(z' | z).
      log_emission: [S, V], log e(z, v); or [T, S, V], where positions emit differently, for sequences of at most T tokens.
    """

    log_initial: Array
    log_transition: Array
    log_emission: Array


class Fitted(NamedTuple):
    """What `fit` found.

    Attributes:
      hmm: after the last step.
      log_likelihoods: [steps], nats per token of each step's sequences, before the step.
      held_out: [steps], nats per token of held-out sequences, after each step; None without such sequences.
    """

    hmm: HMM
    log_likelihoods: np.ndarray
    held_out: np.ndarray | None


def random(key: Array, states: int, vocabulary: int, *, emission: float = 0.3, transition: float = 0.5) -> HMM:
    """An HMM whose rows are Dirichlet draws.

    Args:
      key: randomness.
      states, vocabulary: S, V.
      emission, transition: concentrations of the rows of e and a, small for few large entries; the first state's is 1.

    Returns:
      An `HMM` in JAX's default float.

    Raises:
      InputError: sizes below 1, concentrations that are not positive.

    Example:
      >>> hmm = random(jax.random.key(0), states=3, vocabulary=5)
      >>> check(hmm)
      >>> [leaf.shape for leaf in hmm]
      [(3,), (3, 3), (3, 5)]
    """
    check_whole("states", states, least=1)
    check_whole("vocabulary", vocabulary, least=1)
    for name, value in (("emission", emission), ("transition", transition)):
        check_number(name, value, "give a positive concentration", 0, float("inf"), open_low=True)
    keys = jax.random.split(key, 3)

    # Normalised in logs: small concentrations give entries that a float cannot hold.
    def rows(key: Array, concentration: float, *shape: int) -> Array:
        return jax.nn.log_softmax(jax.random.loggamma(key, concentration, shape, jnp.result_type(float)), axis=-1)

    initial, move = rows(keys[0], 1.0, states), rows(keys[1], transition, states, states)
    return HMM(initial, move, rows(keys[2], emission, states, vocabulary))


def check(hmm: HMM) -> None:
    """Fail unless the arrays fit together and every row is a distribution.

    Args:
      hmm: arrays with values, not traced ones. Rows may miss one by the square root of the float's rounding.

    Raises:
      InputError: for shapes that do not fit, NaN, and rows that do not sum to one.

    Example:
      >>> check(HMM(np.zeros(1), np.zeros((1, 1)), np.log([[0.5, 0.25]])))
      Traceback (most recent call last):
      olm.errors.InputError: log_emission[0] sums to 0.75: give log-probabilities, normalised over the last axis
    """
    shapes = {name: np.shape(leaf) for name, leaf in hmm._asdict().items()}
    states, emission = shapes["log_initial"][:1], shapes["log_emission"]
    fits = len(shapes["log_initial"]) == 1 and shapes["log_transition"] == 2 * states
    if not fits or len(emission) not in (2, 3) or emission[-2:-1] != states or 0 in emission:
        found = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise InputError(f"{found}: give [S], [S, S] and [S, V] or [T, S, V]")
    for name, leaf in hmm._asdict().items():
        values = np.asarray(leaf)
        if not np.issubdtype(values.dtype, np.floating) or np.isnan(values).any():
            what = "NaN" if np.issubdtype(values.dtype, np.floating) else f"dtype {values.dtype}"
            raise InputError(f"{name} has {what}: give log-probabilities, −inf for what is impossible")
        with np.errstate(over="ignore"):
            sums = np.exp(values).sum(-1)
        wrong = np.abs(sums - 1) > np.sqrt(np.finfo(values.dtype).eps)
        if wrong.any():
            row = tuple(int(i) for i in np.argwhere(wrong)[0])
            where = f"{name}{list(row)}" if row else name
            raise InputError(f"{where} sums to {sums[row]:.6g}: give log-probabilities, normalised over the last axis")


def sample(hmm: HMM, key: Array, n: int, length: int) -> Array:
    """Sequences from the model, y ~ Pr(y).

    Args:
      hmm: an `HMM`.
      key: randomness.
      n, length: N sequences of T tokens; both static under ``jax.jit``.

    Returns:
      int32 [N, T]. What is impossible is never drawn.

    Raises:
      InputError: sizes below 1, a length beyond that of emissions by position.

    Example:
      >>> sample(random(jax.random.key(0), 3, 5), jax.random.key(1), 2, 7).shape
      (2, 7)
    """
    check_whole("n", n, least=1)
    _check_length(hmm, check_whole("length", length, least=1))
    hmm, (first, rest) = HMM(*map(jnp.asarray, hmm)), jax.random.split(key)

    def step(states_N: Array, xs: tuple[Array, Array]) -> tuple[Array, Array]:
        t, key = xs
        emit, move = jax.random.split(key)
        tokens_N = _draw(emit, _emission(hmm, t), states_N)
        return jax.random.categorical(move, hmm.log_transition[states_N]), tokens_N.astype(jnp.int32)

    states_N = jax.random.categorical(first, hmm.log_initial, shape=(n,))
    return jax.lax.scan(step, states_N, (jnp.arange(length), jax.random.split(rest, length)))[1].T


def _draw(key: Array, log_rows: Array, rows_N: Array) -> Array:
    """A column for each of the rows: first a stretch of about √V columns, then one of it, so that 2√V random numbers do for V."""
    count, columns = log_rows.shape
    width = math.isqrt(columns - 1) + 1
    padded = jnp.pad(log_rows, ((0, 0), (0, -columns % width)), constant_values=-jnp.inf).reshape(count, -1, width)
    outer, inner = jax.random.split(key)
    stretch_N = jax.random.categorical(outer, jax.nn.logsumexp(padded, axis=-1)[rows_N])
    return stretch_N * width + jax.random.categorical(inner, padded[rows_N, stretch_N])


# --- the filter -------------------------------------------------------------------------------------------------------


def start(hmm: HMM, batch: int) -> Array:
    """The filter before any token, log f(z) = log Pr(z_1).

    Args:
      hmm: an `HMM`.
      batch: B.

    Returns:
      [B, S].

    Example:
      >>> start(HMM(jnp.log(jnp.array([0.5, 0.5])), jnp.zeros((2, 2)), jnp.zeros((2, 1))), 3).shape
      (3, 2)
    """
    return jnp.broadcast_to(hmm.log_initial, (batch, len(hmm.log_initial)))


def predict(hmm: HMM, log_f: Array, t: Array | int) -> Array:
    """Log-probabilities of the next token, log Pr(y_t = v | y_<t) = log Σ_z f(z) e(z, v).

    Args:
      hmm: an `HMM`.
      log_f: [..., S], the filter before position t.
      t: the position, from 0; used by emissions by position alone.

    Returns:
      [..., V].

    Example:
      >>> hmm = random(jax.random.key(0), 3, 5)
      >>> round(float(jnp.exp(predict(hmm, start(hmm, 1), 0)).sum()), 5)
      1.0
    """
    return _product(log_f, _shifted(_emission(hmm, t)))


def advance(hmm: HMM, log_f: Array, tokens_B: Array, t: Array | int) -> Array:
    """The filter after one more token, f'(z') = Σ_z f(z) e(z, y_t) a(z, z') / Σ_z f(z) e(z, y_t).

    Args:
      hmm: an `HMM`.
      log_f: [B, S], log Pr(z_t | y_<t).
      tokens_B: y_t. One of probability zero leaves the filter as if it had not been seen, f' = f a.
      t: the position, from 0; used by emissions by position alone.

    Returns:
      [B, S], log Pr(z_{t+1} | y_≤t).

    Example:
      >>> hmm = random(jax.random.key(0), 3, 5)
      >>> log_f = advance(hmm, start(hmm, 2), jnp.array([4, 1]), 0)
      >>> bool(jnp.allclose(log_f, filtered(hmm, jnp.array([[4], [1]]))[:, 1]))
      True
    """
    posterior, _ = _observe(log_f, _evidence(_tokens_first(hmm), tokens_B, t))
    return _product(posterior, _shifted(hmm.log_transition))


def filtered(hmm: HMM, tokens_BxT: Array) -> Array:
    """The filter before every position and after the last, log Pr(z_{t+1} | y_≤t) for t = 0 … T.

    Args:
      hmm: an `HMM`.
      tokens_BxT: sequences.

    Returns:
      [B, T+1, S].

    Raises:
      InputError: tokens that are not whole numbers [B, T] of the vocabulary, more positions than emissions have.

    Example:
      >>> filtered(random(jax.random.key(0), 3, 5), jnp.zeros((2, 7), jnp.int32)).shape
      (2, 8, 3)
    """
    last, (log_f_TxBxS,) = _run(hmm, _fitting(hmm, tokens_BxT), (0,))
    return jnp.concatenate([log_f_TxBxS, last[None]]).swapaxes(0, 1)


def log_probabilities(hmm: HMM, tokens_BxT: Array) -> Array:
    """Log-probabilities of every token at every position, log Pr(y_t = v | y_<t).

    Args:
      hmm: an `HMM`.
      tokens_BxT: sequences.

    Returns:
      [B, T, V].

    Raises:
      InputError: as `filtered`.

    Example:
      >>> log_probabilities(random(jax.random.key(0), 3, 5), jnp.zeros((2, 7), jnp.int32)).shape
      (2, 7, 5)
    """
    log_f_BxTxS = filtered(hmm, tokens_BxT)[:, :-1]
    if hmm.log_emission.ndim == 2:
        return predict(hmm, log_f_BxTxS, 0)
    return jax.vmap(lambda log_f, t: predict(hmm, log_f, t), (1, 0), 1)(log_f_BxTxS, jnp.arange(log_f_BxTxS.shape[1]))


def log_likelihood(hmm: HMM, tokens_BxT: Array) -> Array:
    """Log-probability of whole sequences, log Pr(y) = Σ_t log Pr(y_t | y_<t).

    Args:
      hmm: an `HMM`.
      tokens_BxT: sequences.

    Returns:
      [B], nats; −inf for what cannot happen.

    Raises:
      InputError: as `filtered`.

    Example:
      >>> log_likelihood(HMM(jnp.zeros(1), jnp.zeros((1, 1)), jnp.log(jnp.array([[0.5, 0.5]]))), jnp.array([[0, 1]])).tolist()
      [-1.3862943649291992]
    """
    return _run(hmm, _fitting(hmm, tokens_BxT), (2,))[1][0].sum(0)


@jax.jit(static_argnames="keep")
def _run(hmm: HMM, tokens_BxT: Array, keep: tuple[int, ...]) -> tuple[Array, tuple[Array, ...]]:
    """The last filter, and of each position those of (log_f, log_posterior, log Pr(y_t | y_<t)) that are kept, [T, …]."""
    emission, transition = _tokens_first(hmm), _shifted(hmm.log_transition)

    def step(log_f: Array, xs: tuple[Array, Array]) -> tuple[Array, tuple[Array, ...]]:
        t, tokens_B = xs
        posterior, total = _observe(log_f, _evidence(emission, tokens_B, t))
        return _product(posterior, transition), tuple((log_f, posterior, total)[i] for i in keep)

    batch, length = tokens_BxT.shape
    return jax.lax.scan(step, start(hmm, batch), (jnp.arange(length), tokens_BxT.T))


def _emission(hmm: HMM, t: Array | int) -> Array:
    return hmm.log_emission if hmm.log_emission.ndim == 2 else jnp.asarray(hmm.log_emission)[t]


def _tokens_first(hmm: HMM) -> Array:
    return jnp.swapaxes(hmm.log_emission, -1, -2)


def _evidence(emission: Array, tokens_B: Array, t: Array | int) -> Array:
    """log e(·, y) as [B, S] from [V, S] or [T, V, S]; −inf for tokens that do not exist."""
    rows = emission.at[tokens_B] if emission.ndim == 2 else emission.at[t, tokens_B]
    return rows.get(mode="fill", fill_value=-jnp.inf, wrap_negative_indices=False)


def _observe(log_f: Array, evidence: Array) -> tuple[Array, Array]:
    """log Pr(z_t | y_≤t) and log Pr(y_t | y_<t); the former is log f where the latter is −inf."""
    joint = log_f + evidence
    total = jax.nn.logsumexp(joint, axis=-1)
    seen = total > -jnp.inf
    return jnp.where(seen[..., None], joint - jnp.where(seen, total, 0)[..., None], log_f), total


def _shifted(log_matrix: Array) -> tuple[Array, Array]:
    top = log_matrix.max(0)
    top = jnp.where(top > -jnp.inf, top, 0)
    return jnp.exp(log_matrix - top), top


def _product(log_x: Array, shifted: tuple[Array, Array]) -> Array:
    """log Σ_z exp(x_z) M_zk. A filter has a finite maximum."""
    matrix, top = shifted
    row = log_x.max(-1, keepdims=True)
    return jnp.log(jnp.matmul(jnp.exp(log_x - row), matrix, precision="highest")) + row + top


def _check_length(hmm: HMM, length: int) -> None:
    if hmm.log_emission.ndim == 3 and length > len(hmm.log_emission):
        raise InputError(f"length {length} exceeds the {len(hmm.log_emission)} positions of log_emission: shorten the sequences")


def _check_tokens(tokens: Array, vocabulary: int) -> Array:
    if tokens.ndim != 2 or 0 in tokens.shape or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise InputError(f"tokens have shape {tokens.shape}, dtype {tokens.dtype}: give whole numbers [sequences, positions]")
    if not isinstance(tokens, jax.core.Tracer) and not 0 <= tokens.min() <= tokens.max() < vocabulary:
        raise InputError(f"tokens are {tokens.min()} … {tokens.max()}: give numbers from 0 to {vocabulary - 1}")
    return jnp.asarray(tokens, jnp.int32)


def _fitting(hmm: HMM, tokens: Array) -> Array:
    tokens = _check_tokens(tokens, hmm.log_emission.shape[-1])
    _check_length(hmm, tokens.shape[1])
    return tokens


# --- EM ---------------------------------------------------------------------------------------------------------------


@jax.jit(static_argnames="block")
def _counts(hmm: HMM, tokens: Array, block: int | None = None) -> tuple[HMM, Array]:
    """Expected counts of first states, steps and emissions in place of their log-probabilities, and log Pr(y) of each sequence.

    ``block`` sequences at a time, which bounds memory; None: about 2¹⁹ posteriors. Sequences of probability zero have no counts.
    """
    n, length = tokens.shape
    block = min(n, block or max(1, 2**19 // (length * len(hmm.log_initial))))
    filled = jnp.pad(tokens, ((0, -n % block), (0, 0))).reshape(-1, block, length)
    exists = (jnp.arange(n + -n % block) < n).reshape(-1, block)

    def add(sums: tuple[Array, ...], xs: tuple[Array, Array]) -> tuple[tuple[Array, ...], Array]:
        *found, log_likelihoods = _block_counts(hmm, *xs)
        return tuple(a + b for a, b in zip(sums, found, strict=True)), log_likelihoods

    zero = tuple(jnp.zeros_like(leaf) for leaf in hmm)
    sums, log_likelihoods = jax.lax.scan(add, zero, (filled, exists))
    return HMM(*sums), log_likelihoods.reshape(-1)[:n]


def _block_counts(hmm: HMM, tokens_BxT: Array, exists_B: Array) -> tuple[Array, ...]:
    _, (log_f, log_posterior, totals) = _run(hmm, tokens_BxT, (0, 1, 2))
    posterior = jnp.exp(log_posterior)
    transition = jnp.exp(hmm.log_transition)
    # Pr(z_t, z_{t+1} | y) = Pr(z_t | y_≤t) a(z_t, z_{t+1}) ratio(z_{t+1}), ratio = Pr(z_{t+1} | y) / Pr(z_{t+1} | y_≤t). A ratio
    # matters from about 1 to the inverse of the smallest float: the scale puts that range in a float's middle.
    log_scale = 0.4 * jnp.log(jnp.finfo(posterior.dtype).tiny)

    def step(carry: tuple[Array, Array], xs: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        after, steps = carry
        now, predicted = xs
        ratio = jnp.where(after > 0, after * jnp.exp(log_scale - predicted), 0)
        smoothed = now * jnp.matmul(ratio, transition.T, precision="highest") * jnp.exp(-log_scale)
        return (smoothed, steps + jnp.matmul(now.T, ratio, precision="highest")), smoothed

    last = posterior[-1] * exists_B[:, None]
    (first, steps), smoothed = jax.lax.scan(step, (last, jnp.zeros_like(transition)), (posterior[:-1], log_f[1:]), reverse=True)
    smoothed_TxBxS = jnp.concatenate([smoothed, last[None]])
    places, (vocabulary, states) = tokens_BxT.T, _tokens_first(hmm).shape[-2:]
    if hmm.log_emission.ndim == 3:  # a token of another position is another place
        places = places + vocabulary * jnp.arange(len(places))[:, None]
    emitted = jnp.zeros((hmm.log_emission.size // states, states), posterior.dtype)
    emitted = emitted.at[places.reshape(-1)].add(smoothed_TxBxS.reshape(-1, states)).reshape(_tokens_first(hmm).shape)
    return first.sum(0), transition * steps * jnp.exp(-log_scale), emitted.swapaxes(-1, -2), totals.sum(0)


def starting_point(key: Array, tokens_NxT: Array, states: int, vocabulary: int, end: int | None = None) -> HMM:
    """A start for EM from the data: states are clusters of occurrences, by the token and its two neighbours.

    A token's vector is the mean random projection of what stands before it and after it; an occurrence's is that of the token and
    of both neighbours. k-means sorts occurrences into states. Counting gives seven tenths of each row, noise the rest: token
    frequencies (plus one) or ones, times exponential variables, so that no two states are alike.

    Args:
      key: randomness.
      tokens_NxT: sequences.
      states, vocabulary: S, V.
      end: token that fills sequences up behind their end. The last state is then absorbing and emits only ``end``, the others
        never do, and no sequence starts there.

    Returns:
      An `HMM` in JAX's default float.

    Raises:
      InputError: sizes that do not fit, tokens as in `filtered`; with ``end``, fewer than two states, sequences that start with
        ``end`` or go on behind it.

    Example:
      >>> hmm = starting_point(jax.random.key(0), np.array([[1, 2, 0], [2, 0, 0]]), states=3, vocabulary=4, end=0)
      >>> jnp.exp(hmm.log_emission[:, 0]).tolist(), jnp.exp(hmm.log_transition[2]).tolist()
      ([0.0, 0.0, 1.0], [0.0, 0.0, 1.0])

    Source: k-means in place of the latent variable distillation of Liu et al. 2023 (arXiv 2210.04398), which clusters a neural
    model's embeddings.
    """
    check_whole("vocabulary", vocabulary, least=1)
    check_whole("states", states, least=1 if end is None else 2)
    tokens = _check_tokens(tokens_NxT, vocabulary)
    if end is not None:
        if not 0 <= check_whole("end", end, least=0) < vocabulary:
            raise InputError(f"end {end} is no token: give one of 0 to {vocabulary - 1}")
        ended = np.asarray(tokens) == end
        wrong = np.flatnonzero(ended[:, 0] | (ended[:, :-1] & ~ended[:, 1:]).any(1))
        if len(wrong):
            raise InputError(f"sequence {wrong[0]} starts with end {end} or goes on behind it: drop it, or fill it up with {end}")
    return _starting_point(key, tokens, states, vocabulary, end)


@jax.jit(static_argnames=("states", "vocabulary", "end"))
def _starting_point(key: Array, tokens: Array, states: int, vocabulary: int, end: int | None) -> HMM:
    keys = jax.random.split(key, 6)
    free, size = states if end is None else states - 1, vocabulary + 1

    def tally(shape: tuple[int, ...], *index: Array) -> Array:
        return jnp.zeros(shape, projection.dtype).at[index].add(1)

    # Tokens before, at and after each occurrence; the id V stands where there is none.
    padded = jnp.pad(tokens, ((0, 0), (1, 1)), constant_values=vocabulary)
    near_3xNxT = jnp.stack([padded[:, :-2], tokens, padded[:, 2:]])
    projection = jax.random.normal(keys[0], (size, 16), jnp.result_type(float))
    seen = tally((size,), tokens)
    sums = [jnp.zeros_like(projection).at[tokens].add(projection[near_3xNxT[side]]) for side in (0, 2)]
    vectors = jnp.concatenate(sums, axis=1) / jnp.maximum(seen, 1)[:, None]
    vectors -= seen @ vectors / seen.sum()
    vectors /= jnp.linalg.norm(vectors, axis=1, keepdims=True) + 1e-6

    def nearest(centres_3xKxD: Array, near_3xNxT: Array) -> Array:
        products_3xVxK, half = jnp.einsum("okd,vd->ovk", centres_3xKxD, vectors), 0.5 * (centres_3xKxD**2).sum((0, 2))

        def of_sequence(near_3xT: Array) -> Array:
            return (sum(products_3xVxK[side, near_3xT[side]] for side in range(3)) - half).argmax(-1)

        states_NxT = jax.lax.map(of_sequence, near_3xNxT.swapaxes(0, 1), batch_size=256)
        return states_NxT if end is None else jnp.where(near_3xNxT[1] == end, free, states_NxT)

    few = near_3xNxT[:, :: -(-tokens.size // 2**16)]

    def lloyd(_: int, centres_3xKxD: Array) -> Array:
        state = nearest(centres_3xKxD, few)
        members_3xKxV = jnp.stack([tally((states, size), state, near) for near in few])[:, :free]
        of_state = members_3xKxV[0].sum(-1, keepdims=True)
        return jnp.where(of_state > 0, members_3xKxV @ vectors / jnp.maximum(of_state, 1), centres_3xKxD)

    which = jax.random.randint(keys[1], (free,), 0, few.shape[1])
    lengths = (few[1] != (vocabulary if end is None else end)).sum(-1)[which]
    at = (jax.random.uniform(keys[5], (free,)) * lengths).astype(int)
    state = nearest(jax.lax.fori_loop(0, 10, lloyd, vectors[few[:, which, at]]), near_3xNxT)

    def row(key: Array, count: Array, prior: Array | float, possible: Array) -> Array:
        noise = jnp.where(possible, prior * jax.random.exponential(key, count.shape, projection.dtype), 0)
        mixed = 0.7 * count / jnp.maximum(count.sum(-1, keepdims=True), 1) + 0.3 * noise / noise.sum(-1, keepdims=True)
        return jnp.log(mixed / mixed.sum(-1, keepdims=True))

    last, ends = jnp.arange(states) == free, jnp.arange(vocabulary) == (vocabulary if end is None else end)
    return HMM(
        row(keys[2], tally((states,), state[:, 0]), 1.0, ~last),
        row(keys[3], tally((states, states), state[:, :-1], state[:, 1:]), 1.0, ~last[:, None] | last),
        row(keys[4], tally((states, vocabulary), state, tokens), seen[:-1] + 1, last[:, None] == ends),
    )


def fit(
    tokens_NxT: Array,
    *,
    states: int | None = None,
    start: HMM | None = None,
    vocabulary: int | None = None,
    key: Array | None = None,
    steps: int = 30,
    batch_size: int | None = None,
    pseudocount: float = 0.01,
    held_out: Array | None = None,
    on_step: Callable[[int, float, float | None], None] | None = None,
) -> Fitted:
    """Expectation maximisation: each step's rows are its expected counts plus the pseudocount, normalised.

    Full batches without a pseudocount never lower the likelihood. With ``batch_size`` a step takes the next sequences, in order
    and round again, and its counts replace all rows, as in GeLaTo and Ctrl-G. An entry impossible in the start (−∞) stays so, and
    a row that nothing reaches stays what it was.

    Args:
      tokens_NxT: sequences.
      states: S, when `starting_point` makes the start.
      start: an `HMM` to start from instead, which settles S, V and what is impossible.
      vocabulary: V, with ``states``. None: the largest token + 1.
      key: randomness of the start, with ``states``.
      steps: EM steps.
      batch_size: sequences a step. None: all.
      pseudocount: added to the count of every possible entry.
      held_out: [N', T] sequences that are scored after each step.
      on_step: called as ``on_step(step, log_likelihood, held_out)`` after each step, with what `Fitted` records of it.

    Returns:
      `Fitted`.

    Raises:
      InputError: both or neither of start and states, sizes that do not fit, a start that `check` refuses, and training sequences
        of probability zero, which have no posterior.

    Example:
      >>> tokens = sample(random(jax.random.key(0), 2, 5), jax.random.key(1), 100, 8)
      >>> fitted = fit(tokens, states=2, key=jax.random.key(2), steps=3)
      >>> fitted.log_likelihoods.shape, bool(fitted.log_likelihoods[2] > fitted.log_likelihoods[0])
      ((3,), True)

    Source: Baum et al. 1970; arXiv 2304.07438, section 3; arXiv 2406.13892, section 4.
    """
    check_number("pseudocount", pseudocount, "give a number of at least 0", 0, float("inf"))
    if start is None:
        if states is None or key is None:
            raise InputError("fit has neither a start nor both states and key: give start=, or states= and key=")
        start = starting_point(key, tokens_NxT, states, int(tokens_NxT.max()) + 1 if vocabulary is None else vocabulary)
    elif states is not None or vocabulary is not None or key is not None:
        raise InputError("fit has a start, which settles states and vocabulary: leave out states, vocabulary and key")
    check(start)
    tokens = _fitting(start, tokens_NxT)
    n, hmm = len(tokens), start
    size = n if batch_size is None else check_whole("batch_size", batch_size, least=1)
    if size > n:
        raise InputError(f"batch_size {size} exceeds the {n} sequences: choose 1 to {n}")
    others = None if held_out is None else _fitting(start, held_out)
    scores, seen = [], []
    for step in range(check_whole("steps", steps, least=1)):
        batch = tokens[(step * size + np.arange(size)) % n] if size < n else tokens
        hmm, log_likelihoods = _em_step(hmm, batch, pseudocount)
        log_likelihoods = np.asarray(log_likelihoods)
        lost = np.flatnonzero(~np.isfinite(log_likelihoods))
        if len(lost):
            raise InputError(
                f"sequence {(step * size + lost[0]) % n} has probability zero at step {step}: give a start that allows it, or a "
                "pseudocount"
            )
        scores.append(float(log_likelihoods.mean()) / tokens.shape[1])
        if others is not None:
            seen.append(float(jax.jit(log_likelihood)(hmm, others).mean()) / others.shape[1])
        if on_step is not None:
            on_step(step, scores[-1], seen[-1] if seen else None)
    return Fitted(hmm, np.array(scores), None if others is None else np.array(seen))


@jax.jit
def _em_step(hmm: HMM, tokens: Array, pseudocount: Array) -> tuple[HMM, Array]:
    counts, log_likelihoods = _counts(hmm, tokens)

    def normalised(count: Array, old: Array) -> Array:
        raised = jnp.where(old > -jnp.inf, count + pseudocount, 0)
        total = raised.sum(-1, keepdims=True)
        return jnp.where(total > 0, jnp.log(raised) - jnp.log(total), old)

    return HMM(*(normalised(count, old) for count, old in zip(counts, hmm, strict=True))), log_likelihoods
