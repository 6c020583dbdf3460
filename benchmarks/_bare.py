"""Training loops in bare jax and optax, the denominators of every cost ratio. Imports nothing of olm."""

from __future__ import annotations

import math
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


def transformer_losses(heads: int) -> Callable[[Any, Any], jax.Array]:
    """``losses(params, {"tokens": [B, L+1]}) -> [B]`` of `olm.models.transformer` on its parameters, in textbook operations."""

    def norm(p: Any, x: jax.Array) -> jax.Array:
        return x / (jnp.sqrt(jnp.mean(x * x, -1, keepdims=True)) + 1e-8) * p["weight"] + p["bias"]

    def block(p: Any, x_BxLxD: jax.Array) -> jax.Array:
        size, length, width = x_BxLxD.shape
        qkv = jnp.split(norm(p["norm_attention"], x_BxLxD) @ p["qkv"], 3, axis=-1)
        q, k, v = (part.reshape(size, length, heads, width // heads) for part in qkv)
        scores_BxHxLxL = jnp.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(width)
        attention = jax.nn.softmax(jnp.where(jnp.tril(jnp.ones((length, length), bool)), scores_BxHxLxL, -jnp.inf))
        x_BxLxD = x_BxLxD + jnp.einsum("bhqk,bkhd->bqhd", attention, v).reshape(x_BxLxD.shape) @ p["out"]
        return x_BxLxD + jax.nn.relu(norm(p["norm_mlp"], x_BxLxD) @ p["up"]) @ p["down"]

    def losses(p: Any, batch: Any) -> jax.Array:
        inputs, labels = batch["tokens"][:, :-1], batch["tokens"][:, 1:]
        x_BxLxD = p["embedding"][inputs] + p["position"][: inputs.shape[1]]
        for name in sorted(name for name in p if name.startswith("block_")):
            x_BxLxD = block(p[name], x_BxLxD)
        logits = norm(p["norm"], x_BxLxD) @ p["head"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(-1)

    return losses
