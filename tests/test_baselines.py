"""Policies without a search: their weights against brute force, the law they follow, and what they are good for."""

from __future__ import annotations

import cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import olm
from olm import baselines, law
from olm.errors import DivergenceError, InputError
from olm.tasks.perceptron import perceptron
from olm.train import inputs
from olm.types import Array, Policy, PyTree, Time

STEPS, N = cases.STEPS, cases.EXAMPLES
POLICIES = {
    "lookahead": baselines.lookahead,
    "high_loss": lambda: baselines.high_loss(temperature=0.3),
    "high_loss, share": lambda: baselines.high_loss(share=0.4),
    "low_loss": lambda: baselines.low_loss(temperature=0.3),
    "low_loss, share": lambda: baselines.low_loss(share=0.4),
    "rho_loss": lambda: baselines.rho_loss(temperature=0.3),
    "rho_loss, share": lambda: baselines.rho_loss(share=0.4),
}


def away(policy: Policy, seed: int = 0) -> PyTree:
    """φ away from zero, so that a reference matters."""
    return cases.start(policy, STEPS, N, N, seed)


def weights_of(policy: Policy, phi: PyTree, index: Array, params: PyTree) -> np.ndarray:
    task = cases.toy()
    features = policy.features(task, params, jax.tree.map(lambda x: x[index], task.train), task.target)
    return np.asarray(policy.weights(phi, Time(jnp.int32(0), STEPS), index, features))


def replay(table: Array, learner: olm.Learner, key: Array) -> olm.Curve:
    return olm.train(cases.toy(), learner, olm.policy.table(), table, steps=STEPS, key=key)


def dot(a: PyTree, b: PyTree) -> float:
    return float(sum(np.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)))


def gradients(params: PyTree) -> tuple[list[PyTree], PyTree]:
    """∇ℓ_n of the toy's training examples one by one, and ∇L."""
    task = cases.toy()
    single = jax.jit(jax.grad(lambda p, n: task.losses(p, jax.tree.map(lambda x: x[n][None], task.train))[0]))
    return [single(params, n) for n in range(N)], jax.grad(lambda p: jnp.mean(task.losses(p, task.target)))(params)


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(POLICIES))
@settings(max_examples=4)
@given(seed=st.integers(0, 1000), batch=st.sampled_from([1, 4, N]))
def test_weights_are_on_the_simplex(name: str, seed: int, batch: int) -> None:
    """Whatever the model and whichever examples are drawn, one drawn twice included."""
    policy = POLICIES[name]()
    index = jnp.arange(N) if batch == N else jax.random.randint(jax.random.key(seed), (batch,), 0, N)
    params = jax.tree.map(lambda x: 3 * x, cases.toy_init(jax.random.key(seed)))
    weights = weights_of(policy, away(policy, seed), index, params)
    assert weights.shape == (batch,) and (weights >= 0).all()
    assert weights.sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", list(POLICIES))
@pytest.mark.parametrize("batch", [None, cases.BATCH])
def test_policies_train_like_a_plain_loop(name: str, batch: int | None, x64: None) -> None:
    """The shared loop, mini-batches included, against Python's; curves differ from those of uniform weights."""
    policy, key = POLICIES[name](), jax.random.key(5)
    task, phi, learner = cases.toy(), away(policy), olm.Learner(optax.sgd(0.3), batch)
    curve = olm.train(task, learner, policy, phi, steps=STEPS, key=key)
    expected = cases.rollout(task, learner, policy, phi, STEPS, key)
    np.testing.assert_allclose(curve.target, expected.target, rtol=1e-10)
    plain = olm.train(task, learner, olm.policy.uniform(), (), steps=STEPS, key=key)
    assert not np.allclose(plain.target, expected.target, rtol=1e-5)


def test_chunks_do_not_change_a_lookahead(x64: None) -> None:
    """Features see losses in chunks; their jvp goes through these as well."""
    curves = [
        olm.train(
            cases.toy(), olm.Learner(optax.sgd(0.3), chunk_size=chunk), baselines.lookahead(), (), steps=4, key=jax.random.key(0)
        )
        for chunk in (None, cases.CHUNK)
    ]
    np.testing.assert_allclose(curves[0].target, curves[1].target, rtol=1e-12)


