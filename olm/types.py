"""The nouns of olm: a task, a policy, a learner, and the letters that name array axes.

======  =====================================================================
letter  axis
======  =====================================================================
T       training steps (a curve over θ_0 … θ_T has T+1 entries)
N       training examples
B       examples in one step (B = N for full batch)
K       examples of the desired (target) distribution
M       held-out test examples
V       vocabulary (or label) symbols
L       positions of a sequence
D       width
F       features of an example
S       segments of a run
======  =====================================================================

A trailing ``_TxB`` in a name says the axes where the context does not.
Every loss is in nats, every concept a NamedTuple of pure functions on pytrees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import optax

PyTree = Any
Array = Any


class Task(NamedTuple):
    """What is learned, from which examples, and what one wants to be good at.

    Attributes:
      init: ``init(key) -> params``, any pytree of float arrays.
      losses: ``losses(params, batch) -> [B]``, nats per example, float.
      train: pytree of arrays with leading axis N, the examples a policy weights.
      target: pytree with leading axis K, a sample of the desired distribution.
      test: pytree with leading axis M, held out: reported, never used for a choice. None: no test curve.
      target_losses: like ``losses``, for the desired distribution. None: ``losses``.
      draw: ``draw(key, n) -> pytree`` of n fresh desired examples, or None when there is only ``target``.
      alphabet: number of symbols |V|, whose logarithm is the numerator of the compression ratio.
    """

    init: Callable[[Array], PyTree]
    losses: Callable[[PyTree, PyTree], Array]
    train: PyTree
    target: PyTree
    test: PyTree = None
    target_losses: Callable[[PyTree, PyTree], Array] | None = None
    draw: Callable[[Array, int], PyTree] | None = None
    alphabet: int = 2


@dataclass(frozen=True)
class Simplex:
    """Rows (last axis) that are non-negative and sum to one."""


@dataclass(frozen=True)
class Box:
    """Entries between ``lower`` and ``upper``."""

    lower: float = 0.0
    upper: float = float("inf")


@dataclass(frozen=True)
class Free:
    """No constraint."""


Constraint = Simplex | Box | Free


class Time(NamedTuple):
    """Where in a run a step is.

    Attributes:
      step: t, int32 scalar, 0 … T−1.
      steps: T, a Python int.
    """

    step: Array
    steps: int


class Policy(NamedTuple):
    """The weight of every example at every step, as a function of parameters ``phi``.

    Attributes:
      name: the field's name of the policy class, written into run folders.
      init: ``init(steps, n_examples, batch) -> phi``; its weights are uniform, 1/B.
      weights: ``weights(phi_t, t, index, features) -> [B]``, ``t`` a `Time`. ``index`` [B] names the examples of
        step t, 0 … N−1 in this order where all are drawn.
      stepwise: a prefix of phi's tree of bools. True: the leaf has a leading axis T and ``weights`` receives its row t.
        False: ``weights`` receives the whole leaf at every step.
      feasible: a prefix of phi's tree of ``Simplex | Box | Free``.
      rate: ``rate(phi_t, t) -> scalar``, multiplies the learner's update. None: 1.
      features: ``features(task, params, batch, target) -> pytree`` handed to ``weights``. None: nothing is computed.
      config: settings that rebuild the policy, as pairs: ``getattr(olm.policy, name)(**dict(config))``.
    """

    name: str
    init: Callable[[int, int, int], PyTree]
    weights: Callable[[PyTree, Array, Array, PyTree], Array]
    stepwise: PyTree
    feasible: PyTree
    rate: Callable[[PyTree, Array], Array] | None = None
    features: Callable[[Task, PyTree, PyTree, PyTree], PyTree] | None = None
    config: tuple[tuple[str, Any], ...] = ()


class Learner(NamedTuple):
    """How a model learns: an optimiser and how many examples it sees at once.

    Attributes:
      optimiser: any ``optax.GradientTransformation``; AdamW needs ``eps_root > 0`` to be differentiated through.
      batch_size: B examples a step in an order fixed by the key; None or N: all of them, full batch.
      chunk_size: examples processed at once, for the batch and the target alike; changes memory, not the result.
    """

    optimiser: optax.GradientTransformation
    batch_size: int | None = None
    chunk_size: int | None = None
