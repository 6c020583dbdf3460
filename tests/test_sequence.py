"""Sequences of datasets: original order, nothing leaks, one vocabulary, known entropy; the standard library as text."""

from __future__ import annotations

import ast
import functools
import io
import itertools
import math
import tokenize
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from olm.data import library, stories, text
from olm.errors import InputError
from olm.tasks import sequence
from olm.tasks.sequence import Dataset

SETS = ("train", "validation", "test")
STORIES = functools.partial(sequence.stories, rows=64, validation=64, test=64, length=12)


def equal(one: tuple[Dataset, ...], two: tuple[Dataset, ...]) -> bool:
    return sequence.fingerprint(one) == sequence.fingerprint(two)


def stream(windows: np.ndarray) -> list[int]:
    """The tokens that the windows were cut from."""
    return [*windows[0].tolist(), *windows[1:, 1:].reshape(-1).tolist()]


# --- packed -----------------------------------------------------------------------------------------------------------


@hypothesis.given(
    st.lists(st.lists(st.integers(2, 9), max_size=9), max_size=6), st.integers(1, 5), st.lists(st.integers(0, 9), max_size=2)
)
def test_windows_pack_the_stream(documents: list[list[int]], length: int, separator: list[int]) -> None:
    """Every token but the first is a label once, in order; fewer than L are dropped at the end."""
    whole = list(itertools.chain.from_iterable([*ids, *separator] for ids in documents))
    if len(whole) <= length:
        with pytest.raises(InputError, match=f"^{len(whole)} tokens fill no window of {length + 1}: shorten"):
            text.packed(documents, length, separator)
        return
    cut = text.packed(documents, length, separator)
    assert cut.dtype == np.int32 and cut.shape[1] == length + 1
    np.testing.assert_array_equal(cut[1:, 0], cut[:-1, -1])
    kept = 1 + len(cut) * length
    assert stream(cut) == whole[:kept] and len(whole) - kept < length


def test_packing_needs_a_length() -> None:
    with pytest.raises(InputError, match="length must be at least 1, not 0"):
        text.packed([[1, 2]], 0)


# --- stories ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", ["none", "weak", "strong"])
def test_generated_datasets_have_the_stated_entropy(shift: sequence.Shift) -> None:
    """Each dataset's own grammar loses its entropy on the windows, within four standard errors."""
    datasets = STORIES(shift, 1, rows=2048)
    sequence.check(datasets)
    for dataset, config in zip(datasets, sequence.languages(shift), strict=True):
        assert [getattr(dataset, part).shape for part in SETS] == [(2048, 13), (64, 13), (64, 13)]
        assert all((getattr(dataset, part)[:, 0] == stories.STORY).all() for part in SETS)
        nats = stories.losses(stories.grammar(config), dataset.train)
        error = nats.std() / math.sqrt(len(nats))
        assert error < 0.01
        assert dataset.entropy == pytest.approx(nats.mean(), abs=4 * error)


def test_a_shift_changes_what_it_says() -> None:
    for shift, same_words, readable in (("none", True, True), ("weak", True, True), ("strong", False, False)):
        configs = sequence.languages(shift, datasets=4)
        tables = [stories.grammar(config) for config in configs]
        assert (tables[0].words == tables[1].words) is same_words
        assert len(set(configs)) == (1 if shift == "none" else 4)
        datasets = STORIES(shift, 0)
        assert len({dataset.tokenizer for dataset in datasets}) == 1
        assert np.isfinite(stories.losses(tables[0], datasets[1].train)).all() == readable
    # A weak shift costs a model of the first dataset something on the second, no shift nothing.
    weak = STORIES("weak", 0, rows=2048)
    loss = [stories.losses(stories.grammar(sequence.languages("weak")[0]), dataset.train).mean() for dataset in weak]
    assert loss[1] > loss[0] + 0.1


