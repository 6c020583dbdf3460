"""Errors whose one-line message says what to change; the command line maps each to an exit status."""

from __future__ import annotations


class InputError(ValueError):
    """The caller's input cannot be used as it is; nothing was written. Exit status 2."""

    exit_status = 2


class StorageError(OSError):
    """A disk refused or filled up; the last complete state on it is intact. Exit status 3."""

    exit_status = 3


class DivergenceError(ArithmeticError):
    """A computation became non-finite; what was good before is kept. Exit status 3."""

    exit_status = 3
