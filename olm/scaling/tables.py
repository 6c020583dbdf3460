"""Tables of runs from CSV files, columns by name; whatever cannot be used is named by file, line and column.

A column is found by its own name, by one of its usual names (`ALIASES`, whatever the case), or by the name that the caller
gives it. Where two of N, D and C are there the third follows from C = 6 N D. Read with the standard library: quoted cells, a
byte order mark, any line ends; commas, or semicolons or tabs where the header has no comma. Lines are counted as an editor does.
"""

from __future__ import annotations

import csv
import difflib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from olm.errors import InputError
from olm.scaling.problem import wrong_unit

__all__ = ["ALIASES", "Table", "learning_curves", "read_table", "split_pairs"]

ALIASES: dict[str, tuple[str, ...]] = {
    "N": ("params", "parameters", "n_params", "num_params", "model_size"),
    "D": ("tokens", "n_tokens", "num_tokens", "d_tokens", "training_tokens"),
    "C": ("flops", "flop", "compute", "training_flops"),
    "loss": ("L", "final_loss", "val_loss", "validation_loss", "eval_loss", "test_loss"),
    "S": ("steps", "step", "iterations"),
    "U": ("unique_tokens", "unique", "n_unique"),
    "r": ("ratio", "domain_ratio"),
    "R": ("ratio", "domain_ratio"),
    "T": ("tokens",),
    "step": ("steps", "iteration", "iterations", "global_step"),
    "lr": ("learning_rate", "rate", "eta"),
}
"""Names that a column is also known by."""


@dataclass(frozen=True)
class Table:
    """Columns of numbers and where they came from.

    Attributes:
      columns: {name: [rows] float64}; of labels, int or str.
      lines: [rows], the line of the file where each row begins, the first line being 1.
      path: the file.
      header: every column name of the file.
      derived: names of columns that were computed from C = 6 N D.
    """

    columns: dict[str, np.ndarray]
    lines: np.ndarray
    path: str
    header: tuple[str, ...]
    derived: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.lines)


def split_pairs(words: Sequence[str], flag: str) -> dict[str, str]:
    """Words such as ``N=params,D=tokens`` as a dict; the last value of a name counts.

    Args:
      words: each one or more NAME=VALUE, separated by commas.
      flag: what the message calls them.

    Returns:
      {NAME: VALUE}.

    Raises:
      InputError: a part without a name or a value.

    >>> split_pairs(["N=params,D=tokens", "loss=final"], "--columns")
    {'N': 'params', 'D': 'tokens', 'loss': 'final'}
    """
    found = {}
    for part in (part for word in words for part in word.split(",")):
        name, equals, value = part.partition("=")
        if not (equals and name.strip() and value.strip()):
            raise InputError(f"{flag} {part!r} cannot be read: write {flag} NAME=VALUE")
        found[name.strip()] = value.strip()
    return found


