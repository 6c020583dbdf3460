"""Question formation: every line against a parser and a list of all lines made here, without the tables of the grammar."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import jax
import numpy as np
import pytest

from olm.data import questions, unifilar
from olm.data.questions import END, PAD, START, QuestionConfig
from olm.errors import InputError

LANGUAGE = questions.grammar()
DRAWN = questions.draw(LANGUAGE, jax.random.key(0), 6000)

DETERMINERS, PREPOSITIONS, RELATIVES = {"the", "my", "our", "their"}, {"near", "behind", "above", "beside"}, {"who", "that"}
AUXILIARIES = {"does": "one", "doesn't": "one", "do": "many", "don't": "many"}
MARKS = {"quest", "decl", ".", "?"}


class Parser:
    """Reads a declarative by recursive descent, with at most one modifier a noun; knows no probabilities."""

    def __init__(self, language: questions.Questions, depth: int = 1) -> None:
        content = [
            word for word in language.words[4:] if word not in DETERMINERS | PREPOSITIONS | RELATIVES | {*AUXILIARIES} | MARKS
        ]
        many = {f"{word}{end}": word for word in content for end in ("s", "es")}
        self.number = {word: "many" for word in content if word in many and many[word] in content}
        self.number |= {many[word]: "one" for word in self.number}
        verbs = [word for word in content if word not in self.number]
        self.transitive, self.intransitive = set(verbs[len(verbs) // 2 :]), set(verbs[: len(verbs) // 2])
        self.depth = depth

    def declarative(self, words: list[str]) -> int:
        """Where the main auxiliary stands; an assertion fails where the words are no sentence."""
        self.words, self.at = [*words, "."], 0
        number, main = self.noun_phrase(self.depth), self.at
        self.auxiliary(number)
        self.verb_phrase(self.depth)
        assert self.at == len(words), words
        return main

    def take(self, kind: object, wanted: bool = True) -> str:
        word = self.words[self.at]
        assert (word in kind) == wanted, f"{word} at {self.at} of {self.words}"
        self.at += 1
        return word

    def auxiliary(self, number: str) -> None:
        assert AUXILIARIES[self.take(AUXILIARIES)] == number, f"no agreement at {self.at - 1} of {self.words}"

    def verb_phrase(self, depth: int) -> None:
        if self.take(self.transitive | self.intransitive) in self.transitive:
            self.noun_phrase(depth)

    def noun_phrase(self, depth: int) -> str:
        self.take(DETERMINERS)
        number = self.number[self.take(self.number)]
        if depth and self.words[self.at] in PREPOSITIONS:
            self.at += 1
            self.noun_phrase(depth - 1)
        elif depth and self.words[self.at] in RELATIVES:
            self.at += 1
            if self.words[self.at] in AUXILIARIES:
                self.auxiliary(number)
                self.verb_phrase(depth - 1)
            else:
                self.auxiliary(self.noun_phrase(depth - 1))
                self.take(self.transitive)
        return number


def spoken(language: questions.Questions, tokens: np.ndarray, mask: np.ndarray) -> list[list[str]]:
    return [[language.words[i] for i in row[: 1 + n]] for row, n in zip(tokens, mask.sum(1), strict=True)]


def expected_line(words: list[str], main: int, task: str | None) -> list[str]:
    """A whole line, written from the rule."""
    second = {
        "quest": ["quest", words[main], *words[:main], *words[main + 1 :], "?"],
        "decl": ["decl", *words, "."],
        None: [],
    }
    return ["<s>", *words, ".", *second[task], "</s>"]


# --- lines ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        QuestionConfig(),
        QuestionConfig(vocabulary=22, transitive=1.0, modified=1.0),
        QuestionConfig(vocabulary=203, depth=2, exponent=1.0),
        QuestionConfig(vocabulary=31, depth=0),
        QuestionConfig(vocabulary=40, relative=1.0, object_relative=1.0, transitive=0.0),
        QuestionConfig(copied=False),
    ],
)
def test_lines_are_sentences_with_the_right_second_half(config: QuestionConfig) -> None:
    language = questions.grammar(config)
    drawn = questions.draw(language, jax.random.key(1), 1500)
    parser, tasks, attracted, moved = Parser(language, config.depth), [], 0, 0
    mains = questions.auxiliaries(language, drawn["tokens"])
    for line, found in zip(spoken(language, **drawn), mains, strict=True):
        words = line[1 : line.index(".")]
        main = parser.declarative(words)
        task = line[len(words) + 2] if config.copied else None
        assert line == expected_line(words, main, task)
        assert found == main + 1
        tasks.append(task)
        # A noun that stands nearer than the one to agree with, and an auxiliary before the one to move.
        attracted += [parser.number[w] for w in words[:main] if w in parser.number][-1] != parser.number[words[1]]
        moved += bool(AUXILIARIES.keys() & set(words[:main]))
    if config.copied:
        assert set(tasks) == {"quest", "decl"} and abs(tasks.count("quest") / 1500 - 0.5) < 0.05
    assert (attracted > 100) == (config.depth > 0) == (moved > 100)


def test_an_example_by_hand() -> None:
    told = "<s> the walrus who does sing doesn't laugh ."
    first = np.array([[LANGUAGE.words.index(word) for word in told.split()]])
    question, statement = (questions.lines(LANGUAGE, first, np.array([asked])) for asked in (True, False))
    assert " ".join(spoken(LANGUAGE, **question)[0][9:]) == "quest doesn't the walrus who does sing laugh ? </s>"
    assert " ".join(spoken(LANGUAGE, **statement)[0][9:]) == "decl the walrus who does sing doesn't laugh . </s>"
    again = questions.lines(LANGUAGE, question["tokens"], np.array([False]))
    np.testing.assert_array_equal(again["tokens"], statement["tokens"])


def test_tokens_and_masks_have_their_form() -> None:
    tokens, mask = DRAWN["tokens"], DRAWN["mask"]
    assert tokens.shape == (6000, LANGUAGE.length + 1) and tokens.dtype == np.int32
    assert mask.shape == (6000, LANGUAGE.length) and mask.dtype == bool
    np.testing.assert_array_equal(mask, tokens[:, 1:] != PAD)
    ends = mask.sum(1)
    np.testing.assert_array_equal(mask, np.arange(LANGUAGE.length) < ends[:, None])
    assert (tokens[:, 0] == START).all() and (tokens[:, 1:] != START).all()
    assert ((tokens == END).sum(1) == 1).all() and (tokens[np.arange(6000), ends] == END).all()
    assert ends.max() == LANGUAGE.length == 36 and ends.min() == 12  # the longest line there is, and twice four words


def test_the_default_has_68_words_and_says_them_all() -> None:
    assert LANGUAGE.words[:4] == ("<unk>", "<pad>", "<s>", "</s>") and len(set(LANGUAGE.words)) == len(LANGUAGE.words) == 72
    assert MARKS.issubset(LANGUAGE.words)
    assert set(np.unique(DRAWN["tokens"])) == set(range(1, 72))


@pytest.mark.parametrize("vocabulary", [*range(22, 31), 68, 101, 1088, 3000])
def test_every_word_of_every_vocabulary_is_used(vocabulary: int) -> None:
    language = questions.grammar(QuestionConfig(vocabulary=vocabulary))
    assert len(language.words) == len(set(language.words)) == vocabulary + 4
    said = {int(token) for token in language.tables.token[language.tables.probability > 0]}
    assert {language.words[i] for i in range(vocabulary + 4) if i not in said} == {"<unk>", "</s>", "quest", "decl", "?"}
    parser = Parser(language)
    nouns, verbs = len(parser.number), len(parser.transitive | parser.intransitive)
    assert nouns + verbs == vocabulary - 18 and 0 <= verbs - nouns < 4


def test_lines_without_a_second_half() -> None:
    plain = questions.grammar(QuestionConfig(copied=False))
    assert plain.words == LANGUAGE.words and plain.length == LANGUAGE.half + 1 == 18
    drawn = questions.draw(plain, jax.random.key(0), 6000)
    # The same declaratives as with a second half, and nothing but the end behind them.
    expected = np.where(np.cumsum(DRAWN["tokens"] == questions.STOP, 1) == 0, DRAWN["tokens"], PAD)[:, :18]
    np.testing.assert_array_equal(np.where(drawn["tokens"] > questions.ASK, drawn["tokens"], PAD)[:, 1:18], expected[:, 1:])
    assert {plain.words[i] for i in range(72) if i not in drawn["tokens"]} == {"<unk>", "quest", "decl", "?"}
    exact, whole = questions.entropy(plain), questions.entropy(LANGUAGE)
    np.testing.assert_allclose(exact.line, whole.line - math.log(2), rtol=1e-12)
    np.testing.assert_allclose(exact.labels, whole.labels / 2, rtol=1e-12)
    np.testing.assert_allclose(exact.declarative, whole.declarative, rtol=1e-12)
    assert exact.random == exact.labels - 1 and whole.random == exact.labels
    np.testing.assert_allclose(
        questions.losses(plain, drawn["tokens"]) + math.log(2), questions.losses(LANGUAGE, DRAWN["tokens"])
    )


def test_draws_are_a_function_of_the_key() -> None:
    first = questions.draw(LANGUAGE, jax.random.key(3), 50)["tokens"]
    np.testing.assert_array_equal(first, questions.draw(questions.grammar(), jax.random.PRNGKey(3), 50)["tokens"])
    with jax.enable_x64(True):
        np.testing.assert_array_equal(first, questions.draw(LANGUAGE, jax.random.key(3), 50)["tokens"])
    assert (first != questions.draw(LANGUAGE, jax.random.key(4), 50)["tokens"]).any()


# --- entropy ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [QuestionConfig(), QuestionConfig(vocabulary=500, exponent=1.0, depth=2, copied=False)])
def test_drawn_lines_have_the_stated_entropy(config: QuestionConfig) -> None:
    """Means over draws lie within three and a half standard errors of the exact values."""
    language = questions.grammar(config)
    drawn, exact = questions.draw(language, jax.random.key(5), 20_000), questions.entropy(language)
    for measured, value in (
        (questions.losses(language, drawn["tokens"]), exact.line),
        (drawn["mask"].sum(1), exact.labels),
    ):
        error = measured.std() / math.sqrt(len(measured))
        assert np.isfinite(measured).all() and error < 0.005 * value
        assert abs(measured.mean() - value) < 3.5 * error
    assert exact.rate == exact.line / exact.labels


def test_the_default_has_the_size_of_the_published_data() -> None:
    exact = questions.entropy(LANGUAGE)
    assert 20 < exact.labels < 24 and LANGUAGE.length <= 40
    assert 0.9 < exact.rate < 1.1


def every_declarative(config: QuestionConfig, lists: dict[str, list[str]]) -> Iterator[tuple[list[str], int, float]]:
    """All derivations: words, where the main auxiliary stands, probability; written from the definition, not from the tables."""

    def one_of(kind: str) -> list[tuple[str, float]]:
        weights = [r**-config.exponent for r in range(1, len(lists[kind]) + 1)]
        return [(word, weight / sum(weights)) for word, weight in zip(lists[kind], weights, strict=True)]

    def noun_phrases(depth: int) -> Iterator[tuple[list[str], str, float]]:
        for determiner, number in itertools.product(lists["determiner"], ("one", "many")):
            for noun, p in one_of(number):
                share = p / 2 / len(lists["determiner"])
                for words, q in modifiers(depth, number):
                    yield [determiner, noun, *words], number, share * q

    def modifiers(depth: int, number: str) -> Iterator[tuple[list[str], float]]:
        yield [], 1 - config.modified if depth else 1.0
        if not depth:
            return
        for preposition in lists["preposition"]:
            share = config.modified * (1 - config.relative) / len(lists["preposition"])
            yield from (([preposition, *words], share * p) for words, _, p in noun_phrases(depth - 1))
        for pronoun in lists["relative"]:
            share = config.modified * config.relative / len(lists["relative"])
            for auxiliary, (words, p) in itertools.product(auxiliaries(number), verb_phrases(depth - 1)):
                yield [pronoun, auxiliary, *words], share * (1 - config.object_relative) * p / 2
            for words, own, p in noun_phrases(depth - 1):
                for auxiliary, (verb, q) in itertools.product(auxiliaries(own), one_of("transitive")):
                    yield [pronoun, *words, auxiliary, verb], share * config.object_relative * p * q / 2

    def auxiliaries(number: str) -> list[str]:
        return [word for word, of in AUXILIARIES.items() if of == number]

    def verb_phrases(depth: int) -> list[tuple[list[str], float]]:
        alone = [([verb], (1 - config.transitive) * p) for verb, p in one_of("intransitive")]
        pairs = itertools.product(one_of("transitive"), noun_phrases(depth))
        return alone + [([verb, *words], config.transitive * p * q) for (verb, p), (words, _, q) in pairs]

    predicates = verb_phrases(config.depth)
    for subject, number, p in noun_phrases(config.depth):
        for auxiliary, (words, q) in itertools.product(auxiliaries(number), predicates):
            if p * q > 0:
                yield [*subject, auxiliary, *words], len(subject), p * q / 2


@pytest.mark.parametrize(
    ("settings", "declaratives"),
    [
        ({"vocabulary": 15}, 1404),
        ({"vocabulary": 15, "copied": False, "transitive": 0.3, "modified": 0.8, "relative": 0.25, "object_relative": 0.9}, 1404),
        ({"vocabulary": 19, "transitive": 0.0, "exponent": 1.5}, 400),
        ({"vocabulary": 15, "depth": 2, "transitive": 0.0}, 228),
        ({"vocabulary": 20, "depth": 0, "exponent": 0.5}, 112),
        ({"vocabulary": 15, "relative": 1.0, "object_relative": 0.0}, 420),
    ],
)
def test_entropy_is_that_of_all_lines_listed(monkeypatch: pytest.MonkeyPatch, settings: dict, declaratives: int) -> None:
    """With one determiner, preposition and relative pronoun all lines can be listed; each is made in one way alone."""
    short = {"_DETERMINERS": ("the",), "_PREPOSITIONS": ("near",), "_RELATIVES": ("who",)}
    short["_FUNCTION"] = (*questions._MARKS, *AUXILIARIES, "the", "near", "who")
    for name, words in short.items():
        monkeypatch.setattr(questions, name, words)
    config = QuestionConfig(**settings)
    language = questions.grammar(config)
    parser = Parser(language, config.depth)
    lists = {"determiner": ["the"], "preposition": ["near"], "relative": ["who"]}
    for kind in ("one", "many"):
        lists[kind] = [word for word in language.words if parser.number.get(word) == kind]
    for kind in ("transitive", "intransitive"):
        lists[kind] = [word for word in language.words if word in getattr(parser, kind)]
    found = list(every_declarative(config, lists))
    assert len({tuple(words) for words, _, _ in found}) == len(found) == declaratives
    assert all(parser.declarative(words) == main for words, main, _ in found)

    tasks = ("quest", "decl") if config.copied else (None,)
    lines = [expected_line(words, main, task) for words, main, _ in found for task in tasks]
    p = np.array([p / len(tasks) for _, _, p in found for _ in tasks])
    np.testing.assert_allclose(p.sum(), 1.0, rtol=1e-12)
    exact = questions.entropy(language)
    np.testing.assert_allclose(exact.line, -(p * np.log(p)).sum(), rtol=1e-12)
    np.testing.assert_allclose(exact.labels, (p * [len(line) - 1 for line in lines]).sum(), rtol=1e-12)
    np.testing.assert_allclose(exact.random, (p * [line.index(".") + config.copied for line in lines]).sum(), rtol=1e-12)
    assert max(len(line) - 1 for line in lines) == language.length

    ids = {word: i for i, word in enumerate(language.words)}
    tokens = np.full((len(lines), language.length + 1), PAD)
    for row, line in zip(tokens, lines, strict=True):
        row[: len(line)] = [ids[word] for word in line]
    np.testing.assert_allclose(questions.losses(language, tokens), -np.log(p), rtol=1e-12)
    known = {tuple(row) for row in tokens}
    assert {tuple(row) for row in questions.draw(language, jax.random.key(0), 2000)["tokens"]} <= known


# --- lines that are none ----------------------------------------------------------------------------------------------

SAID = {word: i for i, word in enumerate(LANGUAGE.words)}


def loss_of(line: str) -> float:
    tokens = np.full((1, LANGUAGE.length + 1), PAD)
    words = line.split()
    tokens[0, : len(words)] = [SAID[word] for word in words]
    return float(questions.losses(LANGUAGE, tokens)[0])


@pytest.mark.parametrize(
    "line",
    [
        "<s> the owl that do sing doesn't laugh . quest doesn't the owl that do sing laugh ? </s>",
        "<s> the owl that does sing don't laugh . quest don't the owl that does sing laugh ? </s>",
        "<s> the owl near my lions do laugh . decl the owl near my lions do laugh . </s>",
        "<s> the owl that does sing doesn't laugh . quest does the owl that sing doesn't laugh ? </s>",
        "<s> the owl that does sing doesn't laugh . quest does the owl that does sing laugh ? </s>",
        "<s> the owl that does sing doesn't laugh . quest doesn't the owl that does sing laugh . </s>",
        "<s> the owl that does sing doesn't laugh . decl doesn't the owl that does sing laugh . </s>",
        "<s> the owl that does sing doesn't laugh . decl the owl that does sing doesn't laugh ? </s>",
        "<s> the owl that does sing doesn't laugh . decl the owl that does sing doesn't laugh .",
        "<s> the owl that does sing doesn't laugh . decl the owl that does sing doesn't laugh . </s> </s>",
        "<s> the owl that does sing doesn't laugh . </s>",
        "<s> the owl that does sing doesn't laugh decl the owl that does sing doesn't laugh . </s>",
        "<s> the owl does laugh the lion . decl the owl does laugh the lion . </s>",
        "<s> the owl does see . decl the owl does see . </s>",
        "<s> the owl near my lion near my crab does laugh . decl the owl near my lion near my crab does laugh . </s>",
        "the owl does laugh . decl the owl does laugh . </s>",
        "",
    ],
)
def test_lines_the_grammar_cannot_make_have_infinite_loss(line: str) -> None:
    assert loss_of(line) == math.inf


@pytest.mark.parametrize(
    "line",
    [
        "<s> the owl that does sing doesn't laugh . quest doesn't the owl that does sing laugh ? </s>",
        "<s> the owl near my lions does laugh . decl the owl near my lions does laugh . </s>",
    ],
)
def test_their_neighbours_have_the_loss_of_their_choices(line: str) -> None:
    """Determiner, noun, modifier, auxiliaries, verbs, task: what is chosen on the way, multiplied by hand."""
    clause = 0.6 * 0.6 / 2 * 0.5 / 2 * 0.4 / 13  # modified, relative, which; subject relative, which; intransitive, which
    preposition = 0.6 * 0.4 / 4 / 4 / 24
    p = 1 / 4 / 24 * (clause if "that" in line else preposition) / 2 * 0.4 / 13 / 2
    np.testing.assert_allclose(loss_of(line), -math.log(p), rtol=1e-12)


@pytest.mark.parametrize("token", [-1, 0, 72, 10**6])
def test_tokens_that_are_no_words_have_infinite_loss(token: int) -> None:
    tokens = DRAWN["tokens"][:20].astype(int)
    assert np.isfinite(questions.losses(LANGUAGE, tokens)).all()
    for place in (0, 2, LANGUAGE.length):
        spoiled = tokens.copy()
        spoiled[:, place] = token
        assert np.isinf(questions.losses(LANGUAGE, spoiled)).all()


# --- input that cannot be used ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"vocabulary": 21}, "vocabulary is 21: give a whole number of at least 22"),
        ({"vocabulary": 68.5}, r"vocabulary is 68\.5: give a whole number"),
        ({"copied": 1}, "copied is 1: give a bool"),
        ({"transitive": 1.5}, r"transitive is 1\.5: give a probability"),
        ({"modified": -0.1}, "modified is"),
        ({"relative": float("nan")}, "relative is nan"),
        ({"object_relative": "half"}, "object_relative is 'half'"),
        ({"depth": 4}, "depth is 4: give at most 3"),
        ({"depth": -1}, "depth is -1"),
        ({"exponent": -1.0}, r"exponent is -1\.0: give a number of at least 0"),
    ],
)
def test_impossible_languages_say_what_to_change(settings: dict, says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        QuestionConfig(**settings)
    assert "\n" not in str(error.value)


def test_impossible_lines_say_what_to_change() -> None:
    tokens = DRAWN["tokens"][:3]
    with pytest.raises(InputError, match=r"tokens have shape \(3, 36\): give \[n, 37\]"):
        questions.losses(LANGUAGE, tokens[:, 1:])
    with pytest.raises(InputError, match=r"tokens have shape \(37,\): give \[n, columns\]"):
        questions.auxiliaries(LANGUAGE, tokens[0])
    with pytest.raises(InputError, match=r"asked has shape \(2,\): give \[3\]"):
        questions.lines(LANGUAGE, tokens, np.ones(2, bool))
    spoiled = tokens.copy()
    spoiled[1, 1] = questions.STOP
    np.testing.assert_array_equal(questions.auxiliaries(LANGUAGE, spoiled) < 0, [False, True, False])
    with pytest.raises(InputError, match="row 1 begins with no declarative"):
        questions.lines(LANGUAGE, spoiled, np.ones(3, bool))
    with pytest.raises(InputError, match="n is 0"):
        questions.draw(LANGUAGE, jax.random.key(0), 0)


# --- sources in general -----------------------------------------------------------------------------------------------


def coins(p: float, q: float) -> unifilar.Grammar:
    """Two coins are tossed, then named again in the other order, then forgotten and tossed anew."""
    words = ("heads", "tails", "again")
    nodes: dict[str, unifilar.Node] = {
        "one": ("", lambda: [(0, p, "two", 0), (1, 1 - p, "two", 1)]),
        "two": ("", lambda: [(0, q, "second", 0), (1, 1 - q, "second", 1)]),
        "second": ("b", lambda b: [(b, 1.0, "first")]),
        "first": ("a", lambda a: [(a, 1.0, "again")]),
        "again": ("ba", lambda b, a: [(2, 1.0, "one")] if a == b else [(2, 0.5, "one"), (1, 0.5, "again")]),
    }
    return unifilar.build(nodes, words, extents={"a": 2, "b": 2}, writes={"one": "a", "two": "b"}, forget=(2,))


def test_a_source_remembers_until_it_forgets() -> None:
    tables = coins(0.25, 0.5)
    drawn = np.asarray(unifilar.draw(tables, jax.random.key(0), 400, 11))
    assert ((drawn[:, 0] == drawn[:, 3]) & (drawn[:, 1] == drawn[:, 2])).all()
    assert set(drawn[drawn[:, 0] == drawn[:, 1], 4]) == {2} and set(drawn[drawn[:, 0] != drawn[:, 1], 4]) == {1, 2}
    # The coin tossed second, then whether "again" is said where the coins differ, which they do half of the time.
    np.testing.assert_allclose(unifilar.entropy(tables, 4), 1.5 * math.log(2) / 4, rtol=1e-12)
    entries, states = unifilar.follow(tables, drawn)
    assert (entries >= 0).all() and (states // tables.memory < 5).all()
    assert (states[drawn == 2] == 0).all()
    assert np.isfinite(unifilar.losses(tables, drawn)).all()
    assert unifilar.expected(tables, np.ones(len(tables.size)), 7) == pytest.approx(7, rel=1e-12)


def test_what_has_probability_zero_cannot_be_followed() -> None:
    tables = coins(0.0, 0.5)
    entries, states = unifilar.follow(tables, np.array([[1, 0, 0], [0, 0, 0], [1, 0, 1]]))
    np.testing.assert_array_equal(entries < 0, [[False] * 3, [True] * 3, [False, False, True]])
    np.testing.assert_array_equal(states < 0, entries < 0)
    # Nor can a token that is no word, whatever place of a table it would be counted from the end.
    assert (unifilar.follow(tables, np.array([[-3], [-1], [3], [4]]))[0] < 0).all()
    assert np.isinf(unifilar.losses(tables, np.array([[0, 0, 0]]))).all()


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([(0, 0.5, "a"), (0, 0.5, "a")], "node 'a' emits a token twice"),
        ([(0, 0.5, "a"), (1, 0.4, "a")], "node 'a' has probabilities that do not sum to one"),
        ([(0, 1.5, "a"), (1, -0.5, "a")], "node 'a' has probabilities"),
        ([], "node 'a' has probabilities"),
        ([(0, 1.0, "b")], "node 'a' leads to 'b', which is none of the nodes"),
    ],
)
def test_impossible_sources_say_what_to_change(entries: list, says: str) -> None:
    with pytest.raises(InputError, match=says):
        unifilar.build({"a": ("", lambda: entries)}, ("x", "y"))
    with pytest.raises(InputError, match="length must be at least 1"):
        unifilar.entropy(coins(0.5, 0.5), 0)
