"""Question formation: a declarative sentence, and after it the same again or as a question, in a language of known entropy.

The task is that of McCoy, Frank & Linzen 2020 (arXiv 2001.03632), the grammar and its words are our own. A line is one of

    <s> the walrus that does sing doesn't laugh . quest doesn't the walrus that does sing laugh ? </s>
    <s> the walrus that does sing doesn't laugh . decl the walrus that does sing doesn't laugh . </s>

The main auxiliary moves to the front, which is not the first one where the subject has a relative clause. A declarative is a
subject, an auxiliary that agrees with it in number, and a verb with or without an object. Subjects and objects are a determiner
and a noun, and may have one modifier: a preposition with a noun phrase, or a relative clause whose own auxiliary agrees with its
own subject, which is the noun before it ("who does see the owls") or in it ("who the owls do see").

Declaratives are made by a unifilar source (``olm.data.unifilar``), so their entropy is an exact sum. Which of the two tasks
follows is one fair coin, and behind it nothing is random: a line has the entropy of its declarative and ln 2.

Not done: two modifiers of one noun, which would make the language ambiguous; leaving questions with a relative clause out of what
is learned from, by which the paper tests what a model generalises to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from olm.data import unifilar
from olm.data.stories import spell
from olm.errors import InputError, check_kinds, check_number, check_whole
from olm.types import Array

UNKNOWN, PAD, START, END, QUEST, DECLARE, STOP, ASK = range(8)
_SPECIAL = ("<unk>", "<pad>", "<s>", "</s>")
_MARKS = ("quest", "decl", ".", "?")
_DETERMINERS = ("the", "my", "our", "their")
_AUXILIARIES = {"singular": ("does", "doesn't"), "plural": ("do", "don't")}
_RELATIVES = ("who", "that")
_PREPOSITIONS = ("near", "behind", "above", "beside")
_FUNCTION = (*_MARKS, *_DETERMINERS, *_AUXILIARIES["singular"], *_AUXILIARIES["plural"], *_RELATIVES, *_PREPOSITIONS)
_NOUNS = "walrus otter owl badger lion heron rabbit gecko falcon crab spider poet dragon pilot baker knight"
_INTRANSITIVE = "sing laugh sleep swim dance wait smile yawn giggle blush shout vanish hum arrive shiver dream"
_TRANSITIVE = "see admire follow greet chase trust amuse help draw scold carry hear forgive tickle annoy mention"
_DEEPEST = 3  # each level makes the tables about six times as large

Entries = list[tuple[Any, ...]]


@dataclass(frozen=True)
class QuestionConfig:
    """What a language of declaratives and questions is made of.

    Attributes:
      vocabulary: number of words without the four special tokens. The 18 marks, determiners, auxiliaries, relative pronouns and
        prepositions stay; of the others a quarter each are nouns, their plurals, and verbs without and with an object, as far as
        that divides. Words are invented where the English ones end.
      copied: lines have a second half. Without it a line is ``<s> declarative . </s>``, and quest, decl and ? are never used:
        they keep their ids, so a model sees three words less than ``vocabulary``.
      transitive: probability that a verb phrase has an object.
      modified: probability that a noun phrase has a modifier, where ``depth`` lets it have one.
      relative: probability that a modifier is a relative clause, not a preposition with its noun phrase.
      object_relative: probability that in a relative clause the noun before it is the object, not the subject.
      depth: how deep modifiers lie in each other; at 1 noun phrases within a modifier have none.
      exponent: word number r of the nouns or of a kind of verbs has probability in proportion to r^(−exponent); 0: all alike.

    Raises:
      InputError: a vocabulary too small, a depth or probabilities out of range.
    """

    vocabulary: int = 68
    copied: bool = True
    transitive: float = 0.6
    modified: float = 0.6
    relative: float = 0.6
    object_relative: float = 0.5
    depth: int = 1
    exponent: float = 0.0

    def __post_init__(self) -> None:
        check_whole("vocabulary", self.vocabulary, self.smallest)
        check_kinds(copied=(self.copied, bool))
        for name in ("transitive", "modified", "relative", "object_relative"):
            check_number(name, getattr(self, name), "give a probability, from 0 to 1", 0, 1)
        if check_whole("depth", self.depth, 0) > _DEEPEST:
            raise InputError(f"depth is {self.depth}: give at most {_DEEPEST}")
        check_number("exponent", self.exponent, "give a number of at least 0", 0, float("inf"))

    @property
    def smallest(self) -> int:
        """The least vocabulary: one noun in both numbers, and one verb of each kind."""
        return len(_FUNCTION) + 4


class Questions(NamedTuple):
    """A language of declaratives and questions.

    Attributes:
      tables: the source of the first half, ``<s> declarative .``, which emits <pad> behind it for ever; a node is a state.
      main: the node that the main auxiliary leads to, and no other token.
      end: the node behind the declarative.
      half: the most labels a first half can have, its full stop among them.
      length: L, the most labels a line can have.
      copied: whether lines have a second half.
      words: [V] strings, the special tokens first.
    """

    tables: unifilar.Grammar
    main: int
    end: int
    half: int
    length: int
    copied: bool
    words: tuple[str, ...]


class Entropy(NamedTuple):
    """What no model can beat, in nats.

    Attributes:
      line: nats of a whole line.
      labels: expected number of labels of a line: all tokens but <s> and <pad>.
      rate: nats a label, line / labels: the least of a model's summed loss over its summed labels.
      random: expected number of labels up to the full stop, or the word of the task where there is one: behind it all is certain.
      declarative: nats a label of the first half, its full stop among them.
    """

    line: float
    labels: float
    rate: float
    random: float
    declarative: float


def grammar(config: QuestionConfig = QuestionConfig()) -> Questions:
    """Builds a language; the same settings give the same one.

    Args:
      config: settings.

    Returns:
      ``Questions``.

    Example:
      >>> questions = grammar()
      >>> len(questions.words), questions.words[:8], questions.length
      (72, ('<unk>', '<pad>', '<s>', '</s>', 'quest', 'decl', '.', '?'), 36)
    """
    pairs = (config.vocabulary - len(_FUNCTION)) // 4
    verbs = config.vocabulary - len(_FUNCTION) - 2 * pairs
    invented = map(spell, count())
    nouns = _take(_NOUNS, pairs, invented)
    plurals = [noun + ("es" if noun.endswith("s") else "s") for noun in nouns]
    intransitive, transitive = _take(_INTRANSITIVE, verbs // 2, invented), _take(_TRANSITIVE, verbs - verbs // 2, invented)
    words = (*_SPECIAL, *_FUNCTION, *nouns, *plurals, *intransitive, *transitive)
    nodes = _nodes(config, {word: i for i, word in enumerate(words)}, nouns, plurals, intransitive, transitive)
    tables = unifilar.build(nodes, words)
    main, end = (list(nodes).index(name) for name in ("predicate", "end"))
    half = _longest(tables, end)
    # A second half repeats the first; the words of the task and of the end come besides.
    return Questions(tables, main, end, half, 2 * half + 2 if config.copied else half + 1, config.copied, words)


def _take(known: str, n: int, invented: Iterable[str]) -> list[str]:
    english = known.split()[:n]
    return [*english, *islice(invented, n - len(english))]


def _nodes(
    config: QuestionConfig,
    ids: dict[str, int],
    nouns: list[str],
    plurals: list[str],
    intransitive: list[str],
    transitive: list[str],
) -> dict[str, unifilar.Node]:
    """The declarative's nodes, by recursion: whoever makes a phrase says with which entries the sentence goes on behind it.

    What is still to come, which number to agree with, how deep one is: the node says it, so nothing need be remembered.
    """
    nodes: dict[str, unifilar.Node] = {}

    def node(name: str, entries: Entries) -> None:
        nodes[name] = ("", lambda: entries)

    def any_of(words: Sequence[str], share: float, to: str, exponent: float = 0.0) -> Entries:
        weights = np.arange(1, len(words) + 1, dtype=np.float64) ** -exponent
        return [(ids[word], share * p, to) for word, p in zip(words, weights / weights.sum(), strict=True)]

    def scaled(entries: Entries, share: float) -> Entries:
        return [(word, share * p, to) for word, p, to in entries]

    def noun_phrase(name: str, depth: int, behind: Callable[[str], Entries]) -> Entries:
        """Adds a noun phrase and returns the entries it begins with; ``behind`` says how to go on, given the noun's number."""
        singular = any_of(nouns, 0.5, f"{name} singular", config.exponent)
        node(f"{name} noun", [*singular, *any_of(plurals, 0.5, f"{name} plural", config.exponent)])
        for number in _AUXILIARIES:
            after_noun(f"{name} {number}", depth, number, behind(number))
        return any_of(_DETERMINERS, 1.0, f"{name} noun")

    def after_noun(head: str, depth: int, number: str, behind: Entries) -> None:
        """Adds what stands behind a noun: a modifier and ``behind``, or ``behind`` at once."""
        if depth == 0:
            node(head, behind)
            return
        near = any_of(_PREPOSITIONS, config.modified * (1 - config.relative), f"{head} near")
        who = any_of(_RELATIVES, config.modified * config.relative, f"{head} who")
        node(head, [*near, *who, *scaled(behind, 1 - config.modified)])
        node(f"{head} near", noun_phrase(f"{head} near whom", depth - 1, lambda _: behind))
        does = any_of(_AUXILIARIES[number], 1 - config.object_relative, f"{head} who does")
        verb_phrase(f"{head} who does", depth - 1, behind)
        they = noun_phrase(f"{head} whom", depth - 1, lambda own: any_of(_AUXILIARIES[own], 1.0, f"{head} whom they do"))
        node(f"{head} who", [*does, *scaled(they, config.object_relative)])
        node(f"{head} whom they do", any_of(transitive, 1.0, f"{head} whom they do see", config.exponent))
        node(f"{head} whom they do see", behind)

    def verb_phrase(name: str, depth: int, behind: Entries) -> None:
        """Adds a node that emits a verb, an object where it is transitive, and ``behind``."""
        alone = any_of(intransitive, 1 - config.transitive, f"{name} sing", config.exponent)
        node(name, [*alone, *any_of(transitive, config.transitive, f"{name} see", config.exponent)])
        node(f"{name} sing", behind)
        node(f"{name} see", noun_phrase(f"{name} see whom", depth, lambda _: behind))

    node("start", [(START, 1.0, "subject")])
    node("subject", noun_phrase("who", config.depth, lambda number: any_of(_AUXILIARIES[number], 1.0, "predicate")))
    verb_phrase("predicate", config.depth, [(STOP, 1.0, "end")])
    node("end", [(PAD, 1.0, "end")])
    return nodes


