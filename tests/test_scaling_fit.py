"""Fitting scaling laws: the solver against scipy, screened against unscreened, intervals against repeated draws, bad input."""

from __future__ import annotations

import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from olm.errors import DivergenceError, InputError
from olm.scaling import Fit, Law, Parameter, fit, holdout, intervals, laws, problem, solve

TRUTH = {"E": 1.7, "A": 400.0, "B": 900.0, "alpha": 0.34, "beta": 0.30}
START = [list(TRUTH.values())]
# 108 starts of the published grid's range
COARSE = np.array(
    np.meshgrid([0.5, 1.0, 2.0], np.exp([0.0, 10.0, 20.0]), np.exp([0.0, 10.0, 20.0]), [0.2, 1.0], [0.2, 1.0])
).reshape(5, -1).T  # fmt: skip


def table(noise: float, seed: int = 0, rows: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """N, D and losses of Chinchilla's law with lognormal noise."""
    rng = np.random.default_rng(seed)
    N, D = 10 ** rng.uniform(7, 10, rows), 10 ** rng.uniform(9, 12, rows)
    loss = TRUTH["E"] + TRUTH["A"] * N ** -TRUTH["alpha"] + TRUTH["B"] * D ** -TRUTH["beta"]
    return N, D, loss * np.exp(noise * rng.normal(size=rows))


# --- the solver -------------------------------------------------------------------------------------------------------


def rosenbrock(x: jax.Array, centre: jax.Array, own: Any) -> jax.Array:
    return (centre - x[0]) ** 2 + 100.0 * (x[1] - x[0] ** 2) ** 2


def test_every_start_reaches_the_minimum() -> None:
    starts = np.random.default_rng(0).uniform(-2, 2, (40, 2))
    found = solve.minimise(rosenbrock, starts, np.float64(1.0))
    assert (found.status == solve.CONVERGED).all()
    np.testing.assert_allclose(found.x, 1.0, atol=1e-6)
    assert found.x.dtype == np.float64


def test_bounds_are_kept_and_bind() -> None:
    found = solve.minimise(rosenbrock, [[-1.0, 2.0], [0.3, 0.1]], np.float64(1.0), lower=[-2.0, -1.0], upper=[0.5, 2.0])
    assert (found.status == solve.CONVERGED).all()
    np.testing.assert_allclose(found.x, [[0.5, 0.25]] * 2, atol=1e-9)


def test_a_saddle_repels() -> None:
    def double_well(x: jax.Array, shared: Any, own: Any) -> jax.Array:
        return (x[0] ** 2 - 1) ** 2 + x[1] ** 2

    found = solve.minimise(double_well, [[1e-3, 1.0], [-1e-3, 1.0]])
    np.testing.assert_allclose(found.x, [[1.0, 0.0], [-1.0, 0.0]], atol=1e-6)


def test_no_status_is_silent() -> None:
    def cliff(x: jax.Array, shared: Any, own: Any) -> jax.Array:
        return jnp.where(x[0] > 5, jnp.nan, jnp.exp(-x[0]) + x[1] ** 4)

    found = solve.minimise(cliff, [[9.0, 0.0], [0.0, 3.0]], iterations=3)
    assert found.status.tolist() == [solve.NON_FINITE, solve.EXHAUSTED]
    assert found.value[0] == np.inf and np.isfinite(found.value[1])
    screened = solve.minimise(
        rosenbrock, np.array([[1.0, 1.1], [-9, 9], [-9, -9], [5, -9]]), np.float64(1.0), screen=solve.Screen(2, 1)
    )
    assert (screened.status == solve.ABANDONED).sum() == 3
    assert screened.status[0] == solve.CONVERGED


def test_a_step_lost_in_rounding_is_no_stall() -> None:
    def coarse(x: jax.Array, shared: Any, own: Any) -> jax.Array:
        return (1e3 + 1e-3 + (x[0] - 1) ** 2) - 1e3  # rounded to 1e-13, with an exact gradient

    def wall(x: jax.Array, shared: Any, own: Any) -> jax.Array:
        return jnp.where(x[0] < 1, jnp.nan, x[0] ** 2)

    assert solve.minimise(coarse, [[1 + 1e-7]]).status.tolist() == [solve.CONVERGED]
    found = solve.minimise(wall, [[3.0]])
    assert found.status.tolist() == [solve.STALLED]
    np.testing.assert_allclose(found.x, 1.0, atol=1e-9)


def test_problems_of_their_own_data() -> None:
    def bowl(x: jax.Array, shared: Any, own: jax.Array) -> jax.Array:
        return jnp.sum((x - own) ** 2 + (x - own) ** 4)

    centres = np.array([[1.0, 2.0], [-3.0, 0.0]])
    found = solve.minimise(bowl, np.zeros((4, 2)), None, centres, which=np.array([0, 1, 1, 0]))
    np.testing.assert_allclose(found.x, centres[[0, 1, 1, 0]], atol=1e-6)


def test_starts_have_a_shape() -> None:
    with pytest.raises(InputError, match=r"starts have shape \(2,\)"):
        solve.minimise(rosenbrock, np.zeros(2), np.float64(1.0))


# --- the fit ----------------------------------------------------------------------------------------------------------


def test_no_optimum_of_scipy_is_lower() -> None:
    N, D, loss = table(0.01)
    found = fit(N, D, loss, starts=COARSE)
    logs = np.log(N), np.log(D), np.log(loss)

    def objective(x: np.ndarray) -> float:  # a, alpha, b, beta, e: written out, without olm
        e, a, b, alpha, beta = x
        terms = [a - alpha * logs[0], b - beta * logs[1], np.full(60, e)]
        r = np.abs(np.logaddexp.reduce(terms, axis=0) - logs[2])
        return float(np.where(r <= 1e-3, r**2 / 2, 1e-3 * (r - 5e-4)).sum())

    def polished(x: np.ndarray) -> np.ndarray:
        for _ in range(4):
            x = optimize.minimize(objective, x, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-15, "maxiter": 4000}).x
        return x

    start = [*np.log([1.5, 300.0, 1500.0]), 0.33, 0.32]
    theirs = objective(polished(np.array(start)))
    mine = np.array([np.log(found.parameters[k]) for k in "EAB"] + [found.parameters["alpha"], found.parameters["beta"]])
    assert found.objective == pytest.approx(objective(mine), rel=1e-12)
    assert found.objective <= theirs * (1 + 1e-9)
    assert theirs == pytest.approx(found.objective, rel=1e-4)  # the simplex method gets there, but for its last digits
    assert objective(mine + np.array([0, 0, 0, 1e-3, 0])) > found.objective * (1 + 1e-4)  # and the comparison would see a miss


