"""`olm continue`: train on one dataset after another with replay; measure what is kept and what is learned."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from tyro.conf import FlagCreatePairsOff, arg

from olm import schedules
from olm.cli.common import aligned, finish, given, new_run, parse, resume_line, say
from olm.cli.options import restored_group
from olm.cli.tasks import count, none_means
from olm.continual.experiment import Adam, Trajectory, measure, train_sequence
from olm.continual.experiment import settings as settings_of
from olm.continual.forecast import ShareForecast, choose_share
from olm.continual.plan import Plan, plan, replay_shares, union
from olm.continual.search import find_schedule
from olm.errors import InputError
from olm.models.transformer import TransformerConfig
from olm.records import Run
from olm.tasks import sequence
from olm.tasks.sequence import Dataset

SCHEDULES = ("rewarmed", "held", "infinite-cosine", "infinite-inverse_sqrt", "infinite-linear", "wsd")
BASELINES = ("union", "scratch", "held")
PILOTS = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5)
MAY_CHANGE: set[str] = set()

HELP = """usage: olm continue DATA [OPTIONS]
       olm continue --resume RUN

Train a transformer on one dataset after another, with a share of earlier data in every batch, and measure what it forgets of
the earlier ones and how well it learns the new one.

{sources}

olm continue DATA --help lists every option. RUN is the folder of an earlier run; it goes on where that one was stopped."""


# --- settings ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stories:
    """Generated languages of known entropy."""

    name = "stories"

    shift: Annotated[str, arg(metavar="{weak,strong,none}")] = "weak"
    """From one dataset to the next: other topics of one grammar; another grammar over the same ids; or none."""
    datasets: int = 2
    """How many, one after the other."""
    vocabulary: int = 256
    """V, token ids."""
    length: int = 32
    """L, tokens predicted in a window."""
    validation: int = 64
    """Held-out windows of each dataset to choose by."""
    tests: int = 256
    """Held-out windows of each dataset to report."""

    def build(self, seed: int, rows: Sequence[int]) -> tuple[Dataset, ...]:
        this: Any = self
        return sequence.stories(
            this.shift, seed, rows=list(rows), datasets=this.datasets, length=this.length, vocabulary=this.vocabulary,
            validation=this.validation, test=this.tests,
        )  # fmt: skip

    def hashes(self) -> dict[str, str]:
        return {}


@dataclass(frozen=True)
class Library:
    """The Python standard library's own files: docstrings and source."""

    name = "library"

    shift: Annotated[str, arg(metavar="{weak,strong}")] = "weak"
    """weak: docstrings of the first half of the files, then of the second; strong: docstrings, then source without them."""
    tokens: Annotated[str, arg(metavar="{bpe,bytes}")] = "bpe"
    """Byte-pair encodings learned from all training text, or bytes."""
    vocabulary: int = 512
    """V, wanted of byte-pair encodings."""
    length: int = 32
    """L, tokens predicted in a window."""
    validation: int = 64
    """Held-out windows of each dataset to choose by."""
    tests: int = 256
    """Held-out windows of each dataset to report."""

    def build(self, seed: int, rows: Sequence[int]) -> tuple[Dataset, ...]:
        this: Any = self
        return sequence.library(
            this.shift, tokens=this.tokens, vocabulary=this.vocabulary, length=this.length,
            validation=this.validation, test=this.tests,
        )  # fmt: skip

    def hashes(self) -> dict[str, str]:
        return {}


@dataclass(frozen=True)
class Text:
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
    length: int = 32
    """L, tokens predicted in a window."""
    validation: int = 64
    """Held-out windows of each dataset to choose by."""
    tests: int = 256
    """Held-out windows of each dataset to report."""

    def groups(self) -> list[list[str]]:
        if len(self.files) < 2:
            raise InputError(f"{len(self.files)} dataset(s) given: name the files of two or more, --files OLD NEW")
        return [[os.path.abspath(name) for name in group.split(",")] for group in self.files]

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
    foretold from pilot runs. Prints the share with its interval."""
    pilots: Annotated[tuple[float, ...], arg(metavar="FLOAT ...")] = PILOTS
    """With --budget-forgetting: replay shares of the pilot runs."""
    pilot_law: Annotated[str, arg(metavar="{cmr,d_cpt}")] = "cmr"
    """With --budget-forgetting: the law of the old loss over the share."""


@dataclass(frozen=True)
class SearchOptions:
    """Share and learning rate of the last dataset by gradient descent of the final losses."""

    search: int = 0
    """Policy gradients to spend, each about five training runs on the last dataset; 0: no search."""
    old_weight: float = 0.5
    """Share of the earlier datasets' losses in what is minimised."""
    pieces: int = 8
    """Stretches of the run with a share and a rate factor of their own."""


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
    """Also train, to compare: union of all data from the start; the last dataset from scratch; held, the constant η_min."""


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