def read_table(
    path: str | os.PathLike[str],
    needed: Sequence[str] = ("N", "D", "loss"),
    *,
    optional: Sequence[str] = (),
    labels: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    where: Mapping[str, str] | None = None,
    positive: Sequence[str] | None = None,
    flops_per_token: float = 6.0,
    check_units: bool = True,
) -> Table:
    """Read columns of numbers from a CSV file with a header line.

    Args:
      path: the file.
      needed: names of the columns to read; of N, D and C one may be computed from the others, C = 6 N D.
      optional: further names, read where the file has them.
      labels: those among both whose cells are names of something, such as a run, and need not be numbers.
      columns: {name: the file's name for it}; the others are found by their names and `ALIASES`.
      where: {the file's column: value}; rows with other values are passed over before anything else of them is read.
      positive: names of columns whose cells must be above 0; None: all that are read.
      flops_per_token: c of C = c N D.
      check_units: refuse N or D that look like millions or billions (`olm.scaling.problem.wrong_unit`).

    Returns:
      A `Table` with the ``needed`` columns and the ``optional`` ones found.

    Raises:
      InputError: one line that names the file, the line, the column and the repair.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "runs.csv"
    >>> _ = file.write_text("params,C,loss,set\\n1e8,6e17,3.2,a\\n2e8,6e18,2.9,a\\n2e8,6e18,2.7,b\\n")
    >>> table = read_table(file, where={"set": "a"})
    >>> table["D"].tolist(), table.lines.tolist(), table.derived
    ([1000000000.0, 5000000000.0], [2, 3], ('D',))
    >>> read_table(file, ["S"])
    Traceback (most recent call last):
    olm.errors.InputError: ...runs.csv has no column S: its columns are params, C, loss, set; say which with --columns S=NAME
    """
    name = os.fspath(path)
    header, rows = _cells(name)
    columns, where = dict(columns or {}), dict(where or {})
    known = list(dict.fromkeys([*needed, *optional, "N", "D", "C"]))
    if strange := [wanted for wanted in columns if wanted not in known]:
        raise InputError(
            f"--columns {strange[0]}={columns[strange[0]]}: nothing here is called {strange[0]}: name {', '.join(known)}"
        )
    for column in where:
        _only(name, header, column, f"--where {column}={where[column]}")
    kept = [(line, row) for line, row in rows if all(_same(row[header.index(c)], v) for c, v in where.items())]
    if not kept:
        if not where:
            raise InputError(f"{name} has a header and no rows: give one row a run")
        column = next(iter(where))
        seen = list(dict.fromkeys(row[header.index(column)] for _, row in rows))
        shown = ", ".join(seen[:6]) + (", …" if len(seen) > 6 else "")
        wanted = " and ".join(f"{c} = {v}" for c, v in where.items())
        raise InputError(f"{name} has no row with {wanted}: column {column} holds {shown or 'nothing'}")

    def place(wanted: str) -> int | None:
        if wanted in columns:
            return _only(name, header, columns[wanted], f"--columns {wanted}={columns[wanted]}")
        if wanted in header:
            return _only(name, header, wanted, wanted)
        # A single letter counts as it is written: d is a width as often as it is the data.
        aliases = {alias.lower() if len(alias) > 1 else alias for alias in (wanted, *ALIASES.get(wanted, ()))}
        others = {*needed, *optional} - {wanted}  # a column that bears another wanted name is that one
        matches = [
            column for column in header if (column.lower() if len(column) > 1 else column) in aliases and column not in others
        ]
        if len(matches) > 1:
            raise InputError(f"{name}: column {wanted} may be {' or '.join(matches)}: say which with --columns {wanted}=NAME")
        return header.index(matches[0]) if matches else None

    found: dict[str, np.ndarray] = {}
    # N, D and C that nobody asked for are read only where one that is wanted has to be computed from them.
    lacking = [name for name in ("N", "D", "C") if name in needed and place(name) is None]
    for wanted in dict.fromkeys([*needed, *optional, *(["N", "D", "C"] if lacking else [])]):
        at = place(wanted)
        if at is not None and wanted in labels:
            found[wanted] = np.array([_label(name, line, header[at], row[at]) for line, row in kept], dtype=object)
        elif at is not None:
            above = positive is None or wanted in positive
            found[wanted] = np.array([_number(name, line, header[at], row[at], above, wanted) for line, row in kept])
    derived = tuple(wanted for wanted in needed if wanted not in found and _derive(wanted, found, flops_per_token))
    for wanted in needed:
        if wanted not in found:
            why = f"; it follows from two of N, D and C = {flops_per_token:g} N D" if wanted in ("N", "D", "C") else ""
            raise InputError(
                f"{name} has no column {wanted}: its columns are {', '.join(header)}; say which with --columns {wanted}=NAME{why}"
            )
    if check_units:
        _refuse_units(name, kept, found, [n for n in ("N", "D") if n in needed or n in optional], derived)
    return Table(
        {wanted: found[wanted] for wanted in [*needed, *optional] if wanted in found},
        np.array([line for line, _ in kept]),
        name,
        tuple(header),
        derived,
    )


def learning_curves(table: Table) -> dict[float, dict[Any, tuple[np.ndarray, np.ndarray]]]:
    """A table of columns step, loss and, where there are several curves, N and seed, as curves sorted by step.

    Args:
      table: read with ``labels=("seed",)``.

    Returns:
      N → seed → (steps [n], losses [n]); N or seed is 0 where the table has no such column.

    Raises:
      InputError: naming the line of a step below 0 or of one that is there twice.

    >>> columns = {"step": np.array([2.0, 1.0]), "loss": np.array([3.0, 4.0])}
    >>> table = Table(columns, np.array([2, 3]), "runs.csv", ("step", "loss"), ())
    >>> learning_curves(table)[0][0][1].tolist()
    [4.0, 3.0]
    """
    sizes, seeds = (table.columns.get(name, np.zeros(len(table), int)) for name in ("N", "seed"))
    found: dict[float, dict[Any, tuple[np.ndarray, np.ndarray]]] = {}
    pairs = {*zip(sizes.tolist(), seeds.tolist(), strict=True)}
    for size, seed in sorted(pairs, key=lambda pair: (pair[0], isinstance(pair[1], str), pair[1])):
        these = np.flatnonzero((sizes == size) & (seeds == seed))
        these = these[np.argsort(table["step"][these], kind="stable")]
        steps = table["step"][these]
        if steps[0] < 0:
            raise InputError(f"{table.path}, line {table.lines[these[0]]}: step {steps[0]:g} is below 0: count steps from 0")
        again = np.flatnonzero(np.diff(steps) == 0)
        if len(again):
            lacking = [name for name in ("N", "seed") if name not in table.columns]
            cure = f"add a column {' or '.join(lacking)} that tells curves apart" if lacking else "keep one row a step"
            raise InputError(
                f"{table.path}, line {table.lines[these[again[0] + 1]]}: step {steps[again[0]]:g} is there twice: {cure}"
            )
        found.setdefault(size, {})[seed] = (steps, table["loss"][these])
    return found


