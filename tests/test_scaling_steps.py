"""L0 + (B/t)^β of single curves, and what one set of curves improves over another."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from olm.errors import InputError
from olm.scaling.sizes import improvement_over_sizes
from olm.scaling.steps import CORRELATION, LEAST_SQUARES, fit_steps, improvement, over_seeds, scatter, thinned

T = np.arange(1, 1001)


def law(
    B: float, beta: float, L0: float = 1.0, noise: float = 0.0, seed: int = 0, t: np.ndarray = T
) -> tuple[np.ndarray, np.ndarray]:
    """A curve of the law, with independent errors of relative size ``noise``."""
    errors = 1 + noise * np.random.default_rng(seed).standard_normal(len(t))
    return t, (L0 + (B / t) ** beta) * errors


@pytest.mark.parametrize("criterion", [CORRELATION, LEAST_SQUARES])
def test_both_criteria_find_the_law_that_made_the_curves(criterion: str) -> None:
    fit = fit_steps([law(300.0, 0.3), law(80.0, 0.4)], criterion=criterion)
    assert pytest.approx(1.0, abs=1e-5) == fit.L0
    assert pytest.approx((300.0, 80.0), rel=1e-3) == fit.B
    assert fit.beta == pytest.approx((0.3, 0.4), abs=1e-4)
    assert min(fit.r2) > 1 - 1e-8
    assert fit.criterion == criterion
    assert "L0" not in fit.on_bound
    assert fit.predict(T, 1) == pytest.approx(law(80.0, 0.4)[1], abs=1e-4)


def test_correlation_is_that_of_the_logarithms_beyond_t0() -> None:
    t, losses = law(300.0, 0.3, noise=0.01)
    fit = fit_steps([(t, losses)], t0=99, L0=0.5)
    line = stats.linregress(np.log(t[t > 99]), np.log(losses[t > 99] - 0.5))
    assert (fit.beta[0], fit.r2[0]) == pytest.approx((-line.slope, line.rvalue**2), rel=1e-9)
    assert np.log(fit.B[0]) == pytest.approx(line.intercept / -line.slope, rel=1e-9)
    assert (fit.t0, fit.L0) == (99, 0.5)


def test_the_chosen_pair_has_the_greatest_correlation() -> None:
    curves = [law(300.0, 0.3, noise=0.005), law(80.0, 0.4, noise=0.005, seed=1)]
    best = np.mean(np.sqrt(fit_steps(curves).r2))
    others = [fit_steps(curves, t0=t0, L0=L0) for t0 in (0, 10, 100, 240) for L0 in (0.0, 0.5, 0.9, 1.0, 1.1)]
    assert best >= max(np.mean(np.sqrt(other.r2)) for other in others) - 1e-4


def test_least_squares_is_least() -> None:
    curves = [law(300.0, 0.3, noise=0.02), law(80.0, 0.4, noise=0.02, seed=1)]

    def squares(fit) -> float:
        return sum(float(np.sum((fit.predict(t, c) - y)[t > fit.t0] ** 2)) for c, (t, y) in enumerate(curves))

    best, published = fit_steps(curves, criterion=LEAST_SQUARES), fit_steps(curves)
    assert best.t0 == published.t0
    assert squares(best) <= squares(published)
    for L0 in (0.6, 0.9, 1.0, 1.05):
        assert squares(best) <= squares(fit_steps(curves, criterion=LEAST_SQUARES, L0=L0, t0=best.t0)) * (1 + 1e-9)


def test_a_pure_power_law_is_reported_on_its_bound() -> None:
    assert "L0" in fit_steps([law(300.0, 0.3, L0=0.0)]).on_bound
    assert pytest.approx(0.0, abs=1e-6) == fit_steps([law(300.0, 0.3, L0=0.0)]).L0
    assert "L0" in fit_steps([law(300.0, 0.3, L0=0.0)], criterion=LEAST_SQUARES).on_bound


def test_the_published_coefficients_give_the_published_changes() -> None:
    base, mine = law(3.16e8, 0.12, 0.051, t=np.arange(1, 4001)), law(1.99e7, 0.14, 0.051, t=np.arange(1, 4001))
    found = improvement({0: base}, {0: mine}, L0=0.051)["runs"][0][CORRELATION]
    assert found["delta_B_percent"] == pytest.approx(93.7, abs=0.05)
    assert found["delta_beta_percent"] == pytest.approx(100 * (0.14 / 0.12 - 1), abs=1e-6)
    # Eq. 9 with the law's own coefficients is the crossing itself, where the two curves are the law.
    assert found["acceleration_predicted"] == pytest.approx(4000 / (1.99e7 / (3.16e8 / 4000) ** (0.12 / 0.14)), rel=1e-6)


def test_seeds_are_paired_and_summarised() -> None:
    base = {seed: law(300.0 * (1 + 0.1 * seed), 0.3) for seed in (0, 1, 2)}
    mine = {seed: law(75.0 * (1 + 0.1 * seed), 0.33) for seed in (2, 1, 0)}
    found = improvement(base, mine)
    assert [run["seed"] for run in found["runs"]] == [0, 1, 2]
    summary = found["summary"][CORRELATION]
    assert summary["delta_B_percent"]["mean"] == pytest.approx(75.0, abs=0.1)
    assert summary["delta_B_percent"]["low"] <= summary["delta_B_percent"]["mean"] <= summary["delta_B_percent"]["high"]
    assert summary["delta_beta_percent"]["mean"] == pytest.approx(10.0, abs=0.05)
    assert found["summary"]["measured"]["acceleration"]["mean"] > 4
    assert improvement({0: base[0]}, {7: mine[0]})["summary"][CORRELATION]["delta_B_percent"]["low"] is None


def test_curves_logged_at_other_steps_are_compared_where_both_run() -> None:
    base, mine = law(300.0, 0.3), law(75.0, 0.33)
    rare = tuple(x[9::10] for x in mine)
    whole, thin = (improvement({0: base}, {0: m})["runs"][0]["measured"] for m in (mine, rare))
    assert thin["acceleration"] == pytest.approx(whole["acceleration"], rel=0.05)
    assert thin["final_ratio"] == pytest.approx(whole["final_ratio"], rel=1e-6)


@pytest.mark.parametrize(
    ("curve", "complaint"),
    [
        ((T, np.r_[T[:-1] * 1.0, -1.0]), "loss -1 at step 1000"),
        ((T, np.r_[np.nan, np.ones(999)]), "loss nan at step 1:"),
        ((T[::-1], np.ones(1000)), "steps must rise"),
        ((T[:5], np.ones(5)), "at least 8"),
        ((T, np.ones(7)), "one length"),
    ],
)
def test_bad_curves_are_named(curve: tuple[np.ndarray, np.ndarray], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        fit_steps([curve])


def test_bad_settings_are_named() -> None:
    for settings, complaint in (
        ({"criterion": "best"}, "choose"),
        ({"latest_share": 1.0}, "between 0 and 1"),
        ({"latest_share": 0.0}, "between 0 and 1"),
        ({"L0": 5.0}, "not below the least loss"),
        ({"L0": -1.0}, "at least 0"),
        ({"t0": 998}, "fewer than 8 steps"),
    ):
        with pytest.raises(InputError, match=complaint):
            fit_steps([law(300.0, 0.3)], **settings)
        if "criterion" not in settings:
            with pytest.raises(InputError, match=complaint):
                improvement({0: law(300.0, 0.3)}, {0: law(100.0, 0.3)}, **settings)
    with pytest.raises(InputError, match="no curve"):
        fit_steps([])
    with pytest.raises(InputError, match="no seed is in both"):
        improvement({0: law(1.0, 1.0), 1: law(1.0, 1.0)}, {2: law(1.0, 1.0)})
    with pytest.raises(InputError, match="no steps in common"):
        improvement({0: law(3.0, 0.5)}, {0: law(3.0, 0.5, t=T + 2000)})


def test_intervals_over_seeds() -> None:
    x = np.array([1.0, 2.0, 4.0])
    found = over_seeds(x)
    low, high = stats.t.interval(0.95, 2, x.mean(), stats.sem(x))
    assert (found["low"], found["high"]) == pytest.approx((low, high))
    assert over_seeds(x, geometric=True)["mean"] == pytest.approx(2.0)
    assert over_seeds([0.0, 1.0], geometric=True)["mean"] == 0.0
    for bad, geometric in (([], False), ([-1.0, 1.0], True)):
        with pytest.raises(InputError, match="at least one value"):
            over_seeds(bad, geometric=geometric)


def test_thinned_curves_keep_their_last_step() -> None:
    steps, losses = thinned(np.arange(1001), np.arange(1001) * 2.0, 20)
    assert steps[0] == 1 and steps[-1] == 1000 and len(steps) <= 20
    assert np.array_equal(losses, 2 * steps)


def test_a_curve_that_does_not_fall_has_no_change_of_coefficients() -> None:
    rising = T, 2 + (T / 300) ** 0.5
    found = improvement({0: law(300.0, 0.3), 1: law(300.0, 0.3)}, {0: rising, 1: law(100.0, 0.3)})
    for criterion in (CORRELATION, LEAST_SQUARES):
        run = found["runs"][0][criterion]
        assert run["beta_mine"] < 0 and "beta" in run["on_bound"]
        assert np.isnan([run[name] for name in ("delta_B_percent", "delta_beta_percent", "acceleration_predicted")]).all()
        assert np.isnan(found["summary"][criterion]["delta_B_percent"]["mean"])
        assert np.isfinite(found["runs"][1][criterion]["delta_B_percent"])


def test_the_data_term_over_sizes_is_compared_in_tokens() -> None:
    """B/D^β = (D_c/D)^β: with another β the B of two sides have different units, their D_c have not."""

    def curves(D_c: float, beta: float) -> dict[float, dict[int, tuple[np.ndarray, np.ndarray]]]:
        steps = np.arange(1, 300)
        return {N: {0: (steps, 1.0 + (1e4 / N) ** 0.5 + (D_c / (64 * steps)) ** beta)} for N in (2e4, 5e4, 1e5, 3e5)}

    found = improvement_over_sizes(curves(8e3, 0.4), curves(2e3, 0.5), tokens_per_step=64, E=1.0)
    ratios = {name: value["mean"] for name, value in found["summary"].items() if name.startswith("chinchilla")}
    assert ratios == pytest.approx({"chinchilla_D_c_ratio": 0.25, "chinchilla_beta_ratio": 1.25}, rel=1e-3)
    assert found["runs"][0]["chinchilla_mine"]["B"] == pytest.approx(2e3**0.5, rel=1e-2)


def test_a_tail_without_a_fall_does_not_win_the_greatest_correlation() -> None:
    """Rounded losses are all equal from some step on, where r is 0/0 or, by rounding, infinite."""
    t = np.arange(1.0, 401.0)
    fit = fit_steps([(t, np.round(2 + (B / t) ** 1.5, 1)) for B in (5.0, 3.0)])
    assert all(0 < r2 <= 1 for r2 in fit.r2) and all(0 < B < np.inf for B in fit.B) and min(fit.beta) > 0.1


def test_a_curve_that_does_not_fall_has_no_change() -> None:
    t = np.arange(1.0, 401.0)
    found = improvement({0: (t, 2 + (50 / t) ** 0.5)}, {0: (t, np.full(400, 2.5))})["runs"][0]
    for criterion in (CORRELATION, LEAST_SQUARES):
        assert "beta" in found[criterion]["on_bound"] and np.isnan(found[criterion]["delta_B_percent"])


def test_the_steps_that_were_compared_are_named() -> None:
    t = np.arange(1.0, 1001.0)
    found = improvement({0: (t, 2 + (100 / t) ** 0.5)}, {0: (t[:500], 2 + (40 / t[:500]) ** 0.6)})["runs"][0]
    assert found["steps"] == {"first": 1.0, "last": 500.0, "base": [1.0, 1000.0], "mine": [1.0, 500.0]}
    with pytest.raises(InputError, match="t0 = -5"):
        fit_steps([(t, 2 + (100 / t) ** 0.5)], t0=-5)


def test_what_is_measured_is_measured_by_hand() -> None:
    """A baseline that rises at its end, and a curve that crosses its last loss, comes back and crosses it again."""
    t = np.arange(1.0, 13.0)
    base = np.array([9, 8, 7, 6, 5, 4, 3, 2, 1, 1.5, 3, 3])
    mine = np.array([9, 5, 3, 4, 4, 2, 2, 1, 0.5, 0.5, 0.5, 0.5])
    measured = improvement({0: (t, base)}, {0: (t, mine)}, t0=0, L0=0.0)["runs"][0]["measured"]
    area = [sum((y[i] + y[i + 1]) / 2 for i in range(11)) for y in (base, mine)]
    assert measured == pytest.approx(
        {
            "acceleration": 12 / 6,
            "acceleration_first": 12 / 3,
            "acceleration_least": 9 / 8,
            "acceleration_of_baseline": 12 / 7,
            "area_ratio": area[1] / area[0],
            "final_ratio": 0.5 / 3,
        }
    )


def test_t0_is_chosen_where_the_law_begins() -> None:
    def late(B: float) -> tuple[np.ndarray, np.ndarray]:
        t, losses = law(B, 0.5)
        return t, np.where(t < 100, losses[99] + 0.002 * (100 - t), losses)  # a straight line before

    for latest_share, on_bound in ((0.25, False), (0.05, True)):
        fit = fit_steps([late(300.0), late(80.0)], latest_share=latest_share)
        assert ("t0" in fit.on_bound) == on_bound
        if not on_bound:
            assert 90 <= fit.t0 <= 250 and pytest.approx((300.0, 80.0), rel=1e-3) == fit.B
        else:
            assert fit.t0 == pytest.approx(50) and pytest.approx((300.0, 80.0), rel=0.05) != fit.B


def test_ratios_are_averaged_as_ratios() -> None:
    base = {seed: law(100.0, 0.5, t=T.astype(float)) for seed in (0, 1)}
    mine = {0: law(25.0, 0.5), 1: law(100.0, 0.5)}
    summary = improvement(base, mine)["summary"]
    assert summary[CORRELATION]["B_ratio"]["mean"] == pytest.approx(0.5, rel=1e-3)
    assert summary[CORRELATION]["delta_B_percent"]["mean"] == pytest.approx(50, abs=0.1)
    assert summary["measured"]["acceleration"]["mean"] == pytest.approx(2, rel=5e-3)
    assert summary["measured"]["acceleration"]["geometric"] and summary["measured"]["area_ratio"]["geometric"]


def test_scatter_is_that_of_independent_errors_on_any_steps() -> None:
    rng = np.random.default_rng(0)
    for steps in (T, np.unique(np.geomspace(1, 1e5, 400).round())):
        smooth = 2 + (20 / steps) ** 0.5
        assert scatter(smooth, steps)["scatter"] < 1e-3
        found = scatter(smooth + 0.02 * rng.standard_normal(len(steps)), steps)
        assert found["scatter"] == pytest.approx(0.02, rel=0.15)
        assert scatter(smooth + 0.02 * rng.standard_normal(len(steps)), steps)["rise"] == 0
        assert scatter(smooth + 0.5 * (steps / steps[-1]) ** 2, steps)["rise"] > 0.1
    line = scatter(5 - 0.001 * T, T)
    assert line["late_fall"] == pytest.approx(0.0999, rel=1e-6) and line["scatter"] < 1e-12


def test_a_baseline_with_no_record_where_both_run_is_compared() -> None:
    coarse, fine = np.arange(1.0, 1000.0, 100.0), np.arange(110.0, 190.0)
    found = improvement({0: (coarse, 2 + (50 / coarse) ** 0.5)}, {0: (fine, 2 + (20 / fine) ** 0.5)}, t0=0)["runs"][0]
    assert found["steps"]["first"] == 110 and found["scatter"]["rise"] == 0 and np.isnan(found["scatter"]["scatter"])


def test_laws_over_sizes_leave_out_how_runs_begin() -> None:
    def curves(S_c: float) -> dict[float, dict[int, tuple[np.ndarray, np.ndarray]]]:
        found = {}
        for N in (2e4, 5e4, 1e5, 3e5):
            losses = (1e4 / N) ** 0.5 + (S_c / T) ** 0.7
            found[N] = {0: (T, np.where(T < 100, losses[99] + 0.5, losses))}  # a plateau before
        return found

    late, whole = (
        improvement_over_sizes(curves(400.0), curves(100.0), from_share=share)["summary"]["kaplan_ns_S_c_ratio"]["mean"]
        for share in (0.1, 0.0)
    )
    assert late == pytest.approx(0.25, rel=1e-3) and abs(whole - 0.25) > 0.01
