"""One weighted optimiser step, θ' = θ + r·u(Σ_n γ[n] ∇ℓ_n(θ)), and the order in which examples come.

Any optax optimiser serves; clipping, momentum and Adam's moments are differentiated as they are computed. AdamW needs
``eps_root > 0``: with 0, a gradient entry that is exactly zero makes every policy gradient NaN, and the gradient depends
on the value chosen, which is why it is a setting that a run records.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from olm.errors import InputError
from olm.types import Array, Learner, Policy, PyTree, Task, Time
from olm.weighted import weighted_gradient

__all__ = ["batch_size", "check", "make_step", "order"]


def examples(tree: PyTree) -> int:
    """The number of examples, the leading axis that all leaves share."""
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(tree)}
    if len(sizes) != 1 or sizes == {()}:
        raise InputError(f"examples need one common leading axis: found leading sizes {sorted(sizes)}")
    return next(iter(sizes))[0]


def batch_size(learner: Learner, n_examples: int) -> int:
    """B: the learner's batch size, or N for full batch.

    Args:
      learner: a `Learner`.
      n_examples: N.

    Returns:
      B.

    Raises:
      InputError: when B is not within 1 … N.
    """
    size = n_examples if learner.batch_size is None else learner.batch_size
    if not 1 <= size <= n_examples:
        raise InputError(f"batch size {size} with {n_examples} training examples: choose 1 to {n_examples}")
    return size


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


def check(task: Task, learner: Learner) -> None:
    """Fail early, with what was found and what is expected, on losses that cannot be used.

    Args:
      task, learner: as for `olm.train`.

    Raises:
      InputError: for losses whose shape is not [B] or whose dtype is not float, and for parameters that are not float.
    """
    params = jax.eval_shape(task.init, jax.random.key(0))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            name = jax.tree_util.keystr(path) or "params"
            raise InputError(f"task.init gives {name} dtype {leaf.dtype}: parameters must be float, keep integers in the batch")
    pairs = [("losses", task.losses, task.train), ("target_losses", task.target_losses or task.losses, task.target)]
    for name, losses, data in pairs:
        size = examples(data)
        got = jax.eval_shape(losses, params, data)
        if not hasattr(got, "shape") or got.shape != (size,) or not jnp.issubdtype(got.dtype, jnp.floating):
            found = f"shape {got.shape} dtype {got.dtype}" if hasattr(got, "shape") else type(got).__name__
            raise InputError(f"task.{name} gives {found}: expected one float a example, shape ({size},)")


def make_step(task: Task, learner: Learner, policy: Policy, steps: int):
    """One step of weighted training as a function that closes over no array.

    Args:
      task: only its functions are used; the data come with the call.
      learner, policy: as for `olm.train`.
      steps: T.

    Returns:
      ``step(phi_t, (params, opt_state), (t, index), data) -> (params, opt_state)``, ``data`` a dict with ``train`` and
      ``target``, ``index`` None for full batch.
    """
    gradient = weighted_gradient(task.losses, learner.chunk_size)
    functions = task._replace(train=None, target=None, test=None)

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
