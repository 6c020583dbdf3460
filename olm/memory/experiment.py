"""How much data a model needs before it stops learning by heart: shares of a corpus, the gap at the validation minimum, D*
against N.

Niu et al. 2024 (arXiv 2405.08707): a transformer of N parameters is optimal at N = O(D²), where D* is the least D whose training
loss is near the validation loss at its minimum (their section 5.4: a mean square difference within .04, which is .2 nats; here a
share of the loss, and stricter). That is D* ∝ √N where l·width/T is held; where width grows alone, their own constants give
D* = T·√(π·T·width) ∝ N^¼. The rival is Akaike's: at the optimum of a well-specified model the gap is N/D nats, so D* ∝ N.

Models of several seeds are trained as one (`stacked`): parameters with a leading axis S, each with data of its own. Their losses
are added, gradients do not mix, and AdamW goes entry by entry, so each is what it would be alone; only clipping looks at all
of them together. Training is `olm.fitting.fit`, resumable with a run folder.

Not done: early stopping (the whole curve is kept, and its minimum looked for).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from olm.errors import InputError, check_whole
from olm.fitting import Fitted, fit
from olm.learner import Adam
from olm.models import transformer
from olm.models.transformer import TransformerConfig
from olm.records import Run
from olm.types import Array, PyTree

Losses = Callable[[PyTree, PyTree], Array]
ADAM = Adam(b2=0.99, weight_decay=0.0, clip=None)  # a clipped norm would be that of all seeds together


@functools.cache
def stacked(losses: Losses) -> Losses:
    """Losses of S models as those of one: Σ_s ℓ(θ_s, example s).

    Args:
      losses: ``(params, batch) -> [B]``.

    Returns:
      ``(params [S, …], batch [B, S, …]) -> [B]``; the same function for the same losses.

    >>> losses = stacked(lambda w, batch: batch * w)
    >>> losses(jnp.array([1.0, 10.0]), jnp.ones((3, 2))).tolist()
    [11.0, 11.0, 11.0]
    """

    def summed(params: PyTree, batch: PyTree) -> Array:
        return jax.vmap(losses, in_axes=(0, 1))(params, batch).sum(0)

    return summed


@functools.cache
def label_losses(config: TransformerConfig, labels: float) -> Losses:
    """Losses of lines of unequal lengths, Σ_l mask·CE(l) over the mean number of labels: their mean is nats a label.

    The mean of `transformer.per_sequence_losses` weighs short lines more; a source's entropy rate is a ratio of sums.

    Args:
      config: sizes.
      labels: mean number of labels of a line, of the source.

    Returns:
      ``(params, {"tokens": [B, L+1], "mask": [B, L]}) -> [B]``.

    Raises:
      InputError: labels that are not positive.

    No example: see `learn`.
    """
    if not labels > 0:
        raise InputError(f"labels is {labels}: give the mean number of labels of a line")
    forward = transformer.logits(config)

    def losses(params: PyTree, batch: PyTree) -> Array:
        losses_BxL = transformer.cross_entropy(forward(params, batch["tokens"][:, :-1]), batch["tokens"][:, 1:])
        return jnp.where(batch["mask"], losses_BxL, 0).sum(-1) / labels

    return losses


@functools.lru_cache(maxsize=64)
def _means(losses: Losses, chunk: int) -> Callable[[PyTree, PyTree], Array]:
    """Compiled ``(params [S, …], batch [S, K, …]) -> [S]``."""

    @jax.jit
    def means(params: PyTree, batch: PyTree) -> Array:
        def one(pair: tuple[PyTree, PyTree]) -> Array:
            params, rows = pair
            size = len(jax.tree.leaves(rows)[0])
            return jax.lax.map(lambda row: losses(params, jax.tree.map(lambda x: x[None], row))[0], rows,
                               batch_size=min(chunk, size)).mean()  # fmt: skip

        return jax.lax.map(one, (params, batch))

    return means


def learn(
    config: TransformerConfig,
    train: Sequence[PyTree],
    validation: PyTree,
    keys: Array,
    *,
    losses: Losses | None = None,
    steps: int,
    batch_size: int = 32,
    peak: float = 3e-3,
    warmup: int | None = None,
    adam: Adam = ADAM,
    rates: Array | None = None,
    points: int = 20,
    looked_at: int = 1024,
    floor: tuple[Sequence[np.ndarray], np.ndarray] | None = None,
    chunk: int = 256,
    run: Run | None = None,
    progress: bool = False,
) -> Fitted:
    """Train S transformers, each on its own examples, and measure training and validation loss along the way.

    Args:
      config: sizes.
      train: S sets of N examples each, ``{"tokens": [N, L+1]}`` with or without "mask".
      validation: examples that nobody is trained on.
      keys: [S], of initialisation; the first one also orders the examples.
      losses: ``(params, batch) -> [B]``; None: `transformer.per_sequence_losses`, nats a label.
      steps: T.
      batch_size: B, of each model.
      peak, warmup, adam, rates, run, progress: as for `olm.fitting.fit`.
      points: evaluations along the way.
      looked_at: at most so many training and validation examples are evaluated, the first.
      floor: the source's own loss of every training example, [N] for each set, and of every validation example; None: unknown.
        A model near the source scatters from sample to sample as the source does. Half of the difference between the two means
        is taken off each loss, so that their gap tells more. It is of no use for examples known by heart, which scatter less.
      chunk: examples evaluated at once.

    Returns:
      `olm.fitting.Fitted`: parameters with a leading axis S; rows with "step", "train" [S] and "validation" [S], nats.

    Raises:
      InputError: no set, sets of different sizes, sizes that do not fit.
      DivergenceError: when a loss is not finite.

    >>> config = TransformerConfig(vocabulary=4, length=3, width=8, layers=1, heads=2)
    >>> sets = [{"tokens": np.tile([[0, 1, 2, 3]], (8, 1)).astype(np.int32)}] * 2
    >>> found = learn(config, sets, sets[0], jax.random.split(jax.random.key(0)), steps=40, batch_size=4, peak=0.03, points=2)
    >>> [row["step"] for row in found.history], bool(max(found.history[-1]["validation"]) < 0.2)
    ([0, 20, 40], True)
    """
    if not len(train) or len(keys) != len(train):
        raise InputError(f"{len(train)} training sets and {len(keys)} keys: give a key for each set, at least one")
    sizes = {len(jax.tree.leaves(part)[0]) for part in train}
    if len(sizes) > 1:
        raise InputError(f"training sets have {sorted(sizes)} examples: give sets of one size")
    for name, value in (("points", points), ("looked_at", looked_at), ("chunk", chunk)):
        check_whole(name, value, 1)
    losses = losses or _per_sequence(config)
    start = _init(config)(keys)
    examples = jax.tree.map(lambda *parts: jnp.asarray(np.stack(parts, 1)), *train)
    few = jax.tree.map(lambda *parts: jnp.asarray(np.stack([part[:looked_at] for part in parts])), *train)
    held = jax.tree.map(lambda x: jnp.asarray(np.broadcast_to(x[:looked_at], (len(train), *x[:looked_at].shape))), validation)
    known = np.zeros((2, len(train)))
    if floor is not None:
        wanted = [*(min(part, looked_at) for part in (*sizes,) * len(train)), len(jax.tree.leaves(held)[0][0])]
        if [len(part[:looked_at]) for part in (*floor[0], floor[1])] != wanted:
            raise InputError("floor lacks sets or examples: give a loss for each training set's examples and the validation's")
        known = np.stack([[np.mean(part[:looked_at]) for part in floor[0]], np.full(len(train), np.mean(floor[1][:looked_at]))])
        known = known - known.mean(0)
    means = _means(losses, chunk)

    def measures(params: PyTree) -> Mapping[str, Any]:
        seen = [np.asarray(means(params, part), np.float64) - taken for part, taken in zip((few, held), known, strict=True)]
        return {"train": seen[0].tolist(), "validation": seen[1].tolist(), "loss": float(seen[1].mean())}

    return fit(
        stacked(losses), start, examples, steps=steps, key=keys[0], batch_size=batch_size, peak=peak, warmup=warmup, adam=adam,
        rates=rates, measures=measures, every=max(steps // points, 1), run=run, progress=progress,
    )  # fmt: skip


_per_sequence = functools.cache(transformer.per_sequence_losses)


@functools.cache
def _init(config: TransformerConfig) -> Callable[[Array], PyTree]:
    return jax.jit(jax.vmap(transformer.init(config)))


class Minimum(NamedTuple):
    """A run where its validation loss is least.

    Attributes:
      step: the evaluation's step.
      train, validation: nats there.
      gap: (validation − train) / validation.
    """

    step: int
    train: float
    validation: float
    gap: float


def at_minimum(history: Sequence[Mapping[str, Any]], seed: int) -> Minimum:
    """The evaluation of least validation loss.

    Args:
      history: rows of `learn`.
      seed: which of the S models.

    Returns:
      `Minimum`.

    Raises:
      InputError: no row.

    >>> rows = [{"step": n, "train": [t], "validation": [v]} for n, t, v in ((0, 2.0, 2.0), (5, 0.9, 1.0), (9, 0.1, 1.5))]
    >>> at_minimum(rows, 0)
    Minimum(step=5, train=0.9, validation=1.0, gap=0.1)
    """
    if not history:
        raise InputError("there is no evaluation: let the run go on")
    best = min(history, key=lambda row: row["validation"][seed])
    train, validation = float(best["train"][seed]), float(best["validation"][seed])
    return Minimum(int(best["step"]), train, validation, round(1 - train / validation, 12))


class Needed(NamedTuple):
    """The least data whose gap is within a bound.

    Attributes:
      tokens: D*, nan where the grid does not reach it.
      side: "within" the grid, "below" its smallest or "above" its largest.
    """

    tokens: float
    side: str


def data_needed(tokens: Sequence[float], gaps: Sequence[float], bound: float = 0.02) -> Needed:
    """D*: from which on the gap stays within the bound, interpolated linearly in log D.

    Args:
      tokens: [M], sizes of the training sets, rising.
      gaps: [M], gap at each validation minimum.
      bound: the largest gap that counts as none.

    Returns:
      `Needed`; the crossing looked for is the last one, after which all gaps are within the bound.

    Raises:
      InputError: fewer than two sizes, sizes that do not rise, another number of gaps, nan.

    >>> round(data_needed([100, 1000, 10000], [0.3, 0.03, 0.01]).tokens)  # half of the way from .03 to .01
    3162
    >>> data_needed([100, 1000], [0.01, 0.001]).side
    'below'
    """
    sizes, values = np.asarray(tokens, float), np.asarray(gaps, float)
    if np.isnan(values).any():
        raise InputError("a gap is nan: leave that size out")
    if sizes.ndim != 1 or len(sizes) < 2 or values.shape != sizes.shape or not (np.diff(sizes) > 0).all() or not sizes[0] > 0:
        raise InputError("give at least two sizes in rising order, and a gap for each")
    over = np.flatnonzero(~(values <= bound))
    if not len(over):
        return Needed(float("nan"), "below")
    last = int(over[-1])
    if last == len(sizes) - 1:
        return Needed(float("nan"), "above")
    share = (values[last] - bound) / (values[last] - values[last + 1])
    low, high = np.log(sizes[last]), np.log(sizes[last + 1])
    return Needed(float(np.exp(low + share * (high - low))), "within")


def exponent(parameters: Sequence[float], tokens: Sequence[float]) -> float:
    """b of D* ∝ N^b, by least squares of logarithms over the sizes where D* is known.

    Args:
      parameters: [M], N.
      tokens: [M], D*; nan where it is not known.

    Returns:
      b; nan where fewer than three sizes have a D*.

    Raises:
      InputError: another number of sizes.

    >>> round(exponent([1, 10, 100], [5, 50, 500]), 6)
    1.0
    """
    n, d = np.asarray(parameters, float), np.asarray(tokens, float)
    if n.shape != d.shape:
        raise InputError(f"{n.size} model sizes and {d.size} amounts of data: give one for each")
    known = np.isfinite(d)
    if known.sum() < 3:
        return float("nan")
    return float(np.polyfit(np.log(n[known]), np.log(d[known]), 1)[0])
