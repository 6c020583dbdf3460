"""The formality task against enumeration of all sequences and paths, and against the distribution of counts."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from olm.control import decode, formality, tasks
from olm.control.model import log_likelihood
from olm.control.tasks import Exact
from olm.errors import InputError

X, C, T, MOST = 3, 3, 4, 1
V = 2 * C
W, U = 1.0, 1.5
ALL = np.array(list(itertools.product(range(V), repeat=T)))
PATHS = np.array(list(itertools.product(range(2), repeat=T)))
COUNTS = (ALL % 2).sum(1)
kinds = pytest.mark.parametrize("kind", ["hard", "soft"])


def small(kind: str = "hard", slip: float = 0.1, **more: Any) -> Exact:
    task = formality.transfer(0, sources=X, contents=C, length=T, most=MOST, slip=slip, **more)
    return task if kind == "hard" else formality.soften(task, W, U)


def tables(task: Exact) -> list[np.ndarray]:
    return [np.exp(np.asarray(leaf, np.float64)) for leaf in task.tables.hmm]


def enumerated(task: Exact) -> np.ndarray:
    """p(y | x) [X, V^T], a sum over all paths of products of table entries."""
    initial, move, emission = tables(task)
    value = np.broadcast_to(initial[PATHS[:, 0]], (X, len(ALL), len(PATHS))).copy()
    for t in range(T):
        value *= emission[:, t][:, PATHS[None, :, t], ALL[:, None, t]]
        if t:
            value *= move[PATHS[:, t - 1], PATHS[:, t]]
    return value.sum(-1)


def weights(kind: str) -> np.ndarray:
    return (COUNTS <= MOST).astype(float) if kind == "hard" else 1 / (1 + np.exp(U * COUNTS - W))


def counts(task: Exact) -> np.ndarray:
    """Pr(#informal = k | x) [X, T+1], forward over styles and counts."""
    initial, move, emission = tables(task)
    number, length = emission.shape[:2]
    found = np.zeros((number, 2, length + 1))
    found[:, :, 0] = initial
    for t in range(length):
        formal, informal = (emission[:, t, :, j::2].sum(-1)[..., None] for j in (0, 1))
        found = formal * found + informal * np.roll(found, 1, -1)
        found = np.einsum("xzk,zw->xwk", found, move)
    return found.sum(1)


# --- the base ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
def test_emissions_are_contents_times_styles() -> None:
    task = small(lean=0.7, informality=0.4, stay=0.9)
    initial, move, emission = tables(task)
    source = task.prompts - V
    pairs = emission.reshape(X, T, 2, C, 2)
    content = np.where(source[..., None] == np.arange(C), 0.9, 0.05)
    np.testing.assert_allclose(pairs.sum(-1), np.broadcast_to(content[:, :, None], (X, T, 2, C)), rtol=1e-12)
    odds = np.log(pairs[..., 1] / pairs[..., 0])  # of a content, the same in all sources and places
    np.testing.assert_allclose(odds, np.broadcast_to(odds[:1, :1], odds.shape), atol=1e-12)
    np.testing.assert_allclose(odds[0, 0, 1] - odds[0, 0, 0], 1.4, rtol=1e-12)
    np.testing.assert_allclose(odds[0, 0].mean(-1), [0.4 - 0.7, 0.4 + 0.7], rtol=1e-12)  # inclinations add up to 0
    assert np.ptp(odds[0, 0, 0]) > 0.1
    np.testing.assert_allclose(initial, 0.5)
    np.testing.assert_allclose(move, [[0.9, 0.1], [0.1, 0.9]])


@pytest.mark.usefixtures("x64")
def test_without_spread_all_sources_are_alike() -> None:
    task = small(spread=0.0, informality=0.4, lean=0.0)
    rate = 1 / (1 + np.exp(-0.4))  # neither content nor style matters: a binomial
    np.testing.assert_allclose(task.rates, (1 - rate) ** T + T * rate * (1 - rate) ** (T - 1), rtol=1e-12)


def test_sources_are_distinct_reproducible_and_split() -> None:
    one, same, other = (small(), small(), formality.transfer(1, sources=X, contents=C, length=T, most=MOST))
    np.testing.assert_array_equal(one.prompts, same.prompts)
    np.testing.assert_array_equal(one.rates, same.rates)
    assert (one.prompts != other.prompts).any()
    every = formality.transfer(2, sources=8, contents=2, length=3, most=1)
    assert sorted(every.keys) == list(itertools.product(range(2), repeat=3))
    np.testing.assert_array_equal(every.prompts, 4 + np.array(every.keys))
    assert every.begin == 6 == every.prompts.max() + 1
    train, held_out = formality.split(every, 3)
    assert [*train, *held_out] == list(range(8)) and len(held_out) == 3


# --- the posterior ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
@kinds
@pytest.mark.parametrize("bounds", [{}, {"slip": 0.0, "stay": 1.0}], ids=["inner", "certain"])
def test_rates_and_posterior_are_those_of_the_enumeration(kind: str, bounds: dict[str, float]) -> None:
    task, weight = small(kind, **bounds), weights(kind)
    p = enumerated(task)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(task.rates, p @ weight, rtol=1e-12)
    exact, params = task.posterior
    whole = jax.jit(exact.whole)
    tokens = jnp.asarray(ALL)
    for x in range(X):
        context = task.context(np.full(len(ALL), x))
        np.testing.assert_allclose(task.oracle(tokens, context), weight, rtol=1e-12)
        log_q = np.asarray(log_likelihood(whole(params, tokens, context), tokens).sum(1))
        wanted = p[x] * weight / (p[x] @ weight)
        met = weight > 0
        np.testing.assert_allclose(np.exp(log_q[met]), wanted[met], rtol=1e-11)
        assert np.exp(log_q[met]).sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.usefixtures("x64")
def test_a_steep_soft_oracle_is_the_hard_one() -> None:
    hard = small()
    steep = formality.soften(hard, 80 * (MOST + 0.5), 80.0)
    np.testing.assert_allclose(steep.rates, hard.rates, rtol=1e-12)
    flat = formality.soften(hard, 0.5, 1e-12)
    np.testing.assert_allclose(flat.rates, 1 / (1 + np.exp(-0.5)), rtol=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_defaults_have_rates_of_a_tenth_that_depend_on_contents(seed: int) -> None:
    task = formality.transfer(seed)
    every = counts(task)
    np.testing.assert_allclose(task.rates, every[:, :3].sum(1), rtol=2e-5)
    soft = formality.soften(task, 2.0, 1.0)
    np.testing.assert_allclose(soft.rates, every @ (1 / (1 + np.exp(np.arange(13) - 2.0))), rtol=2e-5)
    assert 0.07 < task.rates.mean() < 0.12
    assert task.rates.max() > 3 * task.rates.min()
    emission = tables(task)[2]
    asked = emission[..., 1::2].sum((1, 2, 3))  # the more informal the contents, the rarer a formal wording
    assert np.corrcoef(asked, np.log(task.rates))[0, 1] < -0.9


# --- what is measured -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
@kinds
def test_accuracy_and_informal_words_of_samples_have_the_enumerated_expectations(kind: str) -> None:
    task, n = small(kind), 4000
    p = enumerated(task)
    q = p * weights(kind) / task.rates[:, None]
    right = ((task.prompts - V)[:, None] == ALL // 2).mean(-1)
    which = np.repeat(np.arange(X), n)
    for (model, params), law in (((task.base, task.tables.hmm), p), (task.posterior, q)):
        tokens = decode.sample(model, params, jax.random.key(5), task.context(which)).tokens
        measured = formality.accuracy(task, tokens, which), formality.informal(tokens)
        for found, value in zip(measured, (right, np.broadcast_to(COUNTS, (X, len(ALL)))), strict=True):
            mean = (law * value).sum(1)
            deviation = np.sqrt((law * value**2).sum(1) - mean**2)
            gap = np.asarray(found, np.float64).reshape(X, n).mean(1) - mean
            assert (abs(gap) < 4 * deviation / np.sqrt(n)).all(), (gap, deviation)


@pytest.mark.usefixtures("x64")
def test_the_posterior_changes_styles_and_hardly_contents() -> None:
    task = small()
    p = enumerated(task)
    q = p * weights("hard") / task.rates[:, None]
    right = ((task.prompts - V)[:, None] == ALL // 2).mean(-1)
    before, after = ((law * right).sum(1) for law in (p, q))
    np.testing.assert_allclose(before, 0.9, rtol=1e-12)  # 1 − slip, whatever the styles
    assert (abs(after - before) < 0.03).all()
    assert (q @ COUNTS < 0.7 * (p @ COUNTS)).all()


def test_samples_of_the_posterior_always_meet_the_oracle() -> None:
    task = formality.transfer(0)
    which = np.repeat(np.arange(96), 20)
    context = task.context(which)
    drawn = {
        name: decode.sample(model, params, jax.random.key(1), context).tokens
        for name, (model, params) in {"p": (task.base, task.tables.hmm), "q": task.posterior}.items()
    }
    assert bool((formality.informal(drawn["q"]) <= 2).all()) and bool((task.oracle(drawn["q"], context) == 1).all())
    accuracy = {name: float(formality.accuracy(task, tokens, which).mean()) for name, tokens in drawn.items()}
    assert abs(accuracy["p"] - 0.95) < 4 * np.sqrt(0.95 * 0.05 / (len(which) * 12))
    assert abs(accuracy["q"] - accuracy["p"]) < 0.01
    assert float(formality.informal(drawn["p"]).mean()) > 2.5 * float(formality.informal(drawn["q"]).mean())


@kinds
def test_judged_the_posterior_is_exact_and_the_base_is_as_far_as_the_rates_say(kind: str) -> None:
    task = small(kind)
    found = tasks.judge(task, *task.posterior, jax.random.key(2), which=range(X), n=512)
    np.testing.assert_allclose([found["kl"], found["kl_reverse"]], 0, atol=1e-4)
    q = enumerated(task) * weights(kind) / task.rates[:, None]
    assert found["satisfaction"] == pytest.approx((q @ weights(kind)).mean(), abs=0.05 if kind == "soft" else 1e-5)
    base = tasks.judge(task, task.base, task.tables.hmm, jax.random.key(3), which=range(X), n=512)
    apart = (q * np.log(np.where(q > 0, q, 1) / enumerated(task))).sum(1).mean()
    assert abs(base["kl"] - apart) < 4 * base["kl_error"]
    assert np.isnan(base["forgetting"])  # no place where the rest is certain


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sources": 0}, "sources is 0: give a whole number of at least 1"),
        ({"contents": 1}, "contents is 1: give a whole number of at least 2"),
        ({"most": 12}, "most is 12 of 12 tokens: every sequence meets the oracle, allow fewer informal tokens"),
        ({"sources": 9, "contents": 2, "length": 3}, "sources is 9, only 8 are different: ask for fewer, or for longer ones"),
        ({"informality": float("nan")}, "informality is nan: give a finite number"),
        ({"spread": -1.0}, "spread is -1.0: give a number of at least 0"),
        ({"lean": -1.0}, "lean is -1.0: give a number of at least 0"),
        ({"stay": 1.5}, "stay is 1.5: give a probability between 0 and 1, more than 0"),
        ({"slip": 1.0}, "slip is 1.0: give a probability of at least 0 and below 1"),
        ({"slip": -0.1}, "slip is -0.1: give a probability of at least 0 and below 1"),
    ],
)
def test_sizes_and_parameters_out_of_bounds_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        formality.transfer(0, **given)
    assert str(error.value) == message


def test_other_tasks_tokens_and_numbers_are_refused() -> None:
    task, other = small(), tasks.lexical(0, clauses=1, kind="frequent", vocabulary=12, states=2, length=T)
    tokens = jnp.zeros((2, T), int)
    for message, refused in {
        "the task has no sources: give one of `transfer`, or of `soften`": lambda: formality.soften(other, W, U),
        "w is inf: give a finite number": lambda: formality.soften(task, float("inf"), U),
        "u is 0: give a positive number": lambda: formality.soften(task, W, 0),
        "tokens have shape (2, 3), which (2,): give [B, 4] and [B], the sources": lambda: formality.accuracy(
            task, tokens[:, 1:], np.zeros(2, int)
        ),
        "held_out is 3 of 3 sources: leave some to learn from, or make more sources": lambda: formality.split(task, 3),
        "held_out is 0: give a whole number of at least 1": lambda: formality.split(task, 0),
    }.items():
        with pytest.raises(InputError) as error:
            refused()
        assert str(error.value) == message
