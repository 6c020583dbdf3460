"""One training run and its costates, with the contributions of the examples measured on the way back.

The policy gradient's backward step at θ_t already has the gradient ∇L(θ_t) of the target loss and a jvp of the examples' losses
along the costate; one more jvp along ∇L(θ_t) gives the contributions ∇L·∇ℓ_n of the same θ_t that γ_t weighs. In matrix products
of a dense layer (docs/architecture.md): 11 N + 3 K a step for the policy gradient, 2 N more for the target (its primal half is
shared, but for chunks), and 2 N + 3 M more for a test set of M, whose gradient nobody else needs.

What is measured leaves the sweep as the cotangent of slots that the forward pass does not read, so that any adjoint of
`olm.adjoint` serves. The weights are held fixed as a table while the costates run: −∂J/∂γ is what the optimum over tables
equalises, also where the policy at hand is a smaller class.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from olm import learner as learners
from olm.adjoint import Adjoint, Inputs, Program
from olm.policy import join
from olm.types import Array, Learner, Policy, PyTree, Task
from olm.weighted import example_losses, mean_loss, weighted_gradient

__all__ = ["Settings", "observe", "run"]

COSTATE = "costate"


class Settings(NamedTuple):
    """What is measured; hashable, as a compiled program depends on it.

    Attributes:
      every: contributions are measured at steps 0, ``every``, 2·``every`` …
      kept: examples (places in the batch) whose numbers are kept one by one, evenly spaced.
      thresholds: weights up to threshold/B count as zero.
      zero: which of the thresholds decides what an active example is.
      learned: an example whose loss is at most this (nats) is learned.
      quantile: instead: an example among this share of the least losses of its step is; None: ``learned`` decides.
      small: a weight up to this times the step's largest is small.
    """

    every: int = 1
    kept: int = 0
    thresholds: tuple[float, ...] = (0.0, 1e-3, 1e-2, 1e-1)
    zero: float = 1e-2
    learned: float = 1e-6
    quantile: float | None = None
    small: float = 0.2


class _Seen(NamedTuple):
    """What stands in the place of a step's weights: the weights, and what is measured beside their gradient."""

    weights: Array
    slots: PyTree
    cost_weight: Array
    t: Array
    group: Array | None
    target: PyTree
    test: PyTree


def columns(kept: int, batch: int) -> np.ndarray:
    """The places in the batch that are kept."""
    return np.unique(np.linspace(0, batch - 1, min(kept, batch)).astype(int)) if kept else np.zeros(0, int)


def observe(settings: Settings, weights: Array, losses: Array, contributions: dict[str, Array], group: Array | None) -> PyTree:
    """The numbers of one step.

    Args:
      settings: thresholds.
      weights: γ [B].
      losses: ℓ_n(θ_t) [B].
      contributions: [B] by name, ``costate``, −∂J/∂γ, the last.
      group: [B] 0 or 1, or None.

    Returns:
      A tree of scalars and short arrays, floats all; counts are exact up to 2²⁴ examples.

    >>> seen = observe(Settings(), jnp.array([0.0, 1.0]), jnp.zeros(2), {"costate": jnp.array([-1.0, 3.0])}, None)
    >>> seen["costate"]["harmful"].tolist(), seen["costate"]["harmful_zero"].tolist(), seen["gap"].tolist()
    (1.0, [1.0, 1.0, 1.0, 1.0], 0.0)
    """
    size, dtype = weights.shape[0], losses.dtype
    weights = weights.astype(dtype)
    # A few products of small matrices, not one sum for each number: the numbers of a step should cost less than its gradient.
    product = functools.partial(jnp.dot, precision=jax.lax.Precision.HIGHEST)
    largest = jnp.max(weights)
    levels = jnp.append(jnp.asarray(settings.thresholds, dtype) / size, settings.small * largest)
    light_ZxB = (weights <= levels[:, None]).astype(dtype)
    limit = jnp.asarray(settings.learned if settings.quantile is None else jnp.quantile(losses, settings.quantile), dtype)
    limits = jnp.append(limit, jnp.zeros(len(contributions), dtype))
    values_RxB = jnp.stack([losses, *contributions.values()])
    marked_RxB = (values_RxB <= limits[:, None]).astype(dtype)  # learned, and harmful by each of the contributions
    light, marked, both = jnp.sum(light_ZxB, axis=1), jnp.sum(marked_RxB, axis=1), product(marked_RxB, light_ZxB.T)
    heavy, mean = product(marked_RxB, weights), product(values_RxB, weights)
    apart_RxB = values_RxB[1:] - mean[1:, None]

    def spread(active: Array) -> Array:
        squares = jnp.sum(jnp.where(active, apart_RxB, 0) ** 2, axis=1)
        count = jnp.sum(active.astype(dtype))
        return jnp.where(count > 1, jnp.sqrt(squares / jnp.maximum(count - 1, 1)), jnp.nan)

    spreads = {"spread": spread(weights > 0), "spread_active": spread(weights > settings.zero / size)}
    seen: dict[str, Any] = {
        "zero": light[:-1],
        "largest": largest,
        "small": light[-1],
        "learned": marked[0],
        "learned_small": both[0, -1],
        "gap": jnp.max(contributions[COSTATE]) - mean[-1],
    }
    for row, name in enumerate(contributions, 1):
        seen[name] = {
            "mean": mean[row],
            **{key: x[row - 1] for key, x in spreads.items()},
            "harmful": marked[row],
            "harmful_weight": heavy[row],
            "harmful_zero": both[row, :-1],
        }
    if group is not None:
        member_Bx2 = jnp.stack([group == 0, group == 1], axis=1).astype(dtype)
        sizes = jnp.sum(member_Bx2, axis=0)
        means = product(values_RxB, member_Bx2) / sizes
        seen["group"] = {"size": sizes, "weight": product(weights, member_Bx2), "zero": product(light_ZxB[:-1], member_Bx2).T}
        seen["group"] |= dict(zip(("loss", *contributions), means, strict=True))
    if settings.kept:
        at = columns(settings.kept, size)
        seen["kept"] = {"weights": weights[at], "losses": losses[at], **{name: x[at] for name, x in contributions.items()}}
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), seen)


