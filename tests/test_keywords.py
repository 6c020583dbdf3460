"""Constraints on text against brute force: every sequence of a few pieces of text, judged by Python's ``re``."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import pytest
from test_automata import check

from olm.control.automata import accepts, shortest
from olm.control.keywords import finder, keywords, regular, token_bytes
from olm.data.text import Tokenizer, byte_tokenizer, train_tokenizer
from olm.errors import InputError

# A made-up vocabulary: letters, pieces of words, a token of two words, a boundary of each kind, one without bytes.
PIECES = [b"", b"a", b"b", b"ab", b" ", b" ab", b"b a", b"'", b"-B"]


def text_of(row: tuple[int, ...], tokens: Sequence[bytes], end: int | None) -> bytes | None:
    """The text of a sequence; None if something follows its end."""
    if end is not None and end in row:
        if set(row[row.index(end) :]) != {end}:
            return None
        row = row[: row.index(end)]
    return b"".join(tokens[v] for v in row)


def reference(concepts: list, tokens: Sequence[bytes], end: int | None, whole: bool, case: bool) -> Callable:
    """The same by a regular expression for each concept."""
    edge = (rb"(?<![\w'\x80-\xff])", rb"(?![\w'\x80-\xff])") if whole else (b"", b"")
    groups = [[concept] if isinstance(concept, str) else concept for concept in concepts]
    patterns = [
        re.compile(edge[0] + b"(?:" + b"|".join(re.escape(w.encode()) for w in words) + b")" + edge[1], 0 if case else re.I)
        for words in groups
    ]

    def holds(row: tuple[int, ...]) -> bool:
        text = text_of(row, tokens, end)
        return text is not None and all(pattern.search(text) for pattern in patterns)

    return holds


@pytest.mark.parametrize(
    ("concepts", "options"),
    [
        (["ab"], {}),
        (["ab"], {"whole_words": False}),
        (["ab"], {"case": True}),
        (["B"], {"case": True, "end": 7}),
        (["a", "b"], {"end": 8}),
        ([["ab", "bb"], "a"], {}),
        (["b a"], {"end": 0}),  # a key across a boundary
        (["aab", ["ab", "b"]], {"whole_words": False, "end": 4}),
        (["a'b"], {}),
    ],
)
def test_keywords_are_words_of_the_text(concepts: list, options: dict) -> None:
    holds = reference(concepts, PIECES, options.get("end"), options.get("whole_words", True), options.get("case", False))
    check(keywords(concepts, PIECES, **options), holds, 5)


def test_keywords_beyond_ascii_are_strings_of_bytes() -> None:
    pieces = ["é".encode(), "é".encode()[:1], "é".encode()[1:], b"t", b" ", "—".encode()]
    for concepts in (["été"], ["t"], [["é", "tt"]]):
        check(keywords(concepts, pieces), reference(concepts, pieces, None, True, False), 6)
    # Only ASCII letters match in both cases.
    capital = keywords(["É", "t"], ["É".encode(), "é".encode(), b"T", b" "])
    assert accepts(capital, jnp.array([[0, 3, 2], [1, 3, 2]])).tolist() == [True, False]


def test_inflections_are_alternatives() -> None:
    pytest.importorskip("lemminflect")
    pieces = [b"run", b"ran", b"n", b"ing", b" ", b"s", b"RUN", b"go"]
    automaton = keywords(["running"], pieces, inflections=True)
    forms = ["running", "run", "runs", "ran", "runnings"]
    check(automaton, reference([forms], pieces, None, True, False), 4)
    alone = keywords(["running"], pieces)
    check(alone, reference(["running"], pieces, None, True, False), 4)
    # A word that no dictionary has is its only form; the others follow from its lemma.
    made = keywords(["runsgo"], pieces, inflections=True)
    check(made, reference(["runsgo"], pieces, None, True, False), 4)
    past = accepts(keywords([["go", "ran"]], pieces, inflections=True), jnp.array([[0, 4], [5, 5], [7, 4]]))
    assert past.tolist() == [True, False, True]


@pytest.mark.parametrize("options", [{}, {"whole_words": False}, {"case": True}])
def test_the_finder_finds_what_the_automaton_accepts(options: dict) -> None:
    for concept in ("ab", ["b a", "B"], "a'b"):
        pattern = finder(concept, **options)
        check(keywords([concept], PIECES, **options), lambda row, p=pattern: bool(p.search(text_of(row, PIECES, None))), 4)


def test_a_capital_beyond_ascii_stays_an_alternative_among_its_inflections() -> None:
    pytest.importorskip("lemminflect")
    pieces = ["É".encode(), "é".encode(), b"s", b" "]
    # é has no other form; upper and lower case are told apart beyond ASCII, so that both have to be alternatives.
    check(keywords(["É"], pieces, inflections=True), reference([["É", "é"]], pieces, None, True, False), 4)


@pytest.mark.parametrize(
    ("pattern", "search", "end"),
    [
        ("ab*", False, None),
        ("a(b|'){2,3}a?", True, None),
        (r"[a' ]+\-B", True, 0),
        (r"\s[^b]", True, None),
        ("a|b", False, 8),  # alternatives bind as the whole pattern does
        ("a|b", True, 8),
        (r"a.b", True, None),
        (r"\w+( \w+)*", False, 1),
    ],
)
def test_regular_expressions_match_as_in_re(pattern: str, search: bool, end: int | None) -> None:
    compiled = re.compile(pattern.encode(), re.DOTALL)

    def holds(row: tuple[int, ...]) -> bool:
        text = text_of(row, PIECES, end)
        return text is not None and bool(compiled.search(text) if search else compiled.fullmatch(text))

    check(regular(pattern, PIECES, search=search, end=end), holds, 4)


def test_regular_expressions_beyond_ascii_and_re() -> None:
    pieces = ["é".encode(), "é".encode()[:1], "é".encode()[1:], b"a", b".", "à".encode()]
    for pattern in ("é+a", "à|aé", r"\é\."):
        compiled = re.compile(pattern.replace(r"\é", "é").replace("é+", "(?:é)+").encode())
        check(regular(pattern, pieces), lambda row, c=compiled: bool(c.search(b"".join(pieces[v] for v in row))), 4)
    # Intersection, which `re` lacks, and the empty text.
    check(
        regular("(.*é.*)&(.*a)", pieces, search=False),
        lambda row: "é".encode() in (t := text_of(row, pieces, None)) and t[-1:] == b"a",
        4,
    )
    check(regular("()", pieces, search=False), lambda row: not row, 3)


def test_token_bytes_spell_the_text() -> None:
    assert token_bytes(byte_tokenizer()) == [b"", b"", *(bytes([byte]) for byte in range(256))]
    documents = ["The dogs ran — 100 % faster!\n\tÉté, naïve; \x00\x7f\xa0\xad漢字", "the dog runs, the dogs run"] * 3
    tokenizer = train_tokenizer(documents, 90)
    spelt = token_bytes(tokenizer)
    assert len(spelt) == tokenizer.vocabulary and spelt[:2] == [b"", b""] and all(spelt[2:]) and max(map(len, spelt)) > 2
    for document in documents:
        assert b"".join(spelt[v] for v in tokenizer.encode(document)) == document.encode()


def test_keywords_judge_encoded_sentences() -> None:
    documents = ["The dog runs in the field.", "Dogs run; a dogma remains.", "A hot dog.", "dog-tired fields", "the field"] * 2
    tokenizer = train_tokenizer(documents, 60)
    automaton = keywords(["dog", "field"], token_bytes(tokenizer), end=1)
    rows = [tokenizer.encode(document) for document in documents]
    length = max(map(len, rows))
    tokens = jnp.array([row + [1] * (length - len(row)) for row in rows])
    expected = [all(re.search(rf"\b{word}\b", document, re.I) for word in ("dog", "field")) for document in documents]
    assert accepts(automaton, tokens).tolist() == expected and sum(expected) == 2


# --- bad input --------------------------------------------------------------------------------------------------------

UNBYTES = Tokenizer(list, str, 3, '{"model": {"type": "WordLevel", "vocab": {"a b": 2}, "unk_token": "a b"}}')


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: keywords([], PIECES), "concepts is []: give a list of at least one word"),
        (lambda: keywords("ab", PIECES), "concepts is 'ab': give a list of at least one word"),
        (lambda: keywords(["a", ""], PIECES), "concept '' has no word or an empty one: give words of at least one letter"),
        (lambda: keywords([[]], PIECES), "concept [] has no word or an empty one: give words of at least one letter"),
        (lambda: keywords(["a"], []), "tokens is empty: give the bytes of each id"),
        (lambda: keywords(["a"], [b"a", "b"]), "token 1 is 'b': give the bytes of each id"),
        (lambda: keywords(["a"], PIECES, end=9), "end: token 9 is outside 0 … 8: give ids of the vocabulary"),
        (
            lambda: keywords(["a", "é"], PIECES),
            "keyword 'é' has bytes no token stands for (0xa9 0xc3): drop it, or learn tokens from such text",
        ),
        (
            lambda: keywords([["xa", "yb"]], PIECES),
            "keyword 'xa' or 'yb' has bytes no token stands for (0x78): drop it, or learn tokens from such text",
        ),
        (lambda: regular("", PIECES), "pattern is '': give a regular expression that is not empty"),
        (lambda: regular("a)|(b", PIECES), "pattern 'a)|(b' cannot be read: "),
        (lambda: regular("*a", PIECES), "pattern '*a' cannot be read: "),
        (lambda: regular("[é]", PIECES), "pattern '[é]' has [é]: write characters that are not ASCII as (x|y), not in a class"),
        (lambda: token_bytes(UNBYTES), "token 2 is 'a b', not on the byte level: learn the tokens with train_tokenizer"),
        (lambda: keywords([3], PIECES), "concept 3 has no word or an empty one: give words of at least one letter"),
        (lambda: finder(""), "concept '' has no word or an empty one: give words of at least one letter"),
    ],
)  # fmt: skip
def test_bad_input_says_what_to_change(call: Callable, message: str) -> None:
    with pytest.raises(InputError) as error:
        call()
    text = str(error.value)
    assert (text.startswith(message) if message.endswith(": ") else text == message) and "\n" not in text


@pytest.mark.parametrize("package", ["lemminflect", "automata"])
def test_a_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r'pip install "olm\[control\]"'):
        keywords(["a"], PIECES, inflections=True) if package == "lemminflect" else regular("a", PIECES)


def test_building_needs_no_optional_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("automata", "lemminflect"):
        monkeypatch.setitem(sys.modules, package, None)
    assert shortest(keywords(["ab"], PIECES)) == 1
