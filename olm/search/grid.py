"""Each side at its own area-best learning rate: the comparison that longer steps cannot win.

A found policy can look fast against uniform weights at the same learning rate because it takes longer steps. Here uniform
training is run on a grid of learning rates, doubled and halved until its area has risen twice in a row, and searches are run
from uniform's best rate downhill on the same grid, or at given rates. The best policy found is then replayed at higher and
lower rates of the grid while that helps: where training is nearly unstable a search finds nothing (its exact gradients grow
backwards without bound), and a policy found at a lower rate may be best there. All choices are made on validation examples
(fresh draws, or a part of the target set kept back), and the test set is only reported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from olm import policy as policies
from olm.errors import DivergenceError, InputError
from olm.objective import area_under_loss
from olm.search.guard import targets
from olm.search.loop import find_policy
from olm.search.solution import Solution, compare
from olm.train import Curve, train
from olm.types import Array, Learner, Task

__all__ = ["Grid", "best_rates"]


class Grid(NamedTuple):
    """Uniform and found policies over learning rates.

    Attributes:
      rows: one dict a run: ``side`` ("uniform" or "found"), ``learning_rate``, ``searched_at`` (the rate of the policy's search,
        None for uniform weights), ``area_validation``, ``area_test``, ``final_test`` in nats (test columns None without a test
        set).
      solution: the search whose policy is compared.
      baseline, found: `Curve` of uniform weights and of that policy, each at its best rate.
      claim: `olm.search.compare` of the two.
      learning_rates: {"uniform": η, "found": η}, where the two curves were trained.
      solutions: every search by its learning rate.
    """

    rows: list[dict[str, Any]]
    solution: Solution
    baseline: Curve
    found: Curve
    claim: dict[str, Any]
    learning_rates: dict[str, float]
    solutions: dict[float, Solution]


def _row(side: str, rate: float, searched_at: float | None, curve: Curve) -> dict[str, Any]:
    test = None if curve.test is None else np.asarray(curve.test, np.float64)
    return {
        "side": side,
        "learning_rate": rate,
        "searched_at": searched_at,
        "area_validation": float(area_under_loss(curve.target)),
        "area_test": None if test is None else float(test[1:].mean()),
        "final_test": None if test is None else float(test[-1]),
    }


def best_rates(
    task: Task,
    make_learner: Callable[[float], Learner],
    *,
    learning_rate: float,
    steps: int,
    key: Array,
    searches: int = 4,
    search_rates: Sequence[float] | None = None,
    runs: int = 24,
    on_search: Callable[[float], dict[str, Any]] | None = None,
    **search: Any,
) -> Grid:
    """Uniform weights and found policies, each at the learning rate where its own area is least.

    Args:
      task: what is learned.
      make_learner: η → `Learner`.
      learning_rate: a point of the grid η·2^k.
      steps, key: as for `olm.find_policy`; the same key gives both sides the same θ_0 and order of examples.
      searches: at most so many searches, from uniform's best rate downhill on validation.
      search_rates: search at these rates in place of that, one search each.
      runs: at most so many uniform runs.
      on_search: called with η before each search; returns further arguments for it (a run folder of its own, say).
      search: arguments of `olm.find_policy`.

    Returns:
      A `Grid`.

    Raises:
      InputError: for a rate that is not positive or no search allowed.
      DivergenceError: when uniform weights diverge at every rate tried.

    No example: several searches; see ``benchmarks/perceptron.py``.
    """
    if not learning_rate > 0 or searches < 1:
        raise InputError(f"learning_rate {learning_rate} and searches {searches}: give a positive rate and at least 1 search")
    if search_rates is not None and not (len(search_rates) and all(rate > 0 for rate in search_rates)):
        raise InputError(f"search_rates {list(search_rates)}: give positive rates, at least one, or None")
    key_train, key_targets = jax.random.split(key)
    sample = targets(task, search.get("target_draws", 4096), search.get("validation_fraction", 0.25), key_targets)
    watched = task._replace(target=sample.fixed if sample.validation is None else sample.validation)
    uniform = policies.uniform()

    def validated(learner: Learner, policy: Any, phi: Any) -> Curve:
        return train(watched, learner, policy, phi, steps=steps, key=key_train)

    curves: dict[float, Curve] = {}

    def run(rate: float) -> float:
        curves[rate] = validated(make_learner(rate), uniform, ())
        value = float(area_under_loss(curves[rate].target))
        return value if math.isfinite(value) else math.inf

    areas = {learning_rate: run(learning_rate)}
    for factor in (2.0, 0.5):
        rate, worse = learning_rate, 0
        # Two rises in a row: one may be a wobble of a curve that is not convex in the rate.
        while worse < 2 and len(areas) < runs:
            rate *= factor
            areas[rate] = run(rate)
            # Downwards a rate that diverges is no rise: there may be nothing finite yet.
            rose = areas[rate] > min(areas.values()) or (factor > 1 and not math.isfinite(areas[rate]))
            worse = worse + 1 if rose else 0
    if not math.isfinite(min(areas.values())):
        raise DivergenceError(f"uniform weights diverge at every learning rate from {min(areas):g} to {max(areas):g}: lower it")
    best_uniform = min(areas, key=areas.__getitem__)

    solutions: dict[float, Solution] = {}

    def searched(rate: float) -> float:
        if rate not in solutions:
            learner = make_learner(rate)
            more = on_search(rate) if on_search is not None else {}
            solution = find_policy(task, learner, steps=steps, key=key, **{**search, **more})
            if solution.status == "interrupted":  # one search of several: there is no comparison to return
                raise KeyboardInterrupt
            solutions[rate] = solution
            replayed(rate, rate)
        return area_at(rate, rate)

    replays: dict[tuple[float, float], Curve] = {}

    def replayed(rate: float, source: float) -> float:
        """The validation area at ``rate`` of what was found at ``source``."""
        if (rate, source) not in replays:
            solution = solutions[source]
            replays[rate, source] = validated(make_learner(rate), solution.policy, solution.phi)
        return area_at(rate, source)

    def area_at(rate: float, source: float) -> float:
        value = float(area_under_loss(replays[rate, source].target))
        return value if math.isfinite(value) else math.inf

    rate = best_uniform
    for given in [rate] if search_rates is None else search_rates:
        searched(given)
    for factor in (0.5, 2.0) if search_rates is None else ():
        while len(solutions) < searches and searched(rate * factor) < searched(rate):
            rate *= factor
        if rate != best_uniform:
            break
    source = min(solutions, key=searched)
    rate = source
    for factor in (2.0, 0.5):
        while replayed(rate * factor, source) < replayed(rate, source):
            rate *= factor
        if rate != source:
            break
    rows = [_row("uniform", r, None, curves[r]) for r in sorted(curves)]
    rows += [_row("found", r, s, replays[r, s]) for r, s in sorted(replays)]
    # Measured on the task's own target and test sets, as every solution is.
    solution = solutions[source]
    baseline = train(task, make_learner(best_uniform), uniform, (), steps=steps, key=key_train)
    best = solution.curve
    if rate != source:
        best = train(task, make_learner(rate), solution.policy, solution.phi, steps=steps, key=key_train)
    claim = compare(baseline, best, task.alphabet)
    return Grid(rows, solution, baseline, best, claim, {"uniform": best_uniform, "found": rate}, solutions)
