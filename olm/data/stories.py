"""Short stories from a probabilistic grammar whose entropy is known exactly.

A story is told sentence by sentence, like ``<story> mia visited bado . she found keru . the keru was lopi .`` Somebody (whose
name decides the later pronouns) visits a place (which decides the topic, hence which verbs, nouns and adjectives are likely) and
finds an object (which returns in later sentences). Predicting well takes memory over tens of tokens, not only the statistics of
neighbouring words.

The source is *unifilar* (Shannon 1948, section 7; the term is of later origin): it has finitely many states, and a state and the
token it emits determine the next state. So whoever has read the tokens so far knows the state, and the entropy of a window that
begins with a story is a plain sum, H(X_1 … X_L | X_0) = Σ_l Σ_s P(state s before token l) · h(s), with h(s) the entropy of the
token that s emits.

A state is a node of the grammar and what is remembered (name, topic, object). Tables hold one row for each distribution of
tokens, not for each state; a token is drawn in constant time by Walker's alias method, in JAX, so that a search may draw fresh
stories on a device.

Not done: ambiguous grammars, whose entropy would have no closed form.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from olm.errors import InputError
from olm.types import Array

UNKNOWN, PAD, STORY = 0, 1, 2
_SPECIAL = ("<unk>", "<pad>", "<story>")
_FUNCTION = (".", "she", "he", "visited", "found", "was", "the", "and")
_NAMES = ("mia", "tom", "ana", "ben", "eva", "leo", "ida", "max", "zoe", "sam", "ada", "kai", "amy", "jon", "liv", "rob")


@dataclass(frozen=True)
class StoryConfig:
    """What a story grammar is made of.

    Attributes:
      vocabulary: V, number of token ids, among them <unk>, <pad> and <story>.
      topics: number of topics.
      mixture: probability of each topic; None: all alike. Another mixture is a weak shift of the distribution.
      names: number of names; every second one takes "he".
      places: places of each topic.
      objects: objects of each topic.
      exponent: word number r of a topic's list has probability in proportion to r^(−exponent).
      end: probability that a story ends after a sentence.
      seed: which ids are which words, and how each topic ranks them. Another seed is a strong shift: another language.

    Raises:
      InputError: sizes or probabilities that make no grammar, a vocabulary too small for them.
    """

    vocabulary: int = 256
    topics: int = 4
    mixture: tuple[float, ...] | None = None
    names: int = 8
    places: int = 4
    objects: int = 8
    exponent: float = 1.0
    end: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("topics", "names", "places", "objects"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.vocabulary < self.smallest:
            raise InputError(f"vocabulary {self.vocabulary} is too small for this grammar: at least {self.smallest}")
        if not 0 <= self.exponent < float("inf"):
            raise InputError(f"exponent must be a number of at least 0, not {self.exponent}")
        if self.seed < 0:
            raise InputError(f"seed must be at least 0, not {self.seed}")
        if not 0 < self.end <= 1:
            raise InputError(f"end must lie in (0, 1], not {self.end}")
        mixture = self.mixture or (1 / self.topics,) * self.topics
        if len(mixture) != self.topics or not (min(mixture) >= 0 and abs(sum(mixture) - 1) <= 1e-6):
            raise InputError(f"mixture must be {self.topics} probabilities that sum to one, not {self.mixture}")

    @property
    def smallest(self) -> int:
        """The least vocabulary these settings need: four nouns, verbs and adjectives each."""
        return len(_SPECIAL) + len(_FUNCTION) + self.names + self.topics * (self.places + self.objects) + 12


class Grammar(NamedTuple):
    """A story grammar as tables. Entries of one distribution (row) lie next to each other.

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


