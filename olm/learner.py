"""One weighted optimiser step, θ' = θ + r·u(Σ_n γ[n] ∇ℓ_n(θ)), and the order in which examples come.

Any optax optimiser serves; clipping, momentum and Adam's moments are differentiated as they are computed. AdamW needs
``eps_root > 0``: with 0, a gradient entry that is exactly zero makes every policy gradient NaN, and the gradient depends
on the value chosen, which is why it is a setting that a run records.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from olm.errors import InputError
from olm.types import Array, Learner, Policy, PyTree, Task, Time
from olm.weighted import example_losses, weighted_gradient

__all__ = ["Adam", "adamw", "batch_size", "check", "check_order", "make_step", "order", "reset_at"]


def examples(tree: PyTree, name: str = "examples") -> int:
    """The number of examples, the leading axis that all leaves share; ``name`` is what an `InputError` calls them."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]
    if len({shape[:1] for shape in shapes}) != 1 or not shapes[0] or shapes[0][0] == 0:
        found = ", ".join(map(str, shapes)) or "no arrays"
        raise InputError(f"{name} needs arrays with one common leading axis of at least 1: found {found}")
    return shapes[0][0]


def batch_size(learner: Learner, n_examples: int) -> int:
    """B: the learner's batch size, or N for full batch.

    Args:
      learner: a `Learner`.
      n_examples: N.

    Returns:
      B.

    Raises:
      InputError: when B is not a whole number within 1 … N.

    >>> batch_size(Learner(optax.sgd(0.1)), 8), batch_size(Learner(optax.sgd(0.1), batch_size=3), 8)
    (8, 3)
    """
    size = n_examples if learner.batch_size is None else learner.batch_size
    if not _whole(size) or not 1 <= size <= n_examples:
        raise InputError(f"batch size {size!r} with {n_examples} training examples: choose 1 to {n_examples}")
    return operator.index(size)


def _whole(value: object) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)


