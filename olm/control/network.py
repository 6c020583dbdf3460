"""Networks that NADO and DiNADO learn: for every prefix a number for each next token, one for the prefix, one for the condition.

`small` is a transformer of its own with heads that start at zero, so that q = p at first (Meng et al. 2022, arXiv 2205.14219);
`copy` is the difference of a model to its frozen self, all weights or LoRA adapters trained (DiNADO-Merge, Lu et al. 2024, arXiv
2306.11825); `prompted` the same for a prompt of learned vectors; `table` is a table over (place, last token, state of an
automaton), which holds the optimum of small problems.

Parameters are ``{"theta": …, "frozen": …}``; what is frozen gets no derivative, and `olm.learner.adamw` passes over it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from olm.control.automata import Automaton
from olm.control.model import Context, opening
from olm.learner import examples
from olm.models import lora
from olm.models import transformer as transformers
from olm.models.transformer import TransformerConfig
from olm.types import Array, PyTree


class Heads(NamedTuple):
    """What a network says after a prefix.

    Attributes:
      shape: [..., V], a number for each next token; what it means is the form's (`olm.control.nado`).
      norm: [...], one for the prefix.
    """

    shape: Array
    norm: Array


class Network(NamedTuple):
    """Functions of a network; ``params`` is ``{"theta": …, "frozen": …}``.

    Attributes:
      init: ``init(key) -> theta``; every output is 0 at first.
      whole: ``whole(params, tokens [B, T], context) -> (root [B], Heads [B, T, …])``; ``root`` is of the condition alone.
      start: ``start(params, context) -> (state, root [B], Heads [B, …])``.
      advance: ``advance(params, state, tokens [B]) -> (state, Heads [B, …])``.
    """

    init: Callable[[Array], PyTree]
    whole: Callable[[PyTree, Array, Context], tuple[Array, Heads]]
    start: Callable[[PyTree, Context], tuple[PyTree, Array, Heads]]
    advance: Callable[[PyTree, PyTree, Array], tuple[PyTree, Heads]]


def _mlp_init(key: Array, width: int) -> PyTree:
    bound = width**-0.5
    up = jax.random.uniform(key, (width, 4 * width), jnp.result_type(float), -bound, bound)
    return {"up": up, "down": jnp.zeros((4 * width,)), "bias": jnp.zeros(())}


def _mlp(params: PyTree, hidden: Array) -> Array:
    """Linear D → 4D, ReLU, linear 4D → 1: the norm's own head, as released."""
    return jax.nn.relu(hidden @ params["up"]) @ params["down"] + params["bias"]