def _cells(name: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and (line, cells) of every row that is not blank."""
    try:
        text = Path(name).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is no UTF-8 text (byte {error.start + 1}): save it as CSV in UTF-8") from None
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        raise InputError(f"{name} is empty: give a header line and one row a run")
    delimiter = "," if "," in first else max(";\t,", key=first.count)
    reader = csv.reader((line + "\n" for line in lines), delimiter=delimiter, skipinitialspace=True, strict=True)
    rows: list[tuple[int, list[str]]] = []
    begin = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append((begin, [cell.strip() for cell in cells]))
            begin = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{name}, line {begin}: {error}: look at the quotation marks") from None
    (_, header), body = rows[0], rows[1:]
    for line, row in body:
        if len(row) != len(header):
            raise InputError(f"{name}, line {line}: {len(row)} cells where the header has {len(header)}: look at its commas")
    return header, body


def _only(name: str, header: list[str], column: str, what: str) -> int:
    """The place of a column that must be there once."""
    count = header.count(column)
    if count > 1:
        raise InputError(f"{name}: {count} columns are named {column}: rename all but one in the header")
    if not count:
        close = difflib.get_close_matches(column, header, 1)
        hint = f" did you mean {close[0]}?" if close else ""
        raise InputError(f"{name} has no column {column}, which {what} names:{hint} its columns are {', '.join(header)}")
    return header.index(column)


def _same(cell: str, value: str) -> bool:
    """Equal as texts, or as numbers."""
    if cell == value.strip():
        return True
    try:
        return float(cell) == float(value)
    except ValueError:
        return False


def _number(name: str, line: int, column: str, cell: str, positive: bool, wanted: str) -> float:
    where = f"{name}, line {line}, column {column}"
    if not cell:
        raise InputError(f"{where}: the cell is empty: fill it in or remove the row")
    try:
        value = float(cell)
    except ValueError:
        before, comma, after = cell.partition(",")
        decimal = comma and "," not in after and len(after) != 3  # 2,83 is no 283, while 1,234 may be 1234
        plain = f"{before}.{after}" if decimal else cell.replace(",", "").replace(" ", "")
        hint = f"write {plain}" if plain != cell and _is_number(plain) else "correct the cell or remove the row"
        raise InputError(f"{where}: {cell!r} is not a number: {hint}") from None
    if not math.isfinite(value):
        raise InputError(f"{where}: {cell} is not finite: correct the cell or remove the row")
    if positive and value <= 0:
        kind = "a loss in nats is above 0" if wanted == "loss" else f"{wanted} must be above 0"
        raise InputError(f"{where}: {cell}, but {kind}: correct the cell or remove the row")
    return value


def _label(name: str, line: int, column: str, cell: str) -> int | str:
    """A whole number as one, so that 1 and 1.0 are the same run; anything else as it stands."""
    if not cell:
        raise InputError(f"{name}, line {line}, column {column}: the cell is empty: fill it in or remove the row")
    return int(float(cell)) if _is_number(cell) and float(cell).is_integer() else cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _derive(wanted: str, found: dict[str, np.ndarray], multiple: float) -> bool:
    """Compute one of N, D and C from the others, in place."""
    rules: dict[str, tuple[str, str, Any]] = {
        "N": ("C", "D", lambda c, d: c / (multiple * d)),
        "D": ("C", "N", lambda c, n: c / (multiple * n)),
        "C": ("N", "D", lambda n, d: multiple * n * d),
    }
    if wanted not in rules or not {rules[wanted][0], rules[wanted][1]} <= set(found):
        return False
    one, other, rule = rules[wanted]
    found[wanted] = rule(found[one], found[other])
    return True


def _refuse_units(
    name: str, kept: list[tuple[int, list[str]]], found: Mapping[str, np.ndarray], names: Sequence[str], derived: Sequence[str]
) -> None:
    wrong = wrong_unit({wanted: found[wanted] for wanted in names if wanted in found})
    if wrong is not None:
        wanted, row, why = wrong
        cause = " (from C = 6 N D: look at the unit of C)" if wanted in derived else ""
        raise InputError(
            f"{name}, line {kept[row][0]}: {wanted} {why}{cause}: give counts, not millions or billions "
            "(check_units=False, on the command line --any-units, if they are counts)"
        )
