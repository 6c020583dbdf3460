"""Exact nearest neighbours of many vectors: blocks on the device in float32, every pair once, what could be nearest in float64.

Squared distances come from one matrix product a block, ‖a‖² + ‖b‖² − 2 a·b, of vectors from which their median was taken. Float32
cannot tell near neighbours apart that well, so the first pass keeps only the least of each vector and block, and the second looks
again at the blocks whose least is within the bound on the rounding of a product (n + 8 roundings of ‖a‖² + ‖b‖²): all pairs there
within the bound are computed from differences in float64. So the neighbour is the true one, up to rounding of float64.

Not done: approximate search, more than one neighbour, vectors that do not fit into the memory of the host.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from olm.errors import InputError, check_whole
from olm.progress import Bar
from olm.types import Array

_ROUNDING = 2.0**-24
_TINY = 2.0**-126  # what is smaller may be taken for 0
_EXTRA = 8  # roundings beside those of a product's sum
_NUMBERS = 1 << 24  # of the vectors that are rescored at once


class Neighbours(NamedTuple):
    """The nearest other vector of each.

    Attributes:
      distance: [N] float64, ‖x_i − x_j‖.
      which: [N], j; of several at the same distance the first.
      duplicates: vectors whose neighbour is equal to them: their distance, the separation, is 0.
      rescored: pairs that were computed in float64.
    """

    distance: np.ndarray
    which: np.ndarray
    duplicates: int
    rescored: int


def nearest(vectors: np.ndarray, among: np.ndarray | None = None, *, block: int = 2048, progress: bool = False) -> Neighbours:
    """The nearest neighbour of every vector, exactly.

    Args:
      vectors: [N, n].
      among: [M, n], where to look; None: among the other ``vectors``, each pair of which is computed once.
      block: vectors of a block.
      progress: show a bar with the time left.

    Returns:
      `Neighbours`.

    Raises:
      InputError: nan or infinities, shapes that do not match, fewer than two vectors.

    >>> found = nearest(np.array([[0.0, 0.0], [3.0, 4.0], [3.0, 5.0]]))
    >>> found.distance.tolist(), found.which.tolist()
    ([5.0, 1.0, 1.0], [1, 2, 1])
    """
    check_whole("block", block, 1)
    x = _checked("vectors", vectors)
    y = x if among is None else _checked("among", among)
    if x.shape[1] != y.shape[1]:
        raise InputError(f"vectors have {x.shape[1]} coordinates and among {y.shape[1]}: give both in one space")
    if among is None and len(x) < 2:
        raise InputError("one vector has no neighbour: give at least two")
    first, same = _first_of_equal(y)
    kept = np.flatnonzero(first == np.arange(len(y)))  # equal vectors are looked for once
    if among is not None:
        found = _nearest(x, y[kept], False, block, progress)
        distance, index = found.distance, kept[found.which]
    else:
        distance, index = np.zeros(len(x)), np.where(same >= 0, same, first)
        if len(kept) > 1:
            found = _nearest(x[kept], x[kept], True, block, progress)
            alone = same[kept] < 0
            distance[kept[alone]], index[kept[alone]] = found.distance[alone], kept[found.which[alone]]
    rescored = found.rescored if len(kept) > 1 or among is not None else 0
    return Neighbours(distance, index, int((distance == 0).sum()), rescored)


def separation(patterns: np.ndarray) -> float:
    """The least distance between two patterns: balls of half of it are disjoint, as the theory's third assumption wants.

    Args:
      patterns: [d, n].

    Returns:
      A length.

    Raises:
      InputError: two patterns are equal, so that no ball holds one of them alone; nan; fewer than two patterns.

    >>> separation(np.array([[0.0, 0.0], [3.0, 4.0]]))
    5.0
    >>> separation(np.zeros((2, 3)))
    Traceback (most recent call last):
    olm.errors.InputError: patterns 0 and 1 are equal, their separation is 0: leave one of them out

    Source: arXiv 2405.08707, assumption 3.
    """
    found = nearest(patterns)
    if found.duplicates:
        row = int(found.distance.argmin())
        pair = sorted((row, int(found.which[row])))
        raise InputError(f"patterns {pair[0]} and {pair[1]} are equal, their separation is 0: leave one of them out")
    return float(found.distance.min())


def _first_of_equal(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each vector the first that equals it, and the first *other* one, −1 where there is none."""
    seen: dict[bytes, int] = {}
    vectors = vectors + 0.0  # −0 and 0 are equal and have different bytes
    first = np.array([seen.setdefault(vector.tobytes(), i) for i, vector in enumerate(vectors)])
    later = np.flatnonzero(first != np.arange(len(vectors)))
    same = np.where(first == np.arange(len(vectors)), -1, first)
    same[first[later[::-1]]] = later[::-1]
    return first, same


def _nearest(x: np.ndarray, y: np.ndarray, same: bool, block: int, progress: bool) -> Neighbours:
    middle = np.median(y, 0)  # a mean would follow a vector that is far from all others, and all would be rounded coarsely
    block = min(block, max(len(x), len(y)))
    # By a power of two, which changes no digit: squares of very long or short vectors are beyond float32.
    ends = [end for part in ((x,) if same else (x, y)) for end in (part.min(0), part.max(0))]
    scale = 2.0 ** -np.frexp(np.abs(np.stack(ends) - middle).max())[1]
    left = _Blocks(x, middle, scale, block)
    right = left if same else _Blocks(y, middle, scale, block)
    least = _first_pass(left, right, same, progress)
    best = least.min(1)
    # The nearest vector b of a has ‖b‖ ≤ ‖a‖ + distance, so this bounds the rounding of its pair and of the pair found.
    norm = np.sqrt(left.squared)
    size = left.squared + (norm + np.sqrt(np.maximum(best, 0)) * (1 + 1e-3)) ** 2
    within = best + 4 * (x.shape[1] + _EXTRA) * (_ROUNDING * size + _TINY)
    return _second_pass(x, y, left, right, least, within, same)


