"""`olm search`: find a policy, leave a run folder behind, continue one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from olm.cli import options as settings
from olm.cli.common import add_group, check_place, finish, given, new_run, parse, refuse_empty, resume_line, say, table
from olm.errors import DivergenceError, InputError
from olm.records import Run
from olm.search import Grid, Solution, above_entropy, best_rates, find_policy
from olm.types import Learner, Task

MAY_CHANGE = {"adjoint.folder", "search.evaluations", "search.patience", "search.grid", "search.grid_searches"}
CLAIMED = (
    "acceleration", "acceleration_first", "acceleration_least", "area_ratio", "final_ratio", "area_above_entropy_ratio",
    "step_length_ratio",
)  # fmt: skip

HELP = """usage: olm search TASK [OPTIONS]
       olm search --resume RUN [OPTIONS]

Find the policy, a weight for every example at every training step, under which a model learns fastest.

{tasks}

olm search TASK --help lists every option. RUN is the folder of an earlier search; it goes on where that one ended or was
stopped, with --evaluations MORE beyond its end."""


def _read(words: Sequence[str]) -> settings.Search[Any]:
    """The settings: a task's preset or a run's own ones, then the flags."""
    resume = given(words, "--resume")
    task = words[0] if words and not words[0].startswith("-") else None
    if resume is None and task is None:
        if {"-h", "--help"} & set(words):
            print(HELP.format(tasks="\n".join(f"  {name:<11} {_about(name)}" for name in settings.PRESETS)))
            raise SystemExit(0)
        tasks = "|".join(settings.PRESETS)
        raise InputError(f"name a task (olm search {tasks} ...) or continue a run (olm search --resume RUN)")
    if resume is not None:
        if given(words, "--preset") is not None:
            raise InputError("--preset sets up a new search: leave it out with --resume")
        default = settings.restored(resume)
        if Run.open(resume).config["kind"] != "search":
            raise InputError(f"{resume} holds a replay, not a search: give the folder of a search")
        if task not in (None, default.task.name):
            there = default.task.name
            raise InputError(f"{resume} is a search on {there}, not on {task}: leave the task out, or use another folder")
    else:
        default = settings.preset(str(task), given(words, "--preset"))
    options = parse(
        settings.Search[type(default.task)],  # type: ignore[misc]
        words if task is None else words[1:],
        prog=f"olm search {default.task.name}",
        description="Find the policy under which a model learns fastest.",
        default=default,
    )
    refuse_empty(words, options.task)
    return options


def _about(task: str) -> str:
    return str(type(settings.preset(task, None).task).__doc__).splitlines()[0]


def _fewer(path: str, evaluations: int) -> None:
    there = Run.open(path).config["search"]["evaluations"]
    if evaluations < there:
        raise InputError(f"{path} is a search of {there} evaluations: give --evaluations {there} or more, not {evaluations}")


def run(words: Sequence[str]) -> int:
    """The command; returns its exit status."""
    options = settings.resolved(_read(words))
    place = options.run
    check_place(place)
    if options.search.grid_searches < 1:
        raise InputError(f"grid-searches is {options.search.grid_searches}: give at least 1")
    learner = options.learner.build(options.learner.learning_rate)
    arguments = {
        "policy": options.policy.build(),
        "method": options.method.build(),
        "adjoint": options.adjoint.build(),
        "objective": options.search.build_objective(),
        "steps": options.training.steps,
        "evaluations": options.search.evaluations,
        "target_draws": options.search.target_draws,
        "validation_fraction": options.search.validation_fraction,
        "patience": options.search.patience,
        "save_every": place.save_every,
        "progress": not place.quiet,
    }
    key_data, key = options.training.keys()
    built = options.task.build(key_data, options.training.data_seed)
    task = built.task
    config = settings.recorded(options, "search", built.data)
    command = ["olm", "search", *words]
    if place.resume is not None:
        _fewer(place.resume, options.search.evaluations)

    with ExitStack() as stack:
        runs: list[Run] = []

        def opened() -> Run:
            options.adjoint.make_folder()
            if place.resume is not None:
                made = Run.resume(place.resume, config, MAY_CHANGE)
            else:
                made = new_run(place.run_dir, options.task.name, config, command)
            runs.append(stack.enter_context(made))
            if not place.quiet:
                say(f"writing to {made.path}")
            return made

        try:
            solution = find_policy(task, learner, key=key, run_dir=opened, **arguments)
            main = runs[0]
            measures = {**solution.measures, **above_entropy(solution.measures, built.facts.get("entropy"))}
            summary = {**main.summary(), **measures, **built.facts}
            add_group(main, built.group)
            main.write_summary(summary)
            _show(options, solution, measures)
            if options.search.grid and solution.status in ("finished", "stopped"):
                grid = _grid(options, main, task, learner, config, key, arguments)
                best = {**grid.claim, **above_entropy(grid.claim, built.facts.get("entropy"))}
                add_group(main, built.group)  # the grid has looked up this very search, and so written its results again
                main.write_summary({**summary, **_claims(options, measures, grid, best)})
                _show_grid(grid, best)
            finish(main)
        except KeyboardInterrupt:
            if not runs:
                raise
            say(f"interrupted; continue with: {resume_line(runs[0].path)}")
            return 130
        if solution.status == "diverged":
            raise DivergenceError(f"{solution.message}; the best so far is in {main.path}")
        if solution.status == "interrupted":
            say(f"{solution.message}; the best so far is in {main.path}; continue with: {resume_line(main.path)}")
            return 130
    return 0


def _show(options: settings.Search[Any], solution: Solution, measures: dict[str, Any]) -> None:
    best = solution.best_evaluation
    kept = "the step after the last" if best > len(solution.history) else f"evaluation {best}" if best else "the start"
    seconds = sum(row["seconds"] for row in solution.history)
    print(f"{options.task.name}, policy {solution.policy.name}, η = {options.learner.learning_rate:g}")
    print(f"{len(solution.history)} evaluations in {seconds:.0f} s, {kept} is kept: {solution.message}")
    print(table(measures), flush=True)


def _grid(options: settings.Search[Any], main: Run, task: Task, searched: Learner, config: Any, key: Any, arguments: Any) -> Grid:
    """Each side at its own best learning rate; every search has a folder inside the run, so that it can be continued."""

    def folder(rate: float) -> dict[str, Any]:
        if rate == options.learner.learning_rate:
            return {"run_dir": main}  # already searched: only looked up

        def opened() -> Run:
            path = main.path / "grid" / f"{rate:g}"
            changes: dict[str, dict[str, Any]] = {"learner": {"learning_rate": rate}, "search": {"grid": False}}
            own = {**config, **{group: {**config[group], **change} for group, change in changes.items()}}
            if not options.run.quiet:
                say(f"searching at η = {rate:g}")
            made = Run.resume(path, own, MAY_CHANGE) if (path / "config.json").exists() else Run.create(path, own, main.command)
            subruns.append(made)
            return made

        return {"run_dir": opened}

    def learner(rate: float) -> Learner:
        # The same object for the rate already searched, whose programs are compiled.
        return searched if rate == options.learner.learning_rate else options.learner.build(rate)

    subruns: list[Run] = []
    try:
        return best_rates(
            task,
            learner,
            learning_rate=options.learner.learning_rate,
            key=key,
            searches=options.search.grid_searches,
            on_search=folder,
            **arguments,
        )
    finally:
        for subrun in subruns:
            subrun.close()


def _claims(options: settings.Search[Any], same: dict[str, Any], grid: Grid, best: dict[str, Any]) -> dict[str, Any]:
    """The two claims: at the same learning rate, and each side at its own best."""
    keys = [name for name in CLAIMED if name in same]
    own = {"learning_rate_uniform": grid.learning_rates["uniform"], "learning_rate_found": grid.learning_rates["found"]}
    return {
        "grid": grid.rows,
        "claims": {
            "a": {"learning_rate": options.learner.learning_rate, **{name: same[name] for name in keys}},
            "b": {**own, **{name: best[name] for name in keys}},
        },
    }


def _show_grid(grid: Grid, best: dict[str, Any]) -> None:
    rates = grid.learning_rates
    print("\neach side at its own best learning rate, chosen on validation")
    print(table(best, *(f"{side}, η = {rates[side]:g}" for side in ("uniform", "found"))), flush=True)
