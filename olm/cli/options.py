"""Every setting of the command line as frozen dataclasses, and what they build.

A field is a flag; the text below it is the flag's help. ``config.json`` holds the same dataclasses, so that a run folder can be
continued, replayed and compared setting by setting.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin, get_type_hints

import jax
import optax
from tyro.conf import FlagCreatePairsOff, arg

from olm import adjoint as adjoints
from olm import objective as objectives
from olm import policy as policies
from olm.cli.tasks import Language, Perceptron, count, none_means
from olm.errors import InputError
from olm.records import Run
from olm.records.files import explained
from olm.search import Method, mirror_descent, projected_gradient
from olm.types import Learner, Policy


@dataclass(frozen=True)
class LearnerOptions:
    """How the model learns."""

    optimiser: Annotated[str, arg(metavar="{sgd,momentum,adamw}")] = "sgd"
    """Update rule."""
    learning_rate: float = 0.1
    """η, the same at every step."""
    momentum: float = 0.9
    """For momentum: share of the last update that is kept."""
    b1: float = 0.9
    """For adamw: decay of the mean of gradients."""
    b2: float = 0.999
    """For adamw: decay of the mean of squared gradients."""
    eps_root: float = 1e-8
    """For adamw: added under the root. 0 makes policy gradients NaN where a gradient entry is zero."""
    weight_decay: float = 0.0
    """For adamw: weight decay, times η at every step."""
    clip: Annotated[float | None, arg(metavar="FLOAT|None", help_behavior_hint=none_means("no clipping"))] = None
    """Largest norm of a gradient; longer ones are shortened to it."""
    batch_size: Annotated[int | None, count("all N, full batch")] = None
    """B, examples in one step."""
    chunk_size: Annotated[int | None, count("all at once")] = None
    """Examples processed at once: less memory, the same result."""

    def build(self, learning_rate: float) -> Learner:
        if not 0 < learning_rate < float("inf"):
            raise InputError(f"learning rate {learning_rate:g}: give a positive number")
        if not (0 <= self.momentum < 1 and 0 <= self.b1 < 1 and 0 <= self.b2 < 1):
            raise InputError(f"momentum {self.momentum:g}, b1 {self.b1:g}, b2 {self.b2:g}: give numbers from 0 to below 1")
        nonnegative = all(0 <= x < float("inf") for x in (self.eps_root, self.weight_decay))
        if not nonnegative or (self.clip is not None and not self.clip > 0):
            raise InputError("eps-root and weight-decay must be 0 or more, clip above 0")
        match self.optimiser:
            case "sgd":
                optimiser = optax.sgd(learning_rate)
            case "momentum":
                optimiser = optax.sgd(learning_rate, momentum=self.momentum)
            case "adamw":
                optimiser = optax.adamw(
                    learning_rate, b1=self.b1, b2=self.b2, eps_root=self.eps_root, weight_decay=self.weight_decay
                )
            case other:
                raise InputError(f"unknown optimiser {other!r}: choose one of sgd, momentum, adamw")
        if self.clip is not None:
            optimiser = optax.chain(optax.clip_by_global_norm(self.clip), optimiser)
        return Learner(optimiser, self.batch_size, self.chunk_size)


@dataclass(frozen=True)
class TrainingOptions:
    """One training run."""

    steps: int = 2000
    """T, training steps."""
    seed: int = 0
    """Of the initialisation, the order of examples and the target draws."""
    data_seed: Annotated[int | None, count("the seed")] = None
    """Of the generated data."""

    def keys(self) -> tuple[jax.Array, jax.Array]:
        """(of the data, of everything else)."""
        data_seed = self.seed if self.data_seed is None else self.data_seed
        if not all(-(2**63) <= seed < 2**63 for seed in (self.seed, data_seed)):
            raise InputError(f"seed {self.seed}, data-seed {data_seed}: give numbers of at most 63 bits")
        key_data, _ = jax.random.split(jax.random.key(data_seed))
        _, key = jax.random.split(jax.random.key(self.seed))
        return key_data, key


@dataclass(frozen=True)
class PolicyOptions:
    """What is searched: a weight for every example at every step, as a function of parameters."""

    name: Annotated[str, arg(name="policy", metavar="{table,static,piecewise,scorer,learning_rate}")] = "table"
    """table: a weight for each step and example; static: for each example; piecewise: constant over pieces of the run;
    scorer: softmax of margin and loss; learning_rate: uniform weights, a factor for each step."""
    pieces: int = 8
    """For piecewise: how many."""
    upper: float = float("inf")
    """For learning_rate: the largest factor."""

    def build(self) -> Policy:
        match self.name:
            case "table":
                return policies.table()
            case "static":
                return policies.static()
            case "piecewise":
                return policies.piecewise(self.pieces)
            case "scorer":
                return policies.scorer()
            case "learning_rate":
                return policies.learning_rate(self.upper)
        raise InputError(f"unknown policy {self.name!r}: choose one of table, static, piecewise, scorer, learning_rate")


_MIRROR: dict[str, Any] = dict(mirror_descent().config)


@dataclass(frozen=True)
class MethodOptions:
    """How the policy moves down its gradient."""

    name: Annotated[str, arg(name="method", metavar="{mirror_descent,projected_gradient}")] = "mirror_descent"
    """mirror_descent sets its own step size and needs far fewer evaluations; projected_gradient is the paper's."""
    fall: Annotated[float, arg(name="method-fall")] = _MIRROR["fall"]
    """For mirror_descent: relative fall of the objective that the first step predicts, 0 to 1."""
    momentum: Annotated[float, arg(name="method-momentum")] = _MIRROR["momentum"]
    """For mirror_descent: share of the last step that is kept, 0 to 1."""
    agreement: Annotated[float, arg(name="method-agreement")] = _MIRROR["agreement"]
    """For mirror_descent: how fast rows whose gradients agree take longer steps; 0: never."""
    window: Annotated[int, arg(name="method-window")] = _MIRROR["window"]
    """For mirror_descent: training steps on either side that agree together."""
    cap: Annotated[float, arg(name="method-cap")] = _MIRROR["cap"]
    """For mirror_descent: a row's gradient may be this many times the median row's."""
    largest: Annotated[float, arg(name="method-largest")] = _MIRROR["largest"]
    """For mirror_descent: upper bound of the step size."""
    rate: Annotated[float, arg(name="method-rate")] = 0.1
    """For projected_gradient: step size on the mean loss (the paper's 5e-6 at T = 2000 is 0.01 here)."""

    def build(self) -> Method:
        match self.name:
            case "mirror_descent":
                return mirror_descent(self.fall, self.momentum, self.agreement, self.window, self.cap, self.largest)
            case "projected_gradient":
                return projected_gradient(self.rate)
        raise InputError(f"unknown method {self.name!r}: choose one of mirror_descent, projected_gradient")


