"""`olm memory`: what a run's transformer knows by heart, and whether its layers behave like an associative memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tyro.conf import FlagCreatePairsOff, Positional, arg

from olm import policy as policies
from olm.cli import options as settings
from olm.cli.common import aligned, finish, parse, say
from olm.errors import InputError, check_whole
from olm.learner import batch_size, order
from olm.memory import measure
from olm.memory.measure import Samples
from olm.models import transformer
from olm.models.transformer import TransformerConfig
from olm.records import Run, save_arrays, versions, write_json
from olm.records.files import explained
from olm.train import inputs, train
from olm.types import PyTree


@dataclass(frozen=True)
class Memory:
    """Settings of `olm memory`."""

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """The folder of a finished run of olm search, train, continue or control train, on language."""
    view: Annotated[str, arg(metavar="{last,whole}")] = "last"
    """A layer's pattern of a sequence: the vector that predicts its last token, or the vectors of all positions."""
    most: int = 2048
    """At most so many sequences of each set."""
    retrieved: int = 256
    """At most so many sequences take part in the retrieval tests; 0: none."""
    fractions: Annotated[tuple[float, ...], arg(metavar="FLOAT ...")] = measure.FRACTIONS
    """By how much inputs are moved there, in radii of their balls."""
    chunk: int = 256
    """Sequences at once: less takes less memory."""
    seed: int = 0
    """Of the directions in which inputs are moved."""
    quiet: FlagCreatePairsOff[bool] = False
    """No progress on the terminal."""


class Models(NamedTuple):
    """What can be measured of a run.

    Attributes:
      config: the transformer's sizes.
      params: by name; the first is what the run is about, the last is untrained.
      sets: by name, what was learned from and what was held out.
    """

    config: TransformerConfig
    params: dict[str, PyTree]
    sets: dict[str, tuple[Samples, Samples]]


def _stored(run: Run, config: TransformerConfig, hint: str) -> PyTree:
    if not (run.path / "params.npz").exists():
        raise InputError(f"{run.path} has no stored model (params.npz): {hint}")
    like = jax.eval_shape(transformer.init(config), jax.random.key(0))
    return jax.tree.map(jnp.asarray, run.load("params", like))


def _of_search(path: str, run: Run, quiet: bool) -> Models:
    """The model of the found policy, and the same trained with uniform weights."""
    options = settings.resolved(settings.restored(path))
    if options.task.name != "language":
        raise InputError(f"{path} trained a {options.task.name}, which has no layers of a transformer: give a run on language")
    key_data, key = options.training.keys()
    built = options.task.build(key_data, options.training.data_seed)
    _check_data(run, built.data)
    hint = f"let the run end, or continue it with olm search --resume {path}"
    found = _stored(run, built.model, hint)
    learner, key_train = options.learner.build(options.learner.learning_rate), jax.random.split(key)[0]
    if not quiet:
        say("training with uniform weights, to compare")
    uniform = train(
        built.task, learner, policies.uniform(), (), steps=options.training.steps, key=key_train, adjoint=options.adjoint.build()
    )
    params = {"found": found, "uniform": uniform.params, "untrained": _untrained(built, learner, options, key_train)}
    whole, held_out = measure.samples(built.task.train), measure.samples(built.task.test)
    n = len(whole.tokens)
    seen = _seen(jax.random.split(key_train)[1], options.training.steps, n, batch_size(learner, n))
    if built.group is None:
        return Models(built.model, params, {"training": (_rows(whole, seen), held_out)})
    spoiled = options.task.spoiled(key_data, held_out.tokens, held_out.mask, built.model.vocabulary)
    others = {"clean": held_out, "corrupted": measure.samples(spoiled)}
    rows = {name: seen[built.group[seen] == group] for group, name in enumerate(others)}
    for name in (name for name in others if len(rows[name]) < 2):
        say(f"{len(rows[name])} {name} sequences were learned from: that half is left out")
    sets = {name: (_rows(whole, rows[name]), others[name]) for name in others if len(rows[name]) > 1}
    if not sets:
        raise InputError(f"{path} learned from fewer than two sequences of a kind: give a run with more --examples or --steps")
    return Models(built.model, params, sets)


def _rows(part: Samples, rows: Any) -> Samples:
    return Samples(part.tokens[rows], part.mask[rows])


