"""Continual training: plans exact to the token, the core's loop, gradients in shares and rates, runs that go on after a kill."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import olm
from olm import schedules
from olm.continual import experiment
from olm.continual.experiment import measure, settings, task, train_sequence
from olm.continual.merge import ties
from olm.continual.plan import account, counts, limited, plan, replay_shares, union
from olm.continual.search import Plain, find_schedule, realised, relaxed, settle
from olm.errors import DivergenceError, InputError
from olm.learner import Adam, adamw, reset_at
from olm.models.transformer import TransformerConfig
from olm.policy import combined, late, learning_rate, mixture
from olm.records import Run
from olm.tasks import sequence
from olm.tasks.sequence import Dataset

B, L = 4, 6
MODEL = TransformerConfig(vocabulary=96, length=L, width=8, layers=1, heads=2)


def bare(name: str, rows: int) -> Dataset:
    """A dataset of which only the number of windows counts."""
    return Dataset(name, np.zeros((rows, L + 1), np.int32), np.zeros((2, L + 1)), np.zeros((2, L + 1)), 96, "ids")


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, ...]:
    return sequence.stories("strong", 3, rows=48, validation=4, test=6, length=L, vocabulary=96, datasets=3)


# --- plans ------------------------------------------------------------------------------------------------------------


@given(share=st.integers(0, 999), batch=st.integers(1, 40), steps=st.integers(1, 120))
def test_shares_of_two_datasets_are_met_within_half_an_example_at_every_step(share: int, batch: int, steps: int) -> None:
    found = counts([share / 1000, 1 - share / 1000], batch, steps)
    assert (found.sum(1) == batch).all()
    assert (found >= 0).all()
    so_far = np.cumsum(found[:, 0])
    assert (np.abs(so_far * 1000 - share * batch * np.arange(1, steps + 1)) <= 500).all()  # in whole numbers: no tolerance


@given(seed=st.integers(0, 100), datasets=st.integers(2, 5), batch=st.integers(1, 9))
def test_shares_that_change_are_met_too(seed: int, datasets: int, batch: int) -> None:
    shares = np.random.default_rng(seed).dirichlet(np.full(datasets, 0.3), 50)
    found = counts(shares, batch)
    assert (found.sum(1) == batch).all()
    assert (found >= 0).all()
    assert np.abs(np.cumsum(found, 0) - batch * np.cumsum(shares, 0)).max() < datasets


@pytest.mark.parametrize("replay", [0.0, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5])
def test_replay_is_counted_and_ordered_exactly(replay: float) -> None:
    """The published shares over 400 steps of 4: each a whole number of windows, all in order, none twice."""
    made = plan([bare("old", 900), bare("new", 1700)], [400], np.ones(400), batch_size=B, replay=replay, first=1)
    old = made.order < 900
    assert old.sum() == round(replay * 1600)
    assert (old.sum(1) == made.counts[:, 0]).all()
    assert made.order[old].tolist() == list(range(round(replay * 1600)))
    assert made.order[~old].tolist() == list(range(900, 900 + 1600 - round(replay * 1600)))
    (phase,) = account(made, [bare("old", 900), bare("new", 1700)])
    assert phase["tokens"] == {"old": round(replay * 1600) * L, "new": (1600 - round(replay * 1600)) * L}
    assert phase["total"] == 1600 * L


def test_three_datasets_replay_all_earlier_ones_from_their_beginnings() -> None:
    three = [bare("a", 90), bare("b", 30), bare("c", 60)]
    made = plan(three, [20, 5, 10], np.ones(35), batch_size=B, replay=[0.0, 0.4, 0.5])
    assert made.ends == (20, 25, 35)
    assert made.new == (0, 1, 2)
    assert made.resets == (20, 25)
    last = made.order[25:]
    replayed = [int(((last >= low) & (last < high)).sum()) for low, high in ((0, 90), (90, 120), (120, 180))]
    assert replayed == [17, 3, 20]  # 80 windows were read of the first, 12 of the second
    assert last[last < 90].tolist() == list(range(17))
    assert [part["share"]["a"] for part in account(made, three)] == [1.0, 0.4, 17 / 40]
    assert plan(three, [20, 5, 10], np.ones(35), batch_size=B, reset=False).resets == ()


def test_a_union_reads_every_dataset_by_its_length() -> None:
    two = [bare("a", 40), bare("b", 40)]
    made = union(two, [8, 4], np.ones(12), batch_size=3)
    assert made.counts.sum(0).tolist() == [24, 12]
    assert account(made, two)[0]["tokens"] == {"a": 24 * L, "b": 12 * L}


def test_the_accounting_notices_an_order_that_is_not_the_plans() -> None:
    two = [bare("a", 40), bare("b", 40)]
    made = plan(two, [5], np.ones(5), batch_size=B, replay=0.25, first=1)
    shuffled = made.order.copy()
    shuffled[[0, 1]] = shuffled[[1, 0]]
    with pytest.raises(RuntimeError, match="own order"):
        account(made._replace(order=shuffled), two)
    with pytest.raises(RuntimeError, match="another number"):
        account(made._replace(counts=made.counts[:, ::-1]), two)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"replay": 1.0}, "0 up to but not 1"),
        ({"replay": 5}, "5 per cent is 0.05"),
        ({"replay": -0.1}, "share of earlier data"),
        ({"replay": True}, "share of earlier data"),
        ({"replay": [0.1, 0.2]}, "2 replay shares for 1 phases"),
        ({"steps": [30]}, r"'b' has 240 tokens in 1 reading\(s\) and the run asks for 540: 300 are missing"),
        ({"steps": []}, "give one for each"),
        ({"steps": [5, 5, 5]}, "there are 2 datasets"),
        ({"steps": [0]}, "steps of phase 1"),
        ({"rates": np.ones(3)}, "10 steps in all"),
        ({"rates": np.full(10, np.nan)}, "finite"),
        ({"rates": np.zeros(10)}, "not all zero"),
        ({"shares": np.ones((10, 3)) / 3}, r"give \[10, 2\]"),
        ({"shares": np.ones((10, 2))}, "sum to one"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    steps = change.pop("steps", [10])
    rates = change.pop("rates", np.ones(sum(steps)))
    with pytest.raises(InputError, match=message):
        plan([bare("a", 40), bare("b", 40)], steps, rates, **{"batch_size": B, "replay": 0.25, "first": 1, **change})


def test_a_dataset_may_be_read_again_when_asked() -> None:
    two = [bare("a", 40), bare("b", 40)]
    made = plan(two, [20], np.ones(20), batch_size=B, first=1, epochs=2)
    assert made.order.ravel().tolist() == [*range(40, 80), *range(40, 80)]
    assert account(made, two)[0]["tokens"]["b"] == 80 * L


def test_replay_reads_what_was_read_and_nothing_else() -> None:
    """A short first phase: replay is bounded by it, spread by it, and repeats it only when asked."""
    three = [bare("a", 90), bare("b", 90), bare("c", 90)]
    made = plan(three, [10, 5, 10], np.ones(25), batch_size=B, replay=[0.0, 0.0, 0.5])
    last = made.order[15:]
    assert last[last < 180].tolist() != []
    assert sorted(set(last[last < 90].tolist())) == list(range((last < 90).sum()))
    assert ((last < 90).sum(), ((last >= 90) & (last < 180)).sum()) == (13, 7)  # 40 and 20 windows were read of them
    with pytest.raises(InputError, match=r"'a' was read before for 48 tokens in 1 reading\(s\) and the run asks for 240"):
        plan(three[:2], [2, 20], np.ones(22), batch_size=B, replay=0.5)
    again = plan(three[:2], [2, 20], np.ones(22), batch_size=B, replay=0.5, epochs=5)
    old = again.order[2:][again.order[2:] < 90]
    assert old.tolist() == list(range(8)) * 5
    assert account(again, three[:2])[1]["tokens"] == {"a": 40 * L, "b": 40 * L}
    with pytest.raises(InputError, match="seen is"):
        plan(three[:2], [5], np.ones(5), batch_size=B, first=1, seen=[100])


def test_a_share_of_replay_is_spread_by_size() -> None:
    assert replay_shares(0.3, [100, 50, 70]).tolist() == pytest.approx([0.2, 0.1, 0.7])
    assert replay_shares(0.3, [100]).tolist() == [1.0]


# --- the loop ---------------------------------------------------------------------------------------------------------


def test_a_sequence_is_the_cores_training_with_an_order_and_rates(data) -> None:
    """`olm.train` with the plan's order and rates ends in the same parameters; another order does not."""
    rates = np.asarray(schedules.rates(schedules.rewarmed(3e-2, 3e-3, [7, 6]), 13), np.float64)
    made = plan(data[:2], [7, 6], rates, batch_size=B, replay=0.25)
    key = jax.random.key(1)
    run = train_sequence(data[:2], MODEL, made, key=key, evaluate_every=4, last=5)
    whole, how = task(data[:2], MODEL), adamw(Adam(), B, made.resets)

    def ends(order: np.ndarray) -> Any:
        phi = jnp.asarray(rates, jnp.float32)
        return olm.train(whole, how, olm.policy.learning_rate(), phi, steps=13, key=key, order=order).params

    def distance(a: Any, b: Any) -> float:
        return max(float(jnp.abs(x - y).max()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))

    assert distance(run.params, ends(made.order)) < 1e-6
    assert distance(run.params, ends(made.order[::-1])) > 1e-3


