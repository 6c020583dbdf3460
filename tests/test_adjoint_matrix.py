"""The policy gradient against reverse mode through a Python loop, in float64, for every pair of what it can be combined with.

The full product is in `benchmarks/exactness.py`; here every pair of values of two factors occurs in some row. The comparison
itself is tested: rules that are wrong in one place each are told from the right one.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterator

import cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import olm
from olm import adjoint as adjoints
from olm.adjoint import Inputs, Program
from olm.types import Array, Learner, Policy

KEY = 3
TOLERANCE = 1e-10


@pytest.fixture(scope="module", autouse=True)
def few_programs() -> Iterator[None]:
    """Compiled programs hold memory maps, of which a process has a limited number: leave none behind."""
    yield
    jax.clear_caches()


def errors(task: olm.Task, learner: Learner, policy: Policy, adjoint: adjoints.Adjoint, steps: int) -> tuple[float, float]:
    """Relative errors of the area and of its gradient against the reference, at weights that are not uniform."""
    n_examples = jax.tree.leaves(task.train)[0].shape[0]
    phi = cases.start(policy, steps, n_examples, learner.batch_size or n_examples)
    key = jax.random.key(KEY)
    found = olm.policy_gradient(task, learner, policy, phi, steps=steps, key=key, adjoint=adjoint)
    expected = cases.reference(task, learner, policy, phi, steps=steps, key=key)
    return cases.relative_error(found[0], expected[0]), cases.relative_error(found[1], expected[1])


def learner_of(optimiser: str, batch: str, chunk: str) -> Learner:
    """A learner by the names of its parts."""
    sizes = {"full": None, "mini-batch": cases.BATCH, "whole": None, "chunked": cases.CHUNK}
    return Learner(cases.OPTIMISERS[optimiser](), sizes[batch], sizes[chunk])


FACTORS = [list(cases.POLICIES), list(cases.ADJOINTS), list(cases.OPTIMISERS), ["full", "mini-batch"], ["whole", "chunked"]]
ROWS = list(cases.pairwise(*FACTORS))


@pytest.mark.parametrize("row", ROWS, ids="-".join)
def test_toy_gradient_is_exact(row: tuple[str, ...], x64: None) -> None:
    policy, adjoint, *parts = row
    value, gradient = errors(cases.toy(), learner_of(*parts), cases.POLICIES[policy](), cases.ADJOINTS[adjoint](), cases.STEPS)
    assert value <= 1e-13
    assert gradient <= TOLERANCE


def test_the_rows_hold_every_pair() -> None:
    for i, j in itertools.combinations(range(len(FACTORS)), 2):
        assert {(row[i], row[j]) for row in ROWS} == set(itertools.product(FACTORS[i], FACTORS[j]))
    assert len(ROWS) < 40


def test_clipping_is_met_at_some_steps_only(x64: None) -> None:
    """Otherwise the rows with clipping would show nothing, or not that the factor's own derivative is there."""
    task = cases.toy()
    clipped = Learner(optax.chain(optax.clip_by_global_norm(0.35), optax.sgd(1.0)))
    lengths = cases.rollout(task, clipped, olm.policy.uniform(), (), cases.STEPS, jax.random.key(KEY)).step_lengths
    at_bound = np.isclose(lengths, 0.35, rtol=1e-12)
    assert 0 < at_bound.sum() < cases.STEPS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "adjoint", "parts"),
    [
        ("table", "segmented(2)", ("adamw", "full", "chunked")),
        ("scorer", "direct", ("clipped", "mini-batch", "whole")),
        ("learning_rate", "offloaded", ("momentum", "full", "whole")),
    ],
)
def test_transformer_gradient_is_exact(policy: str, adjoint: str, parts: tuple[str, ...], x64: None) -> None:
    learner = learner_of(*parts)._replace(chunk_size=2 if "chunked" in parts else None)
    learner = learner._replace(batch_size=3 if learner.batch_size else None)
    value, gradient = errors(cases.transformer(), learner, cases.POLICIES[policy](), cases.ADJOINTS[adjoint](), steps=3)
    assert value <= 1e-13
    assert gradient <= TOLERANCE


# --- the comparison finds what is wrong -------------------------------------------------------------------------------


