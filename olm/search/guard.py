"""Which desired examples a search may look at, and when to believe what it found.

A policy with millions of weights fits a few hundred target examples by heart: on the perceptron of the paper with its 512
fixed targets the curve on those 512 falls many times faster while the curve on others gains nothing or gets worse. So:

- where the task can draw, every evaluation sees fresh target examples, and one reserved draw validates;
- where it cannot, a part of the target set is kept back and never enters a gradient;
- what is returned is the evaluation with the best validation area, and only if it beats the start by more than chance: the
  mean over validation examples of the paired difference in area must be below zero by `z` standard errors; otherwise the
  start itself is returned.

The test set of a task plays no part here.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from olm.errors import InputError, check_whole
from olm.learner import examples
from olm.types import Array, PyTree, Task

__all__ = ["Targets", "convincing", "targets"]


class Targets(NamedTuple):
    """Desired examples of a search.

    Attributes:
      fixed: the sample that every gradient uses, or None when examples are drawn.
      validation: examples kept for choosing what is returned, or None (then the objective itself chooses).
      key, draws: ``task.draw(fold_in(key, evaluation), draws)`` is an evaluation's fresh sample.
    """

    fixed: PyTree
    validation: PyTree
    key: Any
    draws: int

    def sample(self, task: Task, evaluation: int) -> PyTree:
        """The target examples of one evaluation."""
        if self.fixed is not None:
            return self.fixed
        assert task.draw is not None
        return task.draw(jax.random.fold_in(self.key, evaluation), self.draws)


def targets(task: Task, target_draws: int, validation_fraction: float, key: Array) -> Targets:
    """Split or reserve the desired examples of a search.

    Args:
      task: with or without ``draw``.
      target_draws: fresh examples for each evaluation; 0: use ``task.target`` even where the task can draw.
      validation_fraction: share of a fixed target set that is kept back, [0, 1).
      key: fixes the split and the draws.

    Returns:
      `Targets`.

    Raises:
      InputError: for a fraction outside [0, 1), a negative number of draws, or a target set too small to split.

    >>> task = Task(None, None, train=None, target=np.arange(8))
    >>> sample = targets(task, 0, 0.25, jax.random.key(0))
    >>> len(sample.fixed), len(sample.validation)
    (6, 2)
    """
    if not 0 <= validation_fraction < 1:
        raise InputError(f"validation_fraction is {validation_fraction}: choose a share from 0 up to (not including) 1")
    if check_whole("target_draws", target_draws, least=0) == 1:
        raise InputError(f"target_draws is {target_draws}: choose at least 2 examples, or 0 for the fixed target set")
    key_validation, key_draws = jax.random.split(key)
    if task.draw is not None and target_draws > 0:
        return Targets(None, task.draw(key_validation, target_draws), key_draws, target_draws)
    if validation_fraction == 0:
        return Targets(task.target, None, None, 0)
    size = examples(task.target)
    kept = math.ceil(size * validation_fraction)
    if kept < 2 or kept >= size:
        raise InputError(
            f"{size} target examples cannot spare {validation_fraction:.0%} for validation: give more, or validation_fraction=0"
        )
    order = jax.random.permutation(key_validation, size)
    part = [jax.tree.map(lambda x, i=i: x[i], task.target) for i in (order[kept:], order[:kept])]
    return Targets(part[0], part[1], None, 0)


def convincing(baseline_K: np.ndarray, found_K: np.ndarray, z: float = 1.645) -> bool:
    """Is the found policy better on validation by more than chance? mean(d) + z·s(d)/√K < 0 for d = found − baseline.

    Args:
      baseline_K, found_K: area of each validation example under either policy, [K].
      z: standard errors; 1.645 is one-sided 95%.

    Returns:
      True or False.

    >>> convincing(np.array([1.0, 1.1, 0.9, 1.0]), np.array([0.5, 0.6, 0.4, 0.4]))
    True
    >>> convincing(np.array([1.0, 1.1, 0.9, 1.0]), np.array([0.9, 1.2, 0.8, 1.1]))
    False
    """
    difference = np.asarray(found_K, np.float64) - np.asarray(baseline_K, np.float64)
    return bool(difference.mean() + z * difference.std(ddof=1) / math.sqrt(len(difference)) < 0)
