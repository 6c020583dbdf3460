"""The small decoder-only transformer of the Learning Law paper (arXiv 2402.17759, appendix D), in flax linen.

Pre-norm blocks with learned absolute positions, attention without biases, a ReLU network without biases, an untied output matrix
and no dropout. Three details follow the published experiment rather than custom, and are kept because they change its numbers:
the norm divides by (rms + 1e-8) and has a bias, attention scores are divided by √width instead of √(width of a head), and weights
start from U(±1/√fan-in) with N(0, 1) embeddings.

Searching a policy needs the derivative of a gradient along a direction (forward over reverse) at every step. Softmax and
cross-entropy therefore carry their own derivative rules, a few products each, in place of those of exp, max and log; attention is
plain products, since fused kernels have no such derivative.

Not done: dropout, tied weights, grouped heads, other positions than learned ones, rows of a cache at different positions.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict

from olm.errors import InputError, check_whole
from olm.types import Array, PyTree


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a transformer; the defaults suit two CPU cores.

    Attributes:
      vocabulary: V, number of token ids.
      length: L, the longest input.
      width: D, the length of a token's vector.
      layers: number of blocks.
      heads: attention heads; divides ``width``.
      mlp_ratio: hidden width of a block's network over ``width``.
      score_scale: scores are divided by the root of this width. "width": D, as published; "head": D / heads, as is usual.
      init: "torch": U(±1/√fan-in) and N(0, 1) embeddings, as published; "gpt2": N(0, 0.02²), residual outputs over √(2·layers).

    Raises:
      InputError: a size below 1, heads that do not divide the width, or an unknown choice.

    Example:
      >>> TransformerConfig(width=32, heads=4).parameters
      41792
    """

    vocabulary: int = 256
    length: int = 16
    width: int = 32
    layers: int = 2
    heads: int = 4
    mlp_ratio: int = 4
    score_scale: Literal["width", "head"] = "width"
    init: Literal["torch", "gpt2"] = "torch"

    def __post_init__(self) -> None:
        for name in ("vocabulary", "length", "width", "layers", "heads", "mlp_ratio"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.width % self.heads:
            raise InputError(f"width {self.width} is not a multiple of heads {self.heads}: change one of them")
        for name, choices in (("score_scale", ("width", "head")), ("init", ("torch", "gpt2"))):
            if getattr(self, name) not in choices:
                raise InputError(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}")

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        block = (4 + 2 * self.mlp_ratio) * self.width**2 + 4 * self.width
        return (2 * self.vocabulary + self.length + 2) * self.width + self.layers * block


PAPER = TransformerConfig(vocabulary=5000, length=64, width=128, layers=2, heads=8)
CPU = TransformerConfig()
MATRICES = ("qkv", "out", "up", "down", "head")  # what inputs are multiplied by: the parameters that may have adapters


@jax.custom_jvp
def causal_softmax(scores: Array) -> Array:
    """Softmax over keys no later than the query.

    Args:
      scores: [..., Q queries, L keys]; the queries are those of the last Q ≤ L positions.

    Returns:
      Like ``scores``; rows sum to one, entries of keys later than their query are zero.

    Example:
      >>> import jax.numpy as jnp
      >>> causal_softmax(jnp.zeros((2, 2))).tolist()
      [[1.0, 0.0], [0.5, 0.5]]
    """
    return _softmax(_without_later(scores, scores.shape[-1] - scores.shape[-2]))


def _without_later(scores: Array, start: int | Array) -> Array:
    query, key = (jax.lax.broadcasted_iota(jnp.int32, scores.shape[-2:], axis) for axis in (0, 1))
    return jnp.where(key <= query + start, scores, jnp.finfo(scores.dtype).min)


@jax.custom_jvp
def _softmax(x: Array) -> Array:
    unnormalised = jnp.exp(x - x.max(-1, keepdims=True))
    return unnormalised / unnormalised.sum(-1, keepdims=True)


def _softmax_tangent(y: Array, tangent: Array) -> Array:
    product = y * tangent
    return product - y * product.sum(-1, keepdims=True)


# Written in the result y alone, these rules differentiate again into sums and products; masked entries have y = 0, hence no
# derivative.
@causal_softmax.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    y = causal_softmax(*primals)
    return y, _softmax_tangent(y, *tangents)


@_softmax.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    y = _softmax(*primals)
    return y, _softmax_tangent(y, *tangents)


def causal_attention(q_BxLxHxd: Array, k_BxLxHxd: Array, v_BxLxHxd: Array, start: Array | None = None) -> Array:
    """Values mixed by the causal softmax of scores ⟨q, k⟩, ``[B, L, H, d]``.

    From 32 positions on, the first half of the queries meets only the first half of the keys: the scores left out, a quarter,
    have weight zero.

    Args:
      q_BxLxHxd, k_BxLxHxd, v_BxLxHxd: queries (scaled), keys and values.
      start: position of the first query, where queries may be fewer than keys. None: as many queries as keys.

    Returns:
      [B, L, H, d], or [B, Q, H, d] of Q queries.

    Example:
      >>> import jax.numpy as jnp
      >>> q, v = jnp.zeros((1, 3, 1, 1)), jnp.array([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1)
      >>> causal_attention(q, q, v).ravel().tolist()
      [1.0, 1.5, 2.0]
    """

    def mix(queries: slice, keys: slice) -> Array:
        scores_BxHxQxL = jnp.einsum("bqhd,bkhd->bhqk", q_BxLxHxd[:, queries], k_BxLxHxd[:, keys])
        weights_BxHxQxL = causal_softmax(scores_BxHxQxL) if start is None else _softmax(_without_later(scores_BxHxQxL, start))
        return jnp.einsum("bhqk,bkhd->bqhd", weights_BxHxQxL, v_BxLxHxd[:, keys])

    everything, half = slice(None), q_BxLxHxd.shape[1] // 2
    if start is not None or half < 16:
        return mix(everything, everything)
    return jnp.concatenate([mix(slice(half), slice(half)), mix(slice(half, None), everything)], axis=1)


@jax.custom_jvp
def cross_entropy(logits: Array, labels: Array) -> Array:
    """Negative log-probability of each label, log Σ_v exp(z_v) − z_label.

    Args:
      logits: z [..., V].
      labels: integers [...] in 0 … V−1.

    Returns:
      [...], nats.

    Example:
      >>> import jax.numpy as jnp
      >>> round(float(cross_entropy(jnp.zeros(4), jnp.array(2))), 4)
      1.3863
    """
    top = logits.max(-1, keepdims=True)
    return jnp.log(jnp.exp(logits - top).sum(-1)) + top[..., 0] - jnp.where(_one_hot(logits, labels), logits, 0).sum(-1)


def _one_hot(logits: Array, labels: Array) -> Array:
    # A comparison fuses into the pass over the logits; a gather would become a scatter in the gradient, slow on CPU.
    return jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1) == labels[..., None]


