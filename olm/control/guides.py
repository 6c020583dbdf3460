"""Guides of text that samples teach: NADO, DiNADO, FUDGE over a base of `olm.control.text`.

Their networks start from the base's own weights, which know prompts and words, as the published heads stand on the base's hidden
states. With more than one round, later samples come half from what was learned (`olm.control.explore`): a base that hardly ever
meets a constraint has little to teach.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from olm import fitting
from olm.control import baselines, explore, nado, network
from olm.control import model as models
from olm.control.model import Guide
from olm.control.samples import Samples
from olm.control.text import BEGIN, END, METHODS, Concepts, base_model, context, holds, mean_loss, texts
from olm.errors import InputError
from olm.models.transformer import TransformerConfig
from olm.types import Array, PyTree

WEIGHTED = ("nado", "dense", "fudge")
"""Methods with labels at every prefix, which need the weights of samples that are not the base's."""


class Learned(NamedTuple):
    """A guide that samples teach: ``init(key) -> {"theta", "frozen"}``, ``losses(params, batch) -> [B]`` in nats, ``guide``."""

    init: Callable[[Array], PyTree]
    losses: Callable[[PyTree, PyTree], Array]
    guide: Guide


def learned(method: str, config: TransformerConfig, length: int, base_params: PyTree, *, rate: float, rank: int = 8) -> Learned:
    """The guide of a method.

    Args:
      method: dinado (form soft), dense (form soft, labels at every prefix as nado has them), hard or nado with a transformer of
        their own, which starts as the base with new heads; merge or lora: form soft over a copy of the base, all its weights or
        adapters; fudge.
      config: the base's sizes, and the guide's.
      length: T.
      base_params: the base's parameters.
      rate: R before anything is learned, that of the samples.
      rank: of adapters.

    Returns:
      `Learned`; equal sizes give the same functions.

    Raises:
      InputError: an unknown method, or one that learns nothing.

    No example: see tests/test_control_text.py.
    """
    if method not in METHODS or method == "gelato":
        raise InputError(f"method {method!r} is none that learns: choose one of {', '.join(m for m in METHODS if m != 'gelato')}")
    base = base_model(config, length)
    if method == "fudge":
        found = baselines.fudge(config, config.vocabulary, BEGIN)
        return Learned(lambda key: {"theta": found.init(key), "frozen": {}}, found.losses, found.guide)
    rate = float(np.clip(rate, 1e-3, 0.999))
    settings = {
        "nado": nado.Nado("nado", rate=rate),
        "dense": nado.Nado("soft", rate=rate),
        "hard": nado.Nado("hard", "last", 0.0, rate=rate),
    }.get(method, nado.Nado("soft", "last", rate=rate))
    frozen = {"base": base_params}
    if method in ("merge", "lora"):
        net, frozen["reference"] = network.copy(config, BEGIN, rank=rank if method == "lora" else None), base_params
    else:
        net = network.small(config, config.vocabulary, BEGIN, pointer=END)

    def init(key: Array) -> PyTree:
        params = nado.start(net, key, **frozen)
        if "body" in params["theta"]:  # the heads stand on what the base knows of prompts and words
            params["theta"]["body"] = jax.tree.map(jnp.array, {k: v for k, v in base_params.items() if k != "head"})
        return params

    return Learned(init, nado.losses(settings, net, base), nado.guide(settings, net))


def train_guide(
    guide: Learned, samples: Samples, held_out: Samples, *, steps: int, key: Array, weighted: bool = False, **more: Any
) -> fitting.Fitted:
    """Learn a guide from labelled samples.

    Args:
      guide: of `learned`.
      samples: of `draw`.
      held_out: samples to measure with.
      steps, key: as for `olm.fitting.fit`.
      weighted: by the samples' weights, for those drawn at another temperature.
      more: its ``batch_size``, ``peak``, ``run``, ``save_every``, ``progress``, ``every``.

    Returns:
      `olm.fitting.Fitted`; rows with "loss", held-out nats a sentence.

    Raises:
      InputError, DivergenceError: as `olm.fitting.fit`.

    No example: see tests/test_control_text.py.
    """
    of_init, of_order = jax.random.split(key)
    return fitting.fit(
        guide.losses,
        guide.init(of_init),
        samples.batch,
        steps=steps,
        key=of_order,
        weights=samples.weights if weighted else None,
        measures=lambda params: {"loss": mean_loss(guide.losses, params, held_out.batch)},
        **more,
    )


def explored_guide(
    guide: Learned,
    base_params: PyTree,
    config: TransformerConfig,
    length: int,
    prompts: np.ndarray,
    concepts: Sequence[Concepts],
    tokens: Sequence[bytes],
    first: Samples,
    held_out: Samples,
    *,
    rounds: int,
    steps: int,
    key: Array,
    inflections: bool = False,
    weighted: bool = False,
    **more: Any,
) -> fitting.Fitted:
    """Learn a guide in rounds, each of which draws half of its samples from what was learned before.

    Args:
      guide: of `learned`.
      base_params, config, length: the base.
      prompts, concepts: [N, P] of training sentences, and the concepts of each.
      tokens: the bytes of each id.
      first: samples of the first round, of `olm.control.text.draw`; every later round draws as many.
      held_out: samples to measure with.
      rounds: K.
      steps: of all rounds together.
      key: random key.
      inflections: every inflection of a word will do.
      weighted: weigh samples by p over the mixture they came from; needed by the methods in `WEIGHTED`.
      more: ``batch_size``, ``peak``, ``run``, ``progress`` of `olm.control.explore.rounds`.

    Returns:
      `olm.fitting.Fitted`; rows with "loss", held-out nats a sentence.

    Raises:
      InputError, DivergenceError: as `olm.control.explore.rounds`.

    No example: see tests/test_control_text.py.
    """
    base = base_model(config, length)
    model = models.guided(base, guide.guide)
    of_init, of_rounds = jax.random.split(key)

    def oracle(ids: Array, here: models.Context) -> np.ndarray:
        asked = [concepts[i] for i in np.asarray(here["which"])]
        return holds(texts(tokens, np.asarray(ids)), asked, inflections=inflections)

    def draw(params: PyTree, of_draw: Array, n: int) -> Samples:
        of_rows, of_tokens = jax.random.split(of_draw)
        rows = np.asarray(jax.random.choice(of_rows, len(prompts), (n,)))
        both = {"base": base_params, "guide": params}
        found = explore.draw_mixture(
            base, base_params, model, both, oracle, of_tokens, context(prompts[rows], rows), end=END, keep_log_p=False, chunk=1024
        )
        # Of the constraints only labels are kept, so that these samples look like those of `olm.control.text.draw`.
        return found._replace(batch={**found.batch, "context": context(prompts[rows])})

    return explore.rounds(
        guide.losses,
        guide.init(of_init),
        first,
        draw,
        number=rounds,
        steps=steps,
        key=of_rounds,
        weighted=weighted,
        measures=lambda params: {"loss": mean_loss(guide.losses, params, held_out.batch)},
        **more,
    )
