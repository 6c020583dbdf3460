"""What the commands share: reading flags, opening a run folder, showing results."""

from __future__ import annotations

import contextlib
import datetime
import io
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from olm.errors import InputError
from olm.records import Run, unique_run_dir


def given(arguments: Sequence[str], flag: str) -> str | None:
    """The last value of a flag, before anything is parsed: some flags decide what the others' defaults are."""
    found = None
    for place, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == flag:
            found = value if equals else next(iter(arguments[place + 1 : place + 2]), None)
    return found


def refuse_empty(arguments: Sequence[str], task: Any) -> None:
    """Fail on ``--train`` or ``--target`` without a file, as an empty pattern of the shell leaves them.

    Raises:
      InputError: names the flag.
    """
    for name in ("train", "target"):
        if f"--{name}" in arguments and not getattr(task, name, True):
            raise InputError(f"--{name} names no file: name at least one, or leave it out")


def parse(kind: Any, arguments: Sequence[str], *, prog: str, description: str, default: Any = None) -> Any:
    """Flags as a dataclass; what cannot be read becomes one line.

    Raises:
      InputError: an unknown flag or a value that its flag does not take.
      SystemExit: status 0 after ``--help``.
    """
    import tyro

    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                kind,
                args=list(arguments),
                prog=prog,
                description=description,
                default=tyro.MISSING_NONPROP if default is None else default,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise InputError(f"{_one_line(complaint.getvalue())}; see {prog} --help") from None


def _one_line(box: str) -> str:
    """What the box of an error says: its first section, and the flags it suggests."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", box)
    sections: list[list[str]] = [[]]
    for line in (line.strip("│ ") for line in text.splitlines()):
        if re.match(r"[╭╰]", line):
            continue
        if re.fullmatch(r"[─-]{4,}", line):
            sections.append([])
        elif line:
            sections[-1].append(line)
    if "╭" not in text:  # without a frame the title is a section of its own
        sections = sections[1:] or sections
    said = " ".join(sections[0]).rstrip(".") or "the arguments cannot be read"
    hints = (part[1:] for part in sections if part and part[0].startswith("Perhaps"))
    suggested = [line.split()[0] for lines in hints for line in lines if line.startswith("--")]
    return said[0].lower() + said[1:] + (f": did you mean {' or '.join(dict.fromkeys(suggested))}?" if suggested else "")


def check_place(place: Any) -> None:
    """Fail on a folder to write to, or seconds between two states, that make no sense.

    Raises:
      InputError: names the flag.
    """
    if not place.save_every >= 0:
        raise InputError(f"save-every is {place.save_every:g}: give seconds, 0 or more")
    if place.resume is not None and place.run_dir is not None:
        raise InputError("--resume continues in its own folder: leave --run-dir out")


def new_run(run_dir: str | None, name: str, config: Mapping[str, Any], command: Sequence[str]) -> Run:
    """Make the run folder: the one asked for, or the next free one of today."""
    if run_dir is not None:
        return Run.create(run_dir, config, command)
    today = datetime.date.today().isoformat()
    while True:
        path = unique_run_dir("runs", f"{name}-{today}")
        try:
            return Run.create(path, config, command)
        except InputError:
            if not (path / "config.json").exists():  # else another process took the number a moment ago
                raise


def resume_line(path: str | os.PathLike[str], command: str = "search") -> str:
    """The command that continues a run."""
    return shlex.join(["olm", command, "--resume", os.fspath(path)])


def say(text: str) -> None:
    """A line for the user on standard error, where progress is shown."""
    print(f"olm: {text}", file=sys.stderr, flush=True)


def add_group(run: Run, group: Any) -> None:
    """Mark the corrupted examples among those whose weights were kept, so that figures show them apart."""
    curves = run.load("curves")
    # With mini-batches a column of the weights is a place in the batch, not an example.
    if group is None or "weights" not in curves or int(curves["n_examples"]) != len(group):
        return
    run.save("curves", {**curves, "group": group[curves["weights_examples"]]})


def _number(value: Any, form: str) -> str:
    return "–" if value is None or isinstance(value, str) else format(value, form)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    places = [f"<{widths[0]}", *(f">{width}" for width in widths[1:])]
    return ["  ".join(map(format, row, places)).rstrip() for row in rows]


def table(measures: Mapping[str, Any], baseline: str = "uniform", found: str = "found") -> str:
    """Two curves side by side, from the dict of `olm.search.compare`."""
    rows = [[f"measured on {measures['measured_on']}", baseline, found, "found / uniform"]]

    def both(name: str, values: Mapping[str, Any], ratio: str) -> None:
        rows.append([name, *(_number(values[side], ".5g") for side in ("baseline", "found")), ratio])

    both("area under the loss, nats", measures["area"], _number(measures["area_ratio"], ".3f"))
    both("final loss, nats", measures["final"], _number(measures["final_ratio"], ".3f"))
    both("compression ratio", measures["compression_ratio"], "")
    if "area_above_entropy_ratio" in measures:
        rows.append(["area above the source's entropy", "", "", _number(measures["area_above_entropy_ratio"], ".3f")])
    rows.append(["step length", "", "", _number(measures["step_length_ratio"], ".3f")])
    rows.append(["acceleration", "", "", f"{_number(measures['acceleration'], '.3g')}×"])
    rows.append(["acceleration, first crossing", "", "", f"{_number(measures['acceleration_first'], '.3g')}×"])
    rows.append(["acceleration, to the baseline's least loss", "", "", f"{_number(measures['acceleration_least'], '.3g')}×"])
    return "\n".join(aligned(rows))


def finish(run: Run, on_missing: Callable[[str], None] | None = None) -> Path:
    """Draw the figures and the report, and say where they lie."""
    from olm.report import write_report

    path = write_report(run.path, on_missing)
    print(f"report: {path}")
    return path
