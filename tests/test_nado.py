"""NADO and DiNADO where the exact R fits into a table: what is stationary, what is learned, and the numbers on the way."""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from olm import fitting
from olm.control import automata, nado, network, posterior
from olm.control.automata import Automaton
from olm.control.model import guided, hmm, product, stepwise
from olm.control.nado import Nado
from olm.control.network import Heads, Network
from olm.errors import DivergenceError, InputError
from olm.learner import Adam
from olm.models.hmm import HMM

V, T = 3, 4
FORMS = {
    "nado": Nado("nado", "prefixes", 1.0, "expected"),
    "nado, value": Nado("nado", "prefixes", 1.0, "value"),
    "nado, λ = 0": Nado("nado", "prefixes", 0.0),
    "soft": Nado("soft", "last", 1.0, "expected"),
    "soft, value": Nado("soft", "last", 1.0, "value"),
    "soft, prefixes": Nado("soft", "prefixes", 0.5, rate=0.2),
    "hard": Nado("hard", "last", 0.0),
    "hard, prefixes": Nado("hard", "prefixes", 0.0, rate=0.2),
}


class Tabular(NamedTuple):
    """A chain whose state is the last token, so that (place, last token, automaton state) decides R; all its sequences.

    Attributes:
      tokens, p: [N, T] and [N], every sequence and its probability.
      label: [N], C(y).
      log_p, log_r: [N, T, V], of the chain and exact.
      log_rate: log R(x).
      log_q: [N], of the posterior.
      automaton, network: of the constraint, and the table over its states.
      batch: all sequences as losses take them.
    """

    tokens: np.ndarray
    p: np.ndarray
    label: np.ndarray
    log_p: np.ndarray
    log_r: np.ndarray
    log_rate: float
    log_q: np.ndarray
    automaton: Automaton
    network: Network
    batch: dict[str, Any]


def tabular(seed: int, vocabulary: int, length: int, keys: Any) -> Tabular:
    """In JAX's default float; R by the exact engine, which tests of its own hold to enumeration."""
    rng = np.random.default_rng(seed)
    with np.errstate(divide="ignore"):
        initial, move = (np.log(rng.dirichlet(np.full(vocabulary, 2.0), shape)) for shape in ((), vocabulary))
        chain = HMM(initial, move, np.log(np.eye(vocabulary)))
    automaton = automata.clauses(keys, vocabulary)
    tokens = np.array(list(itertools.product(range(vocabulary), repeat=length)), np.int32)
    context = {"which": jnp.zeros(len(tokens), int)}
    tables = posterior.lookahead(chain, automaton, length)
    log_p = jax.jit(hmm(vocabulary, length).whole)(tables.hmm, tokens, context)
    log_r = jax.jit(posterior.GUIDE.whole)(tables, tokens, context, log_p)
    along, met = np.asarray(score(log_p, tokens)), np.asarray(automata.accepts(automaton, tokens))
    rate = float(tables.log_rate[0])
    log_q = np.where(met, along - rate, -np.inf)
    batch = {"tokens": jnp.asarray(tokens), "label": jnp.asarray(met, log_p.dtype), "context": context, "log_p": log_p}
    net = network.table(automaton, length)
    return Tabular(tokens, np.exp(along), met, np.asarray(log_p), np.asarray(log_r), rate, log_q, automaton, net, batch)


def score(log_p: Any, tokens: np.ndarray) -> Any:
    """Log-probability of each sequence."""
    return jnp.take_along_axis(jnp.asarray(log_p), jnp.asarray(tokens)[..., None], 2).sum((1, 2))


@functools.cache
def case() -> Tabular:
    with jax.enable_x64(True):
        return tabular(3, V, T, [[[2, 2], [1, 1]], [[0]]])


def softened(one: Tabular) -> Tabular:
    """Labels of 0.05 and 0.95: every R lies between, so that the table that holds it is finite."""
    log_r, rate = np.log(0.05 + 0.9 * np.exp(one.log_r)), np.log(0.05 + 0.9 * np.exp(one.log_rate))
    label = 0.05 + 0.9 * one.label
    log_q = np.log(one.p * label) - rate
    return one._replace(log_r=log_r, log_rate=rate, label=label, log_q=log_q, batch={**one.batch, "label": jnp.asarray(label)})