@dataclass(frozen=True)
class SearchOptions:
    """The search. One evaluation is one training run and its exact policy gradient."""

    evaluations: int = 40
    """Evaluations to spend; a continued search may be given more."""
    objective: Annotated[str, arg(metavar="{area,final}")] = "area"
    """Mean target loss over the run, or the last one (nats)."""
    target_draws: int = 4096
    """Fresh target examples for each evaluation, where the task can draw; 0: the fixed target sample."""
    validation_fraction: float = 0.25
    """Share of a fixed target sample kept back to choose what is returned; 0: none."""
    patience: Annotated[int | None, count("spend them all")] = None
    """Stop when validation has not improved for so many evaluations."""
    grid: bool = False
    """Also compare each side at its own best learning rate: uniform weights and searches on a grid of factors of 2."""
    grid_searches: int = 4
    """With --grid: at most so many further searches."""

    def build_objective(self) -> objectives.Objective:
        match self.objective:
            case "area":
                return objectives.area()
            case "final":
                return objectives.final()
        raise InputError(f"unknown objective {self.objective!r}: choose one of area, final")


@dataclass(frozen=True)
class AdjointOptions:
    """How the gradient remembers the training run. All agree; they differ in memory and time."""

    name: Annotated[str, arg(name="adjoint", metavar="{direct,segmented,offloaded}")] = "direct"
    """direct: keep every state; segmented: keep some and recompute; offloaded: keep them in host memory or on disk."""
    levels: int = 2
    """For segmented: k, memory for about k·T^(1/k) states and k − 1 training runs more."""
    segment: Annotated[int | None, count("from T and levels")] = None
    """For segmented and offloaded: steps in a segment."""
    residuals: bool = False
    """For direct and segmented: keep the steps' matrix products too. Faster for the perceptron, hardly for a transformer."""
    snapshots: Annotated[int | None, count("the start of every segment")] = None
    """For offloaded: states kept at once."""
    folder: Annotated[str | None, arg(name="offload-dir", metavar="DIR|None", help_behavior_hint=none_means("host memory"))] = (
        None
    )
    """For offloaded: where the states are kept."""

    def build(self) -> adjoints.Adjoint:
        match self.name:
            case "direct":
                return adjoints.direct(self.residuals)
            case "segmented":
                return adjoints.segmented(self.levels, self.segment, self.residuals)
            case "offloaded":
                from olm.offload import offloaded

                return offloaded(self.snapshots, self.segment, self.folder)
        raise InputError(f"unknown adjoint {self.name!r}: choose one of direct, segmented, offloaded")

    def make_folder(self) -> None:
        """Make the folder of the states, so that one that cannot be used is known before a run folder is written."""
        if self.name == "offloaded" and self.folder is not None:
            path = Path(self.folder)
            with explained(path, "make the folder"):
                path.mkdir(parents=True, exist_ok=True)
            if not os.access(path, os.W_OK | os.X_OK):
                raise InputError(f"{path} cannot be written: choose another --offload-dir")


