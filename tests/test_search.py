"""The search as a whole on a small perceptron: what it finds, what it may look at, and how it ends."""

from __future__ import annotations

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import olm
from olm import offload
from olm.errors import InputError
from olm.search import best_rates, convincing, guard, mirror_descent, projected_gradient, targets
from olm.search import loop as search_loop
from olm.search.results import sampled_weights
from olm.tasks.perceptron import perceptron

STEPS, KEY = 30, jax.random.key(7)
TASK = perceptron(jax.random.key(0), width=8, examples=32, targets=24, tests=256)
SGD = optax.sgd(0.2)
LEARNER = olm.Learner(SGD)


def search(task: olm.Task = TASK, **changes: object) -> olm.Solution:
    settings: dict = {"steps": STEPS, "key": KEY, "evaluations": 6, "target_draws": 128} | changes
    return olm.find_policy(task, settings.pop("learner", LEARNER), **settings)


@pytest.mark.parametrize("method", [mirror_descent(), projected_gradient(rate=0.3)], ids=lambda m: m.name)
def test_a_search_learns_faster_on_examples_that_no_choice_saw(method: olm.search.Method) -> None:
    found = search(method=method, evaluations=10)
    assert found.area_ratio < 0.97 and found.acceleration > 1 and found.status == "finished"
    np.testing.assert_allclose(jnp.sum(found.phi, axis=1), 1, rtol=1e-5)
    assert float(jnp.min(found.phi)) >= 0
    assert [row["evaluation"] for row in found.history] == list(range(1, 11))


def test_the_same_defaults_serve_at_learning_rates_far_apart() -> None:
    for rate in (0.05, 3.2):
        found = search(learner=olm.Learner(optax.sgd(rate)), evaluations=10)
        assert found.area_ratio < 0.99, rate


def test_the_test_set_changes_nothing_but_the_report() -> None:
    other = TASK._replace(test=jax.tree.map(lambda x: -x[:64], TASK.test))
    a, b = search(evaluations=3), search(other, evaluations=3)
    np.testing.assert_array_equal(a.phi, b.phi)
    assert a.history[-1]["objective"] == b.history[-1]["objective"] and a.area_ratio != b.area_ratio


def test_a_reserved_part_of_a_fixed_target_set_never_enters_a_gradient() -> None:
    sample = targets(TASK, 0, 0.25, KEY)
    assert sample.fixed["x"].shape == (18, 8) and sample.validation["x"].shape == (6, 8)
    rows = {tuple(np.asarray(r).tolist()) for r in sample.fixed["x"]}
    assert not rows & {tuple(np.asarray(r).tolist()) for r in sample.validation["x"]}
    assert rows <= {tuple(np.asarray(r).tolist()) for r in TASK.target["x"]}


def test_what_validation_does_not_confirm_is_not_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_loop, "convincing", lambda baseline, found: False)
    found = search()
    assert found.best_evaluation == 0 and found.area_ratio == 1.0 and "the start is returned" in found.message
    np.testing.assert_array_equal(found.phi, np.full((STEPS, 32), 1 / 32, np.float32))


def test_convincing_asks_for_more_than_chance() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(1, 0.3, 400)
    assert convincing(base, base - 0.05 + rng.normal(0, 0.1, 400))
    wins = sum(convincing(base, base + rng.normal(0, 0.1, 400)) for _ in range(400))
    assert 5 <= wins <= 40  # 5% of 400 is 20


def test_a_step_that_raises_the_objective_sharply_is_taken_again_and_counts() -> None:
    found = search(method=mirror_descent(fall=0.9, largest=50.0), evaluations=8, target_draws=0, validation_fraction=0)
    retried = [row for row in found.history if not row["accepted"]]
    assert retried and all("taken again" in row["message"] for row in retried) and len(found.history) == 8
    assert found.history[-1]["scale"] < 1
    assert found.summary()["on_target"]["area_ratio"] <= 1


def test_values_that_are_not_finite_end_the_search_with_a_message() -> None:
    found = search(learner=olm.Learner(optax.sgd(1e38)))
    assert found.status == "diverged" and found.best_evaluation == 0
    assert "first evaluation" in found.message and "learning rate" in found.message


def test_patience_ends_a_search_that_validation_no_longer_rewards() -> None:
    found = search(evaluations=40, target_draws=0, patience=3)
    assert found.status == "stopped" and len(found.history) < 40 and "3 evaluations" in found.message


def test_an_interrupt_returns_the_best_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    advance, calls = search_loop._Search.advance, []

    def interrupted(self, state, book):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return advance(self, state, book)

    monkeypatch.setattr(search_loop._Search, "advance", interrupted)
    found = search()
    assert found.status == "interrupted" and len(found.history) == 3 and found.area_ratio < 1