def grammar(config: StoryConfig) -> Grammar:
    """Builds the tables of a story grammar; the same settings give the same grammar.

    Args:
      config: settings.

    Returns:
      A ``Grammar``. Its state 0 is the beginning of a story.

    Example:
      >>> tables = grammar(StoryConfig())
      >>> len(tables.words), tables.words[:3]
      (256, ('<unk>', '<pad>', '<story>'))
    """
    rng = np.random.default_rng(config.seed)
    ids = rng.permutation(np.arange(len(_SPECIAL), config.vocabulary))
    rest = config.vocabulary - config.smallest + 12
    nouns, verbs = int(0.4 * rest), int(0.35 * rest)
    sizes = (len(_FUNCTION), config.names, config.topics * config.places, config.topics * config.objects, nouns, verbs)
    function, name, place, thing, noun, verb, adjective = np.split(ids, np.cumsum(sizes))
    place, thing = place.reshape(config.topics, -1), thing.reshape(config.topics, -1)
    stop, she, he, visited, found, was, the, and_ = function
    topics = range(config.topics)
    mixture = config.mixture or (1 / config.topics,) * config.topics

    def zipf(n: int) -> np.ndarray:
        weights = np.arange(1, n + 1, dtype=np.float64) ** -config.exponent
        return weights / weights.sum()

    # Each topic ranks all nouns, verbs and adjectives in an order of its own.
    kinds = {"noun": noun, "verb": verb, "adjective": adjective}
    rank = {kind: [rng.permutation(word_ids) for _ in topics] for kind, word_ids in kinds.items()}

    def words(kind: str, topic: int, share: float, node: str) -> Iterable[tuple]:
        return ((w, share * p, node) for w, p in zip(rank[kind][topic], zipf(len(rank[kind][topic])), strict=True))

    # A node: the part of memory its distribution depends on (n, t, o), and from that its entries (token, probability, next node[,
    # index to remember]). Within a node tokens differ, which is what makes the source unifilar.
    def subject(i: int) -> list[tuple]:
        go_on, pronoun = 1 - config.end, he if i % 2 else she
        by_name, by_pronoun, of_thing = 0.3 * go_on, 0.45 * go_on, 0.25 * go_on
        return [(name[i], by_name, "act"), (pronoun, by_pronoun, "act"), (the, of_thing, "thing"), (STORY, config.end, "name")]

    def place_of_topic() -> list[tuple]:
        return [(place[t, i], mixture[t] * p, "arrived", t) for t in topics for i, p in enumerate(zipf(config.places))]

    def goal(t: int, o: int, described: bool) -> list[tuple]:
        adjectives = [] if described else list(words("adjective", t, 0.25, "goal"))
        left = 1.0 if described else 0.75
        return [(thing[t, o], 0.4 * left, "more"), *words("noun", t, 0.6 * left, "more"), *adjectives]

    nodes = {
        "story": ("", lambda: [(STORY, 1.0, "name")]),
        "name": ("", lambda: [(name[i], p, "visited", i) for i, p in enumerate(zipf(config.names))]),
        "visited": ("", lambda: [(visited, 1.0, "place")]),
        "place": ("", place_of_topic),
        "arrived": ("", lambda: [(stop, 1.0, "finder")]),
        "finder": ("n", lambda i: [(he if i % 2 else she, 1.0, "found")]),
        "found": ("", lambda: [(found, 1.0, "finding")]),
        "finding": ("t", lambda t: [(thing[t, o], p, "stop", o) for o, p in enumerate(zipf(config.objects))]),
        "stop": ("", lambda: [(stop, 1.0, "sentence")]),
        "sentence": ("n", subject),
        "act": ("t", lambda t: [(was, 0.25, "quality"), *words("verb", t, 0.75, "the")]),
        "the": ("", lambda: [(the, 1.0, "what")]),
        "what": ("to", lambda t, o: goal(t, o, False)),
        "goal": ("to", lambda t, o: goal(t, o, True)),
        "more": ("", lambda: [(stop, 0.75, "sentence"), (and_, 0.25, "and")]),
        "and": ("t", lambda t: list(words("verb", t, 1.0, "the"))),
        "thing": ("to", lambda t, o: [(thing[t, o], 1.0, "was")]),
        "was": ("", lambda: [(was, 1.0, "quality")]),
        "quality": ("t", lambda t: list(words("adjective", t, 1.0, "stop"))),
    }
    known = zip((*range(3), *function, *name), (*_SPECIAL, *_FUNCTION, *_names(config.names)), strict=True)
    spelling = {i: _spell(i) for i in range(config.vocabulary)} | {int(i): word for i, word in known}
    return _tables(config, nodes, tuple(spelling[i] for i in range(config.vocabulary)))


