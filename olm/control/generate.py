"""Text with given concepts from a base and a guide, and how well that goes: what `olm control generate` and `evaluate` do.

Guides are none; mask, which forbids what cannot be completed (Willard and Louf 2023, arXiv 2307.09702); gelato, the chain's
lookahead (Zhang et al. 2023, arXiv 2304.07438); and what was learned (`olm.control.text.learned`). Automata and tables of a set
of concepts are large, so they are built for a few sets at a time, and padded to few shapes, for which programs compile once.

Not done: sentences of several sets at different lengths, constraints other than concepts.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from olm.control import automata, decode, measures, posterior
from olm.control import model as models
from olm.control.automata import Automaton
from olm.control.keywords import keywords, token_bytes
from olm.control.model import Context, Guide, Model
from olm.control.posterior import Lookahead, Support
from olm.control.samples import counted
from olm.control.text import END, Concept, Concepts, context, filled, holds, sizes, spelt_prompt, texts
from olm.data.text import Tokenizer
from olm.errors import InputError, check_number, check_whole
from olm.models.hmm import HMM
from olm.progress import Bar
from olm.types import Array, PyTree

MOST = 12
"""Concepts of one sentence: K of them take an automaton of more than 2^K states."""
GUIDES = ("none", "mask", "gelato", "learned")
DECODERS = ("sample", "beam", "greedy")


def prompts_of(tokenizer: Tokenizer, concept_sets: Sequence[Concepts], prompt_length: int) -> np.ndarray:
    """The prompts of sets of concepts.

    Args:
      tokenizer: the corpus's.
      concept_sets: X of them.
      prompt_length: P; 0: the base reads none.

    Returns:
      int32 [X, P].

    Raises:
      InputError: a prompt that is too long.

    No example: see `read_corpus`.
    """
    if not prompt_length:
        return np.zeros((len(concept_sets), 0), np.int32)
    ids = [tokenizer.encode(spelt_prompt(one)) for one in concept_sets]
    for one, words in zip(ids, concept_sets, strict=True):
        if len(one) > prompt_length:
            raise InputError(
                f"concepts{spelt_prompt(words)} take {len(one)} tokens, the base reads {prompt_length}: give fewer, or train a "
                "base with a larger prompt-length"
            )
    return filled(ids, prompt_length)


def constraints(
    concept_sets: Sequence[Concepts], tokens: Sequence[bytes], length: int, *, inflections: bool = False
) -> list[Automaton]:
    """For each set the automaton of sentences with all its concepts, as `olm.control.keywords.keywords` builds it.

    Args:
      concept_sets: X of them.
      tokens: what `olm.control.keywords.token_bytes` gives.
      length: T.
      inflections: every inflection of a word will do.

    Returns:
      X automata; stacks of them are large, so build them for few sets at a time.

    Raises:
      InputError: names the concept: bytes that no token stands for, or no sentence of T tokens holds it; more than `MOST`.

    >>> constraints([("a",)], [b"", b"", b"a", b" "], 4)[0].transition.shape
    (6, 4)
    """

    def build(concepts: Sequence[Concept]) -> Automaton:
        return keywords(concepts, tokens, inflections=inflections, end=END)

    found = []
    for concepts in concept_sets:
        if len(concepts) > MOST:
            raise InputError(
                f"{len(concepts)} words take an automaton of more than 2^{len(concepts)} states: give at most {MOST}"
            )
        found.append(build(concepts))
        try:
            automata.check_satisfiable(found[-1], length)
        except InputError:  # only now is it worth the time to build the clauses one by one
            names = [repr(one) if isinstance(one, str) else " or ".join(map(repr, one)) for one in concepts]
            parts = {f"keyword {name}": build([one]) for name, one in zip(names, concepts, strict=True)}
            automata.check_satisfiable(found[-1], length, parts)
    return found


@functools.cache
def weighted(vocabulary: int, length: int, weight: float) -> Guide:
    """A guide whose product with the base is q(y_t | y_<t) ∝ p_hmm(y_t | y_<t, C)^w p(y_t | y_<t)^(1−w).

    Args:
      vocabulary, length: V, T.
      weight: w in (0, 1]; 1 is the chain's posterior alone.

    Returns:
      A `Guide` with a `olm.control.posterior.Lookahead` as parameters.

    Raises:
      InputError: another weight.

    No example: see tests/test_control_text.py.

    Source: Zhang et al. 2023, arXiv 2304.07438, section 3.2, the supervised setting.
    """
    check_number("weight", weight, "give a number above 0 up to 1", 0, 1, open_low=True)
    exact = posterior.exact(vocabulary, length)

    def value(log_p: Array, log_q: Array) -> Array:
        # What the base rules out stays ruled out; −∞ − (−∞) must not get there.
        possible = log_p > -jnp.inf
        return jnp.where(possible, weight * (log_q - jnp.where(possible, log_p, 0.0)), 0.0)

    def start(tables: PyTree, context: Context, log_p: Array) -> tuple[PyTree, Array]:
        state, log_q = exact.start(posterior.exact_params(tables), context)
        return state, value(log_p, log_q)

    def advance(tables: PyTree, state: PyTree, tokens: Array, log_p: Array) -> tuple[PyTree, Array]:
        state, log_q = exact.advance(posterior.exact_params(tables), state, tokens)
        return state, value(log_p, log_q)

    def whole(tables: PyTree, tokens: Array, context: Context, log_p: Array) -> Array:
        return value(log_p, exact.whole(posterior.exact_params(tables), tokens, context))

    return Guide(start, advance, whole, posterior.GUIDE.length)


# --- writing ----------------------------------------------------------------------------------------------------------


class Control(NamedTuple):
    """All that text is written with.

    Attributes:
      tokenizer: the corpus's.
      base, params: of `olm.control.text.base_model`, `train_base`.
      prompt_length: P that the base reads, 0 without prompts.
      hmm: the base's stand-in; None: no guide gelato.
      guide, guide_params: what was learned; None: no guide learned.
      inflections: every inflection of a concept will do.
    """

    tokenizer: Tokenizer
    base: Model
    params: PyTree
    prompt_length: int
    hmm: HMM | None = None
    guide: Guide | None = None
    guide_params: PyTree = None
    inflections: bool = False


class Written(NamedTuple):
    """Sentences for X sets of concepts, n for each.

    Attributes:
      tokens: int32 [X, n, T].
      texts: X lists of n texts.
      met: bool [X, n], C(y).
      nats: [X, n], −log p of the base, ends included.
      seconds: spent on decoding, without the tables.
      tokens_per_second: written up to and with the end of each sentence; nan where nothing was timed.
    """

    tokens: np.ndarray
    texts: list[list[str]]
    met: np.ndarray
    nats: np.ndarray
    seconds: float
    tokens_per_second: float


def write(
    control: Control,
    concept_sets: Sequence[Concepts],
    *,
    guide: str,
    key: Array,
    n: int = 1,
    how: str = "sample",
    width: int = 8,
    temperature: float = 1.0,
    weight: float | None = None,
    rows: int = 64,
    timed: bool = False,
    progress: bool = False,
) -> Written:
    """Sentences with given concepts.

    Args:
      control: models and guides.
      concept_sets: X sets of concepts.
      guide: none, mask, gelato or learned.
      key: random key.
      n: sentences for each set; with a beam the n best of it.
      how: sample, beam or greedy.
      width: of the beam.
      temperature: τ of sampling.
      weight: w of `weighted`, with gelato; None: R itself.
      rows: sequences decoded at once, about.
      timed: decode the first batch of each shape twice, so that compilation is not timed.
      progress: show a bar.

    Returns:
      `Written`.

    Raises:
      InputError: an unknown choice, a guide that there is not, concepts that cannot be met, fewer possible sentences than a beam
        is asked for.

    No example: see tests/test_control_text.py.
    """
    _check(control, guide, how, n, width, weight)
    model, guide_params = _guided(control, guide, weight)
    spelt, length = token_bytes(control.tokenizer), control.base.length
    prompts = prompts_of(control.tokenizer, concept_sets, control.prompt_length)
    tabled = guide in ("mask", "gelato")
    at_once = min(8 if tabled else rows, len(concept_sets))
    repeats = 1 if how != "sample" else max(1, min(n, rows // at_once))
    found = np.zeros((len(concept_sets), n, length), np.int32)
    nats = np.zeros((len(concept_sets), n))
    score = _scored(control.base)
    seconds, tokens, seen = 0.0, 0, set()
    bar = Bar(len(concept_sets) * n, 0, on=progress, unit="sentence", name=guide)
    try:
        for begin in range(0, len(concept_sets), at_once):
            these = np.arange(begin, begin + at_once) % len(concept_sets)
            real = min(at_once, len(concept_sets) - begin)
            if tabled:
                automata_of = constraints([concept_sets[i] for i in these[:real]], spelt, length, inflections=control.inflections)
                if guide == "mask":
                    guide_params = _padded_support(posterior.support(automata_of, length), at_once)
                else:
                    assert control.hmm is not None
                    guide_params = _padded_tables(posterior.lookahead(control.hmm, automata_of, length), at_once)
            params = control.params if guide == "none" else {"base": control.params, "guide": guide_params}
            here = context(np.repeat(prompts[these], repeats, 0), np.repeat(np.arange(at_once) % real, repeats))
            shape = tuple(leaf.shape for leaf in jax.tree.leaves((guide_params, here)))
            for done in range(0, n if how == "sample" else 1, repeats):
                of_batch = jax.random.fold_in(jax.random.fold_in(key, begin), done)
                for _ in range(2 if timed and shape not in seen else 1):
                    started = time.monotonic()
                    got = _decoded(model, params, of_batch, here, how, width, temperature, n)  # [X·r, K, T]
                    elapsed = time.monotonic() - started
                    seen.add(shape)
                seconds += elapsed
                # Of samples r stand side by side, of beams K below one another: [X, r or K, T] of both, as far as wanted.
                kept = got.reshape(at_once, -1, length)[:real, : n - done]
                found[these[:real], done : done + kept.shape[1]] = kept
                of_base = score(control.params, jnp.asarray(kept.reshape(-1, length)), _context_of(prompts, these[:real], kept))
                nats[these[:real], done : done + kept.shape[1]] = np.asarray(of_base).reshape(kept.shape[:2])
                tokens += int(sizes(kept).sum())
                bar.show(min(begin * n + real * (done + kept.shape[1]), len(concept_sets) * n), {})
    finally:
        bar.close()
    flat = found.reshape(-1, length)
    said = texts(spelt, flat)
    sets = [one for one in concept_sets for _ in range(n)]
    met = holds(said, sets, inflections=control.inflections).reshape(-1, n)
    decoded = [one.decode("utf-8", errors="replace") for one in said]
    return Written(
        found, [decoded[x * n : (x + 1) * n] for x in range(len(concept_sets))], met, nats, seconds,
        tokens / seconds if seconds else float("nan"),
    )  # fmt: skip


def _check(control: Control, guide: str, how: str, n: int, width: int, weight: float | None) -> None:
    for name, value, known in (("guide", guide, GUIDES), ("decode", how, DECODERS)):
        if value not in known:
            raise InputError(f"unknown {name} {value!r}: choose one of {', '.join(known)}")
    check_whole("n", n, 1)
    check_whole("width", width, 1)
    if how == "greedy" and n > 1:
        raise InputError(f"n is {n}: greedy decoding writes one sentence for a set, leave n out or sample")
    if how == "beam" and n > width:
        raise InputError(f"n is {n}, the beam's width {width}: raise the width, or ask for fewer sentences")
    if guide == "learned" and control.guide is None:
        raise InputError("no guide was learned here: choose gelato, mask or none, or train with another method")
    if guide == "gelato" and control.hmm is None:
        raise InputError("there is no hidden Markov model here: choose another guide")
    if weight is not None and guide != "gelato":
        raise InputError(f"weight is for guide gelato, not for {guide}: leave it out")


def _guided(control: Control, guide: str, weight: float | None) -> tuple[Model, PyTree]:
    base = control.base
    if guide == "none":
        return base, None
    if guide == "learned":
        assert control.guide is not None
        return models.guided(base, control.guide), control.guide_params
    if guide == "mask":
        return models.guided(base, posterior.MASK), None
    return models.guided(base, posterior.GUIDE if weight is None else weighted(base.vocabulary, base.length, weight)), None


def _decoded(
    model: Model, params: PyTree, key: Array, here: Context, how: str, width: int, temperature: float, n: int
) -> np.ndarray:
    if how == "beam":
        found = decode.beam(model, params, here, width=width)
        # What is left of a beam with fewer possible sentences than its width breaks the constraint.
        possible = int((np.asarray(found.log_p) > -np.inf).sum(1).min())
        if possible < n:
            raise InputError(f"n is {n}, the beam finds {possible} sentences that are possible: ask for so many, or sample")
        return np.asarray(found.tokens)
    if how == "greedy":
        return np.asarray(decode.greedy(model, params, here).tokens)[:, None]
    return np.asarray(decode.sample(model, params, key, here, temperature=temperature).tokens)[:, None]


def _context_of(prompts: np.ndarray, these: np.ndarray, kept: np.ndarray) -> Context:
    return context(np.repeat(prompts[these], kept.shape[1], 0))


@functools.cache
def _scored(base: Model) -> Any:
    """−log p of whole sequences."""

    @jax.jit
    def nats(params: PyTree, tokens: Array, here: Context) -> Array:
        each = models.log_likelihood(base.whole(params, tokens, here), tokens)
        return -jnp.where(counted(tokens, END), each, 0.0).sum(1)

    return nats


def _powers(*sizes: int) -> list[int]:
    """The next powers of two, so that tables come in few shapes."""
    return [1 << max(3, (size - 1).bit_length()) for size in sizes]


def _padded(leaf: Array, shape: Sequence[int], value: Any = 0) -> Array:
    return jnp.pad(leaf, [(0, wanted - size) for size, wanted in zip(leaf.shape, shape, strict=True)], constant_values=value)


def _padded_tables(tables: Lookahead, sets: int) -> Lookahead:
    """States, successors and sets that nothing reaches."""
    (_, n, vocabulary), (_, length, _, states) = tables.label.shape, tables.log_ahead.shape
    n, most = _powers(n, tables.successors.shape[2])
    return Lookahead(
        tables.hmm,
        Automaton(
            _padded(tables.automaton.transition, (sets, n, vocabulary)), _padded(tables.automaton.accepting, (sets, n), False)
        ),
        _padded(tables.log_ahead, (sets, length, n, states), -jnp.inf),
        _padded(tables.log_rate, (sets,)),
        _padded(tables.successors, (sets, n, most), -1),
        _padded(tables.label, (sets, n, vocabulary)),
    )


def _padded_support(support: Support, sets: int) -> Support:
    """States and sets that nothing reaches."""
    _, n, vocabulary = support.automaton.transition.shape
    (n,) = _powers(n)
    return Support(
        Automaton(
            _padded(support.automaton.transition, (sets, n, vocabulary)), _padded(support.automaton.accepting, (sets, n), False)
        ),
        _padded(support.possible, (sets, support.possible.shape[1], n), False),
    )


# --- judging ----------------------------------------------------------------------------------------------------------


def interval(values: np.ndarray, weights: np.ndarray, *, seed: int = 0, resamples: int = 1000) -> tuple[float, float]:
    """A 95% bootstrap interval of Σ values / Σ weights over resampled units.

    Args:
      values, weights: [X], of each unit.
      seed: of the resampling.
      resamples: how often.

    Returns:
      (low, high).

    >>> interval(np.array([1.0, 1.0]), np.array([1.0, 1.0]))
    (1.0, 1.0)

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    rows = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    found = values[rows].sum(1) / weights[rows].sum(1)
    return float(np.quantile(found, 0.025)), float(np.quantile(found, 0.975))