def exact_theta(one: Tabular, settings: Nado) -> Any:
    """The table that holds R in a form."""
    theta = jax.tree.map(np.array, one.network.init(jax.random.key(0)))
    logit = one.log_r - np.log(-np.expm1(one.log_r))
    states = np.asarray(automata.run(one.automaton, one.tokens))
    for row, reached, at, log_r in zip(one.tokens, states, logit, one.log_r, strict=True):
        for t in range(one.tokens.shape[1]):
            cell = t, (one.log_p.shape[-1] if t == 0 else row[t - 1]), reached[t]
            if settings.form == "soft":
                theta["shape"][cell] = log_r[t] - 3.0  # a shift of all is nothing
                theta["norm"][cell] = at[t].max() - settings.offset
            else:
                theta["shape"][cell] = at[t] - (settings.offset if settings.form == "nado" else 7.0)
    theta["root"] = np.asarray(one.log_rate - np.log(-np.expm1(one.log_rate)) - settings.offset)
    return jax.tree.map(jnp.asarray, theta)


def errors(one: Tabular, settings: Nado, params: Any) -> dict[str, float]:
    """KL(q* ‖ q), the largest error of R over all prefixes, its mean under p, and the largest inconsistency of a sequence."""
    found = jax.jit(nado.parts(settings, one.network))(params, one.batch)
    log_r = jax.jit(nado.guide(settings, one.network).whole)(params, one.batch["tokens"], one.batch["context"], one.log_p)
    log_q = np.asarray(score(product(jnp.asarray(one.log_p), log_r), one.tokens))
    sure = np.isfinite(one.log_q)
    chosen = np.take_along_axis(one.log_r, one.tokens[..., None], 2)[..., 0]
    exact = np.concatenate([np.full((len(chosen), 1), one.log_rate), chosen], 1)
    wrong = abs(np.exp(np.asarray(found["log_values"])) - np.exp(exact))
    return {
        "kl": float(np.exp(one.log_q[sure]) @ (one.log_q - log_q)[sure]),
        "r": float(wrong.max()),
        "mean r": float(one.p @ wrong.mean(1)),
        "gap": float(np.max(found["gap"])),
    }


def learned(one: Tabular, settings: Nado, *, steps: int, peak: float) -> Any:
    """Training on all sequences at once, each with its probability as weight."""
    start = nado.start(one.network, jax.random.key(0))
    how = Adam(b2=0.99, weight_decay=0.0, clip=None)
    fitted = fitting.fit(
        nado.losses(settings, one.network), start, one.batch, steps=steps, key=jax.random.key(1), batch_size=len(one.p),
        weights=jnp.asarray(one.p), peak=peak, adam=how,
    )  # fmt: skip
    return fitted.params


# --- what is stationary -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", list(FORMS))
def test_the_exact_r_is_stationary(name: str) -> None:
    """The gradient of the expected loss is zero at R, and the form holds R, q* and forward consistency there."""
    one, settings = softened(case()), FORMS[name]
    theta = exact_theta(one, settings)
    found = errors(one, settings, {"theta": theta, "frozen": {}})
    assert max(abs(value) for value in found.values()) < 1e-12, found
    loss = nado.losses(settings, one.network)

    @jax.jit
    def gradient(theta: Any, weights: Any) -> Any:
        return jax.grad(lambda th: jnp.dot(weights, loss({"theta": th, "frozen": {}}, one.batch)))(theta)

    def largest(theta: Any, weights: Any) -> float:
        return max(float(abs(leaf).max()) for leaf in jax.tree.leaves(gradient(theta, jnp.asarray(weights))))

    assert largest(theta, one.p) < 1e-12
    # Labels at the last token and the Bellman equation hold under any proposal; cross-entropy at prefixes under p alone.
    other = np.random.default_rng(0).dirichlet(np.ones(len(one.p)))
    assert (largest(theta, other) < 1e-12) == (settings.labels == "last")
    assert largest({**theta, "shape": theta["shape"] * 1.01}, one.p) > 1e-5


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("form", ["nado", "soft", "hard"])
def test_a_table_learns_r_and_the_posterior(form: str) -> None:
    one, settings = case(), FORMS[form]
    assert 0.05 < np.exp(one.log_rate) < 0.6
    begin = errors(one, settings, nado.start(one.network, jax.random.key(0)))
    # Before anything is learned q = p, and KL(q* ‖ p) = −log R(x).
    assert begin["kl"] == pytest.approx(-one.log_rate, abs=1e-12)
    found = errors(one, settings, learned(one, settings, steps=600, peak=1.0))
    assert 0 < found["kl"] < 5e-4 and found["mean r"] < 2e-3 and found["r"] < (0.05 if form == "soft" else 2e-3), found


