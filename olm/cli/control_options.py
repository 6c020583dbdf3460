"""Every setting of `olm control` as frozen dataclasses; a field is a flag, the text below it its help."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import FlagCreatePairsOff, Positional, arg

from olm.cli import continual_options
from olm.cli.tasks import none_means
from olm.control.generate import DECODERS, GUIDES
from olm.control.text import METHODS, Concepts
from olm.data.concepts import Pair, read_pairs
from olm.data.text import read_documents
from olm.errors import InputError, check_number, check_whole
from olm.models.transformer import TransformerConfig


def concepts_of(words: Sequence[str]) -> Concepts:
    """Clauses of the command line: ``run|ran`` names alternatives.

    Raises:
      InputError: a clause with an empty alternative.
    """
    found = []
    for clause in words:
        parts = tuple(part.strip() for part in clause.split("|"))
        if not all(parts):
            raise InputError(
                f"keyword {clause!r} has an empty alternative: write words, and | between those of which one will do"
            )
        found.append(parts[0] if len(parts) == 1 else parts)
    return tuple(found)


def _file(what: str) -> Any:
    return arg(metavar="FILE|None", help_behavior_hint=none_means(what))


@dataclass(frozen=True)
class TextOptions:
    """Sentences: --text of one's own, or --sources and --targets, concepts and a sentence about them."""

    text: Annotated[tuple[str, ...], arg(metavar="FILE ...")] = ()
    """UTF-8 files of sentences."""
    sources: Annotated[str | None, _file("none")] = None
    """Concepts between spaces, a set a line, as in CommonGen."""
    targets: Annotated[str | None, _file("none")] = None
    """A sentence a line, about the concepts of the same line of --sources."""
    keywords: Annotated[tuple[str, ...], arg(metavar="WORD[|WORD ...] ...")] = ()
    """With --text: what a sentence is to hold, "dog" "run|ran" (either will do). Only method gelato goes without."""
    inflections: bool = False
    """Every inflection of a keyword will do; always so with --sources."""
    split: Annotated[str, arg(metavar="{lines,paragraphs,files}")] = "lines"
    """With --text: what a sentence is."""
    case: Annotated[
        str | None, arg(metavar="{lower,keep}|None", help_behavior_hint=none_means("lower with --sources, else keep"))
    ] = None
    """Turn text to lower case, or keep it."""
    vocabulary: int = 1000
    """V, wanted of byte-pair encodings."""
    length: int = 24
    """T, tokens of a sentence; longer ones are dropped."""
    variants: int = 4
    """With --sources: how often a sentence comes, once after its concepts, else after words of its own."""
    prompt_length: int = 24
    """P, tokens of a set's concepts; sentences about longer ones are dropped."""
    held_out: float = 0.05
    """Share of the text (of the concept sets) that is held out."""

    @property
    def paired(self) -> bool:
        return self.sources is not None

    @property
    def lower(self) -> bool:
        return self.paired if self.case is None else self.case == "lower"

    def resolved(self) -> TextOptions:
        """Checked, with absolute paths: a run may be continued from another folder."""
        if (self.sources is None) != (self.targets is None):
            raise InputError("--sources and --targets go together: give both")
        if bool(self.text) == self.paired:
            raise InputError("give sentences as --text FILE ..., or concepts and sentences as --sources FILE --targets FILE")
        if self.paired and self.keywords:
            raise InputError("with --sources each sentence has its own concepts: leave --keywords out")
        if self.case not in (None, "lower", "keep"):
            raise InputError(f"unknown case {self.case!r}: choose lower or keep")
        concepts_of(self.keywords)

        def absolute(name: str | None) -> str | None:
            return None if name is None else os.path.abspath(name)

        files = tuple(os.path.abspath(name) for name in self.text)
        inflections = self.inflections or self.paired
        return dataclasses.replace(
            self, text=files, sources=absolute(self.sources), targets=absolute(self.targets), inflections=inflections
        )

    def read(self) -> list[str] | list[Pair]:
        if self.sources is not None and self.targets is not None:
            return read_pairs(self.sources, self.targets)
        split: Any = self.split
        return read_documents(self.text, split)

    def hashes(self) -> dict[str, str]:
        files = [*self.text, *(name for name in (self.sources, self.targets) if name is not None)]
        return {file: hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] for file in files}


