"""Plain training: losses of samples, learned with AdamW, a warm-up and a cosine to zero, in the loop of `olm.train`.

For models that something else is then asked about: a guide of `olm.control`, a memory of `olm.memory`. The weight of every
sample is an olm policy: uniform, the exact weights of tempered samples (`olm.policy.static`), or what `olm.find_policy` finds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from olm import policy as policies
from olm.errors import DivergenceError, InputError, check_whole
from olm.learner import Adam, adamw, examples
from olm.records import Run
from olm.schedules import warmup_cosine
from olm.train import inputs, program, watch
from olm.types import Array, PyTree, Task

ADAM = Adam(b2=0.99, weight_decay=0.01)
Losses = Callable[[PyTree, PyTree], Array]


class Fitted(NamedTuple):
    """What was learned.

    Attributes:
      params: at the last step.
      history: a row for each evaluation: "step", "loss" on the samples watched, and what ``measures`` gave.
    """

    params: PyTree
    history: list[dict[str, Any]]


@functools.lru_cache(maxsize=256)
def _init_of(shape: Any) -> Callable[[Array], PyTree]:
    structure, shapes = shape
    return lambda key: jax.tree.unflatten(structure, [jnp.zeros(s, d) for s, d in shapes])


def task(losses: Losses, params: PyTree, batch: PyTree, target: PyTree = None, **more: Any) -> Task:
    """Samples and their losses as an `olm.Task`, so that a policy can weigh them.

    Args:
      losses: ``(params, batch) -> [B]``.
      params: of which shapes; a run starts from those it is given.
      batch: training samples.
      target: samples of the desired distribution; None: the training samples.
      more: ``test``, ``target_losses``, ``draw`` of the task.

    Returns:
      A `Task`. Its functions are the same objects for equal losses and shapes, so that programs compile once.

    No example: see `fit`.
    """
    leaves, structure = jax.tree.flatten(params)
    shapes = tuple((jnp.shape(leaf), jnp.result_type(leaf).name) for leaf in leaves)
    return Task(_init_of((structure, shapes)), losses, batch, batch if target is None else target, **more)


def schedule(peak: float, steps: int, warmup: int | None = None) -> Array:
    """Learning rates of a run: a linear warm-up, then a cosine to zero.

    Args:
      peak: the highest.
      steps: T.
      warmup: steps to the peak; None: a twentieth of all.

    Returns:
      [T].

    >>> schedule(1.0, 4, warmup=2).round(2).tolist()
    [0.0, 0.5, 1.0, 0.5]
    """
    # A run of one step has no room for a warm-up.
    warmup = min(max(steps // 20, 1), steps - 1) if warmup is None else warmup
    return jnp.asarray(jax.vmap(warmup_cosine(peak, 0.0, steps, warmup))(jnp.arange(steps)), jnp.result_type(float))


def fit(
    losses: Losses,
    params: PyTree,
    batch: PyTree,
    *,
    steps: int,
    key: Array,
    batch_size: int = 128,
    peak: float = 1e-3,
    warmup: int | None = None,
    adam: Adam = ADAM,
    weights: Array | None = None,
    order: Array | None = None,
    rates: Array | None = None,
    watched: PyTree = None,
    measures: Callable[[PyTree], Mapping[str, float]] | None = None,
    every: int | None = None,
    run: Run | None = None,
    save_every: float = 20.0,
    progress: bool = False,
) -> Fitted:
    """Learn from samples with AdamW, a warm-up and a cosine to zero.

    Args:
      losses: ``(params, batch) -> [B]``, nats a sample.
      params: θ_0; what lies below a key "frozen" stays.
      batch: samples, a pytree with leading axis N.
      steps: T.
      key: order of the samples.
      batch_size: B.
      peak: learning rate.
      warmup: steps to the peak; None: a twentieth of all.
      adam: the optimiser's other settings.
      weights: [N], relative weight of each sample (`olm.policy.static`); None: uniform.
      order: [T, B], which samples each step sees; None: shuffled epochs by the key.
      rates: [T], learning rates in place of the schedule.
      watched: samples on which the loss is measured along the way; None: none.
      measures: ``params -> numbers``, further columns of the history.
      every: steps between evaluations; None: a tenth of all.
      run: an open run folder: metrics and state, which a resumed run continues.
      save_every: seconds between two states on disk.
      progress: show a bar with the time left.

    Returns:
      `Fitted`.

    Raises:
      InputError: for sizes that do not fit.
      DivergenceError: when the loss is not finite.

    >>> batch = {"x": jnp.ones((8, 1))}
    >>> losses = lambda params, batch: (batch["x"][:, 0] - params["theta"]) ** 2
    >>> start = {"theta": jnp.zeros(())}
    >>> found = fit(losses, start, batch, steps=200, key=jax.random.key(0), batch_size=4, peak=0.1)
    >>> round(float(found.params["theta"]), 2)
    1.0
    """
    check_whole("steps", steps, 1)
    every = max(steps // 10, 1) if every is None else check_whole("every", every, 1)
    n = examples(batch, "samples")
    size = min(check_whole("batch_size", batch_size, 1), n)
    policy = policies.learning_rate()
    phi: PyTree = jnp.asarray(schedule(peak, steps, warmup) if rates is None else rates, jnp.result_type(float))
    if weights is not None:
        policy = policies.combined(policies.static(), policy)
        weights = jnp.asarray(weights, jnp.result_type(float))
        if weights.shape != (n,) or not bool((weights >= 0).all() & (weights.sum() > 0)):
            raise InputError(f"weights of {n} samples: give [{n}] numbers of at least 0, some of them positive")
        phi = (weights / weights.sum(), phi)
    frozen = isinstance(params, dict) and "frozen" in params
    whole, how = task(losses, params, batch), adamw(adam, size, frozen=frozen)
    # Targets are not looked at by a walk: one sample stands for them.
    whole = whole._replace(target=jax.tree.map(lambda x: x[:1], batch))
    arguments, carry = inputs(whole, how, policy, phi, steps, key, order=order, params=params)
    loop = program(whole, how, policy, steps)
    mean = _mean(losses)

    def row(step: int, carry: PyTree) -> dict[str, Any]:
        seen = {} if watched is None else {"loss": float(mean(carry[0], watched))}
        learned = carry[0] if not frozen else {name: leaf for name, leaf in carry[0].items() if name != "frozen"}
        # Parameters tell of a loss that nobody watches.
        if not all(np.isfinite(number).all() for number in [*seen.values(), *jax.tree.leaves(learned)]):
            raise DivergenceError(f"the loss is not finite after step {step}: lower the learning rate")
        return {"step": int(step), **seen, **({} if measures is None else measures(carry[0]))}

    carry, rows = watch(
        loop, arguments, carry, sorted({*range(every, steps, every), steps}), row,
        shown=lambda row: {k: v for k, v in row.items() if k != "step" and isinstance(v, float)},
        run=run, save_every=save_every, progress=progress,
    )  # fmt: skip
    return Fitted(carry[0], rows)


@functools.lru_cache(maxsize=64)
def _mean(losses: Losses) -> Callable[[PyTree, PyTree], Array]:
    return jax.jit(lambda params, batch: losses(params, batch).mean())
