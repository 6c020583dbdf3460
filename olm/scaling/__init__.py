"""Scaling laws: fit them to a table of runs, with every start accounted for and intervals that were checked.

>>> from olm.scaling import laws
>>> laws.named("chinchilla").equation
'L = E + A/N^α + B/D^β'
"""

from olm.scaling import intervals, laws, problem, solve
from olm.scaling.fit import Fit, fit
from olm.scaling.holdout import holdout
from olm.scaling.laws import Law, Parameter

__all__ = ["Fit", "Law", "Parameter", "fit", "holdout", "intervals", "laws", "problem", "solve"]
