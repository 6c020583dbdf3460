"""Measures of generated text: coverage against automata, BLEU against values worked out by hand and published ones."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import numpy as np
import pytest
from test_automata import follow

from olm.control.keywords import keywords, token_bytes
from olm.control.measures import bleu, coverage, distinct
from olm.data.text import byte_tokenizer
from olm.errors import InputError

# --- coverage ---------------------------------------------------------------------------------------------------------


def test_coverage_counts_the_concepts_of_each_sentence() -> None:
    pytest.importorskip("lemminflect")
    sentences = ["The dogs ran in a field.", "A dogma runs afield", "", "Dog, dog, DOG!"]
    sets = [["dog", "run", "field"], ["dog", "run", "field"], ["dog"], ["dog", ["cat", "dog"]]]
    judged = coverage(sentences, sets)
    assert judged.found.tolist() == [3, 1, 0, 2] and judged.asked.tolist() == [3, 3, 1, 2]
    assert judged.by_concept == 6 / 9 and judged.by_sentence == 2 / 4
    exact = coverage(sentences, sets, inflections=False)
    assert exact.found.tolist() == [1, 0, 0, 2] and exact.by_concept == 3 / 9 and exact.by_sentence == 1 / 4


@pytest.mark.parametrize("inflections", [True, False])
def test_a_sentence_is_covered_exactly_if_the_automaton_accepts_its_bytes(inflections: bool) -> None:
    pytest.importorskip("lemminflect")
    rng = np.random.default_rng(3)
    pieces = ["dog", "dogs", "Ran", "run", "running", "é", "'", "_", "-", " ", " ", ".", "\n", "7", "s", "hot dog", "Naïve", "ï"]
    sentences = ["".join(rng.choice(pieces, size=rng.integers(12))) for _ in range(300)]
    tokenizer = byte_tokenizer()
    encoded = [tokenizer.encode(sentence) for sentence in sentences]
    tokens = np.full((len(sentences), max(map(len, encoded))), 1)
    for row, ids in zip(tokens, encoded, strict=True):
        row[: len(ids)] = ids
    for concepts in (["run"], ["dog", "run"], [["running", "é"], "dog"], ["naïve"], ["NAÏVE"], ["hot dog"], ["7"]):
        judged = coverage(sentences, [concepts] * len(sentences), inflections=inflections)
        alone = [follow(keywords([one], token_bytes(tokenizer), inflections=inflections), tokens) for one in concepts]
        together = follow(keywords(concepts, token_bytes(tokenizer), inflections=inflections), tokens)
        np.testing.assert_array_equal(judged.found, np.sum(alone, 0))
        np.testing.assert_array_equal(judged.found == judged.asked, together)
        assert judged.by_sentence == together.mean() and (0 < together.mean() < 1 or concepts == ["NAÏVE"])


# --- BLEU -------------------------------------------------------------------------------------------------------------


def test_bleu_of_a_case_worked_out_by_hand() -> None:
    pytest.importorskip("sacrebleu")
    # 5 of 6 words, 3 of 5 pairs, 2 of 4 triples and 1 of 3 quadruples are in a reference; the closest reference has 7 words.
    value = bleu(["the cat sat on a mat"], [["the cat sat on the big mat"]])
    assert value == pytest.approx(100 * math.exp(1 - 7 / 6) * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25, rel=1e-12)
    # A second sentence adds to the counts, not to a mean: 4/4, 3/3, 2/2 and 1/1 of its own, closest reference of 4 words.
    value = bleu(["the cat sat on a mat", "two dogs ran home"], [["the cat sat on the big mat"], ["no", "two dogs ran home"]])
    precisions = 9 / 10 * 6 / 8 * 4 / 6 * 2 / 4
    assert value == pytest.approx(100 * math.exp(1 - 11 / 10) * precisions**0.25, rel=1e-12)
    # Counts are clipped: three of the four words are "the", which the reference has twice; of no pair: 1/2^k, as in mteval.
    value = bleu(["the the the cat"], [["the dog saw the cat"]])
    assert value == pytest.approx(100 * math.exp(1 - 5 / 4) * (3 / 4 * 1 / 3 * 1 / (2 * 2) * 1 / (4 * 1)) ** 0.25, rel=1e-12)


def test_bleu_has_the_values_of_sacrebleus_manual() -> None:
    pytest.importorskip("sacrebleu")
    sentences = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
    references = [
        ["The dog bit the man.", "The dog had bit the man."],
        ["It was not unexpected.", "No one was surprised."],
        ["The man bit him first.", "The man had bitten the dog."],
    ]
    assert round(bleu(sentences, references), 2) == 48.53
    assert round(bleu(sentences, [references[0][1:], *references[1:]]), 2) == 29.44  # ragged
    assert bleu(sentences, [several[::-1] for several in references]) == bleu(sentences, references)


def test_a_missing_reference_has_no_length() -> None:
    pytest.importorskip("sacrebleu")
    # Were it an empty one, it would be the closest to three words and lift the penalty.
    short = ["one two three", "a b c d e f g h"]
    alone = bleu(short, [["one two three four five six seven"], [short[1]]])
    assert bleu(short, [["one two three four five six seven"], [short[1], short[1]]]) == alone < 100
    assert alone == pytest.approx(100 * math.exp(1 - 15 / 11), rel=1e-12)


# --- variety ----------------------------------------------------------------------------------------------------------


def test_distinct_is_the_share_of_different_n_grams() -> None:
    texts = [[1, 2, 1, 2], [2, 1], [3]]
    assert distinct(texts) == 2 / 4  # 12 21 12 21
    assert distinct(texts, n=1) == 3 / 7 and distinct(texts, n=4) == 1
    assert distinct(np.array([[1, 2, 1, 2], [1, 2, 3, 3]])) == 4 / 6
    assert distinct([["a", "b"], ["a", "b"]]) == 1 / 2


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: coverage([], []), "sentences: [] is no list of texts: give at least one, each a string"),
        (lambda: coverage("dog", [["dog"]]), "sentences: 'dog' is no list of texts: give at least one, each a string"),
        (lambda: coverage([b"dog"], [["dog"]]), "sentences: [b'dog'] is no list of texts: give at least one, each a string"),
        (lambda: coverage(["dog"], []), "1 sentences and 0 concept sets: give a set for each sentence"),
        (lambda: coverage(["a", "b"], [["a"], []]), "concept set 1 is []: give a list of at least one word"),
        (lambda: coverage(["a"], ["a"]), "concept set 0 is 'a': give a list of at least one word"),
        (
            lambda: coverage(["a"], [[""]], inflections=False),
            "concept '' has no word or an empty one: give words of at least one letter",
        ),
        (lambda: bleu([], []), "sentences: [] is no list of texts: give at least one, each a string"),
        (lambda: bleu(["a"], [["a"], ["b"]]), "1 sentences and references for 2: give a list for each sentence"),
        (lambda: bleu(["a"], [[]]), "references 0: [] is no list of texts: give at least one, each a string"),
        (lambda: bleu(["a", "b"], [["a"], "b"]), "references 1: 'b' is no list of texts: give at least one, each a string"),
        (lambda: distinct([[1, 2]], n=0), "n is 0: give a whole number of at least 1"),
        (lambda: distinct([[1], ["a"]]), "no text has 2 tokens: give longer texts, or lower n"),
        (lambda: distinct(["ab"]), "text 0 is 'ab': give a list of tokens"),
    ],
)
def test_bad_input_says_what_to_change(call: Callable, message: str) -> None:
    with pytest.raises(InputError) as error:
        call()
    assert str(error.value) == message


@pytest.mark.parametrize("package", ["lemminflect", "sacrebleu"])
def test_a_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r'pip install "olm\[control\]"'):
        coverage(["a"], [["a"]]) if package == "lemminflect" else bleu(["a"], [["a"]])
    assert coverage(["a"], [["a"]], inflections=False).by_concept == 1
