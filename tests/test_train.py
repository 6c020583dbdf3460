"""Training with a policy: the curve of the reference loop, an exact derivative, and errors that say what to change."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import olm
from olm.errors import InputError
from olm.types import Array, Learner, Policy, PyTree, Task

TRAIN = importlib.import_module("olm.train")  # `olm.train` is the function
KEY = 5
CLIPPED = Learner(optax.chain(optax.clip_by_global_norm(0.35), optax.sgd(0.4, momentum=0.9)), batch_size=cases.BATCH)


def start(policy: Policy, learner: Learner, steps: int = cases.STEPS) -> PyTree:
    """Parameters that are not uniform, for the toy."""
    return cases.start(policy, steps, cases.EXAMPLES, learner.batch_size or cases.EXAMPLES)


# --- the curve --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, cases.STEPS])
def test_the_curve_is_that_of_a_plain_loop(steps: int, x64: None) -> None:
    """Entry t at θ_t, for target and test, T+1 of them; a step length for every step; the last parameters."""
    task, policy, key = cases.toy(), olm.policy.table(), jax.random.key(KEY)
    phi = start(policy, CLIPPED, steps)
    found = olm.train(task, CLIPPED, policy, phi, steps=steps, key=key)
    expected = cases.rollout(task, CLIPPED, policy, phi, steps, key)
    assert found.target.shape == found.test.shape == (steps + 1,) and found.step_lengths.shape == (steps,)
    for name in ("target", "test", "step_lengths", "params"):
        assert cases.relative_error(getattr(found, name), getattr(expected, name)) <= 1e-13, name


def test_uniform_weights_are_every_policys_start(x64: None) -> None:
    task, key = cases.toy(), jax.random.key(KEY)
    learner = Learner(optax.sgd(0.3), batch_size=cases.BATCH)
    uniform = olm.train(task, learner, olm.policy.uniform(), (), steps=cases.STEPS, key=key)
    for name in ("table", "static", "piecewise", "scorer", "learning_rate"):
        policy = cases.POLICIES[name]()
        phi = policy.init(cases.STEPS, cases.EXAMPLES, cases.BATCH)
        curve = olm.train(task, learner, policy, phi, steps=cases.STEPS, key=key)
        assert cases.relative_error(curve.target, uniform.target) <= 1e-14, name


def test_a_target_of_another_kind_has_its_own_losses(x64: None) -> None:
    task = cases.toy()._replace(target_losses=lambda params, batch: (batch["x"] @ params["w"]) ** 2)
    policy, learner, key = olm.policy.static(), Learner(optax.sgd(0.2), chunk_size=cases.CHUNK), jax.random.key(KEY)
    phi = start(policy, learner)
    found = olm.policy_gradient(task, learner, policy, phi, steps=cases.STEPS, key=key)
    expected = cases.reference(task, learner, policy, phi, steps=cases.STEPS, key=key)
    assert cases.relative_error(found, expected) <= 1e-10


def test_without_a_test_set_there_is_no_test_curve() -> None:
    task = cases.toy()._replace(test=None)
    assert olm.train(task, CLIPPED, olm.policy.uniform(), (), steps=2, key=jax.random.key(0)).test is None


def test_old_and_new_keys_give_one_run() -> None:
    curves = [
        olm.train(cases.toy(), CLIPPED, olm.policy.uniform(), (), steps=2, key=key).target
        for key in (jax.random.key(7), jax.random.PRNGKey(7), jax.random.key(8))
    ]
    assert np.array_equal(curves[0], curves[1]) and not np.array_equal(curves[0], curves[2])


# --- the derivative ---------------------------------------------------------------------------------------------------


def downstream(target: Array, params: PyTree) -> Array:
    """Some function of the whole curve and of the parameters, not linear in either."""
    return jnp.max(target) * target[2] + jnp.sum(jnp.sin(target)) + jnp.sum(params["w"] ** 3) * jnp.tanh(params["b"] + 1)


@pytest.mark.parametrize(("policy", "adjoint"), [("scorer", "direct"), ("table", "segmented(3)")])
def test_any_function_of_curve_and_parameters_is_differentiated(policy: str, adjoint: str, x64: None) -> None:
    task, policy, adjoint, key = cases.toy(), cases.POLICIES[policy](), cases.ADJOINTS[adjoint](), jax.random.key(KEY)
    phi = start(policy, CLIPPED)

    @jax.jit
    @jax.value_and_grad
    def found(phi: PyTree) -> Array:
        curve = olm.train(task, CLIPPED, policy, phi, steps=cases.STEPS, key=key, adjoint=adjoint)
        return downstream(curve.target, curve.params)

    @jax.value_and_grad
    def expected(phi: PyTree) -> Array:
        curve = cases.rollout(task, CLIPPED, policy, phi, cases.STEPS, key)
        return downstream(curve.target, curve.params)

    (value, gradient), (value_0, gradient_0) = found(phi), expected(phi)
    assert cases.relative_error(value, value_0) <= 1e-13
    assert cases.relative_error(gradient, gradient_0) <= 1e-10


def test_reported_quantities_carry_no_derivative(x64: None) -> None:
    task, policy, key = cases.toy(), olm.policy.static(), jax.random.key(KEY)
    phi = start(policy, CLIPPED)

    def gradient(quantity: Callable[[olm.Curve], Array]) -> Array:
        return jax.grad(lambda phi: jnp.sum(quantity(olm.train(task, CLIPPED, policy, phi, steps=3, key=key))))(phi)

    assert np.array_equal(gradient(lambda curve: curve.test), np.zeros_like(phi))
    assert np.array_equal(gradient(lambda curve: curve.step_lengths), np.zeros_like(phi))
    assert np.linalg.norm(gradient(lambda curve: curve.target)) > 1e-3


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_parameters_keep_their_type_and_phi_its_own(dtype: jnp.dtype, x64: None) -> None:
    """A model in low precision trains and is differentiated in it; the result is float64's as far as the type can tell."""
    policy, key = olm.policy.static(), jax.random.key(KEY)

    def gradient(dtype: jnp.dtype) -> tuple[Array, PyTree]:
        def cast(tree: PyTree) -> PyTree:
            return jax.tree.map(lambda x: x.astype(dtype), tree)

        task = cases.toy()
        task = Task(lambda key: cast(cases.toy_init(key)), task.losses, cast(task.train), cast(task.target))
        phi = start(policy, CLIPPED, 3).astype(jnp.float32)
        _, found = olm.policy_gradient(task, CLIPPED, policy, phi, steps=3, key=key)
        return found, olm.train(task, CLIPPED, policy, phi, steps=3, key=key).params

    found, params = gradient(dtype)
    assert found.dtype == jnp.float32 and {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
    expected, _ = gradient(jnp.float64)
    assert 0 < cases.relative_error(found, expected) < 10 * float(jnp.finfo(dtype).eps)


def test_a_derivative_in_the_data_is_an_error_and_not_a_zero() -> None:
    def area(scale: Array) -> Array:
        task = cases.toy()
        task = task._replace(train=jax.tree.map(lambda x: scale * x, task.train))
        return olm.train(task, CLIPPED, olm.policy.uniform(), (), steps=2, key=jax.random.key(0)).target.sum()

    with pytest.raises(InputError, match="stop_gradient"):
        jax.grad(area)(1.0)


OBJECTIVES = {
    "area": (None, np.r_[0.0, np.full(cases.STEPS, 1 / cases.STEPS)]),
    "final": (olm.objective.final(), np.r_[np.zeros(cases.STEPS), 1.0]),
    "weighted": (olm.objective.weighted(np.arange(cases.STEPS + 1.0) - 2), np.arange(cases.STEPS + 1.0) - 2),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_are_functionals_of_the_curve(name: str, x64: None) -> None:
    """Against the reference loop, and against `olm.train` differentiated."""
    task, policy, key = cases.toy(), olm.policy.piecewise(2), jax.random.key(KEY)
    objective, weights = OBJECTIVES[name]
    phi = start(policy, CLIPPED)
    run = {"steps": cases.STEPS, "key": key}
    found = olm.policy_gradient(task, CLIPPED, policy, phi, objective=objective, **run)
    by_train = jax.value_and_grad(lambda phi: weights @ olm.train(task, CLIPPED, policy, phi, **run).target)(phi)
    expected = cases.reference(task, CLIPPED, policy, phi, weights=weights, **run)
    assert cases.relative_error(found, expected) <= 1e-10
    assert cases.relative_error(by_train, expected) <= 1e-10


def test_an_objective_of_another_length_is_refused() -> None:
    policy = olm.policy.uniform()
    with pytest.raises(InputError, match=r"run of 3 steps needs \(4,\)"):
        olm.policy_gradient(
            cases.toy(), CLIPPED, policy, (), steps=3, key=jax.random.key(0), objective=olm.objective.weighted([1.0, 2.0])
        )


def test_one_step_has_the_textbook_gradient(x64: None) -> None:
    """T = 1, SGD: J = L(θ_0 − η Σ γ_n ∇ℓ_n), so ∂J/∂γ_n = −η ⟨∇ℓ_n(θ_0), ∇L(θ_1)⟩."""
    task, policy, key, rate = cases.toy(), olm.policy.table(), jax.random.key(KEY), 0.3
    learner = Learner(optax.sgd(rate))
    phi = start(policy, learner, 1)
    _, found = olm.policy_gradient(task, learner, policy, phi, steps=1, key=key)
    before = task.init(jax.random.split(key)[0])
    after = olm.train(task, learner, policy, phi, steps=1, key=key).params
    each = jax.jacobian(lambda p: task.losses(p, task.train))(before)
    desired = jax.grad(lambda p: jnp.mean(task.losses(p, task.target)))(after)
    expected = -rate * (each["w"] @ desired["w"] + each["b"] * desired["b"])
    assert cases.relative_error(found[0], expected) <= 1e-12


# --- under JAX's transformations --------------------------------------------------------------------------------------


def test_the_gradient_runs_under_jit_and_vmap(x64: None) -> None:
    """Over parameters and over keys: every row as if it had been computed alone."""
    task, policy = cases.toy(), olm.policy.static()
    phis = jnp.stack([cases.start(policy, 3, cases.EXAMPLES, cases.BATCH, seed) for seed in range(2)])
    keys = jax.random.split(jax.random.key(KEY), 2)

    def gradient(phi: Array, key: Array) -> tuple[Array, Array]:
        return olm.policy_gradient(task, CLIPPED, policy, phi, steps=3, key=key)

    alone = [gradient(phi, key) for phi in phis for key in keys]
    together = jax.jit(jax.vmap(jax.vmap(gradient, (None, 0)), (0, None)))(phis, keys)
    for row, single in enumerate(alone):
        assert cases.relative_error([x[row // 2, row % 2] for x in together], list(single)) <= 1e-12
    values = [float(value) for value, _ in alone]
    assert len(set(values)) == 4


def test_train_maps_over_parameters_under_a_derivative(x64: None) -> None:
    task, policy, key = cases.toy(), olm.policy.static(), jax.random.key(KEY)
    phis = jnp.stack([cases.start(policy, 3, cases.EXAMPLES, cases.BATCH, seed) for seed in range(2)])

    def area(phi: Array) -> tuple[Array, tuple[Array, Array]]:
        curve = olm.train(task, CLIPPED, policy, phi, steps=2, key=key)
        return jnp.sum(curve.target**2), (curve.test, curve.step_lengths)

    def total(phis: Array) -> tuple[Array, tuple[Array, Array]]:
        values, seen = jax.vmap(area)(phis)
        return jnp.sum(values), seen

    found = jax.grad(total, has_aux=True)(phis)
    alone = [jax.grad(area, has_aux=True)(phi) for phi in phis]
    assert cases.relative_error(found, jax.tree.map(lambda *rows: jnp.stack(rows), *alone)) <= 1e-12


def test_equal_calls_compile_once() -> None:
    """Not for another φ, another key, or other data of the same shapes; once more for another policy."""
    task, policy = cases.toy(), olm.policy.table()
    learner = Learner(optax.sgd(0.125))

    def programs(task: Task, policy: Policy, seed: int) -> tuple[int, int]:
        phi, run = start(policy, learner), {"steps": cases.STEPS, "key": jax.random.key(seed)}
        olm.policy_gradient(task, learner, policy, phi, **run)
        olm.train(task, learner, policy, phi, **run)
        return TRAIN._compiled_sweep._cache_size(), TRAIN._run._cache_size()

    first = programs(task, policy, 0)
    other_data = task._replace(train=jax.tree.map(lambda x: -x, task.train), target=jax.tree.map(jnp.flip, task.target))
    assert programs(task, olm.policy.table(), 1) == first
    assert programs(other_data, policy, 2) == first
    assert programs(task, olm.policy.static(), 0) == (first[0] + 1, first[1] + 1)


def test_losses_are_traced_a_bounded_number_of_times() -> None:
    """A loop that unrolled would trace them once a step."""
    counts = []
    for steps in (7, 67):  # both leave a remainder when cut into segments
        traces = []

        def losses(params: PyTree, batch: PyTree, traces: list[None] = traces) -> Array:
            traces.append(None)
            return cases.toy_losses(params, batch)

        task = cases.toy()._replace(losses=losses)
        policy = olm.policy.static()
        olm.policy_gradient(task, CLIPPED, policy, start(policy, CLIPPED, steps), steps=steps, key=jax.random.key(0))
        counts.append(len(traces))
    assert counts[0] == counts[1] <= 30


# --- plain training is plain ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [None, cases.BATCH], ids=["full", "mini-batch"])
@pytest.mark.parametrize("optimiser", ["sgd", "momentum", "adamw"])
def test_uniform_weights_are_bitwise_bare_optax(optimiser: str, batch_size: int | None) -> None:
    """In the users' float32, against a scan of the mean loss's gradient that knows nothing of weights."""
    task, key, steps = cases.toy(), jax.random.key(KEY), 50
    optimiser = cases.OPTIMISERS[optimiser]()
    key_init, key_order = jax.random.split(key)
    order = olm.learner.order(key_order, steps, cases.EXAMPLES, batch_size or cases.EXAMPLES)

    @jax.jit
    def bare(data: PyTree, target: PyTree, order: Array, params: PyTree) -> tuple[PyTree, Array]:
        def step(carry: tuple[PyTree, PyTree], index: Array) -> tuple[tuple[PyTree, PyTree], Array]:
            params, state = carry
            batch = data if batch_size is None else jax.tree.map(lambda x: x[index], data)
            gradient = jax.grad(lambda p: jnp.mean(task.losses(p, batch)))(params)
            updates, state = optimiser.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), jnp.mean(task.losses(params, target))

        (params, _), curve = jax.lax.scan(step, (params, optimiser.init(params)), order)
        return params, curve

    params, curve = bare(task.train, task.target, order, task.init(key_init))
    found = olm.train(task, Learner(optimiser, batch_size), olm.policy.uniform(), (), steps=steps, key=key)
    assert jax.tree.all(jax.tree.map(np.array_equal, found.params, params))
    assert np.array_equal(found.target[1:], curve)
    assert not np.array_equal(found.target[1], found.target[-1])


# --- AdamW ------------------------------------------------------------------------------------------------------------


def unused_weight() -> Task:
    """The fifth input is always zero, so that one gradient entry is exactly zero at every step."""
    task = cases.toy()

    def without(batch: PyTree) -> PyTree:
        return {**batch, "x": batch["x"].at[:, -1].set(0.0)}

    return task._replace(train=without(task.train), target=without(task.target), test=None)


@pytest.mark.parametrize(("eps_root", "finite"), [(0.0, False), (1e-16, True), (1e-8, True)])
def test_adamw_needs_eps_root_for_gradients_that_are_exactly_zero(eps_root: float, finite: bool, x64: None) -> None:
    """√v has no derivative at v = 0. The run itself is finite, so the number alone does not tell: only the gradient does."""
    policy, key = olm.policy.static(), jax.random.key(KEY)
    learner = Learner(optax.adamw(0.05, eps_root=eps_root))
    value, gradient = olm.policy_gradient(unused_weight(), learner, policy, start(policy, learner), steps=3, key=key)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all() == finite


# --- bad input --------------------------------------------------------------------------------------------------------

GOOD = {"steps": 3, "batch_size": cases.BATCH, "chunk_size": None, "phi": None, "task": {}}
X = jnp.ones((cases.EXAMPLES, cases.WIDTH))


@pytest.mark.parametrize(
    ("change", "found", "expected"),
    [
        ({"steps": 0}, "steps is 0", "whole number of at least 1"),
        ({"steps": -2}, "steps is -2", "whole number of at least 1"),
        ({"steps": 2.5}, "steps is 2.5", "whole number of at least 1"),
        ({"batch_size": 10}, "batch size 10 with 9 training examples", "choose 1 to 9"),
        ({"batch_size": 0}, "batch size 0 with 9 training examples", "choose 1 to 9"),
        ({"batch_size": 2.5}, "batch size 2.5", "choose 1 to 9"),
        ({"chunk_size": 0}, "chunk size 0", "at least 1, or None"),
        ({"phi": jnp.ones((4, 6))}, "phi has shapes (4, 6)", "needs (3, 6)"),
        ({"phi": jnp.ones((3, 9))}, "phi has shapes (3, 9)", "3 steps, 9 examples and batch 6 needs (3, 6)"),
        ({"phi": (jnp.ones((3, 6)),)}, "phi has shapes ((3, 6),)", "needs (3, 6); start from policy.init"),
        ({"phi": jnp.ones((3, 6), int)}, "phi has dtype int32", "float parameters"),
        ({"task": {"losses": lambda p, b: jnp.mean(cases.toy_losses(p, b))}}, "task.losses gives shape ()", "shape (9,)"),
        ({"task": {"losses": lambda p, b: b["x"] * p["w"]}}, "task.losses gives shape (9, 5)", "shape (9,)"),
        ({"task": {"losses": lambda p, b: b["y"] > 0}}, "task.losses gives shape (9,) dtype bool", "one float an example"),
        ({"task": {"losses": lambda p, b: {"loss": b["y"]}}}, "task.losses gives dict", "one float an example, shape (9,)"),
        ({"task": {"target_losses": lambda p, b: jnp.ones(3)}}, "task.target_losses gives shape (3,)", "shape (11,)"),
        ({"task": {"init": lambda key: {"w": jnp.zeros(5), "b": jnp.zeros((), int)}}}, "['b'] dtype int32", "must be float"),
        ({"task": {"train": {"x": X, "y": jnp.ones(4)}}}, "task.train", "common leading axis of at least 1: found (9, 5), (4,)"),
        ({"task": {"target": {"x": X[:0], "y": jnp.ones(0)}}}, "task.target", "at least 1: found (0, 5), (0,)"),
        ({"task": {"test": {"x": X, "y": jnp.ones(())}}}, "task.test", "found (9, 5), ()"),
        ({"task": {"train": ()}}, "task.train", "found no arrays"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("function", [olm.train, olm.policy_gradient], ids=["train", "policy_gradient"])
def test_bad_input_is_one_line_that_names_both(function: Callable, change: dict, found: str, expected: str) -> None:
    given = GOOD | change
    policy, learner = olm.policy.table(), Learner(optax.sgd(0.1), given["batch_size"], given["chunk_size"])
    phi = jnp.full((3, cases.BATCH), 1 / cases.BATCH) if given["phi"] is None else given["phi"]
    task = cases.toy()._replace(**given["task"])
    with pytest.raises(InputError) as raised:
        function(task, learner, policy, phi, steps=given["steps"], key=jax.random.key(0))
    message = str(raised.value)
    assert found in message and expected in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("function", "change", "said"),
    [
        (olm.train, {"task": cases.toy_losses}, "task is .*: give a Task"),
        (olm.train, {"learner": optax.sgd(0.1)}, "learner is .*: give a Learner"),
        (olm.train, {"policy": "uniform"}, "policy is 'uniform': give a Policy"),
        (olm.train, {"adjoint": "direct"}, "adjoint is 'direct': give an Adjoint"),
        (olm.policy_gradient, {"adjoint": "direct"}, "adjoint is 'direct': give an Adjoint"),
        (olm.policy_gradient, {"objective": "area"}, "objective is 'area': give an Objective"),
        (olm.policy_gradient, {"learner": Learner(0.1)}, "learner.optimiser is 0.1: give a GradientTransformation"),
    ],
)  # fmt: skip
def test_an_argument_of_another_kind_is_named(function: Callable, change: dict, said: str) -> None:
    given = {"task": cases.toy(), "learner": CLIPPED, "policy": olm.policy.uniform(), "phi": ()} | change
    with pytest.raises(InputError, match=said):
        function(**given, steps=3, key=jax.random.key(0))


def test_a_policy_without_parameters_takes_none() -> None:
    with pytest.raises(InputError, match="policy uniform"):
        olm.train(cases.toy(), CLIPPED, olm.policy.uniform(), 1.0, steps=1, key=jax.random.key(0))


def test_host_driven_adjoints_are_refused_under_tracing() -> None:
    policy, phi, adjoint = olm.policy.table(), jnp.full((3, cases.BATCH), 1 / cases.BATCH), cases.ADJOINTS["offloaded"]()
    run = {"steps": 3, "key": jax.random.key(0), "adjoint": adjoint}
    with pytest.raises(InputError, match=r"outside jax\.jit"):
        jax.jit(lambda phi: olm.policy_gradient(cases.toy(), CLIPPED, policy, phi, **run))(phi)