def test_two_phases_are_two_runs_the_second_with_a_new_optimiser(data) -> None:
    rates = np.full(12, 2e-2)
    key = jax.random.key(1)

    def whole(reset: bool) -> Any:
        made = plan(data[:2], [6, 6], rates, batch_size=B, replay=0.25, reset=reset)
        return train_sequence(data[:2], MODEL, made, key=key, evaluate_every=6, last=2)

    first = train_sequence(data[:1], MODEL, plan(data[:1], [6], rates[:6], batch_size=B), key=key, evaluate_every=6, last=2)
    second = plan(data[:2], [6], rates[6:], batch_size=B, replay=0.25, first=1)
    continued = train_sequence(data[:2], MODEL, second, key=key, params=first.params, evaluate_every=6, last=2)
    apart = [
        max(
            float(jnp.abs(x - y).max())
            for x, y in zip(jax.tree.leaves(continued.params), jax.tree.leaves(run.params), strict=True)
        )
        for run in (whole(True), whole(False))
    ]
    assert apart[0] < 1e-6
    assert apart[1] > 1e-3
    # Forgetting is counted from the end of the first phase, or from what one says was there before.
    together = whole(True)
    old = data[0].name
    expected = together.final["test"][1][0] - together.final["test"][0][0]
    assert together.measures()["forgetting"][old] == pytest.approx(expected)
    assert continued.measures(before=together.final["test"][0])["forgetting"][old] == pytest.approx(expected, abs=1e-5)


