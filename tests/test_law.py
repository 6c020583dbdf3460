"""The Learning Law's measures against their definitions, and its sign on a run that a search has improved."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import olm
from olm import law
from olm.errors import InputError
from olm.tasks.perceptron import perceptron


def test_contributions_are_inner_products_of_gradients(x64) -> None:
    task = perceptron(jax.random.key(0), width=5, examples=7, targets=6, tests=2)
    params = task.init(jax.random.key(1))
    each = jax.vmap(lambda i: jax.grad(lambda p: task.losses(p, task.train)[i])(params)["w"])(jnp.arange(7))
    target = jax.grad(lambda p: jnp.mean(task.losses(p, task.target)))(params)["w"]
    np.testing.assert_allclose(law.contributions(task, params, task.train, task.target), each @ target, rtol=1e-12)


def test_similarity_counts_only_active_examples() -> None:
    contributions, weights = np.array([1.0, 3.0, 100.0]), np.array([0.25, 0.75, 0.0])
    mean = 0.25 * 1 + 0.75 * 3
    expected = mean / np.sqrt((1 - mean) ** 2 + (3 - mean) ** 2)
    np.testing.assert_allclose(law.similarity(jnp.array(contributions), jnp.array(weights)), expected, rtol=1e-6)
    assert np.isnan(law.similarity(jnp.array(contributions), jnp.array([0.001, 0.999, 0.0]), zero=0.01))  # one is no spread


def test_stationarity_is_zero_exactly_at_a_vertex_of_least_gradient_and_falls_in_a_search() -> None:
    gradient = jnp.array([[3.0, 1.0, 2.0]])
    assert float(law.stationarity(gradient, jnp.array([[0.0, 1.0, 0.0]]))[0]) == 0.0
    assert float(law.stationarity(gradient, jnp.array([[1.0, 0.0, 0.0]]))[0]) == 2.0
    task = perceptron(jax.random.key(0), width=4, examples=16, targets=64, tests=8)
    learner, policy, steps, key = olm.Learner(optax.sgd(0.2)), olm.policy.table(), 12, jax.random.key(3)
    found = olm.find_policy(
        task, learner, steps=steps, key=key, evaluations=30, target_draws=0, validation_fraction=0, policy=policy
    )
    key_train = jax.random.split(key)[0]

    def gap(phi):
        _, gradient = olm.policy_gradient(task, learner, policy, phi, steps=steps, key=key_train)
        return float(jnp.sum(law.stationarity(gradient, phi)))

    assert gap(found.phi) < 0.5 * gap(policy.init(steps, 16, 16))


# --- along a run ------------------------------------------------------------------------------------------------------

STEPS, EXAMPLES = 6, 10
KEY = jax.random.key(3)
ADAM = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(0.05, eps_root=1e-8))
LEARNERS = {
    "sgd": olm.Learner(optax.sgd(0.3)),
    "batches": olm.Learner(optax.sgd(0.3, momentum=0.9), batch_size=4),
    "chunks": olm.Learner(ADAM, chunk_size=3),
}


def small_task() -> olm.Task:
    return perceptron(jax.random.key(0), width=3, examples=EXAMPLES, targets=5, tests=4)


def some_policy(name: str, batch: int) -> tuple[olm.Policy, jax.Array]:
    """A policy of each class, away from its start."""
    policy = {"piecewise": olm.policy.piecewise(2), "learning_rate": olm.policy.learning_rate(3.0)}.get(name)
    policy = policy or getattr(olm.policy, name)()
    start = policy.init(STEPS, EXAMPLES, batch)
    noise = jax.tree.map(lambda x: jax.random.normal(jax.random.key(7), x.shape, x.dtype), start)
    if name in ("table", "static", "piecewise"):
        return policy, jax.nn.softmax(noise)
    return policy, jax.tree.map(lambda x, n: x + 0.3 * jnp.abs(n), start, noise)


def by_hand(task: olm.Task, learner: olm.Learner, policy: olm.Policy, phi) -> dict[str, np.ndarray]:
    """θ_t, γ_t and every example's gradient, in a Python loop that knows nothing of the study."""
    size = learner.batch_size or EXAMPLES
    key_init, key_order = jax.random.split(KEY)
    theta = task.init(key_init)
    state = learner.optimiser.init(theta)
    order = olm.learner.order(key_order, STEPS, EXAMPLES, size)
    order = order if size < EXAMPLES else jnp.broadcast_to(jnp.arange(EXAMPLES), (STEPS, EXAMPLES))
    shared, rows = olm.policy.split(policy, phi)
    found: list[dict] = []

    @jax.jit
    def one(theta, state, t, index):
        phi_t = olm.policy.join(shared, jax.tree.map(lambda x: x[t], rows))
        batch = jax.tree.map(lambda x: x[index], task.train)
        features = None if policy.features is None else policy.features(task, theta, batch, task.target)
        weights = policy.weights(phi_t, olm.types.Time(t, STEPS), index, features)
        each = jax.jacobian(lambda p: task.losses(p, batch))(theta)["w"]
        seen = {"weights": weights, "losses": task.losses(theta, batch), "index": index}
        for name, sample in (("target", task.target), ("test", task.test)):
            value, slope = jax.value_and_grad(lambda p, s=sample: jnp.mean(task.losses(p, s)))(theta)
            seen |= {name: each @ slope["w"], f"on_{name}": value}
        updates, state = learner.optimiser.update({"w": weights @ each}, state, theta)
        rate = 1.0 if policy.rate is None else policy.rate(phi_t, olm.types.Time(t, STEPS))
        return optax.apply_updates(theta, jax.tree.map(lambda u: rate * u, updates)), state, seen

    for t in range(STEPS):
        theta, state, seen = one(theta, state, t, order[t])
        found.append(seen)
    return {name: np.stack([seen[name] for seen in found]) for name in found[0]}