@functools.cache
def small(config: TransformerConfig, vocabulary: int, begin: int, *, pointer: int | None = None) -> Network:
    """A transformer with zero-initialised heads.

    Args:
      config: the body; its vocabulary counts all input symbols: tokens, prompt symbols, ``begin``.
      vocabulary: V, tokens that may come next.
      begin: the symbol before y_1.
      pointer: for prompts that spell the tokens asked for, the token that pads them and ends sequences: every prefix then has a
        number for the prompt's tokens not written yet, one for those written and one for the end, added to the shape; the norm
        reads how many are not written (pointers: Vinyals et al. 2015, arXiv 1506.03134). None: nothing of this.

    Returns:
      A `Network`.

    >>> net = small(TransformerConfig(vocabulary=5, length=4, width=8, layers=1, heads=2), 4, begin=4)
    >>> params = {"theta": net.init(jax.random.key(0)), "frozen": {}}
    >>> root, heads = net.whole(params, jnp.zeros((3, 4), int), {"which": jnp.zeros(3)})
    >>> root.shape, heads.shape.shape, float(abs(heads.shape).max())
    ((3,), (3, 4, 4), 0.0)
    """
    body, step = transformers.hidden(config), transformers.advance(config, headless=True)

    features = 0 if pointer is None else 2

    def init(key: Array) -> PyTree:
        of_body, of_norm = jax.random.split(key)
        norm = _mlp_init(of_norm, config.width + features)
        theta = {
            "body": transformers.init_body(config)(of_body),
            "head": jnp.zeros((config.width, vocabulary)),
            "norm": norm,
            "root": {"weight": jnp.zeros(config.width), "bias": jnp.zeros(())},
        }
        if pointer is not None:
            theta["pointer"] = {"up": norm["up"], "down": jnp.zeros((*norm["down"].shape, 3)), "bias": jnp.zeros(3)}
        return theta

    def prompt_of(context: Context, n: int) -> Array:
        return context["prompt"] if pointer is not None and "prompt" in context else jnp.zeros((n, 0), jnp.int32)

    def heads(theta: PyTree, hidden_BxLxD: Array, prompt_BxP: Array, said_BxLxP: Array) -> Heads:
        shape_BxLxV = hidden_BxLxD @ theta["head"]
        if pointer is None:
            return Heads(shape_BxLxV, _mlp(theta["norm"], hidden_BxLxD))
        again_BxP = jnp.tril(prompt_BxP[:, :, None] == prompt_BxP[:, None, :], -1).any(-1)
        valid_Bx1xP = ((prompt_BxP != pointer) & ~again_BxP)[:, None]
        left_BxLx1 = (valid_Bx1xP & ~said_BxLxP).sum(-1, keepdims=True)
        seen = jnp.concatenate([hidden_BxLxD, left_BxLx1, left_BxLx1 == 0], -1)
        numbers = _mlp(theta["pointer"], seen)
        each_BxLxP = jnp.where(valid_Bx1xP, jnp.where(said_BxLxP, numbers[..., 1:2], numbers[..., :1]), 0.0)
        hot_BxPxV = jax.nn.one_hot(prompt_BxP, vocabulary, dtype=each_BxLxP.dtype)
        shape_BxLxV = shape_BxLxV + jnp.einsum("blp,bpv->blv", each_BxLxP, hot_BxPxV)
        return Heads(shape_BxLxV.at[..., pointer].add(numbers[..., 2]), _mlp(theta["norm"], seen))

    def first(found: Heads) -> Heads:
        return Heads(found.shape[:, 0], found.norm[:, 0])

    def root(theta: PyTree, hidden: Array) -> Array:
        return hidden @ theta["root"]["weight"] + theta["root"]["bias"]

    def whole(params: PyTree, tokens: Array, context: Context) -> tuple[Array, Heads]:
        theta = params["theta"]
        inputs = jnp.concatenate([opening(context, begin), tokens[:, :-1].astype(jnp.int32)], 1)
        hidden, prompt = body(theta["body"], inputs, last=tokens.shape[1]), prompt_of(context, tokens.shape[0])
        said = jnp.cumsum(tokens[:, :-1, None] == prompt[:, None, :], 1) > 0
        return root(theta, hidden[:, 0]), heads(theta, hidden, prompt, jnp.pad(said, ((0, 0), (1, 0), (0, 0))))

    def start(params: PyTree, context: Context) -> tuple[PyTree, Array, Heads]:
        theta, inputs = params["theta"], opening(context, begin)
        cache, hidden = step(theta["body"], transformers.start(config, inputs.shape[0]), inputs)
        prompt = prompt_of(context, inputs.shape[0])
        said = jnp.zeros(prompt.shape, bool)
        return (cache, prompt, said), root(theta, hidden[:, -1]), first(heads(theta, hidden[:, -1:], prompt, said[:, None]))

    def advance(params: PyTree, state: PyTree, tokens: Array) -> tuple[PyTree, Heads]:
        cache, prompt, said = state
        said = said | (prompt == tokens[:, None])
        cache, hidden = step(params["theta"]["body"], cache, tokens[:, None])
        return (cache, prompt, said), first(heads(params["theta"], hidden, prompt, said[:, None]))

    return Network(init, whole, start, advance)


