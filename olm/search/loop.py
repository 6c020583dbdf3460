"""The search: evaluate a policy, move down its gradient, keep what validation prefers.

One evaluation is one training run and its adjoint. A step that raises the objective sharply is taken again from the best
point so far at half the size; that evaluation counts too, and its row says so. Everything the search will do next is a
function of its state, so a run folder continues bit for bit from the last state that reached the disk.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from olm.adjoint import Adjoint, segmented
from olm.errors import InputError, check_kinds, check_whole
from olm.objective import Objective, area
from olm.policy import join, table
from olm.progress import Bar
from olm.records import Run, fingerprint
from olm.search.guard import Targets, convincing, targets
from olm.search.methods import Method, mirror_descent
from olm.search.results import sampled_weights, write_results
from olm.search.solution import Kept, Solution, compare, compare_at
from olm.simplex import check_feasible, effective_sample_size, map_constraints
from olm.train import Curve, check_setting, inputs, program, sweep, train, uniform_phi, walk
from olm.types import Learner, Policy, PyTree, Simplex, Task

__all__ = ["find_policy"]

RETRIES = 4
"""So many non-finite evaluations in a row, each at a tenth of the step before, end the search."""


class _Point(NamedTuple):
    """Where the search stands: φ with the method's state, and the gradient there once it is known."""

    phi: PyTree
    method: PyTree
    gradient: PyTree


class _State(NamedTuple):
    """Arrays that a continued search needs: the point to evaluate next, the best point to return to, the best φ."""

    phi: PyTree
    method: PyTree
    anchor: _Point
    best_phi: PyTree
    kept: tuple[PyTree, ...]
    """φ of `_Book.kept`, in its order."""


class _Book(NamedTuple):
    """Numbers that a continued search needs, kept in the state's metadata."""

    rows: int = 0
    scale: float = 1.0
    failures: int = 0
    anchor_value: float = math.inf
    best_value: float = math.inf
    best_evaluation: int = 0
    kept: tuple[Sequence[float], ...] = ()
    """(watched value, evaluation) of the best points, best first; infinite where there is none yet."""
    status: str = "running"
    message: str = ""


class _Evaluation(NamedTuple):
    objective: float
    validation: float | None
    final: float
    gradient: PyTree
    start: float
    """The part of the objective that L(θ_0) has, which is common to all policies."""

    @property
    def watched(self) -> float:
        """What decides: the validation objective, or without one the objective itself; without L(θ_0) as in `_Search.areas`."""
        return self.objective - self.start if self.validation is None else self.validation


def _static(feasible: PyTree) -> tuple[tuple[Any, ...], Any]:
    """Constraints in a form that is hashable even where they lie in a dict or a list; ``unflatten`` undoes it."""
    leaves, structure = jax.tree.flatten(feasible)
    return tuple(leaves), structure


@functools.partial(jax.jit, static_argnames=("method", "constraints"))
def _jitted_update(method: Method, constraints: Any, phi: PyTree, gradient: PyTree, value: float, state: PyTree, scale: float):
    leaves, structure = constraints
    return method.update(structure.unflatten(leaves), phi, gradient, value, state, scale)


@functools.partial(jax.jit, static_argnames="constraints")
def _sample_share(constraints: Any, phi: PyTree):
    """Mean effective sample size of the simplex rows, as a share of their length; NaN where there are none."""
    leaves, structure = constraints

    def share(constraint: Any, leaf: Any):
        return jnp.mean(effective_sample_size(leaf)) / leaf.shape[-1] if isinstance(constraint, Simplex) else jnp.nan

    shares = jax.tree.leaves(map_constraints(share, structure.unflatten(leaves), phi))
    return jnp.nanmean(jnp.stack([jnp.asarray(s) for s in shares])) if shares else jnp.nan


