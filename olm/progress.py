"""A progress bar with a few numbers and the time left, on standard error; nothing at all where it is off."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

__all__ = ["Bar"]


class Bar:
    """A bar of ``total`` units of which ``done`` are done.

    Args:
      total, done: counts.
      on: False: show nothing.
      unit, name: what is counted, and what goes on.

    >>> bar = Bar(10, 0, on=False, unit="step", name="train")
    >>> bar.show(3, {"loss": 0.5})
    >>> bar.close()
    """

    def __init__(self, total: int, done: int, *, on: bool, unit: str, name: str):
        self._bar: Any = None
        if on:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=total, initial=done, unit=unit, desc=name, dynamic_ncols=True)

    def show(self, done: int, numbers: Mapping[str, float], message: str = "") -> None:
        """Move to ``done`` units, with numbers beside the bar and a line above it."""
        if self._bar is not None:
            self._bar.set_postfix({name: f"{value:.5g}" for name, value in numbers.items()}, refresh=False)
            self._bar.update(done - self._bar.n)
            if message:
                self._bar.write(message, file=sys.stderr)

    def close(self) -> None:
        """Leave the last state on the screen."""
        if self._bar is not None:
            self._bar.close()