@cross_entropy.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    logits, labels = primals
    gradient = _softmax(logits) - _one_hot(logits, labels).astype(logits.dtype)
    return cross_entropy(logits, labels), (gradient * tangents[0]).sum(-1)


class Transformer(nn.Module):
    """Logits of the next token at every position, ``[B, L] → [B, L, V]``, as a linen module.

    Attributes:
      config: sizes.
      headless: True: the last hidden states, ``[B, L, D]``, which the head would multiply, without a parameter "head".
      parent, name: linen's own.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> module = Transformer(TransformerConfig(vocabulary=11, length=4, width=8, heads=2))
      >>> tokens = jnp.zeros((3, 4), jnp.int32)
      >>> params = jax.jit(module.init)(jax.random.key(0), tokens)
      >>> jax.jit(module.apply)(params, tokens).shape
      (3, 4, 11)

    Source: arXiv 2402.17759, appendix D.
    """

    config: TransformerConfig
    headless: bool = False

    @nn.compact
    def __call__(
        self, tokens: Array, *, extra: Array | None = None, prefix: Array | None = None, last: int | None = None
    ) -> Array:
        c = self.config
        position_B = self.get_variable("cache", "position") if self.has_variable("cache", "position") else None
        x_BxLxD = self._embedded(tokens, extra, prefix, position_B)
        start, length = None if position_B is None else position_B[0], x_BxLxD.shape[-2]
        # From here on all P = B·L positions lie on one axis. With two, XLA's CPU compiler copies every activation transposed to
        # form the gradient of a weight, which takes a good part of the gradient's time.
        x_PxD = x_BxLxD.reshape(-1, c.width)
        self.sow("activations", "stream", x_PxD)  # kept for `activations` alone
        for layer in range(c.layers):
            x_PxD = Block(c, name=f"block_{layer}")(x_PxD, length, start)
            self.sow("activations", "stream", x_PxD)
        if position_B is not None:
            self.put_variable("cache", "position", position_B + length)
        told = tokens.shape[-1] if last is None else last
        if not 1 <= told <= tokens.shape[-1]:
            raise InputError(f"last is {last}: give a number of positions from 1 to {tokens.shape[-1]}")
        if told != length:  # a prefix, and positions that nobody asks about, need no outputs
            x_PxD = x_PxD.reshape(x_BxLxD.shape)[..., length - told :, :].reshape(-1, c.width)
        x_PxD = RMSNorm(name="norm")(x_PxD)
        outputs = x_PxD if self.headless else _product(self, "head", x_PxD, c.vocabulary)
        return outputs.reshape(*tokens.shape[:-1], told, outputs.shape[-1])

    def _embedded(self, tokens: Array, extra: Array | None, prefix: Array | None, position_B: Array | None) -> Array:
        """What the first block reads, [B, K + L, D]: prefix and tokens, each with its position's vector."""
        c = self.config
        if extra is not None and extra.shape != (*tokens.shape, c.width):
            raise InputError(f"extra has shape {extra.shape}: give a vector for each token, {(*tokens.shape, c.width)}")
        if prefix is not None and (prefix.ndim != 2 or prefix.shape[1] != c.width):
            raise InputError(f"prefix has shape {prefix.shape}: give K vectors of the model's width, (K, {c.width})")
        length = total = tokens.shape[-1] + (0 if prefix is None else len(prefix))
        if position_B is not None and position_B.shape != tokens.shape[:-1]:
            raise InputError(f"tokens have shape {tokens.shape}: give one row for each of the cache's {len(position_B)}")
        if position_B is not None and not isinstance(position_B, jax.core.Tracer):
            total += int(position_B.max())
            if (position_B != total - length).any():
                raise InputError(f"rows of the cache are at positions {position_B.tolist()}: advance unequal ones separately")
        if total > c.length:
            raise InputError(f"sequences of {total} inputs exceed the model's length {c.length}: shorten them or raise length")
        embedding_VxD = self.param("embedding", _embedding(c), (c.vocabulary, c.width))
        position_LxD = self.param("position", _embedding(c), (c.length, c.width))
        x_BxLxD = embedding_VxD[tokens] if extra is None else embedding_VxD[tokens] + extra
        if prefix is not None:
            x_BxLxD = jnp.concatenate([jnp.broadcast_to(prefix, (*tokens.shape[:-1], *prefix.shape)), x_BxLxD], axis=-2)
        if position_B is None:
            return x_BxLxD + position_LxD[:length]
        # XLA moves slices that start too late. Such rows, and those that are not where the first one is, are made to show it.
        places_LxD = jax.lax.dynamic_slice_in_dim(position_LxD, position_B[0], length)
        right_B = (position_B == position_B[0]) & (position_B + length <= c.length)
        return x_BxLxD + jnp.where(right_B[:, None, None], places_LxD, jnp.nan)