def test_screening_loses_nothing() -> None:
    for seed in range(3):
        rows = table(0.02, seed)
        screened = fit(*rows, starts=COARSE, screen=solve.Screen(iterations=20, keep=8))
        whole = fit(*rows, starts=COARSE, screen=None)
        assert screened.starts_summary["abandoned"] > 50 > whole.starts_summary["abandoned"] == 0
        assert screened.objective == pytest.approx(whole.objective, rel=1e-10)
        assert screened.parameters["beta"] == pytest.approx(whole.parameters["beta"], rel=1e-5)
        assert 1 <= screened.starts_summary["in_best_basin"] <= whole.starts_summary["in_best_basin"]


def test_without_noise_the_truth_comes_back() -> None:
    found = fit(*table(0.0), starts=COARSE)
    assert found.status == "converged" and found.message == ""
    assert found.parameters == pytest.approx(TRUTH, rel=1e-5)
    assert found.r2 == pytest.approx(1, abs=1e-10)


def test_float64_is_not_left_on() -> None:
    settings = dict(jax.config.values)
    before = jnp.ones(1).dtype
    found = fit(*table(0.01), starts=START, bootstrap=2, key=jax.random.key(0))
    found.interval(lambda p: p["alpha"] * 2)
    assert found.predict(1e9, 1e11).dtype == np.float64
    assert jnp.ones(1).dtype == before == jnp.float32
    assert dict(jax.config.values) == settings


def test_the_same_within_float64(x64: None) -> None:
    with jax.enable_x64(False):
        outside = fit(*table(0.01), starts=START)
    assert fit(*table(0.01), starts=START).parameters == outside.parameters


