"""Sets of concepts and the sentences that hold them: readers of the files of CommonGen (Lin et al. 2020, arXiv 1911.03705).

The task is to write a sentence with all concepts of a set. Training files pair a set with a sentence, line by line; those for
evaluation give a set several references. Sets stay in the order of the files, as often as they occur there.

Not done: fetching the files, splitting them, the rationales of the JSON rows.
"""

from __future__ import annotations

import json
from os import PathLike
from typing import Any, NamedTuple

from olm.data.text import read_documents, read_text
from olm.errors import InputError


class Pair(NamedTuple):
    """A sentence and what it was written about.

    Attributes:
      concepts: words, in the order of the file.
      sentence: the text, without space around it.
    """

    concepts: tuple[str, ...]
    sentence: str


class ConceptSet(NamedTuple):
    """Concepts and sentences that hold them.

    Attributes:
      concepts: words, in the order of the file.
      references: sentences, without space around them; there may be none.
    """

    concepts: tuple[str, ...]
    references: tuple[str, ...] = ()


def read_pairs(sources: str | PathLike[str], targets: str | PathLike[str]) -> list[Pair]:
    """Reads two files of as many lines, of which line i of one belongs to line i of the other.

    Args:
      sources: the concepts of a sentence a line, between spaces.
      targets: a sentence a line.

    Returns:
      A ``Pair`` for each line.

    Raises:
      InputError: a file that is missing, empty or not UTF-8, different numbers of lines, a line without concepts or sentence.

    Example:
      >>> import pathlib, tempfile
      >>> folder = pathlib.Path(tempfile.mkdtemp())
      >>> _ = (folder / "src.txt").write_text("dog run field\\n"), (folder / "tgt.txt").write_text("A dog runs in the field.\\n")
      >>> read_pairs(folder / "src.txt", folder / "tgt.txt")
      [Pair(concepts=('dog', 'run', 'field'), sentence='A dog runs in the field.')]

    Source: Lin et al. 2020, arXiv 1911.03705, the files ``commongen.train.src_alpha.txt`` and ``commongen.train.tgt.txt``.
    """
    sets, sentences = _sets(sources), _lines(targets)
    if len(sets) != len(sentences):
        raise InputError(f"{sources} has {len(sets)} lines, {targets} {len(sentences)}: give files whose lines belong together")
    for number, sentence in enumerate(sentences, 1):
        if not sentence:
            raise InputError(f"{targets}, line {number}: no sentence: write one, or drop the line from both files")
    return [Pair(*pair) for pair in zip(sets, sentences, strict=True)]


def read_sets(keys: str | PathLike[str], references: str | PathLike[str] | None = None) -> list[ConceptSet]:
    """Reads sets of concepts and, from a second file, the references of each.

    Args:
      keys: the concepts of a set a line, between spaces.
      references: a sentence a line, those of a set together; blank lines between sets, which are in the order of ``keys``.

    Returns:
      A ``ConceptSet`` for each line of ``keys``; without a second file they have no references.

    Raises:
      InputError: a file that is missing, empty or not UTF-8, a line without concepts, references of more or fewer sets.

    Example:
      >>> import pathlib, tempfile
      >>> folder = pathlib.Path(tempfile.mkdtemp())
      >>> _ = (folder / "keys.txt").write_text("dog run\\ncat sit\\n")
      >>> _ = (folder / "refs.txt").write_text("A dog runs.\\nRun, dog!\\n\\nThe cat sat.\\n")
      >>> read_sets(folder / "keys.txt", folder / "refs.txt")[0]
      ConceptSet(concepts=('dog', 'run'), references=('A dog runs.', 'Run, dog!'))

    Source: Lin et al. 2020, arXiv 1911.03705, the files ``common_gen-keys-dev.txt`` and ``common_gen-ref-dev.txt``.
    """
    sets = _sets(keys)
    blocks = read_documents([references]) if references is not None else [""] * len(sets)
    if len(sets) != len(blocks):
        raise InputError(
            f"{keys} has {len(sets)} lines, {references} references of {len(blocks)} sets: give files of the same sets, a blank "
            "line between the references of two"
        )
    return [ConceptSet(one, _stripped(block.split("\n"))) for one, block in zip(sets, blocks, strict=True)]


def read_jsonl(path: str | PathLike[str]) -> list[ConceptSet]:
    """Reads rows of JSON, ``{"concept_set": "field_N#look_V", "scene": ["…", …]}``; what follows a concept's last _ is dropped.

    Args:
      path: a row a line; other fields are left out.

    Returns:
      A ``ConceptSet`` for each row.

    Raises:
      InputError: a file that is missing, empty or not UTF-8, a line that is no such row, a row without concepts.

    Example:
      >>> import pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "dev.jsonl"
      >>> _ = path.write_text('{"concept_set": "dog_N#run_V", "scene": ["A dog runs."]}\\n')
      >>> read_jsonl(path)
      [ConceptSet(concepts=('dog', 'run'), references=('A dog runs.',))]

    Source: Lin et al. 2020, arXiv 1911.03705, the file ``commongen.dev.jsonl``.
    """
    found = []
    for number, line in enumerate(_lines(path), 1):
        where = f"{path}, line {number}"
        try:
            row: Any = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise InputError(f"{where}: no row of JSON: give one object a line")
        for field in ("concept_set", "scene"):
            if field not in row:
                raise InputError(f"{where}: no field {field!r}: give rows with concept_set and scene")
        tagged, scene = row["concept_set"], row["scene"]
        if not isinstance(tagged, str) or not isinstance(scene, list) or not all(isinstance(text, str) for text in scene):
            raise InputError(f"{where}: concept_set is no text or scene no list of texts: correct the row")
        concepts = tuple(concept.rpartition("_")[0] if "_" in concept else concept for concept in tagged.split("#"))
        if not all(map(str.strip, concepts)):
            raise InputError(f"{where}: concept_set {tagged!r} has a concept without letters: name the concepts between #")
        found.append(ConceptSet(tuple(map(str.strip, concepts)), _stripped(scene)))
    return found


def _lines(file: str | PathLike[str]) -> list[str]:
    """Lines without space around them; no more behind the last that holds text."""
    return [line.strip() for line in read_text(file).rstrip().split("\n")]


def _sets(file: str | PathLike[str]) -> list[tuple[str, ...]]:
    """The words of each line."""
    sets = [tuple(line.split()) for line in _lines(file)]
    for number, concepts in enumerate(sets, 1):
        if not concepts:
            raise InputError(f"{file}, line {number}: no concepts: write them between spaces, or drop the line")
    return sets


def _stripped(sentences: list[str]) -> tuple[str, ...]:
    return tuple(sentence.strip() for sentence in sentences if sentence.strip())
