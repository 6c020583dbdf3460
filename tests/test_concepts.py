"""Readers of CommonGen's files, on made-up files of the same formats."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from olm.data.concepts import ConceptSet, Pair, read_jsonl, read_pairs, read_sets
from olm.errors import InputError

SETS = [("dog", "run", "field"), ("cat", "sit"), ("cat", "sit"), ("ski", "mountain", "wear", "coat")]
SENTENCES = [
    ["A dog runs in the field.", "field dogs run"],
    ["The cat sat ."],
    ["Sit, cat!", "two cats sit — naïvely", "The cat sat ."],
    ["Skiers wear coats on mountains."],
]


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_pairs_are_the_lines_of_two_files(tmp_path: Path) -> None:
    expected = [Pair(one, text) for one, several in zip(SETS, SENTENCES, strict=True) for text in several]
    for end, newline, mark in (("", "\n", b""), ("\n", "\n", b""), ("\r\n", "\r\n", b"\xef\xbb\xbf"), (" \n\n", " \n", b"")):
        source = newline.join(" ".join(concepts) for concepts, _ in expected) + end
        target = newline.join(sentence for _, sentence in expected) + end
        paths = write(tmp_path / "src", mark + source.encode()), write(tmp_path / "tgt", mark + target.encode())
        assert read_pairs(*paths) == expected and len(expected) == 7


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_sets_have_the_references_of_their_block(end: str, tmp_path: Path) -> None:
    keys = write(tmp_path / "keys", "\n".join(map(" ".join, SETS)) + end)
    references = write(tmp_path / "refs", "\n\n".join(map("\n".join, SENTENCES)) + end)
    expected = [ConceptSet(one, tuple(several)) for one, several in zip(SETS, SENTENCES, strict=True)]
    assert read_sets(keys, references) == expected
    assert read_sets(str(keys)) == [ConceptSet(one, ()) for one in SETS]


def test_rows_of_json_lose_their_tags(tmp_path: Path) -> None:
    rows = [
        {"concept_set": "field_N#ice_cream_N#stand_V", "scene": ["They stood. ", "A field"], "reason": ["n/a"]},
        {"concept_set": "dog", "scene": []},
    ]
    path = write(tmp_path / "rows", "\n".join(map(json.dumps, rows)) + "\n")
    assert read_jsonl(path) == [
        ConceptSet(("field", "ice_cream", "stand"), ("They stood.", "A field")),
        ConceptSet(("dog",), ()),
    ]


GOOD = b'{"concept_set": "dog_N", "scene": ["A dog."]}\n'
CASES = {
    "no source": (lambda a, b: read_pairs(a.with_name("none"), b), b"", b"x", "cannot read {none}: No such file or directory"),
    "empty": (read_pairs, b"dog", b" \n", "{b} is empty: give a file with text"),
    "latin": (read_pairs, b"caf\xe9", b"x", "{a} is not UTF-8: byte 3 is 0xe9; convert the file to UTF-8"),
    "fewer": (
        read_pairs,
        b"dog\ncat\n",
        b"A dog.\n",
        "{a} has 2 lines, {b} 1: give files whose lines belong together",
    ),
    "no concepts": (
        read_pairs,
        b"dog\n \ncat\n",
        b"x\ny\nz\n",
        "{a}, line 2: no concepts: write them between spaces, or drop the line",
    ),
    "no sentence": (
        read_pairs,
        b"dog\ncat\ncow",
        b"x\n\nz\n",
        "{b}, line 2: no sentence: write one, or drop the line from both files",
    ),
    "no first concepts": (
        lambda a, b: read_sets(a),
        b"\ndog",
        b"",
        "{a}, line 1: no concepts: write them between spaces, or drop the line",
    ),
    "blocks": (
        read_sets,
        b"dog\ncat\n",
        b"A dog.\nA cat.\n",
        "{a} has 2 lines, {b} references of 1 sets: give files of the same sets, a blank line between the references of two",
    ),
    "no references": (read_sets, b"dog", b"", "{b} is empty: give a file with text"),
    "no JSON": (lambda a, b: read_jsonl(a), GOOD + b"dog", b"", "{a}, line 2: no row of JSON: give one object a line"),
    "a blank row": (lambda a, b: read_jsonl(a), GOOD + b"\n" + GOOD, b"", "{a}, line 2: no row of JSON: give one object a line"),
    "no object": (lambda a, b: read_jsonl(a), b"[1]", b"", "{a}, line 1: no row of JSON: give one object a line"),
    "no scene": (
        lambda a, b: read_jsonl(a),
        GOOD + b'{"concept_set": "dog_N"}',
        b"",
        "{a}, line 2: no field 'scene': give rows with concept_set and scene",
    ),
    "no set": (
        lambda a, b: read_jsonl(a),
        b'{"scene": []}',
        b"",
        "{a}, line 1: no field 'concept_set': give rows with concept_set and scene",
    ),
    "one text": (
        lambda a, b: read_jsonl(a),
        b'{"concept_set": "dog_N", "scene": "A dog."}',
        b"",
        "{a}, line 1: concept_set is no text or scene no list of texts: correct the row",
    ),
    "no letters": (
        lambda a, b: read_jsonl(a),
        b'{"concept_set": "dog_N#_V", "scene": []}',
        b"",
        "{a}, line 1: concept_set 'dog_N#_V' has a concept without letters: name the concepts between #",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_files_are_named_with_their_line(case: str, tmp_path: Path) -> None:
    call: Callable
    call, first, second, message = CASES[case]
    a, b = write(tmp_path / "a.txt", first), write(tmp_path / "b.txt", second)
    with pytest.raises(InputError) as error:
        call(a, b)
    assert str(error.value) == message.format(a=a, b=b, none=tmp_path / "none")
