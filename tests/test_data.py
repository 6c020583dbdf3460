"""Stories of known entropy, the paper's corruption, and text files."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from olm.data import stories, text, unifilar
from olm.data.corruption import Corruption, corrupt
from olm.data.stories import StoryConfig
from olm.errors import InputError

GRAMMAR = stories.grammar(StoryConfig())


def sentences(tables: stories.Grammar, tokens: np.ndarray) -> list[str]:
    return [" ".join(tables.words[token] for token in row) for row in np.asarray(tokens)]


# --- stories ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [StoryConfig(), StoryConfig(vocabulary=60, topics=2, mixture=(0.9, 0.1), names=3, seed=7)])
def test_a_state_and_a_token_decide_the_next_state(config: StoryConfig) -> None:
    """The source is unifilar: within a distribution tokens differ; every distribution sums to one; words differ."""
    tables = stories.grammar(config)
    for start, size in zip(tables.start, tables.size, strict=True):
        assert len(set(tables.token[start : start + size])) == size
        np.testing.assert_allclose(tables.probability[start : start + size].sum(), 1.0, rtol=1e-12)
    assert len(set(tables.words)) == config.vocabulary
    successors = tables.keep * (tables.memory - 1) + tables.effect
    assert successors.min() >= 0 and successors.max() < len(tables.row)


def every_window(tables: stories.Grammar, length: int) -> list[tuple[list[int], float]]:
    """All windows of L+1 tokens with their probabilities, by following every choice."""
    paths = [([], 1.0, 0)]
    for _ in range(length + 1):
        extended = []
        for tokens, p, state in paths:
            start = tables.start[tables.row[state]]
            for e in range(start, start + tables.size[tables.row[state]]):
                if tables.probability[e] > 0:
                    after = tables.keep[e] * (state % tables.memory) + tables.effect[e]
                    extended.append(([*tokens, int(tables.token[e])], p * tables.probability[e], after))
        paths = extended
    return [(tokens, p) for tokens, p, _ in paths]


@pytest.mark.parametrize("length", [1, 5, 9, 12])
def test_entropy_is_that_of_all_windows_listed(length: int) -> None:
    config = StoryConfig(vocabulary=31, topics=2, mixture=(0.7, 0.3), names=2, places=1, objects=2)
    tables = stories.grammar(config)
    tokens, p = zip(*every_window(tables, length), strict=True)
    np.testing.assert_allclose(sum(p), 1.0, rtol=1e-12)
    assert len({tuple(window) for window in tokens}) == len(tokens)
    entropy = -sum(q * math.log(q) for q in p) / length
    np.testing.assert_allclose(stories.entropy(tables, length), entropy, rtol=1e-12)
    np.testing.assert_allclose(stories.losses(tables, np.array(tokens)), -np.log(p) / length, rtol=1e-9)


@pytest.mark.parametrize("vocabulary", [256, 1000])
def test_drawn_windows_have_the_stated_entropy(vocabulary: int) -> None:
    """The mean of −log p over draws lies within three standard errors of the exact value."""
    tables = stories.grammar(StoryConfig(vocabulary=vocabulary))
    nats = stories.losses(tables, stories.draw(tables, jax.random.key(1), 8192, 24))
    assert np.isfinite(nats).all()
    error = nats.std() / math.sqrt(len(nats))
    assert error < 0.01
    assert abs(nats.mean() - stories.entropy(tables, 24)) < 3 * error


@hypothesis.given(st.lists(st.floats(0, 1), min_size=1, max_size=30).filter(lambda weights: sum(weights) > 1e-3))
def test_alias_tables_carry_the_distribution(weights: list[float]) -> None:
    p = np.array(weights) / sum(weights)
    accept, alias = unifilar._alias(p, 5)
    assert (accept >= -1e-12).all() and (accept <= 1 + 1e-12).all()
    carried = (accept + np.bincount(alias - 5, 1 - accept, minlength=len(p))) / len(p)
    np.testing.assert_allclose(carried, p, atol=1e-12)


def test_stories_agree_with_themselves() -> None:
    """Pronouns follow the name, and the object found is the one that comes back."""
    she = {"mia", "ana", "eva", "ida"}
    told = sentences(GRAMMAR, stories.draw(GRAMMAR, jax.random.key(2), 300, 40))
    returned = 0
    for story in itertools.chain.from_iterable(window.split("<story> ")[1:] for window in told):
        words = story.split()
        assert {"he", "she"} & set(words) <= ({"she"} if words[0] in she else {"he"})
        if len(words) > 6:
            thing = words[6]
            returned += thing in words[7:]
            described = [a for a, b in itertools.pairwise(words) if b == "was" and a not in ("he", "she", words[0])]
            assert set(described) <= {thing}
    assert returned > 100


def test_draws_are_a_function_of_the_key() -> None:
    drawn = stories.draw(GRAMMAR, jax.random.key(3), 5, 16)
    assert drawn.shape == (5, 17) and drawn.dtype == jnp.int32 and (drawn[:, 0] == stories.STORY).all()
    compiled = jax.jit(lambda key: stories.draw(GRAMMAR, key, 5, 16))
    np.testing.assert_array_equal(drawn, compiled(jax.random.key(3)))
    np.testing.assert_array_equal(drawn, stories.draw(GRAMMAR, jax.random.PRNGKey(3), 5, 16))
    assert (drawn != compiled(jax.random.key(4))).any()


def test_a_mixture_shifts_weakly_and_a_seed_strongly() -> None:
    one = stories.grammar(StoryConfig(mixture=(1.0, 0.0, 0.0, 0.0)))
    assert one.words == GRAMMAR.words
    places = [set(np.asarray(stories.draw(tables, jax.random.key(0), 400, 3)[:, 3])) for tables in (one, GRAMMAR)]
    assert len(places[0]) == 4 and len(places[1]) == 16 and places[0] < places[1]
    assert stories.entropy(one, 3) < stories.entropy(GRAMMAR, 3)
    # What one mixture tells, the other can read; another language it cannot.
    window = stories.draw(one, jax.random.key(0), 20, 16)
    other = stories.grammar(StoryConfig(seed=1))
    assert np.isfinite(stories.losses(GRAMMAR, window)).all()
    assert np.isinf(stories.losses(other, window)).all()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"vocabulary": 78}, "vocabulary 78 is too small for this grammar: at least 79"),
        ({"mixture": (0.5, 0.5)}, "mixture must be 4 probabilities"),
        ({"end": 0.0}, r"end must lie in \(0, 1\]"),
        ({"names": 0}, "names must be at least 1"),
    ],
)
def test_impossible_grammars_say_what_to_change(settings: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        StoryConfig(**settings)


def test_the_smallest_vocabulary_makes_a_grammar() -> None:
    tables = stories.grammar(StoryConfig(vocabulary=79))
    assert stories.entropy(tables, 16) > 0.5


# --- corruption -------------------------------------------------------------------------------------------------------

CLEAN = jnp.arange(2, 50).reshape(4, 12)


def edited(odds: tuple[float, float, float], edits: int, **settings: object) -> np.ndarray:
    how = Corruption(fraction=1.0, edits=edits, odds=odds)
    return np.asarray(corrupt(jax.random.key(5), CLEAN, vocabulary=60, how=how, **settings).tokens)


def test_a_replacement_changes_one_place() -> None:
    changed = edited((1, 0, 0), 1) != CLEAN
    assert (changed.sum(1) <= 1).all() and changed.sum() >= 3
    assert edited((1, 0, 0), 200).min() > 1


def test_a_deletion_takes_the_last_token() -> None:
    expected = np.where(np.arange(12) < 9, CLEAN, text.PAD)
    np.testing.assert_array_equal(edited((0, 1, 0), 3), expected)
    # Two tokens are left at least: one label.
    np.testing.assert_array_equal((edited((0, 1, 0), 30) != text.PAD).sum(1), 2)


def test_a_repetition_doubles_one_token() -> None:
    for before, after in zip(np.asarray(CLEAN), edited((0, 0, 1), 1), strict=True):
        doubled = [np.insert(before, i, before[i])[:12] for i in range(12)]
        assert any((after == candidate).all() for candidate in doubled)
        assert (after != before).any() or (after == doubled[11]).all()


@pytest.mark.parametrize(
    ("fraction", "edits", "odds"), [(0.3, 9, (1, 1, 1)), (1.0, 5, (0, 1, 2)), (0.5, 0, (1, 1, 1)), (0.0, 3, (1, 1, 1))]
)
@hypothesis.given(seed=st.integers(0, 2**31))
def test_corruption_touches_its_share_and_nothing_else(fraction: float, edits: int, odds: tuple, seed: int) -> None:
    lengths = jnp.array([12, 5, 2, 9])
    mask = jnp.arange(1, 12) < lengths[:, None]
    tokens = jnp.where(jnp.arange(12) < lengths[:, None], CLEAN, text.PAD)
    how = Corruption(fraction, edits, odds)
    spoiled = corrupt(jax.random.key(seed), tokens, mask, vocabulary=60, how=how)
    assert spoiled.corrupted.sum() == round(fraction * 4)
    np.testing.assert_array_equal(spoiled.tokens[~spoiled.corrupted], tokens[~spoiled.corrupted])
    np.testing.assert_array_equal(spoiled.mask[~spoiled.corrupted], mask[~spoiled.corrupted])
    after = spoiled.mask.sum(1) + 1
    assert (after >= 2).all()
    np.testing.assert_array_equal(spoiled.tokens != text.PAD, jnp.arange(12) < after[:, None])
    np.testing.assert_array_equal(spoiled.mask, jnp.arange(1, 12) < after[:, None])
    assert spoiled.tokens.max() < 60
    again = corrupt(jax.random.key(seed), tokens, mask, vocabulary=60, how=how)
    np.testing.assert_array_equal(spoiled.tokens, again.tokens)


@pytest.mark.usefixtures("x64")
def test_corruption_keeps_integers_of_32_bits() -> None:
    spoiled = corrupt(jax.random.key(0), CLEAN, vocabulary=60)
    assert spoiled.tokens.dtype == jnp.int32 and spoiled.mask.dtype == bool


def test_the_kinds_of_edits_come_in_their_odds() -> None:
    """Of 4,000 examples edited once, the shares that were shortened and that had a token doubled."""
    tokens = jnp.tile(jnp.arange(2, 12), (4000, 1))
    mask = jnp.tile(jnp.arange(9) < 7, (4000, 1))
    spoiled = corrupt(jax.random.key(1), tokens, mask, vocabulary=99, how=Corruption(1.0, 1, (1.0, 2.0, 5.0)))
    change = np.asarray(spoiled.mask.sum(1) - 7)
    shares = [(change == 0).mean(), (change == -1).mean(), (change == 1).mean()]
    np.testing.assert_allclose(shares, [1 / 8, 2 / 8, 5 / 8], atol=0.025)


@pytest.mark.parametrize("settings", [{"fraction": 1.5}, {"edits": -1}, {"odds": (0.0, 0.0, 0.0)}, {"odds": (1.0, 1.0)}])
def test_impossible_corruptions_say_what_to_change(settings: dict) -> None:
    with pytest.raises(InputError, match=f"^{next(iter(settings))} must"):
        Corruption(**settings)


def test_corruption_needs_tokens_to_draw() -> None:
    with pytest.raises(InputError, match="vocabulary 2 has no token above the padding 1"):
        corrupt(jax.random.key(0), CLEAN, vocabulary=2)


# --- text -------------------------------------------------------------------------------------------------------------


def write(folder: Path, content: bytes | str, name: str = "a.txt") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_documents_are_paragraphs_lines_or_files(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeffone\r\ntwo\r\n \r\n\r\nthree\n\n\n")
    assert text.read_documents([path]) == ["one\ntwo", "three"]
    assert text.read_documents([path], "lines") == ["one", "two", "three"]
    (tmp_path / "b").mkdir()
    source = write(tmp_path / "b", "if x:\n    y\n\n    z\n \n\nw\n")
    assert text.read_documents([source]) == ["if x:\n    y", "    z", "w"]
    assert text.read_documents([path, str(path)], "files") == ["one\ntwo\n \n\nthree"] * 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"good \xff\xfe text", "a.txt is not UTF-8: byte 5 is 0xff"),
        ("näh".encode("latin-1"), "a.txt is not UTF-8: byte 1 is 0xe4"),
        (b"\xef\xbb\xbfab\xff", "a.txt is not UTF-8: byte 5 is 0xff"),
        (b"", "a.txt is empty"),
        (b" \n\t\n", "a.txt is empty"),
    ],
)
def test_files_that_are_no_text_are_named(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        text.read_documents([write(tmp_path, content)])
    assert "\n" not in str(error.value) and error.value.exit_status == 2


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*none.txt: No such file"):
        text.read_documents([tmp_path / "none.txt"])
    with pytest.raises(InputError, match="cannot read"):
        text.read_documents([tmp_path])
    with pytest.raises(InputError, match="name at least one"):
        text.read_documents([])
    with pytest.raises(InputError, match="split must be one of paragraphs, lines, files, not 'words'"):
        text.read_documents([write(tmp_path, "x")], "words")


WRITTEN = st.text(st.characters(codec="utf-8"), max_size=40)


@hypothesis.given(WRITTEN)
def test_bytes_come_back(written: str) -> None:
    tokenizer = text.byte_tokenizer()
    ids = tokenizer.encode(written)
    assert tokenizer.decode(ids) == written == tokenizer.decode([text.PAD, *ids, text.PAD])
    assert all(text.PAD < i < tokenizer.vocabulary for i in ids)


@hypothesis.given(st.lists(WRITTEN, min_size=1, max_size=5), st.integers(0, 60))
def test_the_text_that_was_learned_from_comes_back(documents: list[str], merges: int) -> None:
    needed = len(set("".join(documents).encode())) + 2
    tokenizer = text.train_tokenizer(documents, needed + merges)
    assert tokenizer.vocabulary <= needed + merges
    for document in documents:
        ids = tokenizer.encode(document)
        assert tokenizer.decode(ids) == document
        assert all(text.PAD < i < tokenizer.vocabulary for i in ids)
        assert len(ids) <= len(document.encode())


def test_encodings_are_learned_the_same_every_time() -> None:
    documents = [f"the {a} saw the {b}; the <pad> and <unk> are words" for a in ("cat", "dog", "cow") for b in ("mat", "map")]
    first, second = (text.train_tokenizer(documents, 50) for _ in range(2))
    assert first.saved == second.saved and first.vocabulary == 50
    loaded = text.load_tokenizer(first.saved)
    assert all(loaded.encode(document) == first.encode(document) for document in documents)
    assert len(first.encode(documents[0])) < 0.5 * len(documents[0])
    assert first.encode("Ω")[0] == text.UNKNOWN
    # A text that spells a special token means its letters.
    ids = first.encode(documents[0])
    assert not {text.PAD, text.UNKNOWN} & set(ids) and first.decode(ids) == documents[0]


def test_tokenizers_that_cannot_be_say_why() -> None:
    with pytest.raises(InputError, match="alone need 5 ids, vocabulary is 4"):
        text.train_tokenizer(["abc"], 4)
    with pytest.raises(InputError, match="no saved tokenizer"):
        text.load_tokenizer("{")


@hypothesis.given(st.lists(st.lists(st.integers(2, 9), max_size=14), max_size=4), st.integers(1, 5))
def test_every_token_but_the_first_is_a_label_once(documents: list[list[int]], length: int) -> None:
    cut = text.windows(documents, length)
    assert cut.tokens.shape == (len(cut.mask), length + 1) and cut.mask.shape[1] == length
    labels = cut.tokens[:, 1:][cut.mask]
    assert labels.tolist() == [token for document in documents for token in document[1:]]
    assert cut.mask[:, 0].all() and (cut.tokens[:, 1:][~cut.mask] == text.PAD).all()
    inputs = cut.tokens[:, :-1][cut.mask]
    assert inputs.tolist() == [token for document in documents for token in document[:-1]]


@hypothesis.given(st.lists(WRITTEN, min_size=3, max_size=30, unique=True), st.integers(0, 99))
def test_dealing_parts_documents_completely(documents: list[str], seed: int) -> None:
    parts = text.deal(documents, {"a": 1, "b": 2, "c": 5}, seed)
    assert sorted(itertools.chain.from_iterable(parts.values())) == sorted(documents)
    assert all(parts.values())
    assert parts == text.deal(documents, {"a": 1, "b": 2, "c": 5}, seed)


def test_equal_documents_stay_together() -> None:
    parts = text.deal([str(i % 7) for i in range(40)], {"target": 1, "test": 1}, seed=0)
    assert sum(map(len, parts.values())) == 40 and not set(parts["target"]) & set(parts["test"])
    with pytest.raises(InputError, match="1 different document"):
        text.deal(["same"] * 9, {"target": 1, "test": 1}, seed=0)


def test_dealing_follows_the_sizes() -> None:
    documents = [f"{i:05d}" for i in range(800)]
    parts = text.deal(documents, {"a": 1, "b": 2, "c": 5}, 0)
    assert [len(part) for part in parts.values()] == [100, 200, 500]
    assert parts["c"] != sorted(parts["c"])
    with pytest.raises(InputError, match=r"2 different document\(s\) cannot be kept apart as a, b, c"):
        text.deal(documents[:2], {"a": 1, "b": 2, "c": 5}, 0)


def test_choosing_windows() -> None:
    cut = text.windows([list(range(2, 99))], 4)
    chosen = text.choose(cut, 10, 0, "targets")
    assert len(np.unique(chosen.tokens[:, 0])) == 10 and set(chosen.tokens[:, 0]) < set(cut.tokens[:, 0])
    assert (text.choose(cut, 10, 1, "targets").tokens != chosen.tokens).any()
    with pytest.raises(InputError, match="the text gives 24 targets, not 25: ask for fewer"):
        text.choose(cut, 25, 0, "targets")


def test_settings_are_checked_when_replaced() -> None:
    with pytest.raises(InputError):
        replace(StoryConfig(), topics=5, mixture=(1.0,))
    with pytest.raises(InputError, match="length must be at least 1"):
        stories.entropy(GRAMMAR, 0)
    with pytest.raises(InputError, match="length must be at least 1"):
        text.windows([[1, 2]], 0)
