"""The command line.

::

    olm search perceptron                                    # a search; results under runs/
    olm search language --train stories.txt --target good.txt
    olm search perceptron --learning-rate 1 --policy static --evaluations 20 --run-dir runs/static
    olm search perceptron --grid                             # also each side at its own best learning rate
    olm search --resume runs/static --evaluations 40         # after an interrupt, or to go on
    olm train runs/static --seed 1                           # replay the found policy from another start
    olm train perceptron --policy runs/static/policy.npz --learning-rate 2
    olm report runs/static                                   # draw figures and report.html again
    olm law runs/static                                      # contributions, similarity, properties 4.1 to 4.3
    olm fit runs.csv --law chinchilla --bootstrap 1000       # a scaling law of a table of runs
    olm continue stories --shift strong --replay 0.25        # one dataset after another, with replay
    olm continue text --files old.txt new.txt --budget-forgetting 0.03   # the share of old text that keeps its loss within 3%
    olm control train --text my.txt --keywords "dog" "run|ran"   # text that holds given words; then generate, evaluate
    olm memory runs/stories                                  # what it knows by heart, radii and retrieval of its layers
    olm compare baseline.csv mine.csv                        # by how much the coefficients of L0 + (B/t)^β improve

``python -m olm`` is the same. Results are printed on standard output, progress and messages on standard error. Exit status:
0 done; 2 the input cannot be used and nothing was written; 3 the search diverged or the disk is full, what was good before is
kept; 130 interrupted, the best so far is kept.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from olm.errors import DivergenceError, InputError, StorageError

__all__ = ["main"]

COMMANDS = {
    "search": "find the policy under which a model learns fastest",
    "train": "train with a found policy and compare it with uniform weights",
    "report": "draw a run's figures and its report again",
    "law": "test the Learning Law along a run",
    "fit": "fit a scaling law to a table of runs",
    "continue": "train on one dataset after another, with replay: what is kept, what is learned",
    "control": "write text that holds given words: train, generate, evaluate",
    "memory": "measure what a run's transformer knows by heart",
    "compare": "compare learning curves with a baseline's, by the coefficients of their scaling laws",
}

HELP = """usage: olm COMMAND ...

Find the learning policy that makes a model learn fastest.

{commands}

olm COMMAND --help says more; olm --version shows what is installed."""


def _help() -> str:
    return HELP.format(commands="\n".join(f"  {name:<8} {about}" for name, about in COMMANDS.items()))


def _version() -> str:
    from olm.records import versions

    return "\n".join(f"{name} {value}" for name, value in versions().items())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
      arguments: as in ``sys.argv[1:]``; None: those.

    Returns:
      The exit status.

    >>> main(["--help"])
    usage: olm COMMAND ...
    ...
    0
    """
    if arguments is None:
        for stream in (sys.stdout, sys.stderr):
            # A terminal that cannot show η shows a question mark, not a traceback.
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(words)
    except (InputError, StorageError, DivergenceError) as error:
        print(f"olm: {error}", file=sys.stderr)
        return error.exit_status
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):  # how JAX says it
            raise
        print(
            "olm: out of memory: process fewer examples at once with --chunk-size, or keep fewer states with "
            "--adjoint segmented or offloaded",
            file=sys.stderr,
        )
        return 3
    except KeyboardInterrupt:
        print("olm: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except SystemExit as end:
        return int(end.code or 0)


def _run(words: list[str]) -> int:
    if not words:
        raise InputError(f"give a command, one of {', '.join(COMMANDS)}; see olm --help")
    if words[0] in ("-h", "--help"):
        print(_help())
        return 0
    if words[0] == "--version":
        print(_version())
        return 0
    if words[0] not in COMMANDS:
        raise InputError(f"unknown command {words[0]!r}: choose one of {', '.join(COMMANDS)}; see olm --help")
    # A command's module, with what it needs, is loaded when it runs.
    module = {"continue": "continual"}.get(words[0], words[0])  # a keyword of Python names no module
    return importlib.import_module(f"olm.cli.{module}").run(words[1:])