@pytest.mark.parametrize(
    ("kind", "name"),
    [("sgd", "table"), ("sgd", "learning_rate"), ("sgd", "uniform"), ("batches", "table"), ("batches", "static"),
     ("chunks", "piecewise"), ("chunks", "scorer")],
)  # fmt: skip
def test_a_study_is_the_loop_by_hand(x64, kind: str, name: str) -> None:
    """γ_t meets θ_t, whatever the policy, optimiser and order of examples; −∂J/∂γ is the gradient of the weights as a table."""
    task, learner = small_task(), LEARNERS[kind]
    policy, phi = some_policy(name, learner.batch_size or EXAMPLES)
    found = law.study(task, learner, policy, phi, steps=STEPS, key=KEY, keep="all", adjoint=olm.adjoint.direct())
    expected = by_hand(task, learner, policy, phi)
    for part in ("weights", "losses", "target", "test"):
        np.testing.assert_allclose(found.seen["kept"][part], expected[part], rtol=1e-9, atol=1e-13, err_msg=part)
    for which in ("target", "test"):
        np.testing.assert_allclose(found.curves[which][:-1], expected[f"on_{which}"], rtol=1e-10)
    if found.index is not None:
        np.testing.assert_array_equal(found.index, expected["index"])
    if name == "learning_rate":  # a table has no factor on the update: the test after the next has its costates
        return
    table = jnp.asarray(expected["weights"])
    value, gradient = olm.policy_gradient(task, learner, olm.policy.table(), table, steps=STEPS, key=KEY)
    np.testing.assert_allclose(found.seen["kept"]["costate"], -gradient, rtol=1e-8, atol=1e-13)
    np.testing.assert_allclose(found.seen["gap"], law.stationarity(gradient, table), rtol=1e-7, atol=1e-13)
    np.testing.assert_allclose(found.summary()["area"]["target"], value, rtol=1e-10)


def test_the_pairing_is_not_that_of_the_published_code(x64) -> None:
    """With γ_t at θ_{t+1} the similarity would be another: the two pairings are told apart."""
    task, learner = small_task(), LEARNERS["sgd"]
    policy, phi = some_policy("table", EXAMPLES)
    found = law.study(task, learner, policy, phi, steps=STEPS, key=KEY, keep="all", adjoint=olm.adjoint.direct())
    expected = by_hand(task, learner, policy, phi)
    right = law.similarity(expected["test"], expected["weights"])
    shifted = law.similarity(expected["test"][1:], expected["weights"][:-1])
    np.testing.assert_allclose(found.similarity("test", active=False), right, rtol=1e-8)
    assert np.abs(found.similarity("test", active=False)[:-1] / shifted - 1).min() > 1e-3


