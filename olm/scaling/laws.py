"""Scaling laws as data: for each its equation, parameters with starts and bounds, and where it comes from.

A `Law` says how a loss follows from columns of a table (model size N, tokens D, …). Nothing here fits anything; `olm.scaling.fit`
does, for a law of this module or one of the caller's own. Conventions that every law shares: losses are in nats per token,
N counts parameters, D tokens, both as plain numbers (not billions). Whether N includes embeddings is the table's choice and
moves every coefficient; the published figures named below say which they took.

Not here: laws over the steps of a run (`olm.scaling.curves`, `olm.scaling.steps`).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from olm.errors import InputError
from olm.types import Array

__all__ = [
    "NAMES",
    "Law",
    "Parameter",
    "chinchilla",
    "cmr",
    "d_cpt",
    "data_constrained",
    "kaplan_nd",
    "kaplan_ns",
    "named",
    "over_training",
]

Columns = Mapping[str, Any]


class Parameter(NamedTuple):
    """One coefficient of a law.

    Attributes:
      name: as in the equation.
      log: fitted as its logarithm, hence positive.
      starts: grid values in the fitted coordinate, that is ln of the value where ``log``.
      lower, upper: bounds in natural scale; may be 0 and inf.
    """

    name: str
    log: bool
    starts: tuple[float, ...]
    lower: float
    upper: float


class Law(NamedTuple):
    """A loss as a function of columns, with what a fit of it needs to know.

    Attributes:
      name: as `named` takes it.
      columns: names of the columns that it needs.
      parameters: its coefficients, in the order of every array over them.
      predict: ``predict(parameters by name, columns) -> [rows]`` losses; traceable and twice differentiable.
      source: the paper.
      equation: in one line.
      huber: δ of the Huber loss of a residual, None for least squares.
      residual: "log" (of ln prediction − ln loss) or "raw".
      prepare: ``prepare(columns) -> columns``, on the host once before a fit and before each prediction; None changes nothing.
      positive: columns whose cells must be above zero; None for all.
    """

    name: str
    columns: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    predict: Callable[[Mapping[str, Array], Columns], Array]
    source: str
    equation: str
    huber: float | None = 1e-3
    residual: str = "log"
    prepare: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    positive: tuple[str, ...] | None = None


def _coefficient(name: str, starts: tuple[float, ...], lower: float = 1e-6, upper: float = 1e30) -> Parameter:
    return Parameter(name, True, starts, lower, upper)


def _exponent(name: str, starts: tuple[float, ...] = (0.1, 0.3, 0.6, 1.0), upper: float = 5.0) -> Parameter:
    return Parameter(name, False, starts, 0.0, upper)


# An irreducible loss that the data do not show runs off to ln E = −∞; the bound makes that visible.
IRREDUCIBLE = Parameter("E", True, (-1.0, -0.5, 0.0, 0.5, 1.0), 1e-4, np.inf)
HALVES, FIVES = (0.0, 0.5, 1.0, 1.5, 2.0), (0.0, 5.0, 10.0, 15.0, 20.0, 25.0)


def _power(base: Array, exponent: Array) -> Array:
    """base^exponent for a positive base, by exp and log: cheap to differentiate twice."""
    return jnp.exp(exponent * jnp.log(base))


def _chinchilla(p: Mapping[str, Array], x: Columns) -> Array:
    return p["E"] + p["A"] * _power(x["N"], -p["alpha"]) + p["B"] * _power(x["D"], -p["beta"])


def chinchilla() -> Law:
    """L(N, D) = E + A/N^α + B/D^β, Approach 3, from the published grid of 4,500 starts.

    Minimised is Σ Huber_δ(ln L̂ − ln L), δ = 10⁻³, summed rather than averaged (an average makes stopping rules fire early).

    Returns:
      A `Law` over columns N (the paper's includes embeddings) and D.

    Source: Hoffmann et al. 2022 (arXiv 2203.15556), section 3.3 and appendix D.3; Besiroglu et al. 2024 (arXiv 2404.10102).

    >>> published = {"E": 1.69337, "A": 406.40, "B": 410.72, "alpha": 0.33917, "beta": 0.28491}
    >>> round(float(chinchilla().predict(published, {"N": 70e9, "D": 1.4e12})), 2)
    1.92
    """
    parameters = (
        IRREDUCIBLE,
        _coefficient("A", FIVES),
        _coefficient("B", FIVES),
        _exponent("alpha", HALVES),
        _exponent("beta", HALVES),
    )
    source = "Hoffmann et al. 2022 (arXiv 2203.15556), Approach 3"
    return Law("chinchilla", ("N", "D"), parameters, _chinchilla, source, "L = E + A/N^α + B/D^β")


def _kaplan_nd(p: Mapping[str, Array], x: Columns) -> Array:
    size = _power(p["N_c"] / x["N"], p["alpha_N"] / p["alpha_D"])
    return _power(size + p["D_c"] / x["D"], p["alpha_D"])


def kaplan_nd() -> Law:
    """L(N, D) = [(N_c/N)^(α_N/α_D) + D_c/D]^α_D, trained to convergence or stopped early.

    Returns:
      A `Law` over columns N (the paper's excludes embeddings) and D.

    Source: Kaplan et al. 2020 (arXiv 2001.08361), equation 1.5.

    >>> p = {"N_c": 8.8e13, "D_c": 5.4e13, "alpha_N": 0.076, "alpha_D": 0.095}
    >>> endless = kaplan_nd().predict(p, {"N": 1e9, "D": 1e30})
    >>> round(float(endless), 3), round((8.8e13 / 1e9) ** 0.076, 3)
    (2.376, 2.376)
    """
    logs = (15.0, 20.0, 25.0, 30.0, 35.0)
    exponents = (0.05, 0.1, 0.2, 0.4)
    parameters = (
        _coefficient("N_c", logs),
        _coefficient("D_c", logs),
        Parameter("alpha_N", True, tuple(np.log(exponents).tolist()), 1e-3, 5.0),
        Parameter("alpha_D", True, tuple(np.log(exponents).tolist()), 1e-3, 5.0),
    )
    equation = "L = [(N_c/N)^(α_N/α_D) + D_c/D]^α_D"
    return Law("kaplan_nd", ("N", "D"), parameters, _kaplan_nd, "Kaplan et al. 2020 (arXiv 2001.08361), equation 1.5", equation)


def _kaplan_ns(p: Mapping[str, Array], x: Columns) -> Array:
    return _power(p["N_c"] / x["N"], p["alpha_N"]) + _power(p["S_c"] / x["S"], p["alpha_S"])


def kaplan_ns() -> Law:
    """L(N, S) = (N_c/N)^α_N + (S_c/S)^α_S, the loss after S steps.

    Returns:
      A `Law` over columns N (without embeddings) and S (the paper's: the steps that an infinite batch would have needed).

    Source: Kaplan et al. 2020 (arXiv 2001.08361), equation 1.6.

    >>> p = {"N_c": 6.5e13, "S_c": 2100.0, "alpha_N": 0.077, "alpha_S": 0.76}
    >>> float(kaplan_ns().predict(p, {"N": 6.5e13, "S": 2100.0}))
    2.0
    """
    parameters = (
        _coefficient("N_c", (5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0)),
        _coefficient("S_c", (-5.0, 0.0, 5.0, 10.0, 15.0)),
        _exponent("alpha_N", (0.05, 0.1, 0.2, 0.5)),
        _exponent("alpha_S", (0.2, 0.5, 0.8, 1.2)),
    )
    equation = "L = (N_c/N)^α_N + (S_c/S)^α_S"
    return Law("kaplan_ns", ("N", "S"), parameters, _kaplan_ns, "Kaplan et al. 2020 (arXiv 2001.08361), equation 1.6", equation)


def _over_training(p: Mapping[str, Array], x: Columns) -> Array:
    multiplier, flops = x["D"] / x["N"], 6.0 * x["N"] * x["D"]
    spread = p["a"] * _power(multiplier, p["eta"]) + p["b"] * _power(multiplier, -p["eta"])
    return p["E"] + spread * _power(flops, -p["eta"])


def over_training() -> Law:
    """L = E + (a M^η + b M^−η) C^−η with M = D/N tokens for each parameter and C = 6ND; least squares on the raw loss.

    The same law as Chinchilla's with both exponents 2η. The published fits take five runs: four small models at M = 20 and the
    smallest at M = 320.

    Returns:
      A `Law` over columns N (the paper's includes embeddings) and D.

    Source: Gadre et al. 2024 (arXiv 2403.08540), equation 4.

    >>> p = {"E": 1.8366, "a": 212.24, "b": 366.69, "eta": 0.13643}
    >>> round(float(over_training().predict(p, {"N": 1.4e9, "D": 640 * 1.4e9})), 2)
    2.52
    """
    parameters = (
        IRREDUCIBLE._replace(starts=(-1.0, 0.0, 0.5, 1.0)),
        _coefficient("a", (0.0, 2.5, 5.0, 7.5, 10.0)),
        _coefficient("b", (0.0, 2.5, 5.0, 7.5, 10.0)),
        _exponent("eta", (0.05, 0.1, 0.2, 0.3, 0.5)),
    )
    return Law(
        "over_training",
        ("N", "D"),
        parameters,
        _over_training,
        "Gadre et al. 2024 (arXiv 2403.08540), equation 4",
        "L = E + (a M^η + b M^−η) C^−η, M = D/N, C = 6ND",
        huber=None,
        residual="raw",
    )


def _effective(unique: Array, repeats: Array, scale: Array) -> Array:
    """What unique units seen 1 + repeats times are worth, in unique units."""
    return unique * (1.0 - scale * jnp.expm1(-repeats / scale))


def _data_constrained(p: Mapping[str, Array], x: Columns) -> Array:
    unique = jnp.minimum(x["U"], x["D"])
    data = _effective(unique, x["D"] / unique - 1.0, p["R_D"])
    balance = _power(p["alpha"] * p["A"] / (p["beta"] * p["B"]), 1.0 / (p["alpha"] + p["beta"]))
    useful = jnp.minimum(x["N"], _power(unique * balance, p["beta"] / p["alpha"]) * balance)
    size = _effective(useful, x["N"] / useful - 1.0, p["R_N"])
    return p["E"] + p["A"] * _power(size, -p["alpha"]) + p["B"] * _power(data, -p["beta"])


def data_constrained() -> Law:
    """Chinchilla's law with repeated tokens and excess parameters worth less and less.

    L = E + A/N'^α + B/D'^β; D' = U (1 + R_D (1 − exp(−r_D/R_D))) with r_D = D/U − 1 repetitions of U unique tokens;
    N' = n (1 + R_N (1 − exp(−r_N/R_N))) with n = min(N, the compute-optimal size for U tokens) and r_N = N/n − 1.
    The published fit holds the five parameters of Chinchilla's law and fits R_D and R_N (``fixed=``).

    Returns:
      A `Law` over columns N, D (tokens seen, repetitions included) and U (unique tokens; those above D count as D).

    Source: Muennighoff et al. 2023 (arXiv 2305.16264), equations 5 and 6, appendix A.

    >>> import math
    >>> p = {"E": math.exp(0.6254804), "A": math.exp(6.255414), "B": math.exp(7.3049974), "alpha": 0.3526596, "beta": 0.3526596}
    >>> loss = data_constrained().predict(p | {"R_D": 15.387756, "R_N": 5.309743}, {"N": 6.34e9, "D": 242e9, "U": 25e9})
    >>> round(float(loss), 3)
    2.226
    """
    decay = tuple(np.log((1.0, 3.0, 5.0, 10.0, 20.0)).tolist())
    parameters = (
        IRREDUCIBLE._replace(starts=(-0.5, 0.5)),
        _coefficient("A", (3.0, 6.0, 10.0)),
        _coefficient("B", (3.0, 7.0, 12.0)),
        _exponent("alpha", (0.2, 0.35, 0.6))._replace(lower=0.01),
        _exponent("beta", (0.2, 0.35, 0.6))._replace(lower=0.01),
        _coefficient("R_D", decay, 1e-3, 1e6),
        _coefficient("R_N", decay, 1e-3, 1e6),
    )
    equation = "L = E + A/N'^α + B/D'^β, N' and D' the worth of N parameters and of D tokens of which U are unique"
    source = "Muennighoff et al. 2023 (arXiv 2305.16264), equations 5 and 6"
    return Law("data_constrained", ("N", "D", "U"), parameters, _data_constrained, source, equation)


def _share(columns: dict[str, Any], name: str, zero: bool) -> dict[str, Any]:
    share = np.asarray(columns[name], np.float64)
    bad = (share > 1) | ((share < 0) if zero else (share <= 0))
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(f"row {row + 1}, column {name}: {share[row]:g} is no share: give fractions up to 1, not per cent")
    return columns


def _d_cpt(p: Mapping[str, Array], x: Columns) -> Array:
    # 0^η is 0 and flat in η; the logarithm is kept away from zero, where its derivative is not finite.
    domain = jnp.where(x["r"] > 0, _power(jnp.where(x["r"] > 0, x["r"], 1.0), p["eta"]), 0.0)
    mixture = p["C"] * _power(x["r"] + p["epsilon"], -p["gamma"])
    return p["E"] + p["A"] * _power(x["N"], -p["alpha"]) + p["B"] * domain * _power(x["D"], -p["beta"]) + mixture


def d_cpt() -> Law:
    """L(N, D, r) = E + A/N^α + B r^η/D^β + C/(r + ε)^γ, the loss after continual pre-training with a share r of one domain.

    Nine parameters: tables need several sizes, lengths and shares. ε keeps r = 0 finite and is often held (``fixed=``).

    Returns:
      A `Law` over columns N, D (tokens of the continued training) and r (0 to 1, share of the domain whose loss this is).

    Source: Que et al. 2024 (arXiv 2406.01375), equation 6.

    >>> p = dict.fromkeys(["E", "A", "B", "C", "alpha", "beta", "eta", "gamma"], 1.0) | {"epsilon": 0.5}
    >>> float(d_cpt().predict(p, {"N": 2.0, "D": 2.0, "r": 0.5}))
    2.75
    """
    parameters = (
        IRREDUCIBLE._replace(starts=(-0.5, 0.5)),
        _coefficient("A", (5.0, 10.0)),
        _coefficient("B", (5.0, 10.0)),
        _coefficient("C", (-4.0, -1.0)),
        _exponent("alpha", (0.3, 0.6)),
        _exponent("beta", (0.3, 0.6)),
        _exponent("eta", (0.3, 1.0)),
        _exponent("gamma", (0.3, 1.0)),
        _coefficient("epsilon", (-4.0, -1.0), 1e-6, 10.0),
    )
    return Law(
        "d_cpt",
        ("N", "D", "r"),
        parameters,
        _d_cpt,
        "Que et al. 2024 (arXiv 2406.01375)",
        "L = E + A/N^α + B r^η/D^β + C/(r + ε)^γ",
        prepare=_prepare_d_cpt,
        positive=("N", "D"),
    )


def _prepare_d_cpt(columns: dict[str, Any]) -> dict[str, Any]:
    return _share(columns, "r", zero=True)


def _prepare_ratio(columns: dict[str, Any]) -> dict[str, Any]:
    return _share(columns, "R", zero=False)


def _cmr_ratio(p: Mapping[str, Array], x: Columns) -> Array:
    return p["a"] * _power(x["R"], p["s"]) + p["b"]


def _cmr_domain(p: Mapping[str, Array], x: Columns) -> Array:
    return p["a"] * _power(x["T"], p["s"]) + p["b"]


def _cmr_general(p: Mapping[str, Array], x: Columns) -> Array:
    return p["a"] * _power(x["T"], -p["s"]) + p["c"] * _power(x["T"], p["u"]) + p["b"]


def cmr(form: str = "ratio") -> Law:
    """Continual pre-training with a share of domain data: loss against the share, or against tokens at a fixed share.

    "ratio": L = a R^s + b; "domain": L = a T^s + b; "general": L = a T^−s + c T^u + b with s, u, c ≥ 0, the loss on the
    general data, which may fall and rise. Least squares on the raw loss.

    Args:
      form: "ratio" (column R, share of domain data in (0, 1]), "domain" or "general" (column T, tokens in any unit; the
        paper's is 0.2 billion).

    Returns:
      A `Law` over one column.

    Raises:
      InputError: for another form.

    Source: Gu et al. 2024 (arXiv 2407.17467), section 4; the general form's signs are made explicit so that its two powers
    do not change places.

    >>> float(cmr("ratio").predict({"a": -2.0, "s": 0.5, "b": 3.0}, {"R": 0.25}))
    2.0
    """
    free = (-np.inf, np.inf)
    offset = Parameter("b", False, (0.0, 1.0, 2.0, 3.0), *free)
    amplitude = Parameter("a", False, (-1.0, -0.1, 0.1, 1.0), *free)
    power = Parameter("s", False, (-1.0, -0.3, 0.3, 1.0), -5.0, 5.0)
    forms = {
        "ratio": ("R", (amplitude, power, offset), _cmr_ratio, "L = a R^s + b", _prepare_ratio),
        "domain": ("T", (amplitude, power, offset), _cmr_domain, "L = a T^s + b", None),
        "general": (
            "T",
            (
                _coefficient("a", (-3.0, -1.0, 1.0)),
                _exponent("s", (0.1, 0.4, 1.0)),
                _coefficient("c", (-7.0, -4.0, -1.0), 1e-9),
                _exponent("u", (0.1, 0.4, 1.0)),
                offset,
            ),
            _cmr_general,
            "L = a T^−s + c T^u + b",
            None,
        ),
    }
    if form not in forms:
        raise InputError(f"form is {form!r}: give one of {', '.join(forms)}")
    column, parameters, predict, equation, prepare = forms[form]
    source = "Gu et al. 2024 (arXiv 2407.17467)"
    return Law(f"cmr_{form}", (column,), parameters, predict, source, equation, huber=None, residual="raw", prepare=prepare)


_LAWS: dict[str, Callable[..., Law]] = {
    "chinchilla": chinchilla,
    "kaplan_nd": kaplan_nd,
    "kaplan_ns": kaplan_ns,
    "over_training": over_training,
    "data_constrained": data_constrained,
    "d_cpt": d_cpt,
    "cmr": cmr,
}
NAMES = tuple(_LAWS)


def named(name: str, **options: Any) -> Law:
    """The law of a name, as a command line gives it.

    Args:
      name: one of `NAMES`.
      options: passed on, such as ``form="domain"`` for "cmr".

    Returns:
      A `Law`.

    Raises:
      InputError: for a name that is none of them.

    >>> named("kaplan_ns").columns
    ('N', 'S')
    """
    if name not in _LAWS:
        close = difflib.get_close_matches(str(name), NAMES, n=1)
        hint = f"did you mean {close[0]!r}? The laws are" if close else "give one of"
        raise InputError(f"law is {name!r}: {hint} {', '.join(NAMES)}")
    return _LAWS[name](**options)
