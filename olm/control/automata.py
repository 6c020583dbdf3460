"""Constraints on whole sequences of tokens as deterministic automata in dense tables.

A constraint C(y) ∈ {0, 1} that a finite memory can decide is an automaton: s_0 = 0, s_t = δ(s_{t−1}, y_t), C(y) = 1[s_T ∈ F].
Its table δ [n, V] over the model's tokens makes labels of whole batches and exact backward recursions cheap (Ctrl-G, arXiv
2406.13892, section 3). Clauses of key strings are the constraints of GeLaTo (arXiv 2304.07438) and of CommonGen.

Every automaton built here is minimal, and its states are numbered as a breadth-first search meets them, tokens in order: two
constraints are the same set of sequences if and only if their tables are equal. Tables are built in numpy, where tokens that a
constraint does not tell apart share a column until the end. ``olm.control.keywords`` builds those that are about text.

Not done: weights, non-deterministic automata at run time, constraints that need a stack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from olm.control import _tables
from olm.control._tables import Compact, conjunction, containing, minimise
from olm.errors import InputError, check_whole
from olm.types import Array


class Automaton(NamedTuple):
    """A constraint on sequences of V tokens.

    Attributes:
      transition: δ, int32 [n, V], the next state; the start is state 0. A stack of X has [X, n, V].
      accepting: 1[s ∈ F], bool [n] or [X, n].
    """

    transition: Array
    accepting: Array


class Edges(NamedTuple):
    """The m distinct pairs of a state and a next state, for recursions that cost m matrix products instead of n·V.

    Attributes:
      source, target: int32 [m]; of a stack [X, m], padded with edges 0 → 0 that no token takes.
      label: int32 [n, V] or [X, n, V], the edge that token v takes from state s.
    """

    source: np.ndarray
    target: np.ndarray
    label: np.ndarray


# --- running ----------------------------------------------------------------------------------------------------------


def run(automaton: Automaton, tokens_BxT: Array) -> Array:
    """States along sequences, s_0 = 0 and s_t = δ(s_{t−1}, y_t).

    Args:
      automaton: one automaton.
      tokens_BxT: token ids.

    Returns:
      int32 [B, T+1].

    Raises:
      InputError: tables or tokens of another shape or kind, and, outside jit, ids outside 0 … V−1.

    >>> run(clauses([[[1, 1]]], 2), jnp.array([[1, 0, 1, 1]])).tolist()
    [[0, 1, 0, 1, 2]]

    Source: Zhang et al. 2024, arXiv 2406.13892, section 3.
    """
    if jnp.ndim(automaton.transition) != 2:
        raise InputError(f"transition has shape {jnp.shape(automaton.transition)}: give one automaton, or use run_stacked")
    stacked = Automaton(automaton.transition[None], automaton.accepting[None])
    return run_stacked(stacked, jnp.zeros(jnp.shape(tokens_BxT)[:1], jnp.int32), tokens_BxT)


def run_stacked(stacked: Automaton, which_B: Array, tokens_BxT: Array) -> Array:
    """States along sequences, each of which runs an automaton of its own.

    Args:
      stacked: X automata from ``stack``.
      which_B: x of each sequence, 0 … X−1.
      tokens_BxT: token ids.

    Returns:
      int32 [B, T+1]; ``stacked.accepting[which_B, states[:, -1]]`` are the constraints' values.

    Raises:
      InputError: tables or tokens of another shape or kind, and, outside jit, ids outside 0 … V−1 or 0 … X−1.

    >>> pair = stack([count([1], 3, least=1), count([2], 3, least=2)])
    >>> run_stacked(pair, jnp.array([0, 1]), jnp.array([[1, 2], [1, 2]])).tolist()
    [[0, 1, 1], [0, 0, 1]]
    """
    transition, which_B, tokens_BxT = jnp.asarray(stacked.transition, jnp.int32), jnp.asarray(which_B), jnp.asarray(tokens_BxT)
    if transition.ndim != 3:
        raise InputError(f"transition has shape {transition.shape}: give automata from stack, or use run")
    if tokens_BxT.ndim != 2 or which_B.shape != tokens_BxT.shape[:1]:
        raise InputError(f"tokens have shape {tokens_BxT.shape}, which {which_B.shape}: give [B, T] and [B]")
    for name, ids, bound in (("tokens", tokens_BxT, transition.shape[2]), ("which", which_B, transition.shape[0])):
        if not jnp.issubdtype(ids.dtype, jnp.integer):
            raise InputError(f"{name} are {ids.dtype}: give integers")
        # A gather would clamp them in silence; traced values cannot be looked at.
        if isinstance(ids, jax.core.Tracer) or not ids.size:
            continue
        low, high = (
            int(end) for end in (np.asarray(ids).min(), np.asarray(ids).max())
        )  # numpy: constants of a traced program too
        if not 0 <= low <= high < bound:
            raise InputError(f"{name} reach from {low} to {high}: give ids in 0 … {bound - 1}")

    def step(state_B: Array, token_B: Array) -> tuple[Array, Array]:
        state_B = transition[which_B, state_B, token_B]
        return state_B, state_B

    start_B = jnp.zeros(which_B.shape, jnp.int32)
    states_TxB = jax.lax.scan(step, start_B, tokens_BxT.T)[1]
    return jnp.concatenate([start_B[None], states_TxB]).T


def accepts(automaton: Automaton, tokens_BxT: Array) -> Array:
    """Whether sequences meet the constraint, C(y) = 1[s_T ∈ F].

    Args:
      automaton: one automaton.
      tokens_BxT: token ids.

    Returns:
      bool [B].

    Raises:
      InputError: as ``run`` does.

    >>> accepts(count([1], 2, most=1), jnp.array([[0, 1, 0], [1, 1, 0]])).tolist()
    [True, False]
    """
    return jnp.asarray(automaton.accepting)[run(automaton, tokens_BxT)[:, -1]]


# --- constraints on tokens --------------------------------------------------------------------------------------------


def clauses(keys: Sequence[Sequence[Sequence[int]]], vocabulary: int) -> Automaton:
    """Sequences that contain a key of every clause, ∧_i ∨_j [y contains the string w_ij].

    Args:
      keys: for each clause its alternatives, each a string of token ids.
      vocabulary: V.

    Returns:
      The minimal ``Automaton``; K clauses of one-token keys take 2^K states.

    Raises:
      InputError: no clauses, a clause without alternatives, an empty key, a token outside 0 … V−1.

    >>> both = clauses([[[1], [2]], [[3]]], vocabulary=4)  # (1 or 2) and 3
    >>> accepts(both, jnp.array([[3, 0, 2], [1, 2, 0]])).tolist()
    [True, False]

    Source: Zhang et al. 2023, arXiv 2304.07438, section 3.
    """
    vocabulary = check_whole("vocabulary", vocabulary, 1)
    if not len(keys):
        raise InputError("keys is empty: give at least one clause")
    parts = []
    for i, clause in enumerate(keys):
        if not len(clause):
            raise InputError(f"clause {i} has no alternatives: give at least one key")
        for key in clause:
            if np.ndim(key) != 1:
                raise InputError(f"clause {i} has the key {key!r}: give lists of tokens, as in [[[3]], [[5], [7, 2]]]")
            if not len(key):
                raise InputError(f"clause {i} has an empty key: give at least one token")
            _tables.check_tokens(f"clause {i}", key, vocabulary)
        parts.append(containing([tuple(map(int, key)) for key in clause], vocabulary, None))
    return _dense(reduce(conjunction, parts))


def count(tokens: Iterable[int], vocabulary: int, least: int = 0, most: int | None = None) -> Automaton:
    """Sequences with a number of tokens of a set within bounds, least ≤ Σ_t 1[y_t ∈ set] ≤ most.

    Args:
      tokens: the set.
      vocabulary: V.
      least, most: the bounds; without ``most`` there is no upper one.

    Returns:
      The minimal ``Automaton``.

    Raises:
      InputError: an empty set, a token outside 0 … V−1, bounds that are no whole numbers or leave nothing between them.

    >>> count_accepted(count([0], 3, least=1, most=2), 3)  # 3·2² + 3·2
    18

    Source: Zhang et al. 2024, arXiv 2406.13892, section 3.
    """
    vocabulary = check_whole("vocabulary", vocabulary, 1)
    try:
        chosen = list(tokens)
    except TypeError:
        raise InputError(f"tokens is {tokens!r}: give a list of tokens") from None
    if not chosen:
        raise InputError("tokens is empty: give the tokens to count")
    _tables.check_tokens("tokens", chosen, vocabulary)
    least = check_whole("least", least, 0)
    if most is not None and check_whole("most", most, 0) < least:
        raise InputError(f"least is {least} and most {most}: give bounds with least ≤ most")
    top = least if most is None else most + 1
    seen = np.arange(top + 1)
    label = np.zeros(vocabulary, int)
    label[chosen] = 1
    accepting = (seen >= least) & ((most is None) | (seen < top))
    return _dense(minimise(np.stack([seen, np.minimum(seen + 1, top)], 1), accepting, label))


def ended(vocabulary: int, end: int) -> Automaton:
    """Sequences in which only ``end`` follows ``end``, so that what pads a sentence is part of the constraint.

    Args:
      vocabulary: V.
      end: the token.

    Returns:
      The minimal ``Automaton``; combine it by ``product``.

    Raises:
      InputError: a token outside 0 … V−1.

    >>> accepts(ended(3, end=0), jnp.array([[1, 0, 0], [1, 0, 2]])).tolist()
    [True, False]

    Source: Zhang et al. 2024, arXiv 2406.13892, section 3.
    """
    return _dense(_tables.ended(check_whole("vocabulary", vocabulary, 1), end))


def product(*automata: Automaton) -> Automaton:
    """Sequences that meet all constraints, ∏_i C_i(y).

    Args:
      automata: at least one, over the same tokens.

    Returns:
      The minimal ``Automaton``.

    Raises:
      InputError: no automata, different vocabularies, tables that are none.

    >>> count_accepted(product(count([0], 3, least=1), count([1], 3, least=1)), 2)  # 01 and 10
    2

    Source: Hopcroft, Motwani & Ullman 2006, Introduction to Automata Theory, section 4.2.
    """
    return _folded(conjunction, automata)


def union(*automata: Automaton) -> Automaton:
    """Sequences that meet at least one constraint, max_i C_i(y).

    Args:
      automata: at least one, over the same tokens.

    Returns:
      The minimal ``Automaton``.

    Raises:
      InputError: no automata, different vocabularies, tables that are none.

    >>> count_accepted(union(count([0], 3, least=1), count([1], 3, least=1)), 2)  # all but 22
    8
    """
    return _folded(lambda a, b: _tables.combine(a, b, np.logical_or), automata)


def complement(automaton: Automaton) -> Automaton:
    """Sequences that do not meet the constraint, 1 − C(y).

    Args:
      automaton: one automaton.

    Returns:
      The minimal ``Automaton``.

    Raises:
      InputError: tables that are none.

    >>> count_accepted(complement(count([0], 3, least=1)), 2)  # 11, 12, 21 and 22
    4
    """
    delta, accepting, label = _compact(automaton)
    return _dense(minimise(delta, ~accepting, label))


# --- reading them -----------------------------------------------------------------------------------------------------


def stack(automata: Sequence[Automaton]) -> Automaton:
    """Automata of X conditions in one pair of arrays, padded with states that nothing reaches, leaves or accepts.

    Args:
      automata: at least one, over the same tokens.

    Returns:
      An ``Automaton`` of tables [X, n_max, V] and [X, n_max].

    Raises:
      InputError: no automata, different vocabularies, tables that are none.

    >>> stack([count([1], 3, least=1), count([2], 3, least=4)]).transition.shape
    (2, 5, 3)
    """
    tables = _same_tokens(automata)
    n, vocabulary = max(len(transition) for transition, _ in tables), tables[0][0].shape[1]
    transitions = np.tile(np.arange(n, dtype=np.int32)[:, None], (len(tables), 1, vocabulary))
    accepting = np.zeros((len(tables), n), bool)
    for x, (transition, final) in enumerate(tables):
        transitions[x, : len(final)], accepting[x, : len(final)] = transition, final
    return Automaton(jnp.asarray(transitions), jnp.asarray(accepting))


def edges(automaton: Automaton) -> Edges:
    """The distinct pairs (s, s') with s' = δ(s, v) for a token v.

    Args:
      automaton: one automaton, or a stack.

    Returns:
      ``Edges``, in the order of (s, s').

    Raises:
      InputError: tables that are none.

    >>> pairs = edges(count([1], 3, least=1))
    >>> pairs.source.tolist(), pairs.target.tolist(), pairs.label.tolist()
    ([0, 0, 1], [0, 1, 1], [[0, 1, 0], [2, 2, 2]])

    Source: Zhang et al. 2024, arXiv 2406.13892, theorem 3.2: a recursion over edges costs O(T m S²).
    """
    if np.ndim(automaton.transition) == 3:
        parts = [edges(Automaton(*one)) for one in zip(*map(np.asarray, automaton), strict=True)]
        size = max(len(part.source) for part in parts)
        ends = [np.stack([np.pad(end, (0, size - len(end))) for end in column]) for column in list(zip(*parts, strict=True))[:2]]
        return Edges(ends[0], ends[1], np.stack([part.label for part in parts]))
    transition, _ = _tables.checked(*automaton)
    n = len(transition)
    pairs, label = np.unique(np.arange(n, dtype=np.int64)[:, None] * n + transition, return_inverse=True)
    return Edges(*(array.astype(np.int32) for array in (pairs // n, pairs % n, label.reshape(transition.shape))))


def shortest(automaton: Automaton) -> int | None:
    """Length of the shortest sequence that meets the constraint, min {T : C(y_1 … y_T) = 1}.

    Args:
      automaton: one automaton.

    Returns:
      The length; None if no sequence of any length meets it.

    Raises:
      InputError: tables that are none.

    >>> shortest(clauses([[[0, 1]], [[1, 2]]], 3))  # 0 1 2
    3
    """
    return next((length for length, met in enumerate(_met(automaton, len(automaton.accepting))) if met), None)


def count_accepted(automaton: Automaton, length: int) -> int:
    """Number of sequences of T tokens that meet the constraint, Σ_y C(y), exact.

    Args:
      automaton: one automaton.
      length: T.

    Returns:
      The number, of Python's unbounded integers.

    Raises:
      InputError: tables that are none, a length that is no whole number.

    >>> count_accepted(count([0], 10, least=1), 20) == 10**20 - 9**20
    True
    """
    length, (source, target, label) = check_whole("length", length, 0), edges(automaton)
    times = np.bincount(label.ravel())
    moves = [(int(s), int(t), int(k)) for s, t, k in zip(source, target, times, strict=True)]
    ways = [int(final) for final in np.asarray(automaton.accepting)]
    for _ in range(length):
        longer = [0] * len(ways)
        for s, t, k in moves:
            longer[s] += k * ways[t]
        ways = longer
    return ways[0]


def check_satisfiable(automaton: Automaton, length: int, parts: Mapping[str, Automaton] | None = None) -> None:
    """Fail unless some sequence of exactly T tokens meets the constraint, and say which part of it is to blame.

    Args:
      automaton: the whole constraint.
      length: T.
      parts: the single clauses it is the product of, by the name the message gives them.

    Raises:
      InputError: no sequence of T tokens meets it.

    >>> zebra = clauses([[[1, 2, 3]]], 4)
    >>> check_satisfiable(zebra, 2, parts={"keyword 'zebra'": zebra})
    Traceback (most recent call last):
    olm.errors.InputError: keyword 'zebra' needs 3 tokens, sequences have 2: lengthen the sequences, or drop it
    """
    length = check_whole("length", length, 0)
    if _met(automaton, length)[length]:
        return
    # A part that fails alone explains more than the whole.
    for name, part in (parts or {}).items():
        _blame(name, f"{name} needs", part, length, "drop it")
    whole = "each clause alone can be met, together they need" if parts else "the constraint needs"
    _blame("the whole constraint", whole, automaton, length, "drop a clause")


# --- shared -----------------------------------------------------------------------------------------------------------


def _dense(compact: Compact) -> Automaton:
    return Automaton(*_tables.dense(compact))


def _compact(automaton: Automaton) -> Compact:
    transition, accepting = _tables.checked(*automaton)
    return minimise(transition, accepting, np.arange(transition.shape[1]))


def _same_tokens(automata: Sequence[Automaton]) -> list[tuple[np.ndarray, np.ndarray]]:
    tables = [_tables.checked(*automaton) for automaton in automata]
    if not tables:
        raise InputError("no automata were given: give at least one")
    sizes = {transition.shape[1] for transition, _ in tables}
    if len(sizes) > 1:
        raise InputError(f"automata over {' and '.join(map(str, sorted(sizes)))} tokens: build them over the same vocabulary")
    return tables


def _folded(combine: Callable[[Compact, Compact], Compact], automata: Sequence[Automaton]) -> Automaton:
    return _dense(reduce(combine, [_compact(Automaton(*table)) for table in _same_tokens(automata)]))


def _blame(name: str, needs: str, part: Automaton, length: int, drop: str) -> None:
    need = shortest(part)
    if need is None:
        raise InputError(f"{name} can be met by no sequence of tokens, however long: {drop}, or change the tokens")
    if need > length:
        raise InputError(f"{needs} {need} tokens, sequences have {length}: lengthen the sequences, or {drop}")
    if not _met(part, length)[length]:
        raise InputError(f"{name} can be met with {need} tokens but not with {length}: change the length, or give an end token")


def _met(automaton: Automaton, length: int) -> list[bool]:
    """Whether some sequence of 0, 1, …, T tokens meets the constraint."""
    source, target, _ = edges(automaton)
    final, now = np.asarray(automaton.accepting), np.arange(len(automaton.accepting)) == 0
    met = [bool(final[0])]
    for _ in range(length):
        now = np.isin(np.arange(len(now)), target[now[source]])
        met.append(bool((now & final).any()))
    return met
