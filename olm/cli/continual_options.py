"""Every setting of `olm continue` as frozen dataclasses, and what they build; a field is a flag, the text below it its help."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import numpy as np
from tyro.conf import FlagCreatePairsOff, arg

from olm import schedules
from olm.cli.tasks import count, none_means
from olm.errors import InputError
from olm.learner import Adam
from olm.models.transformer import TransformerConfig
from olm.tasks import sequence
from olm.tasks.sequence import Dataset

SCHEDULES = ("rewarmed", "held", "infinite-cosine", "infinite-inverse_sqrt", "infinite-linear", "wsd")
BASELINES = ("union", "scratch", "held")
PILOTS = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5)


@dataclass(frozen=True)
class Source:
    """What every kind of data has."""

    length: int = 32
    """L, tokens predicted in a window."""
    validation: int = 64
    """Held-out windows of each dataset to choose by."""
    tests: int = 256
    """Held-out windows of each dataset to report."""

    def resolved(self) -> Any:
        return self

    def hashes(self) -> dict[str, str]:
        return {}


@dataclass(frozen=True)
class Stories(Source):
    """Generated languages of known entropy."""

    name = "stories"

    shift: Annotated[str, arg(metavar="{weak,strong,none}")] = "weak"
    """From one dataset to the next: other topics of one grammar; another grammar over the same ids; or none."""
    datasets: int = 2
    """How many, one after the other."""
    vocabulary: int = 256
    """V, token ids."""

    def build(self, seed: int, rows: Sequence[int]) -> tuple[Dataset, ...]:
        this: Any = self
        return sequence.stories(
            this.shift, seed, rows=list(rows), datasets=this.datasets, length=this.length, vocabulary=this.vocabulary,
            validation=this.validation, test=this.tests,
        )  # fmt: skip


@dataclass(frozen=True)
class Library(Source):
    """The Python standard library's own files: docstrings and source."""

    name = "library"

    shift: Annotated[str, arg(metavar="{weak,strong}")] = "weak"
    """weak: docstrings of the first half of the files, then of the second; strong: docstrings, then source without them."""
    tokens: Annotated[str, arg(metavar="{bpe,bytes}")] = "bpe"
    """Byte-pair encodings learned from all training text, or bytes."""
    vocabulary: int = 512
    """V, wanted of byte-pair encodings."""

    def build(self, seed: int, rows: Sequence[int]) -> tuple[Dataset, ...]:
        this: Any = self
        return sequence.library(
            this.shift, tokens=this.tokens, vocabulary=this.vocabulary, length=this.length,
            validation=this.validation, test=this.tests,
        )  # fmt: skip


@dataclass(frozen=True)
class Text(Source):
    """Text files of your own: one file, or several joined by commas, for each dataset."""

    name = "text"

    files: Annotated[tuple[str, ...], arg(metavar="FILE[,FILE ...] ...", help_behavior_hint="(required)")] = ()
    """UTF-8 files of each dataset in turn; those of one dataset are joined by commas."""
    split: Annotated[str, arg(metavar="{paragraphs,lines,files}")] = "paragraphs"
    """What a document is; held-out documents are spread evenly through a dataset."""
    tokens: Annotated[str, arg(metavar="{bpe,bytes}")] = "bpe"
    """Byte-pair encodings learned from all training text, or bytes."""
    vocabulary: int = 512
    """V, wanted of byte-pair encodings."""

    def groups(self) -> list[list[str]]:
        if len(self.files) < 2:
            raise InputError(f"{len(self.files)} dataset(s) given: name the files of two or more, --files OLD NEW")
        return [[os.path.abspath(name) for name in group.split(",")] for group in self.files]

    def resolved(self) -> Text:
        # A run may be continued from another folder.
        return dataclasses.replace(self, files=tuple(",".join(group) for group in self.groups()))

    def build(self, seed: int, rows: Sequence[int]) -> tuple[Dataset, ...]:
        this: Any = self
        return sequence.texts(
            this.groups(), tokens=this.tokens, vocabulary=this.vocabulary, length=this.length, split=this.split,
            validation=this.validation, test=this.tests,
        )  # fmt: skip

    def hashes(self) -> dict[str, str]:
        return {file: hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] for group in self.groups() for file in group}


