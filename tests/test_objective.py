"""What a curve is worth: the definitions on curves computed by hand, and laws that hold for any curve."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from olm.errors import InputError
from olm.objective import (
    acceleration_first,
    acceleration_least,
    acceleration_ratio,
    area,
    area_under_loss,
    compression_ratio,
    final,
    weighted,
)

# Whole sixteenths: sums of them are exact, so that laws hold to the last bit.
losses = st.integers(0, 80).map(lambda n: n / 16)
curves = st.integers(2, 12).flatmap(lambda n: st.tuples(arrays(float, n, elements=losses), arrays(float, n, elements=losses)))


@given(curves)
def test_objectives_are_the_functionals_they_name(pair: tuple[np.ndarray, np.ndarray]) -> None:
    curve, weights = pair
    steps = len(curve) - 1
    assert area().weights(steps) @ curve == pytest.approx(float(area_under_loss(curve)), rel=1e-6)
    assert area().weights(steps) @ curve == pytest.approx(curve[1:].mean(), rel=1e-14)
    assert final().weights(steps) @ curve == curve[-1]
    assert np.array_equal(weighted(weights).weights(steps), weights)
    assert {len(objective.weights(steps)) for objective in (area(), final(), weighted(weights))} == {steps + 1}


def test_the_first_loss_does_not_count() -> None:
    """No policy can change L(θ_0)."""
    assert float(area_under_loss(jnp.array([100.0, 1.0, 3.0]))) == 2.0
    assert area_under_loss(jnp.ones((4, 3, 5))).shape == (4, 3)


def test_weights_of_another_length_are_refused() -> None:
    with pytest.raises(InputError, match=r"shape \(3,\): a run of 3 steps needs \(4,\)"):
        weighted([1.0, 2.0, 3.0]).weights(3)


# --- compression ------------------------------------------------------------------------------------------------------


def test_guessing_at_random_compresses_to_nothing() -> None:
    """A model that predicts each of V symbols alike has loss log V and ratio 1; half that loss is ratio 2."""
    for alphabet in (2, 27, 5000):
        at_random = np.full(11, math.log(alphabet))
        assert float(compression_ratio(at_random, alphabet)) == pytest.approx(1, rel=1e-6)
        assert float(compression_ratio(at_random / 2, alphabet)) == pytest.approx(2, rel=1e-6)


def test_the_papers_units_are_larger_by_log2_e() -> None:
    curve = np.array([3.0, 2.0, 1.0])
    ratio = float(compression_ratio(curve, 50, paper_units=True)) / float(compression_ratio(curve, 50))
    assert ratio == pytest.approx(1 / math.log(2), rel=1e-6)


@given(curves, st.sampled_from([0.25, 0.5, 2.0, 4.0]))
def test_least_area_is_most_compression(pair: tuple[np.ndarray, np.ndarray], scale: float) -> None:
    a, b = pair
    assume(a[1:].any() and b[1:].any())
    by_area = float(area_under_loss(a)) < float(area_under_loss(b))
    assert by_area == (float(compression_ratio(a, 7)) > float(compression_ratio(b, 7)))
    assert float(compression_ratio(scale * a, 7)) == pytest.approx(float(compression_ratio(a, 7)) / scale, rel=1e-6)


# --- acceleration -----------------------------------------------------------------------------------------------------

FALLING = [4.0, 3.0, 2.0, 1.5, 1.0]


@pytest.mark.parametrize(
    ("baseline", "improved", "stays", "first"),
    [
        (FALLING, FALLING, 1.0, 1.0),
        (FALLING, [4.0, 2.0, 1.0, 0.5, 0.25], 2.0, 2.0),
        (FALLING, [4.0, 0.5, 2.0, 0.5, 0.25], 4 / 3, 4.0),  # comes back above: counts from where it stays
        (FALLING, [4.0, 0.5, 2.0, 2.0, 1.0], 1.0, 4.0),
        (FALLING, [4.0, 0.5, 2.0, 2.0, 2.0], 0.5, 4.0),  # crosses but does not stay: the baseline had its end at step 2
        (FALLING, [4.0, 3.9, 3.8, 3.5, 3.0], 0.25, 0.25),  # never reaches it
        (FALLING, [4.0, 5.0, 5.0, 5.0, 5.0], 0.0, 0.0),  # ends above where the baseline began
        (FALLING, [1.0, 1.0, 1.0, 1.0, 1.0], math.inf, math.inf),  # was there before the first step
        ([1.0, 3.0], [1.0, 2.0], math.inf, math.inf),  # a baseline that only rises is reached at once
        (FALLING, [4.0, 3.0, 2.0, 1.0, math.nan], math.nan, 4 / 3),  # a run that broke stays nowhere
    ],
)
def test_acceleration_by_hand(baseline: list[float], improved: list[float], stays: float, first: float) -> None:
    assert acceleration_ratio(baseline, improved) == pytest.approx(stays, nan_ok=True)
    assert acceleration_first(baseline, improved) == pytest.approx(first, nan_ok=True)


@pytest.mark.parametrize(
    ("baseline", "improved", "least"),
    [
        (FALLING, FALLING, 1.0),
        (FALLING, [4.0, 2.0, 1.0, 0.5, 0.25], 2.0),
        ([4.0, 1.0, 3.0, 2.0, 2.0], [4.0, 1.0, 3.0, 2.0, 2.0], 1.0),  # one that rises again gains nothing on itself
        ([4.0, 3.0, 2.0, 1.0, 3.0], [4.0, 1.0, 1.0, 1.0, 1.0], 3.0),
        (FALLING, [4.0, 3.9, 2.5, 3.5, 3.0], 0.5),  # never there: the baseline had 2.5 at step 2
        (FALLING, [4.0, 1.2, 1.2, 1.2, 1.2], 1.0),  # a fast fall to a poorer floor is no acceleration
        (FALLING, [4.0, 5.0, 5.0, 3.5, 5.0], 0.25),
        (FALLING, [4.0, 5.0, 5.0, 5.0, 5.0], 0.0),
        (FALLING, [1.0, 1.0, 1.0, 1.0, 1.0], math.inf),
        ([1.0, 3.0], [2.0, 1.5], 0.0),  # the baseline was below before the first step
        (FALLING, [4.0, 3.0, 2.0, 1.0, math.nan], math.nan),
    ],
)
def test_acceleration_to_the_least_loss_by_hand(baseline: list[float], improved: list[float], least: float) -> None:
    assert acceleration_least(baseline, improved) == pytest.approx(least, nan_ok=True)


@given(curves)
def test_laws_of_acceleration_to_the_least_loss(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """1 against itself; what never gets there is never faster; a lower curve is never slower."""
    base, new = pair
    assert acceleration_least(base, base) == 1
    least = acceleration_least(base, new)
    assert new.min() <= base.min() or 0 <= least <= 1
    assert acceleration_least(base, np.minimum(base, new)) >= 1
    assert acceleration_least(base, new - 0.5) >= least


@given(curves, st.integers(-16, 16), st.sampled_from([0.25, 0.5, 2.0, 4.0]))
def test_acceleration_does_not_know_the_unit_of_loss(pair: tuple[np.ndarray, np.ndarray], shift: int, scale: float) -> None:
    """Scaling and shifting both curves changes nothing: it is a ratio of times."""
    base, new = pair
    for ratio in (acceleration_ratio, acceleration_first, acceleration_least):
        assert ratio(scale * base + shift, scale * new + shift) == ratio(base, new)


@given(curves)
def test_laws_of_acceleration(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """Reached: at least 1, and "stays" never exceeds "first". Not reached: below 1. A lower curve is never slower."""
    base, new = pair
    stays, first = acceleration_ratio(base, new), acceleration_first(base, new)
    reached, ends_there = bool((new <= base[-1]).any()), bool(new[-1] <= base[-1])
    assert (first >= 1) == reached
    assert (stays >= 1) == ends_there
    if ends_there:
        assert stays <= first
        assert acceleration_ratio(base, new - 0.5) >= stays
    else:
        assert 0 <= stays < 1


@pytest.mark.parametrize(
    ("a", "b", "shapes"),
    [([1.0, 2.0], [1.0], r"\(2,\) and \(1,\)"), ([1.0], [1.0], r"\(1,\)"), (np.ones((2, 2)), np.ones((2, 2)), r"\(2, 2\)")],
)
@pytest.mark.parametrize("ratio", [acceleration_ratio, acceleration_first, acceleration_least])
def test_curves_of_unequal_length_are_refused(ratio: object, a: list, b: list, shapes: str) -> None:
    with pytest.raises(InputError, match=shapes):
        ratio(a, b)
