"""Policies as functions: weights on the simplex for any parameters, uniform at first, gathered by the examples drawn."""

from __future__ import annotations

import itertools
from pathlib import Path

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import olm
from olm.errors import InputError
from olm.policy import join, loss_features, split
from olm.simplex import map_constraints
from olm.types import Array, Box, Free, Policy, PyTree, Simplex, Time

STEPS, N = 12, cases.EXAMPLES
NAMES = list(cases.POLICIES)


def weights_of(policy: Policy, phi: PyTree, t: int, index: Array) -> Array:
    """The weights of step t for the toy at its first parameters."""
    task = cases.toy()
    batch = jax.tree.map(lambda x: x[index], task.train)
    features = policy.features(task, cases.toy_init(jax.random.key(0)), batch, task.target) if policy.features else None
    shared, rows = split(policy, phi)
    return policy.weights(join(shared, jax.tree.map(lambda x: x[t], rows)), Time(jnp.int32(t), STEPS), index, features)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=10)
@given(seed=st.integers(0, 1000), t=st.integers(0, STEPS - 1), batch=st.sampled_from([1, 4, N]))
def test_weights_are_on_the_simplex(name: str, seed: int, t: int, batch: int) -> None:
    """Whatever the feasible parameters and whichever examples are drawn, an example drawn twice included."""
    policy = cases.POLICIES[name]()
    index = jnp.arange(N) if batch == N else jax.random.randint(jax.random.key(seed), (batch,), 0, N)
    weights = weights_of(policy, cases.start(policy, STEPS, N, batch, seed), t, index)
    assert weights.shape == (batch,)
    assert (np.asarray(weights) >= 0).all()
    assert float(weights.sum()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_every_policy_starts_uniform_and_feasible(name: str) -> None:
    policy = cases.POLICIES[name]()
    for batch, index in ((N, jnp.arange(N)), (4, jnp.array([8, 0, 3, 5]))):
        phi = policy.init(STEPS, N, batch)
        for t in (0, STEPS - 1):
            assert np.allclose(weights_of(policy, phi, t, index), 1 / batch, rtol=1e-6)
            if policy.rate is not None:
                assert float(policy.rate(phi[t], Time(t, STEPS))) == 1.0
        projected = olm.simplex.project(policy.feasible, phi)
        assert jax.tree.all(jax.tree.map(lambda a, b: np.allclose(a, b, atol=1e-6), phi, projected))


@pytest.mark.parametrize("name", NAMES)
def test_phi_splits_into_what_is_shared_and_what_belongs_to_a_step(name: str) -> None:
    policy = cases.POLICIES[name]()
    phi = policy.init(STEPS, N, 4)
    shared, rows = split(policy, phi)
    assert all(leaf.shape[0] == STEPS for leaf in jax.tree.leaves(rows))
    assert len(jax.tree.leaves(shared)) + len(jax.tree.leaves(rows)) == len(jax.tree.leaves(phi))
    rebuilt = join(shared, rows)
    assert jax.tree.structure(rebuilt) == jax.tree.structure(phi)
    assert jax.tree.all(jax.tree.map(np.array_equal, rebuilt, phi))


def test_the_table_is_used_as_it_is() -> None:
    """φ is γ: no renormalisation on the way, also for rows that are not feasible."""
    phi = jnp.arange(STEPS * 4.0).reshape(STEPS, 4)
    assert np.array_equal(weights_of(olm.policy.table(), phi, 5, jnp.array([1, 8, 2, 2])), phi[5])


def test_static_weights_follow_their_example() -> None:
    """The same two examples have the same ratio of weights in every batch; the full batch is φ itself."""
    phi = cases.start(olm.policy.static(), STEPS, N, 3)
    drawn = weights_of(olm.policy.static(), phi, 0, jnp.array([7, 2, 4]))
    again = weights_of(olm.policy.static(), phi, 9, jnp.array([2, 7, 7]))
    assert float(drawn[1] / drawn[0]) == pytest.approx(float(phi[2] / phi[7]), rel=1e-6)
    assert float(again[0] / again[1]) == pytest.approx(float(phi[2] / phi[7]), rel=1e-6)
    assert np.array_equal(weights_of(olm.policy.static(), phi, 0, jnp.arange(N)), phi)


@pytest.mark.parametrize("pieces", [1, 3, 5, 12, 20])
def test_pieces_are_equal_stretches_in_order(pieces: int) -> None:
    """⌊tP/T⌋: in order from the first, and as many steps each as divide evenly, give or take one."""
    policy = olm.policy.piecewise(pieces)
    phi = jnp.eye(pieces, N) + 1.0 * jnp.arange(pieces)[:, None]
    used = np.stack([weights_of(policy, phi, t, jnp.arange(N)) for t in range(STEPS)])
    row = [int(np.flatnonzero((weights == np.asarray(phi)).all(axis=1))[0]) for weights in used]
    assert row[0] == 0 and row == sorted(row)
    if pieces <= STEPS:
        lengths = [len(list(group)) for _, group in itertools.groupby(row)]
        assert len(lengths) == pieces and max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("pieces", [0, -1])
def test_no_pieces_are_refused(pieces: int) -> None:
    with pytest.raises(InputError, match="at least 1"):
        olm.policy.piecewise(pieces)


# --- features ---------------------------------------------------------------------------------------------------------


def test_the_margin_of_a_perceptron_is_its_signed_score(x64: None) -> None:
    from olm.models import perceptron

    keys = jax.random.split(jax.random.key(4), 3)
    batch = {"x": jax.random.normal(keys[0], (N, 3)), "y": (jax.random.uniform(keys[1], (N,)) < 0.5).astype(float)}
    params = {"w": jax.random.normal(keys[2], (3,))}
    task = olm.Task(None, perceptron.losses, None, None)
    margin, loss = loss_features(task, params, batch, None).T
    assert np.allclose(margin, (2 * batch["y"] - 1) * (batch["x"] @ params["w"]), rtol=1e-12)
    assert np.array_equal(loss, perceptron.losses(params, batch))


@pytest.mark.parametrize("loss", [0.0, 1e-12, 1e-6, 0.7, 50.0, 89.0, 1e4])
def test_features_and_their_derivative_are_finite_for_any_loss(loss: float) -> None:
    """Learned examples have loss 0 in float32, hopeless ones more than e^ℓ can hold."""
    task = olm.Task(None, lambda params, batch: params * batch, None, None)
    features = loss_features(task, jnp.float32(1), jnp.array([loss], jnp.float32), None)
    slope = jax.jacobian(lambda p: loss_features(task, p, jnp.array([loss], jnp.float32), None))(jnp.float32(1))
    assert np.isfinite(features).all() and np.isfinite(slope).all()
    expected = -max(loss, 1e-6) - np.log(-np.expm1(-max(loss, 1e-6)))
    assert float(features[0, 0]) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_the_scorer_is_a_softmax_of_margin_loss_and_step(x64: None) -> None:
    phi = jnp.array([[0.3, -0.2], [0.5, 0.7]])
    features = jax.random.normal(jax.random.key(0), (4, 2))
    for t in (0, 3, STEPS - 1):
        scores = features @ (phi[0] + phi[1] * t / STEPS)
        found = olm.policy.scorer().weights(phi, Time(jnp.int32(t), STEPS), jnp.arange(4), features)
        assert np.allclose(found, np.exp(scores) / np.exp(scores).sum(), rtol=1e-14)


# --- one's own policy -------------------------------------------------------------------------------------------------


def test_a_policy_of_ones_own_with_several_parameters_is_differentiated(x64: None) -> None:
    """Rows and shared leaves in one tree, a rate, features that see the target, several constraints: nothing is special."""

    def features(task: olm.Task, params: PyTree, batch: PyTree, target: PyTree) -> Array:
        return batch["x"] @ jnp.mean(target["x"], axis=0) + task.losses(params, batch)

    policy = Policy(
        name="mine",
        init=lambda steps, examples, batch: {"temperature": jnp.zeros(steps), "tilt": jnp.ones(()), "pace": (jnp.ones(2),)},
        weights=lambda phi, t, index, features: jax.nn.softmax(phi["tilt"] * jnp.exp(phi["temperature"]) * features),
        stepwise={"temperature": True, "tilt": False, "pace": False},
        feasible={"temperature": Free(), "tilt": Box(0.0, 2.0), "pace": Simplex()},
        rate=lambda phi, t: phi["pace"][0][0] + phi["pace"][0][1] * t.step / t.steps,
        features=features,
    )
    task, learner, key = cases.toy(), olm.Learner(cases.OPTIMISERS["momentum"](), cases.BATCH), jax.random.key(6)
    phi = map_constraints(lambda constraint, leaf: leaf + 0.1, policy.feasible, policy.init(cases.STEPS, N, cases.BATCH))
    found = olm.policy_gradient(task, learner, policy, phi, steps=cases.STEPS, key=key)
    expected = cases.reference(task, learner, policy, phi, steps=cases.STEPS, key=key)
    assert cases.relative_error(found, expected) <= 1e-10
    assert all(np.linalg.norm(leaf) > 1e-6 for leaf in jax.tree.leaves(found[1]))


# --- the order of examples --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "examples", "batch"), [(6, 9, 6), (5, 9, 9), (7, 4, 1), (1, 5, 2)])
def test_every_epoch_shows_every_example_once(steps: int, examples: int, batch: int) -> None:
    """Cut into epochs whatever the batches: complete permutations, not twice the same, and the last one begun without repeats."""
    order = np.asarray(olm.learner.order(jax.random.key(0), steps, examples, batch))
    assert order.shape == (steps, batch) and order.dtype == np.int32
    epochs = [order.ravel()[i : i + examples] for i in range(0, steps * batch, examples)]
    for epoch in epochs:
        assert len(set(epoch.tolist())) == len(epoch)
    if len(epochs) > 1:
        assert not np.array_equal(epochs[0], epochs[1])
    assert np.array_equal(order, olm.learner.order(jax.random.key(0), steps, examples, batch))
    if examples > 4:
        assert not np.array_equal(order, olm.learner.order(jax.random.key(1), steps, examples, batch))


def test_a_longer_run_begins_with_the_order_of_a_shorter_one() -> None:
    short, long = (olm.learner.order(jax.random.key(3), steps, 9, 6) for steps in (4, 11))
    assert np.array_equal(long[:4], short)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_policy_comes_back_from_its_file(name: str, tmp_path: Path) -> None:
    policy = cases.POLICIES[name]()
    phi = cases.start(policy, STEPS, N, 4)
    found, back = olm.policy.load(olm.policy.save(tmp_path / "policy.npz", policy, phi))
    assert (found.name, found.config) == (policy.name, policy.config)
    assert jax.tree.structure(back) == jax.tree.structure(phi)
    assert jax.tree.all(jax.tree.map(np.array_equal, back, phi))


def test_policies_of_the_literature_come_back_when_load_is_told_where_they_are(tmp_path: Path) -> None:
    path = olm.policy.save(tmp_path / "policy.npz", olm.baselines.high_loss(share=0.25), ())
    assert olm.policy.load(path, olm.baselines.named)[0].config == olm.baselines.high_loss(share=0.25).config
    with pytest.raises(InputError, match=r"policy\.npz: unknown policy 'high_loss'"):
        olm.policy.load(path)


def test_an_unknown_policy_is_named_with_the_choices() -> None:
    with pytest.raises(InputError, match="unknown policy 'tabel': choose one of uniform, table, static"):
        olm.policy.named("tabel")
    for named in (olm.policy.named, olm.baselines.named):  # a damaged file may hold anything in its place
        with pytest.raises(InputError, match="unknown policy"):
            named(["table"])
    with pytest.raises(InputError, match="policy piecewise"):
        olm.policy.named("piecewise", {"parts": 3})
