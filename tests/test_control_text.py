"""Controlled text as a library: corpora, labels, the stand-in, guides, writing, measures."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from olm.control import decode, guides, posterior
from olm.control import text as control
from olm.control.automata import accepts
from olm.control.generate import Control, Written, constraints, interval, judged, prompts_of, weighted, write
from olm.control.keywords import token_bytes
from olm.control.model import guided
from olm.data.concepts import Pair
from olm.errors import InputError
from olm.models import hmm as hmms
from olm.models.transformer import TransformerConfig
from olm.records import Run

LENGTH = 12
ANIMALS, VERBS, PLACES = ("dog", "cat", "cow"), (("run", "runs"), ("sit", "sits"), ("sing", "sings")), ("field", "house")


def sentences() -> list[Pair]:
    """A grammar of 36 sentences, each several times, with two or three concepts."""
    found = []
    for (a, (verb, form), p), kind in itertools.product(itertools.product(ANIMALS, VERBS, PLACES), range(2)):
        sentence = (f"The {a} {form} in the {p}.", f"In the {p} a {a} {form}.")[kind]
        found += [Pair((a, verb, p), sentence), Pair((p, a), sentence), Pair((verb, a), sentence)]
    return found


def corpus_of(pairs: Sequence[Pair], **more: Any) -> control.Corpus:
    return control.read_corpus(
        pairs, **{"vocabulary": 70, "length": LENGTH, "prompt_length": 8, "held_out": 0.2, "lower": True} | more
    )


@pytest.fixture(scope="module")
def corpus() -> control.Corpus:
    return corpus_of(sentences())


@pytest.fixture(scope="module")
def trained(corpus: control.Corpus) -> Control:
    """A base that reads concepts, hardly trained, and its stand-in."""
    config = TransformerConfig(corpus.tokenizer.vocabulary, 8 + 1 + LENGTH, 16, 1, 2, score_scale="head", init="gpt2")
    fitted = control.train_base(corpus, config, steps=60, key=jax.random.key(0), batch_size=16, peak=0.01)
    assert fitted.history[-1]["loss"] < 0.5 * fitted.history[0]["loss"]
    assert fitted.history[0]["loss"] == pytest.approx(np.log(config.vocabulary), rel=0.05)
    base = control.base_model(config, LENGTH)
    asked = corpus.train.concepts
    spelt = token_bytes(corpus.tokenizer)
    drawn = control.draw(base, fitted.params, corpus.train.prompts, asked, spelt, jax.random.key(1), n=200)
    tokens = np.asarray(drawn.batch["tokens"])
    chain = control.distil(
        tokens[:160], config.vocabulary, states=6, steps=3, key=jax.random.key(2), held_out=tokens[160:]
    ).params
    return Control(corpus.tokenizer, base, fitted.params, 8, chain)


# --- corpora ----------------------------------------------------------------------------------------------------------


def test_no_set_of_concepts_is_both_learned_and_held_out(corpus: control.Corpus) -> None:
    kinds = [{frozenset(one) for one in part.concepts} for part in (corpus.train, corpus.held_out)]
    assert not kinds[0] & kinds[1] and all(kinds)
    assert len(corpus.train.tokens) + len(corpus.held_out.tokens) + corpus.dropped == len(sentences())
    said = corpus.tokenizer.decode(corpus.train.tokens[0])
    assert said in {one.sentence.lower() for one in sentences()}
    assert corpus.tokenizer.decode(corpus.train.prompts[0]) == control.spelt_prompt(corpus.train.concepts[0])


def test_a_prompt_is_of_a_set_whatever_its_order_and_of_the_first_alternatives(corpus: control.Corpus) -> None:
    same = prompts_of(corpus.tokenizer, [("dog", "run"), ("run", "dog"), (("run", "ran"), "dog")], 8)
    assert (same == same[0]).all() and same[0, -1] == control.END
    assert prompts_of(corpus.tokenizer, [("dog",)], 0).shape == (1, 0)


def test_long_sentences_are_dropped_and_counted() -> None:
    pairs = [*sentences(), Pair(("dog", "cow"), "a dog and a cow and a dog and a cow and a dog and a cow and a dog and a cow")]
    short, whole = corpus_of(pairs), corpus_of(pairs, length=60)
    assert (short.dropped, whole.dropped) == (1, 0)
    lengths = (whole.train.tokens != control.END).sum(1)
    assert lengths.max() > LENGTH and (short.train.tokens != control.END).sum(1).max() <= LENGTH


def test_varied_prompts_are_words_of_their_sentences(corpus: control.Corpus) -> None:
    found = control.varied(corpus.train, corpus.tokenizer, variants=3, most=2, common=0.5)
    once = control.varied(corpus.train, corpus.tokenizer, variants=1)
    assert [sorted(a) for a in once.concepts] == [sorted(a) for a in corpus.train.concepts]
    assert once.concepts != corpus.train.concepts and np.array_equal(once.tokens, corpus.train.tokens)
    assert 2 * len(once.tokens) < len(found.tokens) <= 3 * len(once.tokens)
    own = {tuple(sorted(one)) for one in corpus.train.concepts}
    others = 0
    for tokens, prompt, concepts in zip(*found, strict=True):
        assert corpus.tokenizer.decode(prompt) == "".join(" " + word for word in concepts)
        said = corpus.tokenizer.decode(tokens).replace(".", "").split()
        assert tuple(sorted(concepts)) in own or (set(concepts) <= set(said) and 1 <= len(concepts) <= 2)
        others += len(concepts) == 1
    assert others > 0.2 * len(found.tokens)
    rare = control.varied(corpus.train, corpus.tokenizer, variants=2, common=1e-6)
    assert len(rare.tokens) == len(once.tokens)  # no word is that rare
    with pytest.raises(InputError, match="variants is 0"):
        control.varied(corpus.train, corpus.tokenizer, variants=0)
    with pytest.raises(InputError, match="without prompts have no variants"):
        control.varied(corpus_of([one._replace(concepts=()) for one in sentences()]).train, corpus.tokenizer, variants=1)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"length": 2}, "no sentence to learn from has at most 2 tokens with concepts of at most 8"),
        ({"prompt_length": 1}, "concepts of at most 1"),
        ({"held_out": 1.0}, "held-out is 1.0: give a share"),
        ({"vocabulary": 5}, "raise it"),
    ],
)
def test_a_corpus_that_cannot_be_says_why(more: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        corpus_of(sentences(), **more)


# --- labels and constraints -------------------------------------------------------------------------------------------


def test_labels_by_text_are_those_of_the_automata(corpus: control.Corpus) -> None:
    """Random tokens, with ends, unknown ones and cut words, and sentences of the corpus."""
    spelt = token_bytes(corpus.tokenizer)
    random = np.random.default_rng(0).integers(0, len(spelt), (400, LENGTH))
    tokens = np.concatenate([random, corpus.train.tokens])
    tokens = np.where(np.cumsum(tokens == control.END, 1) > 0, control.END, tokens)
    for concepts in (("dog",), ("sit", "house"), (("runs", "sings"), "a"), ("e",)):
        (automaton,) = constraints([concepts], spelt, LENGTH)
        expected = np.asarray(accepts(automaton, jnp.asarray(tokens)))
        found = control.holds(control.texts(spelt, tokens), [concepts] * len(tokens))
        assert (found == expected).all()
        assert found.any() or concepts == ("sit", "house")


def test_concepts_that_cannot_be_met_are_named(corpus: control.Corpus) -> None:
    spelt = token_bytes(corpus.tokenizer)
    with pytest.raises(InputError, match="keyword 'zoo' has bytes no token stands for"):
        constraints([("dog", "zoo")], spelt, LENGTH)
    with pytest.raises(InputError, match=r"keyword 'dogcowcatdogcowcat' needs \d+ tokens, sequences have 4"):
        constraints([("dog", "dogcowcatdogcowcat")], spelt, 4)
    with pytest.raises(InputError, match="each clause alone can be met, together they need"):
        constraints([("dog", "cow", "cat", "house", "field")], spelt, 4)
    with pytest.raises(InputError, match="take 9 tokens, the base reads 8"):
        prompts_of(corpus.tokenizer, [("dog",) * 9], 8)


def test_samples_are_labelled_by_their_own_concepts_and_weighted_exactly(corpus: control.Corpus, trained: Control) -> None:
    spelt = token_bytes(corpus.tokenizer)
    asked = [one[:1] for one in corpus.train.concepts]
    drawn = control.draw(
        trained.base, trained.params, corpus.train.prompts, asked, spelt, jax.random.key(3), n=90, temperature=1.5, chunk=32
    )
    of_prompt = {tuple(row): one for row, one in zip(corpus.train.prompts.tolist(), asked, strict=True)}
    tokens, here = np.asarray(drawn.batch["tokens"]), drawn.batch["context"]
    # Several rows may share a prompt: sets that are the same set, and their first concepts may differ.
    whose = [[a for p, a in zip(corpus.train.prompts.tolist(), asked, strict=True) if p == row] for row in
             np.asarray(here["prompt"]).tolist()]  # fmt: skip
    assert of_prompt and tokens.shape == (90, LENGTH)
    said = control.texts(spelt, tokens)
    for text, label, candidates in zip(said, np.asarray(drawn.batch["label"]), whose, strict=True):
        assert float(label) in {float(control.holds([text], [one])[0]) for one in candidates}
    # The weights are p / q_τ, from the model's own numbers.
    log_p = jax.jit(trained.base.whole)(trained.params, drawn.batch["tokens"], here)
    at = [jnp.take_along_axis(table, drawn.batch["tokens"][..., None], 2)[..., 0].sum(1)
          for table in (log_p, jax.nn.log_softmax(log_p / 1.5))]  # fmt: skip
    np.testing.assert_allclose(drawn.weights, jax.nn.softmax(at[0] - at[1]) * 90, rtol=2e-3)
    np.testing.assert_allclose(drawn.rate, float((drawn.weights * drawn.batch["label"]).mean()), rtol=1e-5)


def test_held_out_nats_are_counted_up_to_the_end(corpus: control.Corpus, trained: Control) -> None:
    rows = control.Rows(*(part[:5] for part in corpus.held_out))
    log_p = np.asarray(jax.jit(trained.base.whole)(trained.params, jnp.asarray(rows.tokens), control.context(rows.prompts)))
    total = count = 0.0
    for row, scores in zip(rows.tokens, log_p, strict=True):
        for t, token in enumerate(row):
            total, count = total - scores[t, token], count + 1
            if token == control.END:
                break
    assert control.nats_per_token(trained.base, trained.params, rows) == pytest.approx(total / count, rel=1e-5)


# --- the stand-in -----------------------------------------------------------------------------------------------------


def test_a_stopped_distillation_goes_on_as_if_nothing_had_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = np.asarray(hmms.sample(hmms.random(jax.random.key(0), 3, 8), jax.random.key(1), 60, 5)) + 2
    tokens[:, 4] = control.END
    tokens[0] = control.END  # an empty sentence is passed over
    settings: dict[str, Any] = {"states": 4, "steps": 6, "key": jax.random.key(2), "held_out": tokens[40:]}
    whole = control.distil(tokens[:40], 10, **settings)
    assert len(whole.history) == 6 and whole.history[-1]["loss"] < whole.history[0]["loss"]
    score = np.asarray(hmms.log_likelihood(whole.params, jnp.asarray(tokens[40:]))).sum() / (20 * 5)
    assert whole.history[-1]["held_out"] == pytest.approx(-score, rel=1e-5)

    fit, calls = hmms.fit, []

    def stopped(*arguments: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return fit(*arguments, **more)

    with monkeypatch.context() as patched, Run.create(tmp_path / "run", {}) as run:
        patched.setattr(hmms, "fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            control.distil(tokens[:40], 10, run=run, save_every=1e9, **settings)
        assert len(run.metrics()) == 3
    with Run.resume(tmp_path / "run", {}) as run:
        resumed = control.distil(tokens[:40], 10, run=run, **settings)
        assert run.metrics() == resumed.history == whole.history
    for one, other in zip(resumed.params, whole.params, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_base_that_says_nothing_cannot_be_distilled() -> None:
    empty = np.full((4, 3), control.END)
    with pytest.raises(InputError, match="empty sentences only"):
        control.distil(empty, 5, states=2, steps=1, key=jax.random.key(0), held_out=empty)


# --- guides and writing -----------------------------------------------------------------------------------------------


SETS: list[control.Concepts] = [("dog", "sits"), (("runs", "sings"), "field"), ("cow",)]


def test_what_is_asked_for_is_always_written_by_gelato_and_mask(trained: Control) -> None:
    """Hardly trained, the base alone seldom does; sentences are those of each set, and scores the base's own."""
    found = {
        guide: write(trained, SETS, guide=guide, key=jax.random.key(0), n=6, rows=12) for guide in ("none", "mask", "gelato")
    }
    for guide in ("mask", "gelato"):
        assert found[guide].met.all()
        assert found[guide].tokens.shape == (3, 6, LENGTH)
        assert all("cow" in text for text in found[guide].texts[2])
    assert found["none"].met.mean() < 0.5
    assert found["gelato"].nats.mean() < found["mask"].nats.mean()  # lookahead writes what is likelier
    rows = control.Rows(found["gelato"].tokens[1], prompts_of(trained.tokenizer, SETS[1:2] * 6, 8), ())
    counted = control.sizes(rows.tokens).sum()
    mean = control.nats_per_token(trained.base, trained.params, rows)
    assert found["gelato"].nats[1].sum() / counted == pytest.approx(mean, rel=1e-4)


