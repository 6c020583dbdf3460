"""Sequences of datasets for continual pre-training: each is read once, in its original order, before the next begins.

A dataset holds windows of L+1 token ids. All datasets of a sequence share one vocabulary, so that one model can go through them.
The shift from one dataset to the next is *weak* (like text of other topics), *strong* (another language), or none.

Not done: datasets larger than memory, mixing of datasets (replay is the business of the learner).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import numpy as np

from olm.data import library as library_data
from olm.data import stories as story_data
from olm.data import text as text_data
from olm.data.stories import Grammar, StoryConfig
from olm.data.text import Split, Tokenizer
from olm.errors import InputError, check_whole
from olm.records import fingerprint as fingerprint_of_tree
from olm.types import Array

Shift = Literal["none", "weak", "strong"]
Tokens = Literal["bpe", "bytes"]
_SEPARATOR = {"paragraphs": "\n\n", "lines": "\n", "files": "\n\n"}

# The grammars of the generated languages depend on nothing that a caller calls a seed.
_LANGUAGE_SEED = 0
# The topic that a dataset is mostly about, in turn: far apart first.
_PEAKS = (0, 3, 1, 2)
# What the languages of a strong shift are made of, in turn; each has a seed of its own as well.
_SIZES: tuple[dict, ...] = (
    {},
    {"topics": 6, "places": 3, "objects": 6, "exponent": 0.7},
    {"topics": 3, "places": 6, "objects": 8, "names": 12, "exponent": 1.2},
    {"topics": 5, "places": 5, "objects": 5, "names": 6, "exponent": 0.85},
)


class Dataset(NamedTuple):
    """One dataset of a sequence.

    Attributes:
      name: unlike that of the others.
      train: [N, L+1] int32, windows in their original order.
      validation: [K, L+1] held out: may choose.
      test: [M, L+1] held out: is reported and chooses nothing.
      vocabulary: V.
      tokenizer: what the ids mean: ``Tokenizer.saved``, or the range of ids of generated languages.
      entropy: nats per token that no model can beat; None where it is not known.
    """

    name: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    vocabulary: int
    tokenizer: str
    entropy: float | None = None


def languages(shift: Shift, vocabulary: int = 256, datasets: int = 2) -> tuple[StoryConfig, ...]:
    """The generated languages of a sequence.

    Args:
      shift: "weak": one grammar, each dataset mostly (0.7) about one of four topics, the fifth about the first one's again;
        "strong": another grammar over the same ids each time, with other words and sizes; "none": one grammar.
      vocabulary: V.
      datasets: how many.

    Returns:
      A configuration for each dataset.

    Raises:
      InputError: an unknown shift, a vocabulary too small for a grammar, no dataset.

    >>> [config.mixture for config in languages("weak")]
    [(0.7, 0.1, 0.1, 0.1), (0.1, 0.1, 0.1, 0.7)]
    """
    if shift not in ("none", "weak", "strong"):
        raise InputError(f"shift must be none, weak or strong, not {shift!r}")
    check_whole("datasets", datasets, least=1)
    check_whole("vocabulary", vocabulary, least=1)
    seed = _LANGUAGE_SEED
    configs = []
    for i in range(datasets):
        if shift == "strong":
            configs.append(StoryConfig(vocabulary, seed=seed + i, **_SIZES[i % len(_SIZES)]))
        elif shift == "weak":
            mixture = tuple(0.7 if topic == _PEAKS[i % len(_PEAKS)] else 0.1 for topic in range(4))
            configs.append(StoryConfig(vocabulary, mixture=mixture, seed=seed))
        else:
            configs.append(StoryConfig(vocabulary, seed=seed))
    return tuple(configs)


def stories(
    shift: Shift,
    seed: int | Array,
    *,
    rows: int | Sequence[int],
    validation: int = 128,
    test: int = 256,
    length: int = 32,
    vocabulary: int = 256,
    datasets: int = 2,
) -> tuple[Dataset, ...]:
    """Draws a sequence of generated languages; each window begins with a story.

    Args:
      shift: what differs from dataset to dataset, see ``languages``. In a strong shift ids are shared but mean other words, like
        bytes in two human languages.
      seed: of the windows, a whole number or a JAX key. The languages do not depend on it.
      rows: N, training windows, one number or one for each dataset.
      validation: K.
      test: M. The held-out windows do not depend on N.
      length: L, labels of a window.
      vocabulary: V.
      datasets: how many.

    Returns:
      The datasets, with their entropies.

    Raises:
      InputError: sizes below 1, rows for another number of datasets, an unknown shift, a vocabulary too small.

    >>> first, second = stories("weak", 0, rows=4, validation=4, test=4, length=8)
    >>> first.name, first.train.shape, round(first.entropy, 3)
    ('weak-1', (4, 9), 0.727)
    """
    configs = languages(shift, vocabulary, datasets)
    sizes = [rows] * datasets if isinstance(rows, (int, np.integer)) else list(rows)
    if len(sizes) != datasets:
        raise InputError(f"rows has {len(sizes)} numbers for {datasets} datasets: give one number, or one for each")
    for name, size in [*(("rows", n) for n in sizes), ("validation", validation), ("test", test), ("length", length)]:
        check_whole(name, size, least=1)
    key = seed if isinstance(seed, jax.Array) else jax.random.key(check_whole("seed", seed, least=0))
    found = []
    for i, (config, n) in enumerate(zip(configs, sizes, strict=True)):
        tables = story_data.grammar(config)
        keys = jax.random.split(jax.random.fold_in(key, i), 3)
        train, held, tested = (_drawn(tables, k, m, length) for k, m in zip(keys, (n, validation, test), strict=True))
        ids = f"ids 0 … {vocabulary - 1}"
        floor = story_data.entropy(tables, length)
        found.append(Dataset(f"{shift}-{i + 1}", train, held, tested, vocabulary, ids, floor))
    return tuple(found)


def _drawn(tables: Grammar, key: Array, n: int, length: int) -> np.ndarray:
    arrays = {name: table for name, table in tables._asdict().items() if isinstance(table, np.ndarray)}
    return np.array(_draw(arrays, key, int(tables.memory), n, length))


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _draw(arrays: Mapping[str, Array], key: Array, memory: int, n: int, length: int) -> Array:
    """Compiled once for grammars that differ in their numbers only."""
    return story_data.draw(Grammar(**arrays, memory=memory, words=()), key, n, length)


def texts(
    files: Sequence[Sequence[str | PathLike[str]]],
    *,
    names: Sequence[str] | None = None,
    tokens: Tokens = "bpe",
    vocabulary: int = 512,
    length: int = 32,
    split: Split = "paragraphs",
    validation: int = 128,
    test: int = 256,
    seed: int = 0,
) -> tuple[Dataset, ...]:
    """Reads one dataset from each group of text files.

    The text is cut into documents. As many of them as the held-out windows need, spread evenly through the dataset, are held out;
    the others, in their order, are the training text. A held-out document equal to a training document of any dataset is dropped,
    and so is a test document equal to a validation document of any.

    Args:
      files: for each dataset its UTF-8 files, in the order in which they are read.
      names: of the datasets; default: those of the first files without suffix, numbered if two are equal.
      tokens: byte-pair encodings learned from the training documents of all datasets, or bytes.
      vocabulary: V wanted of byte-pair encodings.
      length: L, labels of a window.
      split: what a document is.
      validation: K.
      test: M.
      seed: where in the text the held-out documents are; equal datasets have equal ones.

    Returns:
      The datasets, in one vocabulary. Windows are cut from the documents as one stream, a blank line (for lines: a line break)
      after each.

    Raises:
      InputError: files that cannot be used, fewer windows than asked with half of a dataset held out, unknown choices.

    >>> import pathlib, tempfile
    >>> paths = [pathlib.Path(tempfile.mkdtemp()) / name for name in ("sums.txt", "products.txt")]
    >>> _ = paths[0].write_text("\\n".join(f"{i} plus {i} is {2 * i}" for i in range(99)))
    >>> _ = paths[1].write_text("\\n".join(f"{i} times {i} is {i * i}" for i in range(99)))
    >>> sums, _ = texts([paths[:1], paths[1:]], split="lines", vocabulary=64, length=8, validation=4, test=4)
    >>> sums.name, sums.vocabulary, sums.validation.shape
    ('sums', 64, (4, 9))
    >>> text_data.load_tokenizer(sums.tokenizer).decode(sums.train[0])
    '0 plus 0 is 0\\n2'
    """
    if isinstance(files, (str, PathLike)) or any(isinstance(group, (str, PathLike)) for group in files):
        raise InputError("files are not grouped by dataset: give a list of paths for each, such as [['a.txt'], ['b.txt']]")
    documents = [text_data.read_documents(group, split) for group in files]
    if names is None:
        stems = [Path(group[0]).stem for group in files]
        names = stems if len(set(stems)) == len(stems) else [f"{stem}-{i + 1}" for i, stem in enumerate(stems)]
    return _built(
        documents,
        names,
        tokens=tokens,
        vocabulary=vocabulary,
        length=length,
        separator=_SEPARATOR[split],
        held_out={"validation": validation, "test": test},
        seed=seed,
    )


def library(
    shift: Literal["weak", "strong"],
    *,
    tokens: Tokens = "bpe",
    vocabulary: int = 512,
    length: int = 32,
    validation: int = 128,
    test: int = 256,
) -> tuple[Dataset, Dataset]:
    """Two datasets from the standard library of the running Python, built like those of ``texts``.

    Args:
      shift: "weak": docstrings of the first and of the second half of its files; "strong": docstrings, then code without them.
      tokens: byte-pair encodings, or bytes.
      vocabulary: V wanted of byte-pair encodings.
      length: L, labels of a window.
      validation: K.
      test: M.

    Returns:
      The datasets. A document is a docstring, or the code of one file.

    Raises:
      InputError: fewer windows than asked, unknown choices.

    No example: it takes half a minute to read all files.
    """
    if shift == "weak":
        names, parts = ("docstrings-1", "docstrings-2"), library_data.halves(library_data.docstrings())
    elif shift == "strong":
        names, parts = ("docstrings", "source"), (library_data.docstrings(), library_data.source())
    else:
        raise InputError(f"shift must be weak or strong, not {shift!r}")
    first, second = _built(
        [[document.text for document in part] for part in parts],
        names,
        tokens=tokens,
        vocabulary=vocabulary,
        length=length,
        separator="\n\n",
        held_out={"validation": validation, "test": test},
        seed=0,
    )
    return first, second


def _built(
    documents: Sequence[Sequence[str]],
    names: Sequence[str],
    *,
    tokens: Tokens,
    vocabulary: int,
    length: int,
    separator: str,
    held_out: dict[str, int],
    seed: int,
) -> tuple[Dataset, ...]:
    """A dataset from each list of documents."""
    if tokens not in ("bpe", "bytes"):
        raise InputError(f"tokens must be bpe or bytes, not {tokens!r}")
    if not documents:
        raise InputError("the sequence has no dataset: give at least one group of files")
    if len(names) != len(documents):
        raise InputError(f"{len(names)} name(s) for {len(documents)} dataset(s): give one for each")
    if len(set(names)) != len(names):
        raise InputError(f"two datasets are called alike ({', '.join(names)}): give each a name of its own")
    for name, value in {"vocabulary": vocabulary, "length": length, **held_out}.items():
        check_whole(name, value, least=1)
    check_whole("seed", seed, least=0)
    # A token has a byte or more; how many more is seen once there is a tokenizer, which must not see what is held out.
    wanted = sum(held_out.values()) * length
    shares = [min(0.5, wanted / max(1, sum(len(text.encode()) for text in texts))) for texts in documents]
    while True:
        parts = _parted(documents, shares, held_out, seed)
        tokenizer = _tokenizer(tokens, vocabulary, [text for part in parts for text in part["train"]], separator)
        cut = [{name: _windows(part[name], tokenizer, length, separator) for name in held_out} for part in parts]
        needs = [max(n / max(1, len(windows[name])) for name, n in held_out.items()) for windows in cut]
        if all(need <= 1 or share == 0.5 for need, share in zip(needs, shares, strict=True)):
            break
        shares = [min(0.5, share * 1.1 * need) if need > 1 else share for need, share in zip(needs, shares, strict=True)]
    found = []
    for name, part, windows in zip(names, parts, cut, strict=True):
        train = _windows(part["train"], tokenizer, length, separator)
        for of, n, got in [*((of, n, len(windows[of])) for of, n in held_out.items()), ("train", 1, len(train))]:
            if got < n:
                raise InputError(
                    f"dataset {name!r} gives {got} {of} window(s), not {n}: ask for fewer, shorten the length, or give more text "
                    "(up to half of it is held out, and no text that is in another set)"
                )
        chosen = {of: windows[of][(2 * np.arange(n) + 1) * len(windows[of]) // (2 * n)] for of, n in held_out.items()}
        found.append(Dataset(name, train, chosen["validation"], chosen["test"], tokenizer.vocabulary, tokenizer.saved))
    return tuple(found)


def _parted(
    documents: Sequence[Sequence[str]], shares: Sequence[float], held_out: Mapping[str, int], seed: int
) -> list[dict[str, list[str]]]:
    """For each dataset its training and held-out documents, in their order, none to two kinds of set."""
    parts = []
    for texts, share in zip(documents, shares, strict=True):
        total = sum(held_out.values())
        portions = {"train": 1 - share, **{name: share * n / total for name, n in held_out.items()}}
        sizes = [max(1, len(text.encode())) for text in texts]
        # Each document goes to the set with the least text for its portion, so all fill evenly from beginning to end.
        phase = np.random.default_rng(seed).random(len(portions)) * float(np.mean(sizes))
        filled = {name: float(start) / portions[name] for name, start in zip(portions, phase, strict=True)}
        part: dict[str, list[str]] = {name: [] for name in portions}
        for text, size in zip(texts, sizes, strict=True):
            name = min(filled, key=filled.__getitem__)
            part[name].append(text)
            filled[name] += size / portions[name]
        parts.append(part)
    seen = {text for part in parts for text in part["train"]}
    for name in held_out:
        for part in parts:
            part[name] = [text for text in part[name] if text not in seen]
        seen |= {text for part in parts for text in part[name]}
    return parts


def _tokenizer(tokens: Tokens, vocabulary: int, documents: list[str], separator: str) -> Tokenizer:
    if tokens == "bytes":
        return text_data.byte_tokenizer()
    return text_data.train_tokenizer(documents + [separator] * len(documents), vocabulary)


def _windows(documents: Sequence[str], tokenizer: Tokenizer, length: int, separator: str) -> np.ndarray:
    """``text.packed``, but no windows where the documents are too short."""
    ids, end = [tokenizer.encode(text) for text in documents], tokenizer.encode(separator)
    if sum(map(len, ids)) + len(ids) * len(end) <= length:
        return np.zeros((0, length + 1), np.int32)
    return text_data.packed(ids, length, end)


def check(datasets: Sequence[Dataset]) -> None:
    """Fail unless one model can be trained on the datasets one after the other.

    Args:
      datasets: a sequence of datasets.

    Raises:
      InputError: none, equal names, arrays that are no windows, other lengths, ids outside the vocabulary, other vocabularies.

    >>> ids = np.array([[5, 6, 7]], np.int32)
    >>> check([Dataset("a", ids, ids, ids, 512, "bpe"), Dataset("b", ids, ids, ids, 300, "bpe")])
    Traceback (most recent call last):
    olm.errors.InputError: datasets 'a' and 'b' have different vocabularies (512 and 300 ids): encode both with one tokenizer;
      olm.tasks.sequence.texts builds a joint one from all files
    """
    if not datasets:
        raise InputError("the sequence has no dataset: give at least one")
    names = set()
    for dataset in datasets:
        if dataset.name in names:
            raise InputError(f"two datasets are called {dataset.name!r}: give each a name of its own")
        names.add(dataset.name)
    for dataset in datasets:
        for part in ("train", "validation", "test"):
            tokens = getattr(dataset, part)
            shape: tuple[int, ...] = getattr(tokens, "shape", ())
            kind = getattr(getattr(tokens, "dtype", None), "kind", None)
            if len(shape) != 2 or shape[0] < 1 or shape[1] < 2 or kind not in ("i", "u"):
                raise InputError(f"{part} of dataset {dataset.name!r} is no table of ids [windows, L+1]: give one, with a window")
            if shape[1] != datasets[0].train.shape[1]:
                raise InputError(
                    f"{part} of dataset {dataset.name!r} has windows of {shape[1]} ids, train of {datasets[0].name!r} of "
                    f"{datasets[0].train.shape[1]}: cut all to one length"
                )
            low, high = int(tokens.min()), int(tokens.max())
            if low < 0 or high >= dataset.vocabulary:
                raise InputError(
                    f"{part} of dataset {dataset.name!r} has the id {low if low < 0 else high}, outside the vocabulary "
                    f"0 … {dataset.vocabulary - 1}: give the vocabulary that the text was encoded with"
                )
    for one, two in itertools.pairwise(datasets):
        if (one.vocabulary, one.tokenizer) != (two.vocabulary, two.tokenizer):
            other = "" if one.vocabulary != two.vocabulary else " that mean other text"
            raise InputError(
                f"datasets {one.name!r} and {two.name!r} have different vocabularies ({one.vocabulary} and {two.vocabulary} ids"
                f"{other}): encode both with one tokenizer; olm.tasks.sequence.texts builds a joint one from all files"
            )


def fingerprint(datasets: Sequence[Dataset]) -> str:
    """A short hash of all windows, names and vocabularies, in their order.

    Args:
      datasets: a sequence of datasets.

    Returns:
      16 hexadecimal digits.

    >>> ids = np.array([[5, 6, 7]], np.int32)
    >>> one, two = (Dataset(name, ids, ids, ids, 8, "words") for name in "ab")
    >>> fingerprint([one, two]) == fingerprint([two, one])
    False
    """
    parts = [
        [np.frombuffer(f"{x.name} {x.vocabulary} {x.tokenizer}".encode(), np.uint8), x.train, x.validation, x.test]
        for x in datasets
    ]
    return fingerprint_of_tree(parts)[:16]
