"""The learning curve of a policy, and the gradient of its area with respect to the policy.

Training is one scan of the learner; `train` runs it and is differentiable in φ, `policy_gradient` returns the objective
and its exact gradient in one forward and one backward sweep. For plain SGD the backward sweep is the recursion of
Gu et al. 2024 (Eq. 22): λ_T = ∇L(θ_T), λ_t = λ_{t+1} + ∇L(θ_t) − η H_t λ_{t+1}, ∂J/∂γ[n,t] = −(η/T)⟨∇ℓ_n(θ_t), λ_{t+1}⟩;
for any other optimiser the same through the vjp of its update.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from olm import adjoint as adjoints
from olm import learner as learners
from olm.adjoint import Adjoint, Inputs, Program, Sweep
from olm.errors import DivergenceError, InputError, check_kinds, check_whole
from olm.objective import Objective, area
from olm.policy import join, split
from olm.progress import Bar
from olm.records import Run
from olm.types import Array, Learner, Policy, PyTree, Task
from olm.weighted import example_losses, mean_loss, recorded_gradient

__all__ = ["Curve", "policy_gradient", "train"]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["target", "test", "step_lengths", "params"],
    meta_fields=[],
)
@dataclass(frozen=True)
class Curve:
    """A learning curve; a pytree, shown as a figure in Jupyter.

    Attributes:
      target: [T+1] mean target loss in nats, entry t at θ_t; differentiable in φ.
      test: [T+1] mean test loss in nats, or None without a test set; carries no derivative.
      step_lengths: [T], ‖θ_{t+1} − θ_t‖; carries no derivative.
      params: θ_T; differentiable in φ.
    """

    target: Array
    test: Array | None
    step_lengths: Array
    params: PyTree

    def _repr_html_(self) -> str:
        from olm import plots

        losses = self.target if self.test is None else self.test
        label = "target loss" if self.test is None else "test loss"
        return plots.inline(lambda ax: plots.loss_curves(np.asarray(losses), ax=ax, label=label))


def _program(functions: Task, learner: Learner, policy: Policy, steps: int) -> Program:
    step_of = learners.make_step(functions, learner, policy, steps)
    recorded_of = learners.make_step(functions, learner, policy, steps, recorded_gradient)
    target_losses = functions.target_losses or functions.losses
    target_loss = mean_loss(target_losses, learner.chunk_size)
    each_loss = example_losses(target_losses, learner.chunk_size)

    def step(shared: PyTree, carry: PyTree, row: PyTree, aux: PyTree, data: PyTree) -> PyTree:
        return step_of(join(shared, row), carry, aux, data)

    def recorded(shared: PyTree, carry: PyTree, row: PyTree, aux: PyTree, data: PyTree) -> PyTree:
        return recorded_of(join(shared, row), carry, aux, data)

    def cost(carry: PyTree, data: PyTree) -> Array:
        return target_loss(carry[0], data["target"])

    def readout(before: PyTree, after: PyTree, data: PyTree) -> dict[str, Array]:
        length = optax.tree.norm(jax.tree.map(jnp.subtract, after[0], before[0]))
        seen = {"step_lengths": length}
        if data.get("test") is not None:
            seen["test"] = target_loss(after[0], data["test"])
        if data.get("validation") is not None:
            seen["validation"] = each_loss(after[0], data["validation"])
        return seen

    return Program(step, cost, readout, recorded)


_cached_program = functools.lru_cache(maxsize=64)(_program)


def program(task: Task, learner: Learner, policy: Policy, steps: int) -> Program:
    """The training loop as a `Program` that closes over no array; one object for equal arguments, so it compiles once."""
    functions = Task(task.init, task.losses, None, None, target_losses=task.target_losses)
    try:
        return _cached_program(functions, learner, policy, steps)
    except TypeError:  # something unhashable among the arguments: build it anew, which only costs compilation
        return _program(functions, learner, policy, steps)


def check_phi(policy: Policy, phi: PyTree, steps: int, n_examples: int, batch: int) -> None:
    """Fail, naming both, when φ is not of the shapes that ``policy.init`` gives for this run."""
    expected = jax.eval_shape(lambda: policy.init(steps, n_examples, batch))
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (phi, expected)]
    # A lone scalar has the shape (), which is also an empty tree.
    structures = {jax.tree.structure(tree) for tree in (phi, expected)}
    if len(structures) > 1 or shapes[0] != shapes[1]:
        raise InputError(
            f"phi has shapes {shapes[0]}: policy {policy.name} for {steps} steps, {n_examples} examples and batch {batch} "
            f"needs {shapes[1]}; start from policy.init"
        )
    for leaf in jax.tree.leaves(phi):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise InputError(f"phi has dtype {jnp.result_type(leaf)}: policy {policy.name} needs float parameters")


def check_setting(task: Task, learner: Learner, policy: Policy) -> None:
    """Fail when one of them is something else, an optimiser for a learner say."""
    check_kinds(task=(task, Task), learner=(learner, Learner), policy=(policy, Policy))
    check_kinds(**{"learner.optimiser": (learner.optimiser, optax.GradientTransformation)})


def inputs(
    task: Task,
    learner: Learner,
    policy: Policy,
    phi: PyTree,
    steps: int,
    key: Array,
    *,
    order: Array | None = None,
    params: PyTree = None,
    **held_out: PyTree,
):
    """Check everything, then (`Inputs`, first carry) of a run; ``held_out`` samples are watched along it."""
    check_whole("steps", steps, least=1)
    check_setting(task, learner, policy)
    learners.check(task, learner)
    n_examples = learners.examples(task.train)
    batch = learners.batch_size(learner, n_examples)
    check_phi(policy, phi, steps, n_examples, batch)
    key_init, key_order = jax.random.split(key)
    if params is None:
        params = task.init(key_init)
    else:
        _check_params(task, params)
    if order is not None:
        index = learners.check_order(order, steps, n_examples, batch)
    else:
        index = learners.order(key_order, steps, n_examples, batch) if batch < n_examples else None  # all N have no order
    shared, rows = split(policy, phi)
    # Sets that are absent are left out: a None would be another structure of data, and compile every program once more.
    data = {"train": task.train, "target": task.target, **{name: x for name, x in held_out.items() if x is not None}}
    return Inputs(shared, rows, (jnp.arange(steps, dtype=jnp.int32), index), data), (params, learner.optimiser.init(params))


def _check_params(task: Task, params: PyTree) -> None:
    expected = jax.eval_shape(task.init, jax.random.key(0))
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (params, expected)]
    if len({jax.tree.structure(tree) for tree in (params, expected)}) > 1 or shapes[0] != shapes[1]:
        raise InputError(f"params have shapes {shapes[0]}: task.init gives {shapes[1]}; start from parameters of the same model")


@functools.partial(jax.jit, static_argnames=("program", "adjoint"))
def _run(program: Program, adjoint: Adjoint, inputs: Inputs, carry: PyTree):
    costs, last, seen = adjoints.differentiable(program, adjoint)(inputs, carry)
    first = {name: program.readout(carry, carry, inputs.data)[name] for name in seen if name != "step_lengths"}
    curves = {name: jnp.concatenate([first[name][None], seen[name]]) for name in first}
    return costs, last, seen["step_lengths"], curves


@functools.partial(jax.jit, static_argnames="loop")
def _stretch(loop: Program, arguments: Inputs, carry: PyTree) -> PyTree:
    return adjoints.advance(loop, arguments, carry, tape=False, readout=False)[0]


SHORT = 5
"""Stretches of fewer steps are not cut out of longer ones to spare a compilation: calling them would take longer."""


def walk(loop: Program, arguments: Inputs, carry: PyTree, points: Iterable[int], done: int = 0) -> Iterator[tuple[int, PyTree]]:
    """Run the loop from step ``done`` on, stopping at ``points`` (increasing) to yield (steps done, carry).

    For who wants to look at a run, or to save it, at some of its steps only. Each length of a stretch compiles once, so all are
    cut to their greatest common divisor, unless it is hardly longer than a step.
    """
    wanted = [int(point) for point in points]
    unit = math.gcd(*wanted, done)
    for point in wanted:
        while done < point:
            step = done + unit if unit >= SHORT else point
            part = slice(done, step)
            here = arguments._replace(
                rows=jax.tree.map(lambda x, part=part: x[part], arguments.rows),
                aux=jax.tree.map(lambda x, part=part: x[part], arguments.aux),
            )
            carry, done = _stretch(loop, here, carry), step
        yield point, carry


def watch(
    loop: Program,
    arguments: Inputs,
    carry: PyTree,
    points: Sequence[int] | np.ndarray,
    row: Callable[[int, PyTree], dict[str, Any]],
    *,
    refuse: Callable[[Mapping[str, Any]], None] = lambda row: None,
    shown: Callable[[Mapping[str, Any]], Mapping[str, float]] = lambda row: {},
    run: Run | None = None,
    identity: Mapping[str, Any] | None = None,
    save_every: float = 20.0,
    progress: bool = False,
) -> tuple[PyTree, list[dict[str, Any]]]:
    """`walk` to the last of ``points`` with a row of metrics at the start and at each of them, kept in a run folder.

    Args:
      loop, arguments, carry: of `program` and `inputs`.
      points: steps after which to look, increasing; the last is where the run ends.
      row: ``row(step, carry) -> dict``, what to note.
      refuse: called with each row; raises `DivergenceError` where it is not to be gone on from.
      shown: the numbers of a row that stand beside the bar.
      run: an open run folder: metrics and state are written there, and what state it holds is continued.
      identity: what a saved state has to agree in with this run.
      save_every: seconds between two states on disk; 0: at every point.
      progress: show a bar with the time left.

    Returns:
      (carry, rows), the last good ones: after an interrupt or a divergence they are saved before the exception goes on.

    Raises:
      InputError: the state is of another run.
      DivergenceError: as ``refuse`` says.

    No example: see `olm.continual.train_sequence`.
    """
    total, identity = int(points[-1]), dict(identity or {})
    rows: list[dict[str, Any]] = []
    done = 0
    if run is not None:
        if (saved := run.load_state(carry)) is not None:
            carry, done = jax.tree.map(jnp.asarray, saved[0]), _step_of(run, saved[1], identity)
            run.truncate_metrics(int(saved[1]["rows"]))
            rows = run.metrics()
        else:
            run.truncate_metrics(0)
        run.begin()

    def note(step: int, carry: PyTree) -> None:
        rows.append(row(step, carry))
        if run is not None:
            run.append_metrics(rows[-1])
        refuse(rows[-1])

    def save(carry: PyTree, step: int, rows: int) -> None:
        if run is not None:
            run.save_state(carry, {"step": step, "rows": rows, **identity})

    bar = Bar(total, done, on=progress, unit="step", name="train")
    saved_at = time.monotonic()
    try:
        if not rows:
            note(0, carry)
        good = carry, done, len(rows)
        try:
            for step, after in walk(loop, arguments, carry, [point for point in points if point > done], done):
                note(step, after)
                good = after, step, len(rows)
                bar.show(step, shown(rows[-1]))
                if time.monotonic() - saved_at >= save_every or step == total:
                    save(*good)
                    saved_at = time.monotonic()
        except (KeyboardInterrupt, DivergenceError):
            if run is not None:
                run.truncate_metrics(good[2])
            save(*good)
            raise
    finally:
        bar.close()
    return good[0], rows[: good[2]]


def _step_of(run: Run, meta: Mapping[str, Any], identity: Mapping[str, Any]) -> int:
    if not all(isinstance(meta.get(name), int) for name in ("step", "rows")):
        raise InputError(f"{run.path}/state.npz is not the state of a training run: start in another folder")
    for name, value in identity.items():
        if meta.get(name) != value:
            raise InputError(f"{run.path}/state.npz belongs to a run with another {name}: start in another folder")
    return int(meta["step"])


def train(
    task: Task,
    learner: Learner,
    policy: Policy,
    phi: PyTree,
    *,
    steps: int,
    key: Array,
    adjoint: Adjoint | None = None,
    order: Array | None = None,
    params: PyTree = None,
) -> Curve:
    """Train with a policy: θ_{t+1} = θ_t + r_t u(Σ_n γ[n,t] ∇ℓ_n(θ_t)) for t = 0 … T−1.

    Args:
      task: what is learned.
      learner: optimiser, batch size, chunk size.
      policy, phi: the weights; ``policy.init`` gives uniform ones.
      steps: T ≥ 1.
      key: split into initialisation and order of examples.
      adjoint: how a derivative in ``phi`` is computed; None: `olm.adjoint.segmented`.
      order: [T, B], which examples each step sees; None: shuffled epochs by the key.
      params: θ_0, the end of an earlier run say; None: ``task.init``.

    Returns:
      A `Curve`: losses in nats at θ_0 … θ_T. Reverse mode reaches ``phi`` and θ_0 through ``target`` and ``params``
      only; JAX refuses values that the losses or the optimiser close over.

    Raises:
      InputError: for steps below 1, a batch larger than N, losses or φ of a wrong shape or dtype.

    Source: Gu et al. 2024, Eq. 1 and 2.

    >>> import optax, olm
    >>> task = olm.Task(lambda key: jnp.zeros(()), lambda w, x: (x - w) ** 2, train=jnp.array([0.0, 2.0]), target=jnp.ones(1))
    >>> policy = olm.policy.uniform()
    >>> olm.train(task, olm.Learner(optax.sgd(0.25)), policy, (), steps=2, key=jax.random.key(0)).target.tolist()
    [1.0, 0.25, 0.0625]
    """
    adjoint = adjoint or adjoints.segmented()
    check_kinds(adjoint=(adjoint, Adjoint), task=(task, Task))
    arguments, carry = inputs(task, learner, policy, phi, steps, key, order=order, params=params, test=task.test)
    loop = program(task, learner, policy, steps)
    costs, (params, _), lengths, curves = _run(loop, adjoint, arguments, carry)
    return Curve(costs, curves.get("test"), lengths, params)


@functools.partial(jax.jit, static_argnames=("program", "adjoint"))
def _compiled_sweep(program: Program, adjoint: Adjoint, inputs: Inputs, carry: PyTree, weights: Array) -> Sweep:
    return adjoint.sweep(program, inputs, carry, weights)


def sweep(loop: Program, adjoint: Adjoint, arguments: Inputs, carry: PyTree, objective: Objective, steps: int) -> Sweep:
    """Forward and backward over a run: the target curve, what was watched, and the gradients of the objective."""
    weights = jnp.asarray(objective.weights(steps), jnp.result_type(float))
    if adjoint.traceable:
        return _compiled_sweep(loop, adjoint, arguments, carry, weights)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((arguments, carry))):
        raise InputError(f"the {adjoint.name} adjoint runs on the host: call it outside jax.jit, or use olm.adjoint.segmented()")
    return adjoint.sweep(loop, arguments, carry, weights)


def policy_gradient(
    task: Task,
    learner: Learner,
    policy: Policy,
    phi: PyTree,
    *,
    steps: int,
    key: Array,
    objective: Objective | None = None,
    adjoint: Adjoint | None = None,
    order: Array | None = None,
    params: PyTree = None,
) -> tuple[Array, PyTree]:
    """The objective of a whole training run and its exact gradient with respect to the policy.

    Args:
      task, learner, policy, phi, steps, key, order, params: as for `train`; the test set is not touched.
      objective: `olm.objective.area` (default), ``final`` or ``weighted``.
      adjoint: None: `olm.adjoint.segmented`.

    Returns:
      (value, gradient): a scalar in nats, and a pytree like ``phi``. Works under ``jax.jit`` (host-driven adjoints do not).

    Raises:
      InputError: as `train`; also for a host-driven adjoint under tracing.

    Source: Gu et al. 2024, Eq. 6 and 22.

    >>> import optax, olm
    >>> task = olm.Task(lambda key: jnp.zeros(()), lambda w, x: (x - w) ** 2, train=jnp.array([0.0, 2.0]), target=jnp.ones(1))
    >>> learner, policy = olm.Learner(optax.sgd(0.25)), olm.policy.table()
    >>> value, gradient = olm.policy_gradient(task, learner, policy, policy.init(1, 2, 2), steps=1, key=jax.random.key(0))
    >>> value.tolist(), gradient.tolist()
    (0.25, [[-0.0, -1.0]])
    """
    objective, adjoint = objective or area(), adjoint or adjoints.segmented()
    check_kinds(objective=(objective, Objective), adjoint=(adjoint, Adjoint))
    arguments, carry = inputs(task, learner, policy, phi, steps, key, order=order, params=params)
    loop = program(task, learner, policy, steps)
    result = sweep(loop, adjoint, arguments, carry, objective, steps)
    value = jnp.dot(jnp.asarray(objective.weights(steps), result.costs.dtype), result.costs)
    return value, join(result.gradients.shared, result.gradients.rows)


def uniform_phi(policy: Policy, task: Task, learner: Learner, steps: int) -> Any:
    """``policy.init`` for this task and learner."""
    n_examples = learners.examples(task.train)
    return policy.init(steps, n_examples, learners.batch_size(learner, n_examples))
