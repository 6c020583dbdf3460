"""NADO and DiNADO: parametrisations of R(y_≤t) = Pr[C(y) = 1 | y_≤t] and how they learn it from labelled samples of the base.

With R, q*(y_t | y_<t) = p(y_t | y_<t) R(y_≤t) / R(y_<t), and R is forward consistent, R(y_<t) = E_t = Σ_v p(v | y_<t) R(y_<t v).
A network gives shape numbers s_v and a norm N for a prefix (`olm.control.network`); a form makes values of them:

- ``nado``: log R_v = log σ(s_v) (Meng et al. 2022, arXiv 2205.14219).
- ``soft``: log R_v = (s_v − max_u s_u) + log σ(N): the norm apart from the shape, as the control of q depends on the shape alone
  (DiNADO-Soft, Lu et al. 2024, arXiv 2306.11825). Over a `network.copy` this is DiNADO-Merge: s = z_θ − z_0, so that q is the
  trained copy itself.
- ``hard``: R_v = σ(s_v + c), where c is the number for which Σ_v p_v R_v = R(y_<t) exactly: R(y_≤t) = R(y_<t) π_t / p_t with
  π_t = p_t R_t / R(y_<t), consistent by construction and below 1.

The released DiNADO code has Soft and Merge; how its Hard is defined is not public. ``hard`` here is the form that holds forward
consistency strictly, which is what descriptions of Hard say. Where R is small it is π ∝ p exp(s).

Losses (per sample, summed over the sequence): binary cross-entropy with the label C at every prefix (NADO) or at the last token
alone (DiNADO), and λ times the Bernoulli divergence of E_t and R(y_<t), in the direction KL(E ‖ R) or KL(R ‖ E); both directions
exist in released code. Departures from released code: sequences are summed as a whole with one label each; padding after the end
counts for nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from olm.control.model import Context, Guide, Model
from olm.control.network import Heads, Network
from olm.errors import InputError, check_number
from olm.types import Array, PyTree

Form = Literal["nado", "soft", "hard"]


def _below_one(log_r: Array) -> Array:
    """log R kept below −8ε, ε the float's rounding (10⁻⁶ in float32), so that log(1 − R) is finite."""
    log_r = jnp.asarray(log_r)
    return jnp.minimum(log_r, -8 * float(jnp.finfo(log_r.dtype).eps))


@dataclass(frozen=True)
class Nado:
    """A form with its loss.

    Attributes:
      form: how values are made of a network's numbers.
      labels: "prefixes": cross-entropy at every prefix, from the empty one on; "last": at the last token alone.
      consistency: λ, weight of the divergence between E_t and R(y_<t); for ``hard`` it is zero whatever λ.
      direction: "expected": KL(E ‖ R); "value": KL(R ‖ E).
      rate: R of every prefix before anything is learned; 0.5 as released. The oracle's rate on samples saves the first steps.

    Raises:
      InputError: an unknown choice, λ below 0, a rate outside (0, 1).

    >>> NADO.labels, DINADO_SOFT.labels
    ('prefixes', 'last')
    """

    form: Form = "nado"
    labels: Literal["prefixes", "last"] = "prefixes"
    consistency: float = 1.0
    direction: Literal["expected", "value"] = "expected"
    rate: float = 0.5

    def __post_init__(self) -> None:
        choices = {"form": ("nado", "soft", "hard"), "labels": ("prefixes", "last"), "direction": ("expected", "value")}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise InputError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")
        check_number("consistency", self.consistency, "give 0 or a positive number", 0, math.inf)
        check_number("rate", self.rate, "give a number between 0 and 1", 0, 1 - 1e-6, open_low=True)

    @property
    def offset(self) -> float:
        """The logit of ``rate``."""
        return math.log(self.rate) - math.log1p(-self.rate)


NADO = Nado()
DINADO_SOFT = Nado("soft", "last")
DINADO_HARD = Nado("hard", "last", consistency=0.0)


def log1mexp(x: Array) -> Array:
    """log(1 − e^x) for x < 0, accurate at both ends; x is kept below −8 roundings (10⁻⁶ in float32).

    Args:
      x: any shape.

    Returns:
      Like ``x``.

    >>> round(float(log1mexp(jnp.log(0.25))), 5) == round(math.log(0.75), 5)
    True
    """
    x = _below_one(x)
    # Each branch sees only arguments for which it is finite, so that the other's derivative is never 0·∞.
    near = x > -math.log(2)
    return jnp.where(near, jnp.log(-jnp.expm1(jnp.where(near, x, -1.0))), jnp.log1p(-jnp.exp(jnp.where(near, -1.0, x))))