def test_a_second_table_compiles_nothing() -> None:
    traces = []

    def predict(p: Any, x: Any) -> jax.Array:
        traces.append(1)
        return p["E"] + p["A"] * x["N"] ** -0.5

    parameters = (Parameter("E", True, (0.0, 1.0), 1e-4, math.inf), Parameter("A", True, (3.0, 6.0), 1e-6, 1e30))
    law = Law("own", ("N",), parameters, predict, "here", "L = E + A/√N")
    sizes = np.geomspace(1e6, 1e9, 20)
    first = fit(sizes, loss=2 + 900 / np.sqrt(sizes), law=law)
    assert traces and first.parameters == pytest.approx({"E": 2.0, "A": 900.0}, rel=1e-6)
    traces.clear()
    second = fit(sizes, loss=3 + 500 / np.sqrt(sizes), law=law, huber=0.01)
    assert second.parameters == pytest.approx({"E": 3.0, "A": 500.0}, rel=1e-6)
    assert not traces


def test_weights_are_rows_repeated() -> None:
    N, D, loss = table(0.01)
    weights = np.arange(60) % 3
    weighted = fit(N, D, loss, weights=weights, starts=START)
    N, D, loss = (np.repeat(column, weights) for column in (N, D, loss))
    repeated = fit(N, D, loss, starts=START)
    assert weighted.objective == pytest.approx(repeated.objective, rel=1e-10)
    assert weighted.parameters == pytest.approx(repeated.parameters, rel=1e-5)
    assert weighted.rows == 40


def test_held_parameters_are_held() -> None:
    rows = table(0.01)
    found = fit(*rows, fixed={"alpha": 0.34, "E": 1.7}, starts=START)
    assert found.parameters["alpha"] == 0.34 and found.fixed == ("alpha", "E")
    assert found.intervals["alpha"] == pytest.approx((0.34, 0.34))
    free = fit(*rows, starts=START)
    width = [np.ptp(f.intervals["beta"]) for f in (found, free)]
    assert width[0] < width[1]
    assert found.objective > free.objective


def test_a_parameter_on_its_bound_is_named() -> None:
    rng = np.random.default_rng(0)
    N, D = 10 ** rng.uniform(7, 10, 60), 10 ** rng.uniform(9, 12, 60)
    loss = (50 * N**-0.2 + 30 * D**-0.15) * np.exp(
        0.002 * rng.normal(size=60)
    ) - 0.3  # falls below any power law: E would be negative
    found = fit(N, D, loss, starts=[[0.1, 50.0, 30.0, 0.2, 0.15]])
    assert found.at_bounds == ("E",)
    assert "on a bound, so without an interval, and taken as known by the others: E" in found.message and "on a bound" in str(
        found
    )
    assert np.isnan(found.intervals["E"]).all()
    assert np.isfinite(found.intervals["alpha"]).all()
    assert found.as_dict()["intervals"]["E"] == [None, None]


def test_what_rows_do_not_determine_is_named() -> None:
    N, D, loss = table(0.01)
    found = fit(N, D, loss, U=2 * D, law="data_constrained", fixed={**TRUTH, "R_N": 5.0})
    assert "the rows do not determine R_D" in found.message
    assert np.isnan(found.intervals["R_D"]).all()


def test_losses_below_a_fitted_floor_are_named() -> None:
    N, D, loss = table(0.0)
    loss[6] = 1.5
    found = fit(N, D, loss, starts=START)
    assert "row 7: loss 1.5 is not above the fitted E = 1.7" in found.message


# --- intervals --------------------------------------------------------------------------------------------------------


def test_score_scale() -> None:
    r = np.random.default_rng(0).normal(size=20_000) * 0.02
    variance = intervals.score_scale(r, math.inf, 4)
    assert variance == pytest.approx(np.sum(r**2) / (20_000 - 4), rel=1e-12)
    assert intervals.score_scale(r, 1.0, 4) == pytest.approx(variance, rel=1e-6)  # all within δ: least squares
    # far below the noise: the median, whose variance is π/2 times the mean's
    assert intervals.score_scale(r, 1e-5, 4) == pytest.approx(math.pi / 2 * variance, rel=0.12)
    # what counting |r| < δ would give at 200 rows is no estimate at all
    few = [r[i : i + 200] for i in range(0, 20_000, 200)]
    kernel = np.array([intervals.score_scale(part, 1e-4, 4) for part in few]) / variance
    counted = (
        np.array([np.mean(np.minimum(np.abs(p), 1e-4) ** 2) / max(np.mean(np.abs(p) < 1e-4), 1e-9) ** 2 for p in few]) / variance
    )
    assert 1.0 < np.median(kernel) / (math.pi / 2) < 1.25  # a kernel's bandwidth lowers the peak, which widens intervals
    assert kernel.std() < 0.5 and not counted.std() < 5