def _read(words: Sequence[str]) -> Continue[Any]:
    """The settings: defaults or those of the run to resume, then the flags."""
    resume = given(words, "--resume")
    source = words[0] if words and not words[0].startswith("-") else None
    if resume is None and source is None:
        if {"-h", "--help"} & set(words):
            about = "\n".join(f"  {name:<8} {kind.__doc__.splitlines()[0]}" for name, kind in SOURCES.items())
            print(HELP.format(sources=about))
            raise SystemExit(0)
        raise InputError(f"name the data (olm continue {'|'.join(SOURCES)} ...) or a run (olm continue --resume RUN)")
    if resume is not None:
        default = _restored(resume)
        if source not in (None, default.data.name):
            raise InputError(f"{resume} is a run on {default.data.name}, not on {source}: leave the data out")
    elif source in SOURCES:
        default = Continue(SOURCES[source]())
    else:
        raise InputError(f"unknown data {source!r}: choose one of {', '.join(SOURCES)}")
    return parse(
        Continue[type(default.data)],  # type: ignore[misc]
        words if source is None else words[1:],
        prog=f"olm continue {default.data.name}",
        description="Train on one dataset after another, with replay.",
        default=default,
    )


def _restored(path: str) -> Continue[Any]:
    config = Run.open(path).config
    source = config.get("source")
    if config.get("kind") != "continue" or not isinstance(source, dict) or source.get("name") not in SOURCES:
        raise InputError(f"{path} was not made by olm continue: give a folder that it has made")
    where = f"{path}/config.json: "
    data = restored_group(SOURCES[source["name"]](), {k: v for k, v in source.items() if k != "name"}, f"{where}source")
    start = Continue(data)
    options = config.get("options")
    if not isinstance(options, dict) or set(options) != set(GROUPS):
        raise InputError(f"{path}/config.json lacks settings: restore the file, or use the olm that made it")
    return dataclasses.replace(
        start, **{name: restored_group(getattr(start, name), options[name], where + name) for name in GROUPS}
    )


# --- the command ------------------------------------------------------------------------------------------------------


class _Work:
    """One command: its data and settings, and the folders in which its runs are kept and continued."""

    def __init__(self, options: Continue[Any], words: Sequence[str]):
        training = options.training
        sets = options.data.datasets if isinstance(options.data, Stories) else 2
        sets = len(options.data.groups()) if isinstance(options.data, Text) else sets
        steps = training.steps * sets if len(training.steps) == 1 else training.steps
        if len(steps) != sets:
            raise InputError(f"{len(steps)} numbers of steps for {sets} datasets: give one, or one for each")
        if sets < 2:
            raise InputError(f"{sets} dataset(s): continual training needs two or more")
        if unknown := set(training.baselines) - set(BASELINES):
            raise InputError(f"unknown baseline {sorted(unknown)[0]!r}: choose from {', '.join(BASELINES)}")
        if options.search.search < 0:
            raise InputError(f"search is {options.search.search}: give 0 or more policy gradients")
        self.options, self.steps, self.command = options, tuple(steps), ["olm", "continue", *words]
        batch = options.optimiser.batch_size
        data_seed = training.seed if training.data_seed is None else training.data_seed
        replay = options.replay.replay
        for share in (*replay, *options.replay.pilots):
            replay_shares(share, [1, 1])  # a wrong share is known before any text is read
        if len(replay) not in (1, sets - 1):
            raise InputError(f"{len(replay)} replay shares for {sets - 1} later dataset(s): give one, or one for each")
        self.shares = [0.0, *(replay * (sets - 1) if len(replay) == 1 else replay)]
        self.rates = options.schedule.rates(self.steps)
        # Generated data are as long as any phase or a union could need.
        self.data = options.data.build(data_seed, [max(self.steps) * batch] * sets)
        self.model, self.adam = options.model.build(self.data), options.optimiser.build()
        self.key = jax.random.key(training.seed)
        self.main: Run | None = None

    def plan(self, first: int = 0, upto: int | None = None, **changes: Any) -> Plan:
        """The plan of phases ``first`` … ``upto``."""
        upto = len(self.steps) if upto is None else upto
        begin = sum(self.steps[:first])
        arguments: dict[str, Any] = {
            "rates": self.rates[begin : begin + sum(self.steps[first:upto])],
            "replay": self.shares[first:upto],
            **changes,
        }
        optimiser, rates = self.options.optimiser, arguments.pop("rates")
        arguments |= {"batch_size": optimiser.batch_size, "reset": optimiser.reset, "epochs": self.options.training.epochs}
        return plan(self.data[:upto], self.steps[first:upto], rates, first=first, **arguments)

    def config(self, made: Plan, data: Sequence[Dataset]) -> dict[str, Any]:
        groups = {name: dataclasses.asdict(getattr(self.options, name)) for name in GROUPS}
        source = {"name": self.options.data.name, **dataclasses.asdict(self.options.data)}
        return settings_of(data, self.model, made, self.adam, options=groups, source=source, files=self.options.data.hashes())

    def train(self, made: Plan, data: Sequence[Dataset], run: Run, params: Any = None) -> Trajectory:
        training = self.options.training
        return train_sequence(
            data, self.model, made, key=self.key, adam=self.adam, params=params, evaluate_every=training.evaluate_every,
            run=run, save_every=self.options.run.save_every, progress=not self.options.run.quiet,
        )  # fmt: skip

    def below(self, name: str, made: Plan, data: Sequence[Dataset], params: Any = None) -> Trajectory:
        """A further run in a folder inside the main one: a pilot, a baseline, the phases before a choice."""
        assert self.main is not None
        path, config = self.main.path / name, self.config(made, data)
        if not self.options.run.quiet:
            say(f"{name}: {sum(made.steps)} steps")
        there = (path / "config.json").exists()
        with Run.resume(path, config) if there else Run.create(path, config, self.command) as run:
            return self.train(made, data, run, params)


