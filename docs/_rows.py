"""How numbers are written in the rows of `results.py`."""

from __future__ import annotations

from typing import Any

Row = tuple[str, str]
"""What was measured, and its figures."""


def estimate(measure: dict[str, Any], decimals: int = 2, unit: str = "") -> str:
    """``mean [low, high]``, 95%, of an interval over seeds; without the brackets where there is one seed."""
    bounds = [measure.get(name) for name in ("low", "high")]
    if None in bounds:
        return f"{_number(measure['mean'], decimals)}{unit}"
    return f"{_number(measure['mean'], decimals)}{unit} [{', '.join(_number(bound, decimals) for bound in bounds)}]"


def _number(value: float, decimals: int) -> str:
    """A number with so many decimals; zero has no sign."""
    return f"{round(value, decimals) + 0.0:.{decimals}f}"


def times(ratio: float) -> str:
    """A ratio as 1,234×, 56× or 3.21×."""
    return f"{ratio:,.0f}×" if ratio >= 100 else f"{ratio:.2f}×"


def ratios(measures: dict[str, Any], names: dict[str, str]) -> str:
    """The estimates that are there, in a line; of an acceleration also the least."""
    found = []
    for name, shown in names.items():
        if name not in measures:
            continue
        if name.startswith("acceleration"):
            found.append(f"{shown} {estimate(measures[name], unit='×')}, least {measures[name]['min']:.2f}×")
        else:
            found.append(f"{shown} {estimate(measures[name])}")
    return "; ".join(found)


def seeds(result: dict[str, Any]) -> str:
    """How many independent runs, for the text of a row."""
    count = len(result["runs"])
    return f"{count} seed{'s' if count > 1 else ''}"
