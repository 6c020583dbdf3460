"""What the Learning Law compares: contributions of examples, how equal they are, and the distance from an exact optimum.

Theorem 3.1 of Gu et al. 2024: under an optimal policy all examples of positive weight contribute equally to the fall of the
target loss, ∇L·∇ℓ_n = −dL/dt. It is derived for gradient flow with the instantaneous target gradient, and it is necessary
only. The discrete problem that a search solves has an exact condition of the same shape with the costate in place of ∇L:
the policy gradient ∂J/∂γ[n,t] is one constant a step over the examples of positive weight, and not less elsewhere.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from olm.types import Array, PyTree, Task
from olm.weighted import mean_loss

__all__ = ["contributions", "similarity", "stationarity"]


def contributions(task: Task, params: PyTree, batch: PyTree, target: PyTree) -> Array:
    """How much each example helps the target loss now, CT_n = ∇L(θ)·∇ℓ_n(θ), by one jvp along ∇L.

    Args:
      task: supplies ``losses`` and ``target_losses``.
      params: θ_t.
      batch: training examples, leading axis B.
      target: desired examples, leading axis K.

    Returns:
      [B] in nats² per squared parameter unit; a step of γ_n = 1 and small rate η lowers L by η·CT_n.

    Source: Gu et al. 2024, Eq. 5.

    >>> task = Task(None, lambda w, x: 0.5 * (x - w) ** 2, None, None)
    >>> contributions(task, jnp.array(0.0), jnp.array([1.0, -1.0]), jnp.array([2.0])).tolist()
    [2.0, -2.0]
    """
    loss = mean_loss(task.target_losses or task.losses)
    direction = jax.grad(loss)(params, target)
    return jax.jvp(lambda p: task.losses(p, batch), (params,), (direction,))[1]


def similarity(contributions_N: Array, weights_N: Array, zero: float = 0.0) -> Array:
    """How equal contributions are, SIM = m / s with m = Σ_n γ_n CT_n and s² = Σ_{n: γ_n ≠ 0} (CT_n − m)² / (#{γ_n ≠ 0} − 1).

    Args:
      contributions_N: [..., N].
      weights_N: [..., N], rows on the simplex.
      zero: weights up to this one count as zero in s; mirror descent leaves tiny ones where projection has exact zeros.

    Returns:
      [...]; ±∞, with the sign of m, when all contributions are equal, NaN when all are 0 or fewer than two weights are above
      ``zero``.

    Source: Gu et al. 2024, Eq. 7.

    >>> float(similarity(jnp.array([1.0, 3.0]), jnp.array([0.5, 0.5])).round(4))
    1.4142
    """
    active = weights_N > zero
    mean = jnp.sum(weights_N * contributions_N, axis=-1)
    spread = jnp.sum(jnp.where(active, (contributions_N - mean[..., None]) ** 2, 0), axis=-1)
    count = jnp.sum(active, axis=-1)
    return jnp.where(count > 1, mean / jnp.sqrt(spread / jnp.maximum(count - 1, 1)), jnp.nan)


def stationarity(gradient_TxN: Array, weights_TxN: Array) -> Array:
    """How far each step's weights are from optimal: Σ_n γ_n (G_n − min_m G_m), the Frank–Wolfe gap of a simplex row.

    At an optimum the gap is zero: every example of positive weight has the least gradient of its row, that is the greatest
    costate contribution. For a convex objective the gap bounds what changing this row alone could still gain.

    Args:
      gradient_TxN: ∂J/∂γ from `olm.policy_gradient`, [..., N].
      weights_TxN: γ, rows on the simplex.

    Returns:
      [...] ≥ 0, in the objective's unit.

    Source: Frank and Wolfe 1956; the condition is Pontryagin's maximum principle for the discrete run (Gu et al. 2025,
    Theorem 2.1).

    >>> stationarity(jnp.array([[1.0, 2.0]]), jnp.array([[0.5, 0.5]])).tolist()
    [0.5]
    """
    return jnp.sum(weights_TxN * (gradient_TxN - jnp.min(gradient_TxN, axis=-1, keepdims=True)), axis=-1)