def constant_clip(bound: float) -> optax.GradientTransformation:
    """Clipping by the global norm as if its factor did not depend on the gradient."""

    def update(gradient, state, params=None):
        factor = jax.lax.stop_gradient(jnp.minimum(1, bound / optax.tree.norm(gradient)))
        return jax.tree.map(lambda g: factor * g, gradient), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def shifted_pairing(monkeypatch: pytest.MonkeyPatch) -> None:
    """γ_t meets the model after the step, θ_{t+1}, and not the one it was applied to."""
    right = adjoints.reverse

    def wrong(program, inputs, kept, costate, shared_bar, weights):
        return right(program, inputs, jax.tree.map(lambda x: jnp.roll(x, -1, axis=0), kept), costate, shared_bar, weights)

    monkeypatch.setattr(adjoints, "reverse", wrong)


def wrong_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    """The costs' gradients enter the costate with a minus, except the last."""
    right = adjoints.backward_step

    def wrong(program, inputs, carry, costate, shared_bar, weight):
        return right(program, inputs, carry, costate, shared_bar, -weight)

    monkeypatch.setattr(adjoints, "backward_step", wrong)


def no_curvature(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient's dependence on θ (the Hessian product) is left out."""
    right = olm.weighted.weighted_gradient

    def wrong(losses, chunk_size=None):
        gradient = right(losses, chunk_size)
        return lambda params, weights, batch: gradient(jax.lax.stop_gradient(params), weights, batch)

    monkeypatch.setattr(olm.learner, "weighted_gradient", wrong)


def curve_off_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The area is taken over θ_0 … θ_{T−1}."""
    shifted = olm.objective.weighted(np.r_[np.full(cases.STEPS, 1 / cases.STEPS), 0.0])
    monkeypatch.setattr(importlib.import_module("olm.train"), "area", lambda: shifted)


@pytest.mark.parametrize("plant", [None, shifted_pairing, wrong_sign, no_curvature, curve_off_by_one])
def test_the_comparison_finds_a_planted_bug(plant, x64: None, monkeypatch: pytest.MonkeyPatch) -> None:
    # New function objects, so that no program traced before is reused.
    learner = Learner(optax.sgd(0.3, momentum=0.5))
    wrong = adjoints._in_device_memory("planted", adjoints._Plan(1, None, terms=None))
    if plant is not None:
        plant(monkeypatch)
    _, gradient = errors(cases.toy(), learner, olm.policy.static(), wrong, cases.STEPS)
    assert gradient <= TOLERANCE if plant is None else gradient > 1e-3


def test_the_comparison_finds_a_constant_clip_factor(x64: None) -> None:
    """The same steps, hence the same value; only the derivative of the factor is missing."""
    task, policy, key = cases.toy(), olm.policy.table(), jax.random.key(KEY)
    phi = cases.start(policy, cases.STEPS, cases.EXAMPLES, cases.EXAMPLES)
    expected = cases.reference(task, Learner(cases.OPTIMISERS["clipped"]()), policy, phi, steps=cases.STEPS, key=key)
    wrong = Learner(optax.chain(constant_clip(0.35), optax.sgd(0.5)))
    found = olm.policy_gradient(task, wrong, policy, phi, steps=cases.STEPS, key=key)
    assert cases.relative_error(found[0], expected[0]) <= 1e-13
    assert cases.relative_error(found[1], expected[1]) > 1e-3


def test_the_comparison_finds_a_dropped_feature_derivative(x64: None) -> None:
    task, policy, key = cases.toy(), olm.policy.scorer(), jax.random.key(KEY)
    learner = Learner(optax.sgd(0.3))
    phi = cases.start(policy, cases.STEPS, cases.EXAMPLES, cases.EXAMPLES)
    expected = cases.reference(task, learner, policy, phi, steps=cases.STEPS, key=key)
    wrong = policy._replace(features=lambda *args: jax.lax.stop_gradient(olm.policy.loss_features(*args)))
    found = olm.policy_gradient(task, learner, wrong, phi, steps=cases.STEPS, key=key)
    assert cases.relative_error(found[0], expected[0]) <= 1e-13
    assert cases.relative_error(found[1], expected[1]) > 1e-3


def test_the_comparison_does_not_pass_nonsense() -> None:
    assert cases.relative_error(np.array([3.0, 4.0]), np.array([3.0, 4.0 + 5e-9])) == pytest.approx(1e-9, rel=1e-6)
    assert cases.relative_error(np.array([np.nan]), np.array([1.0])) == float("inf")
    with pytest.raises(AssertionError, match="zero"):
        cases.relative_error(np.zeros(2), np.zeros(2))
    with pytest.raises(AssertionError):
        cases.relative_error(np.ones((2, 1)), np.ones(2))


# --- any loop, no machine learning ------------------------------------------------------------------------------------

# The carry has an integer, which is replayed and not differentiated, and the cost sees shared, carry and count.
LOOP = Program(
    step=lambda shared, carry, row, aux, data: (jnp.sin(shared * carry[0] + row) + data[aux], carry[1] + 1),
    cost=lambda carry, data: jnp.sum(jnp.cos(carry[0])) * (1 + carry[1]),
    readout=lambda before, after, data: after[0] - before[0],
)


def loop_by_hand(shared: Array, rows: Array, start: Array, data: Array, weights: Array, carry_bar: Array) -> Array:
    """Σ_t w_t cost(c_t) + ⟨carry_bar, c_T⟩ by a Python loop."""
    carry, total = (start, jnp.int32(0)), 0.0
    for t, row in enumerate(rows):
        total += weights[t] * LOOP.cost(carry, data)
        carry = LOOP.step(shared, carry, row, t, data)
    return total + weights[len(rows)] * LOOP.cost(carry, data) + jnp.sum(carry_bar * carry[0])


@pytest.mark.parametrize(
    ("steps", "adjoint"),
    [
        (1, adjoints.direct()),
        (1, adjoints.segmented(3)),
        (2, adjoints.segmented(2)),
        (5, adjoints.segmented(2, size=1)),
        (5, adjoints.segmented(2, size=100)),
        (11, adjoints.segmented(2, size=4)),
        (11, adjoints.segmented(4)),
        (12, adjoints.segmented(3, size=6)),
        (1, adjoints.direct(residuals=True)),
        (11, adjoints.segmented(3, residuals=True)),
        (5, adjoints.direct(residuals=2)),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_any_loop_is_differentiated(steps: int, adjoint: adjoints.Adjoint, x64: None) -> None:
    """In ``shared``, ``rows`` and the first carry, through the costs and through the last carry, whatever divides whatever."""
    keys = jax.random.split(jax.random.key(steps), 6)
    shared, rows = jax.random.normal(keys[0], (3,)), jax.random.normal(keys[1], (steps, 3))
    start, data = jax.random.normal(keys[2], (3,)), jax.random.normal(keys[3], (steps, 3))
    weights, carry_bar = jax.random.normal(keys[4], (steps + 1,)), jax.random.normal(keys[5], (3,))
    weights = weights.at[0].set(0.0)  # a cost that does not count takes another branch
    run = adjoints.differentiable(LOOP, adjoint)

    def found(shared, rows, start):
        costs, last, seen = run(Inputs(shared, rows, jnp.arange(steps), data), (start, jnp.int32(0)))
        return weights @ costs + jnp.sum(carry_bar * last[0]), (last[1], seen)

    (value, (count, seen)), gradients = jax.jit(jax.value_and_grad(found, (0, 1, 2), has_aux=True))(shared, rows, start)
    expected = jax.value_and_grad(loop_by_hand, (0, 1, 2))(shared, rows, start, data, weights, carry_bar)
    assert cases.relative_error(value, expected[0]) <= 1e-13
    assert cases.relative_error(gradients, expected[1]) <= TOLERANCE
    assert count == steps and seen.shape == (steps, 3)


def test_derivatives_in_the_data_are_refused() -> None:
    run = adjoints.differentiable(LOOP, adjoints.direct())
    inputs = Inputs(jnp.ones(3), jnp.ones((2, 3)), jnp.arange(2), jnp.ones((2, 3)))
    with pytest.raises(olm.errors.InputError, match="not the data"):
        jax.grad(lambda data: run(inputs._replace(data=data), (jnp.ones(3), 0))[0][2])(inputs.data)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"levels": 0}, "levels=0"),
        ({"levels": 9}, "1 to 8"),
        ({"levels": 2, "size": 0}, "size=0"),
        ({"levels": 1.5}, "levels=1.5"),
        ({"size": "2"}, "size='2'"),
        ({"residuals": 0.5}, "residuals=0.5"),
        ({"residuals": -1}, "=-1"),
    ],
)
def test_impossible_segments_are_refused(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(olm.errors.InputError, match=said):
        adjoints.segmented(**arguments)


def test_host_driven_adjoints_say_where_they_work() -> None:
    with pytest.raises(olm.errors.InputError, match="policy_gradient"):
        adjoints.differentiable(LOOP, cases.ADJOINTS["offloaded"]())


# --- memory, as the compiler plans it ---------------------------------------------------------------------------------

WIDE, MANY = 16, 64


def wide_task() -> olm.Task:
    """A step's activations (64 examples × 16 hidden units, several arrays of them) are much larger than its 272 parameters."""

    def losses(params, x):
        hidden = jnp.tanh(x @ params["up"])
        return (jnp.tanh(hidden) @ params["down"] - jnp.sum(x, axis=1)) ** 2

    def init(key):
        return {"up": jax.random.normal(key, (WIDE, WIDE)) / 4, "down": jnp.ones(WIDE) / 4}

    x = jax.random.normal(jax.random.key(0), (MANY, WIDE))
    return olm.Task(init, losses, x, x[:8])


def temporary_bytes(function: Callable[[Array], Array], phi: Array) -> int:
    """What XLA sets aside for a function besides its arguments and results."""
    return jax.jit(function).lower(phi).compile().memory_analysis().temp_size_in_bytes


def by_adjoint(task: olm.Task, steps: int, adjoint: adjoints.Adjoint) -> Callable[[Array], Array]:
    """The gradient of the area in static weights by an adjoint of olm."""
    policy, learner, key = olm.policy.static(), Learner(OPTIMISER), jax.random.key(0)
    return lambda phi: olm.policy_gradient(task, learner, policy, phi, steps=steps, key=key, adjoint=adjoint)[1]


OPTIMISER = optax.sgd(0.01)


def curve_only(task: olm.Task, steps: int) -> Callable[[Array], Array]:
    """The run without a derivative."""
    return lambda phi: olm.train(task, Learner(OPTIMISER), olm.policy.static(), phi, steps=steps, key=jax.random.key(0)).target


def by_plain_scan(task: olm.Task, steps: int) -> Callable[[Array], Array]:
    """What one writes without olm: reverse mode through a scan of optax steps."""

    def area(phi):
        def step(carry, _):
            params, state = carry
            gradient = jax.grad(lambda p: phi @ task.losses(p, task.train))(params)
            updates, state = OPTIMISER.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), jnp.mean(task.losses(params, task.target))

        params = task.init(jax.random.split(jax.random.key(0))[0])
        return jnp.mean(jax.lax.scan(step, (params, OPTIMISER.init(params)), None, length=steps)[1])

    return jax.grad(area)