def test_final_losses_are_means_over_the_last_steps(data) -> None:
    made = plan(data[:1], [12], np.full(12, 1e-2), batch_size=B)
    run = train_sequence(data[:1], MODEL, made, key=jax.random.key(0), evaluate_every=5, last=4)
    steps = [row["step"] for row in run.rows]
    assert steps == [0, 5, 9, 10, 11, 12]  # every 5, and each of the last 4
    window = [row["test"][data[0].name] for row in run.rows if row["step"] > 8]
    assert run.final["test"][0][0] == pytest.approx(np.mean(window))
    assert run.rows[-1]["test"][data[0].name] == pytest.approx(measure(run.params, data[:1], MODEL)["test"][data[0].name])
    assert run.rows[-1]["tokens"] == {data[0].name: 12 * B * L}
    # By hand, one window at a time.
    losses = task(data[:1], MODEL).losses
    by_hand = np.mean([float(losses(run.params, {"tokens": jnp.asarray(w[None])})[0]) for w in data[0].test])
    assert run.rows[-1]["test"][data[0].name] == pytest.approx(by_hand, rel=1e-5)


def test_an_interrupted_run_goes_on_with_the_same_bits(data, tmp_path, monkeypatch) -> None:
    made = plan(data[:2], [6, 6], np.full(12, 2e-2), batch_size=B, replay=0.25)
    config = settings(data[:2], MODEL, made, Adam())
    options = {"key": jax.random.key(1), "evaluate_every": 2, "last": 2, "save_every": 0.0}
    with Run.create(tmp_path / "whole", config) as run:
        train_sequence(data[:2], MODEL, made, run=run, **options)
    original, calls = experiment.evaluator, itertools.count()

    def breaks(*arguments: Any) -> Any:
        evaluate = original(*arguments)

        def seen(params: Any) -> Any:
            if next(calls) == 4:
                raise KeyboardInterrupt
            return evaluate(params)

        return seen

    monkeypatch.setattr(experiment, "evaluator", breaks)
    with Run.create(tmp_path / "cut", config) as run, pytest.raises(KeyboardInterrupt):
        train_sequence(data[:2], MODEL, made, run=run, **options)
    monkeypatch.setattr(experiment, "evaluator", original)
    assert not (tmp_path / "cut" / "summary.json").exists()
    with Run.resume(tmp_path / "cut", config) as run:
        train_sequence(data[:2], MODEL, made, run=run, **options)
    for name in ("params.npz", "curves.npz", "metrics.jsonl", "summary.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    # Other data of the same shape are another run.
    changed = (data[0]._replace(train=data[0].train[::-1]), data[1])
    with pytest.raises(InputError, match=r"data\.fingerprint"):
        Run.resume(tmp_path / "cut", settings(changed, MODEL, made, Adam()))


def test_losses_that_are_not_finite_end_a_run_with_a_reason_and_what_was_good_is_kept(data, tmp_path) -> None:
    made = plan(data[:1], [8], np.r_[np.full(4, 1e-3), np.full(4, 1e30)], batch_size=B)
    with Run.create(tmp_path / "run", {}) as run, pytest.raises(DivergenceError, match="lower the learning rate"):
        train_sequence(data[:1], MODEL, made, key=jax.random.key(0), evaluate_every=2, last=1, run=run, save_every=1e9)
    rows = Run.open(tmp_path / "run").metrics()
    assert all(np.isfinite(list(row["test"].values())).all() for row in rows) and rows[-1]["step"] >= 4
    assert (tmp_path / "run" / "state.npz").exists() and not (tmp_path / "run" / "summary.json").exists()


def test_a_model_of_another_vocabulary_or_length_is_refused(data) -> None:
    with pytest.raises(InputError, match="64 token ids, the datasets have 96"):
        task(data, TransformerConfig(vocabulary=64, length=L, width=8, layers=1, heads=2))
    with pytest.raises(InputError, match="longer than the model's length 4"):
        task(data, TransformerConfig(vocabulary=96, length=4, width=8, layers=1, heads=2))


# --- orders, starts and resets in the core ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([[0, 1]], "order has shape"),
        ([[0.0, 1.0], [0.0, 1.0]], "order has shape"),
        ([[0, 9], [0, 1]], "examples 0 … 9: there are 4"),
    ],
)
def test_an_order_that_does_not_fit_is_refused(order: Any, message: str) -> None:
    toy = olm.Task(lambda key: jnp.zeros(2), lambda w, x: (x - w.sum()) ** 2, jnp.arange(4.0), jnp.ones(1))
    with pytest.raises(InputError, match=message):
        olm.train(toy, olm.Learner(optax.sgd(0.1), 2), olm.policy.uniform(), (), steps=2, key=jax.random.key(0), order=order)
    with pytest.raises(InputError, match="params have shapes"):
        olm.train(
            toy, olm.Learner(optax.sgd(0.1), 2), olm.policy.uniform(), (), steps=2, key=jax.random.key(0), params=jnp.zeros(3)
        )


