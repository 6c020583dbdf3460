"""Laws of whole loss curves: schedules, the laws against sums written out, recovery, scores, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from olm.errors import InputError
from olm.scaling.curves import (
    LossCurve,
    annealing,
    fit_curves,
    leave_one_out,
    multi_power,
    predict_curve,
    rates_from_log,
    schedule,
    score,
)

POWER = {"L0": 2.5, "A": 0.6, "alpha": 0.5, "B": 20.0, "C": 2.0, "beta": 0.6, "gamma": 0.6}
ANNEAL = {"L0": 2.5, "A": 0.6, "alpha": 0.5, "C": 0.5}
FOUR = {"C": 2.0, "beta": 0.6, "gamma": 0.6}


def plan(name: str, steps: int = 400) -> np.ndarray:
    return schedule(name, steps, 0.01, end=0.001, warmup=20, decay_from=250)


def curve(name: str, law: Any, truth: dict[str, float], noise: float = 0.0, seed: int = 0, steps: int = 400) -> LossCurve:
    at, rates = np.arange(30, steps, 10), plan(name, steps)
    clean = predict_curve(law, LossCurve(at, np.ones(len(at)), rates), truth)
    return LossCurve(at, clean * np.exp(noise * np.random.default_rng(seed).normal(size=len(at))), rates, name)


# --- schedules --------------------------------------------------------------------------------------------------------


def test_schedules_hold_their_convention() -> None:
    for name in ("constant", "cosine", "wsd", "wsd_linear", "wsd_constant"):
        rates = plan(name)
        assert rates.shape == (401,)
        assert rates[:20].tolist() == np.linspace(0, 0.01, 20).tolist() and rates[20] == pytest.approx(0.01)
        assert rates[-1] == pytest.approx(0.01 if name == "constant" else 0.001)
        assert (np.diff(rates[20:]) <= 1e-18).all()
    assert plan("cosine")[210] == pytest.approx(0.0055)  # half-way between peak and end
    assert plan("wsd")[325] == pytest.approx(np.sqrt(0.01 * 0.001)) and plan("wsd_linear")[325] == pytest.approx(0.0055)
    assert plan("wsd")[250] == pytest.approx(0.01) and plan("wsd_constant")[249:251].tolist() == [0.01, 0.001]


def test_rates_are_rebuilt_from_what_was_logged() -> None:
    for name in ("constant", "cosine", "wsd_linear", "wsd_constant"):
        rates = plan(name)
        at = np.arange(30, 401, 10)
        again = rates_from_log(at, rates[at], 20)
        assert again == pytest.approx(rates, abs=2e-5 if name == "cosine" else 1e-12), name
    # A jump comes at the later step whole; without the rule half of its interval would be a ramp.
    assert rates_from_log([0, 2, 4, 6, 8], [4, 4, 4, 1, 1.0]).tolist() == [4, 4, 4, 4, 4, 4, 1, 1, 1]
    assert rates_from_log([0, 2, 4, 6], [4, 4, 2, 1.0]).tolist() == [4, 4, 4, 3, 2, 1.5, 1]
    assert rates_from_log([4, 5], [1.0, 1.0]).tolist() == [*np.linspace(0, 1, 4), 1, 1]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: schedule("linear", 10, 1.0), "unknown schedule 'linear'"),
        (lambda: schedule("cosine", 10, 1.0), "needs a last rate"),
        (lambda: schedule("wsd", 10, 1.0, end=0.0, decay_from=5), "never reaches"),
        (lambda: schedule("wsd", 10, 1.0, end=0.1), "decay_from is None"),
        (lambda: schedule("wsd", 10, 1.0, end=0.1, decay_from=10), "begin earlier"),
        (lambda: schedule("constant", 10, 1.0, warmup=11), "does not fit"),
        (lambda: schedule("constant", 10, 0.0), "positive rate"),
        (lambda: rates_from_log([2, 1], [1, 1]), "increase"),
        (lambda: rates_from_log([5, 6], [1, 1], 6), "inside a warm-up"),
        (lambda: rates_from_log([5, 6], [1, -1]), "step 6 is negative"),
        (lambda: LossCurve([1, 2], [1.0], [1, 1, 1]), "2 steps and 1 losses"),
        (lambda: LossCurve([1, 3], [1.0, 1.0], [1, 1, 1]), "step 3 has no rate"),
        (lambda: LossCurve([1, 2], [1.0, -1.0], [1, 1, 1], "run"), "run: the loss at step 2 is -1"),
        (lambda: LossCurve([1, 2], [1.0, np.nan], [1, 1, 1]), "hold nan at place 1"),
        (lambda: LossCurve([2, 1], [1.0, 1.0], [1, 1, 1]), "increase"),
        (lambda: LossCurve([0, 1], [1.0, 1.0], [0, 1, 1]), "not all zero before"),
        (lambda: annealing(1.0), "lam is 1.0"),
        (lambda: fit_curves([]), "no curve"),
        (lambda: fit_curves([curve("constant", annealing(), ANNEAL)]), "no curve's rate falls"),
        (lambda: fit_curves([curve("cosine", annealing(), ANNEAL)], "power"), "law is 'power'"),
        (lambda: leave_one_out([curve("cosine", annealing(), ANNEAL)]), "at least two"),
        (lambda: predict_curve("annealing", curve("cosine", annealing(), ANNEAL), {"L0": 1.0}), "needs its parameters"),
    ],
)  # fmt: skip
def test_what_makes_no_curve_is_refused(call: Any, words: str) -> None:
    with pytest.raises(InputError) as error:
        call()
    assert words in str(error.value)


# --- the laws ---------------------------------------------------------------------------------------------------------


def written_out(truth: dict[str, float], rates: np.ndarray, at: np.ndarray) -> list[float]:
    """The multi-power law term by term."""
    losses = []
    for t in at:
        gain = 0.0
        for k in range(1, t + 1):
            if rates[k] != rates[k - 1]:
                x = rates[k] ** -truth["gamma"] * rates[k : t + 1].sum()
                gain += (rates[k - 1] - rates[k]) * (1 - (1 + truth["C"] * x) ** -truth["beta"])
        losses.append(truth["L0"] + truth["A"] * rates[: t + 1].sum() ** -truth["alpha"] - truth["B"] * gain)
    return losses


@pytest.mark.parametrize("name", ["cosine", "wsd_constant"])
def test_the_multi_power_law_is_its_sum_written_out(name: str) -> None:
    at, rates = np.array([1, 19, 100, 251, 400]), plan(name)
    predicted = predict_curve(multi_power(), LossCurve(at, np.ones(5), rates), POWER)
    assert predicted == pytest.approx(written_out(POWER, rates, at), rel=1e-13)


def test_long_sums_run_in_blocks_and_agree() -> None:
    """More changes of the rate than one block holds."""
    rates = schedule("cosine", 2600, 0.01, end=0.001, warmup=20)
    at = np.array([30, 1500, 2600])
    predicted = predict_curve(multi_power(), LossCurve(at, np.ones(3), rates), POWER)
    assert predicted == pytest.approx(written_out(POWER, rates, at), rel=1e-12)


@pytest.mark.parametrize("warmup", [True, False])
def test_the_annealing_law_is_its_recursion(warmup: bool) -> None:
    rates, at = plan("wsd"), np.array([30, 255, 400])
    momentum, area, gains = 0.0, 0.0, []
    for k in range(1, 401):
        change = rates[k - 1] - rates[k] if warmup or k > 20 else 0.0
        momentum = 0.99 * momentum + change
        area += momentum
        if k in at:
            gains.append(area)
    expected = 2.5 + 0.6 * np.cumsum(rates)[at] ** -0.5 - 0.5 * np.array(gains)
    blank = LossCurve(at, np.ones(3), rates)
    assert predict_curve(annealing(0.99, warmup=warmup), blank, ANNEAL) == pytest.approx(expected, rel=1e-12)
    # λ as a parameter: the closed form of the recursion.
    free = predict_curve(annealing(None, warmup=warmup), blank, {**ANNEAL, "memory": 100.0})
    assert free == pytest.approx(expected, rel=1e-10)


def test_a_rate_that_ends_at_zero_has_a_finite_loss() -> None:
    rates = schedule("wsd_linear", 100, 0.01, end=0.0, warmup=5, decay_from=50)
    at = np.array([60, 99, 100])
    losses = predict_curve(multi_power(), LossCurve(at, np.ones(3), rates), POWER)
    nearly = predict_curve(multi_power(), LossCurve(at, np.ones(3), np.maximum(rates, 1e-12)), POWER)
    assert np.isfinite(losses).all() and losses == pytest.approx(nearly, abs=1e-6)


# --- fits -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exact() -> list[LossCurve]:
    return [curve(name, multi_power(), POWER) for name in ("constant", "cosine", "wsd_constant")]


def test_all_seven_parameters_are_recovered_without_noise(exact: list[LossCurve]) -> None:
    found = fit_curves(exact, "multi_power")
    assert found.status == "converged" and found.objective < 1e-12
    assert found.parameters == pytest.approx(POWER, rel=2e-3)
    assert found.starts_summary["starts"] == 8 and found.starts_summary["in_best_basin"] >= 1
    unseen = [curve(name, multi_power(), POWER, steps=800) for name in ("wsd", "wsd_linear")]
    assert score(found, unseen).mean["worst_e"] < 1e-5


def test_noise_is_fitted_to_its_level_and_held_parameters_stay() -> None:
    curves = [curve(name, multi_power(), POWER, 0.01, seed) for seed, name in enumerate(("constant", "cosine", "wsd_constant"))]
    found = fit_curves(curves, fixed=FOUR)
    assert found.residual_scale == pytest.approx(0.01, rel=0.2)
    assert {name: found.parameters[name] for name in FOUR} == FOUR and set(found.fixed) == set(FOUR)
    for name in ("L0", "A", "alpha", "B"):
        low, high = found.intervals[name]
        assert low - 0.5 * (high - low) < POWER[name] < high + 0.5 * (high - low), name
    looser = fit_curves(curves, fixed=FOUR, huber=None)
    assert looser.objective > found.objective and looser.parameters["L0"] == pytest.approx(2.5, abs=0.05)


def test_the_reported_optimum_is_one(exact: list[LossCurve]) -> None:
    """No small move of any parameter lowers the objective, on the exact sum rather than on the one that compares starts."""
    noisy = [LossCurve(c.steps, c.losses * (1 + 0.01 * np.sin(np.arange(len(c.steps)))), c.rates, c.name) for c in exact]
    found = fit_curves(noisy, fixed={"gamma": 0.6})

    def objective(parameters: dict[str, float]) -> float:
        rest = np.concatenate([np.log(predict_curve(found, c, parameters)) - np.log(c.losses) for c in noisy])
        inside = np.minimum(np.abs(rest), 1e-3)
        return float(np.sum(inside * (np.abs(rest) - inside / 2)))

    assert objective(found.parameters) == pytest.approx(found.objective, rel=1e-9)
    for name, value in found.parameters.items():
        for factor in (0.999, 1.001):
            if name != "gamma":
                assert objective({**found.parameters, name: value * factor}) > found.objective, name


def test_the_momentum_of_annealing_can_be_fitted() -> None:
    curves = [curve(name, annealing(None), {**ANNEAL, "memory": 50.0}) for name in ("cosine", "wsd_constant")]
    found = fit_curves(curves, annealing(None))
    assert found.parameters == pytest.approx({**ANNEAL, "memory": 50.0}, rel=1e-3)
    # With the wrong memory held the curves cannot be met.
    assert fit_curves(curves, annealing(0.5)).objective > 1e3 * found.objective


def test_scores_are_means_over_curves_and_leaving_out_is_honest(exact: list[LossCurve]) -> None:
    scores = score(multi_power(), exact, {**POWER, "L0": 2.6})
    assert [row["name"] for row in scores.rows] == ["constant", "cosine", "wsd_constant"]
    for row, one in zip(scores.rows, exact, strict=True):
        assert row["mae"] == pytest.approx(0.1) and row["rmse"] == pytest.approx(0.1)
        assert row["worst_e"] == pytest.approx(0.1 / one.losses.min())
        assert row["r2"] == pytest.approx(1 - 0.01 / one.losses.var())
    assert scores.mean["pred_e"] == pytest.approx(np.mean([row["pred_e"] for row in scores.rows]))
    shifted = [*exact[:2], LossCurve(exact[2].steps, exact[2].losses + 0.3, exact[2].rates, "odd")]
    left_out = leave_one_out(shifted, fixed=FOUR)
    # The odd curve is foretold from the others, hence by its whole shift; the fit with it would hide part of that.
    assert left_out.rows[2]["mae"] == pytest.approx(0.3, rel=0.02)


def test_a_fit_belongs_to_its_curves(exact: list[LossCurve]) -> None:
    found = fit_curves(exact[1], fixed=FOUR)
    again = found.predict(curve=np.zeros(len(exact[1].steps)), step=exact[1].steps)
    assert again == pytest.approx(predict_curve(found, exact[1]), rel=1e-12)
    with pytest.raises(InputError, match="predict other curves with"):
        found.predict(curve=[0.0], step=[1.0])
