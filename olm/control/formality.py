"""The exact formality task: say what a source says with few informal words; R(x) and q* are known for every source x.

A source is T contents x_1 … x_T out of C, drawn evenly. Every content c has two words, the formal token 2c and the informal
2c + 1 (V = 2C). The base is a hidden Markov model of two styles z (0 formal, 1 informal) that last, whose emissions depend on x,

    a(z, z) = stay,    e_t(z, 2c + j | x) = Pr(c | x_t) Pr(j | z, c),
    Pr(c | x_t) = 1 − slip for c = x_t, slip / (C − 1) for each other one,
    Pr(j = 1 | z, c) = σ(informality + inclination_c + lean (2z − 1)),    inclination_c ~ N(0, spread²), less their mean

so that a source is easy or hard to say formally by its contents, and what is said may be wrong about them. The oracle is
C(y) = 1[Σ_t j_t ≤ most] (`transfer`), or graded, C(y) = σ(w − u Σ_t j_t) (`soften`). Control is measured by `informal` words, and
quality by `accuracy` of contents, in the place that BLEU has for text: q* should change styles and leave contents alone.

It stands in for the experiment on formal machine translation of Meng et al. 2022 (arXiv 2205.14219, section 4), whose data are
licensed and whose oracle is a network.

Not done: sources that are sentences, an order of words that differs from the source's, an end of the sequence.
"""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from olm.control import automata, posterior
from olm.control.automata import Automaton
from olm.control.model import hmm
from olm.control.tasks import Exact
from olm.errors import InputError, check_number, check_whole
from olm.models.hmm import HMM
from olm.types import Array

REAL, POSITIVE = "give a finite number", "give a positive number"


def transfer(
    seed: int,
    *,
    sources: int = 96,
    contents: int = 20,
    length: int = 12,
    most: int = 2,
    informality: float = -0.4,
    spread: float = 1.0,
    lean: float = 1.0,
    stay: float = 0.8,
    slip: float = 0.05,
) -> Exact:
    """Sources, the base that words them, and the oracle C(y) = 1[#informal ≤ most].

    Args:
      seed: of contents' inclinations and of the sources.
      sources: X, all different, drawn evenly; any part of them can be held out (`split`).
      contents: C, half of the vocabulary.
      length: T of sources and sequences.
      most: informal tokens that are allowed.
      informality: log-odds of an informal word, of a content without inclination and between the styles.
      spread: standard deviation of the contents' inclinations (which add up to 0).
      lean: how far a style moves the log-odds, ±.
      stay: probability that the style stays.
      slip: probability of another content than the source's.

    Returns:
      An `Exact` task; ``prompts`` are V + contents [X, T], ``keys`` each source's contents. With the defaults R(x) is about
      0.09 on average over sources, 0.03 to 0.18 for nine tenths of them.

    Raises:
      InputError: sizes below 1 (of contents 2), more sources than there are, a ``most`` that all sequences keep to, parameters
        outside their bounds.

    >>> task = transfer(0, sources=3, contents=4, length=5, most=1)
    >>> task.prompts.shape, bool((task.rates > 0).all() and (task.rates < 1).all())
    ((3, 5), True)

    Source: Meng et al. 2022, arXiv 2205.14219, section 4 (the task that this one stands in for).
    """
    for name, size, least in (("sources", sources, 1), ("contents", contents, 2), ("length", length, 1), ("most", most, 0)):
        check_whole(name, size, least)
    if most >= length:
        raise InputError(f"most is {most} of {length} tokens: every sequence meets the oracle, allow fewer informal tokens")
    if sources > contents**length:
        raise InputError(f"sources is {sources}, only {contents**length} are different: ask for fewer, or for longer ones")
    check_number("informality", informality, REAL, -np.inf, np.inf)
    for name, value in (("spread", spread), ("lean", lean)):
        check_number(name, value, "give a number of at least 0", 0, np.inf)
    check_number("stay", stay, "give a probability between 0 and 1, more than 0", 0, 1, open_low=True)
    check_number("slip", slip, "give a probability of at least 0 and below 1", 0, np.nextafter(1, 0))
    rng = np.random.default_rng(seed)
    inclination_C = rng.normal(0, spread, contents)
    inclination_C -= inclination_C.mean()  # or R(x) would depend on the seed far more than on the source
    distinct: dict[tuple[int, ...], None] = {}
    while len(distinct) < sources:
        distinct[tuple(rng.integers(contents, size=length).tolist())] = None
    source_XxT = np.array(list(distinct), np.int32)
    vocabulary = 2 * contents
    chain = _chain(source_XxT, informality + inclination_C, lean, stay, slip)
    oracle = automata.count(range(1, vocabulary, 2), vocabulary, most=most)
    tables = posterior.lookahead(chain, [oracle] * sources, length)
    return Exact(hmm(vocabulary, length), tables, tuple(distinct), vocabulary + source_XxT, vocabulary + contents + 1)