def test_an_optimiser_forgets_where_it_is_told_to() -> None:
    """Adam reset before step 3 of 6 is Adam twice, count and moments; and the reset has a derivative."""
    inner = optax.scale_by_adam(eps_root=1e-8)
    gradients = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)))

    def updates(optimiser: Any, gs: Any) -> list[Any]:
        state, found = optimiser.init(jnp.zeros(3)), []
        for g in gs:
            u, state = optimiser.update(g, state)
            found.append(u)
        return found

    together = updates(reset_at(inner, [3]), gradients)
    apart = updates(inner, gradients[:3]) + updates(inner, gradients[3:])
    assert np.array_equal(np.stack(together), np.stack(apart))
    assert not np.allclose(np.stack(updates(reset_at(inner, []), gradients)), np.stack(apart))
    with pytest.raises(InputError, match="reset_at"):
        reset_at(inner, [-1])


# --- gradients in shares and rates -------------------------------------------------------------------------------------


def test_gradients_of_the_final_losses_reach_shares_rates_and_peak_through_the_whole_sequence(x64, data) -> None:
    """Float64, AdamW with clipping, two phases with a reset between them, old and new losses weighed: within 1e-8."""
    two = data[:2]
    made = plan(two, [5, 6], np.ones(11), batch_size=B, replay=0.25)
    sizes = tuple(len(one.train) for one in two)
    run = relaxed(two, MODEL, lambda t: 0.02, 6, batch_size=B, replay=0.3, old_weight=0.7, pieces=3, last=4, every=2)
    whole, objective = run.task, olm.objective.weighted(jnp.asarray([*[0.0] * 8, 0.25, 0.25, 0.25, 0.25]))
    for rate, where in (
        (learning_rate(), [(1, 3), (1, 9)]),
        (learning_rate(pieces=4), [(1, 0), (1, 3)]),
    ):
        policy = combined(mixture(sizes, 3), rate)
        how = adamw(Adam(), B, made.resets, 0.02)
        _, factors = policy.init(11, sum(sizes), B)
        phi = (jnp.asarray([[0.3, 0.7], [0.2, 0.8], [0.45, 0.55]]), jnp.linspace(0.5, 1.2, factors.size))
        arguments = {"steps": 11, "key": jax.random.key(0), "order": made.order, "objective": objective}

        @jax.jit
        def value(phi: Any, policy: Any = policy, how: Any = how, arguments: Any = arguments) -> Any:
            curve = olm.train(whole, how, policy, phi, **{k: v for k, v in arguments.items() if k != "objective"})
            return jnp.dot(objective.weights(11), curve.target)

        _, gradient = olm.policy_gradient(whole, how, policy, phi, **arguments)
        for leaf, place in [(0, (1, 0)), (0, (2, 1)), *where]:

            def moved(x: float, leaf: int = leaf, place: Any = place, phi: Any = phi) -> float:
                changed = [jnp.asarray(part) for part in phi]
                changed[leaf] = changed[leaf].at[place].set(x)
                return float(value(tuple(changed)))

            at = float(phi[leaf][place])
            expected = cases.richardson(moved, at, 1e-4)  # larger steps meet kinks of the ReLU
            assert abs(float(gradient[leaf][place]) - expected) <= 1e-8, (rate.config, leaf, place)
            assert abs(expected) > 1e-6


