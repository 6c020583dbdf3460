"""Many starts at once: a damped Newton method with exact second derivatives, vmapped over starts, in float64.

Each start carries a trust radius. A step solves the Newton system in the eigenbasis of the Hessian with eigenvalues replaced by
their absolute values (so that saddles repel) and shifted until the step fits the radius (Moré and Sorensen 1983; Dauphin et al.
2014 for the absolute values). Bounds are a box: coordinates that lie on a bound and are pushed against it are left out of the
system, the rest of the step is clipped (Bertsekas 1982). One evaluation of value, gradient and Hessian an iteration; one
compiled program for all rounds: starts run in chunks of one size, for a few iterations at a time, and those that are done are
not carried on. With ``screen`` all starts get some iterations and only the best of each group are then followed to the end.

Made for a handful of parameters and objectives that are cheap for one start. Not here: stochastic objectives, general
constraints, more parameters than an eigendecomposition in each iteration allows for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from olm.errors import InputError
from olm.types import Array

__all__ = ["ABANDONED", "CONVERGED", "EXHAUSTED", "NON_FINITE", "STALLED", "Screen", "Solutions", "minimise"]

EXHAUSTED, CONVERGED, STALLED, NON_FINITE, ABANDONED = range(5)
RADIUS, LARGEST_RADIUS, SMALLEST_RADIUS = 1.0, 10.0, 1e-12
LOST = 1e-8  # of the objective: what small residuals of large numbers lose in rounding
CHUNK = {"cpu": 32}  # what fits a core's cache with a few hundred rows; other devices want many more
ROUND = 10  # iterations between two selections of the starts that go on


class Screen(NamedTuple):
    """When to give starts up.

    Attributes:
      iterations: what every start gets.
      keep: the best starts of each group that go on after that.
    """

    iterations: int = 30
    keep: int = 64


class Solutions(NamedTuple):
    """Where each start ended.

    Attributes:
      x: [S, P].
      value: [S], inf where the objective was never finite.
      status: [S], one of ``CONVERGED``, ``EXHAUSTED`` (out of iterations), ``STALLED`` (no step of any length descends, though
        the gradient says so), ``NON_FINITE`` (at its start), ``ABANDONED`` (screened out).
      iterations: [S].
    """

    x: np.ndarray
    value: np.ndarray
    status: np.ndarray
    iterations: np.ndarray


class _State(NamedTuple):
    x: Array
    value: Array
    gradient: Array
    hessian: Array
    radius: Array
    status: Array
    iteration: Array


def _step(gradient: Array, hessian: Array, radius: Array, blocked: Array) -> tuple[Array, Array]:
    """The Newton step within the radius, zero where blocked, and the Newton decrement ½ gᵀ|H|⁻¹g."""
    free = ~blocked
    gradient = jnp.where(free, gradient, 0.0)
    hessian = jnp.where(free[:, None] & free[None, :], hessian, jnp.eye(len(gradient)))
    values, vectors = jnp.linalg.eigh(hessian)
    slope = gradient @ vectors
    norm = jnp.linalg.norm(slope)
    magnitude = jnp.abs(values)
    magnitude = jnp.maximum(magnitude, 1e-15 * jnp.max(magnitude) + 1e-9 * norm + 1e-300)  # no step overflows
    shift = jnp.maximum(norm / radius - jnp.max(magnitude), 0.0)

    def lengthen(_: int, shift: Array) -> Array:  # Newton's method for 1/‖p‖ = 1/radius, from the left: never overshoots
        p = slope / (magnitude + shift)
        length2, decay = p @ p, p @ (p / (magnitude + shift))
        length = jnp.sqrt(length2)
        return jnp.maximum(shift + jnp.where(decay > 0, length2 / decay, 0.0) * (length - radius) / radius, 0.0)

    shift = jax.lax.fori_loop(0, 8, lengthen, shift)
    p = slope / (magnitude + shift)
    length = jnp.sqrt(p @ p)
    p = p * jnp.minimum(1.0, radius / jnp.where(length > 0, length, 1.0))
    return -(vectors @ p), 0.5 * jnp.sum(slope**2 / magnitude)


def _advance(
    objective: Callable[..., Array], shared: Any, each: Any, lower: Array, upper: Array, tolerance: Array, s: _State
) -> _State:
    first = s.iteration == 0
    blocked = ((s.x <= lower) & (s.gradient > 0)) | ((s.x >= upper) & (s.gradient < 0))
    p, decrement = _step(s.gradient, s.hessian, s.radius, blocked)
    trial = jnp.where(first, s.x, jnp.clip(s.x + p, lower, upper))
    move = trial - s.x
    predicted = -(s.gradient @ move + 0.5 * move @ s.hessian @ move)

    (value, gradient), hessian = _derivatives(objective, trial, shared, each)
    finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient)) & jnp.all(jnp.isfinite(hessian))
    fall = s.value - value
    accepted = finite & (first | (fall > 0))
    ratio = jnp.where(finite & ~first, fall / jnp.where(predicted > 0, predicted, jnp.inf), -1.0)
    length = jnp.linalg.norm(move)
    radius = jnp.where(ratio < 0.25, 0.25 * jnp.minimum(s.radius, length), s.radius)
    radius = jnp.where((ratio > 0.75) & (length > 0.8 * s.radius), jnp.minimum(2.5 * s.radius, LARGEST_RADIUS), radius)
    radius = jnp.where(first, s.radius, radius)

    size = jnp.abs(s.value) + 1e-12
    stalled = ~first & ~accepted & (radius < SMALLEST_RADIUS)
    converged = ~first & ((decrement <= tolerance * size) | (stalled & (decrement <= LOST * size)))
    status = jnp.where(first & ~finite, NON_FINITE, jnp.where(converged, CONVERGED, jnp.where(stalled, STALLED, EXHAUSTED)))
    pick = partial(jnp.where, accepted)
    new = _State(
        pick(trial, s.x),
        pick(value, s.value),
        pick(gradient, s.gradient),
        pick(hessian, s.hessian),
        radius,
        status,
        s.iteration + 1,
    )
    running = s.status == EXHAUSTED
    return jax.tree.map(lambda old, new: jnp.where(running, new, old), s, new)


def _derivatives(objective: Callable[..., Array], x: Array, shared: Any, each: Any) -> tuple[tuple[Array, Array], Array]:
    """Value, gradient and Hessian, forward over reverse, sharing what they have in common."""

    def along(direction: Array) -> tuple[Any, Any]:
        return jax.jvp(jax.value_and_grad(lambda x: objective(x, shared, each)), (x,), (direction,))

    (value, gradient), (_, hessian) = jax.vmap(along, out_axes=((None, None), 0))(jnp.eye(len(x)))
    return (value, gradient), 0.5 * (hessian + hessian.T)


@partial(jax.jit, static_argnames="objective")
def _round(
    objective: Callable[..., Array],
    state: _State,
    shared: Any,
    each: Any,
    lower: Array,
    upper: Array,
    tolerance: Array,
    limit: Array,
) -> _State:
    """A chunk of starts, until all are done or ``limit`` iterations are made."""

    def go(carry: tuple[Array, _State]) -> Array:
        return (carry[0] < limit) & jnp.any(carry[1].status == EXHAUSTED)

    def advance(carry: tuple[Array, _State]) -> tuple[Array, _State]:
        count, state = carry
        run = partial(_advance, objective)
        return count + 1, jax.vmap(run, (None, 0, None, None, None, 0))(shared, each, lower, upper, tolerance, state)

    return jax.lax.while_loop(go, advance, (jnp.zeros((), jnp.int32), state))[1]


def minimise(
    objective: Callable[..., Array],
    starts: np.ndarray,
    shared: Any = None,
    each: Any = None,
    *,
    which: np.ndarray | None = None,
    lower: Any = -np.inf,
    upper: Any = np.inf,
    screen: Screen | None = None,
    iterations: int = 300,
    tolerance: float = 1e-12,
    chunk: int | None = None,
) -> Solutions:
    """Minimise from every start; numpy in, numpy out, float64 within.

    A start has converged when its Newton decrement ½ gᵀ|H|⁻¹g over the coordinates that bounds leave free is at most
    ``tolerance`` times the objective plus 10⁻¹² (an exact fit's objective is rounding error alone), or at most 10⁻⁸ times it
    where no step of any length descends: what is left to gain is then below the rounding of the objective.

    Args:
      objective: ``objective(x [P], shared, each) -> scalar``, traceable, twice differentiable almost everywhere. Compiled once
        for each function object and shape, so pass the same object again.
      starts: [S, P]; those outside the bounds are moved onto them.
      shared: pytree of arrays that all starts see.
      each: pytree of arrays with leading axis K, a row of it for each start: problems that differ in data; or None.
      which: [S], the row of ``each`` of each start, and the group in which `Screen` compares it. None: one problem.
      lower, upper: [P] or scalars, bounds.
      screen: when starts are given up; None: never.
      iterations: limit for a start.
      tolerance: relative, see above.
      chunk: starts in one compiled program; None: 32 on a CPU, 4,096 on other devices.

    Returns:
      `Solutions`.

    Raises:
      InputError: for starts that are not [S, P] or not finite.

    >>> bowl = lambda x, centre, _: jnp.sum((x - centre) ** 4 + (x - centre) ** 2)
    >>> found = minimise(bowl, np.array([[9.0, 9.0], [-3.0, 0.5]]), np.array([1.0, 2.0]), upper=[np.inf, 1.5])
    >>> found.x.round(6).tolist(), bool((found.status == CONVERGED).all())
    ([[1.0, 1.5], [1.0, 1.5]], True)
    """
    starts = np.array(starts, np.float64)
    if starts.ndim != 2 or not starts.size or not np.isfinite(starts).all():
        raise InputError(f"starts have shape {starts.shape} or are not finite: give finite numbers of shape [starts, parameters]")
    n_starts, n_parameters = starts.shape
    lower, upper = (np.broadcast_to(np.asarray(bound, np.float64), (n_parameters,)) for bound in (lower, upper))
    chunk = chunk or CHUNK.get(jax.default_backend(), 4096)
    which = np.zeros(n_starts, int) if which is None else np.asarray(which)
    state = _State(
        np.clip(starts, lower, upper),
        np.full(n_starts, np.inf),
        np.zeros((n_starts, n_parameters)),
        np.tile(np.eye(n_parameters), (n_starts, 1, 1)),
        np.full(n_starts, RADIUS),
        np.full(n_starts, EXHAUSTED, np.int32),
        np.zeros(n_starts, np.int32),
    )
    done = 0
    with jax.enable_x64(True):
        shared, bounds = jax.tree.map(jnp.asarray, shared), (jnp.asarray(lower), jnp.asarray(upper))
        while done < iterations:
            running = np.flatnonzero(state.status == EXHAUSTED)
            if not running.size:
                break
            until = screen.iterations if screen is not None and done < screen.iterations else iterations
            limit = min(ROUND, until - done)
            for first in range(0, len(running), chunk):
                part = running[first : first + chunk]
                rows = np.concatenate([part, np.repeat(part[:1], chunk - len(part))])  # one shape, one program
                taken, problem = jax.tree.map(_taker(rows), state), jax.tree.map(_taker(which[rows]), each)
                new = _round(objective, taken, shared, problem, *bounds, tolerance, limit)
                for old, leaf in zip(state, new, strict=True):
                    old[part] = np.asarray(leaf)[: len(part)]
            done += limit
            if screen is not None and done == screen.iterations:
                _give_up(state, which, screen.keep)
    value = np.where(state.status == NON_FINITE, np.inf, state.value)
    return Solutions(np.asarray(state.x), value, np.asarray(state.status), np.asarray(state.iteration))


def _taker(rows: np.ndarray) -> Callable[[Any], np.ndarray]:
    return lambda leaf: np.asarray(leaf)[rows]


def _give_up(state: _State, groups: np.ndarray, keep: int) -> None:
    """Mark running starts as abandoned unless they are among the best of their group (finished ones compete, too)."""
    order = np.lexsort((state.value, groups))
    place = np.empty(len(order), int)
    sizes = np.unique(groups, return_counts=True)[1]
    place[order] = np.concatenate([np.arange(size) for size in sizes])
    state.status[(place >= keep) & (state.status == EXHAUSTED)] = ABANDONED
