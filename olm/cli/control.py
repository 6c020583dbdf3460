"""`olm control`: learn to write text that holds given words, write it, measure it."""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from olm.cli.common import aligned, check_place, given, new_run, parse, say
from olm.cli.control_options import GROUPS, Decoding, Evaluate, Generate, Train, concepts_of
from olm.cli.options import restored_group
from olm.control import guides, posterior
from olm.control import text as control
from olm.control.generate import GUIDES, Control, constraints, judged, write
from olm.control.keywords import token_bytes
from olm.control.samples import Samples, check_labels
from olm.control.text import Concepts
from olm.data.concepts import read_jsonl, read_sets
from olm.data.text import load_tokenizer, read_text
from olm.errors import InputError
from olm.models import transformer as transformers
from olm.models.hmm import HMM
from olm.models.transformer import TransformerConfig
from olm.records import Run, atomic_write, fingerprint, load_arrays, load_meta, write_json
from olm.types import Array

HELP = """usage: olm control train --text FILE ... --keywords WORD ... [OPTIONS]
       olm control train --sources FILE --targets FILE [OPTIONS]
       olm control train --resume RUN
       olm control generate RUN [OPTIONS]
       olm control evaluate RUN [OPTIONS]

Write text that holds given words. train learns a transformer of your sentences, a hidden Markov model of its samples, and a guide
that steers it; generate writes sentences; evaluate measures how many hold their words, and what that costs.

olm control train --help, and so on, lists every option."""

COMMANDS = ("train", "generate", "evaluate")


def run(words: Sequence[str]) -> int:
    """The command; returns its exit status."""
    if not words:
        raise InputError(f"say what to do: olm control {'|'.join(COMMANDS)} ...; see olm control --help")
    if words[0] in ("-h", "--help"):
        print(HELP)
        return 0
    if words[0] not in COMMANDS:
        raise InputError(f"unknown command {words[0]!r}: choose one of {', '.join(COMMANDS)}")
    return {"train": _train, "generate": _generate, "evaluate": _evaluate}[words[0]](words[1:])


# --- train ------------------------------------------------------------------------------------------------------------


def _read(words: Sequence[str]) -> Train:
    """The settings: defaults or those of the run to resume, then the flags."""
    resume = given(words, "--resume")
    default = Train() if resume is None else _restored(Run.open(resume))
    return parse(
        Train, words, prog="olm control train", description="Learn to write text that holds given words.", default=default
    )


def _restored(run: Run) -> Train:
    options = run.config.get("options")
    if run.config.get("kind") != "control" or not isinstance(options, dict):
        raise InputError(f"{run.path} was not made by olm control train: give a folder that it has made")
    if set(options) != set(GROUPS):
        raise InputError(f"{run.path}/config.json lacks settings: restore the file, or use the olm that made it")
    start, where = Train(), f"{run.path}/config.json: "
    return dataclasses.replace(
        start, **{name: restored_group(getattr(start, name), options[name], where + name) for name in GROUPS}
    )


def _sizes(options: Train, vocabulary: int) -> TransformerConfig:
    """The transformer's sizes: the prompt, the begin symbol, T tokens."""
    prompts = options.data.prompt_length if options.data.paired else 0
    return options.model.sized(vocabulary, prompts + 1 + options.data.length)