def test_a_factor_on_the_update_reaches_the_costates(x64) -> None:
    task, learner = small_task(), LEARNERS["sgd"]
    policy, phi = some_policy("learning_rate", EXAMPLES)
    found = law.study(task, learner, policy, phi, steps=STEPS, key=KEY, keep="all", adjoint=olm.adjoint.direct())
    weighted = olm.policy.table()._replace(
        init=lambda steps, n, batch: (jnp.full((steps, batch), 1 / batch), jnp.ones(steps)),
        weights=lambda phi_t, t, index, features: phi_t[0],
        rate=lambda phi_t, t: phi_t[1],
    )
    both = (jnp.full((STEPS, EXAMPLES), 1 / EXAMPLES), phi)
    _, (gradient, _) = olm.policy_gradient(task, learner, weighted, both, steps=STEPS, key=KEY)
    np.testing.assert_allclose(found.seen["kept"]["costate"], -gradient, rtol=1e-9)


ADJOINTS = {
    "segmented": olm.adjoint.segmented(),
    "residuals": olm.adjoint.direct(residuals=True),
    "offloaded": olm.offload.offloaded(segment=2),
}


@pytest.mark.parametrize("name", list(ADJOINTS))
def test_every_adjoint_measures_the_same(x64, name: str) -> None:
    task, learner = small_task(), LEARNERS["sgd"]
    policy, phi = some_policy("table", EXAMPLES)
    direct, other = (
        law.study(task, learner, policy, phi, steps=STEPS, key=KEY, keep=3, adjoint=adjoint)
        for adjoint in (olm.adjoint.direct(), ADJOINTS[name])
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-14), direct.tables(), other.tables())