def test_memory_is_what_the_adjoints_promise() -> None:
    """A step costs `direct` one carry and nothing else, `segmented` less than that, and a plain scan its activations."""
    task, phi, carry = wide_task(), jnp.full(MANY, 1 / MANY), 4 * (WIDE * WIDE + WIDE)
    activations = 4 * MANY * WIDE
    short, long = 256, 1024
    bytes_at = {
        name: [temporary_bytes(make(task, steps), phi) for steps in (short, long)]
        for name, make in {
            "plain": by_plain_scan,
            "direct": lambda task, steps: by_adjoint(task, steps, adjoints.direct()),
            "segmented": lambda task, steps: by_adjoint(task, steps, adjoints.segmented(2)),
            "products": lambda task, steps: by_adjoint(task, steps, adjoints.direct(residuals=True)),
            "long sums": lambda task, steps: by_adjoint(task, steps, adjoints.direct(residuals=MANY + 1)),
            "curve": curve_only,
        }.items()
    }
    assert bytes_at["segmented"][0] < bytes_at["direct"][0] < bytes_at["products"][0] < bytes_at["plain"][0]
    assert bytes_at["segmented"][1] < bytes_at["direct"][1] / 4
    per_step = {name: (b - a) / (long - short) for name, (a, b) in bytes_at.items()}
    assert per_step["plain"] > carry + 2 * activations
    assert carry <= per_step["direct"] < carry + 64  # the carry, and a few scalars
    # No sum is that long: of a step and of the evaluation of its cost nothing is kept.
    assert carry <= per_step["long sums"] < carry + 64 and per_step["products"] > carry + activations
    # √T starts and √T carries of one segment: 2 · (32 − 16) more of them at four times the length.
    more = adjoints.carries_kept(long, 2) - adjoints.carries_kept(short, 2)
    assert more == 32
    assert bytes_at["segmented"][1] - bytes_at["segmented"][0] == pytest.approx(more * carry, rel=0.1)
    assert per_step["curve"] < 64  # where no derivative is asked for, nothing is kept


