"""Sources of known entropy: tables, draws, the exact entropy and the loss of a unifilar grammar.

A source is *unifilar* (Shannon 1948, section 7; the term is of later origin) if it has finitely many states, and a state and the
token it emits determine the next state. So whoever has read the tokens so far knows the state, and the entropy of a window is a
plain sum, H(X_1 … X_L | X_0) = Σ_l Σ_s P(state s before token l) · h(s), with h(s) the entropy of the token that s emits.

A state is a node of the grammar and what is remembered. Tables hold one row for each distribution of tokens, not for each state;
a token is drawn in constant time by Walker's alias method, in JAX, so that a search may draw fresh examples on a device.

Languages made of it: ``olm.data.stories``, ``olm.data.questions``.

Not done: ambiguous grammars, whose entropy would have no closed form; what was remembered is written over only after it was
forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from itertools import chain
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from olm.errors import InputError
from olm.types import Array

# The letters of memory that a node's distribution depends on, and a function from their values to its entries:
# (token, probability, next node[, value to remember]).
Node = tuple[str, Callable[..., list[tuple[Any, ...]]]]


class Grammar(NamedTuple):
    """A grammar as tables. Entries of one distribution (row) lie next to each other.

    Attributes:
      row: [S] which distribution a state emits from.
      start: [R] first entry of each distribution.
      size: [R] its number of entries.
      token: [E] the token of an entry.
      probability: [E] its probability, float64.
      keep: [E] whether what is remembered is kept (1) or forgotten (0).
      effect: [E] added to what is remembered to give the next state.
      accept: [E] alias method: the probability of taking the entry itself.
      alias: [E] alias method: the entry taken otherwise.
      memory: number of things that can be remembered; a state is node · memory + remembered.
      words: [V] strings.
    """

    row: np.ndarray
    start: np.ndarray
    size: np.ndarray
    token: np.ndarray
    probability: np.ndarray
    keep: np.ndarray
    effect: np.ndarray
    accept: np.ndarray
    alias: np.ndarray
    memory: int
    words: tuple[str, ...]


def build(
    nodes: Mapping[str, Node],
    words: tuple[str, ...],
    extents: Mapping[str, int] | None = None,
    writes: Mapping[str, str] | None = None,
    forget: Collection[int] = (),
) -> Grammar:
    """Builds the tables of a source from its nodes.

    Args:
      nodes: by name, the letters of what is remembered that a node's distribution depends on, and a function from their values
        to the node's entries: ``(token, probability, next node)``, and the value to remember, if the node writes. The source
        starts at the first node with nothing remembered: every value is 0.
      words: [V] the spelling of each token.
      extents: what can be remembered: by letter, the number of its values.
      writes: by node, the letter it writes; one that was not written since it was last forgotten.
      forget: tokens with which everything remembered is forgotten.

    Returns:
      A ``Grammar``. State 0 is the start; node number i has the states from i · memory on.

    Raises:
      InputError: a node with a token twice (the source would not be unifilar), with probabilities that do not sum to one, or with
        a next node that does not exist.

    Example:
      >>> coin = {"first": ("", lambda: [(0, 0.5, "then", 0), (1, 0.5, "then", 1)]), "then": ("c", lambda c: [(c, 1.0, "then")])}
      >>> tables = build(coin, ("heads", "tails"), extents={"c": 2}, writes={"first": "c"})
      >>> " ".join(tables.words[token] for token in draw(tables, jax.random.key(1), 1, 3)[0])
      'tails tails tails tails'
    """
    extents, writes = extents or {}, writes or {}
    strides, memory = {}, 1
    for letter in reversed(list(extents)):
        strides[letter] = memory
        memory *= extents[letter]
    number = {node: i for i, node in enumerate(nodes)}
    remembered = np.arange(memory)
    row = np.zeros((len(nodes), memory), np.int32)
    rows: list[list[tuple]] = []
    for node, (depends, entries) in nodes.items():
        values = [remembered // strides[letter] % extents[letter] for letter in depends]
        for value in np.unique(np.stack([*values, np.zeros(memory, int)], -1), axis=0)[:, : len(depends)]:
            alike = np.logical_and.reduce([v == x for v, x in zip(values, value, strict=True)] or [np.ones(memory, bool)])
            row[number[node], alike] = len(rows)
            stride = strides.get(writes.get(node, ""), 0)
            emitted = entries(*map(int, value))
            _check(node, emitted, number)
            rows.append([(t, p, t not in forget, number[to] * memory + stride * sum(index)) for t, p, to, *index in emitted])
    size = np.array([len(entries) for entries in rows])
    start = np.cumsum(size) - size
    token, probability, keep, effect = (np.array(column) for column in zip(*chain.from_iterable(rows), strict=True))
    accept, alias = np.ones(len(token)), np.arange(len(token))
    for first, n in zip(start, size, strict=True):
        accept[first : first + n], alias[first : first + n] = _alias(probability[first : first + n], first)
    integers = {
        "row": row.reshape(-1),
        "start": start,
        "size": size,
        "token": token,
        "keep": keep,
        "effect": effect,
        "alias": alias,
    }
    tables = {name: values.astype(np.int32) for name, values in integers.items()}
    return Grammar(**tables, probability=probability, accept=accept, memory=memory, words=words)


def _check(node: str, emitted: list[tuple], number: Mapping[str, int]) -> None:
    if len({entry[0] for entry in emitted}) < len(emitted):
        raise InputError(f"node {node!r} emits a token twice: leave one of its entries out")
    if not (emitted and min(entry[1] for entry in emitted) >= 0 and abs(sum(entry[1] for entry in emitted) - 1) <= 1e-5):
        raise InputError(f"node {node!r} has probabilities that do not sum to one: change its entries")
    missing = [entry[2] for entry in emitted if entry[2] not in number]
    if missing:
        raise InputError(f"node {node!r} leads to {missing[0]!r}, which is none of the nodes: add it")


def _alias(probability: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Walker's tables: each of n equally likely entries is taken with its ``accept``, or else its ``alias`` is."""
    accept, alias = probability * len(probability), np.arange(len(probability))
    small, large = ([int(i) for i in np.flatnonzero(side)] for side in (accept < 1, accept >= 1))
    while small and large:
        poor, rich = small.pop(), large[-1]
        alias[poor] = rich
        accept[rich] -= 1 - accept[poor]
        if accept[rich] < 1:
            small.append(large.pop())
    accept[small + large] = 1
    return accept, alias + first