def _tables(config: StoryConfig, nodes: dict, words: tuple[str, ...]) -> Grammar:
    extents = {"n": config.names, "t": config.topics, "o": config.objects}
    strides = {"n": config.topics * config.objects, "t": config.objects, "o": 1}
    memory, number = config.names * strides["n"], {node: i for i, node in enumerate(nodes)}
    writes = {"name": "n", "place": "t", "finding": "o"}
    remembered = np.arange(memory)
    row = np.zeros((len(nodes), memory), np.int32)
    rows: list[list[tuple]] = []
    for node, (depends, entries) in nodes.items():
        values = [remembered // strides[part] % extents[part] for part in depends]
        for value in np.unique(np.stack([*values, np.zeros(memory, int)], -1), axis=0)[:, : len(depends)]:
            alike = np.logical_and.reduce([v == x for v, x in zip(values, value, strict=True)] or [np.ones(memory, bool)])
            row[number[node], alike] = len(rows)
            stride = strides.get(writes.get(node, ""), 0)
            emitted = entries(*map(int, value))
            rows.append([(t, p, t != STORY, number[to] * memory + stride * sum(index)) for t, p, to, *index in emitted])
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


def _names(n: int) -> list[str]:
    return [_NAMES[i % 16] + (str(i // 16) if i >= 16 else "") for i in range(n)]


def _spell(i: int) -> str:
    """A pronounceable word of two syllables or more, another one for each id."""
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    digits = [i % 70, i // 70 % 70]
    while i >= 70 ** len(digits):
        digits.append(i // 70 ** len(digits) % 70)
    return "".join(syllables[(digit * 29 + 11 * place) % 70] for place, digit in enumerate(digits))


def draw(tables: Grammar, key: Array, n: int, length: int) -> Array:
    """Draws windows of stories, each from the beginning of a story; jittable with fixed ``n`` and ``length``.

    Args:
      tables: the grammar.
      key: random key.
      n: number of windows.
      length: L, labels of a window.

    Returns:
      Tokens [n, L+1], int32; the first is always <story>. A window may hold several stories and ends where it is cut.

    Example:
      >>> import jax
      >>> tables = grammar(StoryConfig())
      >>> tokens = draw(tables, jax.random.key(1), 2, 8)
      >>> " ".join(tables.words[token] for token in tokens[0])
      '<story> ben visited lizu . he found kife .'
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


def entropy(tables: Grammar, length: int) -> float:
    """The loss no model can beat: mean over the labels of a window of H(X_l | X_0 … X_{l−1}), l = 1 … L.

    Args:
      tables: the grammar.
      length: L, labels of a window that begins with a story.

    Returns:
      Nats per token, exact up to rounding.

    Raises:
      InputError: a length below 1.

    Example:
      >>> round(entropy(grammar(StoryConfig()), 16), 4)
      1.1106

    Source: Shannon 1948, section 7.
    """
    if length < 1:
        raise InputError(f"length must be at least 1, not {length}")
    p = tables.probability
    with np.errstate(divide="ignore", invalid="ignore"):
        nats_R = np.add.reduceat(np.where(p > 0, -p * np.log(p), 0.0), tables.start)
    # Entries of a row that lead to the same place are one edge; few rows write to memory, so edges are few.
    edge = np.stack([np.repeat(np.arange(len(tables.size)), tables.size), tables.keep, tables.effect])
    (row_E, keep_E, effect_E), merged = np.unique(edge, axis=1, return_inverse=True)
    p_E = np.bincount(merged.reshape(-1), p)
    first_R, count_R = np.searchsorted(row_E, np.arange(len(tables.size))), np.bincount(row_E)
    count_S = count_R[tables.row]
    source = np.repeat(np.arange(len(tables.row)), count_S)
    edge_of = np.arange(len(source)) - np.repeat(np.cumsum(count_S) - count_S, count_S) + first_R[tables.row][source]
    target = keep_E[edge_of] * (source % tables.memory) + effect_E[edge_of]
    occupied, total = np.bincount([0], minlength=len(tables.row)).astype(float), 0.0
    for _ in range(length):
        occupied = np.bincount(target, occupied[source] * p_E[edge_of], minlength=len(tables.row))
        total += float(occupied @ nats_R[tables.row])
    return total / length


def losses(tables: Grammar, tokens: np.ndarray) -> np.ndarray:
    """The loss of the grammar itself as a model: −(1/L) Σ_l log p(x_l | x_0 … x_{l−1}) of each window.

    Args:
      tables: the grammar.
      tokens: [n, L+1] of integers, beginning with <story>.

    Returns:
      [n], nats per token, float64; infinite for windows the grammar cannot produce. Their mean over draws tends to ``entropy``.

    Example:
      >>> import jax
      >>> tables = grammar(StoryConfig())
      >>> losses(tables, draw(tables, jax.random.key(0), 3, 16)).shape
      (3,)
    """
    tokens = np.asarray(tokens)
    table = np.full((len(tables.size), len(tables.words)), -1)
    table[np.repeat(np.arange(len(tables.size)), tables.size), tables.token] = np.arange(len(tables.token))
    state, total = np.zeros(len(tokens), int), np.zeros(len(tokens))
    for position in range(tokens.shape[1]):
        entry = table[tables.row[state], tokens[:, position]]
        with np.errstate(divide="ignore"):
            total -= np.log(np.where(entry < 0, 0.0, tables.probability[entry]))
        state = np.where(entry < 0, 0, tables.keep[entry] * (state % tables.memory) + tables.effect[entry])
    return total / (tokens.shape[1] - 1)