def run(words: Sequence[str]) -> int:
    """The command; returns its exit status."""
    options = _read(words)
    place = options.run
    if not place.save_every >= 0:
        raise InputError(f"save-every is {place.save_every:g}: give seconds, 0 or more")
    if place.resume is not None and place.run_dir is not None:
        raise InputError("--resume continues in its own folder: leave --run-dir out")
    work = _Work(options, words)
    chooses = options.replay.budget_forgetting is not None or options.search.search > 0
    last = len(work.data) - 1
    made = work.plan(first=last) if chooses else work.plan()
    first = work.plan(upto=last) if chooses else None  # what cannot be is known before a folder is made
    for name in options.training.baselines:
        _baseline(work, name)
    config = work.config(made, work.data)
    opened = (
        Run.resume(place.resume, config, MAY_CHANGE)
        if place.resume
        else new_run(place.run_dir, f"continue-{options.data.name}", config, work.command)
    )
    with opened as main:
        work.main = main
        if not place.quiet:
            say(f"writing to {main.path}")
        try:
            params, before = None, None
            found: dict[str, Any] = {}
            if first is not None:
                earlier = work.below("first", first, work.data[:last])
                params = earlier.params
                losses = measure(params, work.data, work.model)["test"]
                before = [*earlier.final["test"][-1], losses[work.data[-1].name]]
                made, found = _chosen(work, made, earlier)
            trajectory = work.train(made, work.data, main, params)
            others = {name: _trained_baseline(work, name) for name in options.training.baselines}
        except KeyboardInterrupt:
            say(f"interrupted; continue with: {resume_line(main.path, 'continue')}")
            return 130
        measures = trajectory.measures(before=before)
        main.write_summary({**main.summary(), **measures, **found, **({"baselines": others} if others else {})})
        print(_table(work, trajectory, measures, others))
        _print_account(trajectory)
        finish(main)
    return 0


