"""`olm train`: replay a saved policy, from another start, at another learning rate, on other data."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from olm import baselines
from olm import policy as policies
from olm.cli import options as settings
from olm.cli.common import add_group, finish, given, new_run, parse, refuse_empty, say, table
from olm.errors import DivergenceError, InputError
from olm.records import fingerprint
from olm.search import above_entropy, compare
from olm.search.results import sampled_weights, write_results
from olm.simplex import check_feasible
from olm.train import inputs, train, uniform_phi

HELP = """usage: olm train RUN [OPTIONS]
       olm train {tasks} --policy FILE [OPTIONS]

Train with a saved policy and with uniform weights, and compare the two learning curves.

RUN is the folder of a search, whose settings become the defaults and whose policy.npz is replayed. FILE is any saved policy; its
steps and examples must be those of the training run. olm train RUN --help lists every option."""


def _read(words: Sequence[str]) -> tuple[settings.Replay[Any], Path]:
    """The settings, and the policy's file."""
    source = words[0] if words and not words[0].startswith("-") else None
    tasks = "|".join(settings.PRESETS)
    if source is None:
        if {"-h", "--help"} & set(words):
            print(HELP.format(tasks=tasks))
            raise SystemExit(0)
        raise InputError(f"say what to replay: olm train RUN, or olm train {tasks} --policy FILE")
    if source in settings.PRESETS:
        start = settings.preset(source, given(words, "--preset"))
    elif Path(source).exists():
        if given(words, "--preset") is not None:
            raise InputError(f"--preset sets up a new task: leave it out, {source} has its own settings")
        start = settings.restored(source)
    else:
        raise InputError(f"{source} is neither a run folder nor a task: give a folder, or one of {', '.join(settings.PRESETS)}")
    options = parse(
        settings.Replay[type(start.task)],  # type: ignore[misc]
        words[1:],
        prog=f"olm train {source}",
        description="Train with a saved policy and with uniform weights, and compare the two.",
        default=settings.Replay(start.task, learner=start.learner, training=start.training),
    )
    refuse_empty(words, options.task)
    file = options.replay.policy
    if file is None and source in settings.PRESETS:
        raise InputError(f"name the policy to replay: olm train {source} --policy FILE")
    return settings.resolved(options), Path(source) / "policy.npz" if file is None else Path(file)


def run(words: Sequence[str]) -> int:
    """The command; returns its exit status."""
    options, file = _read(words)
    policy, phi = policies.load(file, baselines.named)
    learner = options.learner.build(options.learner.learning_rate)
    key_data, key = options.training.keys()
    built = options.task.build(key_data, options.training.data_seed)
    task, steps = built.task, options.training.steps
    # As `olm.find_policy` does with the key that it is given, so that a replay without changes gives the same curves.
    key_train, _ = jax.random.split(key)
    try:
        inputs(task, learner, policy, phi, steps, key_train)
        check_feasible(policy.feasible, phi)
    except InputError as error:
        raise InputError(f"{file} cannot be replayed here: {error}") from None
    config = settings.recorded(options, "train", built.data)
    config["replay"] = {"policy": str(file), "name": policy.name, **dict(policy.config), "fingerprint": fingerprint(phi)[:16]}

    with new_run(options.run.run_dir, f"{options.task.name}-replay", config, ["olm", "train", *words]) as record:
        if not options.run.quiet:
            say(f"writing to {record.path}")
        begun = time.monotonic()
        # Without the weak type of a filled array both runs share one compiled program.
        start = jax.tree.map(lambda x: jnp.asarray(x, x.dtype), uniform_phi(policy, task, learner, steps))
        baseline, found = (train(task, learner, policy, p, steps=steps, key=key_train) for p in (start, phi))
        measures = compare(baseline, found, task.alphabet)
        measures |= above_entropy(measures, built.facts.get("entropy"))
        finite = [bool(np.isfinite(curve.target).all()) for curve in (baseline, found)]
        summary = {
            **measures,
            "on_target": compare(baseline, found, task.alphabet, held_out=False),
            **built.facts,
            "policy": policy.name,
            "status": "finished" if all(finite) else "diverged",
            "message": f"replayed {file}",
            "seconds": time.monotonic() - begun,
        }
        weights = sampled_weights(task, learner, policy, phi, steps=steps, key=key_train)
        write_results(record, policy, phi, baseline, found, weights, summary)
        add_group(record, built.group)
        print(f"{options.task.name}, policy {policy.name} of {file}, η = {options.learner.learning_rate:g}")
        print(table(measures))
        finish(record)
    if not all(finite):
        which = "the policy" if finite[0] else "uniform weights"
        raise DivergenceError(f"training with {which} is not finite: lower the learning rate; the curves are in {record.path}")
    return 0