@functools.cache
def copy(config: TransformerConfig, begin: int, *, rank: int | None = None, alpha: float | None = None) -> Network:
    """How a transformer differs from its frozen self: shape = z_θ − z_0; the norm is read off the frozen one's hidden states.

    Args:
      config: the model that is copied, parameters under ``frozen["reference"]``.
      begin: the symbol before y_1.
      rank: train LoRA adapters of this rank; None: all weights.
      alpha: the adapters' scale is α / r; None: α = r.

    Returns:
      A `Network`. ``init`` gives adapters, or with rank None a ``theta["model"]`` that has to be set to the reference: see
      `olm.control.nado.start`.

    No example: see `olm.control.nado.start`.
    """
    forward, body = transformers.logits(config), transformers.hidden(config)
    step, silent = transformers.advance(config), transformers.advance(config, headless=True)
    scale = 1.0 if rank is None else (rank if alpha is None else alpha)

    def init(key: Array) -> PyTree:
        of_model, of_norm = jax.random.split(key)
        model = jax.eval_shape(transformers.init(config), of_model)
        if rank is None:
            trained = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), model)
        else:
            trained = lora.init(of_model, model, rank=rank)
        return {
            "model": trained,
            "norm": _mlp_init(of_norm, config.width),
            "root": {"weight": jnp.zeros(config.width), "bias": jnp.zeros(())},
        }

    def arguments(params: PyTree) -> tuple[PyTree, dict]:
        if rank is None:
            return params["theta"]["model"], {}
        return params["frozen"]["reference"], {"adapters": lora.scaled(params["theta"]["model"], scale)}

    def root(theta: PyTree, hidden: Array) -> Array:
        return hidden @ theta["root"]["weight"] + theta["root"]["bias"]

    def whole(params: PyTree, tokens: Array, context: Context) -> tuple[Array, Heads]:
        theta, reference = params["theta"], jax.lax.stop_gradient(params["frozen"]["reference"])
        inputs = jnp.concatenate([opening(context, begin), tokens[:, :-1].astype(jnp.int32)], 1)
        weights, more = arguments({"theta": theta, "frozen": {"reference": reference}})
        moved = forward(weights, inputs, last=tokens.shape[1], **more)
        hidden = body(reference, inputs, last=tokens.shape[1])
        return root(theta, hidden[:, 0]), Heads(moved - hidden @ reference["head"], _mlp(theta["norm"], hidden))

    def start(params: PyTree, context: Context) -> tuple[PyTree, Array, Heads]:
        inputs = opening(context, begin)
        empty = transformers.start(config, inputs.shape[0])
        state, heads, hidden = both(params, (empty, empty), inputs)
        return state, root(params["theta"], hidden), heads

    def advance(params: PyTree, state: PyTree, tokens: Array) -> tuple[PyTree, Heads]:
        return both(params, state, tokens[:, None])[:2]

    def both(params: PyTree, state: PyTree, inputs: Array) -> tuple[PyTree, Heads, Array]:
        reference = params["frozen"]["reference"]
        weights, more = arguments(params)
        moved, logits = step(weights, state[0], inputs, **more)
        still, hidden = silent(reference, state[1], inputs)
        shape = logits[:, -1] - hidden[:, -1] @ reference["head"]
        return (moved, still), Heads(shape, _mlp(params["theta"]["norm"], hidden[:, -1])), hidden[:, -1]

    return Network(init, whole, start, advance)


