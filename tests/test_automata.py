"""Automata against brute force: every sequence of a small vocabulary, judged by numpy, Python's strings and automata-lib."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from olm.control.automata import (
    Automaton,
    accepts,
    check_satisfiable,
    clauses,
    complement,
    count,
    count_accepted,
    edges,
    ended,
    product,
    run,
    run_stacked,
    shortest,
    stack,
    union,
)
from olm.control.keywords import keywords, regular
from olm.errors import InputError


def all_sequences(vocabulary: int, length: int) -> np.ndarray:
    return np.array(list(itertools.product(range(vocabulary), repeat=length)), np.int32).reshape(vocabulary**length, length)


def follow(automaton: Automaton, tokens: np.ndarray) -> np.ndarray:
    """Whether sequences are accepted, by numpy alone."""
    transition, state = np.asarray(automaton.transition), np.zeros(len(tokens), int)
    for column in tokens.T:
        state = transition[state, column]
    return np.asarray(automaton.accepting)[state]


def library(automaton: Automaton):  # noqa: ANN201
    """The same automaton as one of automata-lib: token v is the character of number 256 + v."""
    from automata.fa.dfa import DFA

    transition = np.asarray(automaton.transition)
    n, vocabulary = transition.shape
    rows = {s: {chr(256 + v): int(transition[s, v]) for v in range(vocabulary)} for s in range(n)}
    return DFA(
        states=set(range(n)),
        input_symbols={chr(256 + v) for v in range(vocabulary)},
        transitions=rows,
        initial_state=0,
        final_states=set(np.flatnonzero(automaton.accepting).tolist()),
    )


def check(automaton: Automaton, holds: Callable[[tuple[int, ...]], bool], longest: int) -> None:
    """The automaton agrees with ``holds`` on every sequence up to a length, and is complete, minimal and of the stated dtypes."""
    vocabulary, kinds = automaton.transition.shape[1], set()
    for length in range(longest + 1):
        tokens = all_sequences(vocabulary, length)
        expected = np.array([bool(holds(tuple(row))) for row in tokens.tolist()])
        found = follow(automaton, tokens)
        wrong = np.flatnonzero(found != expected)
        assert not wrong.size, f"{tokens[wrong[0]].tolist()}: accepted {found[wrong[0]]}"
        assert count_accepted(automaton, length) == expected.sum()
        kinds |= set(expected.tolist())
    assert kinds == {True, False}, "the case shows nothing"
    assert automaton.transition.dtype == jnp.int32 and automaton.accepting.dtype == jnp.bool_
    minimal = library(automaton).minify()
    assert len(minimal.to_complete().states) == len(automaton.accepting)


def contains(row: Sequence[int], key: Sequence[int]) -> bool:
    return any(tuple(row[at : at + len(key)]) == tuple(key) for at in range(len(row) - len(key) + 1))


# --- running ----------------------------------------------------------------------------------------------------------


def test_run_follows_the_table_and_compiles() -> None:
    automaton, tokens = clauses([[[0, 1]], [[1, 1], [2]]], 3), all_sequences(3, 5)
    states = jax.jit(run)(automaton, tokens)
    assert states.dtype == jnp.int32 and states.shape == (243, 6)
    transition = np.asarray(automaton.transition)
    for t in range(5):
        np.testing.assert_array_equal(states[:, t + 1], transition[np.asarray(states[:, t]), tokens[:, t]])
    assert not np.asarray(states[:, 0]).any()
    np.testing.assert_array_equal(accepts(automaton, tokens), follow(automaton, tokens))
    assert accepts(automaton, np.zeros((2, 0), np.int32)).tolist() == [False, False]


@pytest.mark.usefixtures("x64")
def test_states_are_int32_in_double_precision_too() -> None:
    automaton, tokens = count([1], 2, least=2), jnp.array([[1, 0, 1]])
    assert tokens.dtype == jnp.int64
    states = run(automaton, tokens)
    assert states.dtype == jnp.int32 and states.tolist() == [[0, 1, 1, 2]]


def test_a_stack_runs_each_of_its_automata() -> None:
    several = [clauses([[[0, 1]], [[2]]], 3), count([1], 3, most=1), complement(ended(3, 0))]
    stacked, tokens = stack(several), all_sequences(3, 4)
    n = [len(automaton.accepting) for automaton in several]
    assert stacked.transition.shape == (3, max(n), 3) and stacked.accepting.shape == (3, max(n)) and len(set(n)) > 1
    for x, automaton in enumerate(several):
        states = run_stacked(stacked, np.full(len(tokens), x), tokens)
        np.testing.assert_array_equal(states, run(automaton, tokens))
        np.testing.assert_array_equal(stacked.accepting[x][states[:, -1]], follow(automaton, tokens))
        padding = np.arange(n[x], max(n))
        np.testing.assert_array_equal(stacked.transition[x, n[x] :], np.repeat(padding[:, None], 3, 1))
        assert not np.asarray(stacked.accepting[x, n[x] :]).any()
    mixed = run_stacked(stacked, np.arange(len(tokens)) % 3, tokens)
    for x, automaton in enumerate(several):
        np.testing.assert_array_equal(mixed[x::3], run(automaton, tokens[x::3]))


def test_edges_are_the_distinct_pairs_of_states() -> None:
    several = [clauses([[[0, 1]], [[2]]], 4), count([1, 3], 4, least=1)]
    for automaton in several:
        source, target, label = edges(automaton)
        transition = np.asarray(automaton.transition)
        np.testing.assert_array_equal(target[label], transition)
        np.testing.assert_array_equal(source[label], np.repeat(np.arange(len(transition))[:, None], 4, 1))
        expected = {(s, int(t)) for s, row in enumerate(transition) for t in row}
        assert len(source) == len(expected) and set(zip(source.tolist(), target.tolist(), strict=True)) == expected
    stacked = stack(several)
    source, target, label = edges(stacked)
    for x in range(2):
        alone = edges(Automaton(stacked.transition[x], stacked.accepting[x]))
        m = len(alone.source)
        np.testing.assert_array_equal(source[x, :m], alone.source)
        np.testing.assert_array_equal(target[x, :m], alone.target)
        np.testing.assert_array_equal(label[x], alone.label)
        assert not source[x, m:].any() and not target[x, m:].any() and label[x].max() == m - 1
    assert all(part.dtype == np.int32 for part in (source, target, label))


# --- constraints on tokens --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keys",
    [
        [[[0]]],
        [[[0, 1, 0]], [[1]]],
        [[[0, 0], [1, 2]], [[2, 0, 0], [0]]],
        [[[0, 1], [0, 1, 1]], [[1, 1]], [[2]]],  # a key inside another, keys that overlap
    ],
)
def test_clauses_are_a_cnf_of_contained_strings(keys: list) -> None:
    check(clauses(keys, 3), lambda row: all(any(contains(row, key) for key in clause) for clause in keys), 6)


def test_k_single_token_clauses_take_two_to_the_k_states() -> None:
    automaton = clauses([[[0], [1]], [[2]], [[3]], [[4], [5]]], 7)
    assert len(automaton.accepting) == 2**4


@pytest.mark.parametrize(("least", "most"), [(0, 0), (1, None), (2, 3), (0, 2), (4, 4)])
def test_count_bounds_the_number_of_tokens(least: int, most: int | None) -> None:
    def holds(row: tuple[int, ...]) -> bool:
        n = sum(v in (0, 2) for v in row)
        return n >= least and (most is None or n <= most)

    check(count([0, 2], 4, least, most), holds, 5)


def test_a_count_without_bounds_holds_always() -> None:
    automaton = count(range(3), 3)
    assert automaton.transition.tolist() == [[0, 0, 0]] and automaton.accepting.tolist() == [True]


def test_ended_lets_only_the_end_follow_the_end() -> None:
    check(ended(3, 1), lambda row: 1 not in row or set(row[row.index(1) :]) == {1}, 6)


def test_product_union_and_complement_are_and_or_and_not() -> None:
    a, b, c = clauses([[[0, 1]]], 3), count([2], 3, least=1, most=2), ended(3, 2)
    checks = [
        lambda row: contains(row, (0, 1)),
        lambda row: 1 <= row.count(2) <= 2,
        lambda row: 2 not in row or set(row[row.index(2) :]) == {2},
    ]
    check(product(a, b, c), lambda row: all(one(row) for one in checks), 6)
    check(union(a, b, c), lambda row: any(one(row) for one in checks), 6)
    check(complement(b), lambda row: not checks[1](row), 6)
    check(product(a), checks[0], 6)


def random_automaton(rng: np.random.Generator, n: int, vocabulary: int) -> Automaton:
    return Automaton(jnp.asarray(rng.integers(n, size=(n, vocabulary)), jnp.int32), jnp.asarray(rng.random(n) < 0.4))


@pytest.mark.parametrize("seed", range(8))
def test_the_same_language_has_the_same_table(seed: int) -> None:
    """Minimal automata are equal up to names, and names are canonical: De Morgan and absorption hold for tables, bit by bit."""
    rng = np.random.default_rng(seed)
    a, b = (random_automaton(rng, n, 3) for n in (6, 5))

    def same(x: Automaton, y: Automaton) -> None:
        np.testing.assert_array_equal(x.transition, y.transition)
        np.testing.assert_array_equal(x.accepting, y.accepting)

    same(complement(union(a, b)), product(complement(a), complement(b)))
    same(union(a, product(a, b)), product(a))
    same(complement(complement(a)), product(a))
    same(product(a, b), product(b, a))
    assert len(product(a, complement(a)).accepting) == 1
    # A random table is not minimal as a rule; what it is reduced to is, by the library's own count.
    for made, given in (
        (product(a), library(a)),
        (union(a, b), library(a) | library(b)),
        (product(a, b), library(a) & library(b)),
    ):
        assert len(given.minify().to_complete().states) == len(made.accepting)
        assert library(made) == given


def test_words_that_the_library_draws_are_accepted() -> None:
    automaton = product(clauses([[[0, 1], [3]], [[2, 2]]], 5), ended(5, 4))
    drawn, length = library(automaton), 7
    words = [[ord(c) - 256 for c in drawn.random_word(length, seed=seed)] for seed in range(50)]
    rejected = [[ord(c) - 256 for c in library(complement(automaton)).random_word(length, seed=seed)] for seed in range(50)]
    assert accepts(automaton, jnp.array(words)).all() and not accepts(automaton, jnp.array(rejected)).any()
    assert drawn.count_words_of_length(length) == count_accepted(automaton, length)
    assert drawn.minimum_word_length() == shortest(automaton) == 3


# --- what can be met --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_the_shortest_length_is_the_first_with_an_accepted_sequence(seed: int) -> None:
    automaton = random_automaton(np.random.default_rng(seed), 7, 2)
    counts = [count_accepted(automaton, length) for length in range(8)]
    assert counts == [int(follow(automaton, all_sequences(2, length)).sum()) for length in range(8)]
    assert shortest(automaton) == next((length for length, n in enumerate(counts) if n), None)


def test_counts_are_exact_beyond_floats() -> None:
    assert count_accepted(count([0], 1000, least=1), 30) == 1000**30 - 999**30
    assert shortest(complement(count([0], 2))) is None


def test_check_satisfiable_names_the_clause() -> None:
    letters = [bytes([byte]) for byte in b"zebradog "]
    zebra, dog, both = keywords(["zebra"], letters), keywords(["dog"], letters), keywords(["zebra", "dog"], letters)
    parts = {"keyword 'zebra'": zebra, "keyword 'dog'": dog}
    assert shortest(both) == 9
    check_satisfiable(both, 9, parts)
    check_satisfiable(both, 12)
    cases = [
        ((both, 4, parts), "keyword 'zebra' needs 5 tokens, sequences have 4: lengthen the sequences, or drop it"),
        (
            (both, 8, parts),
            "each clause alone can be met, together they need 9 tokens, sequences have 8: lengthen the sequences, "
            "or drop a clause",
        ),
        ((both, 8), "the constraint needs 9 tokens, sequences have 8: lengthen the sequences, or drop a clause"),
        (
            (product(dog, complement(dog)), 8, {"dog": dog, "no dog": complement(dog)}),
            "the whole constraint can be met by no sequence of tokens, however long: drop a clause, or change the tokens",
        ),
    ]
    never, exact = complement(count([0], 9)), regular("dog", letters, search=False)
    cases += [
        (
            (product(dog, never), 8, {"dog": dog, "nothing": never}),
            "nothing can be met by no sequence of tokens, however long: drop it, or change the tokens",
        ),
        ((exact, 4), "the whole constraint can be met with 3 tokens but not with 4: change the length, or give an end token"),
        (
            (product(exact, dog), 4, {"all of 'dog'": exact, "dog": dog}),
            "all of 'dog' can be met with 3 tokens but not with 4: change the length, or give an end token",
        ),
    ]
    for arguments, message in cases:
        with pytest.raises(InputError) as error:
            check_satisfiable(*arguments)
        assert str(error.value) == message
    with pytest.raises(InputError, match="length is -1: give a whole number of at least 0"):
        check_satisfiable(dog, -1)


# --- bad input --------------------------------------------------------------------------------------------------------

TWO, THREE = count([0], 2, least=1), count([0], 3, least=1)
BROKEN = Automaton(jnp.array([[0, 2]]), jnp.array([True]))
ODD = Automaton(jnp.zeros((2, 3), jnp.int32), jnp.array([True]))
SHAPES = "give one automaton, [n, V] and [n] of bool"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: clauses([], 3), "keys is empty: give at least one clause"),
        (lambda: clauses([[[0]], []], 3), "clause 1 has no alternatives: give at least one key"),
        (lambda: clauses([[[0]], [[1], []]], 3), "clause 1 has an empty key: give at least one token"),
        (lambda: clauses([[[0]], [[1, 3]]], 3), "clause 1: token 3 is outside 0 … 2: give ids of the vocabulary"),
        (lambda: clauses([[[-1]]], 3), "clause 0: a token is -1: give a whole number of at least 0"),
        (lambda: clauses([[[0]]], 0), "vocabulary is 0: give a whole number of at least 1"),
        (lambda: count([], 3), "tokens is empty: give the tokens to count"),
        (lambda: count([5], 3), "tokens: token 5 is outside 0 … 2: give ids of the vocabulary"),
        (lambda: count([0], 3, least=-1), "least is -1: give a whole number of at least 0"),
        (lambda: count([0], 3, most=1.5), "most is 1.5: give a whole number of at least 0"),
        (lambda: count([0], 3, least=2, most=1), "least is 2 and most 1: give bounds with least ≤ most"),
        (lambda: ended(3, 3), "end: token 3 is outside 0 … 2: give ids of the vocabulary"),
        (lambda: product(), "no automata were given: give at least one"),
        (lambda: union(), "no automata were given: give at least one"),
        (lambda: stack([]), "no automata were given: give at least one"),
        (lambda: product(TWO, THREE), "automata over 2 and 3 tokens: build them over the same vocabulary"),
        (lambda: union(THREE, TWO), "automata over 2 and 3 tokens: build them over the same vocabulary"),
        (lambda: stack([TWO, THREE]), "automata over 2 and 3 tokens: build them over the same vocabulary"),
        (lambda: complement(BROKEN), "transition leads to state 2 of 1: give states in 0 … n−1"),
        (lambda: shortest(ODD), f"transition has shape (2, 3), accepting (1,) of bool: {SHAPES}"),
        (lambda: product(stack([TWO])), f"transition has shape (1, 2, 2), accepting (1, 2) of bool: {SHAPES}"),
        (lambda: run(stack([TWO]), jnp.array([[0]])), "transition has shape (1, 2, 2): give one automaton, or use run_stacked"),
        (lambda: run_stacked(TWO, [0], jnp.array([[0]])), "transition has shape (2, 2): give automata from stack, or use run"),
        (lambda: run(TWO, jnp.array([0])), "tokens have shape (1,), which (1,): give [B, T] and [B]"),
        (lambda: run(TWO, jnp.array([[0.0]])), "tokens are float32: give integers"),
        (lambda: run(TWO, jnp.array([[0, -1]])), "tokens reach from -1 to 0: give ids in 0 … 1"),
        (lambda: accepts(TWO, jnp.array([[0, 2]])), "tokens reach from 0 to 2: give ids in 0 … 1"),
        (lambda: run_stacked(stack([TWO]), jnp.array([1]), jnp.array([[0]])), "which reach from 1 to 1: give ids in 0 … 0"),
        (lambda: clauses([[1, 2]], 4), "clause 0 has the key 1: give lists of tokens, as in [[[3]], [[5], [7, 2]]]"),
        (lambda: count(1, 4, 2), "tokens is 1: give a list of tokens"),
        (lambda: count_accepted(TWO, -2), "length is -2: give a whole number of at least 0"),
    ],
)  # fmt: skip
def test_bad_input_says_what_to_change(call: Callable, message: str) -> None:
    with pytest.raises(InputError) as error:
        call()
    text = str(error.value)
    assert (text.startswith(message) if message.endswith(": ") else text == message) and "\n" not in text


def test_automata_run_inside_compiled_programs_on_tokens_known_before() -> None:
    tokens = jnp.array([[0, 1, 1], [1, 0, 0]])
    expected = run(TWO, tokens)
    for known in (tokens, np.asarray(tokens)):
        assert np.array_equal(jax.jit(lambda known=known: run(TWO, known))(), expected)
    with pytest.raises(InputError, match="tokens reach from 0 to 2"):
        run(TWO, np.array([[0, 2]]))
