"""Feasible sets: projection is feasible, nearest and idempotent; rows of weights keep their laws for any input."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from olm.simplex import effective_sample_size, entropy, map_constraints, project, softmax_rows
from olm.types import Box, Free, Simplex

ROWS, SIZE = 3, 6  # fixed, so that everything compiles once
EPS = float(np.finfo(np.float32).eps)


def rows(least: float, most: float) -> st.SearchStrategy[np.ndarray]:
    """[3, 6] float32 between the two; ties and whole rows of one value are likely."""
    values = st.floats(least, most, width=32) | st.sampled_from([0.0, least, most])
    return arrays(np.float32, (ROWS, SIZE), elements=values, fill=st.nothing() | st.just(np.float32(most)))


def by_bisection(x: np.ndarray) -> np.ndarray:
    """Rows of max(x − τ, 0) with τ such that they sum to one, in float64, by halving an interval 200 times."""
    x = x.astype(np.float64)
    low, high = x.min(axis=1) - 1, x.max(axis=1)
    for _ in range(200):
        middle = (low + high) / 2
        above = np.maximum(x - middle[:, None], 0).sum(axis=1) > 1
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.maximum(x - ((low + high) / 2)[:, None], 0)


projected = jax.jit(lambda x: project(Simplex(), x))


@given(rows(-100, 100))
@example(np.zeros((ROWS, SIZE), np.float32))
@example(np.full((ROWS, SIZE), 1 / SIZE, np.float32))
@example(np.eye(ROWS, SIZE, dtype=np.float32) * np.float32(3e9) - 1)
@example(np.tile(np.float32([99.999992, -99.99, 0.0, 100.0, -186.0592, 100.999985]), (ROWS, 1)))  # an endless loop, once
@example(np.full((ROWS, SIZE), -1e30, np.float32) + np.eye(ROWS, SIZE, dtype=np.float32))
def test_the_projection_is_the_nearest_feasible_point(x: np.ndarray) -> None:
    """Against bisection in float64; what the input itself cannot resolve is allowed for."""
    found = np.asarray(projected(x))
    scale = max(1.0, np.abs(x).max())
    assert (found >= 0).all()
    assert np.allclose(found.sum(axis=1), 1, atol=8 * SIZE * EPS)
    if scale <= 100:
        assert np.allclose(found, by_bisection(x), atol=8 * SIZE * EPS * scale)


@given(rows(-2, 2))
def test_a_feasible_point_stays(x: np.ndarray) -> None:
    feasible = np.asarray(projected(x))
    assert np.allclose(projected(feasible), feasible, atol=4 * SIZE * EPS)


@given(rows(-2, 2), st.floats(-50, 50, width=32))
def test_a_shift_of_a_row_changes_nothing(x: np.ndarray, shift: float) -> None:
    """Neither the nearest point nor the softmax: both depend on differences."""
    tolerance = 8 * SIZE * EPS * (2 + abs(shift))
    assert np.allclose(projected(x + np.float32(shift)), projected(x), atol=tolerance)
    assert np.allclose(softmax_rows(x + np.float32(shift)), softmax_rows(x), atol=tolerance)


@given(rows(-2, 2), rows(-2, 2))
def test_a_projection_never_takes_points_apart(x: np.ndarray, y: np.ndarray) -> None:
    """‖P x − P y‖ ≤ ‖x − y‖, and the step back is at no acute angle to any feasible point: the two laws of a projection."""
    p, q = (np.asarray(projected(value), np.float64) for value in (x, y))
    assert (np.linalg.norm(p - q, axis=1) <= np.linalg.norm(x - y, axis=1) + 8 * SIZE * EPS).all()
    assert (np.sum((x - p) * (q - p), axis=1) <= 64 * SIZE * EPS).all()


def test_the_projection_is_that_of_sorting(x64: None) -> None:
    x = jax.random.normal(jax.random.key(0), (40, 300))
    assert np.allclose(project(Simplex(), x), jax.vmap(optax.projections.projection_simplex)(x), rtol=0, atol=1e-15)


def test_the_projections_derivative_centres_the_support(x64: None) -> None:
    """∂p_i/∂x_j = δ_ij − 1/k on the k positive entries, 0 elsewhere."""
    jacobian = jax.jacobian(lambda x: project(Simplex(), x))(jnp.array([0.5, 0.7, -1.0, 0.4]))
    on = np.array([1.0, 1.0, 0.0, 1.0])
    assert np.allclose(jacobian, np.diag(on) - np.outer(on, on) / 3, atol=1e-15)


def test_each_leaf_meets_its_own_constraint() -> None:
    """A prefix: one constraint for a subtree, arrays of any rank, dtypes kept."""
    feasible = {"simplex": Simplex(), "rest": [Box(0.0, 1.0), Free()]}
    x = jnp.linspace(-1, 2, 24).reshape(2, 3, 4)
    found = project(feasible, {"simplex": (x, x[0, 0].astype(jnp.bfloat16)), "rest": [x, x]})
    assert np.allclose(found["simplex"][0].sum(axis=-1), 1, atol=1e-6) and found["simplex"][0].shape == x.shape
    assert found["simplex"][1].dtype == jnp.bfloat16
    assert np.array_equal(found["rest"][0], np.clip(x, 0, 1)) and np.array_equal(found["rest"][1], x)


def test_an_unknown_constraint_is_named() -> None:
    with pytest.raises(TypeError, match=r"unknown constraint 'simplex': use olm\.Simplex"):
        project("simplex", jnp.ones(2))


def test_constraints_travel_with_further_trees() -> None:
    def scale(constraint: Any, leaf: float, other: float) -> float:
        return leaf * other if constraint == Free() else leaf

    assert map_constraints(scale, (Free(), Box()), (2.0, 3.0), (5.0, 7.0)) == (10.0, 3.0)


@given(rows(-80, 80))
@example(np.full((ROWS, SIZE), 80, np.float32))
@example(np.eye(ROWS, SIZE, dtype=np.float32) * 80)
def test_softmax_rows_are_weights(scores: np.ndarray) -> None:
    """On the simplex and in the order of the scores, and entropy and effective sample size within their bounds."""
    weights = np.asarray(softmax_rows(scores))
    assert (weights >= 0).all() and np.allclose(weights.sum(axis=1), 1, atol=4 * SIZE * EPS)
    for score_row, weight_row in zip(scores, weights, strict=True):
        assert (np.diff(weight_row[np.argsort(score_row)]) >= 0).all()
    size, nats = np.asarray(effective_sample_size(weights)), np.asarray(entropy(weights))
    assert (size >= 1 - 8 * EPS).all() and (size <= SIZE * (1 + 8 * EPS)).all()
    assert (nats >= 0).all() and (nats <= np.log(SIZE) * (1 + 8 * EPS)).all()
    # Rényi entropies fall with their order: log of the effective sample size is that of order 2.
    assert (np.log(size) <= nats + 32 * EPS).all()


@given(st.integers(1, SIZE), st.floats(0.125, 8, width=32))
def test_k_equal_weights_are_k_examples(k: int, scale: float) -> None:
    """Whatever their scale; entropy log k on the simplex, and zeros contribute nothing to its derivative either."""
    weights = jnp.where(jnp.arange(SIZE) < k, 1 / k, 0)
    assert float(effective_sample_size(scale * weights)) == pytest.approx(k, rel=16 * EPS)
    assert float(entropy(weights)) == pytest.approx(np.log(k), abs=16 * EPS)
    assert np.isfinite(jax.grad(entropy)(weights)).all()