@pytest.mark.parametrize("huber", [1e-3, None])
def test_intervals_are_as_wide_as_repeated_draws_say(huber: float | None) -> None:
    """Standardised errors over 60 repeats have unit spread, and 95% intervals hold the truth in 88–100% of them."""
    scores, held = [], []
    true = {"alpha": TRUTH["alpha"], "beta": TRUTH["beta"], "optimal": optimum(TRUTH)}
    for seed in range(60):
        N, D, _ = table(0.0)
        loss = table(0.0)[2] * np.exp(0.01 * np.random.default_rng(seed).normal(size=60))
        found = fit(N, D, loss, starts=START, huber=huber)
        row, inside = [], []
        for name, value in true.items():
            estimate, low, high = found.interval(optimum if name == "optimal" else lambda p, name=name: p[name])
            row.append((estimate - value) / ((high - low) / 2 / intervals.quantile(0.95, 55)))
            inside.append(low <= value <= high)
        scores.append(row)
        held.append(inside)
    spread = np.std(scores, axis=0)
    assert ((spread > 0.75) & (spread < 1.3)).all(), spread
    assert (np.mean(held, axis=0) >= 0.88).all(), np.mean(held, axis=0)


def optimum(p: Any) -> Any:
    """ln of the compute-optimal N at 10²¹ FLOPs."""
    balance = jnp.log(p["alpha"] * p["A"] / (p["beta"] * p["B"]))
    return (balance + p["beta"] * jnp.log(1e21 / 6)) / (p["alpha"] + p["beta"])


def test_interval_of_a_function() -> None:
    found = fit(*table(0.01), starts=START)
    value, low, high = found.interval(lambda p: p["alpha"])
    assert (low, high) == pytest.approx(found.intervals["alpha"], rel=1e-9) and value == found.parameters["alpha"]
    assert found.interval(lambda p: p["A"], log=True)[1:] == pytest.approx(found.intervals["A"], rel=1e-9)
    # a sum's variance has the covariance in it
    _, low, high = found.interval(lambda p: p["alpha"] + p["beta"])
    se = (high - low) / 2 / intervals.quantile(0.95, 55)
    assert se**2 == pytest.approx(found.covariance[3:, 3:].sum(), rel=1e-9)
    with pytest.raises(InputError, match="no bootstrap"):
        found.interval(lambda p: p["alpha"], method="bootstrap")


def test_bootstrap_refits_resampled_rows() -> None:
    rows = table(0.01)
    key = jax.random.key(3)
    found = fit(*rows, starts=START, bootstrap=30, key=key)
    assert found.samples is not None and found.samples.shape == (30, 5) and found.bootstrap is not None
    assert found.bootstrap.failed == 0 and found.bootstrap.subset == 20
    draws = np.asarray(jax.random.randint(key, (30, 60), 0, 60, dtype=jnp.int32))
    again = fit(*(column[draws[7]] for column in rows), starts=START)
    assert found.samples[7] == pytest.approx(list(again.parameters.values()), rel=1e-4)
    assert found.bootstrap.objectives[7] == pytest.approx(again.objective, rel=1e-9)
    low, high = found.bootstrap_intervals["beta"]
    assert low < found.parameters["beta"] < high
    assert found.interval(lambda p: p["beta"], method="bootstrap")[1:] == pytest.approx((low, high), rel=1e-9)
    old = fit(*rows, starts=START, bootstrap=30, key=jax.random.PRNGKey(3))
    assert np.array_equal(old.samples, found.samples)


def test_groups_are_drawn_whole() -> None:
    N, D, loss = table(0.0)
    labels = np.repeat(np.arange(6), 10)
    loss = loss * np.exp(0.02 * np.random.default_rng(5).normal(size=6)[labels])  # runs differ, their checkpoints do not
    settings: dict[str, Any] = {"fixed": {k: TRUTH[k] for k in ("A", "B", "alpha", "beta")}, "huber": None}
    single = fit(N, D, loss, bootstrap=200, key=jax.random.key(0), **settings)
    whole = fit(N, D, loss, bootstrap=200, key=jax.random.key(0), groups=labels, **settings)
    spread = [np.log(f.samples[:, 0]).std() for f in (single, whole)]
    assert spread[1] / spread[0] == pytest.approx(math.sqrt(10), rel=0.2)  # ten times fewer independent rows
    with pytest.raises(InputError, match="one label for each of 60 rows"):
        fit(N, D, loss, starts=START, groups=[1, 2])