@dataclass(frozen=True)
class RunOptions:
    """Where results go. These do not change them."""

    run_dir: Annotated[str | None, arg(metavar="DIR", help_behavior_hint=none_means("runs/TASK-DATE-NUMBER"))] = None
    """A new folder for the results."""
    preset: Annotated[str | None, arg(metavar="{cpu,paper}", help_behavior_hint=none_means("cpu"))] = None
    """Defaults of all settings: cpu takes minutes on two cores; paper has the published sizes. Other flags override it."""
    quiet: FlagCreatePairsOff[bool] = False
    """No progress on the terminal."""


@dataclass(frozen=True)
class SearchRunOptions(RunOptions):
    """Where results go. These do not change them."""

    resume: Annotated[str | None, arg(metavar="RUN", help_behavior_hint=none_means("a new run"))] = None
    """Continue the search of this folder with its settings; --evaluations, --patience and --grid may differ."""
    save_every: Annotated[float, arg(metavar="SECONDS")] = 20.0
    """Seconds between two saved states; a search that is killed repeats what it did after the last one. 0: always save."""


T = TypeVar("T")


@dataclass(frozen=True)
class Search(Generic[T]):
    """Settings of `olm search`."""

    task: T
    learner: LearnerOptions = LearnerOptions()
    training: TrainingOptions = TrainingOptions()
    policy: PolicyOptions = PolicyOptions()
    search: SearchOptions = SearchOptions()
    method: MethodOptions = MethodOptions()
    adjoint: AdjointOptions = AdjointOptions()
    run: SearchRunOptions = field(default=SearchRunOptions())


@dataclass(frozen=True)
class ReplayOptions:
    """The policy."""

    policy: Annotated[str | None, arg(metavar="FILE", help_behavior_hint=none_means("policy.npz of the run"))] = None
    """A saved policy."""


@dataclass(frozen=True)
class Replay(Generic[T]):
    """Settings of `olm train`."""

    task: T
    replay: ReplayOptions = ReplayOptions()
    learner: LearnerOptions = LearnerOptions()
    training: TrainingOptions = TrainingOptions()
    run: RunOptions = field(default=RunOptions())


