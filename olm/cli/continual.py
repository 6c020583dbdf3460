"""`olm continue`: train on one dataset after another with replay; measure what is kept and what is learned."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from olm import schedules
from olm.cli.common import aligned, check_place, finish, given, new_run, parse, resume_line, say
from olm.cli.continual_options import BASELINES, GROUPS, SOURCES, Continue, Stories, Text
from olm.cli.options import restored_group
from olm.continual.experiment import Trajectory, measure, train_sequence
from olm.continual.experiment import settings as settings_of
from olm.continual.forecast import ShareForecast, choose_share
from olm.continual.plan import Plan, plan, replay_shares, union
from olm.continual.search import Plain, Relaxed, find_schedule, relaxed, settle
from olm.errors import DivergenceError, InputError, check_whole
from olm.records import Run
from olm.tasks.sequence import Dataset

HELP = """usage: olm continue DATA [OPTIONS]
       olm continue --resume RUN

Train a transformer on one dataset after another, with a share of earlier data in every batch, and measure what it forgets of
the earlier ones and how well it learns the new one.

{sources}

olm continue DATA --help lists every option. RUN is the folder of an earlier run; it goes on where that one was stopped."""


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


CHOICES = {"options.replay.budget_forgetting", "options.search.search", "options.search.search_keep"}
"""What may be another for a run that goes on: pilots and the evaluations of a search are kept, and the choice is made again."""

PILOTS_NEEDED = {"cmr": 3, "d_cpt": 4}  # as many as the law has free parameters


def _check_pilots(replay: Any) -> None:
    """What pilots cannot answer is said before any is run."""
    if replay.pilot_law not in PILOTS_NEEDED:
        raise InputError(f"unknown pilot-law {replay.pilot_law!r}: choose one of {', '.join(PILOTS_NEEDED)}")
    if not 0 <= replay.budget_forgetting <= 0.999:
        hint = "give the allowed rise as a fraction, 0.03 for 3%, at most 0.999"
        raise InputError(f"budget-forgetting is {replay.budget_forgetting:g}: {hint}")
    least = PILOTS_NEEDED[replay.pilot_law]
    if len(set(replay.pilots)) < least or (replay.pilot_law == "cmr" and min(replay.pilots) <= 0):
        raise InputError(
            f"pilots {' '.join(map(str, replay.pilots))}: law {replay.pilot_law} needs {least} different shares"
            + (" above 0" if replay.pilot_law == "cmr" else "")
        )


class _Work:
    """One command: its data and settings, and the folders in which its runs are kept and continued."""

    def __init__(self, options: Continue[Any], words: Sequence[str]):
        options = dataclasses.replace(options, data=options.data.resolved())
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
        if options.replay.budget_forgetting is not None:
            _check_pilots(options.replay)
        if options.search.search < 0:
            raise InputError(f"search is {options.search.search}: give 0 or more policy gradients")
        check_whole("search-keep", options.search.search_keep, 1)
        check_whole("evaluate-every", training.evaluate_every, 1)
        check_whole("batch-size", options.optimiser.batch_size, 2 if options.search.search else 1)
        self.chooses = options.replay.budget_forgetting is not None or options.search.search > 0
        if self.chooses and not options.optimiser.reset:
            raise InputError("a chosen share or schedule is for a run that begins with the last dataset: leave --no-reset out")
        self.options, self.steps, self.command = options, tuple(steps), ["olm", "continue", *words]
        batch = options.optimiser.batch_size
        data_seed = training.seed if training.data_seed is None else training.data_seed
        if not all(0 <= seed < 2**63 for seed in (training.seed, data_seed)):
            raise InputError(f"seed {training.seed}, data-seed {data_seed}: give numbers from 0 of at most 63 bits")
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
        return plan(self.data[:upto], self.steps[first:upto], rates, first=first, seen=self.seen(first), **arguments)

    def seen(self, first: int) -> list[int]:
        """Windows of each dataset before ``first`` that its own phase reads."""
        if first == 0:
            return []
        made = self.plan(upto=first)
        parts = np.split(made.counts, made.ends[:-1])
        return [min(int(part[:, d].sum()), len(self.data[d].train)) for d, part in enumerate(parts)]

    def relaxed(self, share: float) -> Relaxed:
        """The last dataset's run as a search takes it."""
        options, steps = self.options, self.steps[-1]
        rates = jnp.asarray(self.rates[-steps:], jnp.result_type(float))
        return relaxed(
            self.data,
            self.model,
            lambda step: rates[jnp.minimum(step, steps - 1)],
            steps,
            batch_size=options.optimiser.batch_size,
            replay=share,
            old_weight=options.search.old_weight,
            pieces=options.search.pieces,
            adam=self.adam,
            seen=self.seen(len(self.data) - 1),
            epochs=options.training.epochs,
        )

    def config(self, made: Plan, data: Sequence[Dataset]) -> dict[str, Any]:
        groups = {name: dataclasses.asdict(getattr(self.options, name)) for name in GROUPS}
        source = {"name": self.options.data.name, **dataclasses.asdict(self.options.data)}
        return settings_of(data, self.model, made, self.adam, options=groups, source=source, files=self.options.data.hashes())

    def train(self, made: Plan, data: Sequence[Dataset], run: Run, params: Any = None, before: Any = None) -> Trajectory:
        training = self.options.training
        return train_sequence(
            data,
            self.model,
            made,
            key=self.key,
            adam=self.adam,
            params=params,
            before=before,
            evaluate_every=training.evaluate_every,
            run=run,
            save_every=self.options.run.save_every,
            progress=not self.options.run.quiet,
        )

    def below(self, name: str, made: Plan, data: Sequence[Dataset], params: Any = None) -> Trajectory:
        """A further run in a folder inside the main one: a pilot, a baseline, the phases before a choice."""
        assert self.main is not None
        path, config = self.main.path / name, self.config(made, data)
        if not self.options.run.quiet:
            say(f"{name}: {sum(made.steps)} steps")
        there = (path / "config.json").exists()
        with Run.resume(path, config, may_change=CHOICES) if there else Run.create(path, config, self.command) as run:
            return self.train(made, data, run, params)