@pytest.mark.usefixtures("x64")
def test_hard_is_consistent_whatever_its_parameters() -> None:
    one, rng = case(), np.random.default_rng(0)
    theta = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 4, leaf.shape)), one.network.init(jax.random.key(0)))
    for name, least in (("hard", 0.0), ("soft", 1e-2), ("nado", 1e-2)):
        gap = float(nado.parts(FORMS[name], one.network)({"theta": theta, "frozen": {}}, one.batch)["gap"].max())
        assert least < gap if least else gap < 1e-12, name


def test_what_is_frozen_stays_bit_for_bit() -> None:
    one = case()
    batch = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32 if x.dtype.kind == "f" else jnp.int32), one.batch)
    start = nado.start(one.network, jax.random.key(0), base={"weight": jnp.linspace(0.1, 0.7, 5)})
    found = fitting.fit(nado.losses(nado.NADO, one.network), start, batch, steps=5, key=jax.random.key(0), batch_size=16)
    assert np.array_equal(found.params["frozen"]["base"]["weight"], start["frozen"]["base"]["weight"])
    assert all(abs(leaf).max() > 0 for leaf in (found.params["theta"]["shape"], found.params["theta"]["root"]))


# --- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["nado", "soft, value", "hard, prefixes"])
def test_losses_are_their_formulas_and_padding_counts_for_nothing(name: str) -> None:
    """Cross-entropy and divergence written out in numpy, token by token, up to the last that counts."""
    one, settings, rng = case(), FORMS[name], np.random.default_rng(1)
    theta = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 1, leaf.shape)), one.network.init(jax.random.key(0)))
    counted = 1 + np.arange(len(one.p)) % T
    mask = np.arange(T) < counted[:, None]
    batch = {**one.batch, "mask": jnp.asarray(mask)}
    params = {"theta": theta, "frozen": {}}
    root = float(theta["root"]) + settings.offset
    log_r = np.asarray(nado.guide(settings, one.network).whole(params, batch["tokens"], batch["context"], one.log_p))
    wanted = []
    for i, row in enumerate(one.tokens):
        r = [1 / (1 + np.exp(-root)), *(np.exp(log_r[i, t, v]) for t, v in enumerate(row))]
        ends = range(counted[i] + 1) if settings.labels == "prefixes" else [counted[i]]
        total = -sum(np.log(r[t] if one.label[i] else 1 - r[t]) for t in ends)
        for t in range(counted[i]):
            a, b = np.exp(one.log_p[i, t]) @ np.exp(log_r[i, t]), r[t]
            a, b = (a, b) if settings.direction == "expected" else (b, a)
            total += settings.consistency * (a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b)))
        wanted.append(total)
    np.testing.assert_allclose(nado.losses(settings, one.network)(params, batch), wanted, rtol=1e-10)
    # What stands behind the last token that counts changes nothing.
    moved = {**batch, "tokens": jnp.where(batch["mask"], batch["tokens"], (batch["tokens"] + 1) % V)}
    if settings.form != "hard":
        moved["log_p"] = jnp.where(batch["mask"][..., None], batch["log_p"], jnp.log(jnp.array([1e-9, 1.0, 1e-9])))
    np.testing.assert_allclose(nado.losses(settings, one.network)(params, moved), wanted, rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_logarithms_of_the_rest_are_accurate_at_both_ends() -> None:
    x = -(10.0 ** np.arange(-5.5, 3))
    wanted = [float(np.log(-np.expm1(one))) if one > -0.5 else float(np.log1p(-np.exp(one))) for one in x]
    np.testing.assert_allclose(nado.log1mexp(jnp.asarray(x)), wanted, rtol=1e-14)
    slopes = jax.vmap(jax.grad(nado.log1mexp))(jnp.asarray(x))
    np.testing.assert_allclose(slopes, -1 / np.expm1(-x), rtol=1e-9)  # −e^x / (1 − e^x)
    assert np.isfinite(nado.log1mexp(jnp.zeros(()))) and float(jax.grad(nado.log1mexp)(jnp.ones(()))) == 0
    a, b = np.random.default_rng(0).uniform(0.01, 0.99, (2, 50))
    wanted = a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b))
    np.testing.assert_allclose(nado.bernoulli_divergence(jnp.log(a), jnp.log(b)), wanted, rtol=1e-9)
    assert float(nado.bernoulli_divergence(jnp.log(0.3), jnp.log(0.3))) == 0


