"""The files that a run leaves behind: policy, parameters, curves with a sample of the weights, summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from olm import policy as policies
from olm.learner import batch_size, examples
from olm.learner import order as shuffled
from olm.policy import join, split
from olm.records import Run, versions
from olm.records.files import explained
from olm.train import Curve
from olm.types import Array, Learner, Policy, PyTree, Task, Time

__all__ = ["sampled_weights", "write_results"]


def sampled_weights(
    task: Task,
    learner: Learner,
    policy: Policy,
    phi: PyTree,
    *,
    steps: int,
    key: Array,
    most: int = 512,
    order: Array | None = None,
) -> dict[str, Array]:
    """The weights γ[n,t] at some steps of some examples, where they are a function of φ and time alone.

    Args:
      task, learner, policy, phi, steps, key: as for `olm.train`.
      most: at most so many steps and so many examples, evenly spaced.
      order: as for `olm.train`.

    Returns:
      ``weights`` [steps, examples] of those sampled, ``weights_steps`` and ``weights_examples`` (which they are: positions
      in the batch, which is all N examples without mini-batches) and ``n_examples`` (B); an empty dict for a policy with
      features.

    >>> import optax
    >>> task = Task(None, None, train=jnp.zeros((3, 1)), target=None)
    >>> learner, table = Learner(optax.sgd(0.1)), policies.table()
    >>> found = sampled_weights(task, learner, table, table.init(8, 3, 3), steps=8, key=jax.random.key(0), most=2)
    >>> found["weights"].round(2).tolist(), found["weights_steps"].tolist(), found["weights_examples"].tolist()
    ([[0.33, 0.33], [0.33, 0.33]], [0, 7], [0, 2])
    """
    if policy.features is not None:
        return {}
    n_examples = examples(task.train)
    batch = batch_size(learner, n_examples)
    at = np.unique(np.linspace(0, steps - 1, min(most, steps)).astype(int))
    index = jnp.broadcast_to(jnp.arange(n_examples), (steps, n_examples))
    if order is not None:
        index = jnp.asarray(order)
    elif batch < n_examples:
        index = shuffled(jax.random.split(key)[1], steps, n_examples, batch)
    shared, rows = split(policy, phi)
    columns = np.unique(np.linspace(0, batch - 1, min(most, batch)).astype(int))

    def one(t: Array, row: PyTree, drawn: Array) -> Array:
        return policy.weights(join(shared, row), Time(t, steps), drawn, None)[columns]

    values = jax.vmap(one)(jnp.asarray(at), jax.tree.map(lambda x: x[at], rows), index[at])
    return {"weights": values, "weights_steps": at, "weights_examples": columns, "n_examples": np.asarray(batch)}


def write_results(
    run: Run, policy: Policy, phi: PyTree, baseline: Curve, found: Curve, weights: Mapping[str, Any], summary: Mapping[str, Any]
) -> None:
    """Write ``policy.npz``, ``params.npz``, ``curves.npz`` and ``summary.json``, the last of which marks the run as finished.

    Args:
      run: open for writing.
      policy, phi: what was found or replayed.
      baseline, found: curves of uniform weights and of the policy.
      weights: as `sampled_weights` gives them.
      summary: numbers and texts; the versions of the libraries are added.

    Raises:
      StorageError: the disk is full; what was there before is intact.

    No example: writes a run folder; see `olm.find_policy`.
    """
    # What was measured of an earlier policy of this folder (by `olm law`, `olm memory`) is not of this one.
    with explained(run.path, "remove files from"):
        for kind in ("law", "memory"):
            for stale in (*run.path.glob(f"{kind}.[jn]*"), *(run.path / "figures").glob(f"{kind}_*")):
                stale.unlink(missing_ok=True)
    policies.save(run.path / "policy.npz", policy, phi)
    run.save("params", found.params)
    curves = {
        "baseline_target": baseline.target,
        "baseline_test": baseline.test,
        "found_target": found.target,
        "found_test": found.test,
        **weights,
    }
    run.save("curves", {name: np.asarray(x) for name, x in curves.items() if x is not None})
    run.write_summary({**summary, "versions": versions()})
