"""What a trained transformer has learned by heart, and whether its layers behave like an associative memory.

Niu et al. 2024 (arXiv 2405.08707, section 5.3) take activations as patterns, and half the distance to the nearest other one as
the radius of its ball, to be compared with √(n/2πe). Measured here beside it, with the controls that the paper lacks:

- every layer, for stored (training) and for held-out samples: radius; the share of held-out samples inside a stored ball (the
  paper's assumption 2); whether the distance to the nearest *other* stored pattern, which is what a held-out sample has as well,
  tells stored from held-out samples: how isolated stored patterns are, as their own distance is 0;
- retrieval: an input is moved by a share of its ball's radius, at random or towards its nearest neighbour; is it still the
  nearest pattern after each layer, and has the layer drawn it nearer, in units of the radius?
- what is known by heart, without geometry: samples whose second half the model writes from the first, by greedy decoding, and
  samples of lower loss than all but 5% of held-out ones (`alarm`).

A radius has no unit of its own: `rescaled` multiplies a pre-norm transformer's stream by any number and changes none of its
outputs but for rounding. So radii mean something relative to each other, and a match with √(n/2πe) does not.

Not done: positions other than the last or all, other models than `olm.models.transformer`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from olm.errors import InputError, check_whole
from olm.memory.neighbours import Neighbours, nearest
from olm.memory.partition import radius
from olm.models import transformer
from olm.models.transformer import TransformerConfig
from olm.progress import Bar
from olm.types import Array, PyTree

View = Literal["last", "whole"]
Direction = Literal["random", "towards"]
FRACTIONS = (0.25, 0.5, 1.0, 2.0)
FALSE_ALARMS = 0.05
FARTHEST = 1e6  # radii; float32 has no room for more


class Samples(NamedTuple):
    """Sequences as a transformer takes them.

    Attributes:
      tokens: [N, L+1] of integers.
      mask: [N, L], labels that count.
    """

    tokens: np.ndarray
    mask: np.ndarray


def samples(batch: PyTree, most: int | None = None) -> Samples:
    """The first sequences of a task's examples.

    Args:
      batch: ``{"tokens": [N, L+1], "mask": [N, L]}``, the mask optional, or the tokens alone.
      most: how many at most; None: all.

    Returns:
      `Samples`.

    Raises:
      InputError: no sequences of tokens, or no label in one of them.

    >>> samples(np.zeros((3, 5), int), most=2).mask.shape
    (2, 4)
    """
    tokens = batch.get("tokens") if isinstance(batch, Mapping) else batch
    array = None if tokens is None else np.asarray(tokens)
    if array is None or array.ndim != 2 or not np.issubdtype(array.dtype, np.integer) or array.shape[1] < 2 or not len(array):
        raise InputError("these examples are no sequences of tokens: associative memory is measured on language models")
    mask = batch.get("mask") if isinstance(batch, Mapping) else None
    kept = np.ones((len(array), array.shape[1] - 1), bool) if mask is None else np.asarray(mask, bool)
    if kept.shape != (len(array), array.shape[1] - 1):
        raise InputError(f"mask has shape {kept.shape} for tokens of shape {array.shape}: give [N, L], a value for each label")
    if not kept.any(1).all():
        raise InputError(f"sequence {int(np.flatnonzero(~kept.any(1))[0])} has no label that counts: leave it out")
    return Samples(array[:most], kept[:most])


@functools.lru_cache(maxsize=16)
def _activations(config: TransformerConfig, view: str) -> Any:
    """Compiled ``(params, inputs [B, L], at [B], extra) -> [layers + 2, B, n]``."""
    forward = transformer.activations(config)

    @jax.jit
    def apply(params: PyTree, inputs: Array, at: Array, extra: Array | None) -> Array:
        kept = forward(params, inputs, extra=extra)
        if view == "whole":
            return kept.reshape(*kept.shape[:2], -1)
        return jnp.take_along_axis(kept, at[None, :, None, None], axis=2)[:, :, 0]

    return apply


@functools.lru_cache(maxsize=16)
def _predictions(config: TransformerConfig) -> Any:
    """Compiled ``(params, tokens, mask) -> (loss [B], the second half is what the model would write [B])``."""
    forward = transformer.logits(config)

    @jax.jit
    def apply(params: PyTree, tokens: Array, mask: Array) -> tuple[Array, Array]:
        scores = forward(params, tokens[:, :-1])
        losses = jnp.where(mask, transformer.cross_entropy(scores, tokens[:, 1:]), 0)
        count = mask.sum(-1)
        second = mask & (jnp.cumsum(mask, -1) > (count // 2)[:, None])
        # Greedy decoding repeats the second half just when every one of its tokens is the likeliest after the true ones.
        right = (scores.argmax(-1) == tokens[:, 1:]) | ~second
        return losses.sum(-1) / count, right.all(-1)

    return apply


def _by_chunks(function: Any, chunk: int, *arrays: np.ndarray, axis: int = 0) -> Any:
    """The function over rows, ``chunk`` at a time, all of one shape, so that it compiles once."""
    rows, size, parts = len(arrays[0]), min(chunk, len(arrays[0])), []
    for start in range(0, rows, size):
        place = np.minimum(np.arange(start, start + size), rows - 1)
        found = jax.tree.map(np.asarray, function(*(array[place] for array in arrays)))
        keep = min(size, rows - start)
        parts.append(jax.tree.map(lambda x, keep=keep: np.take(x, range(keep), axis), found))
    return jax.tree.map(lambda *x: np.concatenate(x, axis), *parts)


def activations(
    config: TransformerConfig, params: PyTree, sequences: Samples, *, view: View = "last", extra: np.ndarray | None = None,
    chunk: int = 256,
) -> np.ndarray:  # fmt: skip
    """Activations of every layer: embedded tokens, the stream after each block, the normed states that the head multiplies.

    Args:
      config, params: the model.
      sequences: N of them.
      view: "last": the vector from which the last label is predicted, n = D, as the paper has it; "whole": all positions one
        after the other, n = L·D.
      extra: [N, L, D], added to the embedded tokens; None: nothing.
      chunk: sequences at once.

    Returns:
      [layers + 2, N, n] float32.

    Raises:
      InputError: activations that are not finite, an unknown view, sequences that do not fit the model.

    >>> sequences = samples(np.zeros((3, 5), np.int32))
    >>> activations(transformer.CPU, transformer.init(transformer.CPU)(jax.random.key(0)), sequences).shape
    (4, 3, 32)
    """
    check_view(view)
    if sequences.tokens.max() >= config.vocabulary or sequences.tokens.min() < 0:
        raise InputError(f"tokens go beyond the model's vocabulary of {config.vocabulary}: give those it was trained on")
    at = sequences.mask.shape[1] - 1 - sequences.mask[:, ::-1].argmax(1)
    apply = functools.partial(_activations(config, view), params)
    arrays = [sequences.tokens[:, :-1], at] + ([] if extra is None else [np.asarray(extra, np.float32)])
    call = apply if extra is not None else lambda inputs, at: apply(inputs, at, None)
    found = _by_chunks(call, check_whole("chunk", chunk, 1), *arrays, axis=1)
    if not np.isfinite(found).all():
        layer = layer_names(config)[int(np.flatnonzero(~np.isfinite(found).all((1, 2)))[0])]
        raise InputError(f"activations of {layer} hold nan or infinities: the model has diverged, train it at a lower rate")
    return found


def check_view(view: str) -> None:
    """Fail unless a view is known.

    Args:
      view: a word.

    Raises:
      InputError: names the words there are.

    >>> check_view("last")
    """
    if view not in get_args(View):
        raise InputError(f"view is {view!r}: give {' or '.join(get_args(View))}")


def check_fractions(fractions: Sequence[float]) -> None:
    """Fail unless inputs can be moved by these parts of a radius.

    Args:
      fractions: numbers.

    Raises:
      InputError: none, or one that is not above 0 or beyond 10⁶.

    >>> check_fractions((0.5, 1.0))
    """
    if not (len(fractions) and all(0 < fraction <= FARTHEST for fraction in fractions)):
        raise InputError(f"fractions are {tuple(fractions)}: give numbers above 0, at most {FARTHEST:g}")


def layer_names(config: TransformerConfig) -> list[str]:
    """Names of the layers that `activations` returns, in their order.

    Args:
      config: sizes.

    Returns:
      [layers + 2] words.

    >>> layer_names(transformer.CPU)
    ['embedding', 'block 1', 'block 2', 'norm']
    """
    return ["embedding", *(f"block {n + 1}" for n in range(config.layers)), "norm"]


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Probability that a positive's value is below a negative's, ties counted half: ½ where they are alike.

    Args:
      positive, negative: numbers.

    Returns:
      A share; the area under the curve of hits against false alarms.

    Raises:
      InputError: no number.

    >>> auc(np.array([0.0, 1.0]), np.array([1.0, 2.0]))
    0.875
    """
    if not (len(positive) and len(negative)):
        raise InputError("one of the two has no number: give at least one of each")
    values = np.sort(negative)
    below, upto = np.searchsorted(values, positive, "left"), np.searchsorted(values, positive, "right")
    return float(1 - (below + upto).mean() / 2 / len(values))


