"""Laws of loss curves: published parameters against published scores, own fits of them, and recovery from synthetic curves.

``--data DIR`` holds csv_25, csv_100 and csv_400 as in thu-yao-01-luo/MultiPowerLaw @
8da9f1902602f3391b971a811e3cc51604541769, folder loss_curve_repo (MIT): nine schedules a model size, columns step, lr, loss.
Fitted are cosine_24000, constant_24000 and wsdcon_9; scored are the other six, measures averaged over them. Without ``--data``
only the recovery is run: three synthetic curves of the same schedules with independent noise of 1%, one draw a seed; and of
L0 + (B/t)^β, by both criteria, two curves of 1,000 steps that share L0, twenty draws a seed.

    python benchmarks/curve_fits.py --data DIR [--quick] [--seeds 0 1 2]
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import _bench
import numpy as np

from olm.scaling.curves import LossCurve, annealing, fit_curves, leave_one_out, multi_power, predict_curve, schedule, score
from olm.scaling.laws import Law
from olm.scaling.steps import CORRELATION, LEAST_SQUARES, fit_steps
from olm.scaling.tables import read_table

FITTED = ("cosine_24000", "constant_24000", "wsdcon_9")
SCORED = ("constant_72000", "cosine_72000", "wsd_20000_24000", "wsdcon_18", "wsdcon_3", "wsdld_20000_24000")
NAMES = ("L0", "A", "alpha", "B", "C", "beta", "gamma")
MEASURES = ("r2", "mae", "rmse", "pred_e", "worst_e")
DIGITS = (4, 5, 5, 5, 5)
# Luo et al. 2025 (arXiv 2503.12811): parameters and the scores printed beside them.
PUBLISHED = {
    25: ((3.04045406, 0.52468604, 0.50786857, 363.78751622, 2.06560812, 0.58279013, 0.64142257),
         (0.9988, 0.00376, 0.00465, 0.00110, 0.00409)),
    100: ((2.6514477, 0.60115152, 0.45295811, 437.9464276, 2.13245612, 0.59785199, 0.65523644),
          (0.9983, 0.00435, 0.00592, 0.00142, 0.00583)),
    400: ((2.37474466, 0.65421216, 0.42878731, 523.42464371, 2.02462735, 0.59350493, 0.63472457),
          (0.9978, 0.00484, 0.00730, 0.00168, 0.00995)),
}  # fmt: skip
REDUCED = {"C": 1.0, "beta": 0.5, "gamma": 0.5}


def rates(name: str) -> np.ndarray:
    """The schedule that a public curve's name stands for."""
    kind, *numbers = name.split("_")
    peak, end, warmup = 3e-4, 3e-5, 2160
    if kind in ("constant", "cosine"):
        return schedule(kind, int(numbers[0]), peak, end=end, warmup=warmup)
    if kind == "wsdcon":
        return schedule("wsd_constant", 16000, peak, end=1e-5 * float(numbers[0]), warmup=warmup, decay_from=8000)
    form = {"wsd": "wsd", "wsdld": "wsd_linear"}[kind]
    return schedule(form, int(numbers[1]), peak, end=end, warmup=warmup, decay_from=int(numbers[0]))


def curve(folder: Path, name: str) -> LossCurve:
    table = read_table(folder / f"{name}.csv", ["step", "lr", "loss"], positive=["loss"])
    found = LossCurve(table["step"], table["loss"], rates(name), name)
    assert np.allclose(found.rates[found.steps], table["lr"], rtol=1e-12), f"{name}: the logged rates are not its schedule's"
    return found


def public(folder: Path, size: int, quick: bool) -> list[dict[str, Any]]:
    """Scores on the six test curves: published parameters, and fits of each law to the three training curves."""
    fitted, scored = ([curve(folder, name) for name in names] for names in (FITTED, SCORED))
    published, printed = PUBLISHED[size]
    law, rows = multi_power(), []
    named = dict(zip(NAMES, published, strict=True))
    means = score(law, scored, named).mean
    agrees = all(round(means[m], d) == value for m, d, value in zip(MEASURES, DIGITS, printed, strict=True))
    reference = means["r2"]
    on_fitted = np.concatenate([np.log(predict_curve(law, c, named) / c.losses) for c in fitted])
    inside = np.minimum(np.abs(on_fitted), 1e-3)
    objective = float(np.sum(inside * (np.abs(on_fitted) - inside / 2)))
    rows.append({"size": size, "fit": "published parameters", **means, "objective": objective, "all digits": agrees})
    kinds: dict[str, tuple[Law, dict[str, float]]] = {
        "multi-power, 7 parameters": (law, {}),
        "multi-power, C = 1, β = γ = ½": (law, REDUCED),
        "annealing, λ = .999": (annealing(0.999), {}),
        "annealing, λ fitted": (annealing(None), {}),
    }
    for name, (chosen, fixed) in kinds.items():
        start = time.perf_counter()
        found = fit_curves(fitted, chosen, fixed=fixed)
        seconds = time.perf_counter() - start
        left_out = None if quick else leave_one_out(fitted, chosen, fixed=fixed).mean["pred_e"]
        means = score(found, scored).mean
        rows.append(
            {"size": size, "fit": name, **means, "objective": found.objective, "r2 - published": means["r2"] - reference,
             "left-out PredE": left_out, "seconds": seconds, "status": found.status, "starts": found.starts_summary,
             "parameters": found.parameters, "per curve": list(score(found, scored).rows)}
        )  # fmt: skip
    shown = ("size", "fit", *MEASURES, "objective", "r2 - published", "left-out PredE", "seconds", "all digits")
    _bench.table({name: row.get(name) for name in shown} for row in rows)
    return rows