def test_a_truncated_gradient_is_that_of_the_last_steps_from_where_they_begin(x64) -> None:
    """On the toy, SGD: rows of the last steps as in a run of them alone; with all steps it is the whole gradient."""
    toy, how, policy, key = cases.toy(), olm.Learner(optax.sgd(0.3), cases.BATCH), learning_rate(), jax.random.key(4)
    order = np.random.default_rng(1).integers(0, cases.EXAMPLES, (cases.STEPS, cases.BATCH))
    phi = jnp.linspace(0.5, 1.5, cases.STEPS)
    last, begin = 3, cases.STEPS - 3
    weights = jnp.asarray([0.0] * (begin - 1) + [0.25, 0.5] + [0.0] * (last - 1) + [0.25])
    shared = {"key": key, "objective": olm.objective.weighted(weights)}

    def gradient(adjoint: Any) -> tuple[float, np.ndarray]:
        value, found = olm.policy_gradient(toy, how, policy, phi, steps=cases.STEPS, order=order, adjoint=adjoint, **shared)
        return float(value), np.asarray(found)

    value, whole = gradient(olm.adjoint.direct())
    cut_value, cut = gradient(olm.adjoint.truncated(last))
    first = olm.train(toy, how, policy, phi[:begin], steps=begin, key=key, order=order[:begin])
    alone = olm.policy_gradient(
        toy, how, policy, phi[begin:], steps=last, key=key, order=order[begin:], params=first.params,
        objective=olm.objective.weighted(weights[begin:]),
    )[1]  # fmt: skip
    assert cut_value == pytest.approx(value, rel=1e-12)
    assert (cut[:begin] == 0).all()
    assert cut[begin:] == pytest.approx(np.asarray(alone), rel=1e-12)
    assert np.abs(whole[:begin]).max() > 1e-3
    assert gradient(olm.adjoint.truncated(99))[1] == pytest.approx(whole, rel=1e-12)
    # Shared parameters: only what they do in the last steps counts.
    peak = olm.policy_gradient(toy, how, learning_rate(pieces=0), jnp.ones(1), steps=cases.STEPS, order=order,
                               adjoint=olm.adjoint.truncated(last), **shared)[1]  # fmt: skip
    rows = olm.policy_gradient(toy, how, policy, jnp.ones(cases.STEPS), steps=cases.STEPS, order=order,
                               adjoint=olm.adjoint.truncated(last), **shared)[1]  # fmt: skip
    assert float(peak[0]) == pytest.approx(float(rows.sum()), rel=1e-12)
    with pytest.raises(InputError, match="drops derivatives"):
        olm.train(toy, how, policy, phi, steps=cases.STEPS, key=key, adjoint=olm.adjoint.truncated(last))
    for wrong in (0, True, 2.5):
        with pytest.raises(InputError, match="at least 1"):
            olm.adjoint.truncated(wrong)