def test_padded_tables_change_nothing(trained: Control) -> None:
    """One set, decoded greedily by `write` and by the tables as they are."""
    spelt = token_bytes(trained.tokenizer)
    tables = posterior.lookahead(trained.hmm, constraints(SETS[:1], spelt, LENGTH), LENGTH)
    here = control.context(prompts_of(trained.tokenizer, SETS[:1], 8))
    expected = decode.greedy(guided(trained.base, posterior.GUIDE), {"base": trained.params, "guide": tables}, here)
    found = write(trained, SETS[:1], guide="gelato", key=jax.random.key(0), how="greedy", timed=True)
    np.testing.assert_array_equal(found.tokens[0], expected.tokens)
    assert found.met.all() and found.tokens_per_second > 0
    beam = write(trained, SETS[:1], guide="gelato", key=jax.random.key(0), how="beam", width=4, n=3)
    assert beam.met.all() and len({row.tobytes() for row in beam.tokens[0]}) == 3
    assert (np.diff(beam.nats[0]) != 0).all()


def test_the_weight_is_between_the_base_and_the_chains_posterior(trained: Control) -> None:
    """log q = w log p_hmm(· | C) + (1 − w) log p − log Z along a sentence, by brute force of the two."""
    spelt = token_bytes(trained.tokenizer)
    tables = posterior.lookahead(trained.hmm, constraints(SETS[2:], spelt, LENGTH), LENGTH)
    here = control.context(prompts_of(trained.tokenizer, SETS[2:], 8))
    tokens = jnp.asarray(write(trained, SETS[2:], guide="gelato", key=jax.random.key(4), weight=0.3).tokens[0])
    of_base = np.asarray(jax.jit(trained.base.whole)(trained.params, tokens, here), np.float64)
    exact = posterior.exact(trained.base.vocabulary, LENGTH)
    of_chain = np.asarray(jax.jit(exact.whole)(posterior.exact_params(tables), tokens, here), np.float64)
    for weight in (0.3, 1.0):
        mixed = weight * of_chain + np.where(of_base > -np.inf, (1 - weight) * np.where(of_base > -np.inf, of_base, 0), -np.inf)
        top = mixed.max(-1, keepdims=True)
        expected = mixed - top - np.log(np.exp(mixed - top).sum(-1, keepdims=True))
        model = guided(trained.base, weighted(trained.base.vocabulary, LENGTH, weight))
        found = np.asarray(jax.jit(model.whole)({"base": trained.params, "guide": tables}, tokens, here))
        np.testing.assert_allclose(np.exp(found), np.exp(expected), atol=2e-5)
    with pytest.raises(InputError, match=r"weight is 1\.5: give a number above 0 up to 1"):
        weighted(5, 5, 1.5)