def recovery(seed: int, quick: bool) -> dict[str, dict[str, float]]:
    """ln(fitted / true) of every parameter from three synthetic curves with 1% noise, and the error on an unseen schedule."""
    rng, out = np.random.default_rng(seed), {}
    power = dict(zip(NAMES, PUBLISHED[100][0], strict=True))
    truths: dict[str, tuple[Law, dict[str, float], dict[str, float]]] = {
        "multi-power, 7 parameters": (multi_power(), power, {}),
        "multi-power, C, β, γ known": (multi_power(), power, {name: power[name] for name in REDUCED}),
        "annealing": (annealing(0.999), {"L0": 2.79, "A": 0.593, "alpha": 0.455, "C": 0.481}, {}),
        "annealing, λ fitted": (annealing(None), {"L0": 2.79, "A": 0.593, "alpha": 0.455, "C": 0.481, "memory": 1000.0}, {}),
    }
    at = np.arange(2176, 24000, 512 if quick else 128)

    def blank(name: str) -> LossCurve:
        schedule_rates = rates(name)
        steps = at[at < len(schedule_rates)]
        return LossCurve(steps, np.ones(len(steps)), schedule_rates, name)

    for name, (law, truth, fixed) in truths.items():
        noisy = []
        for one in map(blank, FITTED):
            losses = predict_curve(law, one, truth) * np.exp(0.01 * rng.normal(size=len(one.steps)))
            noisy.append(LossCurve(one.steps, losses, one.rates, one.name))
        found = fit_curves(noisy, law, fixed=fixed)
        errors = {f"ln {n}": float(np.log(found.parameters[n] / truth[n])) for n in truth if n not in fixed}
        unseen = blank("wsd_20000_24000")
        relative = predict_curve(found, unseen) / predict_curve(law, unseen, truth) - 1
        out[name] = {**errors, "unseen PredE": float(np.abs(relative).mean()), "converged": float(found.status == "converged")}
    return out | steps_recovered(rng, 2 if quick else 20)


def steps_recovered(rng: np.random.Generator, draws: int) -> dict[str, dict[str, float]]:
    """Mean error of L0, ln B, β and of ΔB and Δβ (percentage points) over some draws of two curves with 1% noise."""
    t, truth = np.arange(1, 1001), ((300.0, 0.3), (100.0, 0.33))
    errors: dict[str, list[list[float]]] = {CORRELATION: [], LEAST_SQUARES: []}
    for _ in range(draws):
        pair = [(t, (1 + (B / t) ** beta) * np.exp(0.01 * rng.normal(size=len(t)))) for B, beta in truth]
        for criterion, rows in errors.items():
            found = fit_steps(pair, criterion=criterion)
            change = 100 * (truth[1][0] / truth[0][0] - found.B[1] / found.B[0])
            slope = 100 * (found.beta[1] / found.beta[0] - truth[1][1] / truth[0][1])
            rows.append([found.L0 - 1, np.log(found.B[0] / truth[0][0]), found.beta[0] - truth[0][1], change, slope])
    names = ("L0", "ln B", "beta", "ΔB, points", "Δβ, points")
    return {f"step law, {c}": dict(zip(names, np.mean(rows, axis=0).tolist(), strict=True)) for c, rows in errors.items()}


def main() -> None:
    parser = _bench.parser(__doc__.splitlines()[0], seeds=range(20))
    parser.add_argument("--data", type=Path, default=None, help="folder with csv_25, csv_100 and csv_400")
    args = parser.parse_args()
    payload: dict[str, Any] = {}
    if args.data is not None:
        sizes = [25] if args.quick else list(PUBLISHED)
        payload["public"] = [row for size in sizes for row in public(args.data / f"csv_{size}", size, args.quick)]
    runs = [recovery(seed, args.quick) for seed in (args.seeds[:2] if args.quick else args.seeds)]
    payload["recovery"] = _bench.summarise(runs)
    _bench.save("curve_fits", payload, args)


if __name__ == "__main__":
    main()