def order(key: Array, steps: int, n_examples: int, batch: int) -> Array:
    """Which examples each step sees: a new permutation of all N every epoch, cut into batches in turn.

    Args:
      key: fixes the order.
      steps, n_examples, batch: T, N, B.

    Returns:
      int32 [T, B]. A batch that straddles two epochs may hold an example twice.

    >>> order(jax.random.key(0), 4, 6, 3).reshape(2, 6).sort(axis=1).tolist()
    [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]]
    """
    epochs = -(-steps * batch // n_examples)
    keys = jax.vmap(lambda epoch: jax.random.fold_in(key, epoch))(jnp.arange(epochs))
    shuffled = jax.vmap(lambda k: jax.random.permutation(k, n_examples))(keys)
    return shuffled.reshape(-1)[: steps * batch].reshape(steps, batch).astype(jnp.int32)


def check_order(given: Array, steps: int, n_examples: int, batch: int) -> Array:
    """An order of one's own as int32 [T, B].

    Args:
      given: which examples each step sees.
      steps, n_examples, batch: T, N, B.

    Returns:
      The same numbers as a JAX array.

    Raises:
      InputError: for another shape, numbers that are not whole, or examples that do not exist.

    >>> check_order([[0, 2], [1, 1]], 2, 3, 2).tolist()
    [[0, 2], [1, 1]]
    """
    index = jnp.asarray(given)
    if index.shape != (steps, batch) or not jnp.issubdtype(index.dtype, jnp.integer):
        raise InputError(
            f"order has shape {index.shape}, dtype {index.dtype}: give whole numbers [{steps}, {batch}], a row of batch_size "
            "examples for each step"
        )
    if not isinstance(index, jax.core.Tracer) and (int(index.min()) < 0 or int(index.max()) >= n_examples):
        raise InputError(f"order names examples {int(index.min())} … {int(index.max())}: there are {n_examples}, from 0 on")
    return index.astype(jnp.int32)


class ResetState(NamedTuple):
    """State of `reset_at`: steps taken so far, and the state of the optimiser inside."""

    step: Array
    inner: PyTree


def reset_at(optimiser: optax.GradientTransformation, steps: Sequence[int]) -> optax.GradientTransformation:
    """An optimiser that forgets its state (moments, counts) before the given steps, as between datasets.

    Args:
      optimiser: what is reset; a schedule of rates belongs outside, where its count goes on.
      steps: before which steps of the run.

    Returns:
      A ``GradientTransformation``.

    Raises:
      InputError: for steps that are not whole numbers of at least 0.

    >>> optimiser = reset_at(optax.trace(0.5), [2])
    >>> state, seen = optimiser.init(jnp.zeros(())), []
    >>> for _ in range(4):
    ...     update, state = optimiser.update(jnp.ones(()), state)
    ...     seen.append(float(update))
    >>> seen
    [1.0, 1.5, 1.0, 1.5]

    Source: Ibrahim et al. 2024 (arXiv 2403.08763), section 5.2, where the optimiser starts anew for each dataset.
    """
    at = tuple(steps)
    if not all(_whole(step) and step >= 0 for step in at):
        raise InputError(f"reset_at(steps={list(at)}): give whole numbers of at least 0")

    def init(params: PyTree) -> ResetState:
        return ResetState(jnp.zeros((), jnp.int32), optimiser.init(params))

    def update(updates: PyTree, state: ResetState, params: PyTree = None) -> tuple[PyTree, ResetState]:
        inner = state.inner
        if at:
            fresh = optimiser.init(updates if params is None else params)
            now = jnp.isin(state.step, jnp.asarray(at, jnp.int32))
            inner = jax.tree.map(lambda new, old: jnp.where(now, new, old), fresh, inner)
        updates, inner = optimiser.update(updates, inner, params)
        return updates, ResetState(state.step + 1, inner)

    return optax.GradientTransformation(init, update)


def check(task: Task, learner: Learner) -> None:
    """Fail early, with what was found and what is expected, on losses that cannot be used.

    Args:
      task, learner: as for `olm.train`.

    Raises:
      InputError: for losses whose shape is not [B] or whose dtype is not float, for parameters that are not float, for
        examples without a common leading axis, and for a chunk size below 1.

    >>> task = Task(lambda key: jnp.zeros(2), lambda w, x: x @ w, train=jnp.ones((3, 2)), target=jnp.ones((4, 2)))
    >>> check(task, Learner(optax.sgd(0.1)))
    >>> check(task._replace(losses=lambda w, x: x * w), Learner(optax.sgd(0.1)))
    Traceback (most recent call last):
    olm.errors.InputError: task.losses gives shape (3, 2) dtype float32: expected one float an example, shape (3,)
    """
    if learner.chunk_size is not None and not (_whole(learner.chunk_size) and learner.chunk_size >= 1):
        raise InputError(
            f"chunk size {learner.chunk_size!r}: give a whole number of at least 1, or None for all examples at once"
        )
    params = jax.eval_shape(task.init, jax.random.key(0))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            name = jax.tree_util.keystr(path) or "params"
            raise InputError(f"task.init gives {name} dtype {leaf.dtype}: parameters must be float, keep integers in the batch")
    on_target = (task.losses, "losses") if task.target_losses is None else (task.target_losses, "target_losses")
    for losses, name, data, which in (
        (task.losses, "losses", task.train, "train"),
        (*on_target, task.target, "target"),
        *([] if task.test is None else [(*on_target, task.test, "test")]),
    ):
        size = examples(data, f"task.{which}")
        got = jax.eval_shape(losses, params, data)
        if not hasattr(got, "shape") or got.shape != (size,) or not jnp.issubdtype(got.dtype, jnp.floating):
            found = f"shape {got.shape} dtype {got.dtype}" if hasattr(got, "shape") else type(got).__name__
            raise InputError(f"task.{name} gives {found}: expected one float an example, shape ({size},)")


def make_step(
    task: Task, learner: Learner, policy: Policy, steps: int, gradient_of: Callable[..., Callable] | None = None
) -> Callable[[PyTree, tuple[PyTree, PyTree], tuple[Array, Array | None], PyTree], tuple[PyTree, PyTree]]:
    """One step of weighted training as a function that closes over no array.

    Args:
      task: only its functions are used; the data come with the call.
      learner, policy: as for `olm.train`.
      steps: T.
      gradient_of: None: `olm.weighted.weighted_gradient`; ``recorded_gradient`` for an adjoint that keeps residuals.

    Returns:
      ``step(phi_t, (params, opt_state), (t, index), data) -> (params, opt_state)``, ``data`` a dict with ``train`` and
      ``target``, ``index`` None for full batch.

    >>> from olm import policy
    >>> task = Task(None, lambda w, x: (x - w) ** 2, train=None, target=None)
    >>> learner, data = Learner(optax.sgd(0.25)), {"train": jnp.array([0.0, 2.0]), "target": None}
    >>> step = make_step(task, learner, policy.table(), steps=1)
    >>> params, state = step(jnp.array([0.0, 1.0]), (jnp.array(0.0), learner.optimiser.init(0.0)), (0, None), data)
    >>> float(params)
    1.0
    """
    gradient = (gradient_of or weighted_gradient)(task.losses, learner.chunk_size)
    # Features see losses that come in chunks too, or a policy with features would need all activations at once.
    functions = task._replace(
        losses=example_losses(task.losses, learner.chunk_size),
        target_losses=task.target_losses and example_losses(task.target_losses, learner.chunk_size),
        train=None,
        target=None,
        test=None,
    )

    def step(phi_t: PyTree, carry: tuple[PyTree, PyTree], aux: tuple[Array, Array | None], data: PyTree):
        params, state = carry
        t, index = Time(aux[0], steps), aux[1]
        if index is None:
            batch, index = data["train"], jnp.arange(examples(data["train"]))
        else:
            batch = jax.tree.map(lambda x: x[index], data["train"])
        features = None
        if policy.features is not None:
            features = policy.features(functions, params, batch, data["target"])
        weights = policy.weights(phi_t, t, index, features)
        updates, state = learner.optimiser.update(gradient(params, weights, batch), state, params)
        if policy.rate is not None:
            rate = policy.rate(phi_t, t)
            updates = jax.tree.map(lambda u: (rate * u).astype(u.dtype), updates)
        return optax.apply_updates(params, updates), state

    return step


@dataclass(frozen=True)
class Adam:
    """AdamW without its learning rate, which is the plan's.

    Attributes:
      b1, b2: decay of the means of gradients and of squared gradients.
      eps, eps_root: added outside and under the root; a policy gradient needs ``eps_root`` above 0.
      weight_decay: times the learning rate at every step.
      clip: longest gradient; None: no clipping.
    """

    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    eps_root: float = 1e-8
    weight_decay: float = 0.1
    clip: float | None = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.b1 < 1 and 0 <= self.b2 < 1):
            raise InputError(f"b1 {self.b1:g}, b2 {self.b2:g}: give numbers from 0 to below 1")
        if not all(0 <= x < math.inf for x in (self.eps, self.eps_root, self.weight_decay)):
            raise InputError("eps, eps_root and weight_decay must be 0 or more")
        if self.clip is not None and not self.clip > 0:
            raise InputError(f"clip is {self.clip:g}: give a positive length, or None")


