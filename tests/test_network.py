"""Networks and baselines: nothing at first, the same step by step as at once, and frozen where they say so."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from olm import fitting
from olm.control import automata, baselines, nado, network
from olm.control.model import Model, guided, product, stepwise, transformer
from olm.control.nado import Nado
from olm.control.network import Network
from olm.learner import Adam
from olm.models import lora
from olm.models import transformer as transformers
from olm.models.transformer import TransformerConfig

V, T, B, P, BEGIN = 5, 4, 3, 2, 5
CONFIG = TransformerConfig(vocabulary=6, length=P + T + 4, width=8, layers=2, heads=2)  # five tokens and the begin symbol
COPIED = TransformerConfig(vocabulary=V, length=P + T, width=8, layers=2, heads=2)
FORMS = [Nado("nado"), Nado("soft", "last"), Nado("hard", "last", rate=0.3)]


def weights(like: Any, seed: int, scale: float = 0.5) -> Any:
    """Parameters under which no two prefixes are alike, in JAX's default float."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, scale, leaf.shape), jnp.result_type(float)), like)


def reference(config: TransformerConfig = COPIED) -> Any:
    return weights(jax.eval_shape(transformers.init(config), jax.random.key(0)), 1)


def case(name: str) -> tuple[Network, dict[str, Any]]:
    """A network with what it starts from."""
    longer = TransformerConfig(vocabulary=V, length=P + T + 3, width=8, layers=2, heads=2)
    made = {
        "small": lambda: network.small(CONFIG, V, BEGIN),
        "pointer": lambda: network.small(CONFIG, V, BEGIN, pointer=1),
        "copy": lambda: network.copy(COPIED, 0),
        "lora": lambda: network.copy(COPIED, 0, rank=2, alpha=6.0),
        "prompted": lambda: network.prompted(longer, 0, 3),
        "table": lambda: network.table(automata.clauses([[[1]], [[2]]], V), T),
    }[name]()
    frozen = {"reference": reference(longer if name == "prompted" else COPIED)} if name in ("copy", "lora", "prompted") else {}
    return made, nado.start(made, jax.random.key(2), **frozen)


def moved(params: dict[str, Any]) -> dict[str, Any]:
    """Other parameters, the frozen ones as they were."""
    return {"theta": jax.tree.map(jnp.add, params["theta"], weights(params["theta"], 7)), "frozen": params["frozen"]}


def inputs(name: str) -> tuple[Any, dict[str, Any], Any]:
    """Tokens, contexts and a base's log-probabilities."""
    rng = np.random.default_rng(3)
    tokens = jnp.asarray(rng.integers(0, V, (B, T)), jnp.int32)
    context = {"which": jnp.zeros(B, int)} if name == "table" else {"prompt": jnp.asarray(rng.integers(0, V, (B, P)))}
    return tokens, context, jax.nn.log_softmax(jnp.asarray(rng.normal(0, 2, (B, T, V)), jnp.result_type(float)))


