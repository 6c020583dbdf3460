"""Training loops in bare jax and optax, the denominators of every cost ratio. Imports nothing of olm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax


def train(
    losses: Callable, optimiser: optax.GradientTransformation, steps: int, *, from_start: bool = False
) -> Callable[[Any, Any, Any], Any]:
    """``run(params, train, target) -> (params, target losses [T])``: full batch, uniform weights, target loss every step.

    With ``from_start`` the losses are [T+1], that of the first parameters included.
    """

    def run(params: Any, train: Any, target: Any) -> Any:
        def step(carry: Any, _: None) -> Any:
            params, state = carry
            gradient = jax.grad(lambda p: jnp.mean(losses(p, train)))(params)
            updates, state = optimiser.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), jnp.mean(losses(params, target))

        (last, _), curve = jax.lax.scan(step, (params, optimiser.init(params)), None, length=steps)
        return last, jnp.append(jnp.mean(losses(params, target)), curve) if from_start else curve

    return run


def naive_policy_gradient(losses: Callable, optimiser: optax.GradientTransformation) -> Callable[[Any, Any, Any, Any], Any]:
    """``run(weights [T, N], params, train, target)``: the area and its gradient by ``jax.grad`` through a plain scan."""

    def area(weights_TxN: jax.Array, params: Any, train: Any, target: Any) -> jax.Array:
        def step(carry: Any, weights_N: jax.Array) -> Any:
            params, state = carry
            gradient = jax.grad(lambda p: jnp.sum(weights_N * losses(p, train)))(params)
            updates, state = optimiser.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), jnp.mean(losses(params, target))

        return jnp.mean(jax.lax.scan(step, (params, optimiser.init(params)), weights_TxN)[1])

    return jax.value_and_grad(area)