SOURCES: dict[str, Any] = {"stories": Stories, "library": Library, "text": Text}


@dataclass(frozen=True)
class ModelOptions:
    """The transformer."""

    width: int = 32
    """D, width."""
    layers: int = 2
    """Blocks."""
    heads: int = 4
    """Attention heads of a block; divides the width."""
    mlp_ratio: int = 4
    """Hidden width of a block's network over the width."""
    score_scale: Annotated[str, arg(metavar="{width,head}")] = "head"
    """Attention scores are divided by the root of the whole width or of a head's."""
    init: Annotated[str, arg(metavar="{torch,gpt2}")] = "gpt2"
    """Initial weights."""

    def build(self, data: Sequence[Dataset]) -> TransformerConfig:
        length = data[0].train.shape[1] - 1
        return TransformerConfig(data[0].vocabulary, length, **dataclasses.asdict(self))


@dataclass(frozen=True)
class OptimiserOptions:
    """AdamW."""

    b1: float = 0.9
    """Decay of the mean of gradients."""
    b2: float = 0.95
    """Decay of the mean of squared gradients."""
    eps: float = 1e-8
    """Added to the root."""
    eps_root: float = 1e-8
    """Added under the root; a search needs it above 0."""
    weight_decay: float = 0.1
    """Times the learning rate at every step."""
    clip: Annotated[float | None, arg(metavar="FLOAT|None", help_behavior_hint=none_means("no clipping"))] = 1.0
    """Largest norm of a gradient."""
    batch_size: int = 16
    """B, windows in one step."""
    reset: bool = True
    """Start the moments anew with every dataset, as published."""

    def build(self) -> Adam:
        return Adam(self.b1, self.b2, self.eps, self.eps_root, self.weight_decay, self.clip)


@dataclass(frozen=True)
class ScheduleOptions:
    """The learning rate."""

    schedule: Annotated[str, arg(metavar="{" + ",".join(SCHEDULES) + "}")] = "rewarmed"
    """rewarmed: warm-up and cosine for every dataset; held: the first dataset's, then its last rate; infinite-…: one warm-up, a
    cool-down of that shape, constant, one annealing at the end; wsd: one warm-up, constant, one linear decay at the end."""
    peak: float = 0.01
    """η_max."""
    floor: Annotated[float | None, arg(metavar="FLOAT|None", help_behavior_hint=none_means("a tenth of the peak"))] = None
    """η_min."""
    warmup: float = 0.01
    """Warm-up, as a share of a dataset's steps."""
    constant: Annotated[float | None, arg(metavar="FLOAT|None", help_behavior_hint=none_means(".55 of the peak"))] = None
    """For infinite-…: the constant rate."""
    cooldown: float = 0.6
    """For infinite-…: length of the cool-down, as a share of the first dataset's steps."""
    anneal: float = 0.5
    """For infinite-… and wsd: length of the last decay, as a share of the last dataset's steps."""

    @property
    def least(self) -> float:
        return 0.1 * self.peak if self.floor is None else self.floor

    def rates(self, steps: Sequence[int]) -> np.ndarray:
        for name, share in (("warmup", self.warmup), ("cooldown", self.cooldown), ("anneal", self.anneal)):
            if not 0 <= share < float("inf"):
                raise InputError(f"{name} is {share:g}: give a share of a dataset's steps")
        total, first, last = sum(steps), steps[0], steps[-1]
        warmup, anneal = round(self.warmup * first), max(round(self.anneal * last), 1)
        match self.schedule.split("-"):
            case ["rewarmed"]:
                made = schedules.rewarmed(self.peak, self.least, steps, self.warmup)
            case ["held"]:
                made = schedules.held(self.peak, self.least, steps, self.warmup)
            case ["infinite", shape] if f"infinite-{shape}" in SCHEDULES:
                constant = 0.55 * self.peak if self.constant is None else self.constant
                made = schedules.infinite(
                    self.peak, constant, self.least, warmup=warmup, cooldown=round(self.cooldown * first), steps=total,
                    anneal=anneal, shape=shape,
                )  # fmt: skip
            case ["wsd"]:
                made = schedules.wsd(self.peak, self.least, total, warmup, decay=anneal)
            case _:
                raise InputError(f"unknown schedule {self.schedule!r}: choose one of {', '.join(SCHEDULES)}")
        return np.asarray(schedules.rates(made, total), np.float64)


