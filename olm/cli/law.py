"""`olm law`: measure the Learning Law along a run's policy and along uniform weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import numpy as np
from tyro.conf import FlagCreatePairsOff, Positional, arg

from olm import baselines, law
from olm import policy as policies
from olm.cli import options as settings
from olm.cli.common import aligned, finish, parse, say
from olm.cli.tasks import count, none_means
from olm.errors import DivergenceError, InputError
from olm.objective import area
from olm.records import Run, save_arrays, versions, write_json
from olm.records.files import explained
from olm.simplex import check_feasible
from olm.train import inputs

KEPT = 512


@dataclass(frozen=True)
class Law:
    """Settings of `olm law`."""

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """The folder of a search or a replay that has ended."""
    steps_between: Annotated[int | None, count("so that up to 250 steps are measured")] = None
    """Measure contributions at steps 0, k, 2k …: less time, and the curves stay whole."""
    learned: float = 1e-6
    """An example of at most this loss (nats) is learned."""
    learned_share: Annotated[
        float | None, arg(metavar="FLOAT|None", help_behavior_hint=none_means("--learned decides; 0.05 for language"))
    ] = None
    """Instead: the examples among this share of the least losses of each step."""
    target_only: FlagCreatePairsOff[bool] = False
    """Leave out the held-out examples, whose gradient takes time."""
    quiet: FlagCreatePairsOff[bool] = False
    """No progress on the terminal."""


def _open(path: str) -> tuple[Run, settings.Search[Any]]:
    run, options = Run.open(path), settings.restored(path)
    if not (run.path / "policy.npz").exists():
        raise InputError(f"{path} has no policy.npz: let the run end, or continue it with olm search --resume {path}")
    return run, settings.resolved(options)


def _learned_share(wanted: Law, task: str) -> float | None:
    """The share that counts as learned, None where a loss decides: no sequence is ever learned to 1e-6 nats a token."""
    if wanted.learned_share is None and wanted.learned == Law.learned and task == "language":
        return 0.05
    return wanted.learned_share


def run(words: Sequence[str]) -> int:
    """The command; returns its exit status."""
    if not words:
        raise InputError("name the folder of a run: olm law RUN")
    wanted = parse(
        Law, words, prog="olm law", description="Measure the Learning Law along the policy of a run and along uniform weights."
    )
    if wanted.steps_between is not None and wanted.steps_between < 1:
        raise InputError(f"steps-between is {wanted.steps_between}: give at least 1")
    if wanted.learned_share is not None and not 0 < wanted.learned_share <= 1:
        raise InputError(f"--learned-share is {wanted.learned_share:g}: give a share above 0, at most 1")
    if wanted.learned_share is not None and wanted.learned != Law.learned:
        raise InputError("--learned and --learned-share say the same in two ways: give one of them")
    record, options = _open(wanted.run)
    file = record.path / "policy.npz"
    policy, phi = policies.load(file, baselines.named)
    learner, adjoint = options.learner.build(options.learner.learning_rate), options.adjoint.build()
    objective = area() if record.config["kind"] == "train" else options.search.build_objective()
    key_data, key = options.training.keys()
    built = options.task.build(key_data, options.training.data_seed)
    if (there := record.config.get("data")) != built.data:
        changed = [name for name in built.data if not isinstance(there, dict) or there.get(name) != built.data[name]]
        raise InputError(f"the data are not those of {wanted.run} ({', '.join(changed)}): restore what it was made from")
    task, steps = built.task, options.training.steps
    key_train, _ = jax.random.split(key)
    try:
        inputs(task, learner, policy, phi, steps, key_train)
        check_feasible(policy.feasible, phi)
    except InputError as error:
        raise InputError(f"{file} does not go with this run: {error}") from None
    with explained(record.path, "write to"):
        (record.path / "figures").mkdir(exist_ok=True)

    # A search that draws its targets anew never saw the fixed sample that is measured here.
    searched = record.config["kind"] != "train"
    drawn = searched and task.draw is not None and options.search.target_draws > 0
    share = _learned_share(wanted, options.task.name)
    studies = {}
    for side, (which, parameters) in {"uniform": (policies.uniform(), ()), "found": (policy, phi)}.items():
        if not wanted.quiet:
            say(f"measuring along {'uniform weights' if side == 'uniform' else file}")
        studies[side] = law.study(
            task, learner, which, parameters, steps=steps, key=key_train, objective=objective, adjoint=adjoint,
            keep=KEPT, every=wanted.steps_between, group=built.group, learned=wanted.learned, quantile=share,
            held_out=not wanted.target_only,
        )  # fmt: skip
    summary = {side: study.summary() for side, study in studies.items()}
    for side, study in studies.items():
        if not all(np.isfinite(curve).all() for curve in study.curves.values()):
            whose = "uniform weights" if side == "uniform" else "the policy"
            raise DivergenceError(f"training with {whose} is not finite: nothing was written; search at a lower learning rate")
    tables = {side: study.tables() for side, study in studies.items()}
    for stale in (record.path / "figures").glob("law_*"):
        stale.unlink()
    save_arrays(record.path / "law.npz", tables)
    about = {
        "policy": policy.name,
        "learned": wanted.learned,
        "learned_share": share,
        "steps_between": studies["found"].settings.every,
        "target": "task.target, the fixed sample",
        "search_saw_target": not drawn if searched else None,
    }
    write_json(record.path / "law.json", {**summary, "settings": about, "versions": versions()})
    print(table(summary))
    if drawn:
        print("target: the fixed sample, which this search, with fresh draws for every evaluation, did not see")
    finish(record, on_missing=say)
    return 0


def _cell(value: Any) -> str:
    return "–" if value is None or value != value else f"{value:.4g}"


def table(summary: dict[str, Any]) -> str:
    """Uniform weights and the found policy side by side, from the dict that ``law.json`` holds."""
    sides = ("uniform", "found")
    rows = [["", *sides]]

    def add(name: str, of: Any) -> None:
        rows.append([name, *(_cell(of(summary[side])) for side in sides)])

    curves = list(summary["found"]["area"])
    for curve in curves:
        add(f"area under the {curve} loss, nats", lambda s, c=curve: s["area"][c])
        add(f"compression ratio on {curve}, one unit", lambda s, c=curve: s["compression_ratio"][c]["consistent"])
        add(f"compression ratio on {curve}, bits over nats", lambda s, c=curve: s["compression_ratio"][c]["paper_mixed"])
    names = [*curves, "costate"]
    for name in names:
        add(f"mean similarity, {name}, weights above 1/100 of 1/N", lambda s, n=name: s["similarity"][n]["mean"])
        add(f"mean similarity, {name}, all weights above 0", lambda s, n=name: s["similarity"][n]["above_zero"])
        add(f"steps without a similarity, {name}", lambda s, n=name: s["similarity"][n]["steps_left_out"])
    add("mean gap from an optimum, nats", lambda s: s["gap"])
    for place, threshold in enumerate(summary["found"]["properties"]["thresholds"]):
        zero = f"weight ≤ {threshold:g}/N"
        add(f"{zero}: of all examples", lambda s, p=place: s["properties"]["zero"][p])
        for name in names:
            add(f"{zero}: of the harmful, {name} (4.1)", lambda s, n=name, p=place: s["properties"]["noisy"][n]["zero"][p])
        add(f"{zero}: of the helpful, target (4.3)", lambda s, p=place: s["properties"]["redundant"]["target"]["zero"][p])
    for name in names:
        add(f"weight on harmful examples, {name}", lambda s, n=name: s["properties"]["noisy"][n]["weight"])
    add("learned examples, share", lambda s: s["properties"]["learned"]["share"])
    add("weight ≤ 0.2 of the largest: of the learned (4.2)", lambda s: s["properties"]["learned"]["small"])
    add("weight ≤ 0.2 of the largest: of all", lambda s: s["properties"]["learned"]["small_of_all"])
    for group in ("clean", "corrupted") if "groups" in summary["found"] else ():
        add(f"{group}: weight relative to uniform", lambda s, g=group: s["groups"]["weight"][g])
        add(f"{group}: weight ≤ 0.01/N", lambda s, g=group: s["groups"]["zero"][g])
        for name in names:
            add(f"{group}: mean contribution, {name}", lambda s, g=group, n=name: s["groups"][n][g])
    return "\n".join(aligned(rows))