def test_lookahead_is_the_positive_part_of_inner_products(x64: None) -> None:
    params = cases.toy_init(jax.random.key(3))
    each, target = gradients(params)
    gain = np.array([dot(g, target) for g in each])
    assert (gain < 0).any() and (gain > 0).sum() > 1
    expected = np.maximum(gain, 0) / np.maximum(gain, 0).sum()
    np.testing.assert_allclose(weights_of(baselines.lookahead(), (), jnp.arange(N), params), expected, rtol=1e-12)
    harmful = jnp.flatnonzero(gain < 0, size=2)
    np.testing.assert_array_equal(weights_of(baselines.lookahead(), (), harmful, params), [0.5, 0.5])


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_lookahead_holds_the_range_of_float32(size: float) -> None:
    weights = baselines.lookahead().weights((), Time(0, 1), jnp.arange(3), size * jnp.array([3.0, 1.0, -1.0], jnp.float32))
    np.testing.assert_allclose(weights, [0.75, 0.25, 0.0], rtol=1e-6)


@pytest.mark.parametrize("broken", [np.inf, np.nan])
def test_lookahead_hides_no_run_that_broke(broken: float) -> None:
    weights = baselines.lookahead().weights((), Time(0, 1), jnp.arange(3), jnp.array([3.0, broken, -1.0]))
    assert not np.isfinite(weights).all()


def test_high_loss_descends_the_tilted_loss(x64: None) -> None:
    """Its weighted gradient is ∇ τ log mean exp(ℓ / τ), and that of low loss the same with −τ."""
    task, params = cases.toy(), cases.toy_init(jax.random.key(1))
    for policy, tau in ((baselines.high_loss(temperature=0.3), 0.3), (baselines.low_loss(temperature=0.3), -0.3)):
        weights = weights_of(policy, (), jnp.arange(N), params)

        def tilted(p: PyTree, tau: float = tau) -> Array:
            return tau * jax.nn.logsumexp(task.losses(p, task.train) / tau)

        expected, found = jax.grad(tilted)(params), olm.weighted_gradient(task.losses)(params, weights, task.train)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, expected)


def test_a_share_keeps_that_many_examples_alike() -> None:
    losses = jnp.array([0.3, 2.0, 0.1, 1.0, 0.9, 0.2, 0.7, 0.8, 0.4])
    for share, kept in ((0.01, 1), (1 / 3, 3), (1.0, 9)):
        weights = np.asarray(baselines.high_loss(share=share).weights((), Time(0, 1), jnp.arange(N), losses))
        assert set(np.flatnonzero(weights)) == set(np.argsort(-losses)[:kept].tolist())
        np.testing.assert_allclose(weights[weights > 0], 1 / kept, rtol=1e-6)


def test_rho_is_the_loss_less_the_reference_of_the_same_example(x64: None) -> None:
    params, index = cases.toy_init(jax.random.key(1)), jnp.array([7, 2, 2, 5])
    rho, high = baselines.rho_loss(temperature=0.5), baselines.high_loss(temperature=0.5)
    np.testing.assert_array_equal(weights_of(rho, rho.init(STEPS, N, 4), index, params), weights_of(high, (), index, params))
    reference = away(rho)
    losses = np.asarray(cases.toy().losses(params, cases.toy().train))
    score = np.exp((losses - np.asarray(reference))[np.asarray(index)] / 0.5)
    np.testing.assert_allclose(weights_of(rho, reference, index, params), score / score.sum(), rtol=1e-12)


def test_reference_losses_are_those_of_a_model_of_the_targets(x64: None) -> None:
    task, learner, key = cases.toy(), olm.Learner(optax.sgd(0.3), chunk_size=cases.CHUNK), jax.random.key(8)
    params = task.init(jax.random.split(key)[0])
    for _ in range(3):
        gradient = jax.grad(lambda p: jnp.mean(task.losses(p, task.target)))(params)
        params = jax.tree.map(lambda p, g: p - 0.3 * g, params, gradient)
    found = baselines.reference_losses(task, learner, steps=3, key=key)
    np.testing.assert_allclose(found, task.losses(params, task.train), rtol=1e-12)