def _longest(tables: unifilar.Grammar, end: int) -> int:
    """The most labels before only the end is left; entries that never come count nothing."""
    row = np.repeat(np.arange(len(tables.size)), tables.size)
    states, steps = np.array([0]), 0
    while (states != end).any():
        states = np.unique(tables.effect[np.isin(row, tables.row[states]) & (tables.probability > 0)])
        steps += 1
    return steps - 1


def draw(questions: Questions, key: Array, n: int) -> dict[str, np.ndarray]:
    """Draws lines.

    Args:
      questions: the language.
      key: random key.
      n: number of lines.

    Returns:
      ``tokens`` [n, L+1] int32, each line from <s> to </s> and padded behind, and ``mask`` [n, L] bool, the labels that are no
      padding.

    Raises:
      InputError: a number below 1.

    Example:
      >>> questions = grammar()
      >>> drawn = draw(questions, jax.random.key(3), 3)
      >>> " ".join(questions.words[token] for token in drawn["tokens"][0][: drawn["mask"][0].sum() + 1])
      '<s> my crab that the spiders do trust does sing . quest does my crab that the spiders do trust sing ? </s>'
    """
    check_whole("n", n, 1)
    of_words, of_task = jax.random.split(key)
    first = np.asarray(unifilar.draw(questions.tables, of_words, n, questions.half))
    # In float32 whatever the caller's precision is, so that a key means the same lines.
    asked = np.asarray(jax.random.uniform(of_task, (n,), jnp.float32)) < 0.5
    return _lines(questions, first, asked, auxiliaries(questions, first))


