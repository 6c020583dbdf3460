"""The runs of `memory.py`: presets, data, and each run as a file once it is done. A run trains all seeds side by side."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import _bench
import jax
import numpy as np

from olm.data import questions as question_data
from olm.data import stories as story_data
from olm.data.questions import QuestionConfig
from olm.memory import experiment, measure
from olm.models import transformer
from olm.models.transformer import TransformerConfig
from olm.tasks import sequence


@dataclass(frozen=True)
class Preset:
    """Everything that a table depends on. Model sizes are widths; the learning rate is ``peak`` · √(32 / width)."""

    length: int = 32
    layers: int = 2
    vocabulary: int = 512  # of text; stories have 256 words
    batch: int = 32
    peak: float = 3e-3
    looked_at: int = 1024
    points: int = 20
    # 100%, 1% and 0.1% of one corpus
    corpora: tuple[str, ...] = ("stories", "library")
    corpus: int = 3_276_800  # tokens of generated stories; the library has what it has
    shares: tuple[float, ...] = (1.0, 0.01, 0.001)
    widths: tuple[int, ...] = (16, 32, 64)
    steps: int = 2400
    # question formation
    depths: tuple[int, ...] = (6, 10)
    question_width: int = 64
    question_heads: int = 4
    question_mlp: int = 1
    question_batch: int = 8
    question_steps: int = 6000
    question_peak: float = 2e-3
    question_warmup: int = 300
    question_init: Literal["torch", "gpt2"] = "torch"  # small models learn to copy much later from gpt2's
    lines: int = 90_000  # about two million tokens
    words: tuple[int, ...] = (24, 272)  # beside 68
    # D* against N: width, then the sizes of the training set in tokens
    grid: tuple[tuple[int, tuple[int, ...]], ...] = (
        (8, (32_768, 65_536, 131_072, 262_144)),
        (16, (32_768, 65_536, 131_072, 262_144, 524_288)),
        (32, (65_536, 131_072, 262_144, 524_288)),
        (64, (65_536, 131_072, 262_144, 524_288)),
    )
    grid_steps: int = 2400  # at least; more where four epochs take more
    epochs: int = 4


CPU = Preset()
QUICK = Preset(
    vocabulary=300, batch=8, looked_at=32, points=4, corpora=("stories",), corpus=3_200, widths=(8,), steps=20, depths=(2,),
    shares=(1.0, 0.1), question_width=16, question_steps=20, question_warmup=5, lines=64, words=(), grid_steps=20, epochs=0,
    grid=((8, (512, 2048)), (12, (512, 2048)), (16, (512, 1024, 2048, 4096))),
)  # fmt: skip
# The paper's model of question formation, for fewer steps; larger models, 256 times apart, for the rest.
GPU = Preset(
    layers=4, length=64, batch=64, peak=2e-3, looked_at=2048, corpus=26_214_400, widths=(128, 512), steps=3000,
    question_width=512,
    question_steps=10_000, question_peak=3e-4, question_warmup=1000, question_init="gpt2", words=(24, 272, 1088), grid_steps=3000,
    grid=(
        (16, (65_536, 131_072, 262_144, 524_288, 1_048_576)),
        (32, (65_536, 131_072, 262_144, 524_288, 1_048_576)),
        (64, (131_072, 262_144, 524_288, 1_048_576, 2_097_152)),
        (128, (131_072, 262_144, 524_288, 1_048_576, 2_097_152)),
        (256, (131_072, 262_144, 524_288, 1_048_576, 2_097_152)),
    ),
)  # fmt: skip
PRESETS = {"cpu": CPU, "gpu": GPU, "quick": QUICK}


def tables() -> story_data.Grammar:
    """The grammar of the generated stories."""
    return story_data.grammar(sequence.languages("none")[0])


@dataclass(frozen=True)
class Corpus:
    """Windows to learn from, for each seed, and windows that nobody learns from."""

    train: tuple[np.ndarray, ...]
    validation: np.ndarray
    vocabulary: int
    entropy: float | None

    def floor(self, sets: list[np.ndarray]) -> Any:
        """The source's own losses, where it is known."""
        if self.entropy is None:
            return None
        return [story_data.losses(tables(), part) for part in sets], story_data.losses(tables(), self.validation)