@pytest.mark.parametrize("form", ["nado", "soft", "hard"])
def test_derivatives_are_finite_in_float32_at_the_ends(form: str) -> None:
    """R of e^−80 and of 1 to rounding, impossible tokens: values, gradients and their derivatives along a direction."""
    log_p = jax.nn.log_softmax(jnp.array([[0.0, 1.0, -jnp.inf], [-60.0, 0.0, -jnp.inf], [0.0, 0.0, 0.0]]))
    shape = jnp.array([[80.0, -80.0, 3.0], [0.0, 90.0, -90.0], [-85.0, -80.0, -90.0]])
    settings = Nado(form)

    def loss(shape: Any, norm: Any, value: Any) -> Any:
        log_r = nado.values(settings, Heads(shape, norm), log_p, value)
        expected = jax.nn.logsumexp(log_p + log_r, -1)
        both = nado.bernoulli_divergence(expected, value) + nado.bernoulli_divergence(value, expected)
        return (nado.cross_entropy(log_r, 1.0).sum(-1) + nado.cross_entropy(log_r, 0.0).sum(-1) + both).sum()

    def all_of(level: Any) -> Any:
        norm, value = jnp.full(3, level), jax.nn.log_sigmoid(jnp.full(3, level))
        arguments = (shape, norm, value)
        gradient = jax.grad(loss, (0, 1, 2))
        return loss(*arguments), jax.jvp(gradient, arguments, jax.tree.map(jnp.ones_like, arguments))

    for found in jax.tree.leaves(jax.jit(jax.vmap(all_of))(jnp.array([-80.0, -20.0, 0.0, 12.0, 20.0, 80.0]))):
        assert found.dtype == jnp.float32 and np.isfinite(found).all()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["nado", "soft", "hard"])
def test_gradients_are_differentiable(name: str) -> None:
    """Forward over reverse, as `olm.find_policy` goes through training, against differences of the gradient."""
    one, rng = case(), np.random.default_rng(5)
    loss = nado.losses(FORMS[name], one.network)
    shapes = one.network.init(jax.random.key(0))
    theta, along = (jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 1, leaf.shape)), shapes) for _ in range(2))

    def gradient(x: Any) -> Any:
        moved = jax.tree.map(lambda a, b: a + x * b, theta, along)
        return jax.grad(lambda th: jnp.dot(one.p, loss({"theta": th, "frozen": {}}, one.batch)))(moved)

    found, first = (jax.jit(function) for function in (lambda: jax.jvp(gradient, (0.0,), (1.0,))[1], gradient))
    near, far = ([a - b for a, b in zip(*map(jax.tree.leaves, (first(h), first(-h))), strict=True)] for h in (1e-3, 2e-3))
    for exact, one_step, two_steps in zip(jax.tree.leaves(found()), near, far, strict=True):
        np.testing.assert_allclose(exact, (8 * one_step - two_steps) / 12e-3, rtol=1e-6, atol=1e-9)