def alarm(held_out: np.ndarray, share: float = FALSE_ALARMS) -> float:
    """The loss below which a sample is called known: at most ``share`` of new samples are, whatever their distribution.

    The k-th least of M held-out losses, k = ⌊share·(M + 1)⌋: a new loss is below it with probability k/(M + 1).

    Args:
      held_out: [M], losses.
      share: of false alarms.

    Returns:
      A loss; −∞ where M is too small for any.

    >>> alarm(np.arange(100.0)), alarm(np.arange(8.0))
    (4.0, -inf)
    """
    k = int(share * (len(held_out) + 1))
    return float(np.sort(held_out)[k - 1]) if k else -np.inf


class Retrieval(NamedTuple):
    """What becomes of moved inputs.

    Attributes:
      fractions: [F], of the ball's radius.
      direction: "random" or "towards" the nearest neighbour.
      recovered: [layers + 2, F], share of samples that are still nearest to their own pattern.
      drawn: [layers + 2, F], median distance from the own pattern over the layer's radius, relative to the input's: below 1
        where the layer has drawn it nearer.
    """

    fractions: np.ndarray
    direction: str
    recovered: np.ndarray
    drawn: np.ndarray


def retrieval(
    config: TransformerConfig,
    params: PyTree,
    sequences: Samples,
    key: Array,
    *,
    view: View = "last",
    direction: Direction = "random",
    fractions: Sequence[float] = FRACTIONS,
    chunk: int = 256,
) -> Retrieval:
    """Move each embedded sequence by a fraction of its ball's radius, and see whether the layers return to its pattern.

    The input's pattern is the whole embedded sequence (n = L·D), its radius half the distance to the nearest other one. Moved at
    random, the sequence stays nearest to its own pattern up to 1 radius whatever the direction; moved towards its neighbour, it
    is half way there at 1.

    Args:
      config, params: the model.
      sequences: the patterns, at least two that differ.
      key: of the random directions.
      view: what of each layer is compared, as for `activations`.
      direction: "random", or "towards" the nearest neighbour.
      fractions: of the radius.
      chunk: sequences at once.

    Returns:
      `Retrieval`. Samples that equal another one at a layer have no ball there and are left out of that layer's ``drawn``.

    Raises:
      InputError: as `activations`; sequences that are all equal; an unknown direction; a fraction that is not above 0.

    No example: see `measure`.
    """
    if direction not in get_args(Direction):
        raise InputError(f"direction is {direction!r}: give {' or '.join(get_args(Direction))}")
    check_fractions(fractions)
    inputs = activations(config, params, sequences, view="whole", chunk=chunk)[0]
    there = nearest(inputs)
    if not there.distance.any():
        raise InputError("all sequences are equal, their separation is 0: give sequences that differ")
    kept = np.flatnonzero(there.distance > 0)
    shape = (len(kept), sequences.mask.shape[1], config.width)
    if direction == "random":
        away = np.asarray(jax.random.normal(key, inputs[kept].shape))
    else:
        away = inputs[there.which[kept]] - inputs[kept]
    away = away / np.linalg.norm(away, axis=1, keepdims=True) * (there.distance[kept, None] / 2)
    patterns = activations(config, params, sequences, view=view, chunk=chunk)
    radii = np.stack([nearest(layer).distance / 2 for layer in patterns])[:, kept]
    chosen = Samples(sequences.tokens[kept], sequences.mask[kept])
    recovered, drawn = [], []
    for fraction in fractions:
        moved = activations(config, params, chosen, view=view, extra=(fraction * away).reshape(shape), chunk=chunk)
        found = [nearest(layer, among) for layer, among in zip(moved, patterns, strict=True)]
        own = np.linalg.norm(moved.astype(np.float64) - patterns[:, kept], axis=-1)
        # Own counts as nearest when no other is strictly nearer: equal patterns are one.
        close = np.stack([own_l <= f.distance * (1 + 1e-9) for own_l, f in zip(own, found, strict=True)])
        recovered.append(close.mean(1))
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = np.where(radii > 0, own / radii, np.nan) / fraction
        drawn.append([float(np.nanmedian(row)) if np.isfinite(row).any() else np.nan for row in relative])
    return Retrieval(np.asarray(fractions, float), direction, np.stack(recovered, 1), np.asarray(drawn).T)