@functools.cache
def corpus(name: str, seeds: tuple[int, ...], tokens: int, p: Preset) -> Corpus:
    """ "stories": other ones for each seed; "library", or files joined by the path separator: the same text in another order."""
    if name == "stories":
        rows = max(tokens // p.length, p.batch)
        made = [
            sequence.stories("none", seed, rows=rows, validation=p.looked_at, test=1, length=p.length, datasets=1)[0]
            for seed in seeds
        ]
        return Corpus(tuple(part.train for part in made), made[0].validation, made[0].vocabulary, made[0].entropy)
    held_out: dict[str, Any] = {"vocabulary": p.vocabulary, "length": p.length, "validation": p.looked_at // 2, "test": 64}
    if name == "library":
        parts = sequence.library("strong", **held_out)
    else:
        parts = sequence.texts([name.split(os.pathsep)], **{**held_out, "validation": p.looked_at})
    whole = np.concatenate([part.train for part in parts])
    orders = [np.random.default_rng(seed).permutation(len(whole)) for seed in seeds]
    return Corpus(
        tuple(whole[order] for order in orders), np.concatenate([part.validation for part in parts]), parts[0].vocabulary, None
    )


class Bench:
    """One preset and its seeds, with runs kept below a folder."""

    def __init__(self, preset: Preset, seeds: list[int], folder: Path, progress: bool):
        self.preset, self.seeds, self.progress = preset, tuple(seeds), progress
        self.folder = _bench.kept_below(folder, preset)
        self.used: list[dict[str, Any]] = []

    def cell(self, name: str, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A finished run from its file, or run now."""
        seeds = "-".join(map(str, self.seeds))
        found = _bench.cell(self.folder / f"seeds_{seeds}" / f"{name}.json", name, run)
        self.used.append({key: found.get(key) for key in ("device", "commit", "seconds")})
        return found

    def made(self) -> dict[str, Any]:
        """Where and in which commits the runs that were read were made, and the seconds they took, one at a time."""
        places = {key: sorted({str(one[key]) for one in self.used}) for key in ("device", "commit")}
        return {**places, "runs": len(self.used), "seconds": sum(one["seconds"] for one in self.used)}

    def _keys(self) -> jax.Array:
        return jax.vmap(jax.random.key)(np.array(self.seeds, np.uint32))

    def model(self, width: int, vocabulary: int) -> TransformerConfig:
        """The transformer of a width."""
        p, heads = self.preset, max(2, width // 32) if width >= 64 else 2
        return TransformerConfig(vocabulary, p.length, width, p.layers, heads, score_scale="head", init="gpt2")

    def on_corpus(self, name: str, tokens: int, width: int, steps: int, whole: int | None = None) -> dict[str, Any]:
        """Train on the first ``tokens`` of a corpus (of ``whole`` tokens, if it is generated)."""
        p = self.preset

        def run() -> dict[str, Any]:
            source = corpus(name, self.seeds, tokens if whole is None else whole, p)
            sets = [part[: max(tokens // p.length, 1)] for part in source.train]
            config = self.model(width, source.vocabulary)
            found = experiment.learn(
                config, [{"tokens": part} for part in sets], {"tokens": source.validation}, self._keys(), steps=steps,
                batch_size=p.batch, peak=p.peak * (32 / width) ** 0.5, points=p.points, looked_at=p.looked_at,
                floor=source.floor([part[: p.looked_at] for part in sets]), progress=self.progress,
            )  # fmt: skip
            return {
                "corpus": name,
                "tokens": sets[0].shape[0] * p.length,
                "width": width,
                "parameters": config.parameters,
                "layer_parameters": (4 + 2 * config.mlp_ratio) * p.layers * width**2,
                "vocabulary": source.vocabulary,
                "entropy": source.entropy,
                "history": found.history,
                "memory": self._memory(config, found.params, sets, source.validation),
            }

        return self.cell(f"corpus_{_word(name)}_{tokens}_of_{whole or tokens}_width_{width}_{steps}", run)

    def telling_apart(self, name: str, tokens: int, whole: int | None) -> list[float]:
        """`telling_apart` of the first ``tokens`` of a corpus, for each seed."""
        source = corpus(name, self.seeds, whole or 10**12, self.preset)
        return [telling_apart(part[: max(tokens // self.preset.length, 1)]) for part in source.train]

    def question_scatter(self, words: int, copied: bool) -> list[float]:
        """How far the own loss of the lines looked at is from the entropy, for each seed: what the losses of a row carry."""
        p, language = self.preset, question_data.grammar(QuestionConfig(vocabulary=words, copied=copied))
        exact = question_data.entropy(language)
        lines = p.lines * (1 if copied else 2)
        drawn = [question_data.draw(language, jax.random.key(seed), lines) for seed in self.seeds]
        parts = [*drawn, question_data.draw(language, jax.random.key(9_999), p.looked_at)]
        *train, held = [question_data.losses(language, x["tokens"][: p.looked_at]).mean() / exact.labels for x in parts]
        return [float((one + held) / 2 - exact.rate) for one in train]

    def _memory(self, config: TransformerConfig, params: Any, sets: list[np.ndarray], validation: np.ndarray) -> list[Any]:
        """What each seed's model knows by heart at the last step."""
        found = []
        for s, part in enumerate(sets):
            one = jax.tree.map(lambda leaf, s=s: leaf[s], params)
            stored, held = measure.samples(part, self.preset.looked_at), measure.samples(validation)
            found.append(measure.measure(config, one, stored, held, jax.random.key(self.seeds[s]), retrieved=0).summary())
        return found

    def retrieval(self, share: float | None) -> dict[str, Any]:
        """Do layers return to their patterns? After training on a share of the stories, or with no training at all."""
        p, width = self.preset, self.preset.widths[len(self.preset.widths) // 2]

        def run() -> dict[str, Any]:
            source = corpus("stories", self.seeds, p.corpus, p)
            sets = [part[: max(round((share or min(p.shares)) * p.corpus) // p.length, 1)] for part in source.train]
            config = self.model(width, source.vocabulary)
            params = jax.vmap(transformer.init(config))(self._keys())
            if share is not None:
                params = experiment.learn(
                    config, [{"tokens": part} for part in sets], {"tokens": source.validation}, self._keys(), steps=p.steps,
                    batch_size=p.batch, peak=p.peak * (32 / width) ** 0.5, points=2, looked_at=p.looked_at,
                    progress=self.progress,
                ).params  # fmt: skip
            found = []
            for s, part in enumerate(sets):
                one = jax.tree.map(lambda leaf, s=s: leaf[s], params)
                few = min(len(part), len(source.validation), 512)
                stored, held = measure.samples(part, few), measure.samples(source.validation, few)
                found.append(measure.measure(config, one, stored, held, jax.random.key(self.seeds[s]), retrieved=few).summary())
            return {"share": share, "width": width, "patterns": few, "memory": found}

        return self.cell(f"retrieval_{share}_width_{width}", run)

    def questions(self, words: int, copied: bool, layers: int, few: int | None = None) -> dict[str, Any]:
        """Question formation, or its declaratives alone; ``few``: lines to learn from again and again."""
        p = self.preset

        def run() -> dict[str, Any]:
            language = question_data.grammar(QuestionConfig(vocabulary=words, copied=copied))
            exact = question_data.entropy(language)
            # The same number of labels to learn from, with and without the second half.
            lines = few or p.lines * (1 if copied else 2)
            sets = [question_data.draw(language, jax.random.key(seed), lines) for seed in self.seeds]
            held = question_data.draw(language, jax.random.key(9_999), p.looked_at)
            floor = [question_data.losses(language, part["tokens"][: p.looked_at]) / exact.labels for part in [*sets, held]]
            config = TransformerConfig(
                len(language.words), language.length, p.question_width, layers, p.question_heads, p.question_mlp,
                score_scale="head", init=p.question_init,
            )  # fmt: skip
            steps, peak = p.question_steps, p.question_peak
            # Warm-up and a linear fall, as published; the last tenth of the run is the plateau that is reported.
            rates = peak * np.minimum(np.arange(steps) / p.question_warmup, 1 - np.arange(steps) / steps)
            found = experiment.learn(
                config, sets, held, self._keys(), losses=experiment.label_losses(config, exact.labels), steps=steps,
                batch_size=p.question_batch, rates=rates, points=2 * p.points, looked_at=p.looked_at,
                floor=(floor[:-1], floor[-1]), progress=self.progress,
            )  # fmt: skip
            return {
                "words": words,
                "copied": copied,
                "layers": layers,
                "parameters": config.parameters,
                "tokens": float(lines * exact.labels),
                "entropy": exact.rate,
                "labels": exact.labels,
                "history": found.history,
            }

        again = "" if few is None else f"_{few}_lines"
        return self.cell(f"questions_{words}_{'pairs' if copied else 'declaratives'}_{layers}_layers{again}", run)


def _word(name: str) -> str:
    """What a corpus is called in file names: of text files, a hash of what they hold."""
    if name in ("stories", "library"):
        return name
    digest = hashlib.sha256()
    for file in name.split(os.pathsep):
        digest.update(Path(file).read_bytes())
    return f"files_{digest.hexdigest()[:8]}"


def telling_apart(windows: np.ndarray) -> float:
    """The training loss of whoever knows all windows by heart, nats a label.

    The first token is given, so it is (H(window) − H(first token)) / L, with H the entropies of what was drawn: log N / L for N
    different windows that all begin alike.
    """

    def entropy(rows: np.ndarray) -> float:
        share = np.unique(rows, axis=0, return_counts=True)[1] / len(rows)
        return float(-(share * np.log(share)).sum())

    return (entropy(windows) - entropy(windows[:, :1])) / (windows.shape[1] - 1)