# --- the offset of the hard form --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
def test_the_offset_is_the_root_that_brackets_find() -> None:
    rng = np.random.default_rng(2)
    shape, log_p = rng.normal(0, 5, (60, 7)), np.log(rng.dirichlet(np.full(7, 0.3), 60) + 1e-12)
    log_p[::3, 2] = -np.inf
    log_p -= np.log(np.exp(log_p).sum(-1, keepdims=True))
    log_value = -(10 ** rng.uniform(-4, 1.3, 60))

    def log_odds(c: float, s: np.ndarray, p: np.ndarray) -> float:
        return np.log(p @ (1 / (1 + np.exp(-s - c)))) - np.log(p @ (1 / (1 + np.exp(s + c))))

    wanted = [
        scipy.optimize.brentq(
            lambda c, s, p, w: log_odds(c, s, p) - w, -60, 60, (s, np.exp(lp), lv - np.log(-np.expm1(lv))), 1e-13
        )
        for s, lp, lv in zip(shape, log_p, log_value, strict=True)
    ]
    found = jax.jit(nado.consistent_offset)(shape, log_p, log_value)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-9)
    total = jax.nn.logsumexp(log_p + jax.nn.log_sigmoid(shape + found[:, None]), -1)
    np.testing.assert_allclose(total, log_value, rtol=1e-12, atol=1e-13)
    # Its derivative, along directions that leave p normalised.
    tangents = [rng.normal(size=x.shape) for x in (shape, log_p, log_value)]
    tangents[1] -= (np.exp(log_p) * tangents[1]).sum(-1, keepdims=True)
    tangents[1][log_p == -np.inf] = 0

    def at(x: float) -> np.ndarray:
        moved = [a + x * b for a, b in zip((shape, log_p, log_value), tangents, strict=True)]
        moved[1] -= np.log(np.exp(moved[1]).sum(-1, keepdims=True))
        return np.asarray(nado.consistent_offset(*moved))

    _, slope = jax.jvp(nado.consistent_offset, (shape, log_p, log_value), tuple(tangents))
    settled = log_value < -1e-3  # nearer to R = 1 the step below is not small
    numeric = (8 * (at(1e-5) - at(-1e-5)) - (at(2e-5) - at(-2e-5))) / 12e-5
    np.testing.assert_allclose(slope[settled], numeric[settled], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_the_offset_in_float32_from_tiny_r_to_nearly_one(scale: float) -> None:
    rng = np.random.default_rng(0)
    shape, log_p = rng.normal(0, scale, (400, 50)), rng.normal(0, 3, (400, 50))
    log_p = jax.nn.log_softmax(jnp.asarray(np.where(rng.random((400, 50)) < 0.3, -np.inf, log_p), jnp.float32))
    log_value = jnp.asarray(-(10 ** np.linspace(-6, 1.9, 400)), jnp.float32)
    x = jnp.asarray(shape, jnp.float32) + jax.jit(nado.consistent_offset)(shape, log_p, log_value)[:, None]
    yes, no = (jax.nn.logsumexp(log_p + jax.nn.log_sigmoid(sign * x), -1) for sign in (1, -1))
    np.testing.assert_allclose(yes, log_value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(no, np.log(-np.expm1(np.asarray(log_value, np.float64))), rtol=1e-4, atol=1e-4)


# --- guides -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
def test_a_guide_step_by_step_is_that_of_whole_sequences() -> None:
    one, rng = case(), np.random.default_rng(4)
    theta = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 1, leaf.shape)), one.network.init(jax.random.key(0)))
    params, context, log_p = {"theta": theta, "frozen": {}}, one.batch["context"], jnp.asarray(one.log_p)
    for name in ("nado", "soft", "hard, prefixes"):
        guide = nado.guide(FORMS[name], one.network)
        steps = stepwise(
            functools.partial(guide.start, params, context), functools.partial(guide.advance, params), one.tokens, log_p
        )
        np.testing.assert_allclose(steps, guide.whole(params, one.batch["tokens"], context, log_p), rtol=1e-11, atol=1e-12)
        model = guided(hmm(V, T), guide)
        assert model.vocabulary == V and np.asarray(steps).max() <= 0


# --- input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"form": "norm"}, "form must be one of nado, soft, hard, not 'norm'"),
        ({"labels": "all"}, "labels must be one of prefixes, last"),
        ({"direction": "both"}, "direction must be one of expected, value"),
        ({"consistency": -1.0}, "consistency is -1.0: give 0 or a positive number"),
        ({"rate": 0.0}, "rate is 0.0: give a number between 0 and 1"),
        ({"rate": 1.0}, "rate is 1.0: give a number between 0 and 1"),
    ],
)
def test_settings_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Nado(**arguments)


def test_training_says_what_is_missing_or_wrong() -> None:
    one = case()
    batch = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32 if x.dtype.kind == "f" else jnp.int32), one.batch)
    start, loss = nado.start(one.network, jax.random.key(0)), nado.losses(nado.NADO, one.network)
    with pytest.raises(InputError, match='the batch has no "log_p" and there is no base'):
        loss(start, {name: x for name, x in batch.items() if name != "log_p"})
    for weights in (jnp.zeros(len(one.p)), -jnp.ones(len(one.p)), jnp.ones(3)):
        with pytest.raises(InputError, match="weights of 81 samples: give"):
            fitting.fit(loss, start, batch, steps=2, key=jax.random.key(0), weights=weights)
    # Nobody watches a loss here.
    with pytest.raises(DivergenceError, match="the loss is not finite after step 1: lower the learning rate"):
        fitting.fit(lambda params, batch: jnp.log(-1.0) * loss(params, batch), start, batch, steps=2, key=jax.random.key(0))
