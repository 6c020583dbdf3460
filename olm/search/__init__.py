"""Finding a policy: `find_policy`, the methods it may use, the guard against overfitting, and the learning-rate grid."""

from olm.search.grid import Grid, best_rates
from olm.search.guard import Targets, convincing, targets
from olm.search.loop import find_policy
from olm.search.methods import Method, mirror_descent, projected_gradient
from olm.search.solution import Solution, above_entropy, compare

__all__ = [
    "Grid",
    "Method",
    "Solution",
    "Targets",
    "above_entropy",
    "best_rates",
    "compare",
    "convincing",
    "find_policy",
    "mirror_descent",
    "projected_gradient",
    "targets",
]