def test_the_number_of_terms_says_which_products_are_kept(x64: None) -> None:
    """Products over 16 and over 64 terms, the latter with the small results: 64 keeps those, 65 none, 1 all; all agree."""
    examples, narrow, wide = 48, 16, 64

    def losses(params, x):
        return jnp.sum(jnp.tanh(jnp.tanh(x @ params["up"]) @ params["down"]) ** 2, axis=1)

    def init(key):
        return {"up": jax.random.normal(key, (narrow, wide)) / 4, "down": jax.random.normal(key, (wide, narrow)) / 8}

    x = jax.random.normal(jax.random.key(0), (examples, narrow))
    task, phi = olm.Task(init, losses, x, x[:8]), jnp.full(examples, 1 / examples)
    chosen = {"none": adjoints.direct(), **{terms: adjoints.direct(residuals=terms) for terms in (1, wide, wide + 1)}}
    gradients = {name: jax.jit(by_adjoint(task, 20, adjoint))(phi) for name, adjoint in chosen.items()}
    for name, gradient in gradients.items():
        assert cases.relative_error(gradient, gradients["none"]) <= TOLERANCE, name
    bytes_at = {
        name: [temporary_bytes(by_adjoint(task, steps, adjoint), phi) for steps in (64, 128)] for name, adjoint in chosen.items()
    }
    per_step = {name: (long - short) / 64 for name, (short, long) in bytes_at.items()}
    assert per_step[wide] >= per_step[wide + 1] + 8 * examples * narrow
    assert per_step[1] >= per_step[wide] + 8 * examples * wide