@dataclass(frozen=True)
class ModelOptions(continual_options.ModelOptions):
    """The transformer, and the guide's own."""

    width: int = 128
    """D, width."""

    def sized(self, vocabulary: int, inputs: int) -> TransformerConfig:
        return TransformerConfig(vocabulary, inputs, **dataclasses.asdict(self))


@dataclass(frozen=True)
class BaseOptions:
    """Training the base."""

    steps: int = 1500
    """Steps of AdamW."""
    peak: float = 2e-3
    """Learning rate."""
    batch_size: int = 64
    """Sentences in one step, of the base and of the guide."""

    def check(self) -> None:
        for name, value in (("steps", self.steps), ("batch-size", self.batch_size)):
            check_whole(name, value, 1)
        check_number("peak", self.peak, "give a positive number", 0, float("inf"), open_low=True)


@dataclass(frozen=True)
class SampleOptions:
    """Samples of the base, which teach the hidden Markov model and the guide."""

    samples: int = 10_000
    """How many; a tenth is held out."""
    temperature: float = 1.0
    """Of the draw; above 1 rare sentences come more often, and count for less."""

    def check(self) -> None:
        check_whole("samples", self.samples, 20)
        check_number("temperature", self.temperature, "give a positive number", 0, float("inf"), open_low=True)


@dataclass(frozen=True)
class ChainOptions:
    """The hidden Markov model."""

    states: int = 64
    """S, states."""
    em_steps: int = 30
    """Steps of expectation maximisation."""

    def check(self) -> None:
        check_whole("states", self.states, 2)
        check_whole("em-steps", self.em_steps, 1)


@dataclass(frozen=True)
class GuideOptions:
    """The guide."""

    method: Annotated[str, arg(metavar="{" + ",".join(METHODS) + "}")] = "dinado"
    """dinado: DiNADO-Soft; dense: the same, labels at every prefix; nado; hard: consistent by construction; merge, lora: DiNADO
    over a copy of the base, all its weights or adapters; gelato: nothing is learned but the hidden Markov model; fudge: a
    classifier of prefixes."""
    guide_steps: int = 1000
    """Steps of AdamW."""
    guide_peak: float = 1e-3
    """Learning rate."""
    rounds: int = 1
    """From the second round on half of the samples come from what was learned before; each round draws as many as the first."""
    rank: int = 8
    """Of adapters, with lora."""

    def check(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"unknown method {self.method!r}: choose one of {', '.join(METHODS)}")
        check_whole("rounds", self.rounds, 1)
        check_whole("guide-steps", self.guide_steps, self.rounds)
        check_whole("rank", self.rank, 1)
        check_number("guide-peak", self.guide_peak, "give a positive number", 0, float("inf"), open_low=True)


@dataclass(frozen=True)
class SeedOptions:
    """Randomness."""

    seed: int = 0
    """Of everything random."""

    def check(self) -> None:
        if not 0 <= self.seed < 2**31:
            raise InputError(f"seed is {self.seed}: give a number from 0 of at most 31 bits")


@dataclass(frozen=True)
class RunOptions:
    """Where results go. These do not change them."""

    run_dir: Annotated[str | None, arg(metavar="DIR", help_behavior_hint=none_means("runs/control-DATE-NUMBER"))] = None
    """A new folder for the results."""
    resume: Annotated[str | None, arg(metavar="RUN", help_behavior_hint=none_means("a new run"))] = None
    """Go on with the run of this folder, with its settings."""
    save_every: Annotated[float, arg(metavar="SECONDS")] = 20.0
    """Seconds between two saved states. 0: at every evaluation."""
    quiet: FlagCreatePairsOff[bool] = False
    """No progress on the terminal."""