def lines(questions: Questions, tokens: np.ndarray, asked: np.ndarray) -> dict[str, np.ndarray]:
    """Makes lines of their first halves: once the task is known, all that follows is certain.

    Args:
      questions: the language.
      tokens: [n, columns], first halves ``<s> declarative .`` or whole lines; behind the first full stop nothing is looked at.
      asked: [n] bool, whose second half is to be a question; of no account where lines have no second half.

    Returns:
      ``tokens`` and ``mask``, like ``draw``.

    Raises:
      InputError: a row that begins with no declarative of this language, or another number of tasks than rows.

    Example:
      >>> questions = grammar()
      >>> told = [questions.words.index(word) for word in "<s> the otter who does sing doesn't laugh .".split()]
      >>> made = lines(questions, np.array([told]), np.array([True]))
      >>> " ".join(questions.words[token] for token in made["tokens"][0][9:19])
      "quest doesn't the otter who does sing laugh ? </s>"
    """
    first, asked = _first_halves(questions, tokens), np.asarray(asked, bool)
    if asked.shape != (len(first),):
        raise InputError(f"asked has shape {asked.shape}: give [{len(first)}], one for each row")
    main = auxiliaries(questions, first)
    if (main < 0).any():
        raise InputError(f"row {int(np.argmin(main))} begins with no declarative of this language: leave it out")
    return _lines(questions, first, asked, main)


