"""Errors whose one-line message says what to change; the command line maps each to an exit status."""

from __future__ import annotations

import math
import operator
from typing import Any


class InputError(ValueError):
    """The caller's input cannot be used as it is; nothing was written. Exit status 2."""

    exit_status = 2


class StorageError(OSError):
    """A disk refused or filled up; the last complete state on it is intact. Exit status 3."""

    exit_status = 3


class DivergenceError(ArithmeticError):
    """A computation became non-finite; what was good before is kept. Exit status 3."""

    exit_status = 3


def check_whole(name: str, value: Any, least: int) -> int:
    """Fail unless ``value`` is a whole number, of Python or numpy, of at least ``least``; True and False are none.

    Args:
      name: what the message calls it.
      value: what was given.
      least: the smallest one allowed.

    Returns:
      The number.

    Raises:
      InputError: for anything else.

    >>> check_whole("steps", 3, least=1)
    3
    """
    try:
        if not isinstance(value, bool) and operator.index(value) >= least:
            return operator.index(value)
    except TypeError:  # no whole number at all
        pass
    raise InputError(f"{name} is {value!r}: give a whole number of at least {least}")


def check_number(name: str, value: Any, wanted: str, low: float, high: float, *, open_low: bool = False) -> float:
    """Fail unless ``value`` is a finite real number within [low, high], or (low, high] if ``open_low``.

    Args:
      name: what the message calls it.
      value: what was given; True and False are no numbers.
      wanted: the message's last words.
      low, high: the ends; an infinite one is never reached.

    Returns:
      The number.

    Raises:
      InputError: for anything else.

    >>> check_number("rate", 0.5, "give a positive number", 0, float("inf"), open_low=True)
    0.5
    """
    try:
        number = float("nan") if isinstance(value, (bool, str, bytes)) else float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not (math.isfinite(number) and low <= number <= high and not (open_low and number == low)):
        raise InputError(f"{name} is {value!r}: {wanted}")
    return number


def check_kinds(**arguments: tuple[Any, type]) -> None:
    """Fail at the first argument that is not of its kind.

    Args:
      arguments: ``name=(value, kind)``.

    Raises:
      InputError: for a value that is no instance of its kind.

    >>> check_kinds(adjoint=("direct", int))
    Traceback (most recent call last):
    olm.errors.InputError: adjoint is 'direct': give an int
    """
    for name, (value, kind) in arguments.items():
        if not isinstance(value, kind):
            article = "an" if kind.__name__[0] in "AEIOaeio" else "a"
            raise InputError(f"{name} is {value!r}: give {article} {kind.__name__}")