def _gradient_of(settings: Settings, target_losses: Any) -> Any:
    """As `olm.weighted.weighted_gradient`, but of a `_Seen`; going back it adds the cost's gradient and fills the slots."""

    def gradient_of(losses: Any, chunk_size: int | None) -> Any:
        plain = weighted_gradient(losses, chunk_size)
        each = example_losses(losses, chunk_size)
        target_loss = mean_loss(target_losses or losses, chunk_size)

        @jax.custom_vjp
        def gradient(params: PyTree, seen: _Seen, batch: PyTree) -> PyTree:
            return plain(params, seen.weights, batch)

        def forward(params: PyTree, seen: _Seen, batch: PyTree) -> tuple[PyTree, Any]:
            return gradient(params, seen, batch), (params, seen, batch)

        def backward(residuals: Any, cotangent: PyTree) -> tuple[PyTree, _Seen, None]:
            params, seen, batch = residuals
            _, pullback = jax.vjp(lambda p, w: plain(p, w, batch), params, seen.weights)
            params_bar, along = pullback(cotangent)
            value, slope = jax.value_and_grad(target_loss)(params, seen.target)
            params_bar = jax.tree.map(lambda b, s: b + (seen.cost_weight * s).astype(b.dtype), params_bar, slope)

            def measured() -> PyTree:
                directions, on_test = {"target": slope}, ()
                if seen.test is not None:
                    on_test, directions["test"] = jax.value_and_grad(target_loss)(params, seen.test)
                found = {}
                for name, direction in directions.items():
                    values, found[name] = jax.jvp(lambda p: each(p, batch), (params,), (direction,))
                numbers = observe(settings, seen.weights, values, {**found, COSTATE: -along}, seen.group)
                return jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(numbers)]), on_test

            def passed() -> PyTree:
                return jnp.zeros_like(seen.slots["seen"]), () if seen.test is None else target_loss(params, seen.test)

            numbers, on_test = jax.lax.cond(seen.t % settings.every == 0, measured, passed) if settings.every > 1 else measured()
            slots = {"seen": numbers, "target": value, "test": on_test}
            slots = jax.tree.map(lambda x, slot: x.astype(slot.dtype), slots, seen.slots)
            return params_bar, _Seen(None, slots, None, None, None, None, None), None

        gradient.defvjp(forward, backward)
        return gradient

    return gradient_of


def _program(functions: Task, learner: Learner, policy: Policy, steps: int, settings: Settings) -> tuple[Program, Any]:
    def weights(seen: dict[str, Any], t: Any, index: Array, features: PyTree) -> _Seen:
        fixed = jax.lax.stop_gradient(policy.weights(seen["phi"], t, index, features))
        group = None if seen["group"] is None else seen["group"][index]
        return _Seen(fixed, seen["slots"], seen["cost_weight"], t.step, group, seen["target"], seen["test"])

    rate_of = policy.rate
    rate = None if rate_of is None else lambda seen, t: rate_of(seen["phi"], t)
    observed = policy._replace(weights=weights, rate=rate)
    step_of = learners.make_step(functions, learner, observed, steps, _gradient_of(settings, functions.target_losses))
    target_loss = mean_loss(functions.target_losses or functions.losses, learner.chunk_size)

    def step(shared: PyTree, carry: PyTree, row: PyTree, aux: PyTree, data: PyTree) -> PyTree:
        inner, t = carry
        place, phi_t, cost_weight = aux
        seen = {name: data.get(name) for name in ("target", "test", "group")}
        seen |= {"phi": join(data["phi"], phi_t), "slots": row, "cost_weight": cost_weight}
        return step_of(seen, inner, place, data), t + 1

    def cost(carry: PyTree, data: PyTree) -> Array:
        # L(θ_0) … L(θ_{T−1}) enter with their steps, where their gradients are at hand: only the last is left for the adjoint.
        (params, _), t = carry
        nothing = jnp.zeros((), jax.eval_shape(target_loss, params, data["target"]).dtype)
        return jax.lax.cond(t == steps, lambda: target_loss(params, data["target"]), lambda: nothing)

    return Program(step, cost), functools.partial(_shapes, functions, learner, settings)