def _lines(questions: Questions, first: np.ndarray, asked: np.ndarray, main: np.ndarray) -> dict[str, np.ndarray]:
    n, position = np.arange(len(first)), np.arange(questions.length + 1)
    tokens = np.pad(first, ((0, 0), (0, questions.length - questions.half)), constant_values=PAD)
    end = (first != PAD).sum(1)
    if questions.copied:
        words = end - 2  # without <s> and the full stop
        tokens[n, end] = np.where(asked, QUEST, DECLARE)
        at, aux = position - end[:, None] - 1, main[:, None]  # at is 0 at the first word of the second half
        # A question takes the auxiliary first, then the words before it, then those behind; the first half has words from 1 on.
        source = np.where(asked[:, None], np.where(at == 0, aux, at + (at >= aux)), at + 1)
        again = np.take_along_axis(first, np.clip(source, 0, questions.half), 1)
        tokens = np.where((at >= 0) & (at < words[:, None]), again, tokens)
        end = end + words + 2
        tokens[n, end - 1] = np.where(asked, ASK, STOP)
    tokens[n, end] = END
    return {"tokens": tokens.astype(np.int32), "mask": position[1:] <= end[:, None]}


def auxiliaries(questions: Questions, tokens: np.ndarray) -> np.ndarray:
    """Where the main auxiliary stands, which a question begins with.

    Args:
      questions: the language.
      tokens: [n, columns], lines or their first halves; behind the first full stop nothing is looked at.

    Returns:
      [n], the column of each row's main auxiliary; −1 where a row begins with no declarative of this language.

    Raises:
      InputError: tokens that are no rows.

    Example:
      >>> questions = grammar()
      >>> told = "<s> the otter who does sing doesn't laugh ."
      >>> auxiliaries(questions, np.array([[questions.words.index(word) for word in told.split()]]))
      array([6])
    """
    _, states = unifilar.follow(questions.tables, _first_halves(questions, tokens))
    return np.where(states[:, -1] == questions.end, np.argmax(states == questions.main, axis=1), -1)


def _first_halves(questions: Questions, tokens: np.ndarray) -> np.ndarray:
    """[n, half+1], each row to its first full stop; <unk>, which the grammar never says, where that comes too late or never."""
    if np.ndim(tokens) != 2:
        raise InputError(f"tokens have shape {np.shape(tokens)}: give [n, columns], a line a row")
    tokens = np.asarray(tokens)[:, : questions.half + 1]
    is_stop = tokens == STOP
    first = np.where(np.cumsum(is_stop, 1) - is_stop == 0, tokens, PAD)
    first = np.where(is_stop.any(1)[:, None], first, UNKNOWN)
    return np.pad(first, ((0, 0), (0, questions.half + 1 - first.shape[1])), constant_values=PAD)


def entropy(questions: Questions) -> Entropy:
    """The exact entropy of a line, and what it is a label.

    Args:
      questions: the language.

    Returns:
      ``Entropy``.

    Example:
      >>> exact = entropy(grammar())
      >>> round(exact.line, 3), round(exact.labels, 3), round(exact.rate, 4)
      (20.907, 22.003, 0.9502)

    Source: Shannon 1948, section 7.
    """
    tables, half = questions.tables, questions.half
    declarative = unifilar.entropy(tables, half) * half
    said = unifilar.expected(tables, np.arange(len(tables.size)) != tables.row[questions.end], half)
    line = declarative + (math.log(2) if questions.copied else 0.0)
    labels = 2 * said + 2 if questions.copied else said + 1
    return Entropy(line, labels, line / labels, said + questions.copied, declarative / said)


def losses(questions: Questions, tokens: np.ndarray) -> np.ndarray:
    """The loss of the language itself as a model: −log p of each whole line.

    Args:
      questions: the language.
      tokens: [n, L+1] of integers, like those of ``draw``.

    Returns:
      [n], nats a line, float64; infinite for lines it cannot make, those with a wrong second half among them. Their mean over
      draws tends to ``entropy(questions).line``.

    Raises:
      InputError: another number of columns.

    Example:
      >>> questions = grammar()
      >>> losses(questions, draw(questions, jax.random.key(0), 3)["tokens"]).shape
      (3,)
    """
    tokens = np.asarray(tokens)
    if tokens.ndim != 2 or tokens.shape[1] != questions.length + 1:
        raise InputError(f"tokens have shape {tokens.shape}: give [n, {questions.length + 1}]")
    first = _first_halves(questions, tokens)
    main = auxiliaries(questions, first)
    right, nats = main >= 0, np.full(len(tokens), np.inf)
    made = _lines(questions, first[right], (tokens == QUEST).any(1)[right], main[right])["tokens"]
    said = unifilar.losses(questions.tables, first[right]) * questions.half + (math.log(2) if questions.copied else 0.0)
    nats[right] = np.where((made == tokens[right]).all(1), said, np.inf)
    return nats