def judged(
    written: Written,
    concept_sets: Sequence[Concepts],
    *,
    references: Sequence[Sequence[str]] | None = None,
    inflections: bool = False,
) -> dict[str, Any]:
    """What sentences are worth.

    Args:
      written: of `write`.
      concept_sets: the same.
      references: for each set sentences that hold it, for BLEU.
      inflections: every inflection of a word counts as covered.

    Returns:
      "coverage" by concept, "complete" (by sentence) and "satisfied", each with its interval over sets, or over sentences
      where there is one set; "bleu", "distinct_2", "nats_per_token" under the base, "tokens_per_second", "sentences", "sets",
      "tokens".

    Raises:
      InputError: as `olm.control.measures`.

    No example: see tests/test_control_text.py.
    """
    sets, n = written.met.shape
    flat = [one for several in written.texts for one in several]
    # Alternatives are a tuple here and a list there.
    spelt = [[one if isinstance(one, str) else list(one) for one in concepts] for concepts in concept_sets for _ in range(n)]
    cover = measures.coverage(flat, spelt, inflections=inflections)
    tokens = int(sizes(written.tokens).sum())

    def with_interval(name: str, values: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
        units = [x.reshape(sets, n).sum(1) if sets > 1 else x for x in (values.astype(float), weights.astype(float))]
        return {name: float(values.sum() / weights.sum()), f"{name}_interval": interval(*units)}

    ones = np.ones(sets * n)
    found: dict[str, Any] = {
        **with_interval("coverage", cover.found, cover.asked),
        **with_interval("complete", cover.found == cover.asked, ones),
        **with_interval("satisfied", written.met.reshape(-1), ones),
        "nats_per_token": float(written.nats.sum() / tokens),
        "tokens_per_second": written.tokens_per_second,
        "sets": sets,
        "sentences": sets * n,
        "tokens": tokens,
    }
    words = [text.split() for text in flat]
    found["distinct_2"] = measures.distinct(words) if any(len(one) > 1 for one in words) else None
    if references is not None:
        found["bleu"] = measures.bleu(flat, [one for one in references for _ in range(n)])
    return found