@functools.cache
def adamw(
    adam: Adam,
    batch_size: int,
    resets: tuple[int, ...] = (),
    schedule: float | optax.Schedule = 1.0,
    *,
    frozen: bool = False,
) -> Learner:
    """AdamW, of rate 1 if nothing else is said, which a policy's rate scales; its moments start anew before ``resets``.

    Args:
      adam: its settings.
      batch_size: B.
      resets: as in a `Plan`.
      schedule: the rate that a policy's factor 1 stands for.
      frozen: parameters are a dictionary, and what lies below its key "frozen" stays as it is.

    Returns:
      A `Learner`; the same object for equal arguments, so that its programs are compiled once.

    >>> adamw(Adam(), 4) is adamw(Adam(), 4)
    True
    """
    moments = optax.scale_by_adam(adam.b1, adam.b2, adam.eps, adam.eps_root)
    parts = [reset_at(moments, resets), optax.add_decayed_weights(adam.weight_decay), optax.scale_by_learning_rate(schedule)]
    if adam.clip is not None:
        parts.insert(0, optax.clip_by_global_norm(adam.clip))
    optimiser = optax.chain(*parts)
    if frozen:
        kinds = {True: optax.set_to_zero(), False: optimiser}
        optimiser = optax.multi_transform(kinds, lambda params: {name: name == "frozen" for name in params})
    return Learner(optimiser, batch_size)
