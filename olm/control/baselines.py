"""What NADO is compared with: fine-tuning and prompt tuning on accepted samples, FUDGE, and rejection.

Fine-tuning fits q ∝ p exp(s) to accepted samples by maximum likelihood, with the shape numbers s of any `olm.control.network`:
of a copy of the model (all weights, or LoRA), of a prompt of learned vectors (Lester et al. 2021, arXiv 2104.08691). FUDGE (Yang
and Klein 2021, NAACL) is a classifier of prefixes, trained on labelled samples at every prefix and asked for every possible next
token. Masking is `olm.control.posterior.MASK`, GeLaTo `olm.control.posterior.GUIDE`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from olm.control import decode
from olm.control.model import Context, Guide, Model, log_likelihood, opening, product, stepwise
from olm.control.nado import base_log_p, cross_entropy
from olm.control.network import Network
from olm.control.samples import Oracle, label_all
from olm.errors import check_whole
from olm.learner import examples
from olm.models import transformer as transformers
from olm.models.transformer import TransformerConfig
from olm.types import Array, PyTree


@functools.cache
def likelihood(network: Network, base: Model | None = None) -> Callable[[PyTree, PyTree], Array]:
    """Fine-tuning: −log q(y) of accepted samples, q(y_t | y_<t) ∝ p exp(s).

    Args:
      network: gives s.
      base: the model of p; None: batches bring "log_p".

    Returns:
      ``(params, batch) -> [B]``, nats a sequence, zero for samples whose label is 0.

    No example: see `olm.control.nado.losses`.
    """

    def losses(params: PyTree, batch: PyTree) -> Array:
        log_p = base_log_p(base, params, batch)
        _, heads = network.whole(params, batch["tokens"], batch["context"])
        each = log_likelihood(product(log_p, heads.shape), batch["tokens"])
        # Behind the end all is certain; −∞ − (−∞) must not get there.
        counted = batch["mask"] if "mask" in batch else jnp.ones(each.shape, bool)
        return -jnp.where(counted, each, 0.0).sum(1) * batch["label"].astype(each.dtype)

    return losses


@functools.cache
def tilt(network: Network) -> Guide:
    """The guide of what `likelihood` learned: log R = s, up to a number for each prefix.

    Args:
      network: as trained.

    Returns:
      A `Guide` with parameters {"theta", "frozen"}.

    No example: see `olm.control.model.guided`.
    """

    def start(params: PyTree, context: Context, log_p: Array) -> tuple[PyTree, Array]:
        state, _, heads = network.start(params, context)
        return state, heads.shape

    def advance(params: PyTree, state: PyTree, tokens: Array, log_p: Array) -> tuple[PyTree, Array]:
        state, heads = network.advance(params, state, tokens)
        return state, heads.shape

    def whole(params: PyTree, tokens: Array, context: Context, log_p: Array) -> Array:
        return network.whole(params, tokens, context)[1].shape

    return Guide(start, advance, whole)


class Fudge(NamedTuple):
    """A classifier of prefixes.

    Attributes:
      init: ``init(key) -> theta``; every prefix has R = 0.5 at first.
      losses: ``(params, batch) -> [B]``, cross-entropy with the label summed over prefixes.
      guide: its `Guide`; every step runs the network once for each of the V next tokens.
    """

    init: Callable[[Array], PyTree]
    losses: Callable[[PyTree, PyTree], Array]
    guide: Guide


@functools.cache
def fudge(config: TransformerConfig, vocabulary: int, begin: int) -> Fudge:
    """FUDGE with a transformer as classifier, R(y_≤t) = σ(w·h(y_≤t) + b).

    Args:
      config: the body; its vocabulary counts all input symbols and its length P + T + 1.
      vocabulary: V.
      begin: the symbol before y_1.

    Returns:
      A `Fudge`.

    No example: see benchmarks/control.py.

    Source: Yang and Klein 2021 (NAACL, Future Discriminators for Generation), section 3.
    """
    body, step = transformers.hidden(config), transformers.advance(config, headless=True)

    def init(key: Array) -> PyTree:
        return {"body": transformers.init_body(config)(key), "weight": jnp.zeros(config.width), "bias": jnp.zeros(())}

    def score(theta: PyTree, hidden: Array) -> Array:
        return jax.nn.log_sigmoid(hidden @ theta["weight"] + theta["bias"])

    def losses(params: PyTree, batch: PyTree) -> Array:
        theta, tokens = params["theta"], batch["tokens"]
        inputs = jnp.concatenate([opening(batch["context"], begin), tokens.astype(jnp.int32)], 1)
        log_r = score(theta, body(theta["body"], inputs)[:, -tokens.shape[1] :])
        counted = batch["mask"].astype(log_r.dtype) if "mask" in batch else jnp.ones(tokens.shape, log_r.dtype)
        return (cross_entropy(log_r, batch["label"].astype(log_r.dtype)[:, None]) * counted).sum(1)

    def each(theta: PyTree, cache: PyTree, batch: int) -> Array:
        candidates = jnp.tile(jnp.arange(vocabulary, dtype=jnp.int32), batch)
        _, hidden = step(theta["body"], jax.tree.map(lambda x: jnp.repeat(x, vocabulary, 0), cache), candidates[:, None])
        return score(theta, hidden[:, 0]).reshape(batch, vocabulary)

    def start(params: PyTree, context: Context, log_p: Array) -> tuple[PyTree, Array]:
        theta, inputs = params["theta"], opening(context, begin)
        cache, _ = step(theta["body"], transformers.start(config, inputs.shape[0]), inputs)
        return cache, each(theta, cache, inputs.shape[0])

    def advance(params: PyTree, cache: PyTree, tokens: Array, log_p: Array) -> tuple[PyTree, Array]:
        cache, _ = step(params["theta"]["body"], cache, tokens[:, None])
        return cache, each(params["theta"], cache, tokens.shape[0])

    def whole(params: PyTree, tokens: Array, context: Context, log_p: Array) -> Array:
        first = functools.partial(start, params, context)
        return stepwise(first, functools.partial(advance, params), tokens, log_p)

    return Fudge(init, losses, Guide(start, advance, whole))


def reject(
    base: Model, params: PyTree, oracle: Oracle, key: Array, context: Context, *, tries: int
) -> tuple[decode.Sampled, Array]:
    """Rejection: the first accepted of up to ``tries`` samples, the last one where none is.

    Args:
      base, params: what is drawn from.
      oracle: ``(tokens, context) -> [B]``.
      key: random key.
      context: arrays with a leading axis B.
      tries: most samples for each row.

    Returns:
      (samples, tries used [B]; ``tries`` + 1 where none was accepted).

    Raises:
      InputError: for tries below 1, labels outside 0 … 1 or of another shape.

    No example: see benchmarks/control.py.
    """
    check_whole("tries", tries, 1)
    used = jnp.full(examples(context, "context"), tries + 1)
    kept = decode.sample(base, params, jax.random.fold_in(key, 0), context)
    for attempt in range(tries):
        if attempt:
            drawn, searching = decode.sample(base, params, jax.random.fold_in(key, attempt), context), used > tries
            kept = jax.tree.map(lambda new, old, at=searching: jax.vmap(jnp.where)(at, new, old), drawn, kept)
        met = jnp.asarray(label_all(oracle, kept.tokens, context)) > 0.5
        used = jnp.where((used > tries) & met, attempt + 1, used)
        if bool((used <= tries).all()):
            break
    return kept, used