@dataclass(frozen=True)
class Train:
    """Settings of `olm control train`."""

    data: TextOptions = TextOptions()
    model: ModelOptions = ModelOptions()
    base: BaseOptions = BaseOptions()
    draw: SampleOptions = SampleOptions()
    chain: ChainOptions = ChainOptions()
    guide: GuideOptions = GuideOptions()
    seeds: SeedOptions = SeedOptions()
    run: RunOptions = field(default=RunOptions())


GROUPS = ("data", "model", "base", "draw", "chain", "guide", "seeds")


@dataclass(frozen=True)
class Decoding:
    """How sentences are written."""

    decode: Annotated[str, arg(metavar="{" + ",".join(DECODERS) + "}")] = "sample"
    """Draw, search with a beam, or take the likeliest token each time."""
    width: int = 8
    """Of the beam."""
    temperature: float = 1.0
    """Of sampling."""
    weight: Annotated[float | None, arg(metavar="FLOAT|None", help_behavior_hint=none_means("the chain's lookahead"))] = None
    """With gelato, w: q ∝ (the chain's posterior)^w · (the base)^(1−w), for a base that reads the concepts."""
    seed: int = 0
    """Of the draw."""
    quiet: FlagCreatePairsOff[bool] = False
    """No progress on the terminal."""


@dataclass(frozen=True)
class Generate:
    """Settings of `olm control generate`."""

    folder: Annotated[Positional[str], arg(metavar="RUN")]
    """The folder of a finished run."""
    concepts: Annotated[str | None, _file("none")] = None
    """Concepts between spaces, a set a line."""
    keywords: Annotated[tuple[str, ...], arg(metavar="WORD[|WORD ...] ...")] = ()
    """One set of concepts. Without any: those that the run was trained for."""
    guide: Annotated[
        str | None,
        arg(metavar="{" + ",".join(GUIDES) + "}|None", help_behavior_hint=none_means("learned if there is one, else gelato")),
    ] = None
    """What steers: nothing, a mask of what cannot be completed, the hidden Markov model's lookahead, what was learned."""
    n: Annotated[int | None, arg(metavar="INT|None", help_behavior_hint=none_means("20, or 1 of a beam or greedy"))] = None
    """Sentences for each set."""
    output: Annotated[str | None, _file("standard output")] = None
    """Write sentences to this file instead, a sentence a line; with --n above 1 a blank line after each set's."""
    decoding: Decoding = Decoding()


@dataclass(frozen=True)
class Evaluate:
    """Settings of `olm control evaluate`."""

    folder: Annotated[Positional[str], arg(metavar="RUN")]
    """The folder of a finished run."""
    concepts: Annotated[str | None, _file("none")] = None
    """Concepts between spaces, a set a line."""
    references: Annotated[str | None, _file("no BLEU")] = None
    """Sentences of each set, a blank line between two sets'."""
    jsonl: Annotated[str | None, _file("none")] = None
    """Concepts and sentences as rows of JSON, as CommonGen has them."""
    keywords: Annotated[tuple[str, ...], arg(metavar="WORD[|WORD ...] ...")] = ()
    """One set of concepts. Without any: those that the run was trained for."""
    guides: Annotated[
        tuple[str, ...], arg(metavar="{" + ",".join(GUIDES) + "} ...", help_behavior_hint="(default: all there are)")
    ] = ()
    """What is compared."""
    n: Annotated[
        int | None, arg(metavar="INT|None", help_behavior_hint=none_means("1 for each of several sets, 100 for one"))
    ] = None
    """Sentences for each set."""
    sets: Annotated[int | None, arg(metavar="INT|None", help_behavior_hint=none_means("all"))] = None
    """Take that many sets, evenly spread over the file."""
    decoding: Decoding = Decoding()