_cached_program = functools.lru_cache(maxsize=64)(_program)


def _shapes(functions: Task, learner: Learner, settings: Settings, arguments: Inputs, carry: PyTree) -> tuple[PyTree, PyTree]:
    """Shapes of what `observe` gives for a step, and of a step's slots: its numbers lie in one vector, written at once."""
    data, params = arguments.data, carry[0]
    batch = learners.batch_size(learner, learners.examples(data["train"]))
    drawn = jax.tree.map(lambda x: jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype), data["train"])
    each = jax.eval_shape(functions.losses, params, drawn)
    loss = jax.eval_shape(mean_loss(functions.target_losses or functions.losses), params, data["target"])
    names = ("target", *([] if data.get("test") is None else ["test"]), COSTATE)
    group = None if data["group"] is None else jax.ShapeDtypeStruct((batch,), data["group"].dtype)
    seen = jax.eval_shape(functools.partial(observe, settings), each, each, dict.fromkeys(names, each), group)
    size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(seen))
    flat = jax.ShapeDtypeStruct((size,), each.dtype)
    return seen, {"seen": flat, "target": loss, "test": () if data.get("test") is None else loss}


def _sweep(program: Program, adjoint: Adjoint, shapes: Any, every: int, arguments: Inputs, carry: PyTree, weights: Array):
    steps = len(weights) - 1
    seen, slots = shapes(arguments, carry)
    rows = jax.tree.map(lambda slot: jnp.zeros((steps, *slot.shape), slot.dtype), slots)
    last_only = jnp.zeros_like(weights).at[-1].set(weights[-1])
    result = adjoint.sweep(program, arguments._replace(rows=rows), (carry, jnp.zeros((), jnp.int32)), last_only)
    found = result.gradients.rows
    numbers = found["seen"][::every]
    leaves, structure = jax.tree.flatten(seen)
    ends = np.cumsum([math.prod(leaf.shape) for leaf in leaves])[:-1]
    parts = [x.reshape(-1, *leaf.shape) for x, leaf in zip(jnp.split(numbers, ends, axis=1), leaves, strict=True)]
    curves = {"target": jnp.append(found["target"], result.costs[-1]), "test": found["test"]}
    return jax.tree.unflatten(structure, parts), curves, result.carry[0][0]


_compiled_sweep = functools.partial(jax.jit, static_argnames=("program", "adjoint", "shapes", "every"))(_sweep)


def run(
    task: Task,
    learner: Learner,
    policy: Policy,
    arguments: Inputs,
    carry: PyTree,
    group: Array | None,
    weights: np.ndarray,
    adjoint: Adjoint,
    settings: Settings,
) -> tuple[PyTree, dict[str, Array], PyTree]:
    """A run and its costates.

    Args:
      task, learner, policy: as for `olm.train`.
      arguments, carry: as `olm.train.inputs` gives them, the test set among the data or None.
      group: [N] 0 or 1, or None.
      weights: [T+1] of the objective.
      adjoint: how the states are remembered.
      settings: what is measured.

    Returns:
      (what `observe` gives, numpy arrays with a leading axis of measured steps; curves ``target`` [T+1] and ``test`` [T] at
      θ_0 … θ_{T−1}, or () without a test set; θ_T).

    No example: see `olm.law.study`.
    """
    steps = len(weights) - 1
    functions = Task(task.init, task.losses, None, None, target_losses=task.target_losses)
    try:
        program, shapes = _cached_program(functions, learner, policy, steps, settings)
    except TypeError:  # something unhashable among the arguments: build it anew, which only costs compilation
        program, shapes = _program(functions, learner, policy, steps, settings)
    values = jnp.asarray(weights, jnp.result_type(float))
    aux = (arguments.aux, arguments.rows, values[:-1])
    observed = Inputs((), (), aux, {**arguments.data, "phi": arguments.shared, "group": group})
    measure = _compiled_sweep if adjoint.traceable else _sweep
    seen, curves, params = measure(program, adjoint, shapes, settings.every, observed, carry, values)
    return jax.tree.map(np.asarray, seen), jax.tree.map(np.asarray, curves), params
