"""Labelled samples of a base: labels, exact weights, rates, and what is said when there is nothing to learn."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from olm.control import automata, decode, posterior, samples
from olm.control.model import Context, Model, hmm, transformer
from olm.control.samples import Samples
from olm.errors import InputError
from olm.models import hmm as hmms
from olm.models import transformer as transformers
from olm.models.transformer import TransformerConfig
from olm.types import Array

V, T = 5, 6
CONSTRAINTS = [automata.clauses([[[1, 2]], [[3]]], V), automata.count([4], V, most=0)]
CONFIG = TransformerConfig(vocabulary=V, length=T, width=8, layers=1, heads=2)


def oracle() -> samples.Oracle:
    return samples.accepts(automata.stack(CONSTRAINTS))


def base(n: int) -> tuple[Model, Any, dict[str, Array]]:
    return hmm(V, T), hmms.random(jax.random.key(4), 3, V, emission=2.0), {"which": jnp.arange(n) % 2}


def made(label: list[float], weights: list[float] | None = None, rate: float = 0.5) -> Samples:
    batch = {"tokens": jnp.zeros((len(label), 1), int), "label": jnp.array(label), "context": {}}
    return Samples(batch, jnp.ones(len(label)) if weights is None else jnp.array(weights), rate)


def meets(which: int, tokens: list[int]) -> bool:
    """The two constraints in words."""
    return (1, 2) in itertools.pairwise(tokens) and 3 in tokens if which == 0 else 4 not in tokens


# --- drawing ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
def test_samples_hold_what_losses_take() -> None:
    n, (model, params, context) = 1000, base(1000)
    found = samples.draw(model, params, oracle(), jax.random.key(0), context, chunk=300)
    tokens, label = np.asarray(found.batch["tokens"]), np.asarray(found.batch["label"])
    assert tokens.shape == (n, T) and label.dtype == jnp.result_type(float)
    assert [float(meets(i % 2, row)) for i, row in enumerate(tokens.tolist())] == label.tolist()
    assert 0.02 < label[::2].mean() < label[1::2].mean() < 0.9
    np.testing.assert_allclose(found.batch["log_p"], hmms.log_probabilities(params, tokens), rtol=1e-12)
    assert np.all(found.weights == 1) and found.effective == n and found.rate == pytest.approx(label.mean(), abs=1e-14)
    assert set(found.batch) == {"tokens", "label", "context", "log_p"}
    assert np.array_equal(found.batch["context"]["which"], context["which"])
    # Chunks are draws of their own, the last one smaller.
    assert len(np.unique(tokens, axis=0)) > n / 3 and not np.array_equal(tokens[:100], tokens[900:])
    fewer = samples.draw(model, params, oracle(), jax.random.key(0), context, chunk=300, keep_log_p=False)
    assert set(fewer.batch) == {"tokens", "label", "context"} and np.array_equal(fewer.batch["tokens"], tokens)


@pytest.mark.usefixtures("x64")
def test_weights_make_another_temperature_unbiased() -> None:
    """At τ = 1.5 the share of accepted samples is another one, and the weighted share that of the base, R(x)."""
    n, (model, params, _) = 40_000, base(1)
    exact = np.exp(posterior.lookahead(params, CONSTRAINTS, T).log_rate)
    every = np.array(list(itertools.product(range(V), repeat=T)), np.int32)
    log_p = np.asarray(hmms.log_probabilities(params, every))
    flat = log_p / 1.5 - np.log(np.exp(log_p / 1.5).sum(-1, keepdims=True))
    own, drawn_from = (np.take_along_axis(table, every[..., None], 2).sum((1, 2)) for table in (log_p, flat))
    ratio = np.exp(own - drawn_from)
    np.testing.assert_allclose(np.exp(drawn_from) @ ratio, 1, rtol=1e-12)
    for x, rate in enumerate(exact):
        context = {"which": jnp.full(n, x)}
        found = samples.draw(model, params, oracle(), jax.random.key(x), context, temperature=1.5, keep_log_p=False)
        label, weights = np.asarray(found.batch["label"]), np.asarray(found.weights)
        met = np.array([meets(x, row) for row in every.tolist()])
        np.testing.assert_allclose(np.exp(own) @ met, rate, rtol=1e-12)
        # Weights are the exact ratios over their mean.
        place = np.asarray(found.batch["tokens"]) @ V ** np.arange(T)[::-1]
        np.testing.assert_allclose(weights, ratio[place] / ratio[place].mean(), rtol=1e-11)
        assert weights.mean() == pytest.approx(1, abs=1e-12)
        error = np.sqrt(np.exp(drawn_from) @ (ratio * (met - rate)) ** 2 / n)
        assert abs(found.rate - rate) < 4 * error
        assert abs(label.mean() - rate) > 4 * error, "the temperature changes nothing here"
        assert found.rate == pytest.approx((weights * label).sum() / weights.sum(), abs=1e-12)
        expected = n / (np.exp(drawn_from) @ ratio**2)
        assert found.effective == pytest.approx(expected, rel=0.05) and found.effective < 0.95 * n


def test_what_follows_the_end_does_not_count() -> None:
    shapes = jax.eval_shape(transformers.init(CONFIG), jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.1, 0.8, leaf.shape), leaf.dtype), shapes)
    model, context = transformer(CONFIG, T, begin=1, end=0), {"prompt": jnp.zeros((200, 0), int)}
    found = samples.draw(model, params, lambda tokens, _: (tokens == 0).any(1), jax.random.key(0), context, end=0)
    tokens, mask = np.asarray(found.batch["tokens"]), np.asarray(found.batch["mask"])
    lengths = [row.index(0) + 1 if 0 in row else T for row in tokens.tolist()]
    assert mask.sum(1).tolist() == lengths and len(set(lengths)) > 2
    assert np.array_equal(mask, np.arange(T) < np.array(lengths)[:, None])
    assert found.batch["label"].tolist() == [float(0 in row) for row in tokens.tolist()]
    # The base is certain behind the end, and only there.
    chosen = np.take_along_axis(np.asarray(found.batch["log_p"]), tokens[..., None], 2)[..., 0]
    assert np.all(chosen[~mask] == 0) and np.all(chosen[mask] < 0)
    drawn = decode.sample(model, params, jax.random.fold_in(jax.random.key(0), 0), context)
    assert np.array_equal(drawn.tokens, tokens)
    np.testing.assert_allclose(chosen.sum(1), drawn.log_p, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            lambda tokens, context: jnp.ones((len(tokens), 1)),
            r"labels of shape \(7, 1\): it must give one",
        ),
        (lambda tokens, context: 1.0, r"labels of shape \(\): it must give one number a sequence, \(7,\)"),
        (lambda tokens, context: jnp.ones(tokens.shape[1]), r"labels of shape \(6,\): it must"),
        (lambda tokens, context: jnp.full(len(tokens), 2), "the oracle gave the label 2: it must give numbers from 0 to 1"),
        (lambda tokens, context: jnp.full(len(tokens), jnp.nan), "the oracle gave the label nan: it must give numbers"),
        (lambda tokens, context: jnp.full(len(tokens), -0.5), "the oracle gave the label -0.5: it must give numbers"),
    ],
)
def test_an_oracle_that_gives_no_labels_is_refused(labels: samples.Oracle, message: str) -> None:
    model, params, context = base(14)
    with pytest.raises(InputError, match=message):
        samples.draw(model, params, labels, jax.random.key(0), context, chunk=7)


def test_bad_arguments_are_named() -> None:
    model, params, context = base(4)
    with pytest.raises(InputError, match="chunk is 0: give a whole number"):
        samples.draw(model, params, oracle(), jax.random.key(0), context, chunk=0)
    with pytest.raises(InputError, match="temperature is 0: give a positive number"):
        samples.draw(model, params, oracle(), jax.random.key(0), context, temperature=0)
    with pytest.raises(InputError, match="context needs arrays with one common leading axis"):
        samples.draw(model, params, oracle(), jax.random.key(0), {**context, "prompt": jnp.zeros((3, 1), int)})
    with pytest.raises(InputError, match="which reach from 0 to 2: give ids in 0 … 1"):
        oracle()(jnp.zeros((2, T), int), {"which": jnp.array([0, 2])})


def test_soft_labels_and_contexts_reach_the_oracle() -> None:
    def soft(tokens: Array, context: Context) -> Array:
        return (tokens == 1).mean(1) * context["scale"]

    model, params, context = base(50)
    context = {**context, "scale": jnp.linspace(0, 1, 50)}
    found = samples.draw(model, params, soft, jax.random.key(0), context, chunk=20)
    wanted = (np.asarray(found.batch["tokens"]) == 1).mean(1) * np.linspace(0, 1, 50)
    np.testing.assert_allclose(found.batch["label"], wanted, rtol=1e-6)
    assert found.rate == pytest.approx(wanted.mean(), rel=1e-5)
    # Without a condition it is the first one's constraint.
    tokens = jnp.array([[1, 2, 3, 0, 0, 0], [0] * 6])
    assert oracle()(tokens, {"prompt": jnp.zeros((2, 1))}).tolist() == [1, 0]


# --- what there is to learn from --------------------------------------------------------------------------------------


def test_too_few_labels_of_a_kind_are_named() -> None:
    some = made([1.0, 0, 0, 1])
    assert samples.check_labels(some) is some and samples.check_labels(some, least=2) is some
    cases = [
        (made([0.0] * 60), 1, r"accepts 0 of 60 samples \(rate below 0.05\): draw more, raise the temperature, or ask for less"),
        (made([1.0, 0, 0], rate=0.0123), 2, r"accepts 1 of 3 samples \(rate 0.012\): draw more"),
        (made([1.0] * 5, rate=1.0), 1, r"accepts 5 of 5 samples \(rate 1\): there is nothing to control, ask for more"),
        (made([1.0, 1, 1, 0], rate=0.87654), 2, r"accepts 3 of 4 samples \(rate 0.8765\): there is nothing to control"),
        (made([0.3] * 9, rate=0.3), 1, "the oracle gives 0.3 to all 9 samples: there is nothing to learn"),
        # Of tempered samples 3/n bounds nothing that one asks for.
        (made([0.0] * 60, [1.0] * 59 + [2.0], rate=0.0), 1, r"accepts 0 of 60 samples \(rate 0\)"),
        (some, 0, "least is 0: give a whole number of at least 1"),
    ]
    graded = made([0.4, 0.1, 0.3, 0.4], rate=0.3)
    assert samples.check_labels(graded) is graded
    with pytest.raises(InputError, match="accepts 0 of 4 samples"):
        samples.rebalanced(graded)  # none of them counts as accepted
    for given, least, message in cases:
        with pytest.raises(InputError, match=message):
            samples.check_labels(given, least=least)


@pytest.mark.usefixtures("x64")
def test_rebalanced_weights_give_the_accepted_their_share() -> None:
    rng = np.random.default_rng(0)
    label, own = (rng.random(200) < 0.05).astype(float), rng.gamma(1.0, size=200)
    for given in (label, np.where(label > 0, 0.9, 0.2)):
        found = made(given.tolist(), own.tolist())
        for share in (0.5, 0.2, 0.99):
            weights = np.asarray(samples.rebalanced(found, share))
            assert weights[label > 0].sum() / weights.sum() == pytest.approx(share, abs=1e-12)
            assert weights.mean() == pytest.approx(1, abs=1e-12)
            for kind in (0, 1):  # within a kind the samples' own weights stay in proportion
                ratio = (weights / own)[label == kind]
                np.testing.assert_allclose(ratio, ratio[0], rtol=1e-12)
    for share in (0, 1, -0.5, float("nan")):
        with pytest.raises(InputError, match=f"share is {share}: give a number between 0 and 1"):
            samples.rebalanced(made([1.0, 0]), share)
    with pytest.raises(InputError, match="accepts 2 of 2 samples"):
        samples.rebalanced(made([1.0, 1]))
