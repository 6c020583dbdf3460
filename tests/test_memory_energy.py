"""Energies against brute force, their bounds, attention, steps downhill; balls against quadrature, Monte Carlo, closed forms."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special

from olm.errors import InputError
from olm.memory import energy, partition
from olm.models.transformer import causal_attention

nan, inf = float("nan"), float("inf")
# Dimension and patterns of a set; few shapes, so that few programs are compiled.
SHAPES = [(2, 2), (2, 40), (3, 1), (5, 7), (16, 2), (64, 40), (128, 7), (300, 3), (512, 1), (512, 40)]
SETS = 30


def squared(x: np.ndarray, patterns: np.ndarray) -> np.ndarray:
    """‖x − ρ_i‖², one state and one pattern at a time."""
    return np.array([[sum(float(c) ** 2 for c in state - pattern) for pattern in patterns] for state in np.atleast_2d(x)])


def soft_least(values: np.ndarray) -> np.ndarray:
    """−log Σ exp(−v), by adding the largest first."""
    rows = np.sort(values, -1)
    return np.array([row[0] - math.log1p(math.fsum(math.exp(row[0] - v) for v in row[1:])) for row in rows])


def sets_of(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Pattern sets with norms alike and unlike and scales from .01 to 30; states at, near, between and beside patterns."""
    rng = np.random.default_rng(1000 * n + d)
    scale = np.geomspace(0.01, 30, SETS)[:, None, None]
    patterns = rng.standard_normal((SETS, d, n))
    alike = patterns / np.linalg.norm(patterns, axis=-1, keepdims=True) * math.sqrt(n)
    patterns = scale * np.where(np.arange(SETS)[:, None, None] % 3 > 0, patterns, alike)
    beside = scale * rng.standard_normal((SETS, 2, n)) * np.array([1, 0.1])[:, None]
    near = patterns[:, -1:] + 1e-3 * scale
    return patterns, np.concatenate([patterns[:, :1], near, patterns.mean(1, keepdims=True), beside], 1)


# --- energies and their bounds ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("n", "d"), [(2, 1), (5, 7)])
def test_energies_are_those_of_brute_force(n: int, d: int) -> None:
    betas = (0.3, 2.0, 7.0)

    def of(x: jax.Array, p: jax.Array) -> Any:
        return energy.nearest_energy(x, p), energy.layer_energy(x, p), [energy.hopfield_energy(x, p, beta) for beta in betas]

    every = [np.asarray(part) for part in sets_of(n, d)]
    nearest, layer, hopfield = jax.jit(jax.vmap(of))(every[1], every[0])
    for s, (p, x) in enumerate(zip(*every, strict=True)):
        squares, norms = squared(x, p), np.array([sum(c * c for c in row) for row in p])
        np.testing.assert_allclose(nearest[s], squares.min(1), rtol=1e-13, atol=1e-300)
        np.testing.assert_allclose(layer[s], soft_least(squares), rtol=1e-12, atol=1e-12)
        for beta, found in zip(betas, hopfield, strict=True):
            least = soft_least(np.array([[-beta * float(state @ r) for r in p] for state in x])) / beta
            wanted = least + (x**2).sum(1) / 2 + math.log(d) / beta + norms.max() / 2
            np.testing.assert_allclose(found[s], wanted, rtol=1e-12, atol=1e-12 * (1 + norms.max()))
            assert (found[s] > -1e-12 * (1 + norms.max())).all()


@pytest.mark.usefixtures("x64")
def test_propositions_hold_and_the_third_as_printed_does_not() -> None:
    of = jax.jit(jax.vmap(energy.violations))
    for n, d in SHAPES:
        patterns, states = sets_of(n, d)
        found = of(states, patterns)
        assert found.nearest.shape == (SETS,)
        for name in ("nearest", "hopfield", "nearest_hopfield"):
            assert float(getattr(found, name).max()) <= 1e-9, (n, d, name)
        # With one norm g − 2H is −log d at a pattern that is far from the others, and the printed bound allows no less than 0.
        printed, alike = np.asarray(found.nearest_hopfield_printed), np.arange(SETS) % 3 == 0
        assert (printed >= 0).all() and (printed[alike] <= math.log(d) + 1e-9).all()
        assert d == 1 or (printed[alike] > 1e-6).all(), (n, d)
        if n >= 16:
            np.testing.assert_allclose(printed[alike][-1], math.log(d), atol=1e-9)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("off", [5.0, -5.0])
