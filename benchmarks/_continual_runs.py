"""The runs of `continual.py`: presets, the data and model of a setting, and each run as a file once it is done."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _bench
import jax
import numpy as np

from olm import schedules
from olm.continual.experiment import Trajectory, measure, train_sequence
from olm.continual.merge import ties
from olm.continual.plan import Plan, plan, union
from olm.continual.search import Plain, find_schedule, relaxed, settle
from olm.models.transformer import TransformerConfig
from olm.records import load_arrays, save_arrays
from olm.tasks import sequence

PUBLISHED = {"weak": 0.05, "strong": 0.25}  # the paper's advice
WEIGHT_OLD = 0.5
HORIZON = 0.3  # of the run that a search's gradient goes back through


@dataclass(frozen=True)
class Size:
    """A model with the peak learning rate that suits it."""

    width: int
    layers: int
    peak: float


@dataclass(frozen=True)
class Preset:
    """Everything that a table depends on."""

    steps: int = 750
    batch: int = 16
    length: int = 32
    vocabulary: int = 256
    validation: int = 64
    test: int = 128
    floor: float = 0.1  # of the peak
    warmup: float = 0.01
    evaluate_every: int = 100
    last: int = 100
    evaluations: int = 9
    keep: int = 5
    pieces: int = 4
    sizes: tuple[tuple[str, Size], ...] = (("small", Size(32, 2, 1e-2)), ("large", Size(96, 3, 3e-3)))


FULL = Preset()
QUICK = Preset(
    steps=100, batch=8, length=16, vocabulary=128, validation=8, test=8, evaluate_every=20, last=20, evaluations=2, keep=2,
    pieces=2, sizes=(("small", Size(8, 1, 1e-2)),),
)  # fmt: skip


class Bench:
    """One (source, shift, size, seed): its data, model and finished runs."""

    def __init__(self, preset: Preset, folder: Path, source: str, shift: str, size: str, seed: int):
        self.preset, self.source, self.shift, self.seed, self.size = preset, source, shift, seed, size
        self.folder = _bench.kept_below(folder, preset) / source / shift / size / f"seed-{seed}"
        self.shape = dict(preset.sizes)[size]

    @functools.cached_property
    def data(self) -> tuple[sequence.Dataset, ...]:
        p = self.preset
        if self.source == "library":
            return _library(self.shift, p)
        rows = [2 * p.steps * p.batch] * 3
        return sequence.stories(
            self.shift,
            self.seed,
            rows=rows,
            datasets=3,
            length=p.length,
            vocabulary=p.vocabulary,
            validation=p.validation,
            test=p.test,
        )

    @functools.cached_property
    def pair(self) -> tuple[sequence.Dataset, ...]:
        return self.data[:2]

    @property
    def model(self) -> TransformerConfig:
        return TransformerConfig(
            self.data[0].vocabulary, self.preset.length, self.shape.width, self.shape.layers, 4, score_scale="head", init="gpt2"
        )

    def rates(self, schedule: Any, steps: int) -> np.ndarray:
        return np.asarray(schedules.rates(schedule, steps), np.float64)

    def rewarmed(self, factor: float = 1.0, warmup: float | None = None) -> Any:
        """The schedule of the second dataset of a re-warmed sequence: from η_min to the peak and back."""
        p, peak = self.preset, self.shape.peak
        floor = p.floor * peak
        warm = round((p.warmup if warmup is None else warmup) * p.steps)
        return schedules.warmup_cosine(factor * peak, floor, p.steps, warm, start=floor)

    def first(self) -> Any:
        p, peak = self.preset, self.shape.peak
        return schedules.warmup_cosine(peak, p.floor * peak, p.steps, round(p.warmup * p.steps))

    def train(self, data: Any, made: Plan, params: Any = None) -> Trajectory:
        p = self.preset
        key = jax.random.key(1000 + self.seed)
        return train_sequence(data, self.model, made, key=key, params=params, evaluate_every=p.evaluate_every, last=p.last)

    def cell(self, name: str, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A finished run from its file, or run now and written to it."""
        label = f"{self.source} {self.shift} {self.size} seed {self.seed}: {name}"
        return _bench.cell(self.folder / f"{name}.json", label, run)

    @functools.cached_property
    def before(self) -> Any:
        """The model after the first dataset, and its losses on all of them."""
        path = self.folder / "first.npz"

        def run() -> dict[str, Any]:
            made = plan(
                self.pair[:1], [self.preset.steps], self.rates(self.first(), self.preset.steps), batch_size=self.preset.batch
            )
            found = self.train(self.pair[:1], made)
            save_arrays(path, found.params)
            losses = measure(found.params, self.pair, self.model)
            own = {part: float(x[-1][0]) for part, x in found.final.items()}
            return {"losses": {part: [own[part], losses[part][self.pair[1].name]] for part in losses}}

        losses = self.cell("first", run)["losses"]
        return jax.tree.map(jax.numpy.asarray, load_arrays(path)), losses

    def result(self, found: Trajectory) -> dict[str, Any]:
        return {
            "final": {part: found.final[part][-1].tolist() for part in ("validation", "test")},
            "curve": [[row["step"], *row["test"].values()] for row in found.rows],
            "share": list(found.account[-1]["share"].values()),
        }

    def continued(self, name: str, replay: float, schedule: Any) -> dict[str, Any]:
        """The second dataset from the model after the first."""

        def run() -> dict[str, Any]:
            rates = self.rates(schedule, self.preset.steps)
            made = plan(self.pair, [self.preset.steps], rates, batch_size=self.preset.batch, replay=replay, first=1)
            return self.result(self.train(self.pair, made, self.before[0]))

        return self.cell(name, run)

    def replayed(self, share: float, factor: float = 1.0) -> dict[str, Any]:
        return self.continued(f"replay {share:g}, peak × {factor:g}", share, self.rewarmed(factor))

    def scattered(self, share: float, factor: float, times: int = 6) -> dict[str, Any]:
        """The same plan from starts that differ by 1e-5: how far runs end apart that differ by nothing that matters."""

        def run() -> dict[str, Any]:
            rates = self.rates(self.rewarmed(factor), self.preset.steps)
            made = plan(self.pair, [self.preset.steps], rates, batch_size=self.preset.batch, replay=share, first=1)
            leaves, structure = jax.tree.flatten(self.before[0])
            ends = []
            for k in range(times):
                keys = jax.random.split(jax.random.key(k), len(leaves))
                near = [x * (1 + 1e-5 * jax.random.normal(key, x.shape)) for x, key in zip(leaves, keys, strict=True)]
                ends.append(float(self.train(self.pair, made, structure.unflatten(near)).final["test"][-1].mean()))
            return {"mean losses": ends, "standard deviation": float(np.std(ends, ddof=1))}

        return self.cell(f"scatter, replay {share:g}, peak × {factor:g}", run)

    def scratch(self) -> dict[str, Any]:
        """The second dataset alone, from the same start as the first."""
        path = self.folder / "scratch.npz"

        def run() -> dict[str, Any]:
            made = plan(
                self.pair[1:], [self.preset.steps], self.rates(self.first(), self.preset.steps), batch_size=self.preset.batch
            )
            found = self.train(self.pair[1:], made)
            save_arrays(path, found.params)
            old = measure(found.params, self.pair[:1], self.model)
            name = self.pair[0].name
            return {"final": {part: [old[part][name], float(found.final[part][-1][0])] for part in old}, "share": [0.0, 1.0]}

        return self.cell("scratch", run)

    def union(self) -> dict[str, Any]:
        """Both datasets at once, from the start, for twice the steps."""

        def run() -> dict[str, Any]:
            p, steps = self.preset, 2 * self.preset.steps
            schedule = schedules.warmup_cosine(self.shape.peak, p.floor * self.shape.peak, steps, round(p.warmup * steps))
            made = union(self.pair, [p.steps, p.steps], self.rates(schedule, steps), batch_size=p.batch)
            return self.result(self.train(self.pair, made))

        return self.cell("union", run)

    def infinite(self, kind: str) -> dict[str, Any]:
        """Three datasets, with the published replay share: re-warmed cosines or one schedule that never re-warms."""

        def run() -> dict[str, Any]:
            p, peak = self.preset, self.shape.peak
            total, floor = 3 * p.steps, p.floor * peak
            if kind == "re-warmed":
                schedule = schedules.rewarmed(peak, floor, [p.steps] * 3, p.warmup)
            else:
                schedule = schedules.infinite(
                    peak, 0.55 * peak, floor, warmup=round(p.warmup * p.steps), cooldown=round(0.6 * p.steps), steps=total,
                    anneal=p.steps // 2, shape=kind,
                )  # fmt: skip
            replay = [0.0, PUBLISHED[self.shift], PUBLISHED[self.shift]]
            made = plan(self.data, [p.steps] * 3, self.rates(schedule, total), batch_size=p.batch, replay=replay)
            return self.result(self.train(self.data, made))

        return self.cell(f"infinite, {kind}", run)

    def merged(self, continued: bool) -> dict[str, Any]:
        """TIES at the best of six settings by validation: of the first dataset's model and the second's, both from one start, or
        of the first and its own continuation without replay."""

        def run() -> dict[str, Any]:
            from olm.models import transformer

            if continued:
                rates = self.rates(self.rewarmed(), self.preset.steps)
                made = plan(self.pair, [self.preset.steps], rates, batch_size=self.preset.batch, first=1)
                second = self.train(self.pair, made, self.before[0]).params
            else:
                self.scratch()
                second = jax.tree.map(jax.numpy.asarray, load_arrays(self.folder / "scratch.npz"))
            key_init, _ = jax.random.split(jax.random.key(1000 + self.seed))
            start = transformer.init(self.model)(key_init)
            rows = {}
            for keep, scale in itertools.product((0.2, 0.5, 1.0), (0.5, 1.0)):
                merged = ties(start, [self.before[0], second], keep=keep, scale=scale)
                losses = measure(merged, self.pair, self.model)
                rows[f"keep {keep:g}, scale {scale:g}"] = {part: list(x.values()) for part, x in losses.items()}
            best = min(rows, key=lambda name: float(np.mean(rows[name]["validation"])))
            return {"final": rows[best], "chosen": best, "all": rows}

        return self.cell("ties of a continuation" if continued else "ties", run)

    def searched(self) -> dict[str, Any]:
        """The share and the rate that descent of the final losses finds, run again in the plain loop; with its cost in runs."""

        def run() -> dict[str, Any]:
            p = self.preset
            run = relaxed(
                self.pair, self.model, self.rewarmed(), p.steps, batch_size=p.batch, replay=PUBLISHED[self.shift], reserve=0.5,
                old_weight=WEIGHT_OLD, pieces=p.pieces, horizon=HORIZON, last=p.last,
            )  # fmt: skip
            begun = time.monotonic()
            found = find_schedule(run, params=self.before[0], key=jax.random.key(0), evaluations=p.evaluations, keep=p.keep)
            searched_s = time.monotonic() - begun
            times, every = [], {}

            def train(plain: Plain) -> Trajectory:
                begun = time.monotonic()
                made = self.train(self.pair, plain.plan, self.before[0])
                times.append(time.monotonic() - begun)
                every[len(plain.evaluations)] = {part: x[-1].tolist() for part, x in made.final.items()}
                return made

            # The start is a point of the grid, and so one of what is compared with.
            chosen, made, _ = settle(found, train, start=False)
            return {
                **self.result(made),
                "plain_seconds": float(np.median(times)),  # the unit in which a search is paid
                "plain_runs": every,
                "shares": chosen.shares[:, 0].tolist(),
                "rates": chosen.rates.tolist(),
                "history": [{k: row[k] for k in ("objective", "accepted", "seconds", "rate")} for row in found.solution.history],
                "search_seconds": searched_s,
                "mean of": list(chosen.evaluations),
            }

        return self.cell("searched", run)


@functools.cache
def _library(shift: str, preset: Preset) -> tuple[sequence.Dataset, ...]:
    return sequence.library(shift, length=preset.length, validation=preset.validation, test=preset.test)  # type: ignore[arg-type]
