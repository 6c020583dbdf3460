"""Exact tasks: a hidden Markov model as base, an automaton as oracle, so that the posterior q* is known.

`lexical`: keywords that must occur, from frequent to rare, R(x) from 10⁻¹ to 10⁻⁴, one fixed set of clauses; `combinations`: many
sets, each named by a prompt. `judge` and `value_error` tell how far a model or learned values are from the posterior.
`olm.control.formality` has a task of another kind.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from olm.control import automata, decode, posterior
from olm.control.model import Context, Guide, Model, compiled, hmm, log_likelihood
from olm.control.posterior import Lookahead
from olm.control.samples import Oracle, accepts
from olm.errors import InputError, check_number, check_whole
from olm.models import hmm as hmms
from olm.models.hmm import HMM
from olm.types import Array, PyTree

RANKS = {"frequent": (0.0, 1 / 3), "mid": (1 / 3, 2 / 3), "rare": (2 / 3, 1.0)}


@dataclass(frozen=True)
class Exact:
    """A task whose posterior is known.

    Attributes:
      base: p as a `Model`; its parameters are ``tables.hmm``.
      tables: chain, constraints and what is ahead of every state.
      keys: [X], for each condition its clauses, each the token strings of which one must occur.
      prompts: int32 [X, P], symbols that name the condition, from V on; P = 0 where there is but one.
      symbols: number of input symbols a network needs: tokens, prompt symbols, and the begin symbol, which is the last.
    """

    base: Model
    tables: Lookahead
    keys: tuple[Any, ...]
    prompts: np.ndarray
    symbols: int

    @property
    def begin(self) -> int:
        """The symbol before y_1."""
        return self.symbols - 1

    @property
    def posterior(self) -> tuple[Model, PyTree]:
        """q* as a model, and its parameters."""
        return posterior.exact(self.base.vocabulary, self.base.length), posterior.exact_params(self.tables)

    @property
    def rates(self) -> np.ndarray:
        """R(x) [X]."""
        return np.exp(np.asarray(self.tables.log_rate, np.float64))

    def context(self, which: Array) -> Context:
        """The context of sequences with the given conditions.

        Args:
          which: int [B], numbers of conditions.

        Returns:
          {"which": [B], "prompt": [B, P]}.

        Raises:
          InputError: a condition that there is not.

        No example: see `lexical`.
        """
        numbers = np.asarray(which)
        if numbers.size and not (numbers.min() >= 0 and numbers.max() < len(self.prompts)):
            raise InputError(f"conditions {numbers.min()} to {numbers.max()}: the task has {len(self.prompts)}, from 0 on")
        which = jnp.asarray(numbers, jnp.int32)
        return {"which": which, "prompt": jnp.asarray(self.prompts)[which]}

    @property
    def oracle(self) -> Oracle:
        """C(y) under context["which"]."""
        return accepts(self.tables.automaton)


def frequencies(chain: HMM, length: int) -> np.ndarray:
    """How often each token comes, mean over the positions.

    Args:
      chain: a chain.
      length: T.

    Returns:
      [V], sums to one.

    >>> frequencies(hmms.random(jax.random.key(0), 3, 5), 4).sum().round(6).item()
    1.0
    """
    a, e = np.exp(np.asarray(chain.log_transition, np.float64)), np.exp(np.asarray(chain.log_emission, np.float64))
    state, total = np.exp(np.asarray(chain.log_initial, np.float64)), np.zeros(e.shape[-1])
    for t in range(length):
        total = total + state @ (e[t] if e.ndim == 3 else e)
        state = state @ a
    return total / length


def _random_kind(rng: np.random.Generator, place: int, pool: int) -> tuple[str, int, int]:
    """(kind, number, most) of random clauses out of a third of the tokens."""
    if place % 3 == 0:
        return "rare", int(rng.integers(1, min(6, pool) + 1)), 1
    return str(rng.choice(list(RANKS))), int(rng.integers(1, min(3, pool) + 1)), 3


def _clauses(rng: np.random.Generator, ranked: np.ndarray, kind: str, number: int, most: int = 3) -> list[list[list[int]]]:
    """Clauses of one to ``most`` single tokens of a range of ranks, no token twice."""
    if kind not in RANKS:
        raise InputError(f"kind must be one of {', '.join(RANKS)}, not {kind!r}")
    check_whole("most", most, 1)
    low, high = RANKS[kind]
    pool = ranked[int(low * len(ranked)) : int(high * len(ranked))]
    if number > len(pool):
        raise InputError(f"{number} clauses need as many {kind} tokens, there are {len(pool)}: raise the vocabulary")
    sizes = rng.integers(1, min(most, len(pool) // number) + 1, number)
    chosen = rng.permutation(pool)[: sizes.sum()]
    ends = np.cumsum(sizes)
    return [[[int(token)] for token in part] for part in np.split(chosen, ends[:-1])]


def lexical(
    seed: int,
    *,
    clauses: int = 2,
    kind: str = "mid",
    rate: float | None = None,
    vocabulary: int = 32,
    states: int = 8,
    length: int = 16,
) -> Exact:
    """One fixed set of clauses over a random chain, "every clause has one of its tokens in the sequence".

    Args:
      seed: of chain and clauses.
      clauses: K.
      kind: "frequent", "mid" or "rare" tokens.
      rate: choose, of 400 random sets of clauses of any kind, the one whose R(x) is nearest to this; None: ``clauses`` of
        ``kind``.
      vocabulary, states, length: V, S, T of the chain.

    Returns:
      An `Exact` task with one condition.

    Raises:
      InputError: sizes below 1, an unknown kind, a rate outside (0, 1), too few tokens of the kind.

    >>> task = lexical(0, clauses=1, kind="frequent", vocabulary=12, states=3, length=6)
    >>> task.prompts.shape, bool(0 < task.rates[0] < 1)
    ((1, 0), True)
    """
    check_whole("clauses", clauses, 1)
    check_whole("length", length, 1)
    if vocabulary < 3:
        raise InputError(f"vocabulary is {vocabulary}: give at least 3 tokens, one for each of {', '.join(RANKS)}")
    chain = hmms.random(jax.random.key(seed), states, vocabulary)
    ranked = np.argsort(-frequencies(chain, length))
    rng = np.random.default_rng(seed)
    if rate is None:
        keys = _clauses(rng, ranked, kind, clauses)
    else:
        check_number("rate", rate, "give a number between 0 and 1", 0, 1, open_low=True)
        # Every third set has clauses of one token of the rarest third alone, which reach far below those of any kind.
        drawn = [_clauses(rng, ranked, *_random_kind(rng, i, vocabulary // 3)) for i in range(400)]
        found = np.array([_log_rate(chain, one, vocabulary, length) for one in drawn])
        keys = drawn[int(np.argmin(abs(found - np.log(rate))))]
    return _exact(chain, [keys], np.zeros((1, 0), np.int32), vocabulary, length, 0)


def _log_rate(chain: HMM, keys: Any, vocabulary: int, length: int) -> float:
    return float(posterior.lookahead(chain, automata.clauses(keys, vocabulary), length).log_rate[0])


def _exact(chain: HMM, keys: Sequence[Any], prompts: np.ndarray, vocabulary: int, length: int, names: int) -> Exact:
    tables = posterior.lookahead(chain, [automata.clauses(one, vocabulary) for one in keys], length)
    return Exact(hmm(vocabulary, length), tables, tuple(keys), prompts, vocabulary + names + 1)


def combinations(
    seed: int,
    *,
    pool: int = 6,
    clauses: int = 2,
    kind: str = "mid",
    most: int = 1,
    vocabulary: int = 32,
    states: int = 8,
    length: int = 16,
) -> Exact:
    """All sets of K out of a pool of clauses, each named by a prompt of K symbols: what a method does on sets it never saw.

    Args:
      seed: of chain and clauses.
      pool: clauses to choose from.
      clauses: K of each condition.
      kind: "frequent", "mid" or "rare" tokens.
      most: alternatives of a clause, at most.
      vocabulary, states, length: V, S, T of the chain.

    Returns:
      An `Exact` task with C(pool, K) conditions.

    Raises:
      InputError: as `lexical`; a pool of fewer clauses than a condition has.

    >>> task = combinations(0, pool=3, vocabulary=40, states=3, length=6)
    >>> task.prompts.tolist()
    [[40, 41], [40, 42], [41, 42]]
    """
    if check_whole("pool", pool, 1) < check_whole("clauses", clauses, 1):
        raise InputError(f"pool is {pool} and clauses {clauses}: give a pool of at least as many")
    check_whole("length", length, 1)
    chain = hmms.random(jax.random.key(seed), states, vocabulary)
    ranked = np.argsort(-frequencies(chain, length))
    every = _clauses(np.random.default_rng(seed), ranked, kind, pool, most)
    sets = list(itertools.combinations(range(pool), clauses))
    prompts = vocabulary + np.array(sets, np.int32)
    return _exact(chain, [[every[i] for i in one] for one in sets], prompts, vocabulary, length, pool)


def judge(
    task: Exact, model: Model, params: PyTree, key: Array, *, which: Sequence[int] = (0,), n: int = 512
) -> dict[str, float]:
    """How far a model is from the posterior.

    Args:
      task: the task.
      model, params: q.
      key: of the sequences drawn.
      which: conditions to judge on, with equal weight.
      n: sequences of q* and of q for each condition.

    Returns:
      ``kl``: KL(q* ‖ q), nats a sequence, and ``kl_error``, its standard error. ``satisfaction``: mean of C over q's samples.
      ``kl_reverse``: KL(q(· | C = 1) ‖ q*), estimated from q's accepted samples; it is KL(q ‖ q*) where all are.
      ``forgetting``: KL(p ‖ q) in nats a token, along samples of q* where the constraint is met whatever follows, so that q* is
      p; nan where there is no such place.

    Raises:
      InputError: conditions that do not exist.

    No example: see benchmarks/control.py.
    """
    exact, exact_params = task.posterior
    context = task.context(np.repeat(np.asarray(which), n))
    keys = jax.random.split(key, 2)
    tokens = decode.sample(exact, exact_params, keys[0], context).tokens
    log_q = compiled(model)(params, tokens, context)
    forward = posterior.divergences(compiled(exact)(exact_params, tokens, context), log_q).sum(1)
    moved = posterior.divergences(compiled(task.base)(task.tables.hmm, tokens, context), log_q)
    certain = np.asarray(_certain(task, tokens, context["which"]))
    drawn = decode.sample(model, params, keys[1], context)
    label = np.asarray(task.oracle(drawn.tokens, context), np.float64)
    met = label > 0
    along = log_likelihood(compiled(exact)(exact_params, drawn.tokens, context), drawn.tokens)
    log_drawn, log_exact = (np.asarray(one, np.float64) for one in (drawn.log_p, along.sum(1)))
    return {
        "kl": float(forward.mean()),
        "kl_error": float(forward.std() / np.sqrt(len(forward))),
        "satisfaction": float(label.mean()),
        "kl_reverse": float((log_drawn - log_exact)[met].mean() - np.log(met.mean())) if met.any() else float("inf"),
        "forgetting": float(np.asarray(moved)[certain].mean()) if certain.any() else float("nan"),
    }


def _certain(task: Exact, tokens: Array, which: Array) -> Array:
    """Whether the constraint is met whatever follows y_<t, [B, T]: the state accepts and leads to itself alone."""
    automaton = task.tables.automaton
    own = np.arange(automaton.accepting.shape[1])[None, :, None]
    absorbing = (np.asarray(automaton.accepting) >= 1) & (np.asarray(automaton.transition) == own).all(-1)
    return absorbing[np.asarray(which)[:, None], np.asarray(automata.run_stacked(automaton, which, tokens))[:, :-1]]


def value_error(
    task: Exact, guide: Guide, params: PyTree, key: Array, *, which: Sequence[int] = (0,), n: int = 512
) -> dict[str, float]:
    """How far learned values are from R(y_≤t), along samples of q*.

    Args:
      task: the task.
      guide, params: R_θ, as a guide of ``task.base``.
      key: of the sequences drawn.
      which, n: as for `judge`.

    Returns:
      ``log_r_error``: mean |log R_θ − log R|, nats, over the tokens that came; ``gap``: mean of
      |Σ_v p_v R_θ(y_<t v) − R_θ(y_<t)| / R_θ(y_<t) from the second place on.

    No example: see benchmarks/control.py.
    """
    exact, exact_params = task.posterior
    context = task.context(np.repeat(np.asarray(which), n))
    tokens = decode.sample(exact, exact_params, key, context).tokens
    log_p = compiled(task.base)(task.tables.hmm, tokens, context)
    found = _values_of(guide)(params, tokens, context, log_p)
    known = _values_of(posterior.GUIDE)(task.tables, tokens, context, log_p)
    chosen, right = log_likelihood(found, tokens), log_likelihood(known, tokens)
    expected = jax.nn.logsumexp(log_p + found, -1)
    return {
        "log_r_error": float(abs(chosen - right).mean()),
        "gap": float(abs(jnp.expm1(expected[:, 1:] - chosen[:, :-1])).mean()),
    }


@functools.lru_cache(maxsize=64)
def _values_of(guide: Guide) -> Callable[..., Array]:
    return jax.jit(guide.whole)
