"""The feasible sets of policies: projection, mirror map, entropy and effective sample size.

The simplex is the set of rows γ with γ_n ≥ 0 and Σ_n γ_n = 1. Projection is exact, by shrinking the active set (Michelot
1986), which gives the same point as sorting (Duchi et al. 2008, ``optax.projections``) in less time; the mirror map is the
softmax of scores (entropic mirror descent, Beck and Teboulle 2003).
Constraints (`Simplex | Box | Free`, see `olm.types`) are given as a prefix of the parameters' tree.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from olm.errors import InputError
from olm.types import Array, Box, Constraint, Free, PyTree, Simplex

__all__ = ["broadcast_prefix", "check_feasible", "effective_sample_size", "entropy", "map_constraints", "project", "softmax_rows"]


def broadcast_prefix(prefix: PyTree, tree: PyTree) -> PyTree:
    """Repeat each leaf of ``prefix`` over the subtree of ``tree`` below it.

    Args:
      prefix: a prefix of ``tree``'s structure, for example one leaf for all.
      tree: any pytree.

    Returns:
      A pytree of ``tree``'s structure whose leaves are those of ``prefix``.

    >>> broadcast_prefix({"a": True, "b": False}, {"a": (1, 2), "b": 3})
    {'a': (True, True), 'b': False}
    """
    return jax.tree.map(lambda leaf, below: jax.tree.map(lambda _: leaf, below), prefix, tree)


def map_constraints(function: Callable[..., PyTree], feasible: PyTree, phi: PyTree, *rest: PyTree) -> PyTree:
    """Apply ``function(constraint, leaf, *leaves)`` to every leaf of ``phi`` with the constraint it lies under.

    Args:
      function: maps a constraint and one leaf of each tree to a new leaf.
      feasible: a prefix of ``phi``'s structure with leaves `Simplex | Box | Free`.
      phi, rest: pytrees of one structure.

    Returns:
      A pytree of ``phi``'s structure.

    >>> map_constraints(lambda constraint, x: x if constraint == Free() else 0 * x, {"a": Box(), "b": Free()}, {"a": 1, "b": 2})
    {'a': 0, 'b': 2}
    """
    return jax.tree.map(function, broadcast_prefix(feasible, phi), phi, *rest)


def check_feasible(feasible: PyTree, phi: PyTree, name: str = "phi") -> None:
    """Fail on parameters outside their feasible set, or not finite; rows of weights may miss a sum of one by 0.01.

    Args:
      feasible, phi: as for `project`, concrete arrays.
      name: what an error calls them.

    Raises:
      InputError: says what is wrong.

    >>> check_feasible(Simplex(), jnp.array([[0.5, 0.5]]))
    >>> check_feasible(Simplex(), jnp.array([[1.0, 1.0]]))
    Traceback (most recent call last):
    olm.errors.InputError: phi is not feasible: a row of weights sums to 2; start from policy.init, or project it
    """

    def wrong(constraint: Constraint, x: Array) -> str | None:
        if not bool(jnp.all(jnp.isfinite(x))):
            return "it holds values that are not finite"
        if isinstance(constraint, Simplex):
            if bool(jnp.any(x < 0)):
                return f"a weight is {float(jnp.min(x)):.4g}"
            sums = jnp.sum(x, axis=-1, dtype=jnp.float32)
            furthest = float(sums.reshape(-1)[jnp.argmax(jnp.abs(sums - 1))])
            return f"a row of weights sums to {furthest:.4g}" if abs(furthest - 1) > 0.01 else None
        if isinstance(constraint, Box) and bool(jnp.any((x < constraint.lower) | (x > constraint.upper))):
            return f"it leaves [{constraint.lower:g}, {constraint.upper:g}]"
        return None

    for found in jax.tree.leaves(map_constraints(wrong, feasible, phi)):
        raise InputError(f"{name} is not feasible: {found}; start from policy.init, or project it")


def _project_rows(rows: Array) -> Array:
    """Euclidean projection of rows onto the simplex by shrinking the active set (Michelot 1986): max(x − τ, 0).

    Exact and finite, the same point as the sort-based method; sorting long rows on a CPU takes many times longer.
    """
    size = rows.shape[1]
    # The nearest point depends on differences only. With the largest entry at 0, τ < 0: no row loses all its entries to rounding.
    rows = rows - jax.lax.stop_gradient(jnp.max(rows, axis=1, keepdims=True))

    def threshold(active: Array) -> Array:
        return (jnp.sum(jnp.where(active, rows, 0), axis=1) - 1) / jnp.sum(active, axis=1)

    def shrink(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        tau, count, _ = state
        active = rows > tau[:, None]
        left = jnp.sum(active, axis=1)
        # τ grows in exact arithmetic; were rounding to lower it, entries could come and go for ever.
        return jnp.maximum(tau, threshold(active)), left, jnp.any(left != count)

    start = (threshold(jnp.ones_like(rows, bool)), jnp.full(rows.shape[0], size), jnp.array(True))
    tau, *_ = jax.lax.while_loop(lambda state: state[2], shrink, jax.lax.stop_gradient(start))
    # The threshold once more from its active set: a derivative goes through this line and not through the loop.
    return jnp.maximum(rows - threshold(jax.lax.stop_gradient(rows > tau[:, None]))[:, None], 0)


def _project_leaf(constraint: Constraint, x: Array) -> Array:
    match constraint:
        case Simplex():
            return _project_rows(x.reshape(-1, x.shape[-1])).reshape(x.shape)
        case Box(lower, upper):
            return jnp.clip(x, lower, upper)
        case Free():
            return x
    raise TypeError(f"unknown constraint {constraint!r}: use olm.Simplex(), olm.Box(lower, upper) or olm.Free()")


def project(feasible: PyTree, phi: PyTree) -> PyTree:
    """The nearest feasible point: argmin_p ‖p − φ‖² over the set, leaf by leaf.

    Args:
      feasible: a prefix of ``phi``'s structure with leaves `Simplex | Box | Free`; a simplex row is the last axis.
      phi: pytree of float arrays.

    Returns:
      A pytree of the same structure, shapes and dtypes; differentiable almost everywhere.

    Source: Michelot 1986; the tests compare it with the sort-based ``optax.projections.projection_simplex``.

    >>> project(Simplex(), jnp.array([[0.5, 0.7, -1.0]])).round(3).tolist()
    [[0.4000000059604645, 0.6000000238418579, 0.0]]
    >>> project(Box(0.0, 1.0), jnp.array([-1.0, 0.5, 2.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    return map_constraints(_project_leaf, feasible, phi)


def softmax_rows(scores: Array) -> Array:
    """Weights from scores, γ_n = exp(z_n) / Σ_m exp(z_m), over the last axis.

    Args:
      scores: float array [..., N].

    Returns:
      Non-negative rows that sum to one, same shape.

    >>> softmax_rows(jnp.zeros(4)).tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    return jax.nn.softmax(scores, axis=-1)


def entropy(weights: Array) -> Array:
    """Entropy of each row, −Σ_n γ_n log γ_n, in nats; an exact zero contributes nothing.

    Args:
      weights: rows on the simplex [..., N].

    Returns:
      [...] between 0 and log N.

    >>> round(float(entropy(jnp.full(4, 0.25))), 4)
    1.3863
    """
    positive = weights > 0
    return -jnp.sum(jnp.where(positive, weights * jnp.log(jnp.where(positive, weights, 1)), 0), axis=-1)


def effective_sample_size(weights: Array) -> Array:
    """How many examples a row of weights amounts to, (Σ γ)² / Σ γ² (Kish 1965).

    Args:
      weights: non-negative rows [..., N].

    Returns:
      [...] between 1 and N.

    >>> float(effective_sample_size(jnp.array([0.5, 0.5, 0.0, 0.0])))
    2.0
    """
    return jnp.sum(weights, axis=-1) ** 2 / jnp.sum(weights**2, axis=-1)
