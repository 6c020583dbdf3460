"""Scaling laws: fit them to a table of runs, with every start accounted for and intervals that were checked.

>>> from olm.scaling import laws
>>> laws.named("chinchilla").equation
'L = E + A/N^α + B/D^β'
"""

from olm.scaling import compute, curves, intervals, laws, problem, schedules, sizes, solve, steps, tables
from olm.scaling.compute import Allocation, allocate, envelope, isoflop
from olm.scaling.fit import Fit, fit
from olm.scaling.holdout import holdout
from olm.scaling.laws import Law, Parameter

__all__ = [
    "Allocation",
    "Fit",
    "Law",
    "Parameter",
    "allocate",
    "compute",
    "curves",
    "envelope",
    "fit",
    "holdout",
    "intervals",
    "isoflop",
    "laws",
    "problem",
    "schedules",
    "sizes",
    "solve",
    "steps",
    "tables",
]
