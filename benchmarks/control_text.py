"""CommonGen on two cores (Lin et al. 2020, arXiv 1911.03705): a sentence with given concepts, guided and unguided.

A small transformer learns sentences after their concepts, or words of their own; a hidden Markov model learns the transformer's
samples; NADO, DiNADO-Soft (labels at the end or at every prefix) and DiNADO-Merge by LoRA learn from labelled samples, in
rounds, each from the same number of them. Judged on two collections of sets, none of which occurs in training: "held out", of the
training file, and "development", most of whose concepts are rare or none in the training file. Measured: coverage of concepts
with all inflections, sentences with all of them, BLEU, the base's own nats a token. Intervals are over seeds of the guides;
differences between guides on the same sets have theirs over sets (bootstrap). ``--data`` is a folder with
commongen_v1.0.train.src_alpha.txt, commongen_v1.0.train.tgt.txt, common_gen-keys-dev.txt and common_gen-ref-dev.txt. Every stage
is a file below --cells once it is done:

    python benchmarks/control_text.py --data FOLDER
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _bench
import jax
import jax.numpy as jnp
import numpy as np

from olm.control import generate, guides, measures, text
from olm.control.keywords import token_bytes
from olm.control.samples import Samples
from olm.data.concepts import ConceptSet, read_pairs, read_sets
from olm.models.hmm import HMM
from olm.models.transformer import TransformerConfig
from olm.records import load_arrays, save_arrays


@dataclass(frozen=True)
class Preset:
    """Everything that the table depends on."""

    vocabulary: int = 3000
    length: int = 20
    prompt: int = 14
    variants: int = 8
    width: int = 128
    layers: int = 2
    heads: int = 2
    base_steps: int = 8000
    base_peak: float = 3e-3
    states: int = 64
    em_steps: int = 30
    chain_samples: int = 20_000
    samples: int = 24_000
    rounds: int = 2
    steps: int = 900
    batch: int = 64
    peak: float = 1e-3
    peak_lora: float = 2e-3
    sets: int = 500
    tabled_sets: int = 200
    sentences: int = 4


FULL = Preset()
QUICK = Preset(
    vocabulary=300, length=16, prompt=16, width=16, layers=1, heads=2, base_steps=30, states=8, em_steps=3, chain_samples=500,
    samples=400, rounds=2, steps=20, batch=32, sets=8, tabled_sets=4, sentences=2,
)  # fmt: skip
UNTRAINED: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("unguided", "none", {}),
    ("masking", "mask", {}),
    ("GeLaTo", "gelato", {}),
    ("GeLaTo, w = 0.3", "gelato", {"weight": 0.3}),
)
METHODS = {
    "NADO": "nado",
    "DiNADO-Soft": "dinado",
    "DiNADO-Soft, labels at every prefix": "dense",
    "DiNADO-Merge by LoRA": "lora",
}


class Bench:
    """The corpus, the base and the runs."""

    def __init__(self, preset: Preset, data: Path, cells: Path):
        p = self.preset = preset
        self._samples: Any = None
        self.folder = _bench.kept_below(cells, p)
        pairs = read_pairs(data / "commongen_v1.0.train.src_alpha.txt", data / "commongen_v1.0.train.tgt.txt")
        corpus = text.read_corpus(pairs, vocabulary=p.vocabulary, length=p.length, prompt_length=p.prompt, lower=True)
        self.corpus = corpus._replace(train=text.varied(corpus.train, corpus.tokenizer, variants=p.variants))
        self.tokens = token_bytes(corpus.tokenizer)
        vocabulary = corpus.tokenizer.vocabulary
        self.config = TransformerConfig(
            vocabulary, p.length + p.prompt + 1, p.width, p.layers, p.heads, score_scale="head", init="gpt2"
        )
        self.base = text.base_model(self.config, p.length)
        held: dict[tuple[str, ...], list[str]] = {}
        for concepts, row in zip(corpus.held_out.concepts, corpus.held_out.tokens, strict=True):
            held.setdefault(tuple(sorted(concepts)), []).append(corpus.tokenizer.decode(row).strip())
        collections = {
            "held out": [ConceptSet(concepts, tuple(references)) for concepts, references in held.items()],
            "development": read_sets(data / "common_gen-keys-dev.txt", data / "common_gen-ref-dev.txt"),
        }
        # A sentence's own words, with which the base is prompted too, may happen to be such a set.
        prompted = {frozenset(one) for one in self.corpus.train.concepts}
        self.sets = {}
        for name, every in collections.items():
            new = [one for one in every if frozenset(one.concepts) not in prompted]
            fitting = [one for one in new if len(corpus.tokenizer.encode(text.spelt_prompt(one.concepts))) <= p.prompt]
            self.sets[name] = [fitting[i] for i in np.random.default_rng(0).permutation(len(fitting))[: p.sets]]

    def stage(self, name: str, run: Any, like: Any = None) -> tuple[dict[str, Any], Any]:
        """A stage's numbers and arrays (of the structure of ``like``), from its files or made now."""
        path = self.folder / f"{name}.npz"

        def kept() -> dict[str, Any]:
            numbers, arrays = run()
            path.parent.mkdir(parents=True, exist_ok=True)
            save_arrays(path, arrays)
            return numbers

        numbers = _bench.cell(self.folder / f"{name}.json", name, kept)
        return numbers, jax.tree.map(jnp.asarray, load_arrays(path, like))

    def trained(self) -> tuple[dict[str, Any], Any]:
        """The base."""
        p = self.preset

        def run() -> tuple[dict[str, Any], Any]:
            found = text.train_base(
                self.corpus, self.config, steps=p.base_steps, key=jax.random.key(0), batch_size=p.batch, peak=p.base_peak,
                every=max(p.base_steps // 8, 1), progress=True,
            )  # fmt: skip
            return {"history": found.history, "parameters": self.config.parameters}, found.params

        return self.stage("base", run)

    def chain(self, params: Any) -> tuple[dict[str, Any], Any]:
        """The hidden Markov model of the base's samples."""
        p, train = self.preset, self.corpus.train

        def run() -> tuple[dict[str, Any], Any]:
            drawn = text.draw(
                self.base, params, train.prompts, train.concepts, self.tokens, jax.random.key(1), n=p.chain_samples,
                inflections=True,
            )  # fmt: skip
            found = text.distil(
                np.asarray(drawn.batch["tokens"]), self.config.vocabulary, states=p.states, steps=p.em_steps,
                key=jax.random.key(2), held_out=np.asarray(drawn.batch["tokens"][-500:]),
            )  # fmt: skip
            return {"history": found.history, "rate": drawn.rate}, found.params

        return self.stage("chain", run)

    def samples(self, params: Any, seed: int) -> tuple[Samples, Samples, Any]:
        """A seed's first samples, those to measure with, and its key; the same for all methods."""
        if self._samples is None or self._samples[0] != seed:
            each, train = self.preset.samples // self.preset.rounds, self.corpus.train
            keys = jax.random.split(jax.random.key(100 + seed), 3)
            drawn = [
                text.draw(self.base, params, train.prompts, train.concepts, self.tokens, key, n=n, inflections=True, chunk=512)
                for key, n in ((keys[0], each), (keys[1], each // 4))
            ]
            self._samples = (seed, (drawn[0], drawn[1], keys[2]))
        return self._samples[1]

    def guide(self, name: str, params: Any, rate: float, seed: int) -> tuple[dict[str, Any], Any, Any]:
        """A learned guide."""
        p, train = self.preset, self.corpus.train
        method = METHODS[name]
        made = guides.learned(method, self.config, p.length, params, rate=rate)

        def run() -> tuple[dict[str, Any], Any]:
            first, held, key = self.samples(params, seed)
            found = guides.explored_guide(
                made, params, self.config, p.length, train.prompts, train.concepts, self.tokens, first, held, rounds=p.rounds,
                steps=p.steps, key=key, inflections=True, weighted=method in guides.WEIGHTED, batch_size=p.batch,
                peak=p.peak_lora if method == "lora" else p.peak, progress=True,
            )  # fmt: skip
            return {"history": found.history}, found.params["theta"]

        like = jax.eval_shape(lambda: made.init(jax.random.key(0))["theta"])
        numbers, theta = self.stage(f"seed-{seed}/{name}", run, like)
        frozen = {"base": params} | ({"reference": params} if method == "lora" else {})
        return numbers, made.guide, {"theta": theta, "frozen": frozen}

    def judged(self, label: str, control: generate.Control, guide: str, seed: int, collection: str, **how: Any) -> dict[str, Any]:
        """Coverage and the rest on a collection of sets."""
        p, chosen = self.preset, self.sets[collection]
        chosen = chosen[: p.tabled_sets] if guide in ("mask", "gelato") else chosen  # each of them needs an automaton

        def run() -> dict[str, Any]:
            sets = [one.concepts for one in chosen]
            written = generate.write(control, sets, guide=guide, key=jax.random.key(50 + seed), n=p.sentences, timed=True, **how)
            references = [[one.lower() for one in each.references] for each in chosen]
            found = generate.judged(written, sets, references=references, inflections=True)
            cover = measures.coverage(
                [one for several in written.texts for one in several],
                [one for one in sets for _ in range(p.sentences)],
                inflections=True,
            )
            by_set = [part.reshape(len(sets), -1).sum(1).tolist() for part in (cover.found, cover.asked)]
            return {**found, "examples": [one[0] for one in written.texts[:8]], "covered": by_set[0], "asked": by_set[1]}

        name = f"judged on {collection}, {label}"
        return _bench.cell(self.folder / f"seed-{seed}" / f"{name}.json", f"seed {seed}: {name}", run)


def differences(of: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Coverage of one guide less that of another on the same sets, all seeds together; intervals over sets (bootstrap)."""
    found = {}
    for name, other in itertools.product(METHODS, ("unguided", *METHODS)):
        if name == other or not all(one in of for one in (name, other)):
            continue
        by_seed = np.array([np.subtract(a["covered"], b["covered"]) for a, b in zip(of[name], of[other], strict=True)], float)
        asked = np.array([one["asked"] for one in of[name]], float)
        low, high = generate.interval(by_seed.sum(0), asked.sum(0))
        found[f"{name} less {other}"] = {
            "mean": float(by_seed.sum() / asked.sum()), "low": low, "high": high,
            "by_seed": (by_seed.sum(1) / asked.sum(1)).tolist(),
        }  # fmt: skip
    return found


def main() -> None:
    """Measure and record."""
    parser = _bench.parser(__doc__.splitlines()[0], seeds=(0, 1, 2))
    parser.add_argument("--data", type=Path, required=True, help="folder with CommonGen's files")
    parser.add_argument("--cells", type=Path, default=_bench.ROOT / "runs" / "control_text", help="finished stages")
    parser.add_argument("--only", nargs="+", choices=("base", *METHODS), help="these stages alone, for a second process")
    args = parser.parse_args()
    bench = Bench(QUICK if args.quick else FULL, args.data, args.cells)
    base, params = bench.trained()
    if args.only == ["base"]:
        return
    chain, hmm = bench.chain(params)
    hmm = HMM(**hmm)
    control = generate.Control(
        base=bench.base,
        params=params,
        tokenizer=bench.corpus.tokenizer,
        prompt_length=bench.preset.prompt,
        hmm=hmm,
        inflections=True,
    )
    rows: dict[str, dict[str, list[dict[str, Any]]]] = {collection: {} for collection in bench.sets}
    histories: dict[str, Any] = {}
    for seed in args.seeds:
        for name in METHODS:
            if name not in (args.only or METHODS):
                continue
            numbers, guide, learned = bench.guide(name, params, chain["rate"], seed)
            histories.setdefault(name, []).append(numbers["history"])
            own = control._replace(guide=guide, guide_params=learned)
            for collection, of in rows.items():
                of.setdefault(name, []).append(bench.judged(name, own, "learned", seed, collection))
        if args.only is None:
            for collection, of in rows.items():
                for name, guide, how in UNTRAINED:
                    of.setdefault(name, []).append(bench.judged(name, control, guide, seed, collection, **how))
    summary = {
        collection: {
            name: {m: _bench.interval([one[m] for one in found]) for m in found[0] if isinstance(found[0][m], (int, float))}
            for name, found in of.items()
        }
        for collection, of in rows.items()
    }
    _bench.table(
        {"sets": collection, "guide": name, "measure": m, **{k: found[m][k] for k in ("mean", "low", "high")}}
        for collection, of in summary.items()
        for name, found in of.items()
        for m in found
    )
    compared = {collection: differences(of) for collection, of in rows.items()}
    _bench.table(
        {"sets": collection, "coverage": name, **{k: one[k] for k in ("mean", "low", "high")}}
        for collection, of in compared.items()
        for name, one in of.items()
    )
    if args.only is None:
        thin = {
            collection: {
                name: [{k: v for k, v in one.items() if k not in ("covered", "asked")} for one in each]
                for name, each in of.items()
            }
            for collection, of in rows.items()
        }
        found = {"base": base, "chain": chain, "guides": histories, "rows": thin, "summary": summary, "differences": compared}
        _bench.save("control_text", {"preset": vars(bench.preset), **found}, args)


if __name__ == "__main__":
    main()