def test_a_late_policy_holds_its_first_values_before() -> None:
    policy = late(combined(mixture((3, 5), 2), learning_rate(pieces=2)), 0.4)
    phi = (jnp.asarray([[0.2, 0.8], [0.9, 0.1]]), jnp.asarray([1.0, 2.0, 4.0]))
    index = jnp.asarray([0, 4])
    times = [olm.Time(jnp.int32(t), 10) for t in range(10)]
    seen = [(float(policy.weights(phi, t, index, None)[0]), float(policy.rate(phi, t))) for t in times]
    assert [share for share, _ in seen] == pytest.approx([0.2] * 8 + [0.9] * 2)
    assert [rate for _, rate in seen] == pytest.approx([1.0] * 7 + [1 + 2 / 3, 2 + 2 / 3, 4.0])
    with pytest.raises(InputError, match="a parameter for each step"):
        late(learning_rate())


def test_a_mixture_weighs_datasets_and_not_numbers_of_examples() -> None:
    policy = mixture((3, 5), 2)
    phi = jnp.asarray([[0.2, 0.8], [0.9, 0.1]])
    index = jnp.asarray([0, 4, 5, 7])
    early, late = (np.asarray(policy.weights(phi, olm.Time(jnp.int32(t), 10), index, None)) for t in (4, 5))
    assert early.tolist() == pytest.approx([0.2, *[0.8 / 3] * 3])
    assert late.tolist() == pytest.approx([0.9, *[0.1 / 3] * 3])
    # Where a batch has one dataset alone that one has all the weight.
    assert np.asarray(policy.weights(phi, olm.Time(jnp.int32(0), 10), jnp.asarray([3, 4]), None)).tolist() == [0.5, 0.5]
    with pytest.raises(InputError, match="the datasets have 8 examples, the task has 9"):
        policy.init(4, 9, 2)


def test_policies_of_datasets_and_rates_are_saved_and_read(tmp_path) -> None:
    policy = combined(mixture((3, 5), 2), learning_rate(3.0, pieces=4))
    phi = policy.init(10, 8, 4)
    again, read = olm.policy.load(olm.policy.save(tmp_path / "p.npz", policy, phi))
    assert (again.name, again.config) == (policy.name, policy.config)
    assert combined(mixture((3, 5), 2), learning_rate()) is combined(mixture((3, 5), 2), learning_rate())
    assert [x.shape for x in read] == [(2, 2), (5,)]
    with pytest.raises(InputError, match="give a policy of weights and then one of rates"):
        combined(learning_rate(), learning_rate())


def test_runs_measured_where_the_objective_looks_end_in_the_same_policy(tmp_path) -> None:
    """`curves=False` spares the losses at other steps and changes nothing that is found; what takes whole curves is None."""
    toy, how = cases.toy(), olm.Learner(optax.sgd(0.3), cases.BATCH)
    arguments: dict[str, Any] = {
        "steps": cases.STEPS, "key": jax.random.key(0), "evaluations": 3, "policy": learning_rate(), "target_draws": 0,
        "validation_fraction": 0.0, "objective": olm.objective.weighted(jnp.asarray([0.0] * (cases.STEPS - 1) + [0.5, 0.5])),
    }  # fmt: skip
    whole = olm.find_policy(toy, how, **arguments)
    few = olm.find_policy(toy, how, curves=False, run_dir=tmp_path / "few", **arguments)
    assert whole.best_evaluation == few.best_evaluation > 1
    assert np.asarray(whole.phi) == pytest.approx(np.asarray(few.phi), rel=1e-6)
    assert few.measures["final"]["found"] == pytest.approx(whole.measures["final"]["found"], rel=1e-5)
    expected = float(np.mean(np.asarray(whole.curve.test)[-2:]))
    assert few.measures["objective"]["found"] == pytest.approx(expected, rel=1e-5)
    assert few.acceleration is None
    assert np.isnan(np.asarray(few.curve.target)[: cases.STEPS - 1]).all()
    assert np.asarray(few.curve.target)[-2:] == pytest.approx(np.asarray(whole.curve.target)[-2:], rel=1e-6)
    assert Run.open(tmp_path / "few").summary()["objective_ratio"] == few.measures["objective_ratio"]
    assert np.nanmean(np.asarray(few.curve.target)) < np.nanmean(np.asarray(few.baseline.target))
    with pytest.raises(InputError, match=r"brake is 0\.5"):
        olm.find_policy(toy, how, brake=0.5, **arguments)