def _chain(source_XxT: np.ndarray, odds_C: np.ndarray, lean: float, stay: float, slip: float) -> HMM:
    """Two styles; emissions [X, T, 2, 2C] in float64."""
    number = len(odds_C)
    odds_2xC = odds_C + lean * np.array([[-1.0], [1.0]])
    log_style = -np.logaddexp(0, np.stack([odds_2xC, -odds_2xC], -1))  # [2, C, 2], formal and informal
    with np.errstate(divide="ignore"):
        log_content = np.log(np.where(np.eye(number, dtype=bool), 1 - slip, slip / (number - 1)))[source_XxT]  # [X, T, C]
        move = np.log([[stay, 1 - stay], [1 - stay, stay]])
    log_emission = log_content[:, :, None, :, None] + log_style
    return HMM(np.log([0.5, 0.5]), move, log_emission.reshape(*source_XxT.shape, 2, 2 * number))


def soften(task: Exact, w: float, u: float) -> Exact:
    """The same base and sources under a graded oracle, C(y) = σ(w − u #informal); q*(y) = p(y) C(y) / Σ_y p(y) C(y) is exact.

    The automaton counts informal tokens, s = 0 … T, and a count has a weight σ(w − u s) in place of acceptance. Tokens of one
    style lead to the same state, so with P_t(j | z) = Σ_c e_t(z, 2c + j),

        G_T(z, s) = σ(w − u s),    G_t−1(z, s) = Σ_z' a(z, z') Σ_j P_t(j | z') G_t(z', s + j),
        R(x) = Σ_z π(z) Σ_j P_1(j | z) G_1(z, j),

    in logs and float64 on the host, O(T²) for each source. What the guide does with G is the same for weights as for acceptance.

    Args:
      task: of `transfer`.
      w: log-odds of acceptance of a text without informal tokens.
      u: what each of them takes away.

    Returns:
      An `Exact` task whose ``tables.automaton.accepting`` holds weights, and whose oracle gives labels between 0 and 1. It
      forbids nothing, so that `olm.control.posterior.support` has nothing to mask.

    Raises:
      InputError: a ``w`` that is not finite, a ``u`` that is not positive, a task of another kind.

    >>> task = transfer(0, sources=2, contents=3, length=4, most=1)
    >>> soft = soften(task, 2.0, 1.5)
    >>> soft.oracle(jnp.array([[0, 2, 4, 0], [1, 3, 4, 0]]), soft.context(np.array([0, 1]))).round(3).tolist()
    [0.881, 0.269]

    Source: Meng et al. 2022, arXiv 2205.14219, section 4 (a soft score of formality).
    """
    check_number("w", w, REAL, -np.inf, np.inf)
    check_number("u", u, POSITIVE, 0, np.inf, open_low=True)
    _check(task)
    vocabulary, length = task.base.vocabulary, task.base.length
    counter = automata.count(range(1, vocabulary, 2), vocabulary, least=length)  # minimal, and state s has seen s of them
    # The task's chain is in JAX's float, whose rounding is taken out of the sums of its rows.
    leaves = (np.asarray(leaf, np.float64) for leaf in task.tables.hmm)
    chain = HMM(*(leaf - np.logaddexp.reduce(leaf, axis=-1, keepdims=True) for leaf in leaves))
    tables, (initial, move, emission) = posterior.lookahead(chain, [counter] * len(task.prompts), length), chain
    log_weight_N = -np.logaddexp(0, u * np.arange(length + 1) - w)
    styles = np.logaddexp.reduce(emission.reshape(*emission.shape[:-1], -1, 2), axis=-2)  # log P_t(j | z) [X, T, 2, 2]
    ahead = np.broadcast_to(log_weight_N[:, None], tables.log_ahead[:, 0].shape)  # [X, n, S]
    one_more, found = np.minimum(np.arange(length + 1) + 1, length), []
    for t in reversed(range(length)):
        found.append(ahead)
        formal, informal = styles[:, t, None, :, 0], styles[:, t, None, :, 1]
        log_b = np.logaddexp(formal + ahead, informal + ahead[:, one_more])
        ahead = np.logaddexp.reduce(log_b[:, :, None, :] + move, axis=-1)
    log_rate = np.minimum(np.logaddexp.reduce(initial + log_b[:, 0], axis=-1), 0.0)
    float_type = jnp.result_type(float)
    weights = np.broadcast_to(np.exp(log_weight_N), (len(task.prompts), length + 1))
    return replace(
        task,
        tables=tables._replace(
            hmm=task.tables.hmm,
            automaton=Automaton(tables.automaton.transition, jnp.asarray(weights, float_type)),
            log_ahead=jnp.asarray(np.stack(found[::-1], 1), float_type),
            log_rate=jnp.asarray(log_rate, float_type),
        ),
    )


