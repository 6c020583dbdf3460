"""Scaling laws as data: each equation against an independent form of it, its limits, its starts and bounds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from olm.errors import InputError
from olm.scaling import fit, laws, problem

N, D = np.array([7e7, 1e9, 3e10]), np.array([2e9, 5e10, 4e11])

CASES = {
    "chinchilla": ({"E": 1.7, "A": 400.0, "B": 900.0, "alpha": 0.34, "beta": 0.29}, {"N": N, "D": D}),
    "kaplan_nd": ({"N_c": 6e13, "D_c": 2e13, "alpha_N": 0.076, "alpha_D": 0.103}, {"N": N, "D": D}),
    "kaplan_ns": ({"N_c": 6e13, "S_c": 2e3, "alpha_N": 0.077, "alpha_S": 0.76}, {"N": N, "S": np.array([1e3, 1e4, 3e5])}),
    "over_training": ({"E": 1.8, "a": 212.0, "b": 367.0, "eta": 0.136}, {"N": N, "D": D}),
    "data_constrained": (
        {"E": 1.87, "A": 521.0, "B": 1488.0, "alpha": 0.35, "beta": 0.37, "R_D": 15.0, "R_N": 5.0},
        {"N": N, "D": D, "U": np.array([1e9, 5e10, 5e8])},
    ),
    "d_cpt": (
        {
            "E": 1.2,
            "A": 300.0,
            "B": 700.0,
            "C": 0.2,
            "alpha": 0.3,
            "beta": 0.35,
            "eta": 0.5,
            "gamma": 0.4,
            "epsilon": 0.1,
        },
        {"N": N, "D": D, "r": np.array([0.1, 0.5, 1.0])},
    ),
    "cmr": ({"a": -0.1, "s": 0.4, "b": 1.6}, {"R": np.array([0.25, 0.5, 1.0])}),
}


def chinchilla(p: dict[str, float], x: dict[str, np.ndarray]) -> np.ndarray:
    terms = [np.log(p["A"]) - p["alpha"] * np.log(x["N"]), np.log(p["B"]) - p["beta"] * np.log(x["D"])]
    return np.exp(np.logaddexp.reduce([*terms, np.full(len(x["N"]), np.log(p["E"]))], axis=0))


def data_constrained(p: dict[str, float], x: dict[str, np.ndarray]) -> np.ndarray:
    losses = []
    for n, d, u in zip(x["N"], x["D"], x["U"], strict=True):
        g = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / (p["alpha"] + p["beta"]))
        # the compute-optimal size for u tokens: D = (C/6)^b / g and N = g (C/6)^a, eliminating C
        size = min(n, g * (u * g) ** (p["beta"] / p["alpha"]))
        r_n, r_d = n / size - 1, d / u - 1
        n_worth = size + size * p["R_N"] * (1 - np.exp(-r_n / p["R_N"]))
        d_worth = u + u * p["R_D"] * (1 - np.exp(-r_d / p["R_D"]))
        losses.append(p["E"] + p["A"] / n_worth ** p["alpha"] + p["B"] / d_worth ** p["beta"])
    return np.array(losses)


INDEPENDENT = {
    "chinchilla": chinchilla,
    "kaplan_nd": lambda p, x: ((p["N_c"] / x["N"]) ** (p["alpha_N"] / p["alpha_D"]) + p["D_c"] / x["D"]) ** p["alpha_D"],
    "kaplan_ns": lambda p, x: (p["N_c"] / x["N"]) ** p["alpha_N"] + (p["S_c"] / x["S"]) ** p["alpha_S"],
    # as two power laws with exponent 2η
    "over_training": lambda p, x: (
        p["E"] + p["a"] * 6 ** -p["eta"] * x["N"] ** (-2 * p["eta"]) + p["b"] * 6 ** -p["eta"] * x["D"] ** (-2 * p["eta"])
    ),
    "data_constrained": data_constrained,
    "d_cpt": lambda p, x: (
        p["E"]
        + p["A"] / x["N"] ** p["alpha"]
        + p["B"] * x["r"] ** p["eta"] / x["D"] ** p["beta"]
        + p["C"] / (x["r"] + p["epsilon"]) ** p["gamma"]
    ),
    "cmr": lambda p, x: p["a"] * x["R"] ** p["s"] + p["b"],
}


@pytest.mark.parametrize("name", laws.NAMES)
def test_a_law_is_its_equation(name: str, x64: None) -> None:
    parameters, columns = CASES[name]
    law = laws.named(name)
    assert tuple(columns) == law.columns
    assert {p.name for p in law.parameters} == set(parameters)
    predicted = np.asarray(law.predict(parameters, columns))
    np.testing.assert_allclose(predicted, INDEPENDENT[name](parameters, columns), rtol=1e-12)


@pytest.mark.parametrize("name", [*laws.NAMES, "cmr_domain", "cmr_general"])
def test_starts_lie_within_bounds_and_can_be_differentiated_twice(name: str, x64: None) -> None:
    law = laws.named("cmr", form=name.removeprefix("cmr_")) if name.startswith("cmr_") else laws.named(name)
    columns = {"T": np.array([1.0, 10.0, 50.0, 100.0, 200.0])} if name.startswith("cmr_") else CASES[name][1]
    columns = {key: np.tile(value, 3) for key, value in columns.items()}
    posed = problem.pose(law, columns, np.full(len(next(iter(columns.values()))), 2.5))
    starts = problem.grid(posed)
    lower, upper = posed.bounds
    assert ((starts >= lower) & (starts <= upper)).all()
    assert law.source and law.equation
    some = jnp.asarray(starts[:: max(1, len(starts) // 50)])
    hessian = jax.jit(jax.vmap(jax.hessian(posed.functions.objective), (0, None, None)))(some, posed.shared, posed.own)
    assert np.isfinite(hessian).all(), f"{name} at {some[np.argmin(np.isfinite(hessian).all((1, 2)))]}"


def test_data_seen_once_by_a_small_model_is_chinchilla(x64: None) -> None:
    parameters = CASES["data_constrained"][0]
    once = {"N": np.array([1e7, 1e8]), "D": np.array([1e11, 1e12])}
    plain = laws.chinchilla().predict(parameters, once)
    same = laws.data_constrained().predict(parameters, {**once, "U": once["D"]})
    np.testing.assert_allclose(same, plain, rtol=1e-12)
    repeated = laws.data_constrained().predict(parameters, {**once, "U": once["D"] / 20})
    assert (np.asarray(repeated) > np.asarray(plain)).all()
    # endless repetition is worth U (1 + R_D) tokens, no more
    endless = laws.data_constrained().predict(parameters, {"N": 1e7, "D": 1e20, "U": 1e10})
    worth = laws.chinchilla().predict(parameters, {"N": 1e7, "D": 1e10 * (1 + parameters["R_D"])})
    np.testing.assert_allclose(endless, worth, rtol=1e-12)


def test_kaplan_limits(x64: None) -> None:
    p = CASES["kaplan_nd"][0]
    predict = laws.kaplan_nd().predict
    np.testing.assert_allclose(predict(p, {"N": 1e9, "D": 1e40}), (p["N_c"] / 1e9) ** p["alpha_N"], rtol=1e-12)
    np.testing.assert_allclose(predict(p, {"N": 1e60, "D": 1e9}), (p["D_c"] / 1e9) ** p["alpha_D"], rtol=1e-12)


def test_published_loss_against_domain_share() -> None:
    """Gu et al. 2024, table 2, four model sizes: the law on four shares, extrapolated to the fifth by exact least squares."""
    shares = [1.0, 0.75, 0.5, 0.33]
    table = {
        "460M": ([1.4628, 1.4844, 1.5122, 1.5387], 1.5561, -0.0011),
        "940M": ([1.3723, 1.3910, 1.4155, 1.4385], 1.4538, -0.0010),
        "1.6B": ([1.3242, 1.3416, 1.3643, 1.3854], 1.3994, -0.0010),
        "3.1B": ([1.2585, 1.2750, 1.2965, 1.3170], 1.3305, -0.0008),
    }
    for size, (losses, measured, miss) in table.items():
        found = fit(loss=losses, R=shares, law="cmr")
        assert found.status == "converged", size
        assert found.predict(R=0.25)[0] - measured == pytest.approx(miss, abs=6e-5), size


def test_shares_are_fractions() -> None:
    columns = {"N": N, "D": D, "r": [0.1, 50.0, 1.0]}
    with pytest.raises(InputError, match=r"row 2, column r: 50 is no share: give fractions up to 1, not per cent"):
        fit(loss=[3.0, 2.5, 2.0], law="d_cpt", fixed={k: v for k, v in CASES["d_cpt"][0].items() if k != "E"}, **columns)
    zero = fit(
        loss=[3.0, 2.5, 2.0], law="d_cpt", fixed={k: v for k, v in CASES["d_cpt"][0].items() if k != "E"}, N=N, D=D, r=[0, 0.5, 1]
    )
    assert np.isfinite(zero.predict(N, D, r=[0, 0.5, 1])).all()


def test_unknown_names() -> None:
    with pytest.raises(InputError, match="did you mean 'chinchilla'"):
        laws.named("chinchila")
    with pytest.raises(InputError, match="form is 'share': give one of ratio, domain, general"):
        laws.cmr("share")