def test_a_planted_violation_is_found_and_its_size_told(monkeypatch: pytest.MonkeyPatch, off: float) -> None:
    """Each energy in turn is made too large and too small."""
    patterns, states = (x[16] for x in sets_of(5, 7))
    g, e, h = (of(states, patterns) for of in (energy.nearest_energy, energy.layer_energy, energy.hopfield_energy))
    squares = (patterns**2).sum(1)
    spread, more = squares.max() - squares.min(), math.log(7)
    assert spread > 1

    def outside(value: Any, low: Any, high: Any) -> float:
        return max(0.0, float(np.max(low - value)), float(np.max(value - high)))

    for name, true in (("nearest_energy", g), ("layer_energy", e), ("hopfield_energy", h)):
        size = off * (1 + spread)
        monkeypatch.setattr(energy, name, lambda x, p, true=true, size=size: true + size)
        g2, e2, h2 = (v + size * (v is true) for v in (g, e, h))
        found = energy.violations(states, patterns)
        wanted = [
            outside(e2, g2 - more, g2),
            outside(e2 - 2 * h2 + more, -spread, spread),
            outside(g2 - 2 * h2 + more, -spread, spread + more),
            outside(g2 - 2 * h2, -spread, spread + more),
        ]
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)
        assert sum(value > 1 for value in found[:3]) == 2, name  # each energy stands in two of the three
        monkeypatch.undo()


@pytest.mark.usefixtures("x64")
def test_layers_together_are_one_layer_with_the_patterns_of_all() -> None:
    rng = np.random.default_rng(0)
    layers = [rng.standard_normal((d, 31)) * s for d, s in ((3, 1), (1, 3), (2, 0.2))]
    x = rng.standard_normal((6, 2, 31)) * 2
    whole = jax.jit(energy.global_energy)(x, layers)
    assert whole.shape == (6, 2)
    np.testing.assert_allclose(whole, jax.jit(energy.layer_energy)(x, np.concatenate(layers)), rtol=1e-12)
    each = np.stack([soft_least(squared(x.reshape(12, 31), layer)) for layer in layers]).min(0).reshape(6, 2)
    assert (whole <= each + 1e-12).all() and (whole >= each - math.log(3) - 1e-12).all()
    np.testing.assert_allclose(energy.global_energy(x, layers[:1]), energy.layer_energy(x, layers[0]), rtol=1e-13)