def test_the_oracle_weighs_clean_examples_alike() -> None:
    spoiled = np.arange(N) % 3 == 0
    phi = baselines.clean_only(jnp.asarray(spoiled))
    assert (np.asarray(phi)[spoiled] == 0).all()
    np.testing.assert_allclose(np.asarray(phi)[~spoiled], 1 / 6, rtol=1e-6)
    drawn = olm.policy.static().weights(phi, Time(0, 1), jnp.array([0, 1, 2]), None)
    np.testing.assert_allclose(drawn, [0, 0.5, 0.5], rtol=1e-6)


# --- the law ----------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 100), unit=st.sampled_from([1e-20, 1.0, 1e20]))
def test_equal_contributions_are_at_rest_and_others_are_not(seed: int, unit: float) -> None:
    scores = jax.random.normal(jax.random.key(seed), (N,))
    for sign in (1, -1):
        np.testing.assert_allclose(baselines.equalise(scores, jnp.full(N, sign * unit), 0.5), scores, atol=1e-6)
    np.testing.assert_array_equal(baselines.equalise(scores, jnp.zeros(N), 0.5), scores)
    one_better = jnp.full(N, 1.0).at[3].set(2.0) * unit
    gained = np.asarray(jax.nn.softmax(baselines.equalise(scores, one_better, 0.5)) > jax.nn.softmax(scores))
    np.testing.assert_array_equal(gained, np.arange(N) == 3)


def test_a_step_multiplies_weights_by_the_exponential_of_the_advantage(x64: None) -> None:
    scores, values = jax.random.normal(jax.random.key(0), (2, N))
    weights = np.asarray(jax.nn.softmax(scores))
    mean, size = weights @ values, np.sqrt(weights @ values**2)
    expected = weights * np.exp(0.7 * (np.asarray(values) - mean) / size)
    found = jax.nn.softmax(baselines.equalise(scores, values, 0.7))
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-12)
    np.testing.assert_allclose(baselines.equalise(scores, jnp.ones(N), 0.7, forget=0.25), 0.75 * scores, rtol=1e-12)


@pytest.mark.parametrize("memory", [0.0, 0.7])
@pytest.mark.parametrize("batch", [None, cases.BATCH])
def test_the_table_is_what_a_plain_loop_builds(memory: float, batch: int | None, x64: None) -> None:
    """Contributions by gradients of single examples, the carried costate by a dense Hessian; the step is SGD's."""
    task, key, eta, kappa, forget = cases.toy(), jax.random.key(11), 0.3, 0.4, 0.05
    learner = olm.Learner(optax.sgd(eta), batch, chunk_size=cases.CHUNK)
    found = baselines.law_guided(task, learner, steps=STEPS, key=key, rate=kappa, forget=forget, memory=memory)

    key_init, key_order = jax.random.split(key)
    flat, unravel = jax.flatten_util.ravel_pytree(task.init(key_init))
    order = np.tile(np.arange(N), (STEPS, 1)) if batch is None else np.asarray(olm.learner.order(key_order, STEPS, N, batch))
    each = jax.jit(jax.jacobian(lambda w: task.losses(unravel(w), task.train)))
    curved = jax.jit(jax.hessian(lambda w, row, index: row @ task.losses(unravel(w), task.train)[index]))
    target = jax.jit(jax.grad(lambda w: jnp.mean(task.losses(unravel(w), task.target))))
    scores, costate, rows = np.zeros(N), np.zeros(len(flat)), []
    for index in order:
        rows.append(np.exp(scores[index]) / np.exp(scores[index]).sum())
        costate = costate + np.asarray(target(flat))
        singles = np.asarray(each(flat))[index]
        contribution = singles @ costate
        mean, size = rows[-1] @ contribution, np.sqrt(rows[-1] @ contribution**2)
        scores[index] = (1 - forget) * scores[index] + kappa * (contribution - mean) / size
        costate = memory * (costate - eta * np.asarray(curved(flat, rows[-1], index)) @ costate)
        flat = flat - eta * rows[-1] @ singles
    np.testing.assert_allclose(found, rows, rtol=1e-9)
    assert np.abs(found - 1 / found.shape[1]).max() > 0.05
    # Replayed, the table ends where the run that built it did.
    np.testing.assert_allclose(jax.flatten_util.ravel_pytree(replay(found, learner, key).params)[0], flat, rtol=1e-9)


