"""The schedule that gradient descent would choose: replay share and learning rate over time, by the gradient of the final losses.

A continued run of T steps reads a fixed number of old and new examples in every batch; `olm.policy.mixture` weighs the datasets
(shares φ [P, D], whose derivative is exact) and `olm.policy.learning_rate` multiplies a schedule (factors at P+1 places).
Minimised is

    J = mean over the last steps of Σ_d a_d L_d(θ_t),  a_d ≥ 0, Σ a_d = 1,

on validation windows, differentiated through the run, AdamW included. A gradient through all of a long run is exact and of no
use: at the learning rates that are best training is chaotic, and derivatives through 750 steps reach 10² to 10⁶ (`gradients`
in benchmarks/results/continual.json). So it goes through the last 30% of the steps (`olm.adjoint.truncated`), where they are of
the size of differences, and what holds at the beginning of these holds from the start (`olm.policy.late`). What is found is then
made plain: shares become whole examples a batch (`olm.continual.plan.counts`), factors rates, and the run is made again by the
loop that everybody uses, with the same number of tokens processed. Runs at the best rates scatter by up to .004 nats
for a change of 1e-5 in the start (`scatter` in the same file), and so gradients and objectives scatter: what is made plain is
the mean of the best one, two, … K points, and validation decides between these K plain runs and the start's (`settle`).

A gradient costs a training run, and 11/3 and more of the last 30%: in products of a layer 3 on the way out and 8 on the way back
for an example, where training takes 3, and AdamW's own gradient once more. The target is looked at in the last steps alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from olm.adjoint import truncated
from olm.continual.experiment import Trajectory, task
from olm.continual.plan import Plan, limited, plan, replay_shares
from olm.errors import DivergenceError, InputError, check_number, check_whole
from olm.learner import Adam, adamw
from olm.models.transformer import TransformerConfig
from olm.objective import Objective, weighted
from olm.policy import combined, late, late_steps, learning_rate, mixture
from olm.records import Run
from olm.schedules import rates as rates_of
from olm.search import Method, Solution, find_policy, mirror_descent
from olm.tasks.sequence import Dataset
from olm.types import Array, Learner, Policy, PyTree, Task, Time

__all__ = ["Found", "Plain", "Relaxed", "Settled", "find_schedule", "realised", "relaxed", "settle"]

METHOD = {"fall": 0.02, "largest": 2.0}
"""Settings of mirror descent for a few shares and factors: what suits tables of thousands of weights moves these too little."""

BRAKE = 1.003
"""Nothing is random in these searches: a rise by more than what chaos scatters is a step too long."""


class Relaxed(NamedTuple):
    """A continued run whose shares and rates have derivatives: what `olm.find_policy` and `olm.policy_gradient` take.

    Attributes:
      task, learner, policy: as for `olm.train`.
      phi: (shares [P, D], factors [P+1]) to start from.
      order: [T, B], each dataset in its own order.
      objective: weights of the last steps.
      steps: T.
      last: H, the steps that pieces divide and that a gradient goes through.
      datasets: the earlier ones and the new one.
      weights: [D] Σ_d a_d L_d is minimised.
      schedule: the learning rate of factor 1.
      reading: ``seen`` and ``epochs``, as for `olm.continual.plan.plan`.
    """

    task: Task
    learner: Learner
    policy: Policy
    phi: PyTree
    order: np.ndarray
    objective: Objective
    steps: int
    last: int
    datasets: tuple[Dataset, ...]
    weights: tuple[float, ...]
    schedule: optax.Schedule
    reading: dict[str, Any]


class Plain(NamedTuple):
    """Shares and factors made plain: whole examples a batch, and a rate for every step.

    Attributes:
      plan: what the plain loop takes.
      shares: [T, D] before they were rounded, and after they were cut to what can be read (`olm.continual.plan.limited`).
      rates: [T].
      evaluations: of a search, whose mean it is; (): none.
    """

    plan: Plan
    shares: np.ndarray
    rates: np.ndarray
    evaluations: tuple[int, ...] = ()


class Found(NamedTuple):
    """Searched schedules.

    Attributes:
      plains: the mean of the best 1, 2, … K points, made plain.
      start: where the search began, made plain.
      solution: of `olm.find_policy`.
      relaxed: what was searched.
    """

    plains: tuple[Plain, ...]
    start: Plain
    solution: Solution
    relaxed: Relaxed


def _target(datasets: Sequence[Dataset], weights: Sequence[float]) -> dict[str, Array]:
    """Validation windows with weights whose mean over all windows is Σ_d a_d (mean over dataset d)."""
    total = sum(len(one.validation) for one in datasets)
    each = [np.full(len(one.validation), a * total / len(one.validation)) for one, a in zip(datasets, weights, strict=True)]
    return {
        "tokens": jnp.asarray(np.concatenate([one.validation for one in datasets])),
        "weight": jnp.asarray(np.concatenate(each), jnp.result_type(float)),
    }


def relaxed(
    datasets: Sequence[Dataset],
    model: TransformerConfig,
    schedule: optax.Schedule,
    steps: int,
    *,
    batch_size: int,
    replay: float,
    reserve: float = 0.5,
    old_weight: float = 0.5,
    pieces: int = 4,
    horizon: float = 0.3,
    upper: float = 4.0,
    last: int = 100,
    every: int = 10,
    adam: Adam = Adam(),
    seen: Sequence[int] | None = None,
    epochs: int = 1,
) -> Relaxed:
    """A continued run over the last of D datasets as a policy's: shares and rate factors that a gradient reaches.

    Args:
      datasets: the earlier ones and the new one.
      model: the transformer.
      schedule: the learning rate that factor 1 stands for, on the steps of this run.
      steps: T.
      batch_size: B.
      replay: share of earlier data to start from, above 0.
      reserve: share of the examples of a batch that are earlier data, whatever they weigh.
      old_weight: share of the earlier datasets in the objective, split evenly; the new one has the rest.
      pieces: P, stretches with shares of their own, and with rate factors linear in between.
      horizon: share of the run that they divide, its end; before it the first values hold (`olm.policy.late`).
      upper: the largest rate factor.
      last, every: the objective is the mean over every so many of the last steps.
      adam: the optimiser.
      seen, epochs: as for `olm.continual.plan.plan`.

    Returns:
      A `Relaxed`.

    Raises:
      InputError: for shares outside (0, 1), no example of one kind in a batch, or data that are too short.

    No example: see `find_schedule`.
    """
    if len(datasets) < 2:
        raise InputError("a search of replay needs earlier data: give two datasets or more")
    for name, share in (("replay", replay), ("reserve", reserve), ("old_weight", old_weight)):
        check_number(name, share, "give a share between 0 and 1", 0.0, 1.0)
        if not 0 < share < 1:
            raise InputError(f"{name} is {share:g}: give a share above 0 and below 1")
    check_whole("steps", steps, 1)
    old = round(reserve * batch_size)
    if not 0 < old < batch_size:
        raise InputError(f"a share of {reserve:g} of {batch_size} examples leaves none of one kind: change reserve or batch_size")
    sizes = tuple(len(one.train) for one in datasets)
    reading: dict[str, Any] = {"seen": seen, "epochs": epochs}
    fixed = plan(
        datasets,
        [steps],
        np.ones(steps),
        batch_size=batch_size,
        replay=old / batch_size,
        first=len(datasets) - 1,
        **reading,
    )
    policy = late(combined(mixture(sizes, pieces), learning_rate(upper, pieces)), horizon)
    start = replay_shares(replay, [*(sizes[:-1] if seen is None else seen), sizes[-1]])
    phi = (
        jnp.broadcast_to(jnp.asarray(start, jnp.result_type(float)), (pieces, len(sizes))),
        jnp.ones(pieces + 1, jnp.result_type(float)),
    )
    whole = task(datasets, model)
    sequence_losses = whole.losses

    def target_losses(params: PyTree, batch: PyTree) -> Array:
        return batch["weight"] * sequence_losses(params, batch)

    parts = (*[old_weight / (len(sizes) - 1)] * (len(sizes) - 1), 1 - old_weight)
    at = np.zeros(steps + 1)
    at[steps - np.arange(0, min(last, steps), every)] = 1
    return Relaxed(
        whole._replace(target=_target(datasets, parts), target_losses=target_losses),
        adamw(adam, batch_size, (), schedule),
        policy,
        phi,
        fixed.order,
        weighted(at / at.sum()),
        steps,
        late_steps(steps, horizon),
        tuple(datasets),
        parts,
        schedule,
        reading,
    )


def realised(run: Relaxed, phi: PyTree, evaluations: tuple[int, ...] = ()) -> Plain:
    """Shares and factors made plain: whole examples a batch, and a rate for every step.

    Args:
      run: as `relaxed` made it.
      phi: (shares [P, D], factors [P+1]).
      evaluations: of a search, whose mean φ is.

    Returns:
      A `Plain`.

    No example: see `find_schedule`.
    """
    by = run.policy.rate
    assert by is not None
    phi = jax.tree.map(jnp.asarray, phi)
    sizes = [len(one.train) for one in run.datasets]
    one_of_each = jnp.asarray(np.cumsum([0, *sizes[:-1]]))  # a batch with one example of every dataset shows the shares

    def at(step: Array) -> tuple[Array, Array]:
        t = Time(step, run.steps)
        return run.policy.weights(phi, t, one_of_each, None), by(phi, t)

    shares, factors = (np.asarray(x, np.float64) for x in jax.vmap(at)(jnp.arange(run.steps)))
    batch, seen, epochs = run.order.shape[1], run.reading["seen"], run.reading["epochs"]
    windows = np.array([*(sizes[:-1] if seen is None else seen), sizes[-1]]) * epochs
    shares = limited(shares / shares.sum(1, keepdims=True), batch, windows)
    rates = np.maximum(np.asarray(rates_of(run.schedule, run.steps), np.float64) * factors, 0)
    made = plan(run.datasets, [run.steps], rates, batch_size=batch, first=len(run.datasets) - 1, shares=shares, **run.reading)
    return Plain(made, shares, rates, evaluations)


def find_schedule(
    run: Relaxed,
    *,
    params: PyTree,
    key: Array,
    evaluations: int = 9,
    keep: int = 5,
    method: Method | None = None,
    adjoint: Any = None,
    run_dir: str | Path | Run | None = None,
    resume: bool = False,
    save_every: float = 20.0,
    progress: bool = False,
) -> Found:
    """Search the replay share and the learning rate of a continued run by the gradient of its final losses.

    Args:
      run: what is searched, as `relaxed` makes it.
      params: θ_0, the model to continue from.
      key: as for `olm.find_policy`; nothing random is left in such a run.
      evaluations: policy gradients to spend.
      keep: K, how many of the best points are averaged at most; see `settle`.
      method: None: mirror descent with `METHOD`'s settings, whose steps are long: a few numbers are searched.
      adjoint: None: `olm.adjoint.truncated` to the run's last H steps.
      run_dir, resume, save_every, progress: as for `olm.find_policy`.

    Returns:
      A `Found`; its plans process the same tokens as the start.

    Raises:
      InputError: as `olm.find_policy`.

    No example: a search takes minutes; see notebook 04.
    """
    check_whole("keep", keep, 1)
    solution = find_policy(
        run.task,
        run.learner,
        steps=run.steps,
        key=key,
        policy=run.policy,
        method=method or mirror_descent(**METHOD),
        evaluations=evaluations,
        objective=run.objective,
        target_draws=0,
        validation_fraction=0.0,
        adjoint=adjoint or truncated(run.last),
        phi=run.phi,
        order=run.order,
        params=params,
        brake=BRAKE,
        curves=False,
        keep=keep,
        run_dir=run_dir,
        resume=resume,
        save_every=save_every,
        progress=progress,
    )
    best = solution.kept
    means = [jax.tree.map(lambda *x: jnp.mean(jnp.stack(x), 0), *(one.phi for one in best[: k + 1])) for k in range(len(best))]
    plains = [realised(run, mean, tuple(one.evaluation for one in best[: k + 1])) for k, mean in enumerate(means)]
    return Found(tuple(plains), realised(run, run.phi), solution, run)


class Settled(NamedTuple):
    """What was decided between plain runs.

    Attributes:
      plain: the best.
      run: its run.
      losses: Σ_d a_d L_d on validation windows, means over a run's last steps, of each: the start first if it was among them,
        then the means of 1, 2, … K points; infinite for a run that diverged.
    """

    plain: Plain
    run: Trajectory
    losses: tuple[float, ...]


def settle(found: Found, train: Callable[[Plain], Trajectory], *, start: bool = True) -> Settled:
    """Decide between a search's plain runs by their weighted loss on validation windows.

    Args:
      found: of `find_schedule`.
      train: makes such a run, for example with `olm.continual.experiment.train_sequence`.
      start: whether the start, made plain, is one of them.

    Returns:
      A `Settled`.

    Raises:
      InputError: for a search without a finite evaluation.
      DivergenceError: when every run diverges.

    No example: see notebook 04.
    """
    if not found.plains:
        raise InputError(f"nothing to decide between: {found.solution.message}")
    runs: list[tuple[float, Plain, Trajectory]] = []
    losses = []
    for plain in (found.start, *found.plains) if start else found.plains:
        try:
            run = train(plain)
        except DivergenceError as fault:
            losses.append(float("inf"))
            last = fault
            continue
        losses.append(float(np.dot(found.relaxed.weights, run.final["validation"][-1])))
        runs.append((losses[-1], plain, run))
    if not runs:
        raise DivergenceError(f"every plain run of what was found diverges; {last}")
    _, plain, run = min(runs, key=lambda one: one[0])
    return Settled(plain, run, tuple(losses))