class _Work:
    """One command: its text and settings, and the folders in which its stages are kept and continued."""

    def __init__(self, options: Train, words: Sequence[str]):
        for group in (options.base, options.draw, options.chain, options.guide, options.seeds):
            group.check()
        data = options.data.resolved()
        self.options = options = dataclasses.replace(options, data=data)
        self.concepts = concepts_of(data.keywords)
        self.labelled = data.paired or bool(self.concepts)
        if not self.labelled and options.guide.method != "gelato":
            raise InputError(f"method {options.guide.method} learns what to hold: give --keywords, or take --method gelato")
        self.corpus = control.read_corpus(
            data.read(), vocabulary=data.vocabulary, length=data.length, prompt_length=data.prompt_length,
            seed=options.seeds.seed, held_out=data.held_out, lower=data.lower,
        )  # fmt: skip
        tokenizer = self.corpus.tokenizer
        self.spelt, self.model = token_bytes(tokenizer), _sizes(options, tokenizer.vocabulary)
        if self.concepts:
            if data.lower:
                self.concepts = _lowered(self.concepts)
            self.automaton = constraints([self.concepts], self.spelt, data.length, inflections=data.inflections)[0]
        self.sentences = len(self.corpus.train.tokens)
        if data.paired:
            self.corpus = self.corpus._replace(
                train=control.varied(self.corpus.train, tokenizer, variants=data.variants, seed=options.seeds.seed)
            )
        rows = self.corpus.train
        self.asked = rows.concepts if data.paired else (self.concepts,) * len(rows.tokens)
        if options.guide.method == "gelato" and options.guide.rounds > 1:
            raise InputError("method gelato learns no guide: leave --rounds out")
        if options.guide.method == "lora" and options.guide.rank > options.model.width:
            raise InputError(f"rank {options.guide.rank} exceeds the width {options.model.width}: lower it")
        self.command = ["olm", "control", "train", *words]
        self.keys = jax.random.split(jax.random.key(options.seeds.seed), 4)
        self.main: Run | None = None

    def config(self) -> dict[str, Any]:
        corpus, groups = self.corpus, {name: dataclasses.asdict(getattr(self.options, name)) for name in GROUPS}
        data = {
            "sentences": self.sentences,
            "held_out": len(corpus.held_out.tokens),
            "dropped": corpus.dropped,
            "vocabulary": corpus.tokenizer.vocabulary,
            "fingerprint": fingerprint([list(part[:2]) for part in (corpus.train, corpus.held_out)])[:16],
        }
        return {"kind": "control", "options": groups, "data": data, "files": self.options.data.hashes()}

    def stage(self, name: str, groups: Sequence[str], about: str, make: Callable[[Run, dict[str, Any]], dict[str, Any]]) -> Run:
        """A stage in a folder of its own, unless it is done; ``make`` saves what it found and returns the summary."""
        assert self.main is not None
        path, run = self.main.path / name, self.options.run
        if (path / "summary.json").exists():
            return Run.open(path)
        config = {"kind": f"control-{name}"} | {one: dataclasses.asdict(getattr(self.options, one)) for one in groups}
        if not run.quiet:
            say(f"{name}: {about}")
        there, started = (path / "config.json").exists(), time.monotonic()
        with Run.resume(path, config) if there else Run.create(path, config, self.command) as made:
            watching = {"run": made, "save_every": run.save_every, "progress": not run.quiet}
            found = make(made, watching)
            made.write_summary({**found, "seconds": round(time.monotonic() - started, 2)})
        return Run.open(path)

    # -- stages

    def base(self) -> Any:
        options, like = self.options, jax.eval_shape(transformers.init(self.model), jax.random.key(0))

        def make(run: Run, watching: dict[str, Any]) -> dict[str, Any]:
            base = options.base
            found = control.train_base(
                self.corpus,
                self.model,
                steps=base.steps,
                key=self.keys[0],
                batch_size=base.batch_size,
                peak=base.peak,
                **watching,
            )
            run.save("params", found.params)
            return {"loss": found.history[-1]["loss"], "parameters": self.model.parameters}

        about = f"{options.base.steps} steps, {self.model.parameters:,} parameters, {self.sentences:,} sentences"
        run = self.stage("base", ("model", "base", "seeds"), about, make)
        return jax.tree.map(jnp.asarray, run.load("params", like))

    def samples(self, params: Any) -> Samples:
        """Drawn and labelled; they are all that lies in the main folder's ``samples.npz``."""
        assert self.main is not None
        options, prompts = self.options, self.corpus.train.prompts
        n, length, width = options.draw.samples, options.data.length, prompts.shape[1]
        if (self.main.path / "samples.npz").exists():
            saved = self.main.load("samples")
            batch = control.batch_of(control.Rows(saved["tokens"], saved["prompts"], ()))
            batch["label"] = jnp.asarray(saved["label"])
            return Samples(batch, jnp.asarray(saved["weights"]), float(load_meta(self.main.path / "samples.npz")["rate"]))
        if not options.run.quiet:
            say(f"samples: {n:,} of at most {length} tokens")
        found = self._drawn(params, self.keys[1], options.draw.temperature)
        if options.guide.method != "gelato":
            try:
                check_labels(found)
            except InputError as error:
                longer = "; a base that reads the words learns to hold them with more --steps" if options.data.paired else ""
                raise InputError(f"{error}{longer}") from None
        seen = np.asarray(found.batch["context"].get("prompt", np.zeros((n, width), np.int32)))
        tree = {"tokens": found.batch["tokens"], "label": found.batch["label"], "prompts": seen, "weights": found.weights}
        self.main.save("samples", tree, {"rate": found.rate})
        return found

    def _drawn(self, params: Any, key: Array, temperature: float) -> Samples:
        options = self.options
        return control.draw(
            control.base_model(self.model, options.data.length), params, self.corpus.train.prompts, self.asked, self.spelt, key,
            n=options.draw.samples, inflections=options.data.inflections, temperature=temperature,
            progress=not options.run.quiet,
        )  # fmt: skip

    def chain(self, params: Any, samples: Samples) -> HMM:
        options, vocabulary, states = self.options, self.model.vocabulary, self.options.chain.states

        def make(run: Run, watching: dict[str, Any]) -> dict[str, Any]:
            # The chain stands for the base itself, not for the base at another temperature.
            own = samples if options.draw.temperature == 1 else self._drawn(params, jax.random.fold_in(self.keys[1], 1), 1.0)
            tokens = np.asarray(own.batch["tokens"])
            cut = _cut(len(tokens))
            found = control.distil(
                tokens[:cut], vocabulary, states=states, steps=options.chain.em_steps, key=self.keys[2],
                held_out=tokens[cut:], **watching,
            )  # fmt: skip
            run.save("hmm", found.params)
            return {"loss": found.history[-1]["held_out"]}

        about = f"{states} states, {options.chain.em_steps} steps of EM"
        run = self.stage("hmm", ("draw", "chain", "seeds"), about, make)
        return _loaded_chain(run, states, vocabulary)

    def guide(self, params: Any, samples: Samples) -> None:
        options, chosen = self.options, self.options.guide

        def make(run: Run, watching: dict[str, Any]) -> dict[str, Any]:
            cut = _cut(len(samples.weights))
            learned_from, held_out = (
                Samples(jax.tree.map(lambda x, part=part: x[part], samples.batch), samples.weights[part], samples.rate)
                for part in (slice(cut), slice(cut, None))
            )
            guide = guides.learned(chosen.method, self.model, options.data.length, params, rate=samples.rate, rank=chosen.rank)
            how: dict[str, Any] = {
                "batch_size": options.base.batch_size,
                "peak": chosen.guide_peak,
                "steps": chosen.guide_steps,
                "key": self.keys[3],
            }
            if chosen.rounds == 1:
                found = guides.train_guide(
                    guide, learned_from, held_out, weighted=options.draw.temperature != 1, **how, **watching
                )
            else:
                found = guides.explored_guide(
                    guide, params, self.model, options.data.length, self.corpus.train.prompts, self.asked, self.spelt,
                    learned_from, held_out, rounds=chosen.rounds, inflections=options.data.inflections,
                    weighted=chosen.method in guides.WEIGHTED, run=run, progress=watching["progress"], **how,
                )  # fmt: skip
            run.save("params", found.params["theta"], {"rate": samples.rate})
            return {"loss": found.history[-1]["loss"], "loss_before": found.history[0]["loss"]}

        about = f"{chosen.method}, {chosen.guide_steps} steps, {samples.rate:.2%} of the samples hold their words"
        self.stage("guide", ("model", "base", "draw", "guide", "seeds"), about, make)