@dataclass(frozen=True)
class Memory:
    """What `measure` found; `summary` as plain numbers, `tables` as arrays.

    Attributes:
      layers: [l + 2] names.
      view: what of each layer was taken.
      theory: √(n/2πe), n the coordinates of a pattern in this view.
      stored, held_out: [l + 2] `Neighbours` of stored patterns among each other, and of held-out samples among the stored.
      losses: "stored" [N] and "held_out" [M], nats a label.
      written: "stored" [N] and "held_out" [M], whether the second half is what the model writes after the first.
      retrievals: by name, "random" and "towards", of stored samples and of as many held-out ones.
      by_share: the last layer's nearest distances among a quarter, a half, three quarters and all of the stored samples.
    """

    layers: tuple[str, ...]
    view: str
    theory: float
    stored: tuple[Neighbours, ...]
    held_out: tuple[Neighbours, ...]
    losses: Mapping[str, np.ndarray]
    written: Mapping[str, np.ndarray]
    retrievals: Mapping[str, Retrieval]
    by_share: Mapping[str, np.ndarray]

    def radii(self) -> np.ndarray:
        """[l + 2, 3]: median and quartiles of half the nearest distance of stored patterns, duplicates counted as 0."""
        return np.stack([np.quantile(layer.distance / 2, [0.5, 0.25, 0.75]) for layer in self.stored])

    def summary(self) -> dict[str, Any]:
        """Plain numbers: of samples as a whole, and of each layer."""
        losses, written = self.losses, self.written
        known = float((losses["stored"] < alarm(losses["held_out"])).mean())
        layers = []
        for name, quartiles, stored, held in zip(self.layers, self.radii(), self.stored, self.held_out, strict=True):
            ball = stored.distance[held.which] / 2
            layers.append(
                {
                    "layer": name,
                    "radius": float(quartiles[0]),
                    "radius_lower": float(quartiles[1]),
                    "radius_upper": float(quartiles[2]),
                    "radius_over_theory": float(quartiles[0] / self.theory),
                    "duplicates": stored.duplicates,
                    # A pattern that equals another has no ball.
                    "held_out_inside": float(((ball > 0) & (held.distance <= ball)).mean()) if ball.any() else None,
                    "held_out_distance_over_stored": _ratio(np.median(held.distance), np.median(stored.distance)),
                    "separation_auc": auc(stored.distance, held.distance),
                }
            )
        return {
            "view": self.view,
            "theory_radius": self.theory,
            "loss_stored": float(losses["stored"].mean()),
            "loss_held_out": float(losses["held_out"].mean()),
            "known": known,
            "known_above_chance": known - FALSE_ALARMS,
            "loss_auc": auc(losses["stored"], losses["held_out"]),
            "written_stored": float(written["stored"].mean()),
            "written_held_out": float(written["held_out"].mean()),
            "layers": layers,
            "retrieval": {
                name: {
                    "fractions": found.fractions.tolist(),
                    "recovered": found.recovered[-1].tolist(),
                    "drawn": found.drawn[-1].tolist(),
                }
                for name, found in self.retrievals.items()
            },
        }

    def tables(self) -> dict[str, Any]:
        """Arrays, for figures: nested dictionaries that `olm.records.save_arrays` takes."""
        return {
            "theory": np.asarray(self.theory),
            "radii": self.radii(),
            "stored_distance": np.stack([layer.distance for layer in self.stored]),
            "held_out_distance": np.stack([layer.distance for layer in self.held_out]),
            "by_share": dict(self.by_share),
            "losses": dict(self.losses),
            "written": dict(self.written),
            "retrieval": {
                name: {"fractions": found.fractions, "recovered": found.recovered, "drawn": found.drawn}
                for name, found in self.retrievals.items()
            },
        }