@pytest.mark.usefixtures("x64")
def test_gradients_point_away_from_what_is_retrieved() -> None:
    """∇E = 2 (x − Σ w ρ), ∇G the same with all patterns, ∇H = x − attention, ∇g = 2 (x − nearest)."""
    patterns, states = (x[20] for x in sets_of(16, 2))
    states = states[[0, 1, 3, 4]]  # halfway between both the nearest energy has a corner

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    def slopes(x: jax.Array, p: jax.Array) -> Any:
        layer, whole = jax.grad(energy.layer_energy)(x, p), jax.grad(energy.global_energy)(x, [p[:1], p[1:]])
        return layer, whole, jax.grad(energy.hopfield_energy)(x, p, 0.5), jax.grad(energy.nearest_energy)(x, p)

    squares = squared(states, patterns)
    weights = np.exp(-squares + squares.min(1, keepdims=True))
    wanted = 2 * (states - weights / weights.sum(1, keepdims=True) @ patterns)
    layer, whole, hopfield, nearest = slopes(states, patterns)
    np.testing.assert_allclose(layer, wanted, atol=1e-10)
    np.testing.assert_allclose(whole, wanted, atol=1e-10)
    np.testing.assert_allclose(hopfield, states - energy.retrieve(states, patterns, 0.5), atol=1e-10)
    np.testing.assert_allclose(nearest, 2 * (states - patterns[squares.argmin(1)]), atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.usefixtures("x64")
def test_nothing_overflows_in_100000_dimensions_or_far_away(dtype: Any) -> None:
    n, rng = 100_000, np.random.default_rng(0)
    patterns = rng.standard_normal((3, n)).astype(dtype)
    x = np.stack([patterns[0], patterns[1] + 1, np.zeros(n), np.full(n, 1e6), -30 * patterns[2]]).astype(dtype)

    def energies(x: jax.Array, p: jax.Array) -> list[jax.Array]:
        several = energy.nearest_energy(x, p), energy.layer_energy(x, p), energy.global_energy(x, [p[:1], p[1:]])
        return [*several, energy.hopfield_energy(x, p)]

    values, back = jax.vjp(jax.jit(energies), x, patterns)
    wanted = ((x.astype(np.float64)[:, None] - patterns.astype(np.float64)) ** 2).sum(-1).min(1)
    for value in values[:3]:
        assert value.dtype == dtype
        np.testing.assert_allclose(value, wanted, rtol=10 * math.sqrt(n) * np.finfo(dtype).eps)
    assert np.isfinite(values[3]).all()
    slopes = back([jnp.ones_like(value) for value in values])
    assert all(np.isfinite(slope).all() for slope in slopes)
    path = energy.descend(x, [patterns], steps=2)
    assert np.isfinite(path.energy).all()
    np.testing.assert_array_equal(path.path[-1, :2], patterns[:2])


# --- retrieval is attention -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), [(8, 1), (16, 40)])
def test_one_retrieval_is_attention(n: int, d: int) -> None:
    """In float32, as models have it, against softmax by hand, JAX's attention and the last query of the transformer's."""
    rng, beta = np.random.default_rng(n * d), 1 / math.sqrt(n)
    q, k, v = (rng.standard_normal((rows, n)).astype(np.float32) for rows in (4, d, d))
    found = energy.retrieve(q, k, beta, v)
    weights = np.exp(beta * q.astype(np.float64) @ k.astype(np.float64).T)
    np.testing.assert_allclose(found, weights / weights.sum(1, keepdims=True) @ v, atol=1e-6)

    @jax.jit
    def theirs(q: jax.Array, k: jax.Array, v: jax.Array) -> Any:
        fused = jax.nn.dot_product_attention(q[None, :, None], k[None, :, None], v[None, :, None])[0, :, 0]
        # The last query sees all keys; those before it are of no account.
        queries = jnp.concatenate([jnp.full((len(q), d - 1, n), 3.0), q[:, None]], 1) * beta
        keys, values = (jnp.broadcast_to(part, (len(q), *part.shape)) for part in (k, v))
        own = causal_attention(*(part[:, :, None] for part in (queries, keys, values)))[:, -1, 0]
        return jax.nn.softmax(beta * q @ k.T, axis=-1) @ v, fused, own

    for one in theirs(q, k, v):
        np.testing.assert_allclose(found, one, atol=1e-6)
    np.testing.assert_array_equal(energy.retrieve(q, k, beta), energy.retrieve(q, k, beta, k))
    if d > 1:
        assert np.abs(energy.retrieve(q, k, beta) - energy.retrieve(q, k)).max() > 0.01  # beta does something


@pytest.mark.usefixtures("x64")
def test_a_step_downhill_is_attention_where_patterns_have_one_norm() -> None:
    patterns, states = (x[15] for x in sets_of(5, 7))
    assert np.ptp(np.linalg.norm(patterns, axis=1)) < 1e-12
    stepped = energy.descend(states, [patterns], steps=1).path[1]
    np.testing.assert_allclose(stepped, energy.retrieve(states, patterns, 2.0), atol=1e-12)
    unlike = patterns * np.array([2, 1, 1, 1, 1, 1, 1])[:, None]
    assert np.abs(energy.descend(states, [unlike], steps=1).path[1] - energy.retrieve(states, unlike)).max() > 1e-3


# --- steps downhill ---------------------------------------------------------------------------------------------------


@functools.cache
def landscapes(n: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Three layers whose basins overlap; states around them, and near a pattern."""
    rng, scale = np.random.default_rng(n), 1.5 / n**0.25
    layers = [rng.standard_normal((d, n)) * scale for d in (6, 1, 4)]
    near = np.concatenate(layers)[rng.integers(0, 11, 30)] + 0.2 / math.sqrt(n) * rng.standard_normal((30, n))
    return layers, np.concatenate([rng.standard_normal((30, n)) * scale * 2, near])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("radius", [None, 0.25])
@pytest.mark.parametrize("n", [2, 16, 128])
def test_no_step_of_the_joint_descent_rises(n: int, radius: float | None) -> None:
    layers, x = landscapes(n)
    found = energy.descend(x, layers, steps=25, radius=radius)
    path, levels = np.asarray(found.path), np.asarray(found.energy)
    assert path.shape == (26, 60, n) and levels.shape == (26, 60)
    np.testing.assert_array_equal(path[0], x)
    every = np.concatenate(layers)
    squares = ((path[:, :, None] - every) ** 2).sum(-1)
    np.testing.assert_allclose(levels, np.stack([soft_least(row) for row in squares]), rtol=1e-11, atol=1e-11)
    weights = np.exp(squares.min(-1, keepdims=True) - squares)
    mean = weights / weights.sum(-1, keepdims=True) @ every
    length = np.linalg.norm(mean[:-1] - path[:-1], axis=-1)
    share = np.ones_like(length) if radius is None else np.minimum(1, radius / np.maximum(length, 1e-300))
    np.testing.assert_allclose(path[1:], path[:-1] + share[..., None] * (mean[:-1] - path[:-1]), atol=1e-12)
    # G(x) − G(x') ≥ ‖x − m‖² − ‖x' − m‖² ≥ 0
    promised = length**2 - ((path[1:] - mean[:-1]) ** 2).sum(-1)
    assert (promised >= -1e-12).all() and (levels[:-1] - levels[1:] >= promised - 1e-10).all()
    if radius is not None:
        steps = np.linalg.norm(np.diff(path, axis=0), axis=-1)
        assert steps.max() <= radius * (1 + 1e-12) and (share < 1).any() and (share == 1).any()
    assert (levels[-1] < levels[0] - 0.1)[:30].mean() > 0.9


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("radius", [None, 0.5])
def test_the_published_iteration_lowers_each_layers_energy_and_raises_the_whole(radius: float | None) -> None:
    layers, x = landscapes(16)
    found = energy.descend_layers(x, layers, radius=radius)
    path, levels = np.asarray(found.path), np.asarray(found.energy)
    assert path.shape == (4, 60, 16)
    squares = ((path[:, :, None] - np.concatenate(layers)) ** 2).sum(-1)
    np.testing.assert_allclose(levels, np.stack([soft_least(row) for row in squares]), rtol=1e-11, atol=1e-11)
    step = np.diff(path, axis=0)
    moved = np.linalg.norm(step, axis=-1)
    assert radius is None or moved.max() <= radius * (1 + 1e-12)
    for t, layer in enumerate(layers):
        before, after = (((x[:, None] - layer) ** 2).sum(-1) for x in path[t : t + 2])
        assert (soft_least(after) <= soft_least(before) + 1e-12).all()
        assert (soft_least(after) < soft_least(before) - 1e-3).any()
        # After the inner steps nothing is left to gain: inside the ball the slope is 0, at its edge it points straight inwards.
        weights = np.exp(after.min(1, keepdims=True) - after)
        down = weights / weights.sum(1, keepdims=True) @ layer - path[t + 1]
        edge = (moved[t] > (np.inf if radius is None else radius) * (1 - 1e-9))[:, None]
        out = edge * step[t] / np.maximum(moved[t], 1e-300)[:, None]
        along = (down * out).sum(1, keepdims=True)
        assert (along >= 0).all() and np.quantile(np.linalg.norm(down - along * out, axis=1), 0.8) < 1e-2, t
    # Unbounded, every step ends at a pattern or between some; a bounded one leaves a pattern for another that it does not reach.
    assert radius is None or (np.diff(levels, axis=0) > 0.1).any()
    # The joint descent from the same states does not rise.
    assert np.diff(energy.descend(x, layers, steps=25, radius=radius).energy, axis=0).max() < 1e-10


@pytest.mark.usefixtures("x64")
def test_the_published_iteration_climbs_out_of_a_pattern() -> None:
    """One pattern a layer: a step ends at the nearest point to it; from the pattern of another layer that is uphill."""
    layers, start = [np.array([[3.0, 4.0]]), np.array([[0.0, 0.0]])], np.array([0.0, 0.0])
    found = energy.descend_layers(start, layers, radius=1.0)
    np.testing.assert_allclose(found.path, [[0, 0], [0.6, 0.8], [0, 0]], atol=1e-12)
    levels = soft_least(np.array([[25.0, 0], [16.0, 1], [25.0, 0]]))
    np.testing.assert_allclose(found.energy, levels, atol=1e-10)
    assert levels[1] > levels[0] + 0.99
    np.testing.assert_allclose(energy.descend_layers(start, layers[:1], inner=1).path[-1], [3.0, 4.0])
    # From the same start the joint descent stays.
    np.testing.assert_allclose(energy.descend(start, layers, steps=3, radius=1.0).path, 0, atol=1e-9)


REFUSED = [
    (lambda: energy.layer_energy(np.zeros(3), np.zeros((2, 4))), "states have 3 coordinates and patterns 4"),
    (lambda: energy.nearest_energy(np.zeros((2, 3)), np.zeros((2, 4))), "states have 3 coordinates"),
    (lambda: energy.hopfield_energy(np.float32(1), np.zeros((2, 4))), "states have no coordinates and patterns 4"),
    (lambda: energy.violations(np.zeros(2), np.zeros(2)), r"patterns have shape \(2,\): give \[d, n\]"),
    (lambda: energy.layer_energy(np.zeros(0), np.zeros((2, 0))), r"patterns have shape \(2, 0\)"),
    (lambda: energy.layer_energy(np.zeros(3), np.zeros((0, 3))), r"patterns have shape \(0, 3\)"),
    (lambda: energy.layer_energy(np.array([0.0, nan]), np.zeros((1, 2))), "states hold nan"),
    (lambda: energy.retrieve(np.zeros(2), np.array([[0.0, inf]])), "patterns hold nan or infinities"),
    (lambda: energy.retrieve(np.zeros(2), np.zeros((3, 2)), values=np.zeros((2, 2))), r"values have shape \(2, 2\) for 3"),
    (lambda: energy.retrieve(np.zeros(2), np.zeros((3, 2)), values=np.zeros(3)), r"values have shape \(3,\)"),
    (lambda: energy.retrieve(np.zeros(2), np.zeros((3, 2)), -1.0), "beta is -1.0"),
    (lambda: energy.retrieve(np.zeros(2), np.zeros((3, 2)), inf), "beta is inf"),
    (lambda: energy.hopfield_energy(np.zeros(2), np.zeros((1, 2)), 0.0), "beta is 0.0"),
    (lambda: energy.hopfield_energy(np.zeros(2), np.zeros((1, 2)), nan), "beta is nan"),
    (lambda: energy.global_energy(np.zeros(2), []), "there is no layer"),
    (lambda: energy.descend(np.zeros(2), [], steps=1), "there is no layer"),
    (lambda: energy.descend(np.zeros(2), [np.zeros((1, 2))], steps=0), "steps is 0"),
    (lambda: energy.descend(np.zeros(2), [np.zeros((1, 2))], steps=1, radius=0.0), "radius is 0.0"),
    (lambda: energy.descend(np.zeros(2), [np.zeros((1, 2))], steps=1, radius=nan), "radius is nan"),
    (lambda: energy.descend(np.zeros(3), [np.zeros((1, 2))], steps=1), "states have 3 coordinates"),
    (lambda: energy.descend(np.zeros(2), [np.zeros((1, 2)), np.zeros((1, 3))], steps=1), r"patterns of \[2, 3\] coordinates"),
    (lambda: energy.descend_layers(np.zeros(2), [np.zeros((1, 2)), np.zeros((1, 3))]), r"patterns of \[2, 3\] coordinates"),
    (lambda: energy.descend_layers(np.zeros(2), [np.zeros((1, 2))], radius=-1.0), "radius is -1.0"),
    (lambda: energy.descend_layers(np.zeros(2), [np.zeros((1, 2))], inner=0), "inner is 0"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_what_is_no_pattern_or_state_is_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


# --- the partition function -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("r", [0.1, 0.35, 1.0, 1.7, 3.0])
def test_the_integral_over_a_ball_is_that_of_quadrature(r: float) -> None:
    """Shell by shell, n = 1 … 64: the surface 2 π^(n/2) / Γ(n/2) times ∫ t^(n−1) exp(−t²) dt, scaled by the largest integrand."""
    for n in range(1, 65):
        peak = min(r, math.sqrt((n - 1) / 2)) if n > 1 else 0.0
        top = (n - 1) * math.log(peak) - peak**2 if n > 1 else 0.0

        def shell(t: float, n: int = n, top: float = top) -> float:
            return math.exp((n - 1) * math.log(t) - t * t - top) if t > 0 else float(n == 1)

        value = integrate.quad(shell, 0, r, epsabs=0, epsrel=1e-13, limit=200, points=[peak] if 0 < peak < r else None)[0]
        wanted = math.log(2) + n / 2 * math.log(math.pi) - math.lgamma(n / 2) + top + math.log(value)
        assert abs(math.expm1(partition.log_ball_integral(n, r) - wanted)) <= 1e-10, n
        low, high = partition.log_ball_integral_bounds(n, r)
        assert low < partition.log_ball_integral(n, r) < high, n
        assert high - low == pytest.approx(r * r, rel=1e-12) and high == partition.log_ball_volume(n, r)


@pytest.mark.parametrize("r", [1e-3, 0.1, 0.5, 1.0, 1.3, 2.0, 6.0, 40.0])
def test_integrals_and_volumes_of_few_dimensions_have_closed_forms(r: float) -> None:
    forms = {
        1: (math.sqrt(math.pi) * math.erf(r), 2 * r),
        2: (-math.pi * math.expm1(-r * r), math.pi * r**2),
        # 4π ∫ t² exp(−t²) dt by parts; the difference loses digits where r is small, and a series takes its place.
        3: (
            4 * math.pi * (math.sqrt(math.pi) / 4 * math.erf(r) - r / 2 * math.exp(-r * r))
            if r > 0.3
            else 4 * math.pi * r**3 * (1 / 3 - r**2 / 5 + r**4 / 14 - r**6 / 54 + r**8 / 264 - r**10 / 1560),
            4 / 3 * math.pi * r**3,
        ),
    }
    for n, (integral, volume) in forms.items():
        assert math.exp(partition.log_ball_integral(n, r)) == pytest.approx(integral, rel=1e-11), n
        assert math.exp(partition.log_ball_volume(n, r)) == pytest.approx(volume, rel=1e-12), n


@pytest.mark.parametrize(("n", "r"), [(2, 0.8), (3, 1.5), (5, 1.0)])
def test_the_integral_is_that_of_points_thrown_into_a_cube(n: int, r: float) -> None:
    x = np.random.default_rng(n).uniform(-r, r, (400_000, n))
    squares = (x**2).sum(1)
    thrown = np.where(squares <= r * r, np.exp(-squares), 0) * (2 * r) ** n
    error = thrown.std() / math.sqrt(len(thrown))
    assert abs(math.exp(partition.log_ball_integral(n, r)) - thrown.mean()) < 4 * error < 0.02 * thrown.mean()


def test_the_integral_of_many_dimensions_follows_its_expansion() -> None:
    """At r² = n/(2πe): with a = n/2, x = r², z = x/a = 1/(πe),

    log V = (n/2) [log π + log r² − log(n/2) + 1] − log(πn)/2 − 1/(6n) + …, and the bracket is 0 by the choice of r;
    I / (V e^(−x)) = Σ_k x^k / ((a+1) … (a+k)) = Σ_k z^k Π_{j≤k} 1/(1 + j/a) = Σ_k z^k (1 − k(k+1)/2a + O(a⁻²))
                   = 1/(1 − z) − z / (a (1 − z)³) + O(a⁻²).
    """
    n = 10_000
    x, z, a = n / (2 * math.pi * math.e), 1 / (math.pi * math.e), n / 2
    found = partition.log_ball_integral(n, partition.radius(n))
    volume = -0.5 * math.log(math.pi * n)
    assert abs(found - (volume - x - math.log(1 - z))) < 1e-4
    second = volume - 1 / (6 * n) - x + math.log(1 / (1 - z) - z / (a * (1 - z) ** 3))
    assert abs(found - second) < 1e-7
    assert abs(partition.log_ball_volume(n, partition.radius(n)) - (volume - 1 / (6 * n))) < 1e-9


@pytest.mark.parametrize("n", [10, 1000, 100_000, 1_000_000])
def test_many_dimensions_stay_finite_and_ordered(n: int) -> None:
    for r in (partition.radius(n), 0.01, 0.99 * math.sqrt(n / 2), math.sqrt(n / 2 + 1) + 1e-9, math.sqrt(n), 1e-200, 1e200):
        low, high = partition.log_ball_integral_bounds(n, r)
        found = partition.log_ball_integral(n, r)
        assert math.isfinite(found) and low - 1e-9 <= found <= high + 1e-9 * abs(high), r
        assert found <= n / 2 * math.log(math.pi) * (1 + 1e-12)  # all of space
    # Where the series ends and the complement begins the two say the same: the sum of digits is no cliff.
    middle = math.sqrt(n / 2 + 1)
    below, above = (partition.log_ball_integral(n, middle * (1 + s * 1e-12)) for s in (-1, 1))
    assert abs(below - above) < 1e-8
    at = n / 2 * math.log(math.pi) + math.log(special.gammainc(n / 2, n / 2 + 1))
    assert abs(below - at) < 1e-8


def test_the_loss_is_least_at_one_and_one_there() -> None:
    log_z = np.r_[np.linspace(-30, 30, 601), -1e-6, 1e-6]
    loss = partition.cross_entropy(log_z)
    assert isinstance(loss, np.ndarray) and (loss >= 1).all() and (loss[np.abs(log_z) > 1e-3] > 1).all()
    np.testing.assert_allclose(loss, log_z + np.exp(-log_z), rtol=1e-15)
    assert partition.cross_entropy(0.0) == 1.0 and isinstance(partition.cross_entropy(0.0), float)
    assert partition.cross_entropy(1e5) == 1e5 and partition.cross_entropy(-1e4) == inf


@pytest.mark.parametrize("n", [1, 16, 1024, 976_896])
def test_at_as_many_patterns_as_are_stored_the_partition_function_is_one(n: int) -> None:
    volume, integral = partition.patterns_stored(n), partition.patterns_stored(n, by="integral")
    assert volume == pytest.approx(0.5 * math.log(math.pi * n), abs=0.2 / n)
    assert volume + partition.log_ball_volume(n, partition.radius(n)) == pytest.approx(0, abs=1e-9)
    low, high = volume, volume + n / (2 * math.pi * math.e)  # what the bounds on the integral allow
    assert low < integral < high
    if integral < 700:
        assert partition.log_partition(math.exp(integral), n) == pytest.approx(0, abs=1e-9)
        assert partition.cross_entropy(partition.log_partition(math.exp(integral), n)) == pytest.approx(1, abs=1e-12)
    assert partition.patterns_stored(n, 0.5) == -partition.log_ball_volume(n, 0.5)
    assert partition.patterns_stored(n, 0.5, by="integral") == -partition.log_ball_integral(n, 0.5)
    assert partition.log_partition(3, n, 0.5) == pytest.approx(math.log(3) + partition.log_ball_integral(n, 0.5))


def test_the_prediction_has_the_numbers_of_the_papers_own_model() -> None:
    """N ≈ A l D², d ≈ √(πn) patterns of T tokens, n = T D: the constant is A l D / (π T³)."""
    found = partition.prediction(width=954, length=1024, layers=8, per_layer=10)
    assert found.dimension == 1024 * 954 and f"{found.constant:.1e}" == "2.3e-05"
    assert found.parameters == 10 * 8 * 954**2
    assert found.radius == pytest.approx(math.sqrt(found.dimension / (2 * math.pi * math.e)))
    assert math.exp(found.log_patterns) == pytest.approx(math.sqrt(math.pi * found.dimension), rel=1e-6)
    assert found.tokens == pytest.approx(1024 * math.exp(found.log_patterns))
    assert found.parameters == pytest.approx(found.constant * found.tokens**2)
    assert found.log_patterns_integral == partition.patterns_stored(found.dimension, by="integral")
    for width, length, layers in ((32, 64, 2), (128, 16, 6)):
        found = partition.prediction(width, length, layers)
        assert found.constant == pytest.approx(12 * layers * width / (math.pi * length**3), rel=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: partition.log_ball_volume(0, 1.0), "n is 0: give a whole number of at least 1"),
        (lambda: partition.log_ball_integral(2.5, 1.0), "n is 2.5"),
        (lambda: partition.log_ball_integral(2, 0.0), "r is 0.0: give a number above 0"),
        (lambda: partition.log_ball_integral(2, nan), "r is nan"),
        (lambda: partition.log_ball_integral_bounds(2, inf), "r is inf"),
        (lambda: partition.log_ball_volume(2, -1.0), "r is -1.0"),
        (lambda: partition.radius(0), "n is 0"),
        (lambda: partition.log_partition(0, 2), "patterns is 0"),
        (lambda: partition.log_partition(1, 2, 0.0), "r is 0.0"),
        (lambda: partition.patterns_stored(2, by="x"), "by is 'x': give volume or integral"),  # type: ignore[arg-type]
        (lambda: partition.patterns_stored(0), "n is 0"),
        (lambda: partition.prediction(0, 1, 1), "width is 0"),
        (lambda: partition.prediction(8, 1, 0), "layers is 0"),
        (lambda: partition.prediction(8, 1, 1, per_layer=0), "per_layer is 0"),
    ],
)
def test_impossible_balls_are_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