def two_wells() -> tuple[Law, np.ndarray, np.ndarray]:
    """A law with an optimum at either sign of its parameter, about as good as each other."""

    def predict(p: Any, x: Any) -> jax.Array:
        return 3.0 + (p["t"] ** 2 - 1) + 0.1 * p["t"] * x["v"]

    law = Law("wells", ("v",), (Parameter("t", False, (-2.0, 2.0), -9.0, 9.0),), predict, "here", "", None, "raw")
    v = np.random.default_rng(0).uniform(0.5, 1.5, 40)
    return law, v, 3.0 + 0.1 * np.where(np.arange(40) % 2 == 0, 1, -1) * v


def test_a_bootstrap_finds_the_other_basin() -> None:
    law, v, loss = two_wells()
    found = fit(v=v, loss=loss, law=law, bootstrap=60, key=jax.random.key(1))
    report, samples = found.bootstrap, found.samples
    assert report is not None and samples is not None
    assert 3 <= report.other_basin <= 17 and report.moved >= report.other_basin
    assert (samples > 0).any() and (samples < 0).any()
    assert (report.objectives <= report.warm_objectives).all() and (report.objectives < report.warm_objectives - 1e-3).any()
    # the least value over a fine grid, for every resampling
    draws = np.asarray(jax.random.randint(jax.random.key(1), (60, 40), 0, 40, dtype=jnp.int32))
    t = np.linspace(-2, 2, 4001)[:, None, None]
    values = 0.5 * np.sum((3 + t**2 - 1 + 0.1 * t * v[draws] - loss[draws]) ** 2, axis=-1).min(axis=0)
    np.testing.assert_allclose(report.objectives, values, rtol=1e-3)


# --- what comes back --------------------------------------------------------------------------------------------------


def test_a_fit_prints_and_saves() -> None:
    found = fit(*table(0.01), starts=START, bootstrap=2, key=jax.random.key(0), fixed={"alpha": 0.34})
    text = str(found)
    assert "L = E + A/N^α + B/D^β" in text and "1 starts, 1 converged" in text and "held" in text
    assert found._repr_html_().count("<tr>") == 6
    saved = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert saved["parameters"] == found.parameters and saved["starts"]["starts"] == 1
    assert saved["bootstrap"]["refits"] == 2 and saved["huber"] == 1e-3


def test_holdout_judges_rows_that_no_fit_saw() -> None:
    N, D, loss = table(0.002)
    held = holdout(N, D, loss, largest=0.2, starts=START)
    out = np.argsort(N * D)[-12:]
    assert sorted(row["row"] for row in held["rows"]) == sorted((out + 1).tolist())
    keep = np.setdiff1d(np.arange(60), out)
    alone = fit(N[keep], D[keep], loss[keep], starts=START)
    assert held["fit"].parameters == alone.parameters
    error = 100 * (alone.predict(N[out], D[out]) / loss[out] - 1)
    assert held["mean_absolute_percent"] == pytest.approx(np.abs(error).mean(), rel=1e-9)
    assert held["worst_percent"] == pytest.approx(np.abs(error).max()) and held["bias_percent"] == pytest.approx(error.mean())
    # rows held out cannot move the fit
    wrong = loss.copy()
    wrong[out] *= 2
    assert holdout(N, D, wrong, largest=0.2, starts=START)["fit"].parameters == alone.parameters
    mask = np.isin(np.arange(60), out)
    assert holdout(N, D, loss, largest=mask, starts=START)["rows"] == held["rows"]
    least = 6 * (N * D)[out].min()
    assert holdout(N, D, loss, largest=least, starts=START)["rows"] == held["rows"]
    with pytest.raises(InputError, match="no row is held out"):
        holdout(N, D, loss, largest=1e60, starts=START)
    with pytest.raises(InputError, match="mask of 3"):
        holdout(N, D, loss, largest=[1, 0, 1], starts=START)