# --- networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["small", "pointer", "copy", "lora", "prompted", "table"])
def test_step_by_step_is_all_at_once_and_nothing_at_first(name: str) -> None:
    net, start = case(name)
    tokens, context, log_p = inputs(name)
    guides = [nado.guide(settings, net) for settings in FORMS]

    @jax.jit
    def both(params: Any) -> Any:
        def steps(guide: Any) -> Any:
            return stepwise(
                functools.partial(guide.start, params, context), functools.partial(guide.advance, params), tokens, log_p
            )

        whole = [guide.whole(params, tokens, context, log_p) for guide in guides]
        return net.whole(params, tokens, context), net.start(params, context)[1:], whole, [steps(guide) for guide in guides]

    (root, heads), (root_0, heads_0), whole, steps = both(moved(start))
    assert root.shape == (B,) and heads.shape.shape == (B, T, V) and heads.norm.shape == (B, T)
    np.testing.assert_allclose(root_0, root, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(heads_0.shape, heads.shape[:, 0], rtol=1e-9, atol=1e-10)
    for at_once, one_by_one in zip(whole, steps, strict=True):
        np.testing.assert_allclose(one_by_one, at_once, rtol=1e-9, atol=1e-10)
        assert float(at_once.max()) <= 0 and float(at_once.std()) > 0.01
    # Every number counts for something: prefixes of other tokens have other numbers.
    if name != "table":
        assert len(np.unique(np.asarray(heads.shape).round(6).reshape(-1, V), axis=0)) == B * T
    (root, heads), _, whole, _ = both(start)
    assert float(abs(root).max()) == 0 and float(abs(heads.norm).max()) == 0
    if name == "prompted":
        assert float(abs(heads.shape).max()) > 1e-3
        return
    assert float(abs(heads.shape).max()) < 1e-12
    for log_r, settings in zip(whole, FORMS, strict=True):
        np.testing.assert_allclose(log_r, np.log(settings.rate), rtol=1e-11)
        np.testing.assert_allclose(product(log_p, log_r), log_p, rtol=0, atol=1e-11)


@pytest.mark.usefixtures("x64")
def test_a_guided_copy_is_the_model_trained() -> None:
    """DiNADO-Merge: over its own reference q is the copy itself, and with adapters the merged model."""
    model, tokens, context, _ = transformer(COPIED, T, begin=0), *inputs("copy")
    for name in ("copy", "lora"):
        net, params = case(name)
        params = moved(params)
        q = guided(model, nado.guide(FORMS[1], net))
        log_q = jax.jit(q.whole)({"base": params["frozen"]["reference"], "guide": params}, tokens, context)
        merged = params["theta"]["model"]
        if name == "lora":
            merged = lora.merge(params["frozen"]["reference"], merged, 6.0)
        wanted = jax.jit(model.whole)(merged, tokens, context)
        np.testing.assert_allclose(log_q, wanted, rtol=0, atol=1e-11)
        assert abs(log_q - model.whole(params["frozen"]["reference"], tokens, context)).max() > 0.1


@pytest.mark.parametrize("name", ["copy", "lora", "prompted"])
def test_the_reference_is_frozen(name: str) -> None:
    """No derivative reaches it, and training with weight decay leaves it bit for bit."""
    net, params = case(name)
    tokens, context, log_p = inputs(name)
    loss = nado.losses(FORMS[1], net) if name != "prompted" else baselines.likelihood(net)
    batch = {"tokens": tokens, "context": context, "log_p": log_p, "label": jnp.array([1.0, 0.0, 1.0])}
    gradient = jax.jit(jax.grad(lambda params: loss(params, batch).sum()))(moved(params))
    assert all(float(abs(leaf).max()) == 0 for leaf in jax.tree.leaves(gradient["frozen"]))
    assert max(float(abs(leaf).max()) for leaf in jax.tree.leaves(gradient["theta"])) > 1e-3
    how = Adam(weight_decay=0.5)
    found = fitting.fit(loss, params, batch, steps=3, key=jax.random.key(0), batch_size=2, peak=0.1, adam=how).params
    same = jax.tree.map(np.array_equal, found["frozen"], params["frozen"])
    assert all(jax.tree.leaves(same)) and jax.tree.leaves(same)
    assert not all(jax.tree.leaves(jax.tree.map(np.array_equal, found["theta"], params["theta"])))


# --- baselines --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
def test_fine_tuning_is_maximum_likelihood_of_the_guided_model() -> None:
    net, params = case("small")
    params, (tokens, context, _) = moved(params), inputs("small")
    base, of_base = transformer(COPIED, T, begin=0), reference()
    batch = {"tokens": tokens, "context": context, "label": jnp.array([1.0, 0.0, 1.0])}
    q = guided(base, baselines.tilt(net))

    def wanted(theta: Any) -> Any:
        given = {"base": of_base, "guide": {**params, "theta": theta}}
        each = jnp.take_along_axis(q.whole(given, tokens, context), tokens[..., None], 2)[..., 0].sum(1)
        return -(each * batch["label"]).sum(), -each * batch["label"]

    loss = baselines.likelihood(net, base)

    def found(theta: Any) -> Any:
        each = loss({"theta": theta, "frozen": {"base": of_base}}, batch)
        return each.sum(), each

    (one, other) = (jax.jit(jax.value_and_grad(f, has_aux=True))(params["theta"]) for f in (found, wanted))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)
    assert float(one[0][1][1]) == 0 < float(one[0][1][0])
    # And with a mask, only what counts.
    mask = jnp.arange(T) < jnp.array([[2], [4], [4]])
    log_q = jnp.take_along_axis(
        q.whole({"base": of_base, "guide": params}, tokens, context), tokens[..., None], 2
    )[..., 0]  # fmt: skip
    masked = loss({"theta": params["theta"], "frozen": {"base": of_base}}, {**batch, "mask": mask})
    np.testing.assert_allclose(masked[0], -log_q[0, :2].sum(), rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_fudge_asks_its_classifier_of_every_next_token() -> None:
    config = TransformerConfig(vocabulary=6, length=P + T + 1, width=8, layers=1, heads=2)
    made = baselines.fudge(config, V, BEGIN)
    tokens, context, log_p = inputs("fudge")
    fresh = {"theta": made.init(jax.random.key(0)), "frozen": {}}
    batch = {"tokens": tokens, "context": context, "label": jnp.array([1.0, 0.0, 0.3])}
    np.testing.assert_allclose(made.losses(fresh, batch), T * np.log(2), rtol=1e-12)
    theta = weights(fresh["theta"], 5)
    params = {"theta": theta, "frozen": {}}
    opening = np.concatenate([np.asarray(context["prompt"]), np.full((B, 1), BEGIN)], 1)
    body = jax.jit(transformers.hidden(config))

    def rate(written: np.ndarray) -> np.ndarray:
        """σ(w·h + b) of prefixes [B, t]; what stands behind them is nothing to a causal model."""
        padded = np.pad(written, ((0, 0), (0, T - written.shape[1])))
        hidden = np.asarray(body(theta["body"], np.concatenate([opening, padded], 1)))[:, P + written.shape[1]]
        return 1 / (1 + np.exp(-(hidden @ np.asarray(theta["weight"]) + float(theta["bias"]))))

    found = np.exp(np.asarray(jax.jit(made.guide.whole)(params, tokens, context, log_p)))
    for t in range(T):
        for v in range(V):
            wanted = rate(np.concatenate([np.asarray(tokens)[:, :t], np.full((B, 1), v)], 1))
            np.testing.assert_allclose(found[:, t, v], wanted, rtol=1e-9)
    chosen = np.take_along_axis(found, np.asarray(tokens)[..., None], 2)[..., 0]
    label = np.asarray(batch["label"])[:, None]
    each = -label * np.log(chosen) - (1 - label) * np.log1p(-chosen)
    np.testing.assert_allclose(made.losses(params, batch), each.sum(1), rtol=1e-9)
    mask = np.arange(T) < np.array([[1], [2], [4]])
    masked = made.losses(params, {**batch, "mask": jnp.asarray(mask)})
    np.testing.assert_allclose(masked, (each * mask).sum(1), rtol=1e-9)
    assert isinstance(guided(transformer(COPIED, T, begin=0), made.guide), Model)
