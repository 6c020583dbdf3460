"""The exact posterior of a hidden Markov model under an automaton, q*(y) = p(y) C(y) / R(x), and lookahead for any base.

With states z of the chain and s of the automaton, δ(s, v) the next one, and T tokens,

    B_T(z, s) = 1[s accepts]
    G_T(z, s) = B_T(z, s),    G_t(z, s) = Σ_z' a(z, z') B_t(z', s)    (t < T)
    B_t−1(z, s) = Σ_v e_t(z, v) G_t(z, δ(s, v))

B_t(z, s) is the probability of acceptance after t tokens, in s, when the chain's next state is z, and π that of its first. So

    R(x) = Σ_z π(z) B_0(z, s_0),    R(y_≤t) = Σ_z f(z) e_t(z, y_t) G_t(z, s_t) / Σ_z f(z) e_t(z, y_t)

with the filter f(z) = Pr(z_t = z | y_<t). This is the recursion of Ctrl-G (Zhang et al. 2024, arXiv 2406.13892, theorem 3.2) over
the m edges of the automaton. Tables are made on the host in float64 whatever the precision of JAX. With the chain itself as base
the guide gives q* exactly; with another base this is GeLaTo (Zhang et al. 2023, arXiv 2304.07438).

In float32 a value is exact to rounding as long as R(y_≤t) exceeds about 1e-38, the smallest normal number; below that, tokens
may count as impossible. Where no token is possible the product of base and guide is the base (`olm.control.model.product`).

Not done: fitting the chain to a base (`olm.models.hmm.fit`), sparse transitions of the chain, constraints that are no automata.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

from olm.control import automata
from olm.control.automata import Automaton
from olm.control.model import Context, Guide, Model, chain_advance, chain_predict, guided, hmm, stepwise, which_of
from olm.errors import InputError, check_whole
from olm.models import hmm as hmms
from olm.models.hmm import HMM
from olm.types import Array, PyTree

TINY = -1e30  # a logarithm of 0 that can be subtracted from itself


class Lookahead(NamedTuple):
    """A chain, constraints, and what each (position, constraint, states) is worth; a pytree.

    Attributes:
      hmm: the chain.
      automaton: constraints as `olm.control.automata.stack` gives them, [X, n, V] and [X, n].
      log_ahead: [X, T, n, S], entry t is log G_t+1(z, s): who is in z, writes its token and comes to s, is accepted with G.
      log_rate: [X], log R(x), nats; −∞ where the chain never meets the constraint.
      successors: [X, n, K], the states that follow a state, the most frequent first; −1: none.
      label: [X, n, V], which of them token v leads to.
    """

    hmm: HMM
    automaton: Automaton
    log_ahead: Array
    log_rate: Array
    successors: Array
    label: Array


def lookahead(chain: HMM, constraints: Automaton | Sequence[Automaton], length: int) -> Lookahead:
    """Tables of a chain and its constraints; context["which"] [B] names the constraint of a sequence (without it: the first).

    Args:
      chain: a hidden Markov model; emissions by position have ``length`` of them, and [X, T, S, V] differ by condition as well.
      constraints: one automaton, or X of them, over the chain's tokens.
      length: T.

    Returns:
      A `Lookahead` in JAX's default float.

    Raises:
      InputError: vocabularies or lengths that differ, no constraint, tables or a chain that are none.

    >>> chain = hmms.random(jax.random.key(0), 3, 4)
    >>> tables = lookahead(chain, automata.clauses([[[2]]], 4), 5)
    >>> tables.log_ahead.shape
    (1, 5, 2, 3)
    """
    check_whole("length", length, 1)
    several = [constraints] if isinstance(constraints, Automaton) else list(constraints)
    stacked = automata.stack(several)  # fails where they do not fit together
    own = np.ndim(chain.log_emission) == 4  # emissions of each condition
    if own and len(chain.log_emission) != len(several):
        raise InputError(
            f"the chain has emissions for {len(chain.log_emission)} conditions, there are {len(several)} constraints: "
            "give one for each"
        )
    chains = [chain._replace(log_emission=one) for one in chain.log_emission] if own else [chain] * len(several)
    for one in chains if own else chains[:1]:
        hmms.check(one)
    *positions, _, vocabulary = np.shape(chain.log_emission)
    reads = stacked.transition.shape[-1]
    if reads != vocabulary:
        raise InputError(f"the automaton reads {reads} tokens, the chain emits {vocabulary}: build both over one vocabulary")
    if positions and positions[-1] != length:
        raise InputError(f"the chain emits at {positions[-1]} positions, sequences have {length} tokens: make them equal")
    tables = [_tables(one, automaton, length) for one, automaton in zip(chains, several, strict=True)]
    ahead, rates, successors, labels = zip(*tables, strict=True)
    float_type = jnp.result_type(float)
    return Lookahead(
        jax.tree.map(lambda leaf: jnp.asarray(leaf, float_type), chain),
        stacked,
        jnp.asarray(_padded(ahead, -np.inf), float_type),
        jnp.asarray(rates, float_type),
        jnp.asarray(_padded(successors, -1), jnp.int32),
        jnp.asarray(_padded(labels, 0), jnp.int32),
    )


def _padded(arrays: Sequence[np.ndarray], value: float) -> np.ndarray:
    """Arrays of one rank as one, each padded at the end of its axes."""
    shape = np.max([one.shape for one in arrays], axis=0)
    return np.stack([np.pad(one, [(0, k) for k in shape - one.shape], constant_values=value) for one in arrays])


def _tables(chain: HMM, automaton: Automaton, length: int) -> tuple[np.ndarray, float, np.ndarray, np.ndarray]:
    """log G [T, n, S], log R(x), successors [n, K] and labels [n, V] of one automaton."""
    transition, accepting = np.asarray(automaton.transition), np.asarray(automaton.accepting)
    n, vocabulary = transition.shape
    source, target, label = automata.edges(automaton)  # in the order of sources
    m, first = len(source), np.searchsorted(source, np.arange(n))
    with np.errstate(divide="ignore"):
        a, e = (np.exp(np.asarray(part, np.float64)) for part in (chain.log_transition, chain.log_emission))
        # Row i of the matrix adds up what edge i may read: its product with eᵀ is each edge's probability, [m, S].
        reads = scipy.sparse.csr_matrix(
            (np.ones(n * vocabulary), (label.ravel(), np.tile(np.arange(vocabulary), n))), (m, vocabulary)
        )
        mass = [reads @ part.T for part in (e if e.ndim == 3 else [e])]
        log_ahead = np.zeros((length, n, a.shape[0]))
        # After the last token no state of the chain follows: G_T is B_T itself.
        log_ahead[-1] = np.where(accepting, 0.0, -np.inf)[:, None]
        for t in reversed(range(length)):
            found = np.log(mass[t if e.ndim == 3 else 0]) + log_ahead[t][target]
            top = np.maximum.reduceat(found, first, axis=0)
            shift = np.where(np.isfinite(top), top, 0.0)
            log_b = np.log(np.add.reduceat(np.exp(found - shift[source]), first, axis=0)) + shift
            if t:
                log_ahead[t - 1] = _log_product(log_b, a)
        log_rate = float(np.logaddexp.reduce(np.asarray(chain.log_initial, np.float64) + log_b[0]))
    # The most frequent successor comes first, so that few columns hold most of the tokens.
    sizes = np.bincount(label.ravel(), minlength=m)
    rank = np.zeros(m, int)
    order = np.lexsort((-sizes, source))
    rank[order] = np.arange(m) - first[source[order]]
    successors = np.full((n, rank.max() + 1), -1)
    successors[source, rank] = target
    return log_ahead, min(log_rate, 0.0), successors, rank[label]


def _log_product(log_b_NxS: np.ndarray, a_SxS: np.ndarray) -> np.ndarray:
    """log Σ_z' a(z, z') exp(log_b(s, z')), [n, S], exact relative to each row's largest entry."""
    top = log_b_NxS.max(1, keepdims=True)
    shift = np.where(np.isfinite(top), top, 0.0)
    return np.log(np.exp(log_b_NxS - shift) @ a_SxS.T) + shift


def _log_values(tables: Lookahead, state: PyTree) -> Array:
    """log R(y_<t v) [B, V] = log Σ_z f(z) e(z, v) G(z, δ(s, v)) − log Σ_z f(z) e(z, v)."""
    log_f, reached, which, place = state
    successors = tables.successors[which, reached]  # [B, K]
    log_g = tables.log_ahead[which[:, None], place[:, None], successors]  # [B, K, S]
    log_g = jnp.where((successors >= 0)[..., None], log_g, -jnp.inf)
    joint = log_f[:, None] + log_g
    log_e = tables.hmm.log_emission
    if log_e.ndim > 2:
        log_e = log_e[which, place] if log_e.ndim == 4 else log_e[place[0]]  # [B, S, V] or [S, V]
    # Sums relative to the largest entry of a row and of a token's column: rare tokens must not vanish in float32.
    row, column = (jnp.maximum(part.max(axis, keepdims=True), TINY) for part, axis in ((joint, -1), (log_e, -2)))
    found = jnp.matmul(jnp.exp(joint - row), jnp.exp(log_e - column), precision="highest")
    log_joint = jnp.log(found) + row + column  # [B, K, V], each successor as if all tokens led to it
    log_joint = jnp.take_along_axis(log_joint, tables.label[which, reached][:, None], 1)[:, 0]
    log_marginal = chain_predict(tables.hmm, log_f, which, place)
    return jnp.where(log_joint == -jnp.inf, -jnp.inf, jnp.minimum(log_joint - log_marginal, 0.0))


def _start(tables: Lookahead, context: Context, log_p: Array) -> tuple[PyTree, Array]:
    batch = log_p.shape[0]
    zeros = jnp.zeros(batch, jnp.int32)
    state = hmms.start(tables.hmm, batch), zeros, which_of(context, batch), zeros
    return state, _log_values(tables, state)


def _advance(tables: Lookahead, state: PyTree, tokens: Array, log_p: Array) -> tuple[PyTree, Array]:
    log_f, reached, which, place = state
    log_f = chain_advance(tables.hmm, log_f, tokens, which, place)
    state = log_f, tables.automaton.transition[which, reached, tokens], which, place + 1
    return state, _log_values(tables, state)


def _whole(tables: Lookahead, tokens: Array, context: Context, log_p: Array) -> Array:
    return stepwise(lambda first: _start(tables, context, first), lambda *now: _advance(tables, *now), tokens, log_p)


GUIDE = Guide(_start, _advance, _whole, lambda tables: tables.log_ahead.shape[1])
"""Guides any base by a chain's lookahead, whose tables are its parameters. Over the chain itself: the exact posterior."""


@functools.cache
def exact(vocabulary: int, length: int) -> Model:
    """q*(y_t | y_<t), the posterior of a chain under its constraints.

    Args:
      vocabulary, length: V, T.

    Returns:
      A `Model` with parameters ``{"base": tables.hmm, "guide": tables}``, see `exact_params`.

    >>> tables = lookahead(hmms.random(jax.random.key(0), 3, 4), automata.clauses([[[2]]], 4), 2)
    >>> log_q = exact(4, 2).whole(exact_params(tables), jnp.array([[0, 2]]), {"which": jnp.zeros(1, int)})
    >>> jnp.exp(log_q)[0, 1].tolist()
    [0.0, 0.0, 1.0, 0.0]
    """
    return guided(hmm(vocabulary, length), GUIDE)


def exact_params(tables: Lookahead) -> dict[str, PyTree]:
    """Parameters of `exact`.

    Args:
      tables: of `lookahead`.

    Returns:
      A dictionary.

    No example: see `exact`.
    """
    return {"base": tables.hmm, "guide": tables}


class Support(NamedTuple):
    """Constraints and what can still be met; parameters of `MASK`.

    Attributes:
      automaton: constraints, [X, n, V] and [X, n].
      possible: [X, T+1, n], whether some continuation from state s after t tokens is accepted.
    """

    automaton: Automaton
    possible: Array


def support(constraints: Automaton | Sequence[Automaton], length: int) -> Support:
    """What masking needs (Willard and Louf 2023, arXiv 2307.09702): the states from which acceptance is possible.

    Args:
      constraints: one automaton, or X of them.
      length: T.

    Returns:
      A `Support`.

    Raises:
      InputError: a constraint that no sequence of T tokens meets, and what `olm.control.automata.stack` refuses.

    >>> support(automata.clauses([[[1]]], 2), 2).possible[0].tolist()
    [[True, True], [True, True], [False, True]]
    """
    check_whole("length", length, 1)
    several = [constraints] if isinstance(constraints, Automaton) else list(constraints)
    stacked = automata.stack(several)
    for one in several:
        automata.check_satisfiable(one, length)
    transition = np.asarray(stacked.transition)
    found = [np.asarray(stacked.accepting)]
    for _ in range(length):
        found.append(np.stack([now[rows].any(-1) for now, rows in zip(found[-1], transition, strict=True)]))
    return Support(stacked, jnp.asarray(np.stack(found[::-1], 1)))


def _mask_values(params: Support, reached: Array, which: Array, place: Array) -> Array:
    following = params.automaton.transition[which, reached]  # [B, V]
    return jnp.where(params.possible[which[:, None], place[:, None] + 1, following], 0.0, -jnp.inf)


def _mask_start(params: Support, context: Context, log_p: Array) -> tuple[PyTree, Array]:
    batch = log_p.shape[0]
    state = jnp.zeros(batch, jnp.int32), which_of(context, batch), jnp.zeros(batch, jnp.int32)
    return state, _mask_values(params, *state)


def _mask_advance(params: Support, state: PyTree, tokens: Array, log_p: Array) -> tuple[PyTree, Array]:
    reached, which, place = state
    state = params.automaton.transition[which, reached, tokens], which, place + 1
    return state, _mask_values(params, *state)


def _mask_whole(params: Support, tokens: Array, context: Context, log_p: Array) -> Array:
    return stepwise(lambda first: _mask_start(params, context, first), lambda *now: _mask_advance(params, *now), tokens, log_p)


MASK = Guide(_mask_start, _mask_advance, _mask_whole, lambda tables: tables.possible.shape[1] - 1)
"""Forbids tokens after which the constraint cannot be met any more; parameters are a `Support`.

Not the posterior: the tokens that are left keep the base's odds at every step.
"""


def divergences(log_q_BxTxV: Array, log_other_BxTxV: Array) -> Array:
    """KL(q(· | y_<t) ‖ other(· | y_<t)) at every place of each sequence.

    Over y ~ q the mean of their sum over places is KL(q ‖ other), with less scatter than log q(y) − log other(y).

    Args:
      log_q_BxTxV, log_other_BxTxV: what two models' ``whole`` gives along sequences drawn from q.

    Returns:
      [B, T], nats; ∞ where the other gives no probability to what q may write.

    >>> log_q, other = jnp.log(jnp.array([[[1.0, 0.0]]])), jnp.log(jnp.array([[[0.5, 0.5]]]))
    >>> divergences(log_q, other).round(3).tolist()
    [[0.693]]
    """
    q = jnp.exp(log_q_BxTxV)
    return jnp.where(q > 0, q * (log_q_BxTxV - log_other_BxTxV), 0.0).sum(-1)
