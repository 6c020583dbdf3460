"""Compute: conventions of counting, budgets under a law by closed form and by search, and the two approaches without a law."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from olm.errors import InputError
from olm.scaling import laws
from olm.scaling.compute import allocate, envelope, isoflop, power_law, training_flops, transformer_flops
from olm.scaling.fit import Fit, fit

# Hoffmann et al. 2022: the unrounded constants of Approach 3, from the source of the paper.
CHINCHILLA = {"E": np.exp(0.5267228), "A": np.exp(6.0073404), "B": np.exp(6.0179186), "alpha": 0.33917084, "beta": 0.2849083}
SYMMETRIC = {"E": 1.7, "A": 400.0, "B": 800.0, "alpha": 0.3, "beta": 0.3}


def table(parameters: dict[str, float], noise: float = 0.0, rows: int = 48) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    N, D = 10 ** rng.uniform(7, 10, rows), 10 ** rng.uniform(9, 12, rows)
    loss = np.asarray(laws.chinchilla().predict(parameters, {"N": N, "D": D}), np.float64)
    return N, D, loss * np.exp(noise * rng.normal(size=rows))


def fitted(parameters: dict[str, float], noise: float = 0.0, **settings: Any) -> Fit:
    N, D, loss = table(parameters, noise)
    return fit(N, D, loss, starts=[[parameters[p.name] for p in laws.chinchilla().parameters]], **settings)


@pytest.fixture(scope="module")
def noisy() -> Fit:
    return fitted(CHINCHILLA, 0.01, bootstrap=60, key=jax.random.key(0))


# --- counting ---------------------------------------------------------------------------------------------------------


def test_training_flops_follow_each_convention() -> None:
    assert training_flops(7e10, 1.4e12) == pytest.approx(5.88e23)
    assert training_flops(1e9, 1e9, embedding=1e8) == pytest.approx(6 * 0.9e18)
    assert training_flops(1e9, 1e9, n_layer=2, n_ctx=3, d_attn=5) == pytest.approx(6 * (1e9 + 2 * 3 * 5) * 1e9, rel=1e-15)
    with pytest.raises(InputError, match="all three"):
        training_flops(1e9, 1e9, n_layer=2)
    with pytest.raises(InputError, match="embeddings in"):
        training_flops(1e8, 1e9, embedding=1e8)


def test_product_by_product_count_approaches_six_n_d() -> None:
    """For wide models the attention over the context and the embedding's look-up are small beside the weights' products."""
    d, layers, vocabulary = 16384, 80, 32000
    N = layers * 12 * d**2 + vocabulary * d
    flops = transformer_flops(1e9, n_layer=layers, d_model=d, d_ff=4 * d, n_ctx=512, vocabulary=vocabulary)
    assert flops / training_flops(N, 1e9) == pytest.approx(1, abs=0.01)
    # Its layers' part is exactly that of the other count with the quadratic term, whose causal half is not taken off.
    both = transformer_flops(1e9, n_layer=2, d_model=64, d_ff=256, n_ctx=128, vocabulary=1, n_heads=0)
    assert both == pytest.approx(float(training_flops(2 * 12 * 64**2, 1e9, n_layer=2, n_ctx=2 * 128, d_attn=64)) + 3e9 * 4 * 64)


# --- allocation -------------------------------------------------------------------------------------------------------


def test_the_closed_form_is_the_minimum_that_a_search_finds(noisy: Fit) -> None:
    budgets = [1e18, 5.76e23, 1e27]
    closed, searched = allocate(noisy, budgets), allocate(noisy, budgets, closed_form=False)
    for name in ("N", "D", "loss"):
        assert getattr(searched, name) == pytest.approx(getattr(closed, name), rel=1e-9)
        # The search's derivative is the implicit function's, so that its intervals agree, too.
        assert searched.intervals[name] == pytest.approx(closed.intervals[name], rel=1e-6)
        assert searched.bootstrap is not None and closed.bootstrap is not None
        assert searched.bootstrap[name] == pytest.approx(closed.bootstrap[name], rel=1e-8)
    assert pytest.approx(budgets, rel=1e-12) == 6 * closed.N * closed.D
    for factor in (0.98, 1.02):
        elsewhere = noisy.predict(closed.N * factor, closed.D / factor)
        assert (elsewhere > closed.loss).all()


def test_intervals_hold_the_truth_and_the_two_kinds_agree(noisy: Fit) -> None:
    found, truth = allocate(noisy, [1e21]), allocate(fitted(CHINCHILLA), [1e21])
    assert found.bootstrap is not None
    for name in ("N", "D", "loss"):
        for low, high in (found.intervals[name][0], found.bootstrap[name][0]):
            assert low < getattr(truth, name)[0] < high
        widths = [np.log(high / low) for low, high in (found.intervals[name][0], found.bootstrap[name][0])]
        assert 0.4 < widths[0] / widths[1] < 2.5
    row = found.rows()[0]
    assert row["N_low"] < row["N"] < row["N_high"] and row["flops"] == 1e21 and "D_bootstrap_high" in row


def test_published_constants_give_their_exponents_and_chinchilla_itself() -> None:
    found = allocate(fitted(CHINCHILLA), [5.76e23, 5.76e24])
    exponent = np.log10(found.N[1] / found.N[0])
    assert exponent == pytest.approx(0.2849083 / (0.33917084 + 0.2849083), abs=1e-5)
    assert round(float(exponent), 2) == 0.46 and round(float(np.log10(found.D[1] / found.D[0])), 2) == 0.54
    # Approach 3 asks for a smaller model on more tokens than the 70 billion and 1.4 trillion that were trained.
    assert found.N[0] == pytest.approx(4.05e10, rel=0.01) and found.D[0] == pytest.approx(2.37e12, rel=0.01)


def test_equal_exponents_share_a_budget_equally() -> None:
    found = allocate(fitted(SYMMETRIC), np.geomspace(1e18, 1e24, 4))
    assert power_law(found.flops, found.N).exponent == pytest.approx(0.5, abs=1e-6)
    assert power_law(found.flops, found.D).exponent == pytest.approx(0.5, abs=1e-6)
    # αA/N^α = βB/D^β at the optimum.
    assert pytest.approx(2.0, rel=1e-5) == (found.D / found.N) ** 0.3


def test_other_laws_and_columns_are_searched() -> None:
    N, D, _ = table(SYMMETRIC)
    U = np.full_like(D, 2e10)
    law = laws.data_constrained()
    truth = {**SYMMETRIC, "R_D": 15.0, "R_N": 5.0}
    loss = np.asarray(law.predict(truth, {"N": N, "D": D, "U": U}), np.float64)
    found = fit(N, D, loss, U=U, law=law, fixed={"R_D": 15.0, "R_N": 5.0}, starts=[[truth[p.name] for p in law.parameters]])
    free, repeated = (allocate(found, [1e23], U=unique) for unique in (1e14, 1e10))
    assert pytest.approx(allocate(fitted(SYMMETRIC), [1e23]).D, rel=1e-4) == free.D
    assert repeated.loss > free.loss
    with pytest.raises(InputError, match="needs a value of U"):
        allocate(found, 1e23)
    with pytest.raises(InputError, match="no closed form"):
        allocate(found, 1e23, closed_form=True, U=1e10)


def test_what_cannot_be_allocated_is_refused() -> None:
    known = fitted(SYMMETRIC)
    for flops in (0.0, [1e20, -1.0], float("nan")):
        with pytest.raises(InputError, match="give positive numbers"):
            allocate(known, flops)
    with pytest.raises(InputError, match="flops_per_token"):
        allocate(known, 1e20, flops_per_token=0)
    flat = fit(
        *table({**SYMMETRIC, "A": 1e-9, "B": 800.0}), starts=[[1.7, 1e-6, 800.0, 0.3, 0.3]], fixed={"A": 1e-6, "alpha": 0.0}
    )
    with pytest.raises(InputError, match="no size is best"):
        allocate(flat, 1e20, closed_form=False)
    steps = fit(
        law="kaplan_ns", N=[1e8, 1e8, 1e9, 1e9, 1e9], S=[10.0, 20, 10, 20, 40], loss=[3.0, 2.8, 2.7, 2.5, 2.4],
        starts=[[1e13, 100.0, 0.1, 0.5]],
    )  # fmt: skip
    with pytest.raises(InputError, match="only a law of N and D"):
        allocate(steps, 1e20)


def test_a_fit_that_its_rows_do_not_determine_allocates_nothing() -> None:
    known = fitted(SYMMETRIC)
    lost = dataclasses.replace(known, covariance=np.full((5, 5), np.nan), message="no intervals: the rows do not determine A")
    with pytest.raises(InputError, match=r"says nothing of budgets \(no intervals: the rows do not determine A"):
        allocate(lost, 1e20)


def test_refits_without_a_best_size_are_left_out_and_counted(noisy: Fit) -> None:
    """With A = 10⁻⁹ no size is too large, down to N = 1: the loss falls to the end."""
    whole = allocate(noisy, [1e20, 1e22], closed_form=False)
    assert whole.bootstrap is not None and noisy.samples is not None and not whole.without_optimum.any()
    flat = noisy.samples[:5] * np.array([1, 1e-12, 1, 1, 1])
    some = allocate(dataclasses.replace(noisy, samples=np.r_[noisy.samples, flat]), [1e20, 1e22], closed_form=False)
    assert some.without_optimum.tolist() == [5, 5] and some.rows()[0]["refits_without_optimum"] == 5
    np.testing.assert_allclose(some.bootstrap["N"], whole.bootstrap["N"])
    with pytest.raises(InputError, match="no refit of the bootstrap has a best size"):
        allocate(dataclasses.replace(noisy, samples=flat), 1e20, closed_form=False)


# --- approaches 1 and 2 -----------------------------------------------------------------------------------------------


def iso(parameters: dict[str, float], shift: float = 0.0, half: float = 0.5) -> tuple[np.ndarray, ...]:
    """Rows at four budgets, sizes within e^±half about e^shift times the best."""
    p = parameters
    C = np.repeat(np.geomspace(1e18, 1e21, 4), 7)
    scale = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / (p["alpha"] + p["beta"]))
    best = scale * (C / 6) ** (p["beta"] / (p["alpha"] + p["beta"]))
    N = best * np.exp(shift + np.tile(np.linspace(-half, half, 7), 4))
    D = C / (6 * N)
    return N, D, p["E"] + p["A"] / N ** p["alpha"] + p["B"] / D ** p["beta"], best[::7]


def test_isoflop_recovers_equal_exponents_and_the_optima() -> None:
    N, D, loss, best = iso(SYMMETRIC)
    found = isoflop(N, D, loss)
    assert found.flops == pytest.approx(np.geomspace(1e18, 1e21, 4))
    assert found.N_law.exponent == pytest.approx(0.5, abs=1e-9) and found.D_law.exponent == pytest.approx(0.5, abs=1e-9)
    assert pytest.approx(best, rel=1e-6) == found.N
    assert pytest.approx(found.flops, rel=1e-9) == 6 * found.N * found.D
    assert found.parabolas is not None and (found.parabolas[:, 2] > 0).all()
    assert found.groups is not None and np.bincount(found.groups).tolist() == [7, 7, 7, 7]


def test_isoflop_gives_the_parabola_that_made_the_losses() -> None:
    C, x = np.repeat([6e18, 6e20], 6), np.tile([-1.0, -0.6, -0.1, 0.2, 0.7, 1.5], 2)
    N = np.sqrt(C / 120) * np.exp(x)
    found = isoflop(N, C / (6 * N), 2.0 + 0.3 * (x - 0.25) ** 2)
    assert found.loss == pytest.approx([2.0, 2.0])
    assert found.parabolas == pytest.approx(np.tile([2.0, 0.0, 0.3], (2, 1)), abs=1e-9)
    assert np.log(found.N / np.sqrt(found.flops / 120)) == pytest.approx([0.25, 0.25])


def test_isoflop_has_the_bias_that_its_docstring_names() -> None:
    """Unequal exponents and a grid off its centre move the minimum; a narrow centred grid does not."""
    off = [np.log(isoflop(*iso(CHINCHILLA, *grid)[:3]).N / iso(CHINCHILLA)[3]) for grid in ((0.0, 0.1), (1.0, 3.0))]
    assert np.abs(off[0]).max() < 2e-3 < 0.01 < np.abs(off[1]).max()


def test_budgets_can_be_named_and_rows_off_them_are_left_out() -> None:
    N, D, loss, best = iso(SYMMETRIC)
    found = isoflop(np.r_[N, 1e8], np.r_[D, 1e13], np.r_[loss, 9.0], budgets=[1e21, 1e18], tolerance=0.1)
    assert pytest.approx(best[[0, 3]], rel=1e-6) == found.N
    assert found.groups is not None and (found.groups == -1).sum() == 15
    # FLOPs of one's own, counted otherwise, are taken as they are.
    twice = isoflop(N, D, loss, C=2 * 6 * N * D)
    assert twice.flops == pytest.approx(2 * np.geomspace(1e18, 1e21, 4)) and pytest.approx(best, rel=1e-6) == twice.N


def test_a_budget_without_an_interior_minimum_is_refused_by_name() -> None:
    N, D, loss, _ = iso(SYMMETRIC, shift=1.0)  # every size is above the best
    with pytest.raises(InputError, match=r"the budget of 1e\+18 FLOPs has no minimum inside its sizes"):
        isoflop(N, D, loss)
    N, D, loss, _ = iso(SYMMETRIC)
    with pytest.raises(InputError, match=r"1e\+18 FLOPs has no minimum"):
        isoflop(N, D, 10 - loss)
    with pytest.raises(InputError, match="has 2 sizes"):
        isoflop(N[5:], D[5:], loss[5:])
    with pytest.raises(InputError, match="one budget"):
        isoflop(N[:7], D[:7], loss[:7])
    with pytest.raises(InputError, match="row 3, column loss"):
        isoflop(N[:7], D[:7], np.r_[loss[:2], -1, loss[3:7]])
    with pytest.raises(InputError, match="tolerance"):
        isoflop(N, D, loss, tolerance=2)


def test_the_envelope_recovers_equal_exponents() -> None:
    sizes, tokens = np.geomspace(1e7, 1e10, 25), np.geomspace(1e6, 1e12, 60)
    N, D = np.repeat(sizes, 60), np.tile(tokens, 25)
    found = envelope(N, D, 1.7 + 400 / N**0.3 + 400 / D**0.3, subsamples=40)
    assert found.N_law.exponent == pytest.approx(0.5, abs=0.01) and found.D_law.exponent == pytest.approx(0.5, abs=0.01)
    low, high = found.N_law.interval
    assert low < found.N_law.exponent < high and high - low < 0.1
    assert sizes[0] < found.N.min() and found.N.max() < sizes[-1]
    again = envelope(N[::-1], D[::-1], (1.7 + 400 / N**0.3 + 400 / D**0.3)[::-1], subsamples=0)
    assert pytest.approx(found.N) == again.N and np.isnan(again.N_law.interval).all()


def test_smoothing_undoes_noise_along_a_curve() -> None:
    rng = np.random.default_rng(0)
    N, D = np.repeat(np.geomspace(1e7, 1e10, 13), 400), np.tile(np.geomspace(1e6, 1e12, 400), 13)
    clean = 1.7 + 400 / N**0.3 + 400 / D**0.3
    noisy = clean * np.exp(0.01 * rng.normal(size=len(N)))
    rough, smooth = (envelope(N, D, noisy, smooth=width, subsamples=0) for width in (0.0, 5.0))
    exact = envelope(N, D, clean, subsamples=0)
    errors = [abs(np.interp(np.log(1e19), np.log(f.flops), f.loss) - np.interp(np.log(1e19), np.log(exact.flops), exact.loss))
              for f in (rough, smooth)]  # fmt: skip
    assert errors[1] < 0.5 * errors[0]


def test_envelope_faults_are_named() -> None:
    N, D = np.repeat([1e7, 1e8, 1e9], 5), np.tile(np.geomspace(1e8, 1e9, 5), 3)
    loss = 1 + 400 / N**0.3 + 400 / D**0.3
    with pytest.raises(InputError, match="three or more"):
        envelope(N[:10], D[:10], loss[:10])
    with pytest.raises(InputError, match="row 11 has one record"):
        envelope(N[:11], D[:11], loss[:11])
    with pytest.raises(InputError, match="has several N"):
        envelope(N, D, loss, run=np.tile([1, 2, 3], 5))
    with pytest.raises(InputError, match="overlap"):
        envelope(N, D * N, loss, check_units=False)


def test_power_laws_have_intervals_from_three_points_on() -> None:
    assert np.isnan(power_law([1.0, 2.0], [1.0, 2.0]).interval).all()
    rng = np.random.default_rng(0)
    x = np.geomspace(1, 1e3, 30)
    found = power_law(x, 3 * x**0.7 * np.exp(0.1 * rng.normal(size=30)))
    assert found.interval[0] < 0.7 < found.interval[1] and found.r2 > 0.99
    assert found.predict(10.0) == pytest.approx(3 * 10**0.7, rel=0.1)
    with pytest.raises(InputError, match="two different budgets"):
        power_law([1.0, 1.0], [1.0, 2.0])


def test_published_optima_of_approach_one_share_budgets_equally() -> None:
    """Hoffmann et al. 2022, table 3: sizes and tokens that Approach 1 calls optimal; its slopes: .50 and .50."""
    N = np.array([0.4e9, 1e9, 10e9, 67e9, 175e9, 1e12])
    D = np.array([8.0e9, 20.2e9, 205.1e9, 1.5e12, 3.7e12, 21.2e12])
    flops = training_flops(N, D)
    assert 0.488 < power_law(flops, N).exponent < 0.502
    assert 0.498 < power_law(flops, D).exponent < 0.512


def test_budgets_that_run_into_each_other_are_refused() -> None:
    N, C = np.tile(np.geomspace(1e7, 1e9, 3), 121), np.repeat(np.geomspace(1e18, 1e20, 121), 3)
    D = C / (6 * N)
    loss = 1.7 + 400 / N**0.34 + 400 / D**0.34
    with pytest.raises(InputError, match="without a gap: name the budgets"):
        isoflop(N, D, loss)


@pytest.mark.parametrize(("settings", "message"), [({"level": 2.0}, "level is 2"), ({"level": 0.0}, "level is 0")])
def test_shares_of_an_optimum_are_checked(settings: dict[str, float], message: str) -> None:
    N, D, loss, _ = iso(SYMMETRIC)
    with pytest.raises(InputError, match=message):
        isoflop(N, D, loss, **settings)
    with pytest.raises(InputError, match=message):
        envelope(N, D, loss, **settings)
    with pytest.raises(InputError, match="share is 0"):
        envelope(N, D, loss, share=0.0)
    with pytest.raises(InputError, match="row 3, column C: -1 is not above 0"):
        envelope(N, D, loss, C=np.where(np.arange(len(N)) == 2, -1.0, 6 * N * D))