@dataclass(frozen=True)
class ReplayOptions:
    """Earlier data in every batch."""

    replay: Annotated[tuple[float, ...], arg(metavar="FLOAT ...")] = (0.05,)
    """Share of earlier data from the second dataset on, 0 up to but not 1; one, or one for each of them."""
    budget_forgetting: Annotated[
        float | None, arg(metavar="FLOAT|None", help_behavior_hint=none_means("the share is --replay"))
    ] = None
    """Choose the last dataset's share: the least for which the first dataset's loss rises by at most this fraction (0.03: by 3%),
    foretold from pilot runs. Prints the share with its interval. With --search the search begins there and is not bound by it."""
    pilots: Annotated[tuple[float, ...], arg(metavar="FLOAT ...")] = PILOTS
    """With --budget-forgetting: replay shares of the pilot runs."""
    pilot_law: Annotated[str, arg(metavar="{cmr,d_cpt}")] = "cmr"
    """With --budget-forgetting: the law of the old loss over the share."""


@dataclass(frozen=True)
class SearchOptions:
    """Share and learning rate of the last dataset by gradient descent of the final losses."""

    search: int = 0
    """Policy gradients to spend, each two to three training runs on the last dataset; 0: no search. Three runs end the search."""
    search_keep: int = 5
    """K: the means of the search's best 1 to K points and its start are run plainly, K + 1 runs, and validation decides."""
    old_weight: float = 0.5
    """Share of the earlier datasets' losses in what is minimised."""
    pieces: int = 4
    """Stretches of the run's last 30% with a share and a rate factor of their own; those of the first hold before."""


@dataclass(frozen=True)
class TrainingOptions:
    """How long, and from which seed."""

    steps: Annotated[tuple[int, ...], arg(metavar="INT ...")] = (750,)
    """Steps on each dataset; one for all, or one for each."""
    epochs: int = 1
    """How often a dataset may be read in its turn."""
    seed: int = 0
    """Of the initialisation."""
    data_seed: Annotated[int | None, count("the seed")] = None
    """Of generated data."""
    evaluate_every: int = 100
    """Steps between evaluations; ten times as dense in the last 100 steps of a dataset, whose mean is reported."""
    baselines: Annotated[tuple[str, ...], arg(metavar="{" + ",".join(BASELINES) + "} ...")] = ()
    """Also train, to compare: union of all data from the start, and the last dataset from scratch, each under one cosine; held,
    the same replay at the constant η_min after the first dataset."""


@dataclass(frozen=True)
class RunOptions:
    """Where results go. These do not change them."""

    run_dir: Annotated[str | None, arg(metavar="DIR", help_behavior_hint=none_means("runs/DATA-DATE-NUMBER"))] = None
    """A new folder for the results."""
    resume: Annotated[str | None, arg(metavar="RUN", help_behavior_hint=none_means("a new run"))] = None
    """Go on with the run of this folder, with its settings."""
    save_every: Annotated[float, arg(metavar="SECONDS")] = 20.0
    """Seconds between two saved states. 0: at every evaluation."""
    quiet: FlagCreatePairsOff[bool] = False
    """No progress on the terminal."""


T = TypeVar("T")


@dataclass(frozen=True)
class Continue(Generic[T]):
    """Settings of `olm continue`."""

    data: T
    model: ModelOptions = ModelOptions()
    optimiser: OptimiserOptions = OptimiserOptions()
    schedule: ScheduleOptions = ScheduleOptions()
    replay: ReplayOptions = ReplayOptions()
    search: SearchOptions = SearchOptions()
    training: TrainingOptions = TrainingOptions()
    run: RunOptions = field(default=RunOptions())


GROUPS = ("model", "optimiser", "schedule", "replay", "search", "training")