@pytest.mark.parametrize("name", list(cases.OPTIMISERS))
def test_any_optimiser_guides_a_table(name: str) -> None:
    learner = olm.Learner(cases.OPTIMISERS[name](), cases.BATCH)
    table = baselines.law_guided(cases.toy(), learner, steps=STEPS, key=jax.random.key(2), rate=0.3, memory=0.9)
    assert table.shape == (STEPS, cases.BATCH)
    np.testing.assert_allclose(np.asarray(table).sum(axis=1), 1, rtol=1e-5)
    assert np.abs(table[-1] - 1 / cases.BATCH).max() > 0.02


def test_without_memory_no_hessian_product_is_computed() -> None:
    """Operations compiled: the carried costate costs five products where the contributions need three."""
    width = 64

    def losses(params: PyTree, batch: PyTree) -> Array:
        return jnp.mean((jnp.tanh(jnp.tanh(batch @ params[0]) @ params[1]) @ params[2]) ** 2, axis=1)

    weights = jax.random.normal(jax.random.key(0), (3, width, width))
    task = olm.Task(lambda key: list(weights), losses, jnp.ones((32, width)), jnp.ones((1, width)))
    learner, table = olm.Learner(optax.sgd(0.1)), olm.policy.table()
    arguments, carry = inputs(task, learner, table, table.init(2, 32, 32), 2, jax.random.key(0))

    def operations(transport: bool) -> float:
        run = baselines._guide(task._replace(train=None, target=None), learner, 2, transport)
        compiled = run.lower(arguments.aux, arguments.data, carry, *map(jnp.asarray, (0.1, 0.0, 0.5))).compile()
        cost = compiled.cost_analysis()
        return (cost[0] if isinstance(cost, list) else cost)["flops"]

    assert operations(False) < 0.7 * operations(True)


def test_guided_contributions_become_more_equal_and_the_target_is_learned_faster() -> None:
    """Three perceptrons: the held-out area falls, and at the loss that uniform weights end at contributions are more alike."""
    steps, ratios, similar = 150, [], []
    learner = olm.Learner(optax.sgd(0.3))
    for seed in range(3):
        task, key = perceptron(jax.random.key(seed), width=16, examples=128, targets=512, tests=512), jax.random.key(seed)
        table = baselines.law_guided(task, learner, steps=steps, key=key)
        plain = olm.train(task, learner, olm.policy.uniform(), (), steps=steps, key=key)
        guided = olm.train(task, learner, olm.policy.table(), table, steps=steps, key=key)
        ratios.append(float(olm.area_under_loss(guided.test) / olm.area_under_loss(plain.test)))
        # Contributions shrink as the loss falls, so their similarity is compared at one loss.
        level = float(plain.target[steps - 1])
        at = int(np.argmax(np.asarray(guided.target) <= level))
        assert 0 < at < steps - 1
        sides = {"guided": (olm.policy.table(), table, at), "plain": (olm.policy.uniform(), (), steps - 1)}
        similar.append(
            {
                side: law.study(task, learner, policy, phi, steps=steps, key=key, every=1).similarity("target")[step]
                for side, (policy, phi, step) in sides.items()
            }
        )
    assert max(ratios) < 0.95
    assert all(one["guided"] > 1.2 * one["plain"] > 0 for one in similar), similar