def _describe(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": values["name"], **dict(values["config"])}


def find_policy(
    task: Task,
    learner: Learner,
    *,
    steps: int,
    key: Any,
    policy: Policy | None = None,
    method: Method | None = None,
    evaluations: int = 40,
    objective: Objective | None = None,
    target_draws: int = 4096,
    validation_fraction: float = 0.25,
    patience: int | None = None,
    brake: float = 1.05,
    adjoint: Adjoint | None = None,
    phi: PyTree = None,
    order: Any = None,
    params: PyTree = None,
    curves: bool = True,
    keep: int = 0,
    run_dir: str | Path | Run | Callable[[], Run] | None = None,
    resume: bool = False,
    save_every: float = 20.0,
    progress: bool = False,
) -> Solution:
    """Find the policy under which a model learns fastest: minimise J(φ) = (1/T) Σ_{t=1..T} L(θ_t) over the feasible set.

    Args:
      task, learner: what is learned, and how.
      steps: T, training steps of one run.
      key: splits into initialisation, order of examples (both fixed over the search) and target samples.
      policy: the class searched; None: `olm.policy.table`.
      method: None: `olm.search.mirror_descent`.
      evaluations: training runs with their adjoints that may be spent; a step taken again counts, the baseline does not.
      objective: None: `olm.objective.area`.
      target_draws: fresh target examples an evaluation where the task can draw; 0: the fixed target set.
      validation_fraction: share of a fixed target set kept back to choose what is returned; 0: none, as in the paper.
      patience: stop when validation has not improved for so many evaluations; None: spend them all.
      brake: a step is taken again, at half its size, when the watched objective exceeds this many times the best so far.
      adjoint: None: `olm.adjoint.segmented`.
      phi: where to start; None: uniform weights.
      order: [T, B], which examples each step sees; None: shuffled epochs by the key.
      params: θ_0; None: ``task.init``.
      curves: False: measure the runs that decide and the two curves at the steps alone that the objective looks at, which spares
        most of their time where it looks at few; what takes whole curves (area, acceleration) is then None.
      keep: so many of the best points are returned too (`Solution.kept`), for who decides between them by other means.
      run_dir: a folder for metrics, state, policy, parameters and summary; or an open `olm.records.Run`, or a function that opens
        one and is called once the input has been checked (either is left open, and what state it holds is continued as it is:
        compare settings where it is opened); None: nothing is written.
      resume: continue the search that ``run_dir``, a folder, holds; ``evaluations`` may be larger than before.
      save_every: seconds between two states on disk; 0: after every evaluation. No setting of it changes the result.
      progress: show a bar with the objective and the time left.

    Returns:
      A `Solution`: the best policy by validation if it beats the start by more than chance, else the start; without
      validation examples the best by the objective. An interrupt
      (``KeyboardInterrupt``) and non-finite values end the search with the best so far; ``status`` and ``message`` say so.

    Raises:
      InputError: for anything that cannot be used as given, before anything is written.
      StorageError: when the disk fills; the last state on it is intact.

    Source: Gu et al. 2024, section 4.1, with the changes that `olm.search.methods` and `olm.search.guard` describe.

    >>> import optax, olm
    >>> x = jnp.array([[1.0], [1.0]])
    >>> task = olm.Task(lambda key: jnp.zeros(1), lambda w, b: (b["y"] - b["x"] @ w) ** 2,
    ...                 train={"x": x, "y": jnp.array([1.0, -1.0])}, target={"x": x, "y": jnp.array([1.0, 1.0])})
    >>> solution = olm.find_policy(task, olm.Learner(optax.sgd(0.1)), steps=5, evaluations=5, validation_fraction=0,
    ...                            key=jax.random.key(0))
    >>> solution.area_ratio < 1, solution.status
    (True, 'finished')
    """
    check_whole("steps", steps, least=1)
    check_whole("evaluations", evaluations, least=1)
    check_whole("keep", keep, least=0)
    if patience is not None:
        check_whole("patience", patience, least=1)
    if not brake >= 1:
        raise InputError(f"brake is {brake!r}: give 1 or more")
    if not save_every >= 0:
        raise InputError(f"save_every is {save_every:g}: give seconds, 0 or more")
    if resume and run_dir is None:
        raise InputError("resume=True needs the run_dir of the search to continue")
    policy, method = policy or table(), method or mirror_descent()
    objective, adjoint = objective or area(), adjoint or segmented()
    check_kinds(method=(method, Method), objective=(objective, Objective), adjoint=(adjoint, Adjoint))
    check_setting(task, learner, policy)
    key_train, key_targets = jax.random.split(key)
    start = uniform_phi(policy, task, learner, steps) if phi is None else phi
    # A weak type, as jnp.full of a Python number has, would have every program compiled once more after the first step.
    start = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), start)
    # Everything that can be wrong with the input is found here, before a folder is touched.
    fixed = {"order": order, "params": params}
    arguments, carry = inputs(task, learner, policy, start, steps, key_train, **fixed)
    if not jax.tree.leaves(start):
        raise InputError(f"policy {policy.name} has no parameters to search: choose another, for example olm.policy.table()")
    check_feasible(policy.feasible, start, "phi")
    weights = objective.weights(steps)
    sample = targets(task, target_draws, validation_fraction, key_targets)
    # Whatever else the task, the learner or the policy's functions cannot do shows when a step and a cost are traced.
    loop, held_out = program(task, learner, policy, steps), sample.fixed if sample.validation is None else sample.validation
    row, aux = (jax.tree.map(lambda x: x[0], part) for part in (arguments.rows, arguments.aux))
    jax.eval_shape(lambda: loop.step(arguments.shared, carry, row, aux, arguments.data))
    jax.eval_shape(lambda: loop.cost(carry, {**arguments.data, "target": held_out}))

    def settings() -> dict[str, Any]:
        return {
            "steps": steps,
            "evaluations": evaluations,
            "policy": _describe(policy._asdict()),
            "method": _describe(method._asdict()),
            "objective": objective.name,
            "target_draws": sample.draws,
            "validation_fraction": validation_fraction,
            "patience": patience,
            "adjoint": adjoint.name,
            "batch_size": learner.batch_size,
            "chunk_size": learner.chunk_size,
            "start": "uniform" if phi is None else fingerprint(phi),
            "start_params": fingerprint(carry[0]),
            "optimiser_trial": _optimiser_trial(learner, carry),
            "objective_weights": fingerprint(weights),
            **({} if curves else {"curves": False}),
            **({} if brake == 1.05 else {"brake": brake}),
            **({} if keep == 0 else {"keep": keep}),
            "key": np.asarray(key if jnp.issubdtype(key.dtype, jnp.integer) else jax.random.key_data(key)).tolist(),
            "data": fingerprint((task.train, task.target, task.test)),
            **({} if order is None else {"order": fingerprint(np.asarray(order))}),
        }

    run = _open(run_dir, settings, resume)
    search = _Search(
        task, learner, policy, method, objective, adjoint, sample, steps, key_train, start, brake, fixed, curves, keep, {}
    )
    try:
        return search.run(run, evaluations, patience, save_every, progress)
    finally:
        if run is not None and isinstance(run_dir, (str, Path)):
            run.close()