def timeless(path) -> list[dict]:
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_a_search_given_more_evaluations_equals_one_that_had_them(tmp_path) -> None:
    search(evaluations=3, run_dir=tmp_path / "a")
    longer = search(evaluations=6, run_dir=tmp_path / "a", resume=True)
    whole = search(evaluations=6, run_dir=tmp_path / "b")
    np.testing.assert_array_equal(longer.phi, whole.phi)
    assert timeless(tmp_path / "a") == timeless(tmp_path / "b")
    with pytest.raises(InputError, match="steps"):
        search(steps=STEPS + 1, run_dir=tmp_path / "a", resume=True)


def test_a_search_returns_as_many_of_its_best_points_as_it_was_asked_to_keep(tmp_path) -> None:
    """By hand from the history, where nothing but the objective decides; a resumed search keeps the same points."""
    fixed = {"target_draws": 0, "validation_fraction": 0, "method": projected_gradient(rate=30.0), "keep": 3}
    whole = search(evaluations=5, **fixed)
    search(evaluations=3, run_dir=tmp_path / "a", save_every=0, **fixed)
    again = search(evaluations=5, run_dir=tmp_path / "a", resume=True, **fixed)
    assert search(evaluations=5, **{**fixed, "keep": 0}).kept == ()
    seen = {row["evaluation"]: row["objective"] for row in whole.history}
    kept = [one for one in whole.kept if one.evaluation in seen]  # the step after the last has no row
    least = sorted(seen, key=seen.__getitem__)
    assert len(whole.kept) == 3 and [one.evaluation for one in kept] == least[: len(kept)]
    assert [one.value for one in whole.kept] == sorted(one.value for one in whole.kept)
    assert whole.kept[0].evaluation == whole.best_evaluation and np.array_equal(whole.kept[0].phi, whole.phi)
    assert len({np.asarray(one.phi).tobytes() for one in whole.kept}) == 3
    for a, b in zip(whole.kept, again.kept, strict=True):
        assert a[:2] == b[:2] and np.array_equal(a.phi, b.phi)