def _checked(name: str, vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, np.float64)
    if vectors.ndim != 2 or not all(vectors.shape):
        raise InputError(f"{name} have shape {vectors.shape}: give [N, n], one vector a row")
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(1))[0])
        raise InputError(f"{name} hold nan or infinities, first in row {row}: look where they were made")
    return vectors


class _Blocks:
    """Centred float32 vectors on the device in blocks of one size; padding is infinitely far from everything."""

    def __init__(self, vectors: np.ndarray, middle: np.ndarray, scale: float, block: int):
        centred = vectors - middle
        centred = np.multiply(centred, scale, out=centred).astype(np.float32)
        self.squared = np.square(centred, dtype=np.float64).sum(1)
        self.size, self.block = len(vectors), block
        self.number = -(-len(vectors) // block)
        self.parts, self.norms = [], []
        for b in range(self.number):
            rows = slice(b * block, (b + 1) * block)
            short = block - len(centred[rows])
            self.parts.append(jnp.asarray(np.pad(centred[rows], ((0, short), (0, 0)))))
            self.norms.append(jnp.asarray(np.pad(self.squared[rows].astype(np.float32), (0, short), constant_values=np.inf)))


def _distances(a: Array, b: Array, a_norm: Array, b_norm: Array) -> Array:
    return a_norm[:, None] + b_norm - 2 * jnp.matmul(a, b.T, precision="highest")


@functools.partial(jax.jit, static_argnames="same")
def _least(a: Array, b: Array, a_norm: Array, b_norm: Array, same: bool) -> tuple[Array, Array]:
    squared = _distances(a, b, a_norm, b_norm)
    if same:
        squared = jnp.where(jnp.eye(len(a), dtype=bool), jnp.inf, squared)
    return squared.min(1), squared.min(0)


@jax.jit
def _near(a: Array, b: Array, a_norm: Array, b_norm: Array, within: Array) -> Array:
    return _distances(a, b, a_norm, b_norm) <= within[:, None]


def _first_pass(left: _Blocks, right: _Blocks, same: bool, progress: bool) -> np.ndarray:
    """[N, blocks]: the least squared distance of each vector to each block."""
    pairs = [(i, j) for i in range(left.number) for j in range(i if same else 0, right.number)]
    found: list[list[Array]] = [[None] * right.number for _ in range(left.number)]  # type: ignore[list-item]
    bar = Bar(len(pairs), 0, on=progress, unit="block", name="neighbours")
    try:
        for done, (i, j) in enumerate(pairs, 1):
            rows, columns = _least(left.parts[i], right.parts[j], left.norms[i], right.norms[j], same and i == j)
            found[i][j] = rows
            if same and i != j:
                found[j][i] = columns
            if done % 32 == 0:
                rows.block_until_ready()  # or the bar, and the queue, would run ahead of the work
            bar.show(done, {})
    finally:
        bar.close()
    return np.concatenate([np.stack([np.asarray(part) for part in row], 1) for row in found])[: left.size]


def _second_pass(
    x: np.ndarray, y: np.ndarray, left: _Blocks, right: _Blocks, least: np.ndarray, within: np.ndarray, same: bool
) -> Neighbours:
    """Every pair that float32 cannot exclude, from differences in float64."""
    best, index = np.full(len(x), np.inf), np.zeros(len(x), np.int64)
    centred = np.concatenate([np.asarray(part) for part in left.parts])[: left.size]
    rescored = 0
    for j in range(right.number):
        wanted = np.flatnonzero(least[:, j] <= within)
        for start in range(0, len(wanted), left.block):
            rows = wanted[start : start + left.block]
            short = left.block - len(rows)
            part = jnp.asarray(np.pad(centred[rows], ((0, short), (0, 0))))
            norms = jnp.asarray(np.pad(left.squared[rows].astype(np.float32), (0, short)))
            bound = jnp.asarray(np.pad(_rounded_up(within[rows]), (0, short), constant_values=-1.0))
            near = np.asarray(_near(part, right.parts[j], norms, right.norms[j], bound))
            row, column = np.nonzero(near[: len(rows)])
            row, column = rows[row], column + j * right.block
            if same:
                row, column = row[row != column], column[row != column]
            rescored += len(row)
            pairs = max(_NUMBERS // x.shape[1], 1)
            for first in range(0, len(row), pairs):
                a, b = row[first : first + pairs], column[first : first + pairs]
                squared = np.square(x[a] - y[b]).sum(1)
                # Pairs stand in the order of rows and columns; the first of equal distances stays.
                order = np.lexsort((b, squared, a))
                a, b, squared = a[order], b[order], squared[order]
                head = np.flatnonzero(np.r_[True, a[1:] != a[:-1]])
                a, b, squared = a[head], b[head], squared[head]
                better = squared < best[a]
                best[a[better]], index[a[better]] = squared[better], b[better]
    return Neighbours(np.sqrt(best), index, int((best == 0).sum()), rescored)


def _rounded_up(values: np.ndarray) -> np.ndarray:
    return np.nextafter(values.astype(np.float32), np.float32(np.inf))
