"""The arithmetic of automata in numpy: minimal tables over tokens, products, strings that contain a key, bytes to tokens.

Tokens that a constraint does not tell apart share a column, so that cost goes with the columns and not with the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from olm.errors import InputError, check_whole
from olm.types import Array

# δ [n, C], F [n] and the column [V] of each token: tokens that are not told apart share one.
Compact = tuple[np.ndarray, np.ndarray, np.ndarray]


def groups(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the first of each kind of equal rows, and the kind of each row, kinds in order of appearance."""
    kinds: dict[bytes, int] = {}
    kind = np.array([kinds.setdefault(row.tobytes(), len(kinds)) for row in np.ascontiguousarray(rows)], int)
    return np.unique(kind, return_index=True)[1], kind


def minimise(delta: np.ndarray, accepting: np.ndarray, label: np.ndarray) -> Compact:
    """Reachable states in the order of a breadth-first search, equivalent ones merged (Moore 1956)."""
    first, column = groups(groups(delta.T)[1][label][:, None])
    delta, label = delta[:, label[first]], column  # columns, too, in order of appearance; those of no token are gone
    order, fresh = [0], np.zeros(1, int)
    seen = np.arange(len(delta)) == 0
    while fresh.size:
        targets = delta[fresh].ravel()
        fresh = targets[np.sort(np.unique(targets, return_index=True)[1])]
        fresh = fresh[~seen[fresh]]
        seen[fresh] = True
        order += fresh.tolist()
    place = np.zeros(len(delta), int)
    place[order] = np.arange(len(order))
    delta, accepting = place[delta[order]], accepting[order]

    first, block = groups(accepting[:, None])
    while True:
        blocks, (first, block) = len(first), groups(np.concatenate([block[:, None], block[delta]], 1))
        if len(first) == blocks:
            break
    return block[delta[first]], accepting[first], label


def combine(a: Compact, b: Compact, decide: Callable) -> Compact:
    """The automaton of the pairs of states that sequences reach."""
    first, label = groups(np.stack([a[2], b[2]], 1))
    left, right, n = a[0][:, a[2][first]].astype(np.int64), b[0][:, b[2][first]], len(b[1])
    known = fresh = np.zeros(1, np.int64)  # a pair (s, s') is the number s·n + s'
    visited, rows = [], []
    while fresh.size:
        visited.append(fresh)
        rows.append(left[fresh // n] * n + right[fresh % n])
        fresh = np.setdiff1d(rows[-1], known)
        known = np.union1d(known, fresh)
    delta = np.searchsorted(known, np.concatenate(rows)[np.argsort(np.concatenate(visited))])
    return minimise(delta, decide(a[1][known // n], b[1][known % n]), label)


def conjunction(a: Compact, b: Compact) -> Compact:
    return combine(a, b, np.logical_and)


def containing(keys: Sequence[tuple[int, ...]], symbols: int, word: np.ndarray | None) -> Compact:
    """Strings of symbols that contain a key; if ``word`` marks symbols of words, none of them right before or after the key."""
    used = sorted({symbol for key in keys for symbol in key})
    inside = np.zeros(symbols, bool) if word is None else word
    label = inside.astype(int)  # symbols of no key: 0, or 1 for those of words
    label[used] = np.arange(2, 2 + len(used))
    members = [*(next(iter(np.flatnonzero(label == k).tolist()), None) for k in (0, 1)), *used]

    # A state is the keys under way with how far they have come, and whether a key may start; None: found.
    def step(state: tuple | None, symbol: int | None) -> tuple | None:
        if state is None:
            return None
        under_way, free = state
        outside = symbol is None or not inside[symbol]
        if outside and any(at == len(keys[k]) for k, at in under_way):
            return None
        ahead = under_way | ({(k, 0) for k in range(len(keys))} if free else frozenset())
        moved = frozenset((k, at + 1) for k, at in ahead if at < len(keys[k]) and keys[k][at] == symbol)
        if word is None and any(at == len(keys[k]) for k, at in moved):
            return None
        return moved, word is None or outside

    start: tuple | None = (frozenset(), True)
    index: dict[tuple | None, int] = {start: 0}
    queue, rows = [start], []
    for state in queue:
        row = [step(state, symbol) for symbol in members]
        for target in row:
            if target not in index:
                index[target] = len(index)
                queue.append(target)
        rows.append([index[target] for target in row])
    found = [state is None or any(at == len(keys[k]) for k, at in state[0]) for state in queue]
    return minimise(np.array(rows), np.array(found), label)


def lift(delta: np.ndarray, accepting: np.ndarray, tokens: Sequence[bytes]) -> Compact:
    """From bytes to tokens: δ(s, v) = δ*(s, bytes of v)."""
    sizes = np.array([len(token) for token in tokens])
    state = np.tile(np.arange(len(delta))[:, None], (1, len(tokens)))
    for at in range(sizes.max()):
        longer = np.flatnonzero(sizes > at)
        state[:, longer] = delta[state[:, longer], np.array([tokens[v][at] for v in longer.tolist()])]
    return minimise(state, accepting, np.arange(len(tokens)))


def ended(vocabulary: int, end: int) -> Compact:
    """Sequences in which only ``end`` follows ``end``."""
    check_tokens("end", [end], vocabulary)
    label = (np.arange(vocabulary) == end).astype(int)
    return minimise(np.array([[0, 1], [2, 1], [2, 2]]), np.array([True, True, False]), label)


def dense(compact: Compact) -> tuple[Array, Array]:
    """A column for each token again, in arrays of jax: int32 [n, V] and bool [n]."""
    delta, accepting, label = compact
    return jnp.asarray(delta.astype(np.int32)[:, label]), jnp.asarray(accepting)


def check_tokens(name: str, tokens: Iterable, vocabulary: int) -> None:
    """Fail at the first that is no id of the vocabulary."""
    for token in tokens:
        if not check_whole(f"{name}: a token", token, 0) < vocabulary:
            raise InputError(f"{name}: token {token} is outside 0 … {vocabulary - 1}: give ids of the vocabulary")


def checked(transition: Any, accepting: Any) -> tuple[np.ndarray, np.ndarray]:
    """The tables of one automaton in numpy."""
    transition, accepting = np.asarray(transition), np.asarray(accepting)
    if transition.ndim != 2 or not transition.size or accepting.shape != transition.shape[:1] or accepting.dtype != bool:
        raise InputError(
            f"transition has shape {transition.shape}, accepting {accepting.shape} of {accepting.dtype}: give one automaton, "
            "[n, V] and [n] of bool"
        )
    if not 0 <= transition.min() <= transition.max() < len(transition):
        raise InputError(f"transition leads to state {transition.max()} of {len(transition)}: give states in 0 … n−1")
    return transition, accepting