@pytest.mark.parametrize("adjoint", [adjoints.direct(), adjoints.direct(residuals=True), adjoints.segmented(residuals=2)])
def test_parameters_may_be_of_less_precision_than_losses(adjoint: adjoints.Adjoint) -> None:
    task = wide_task()
    half = task._replace(
        init=lambda key: jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), task.init(key)),
        losses=lambda params, x: task.losses(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params), x),
    )
    phi = jnp.full(MANY, 1 / MANY)
    gradient = jax.jit(by_adjoint(half, 6, adjoint))(phi)
    expected = jax.jit(by_adjoint(half, 6, adjoints.direct()))(phi)
    assert gradient.dtype == phi.dtype and float(jnp.linalg.norm(expected)) > 0
    assert cases.relative_error(gradient, expected) <= 2e-2


@pytest.mark.parametrize("adjoint", [adjoints.direct(), adjoints.direct(residuals=True), adjoints.segmented(2, residuals=True)])
def test_costs_of_weight_zero_do_not_count(adjoint: adjoints.Adjoint) -> None:
    """Where the target loss has no derivative, at the start here, and no weight, the gradient is that of the other steps."""
    loop = LOOP._replace(cost=lambda carry, data: jnp.sqrt(jnp.sum(carry[0] ** 2)))
    run = adjoints.differentiable(loop, adjoint)
    data = jnp.ones((5, 3))

    def last(rows):
        inputs = Inputs(jnp.ones(3), rows, jnp.arange(5), data)
        return run(inputs, (jnp.zeros(3), jnp.int32(0)))[0][-1]

    gradient = jax.grad(last)(jnp.full((5, 3), 0.1))
    assert np.isfinite(gradient).all() and float(abs(gradient).min()) > 0


def test_programs_of_different_memory_agree(x64: None) -> None:
    task, steps, phi = wide_task(), 20, jnp.full(MANY, 1 / MANY)
    programs = [
        by_plain_scan(task, steps),
        by_adjoint(task, steps, adjoints.direct()),
        by_adjoint(task, steps, adjoints.segmented()),
    ]
    assert len({temporary_bytes(program, phi) for program in programs}) == 3
    plain, direct, segmented = (jax.jit(program)(phi) for program in programs)
    assert cases.relative_error(direct, plain) <= TOLERANCE
    assert cases.relative_error(segmented, plain) <= TOLERANCE


def test_chunks_bound_the_activations() -> None:
    """A quarter of the examples at a time: a policy with features too needs less memory for activations, at equal gradients."""
    task, policy, key = wide_task(), olm.policy.scorer(), jax.random.key(0)
    phi = jnp.full((2, 2), 0.1)

    def gradient(chunk_size):
        learner = Learner(OPTIMISER, chunk_size=chunk_size)
        return lambda phi: olm.policy_gradient(task, learner, policy, phi, steps=4, key=key, adjoint=adjoints.direct())[1]

    whole, chunked = temporary_bytes(gradient(None), phi), temporary_bytes(gradient(8), phi)
    assert chunked < whole - 2 * 4 * MANY * WIDE
    assert cases.relative_error(jax.jit(gradient(8))(phi), jax.jit(gradient(None))(phi)) < 1e-4