class Block(nn.Module):
    """One layer, x + attention(norm(x)) and then x + network(norm(x)), on ``[B·L, D]`` and the length L of a sequence.

    Attributes:
      config: sizes.
      parent, name: linen's own.

    No example: a part of `Transformer`.
    """

    config: TransformerConfig

    @nn.compact
    def __call__(self, x_PxD: Array, length: int, start: Array | None = None) -> Array:
        c = self.config
        heads = (-1, length, c.heads, c.width // c.heads)
        # One product for queries, keys and values: large matrices are what every device is fast at.
        qkv_Px3D = _product(self, "qkv", RMSNorm(name="norm_attention")(x_PxD), 3 * c.width)
        q_BxLxHxd, k_BxLxHxd, v_BxLxHxd = (part.reshape(heads) for part in jnp.split(qkv_Px3D, 3, axis=-1))
        scale = 1.0 / math.sqrt(c.width if c.score_scale == "width" else c.width // c.heads)
        if start is not None:
            k_BxLxHxd, v_BxLxHxd = (self._remembered(*pair, start) for pair in (("keys", k_BxLxHxd), ("values", v_BxLxHxd)))
        mixed_PxD = causal_attention(q_BxLxHxd * scale, k_BxLxHxd, v_BxLxHxd, start).reshape(x_PxD.shape)
        x_PxD = x_PxD + _product(self, "out", mixed_PxD, c.width, residual=True)
        hidden = nn.relu(_product(self, "up", RMSNorm(name="norm_mlp")(x_PxD), c.mlp_ratio * c.width))
        return x_PxD + _product(self, "down", hidden, c.width, residual=True)

    def _remembered(self, name: str, new_BxQxHxd: Array, start: Array) -> Array:
        """The cache's keys or values with the new ones put in from position ``start`` on."""
        # Heads come first in memory: otherwise products with one query take twice as long or more on CPU.
        past, new_BxHxQxd = self.variables["cache"][name], new_BxQxHxd.swapaxes(1, 2)
        every_BxHxLxd = jax.lax.dynamic_update_slice_in_dim(past, new_BxHxQxd, start, axis=2)
        self.put_variable("cache", name, every_BxHxLxd)
        return every_BxHxLxd.swapaxes(1, 2)


def _product(module: Transformer | Block, name: str, x_PxD: Array, width: int, *, residual: bool = False) -> Array:
    """x·W with the module's parameter W of this name, and + (x·A)·B where the collection "lora" has a pair for it."""
    product = x_PxD @ module.param(name, _linear(module.config, residual=residual), (x_PxD.shape[-1], width))
    if module.has_variable("lora", name):
        a, b = module.variables["lora"][name]
        product = product + (x_PxD @ a) @ b
    return product


class RMSNorm(nn.Module):
    """x / (rms(x) + 1e-8) · weight + bias, over the last axis.

    Attributes:
      parent, name: linen's own.

    No example: a part of `Transformer`.
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        weight = self.param("weight", nn.initializers.ones, x.shape[-1:], jnp.result_type(float))
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.result_type(float))
        return x / (jnp.sqrt(jnp.mean(x * x, -1, keepdims=True)) + 1e-8) * weight + bias


def _embedding(config: TransformerConfig) -> Callable[..., Array]:
    return _normal(1.0 if config.init == "torch" else 0.02)


def _normal(deviation: float) -> Callable[..., Array]:
    return lambda key, shape: deviation * jax.random.normal(key, shape, jnp.result_type(float))


def _linear(config: TransformerConfig, *, residual: bool = False) -> Callable[..., Array]:
    if config.init == "gpt2":
        return _normal(0.02 / math.sqrt(2 * config.layers) if residual else 0.02)

    def uniform(key: Array, shape: tuple[int, int]) -> Array:
        bound = 1.0 / math.sqrt(shape[0])
        return jax.random.uniform(key, shape, jnp.result_type(float), -bound, bound)

    return uniform


@functools.lru_cache(maxsize=64)  # one function for each model, so that it compiles once
def init(config: TransformerConfig) -> Callable[[Array], PyTree]:
    """How the parameters start.

    Args:
      config: sizes.

    Returns:
      ``key -> params``, nested dictionaries of arrays in JAX's default float.

    Example:
      >>> import jax
      >>> params = init(TransformerConfig())(jax.random.key(0))
      >>> sum(leaf.size for leaf in jax.tree.leaves(params)) == TransformerConfig().parameters
      True

    Source: arXiv 2402.17759, appendix D.
    """
    module = Transformer(config)
    # Compiled, since linen's init also runs the model, one operation at a time.
    return jax.jit(lambda key: module.init(key, jnp.zeros((1, config.length), jnp.int32))["params"])


@functools.lru_cache(maxsize=64)
def init_body(config: TransformerConfig) -> Callable[[Array], PyTree]:
    """How the parameters start without "head", for callers that put another head on `hidden`.

    Args:
      config: sizes; ``vocabulary`` then counts input symbols only.

    Returns:
      ``key -> params`` as from `init`, the same numbers for the same key, without ``params["head"]``.

    No example: in `hidden`.
    """
    return jax.jit(lambda key: {name: leaf for name, leaf in init(config)(key).items() if name != "head"})


def logits(config: TransformerConfig) -> Callable[..., Array]:
    """Scores of the next token at every position; position l sees tokens 0 … l only.

    Args:
      config: sizes.

    Returns:
      ``(params, tokens [B, L] of integers, *, adapters=None, extra=None, prefix=None, last=None) -> [B, L, V]``; L may be less
      than ``config.length``. ``adapters`` from `olm.models.lora.scaled` change matrices. ``extra`` [B, L, D] is added to the
      tokens' embeddings. ``prefix`` [K, D], a learned prompt (arXiv 2104.08691), takes positions before them; outputs are the
      tokens'. ``last``: K of the L positions, the last ones, are all that is wanted, [B, K, V]; others are spared the head.

    Raises:
      InputError: when called with sequences longer than ``config.length``, another shape, or adapters of unknown matrices.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> jax.jit(logits(CPU))(init(CPU)(jax.random.key(0)), jnp.zeros((2, 5), jnp.int32)).shape
      (2, 5, 256)
    """
    return _function(Transformer(config))


def hidden(config: TransformerConfig) -> Callable[..., Array]:
    """The last hidden states, after the final norm: `logits` are these times ``params["head"]``.

    Args:
      config: sizes.

    Returns:
      As `logits`, but [B, L, D]; parameters of `init_body` will do.

    Raises:
      InputError: as `logits`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> jax.jit(hidden(CPU))(init_body(CPU)(jax.random.key(0)), jnp.zeros((2, 5), jnp.int32)).shape
      (2, 5, 32)
    """
    return _function(Transformer(config, headless=True))


def activations(config: TransformerConfig) -> Callable[..., Array]:
    """What every layer says: the embedded tokens, the stream after each block, and the states that the head multiplies.

    Args:
      config: sizes.

    Returns:
      ``(params, tokens [B, L], *, extra=None) -> [layers + 2, B, L, D]``; the last is `hidden`. ``extra`` as for `logits`.

    Raises:
      InputError: as `logits`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> jax.jit(activations(CPU))(init(CPU)(jax.random.key(0)), jnp.zeros((2, 5), jnp.int32)).shape
      (4, 2, 5, 32)
    """
    module = Transformer(config, headless=True)

    def apply(params: PyTree, tokens: Array, **inputs: Any) -> Array:
        last, kept = module.apply({"params": params}, tokens, mutable=["activations"], **inputs)
        stream = kept["activations"]["stream"]
        return jnp.stack([*(x_PxD.reshape(last.shape) for x_PxD in stream), last])

    return apply


def start(config: TransformerConfig, batch: int) -> PyTree:
    """An empty memory of keys and values, which `advance` fills.

    Args:
      config: sizes.
      batch: B, number of sequences.

    Returns:
      ``{"position": [B] int32, "block_0": {"keys", "values": [B, H, config.length, d]}, …}``, zeros in JAX's default float.
      ``jax.tree.map(lambda leaf: leaf[index], cache)`` reorders, repeats or drops sequences; all are at the same position.

    Raises:
      InputError: a batch below 1.

    Example:
      >>> start(CPU, batch=3)["block_1"]["keys"].shape
      (3, 4, 16, 8)
    """
    shape = (check_whole("batch", batch, least=1), config.heads, config.length, config.width // config.heads)
    blocks = {f"block_{n}": {name: jnp.zeros(shape) for name in ("keys", "values")} for n in range(config.layers)}
    return {"position": jnp.zeros(batch, jnp.int32), **blocks}


def advance(config: TransformerConfig, *, headless: bool = False) -> Callable[..., tuple[PyTree, Array]]:
    """Logits of Q more tokens of every sequence from remembered keys and values, those of `logits` at these positions.

    Args:
      config: sizes.
      headless: return hidden states [B, Q, D] instead, those of `hidden`.

    Returns:
      ``(params, cache, tokens [B, Q], *, adapters=None, extra=None, prefix=None) -> (cache, [B, Q, V])``, else as `logits`; a
      prefix goes with the first tokens only. The cache can be the carry of a scan. In a compiled program, running beyond
      ``config.length`` cannot raise: all outputs are nan from that call on, as are those of rows at another place than the first.

    Raises:
      InputError: as `logits`; outside of compiled programs also beyond ``config.length`` and for rows at unequal positions.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> params, tokens = init(CPU)(jax.random.key(0)), jnp.array([[1, 2, 3]])
      >>> cache, _ = jax.jit(advance(CPU))(params, start(CPU, batch=1), tokens[:, :2])
      >>> cache, last = jax.jit(advance(CPU))(params, cache, tokens[:, 2:])
      >>> bool(jnp.allclose(last[:, 0], jax.jit(logits(CPU))(params, tokens)[:, 2], atol=1e-5))
      True
    """
    apply = _function(Transformer(config, headless=headless))
    return lambda params, cache, tokens, **inputs: apply(params, tokens, cache=cache, **inputs)


def _function(module: Transformer) -> Callable[..., Any]:
    def apply(params: PyTree, tokens: Array, *, adapters: PyTree = None, cache: PyTree = None, **inputs: Any) -> Any:
        variables = {"params": params}
        if adapters is not None:
            if unknown := flatten_dict(adapters).keys() - {path for path in flatten_dict(params) if path[-1] in MATRICES}:
                raise InputError(f"the model has no matrix {'/'.join(min(unknown))}: give adapters made for its parameters")
            variables["lora"] = adapters
        if cache is None:
            return module.apply(variables, tokens, **inputs)
        outputs, state = module.apply({**variables, "cache": cache}, tokens, mutable=["cache"], **inputs)
        return state["cache"], outputs

    return apply


def per_sequence_losses(config: TransformerConfig) -> Callable[[PyTree, PyTree], Array]:
    """Mean cross-entropy of each sequence, ℓ_n = Σ_l mask·CE(l) / Σ_l mask.

    Args:
      config: sizes.

    Returns:
      ``(params, batch) -> [B]``, nats per token, with ``batch = {"tokens": [B, L+1] integers, "mask": [B, L]}``. Tokens 0 … L−1
      are inputs and 1 … L labels; ``mask`` says which labels count (1) and which are padding (0), and may be left out when all
      count. A sequence with no label that counts has loss 0.

    Raises:
      InputError: when called with sequences longer than ``config.length + 1`` tokens.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> batch = {"tokens": jnp.zeros((2, 17), jnp.int32)}
      >>> jax.jit(per_sequence_losses(CPU))(init(CPU)(jax.random.key(0)), batch).shape
      (2,)

    Source: arXiv 2402.17759, section 2 and appendix D.
    """
    forward = logits(config)

    def losses(params: PyTree, batch: PyTree) -> Array:
        tokens = batch["tokens"]
        losses_BxL = cross_entropy(forward(params, tokens[:, :-1]), tokens[:, 1:])
        if "mask" not in batch:
            return losses_BxL.mean(-1)
        mask_BxL = batch["mask"].astype(losses_BxL.dtype)
        return (losses_BxL * mask_BxL).sum(-1) / jnp.maximum(mask_BxL.sum(-1), 1)

    return losses
