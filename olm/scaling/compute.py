"""Compute: what a training run costs, how to spend a budget under a fitted law, and the two approaches that need no law.

`allocate` minimises a fitted L(N, D) at C = c N D (Hoffmann et al. 2022, Approach 3 once fitted). `isoflop` is their Approach 2,
parabolas in ln N at fixed budgets; `envelope` their Approach 1, the lower envelope of whole loss curves. Every convention of
counting is an argument: whether N takes in embeddings and whether attention counts moves the exponents.

Not done: prices of communication or memory, batch sizes, inference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from olm.errors import InputError, check_number, check_whole
from olm.scaling.fit import Fit
from olm.scaling.intervals import quantile
from olm.scaling.laws import Law
from olm.scaling.problem import checked_columns
from olm.types import Array

__all__ = [
    "Allocation",
    "IsoFlop",
    "PowerLaw",
    "allocate",
    "envelope",
    "isoflop",
    "power_law",
    "training_flops",
    "transformer_flops",
]

_GRID = 513  # sizes tried before the search narrows


# --- counting ---------------------------------------------------------------------------------------------------------


def training_flops(N: Any, D: Any, *, embedding: Any = 0.0, n_layer: Any = 0, n_ctx: Any = 0, d_attn: Any = 0) -> np.ndarray:
    """FLOPs of a training run, 3 (2 (N − embedding) + 2 n_layer n_ctx d_attn) D: forward, and twice that on the way back.

    Without further arguments this is 6 N D. With ``embedding`` the parameters of embeddings are left out (Kaplan et al. 2020);
    with the other three the products of attention count, which 6 N D leaves out.

    Args:
      N: parameters, embeddings included.
      D: training tokens.
      embedding: parameters among N that look up and multiply nothing.
      n_layer, n_ctx, d_attn: layers, tokens of context, width of the attention's output.

    Returns:
      FLOPs, the arguments' shape.

    Raises:
      InputError: some but not all of the three, or more embedding parameters than parameters.

    Source: Kaplan et al. 2020, section 2.1 and table 1.

    >>> float(training_flops(1e9, 2e10))
    1.2e+20
    >>> float(training_flops(1e9, 2e10, n_layer=20, n_ctx=1000, d_attn=1000) / training_flops(1e9, 2e10))
    1.02
    """
    shape = [np.asarray(value, np.float64) for value in (n_layer, n_ctx, d_attn)]
    if len({bool(np.any(value)) for value in shape}) > 1:
        raise InputError("attention needs n_layer, n_ctx and d_attn: give all three, or none")
    counted = np.asarray(N, np.float64) - embedding
    if (counted <= 0).any():
        raise InputError("embedding has as many parameters as N: N takes the embeddings in, give the whole count")
    return 3 * (2 * counted + 2 * shape[0] * shape[1] * shape[2]) * D


def transformer_flops(
    D: Any, *, n_layer: int, d_model: int, d_ff: int, n_ctx: int, vocabulary: int, d_attn: int | None = None, n_heads: int = 1
) -> float:
    """FLOPs of training a decoder, product by product, embeddings and logits included.

    Forward, per sequence of s tokens: embedding 2 s V d; a layer's attention 6 s d a + 2 s² a + 3 h s² + 2 s² a + 2 s a d and
    dense 4 s d f; logits 2 s d V. Training costs three times that.

    Args:
      D: training tokens.
      n_layer: layers.
      d_model, d_ff: d and f.
      n_ctx: s.
      vocabulary: V.
      d_attn: a, keys of all heads together; None: d.
      n_heads: h, for the softmax.

    Returns:
      FLOPs.

    Source: Hoffmann et al. 2022, appendix F.

    >>> flops = transformer_flops(1e9, n_layer=10, d_model=640, d_ff=2560, n_ctx=2048, vocabulary=32000, n_heads=10)
    >>> round(flops / 1e18, 2)
    0.7
    """
    s, d, a = float(n_ctx), float(d_model), float(d_model if d_attn is None else d_attn)
    attention = 6 * s * d * a + 4 * s * s * a + 3 * n_heads * s * s + 2 * s * a * d
    forward = 4 * s * vocabulary * d + n_layer * (attention + 4 * s * d * d_ff)
    return float(3 * forward * D / s)


# --- spending a budget under a law ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Allocation:
    """The size and the tokens of least loss at each budget.

    Attributes:
      flops: [n].
      N, D: [n], parameters and tokens.
      loss: [n], nats, as the law predicts it.
      intervals: {"N", "D", "loss": [n, 2]} by the delta method on logarithms.
      bootstrap: the same as percentiles over the fit's refits, or None; of those refits that have a best size.
      without_optimum: [n], of how many refits the loss falls all the way to one end, so that they have none.
      level: of both.
      flops_per_token: c of C = c N D.
    """

    flops: np.ndarray
    N: np.ndarray
    D: np.ndarray
    loss: np.ndarray
    intervals: dict[str, np.ndarray]
    bootstrap: dict[str, np.ndarray] | None
    without_optimum: np.ndarray
    level: float
    flops_per_token: float

    def rows(self) -> list[dict[str, float]]:
        """One dict a budget, intervals as ``N_low``, ``N_high`` and so on, for a table."""
        found = []
        for i, budget in enumerate(self.flops):
            row = {"flops": float(budget)}
            for name in ("N", "D", "loss"):
                row[name] = float(getattr(self, name)[i])
                row[f"{name}_low"], row[f"{name}_high"] = map(float, self.intervals[name][i])
                if self.bootstrap is not None:
                    low, high = self.bootstrap[name][i]
                    row |= {f"{name}_bootstrap_low": float(low), f"{name}_bootstrap_high": float(high)}
                    row["refits_without_optimum"] = int(self.without_optimum[i])
            found.append(row)
        return found


def _closed(parameters: Mapping[str, Array], product: Array) -> Array:
    """ln N_opt of E + A/N^α + B/D^β at N D = product."""
    p = parameters
    scale = (jnp.log(p["alpha"]) + jnp.log(p["A"]) - jnp.log(p["beta"]) - jnp.log(p["B"])) / (p["alpha"] + p["beta"])
    return scale + p["beta"] / (p["alpha"] + p["beta"]) * jnp.log(product)


def _searched(predict: Any, parameters: Mapping[str, Array], product: Array, extra: Mapping[str, Array]) -> tuple[Array, Array]:
    """ln N_opt of any law, and whether it lies inside; its derivative is the implicit function's.

    A grid over all of 1 ≤ N ≤ product brackets the minimum, golden sections narrow it, and one Newton step from there, which
    alone is differentiated, has the derivative −f''⁻¹ ∂f'/∂p of the minimum.
    """

    def loss(u: Array, parameters: Mapping[str, Array]) -> Array:
        return predict(parameters, {**extra, "N": jnp.exp(u), "D": product * jnp.exp(-u)})

    still = jax.lax.stop_gradient(dict(parameters))
    grid = jnp.linspace(0.0, jnp.log(product), _GRID)
    values = jax.vmap(lambda u: loss(u, still))(grid)
    values = jnp.where(jnp.isfinite(values), values, jnp.inf)
    best = jnp.argmin(values)
    inside = (best > 0) & (best < _GRID - 1)
    golden = (np.sqrt(5) - 1) / 2

    def narrow(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        left, right = high - golden * (high - low), low + golden * (high - low)
        lower = loss(left, still) < loss(right, still)
        return jnp.where(lower, low, left), jnp.where(lower, right, high)

    low, high = grid[jnp.maximum(best - 1, 0)], grid[jnp.minimum(best + 1, _GRID - 1)]
    low, high = jax.lax.fori_loop(0, 35, narrow, (low, high))
    u = jax.lax.stop_gradient((low + high) / 2)
    slope = jax.grad(loss)
    curvature = jax.lax.stop_gradient(jax.grad(lambda v: slope(v, still))(u))
    return u - slope(u, parameters) / curvature, inside


@partial(jax.jit, static_argnums=(0, 1, 2))
def _optima(
    predict: Any, coordinates: tuple[tuple[str, bool], ...], closed: bool, x: Array, product: Array, extra: Mapping[str, Array]
) -> tuple[Array, Array]:
    """[n, 3] of ln N, ln D and ln L at each budget, from coordinates x [P]; and [n], whether the minimum lies inside."""
    parameters = {name: jnp.exp(x[i]) if log else x[i] for i, (name, log) in enumerate(coordinates)}

    def one(product: Array) -> tuple[Array, Array]:
        u, inside = (_closed(parameters, product), jnp.bool_(True)) if closed else _searched(predict, parameters, product, extra)
        v = jnp.log(product) - u
        return jnp.stack([u, v, jnp.log(predict(parameters, {**extra, "N": jnp.exp(u), "D": jnp.exp(v)}))]), inside

    return jax.vmap(one)(product)


def allocate(
    fit: Fit, flops: Any, *, flops_per_token: float = 6.0, closed_form: bool | None = None, **columns: float
) -> Allocation:
    """The model size and the tokens of least predicted loss at given budgets, C = c N D.

    For L = E + A/N^α + B/D^β: N = G (C/c)^a, D = (C/c)^(1−a) / G, G = (αA / (βB))^(1/(α+β)), a = β/(α+β). For any other law of
    N and D the minimum is searched.

    Args:
      fit: a `olm.scaling.fit.Fit` of a law with columns N and D.
      flops: budgets, a number or [n].
      flops_per_token: c, FLOPs for each parameter and token; 6 is the usual count.
      closed_form: None: where there is one; False: always search.
      columns: values of the law's other columns, such as ``U``.

    Returns:
      An `Allocation`.

    Raises:
      InputError: a law without N and D, budgets that are not positive, a column without a value, a fit whose rows do not
        determine its parameters, or a law whose loss falls all the way to one end, so that no size is best.

    Source: Hoffmann et al. 2022 (arXiv 2203.15556), equation 4.

    >>> from olm.scaling.fit import fit
    >>> rng = np.random.default_rng(0)
    >>> N, D = 10 ** rng.uniform(7, 10, 40), 10 ** rng.uniform(9, 12, 40)
    >>> found = fit(N, D, 1.7 + 400 / N**0.3 + 800 / D**0.3, starts=[[1.7, 390.0, 810.0, 0.3, 0.3]])
    >>> best = allocate(found, [6e18, 6e20])
    >>> round(float(best.N[1] / best.N[0]), 6), (best.D / best.N).round(3).tolist()
    (10.0, [10.079, 10.079])
    """
    law = fit.law
    if not {"N", "D"} <= set(law.columns):
        raise InputError(f"{law.name} is a law of {', '.join(law.columns)}: only a law of N and D says how to spend a budget")
    others = [name for name in law.columns if name not in ("N", "D")]
    if set(others) != set(columns):
        raise InputError(
            f"{law.name} needs a value of {', '.join(others) or 'no further column'}: got {', '.join(columns) or 'none'}"
        )
    budgets = np.atleast_1d(np.asarray(flops, np.float64))
    if budgets.ndim != 1 or not np.isfinite(budgets).all() or (budgets <= 0).any():
        raise InputError(f"flops are {flops}: give positive numbers")
    if not flops_per_token > 0:
        raise InputError(f"flops_per_token is {flops_per_token}: give a positive number, 6 by the usual count")
    if np.isnan(fit.covariance).any():
        raise InputError(f"the fit says nothing of budgets ({fit.message}): add runs, or hold parameters (fixed=, --fixed)")
    closed = law.name == "chinchilla" if closed_form is None else closed_form
    if closed and law.name != "chinchilla":
        raise InputError(f"{law.name} has no closed form: leave closed_form out")
    names = tuple((p.name, p.log) for p in law.parameters)
    with jax.enable_x64(True):
        extra = {name: jnp.float64(columns[name]) for name in others}
        product = jnp.asarray(budgets / flops_per_token)

        def of(x: Array) -> tuple[Array, Array]:
            return _optima(law.predict, names, closed, x, product, extra)

        x = jnp.asarray(_coordinates(law, np.array([fit.parameters[name] for name, _ in names])))
        (centre, inside), jacobian = of(x), jax.jacfwd(lambda x: of(x)[0])(x)
        centre, inside, jacobian = np.asarray(centre), np.asarray(inside), np.asarray(jacobian)
        if not inside.all() or not np.isfinite(centre).all():
            worst = budgets[int(np.argmin(inside & np.isfinite(centre).all(axis=1)))]
            raise InputError(
                f"at {worst:g} FLOPs no size is best: the fitted loss falls to the end; look at the exponents' bounds"
            )
        samples, lacking = None, np.zeros(len(budgets), int)
        if fit.samples is not None:
            drawn = jnp.asarray(_coordinates(law, fit.samples))
            samples, interior = map(np.asarray, jax.lax.map(of, drawn))
            usable = interior & np.isfinite(samples).all(axis=2)
            lacking = (~usable).sum(axis=0)
            if (lacking == len(samples)).any():
                worst = budgets[int(np.argmax(lacking))]
                raise InputError(f"at {worst:g} FLOPs no refit of the bootstrap has a best size: look at the exponents' bounds")
            samples = np.where(usable[..., None], samples, np.nan)
    degrees = fit.rows - len(law.parameters) + len(fit.fixed)
    half = quantile(fit.level, degrees) * np.sqrt(np.maximum(np.einsum("nip,pq,niq->ni", jacobian, fit.covariance, jacobian), 0))
    places = {"N": 0, "D": 1, "loss": 2}
    tails = [(1 - fit.level) / 2, (1 + fit.level) / 2]
    resampled = None if samples is None else np.exp(np.nanquantile(samples, tails, axis=0))
    return Allocation(
        flops=budgets,
        N=np.exp(centre[:, 0]),
        D=np.exp(centre[:, 1]),
        loss=np.exp(centre[:, 2]),
        intervals={
            n: np.exp(np.stack([centre[:, i] - half[:, i], centre[:, i] + half[:, i]], axis=1)) for n, i in places.items()
        },
        bootstrap=None if resampled is None else {name: resampled[:, :, i].T for name, i in places.items()},
        without_optimum=lacking,
        level=fit.level,
        flops_per_token=float(flops_per_token),
    )


def _coordinates(law: Law, values: np.ndarray) -> np.ndarray:
    """Fitted coordinates [..., P] of all parameters, held ones included."""
    logs = np.array([p.log for p in law.parameters])
    return np.where(logs, np.log(np.where(logs, values, 1.0)), values)


# --- approaches 1 and 2 -----------------------------------------------------------------------------------------------


class PowerLaw(NamedTuple):
    """y = coefficient · x^exponent by least squares on logarithms.

    Attributes:
      coefficient: at x = 1.
      exponent: the slope of ln y on ln x.
      interval: of the exponent; NaN where it cannot be told.
      r2: of the logarithms.
    """

    coefficient: float
    exponent: float
    interval: tuple[float, float]
    r2: float

    def predict(self, x: Any) -> np.ndarray:
        """Coefficient · x^exponent."""
        return self.coefficient * np.asarray(x, np.float64) ** self.exponent


def power_law(x: Any, y: Any, level: float = 0.95) -> PowerLaw:
    """Regress ln y on ln x.

    Args:
      x, y: [n], positive, n ≥ 2.
      level: of the exponent's interval, by Student's t; it exists from three points on.

    Returns:
      A `PowerLaw`.

    Raises:
      InputError: fewer than two different x, or a number that is not positive.

    >>> power_law([1.0, 10.0, 100.0], [3.0, 30.0, 300.0]).exponent
    1.0
    """
    checked = checked_columns({"x": x, "y": y}, ["x", "y"])
    u, v = np.log(checked["x"]), np.log(checked["y"])
    if len(np.unique(u)) < 2:
        raise InputError("a power law needs at least two different budgets: add runs at another one")
    centred = u - u.mean()
    slope = float(centred @ v / (centred @ centred))
    rest = v - v.mean() - slope * centred
    spread = float(np.sum((v - v.mean()) ** 2))
    degrees = len(u) - 2
    half = quantile(level, degrees) * np.sqrt(rest @ rest / degrees / (centred @ centred)) if degrees > 0 else float("nan")
    r2 = 1 - float(rest @ rest) / spread if spread > 0 else float("nan")
    return PowerLaw(float(np.exp(v.mean() - slope * u.mean())), slope, (slope - float(half), slope + float(half)), r2)


@dataclass(frozen=True)
class IsoFlop:
    """Compute-optimal sizes without a law of the loss, by `isoflop` or `envelope`.

    Attributes:
      flops: [b] budgets.
      N, D, loss: [b], the optimum at each.
      N_law, D_law: the `PowerLaw` of N and of D in C.
      parabolas: [b, 3], loss = p0 + p1 (ln N − ln N*) + p2 (ln N − ln N*)²; None for an envelope.
      groups: [rows], which budget a row was used for, −1 for none; None for an envelope.
    """

    flops: np.ndarray
    N: np.ndarray
    D: np.ndarray
    loss: np.ndarray
    N_law: PowerLaw
    D_law: PowerLaw
    parabolas: np.ndarray | None = None
    groups: np.ndarray | None = None


def isoflop(
    N: Any,
    D: Any,
    loss: Any,
    *,
    C: Any = None,
    budgets: Any = None,
    tolerance: float = 0.05,
    flops_per_token: float = 6.0,
    level: float = 0.95,
    check_units: bool = True,
) -> IsoFlop:
    """Approach 2: at each budget a parabola of the loss in ln N, its minimum, and power laws of the minima in C.

    The parabola stands for a sum of two exponentials in ln N, which is not symmetric where α ≠ β: grids that are wide or not
    centred on the optimum shift the minimum, and where the grid's centre drifts with the budget they bias the exponents. Prefer
    narrow, centred grids, and compare with a fitted law (`olm.scaling.fit.fit`).

    Args:
      N, D, loss: [rows].
      C: [rows] FLOPs; None: ``flops_per_token`` N D.
      budgets: the budgets to use; None: the clusters of C.
      tolerance: how far from its budget, relative, a row may be.
      flops_per_token: c of C = c N D.
      level: of the exponents' intervals.
      check_units: refuse N or D that look like millions or billions.

    Returns:
      An `IsoFlop`.

    Raises:
      InputError: a budget with fewer than three sizes, or whose parabola has no minimum among its sizes, named; fewer than two
        budgets.

    Source: Hoffmann et al. 2022, section 3.2; the bias is studied in arXiv 2603.22339.

    >>> C, x = np.repeat([6e18, 6e20], 5), np.tile(np.linspace(-1, 1, 5), 2)
    >>> N = np.sqrt(C / 120) * np.exp(x)
    >>> found = isoflop(N, C / (6 * N), 2.0 + 0.1 * x**2)
    >>> round(found.N_law.exponent, 6), (found.D / found.N).round(6).tolist()
    (0.5, [20.0, 20.0])
    """
    given = {"N": N, "D": D, "loss": loss} | ({} if C is None else {"C": C})
    table = checked_columns(given, list(given), check_units)
    N, D, loss = table["N"], table["D"], table["loss"]
    flops = table["C"] if C is not None else flops_per_token * N * D
    _check_share("level", level)
    if not 0 < tolerance < 1:
        raise InputError(f"tolerance is {tolerance}: give a share below 1, such as .05")
    if budgets is None:
        order = np.argsort(flops)
        cluster = np.empty(len(flops), int)
        cluster[order] = np.cumsum(np.r_[0, np.diff(np.log(flops[order])) > np.log1p(tolerance)])
        parts = [np.log(flops[cluster == i]) for i in range(cluster.max() + 1)]
        wide = next((part for part in parts if np.ptp(part) > 2 * np.log1p(tolerance)), None)
        if wide is not None:  # budgets close enough to run into each other, or none at all
            low, high = np.exp(wide.min()), np.exp(wide.max())
            raise InputError(
                f"compute runs from {low:.3g} to {high:.3g} FLOPs without a gap: name the budgets (budgets=, --flops)"
            )
        budgets = np.array([np.exp(part.mean()) for part in parts])
    else:
        budgets = np.sort(checked_columns({"budgets": np.atleast_1d(budgets)}, ["budgets"])["budgets"])
    distance = np.abs(np.log(flops)[:, None] - np.log(budgets))
    nearest = distance.argmin(axis=1)
    groups = np.where(distance.min(axis=1) <= np.log1p(tolerance), nearest, -1)
    minima = [_parabola(N[groups == i], D[groups == i], loss[groups == i], budget) for i, budget in enumerate(budgets)]
    if len(minima) < 2:
        raise InputError(f"all rows are at one budget, {budgets[0]:.3g} FLOPs: a power law needs runs at two or more")
    best_N, best_D, least, parabolas = (np.array(part) for part in zip(*minima, strict=True))
    return IsoFlop(
        budgets, best_N, best_D, least, power_law(budgets, best_N, level), power_law(budgets, best_D, level), parabolas, groups
    )


def _check_share(name: str, value: float) -> None:
    check_number(name, value, "give a share between 0 and 1", 0, np.nextafter(1, 0), open_low=True)


def _parabola(N: np.ndarray, D: np.ndarray, loss: np.ndarray, budget: float) -> tuple[float, float, float, np.ndarray]:
    """N, D and loss at the minimum, and the parabola about it."""
    where, u = f"the budget of {budget:.3g} FLOPs", np.log(N)
    if len(np.unique(u)) < 3:
        raise InputError(
            f"{where} has {len(np.unique(u))} sizes: a parabola needs three or more; add runs or leave the budget out"
        )
    centre, width = u.mean(), np.ptp(u)
    p2, p1, p0 = np.polyfit((u - centre) / width, loss, 2)
    at = -p1 / (2 * p2) if p2 > 0 else np.inf
    vertex = centre + width * at
    if not p2 > 0 or not u.min() < vertex < u.max():
        ends = f"{N.min():.3g} to {N.max():.3g} parameters"
        raise InputError(
            f"{where} has no minimum inside its sizes, {ends}: add smaller or larger models, or leave the budget out"
        )
    slope, offset = np.polyfit(u - centre, np.log(D), 1)
    best_D = float(np.exp(offset + slope * (vertex - centre)))
    return float(np.exp(vertex)), best_D, float(p0 + p1 * at / 2), np.array([p0 + p1 * at / 2, 0.0, p2 / width**2])


def envelope(
    N: Any,
    D: Any,
    loss: Any,
    *,
    run: Any = None,
    C: Any = None,
    points: int = 1500,
    smooth: float = 0.0,
    subsamples: int = 100,
    share: float = 0.8,
    level: float = 0.8,
    seed: int = 0,
    flops_per_token: float = 6.0,
    check_units: bool = True,
) -> IsoFlop:
    """Approach 1: the lower envelope of runs' loss curves over compute, and power laws through the runs on it.

    At each of ``points`` budgets, evenly spaced in ln C, the run of least loss among those whose curve covers the budget gives N
    and D. Left out are budgets whose best size is the smallest or the largest that covers them: their optimum may lie beyond.
    Neighbouring points are the same run: intervals are percentiles over random subsamples of the runs, never of the points.

    Args:
      N, D, loss: [rows], D the tokens seen when the loss was measured.
      run: [rows] labels of runs; None: rows of one N are one run.
      C: [rows] FLOPs; None: ``flops_per_token`` N D.
      points: budgets.
      smooth: standard deviation of a Gaussian over a run's records, in records, before anything else; the paper's window is 10.
      subsamples: how many, each of ``share`` of the runs.
      share: of the runs.
      level: of the intervals, 0.8 being the paper's 10th to 90th percentile.
      seed: of the subsamples.
      flops_per_token: c of C = c N D.
      check_units: refuse N or D that look like millions or billions.

    Returns:
      An `IsoFlop` without parabolas.

    Raises:
      InputError: fewer than three runs, a run of one record, or no two sizes that are best between others.

    Source: Hoffmann et al. 2022, section 3.1.

    >>> sizes, tokens = np.repeat(np.geomspace(1e7, 1e10, 13), 40), np.tile(np.geomspace(1e6, 1e12, 40), 13)
    >>> found = envelope(sizes, tokens, 1.5 + 400 / sizes**0.3 + 400 / tokens**0.3, subsamples=0)
    >>> round(found.N_law.exponent, 1), round(found.D_law.exponent, 1)
    (0.5, 0.5)
    """
    given = {"N": N, "D": D, "loss": loss} | ({} if C is None else {"C": C})
    table = checked_columns(given, list(given), check_units)
    _check_share("level", level)
    _check_share("share", share)
    flops = table["C"] if C is not None else flops_per_token * table["N"] * table["D"]
    labels = np.unique(table["N"] if run is None else np.asarray(run), return_inverse=True)[1]
    check_whole("points", points, 2)
    curves = [_smoothed(labels == i, table, flops, smooth, i) for i in range(labels.max() + 1)]
    if len(curves) < 3:
        raise InputError(f"runs: {len(curves)}: an envelope needs three or more; give run labels or further sizes")
    grid = np.linspace(min(c[0][0] for c in curves), max(c[0][-1] for c in curves), points)
    sizes = np.array([curve[3] for curve in curves])
    values = np.array([np.interp(grid, u, l, left=np.inf, right=np.inf) for u, l, _, _ in curves])
    tokens = np.array([np.interp(grid, u, d) for u, _, d, _ in curves])

    def through(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        covering = np.where(np.isfinite(values[chosen]), sizes[chosen][:, None], np.nan)
        best = chosen[values[chosen].argmin(axis=0)]
        known = np.isfinite(covering).any(axis=0)
        low, high = np.fmin.reduce(covering, axis=0), np.fmax.reduce(covering, axis=0)
        return best, known & (low < sizes[best]) & (sizes[best] < high)

    best, inside = through(np.arange(len(curves)))
    at = np.flatnonzero(inside)
    if len(at) < 2 or len(np.unique(sizes[best[at]])) < 2:
        raise InputError("no two sizes are best between smaller and larger ones: give longer curves whose budgets overlap")
    budgets, N_best, D_best = np.exp(grid[at]), sizes[best[at]], np.exp(tokens[best[at], at])
    laws = [power_law(budgets, y) for y in (N_best, D_best)]
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(check_whole("subsamples", subsamples, 0)):
        chosen = np.sort(rng.permutation(len(curves))[: max(2, round(share * len(curves)))])
        again, inside = through(chosen)
        kept = np.flatnonzero(inside)
        if len(kept) > 1:
            drawn.append([power_law(np.exp(grid[kept]), y).exponent
                          for y in (sizes[again[kept]], np.exp(tokens[again[kept], kept]))])  # fmt: skip
    tails = [(1 - level) / 2, (1 + level) / 2]
    ends = np.quantile(drawn, tails, axis=0).T if drawn else np.full((2, 2), np.nan)
    N_law, D_law = (law._replace(interval=(float(low), float(high))) for law, (low, high) in zip(laws, ends, strict=True))
    return IsoFlop(budgets, N_best, D_best, values[best[at], at], N_law, D_law)


def _smoothed(
    mine: np.ndarray, table: Mapping[str, np.ndarray], flops: np.ndarray, smooth: float, place: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """A run's ln C (increasing), loss, ln D and N."""
    rows = np.flatnonzero(mine)
    rows = rows[np.argsort(flops[rows], kind="stable")]
    size = table["N"][rows]
    if len(np.unique(flops[rows])) < 2:
        raise InputError(f"the run of row {rows[0] + 1} has one record: an envelope needs curves; use isoflop or a law")
    if np.ptp(size) > 0:
        raise InputError(
            f"the run of row {rows[0] + 1} has several N: give each run one size, or run labels that tell them apart"
        )
    losses = table["loss"][rows]
    if smooth > 0:
        from scipy.ndimage import gaussian_filter1d

        losses = gaussian_filter1d(losses, smooth, mode="nearest")
    return np.log(flops[rows]), losses, np.log(table["D"][rows]), float(size[0])