def test_a_brake_takes_back_smaller_rises() -> None:
    """With steps far too long every rise above the brake is taken again, and a tighter brake takes back at least as many."""
    toy, how = cases.toy(), olm.Learner(optax.sgd(0.3), cases.BATCH)
    arguments: dict[str, Any] = {
        "steps": cases.STEPS, "key": jax.random.key(0), "evaluations": 6, "policy": learning_rate(), "target_draws": 0,
        "validation_fraction": 0.0, "method": olm.search.mirror_descent(fall=0.9, largest=50.0),
    }  # fmt: skip
    for brake in (1.0, 1.05):
        history, best = olm.find_policy(toy, how, brake=brake, **arguments).history, np.inf
        for row in history:
            assert row["accepted"] == (row["objective"] <= brake * best)
            best = min(best, row["objective"]) if row["accepted"] else best
        if brake == 1.0:
            assert not all(row["accepted"] for row in history)


# --- the search --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_search_lowers_the_final_losses_and_is_made_plain(data) -> None:
    two = sequence.stories("strong", 3, rows=400, validation=16, test=16, length=L, vocabulary=96)
    key, steps = jax.random.key(0), 40
    first = train_sequence(two[:1], MODEL, plan(two[:1], [60], np.full(60, 2e-2), batch_size=B), key=key, evaluate_every=60)
    schedule = schedules.warmup_cosine(2e-2, 2e-3, steps, 2)
    run = relaxed(two, MODEL, schedule, steps, batch_size=B, replay=0.05, reserve=0.5, pieces=4, last=10, every=5)
    found = find_schedule(run, params=first.params, key=key, evaluations=5, keep=3)
    history = found.solution.history
    assert found.solution.measures["objective_ratio"] < 1
    assert len(history) == 5
    assert len(found.plains) == 3
    best = found.solution.kept
    for k, plain in enumerate(found.plains, 1):
        assert plain.evaluations == tuple(one.evaluation for one in best[:k])
        mean = [np.mean([one.phi[leaf] for one in best[:k]], axis=0) for leaf in (0, 1)]
        assert plain.shares[-1] == pytest.approx(mean[0][-1], abs=1e-6)
        assert plain.rates == pytest.approx(realised(run, mean).rates, rel=1e-5)
        assert plain.plan.order.shape == (steps, B)
        assert np.abs(np.cumsum(plain.plan.counts[:, 0]) - B * np.cumsum(plain.shares[:, 0])).max() <= 0.5 + 1e-9
        assert account(plain.plan, two)[0]["total"] == steps * B * L
    runs = {}

    def train(plain: Any) -> Any:
        runs[plain.evaluations] = train_sequence(two, MODEL, plain.plan, key=key, params=first.params, last=10)
        return runs[plain.evaluations]

    chosen, made, losses = settle(found, train)
    assert list(runs) == [(), *(plain.evaluations for plain in found.plains)]
    means = {number: float(np.mean(x.final["validation"][-1])) for number, x in runs.items()}
    assert chosen.evaluations == min(means, key=means.__getitem__) and made is runs[chosen.evaluations]
    assert losses == pytest.approx(list(means.values()))
    # Shares that are whole numbers of examples at every step, and the start's rates: then the plain run is the relaxed one.
    run = relaxed(two, MODEL, schedule, steps, batch_size=B, replay=0.25, reserve=0.25, pieces=4, last=10, every=5)
    made, _, rates, _ = realised(run, run.phi)
    assert np.array_equal(made.order, run.order)
    assert rates == pytest.approx(np.asarray(schedules.rates(schedule, steps)), rel=1e-6)