def _ratio(a: float, b: float) -> float | None:
    return float(a / b) if b > 0 else None


def measure(
    config: TransformerConfig,
    params: PyTree,
    stored: Samples,
    held_out: Samples,
    key: Array,
    *,
    view: View = "last",
    fractions: Sequence[float] = FRACTIONS,
    retrieved: int = 512,
    chunk: int = 256,
    progress: bool = False,
) -> Memory:
    """Radii, separation, retrieval and what is known by heart, of a trained transformer.

    Args:
      config, params: the model.
      stored: training samples.
      held_out: other samples of the same distribution.
      key: of the random directions of the retrieval tests.
      view: "last" position or "whole" sequence, see `activations`.
      fractions: of the radius, for the retrieval tests.
      retrieved: so many stored and so many held-out samples, at most, take part in the retrieval tests; 0: none.
      chunk: sequences at once.
      progress: show a bar with the time left.

    Returns:
      `Memory`.

    Raises:
      InputError: as `activations`; fewer than two stored samples.

    >>> config = TransformerConfig(vocabulary=8, length=4, width=8, layers=1, heads=2)
    >>> tokens = np.random.default_rng(0).integers(0, 8, (20, 5)).astype(np.int32)
    >>> params = transformer.init(config)(jax.random.key(0))
    >>> found = measure(config, params, samples(tokens[:12]), samples(tokens[12:]), jax.random.key(1)).summary()
    >>> [layer["layer"] for layer in found["layers"]], found["retrieval"]["stored, random"]["fractions"]
    (['embedding', 'block 1', 'norm'], [0.25, 0.5, 1.0, 2.0])

    Source: arXiv 2405.08707, section 5.3.
    """
    check_whole("retrieved", retrieved, 0)
    if len(stored.tokens) < 2:
        raise InputError("one stored sample has no neighbour: give at least two")
    sets = {"stored": stored, "held_out": held_out}
    kept = {name: activations(config, params, part, view=view, chunk=chunk) for name, part in sets.items()}
    guesses = functools.partial(_predictions(config), params)
    found = {name: _by_chunks(guesses, chunk, part.tokens, part.mask) for name, part in sets.items()}
    retrievals: dict[str, Retrieval] = {}
    last, layers = kept["stored"][-1], len(kept["stored"])
    stored_neighbours, held_neighbours = [], []
    bar = Bar(2 * layers + (4 if min(retrieved, len(stored.tokens), len(held_out.tokens)) > 1 else 0), 0, on=progress,
              unit="part", name="measure")  # fmt: skip
    for there, others in zip(kept["stored"], kept["held_out"], strict=True):
        stored_neighbours.append(nearest(there))
        held_neighbours.append(nearest(others, there))
        bar.show(2 * len(stored_neighbours), {})
    fewest = min(retrieved, len(stored.tokens), len(held_out.tokens))
    for name, part in sets.items() if fewest > 1 else ():
        few = Samples(part.tokens[:fewest], part.mask[:fewest])
        for direction in get_args(Direction):
            retrievals[f"{name.replace('_', ' ')}, {direction}"] = retrieval(
                config, params, few, key, view=view, direction=direction, fractions=fractions, chunk=chunk
            )
            bar.show(2 * layers + len(retrievals), {})
    bar.close()
    return Memory(
        tuple(layer_names(config)),
        view,
        radius(kept["stored"].shape[-1]),
        tuple(stored_neighbours),
        tuple(held_neighbours),
        {name: np.asarray(losses, np.float64) for name, (losses, _) in found.items()},
        {name: written for name, (_, written) in found.items()},
        retrievals,
        {f"{share}%": nearest(last[: max(2, len(last) * share // 100)]).distance for share in (25, 50, 75, 100)},
    )


def rescaled(params: PyTree, scale: float) -> PyTree:
    """The same function with a stream ``scale`` times as long: radii change, no logit does.

    Each block reads the stream through a norm that forgets its length, so embeddings, positions and what blocks add to the stream
    may all be multiplied by one number (the norm's 1e-8 leaves a difference of that order).

    Args:
      params: of a transformer.
      scale: above 0.

    Returns:
      Parameters.

    Raises:
      InputError: a scale that is not positive.

    >>> config, tokens = transformer.CPU, jnp.arange(8)[None]
    >>> params = transformer.init(config)(jax.random.key(0))
    >>> one, other = (transformer.logits(config)(p, tokens) for p in (params, rescaled(params, 100.0)))
    >>> bool(jnp.allclose(one, other, atol=1e-4))
    True
    """
    if not 0 < scale < np.inf:
        raise InputError(f"scale is {scale}: give a number above 0")
    grown = {"embedding", "position", "out", "down"}
    return jax.tree_util.tree_map_with_path(lambda path, leaf: leaf * scale if path[-1].key in grown else leaf, params)