def draw(tables: Grammar, key: Array, n: int, length: int) -> Array:
    """Draws windows from the start of the source; jittable with fixed ``n`` and ``length``.

    Args:
      tables: the grammar.
      key: random key.
      n: number of windows.
      length: L, labels of a window.

    Returns:
      Tokens [n, L+1], int32; the first is one that state 0 emits. A window ends where it is cut.

    Example:
      >>> nodes = {"start": ("", lambda: [(0, 1.0, "toss")]), "toss": ("", lambda: [(1, 0.5, "toss"), (2, 0.5, "toss")])}
      >>> draw(build(nodes, ("<s>", "heads", "tails")), jax.random.key(0), 2, 3).shape
      (2, 4)
    """
    row, start, size, token, keep, effect, alias = (
        jnp.asarray(x) for x in (tables.row, tables.start, tables.size, tables.token, tables.keep, tables.effect, tables.alias)
    )
    accept = jnp.asarray(tables.accept, jnp.float32)

    def emit(state: Array, key: Array) -> tuple[Array, Array]:
        which, take = jax.random.uniform(key, (2, n), jnp.float32)
        row_n = row[state]
        entry = start[row_n] + jnp.minimum((which * size[row_n].astype(jnp.float32)).astype(jnp.int32), size[row_n] - 1)
        entry = jnp.where(take < accept[entry], entry, alias[entry])
        return keep[entry] * (state % tables.memory) + effect[entry], token[entry]

    _, tokens = jax.lax.scan(emit, jnp.zeros(n, jnp.int32), jax.random.split(key, length + 1))
    return tokens.T


def expected(tables: Grammar, values: np.ndarray, length: int) -> float:
    """The sum over the labels of a window of what a row is worth, in expectation: Σ_l Σ_s P(state s before label l) · value(s).

    Args:
      tables: the grammar.
      values: [R], what a label emitted from each distribution counts.
      length: L, labels of a window; its token 0 counts nothing.

    Returns:
      The sum, exact up to rounding.

    Raises:
      InputError: a length below 1.

    Example:
      >>> nodes = {"start": ("", lambda: [(0, 0.5, "start"), (1, 0.5, "end")]), "end": ("", lambda: [(2, 1.0, "end")])}
      >>> expected(build(nodes, ("go", "on", "stop")), np.array([1.0, 0.0]), 3)  # labels before "stop": 1/2 + 1/4 + 1/8
      0.875
    """
    if length < 1:
        raise InputError(f"length must be at least 1, not {length}")
    # Entries of a row that lead to the same place are one edge; few rows write to memory, so edges are few.
    edge = np.stack([np.repeat(np.arange(len(tables.size)), tables.size), tables.keep, tables.effect])
    (row_E, keep_E, effect_E), merged = np.unique(edge, axis=1, return_inverse=True)
    p_E = np.bincount(merged.reshape(-1), tables.probability)
    first_R, count_R = np.searchsorted(row_E, np.arange(len(tables.size))), np.bincount(row_E)
    count_S = count_R[tables.row]
    source = np.repeat(np.arange(len(tables.row)), count_S)
    edge_of = np.arange(len(source)) - np.repeat(np.cumsum(count_S) - count_S, count_S) + first_R[tables.row][source]
    target = keep_E[edge_of] * (source % tables.memory) + effect_E[edge_of]
    occupied, total = np.bincount([0], minlength=len(tables.row)).astype(float), 0.0
    for _ in range(length):
        occupied = np.bincount(target, occupied[source] * p_E[edge_of], minlength=len(tables.row))
        total += float(occupied @ values[tables.row])
    return total