# --- bad input --------------------------------------------------------------------------------------------------------


def spoilt(column: str, row: int, value: Any) -> dict[str, Any]:
    columns = dict(zip(("N", "D", "loss"), (list(c) for c in table(0.01)), strict=True))
    columns[column][row] = value
    return columns


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (spoilt("loss", 2, "n/a"), r"row 3, column loss: 'n/a' is no number"),
        (spoilt("N", 0, None), r"row 1, column N: None is no number"),
        (spoilt("D", 4, float("nan")), r"row 5, column D: nan is not finite"),
        (spoilt("loss", 9, -2.5), r"row 10, column loss: -2.5 is not above 0"),
        (spoilt("N", 1, 0), r"row 2, column N: 0 is not above 0"),
        ({"N": [1e8] * 4, "D": [1e9] * 4, "loss": [3] * 4}, r"4 rows for 5 parameters \(E, A, B, alpha, beta\)"),
        (
            {"N": [1e8] * 60},
            r"column N: every row has 1e\+08, which cannot tell .*A, alpha apart: add runs with other values of N",
        ),
        ({"D": [1e9] * 59}, r"columns differ in length \(N 60, D 59, loss 60\)"),
        (
            {"N": np.geomspace(0.07, 16, 60)},
            r"row 60, column N: is at most 16 parameters: give counts, not millions or billions",
        ),
        ({"D": np.geomspace(1, 300, 60)}, r"row 60, column D: is at most 300 tokens: give counts"),
        (
            {"N": np.geomspace(1e8, 1e10, 60), "D": np.geomspace(2e3, 2e5, 60)},
            r"D: is at most 200000 tokens, 2e-05 for",
        ),
        ({"loss": None}, "no loss given"),
        ({"D": None}, "chinchilla needs column D: give N, D and loss"),
        ({"fixed": {"gamma": 1.0}}, "fixed has 'gamma': the parameters of chinchilla are E, A, B, alpha, beta"),
        ({"fixed": {"E": -1.0}}, "fixed has E = -1.0: give a finite number above 0"),
        ({"fixed": {"E": 2.5}}, r"row \d+: loss \S+ is not above the irreducible E = 2.5: lower E"),
        ({"fixed": TRUTH}, "every parameter is fixed"),
        ({"starts": [[1.0, 2.0]]}, r"starts have shape \(1, 2\): give \[starts, 5\] values of E, A, B, alpha, beta"),
        ({"starts": [[0.0, 1.0, 1.0, 0.3, 0.3]]}, "start 1: E = 0: give a finite number above 0"),
        ({"bootstrap": 10}, "bootstrap needs key"),
        ({"bootstrap": -1}, "bootstrap is -1"),
        ({"level": 95}, "level is 95"),
        ({"huber": 0.0}, "huber is 0.0"),
        ({"residual": "square"}, "residual is 'square'"),
        ({"weights": -np.ones(60)}, "row 1, column weights"),
        ({"law": "chinchila"}, "did you mean 'chinchilla'"),
    ],
)
def test_bad_input_is_named(arguments: dict[str, Any], message: str) -> None:
    columns = dict(zip(("N", "D", "loss"), table(0.01), strict=True))
    with pytest.raises(InputError, match=message) as raised:
        fit(**{**columns, **arguments})
    assert "\n" not in str(raised.value)


def test_no_finite_start() -> None:
    def predict(p: Any, x: Any) -> jax.Array:
        return jnp.log(-p["E"]) + x["N"]

    law = Law("never", ("N",), (Parameter("E", True, (0.0,), 1e-4, 9.0),), predict, "here", "")
    with pytest.raises(DivergenceError, match="finite at no start"):
        fit([1e6, 1e7], loss=[3.0, 2.0], law=law)


def test_predict_asks_for_its_columns() -> None:
    found = fit(*table(0.01), starts=START)
    assert isinstance(found, Fit) and found.law == laws.chinchilla()
    with pytest.raises(InputError, match="chinchilla predicts from N, D: give D"):
        found.predict(1e9)
    assert problem.pose(laws.chinchilla(), dict(zip("ND", table(0.0)[:2], strict=True)), table(0.0)[2]).residual == "log"