def test_generated_datasets_are_a_function_of_the_seed() -> None:
    one, two = STORIES("none", 3)
    assert (one.train != two.train).any() and (one.train[:64] != one.test).any()
    assert equal((one, two), STORIES("none", jax.random.key(3))) and not equal((one, two), STORIES("none", 4))
    unequal = STORIES("none", 3, rows=(32, 64))
    assert [len(dataset.train) for dataset in unequal] == [32, 64]
    np.testing.assert_array_equal(unequal[0].test, one.test)
    np.testing.assert_array_equal(unequal[1].train, two.train)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"shift": "big"}, "shift must be none, weak or strong, not 'big'"),
        ({"rows": (1, 2, 3)}, "rows has 3 numbers for 2 datasets"),
        ({"rows": 0}, "rows is 0: give a whole number of at least 1"),
        ({"test": 0}, "test is 0"),
        ({"datasets": 0}, "datasets is 0"),
        ({"length": 0}, "length is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"vocabulary": 80, "shift": "strong"}, "vocabulary 80 is too small for this grammar: at least 85"),
    ],
)
def test_impossible_stories_say_what_to_change(settings: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        STORIES(**{"shift": "weak", "seed": 0} | settings)


# --- texts ------------------------------------------------------------------------------------------------------------

ONES = [f"{i} and {i + 1} follow each other" for i in range(300)]
TWOS = [f"from {2 * i} to {i} goes number {i * i}, then é" for i in range(200)]
LICENCE = "this text is everywhere"


@pytest.fixture
def files(tmp_path: Path) -> list[list[Path]]:
    """Two groups; an equal document stands in several places of both."""
    for name, documents in (("ones", ONES), ("twos", TWOS)):
        mixed = [line for i, one in enumerate(documents) for line in ([one, LICENCE] if i % 7 == 0 else [one])]
        half = len(mixed) // 2
        for part, lines in (("a", mixed[:half]), ("b", mixed[half:])):
            (tmp_path / f"{name}-{part}.txt").write_text("\n".join(lines), encoding="utf-8")
    return [[tmp_path / f"{name}-{part}.txt" for part in "ab"] for name in ("ones", "twos")]


@pytest.mark.parametrize("tokens", ["bpe", "bytes"])
def test_texts_keep_their_order_and_leak_nothing(files: list[list[Path]], tokens: sequence.Tokens) -> None:
    datasets = sequence.texts(files, tokens=tokens, vocabulary=128, split="lines", length=64, validation=5, test=8)
    sequence.check(datasets)
    assert [dataset.name for dataset in datasets] == ["ones-a", "twos-a"]
    assert len({dataset.tokenizer for dataset in datasets}) == 1 and datasets[0].entropy is None
    tokenizer = text.load_tokenizer(datasets[0].tokenizer)
    assert tokenizer.vocabulary == datasets[0].vocabulary == (128 if tokens == "bpe" else 258)
    seen: dict[str, set[str]] = {part: set() for part in SETS}
    for dataset, group in zip(datasets, files, strict=True):
        assert (len(dataset.validation), len(dataset.test)) == (5, 8)
        assert all(getattr(dataset, part).dtype == np.int32 for part in SETS)
        read = text.read_documents(group, "lines")
        # The last document may be cut.
        trained = tokenizer.decode(stream(dataset.train)).split("\n")[:-1]
        remaining = iter(read)
        assert all(document in remaining for document in trained), "not in the order of the files"
        left_out = [i for i, document in enumerate(read) if document not in set(trained)]
        thirds = np.histogram(left_out, 3, (0, len(read)))[0]
        assert thirds.min() > 0.6 * thirds.max() > 0
        seen["train"] |= set(trained)
        # Of held-out windows whole documents only: those between two line breaks.
        for part in ("validation", "test"):
            held_out = getattr(dataset, part)
            assert len(np.unique(held_out, axis=0)) == len(held_out)
            for row in held_out:
                seen[part] |= set(tokenizer.decode(row).split("\n")[1:-1])
    assert LICENCE in seen["train"] and min(map(len, seen.values())) > 5
    assert not any(seen[a] & seen[b] for a, b in itertools.combinations(SETS, 2))


def test_held_out_documents_are_those_of_no_other_set() -> None:
    """A document of many copies is trained on; equal documents of two datasets stay in one kind of set."""
    documents = [[*ONES, *TWOS[:50]], [*TWOS, LICENCE, *ONES[:100], LICENCE]]
    parts = sequence._parted(documents, [0.4, 0.3], {"validation": 1, "test": 2}, seed=0)
    pooled = {name: set().union(*(part[name] for part in parts)) for name in SETS}
    assert all(pooled.values())
    assert not any(pooled[a] & pooled[b] for a, b in itertools.combinations(SETS, 2))
    for part, texts in zip(parts, documents, strict=True):
        for chosen in part.values():
            remaining = iter(texts)
            assert all(document in remaining for document in chosen), "not in their order"
    assert LICENCE in pooled["train"]


def test_equal_files_are_a_sequence_without_shift(files: list[list[Path]]) -> None:
    settings = {"tokens": "bytes", "split": "lines", "length": 8, "validation": 9, "test": 9}
    one, two = sequence.texts([files[0], files[0]], **settings)
    assert [one.name, two.name] == ["ones-a-1", "ones-a-2"]
    assert all((getattr(one, part) == getattr(two, part)).all() for part in SETS)
    assert equal((one, two), sequence.texts([files[0], files[0]], **settings))
    assert not equal((one, two), sequence.texts([files[0], files[0]], seed=1, **settings))


def test_joint_encodings_are_learned_from_training_documents_of_all(files: list[list[Path]]) -> None:
    """Bytes of either dataset are known, a separator too; what is held out is not learned from."""
    settings = {"vocabulary": 128, "split": "lines", "length": 8, "validation": 20, "test": 20}
    datasets = sequence.texts(files, **settings)
    tokenizer = text.load_tokenizer(datasets[0].tokenizer)
    for word in ("follow", "goes", "é", "\n"):
        assert text.UNKNOWN not in tokenizer.encode(word) and tokenizer.decode(tokenizer.encode(word)) == word
    assert all((dataset.train != text.UNKNOWN).all() for dataset in datasets)
    alone = sequence.texts(files[:1], **settings)
    assert alone[0].tokenizer != datasets[0].tokenizer


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"tokens": "words"}, "tokens must be bpe or bytes, not 'words'"),
        ({"names": ["a"]}, r"1 name\(s\) for 2 dataset\(s\)"),
        ({"names": ["a", "a"]}, r"two datasets are called alike \(a, a\)"),
        ({"test": 5000}, r"dataset 'ones-a' gives \d+ validation window\(s\), not 128: ask for fewer"),
        ({"split": "files"}, r"dataset 'ones-a' gives 0 validation window\(s\), not 128"),
        ({"vocabulary": 9}, "bytes of this text alone need"),
        ({"length": 0}, "length is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_impossible_texts_say_what_to_change(files: list[list[Path]], settings: dict, says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        sequence.texts(files, **{"split": "lines", "length": 8} | settings)
    assert "\n" not in str(error.value)


def test_files_are_grouped(files: list[list[Path]]) -> None:
    for wrong in (files[0], str(files[0][0])):
        with pytest.raises(InputError, match="files are not grouped by dataset: give a list of paths for each"):
            sequence.texts(wrong)
    with pytest.raises(InputError, match="the sequence has no dataset"):
        sequence.texts([])


# --- check ------------------------------------------------------------------------------------------------------------

IDS = np.array([[2, 3, 4], [4, 5, 6]], np.int32)
ONE = Dataset("a", IDS, IDS, IDS, 512, "bpe")


@pytest.mark.parametrize(
    ("datasets", "says"),
    [
        ([], "the sequence has no dataset"),
        ([ONE, ONE], "two datasets are called 'a'"),
        ([ONE, ONE._replace(name="b", test=IDS[:, 1:])], "test of dataset 'b' has windows of 2 ids, train of 'a' of 3"),
        ([ONE._replace(validation=IDS + 510)], "validation of dataset 'a' has the id 516, outside the vocabulary 0 … 511"),
        ([ONE._replace(train=IDS - 3)], "train of dataset 'a' has the id -1, outside"),
        ([ONE._replace(train=IDS[:0])], r"train of dataset 'a' is no table of ids \[windows, L\+1\]"),
        ([ONE._replace(test=IDS * 1.0)], "test of dataset 'a' is no table of ids"),
        ([ONE._replace(test=None)], "test of dataset 'a' is no table of ids"),
        (
            [ONE, ONE._replace(name="b", vocabulary=300)],
            r"datasets 'a' and 'b' have different vocabularies \(512 and 300 ids\): encode both with one tokenizer; "
            "olm.tasks.sequence.texts builds a joint one from all files",
        ),
        ([ONE, ONE._replace(name="b", tokenizer="bytes")], r"vocabularies \(512 and 512 ids that mean other text\)"),
    ],
)
def test_sequences_that_cannot_be_used_say_why(datasets: list[Dataset], says: str) -> None:
    with pytest.raises(InputError, match=says):
        sequence.check(datasets)


def test_a_fingerprint_follows_every_part() -> None:
    sequence.check([ONE, ONE._replace(name="b")])
    changed = [ONE._replace(**{part: IDS[::-1]}) for part in SETS]
    found = [sequence.fingerprint([dataset]) for dataset in [ONE, *changed, ONE._replace(name="b"), ONE._replace(vocabulary=513)]]
    assert len(set(found)) == len(found) and all(len(name) == 16 for name in found)
    assert sequence.fingerprint([ONE._replace(train=IDS.copy())]) == found[0]


# --- the standard library ---------------------------------------------------------------------------------------------


def test_the_library_leaves_out_what_it_says() -> None:
    paths = library._paths()
    assert len(paths) > 300 and list(paths) == sorted(paths) and "json/decoder.py" in paths
    assert not any({"test", "tests", "idle_test", "site-packages"} & set(path.split("/")) for path in paths)
    assert not any("_sysconfigdata" in path for path in paths)


def test_docstrings_come_in_the_order_of_their_places() -> None:
    documents = library.docstrings("json/")
    assert [document.path for document in documents] == sorted(document.path for document in documents)
    decoder = [document.text for document in documents if document.path == "json/decoder.py"]
    assert decoder[0] == "Implementation of JSONDecoder" and decoder[1].startswith("Subclass of ValueError")
    code = (library._folder() / "json" / "decoder.py").read_text(encoding="utf-8")
    places = [code.index(document.splitlines()[0]) for document in decoder]
    assert places == sorted(places) and len(places) > 4


@pytest.mark.parametrize("below", ["json/", "email/m", "contextlib", "abc", "dataclasses"])
def test_code_is_stripped_of_docstrings_and_comments(below: str) -> None:
    documents = library.source(below)
    assert documents and all(document.text.strip() for document in documents)
    for document in documents:
        before = ast.parse((library._folder() / document.path).read_bytes())
        tree = ast.parse(document.text)
        alone = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        ]
        assert not alone
        kinds = {token.type for token in tokenize.generate_tokens(io.StringIO(document.text).readline)}
        assert tokenize.COMMENT not in kinds and tokenize.NAME in kinds
        # All definitions are still there.
        names = [[node.name for node in ast.walk(t) if isinstance(node, (ast.ClassDef, ast.FunctionDef))] for t in (before, tree)]
        assert names[0] == names[1]