def _optimiser_trial(learner: Learner, carry: PyTree) -> list[float]:
    """Norms of the optimiser's first three updates for made-up gradients: an optimiser is known only by what it does."""
    params, state = carry
    norms = []
    for trial in range(3):
        gradient = jax.tree.map(
            lambda x, trial=trial: jnp.cos(1.0 + trial + jnp.arange(x.size)).reshape(x.shape).astype(x.dtype), params
        )
        updates, state = learner.optimiser.update(gradient, state, params)
        squares = [np.sum(np.asarray(u, np.float64) ** 2) for u in jax.tree.leaves(updates)]
        norms.append(float(f"{math.sqrt(sum(squares)):.3e}"))
    return norms


def _open(
    run_dir: str | Path | Run | Callable[[], Run] | None, settings: Callable[[], dict[str, Any]], resume: bool
) -> Run | None:
    if run_dir is None or isinstance(run_dir, Run):
        return run_dir
    if callable(run_dir):
        return run_dir()
    config = {"search": settings()}
    if resume:
        return Run.resume(run_dir, config, may_change={"search.evaluations", "search.patience"})
    return Run.create(run_dir, config)


class _Search(NamedTuple):
    """A search's fixed parts; `run` is the loop."""

    task: Task
    learner: Learner
    policy: Policy
    method: Method
    objective: Objective
    adjoint: Adjoint
    sample: Targets
    steps: int
    key: Any
    start: PyTree
    brake: float
    fixed: dict[str, Any]
    """The order of examples and θ_0, where they are given."""
    curves: bool
    keep: int
    runs: dict[str, Any]
    """Of runs measured at the objective's steps alone: what was measured, by φ's fingerprint."""

    def evaluate(self, phi: PyTree, number: int) -> _Evaluation:
        """One training run and its adjoint; ``number`` picks the target draw."""
        task = self.task._replace(target=self.sample.sample(self.task, number))
        arguments, carry = inputs(
            task, self.learner, self.policy, phi, self.steps, self.key, **self.fixed, validation=self.sample.validation
        )
        loop = program(task, self.learner, self.policy, self.steps)
        result = sweep(loop, self.adjoint, arguments, carry, self.objective, self.steps)
        weights = self.objective.weights(self.steps)
        costs = np.asarray(result.costs, np.float64)
        validation = None
        if self.sample.validation is not None:
            validation = float(self.areas(result.readout["validation"]).mean())
        gradient = join(result.gradients.shared, result.gradients.rows)
        finite = all(bool(jnp.all(jnp.isfinite(g))) for g in jax.tree.leaves(gradient))
        value = float(np.dot(weights, costs)) if np.isfinite(costs).all() else math.nan
        start = float(weights[0] * costs[0])
        return _Evaluation(value if finite else math.nan, validation, float(costs[-1]), gradient, start)

    def areas(self, losses_TxK: Any) -> np.ndarray:
        """The objective of each validation example, [K]; L(θ_0) is common to all policies and left out."""
        weights = jnp.asarray(self.objective.weights(self.steps)[1:], losses_TxK.dtype)
        return np.asarray(weights @ losses_TxK, np.float64)

    def measured(self, phi: PyTree) -> tuple[np.ndarray, Curve]:
        """A run measured where the objective looks: [K] the examples' objectives, and its curve, NaN at the other steps.

        Remembered: the runs that decide are those whose curves are shown.
        """
        seen = fingerprint(phi)
        if seen not in self.runs:
            self.runs[seen] = self._measured(phi)
        return self.runs[seen]

    def _measured(self, phi: PyTree) -> tuple[np.ndarray, Curve]:
        looks = np.flatnonzero(self.objective.weights(self.steps))
        sample = self.sample.validation if self.sample.validation is not None else self.sample.fixed
        arguments, carry = inputs(
            self.task, self.learner, self.policy, phi, self.steps, self.key, **self.fixed, test=self.task.test, sample=sample
        )
        loop, weights = program(self.task, self.learner, self.policy, self.steps), self.objective.weights(self.steps)
        curves = {name: np.full(self.steps + 1, np.nan) for name in ("target", "test")}
        objectives: Any = 0.0
        for step, after in walk(loop, arguments, carry, np.union1d(looks, [self.steps])):
            carry = after
            if weights[step]:
                seen = _losses(loop, carry, arguments.data)
                objectives = objectives + weights[step] * np.asarray(seen["sample"], np.float64)
                for name in curves.keys() & seen.keys():
                    curves[name][step] = float(seen[name])
        test = jnp.asarray(curves["test"]) if self.task.test is not None else None
        return objectives, Curve(jnp.asarray(curves["target"]), test, jnp.full(self.steps, jnp.nan), carry[0])

    def watched(self, phi: PyTree) -> np.ndarray:
        """[K] what decides for φ without a gradient: the validation examples' objectives, or of the fixed target set."""
        if not self.curves:
            return self.measured(phi)[0]
        sample = self.sample.validation if self.sample.validation is not None else self.sample.fixed
        arguments, carry = inputs(
            self.task, self.learner, self.policy, phi, self.steps, self.key, **self.fixed, validation=sample
        )
        loop = program(self.task, self.learner, self.policy, self.steps)
        return self.areas(_forward(loop, arguments, carry)["validation"])

    def run(self, run: Run | None, evaluations: int, patience: int | None, save_every: float, progress: bool) -> Solution:
        at_rest = self.method.init(self.policy.feasible, self.start)
        state = _State(self.start, at_rest, _Point(self.start, at_rest, self.start), self.start, (self.start,) * self.keep)
        book, history = _Book(kept=((math.inf, 0),) * self.keep), []
        if run is not None and (saved := run.load_state(state)) is not None:
            state, book = jax.tree.map(jnp.asarray, saved[0]), _read_book(run, saved[1])
            run.truncate_metrics(book.rows)
            history = run.metrics()
            if book.status != "diverged":
                book = book._replace(status="running", message="")
        elif run is not None:
            run.truncate_metrics(0)
        if run is not None:
            run.begin()
        bar = Bar(evaluations, book.rows, on=progress, unit="evaluation", name="search")
        clock = saved_at = time.monotonic()
        try:
            while book.rows < evaluations and book.status == "running":
                # Asked before an evaluation, so that a continued search stops where an undisturbed one does.
                if patience is not None and book.rows - max(book.best_evaluation, 1) >= patience:
                    message = f"validation has not improved for {patience} evaluations"
                    book = book._replace(status="stopped", message=message)
                    break
                new_state, new_book, row = self.advance(state, book)
                now = time.monotonic()
                row["seconds"], clock = now - clock, now
                if run is not None:
                    run.append_metrics(row)
                history.append(row)
                # The row comes first: an interrupt in between leaves one too many, which is cut off, never one too few.
                state, book = new_state, new_book
                # A sweep on disk belongs to one evaluation: a resumed search must not repeat an earlier one.
                if run is not None and (now - saved_at >= save_every or self.adjoint.on_disk):
                    run.save_state(state, {"book": book._asdict()})
                    saved_at = time.monotonic()
                numbers = {name: row[name] for name in ("objective", "validation") if row[name] is not None}
                said = f"evaluation {row['evaluation']}: {row['message']}" if row["message"] else ""
                bar.show(book.rows, numbers, said)
        except KeyboardInterrupt:
            book = book._replace(status="interrupted", message=f"interrupted after {book.rows} evaluations: resume to go on")
            history = history[: book.rows]
            if run is not None:
                run.truncate_metrics(book.rows)
        finally:
            bar.close()
        if run is not None:
            run.save_state(state, {"book": book._asdict()})
        solution = self.conclude(state, book, history)
        if run is not None:
            self.write(run, solution)
        return solution

    def advance(self, state: _State, book: _Book) -> tuple[_State, _Book, dict[str, Any]]:
        """One evaluation of ``state.phi``, the verdict, and the next step."""
        number = book.rows + 1
        seen = self.evaluate(state.phi, number)
        book = book._replace(rows=number)
        row: dict[str, Any] = {
            "evaluation": number,
            "objective": seen.objective,
            "validation": seen.validation,
            "final": seen.final,
            "sample_share": float(_sample_share(_static(self.policy.feasible), state.phi)),
            "scale": book.scale,
            "accepted": True,
            "message": "",
        }
        finite = math.isfinite(seen.objective) and math.isfinite(seen.watched)
        # The brake compares like with like: fresh draws differ between evaluations, so there the validation sample decides;
        # on a fixed sample the objective itself does, where rising validation is overfitting and not too long a step.
        braked = seen.watched if self.sample.fixed is None else seen.objective
        if finite and seen.watched < book.best_value:
            book = book._replace(best_value=seen.watched, best_evaluation=number)
            state = state._replace(best_phi=state.phi)
        if finite:
            state, book = _keep(state, book, seen.watched, number)
        # An objective may be negative: a rise is measured by its size.
        first = not math.isfinite(book.anchor_value)
        if finite and (first or braked <= book.anchor_value + (self.brake - 1) * abs(book.anchor_value)):
            here = _Point(state.phi, state.method, seen.gradient)
            if braked <= book.anchor_value:
                state = state._replace(anchor=here)
                book = book._replace(anchor_value=braked)
            book = book._replace(failures=0)
        else:
            failures = 0 if finite else book.failures + 1
            if not finite and (first or failures >= RETRIES):
                what = "the first evaluation is" if first else f"{failures} evaluations in a row are"
                hint = "lower the learning rate" if first else "lower the learning rate, or the method's fall or rate"
                hint += "; an optimiser like AdamW also needs a positive eps_root"
                message = f"{what} not finite (objective {seen.objective} at evaluation {number}): {hint}"
                row.update(accepted=False, message=message, rate=0.0)
                return state, book._replace(status="diverged", message=message, failures=failures), row
            # Back to the best point, without momentum, with a smaller step.
            scale = book.scale * (0.5 if finite else 0.1)
            rise = f"rose to {braked:.5g} from {book.anchor_value:.5g}" if finite else "is not finite"
            row.update(accepted=False, message=f"objective {rise}: step taken again at scale {scale:.3g}")
            book = book._replace(scale=scale, failures=failures)
            here = state.anchor._replace(method=self.method.restart(state.anchor.method))
        value = seen.objective if row["accepted"] else book.anchor_value
        phi, method, rate = _jitted_update(
            self.method, _static(self.policy.feasible), here.phi, here.gradient, value, here.method, book.scale
        )
        row["rate"] = float(rate)
        return state._replace(phi=phi, method=method), book, row

    def conclude(self, state: _State, book: _Book, history: list[dict[str, Any]]) -> Solution:
        """Look at the last step too, decide between the best evaluation and the start, and run both curves."""
        phi, best = state.best_phi, book.best_evaluation
        status, message = book.status, book.message
        if status == "running":
            status, message = "finished", f"all {book.rows} evaluations were spent"
        if book.rows and status != "diverged":
            last = self.watched(state.phi)
            if last.mean() < book.best_value:
                phi, best = state.phi, book.rows + 1
            state, book = _keep(state, book, float(last.mean()), book.rows + 1)
        if best > 1:
            base, found = self.watched(self.start), self.watched(phi)
            enough = convincing(base, found) if self.sample.validation is not None else found.mean() < base.mean()
            if not enough:
                phi, best = self.start, 0
                more = " on validation by more than chance" if self.sample.validation is not None else ""
                message += f"; nothing found beats the start{more}, so the start is returned"
        else:
            phi, best = self.start, 0
        if not self.curves:
            curves = [self.measured(p)[1] for p in (self.start, phi)]
            measures = compare_at(curves[0], curves[1], self.objective.weights(self.steps))
        else:
            curves = [
                train(self.task, self.learner, self.policy, p, steps=self.steps, key=self.key, **self.fixed)
                for p in (self.start, phi)
            ]
            measures = compare(curves[0], curves[1], self.task.alphabet)
        kept = [Kept(int(number), value, p) for (value, number), p in zip(book.kept, state.kept, strict=True) if number]
        return Solution(
            self.policy, phi, curves[1], curves[0], history, status, message, best, self.task.alphabet, measures, tuple(kept)
        )

    def write(self, run: Run, solution: Solution) -> None:
        """The run folder's results: policy, parameters, curves, a sample of the weights, summary."""
        weights = sampled_weights(
            self.task, self.learner, self.policy, solution.phi, steps=self.steps, key=self.key, order=self.fixed["order"]
        )
        write_results(run, self.policy, solution.phi, solution.baseline, solution.curve, weights, solution.summary())


