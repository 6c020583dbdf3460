"""`olm report`: draw a run's figures and its page again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from olm.cli.common import finish, parse, say
from olm.errors import InputError
from olm.records import Run


@dataclass(frozen=True)
class Report:
    """Settings of `olm report`."""

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """The folder of a run, finished or not."""


def run(words: Sequence[str]) -> int:
    """The command; returns its exit status."""
    if not words:
        raise InputError("name the folder of a run: olm report RUN")
    options = parse(
        Report,
        words,
        prog="olm report",
        description="Draw the figures of a run and its report.html from the files in its folder.",
    )
    finish(Run.open(options.run), on_missing=say)
    return 0