def test_drop_and_rho_keep_spoiled_labels_out() -> None:
    """A third of the labels flipped, three seeds: oracle, RHO and lookahead beat uniform held out, high loss is worst."""
    for seed in range(3):
        task = perceptron(jax.random.key(seed), width=16, examples=256, targets=256, tests=512)
        spoiled = jnp.arange(256) < 85
        labels = jnp.where(spoiled, 1 - task.train["y"], task.train["y"])
        task = task._replace(train={"x": task.train["x"], "y": labels})
        learner, key, steps = olm.Learner(optax.sgd(0.5)), jax.random.key(seed), 100
        reference = baselines.reference_losses(task, learner, steps=steps, key=jax.random.key(99))
        sides = {
            "uniform": (olm.policy.uniform(), ()),
            "oracle": (olm.policy.static(), baselines.clean_only(spoiled)),
            "rho": (baselines.rho_loss(share=0.5), reference),
            "high": (baselines.high_loss(share=0.5), ()),
            "lookahead": (baselines.lookahead(), ()),
        }
        areas = {
            name: float(olm.area_under_loss(olm.train(task, learner, policy, phi, steps=steps, key=key).test))
            for name, (policy, phi) in sides.items()
        }
        assert max(areas["oracle"], areas["rho"], areas["lookahead"]) < 0.95 * areas["uniform"] < areas["uniform"] < areas["high"]


# --- input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [baselines.high_loss, baselines.low_loss, baselines.rho_loss])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give one of the two"),
        ({"temperature": 1.0, "share": 0.5}, "give one of the two"),
        ({"temperature": 0.0}, r"temperature is 0.0: give a positive"),
        ({"temperature": "hot"}, "temperature is 'hot': give a positive"),
        ({"temperature": -1.0}, "give a positive"),
        ({"temperature": float("nan")}, "give a positive"),
        ({"share": 0.0}, "share of the examples"),
        ({"share": 1.5}, "share of the examples"),
    ],
)
def test_settings_out_of_range_are_refused(make: object, arguments: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(**arguments)


def test_a_missing_reference_is_named() -> None:
    with pytest.raises(InputError, match="policy rho_loss for 2 steps, 9 examples"):
        olm.train(cases.toy(), olm.Learner(optax.sgd(0.1)), baselines.rho_loss(share=0.5), (), steps=2, key=jax.random.key(0))


@pytest.mark.parametrize(
    "arguments", [{"rate": 0.0}, {"forget": 1.0}, {"forget": -0.1}, {"memory": 1.1}, {"rate": float("inf")}, {"rate": "x"}]
)
def test_a_guide_out_of_range_is_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(arguments))):
        baselines.law_guided(cases.toy(), olm.Learner(optax.sgd(0.1)), steps=2, key=jax.random.key(0), **arguments)


def test_divergence_is_an_error() -> None:
    task = cases.toy()._replace(losses=lambda p, b: (b["x"] @ p["w"] - b["y"]) ** 2)
    learner = olm.Learner(optax.sgd(1e12))
    with pytest.raises(DivergenceError, match="diverges before step"):
        baselines.law_guided(task, learner, steps=20, key=jax.random.key(0))
    with pytest.raises(DivergenceError, match="reference"):
        baselines.reference_losses(task, learner, steps=20, key=jax.random.key(0))


@pytest.mark.parametrize("corrupted", [np.ones(3, bool), np.zeros(3), np.zeros((2, 2), bool), np.zeros(0, bool)])
def test_an_oracle_needs_bools_and_something_clean(corrupted: np.ndarray) -> None:
    with pytest.raises(InputError, match="corrupted"):
        baselines.clean_only(corrupted)


@pytest.mark.parametrize("name", list(POLICIES))
def test_a_policy_is_rebuilt_from_its_name_and_settings(name: str) -> None:
    policy = POLICIES[name]()
    again = baselines.named(policy.name, dict(policy.config))
    assert (again.name, again.config) == (policy.name, policy.config)
    phi, params = away(policy), cases.toy_init(jax.random.key(1))
    np.testing.assert_array_equal(*(weights_of(p, phi, jnp.arange(N), params) for p in (policy, again)))


def test_an_unknown_name_lists_all_policies() -> None:
    with pytest.raises(InputError, match=r"unknown policy 'look': choose one of uniform, table.*lookahead"):
        baselines.named("look")
    with pytest.raises(InputError, match="policy high_loss"):
        baselines.named("high_loss", {"heat": 1.0})
