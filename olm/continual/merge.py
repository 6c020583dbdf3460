"""TIES merging: one model out of several that were trained apart from one start, without training (Yadav et al. 2023).

The alternative to replay that continual pre-training is measured against. Task vectors τ_i = θ_i − θ_base are trimmed to their
largest entries, signs are elected by the sum of what is left, and entries of the elected sign are averaged.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from olm.errors import InputError, check_number
from olm.types import PyTree

__all__ = ["ties"]


def ties(base: PyTree, models: Sequence[PyTree], *, keep: float = 0.2, scale: float = 1.0) -> PyTree:
    """θ_base + λ τ, τ the mean of the trimmed task vectors' entries that have the elected sign.

    Entry by entry, with τ̂_i the task vector in which only the share ``keep`` of largest magnitude is left (over the whole model):
    s = sign(Σ_i τ̂_i), and τ = mean of the τ̂_i ≠ 0 with sign s.

    Args:
      base: θ_base, where all models began.
      models: two or more, of the same structure.
      keep: share of each task vector's entries that is kept.
      scale: λ.

    Returns:
      Parameters like ``base``.

    Raises:
      InputError: fewer than two models, other structures, a share outside (0, 1].

    Source: Yadav et al. 2023 (arXiv 2306.01708), algorithm 1; keep = 0.2 and λ = 1 are its recommendations without tuning.

    >>> base = jnp.zeros(4)
    >>> ties(base, [jnp.array([4.0, 2.0, 0.1, -3.0]), jnp.array([2.0, -1.0, 0.2, -1.0])], keep=0.75).tolist()
    [3.0, 2.0, 0.0, -2.0]
    """
    if len(models) < 2:
        raise InputError(f"{len(models)} model to merge: give two or more")
    check_number("keep", keep, "give a share above 0, at most 1", 0.0, 1.0, open_low=True)
    if len({jax.tree.structure(model) for model in (base, *models)}) > 1:
        raise InputError("the models to merge have other parameters than the base: train them from one start")
    # In float64 on the host: sorting every entry once is all the work there is.
    flat, structure = jax.tree.flatten(base)
    origin = np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in flat])
    trimmed = []
    for model in models:
        vector = np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(model)]) - origin
        kept = max(1, round(keep * vector.size))
        least = np.partition(np.abs(vector), vector.size - kept)[vector.size - kept]
        trimmed.append(np.where(np.abs(vector) >= least, vector, 0.0))
    stack = np.stack(trimmed)
    elected = np.sign(stack.sum(0))
    agree = (np.sign(stack) == elected) & (stack != 0)
    merged = origin + scale * np.where(agree, stack, 0).sum(0) / np.maximum(agree.sum(0), 1)
    sizes = np.cumsum([np.size(x) for x in flat])[:-1]
    parts = [
        jnp.asarray(part.reshape(np.shape(x)), jnp.result_type(x)) for part, x in zip(np.split(merged, sizes), flat, strict=True)
    ]
    return jax.tree.unflatten(structure, parts)