def entropy(tables: Grammar, length: int) -> float:
    """The loss no model can beat: mean over the labels of a window of H(X_l | X_0 … X_{l−1}), l = 1 … L.

    Args:
      tables: the grammar.
      length: L, labels of a window from the start of the source.

    Returns:
      Nats per token, exact up to rounding.

    Raises:
      InputError: a length below 1.

    Example:
      >>> nodes = {"start": ("", lambda: [(0, 1.0, "toss")]), "toss": ("", lambda: [(1, 0.5, "toss"), (2, 0.5, "toss")])}
      >>> round(entropy(build(nodes, ("<s>", "heads", "tails")), 8), 4)  # ln 2
      0.6931

    Source: Shannon 1948, section 7.
    """
    p = tables.probability
    with np.errstate(divide="ignore", invalid="ignore"):
        nats_R = np.add.reduceat(np.where(p > 0, -p * np.log(p), 0.0), tables.start)
    return expected(tables, nats_R, length) / length


def follow(tables: Grammar, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reads windows from the start of the source: which entry gave each token, and the state it led to.

    Args:
      tables: the grammar.
      tokens: [n, L+1] of integers.

    Returns:
      Entries [n, L+1] and states [n, L+1]; both are −1 from the first token on that the grammar cannot emit there.

    Example:
      >>> nodes = {"start": ("", lambda: [(0, 0.5, "start"), (1, 0.5, "end")]), "end": ("", lambda: [(2, 1.0, "end")])}
      >>> entries, states = follow(build(nodes, ("go", "on", "stop")), np.array([[0, 1, 2], [0, 2, 2]]))
      >>> states.tolist()
      [[0, 1, 1], [0, -1, -1]]
    """
    tokens, known = np.asarray(tokens), len(tables.words)
    table = np.full((len(tables.size), known + 1), -1)  # the last column is that of tokens which are no words
    possible = np.flatnonzero(tables.probability > 0)
    table[np.repeat(np.arange(len(tables.size)), tables.size)[possible], tables.token[possible]] = possible
    tokens = np.where((tokens >= 0) & (tokens < known), tokens, known)
    entries, states = np.empty(tokens.shape, int), np.empty(tokens.shape, int)
    state = np.zeros(len(tokens), int)
    for position in range(tokens.shape[1]):
        entry = np.where(state < 0, -1, table[tables.row[state], tokens[:, position]])
        state = np.where(entry < 0, -1, tables.keep[entry] * (state % tables.memory) + tables.effect[entry])
        entries[:, position], states[:, position] = entry, state
    return entries, states


def losses(tables: Grammar, tokens: np.ndarray) -> np.ndarray:
    """The loss of the grammar itself as a model: −(1/L) Σ_l log p(x_l | x_0 … x_{l−1}) of each window.

    Args:
      tables: the grammar.
      tokens: [n, L+1] of integers from the start of the source.

    Returns:
      [n], nats per token, float64; infinite for windows the grammar cannot produce. Their mean over draws tends to ``entropy``,
      if the first token is certain.

    Example:
      >>> nodes = {"start": ("", lambda: [(0, 1.0, "toss")]), "toss": ("", lambda: [(1, 0.25, "toss"), (2, 0.75, "toss")])}
      >>> losses(build(nodes, ("<s>", "heads", "tails")), np.array([[0, 1, 1], [0, 0, 1]])).round(4).tolist()  # ln 4
      [1.3863, inf]
    """
    entries, _ = follow(tables, tokens)
    total = np.zeros(len(entries))
    for entry in entries.T:
        with np.errstate(divide="ignore"):
            total -= np.log(np.where(entry < 0, 0.0, tables.probability[entry]))
    return total / (entries.shape[1] - 1)
