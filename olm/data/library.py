"""The Python standard library as text that is on every machine: its docstrings, and its code without them.

Read with ``ast`` from the files of the running Python, in the order of their paths. Left out are tests, installed packages, files
that a build generates, ``pydoc_data`` (the language reference in one string), and files that do not parse.

Not done: the same text everywhere. Another Python version has other files, and some distributions leave out packages.
"""

from __future__ import annotations

import ast
import functools
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from olm.errors import InputError

_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "pydoc_data"}
_SCOPES = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Document(NamedTuple):
    """A text of the standard library.

    Attributes:
      path: its file, relative to the library's folder, with slashes.
      text: what it says.
    """

    path: str
    text: str


def docstrings(below: str = "") -> list[Document]:
    """All docstrings of modules, classes and functions, cleaned as by ``inspect.cleandoc``.

    Args:
      below: only files whose path starts so, such as "json/"; default: all.

    Returns:
      One document for each docstring, in the order of paths and of places in the file.

    >>> documents = docstrings("json/")
    >>> documents[0].path, documents[0].text[:44]
    ('json/__init__.py', 'JSON (JavaScript Object Notation) <https://j')
    """
    return [document for path in _paths() if path.startswith(below) for document in _docstrings(path)]


def source(below: str = "") -> list[Document]:
    """All code, as ``ast.unparse`` writes it, without comments and without statements that are only a string.

    Args:
      below: only files whose path starts so; default: all.

    Returns:
      One document for each file that holds code, in the order of paths.

    >>> [document.text for document in source("json/tool")][0][:27]
    'import argparse\\nimport json'
    """
    return [document for path in _paths() if path.startswith(below) for document in _source(path)]


def halves(documents: Sequence[Document]) -> tuple[list[Document], list[Document]]:
    """Cuts documents between two files so that both halves have about equal bytes.

    Args:
      documents: in the order of their paths.

    Returns:
      The first and the second half: different packages.

    Raises:
      InputError: documents of fewer than two files.

    >>> first, second = halves([Document("a", "xx"), Document("b", "y"), Document("b", "y"), Document("c", "zzzzz")])
    >>> len(first), len(second)
    (3, 1)
    """
    cuts = [i for i in range(1, len(documents)) if documents[i - 1].path != documents[i].path]
    if not cuts:
        raise InputError("documents of one file cannot be halved between two files: give those of more files")
    total = np.cumsum([len(document.text.encode()) for document in documents])
    cut = min(cuts, key=lambda i: abs(2 * int(total[i - 1]) - int(total[-1])))
    return list(documents[:cut]), list(documents[cut:])


def _folder() -> Path:
    return Path(sysconfig.get_path("stdlib"))


@functools.cache
def _paths() -> tuple[str, ...]:
    folder = _folder()
    found = []
    for path in folder.rglob("*.py"):
        relative = path.relative_to(folder)
        generated = relative.name.startswith("_sysconfigdata") or relative.parts[0].startswith("config-")
        if not generated and not _FOLDERS & set(relative.parts) and relative.name != "sitecustomize.py":
            found.append(relative.as_posix())
    return tuple(sorted(found))


def _parse(path: str) -> ast.Module | None:
    with warnings.catch_warnings():  # a file may hold escapes that a newer Python warns of
        warnings.simplefilter("ignore")
        try:
            return ast.parse((_folder() / path).read_bytes())
        except (SyntaxError, ValueError, OSError):
            return None


@functools.cache
def _docstrings(path: str) -> tuple[Document, ...]:
    tree = _parse(path)
    nodes = [node for node in ast.walk(tree) if isinstance(node, _SCOPES)] if tree else []
    # By place in the file; ast.walk goes through it level by level.
    found = sorted((node.body[0].lineno, node.body[0].col_offset, text) for node in nodes if (text := ast.get_docstring(node)))
    return tuple(Document(path, text) for _, _, text in found if text.strip() and _is_utf8(text))


@functools.cache
def _source(path: str) -> tuple[Document, ...]:
    tree = _parse(path)
    if tree is None:
        return ()
    for node in ast.walk(tree):
        for part, statements in _blocks(node):
            # All strings that stand alone: behind a docstring that is taken out, the next one would become the docstring.
            kept = [statement for statement in statements if not _is_string(statement)]
            setattr(node, part, kept or [ast.Pass()])
    if all(isinstance(statement, ast.Pass) for statement in tree.body):
        return ()
    try:
        text = ast.unparse(tree)
    except (ValueError, RecursionError):  # text that this Python reads but cannot write
        return ()
    return (Document(path, text),) if _is_utf8(text) else ()


def _blocks(node: ast.AST) -> Iterator[tuple[str, list[ast.stmt]]]:
    for part in ("body", "orelse", "finalbody"):
        statements = getattr(node, part, None)
        if isinstance(statements, list) and statements:
            yield part, statements


def _is_string(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str)
    )


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True
