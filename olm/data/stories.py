"""Short stories from a probabilistic grammar whose entropy is known exactly.

A story is told sentence by sentence, like ``<story> mia visited bado . she found keru . the keru was lopi .`` Somebody (whose
name decides the later pronouns) visits a place (which decides the topic, hence which verbs, nouns and adjectives are likely) and
finds an object (which returns in later sentences). Predicting well takes memory over tens of tokens, not only the statistics of
neighbouring words.

The source is unifilar (Shannon 1948, section 7): see ``olm.data.unifilar``, whose ``draw``, ``entropy`` and ``losses`` have their
names here, too. A state is a node of the grammar and what is remembered (name, topic, object). A window holds several stories
and ends where it is cut.

Not done: ambiguous grammars, whose entropy would have no closed form.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from olm.data.unifilar import Grammar, Node, build, draw, entropy, losses
from olm.errors import InputError

__all__ = ["PAD", "STORY", "UNKNOWN", "Grammar", "StoryConfig", "draw", "entropy", "grammar", "losses", "spell"]

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
      >>> import jax
      >>> tokens = draw(tables, jax.random.key(1), 2, 8)  # two windows of eight labels
      >>> " ".join(tables.words[token] for token in tokens[0])
      '<story> ben visited lizu . he found kife .'
      >>> losses(tables, tokens).shape, round(entropy(tables, 16), 4)
      ((2,), 1.1106)
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

    nodes: dict[str, Node] = {
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
    spelling = {i: spell(i) for i in range(config.vocabulary)} | {int(i): word for i, word in known}
    return build(
        nodes,
        tuple(spelling[i] for i in range(config.vocabulary)),
        extents={"n": config.names, "t": config.topics, "o": config.objects},
        writes={"name": "n", "place": "t", "finding": "o"},
        forget=(STORY,),
    )


def _names(n: int) -> list[str]:
    return [_NAMES[i % 16] + (str(i // 16) if i >= 16 else "") for i in range(n)]


def spell(i: int) -> str:
    """A pronounceable word of two syllables or more, another one for each number.

    Args:
      i: a number of at least 0.

    Returns:
      A word; each syllable is a consonant and a vowel.

    Example:
      >>> spell(7), spell(4900)
      ('vofe', 'bafese')
    """
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    digits = [i % 70, i // 70 % 70]
    while i >= 70 ** len(digits):
        digits.append(i // 70 ** len(digits) % 70)
    return "".join(syllables[(digit * 29 + 11 * place) % 70] for place, digit in enumerate(digits))