def test_numbers_of_a_step_are_those_of_the_examples() -> None:
    """Every count and mean against numpy, exact zeros, ties and a group included; by the final objective, on some steps only."""
    task, learner, policy = small_task(), LEARNERS["batches"], olm.policy.table()
    phi = np.array(some_policy("table", 4)[1])
    phi[1], phi[3], phi[4, 1] = [0.0, 1.0, 0.0, 0.0], [5e-4, 4e-3, 0.9945, 1e-3], 0.0
    group = np.arange(EXAMPLES) % 3 == 0
    settings = {"learned": 0.5, "small": 0.3, "group": group, "steps": STEPS, "key": KEY, "objective": olm.objective.final()}
    found = law.study(task, learner, policy, jnp.asarray(phi), keep="all", **settings)
    kept, seen, thresholds = found.seen["kept"], found.seen, np.array([0.0, 1e-3, 1e-2, 1e-1])
    zero = kept["weights"][..., None] <= np.float32(thresholds / 4)
    np.testing.assert_array_equal(seen["zero"], zero.sum(1))
    assert seen["zero"][1].tolist() == [3, 3, 3, 3] and seen["zero"][3].tolist() == [0, 0, 2, 3]
    small, learned = kept["weights"] <= 0.3 * kept["weights"].max(1, keepdims=True), kept["losses"] <= 0.5
    assert 0 < learned.sum() < learned.size
    for name, mask in {"small": small, "learned": learned, "learned_small": learned & small}.items():
        np.testing.assert_array_equal(seen[name], mask.sum(1), err_msg=name)
    for name in ("target", "test", "costate"):
        each, harmful = kept[name], kept[name] <= 0
        np.testing.assert_array_equal(seen[name]["harmful"], harmful.sum(1))
        np.testing.assert_array_equal(seen[name]["harmful_zero"], (zero & harmful[..., None]).sum(1))
        np.testing.assert_allclose(seen[name]["harmful_weight"], (kept["weights"] * harmful).sum(1), rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(found.similarity(name, active=False), law.similarity(each, kept["weights"]), rtol=1e-4)
        active = law.similarity(each, kept["weights"], 0.01 / 4)
        np.testing.assert_allclose(found.similarity(name), active, rtol=1e-4)
    member = group[found.index]
    groups = found.groups()
    for value in (0, 1):
        here = member == value
        with np.errstate(invalid="ignore"):
            relative = (kept["weights"] * here).sum(1) * 4 / here.sum(1)
            np.testing.assert_allclose(groups["weight"][:, value], relative, rtol=1e-5)
            np.testing.assert_allclose(groups["target"][:, value], (kept["target"] * here).sum(1) / here.sum(1), rtol=1e-4)
            np.testing.assert_allclose(groups["zero"][:, value], (zero & here[..., None]).sum(1) / here.sum(1)[:, None])
    whole, harmful = found.properties(), (kept["target"] <= 0)[..., None]
    assert whole["noisy"]["target"]["zero"] == pytest.approx(((zero & harmful).sum((0, 1)) / harmful.sum()).tolist())
    assert whole["zero"] == pytest.approx(zero.mean((0, 1)).tolist())
    assert whole["learned"]["small"] == pytest.approx((learned & small).sum() / learned.sum())
    assert whole["redundant"]["target"]["zero"] == pytest.approx(((zero & ~harmful).sum((0, 1)) / (~harmful).sum()).tolist())
    some = law.study(task, learner, policy, jnp.asarray(phi), keep=2, every=4, **settings)
    assert some.at.tolist() == [0, 4] and some.columns.tolist() == [0, 3]
    np.testing.assert_allclose(some.curves["test"], found.curves["test"], rtol=1e-6)
    np.testing.assert_allclose(some.seen["kept"]["costate"], kept["costate"][::4][:, [0, 3]], rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(some.seen["gap"], seen["gap"][::4], rtol=1e-3, atol=1e-8)
    assert some.summary()["steps_measured"] == 2


def test_learned_by_quantile_and_without_a_test_set() -> None:
    task, learner = small_task(), LEARNERS["sgd"]
    found = law.study(task, learner, olm.policy.uniform(), (), steps=3, key=KEY, quantile=0.2, held_out=False)
    assert found.names == ("target", "costate") and set(found.curves) == {"target"}
    assert found.seen["learned"].tolist() == [2, 2, 2]
    assert found.properties()["learned"]["small"] == 0 and "kept" not in found.tables()


def test_compression_names_its_units() -> None:
    found = law.study(small_task(), LEARNERS["sgd"], olm.policy.uniform(), (), steps=3, key=KEY)
    ratio = found.compression()["test"]
    assert ratio["consistent"] == pytest.approx(np.log(2) / found.curves["test"][1:].mean(), rel=1e-6)
    assert ratio["paper_mixed"] == pytest.approx(1 / found.curves["test"][1:].mean(), rel=1e-6)


def test_a_trend_along_a_search_and_its_fit() -> None:
    task, learner, policy = small_task(), LEARNERS["sgd"], olm.policy.table()
    phi = some_policy("table", EXAMPLES)[1]
    studies = [law.study(task, learner, policy, p, steps=STEPS, key=KEY) for p in (policy.init(STEPS, 10, 10) * 1, phi)]
    rows = law.trend(studies, "test")
    assert rows[0]["harmful_zero@0.1"] == 0 and rows[1]["similarity"] == pytest.approx(
        np.mean(studies[1].similarity("test", active=False))
    )
    ratios = np.linspace(2.9, 3.2, 7)
    points = 0.12 * np.log(1.5 / (3.26 - ratios))
    fit = law.fit_similarity(ratios, points + 1e-3 * np.cos(9 * ratios))
    assert fit.b == pytest.approx(3.26, abs=0.03) and fit.rmse < 1e-3 and not fit.at_bound
    assert law.fit_similarity(ratios, ratios).at_bound  # a straight line has no asymptote
    assert not fit.falling and law.fit_similarity(ratios, -points).falling


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, "every is 0"),
        ({"keep": "some"}, "keep='some'"),
        ({"keep": -1}, "keep is -1"),
        ({"group": [True]}, r"group has shape \(1,\): give one 0 or 1 for each of the 10"),
        ({"group": [0.7] * 10}, "group has other values than 0 and 1"),
        ({"group": ["a"] * 10}, "group has other values than 0 and 1"),
        ({"thresholds": ()}, "thresholds is empty"),
        ({"thresholds": (2.0,)}, "thresholds is 2.0"),
        ({"quantile": 1.5}, "quantile is 1.5"),
        ({"learned": float("nan")}, "learned is nan"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        law.study(small_task(), LEARNERS["sgd"], olm.policy.uniform(), (), steps=3, key=KEY, **settings)
    with pytest.raises(InputError, match="at least four"):
        law.fit_similarity([1.0], [1.0])
    with pytest.raises(InputError, match="must be numbers"):
        law.fit_similarity(["a"] * 4, [1.0] * 4)


def test_a_long_run_is_measured_at_up_to_250_steps() -> None:
    task = olm.Task(lambda key: jnp.zeros(()), lambda w, x: (x - w) ** 2, train=jnp.array([0.0, 2.0]), target=jnp.ones(1))
    found = law.study(task, olm.Learner(optax.sgd(0.01)), olm.policy.uniform(), (), steps=501, key=jax.random.key(0))
    assert found.at.tolist() == list(range(0, 501, 3))
    assert found.curves["target"].shape == (502,)