def _chosen(work: _Work, made: Plan, earlier: Trajectory) -> tuple[Plan, dict[str, Any]]:
    """The plan of the last dataset with the share that pilots foretell, or with what a search finds; and what to record."""
    options, last = work.options, len(work.data) - 1
    params = earlier.params
    found: dict[str, Any] = {}
    if (budget := options.replay.budget_forgetting) is not None:
        shares = sorted(set(options.replay.pilots))
        pilots = [work.below(f"pilots/{x:g}", work.plan(first=last, replay=[x]), work.data, params) for x in shares]
        names = [work.data[0].name, work.data[-1].name]
        old, new = ([run.measures("validation")["loss"][name] for run in pilots] for name in names)
        before = float(earlier.final["validation"][-1][0])
        forecast = choose_share(
            shares, old, before=before, budget=budget, new_losses=new, law=options.replay.pilot_law, seed=options.training.seed
        )
        print(_forecast_line(forecast, budget, names[0]), flush=True)
        share = min(forecast.share, 1 - 1e-9)
        made = work.plan(first=last, replay=[share])
        told = ("share", "low", "high", "old_loss", "new_loss", "limit", "extrapolated", "message")
        table = dict(zip(map(str, shares), zip(old, new, strict=True), strict=True))
        found["forecast"] = {**{name: getattr(forecast, name) for name in told}, "budget": budget, "pilots": table}
    else:
        share = work.shares[-1]
    if options.search.search:
        assert work.main is not None
        path = work.main.path / "search"
        rates, steps = jnp.asarray(work.rates[-work.steps[-1] :], jnp.result_type(float)), work.steps[-1]
        result = find_schedule(
            work.data,
            work.model,
            lambda step: rates[jnp.minimum(step, steps - 1)],
            steps,
            params=params,
            key=work.key,
            batch_size=options.optimiser.batch_size,
            replay=share,
            old_weight=options.search.old_weight,
            pieces=options.search.pieces,
            evaluations=options.search.search,
            adam=work.adam,
            run_dir=path,
            resume=(path / "config.json").exists(),
            progress=not options.run.quiet,
        )
        made = result.plan
        ratio = result.solution.measures["objective_ratio"]
        print(f"searched: weighted final loss on validation × {ratio:.4f}, {result.solution.message}", flush=True)
        found["searched"] = {
            "objective_ratio": ratio,
            "shares": result.shares[:, :-1].sum(1).tolist(),
            "rates": result.rates.tolist(),
        }
    return made, found


def _forecast_line(forecast: ShareForecast, budget: float, name: str) -> str:
    interval = "" if np.isnan(forecast.low) else f" [{forecast.low:.1%}, {forecast.high:.1%}]"
    limit = f"{forecast.limit:.4f} nats, {budget:.1%} above what it was"
    said = f"replay {forecast.share:.1%}{interval} keeps the loss of {name} at {limit}"
    if forecast.new_loss is not None:
        said += f"; the new data's is then {forecast.new_loss:.4f}"
    return said + (f" ({forecast.message})" if forecast.message else "")


def _baseline(work: _Work, name: str) -> tuple[Plan, tuple[Dataset, ...]]:
    """The plan of a baseline, and its datasets."""
    batch, epochs = work.options.optimiser.batch_size, work.options.training.epochs
    schedule, steps = work.options.schedule, work.steps
    if name == "union":
        made = schedules.warmup_cosine(schedule.peak, schedule.least, sum(steps), round(schedule.warmup * sum(steps)))
        rates = np.asarray(schedules.rates(made, sum(steps)), np.float64)
        return union(work.data, steps, rates, batch_size=batch, epochs=epochs), work.data
    if name == "scratch":
        rates = dataclasses.replace(schedule, schedule="rewarmed").rates(steps[-1:])
        return plan(work.data[-1:], steps[-1:], rates, batch_size=batch, epochs=epochs), work.data[-1:]
    return work.plan(rates=dataclasses.replace(schedule, schedule="held").rates(steps)), work.data


def _trained_baseline(work: _Work, name: str) -> dict[str, Any]:
    made, data = _baseline(work, name)
    found = work.below(f"baselines/{name}", made, data)
    losses = measure(found.params, work.data, work.model)["test"]
    losses |= found.measures()["loss"]  # where there are means over the last steps
    return {"loss": losses, "mean": float(np.mean(list(losses.values()))), "steps": sum(made.steps)}


def _table(work: _Work, trajectory: Trajectory, measures: Mapping[str, Any], others: Mapping[str, Any]) -> str:
    names = trajectory.names
    rows = [["held-out loss, nats per token", *names, "mean", "steps"]]
    for phase, losses in enumerate(trajectory.final["test"]):
        about = f"after {names[trajectory.new[phase]]}"
        rows.append(
            [
                about,
                *(f"{x:.4f}" for x in losses),
                f"{np.mean(losses):.4f}",
                str(int(np.sum(work.steps[: trajectory.new[phase] + 1]))),
            ]
        )
    for name, found in others.items():
        rows.append([name, *(f"{found['loss'][n]:.4f}" for n in names), f"{found['mean']:.4f}", str(found["steps"])])
    lines = aligned(rows)
    lines += [f"forgetting of {name}: {x:+.4f} nats since it was learned" for name, x in measures["forgetting"].items()]
    entropies = [(one.name, one.entropy) for one in work.data if one.entropy is not None]
    lines += [f"entropy of {name}: {h:.4f}, which no model can beat" for name, h in entropies]
    return "\n".join(lines)


def _print_account(trajectory: Trajectory) -> None:
    for phase in trajectory.account:
        tokens = ", ".join(f"{name} {n:,} ({n / phase['total']:.2%})" for name, n in phase["tokens"].items() if n)
        print(f"tokens read while learning {phase['new']}: {tokens}; {phase['total']:,} in all")
