"""Samples of a base with the labels of an oracle: what NADO and DiNADO learn from.

Samples come from the base itself, or from it at another temperature with the exact weights p(y) / q_τ(y), the normaliser of every
step included (released code leaves those out). Where the oracle fires or fails on (nearly) all of them there is nothing to learn
from, and `check_labels` says so before any training.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from olm.control import automata, decode
from olm.control.automata import Automaton
from olm.control.model import Context, Model, compiled, which_of
from olm.errors import InputError, check_number, check_whole
from olm.learner import examples
from olm.types import Array, PyTree

Oracle = Callable[[Array, Context], Array]


class Samples(NamedTuple):
    """Labelled samples.

    Attributes:
      batch: what losses take: "tokens" [N, T], "label" [N], "context", "log_p" [N, T, V] if kept, "mask" [N, T] if sequences end.
      weights: [N], mean 1: p(y) / q_τ(y), self-normalised; all 1 at temperature 1.
      rate: estimate of R(x) over all samples, Σ w C / Σ w.
    """

    batch: PyTree
    weights: Array
    rate: float

    @property
    def effective(self) -> float:
        """Effective sample size of the weights, (Σ w)² / Σ w²."""
        weights = np.asarray(self.weights, np.float64)
        return float(weights.sum() ** 2 / (weights**2).sum())


def accepts(constraints: Automaton) -> Oracle:
    """The oracle of a stack of automata, the one that context["which"] names.

    Args:
      constraints: [X, n, V] and [X, n], of `olm.control.automata.stack`.

    Returns:
      ``(tokens [B, T], context) -> [B]`` of 0 and 1.

    >>> oracle = accepts(automata.stack([automata.clauses([[[1]]], 2)]))
    >>> oracle(jnp.array([[0, 1], [0, 0]]), {"which": jnp.zeros(2, int)}).tolist()
    [1.0, 0.0]
    """

    def oracle(tokens: Array, context: Context) -> Array:
        which = which_of(context, len(tokens))
        last = automata.run_stacked(constraints, which, tokens)[:, -1]
        return jnp.asarray(constraints.accepting)[which, last].astype(jnp.result_type(float))

    return oracle


def draw(
    base: Model,
    params: PyTree,
    oracle: Oracle,
    key: Array,
    context: Context,
    *,
    temperature: float = 1.0,
    end: int | None = None,
    keep_log_p: bool = True,
    chunk: int = 4096,
) -> Samples:
    """Draw a sequence of the base for each row of the context and label it.

    Args:
      base, params: the base.
      oracle: ``(tokens [B, T], context) -> [B]``, 0 and 1 or between: an automaton's, or any classifier of whole sequences.
      key: random key.
      context: arrays with a leading axis N.
      temperature: τ of the draw.
      end: the id that ends a sequence; None: all have T tokens.
      keep_log_p: keep the base's log-probabilities, N·T·V numbers, so that training need not compute them.
      chunk: sequences drawn at once.

    Returns:
      `Samples`.

    Raises:
      InputError: labels outside 0 … 1 or of another shape, arrays of the context that differ in length.

    No example: see `olm.fitting.fit`.
    """
    check_whole("chunk", chunk, 1)
    n = examples(context, "context")
    drawn, labels, log_p = [], [], []
    whole = compiled(base)
    for place, begin in enumerate(range(0, n, chunk)):
        part = {name: values[begin : begin + chunk] for name, values in context.items()}
        got = decode.sample(base, params, jax.random.fold_in(key, place), part, temperature=temperature)
        drawn.append(got)
        labels.append(label_all(oracle, got.tokens, part))
        if keep_log_p:
            log_p.append(whole(params, got.tokens, part))
    tokens = jnp.concatenate([got.tokens for got in drawn])
    label = jnp.asarray(np.concatenate(labels), jnp.result_type(float))
    log_w = jnp.concatenate([got.log_p - got.log_drawn for got in drawn])
    weights = jax.nn.softmax(log_w) * n
    batch: dict[str, PyTree] = {"tokens": tokens, "label": label, "context": dict(context)}
    if keep_log_p:
        batch["log_p"] = jnp.concatenate(log_p)
    if end is not None:
        batch["mask"] = counted(tokens, end)
    return Samples(batch, weights, float(jnp.sum(weights * label) / n))


def label_all(oracle: Oracle, tokens: Array, context: Context) -> np.ndarray:
    """An oracle's labels, checked.

    Args:
      oracle: ``(tokens [B, T], context) -> [B]``, 0 and 1 or between.
      tokens: [B, T].
      context: arrays with a leading axis B.

    Returns:
      [B], in numpy.

    Raises:
      InputError: labels outside 0 … 1 or of another shape.

    >>> label_all(lambda tokens, context: tokens[:, 0] == 1, jnp.array([[1], [2]]), {}).tolist()
    [True, False]
    """
    found, n = np.asarray(oracle(tokens, context)), len(tokens)
    if found.dtype == object:
        raise InputError(f"the oracle gave {found}: it must give one number a sequence, ({n},)")
    if found.shape != (n,):
        raise InputError(f"the oracle gave labels of shape {found.shape}: it must give one number a sequence, ({n},)")
    wrong = found[~((found >= 0) & (found <= 1))]  # NaN, too
    if wrong.size:
        raise InputError(f"the oracle gave the label {wrong[0]:g}: it must give numbers from 0 to 1")
    return found


def counted(tokens: Array, end: int) -> Array:
    """Which tokens count: all up to and with the first ``end``.

    Args:
      tokens: [..., T].
      end: the id that ends a sequence.

    Returns:
      bool [..., T].

    >>> counted(jnp.array([[5, 1, 1], [5, 5, 5]]), 1).tolist()
    [[True, True, False], [True, True, True]]
    """
    over = jnp.cumsum(tokens == end, -1)
    return (over - (tokens == end)) == 0


def check_labels(samples: Samples, *, least: int = 1) -> Samples:
    """Fail where the oracle says so much the same of all samples that nothing can be learned.

    Args:
      samples: of `draw`.
      least: how many have to be accepted, and how many not; of an oracle that gives numbers between 0 and 1 their sum counts, and
        they have to differ.

    Returns:
      The same samples.

    Raises:
      InputError: says the estimated rate and what to change; ``least`` below 1.

    >>> batch = {"tokens": jnp.zeros((60, 1), int), "label": jnp.zeros(60), "context": {}}
    >>> check_labels(Samples(batch, jnp.ones(60), 0.0))
    Traceback (most recent call last):
    olm.errors.InputError: the oracle accepts 0 of 60 samples (rate below 0.05): draw more, raise the temperature, or ask for less
    """
    check_whole("least", least, 1)
    label, weights = np.asarray(samples.batch["label"], np.float64), np.asarray(samples.weights)
    n, fired = len(label), float(label.sum())
    if fired < least:
        # The 95% bound 3/n holds for samples of the base itself.
        bound = f"rate below {3 / n:.2g}" if fired == 0 and n > 3 and np.ptp(weights) == 0 else f"rate {samples.rate:.2g}"
        raise InputError(
            f"the oracle accepts {fired:g} of {n} samples ({bound}): draw more, raise the temperature, or ask for less"
        )
    if n - fired < least:
        raise InputError(
            f"the oracle accepts {fired:g} of {n} samples (rate {samples.rate:.4g}): there is nothing to control, ask for more"
        )
    if np.ptp(label) == 0:
        raise InputError(f"the oracle gives {label[0]:g} to all {n} samples: there is nothing to learn, ask for something else")
    return samples


def rebalanced(samples: Samples, share: float = 0.5) -> Array:
    """Weights under which accepted samples have a given share of all weight.

    Args:
      samples: of `draw`.
      share: of the accepted, those whose label exceeds 0.5.

    Returns:
      [N], mean 1, times the samples' own weights.

    Raises:
      InputError: a share outside (0, 1), or samples of one label only.

    >>> batch = {"tokens": jnp.zeros((4, 1), int), "label": jnp.array([1.0, 0, 0, 0]), "context": {}}
    >>> rebalanced(Samples(batch, jnp.ones(4), 0.25)).round(3).tolist()
    [2.0, 0.667, 0.667, 0.667]
    """
    check_number("share", share, "give a number between 0 and 1", 0, math.nextafter(1, 0), open_low=True)
    accepted, weights = samples.batch["label"] > 0.5, samples.weights
    check_labels(samples._replace(batch={"label": accepted}))
    of_accepted, of_others = (jnp.sum(jnp.where(which, weights, 0)) for which in (accepted, ~accepted))
    return len(weights) * weights * jnp.where(accepted, share / of_accepted, (1 - share) / of_others)