@functools.cache
def prompted(config: TransformerConfig, begin: int, vectors: int) -> Network:
    """How a transformer differs from itself once learned vectors stand before its input: prompt tuning.

    Args:
      config: the frozen model, parameters under ``frozen["reference"]``; vectors and inputs must fit in its length.
      begin: the symbol before y_1.
      vectors: K.

    Returns:
      A `Network`; vectors start from N(0, 0.5²) numbers, so its first outputs are not zero. Root and norm stay zero.

    No example: see benchmarks/control.py.

    Source: Lester et al. 2021 (arXiv 2104.08691), section 2.
    """
    forward, step = transformers.logits(config), transformers.advance(config)

    def init(key: Array) -> PyTree:
        return {"prefix": 0.5 * jax.random.normal(key, (vectors, config.width), jnp.result_type(float))}

    def whole(params: PyTree, tokens: Array, context: Context) -> tuple[Array, Heads]:
        reference = jax.lax.stop_gradient(params["frozen"]["reference"])
        inputs = jnp.concatenate([opening(context, begin), tokens[:, :-1].astype(jnp.int32)], 1)
        moved = forward(reference, inputs, prefix=params["theta"]["prefix"], last=tokens.shape[1])
        shape = moved - forward(reference, inputs, last=tokens.shape[1])
        return jnp.zeros(tokens.shape[0]), Heads(shape, jnp.zeros(tokens.shape))

    def start(params: PyTree, context: Context) -> tuple[PyTree, Array, Heads]:
        reference, inputs = params["frozen"]["reference"], opening(context, begin)
        empty, zeros = transformers.start(config, inputs.shape[0]), jnp.zeros(inputs.shape[0])
        moved, logits = step(reference, empty, inputs, prefix=params["theta"]["prefix"])
        still, before = step(reference, empty, inputs)
        return (moved, still), zeros, Heads(logits[:, -1] - before[:, -1], zeros)

    def advance(params: PyTree, state: PyTree, tokens: Array) -> tuple[PyTree, Heads]:
        reference = params["frozen"]["reference"]
        moved, logits = step(reference, state[0], tokens[:, None])
        still, before = step(reference, state[1], tokens[:, None])
        return (moved, still), Heads(logits[:, -1] - before[:, -1], jnp.zeros(tokens.shape))

    return Network(init, whole, start, advance)


def table(automaton: Automaton, length: int) -> Network:
    """A number for every (place, last token, automaton state) and next token: R of a chain of known states exactly.

    Args:
      automaton: of the constraint; its tables are part of the network, as parameters must be floats.
      length: T.

    Returns:
      A `Network`.

    >>> from olm.control import automata
    >>> net = table(automata.clauses([[[2]]], 4), 3)
    >>> params = {"theta": net.init(jax.random.key(0)), "frozen": {}}
    >>> net.whole(params, jnp.zeros((5, 3), int), {"which": jnp.zeros(5)})[1].shape.shape
    (5, 3, 4)
    """
    n, vocabulary = automaton.transition.shape
    transition = np.asarray(automaton.transition)  # a constant of whatever program is traced

    def follow(state: Array, tokens: Array) -> tuple[Array, Array]:
        return jnp.asarray(transition)[state, tokens], state

    def init(key: Array) -> PyTree:
        cells = (length, vocabulary + 1, n)
        return {"shape": jnp.zeros((*cells, vocabulary)), "norm": jnp.zeros(cells), "root": jnp.zeros(())}

    def heads(theta: PyTree, place: Array, last: Array, reached: Array) -> Heads:
        return Heads(theta["shape"][place, last, reached], theta["norm"][place, last, reached])

    def whole(params: PyTree, tokens: Array, context: Context) -> tuple[Array, Heads]:
        theta = params["theta"]
        reached = jax.lax.scan(follow, jnp.zeros(tokens.shape[0], transition.dtype), tokens.T)[1].T
        last = jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=vocabulary)
        return jnp.broadcast_to(theta["root"], tokens.shape[:1]), heads(theta, jnp.arange(tokens.shape[1]), last, reached)

    def start(params: PyTree, context: Context) -> tuple[PyTree, Array, Heads]:
        zeros = jnp.zeros(examples(context, "context"), jnp.int32)
        root = jnp.broadcast_to(params["theta"]["root"], zeros.shape)
        return (zeros, zeros), root, heads(params["theta"], zeros, zeros + vocabulary, zeros)

    def advance(params: PyTree, state: PyTree, tokens: Array) -> tuple[PyTree, Heads]:
        place, reached = state[0] + 1, follow(state[1], tokens)[0]
        return (place, reached), heads(params["theta"], place, tokens, reached)

    return Network(init, whole, start, advance)