def test_halves_are_of_other_files_and_about_alike() -> None:
    documents = library.docstrings("email/")
    first, second = library.halves(documents)
    assert first + second == documents and not {d.path for d in first} & {d.path for d in second}
    sizes = [sum(len(document.text.encode()) for document in half) for half in (first, second)]
    largest = max(sum(len(d.text.encode()) for d in documents if d.path == path) for path in {d.path for d in documents})
    assert abs(sizes[0] - sizes[1]) <= largest
    with pytest.raises(InputError, match="documents of one file cannot be halved"):
        library.halves(documents[:1])


@pytest.mark.parametrize(("shift", "names"), [("weak", ["docstrings-1", "docstrings-2"]), ("strong", ["docstrings", "source"])])
def test_the_library_makes_sequences(monkeypatch: pytest.MonkeyPatch, shift: str, names: list[str]) -> None:
    for kind in ("docstrings", "source"):
        monkeypatch.setattr(library, kind, functools.partial(getattr(library, kind), "email/"))
    datasets = sequence.library(shift, vocabulary=300, length=16, validation=20, test=20)
    sequence.check(datasets)
    assert [dataset.name for dataset in datasets] == names
    decode = text.load_tokenizer(datasets[0].tokenizer).decode
    assert ("import" in decode(datasets[1].train[:40].reshape(-1))) == (shift == "strong")
    first = library.docstrings()[0].text
    assert decode(stream(datasets[0].train)).startswith(first)


def test_an_unknown_shift_of_the_library_is_refused() -> None:
    with pytest.raises(InputError, match="shift must be weak or strong, not 'none'"):
        sequence.library("none")