def _seen(key: Any, steps: int, n: int, batch: int) -> np.ndarray:
    """Which of n examples the shuffled epochs of a run have read: a short one reads a part of them."""
    return np.unique(order(key, steps, n, batch)) if batch < n else np.arange(n)


def _check_data(run: Run, here: dict[str, Any]) -> None:
    if (there := run.config.get("data")) != here:
        changed = [name for name in here if not isinstance(there, dict) or there.get(name) != here[name]]
        raise InputError(f"the data are not those of {run.path} ({', '.join(changed)}): restore what it was made from")


def _untrained(built: Any, learner: Any, options: Any, key: Any) -> PyTree:
    return inputs(built.task, learner, policies.uniform(), (), options.training.steps, key)[1][0]


def _of_sequence(path: str, run: Run) -> Models:
    """A run over datasets: the model at the end, and what it has read of each."""
    from olm.cli import continual
    from olm.tasks.sequence import fingerprint

    work = continual.work_of(path)
    _check_data(run, {"names": [data.name for data in work.data], "fingerprint": fingerprint(work.data)})
    params = {
        "trained": _stored(run, work.model, f"let the run end, or continue it with olm continue --resume {path}"),
        "untrained": transformer.init(work.model)(jax.random.split(work.key)[0]),
    }
    # Each is read from its beginning: in its own phase, which may lie in the folder of an earlier run, or in all of them.
    read = {data.name: windows for data, windows in zip(work.data, [*work.seen(len(work.data) - 1), 0], strict=True)}
    for phase in run.summary().get("account", ()):
        for name, tokens in phase["tokens"].items():
            read[name] = max(read[name], tokens // (work.data[0].train.shape[1] - 1))
    sets = {data.name: (measure.samples(data.train, read[data.name]), measure.samples(data.test)) for data in work.data}
    return Models(work.model, params, sets)


def _of_control(path: str, run: Run) -> Models:
    """The base of a run of controlled generation, and its sentences."""
    from olm.cli import control

    work = control.work_of(path)
    _check_data(run, work.config()["data"])
    base = run.path / "base"
    hint = f"go on with olm control train --resume {path}"
    if not (base / "config.json").exists():
        raise InputError(f"{path} has no stored model (base/params.npz): {hint}")
    params = {
        "base": _stored(Run.open(base), work.model, hint),
        "untrained": transformer.init(work.model)(jax.random.split(work.keys[0])[0]),
    }
    stored, held_out = (Samples(*control.sequences(part)) for part in (work.corpus.train, work.corpus.held_out))
    n, options = len(stored.tokens), work.options.base
    of_order = jax.random.split(jax.random.split(work.keys[0])[1])[1]  # as train_base and olm.train divide it
    seen = _seen(of_order, options.steps, n, min(options.batch_size, n))
    return Models(work.model, params, {"sentences": (_rows(stored, seen), held_out)})


def _models(path: str, quiet: bool) -> tuple[Run, Models]:
    run = Run.open(path)
    kind = run.config.get("kind")
    if kind == "continue":
        return run, _of_sequence(path, run)
    if kind == "control":
        return run, _of_control(path, run)
    if kind in ("search", "train"):
        return run, _of_search(path, run, quiet)
    raise InputError(f"{path} holds no model of its own: give the folder of olm search, train, continue or control train")


def run(words: Sequence[str]) -> int:
    """The command; returns its exit status."""
    if not words:
        raise InputError("name the folder of a run: olm memory RUN")
    wanted = parse(Memory, words, prog="olm memory", description="Measure what a run's transformer knows by heart.")
    check_whole("most", wanted.most, 2)
    check_whole("retrieved", wanted.retrieved, 0)
    check_whole("chunk", wanted.chunk, 1)
    if not 0 <= wanted.seed < 2**63:
        raise InputError(f"seed is {wanted.seed}: give a number from 0, of at most 63 bits")
    measure.check_view(wanted.view)
    measure.check_fractions(wanted.fractions)
    record, models = _models(wanted.run, wanted.quiet)
    for name, both in models.sets.items():
        for words, part, least in zip(("learned from", "held out"), both, (2, 1), strict=True):
            if len(part.tokens) < least:
                raise InputError(
                    f"{wanted.run} has {len(part.tokens)} {name} sequences {words}: give a run with at least {least}"
                )
    with explained(record.path, "write to"):
        (record.path / "figures").mkdir(exist_ok=True)
    summary: dict[str, Any] = {}
    tables: dict[str, Any] = {}
    for name, (stored, held_out) in models.sets.items():
        parts = [Samples(part.tokens[: wanted.most], part.mask[: wanted.most]) for part in (stored, held_out)]
        equal = len(parts[0].tokens) - len(np.unique(parts[0].tokens, axis=0))
        if equal:
            say(f"{name}: {equal} stored sequences repeat an earlier one; their separation is 0, and they have no ball")
        moved = min(wanted.retrieved, *(len(part.tokens) for part in parts))
        if any((part.tokens[:moved, :-1] == part.tokens[0, :-1]).all() for part in parts) and moved > 1:
            say(f"{name}: the {moved} sequences of a retrieval test are all equal, so there is none")
            moved = 0
        summary[name], tables[name] = {}, {}
        for side, params in models.params.items():
            if not wanted.quiet:
                say(f"measuring {side}, {name}: {len(parts[0].tokens)} stored and {len(parts[1].tokens)} held-out sequences")
            found = measure.measure(
                models.config, params, parts[0], parts[1], jax.random.key(wanted.seed), view=wanted.view,  # type: ignore[arg-type]
                fractions=wanted.fractions,
                retrieved=moved, chunk=wanted.chunk, progress=not wanted.quiet,
            )  # fmt: skip
            summary[name][side] = {"stored": len(parts[0].tokens), "held_out": len(parts[1].tokens), **found.summary()}
            tables[name][side] = found.tables()
    for stale in (record.path / "figures").glob("memory_*"):
        stale.unlink()
    about = {name: value for name, value in dataclasses.asdict(wanted).items() if name not in ("run", "quiet")}
    save_arrays(record.path / "memory.npz", tables)
    write_json(record.path / "memory.json", {"sets": summary, "settings": about, "versions": versions()})
    print("\n\n".join(table(name, sides) for name, sides in summary.items()))
    if record.config["kind"] == "control":  # which has no report: its figures alone are drawn
        from olm.report.memory import write

        print(f"figures: {write(record.path, tables)}")
    else:
        finish(record, on_missing=say)
    return 0


def _cell(value: Any) -> str:
    return "–" if value is None or value != value else f"{value:.4g}"


def table(name: str, sides: dict[str, dict[str, Any]]) -> str:
    """The models of a run side by side on one set, then the layers of the first."""
    first = next(iter(sides.values()))
    rows = [[f"{name}: {first['stored']} stored, {first['held_out']} held out", *sides]]

    def add(label: str, of: Any) -> None:
        rows.append([label, *(_cell(of(side)) for side in sides.values())])

    for part in ("stored", "held_out"):
        add(f"loss, {part.replace('_', ' ')}, nats a label", lambda s, p=part: s[f"loss_{p}"])
    add("known by heart: stored below 95% of held-out losses (chance .05)", lambda s: s["known"])
    add("loss tells stored from held out, area under curve (chance .5)", lambda s: s["loss_auc"])
    for part in ("stored", "held_out"):
        add(f"second half written from the first, {part.replace('_', ' ')}", lambda s, p=part: s[f"written_{p}"])
    for kind, found in first["retrieval"].items():
        moved = " ".join(f"{fraction:g}" for fraction in found["fractions"])
        cells = (" ".join(f"{x:.2f}".lstrip("0") for x in side["retrieval"][kind]["recovered"]) for side in sides.values())
        rows.append([f"recovered after a move of {moved} radii, {kind}", *cells])
    layers = [[f"layers of {next(iter(sides))}", *(layer["layer"] for layer in first["layers"])]]
    for label, key in {
        f"radius, over theory's {first['theory_radius']:.3g}": "radius_over_theory",
        "stored patterns equal to another (separation 0)": "duplicates",
        "held out inside a stored ball": "held_out_inside",
        "distance to the nearest other is less than held out's (alike .5)": "separation_auc",
    }.items():
        layers.append([label, *(_cell(layer[key]) for layer in first["layers"])])
    return "\n".join([*aligned(rows), "", *aligned(layers)])