def _keep(state: _State, book: _Book, value: float, number: int) -> tuple[_State, _Book]:
    """``state.phi`` among the best points, if it is one of them; of equal ones the earlier comes first."""
    if not book.kept or not value < book.kept[-1][0]:
        return state, book
    at = sum(other <= value for other, _ in book.kept)
    values, phis = list(book.kept), list(state.kept)
    values.insert(at, (value, number))
    phis.insert(at, state.phi)
    return state._replace(kept=tuple(phis[:-1])), book._replace(kept=tuple(values[:-1]))


def _read_book(run: Run, meta: Mapping[str, Any]) -> _Book:
    book = meta.get("book")
    if not isinstance(book, dict) or {*book, "kept"} != set(_Book._fields):
        raise InputError(f"{run.path}/state.npz is not the state of a search of this version of olm: start in another folder")
    return _Book(**book)


@functools.partial(jax.jit, static_argnames="program")
def _losses(program: Any, carry: PyTree, data: PyTree) -> dict[str, Any]:
    """The losses of θ_t: of each example of ``sample``, and the means of the target and the test set."""
    seen = program.readout(carry, carry, {"validation": data["sample"], "test": data.get("test")})
    seen = {"sample": seen["validation"], "target": program.cost(carry, data), **{k: seen[k] for k in ("test",) if k in seen}}
    return seen


@functools.partial(jax.jit, static_argnames="program")
def _forward(program: Any, inputs: Any, carry: PyTree):
    from olm.adjoint import advance

    return advance(program, inputs, carry, tape=False)[2]
