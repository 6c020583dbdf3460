"""How a policy moves down its gradient: entropic mirror descent, and projected gradient.

A `Method` is three pure functions. Its ``scale`` argument is the search's brake: 1 at first, halved after a step that
raised the objective sharply. Both methods work leaf by leaf on any feasible set; the mirror map is the softmax on simplex
rows and the identity (followed by projection) elsewhere.

Mirror descent on a table with rows t and the row-centred gradient S[t,n] = G[t,n] − Σ_m γ[t,m] G[t,m]:

    s_t² = Σ_n γ[t,n] S[t,n]²,   S_t ← S_t · min(1, c median(s) / s_t),   d_t = S_t / s with s² = mean_t s_t² of the new S
    m ← β m + d,   z_t ← z_t − ε r_t m_t,   γ_t = softmax(z_t)

with s one scale for the whole table, c a cap on single rows (where training is close to unstable, rows have gradients a
hundred times the others' and would set the scale alone), and r_t a factor for each row that grows while new gradients of
the rows around t agree in direction with the momentum and falls while they do not (delta-bar-delta, Jacobs 1988, on rows in
place of entries).
ε is set at the first gradient so that the first step predicts a given relative fall of the objective: this is what makes
one default work at learning rates a hundred times apart.

Sources: Beck and Teboulle 2003 (mirror descent); Gu et al. 2024, section 4.1 and appendix C (projected gradient).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from olm.errors import InputError
from olm.simplex import broadcast_prefix, map_constraints, project
from olm.types import Array, PyTree, Simplex

__all__ = ["Method", "mirror_descent", "projected_gradient"]


class Method(NamedTuple):
    """A first-order method on a feasible set.

    Attributes:
      name: written into run folders; with ``config`` it rebuilds the method.
      init: ``init(feasible, phi) -> state``.
      update: ``update(feasible, phi, gradient, value, state, scale) -> (phi, state, rate)``, rate a scalar to record.
      restart: ``restart(state) -> state`` without momentum, for a step that is taken again.
      config: settings as pairs.
    """

    name: str
    init: Callable[[PyTree, PyTree], PyTree]
    update: Callable[..., tuple[PyTree, PyTree, Array]]
    restart: Callable[[PyTree], PyTree]
    config: tuple[tuple[str, Any], ...] = ()


class _Leaf(NamedTuple):
    """State of mirror descent for one leaf: scores z, momentum m, and a factor for each row."""

    scores: Array
    momentum: Array
    rows: Array


class MirrorState(NamedTuple):
    """State of `mirror_descent`: one `_Leaf` for each leaf of φ, and the step size ε (0: not yet set)."""

    leaves: PyTree
    rate: Array


def _rows(x: Array) -> Array:
    """A leaf as [rows, entries]: a simplex row is the last axis, anything else is one row."""
    return x.reshape(-1, x.shape[-1]) if x.ndim > 1 else x.reshape(1, -1)


def _smooth(x: Array, window: int) -> Array:
    """Sums over each row and ``window`` rows on either side."""
    if x.shape[0] == 1:
        return x
    total = jnp.concatenate([jnp.zeros((1,), x.dtype), jnp.cumsum(x)])
    at = jnp.arange(x.shape[0])
    return total[jnp.minimum(at + window + 1, x.shape[0])] - total[jnp.maximum(at - window, 0)]


@functools.cache
def mirror_descent(
    fall: float = 0.06,
    momentum: float = 0.5,
    agreement: float = 0.3,
    window: int = 20,
    cap: float = 3.0,
    largest: float = 0.1,
) -> Method:
    """Entropic mirror descent with momentum and a step size that sets itself (see the module's docstring).

    Args:
      fall: relative fall of the objective that the first step predicts, 0 … 1.
      momentum: β, 0 … 1.
      agreement: κ, how fast a row's factor follows the cosine of its gradient with the momentum so far:
        r_t ← r_t e^(κ cos), kept in 0.1 … 4; 0: never.
      window: rows on either side over which that cosine is pooled.
      cap: c, a row's scale may be this many times the median row's before its gradient is shortened.
      largest: upper bound of ε.

    Returns:
      A `Method`.

    Raises:
      InputError: for settings outside their ranges.

    >>> method = mirror_descent(momentum=0.0)
    >>> phi = jnp.array([[0.5, 0.5]])
    >>> state = method.init(Simplex(), phi)
    >>> phi, state, rate = method.update(Simplex(), phi, jnp.array([[1.0, -1.0]]), 1.0, state, 1.0)
    >>> bool(phi[0, 0] < phi[0, 1]), round(float(rate), 3)
    (True, 0.06)
    """
    if not (0 < fall < 1 and 0 <= momentum < 1 and agreement >= 0 and window >= 0 and cap > 0 and largest > 0):
        raise InputError("mirror_descent: fall in (0,1), momentum in [0,1), agreement and window ≥ 0, cap and largest > 0")

    def init_leaf(constraint: Any, x: Array) -> _Leaf:
        tiny = jnp.finfo(x.dtype).tiny
        scores = jnp.log(jnp.maximum(x, tiny)) if isinstance(constraint, Simplex) else x
        return _Leaf(scores, jnp.zeros_like(x), jnp.ones(_rows(x).shape[0], x.dtype))

    def init(feasible: PyTree, phi: PyTree) -> MirrorState:
        return MirrorState(map_constraints(init_leaf, feasible, phi), jnp.zeros((), jnp.result_type(float)))

    def direction(constraint: Any, x: Array, gradient: Array) -> tuple[Array, Array, Array]:
        """(d, the measure in which rows are compared: γ on the simplex, equal shares elsewhere; the fall that ε = 1 predicts)."""
        rows, g = _rows(x), _rows(gradient)
        on_simplex = isinstance(constraint, Simplex)
        measure = rows if on_simplex else jnp.full_like(rows, 1 / rows.shape[1])
        centred = g - jnp.sum(measure * g, axis=1, keepdims=True) if on_simplex else g
        scale_rows = jnp.sqrt(jnp.sum(measure * centred**2, axis=1))
        bound = cap * jnp.median(scale_rows)
        too_long = (bound > 0) & (scale_rows > bound)
        centred = jnp.where(too_long, bound / jnp.where(too_long, scale_rows, 1), 1)[:, None] * centred
        common = jnp.sqrt(jnp.mean(jnp.sum(measure * centred**2, axis=1)))
        d = jnp.where(common > 0, 1 / jnp.where(common > 0, common, 1), 0) * centred
        # −⟨G, change of φ⟩; on the simplex the change of γ is −γ·d to first order.
        return d, measure, jnp.sum(centred * d * (measure if on_simplex else 1))

    def update(feasible: PyTree, phi: PyTree, gradient: PyTree, value: Array, state: MirrorState, scale: Array):
        flat = jax.tree.flatten(broadcast_prefix(feasible, phi))
        constraints, treedef = flat[0], cast(Any, flat[1])
        xs, gs = treedef.flatten_up_to(phi), treedef.flatten_up_to(gradient)
        leaves = treedef.flatten_up_to(state.leaves)
        moves = [direction(c, x, g) for c, x, g in zip(constraints, xs, gs, strict=True)]
        predicted = sum(fall_of_unit_step for *_, fall_of_unit_step in moves)
        first = jnp.minimum(largest, fall * jnp.abs(value) / jnp.where(predicted > 0, predicted, 1))
        rate = jnp.where(state.rate > 0, state.rate, first).astype(state.rate.dtype)

        def advance(constraint: Any, leaf: _Leaf, d: Array, measure: Array) -> tuple[Array, _Leaf]:
            old = _rows(leaf.momentum)
            along, new_norm, old_norm = (
                _smooth(jnp.sum(measure * a * b, axis=1), window) for a, b in ((d, old), (d, d), (old, old))
            )
            norms = new_norm * old_norm
            cosine = jnp.where(norms > 0, along / jnp.sqrt(jnp.where(norms > 0, norms, 1)), 0)
            factors = jnp.clip(leaf.rows * jnp.exp(agreement * cosine), 0.1, 4.0)
            m = momentum * old + d
            step = (scale * rate * factors)[:, None] * m
            scores = leaf.scores - step.reshape(leaf.scores.shape).astype(leaf.scores.dtype)
            if isinstance(constraint, Simplex):
                x = jax.nn.softmax(scores, axis=-1)
            else:
                x = scores = project(constraint, scores)
            return x, _Leaf(scores, m.reshape(leaf.momentum.shape).astype(leaf.momentum.dtype), factors)

        moved = [advance(c, leaf, d, measure) for c, leaf, (d, measure, _) in zip(constraints, leaves, moves, strict=True)]
        new_phi = treedef.unflatten([x for x, _ in moved])
        return new_phi, MirrorState(treedef.unflatten([leaf for _, leaf in moved]), rate), rate * scale

    def restart(state: MirrorState) -> MirrorState:
        def still(leaf: _Leaf) -> _Leaf:
            return leaf._replace(momentum=jnp.zeros_like(leaf.momentum), rows=jnp.minimum(leaf.rows, 1))

        return state._replace(leaves=jax.tree.map(still, state.leaves, is_leaf=lambda x: isinstance(x, _Leaf)))

    config = (
        ("fall", fall),
        ("momentum", momentum),
        ("agreement", agreement),
        ("window", window),
        ("cap", cap),
        ("largest", largest),
    )
    return Method("mirror_descent", init, update, restart, config)


@functools.cache
def projected_gradient(rate: float = 0.1) -> Method:
    """Projected gradient, φ ← Proj(φ − ε ∂J/∂φ), each row on its simplex.

    Args:
      rate: ε, on the mean objective J = (1/T) Σ L(θ_t). The paper's ε is on the sum: its 5·10⁻⁶ at T = 2000 is 0.01 here.

    Returns:
      A `Method`.

    Raises:
      InputError: for a rate that is not positive.

    Source: Gu et al. 2024, section 4.1.

    >>> method = projected_gradient(rate=0.1)
    >>> phi, *_ = method.update(Simplex(), jnp.array([[0.5, 0.5]]), jnp.array([[1.0, 0.0]]), 1.0, (), 1.0)
    >>> [round(float(x), 3) for x in phi[0]]
    [0.45, 0.55]
    """
    if not 0 < rate < float("inf"):
        raise InputError(f"projected_gradient(rate={rate}): give a positive rate")

    def update(feasible: PyTree, phi: PyTree, gradient: PyTree, value: Array, state: PyTree, scale: Array):
        moved = jax.tree.map(lambda x, g: (x - scale * rate * g).astype(x.dtype), phi, gradient)
        return project(feasible, moved), state, jnp.asarray(rate * scale)

    return Method("projected_gradient", lambda feasible, phi: (), update, lambda state: state, (("rate", rate),))