@pytest.mark.parametrize("method", ["dinado", "dense", "nado", "hard", "merge", "lora", "fudge"])
def test_every_method_begins_as_the_base_and_learns_from_its_samples(
    trained: Control, corpus: control.Corpus, method: str
) -> None:
    config = TransformerConfig(corpus.tokenizer.vocabulary, 8 + 1 + LENGTH, 16, 1, 2, score_scale="head", init="gpt2")
    spelt, asked = token_bytes(corpus.tokenizer), [("dog",)] * len(corpus.train.tokens)
    drawn = control.draw(trained.base, trained.params, corpus.train.prompts, asked, spelt, jax.random.key(5), n=60)
    guide = guides.learned(method, config, LENGTH, trained.params, rate=drawn.rate, rank=2)
    start = guide.init(jax.random.key(0))
    tokens, here = drawn.batch["tokens"][:3], jax.tree.map(lambda leaf: leaf[:3], drawn.batch["context"])
    log_p = jax.jit(trained.base.whole)(trained.params, tokens, here)
    log_q = jax.jit(guided(trained.base, guide.guide).whole)({"base": trained.params, "guide": start}, tokens, here)
    np.testing.assert_allclose(np.exp(log_q), np.exp(log_p), atol=2e-5)
    fitted = guides.train_guide(guide, drawn, drawn, steps=15, key=jax.random.key(1), batch_size=60, peak=0.003)
    assert fitted.history[-1]["loss"] < fitted.history[0]["loss"]
    for one, other in zip(jax.tree.leaves(fitted.params["frozen"]), jax.tree.leaves(start["frozen"]), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"guide": "magic"}, "unknown guide 'magic'"),
        ({"how": "dreaming"}, "unknown decode 'dreaming'"),
        ({"guide": "learned"}, "no guide was learned here"),
        ({"how": "greedy", "n": 2}, "greedy decoding writes one sentence"),
        ({"how": "beam", "n": 9}, "n is 9, the beam's width 8"),
        ({"guide": "mask", "weight": 0.5}, "weight is for guide gelato"),
        ({"n": 0}, "n is 0"),
    ],
)
def test_writing_that_cannot_be_says_why(trained: Control, more: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        write(trained, SETS, **{"guide": "none", "key": jax.random.key(0)} | more)
    with pytest.raises(InputError, match="no hidden Markov model"):
        write(trained._replace(hmm=None), SETS, guide="gelato", key=jax.random.key(0))
    with pytest.raises(InputError, match="is none that learns"):
        guides.learned("gelato", TransformerConfig(), 4, {}, rate=0.5)


def test_a_beam_never_writes_what_is_impossible(trained: Control) -> None:
    """A word that fills nearly all tokens: a wide beam runs out of sentences that hold it."""
    spelt = token_bytes(trained.tokenizer)

    def fits(word: str) -> bool:
        try:
            constraints([(word,)], spelt, LENGTH)
        except InputError:
            return False
        return True

    longest = max((("dogcathouse" * 9)[:k] for k in range(3, 90)), key=lambda word: len(word) * fits(word))
    trained, sets = trained._replace(prompt_length=0), [(longest,)]
    with pytest.raises(InputError, match=r"n is 30, the beam finds \d+ sentences that are possible") as error:
        write(trained, sets, guide="mask", key=jax.random.key(0), n=30, how="beam", width=30)
    possible = int(str(error.value).split("finds ")[1].split()[0])
    assert 0 < possible < 30
    for guide in ("mask", "gelato"):
        assert write(trained, sets, guide=guide, key=jax.random.key(0), n=possible, how="beam", width=30).met.all()


def test_too_many_words_are_refused_before_their_automaton_is_built(trained: Control) -> None:
    with pytest.raises(InputError, match=r"13 words take an automaton of more than 2\^13 states: give at most 12"):
        constraints([("dog",) * 13], token_bytes(trained.tokenizer), LENGTH)


# --- judging ----------------------------------------------------------------------------------------------------------


def test_coverage_and_its_interval_are_over_sets() -> None:
    texts = [["a dog sits by the road", "a dog runs"], ["a cow", "the cat"]]
    tokens = np.full((2, 2, 4), 5)
    written = Written(tokens, texts, np.array([[True, False], [False, False]]), np.full((2, 2), 2.0), 1.0, 16.0)
    found = judged(written, [("dog", "sits"), (("cow", "bull"), "field")], references=[["a dog sits by the road"], ["a cow"]])
    assert (found["coverage"], found["complete"], found["satisfied"]) == (4 / 8, 1 / 4, 1 / 4)
    assert found["nats_per_token"] == 0.5 and found["tokens"] == 16
    # Two sets: resampled units are (3 of 4) and (1 of 4), alone or together.
    assert found["coverage_interval"] == (0.25, 0.75)
    assert 0 < found["bleu"] < 100
    one = judged(Written(tokens[:1], texts[:1], written.met[:1], written.nats[:1], 1.0, 8.0), [("dog", "sits")])
    assert one["complete_interval"] == (0.0, 1.0)  # of one set, over its sentences
    assert "bleu" not in one


def test_the_interval_covers_as_often_as_it_says() -> None:
    """Means of 30 coins of 0.3: of 200 intervals 93% ± 4% hold it (a bootstrap of few is a little short)."""
    coins = np.random.default_rng(0).random((200, 30)) < 0.3
    inside = [low <= 0.3 <= high for low, high in (interval(row.astype(float), np.ones(30)) for row in coins)]
    assert 0.89 <= np.mean(inside) <= 0.98
