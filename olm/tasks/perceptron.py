"""The perceptron task of the Learning Law paper (arXiv 2402.17759, section 4.2 and appendix D).

A teacher labels inputs by the side of a hyperplane they lie on. The learner sees zero-mean inputs of larger variance than those
it is judged on, which lie around another mean: the only thing that makes one training example better than another is that shift.
No label is ever wrong.
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp

from olm.errors import InputError
from olm.models import perceptron as model
from olm.types import Array, PyTree, Task


def perceptron(
    key: Array,
    *,
    width: int = 128,
    examples: int = 4096,
    targets: int = 512,
    tests: int = 8192,
    train_variance: float = 3.0,
    target_mean: float = 0.5,
    dtype: jnp.dtype | None = None,
) -> Task:
    """Teacher and student: train z ~ N(0, s²I), desired z ~ N(m·1, I), label y = [teacher·z > 0].

    Args:
      key: random key of the teacher and of all three sets.
      width: D, inputs' length.
      examples: N, training examples.
      targets: K, the fixed sample of the desired distribution.
      tests: M, held-out examples of the desired distribution. The paper has as many as targets; a larger set measures better.
      train_variance: s², the variance of each training coordinate.
      target_mean: m, the mean of each coordinate of the desired inputs.
      dtype: float type of every array; None: JAX's default float.

    Returns:
      A ``Task`` whose parameters are ``{"w": [D]}`` and whose batches are ``{"x": [B, D], "y": [B]}``. ``draw(key, n)`` gives
      fresh desired examples labelled by the same teacher.

    Raises:
      InputError: a size below 1, a variance that is not positive, or a mean that is not finite.

    Example:
      >>> import jax
      >>> task = perceptron(jax.random.key(0), width=8, examples=32, targets=4, tests=4)
      >>> task.losses(task.init(jax.random.key(1)), task.train).shape
      (32,)
      >>> task.draw(jax.random.key(2), 5)["x"].shape
      (5, 8)

    Source: arXiv 2402.17759, section 4.2; there D = 128, N = 4096, K = M = 512.
    """
    for name, size in (("width", width), ("examples", examples), ("targets", targets), ("tests", tests)):
        if size < 1:
            raise InputError(f"{name} must be at least 1, not {size}")
    if not 0 < train_variance < math.inf:
        raise InputError(f"train_variance must be positive and finite, not {train_variance}")
    if not math.isfinite(target_mean):
        raise InputError(f"target_mean must be finite, not {target_mean}")
    dtype = jnp.dtype(dtype or jnp.result_type(float))
    teacher_key, *keys = jax.random.split(key, 4)
    # The scale of the teacher plays no part, only its direction does.
    teacher_D = jax.random.normal(teacher_key, (width,), dtype)

    def sample(key: Array, n: int, mean: float, deviation: float) -> PyTree:
        x_BxD = mean + deviation * jax.random.normal(key, (n, width), dtype)
        return {"x": x_BxD, "y": (x_BxD @ teacher_D > 0).astype(dtype)}

    def draw(key: Array, n: int) -> PyTree:
        return sample(key, n, target_mean, 1.0)

    @jax.jit
    def sets(train_key: Array, target_key: Array, test_key: Array) -> tuple[PyTree, PyTree, PyTree]:
        return sample(train_key, examples, 0.0, math.sqrt(train_variance)), draw(target_key, targets), draw(test_key, tests)

    train, target, test = sets(*keys)
    return Task(
        init=partial(model.init, width=width, dtype=dtype),
        losses=model.losses,
        train=train,
        target=target,
        test=test,
        draw=draw,
        alphabet=2,
    )