def test_a_search_with_its_sweeps_on_disk_goes_on_after_a_crash(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the middle of the third sweep: however seldom states are saved, the sweep on disk is the one that is resumed."""
    reverse, calls = offload._reverse, []

    def killed(*given):
        calls.append(1)
        if len(calls) == 11:
            raise RuntimeError("killed")
        return reverse(*given)

    settings = {"evaluations": 4, "save_every": 1e9}
    whole = search(**settings, run_dir=tmp_path / "a", adjoint=olm.offload.offloaded(segment=6, directory=tmp_path / "disk"))
    monkeypatch.setattr(offload, "_reverse", killed)
    adjoint = olm.offload.offloaded(segment=6, directory=tmp_path / "disk")
    with pytest.raises(RuntimeError, match="killed"):
        search(**settings, run_dir=tmp_path / "b", adjoint=adjoint)
    assert len(timeless(tmp_path / "b")) == 2 and any((tmp_path / "disk").iterdir())
    found = search(**settings, run_dir=tmp_path / "b", adjoint=adjoint, resume=True)
    np.testing.assert_array_equal(found.phi, whole.phi)
    assert timeless(tmp_path / "a") == timeless(tmp_path / "b") and not any((tmp_path / "disk").iterdir())


def test_a_resume_with_another_learner_or_objective_is_refused_and_changes_nothing(tmp_path) -> None:
    search(evaluations=2, run_dir=tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    for changes, field in (
        ({"learner": olm.Learner(optax.sgd(0.11))}, "optimiser_trial"),
        ({"learner": olm.Learner(optax.adam(0.1, eps_root=1e-8))}, "optimiser_trial"),
        ({"objective": olm.objective.weighted(np.linspace(0, 1, STEPS + 1))}, "objective"),
        ({"task": TASK._replace(init=lambda key: {"w": jnp.zeros(8)})}, "start_params"),
    ):
        with pytest.raises(olm.errors.InputError, match=field):
            search(evaluations=3, run_dir=tmp_path / "run", resume=True, **changes)
    # A state that cannot be read: the longer search is not recorded as begun.
    (tmp_path / "run" / "state.npz").write_bytes(before["state.npz"][:100])
    with pytest.raises(olm.errors.InputError, match="state"):
        search(evaluations=3, run_dir=tmp_path / "run", resume=True)
    (tmp_path / "run" / "state.npz").write_bytes(before["state.npz"])
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()} == before


def test_what_cannot_be_searched_leaves_no_folder(tmp_path) -> None:
    table = olm.policy.table()
    for changes in (
        {"phi": jnp.full((STEPS, 32), 1.0)},
        {"phi": jnp.full((STEPS, 32), jnp.nan)},
        {"phi": jnp.eye(STEPS, 32) * 2 - jnp.eye(STEPS, 32, 1)},
        {"policy": table._replace(weights=lambda phi_t, t, index, features: phi_t[:3])},
        {"task": TASK._replace(draw=lambda key, n: {"z": jnp.ones((n, 8))})},
    ):
        with pytest.raises((olm.errors.InputError, TypeError, ValueError, KeyError)):
            search(run_dir=tmp_path / "run", **changes)
        assert not (tmp_path / "run").exists()
    assert float(olm.policy.learning_rate(0.5).init(3, 4, 4).max()) == 0.5
    for wrong in ({"policy": "table"}, {"method": "mirror_descent"}, {"objective": "area"}, {"adjoint": "direct"},
                  {"learner": olm.Learner("sgd")}, {"evaluations": "3"}, {"evaluations": 2.5}, {"resume": True}):  # fmt: skip
        with pytest.raises(olm.errors.InputError, match=next(iter(wrong))):
            search(**wrong)


def test_a_saved_policy_trains_to_the_same_curve(tmp_path) -> None:
    found = search(evaluations=3)
    policy, phi = olm.policy.load(found.save(tmp_path / "policy.npz"))
    again = olm.train(TASK, LEARNER, policy, phi, steps=STEPS, key=jax.random.split(KEY)[0])
    np.testing.assert_array_equal(again.test, found.curve.test)


def test_mini_batches_and_other_policies_search_too() -> None:
    for policy in (olm.policy.static(), olm.policy.piecewise(3), olm.policy.scorer(), olm.policy.table()):
        found = search(policy=policy, learner=olm.Learner(SGD, batch_size=16), evaluations=6)
        objectives = [row["objective"] for row in found.history]
        assert min(objectives[1:]) < objectives[0], policy.name


def test_a_policy_of_ones_own_with_a_tree_of_constraints_is_searched() -> None:
    """Constraints in a dict; the share of the sample is that of the leaves that are weights."""
    mine = olm.Policy(
        name="mine",
        init=lambda steps, examples, batch: {"weights": jnp.full((steps, batch), 1 / batch), "pace": jnp.ones(())},
        weights=lambda phi, t, index, features: phi["weights"],
        stepwise={"weights": True, "pace": False},
        feasible={"weights": olm.types.Simplex(), "pace": olm.types.Box(0.5, 2.0)},
        rate=lambda phi, t: phi["pace"],
    )
    found = search(policy=mine, evaluations=4)
    assert found.area_ratio < 1 and all(0 < row["sample_share"] <= 1 for row in found.history)
    assert 0.5 <= float(found.phi["pace"]) <= 2.0


@pytest.mark.parametrize("policy", [olm.policy.table(), olm.policy.static(), olm.policy.piecewise(3)], ids=lambda p: p.name)
def test_a_batch_of_all_examples_is_full_batch(policy: olm.Policy) -> None:
    """φ[n] belongs to example n in both, and so do the weights that the figures show."""
    phi = policy.init(STEPS, 32, 32) * jnp.linspace(0.5, 1.5, 32)
    whole, named = (olm.Learner(SGD, batch_size=size) for size in (None, 32))
    a, b = (olm.policy_gradient(TASK, learner, policy, phi, steps=STEPS, key=KEY) for learner in (whole, named))
    assert jax.tree.all(jax.tree.map(np.array_equal, a, b))
    shown = [sampled_weights(TASK, learner, policy, phi, steps=STEPS, key=KEY)["weights"] for learner in (whole, named)]
    np.testing.assert_array_equal(*shown)


def test_a_batch_in_which_nothing_weighs_anything_teaches_nothing() -> None:
    phi = jnp.zeros(32).at[0].set(1.0)
    learner = olm.Learner(SGD, batch_size=4)
    value, gradient = olm.policy_gradient(TASK, learner, olm.policy.static(), phi, steps=STEPS, key=KEY)
    assert np.isfinite(value) and np.isfinite(gradient).all() and np.any(gradient != 0)


def test_an_objective_may_be_negative_and_may_count_the_start() -> None:
    """Losses below zero: a small rise is no sharp one. And L(θ_0), common to all, decides nothing."""
    lower = TASK._replace(losses=lambda params, batch: TASK.losses(params, batch) - 3)
    a, b = search(evaluations=5), search(lower, evaluations=5)
    assert b.history[0]["objective"] < 0 and [row["accepted"] for row in b.history] == [row["accepted"] for row in a.history]
    weights = np.full(STEPS + 1, 1 / STEPS)
    fixed = {"target_draws": 0, "validation_fraction": 0, "method": projected_gradient(rate=30.0), "evaluations": 4}
    a, b = (search(objective=olm.objective.weighted(w), **fixed) for w in (np.r_[0, weights[1:]], np.r_[5, weights[1:]]))
    assert a.best_evaluation == b.best_evaluation


def test_each_side_gets_its_own_best_rate() -> None:
    rates = []
    grid = best_rates(
        TASK,
        lambda rate: olm.Learner(optax.sgd(rate)),
        learning_rate=0.2,
        steps=STEPS,
        key=KEY,
        searches=2,
        evaluations=3,
        target_draws=128,
        on_search=lambda rate: rates.append(rate) or {},
    )
    uniform = {row["learning_rate"]: row["area_validation"] for row in grid.rows if row["side"] == "uniform"}
    assert grid.learning_rates["uniform"] == min(uniform, key=uniform.__getitem__)
    assert min(uniform) < grid.learning_rates["uniform"] < max(uniform)
    assert rates[0] == grid.learning_rates["uniform"] and len(rates) <= 2 and set(grid.solutions) == set(rates)
    found = {(row["learning_rate"], row["searched_at"]): row["area_validation"] for row in grid.rows if row["side"] == "found"}
    best = min(found, key=found.__getitem__)
    assert grid.learning_rates["found"] == best[0] and grid.solution is grid.solutions[best[1]]
    # The winner was replayed at the rates beside its own.
    assert {(best[1] * factor, best[1]) for factor in (1, 2)} <= set(found)
    np.testing.assert_allclose(grid.claim["area"]["found"], np.mean(grid.found.test[1:]), rtol=1e-6)
    np.testing.assert_allclose(grid.claim["area"]["baseline"], np.mean(grid.baseline.test[1:]), rtol=1e-6)


def test_searches_may_be_run_at_given_rates() -> None:
    settings = {"learning_rate": 0.2, "steps": STEPS, "key": KEY, "evaluations": 2, "target_draws": 128, "runs": 3}
    grid = best_rates(TASK, lambda rate: olm.Learner(optax.sgd(rate)), search_rates=[0.05, 0.1], **settings)
    assert list(grid.solutions) == [0.05, 0.1] and sum(row["side"] == "uniform" for row in grid.rows) == 3
    with pytest.raises(olm.errors.InputError, match="search_rates"):
        best_rates(TASK, lambda rate: olm.Learner(optax.sgd(rate)), search_rates=[], **settings)


def test_rates_below_a_first_one_that_diverges_are_tried() -> None:
    """The grid goes down until training is finite, and no further up than two rates."""
    grid = best_rates(
        TASK,
        lambda rate: olm.Learner(optax.chain(optax.sgd(1.0), exploding_above(0.2, rate))),
        learning_rate=0.4,
        steps=STEPS,
        key=KEY,
        evaluations=2,
        target_draws=64,
        searches=1,
    )
    areas = {row["learning_rate"]: row["area_validation"] for row in grid.rows if row["side"] == "uniform"}
    assert max(areas) == 1.6 and not np.isfinite([areas[rate] for rate in (0.4, 0.8, 1.6)]).any()
    assert grid.learning_rates["uniform"] <= 0.2 and np.isfinite(areas[0.2])


def exploding_above(bound: float, rate: float) -> optax.GradientTransformation:
    """Scales updates by the rate, or by infinity above the bound."""
    return optax.scale(rate if rate <= bound else np.inf)


def test_solutions_and_curves_show_themselves() -> None:
    found = search(evaluations=2)
    assert found._repr_html_().startswith("<img") and found.curve._repr_html_().startswith("<img")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"evaluations": 0}, "evaluations is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": True}, "steps is True"),
        ({"patience": 0}, "patience"),
        ({"patience": 1.5}, "patience is 1.5"),
        ({"save_every": math.nan}, "save_every is nan"),
        ({"target_draws": 2.5}, "target_draws is 2.5"),
        ({"adjoint": "direct"}, "adjoint is 'direct': give an Adjoint"),
        ({"learner": SGD}, "give a Learner"),
        ({"validation_fraction": 1.0, "target_draws": 0}, "validation_fraction"),
        ({"target_draws": -1}, "target_draws"),
        ({"policy": olm.policy.uniform()}, "no parameters"),
        ({"phi": jnp.ones((2, 2))}, "phi has shapes"),
        ({"learner": olm.Learner(SGD, batch_size=33)}, "batch size 33"),
    ],
)
def test_bad_input_is_named_before_anything_is_written(changes: dict, words: str, tmp_path) -> None:
    with pytest.raises(InputError, match=words):
        search(run_dir=tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_target_draws_are_a_function_of_the_evaluation() -> None:
    sample = targets(TASK, 5, 0.25, KEY)
    a, b, again = (sample.sample(TASK, n)["x"] for n in (1, 2, 1))
    np.testing.assert_array_equal(a, again)
    assert not np.array_equal(a, b) and not np.array_equal(a, sample.validation["x"])
    assert guard.targets(TASK, 0, 0, KEY).validation is None