PRESETS: dict[str, dict[str, Search[Any]]] = {
    "perceptron": {
        "cpu": Search(Perceptron()),
        "paper": Search(
            Perceptron(tests=512),
            search=SearchOptions(evaluations=500, target_draws=0, validation_fraction=0.0),
            method=MethodOptions(name="projected_gradient", rate=0.01),
        ),
    },
    "language": {
        "cpu": Search(
            Language(),
            learner=LearnerOptions(learning_rate=0.3, clip=0.5),
            training=TrainingOptions(steps=300),
            search=SearchOptions(evaluations=10, target_draws=256),
        ),
        "paper": Search(
            Language(vocabulary=5000, topics=8, names=16, examples=16384, targets=512, tests=512, length=64, width=128, heads=8),
            learner=LearnerOptions(learning_rate=0.1, chunk_size=256),
            training=TrainingOptions(steps=4000),
            search=SearchOptions(evaluations=15, target_draws=0, validation_fraction=0.0),
            method=MethodOptions(name="projected_gradient", rate=0.4),
            adjoint=AdjointOptions(name="segmented"),
        ),
    },
}


def preset(task: str, name: str | None) -> Search[Any]:
    """The settings of a task before any flag."""
    if task not in PRESETS:
        raise InputError(f"unknown task {task!r}: choose one of {', '.join(PRESETS)}")
    presets = PRESETS[task]
    if (name or "cpu") not in presets:
        raise InputError(f"unknown preset {name!r}: choose one of {', '.join(presets)}")
    return presets[name or "cpu"]


# -- config.json


def resolved(options: Any) -> Any:
    """The same settings with every default that follows from others filled in."""
    training = options.training
    if training.data_seed is None:
        training = dataclasses.replace(training, data_seed=training.seed)
    return dataclasses.replace(options, training=training, task=options.task.resolved())


def recorded(options: Search[Any] | Replay[Any], kind: str, data: dict[str, Any]) -> dict[str, Any]:
    """What a run folder keeps of the settings: all but where results go, with the task's name and what identifies its data."""
    groups = {f.name: dataclasses.asdict(getattr(options, f.name)) for f in dataclasses.fields(options) if f.name != "run"}
    groups["task"] = {"name": options.task.name, **groups["task"]}
    return {"kind": kind, **groups, "data": data}


def restored_group(default: Any, values: Any, where: str) -> Any:
    """``default`` with the values of a recorded group."""
    if not isinstance(values, dict):
        raise InputError(f"{where} is {values!r}, not a group of settings: restore the file")
    hints, known = get_type_hints(type(default)), {f.name for f in dataclasses.fields(default)}
    if unknown := set(values) - known:
        names = ", ".join(sorted(unknown))
        raise InputError(f"{where} has settings that this olm does not know: {names}; use the olm that made it")
    found = {}
    for name, value in values.items():
        hint = hints[name]
        kinds = {get_origin(kind) or kind for kind in (get_args(hint) if isinstance(hint, UnionType) else (hint,))}
        found[name] = tuple(value) if isinstance(value, list) else value
        # By exact type, as true would pass for a whole number.
        if type(found[name]) not in (kinds | {int} if float in kinds else kinds):
            raise InputError(f"{where}.{name} is {value!r}: restore the file")
    if absent := known - set(values):
        raise InputError(f"{where} lacks {', '.join(sorted(absent))}: restore the file, or use the olm that made it")
    return dataclasses.replace(default, **found)


def restored(run_path: str) -> Search[Any]:
    """The settings of a run folder that the command line made, for a search like it."""
    config = Run.open(run_path).config
    task = config.get("task")
    if not (config.get("kind") in ("search", "train") and isinstance(task, dict) and str(task.get("name")) in PRESETS):
        raise InputError(f"{run_path} was not made by olm search or olm train: give a folder that one of them has made")
    start = preset(task["name"], None)
    config = {**config, "task": {key: value for key, value in task.items() if key != "name"}}
    kind = Search if config["kind"] == "search" else Replay
    groups = [f.name for f in dataclasses.fields(start) if f.name in {g.name for g in dataclasses.fields(kind)} - {"run"}]
    if absent := [name for name in groups if name not in config]:
        raise InputError(f"{run_path}/config.json lacks {', '.join(absent)}: restore the file, or use the olm that made it")
    found = {name: restored_group(getattr(start, name), config[name], f"{run_path}/config.json: {name}") for name in groups}
    return dataclasses.replace(start, **found)