def cross_entropy(log_r: Array, label: Array) -> Array:
    """Binary cross-entropy, −C log R − (1 − C) log(1 − R).

    Args:
      log_r: log R.
      label: C, 0, 1 or between.

    Returns:
      Nats.

    >>> round(float(cross_entropy(jnp.log(0.5), 1.0)), 4)
    0.6931
    """
    return -label * _below_one(log_r) - (1 - label) * log1mexp(log_r)


def bernoulli_divergence(log_a: Array, log_b: Array) -> Array:
    """KL(a ‖ b) of two coins, a log(a/b) + (1 − a) log((1 − a)/(1 − b)).

    Args:
      log_a, log_b: logarithms of their probabilities.

    Returns:
      Nats.

    >>> round(float(bernoulli_divergence(jnp.log(0.5), jnp.log(0.25))), 4)
    0.1438
    """
    a, b = _below_one(log_a), _below_one(log_b)
    probability = jnp.exp(a)
    return probability * (a - b) + (1 - probability) * (log1mexp(a) - log1mexp(b))


@jax.custom_jvp
def consistent_offset(shape: Array, log_p: Array, log_value: Array) -> Array:
    """The c for which Σ_v p_v σ(s_v + c) = R.

    Args:
      shape: s [..., V].
      log_p: log p [..., V], normalised; −∞ where a token cannot come.
      log_value: log R [...], below 0.

    Returns:
      c [...]; differentiable in all three by the implicit function theorem.

    >>> c = consistent_offset(jnp.array([0.0, 1.0]), jnp.log(jnp.array([0.5, 0.5])), jnp.log(0.3))
    >>> round(float((jax.nn.sigmoid(jnp.array([0.0, 1.0]) + c)).mean()), 5)
    0.3
    """
    value = _below_one(log_value)
    rest = log1mexp(value)
    possible = log_p > -jnp.inf
    # The odds of a mean lie between those of the largest and the smallest s; σ(x) lies below e^x, and 1 − σ(x) below e^−x.
    low = value - rest - jnp.where(possible, shape, -jnp.inf).max(-1)
    low = jnp.maximum(low, value - jax.nn.logsumexp(log_p + shape, -1))
    high = value - rest - jnp.where(possible, shape, jnp.inf).min(-1)
    high = jnp.maximum(jnp.minimum(high, jax.nn.logsumexp(log_p - shape, -1) - rest), low)
    c = jnp.where(value < math.log(0.5), low, high)
    settled = 8 * jnp.finfo(c.dtype).eps

    def unsettled(carry: tuple[Array, ...]) -> Array:
        step, c, before = carry[:3]
        return (step < 60) & (abs(c - before) > settled * jnp.maximum(abs(c), 1)).any()

    def newton(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        # In log-odds, which are linear in c where one token decides, and exact at both ends.
        step, c, _, low, high = carry
        x = shape + c[..., None]
        log_each = log_p + jax.nn.log_sigmoid(x)
        log_yes, log_no = jax.nn.logsumexp(log_each, -1), jax.nn.logsumexp(log_each - x, -1)
        error = (log_yes - log_no) - (value - rest)
        low, high = jnp.where(error <= 0, c, low), jnp.where(error >= 0, c, high)
        weight = jnp.exp(log_each - log_yes[..., None])  # p_v σ_v, normalised
        slope = jnp.sum(weight * jax.nn.sigmoid(-x), -1) * (1 + jnp.exp(log_yes - log_no))
        following = c - error / jnp.maximum(slope, 1e-30)
        # Outside of the bracket Newton's step has overshot: halve it instead.
        following = jnp.where((following >= low) & (following <= high), following, (low + high) / 2)
        return step + 1, following, c, low, high

    return jax.lax.while_loop(unsettled, newton, newton((jnp.zeros((), jnp.int32), c, c, low, high)))[1]


@consistent_offset.defjvp
def _(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    shape, log_p, log_value = primals
    c = consistent_offset(shape, log_p, log_value)
    log_each = log_p + jax.nn.log_sigmoid(shape + c[..., None])
    weight = jax.nn.softmax(log_each, -1)  # Σ_v p_v σ_v, normalised
    slope = weight * jax.nn.sigmoid(-shape - c[..., None])
    inside = log_value <= _below_one(log_value)
    change = jnp.where(inside, tangents[2], 0.0) - (weight * tangents[1] + slope * tangents[0]).sum(-1)
    return c, change / jnp.maximum(slope.sum(-1), 1e-30)


def values(settings: Nado, heads: Heads, log_p: Array, log_value: Array) -> Array:
    """log R(y_≤t v) for every next token v.

    Args:
      settings: form and rate.
      heads: a network's numbers after a prefix, [..., V] and [...].
      log_p: the base's log-probabilities there, [..., V].
      log_value: log R of the prefix, [...]; only ``hard`` reads it.

    Returns:
      [..., V], below 0.

    >>> heads = Heads(jnp.array([0.0, 2.0]), jnp.array(0.0))
    >>> jnp.exp(values(DINADO_SOFT, heads, jnp.log(jnp.array([0.5, 0.5])), None)).round(3).tolist()
    [0.068, 0.5]
    """
    if settings.form == "nado":
        return jax.nn.log_sigmoid(heads.shape + settings.offset)
    if settings.form == "soft":
        return heads.shape - heads.shape.max(-1, keepdims=True) + jax.nn.log_sigmoid(heads.norm + settings.offset)[..., None]
    c = consistent_offset(heads.shape, log_p, log_value)
    return jax.nn.log_sigmoid(heads.shape + c[..., None])


def along(settings: Nado, root: Array, heads: Heads, log_p: Array, tokens: Array) -> tuple[Array, Array]:
    """Values along sequences.

    Args:
      settings: form and rate.
      root: [B], what the network says of the condition.
      heads: along the sequences, [B, T, V] and [B, T].
      log_p: [B, T, V], the base's.
      tokens: [B, T].

    Returns:
      (log R(x) [B], log R(y_<t v) [B, T, V]).

    No example: see `losses`.
    """
    log_root = jax.nn.log_sigmoid(root + settings.offset)
    if settings.form != "hard":
        return log_root, values(settings, heads, log_p, log_root)

    def step(log_value: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        shape, log_p, token = inputs
        log_r = values(settings, Heads(shape, shape[..., 0]), log_p, log_value)
        return jnp.take_along_axis(log_r, token[:, None], 1)[:, 0], log_r

    moved = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), (heads.shape, log_p, tokens))
    return log_root, jnp.moveaxis(jax.lax.scan(step, log_root, moved)[1], 0, 1)


def base_log_p(base: Model | None, params: PyTree, batch: PyTree) -> Array:
    """The base's log-probabilities along a batch: those it brings, or computed with ``params["frozen"]["base"]``.

    Args:
      base: the model, or None where batches bring "log_p".
      params: {"theta", "frozen"}.
      batch: {"tokens", "context"} and perhaps "log_p" [B, T, V].

    Returns:
      [B, T, V].

    Raises:
      InputError: for neither.

    No example: see `losses`.
    """
    if "log_p" in batch:
        return batch["log_p"]
    if base is None:
        raise InputError('the batch has no "log_p" and there is no base to compute it: give one of the two')
    return jax.lax.stop_gradient(base.whole(params["frozen"]["base"], batch["tokens"], batch["context"]))


@functools.cache
def parts(settings: Nado, network: Network, base: Model | None = None) -> Callable[[PyTree, PyTree], dict[str, Array]]:
    """The terms of the loss, and what they are made of.

    Args:
      settings: form and loss.
      network: its numbers.
      base: the model of p; None: batches bring "log_p" [B, T, V].

    Returns:
      ``(params, batch) -> {"label", "consistency", "gap", "log_values", "expected"}``: cross-entropy [B] and divergence [B]
      summed over the sequence, the mean of |E_t − R(y_<t)| [B], log R(y_≤t) [B, T+1], log E_t [B, T]. ``batch``: "tokens" [B, T],
      "label" [B], "context", and if sequences end before T "mask" [B, T], true up to the last token that counts.

    No example: see `losses`.

    Source: Meng et al. 2022, section 3; released code of both papers.
    """

    def of(params: PyTree, batch: PyTree) -> dict[str, Array]:
        tokens = batch["tokens"]
        log_p = base_log_p(base, params, batch)
        root, heads = network.whole(params, tokens, batch["context"])
        log_root, log_r = along(settings, root, heads, log_p, tokens)
        chosen = jnp.take_along_axis(log_r, tokens[..., None], 2)[..., 0]
        log_values = jnp.concatenate([log_root[:, None], chosen], 1)
        expected = jax.nn.logsumexp(log_p + log_r, -1)
        counted = batch["mask"].astype(log_r.dtype) if "mask" in batch else jnp.ones(tokens.shape, log_r.dtype)
        label = batch["label"].astype(log_r.dtype)
        if settings.labels == "prefixes":
            each = cross_entropy(log_values, label[:, None])
            by_label = each[:, 0] + (each[:, 1:] * counted).sum(1)
        else:
            last = counted.sum(1).astype(jnp.int32)
            by_label = cross_entropy(jnp.take_along_axis(log_values, last[:, None], 1)[:, 0], label)
        before = log_values[:, :-1]
        pair = (expected, before) if settings.direction == "expected" else (before, expected)
        return {
            "label": by_label,
            "consistency": (bernoulli_divergence(*pair) * counted).sum(1),
            "gap": (abs(jnp.exp(expected) - jnp.exp(before)) * counted).sum(1) / counted.sum(1),
            "log_values": log_values,
            "expected": expected,
        }

    return of


@functools.cache
def losses(settings: Nado, network: Network, base: Model | None = None) -> Callable[[PyTree, PyTree], Array]:
    """Loss of each sample, cross-entropy with its label + λ · inconsistency.

    Args:
      settings, network, base: as for `parts`.

    Returns:
      ``(params, batch) -> [B]``, nats a sequence: the ``losses`` of an `olm.Task`, whose policy may weigh the samples.

    >>> from olm.control import automata, network
    >>> automaton = automata.clauses([[[1]]], 2)
    >>> net = network.table(automaton, 3)
    >>> params = start(net, jax.random.key(0))
    >>> batch = {"tokens": jnp.array([[0, 0, 1]]), "label": jnp.ones(1), "context": {"which": jnp.zeros(1, int)}}
    >>> batch["log_p"] = jnp.full((1, 3, 2), math.log(0.5))
    >>> losses(NADO, net)(params, batch).round(3).tolist(), losses(DINADO_HARD, net)(params, batch).round(3).tolist()
    ([2.773], [0.693])
    """
    of = parts(settings, network, base)

    def loss(params: PyTree, batch: PyTree) -> Array:
        found = of(params, batch)
        if settings.form == "hard" or not settings.consistency:
            return found["label"]
        return found["label"] + settings.consistency * found["consistency"]

    return loss


@functools.cache
def guide(settings: Nado, network: Network) -> Guide:
    """What was learned, as a guide of the base it was learned over.

    Args:
      settings, network: as trained.

    Returns:
      A `Guide` with parameters {"theta", "frozen"}.

    No example: see `olm.control.model.guided`.
    """

    def start(params: PyTree, context: Context, log_p: Array) -> tuple[PyTree, Array]:
        state, root, heads = network.start(params, context)
        log_r = values(settings, heads, log_p, jax.nn.log_sigmoid(root + settings.offset))
        return (state, log_r), log_r

    def advance(params: PyTree, state: PyTree, tokens: Array, log_p: Array) -> tuple[PyTree, Array]:
        inner, log_r = state
        log_value = jnp.take_along_axis(log_r, tokens[:, None], 1)[:, 0]
        inner, heads = network.advance(params, inner, tokens)
        log_r = values(settings, heads, log_p, log_value)
        return (inner, log_r), log_r

    def whole(params: PyTree, tokens: Array, context: Context, log_p: Array) -> Array:
        root, heads = network.whole(params, tokens, context)
        return along(settings, root, heads, log_p, tokens)[1]

    return Guide(start, advance, whole)


def start(network: Network, key: Array, **frozen: PyTree) -> dict[str, PyTree]:
    """Parameters before anything is learned: q = p.

    Args:
      network: of `olm.control.network`.
      key: random key.
      frozen: what is read and not learned: ``reference`` of a copy or a prompt, ``base`` where batches bring no "log_p".

    Returns:
      {"theta", "frozen"}.

    No example: see `olm.fitting.fit`.
    """
    theta = network.init(key)
    structure: Callable[[PyTree], Any] = jax.tree.structure
    # A copy of all weights starts as its reference; adapters and prompts have structures of their own.
    if "reference" in frozen and structure(theta.get("model")) == structure(frozen["reference"]):
        theta["model"] = jax.tree.map(jnp.array, frozen["reference"])
    return {"theta": theta, "frozen": frozen}