def _cut(n: int) -> int:
    """How many of n samples are learned from."""
    return n - max(n // 10, 1)


def _lowered(concepts: Concepts) -> Concepts:
    return tuple(one.lower() if isinstance(one, str) else tuple(word.lower() for word in one) for one in concepts)


def _loaded_chain(run: Run, states: int, vocabulary: int) -> HMM:
    shape = [jax.ShapeDtypeStruct(size, jnp.result_type(float)) for size in ((states,), (states, states), (states, vocabulary))]
    return HMM(*map(jnp.asarray, run.load("hmm", HMM(*shape))))


SAMPLING = {"options.draw.samples", "options.draw.temperature"}
"""What may be another for a run that goes on and has no samples yet: the words may have turned out rare."""


def _train(words: Sequence[str]) -> int:
    options = _read(words)
    place = options.run
    check_place(place)
    work = _Work(options, words)
    config = work.config()
    if place.resume is None:
        opened = new_run(place.run_dir, "control", config, work.command)
    else:
        drawn = (Run.open(place.resume).path / "samples.npz").exists()
        opened = Run.resume(place.resume, config, may_change=() if drawn else SAMPLING)
    with opened as main:
        work.main = main
        if place.resume is not None:
            main.begin()
        if not place.quiet:
            say(f"writing to {main.path}")
            if work.corpus.dropped:
                say(f"{work.corpus.dropped:,} sentences are too long and left out: raise --length to keep them")
        try:
            saved = work.corpus.tokenizer.saved.encode()
            atomic_write(main.path / "tokenizer.json", lambda file: file.write(saved), started=True)
            params = work.base()
            samples = work.samples(params)
            chain = work.chain(params, samples)
            if work.options.guide.method != "gelato":
                work.guide(params, samples)
        except KeyboardInterrupt:
            say(f"interrupted; continue with: {shlex.join(['olm', 'control', 'train', '--resume', str(main.path)])}")
            return 130
        summary = _summary(work, samples, chain)
        main.write_summary(summary)
        print(_told(summary))
        print(f"run: {main.path}")
    return 0


def _summary(work: _Work, samples: Samples, chain: HMM) -> dict[str, Any]:
    assert work.main is not None
    stages = [name for name in ("base", "hmm", "guide") if (work.main.path / name / "summary.json").exists()]
    found: dict[str, Any] = {name: Run.open(work.main.path / name).summary() for name in stages}
    found["method"] = work.options.guide.method
    if work.labelled:
        label = np.asarray(samples.batch["label"])
        rate = {"samples": len(label), "accepted": int(label.sum()), "rate": samples.rate, "effective": samples.effective}
        if work.concepts:
            tables = posterior.lookahead(chain, work.automaton, work.options.data.length)
            rate["rate_of_hmm"] = float(np.exp(np.float64(tables.log_rate[0])))
        found["samples"] = rate
    return found


def _told(summary: Mapping[str, Any]) -> str:
    lines = [
        f"base: {summary['base']['loss']:.4f} nats a token on held-out text",
        f"hidden Markov model: {summary['hmm']['loss']:.4f} nats a token on held-out samples of the base",
    ]
    if "samples" in summary:
        rate = summary["samples"]
        more = f"; by the hidden Markov model {rate['rate_of_hmm']:.3%}" if "rate_of_hmm" in rate else ""
        lines.append(f"R, how often the base holds its words unasked: {rate['rate']:.3%} of {rate['samples']:,} samples{more}")
    if "guide" in summary:
        guide = summary["guide"]
        lines.append(f"guide {summary['method']}: held-out loss {guide['loss_before']:.4f} → {guide['loss']:.4f} nats a sentence")
    return "\n".join(lines)


# --- generate and evaluate --------------------------------------------------------------------------------------------


def work_of(folder: str) -> _Work:
    """Text, model and settings of a run folder."""
    return _Work(_restored(Run.open(folder)), [])


def sequences(rows: Any) -> tuple[np.ndarray, np.ndarray]:
    """Sentences as the base's transformer reads them, [N, P + 1 + T], and which labels are theirs, up to the first end."""
    begin = np.full((len(rows.tokens), 1), control.BEGIN, np.int32)
    tokens, prompts = np.asarray(rows.tokens, np.int32), np.asarray(rows.prompts, np.int32)
    ended = tokens == control.END
    mask = np.concatenate([np.zeros(prompts.shape, bool), np.cumsum(ended, 1) - ended == 0], 1)
    return np.concatenate([prompts, begin, tokens], 1), mask


def _loaded(folder: str) -> tuple[Control, Train]:
    """The models of a finished run, and its settings."""
    run = Run.open(folder)
    options = _restored(run)
    if not (run.path / "summary.json").exists():
        raise InputError(f"{folder} is not finished: go on with olm control train --resume {shlex.quote(folder)}")
    tokenizer = load_tokenizer(read_text(run.path / "tokenizer.json"))
    config, length = _sizes(options, tokenizer.vocabulary), options.data.length
    like = jax.eval_shape(transformers.init(config), jax.random.key(0))
    params = jax.tree.map(jnp.asarray, Run.open(run.path / "base").load("params", like))
    found = Control(
        tokenizer,
        control.base_model(config, length),
        params,
        options.data.prompt_length if options.data.paired else 0,
        _loaded_chain(Run.open(run.path / "hmm"), options.chain.states, tokenizer.vocabulary),
        inflections=options.data.inflections,
    )
    if options.guide.method != "gelato":
        path = run.path / "guide" / "params.npz"
        rate = float(load_meta(path)["rate"])
        guide = guides.learned(options.guide.method, config, length, params, rate=rate, rank=options.guide.rank)
        # What is frozen is the base; only what was learned lies in the folder.
        start = guide.init(jax.random.key(0))
        theta = load_arrays(path, jax.eval_shape(lambda: start["theta"]))
        found = found._replace(guide=guide.guide, guide_params={**start, "theta": jax.tree.map(jnp.asarray, theta)})
    return found, options


def _asked(options: Train, concepts: Sequence[Concepts] | None, keywords: Sequence[str], guides: Sequence[str]) -> list[Concepts]:
    """The sets of concepts: of a file, of the command line, or the run's own."""
    own = concepts_of(options.data.keywords)
    if "learned" in guides and options.guide.method == "gelato":
        raise InputError("no guide was learned here: choose gelato, mask or none")
    if concepts is not None and keywords:
        raise InputError("both a file of concepts and --keywords were given: give one of them")
    found = list(concepts) if concepts is not None else [concepts_of(keywords)] if keywords else [own] if own else []
    if not found:
        raise InputError("what to hold was not said: give a file of concepts, or --keywords")
    if options.data.lower:
        found, own = [_lowered(one) for one in found], _lowered(own)
    if "learned" in guides and not options.data.paired and any(set(one) != set(own) for one in found):
        raise InputError(
            f"the learned guide is for {' '.join(map(repr, options.data.keywords))} only: leave other words out, or use gelato"
        )
    return found


def _clauses(path: str) -> list[Concepts]:
    return [concepts_of(one.concepts) for one in read_sets(path)]


def _writing(options: Train, decoding: Decoding, key: Array) -> dict[str, Any]:
    # FUDGE runs its network for each of the V next tokens.
    rows = max(1, 4096 // options.data.vocabulary) if options.guide.method == "fudge" else 64
    rows = max(1, rows // decoding.width) if decoding.decode == "beam" else rows
    return {
        "how": decoding.decode, "width": decoding.width, "temperature": decoding.temperature, "rows": rows,
        "progress": not decoding.quiet, "key": key,
    }  # fmt: skip


def _checked(decoding: Decoding) -> Array:
    if not decoding.temperature > 0:
        raise InputError(f"temperature is {decoding.temperature:g}: give a positive number, or take greedy decoding")
    if not 0 <= decoding.seed < 2**31:
        raise InputError(f"seed is {decoding.seed}: give a number from 0 of at most 31 bits")
    return jax.random.key(decoding.seed)


def _generate(words: Sequence[str]) -> int:
    if not words:
        raise InputError("name the folder of a run: olm control generate RUN")
    options = parse(
        Generate, words, prog="olm control generate", description="Write text that holds given words, with the models of a run."
    )
    key = _checked(options.decoding)
    found, trained = _loaded(options.folder)
    guide = options.guide or ("gelato" if found.guide is None else "learned")
    sets = _asked(trained, None if options.concepts is None else _clauses(options.concepts), options.keywords, [guide])
    n = (20 if options.decoding.decode == "sample" else 1) if options.n is None else options.n
    written = write(found, sets, guide=guide, n=n, weight=options.decoding.weight, **_writing(trained, options.decoding, key))
    gap = "\n\n" if n > 1 else "\n"
    text = gap.join("\n".join(" ".join(one.split("\n")) for one in several) for several in written.texts) + "\n"
    if options.output is None:
        print(text, end="")
    else:
        atomic_write(options.output, lambda file: file.write(text.encode()))
    say(f"{written.met.mean():.1%} of {written.met.size} sentences hold all their words (guide {guide})")
    return 0


def _evaluate(words: Sequence[str]) -> int:
    if not words:
        raise InputError("name the folder of a run: olm control evaluate RUN")
    options = parse(
        Evaluate, words, prog="olm control evaluate", description="Measure how many sentences hold their words, guide by guide."
    )
    key = _checked(options.decoding)
    found, trained = _loaded(options.folder)
    if options.references is not None and options.concepts is None:
        raise InputError("--references are of the sets of --concepts: give both")
    if options.jsonl is not None and options.concepts is not None:
        raise InputError("both --jsonl and --concepts were given: give one of them")
    rows = (
        read_jsonl(options.jsonl)
        if options.jsonl is not None
        else read_sets(options.concepts, options.references)
        if options.concepts is not None
        else None
    )
    guides = options.guides or tuple(one for one in GUIDES if one != "learned" or found.guide is not None)
    if unknown := set(guides) - set(GUIDES):
        raise InputError(f"unknown guide {sorted(unknown)[0]!r}: choose from {', '.join(GUIDES)}")
    if options.decoding.weight is not None and "gelato" not in guides:
        raise InputError("weight is for guide gelato: leave it out")
    if options.sets is not None:
        if rows is None:
            raise InputError("--sets chooses among the sets of a file: give --concepts or --jsonl")
        if not 1 <= options.sets <= len(rows):
            raise InputError(f"sets is {options.sets}: give a number from 1 to {len(rows)}")
        rows = [rows[i] for i in np.linspace(0, len(rows) - 1, options.sets).round().astype(int)]
    sets = _asked(trained, None if rows is None else [concepts_of(one.concepts) for one in rows], options.keywords, guides)
    references = None
    if rows is not None and all(one.references for one in rows):
        lower = trained.data.lower
        references = [[text.lower() if lower else text for text in one.references] for one in rows]
    n = (1 if len(sets) > 1 else 100) if options.n is None else options.n
    if options.n is None and options.decoding.decode != "sample":
        n = 1
    results: dict[str, Any] = {}
    for guide in guides:
        weight = options.decoding.weight if guide == "gelato" else None
        written = write(found, sets, guide=guide, n=n, weight=weight, timed=True, **_writing(trained, options.decoding, key))
        results[guide] = judged(written, sets, references=references, inflections=found.inflections)
    path = Run.open(options.folder).path / "evaluation.json"
    settings = {name: value for name, value in dataclasses.asdict(options.decoding).items() if name != "quiet"}
    asked = {"concepts": options.concepts, "jsonl": options.jsonl, "references": options.references, "keywords": options.keywords}
    write_json(path, {"decoding": settings, "asked": asked, "n": n, "guides": results})
    print(_compared(results))
    over = f"{len(sets)} sets" if len(sets) > 1 else f"{n} sentences"
    print(f"in brackets: 95% over {over}; written to {path}")
    return 0


def _compared(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each guide."""
    bleu = any("bleu" in one for one in results.values())
    titles = ["guide", "concepts covered", "all covered", "satisfied", *(["BLEU"] if bleu else []), "distinct-2"]
    rows = [[*titles, "base nats/token", "tokens/s"]]
    for guide, one in results.items():
        cells = [f"{one[name]:.1%} [{one[f'{name}_interval'][0]:.1%}, {one[f'{name}_interval'][1]:.1%}]"
                 for name in ("coverage", "complete")]  # fmt: skip
        more = [f"{one['bleu']:.1f}"] if bleu else []
        distinct = "–" if one["distinct_2"] is None else f"{one['distinct_2']:.3f}"
        row = [guide, *cells, f"{one['satisfied']:.1%}", *more, distinct]
        rows.append([*row, f"{one['nats_per_token']:.3f}", f"{one['tokens_per_second']:,.0f}"])
    return "\n".join(aligned(rows))