def test_shares_that_ask_for_more_than_there_is_are_cut_to_it(data) -> None:
    """A search may ask for all of a batch from one dataset; its plan reads what there is, and the start is the plan's own."""
    steps, sizes = 10, [len(one.train) for one in data]
    seen, total = [8, 40], steps * B
    run = relaxed(data, MODEL, lambda t: 0.01, steps, batch_size=B, replay=0.3, reserve=0.25, pieces=2, seen=seen)
    expected = plan(data, [steps], np.ones(steps), batch_size=B, replay=0.3, first=2, seen=seen)
    assert np.array_equal(realised(run, run.phi).plan.order, expected.order)
    greedy = (np.tile([0.8, 0.15, 0.05], (2, 1)), np.ones(3))
    found = realised(run, greedy)
    assert found.plan.counts[:, 0].sum() in (7, 8) and found.plan.counts.sum() == total
    assert found.plan.counts[:, 1].sum() <= 40 and found.shares.sum(1) == pytest.approx(np.ones(steps))
    generator = np.random.default_rng(0)
    for _ in range(50):
        shares = generator.dirichlet([0.3] * 3, steps)
        windows = generator.integers(1, total, 3)
        windows[2] += max(total - windows.sum(), 0)
        cut = limited(shares, B, windows)
        assert cut.sum(1) == pytest.approx(np.ones(steps)) and (cut >= 0).all() and (B * cut.sum(0) <= windows + 1e-6).all()
        fits = (B * shares.sum(0) <= windows).all()
        assert not fits or np.array_equal(cut, shares)
    assert sizes[2] > total


def test_validation_decides_between_plain_runs_and_one_that_diverges_is_no_choice() -> None:
    plains = [Plain(None, None, None, points) for points in ((), (4,), (4, 2))]  # type: ignore[arg-type]
    losses = {(): (3.0, 1.0), (4,): None, (4, 2): (1.0, 2.0)}

    def train(plain: Plain) -> Any:
        if losses[plain.evaluations] is None:
            raise DivergenceError("too fast")
        return SimpleNamespace(final={"validation": [np.zeros(2), np.asarray(losses[plain.evaluations])]})

    found: Any = SimpleNamespace(start=plains[0], plains=tuple(plains[1:]), relaxed=SimpleNamespace(weights=(0.25, 0.75)))
    assert settle(found, train).plain is plains[0]
    assert settle(found, train).losses == (1.5, np.inf, 1.75)
    assert settle(found, train, start=False).plain is plains[2]
    losses[()] = losses[4, 2] = None
    with pytest.raises(DivergenceError, match="too fast"):
        settle(found, train)
    with pytest.raises(InputError, match="nothing to decide between: stopped"):
        settle(SimpleNamespace(plains=(), solution=SimpleNamespace(message="stopped")), train)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"replay": 0.0}, "replay is 0"),
        ({"reserve": 0.01}, "leaves none of one kind"),
        ({"old_weight": 1.0}, "old_weight is 1"),
        ({"datasets": 1}, "two datasets or more"),
    ],
)
def test_a_search_that_cannot_be_is_refused(data, change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"batch_size": B, "replay": 0.1, **change}
    used = data[: arguments.pop("datasets", 2)]
    with pytest.raises(InputError, match=message):
        relaxed(used, MODEL, lambda t: 0.01, 5, **arguments)


# --- merging -----------------------------------------------------------------------------------------------------------


def test_ties_is_its_definition_entry_by_entry() -> None:
    generator = np.random.default_rng(2)
    base = {"a": generator.normal(size=(3, 4)), "b": generator.normal(size=5)}
    models = [{name: x + generator.normal(size=x.shape) for name, x in base.items()} for _ in range(3)]
    found = ties(base, models, keep=0.4, scale=0.7)
    vectors = [np.concatenate([(model[name] - base[name]).ravel() for name in "ab"]) for model in models]
    expected = np.concatenate([base[name].ravel() for name in "ab"])
    kept = [set(np.argsort(-np.abs(v))[: round(0.4 * v.size)].tolist()) for v in vectors]
    for i in range(expected.size):
        values = [v[i] for v, k in zip(vectors, kept, strict=True) if i in k]
        sign = np.sign(sum(values))
        agreeing = [x for x in values if np.sign(x) == sign]
        expected[i] += 0.7 * np.mean(agreeing) if agreeing else 0.0
    assert np.concatenate([np.ravel(found[name]) for name in "ab"]) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(InputError, match="1 model to merge"):
        ties(base, models[:1])
    with pytest.raises(InputError, match="keep"):
        ties(base, models, keep=0.0)
