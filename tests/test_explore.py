"""Where samples come from: mixtures with exact weights, batches with given shares, rounds, and rejection."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from olm.control import automata, baselines, explore, nado, network, posterior, samples
from olm.control.model import guided, hmm
from olm.errors import InputError
from olm.learner import Adam
from olm.models import hmm as hmms

V, T = 3, 4
TOKENS = np.array(list(itertools.product(range(V), repeat=T)), np.int32)
AUTOMATON = automata.clauses([[[2]], [[1, 1], [0, 1, 0]]], V)
PLACES = V ** np.arange(T)[::-1]


def oracle() -> samples.Oracle:
    return samples.accepts(automata.stack([AUTOMATON]))


def context(n: int) -> dict[str, Any]:
    return {"which": jnp.zeros(n, int)}


@functools.cache
def enumerated() -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
    """Tables, and p, q* and C of every sequence."""
    with jax.enable_x64(True):
        tables = posterior.lookahead(hmms.random(jax.random.key(1), 2, V, emission=2.0), AUTOMATON, T)
        p = np.exp(np.asarray(hmms.log_likelihood(tables.hmm, TOKENS)))
        met = np.asarray(automata.accepts(AUTOMATON, TOKENS))
        return tables, p, p * met / (p @ met), met


def frequencies(tokens: Any) -> np.ndarray:
    return np.bincount(np.asarray(tokens) @ PLACES, minlength=len(TOKENS)) / len(tokens)


# --- mixtures ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_weights_of_a_mixture_are_exact_and_unbiased(share: float) -> None:
    n, (tables, p, q, met) = 20_000, enumerated()
    base, exact = hmm(V, T), posterior.exact(V, T)
    found = explore.draw_mixture(
        base, tables.hmm, exact, posterior.exact_params(tables), oracle(), jax.random.key(0), context(n), share=share, chunk=5000
    )
    tokens, weights, label = (np.asarray(x) for x in (found.batch["tokens"], found.weights, found.batch["label"]))
    place, mixture = tokens @ PLACES, (1 - share) * p + share * q
    np.testing.assert_allclose(weights, (p / mixture)[place], rtol=1e-10)
    assert weights.max() <= 1 / (1 - share) + 1e-9
    assert np.array_equal(label, met[place])
    np.testing.assert_allclose(found.batch["log_p"], hmms.log_probabilities(tables.hmm, tokens), rtol=1e-12)
    assert np.all(abs(frequencies(tokens) - mixture) < 4.5 * np.sqrt(mixture * (1 - mixture) / n) + 1e-12)
    rate = float(p @ met)
    assert 0.02 < rate < 0.4 and found.rate == pytest.approx((weights * label).mean(), abs=1e-12)
    for values, wanted in ((weights, 1.0), (weights * label, rate)):
        assert abs(values.mean() - wanted) <= 4 * values.std() / np.sqrt(n) + 1e-9
    if share == 0.9:
        assert label.mean() > 0.85 and (weights * label).std() < 0.5 * (met[place] * 1.0).std()


def test_a_mixture_of_few_rows_has_weights_of_what_was_drawn() -> None:
    """A tenth of three rows is none of them, and nine tenths two: shares that are meant by the weights."""
    tables, _, _, _ = enumerated()
    tables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32 if x.dtype.kind == "f" else x.dtype), tables)
    draw = functools.partial(
        explore.draw_mixture, hmm(V, T), tables.hmm, posterior.exact(V, T), posterior.exact_params(tables), oracle()
    )
    none = draw(jax.random.key(0), context(3), share=0.1)
    np.testing.assert_allclose(none.weights, 1, rtol=1e-6)
    most = draw(jax.random.key(0), context(3), share=0.95, end=0)
    assert float(most.weights.max()) <= 3 * (1 + 1e-5)
    mask = np.asarray(most.batch["mask"])
    over = np.cumsum(np.asarray(most.batch["tokens"]) == 0, 1)
    assert np.array_equal(mask[:, 1:], over[:, :-1] == 0) and mask[:, 0].all()
    for labels, message in ((jnp.full(3, jnp.nan), "the label nan"), (jnp.ones((3, 1)), r"labels of shape \(3, 1\)")):
        with pytest.raises(InputError, match=message):
            explore.draw_mixture(
                hmm(V, T), tables.hmm, posterior.exact(V, T), posterior.exact_params(tables),
                lambda tokens, context, labels=labels: labels, jax.random.key(0), context(3),
            )  # fmt: skip
    for share in (1.0, -0.1):
        with pytest.raises(InputError, match=r"share is .*: give a number from 0 to below 1"):
            draw(jax.random.key(0), context(3), share=share)


# --- rounds -----------------------------------------------------------------------------------------------------------


def test_rounds_learn_from_all_samples_so_far() -> None:
    tables, _, _, _ = enumerated()
    tables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32 if x.dtype.kind == "f" else x.dtype), tables)
    base, net, asked = hmm(V, T), network.table(AUTOMATON, T), []
    settings = nado.Nado("soft", "last")
    proposal = guided(base, nado.guide(settings, net))

    def draw(params: Any, key: Any, n: int) -> samples.Samples:
        asked.append((params, n))
        both = {"base": tables.hmm, "guide": params}
        return explore.draw_mixture(base, tables.hmm, proposal, both, oracle(), key, context(n))

    first = samples.draw(base, tables.hmm, oracle(), jax.random.key(0), context(64))
    start = nado.start(net, jax.random.key(0))

    def run(key: int, **more: Any) -> Any:
        asked.clear()
        return explore.rounds(
            nado.losses(settings, net), start, first, draw, number=3, steps=45, key=jax.random.key(key), weighted=True,
            batch_size=16, peak=0.1, adam=Adam(weight_decay=0.0), **more,
            measures=lambda params: {"root": float(params["theta"]["root"])},
        )  # fmt: skip

    found = run(1)
    assert [n for _, n in asked] == [64, 64] and len(found.history) == 3 * 4
    assert [row["round"] for row in found.history] == [0] * 4 + [1] * 4 + [2] * 4
    assert [row["step"] for row in found.history] == [0, 7, 14, 15, 15, 22, 29, 30, 30, 37, 44, 45]
    # Each round goes on from the last one.
    roots = [row["root"] for row in found.history]
    assert roots[3] == roots[4] != roots[7] == roots[8] and asked[0][0]["theta"]["root"] == roots[3]
    assert found.history[0]["rate"] == pytest.approx(first.rate, rel=1e-5) != found.history[-1]["rate"]
    again, other = run(1), run(2)
    same = jax.tree.map(np.array_equal, found.params, again.params)
    assert all(jax.tree.leaves(same))
    assert not np.array_equal(found.params["theta"]["shape"], other.params["theta"]["shape"])
    with pytest.raises(InputError, match="steps"):
        explore.rounds(nado.losses(settings, net), start, first, draw, number=3, steps=2, key=jax.random.key(0), weighted=True)


# --- rejection --------------------------------------------------------------------------------------------------------


def test_rejection_draws_from_the_posterior() -> None:
    n, (tables, p, q, met) = 8000, enumerated()
    chain = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tables.hmm)
    drawn, used = baselines.reject(hmm(V, T), chain, oracle(), jax.random.key(0), context(n), tries=200)
    used, rate = np.asarray(used), float(p @ met)
    assert (1 - rate) ** 200 * n < 0.01 and used.max() <= 200
    assert np.all(abs(frequencies(drawn.tokens) - q) < 4.5 * np.sqrt(q * (1 - q) / n) + 1e-12)
    np.testing.assert_allclose(drawn.log_p, np.log(p)[np.asarray(drawn.tokens) @ PLACES], rtol=1e-5)
    assert abs(used.mean() - 1 / rate) < 4 * np.sqrt(1 - rate) / rate / np.sqrt(n)  # a geometric law
    # Where none is accepted the last one stays, and the number says so.
    few, used = baselines.reject(hmm(V, T), chain, oracle(), jax.random.key(0), context(400), tries=2)
    accepted = np.asarray(automata.accepts(AUTOMATON, few.tokens))
    assert np.array_equal(accepted, np.asarray(used) <= 2) and set(np.unique(used)) == {1, 2, 3}
    assert len(np.unique(np.asarray(few.tokens)[~accepted], axis=0)) > 10
    with pytest.raises(InputError, match="tries"):
        baselines.reject(hmm(V, T), chain, oracle(), jax.random.key(0), context(4), tries=0)
    with pytest.raises(InputError, match="the oracle gave None"):
        baselines.reject(hmm(V, T), chain, lambda tokens, context: None, jax.random.key(0), context(4), tries=2)
