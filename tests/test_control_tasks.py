"""Exact tasks: rates against enumeration, and judgement of models whose distance to the posterior is known."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from olm.control import model as models
from olm.control import posterior, tasks
from olm.control.model import Guide, guided
from olm.control.nado import DINADO_SOFT
from olm.control.nado import guide as learned_guide
from olm.control.network import table
from olm.errors import InputError
from olm.models import hmm as hmms

V, S, T = 9, 3, 4


def small(seed: int = 0, **more: object) -> tasks.Exact:
    return tasks.lexical(seed, clauses=2, kind="frequent", vocabulary=V, states=S, length=T, **more)


def every_sequence() -> jnp.ndarray:
    return jnp.asarray(list(itertools.product(range(V), repeat=T)), jnp.int32)


@pytest.mark.usefixtures("x64")
def test_the_rate_of_a_task_is_the_probability_that_every_clause_occurs() -> None:
    task, sequences = small(), every_sequence()
    met = np.ones(len(sequences), bool)
    for clause in task.keys[0]:
        met &= np.isin(np.asarray(sequences), [token for (token,) in clause]).any(1)
    p = np.exp(np.asarray(hmms.log_likelihood(task.tables.hmm, sequences)))
    np.testing.assert_allclose(task.rates[0], p[met].sum(), rtol=1e-12)
    assert np.array_equal(np.asarray(task.oracle(sequences, task.context(np.zeros(len(met), int)))), met)


@pytest.mark.usefixtures("x64")
def test_frequencies_are_those_of_all_sequences() -> None:
    task, sequences = small(), np.asarray(every_sequence())
    p = np.exp(np.asarray(hmms.log_likelihood(task.tables.hmm, jnp.asarray(sequences))))
    counted = np.array([(p * (sequences == v).mean(1)).sum() for v in range(V)])
    np.testing.assert_allclose(tasks.frequencies(task.tables.hmm, T), counted, rtol=1e-12)


@pytest.mark.parametrize("rate", [0.1, 1e-4])
def test_a_rate_that_is_asked_for_is_found(rate: float) -> None:
    found = tasks.lexical(1, rate=rate).rates[0]
    assert abs(math.log10(found / rate)) < 0.25


def test_kinds_are_ordered_and_prompts_name_combinations() -> None:
    rates = [tasks.lexical(0, clauses=1, kind=kind, length=8).rates[0] for kind in ("frequent", "mid", "rare")]
    assert rates[0] > rates[1] > rates[2]
    task = tasks.combinations(0, pool=4, clauses=2, vocabulary=24, states=S, length=6)
    assert task.prompts.tolist() == [[24 + a, 24 + b] for a, b in itertools.combinations(range(4), 2)]
    assert (task.symbols, task.begin) == (29, 28)
    for row, keys in enumerate(task.keys):
        tokens = np.zeros((1, 6), np.int32)
        tokens[0, :2] = [keys[0][0][0], keys[1][0][0]]
        others = [int(task.oracle(jnp.asarray(tokens), task.context([other]))[0]) for other in range(6)]
        assert others[row] == 1 and sum(others) < 6


@pytest.mark.usefixtures("x64")
def test_the_posterior_itself_is_judged_perfect_and_the_base_by_minus_log_of_the_rate() -> None:
    """KL(q* ‖ p) = −log R(x): q* = p C / R."""
    task = small()
    exact, params = task.posterior
    perfect = tasks.judge(task, exact, params, jax.random.key(0), n=256)
    assert abs(perfect["kl"]) < 1e-12 and perfect["satisfaction"] == 1.0
    assert abs(perfect["kl_reverse"]) < 1e-10 and abs(perfect["forgetting"]) < 1e-12
    base = tasks.judge(task, task.base, task.tables.hmm, jax.random.key(0), n=4096)
    assert abs(base["kl"] + math.log(task.rates[0])) < 4 * base["kl_error"]
    assert abs(base["satisfaction"] - task.rates[0]) < 4 * math.sqrt(task.rates[0] / 4096)
    assert abs(base["kl_reverse"]) < 0.2 and base["forgetting"] == 0.0


@pytest.mark.usefixtures("x64")
def test_judged_divergences_are_those_of_enumeration() -> None:
    """A guide that prefers one token, everywhere: its KL and what it forgets of the base, over all sequences."""
    task, sequences = small(), every_sequence()
    preference = jnp.linspace(0.0, -1.0, V)

    def same(*given: object) -> tuple[object, jnp.ndarray]:
        log_p = given[-1]
        return jnp.zeros(log_p.shape[0]), jnp.broadcast_to(preference, log_p.shape)  # type: ignore[union-attr]

    guide = Guide(same, same, lambda params, tokens, context, log_p: jnp.broadcast_to(preference, log_p.shape))
    model, params = guided(task.base, guide), {"base": task.tables.hmm, "guide": ()}
    context = task.context(np.zeros(len(sequences), int))
    exact, exact_params = task.posterior
    log_q = models.log_likelihood(exact.whole(exact_params, sequences, context), sequences).sum(1)
    log_other = models.log_likelihood(model.whole(params, sequences, context), sequences).sum(1)
    q = np.exp(np.asarray(log_q))
    met = q > 0
    right = float((q[met] * (np.asarray(log_q)[met] - np.asarray(log_other)[met])).sum())
    found = tasks.judge(task, model, params, jax.random.key(1), n=4096)
    assert right > 0.3 and abs(found["kl"] - right) < 4 * found["kl_error"]
    assert found["forgetting"] > 0.01


@pytest.mark.usefixtures("x64")
def test_value_errors_are_zero_for_the_exact_values_and_known_for_wrong_ones() -> None:
    task = small()
    exact = tasks.value_error(task, posterior.GUIDE, task.tables, jax.random.key(0), n=64)
    assert exact["log_r_error"] < 1e-12 and exact["gap"] < 1e-10

    def shifted(*given: object) -> jnp.ndarray:
        return posterior.GUIDE.whole(*given) - 0.25  # type: ignore[arg-type]

    wrong = tasks.value_error(task, posterior.GUIDE._replace(whole=shifted), task.tables, jax.random.key(0), n=64)
    np.testing.assert_allclose(wrong["log_r_error"], 0.25, rtol=1e-9)
    assert wrong["gap"] < 1e-10  # a common factor is consistent
    automaton = jax.tree.map(lambda leaf: leaf[0], task.tables.automaton)
    net = table(automaton, T)
    params = {"theta": net.init(jax.random.key(0)), "frozen": {"automaton": automaton}}
    flat = tasks.value_error(task, learned_guide(DINADO_SOFT, net), params, jax.random.key(0), n=64)
    assert flat["gap"] < 1e-10 and flat["log_r_error"] > 0.1  # R = 1/2 everywhere


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tasks.lexical(0, kind="common"), "kind must be one of frequent, mid, rare, not 'common'"),
        (lambda: tasks.lexical(0, clauses=0), "clauses is 0: give a whole number of at least 1"),
        (lambda: tasks.lexical(0, rate=0.0), "rate is 0.0: give a number between 0 and 1"),
        (lambda: tasks.lexical(0, rate=0.01, vocabulary=2, states=2, length=4), "vocabulary is 2: give at least 3 tokens"),
        (lambda: tasks.lexical(0, length=0), "length is 0"),
        (lambda: tasks.combinations(0, kind="x"), "kind must be one of frequent, mid, rare, not 'x'"),
        (lambda: tasks.combinations(0, pool=-1), "pool is -1"),
        (lambda: tasks.combinations(0, most=0), "most is 0"),
        (lambda: tasks.combinations(0, pool=2, clauses=3), "pool is 2 and clauses 3: give a pool of at least as many"),
        (lambda: small().context([1]), "conditions 1 to 1: the task has 1, from 0 on"),
        (lambda: tasks.combinations(0, pool=40), "40 clauses need as many mid tokens, there are 11"),
        (
            lambda: tasks.judge(small(), small().base, small().tables.hmm, jax.random.key(0), which=(3,)),
            "the task has 1, from 0 on",
        ),
    ],
)
def test_bad_input_is_refused_in_one_line(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()  # type: ignore[operator]
