"""Low-rank adapters: a frozen matrix W, used as W + (α/r)·A·B with A and B learned (Hu et al. 2021, arXiv 2106.09685).

Inputs are rows here, y = x·W, hence A [in, r] comes first. At the start B is zero and the model that of W alone. `merge` puts the
change into the parameters; `scaled` keeps it apart for `olm.models.transformer.logits`, `hidden` and `advance`, which then
compute x·W + ((x·A)·B)·α/r and never form a second matrix of W's size.

Not done: dropout before A, adapters of embeddings, a rank for each matrix, ranks found during training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from olm.errors import InputError, check_whole
from olm.models.transformer import MATRICES
from olm.types import Array, PyTree


class Adapter(NamedTuple):
    """A change of one matrix, (α/r)·A·B.

    Attributes:
      a: A [in, r].
      b: B [r, out].
    """

    a: Array
    b: Array


def init(key: Array, params: PyTree, *, rank: int, targets: Sequence[str] = ("qkv", "out", "up", "down")) -> PyTree:
    """How adapters start: A from U(±1/√in), B zero.

    Args:
      key: of the random numbers.
      params: the frozen parameters.
      rank: r, the same for all.
      targets: names of the matrices to adapt, in every block; "head" is one as well.

    Returns:
      Nested dictionaries as ``params``, with an `Adapter` at each matrix of these names and nothing else.

    Raises:
      InputError: a rank below 1 or above a side of a matrix; a target that is no matrix of ``params``, or no target.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> adapters = init(jax.random.key(0), {"block_0": {"qkv": jnp.ones((4, 12))}}, rank=2, targets=("qkv",))
      >>> adapters["block_0"]["qkv"].a.shape, adapters["block_0"]["qkv"].b.shape
      ((4, 2), (2, 12))

    Source: arXiv 2106.09685, section 4.1; U(±1/√in) is what its authors' program draws (Kaiming's law with a = √5).
    """
    check_whole("rank", rank, least=1)
    found = _matrices(params)
    names = sorted({path[-1] for path in found})
    if unknown := [target for target in targets if target not in names]:
        raise InputError(f"no matrix is named {unknown[0]!r}: choose targets among {', '.join(names)}")
    chosen = {path: matrix for path, matrix in found.items() if path[-1] in targets}
    if not chosen:
        raise InputError(f"there are no targets: choose some of {', '.join(names)}")
    for path, matrix in chosen.items():
        if rank > min(matrix.shape):
            sizes = "×".join(map(str, matrix.shape))
            raise InputError(f"rank {rank} exceeds the {sizes} matrix {'/'.join(path)}: lower it to at most {min(matrix.shape)}")

    def adapter(key: Array, matrix: Array) -> Adapter:
        (inputs, outputs), bound = matrix.shape, 1.0 / math.sqrt(matrix.shape[0])
        a = jax.random.uniform(key, (inputs, rank), matrix.dtype, -bound, bound)
        return Adapter(a, jnp.zeros((rank, outputs), matrix.dtype))

    keys = jax.random.split(key, len(chosen))
    return unflatten_dict({path: adapter(key, matrix) for key, (path, matrix) in zip(keys, chosen.items(), strict=True)})


def scaled(adapters: PyTree, alpha: float | Array) -> PyTree:
    """Adapters as the model's functions take them: B times α/r.

    Args:
      adapters: from `init`.
      alpha: α; the factor of a matrix's change is α/r, r being its adapter's own rank.

    Returns:
      Like ``adapters``, for ``logits(config)(params, tokens, adapters=…)``.

    Example:
      >>> import jax.numpy as jnp
      >>> scaled({"head": Adapter(jnp.ones((3, 2)), jnp.ones((2, 1)))}, 8)["head"].b.tolist()
      [[4.0], [4.0]]

    Source: arXiv 2106.09685, equation 3 and section 4.1.
    """
    return unflatten_dict({path: Adapter(a, b * (alpha / len(b))) for path, (a, b) in flatten_dict(adapters).items()})


def merge(params: PyTree, adapters: PyTree, alpha: float | Array) -> PyTree:
    """Parameters that hold the change, W + (α/r)·A·B: a model as fast as the frozen one.

    Args:
      params: the frozen parameters.
      adapters: from `init`.
      alpha: α, as for `scaled`.

    Returns:
      Like ``params``.

    Raises:
      InputError: adapters of matrices that ``params`` lacks.

    Example:
      >>> import jax.numpy as jnp
      >>> merge({"head": jnp.zeros((1, 1))}, {"head": Adapter(jnp.ones((1, 2)), jnp.ones((2, 1)))}, 8)["head"].tolist()
      [[8.0]]

    Source: arXiv 2106.09685, equation 3 and section 4.1.
    """
    changes = flatten_dict(scaled(adapters, alpha))
    if unknown := changes.keys() - _matrices(params).keys():
        raise InputError(f"the parameters have no matrix {'/'.join(min(unknown))}: give adapters made for them")
    leaves = flatten_dict(params)
    return unflatten_dict({**leaves, **{path: leaves[path] + a @ b for path, (a, b) in changes.items()}})


def count(adapters: PyTree) -> int:
    """Number of parameters learned, Σ r·(in + out) over the adapted matrices.

    Args:
      adapters: from `init`.

    Returns:
      A whole number.

    Example:
      >>> import jax.numpy as jnp
      >>> count({"head": Adapter(jnp.ones((3, 2)), jnp.ones((2, 5)))})
      16
    """
    return sum(leaf.size for leaf in jax.tree.leaves(adapters))


def _matrices(params: PyTree) -> dict[tuple[str, ...], Array]:
    return {path: leaf for path, leaf in sorted(flatten_dict(params).items()) if path[-1] in MATRICES}