def split(task: Exact, held_out: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Sources to learn from and sources that are held out, as numbers for ``context["which"]``.

    Args:
      task: of `transfer`; its sources are independent and all different, so the last ones are as good as any.
      held_out: how many are held out.

    Returns:
      Two arrays of numbers.

    Raises:
      InputError: nothing left to learn from, or nothing held out.

    >>> [part.tolist() for part in split(transfer(0, sources=4, contents=3, length=4), 1)]
    [[0, 1, 2], [3]]
    """
    number = len(task.prompts)
    if check_whole("held_out", held_out, 1) >= number:
        raise InputError(f"held_out is {held_out} of {number} sources: leave some to learn from, or make more sources")
    return np.arange(number - held_out), np.arange(number - held_out, number)


def accuracy(task: Exact, tokens_BxT: Array, which_B: Array) -> Array:
    """Share of a sequence's positions whose token has the source's content, 1/T Σ_t 1[⌊y_t / 2⌋ = x_t].

    Args:
      task: of `transfer` or `soften`.
      tokens_BxT: sequences.
      which_B: the source of each.

    Returns:
      [B].

    Raises:
      InputError: tokens of another shape, a task of another kind.

    >>> task = transfer(0, sources=2, contents=3, length=4, most=1)
    >>> accuracy(task, 2 * (jnp.asarray(task.prompts) - 6) + 1, jnp.array([0, 1])).tolist()
    [1.0, 1.0]
    """
    _check(task)
    which = jnp.asarray(which_B)
    if jnp.shape(tokens_BxT) != (*which.shape, task.base.length) or which.ndim != 1:
        raise InputError(
            f"tokens have shape {jnp.shape(tokens_BxT)}, which {which.shape}: give [B, {task.base.length}] and [B], the sources"
        )
    source = jnp.asarray(task.prompts - task.base.vocabulary)[which]
    return (jnp.asarray(tokens_BxT) // 2 == source).mean(-1, dtype=jnp.result_type(float))


def informal(tokens: Array) -> Array:
    """Number of informal tokens of a sequence, Σ_t y_t mod 2.

    Args:
      tokens: [..., T].

    Returns:
      int32 [...].

    >>> informal(jnp.array([[0, 2, 4], [1, 2, 5]])).tolist()
    [0, 2]
    """
    return (jnp.asarray(tokens) % 2).sum(-1, dtype=jnp.int32)


def _check(task: Exact) -> None:
    """Fail for a task that has no source of T contents for each condition."""
    if task.tables.hmm.log_emission.ndim != 4 or task.prompts.shape[-1] != task.base.length:
        raise InputError("the task has no sources: give one of `transfer`, or of `soften`")