def work_of(path: str) -> _Work:
    """Data, model and settings of a run folder."""
    return _Work(_restored(path), [])


def run(words: Sequence[str]) -> int:
    """The command; returns its exit status."""
    options = _read(words)
    place = options.run
    check_place(place)
    work = _Work(options, words)
    options = work.options
    # What cannot be is known before a folder is made.
    last = len(work.data) - 1
    made, first = work.plan(first=last) if work.chooses else work.plan(), work.plan(upto=last)
    if options.replay.budget_forgetting is not None:
        for share in options.replay.pilots:
            work.plan(first=last, replay=[share])
    if options.search.search:
        work.relaxed(work.shares[-1] if options.replay.budget_forgetting is None else 0.5)
    for name in options.training.baselines:
        _baseline(work, name)
    config = work.config(made, work.data)
    opened = (
        Run.resume(place.resume, config, may_change=CHOICES)
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
            if work.chooses:
                earlier = work.below("first", first, work.data[:last])
                params = earlier.params
                # Each dataset as it was after its own phase; the last one as it is before its own.
                own = [float(earlier.final["test"][d][d]) for d in range(last)]
                before = [*own, measure(params, work.data, work.model)["test"][work.data[-1].name]]
                made, found = _chosen(work, made, earlier)
            others = {name: _trained_baseline(work, name) for name in options.training.baselines}
            trajectory = work.train(made, work.data, main, params, before)
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
        pilots = [work.below(f"pilots/{x!r}", work.plan(first=last, replay=[x]), work.data, params) for x in shares]
        names = [work.data[0].name, work.data[-1].name]
        old, new = ([run.measures("validation")["loss"][name] for run in pilots] for name in names)
        before = float(earlier.final["validation"][-1][0])
        forecast = choose_share(
            shares, old, before=before, budget=budget, new_losses=new, law=options.replay.pilot_law, seed=options.training.seed
        )
        more = "; the search begins there and does not keep to the budget" if options.search.search else ""
        print(_forecast_line(forecast, budget, names[0]) + more, flush=True)
        share = min(forecast.share, 1 - 1e-9)
        work.shares[-1] = share
        made = work.plan(first=last)
        told = ("share", "low", "high", "old_loss", "new_loss", "limit", "extrapolated", "message")
        table = dict(zip(map(str, shares), zip(old, new, strict=True), strict=True))
        found["forecast"] = {**{name: getattr(forecast, name) for name in told}, "budget": budget, "pilots": table}
    else:
        share = work.shares[-1]
    if options.search.search:
        assert work.main is not None
        path = work.main.path / "search"
        result = find_schedule(
            work.relaxed(share),
            params=params,
            key=work.key,
            evaluations=options.search.search,
            keep=options.search.search_keep,
            run_dir=path,
            resume=(path / "config.json").exists(),
            save_every=options.run.save_every,
            progress=not options.run.quiet,
        )
        if result.solution.status == "interrupted":
            raise KeyboardInterrupt
        if result.solution.status == "diverged" and not result.plains:
            raise DivergenceError(f"the search: {result.solution.message}")

        def train(plain: Plain) -> Trajectory:
            points = "-".join(map(str, plain.evaluations))
            return work.below(f"search/mean-of-{points}" if points else "search/start", plain.plan, work.data, params)

        chosen, _, losses = settle(result, train)
        made = chosen.plan
        points = ", ".join(map(str, chosen.evaluations))
        kept = f"the mean of evaluations {points}" if chosen.evaluations else "the start, which nothing found beats"
        print(
            f"searched: weighted final loss on validation, run plainly: {losses[0]:.4f} → {min(losses):.4f}, {kept}", flush=True
        )
        if result.solution.status == "diverged":
            print(f"the search ended early: {result.solution.message}", flush=True)
        found["searched"] = {
            "start": losses[0],
            "found": list(losses[1:]),
            "evaluations": list(chosen.evaluations),
            "shares": chosen.shares[:, :-1].sum(1).tolist(),
            "rates": chosen.rates.tolist(),
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
    rows = [["held-out loss, nats per token", *names, "mean of those learned", "steps"]]
    for phase, losses in enumerate(trajectory.final["test"]):
        new = trajectory.new[phase]
        cells = [*(f"{x:.4f}" for x in losses), f"{np.mean(losses[: new + 1]):.4f}", str(sum(work.steps[: new + 1]))]
        rows.append([f"after {names[new]}", *cells])
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
