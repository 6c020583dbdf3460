"""The exact posterior against enumeration of all sequences and all paths of states, and what masking does instead."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from olm.control import automata, decode, posterior
from olm.control.automata import Automaton
from olm.control.model import from_logits, guided, hmm
from olm.errors import InputError
from olm.models import hmm as hmms
from olm.models.hmm import HMM

S, V, T = 3, 4, 5
TOKENS = np.array(list(itertools.product(range(V), repeat=T)), np.int32)
PATHS = np.array(list(itertools.product(range(S), repeat=T)))


def rows(rng: np.random.Generator, *shape: int, zeros: bool = False) -> np.ndarray:
    """Log-probabilities over the last axis; some of them −∞ on request, none of a whole row."""
    found = rng.dirichlet(np.ones(shape[-1]), shape[:-1])
    if zeros:
        found[rng.random(shape) < 0.4] = 0
        found[..., 0] += 0.1
    with np.errstate(divide="ignore"):
        return np.log(found / found.sum(-1, keepdims=True))


def enumerated(chain: HMM) -> np.ndarray:
    """p(y) of every sequence: the sum over all paths of states, factor by factor, [V^T]."""
    initial, move, emit = (np.exp(np.asarray(part, np.float64)) for part in chain)
    emit = np.broadcast_to(emit, (T, S, V))
    path = initial[PATHS[:, 0]] * np.prod([move[PATHS[:, t], PATHS[:, t + 1]] for t in range(T - 1)], axis=0)
    return path @ np.prod([emit[t][PATHS[:, t]][:, TOKENS[:, t]] for t in range(T)], axis=0)


def accepted(automaton: Automaton, tokens: np.ndarray) -> np.ndarray:
    """C(y), token by token."""
    transition, accepting = map(np.asarray, automaton)
    state = np.zeros(len(tokens), int)
    for column in tokens.T:
        state = transition[state, column]
    return accepting[state]


def rates(p: np.ndarray, met: np.ndarray, length: int = T, vocabulary: int = V) -> np.ndarray:
    """R(y_<t v) for every sequence y, position t and token v, by summing over all that may follow, [V^T, T, V]."""
    found = []
    for t in range(length):
        with np.errstate(invalid="ignore"):
            share = (p * met).reshape(vocabulary ** (t + 1), -1).sum(1) / p.reshape(vocabulary ** (t + 1), -1).sum(1)
        found.append(np.repeat(share.reshape(-1, vocabulary), vocabulary ** (length - t), 0))
    return np.stack(found, 1)


@functools.cache
def constraints() -> tuple[Automaton, ...]:
    """Twenty random automata of 1 to 7 states and a handful of meaningful ones."""
    rng, found = np.random.default_rng(0), []
    for i in range(20):
        n = 1 + i % 7
        found.append(Automaton(rng.integers(0, n, (n, V)).astype(np.int32), np.arange(n) == rng.integers(n)))
    keys, count = automata.clauses([[[1], [2, 2]], [[3]]], V), automata.count([0, 2], V, least=2, most=3)
    nothing = Automaton(np.zeros((1, V), np.int32), np.zeros(1, bool))
    return (*found, keys, count, automata.product(keys, count), automata.ended(V, 0), nothing)


def chain_of(kind: str, seed: int = 1) -> HMM:
    rng, zeros = np.random.default_rng(seed), kind == "zeros"
    leading = {"positions": (T,), "conditions": (len(constraints()), T)}.get(kind, ())
    return HMM(rows(rng, S, zeros=zeros), rows(rng, S, S, zeros=zeros), rows(rng, *leading, S, V, zeros=zeros))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ["stationary", "zeros", "positions", "conditions"])
def test_the_posterior_is_that_of_enumeration(kind: str) -> None:
    several, chain = constraints(), chain_of(kind)
    tables = posterior.lookahead(chain, several, T)
    tokens = jnp.tile(TOKENS, (len(several), 1))
    context = {"which": jnp.repeat(jnp.arange(len(several)), len(TOKENS))}
    log_p = jax.jit(hmm(V, T).whole)(tables.hmm, tokens, context)
    log_r = jax.jit(posterior.GUIDE.whole)(tables, tokens, context, log_p)
    log_q = jax.jit(posterior.exact(V, T).whole)(posterior.exact_params(tables), tokens, context)
    of_model, of_guide, of_exact = (np.exp(np.asarray(x)).reshape(len(several), -1, T, V) for x in (log_p, log_r, log_q))
    for x, automaton in enumerate(several):
        p = enumerated(chain._replace(log_emission=chain.log_emission[x]) if kind == "conditions" else chain)
        met, at = accepted(automaton, TOKENS), TOKENS[..., None]
        rate = p @ met
        np.testing.assert_allclose(p.sum(), 1, rtol=1e-12)
        np.testing.assert_allclose(np.exp(tables.log_rate[x]), rate, rtol=1e-12, atol=0)
        # Prefixes that the chain cannot write have no R.
        wanted = rates(p, met)
        known = ~np.isnan(wanted)
        np.testing.assert_allclose(of_guide[x][known], wanted[known], rtol=0, atol=1e-12)
        possible = p > 0
        np.testing.assert_allclose(np.take_along_axis(of_model[x], at, 2).prod((1, 2))[possible], p[possible], rtol=1e-12)
        # R(y_<t) = Σ_v p(v | y_<t) R(y_<t v): values of one step are means of the next one's.
        before = np.take_along_axis(of_guide[x], at, 2)[:, :-1, 0]
        now = (of_model[x] * of_guide[x]).sum(2)
        np.testing.assert_allclose(now[possible, 0], rate, rtol=0, atol=1e-12)
        np.testing.assert_allclose(now[possible, 1:], before[possible], rtol=0, atol=1e-12)
        if rate > 0:
            exact = np.take_along_axis(of_exact[x], at, 2).prod((1, 2))
            np.testing.assert_allclose(exact, p * met / rate, rtol=0, atol=1e-12)
        else:  # nothing to follow: the base
            assert tables.log_rate[x] == -np.inf
            np.testing.assert_allclose(of_exact[x], of_model[x], rtol=0, atol=1e-12)
        np.testing.assert_allclose(of_exact[x].sum(-1), 1, rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ["stationary", "conditions"])
def test_a_stack_is_its_constraints_one_by_one(kind: str) -> None:
    several, chain = constraints(), chain_of(kind)
    stacked = posterior.lookahead(chain, several, T)
    drawn = jnp.asarray(TOKENS[::37])
    whole = jax.jit(posterior.exact(V, T).whole)
    for x in (6, 22):
        own = HMM(*chain[:2], chain.log_emission[x]) if kind == "conditions" else chain
        single = posterior.lookahead(own, several[x], T)
        n, most = single.successors.shape[1:]
        assert stacked.log_rate[x] == single.log_rate[0]
        assert np.array_equal(stacked.log_ahead[x, :, :n], single.log_ahead[0])
        assert np.all(stacked.log_ahead[x, :, n:] == -np.inf)
        assert np.array_equal(stacked.successors[x, :n, :most], single.successors[0])
        assert np.all(stacked.successors[x, n:] == -1) and np.all(stacked.successors[x, :, most:] == -1)
        of_single = whole(posterior.exact_params(single), drawn, {"prompt": jnp.zeros((len(drawn), 0), int)})
        of_stack = whole(posterior.exact_params(stacked), drawn, {"which": jnp.full(len(drawn), x)})
        np.testing.assert_allclose(np.exp(of_stack), np.exp(of_single), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", ["stationary", "positions", "conditions"])
def test_float32_gives_the_values_of_float64(kind: str) -> None:
    """A chain in float32, rows and all, is accepted, and its values are those of float64 to rounding."""
    chain = HMM(*(np.asarray(leaf, np.float32) for leaf in chain_of(kind)))
    several, found = constraints(), []
    for wide in (False, True):
        with jax.enable_x64(wide):
            tables = posterior.lookahead(chain, several, T)
            assert {leaf.dtype for leaf in jax.tree.leaves(tables) if leaf.dtype.kind == "f"} == {jnp.result_type(float)}
            context = {"which": jnp.arange(len(several)).repeat(64)}
            tokens = jnp.tile(TOKENS[::16], (len(several), 1))
            log_p = jax.jit(hmm(V, T).whole)(tables.hmm, tokens, context)
            log_r = jax.jit(posterior.GUIDE.whole)(tables, tokens, context, log_p)
            found.append([np.asarray(x, np.float64) for x in (tables.log_rate, tables.log_ahead, log_r)])
    for narrow, exact in zip(*found, strict=True):
        assert np.array_equal(np.isfinite(narrow), np.isfinite(exact)) and not np.isnan(narrow).any()
        finite = np.isfinite(exact)
        np.testing.assert_allclose(narrow[finite], exact[finite], rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize(("each", "order"), [(1e-15, -30), (1e-41, -41)])
def test_rare_constraints_are_exact_in_float32(each: float, order: int) -> None:
    """Two keywords of 1e-15, R(x) of 1e-29; and one that all states write more rarely than float32 tells from zero."""
    emit = np.array([[0.7, 0.3, each, each], [0.2, 0.8, each * 1e-7, each], [0.5, 0.5, each / 3, each * 1e-7]])
    rng = np.random.default_rng(0)
    chain = HMM(rows(rng, S), rows(rng, S, S), np.log(emit))
    automaton = automata.clauses([[[2]], [[3]]] if order == -30 else [[[2]]], V)
    met, p = accepted(automaton, TOKENS), enumerated(chain)
    tables = posterior.lookahead(chain, automaton, T)
    assert order < np.log10(p @ met) < order + 2
    np.testing.assert_allclose(tables.log_rate[0], np.log(p @ met), rtol=1e-6)
    context = {"which": jnp.zeros(len(TOKENS), int)}
    log_p = jax.jit(hmm(V, T).whole)(tables.hmm, TOKENS, context)
    log_r = np.asarray(jax.jit(posterior.GUIDE.whole)(tables, TOKENS, context, log_p))
    wanted = rates(p, met)
    assert log_r.dtype == np.float32 and np.array_equal(log_r > -np.inf, wanted > 0)
    np.testing.assert_allclose(log_r[wanted > 0], np.log(wanted[wanted > 0]), rtol=0, atol=1e-4)
    drawn = decode.sample(
        posterior.exact(V, T), posterior.exact_params(tables), jax.random.key(0), {"which": jnp.zeros(4000, int)}
    )
    assert accepted(automaton, np.asarray(drawn.tokens)).all()
    weight = p * met / (p @ met)
    place = np.asarray(drawn.tokens) @ V ** np.arange(T)[::-1]
    np.testing.assert_allclose(drawn.log_p, np.log(weight[place]), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("rare", "orders"), [(None, (-2.0, 0.0)), (1e-5, (-9.5, -8.0))])
def test_every_sample_of_the_guided_chain_is_accepted(rare: float | None, orders: tuple[float, float]) -> None:
    chain = hmms.random(jax.random.key(3), 8, 20)
    if rare:
        emit = np.exp(np.asarray(chain.log_emission, np.float64))
        emit[:, 18:] = rare * np.array([1.0, 0.3])
        emit[:, :18] *= (1 - emit[:, 18:].sum(1, keepdims=True)) / emit[:, :18].sum(1, keepdims=True)
        chain = chain._replace(log_emission=np.log(emit))
    keys = automata.clauses([[[18]], [[19]]] if rare else [[[4], [7, 1]], [[9]]], 20)
    automaton = automata.product(keys, automata.count([0], 20, most=6))
    tables = posterior.lookahead(chain, automaton, 12)
    low, high = orders
    assert low < float(tables.log_rate[0]) / np.log(10) < high
    context = {"which": jnp.zeros(5000, int)}
    drawn = decode.sample(posterior.exact(20, 12), posterior.exact_params(tables), jax.random.key(1), context)
    assert accepted(automaton, np.asarray(drawn.tokens)).all()
    # log q*(y) = log p(y) − log R(x), whatever came.
    log_p = hmms.log_likelihood(tables.hmm, drawn.tokens)
    np.testing.assert_allclose(drawn.log_p, log_p - tables.log_rate[0], rtol=0, atol=2e-4)


@pytest.mark.usefixtures("x64")
def test_another_base_is_steered_by_the_chains_values() -> None:
    """GeLaTo: q(v) ∝ p(v) R(y_<t v)^α with R of the chain; tokens of zero R are never written."""
    odds = np.log([0.1, 0.2, 0.3, 0.4])
    base = from_logits(lambda tokens: jnp.broadcast_to(odds, (*tokens.shape, V)), V, T, begin=0)
    chain, automaton = chain_of("stationary"), constraints()[22]
    tables = posterior.lookahead(chain, automaton, T)
    weights = rates(enumerated(chain), accepted(automaton, TOKENS))
    for strength in (0.0, 0.5, 1.0):
        model = guided(base, posterior.GUIDE, strength)
        log_q = jax.jit(model.whole)({"base": (), "guide": tables}, TOKENS, {"which": jnp.zeros(len(TOKENS), int)})
        wanted = np.exp(odds) * weights**strength
        lost = wanted.sum(-1) == 0
        wanted[lost] = np.exp(odds)
        assert lost.any() == (strength > 0)
        np.testing.assert_allclose(np.exp(log_q), wanted / wanted.sum(-1, keepdims=True), rtol=1e-10, atol=1e-14)
        p = np.exp(np.take_along_axis(np.asarray(log_q), TOKENS[..., None], 2).sum((1, 2)))
        share = p @ accepted(automaton, TOKENS)
        assert abs(share - 1) < 1e-12 if strength else share < 0.5


# --- masking ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
def test_masking_keeps_the_support_and_not_the_posterior() -> None:
    chain, several = chain_of("stationary"), [constraints()[x] for x in (20, 21, 22)]
    params = {"base": HMM(*map(jnp.asarray, chain)), "guide": posterior.support(several, T)}
    model, p = guided(hmm(V, T), posterior.MASK), enumerated(chain)
    gaps = []
    for x, automaton in enumerate(several):
        log_q = jax.jit(model.whole)(params, TOKENS, {"which": jnp.full(len(TOKENS), x)})
        q = np.exp(np.take_along_axis(np.asarray(log_q), TOKENS[..., None], 2).sum((1, 2)))
        met = accepted(automaton, TOKENS)
        # The base's odds among tokens from which some accepted sequence can be reached, normalised at every step.
        every, wanted = np.ones(V**T), np.ones(V**T)
        open_ = rates(every / V**T, met) > 0
        for t in range(T):
            now = p.reshape(V**t, V, -1).sum(2).repeat(V ** (T - t), 0) * open_[:, t]
            with np.errstate(invalid="ignore", divide="ignore"):
                wanted *= np.take_along_axis(now, TOKENS[:, t, None], 1)[:, 0] / now.sum(1)
        assert np.array_equal(q > 0, met)
        np.testing.assert_allclose(q[met], wanted[met], rtol=1e-10)
        np.testing.assert_allclose(q.sum(), 1, rtol=1e-12)
        gaps.append(abs(q - p * met / (p @ met)).sum() / 2)
    assert min(gaps) > 0.02 and max(gaps) > 0.2, gaps
    drawn = decode.sample(model, params, jax.random.key(0), {"which": jnp.arange(3000) % 3})
    for x, automaton in enumerate(several):
        assert accepted(automaton, np.asarray(drawn.tokens)[x::3]).all()


def test_tables_of_another_length_are_refused() -> None:
    chain, only = HMM(*map(jnp.asarray, chain_of("stationary"))), constraints()[20]
    for length in (T - 1, T + 1):
        for guide, tables in (
            (posterior.GUIDE, posterior.lookahead(chain, only, length)),
            (posterior.MASK, posterior.support(only, length)),
        ):
            params, model = {"base": chain, "guide": tables}, guided(hmm(V, T), guide)
            for call in (
                lambda params=params, model=model: decode.sample(model, params, jax.random.key(0), {"which": jnp.zeros(2, int)}),
                lambda params=params, model=model: model.whole(params, TOKENS[:2], {"which": jnp.zeros(2, int)}),
            ):
                with pytest.raises(InputError, match=f"the guide's tables are for {length} tokens, the base writes {T}"):
                    call()


@pytest.mark.usefixtures("x64")
def test_divergence_along_sequences_averages_to_that_of_the_sequences() -> None:
    chain, tables = chain_of("stationary"), posterior.lookahead(chain_of("zeros"), constraints()[21], T)
    context = {"which": jnp.zeros(len(TOKENS), int)}
    log_q = jax.jit(posterior.exact(V, T).whole)(posterior.exact_params(tables), TOKENS, context)
    log_other = jax.jit(hmm(V, T).whole)(HMM(*map(jnp.asarray, chain)), TOKENS, context)
    q, other = (np.exp(np.take_along_axis(np.asarray(x), TOKENS[..., None], 2).sum((1, 2))) for x in (log_q, log_other))
    wanted = (q[q > 0] * np.log(q[q > 0] / other[q > 0])).sum()
    each = np.asarray(posterior.divergences(log_q, log_other).sum(1))
    np.testing.assert_allclose(q[q > 0] @ each[q > 0], wanted, rtol=1e-12)
    assert posterior.divergences(log_other, log_q).max() == np.inf


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chain", "given", "length", "message"),
    [
        ("stationary", [automata.count([0], 5)], T, "the automaton reads 5 tokens, the chain emits 4: build both"),
        ("stationary", [], T, "no automata were given"),
        ("stationary", automata.stack([automata.count([0], V)]), T, "give one automaton"),
        ("stationary", automata.count([0], V), 0, "length is 0: give a whole number of at least 1"),
        ("positions", automata.count([0], V), 4, "the chain emits at 5 positions, sequences have 4 tokens"),
        ("conditions", [automata.count([0], V)], T, "emissions for 25 conditions, there are 1 constraints: give one for each"),
    ],
)
def test_lookahead_says_what_does_not_fit(chain: str, given: object, length: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        posterior.lookahead(chain_of(chain), given, length)


def test_what_is_no_chain_or_cannot_be_met_is_refused() -> None:
    chain = chain_of("stationary")
    with pytest.raises(InputError, match=r"log_emission\[0\] sums to 4"):
        posterior.lookahead(chain._replace(log_emission=np.zeros((S, V))), constraints()[21], T)
    with pytest.raises(InputError, match="needs 6 tokens, sequences have 5: lengthen"):
        posterior.support([constraints()[21], automata.count([1], V, least=6)], T)
    with pytest.raises(InputError, match="strength is -1: give a number of at least 0"):
        guided(hmm(V, T), posterior.MASK, -1)