def test_small_models_need_a_word_that_their_sizes_are_counts() -> None:
    N, D = np.repeat([2.0, 4.0, 8.0, 16.0, 32.0, 64.0], 10), np.tile(np.geomspace(1e4, 1e6, 10), 6)
    loss = 0.1 + N**-0.5 + 3 * D**-0.3
    with pytest.raises(InputError, match="check_units=False"):
        fit(N, D, loss)
    found = fit(N, D, loss, check_units=False)
    assert found.parameters["alpha"] == pytest.approx(0.5, abs=1e-4)


def test_one_row_in_another_unit() -> None:
    N, D, loss = table(0.01)
    few = D.copy()
    few[4] = 20.0
    with pytest.raises(InputError, match="row 5, column D: is 20 tokens, where the median row has"):
        fit(N, few, loss)
    N[2] = 0.4
    with pytest.raises(InputError, match=r"row 3, column N: is 0\.4 parameters, where the median row has"):
        fit(N, D, loss)


def test_holdout_speaks_of_the_rows_it_was_given() -> None:
    N, D, loss = table(0.0)
    order = np.argsort(N * D)[::-1]
    N, D, loss = N[order], D[order], loss[order]
    loss[len(N) - 1] = 1.0
    found = holdout(N, D, loss, largest=0.25, starts=START)["fit"]
    assert f"row {len(N)}: loss 1 is not above the fitted E" in found.message


def test_an_interval_over_everything_is_noted() -> None:
    N, D, loss = table(0.01)
    assert "hardly determined" not in fit(N, D, loss, starts=START).message
    D = 1e12 * (1 + 0.01 * np.arange(len(N)) / len(N))
    message = fit(N, D, loss, starts=START).message
    assert "hardly determined by these rows, with intervals over more than a millionfold: E, B" in message


def test_intervals_do_not_know_the_unit_of_weights() -> None:
    N, D, loss = table(0.01)
    weights = np.random.default_rng(1).uniform(0.2, 3.0, len(N))
    one, other = (fit(N, D, loss, starts=START, huber=None, weights=scale * weights) for scale in (1.0, 10.0))
    np.testing.assert_allclose(other.covariance, one.covariance, rtol=1e-5)
    # a row of weight 0 is as good as absent
    weights[::3] = 0
    some, rest = (
        fit(N, D, loss, starts=START, huber=None, weights=weights),
        fit(N[weights > 0], D[weights > 0], loss[weights > 0], starts=START, huber=None, weights=weights[weights > 0]),
    )
    np.testing.assert_allclose(some.covariance, rest.covariance, rtol=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"hubber": None}, "fit takes no 'hubber': did you mean huber"),
        ({"boostrap": 9}, "did you mean bootstrap"),
        ({"C": [1.0]}, "the columns of chinchilla are N, D"),
    ],
)
def test_what_fit_does_not_take_is_refused(words: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit(*table(0.01), **words)


def test_losses_that_are_all_equal_are_refused() -> None:
    N, D, loss = table(0.01)
    with pytest.raises(InputError, match="every row has loss 3"):
        fit(N, D, np.full_like(loss, 3.0))


def test_predict_takes_numbers_above_0() -> None:
    found = fit(*table(0.01), starts=START)
    with pytest.raises(InputError, match="column N: -1 is not above 0"):
        found.predict(-1, 1e9)
    with pytest.raises(InputError, match="lists of one length"):
        found.predict([1e8, 1e9], [1e9] * 3)
    with pytest.raises(InputError, match="give numbers"):
        found.predict("a", 1e9)


def test_whole_groups_are_held_by_the_runs_that_are_fitted() -> None:
    N, D = np.repeat([1e7, 3e7, 1e8, 3e8, 1e9], 5), np.tile(np.geomspace(1e9, 1e11, 5), 5)
    loss = (1.7 + 400 / N**0.34 + 400 / D**0.3) * np.exp(1e-3 * np.random.default_rng(0).normal(size=25))
    start = [[1.7, 400.0, 400.0, 0.34, 0.3]]
    held = holdout(N, D, loss, starts=start, groups=N, bootstrap=4, key=jax.random.key(0))
    assert held["fit"].samples.shape == (4, 5) and len(held["rows"]) == 5
    with pytest.raises(InputError, match="one label for each of 25 rows"):
        holdout(N, D, loss, starts=start, groups=N[:3])
