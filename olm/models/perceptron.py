"""The perceptron of the Learning Law paper (arXiv 2402.17759, section 4.2): logistic regression without a bias.

The loss is written in the signed margin m = (2y − 1)·x·w, as softplus(−m). Against the textbook form softplus(x·w) − y·x·w it
keeps its relative precision for well-learned examples, whose tiny losses are what the paper's property 4.2 counts.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from olm.types import Array, PyTree


@jax.custom_jvp
def _softplus(x: Array) -> Array:
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


# The rule keeps derivatives of every order smooth through x = 0, where those of max and |x| are not, and costs one logistic.
_softplus.defjvp(lambda primals, tangents: (_softplus(primals[0]), jax.lax.logistic(primals[0]) * tangents[0]))


def init(key: Array, width: int, dtype: jnp.dtype | None = None) -> PyTree:
    """Weights drawn from U(−1/√D, 1/√D).

    Args:
      key: random key.
      width: D, the length of an input.
      dtype: float type; None: JAX's default float.

    Returns:
      ``{"w": [D]}``.

    Example:
      >>> import jax
      >>> init(jax.random.key(0), 16)["w"].shape
      (16,)

    Source: arXiv 2402.17759, section 4.2.
    """
    bound = 1.0 / math.sqrt(width)
    return {"w": jax.random.uniform(key, (width,), dtype or jnp.result_type(float), -bound, bound)}


def logits(params: PyTree, x: Array) -> Array:
    """Log-odds of label 1, x·w.

    Args:
      params: ``{"w": [D]}``.
      x: inputs [B, D].

    Returns:
      [B].

    Example:
      >>> import jax.numpy as jnp
      >>> float(logits({"w": jnp.array([1.0, 2.0])}, jnp.array([[3.0, 4.0]]))[0])
      11.0
    """
    return x @ params["w"]


def losses(params: PyTree, batch: PyTree) -> Array:
    """Binary cross-entropy of each example, ℓ = log(1 + exp(−(2y − 1) x·w)).

    Args:
      params: ``{"w": [D]}``.
      batch: ``{"x": [B, D], "y": [B]}``; labels are exactly 0 or 1, in the dtype of ``x``.

    Returns:
      [B], nats per example.

    Example:
      >>> import jax.numpy as jnp
      >>> batch = {"x": jnp.eye(2), "y": jnp.array([0.0, 1.0])}
      >>> [round(float(loss), 4) for loss in losses({"w": jnp.array([0.0, 3.0])}, batch)]
      [0.6931, 0.0486]

    Source: arXiv 2402.17759, section 4.2.
    """
    return _softplus((1 - 2 * batch["y"]) * logits(params, batch["x"]))
