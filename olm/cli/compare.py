"""`olm compare`: by how much one set of learning curves improves the scaling law of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from tyro.conf import Positional, arg

from olm.cli.common import aligned, parse
from olm.errors import InputError
from olm.records.files import explained, write_json
from olm.scaling.sizes import improvement_over_sizes
from olm.scaling.steps import CORRELATION, LEAST_SQUARES, improvement, on_common_steps
from olm.scaling.tables import learning_curves, read_table, split_pairs

HELP = """Compare two sets of learning curves, a baseline and one's own: ΔB and Δβ of L0 + (B/t)^β, and the acceleration.

Each file is a CSV with columns step and loss (nats, held out), and, where there is more than one curve, N (parameters) and seed.
Curves of one N and seed are compared; L0 and t0 are common to the two. Several N: also the laws over model sizes."""

EARLY = 1.25  # how much earlier a baseline that rises again may have had its last loss before that is said

Curves = dict[float, dict[Any, tuple[np.ndarray, np.ndarray]]]


@dataclass(frozen=True)
class Compare:
    """Settings of `olm compare`."""

    base: Annotated[Positional[str], arg(metavar="BASE.csv")]
    """Curves of the baseline."""
    mine: Annotated[Positional[str], arg(metavar="MINE.csv")]
    """Curves to compare with it."""
    columns: tuple[str, ...] = ()
    """NAME=COLUMN, the files' names where they differ: step=iteration loss=val_loss N=params seed=run."""
    L0: Annotated[float | None, arg(name="L0")] = None
    """The irreducible loss, where it is known; else it is fitted."""
    t0: float | None = None
    """Fit steps beyond this one; else it is chosen within --latest-share of the run."""
    latest_share: float = 0.25
    """The last t0 that may be chosen, as a share of the shorter run."""
    tokens_per_step: float | None = None
    """Tokens that a step reads: with several N the Chinchilla law is fitted too."""
    E: Annotated[float | None, arg(name="E")] = None
    """The irreducible loss of that law, where it is known; a single run's L0 is more, as its model is finite."""
    any_units: bool = False
    """Take N below 10,000 for counts, and not for billions."""
    output: str | None = None
    """A folder for compare.json and the figures; nothing is written without it."""


def _curves(path: str, options: Compare) -> Curves:
    """N → seed → (steps, losses); N is 0 where the table has none."""
    names, positive = split_pairs(options.columns, "--columns"), ("loss", "N")
    table = read_table(
        path, ("step", "loss"), optional=("N", "seed"), labels=("seed",), columns=names, positive=positive,
        check_units=not options.any_units,
    )  # fmt: skip
    return learning_curves(table)


def _number(value: float | None, unit: str = "") -> str:
    return "–" if value is None or value != value else f"{value:.4g}{unit}"


def _estimate(of: Mapping[str, Any] | None, unit: str = "") -> str:
    """mean [low, high] of an `over_seeds`."""
    if of is None:
        return "–"
    mean = _number(of["mean"], unit)
    return mean if of["low"] is None else f"{mean} [{_number(of['low'])}, {_number(of['high'])}]"


def _table(found: Mapping[str, Any]) -> str:
    """One pair of curves, or several over seeds: what was measured, and both fits side by side."""
    summary = found["summary"]
    measured = summary["measured"]
    rows = [["measured", "mine against base"]]
    rows.append(["acceleration, stays at or below the baseline's last loss", _estimate(measured.get("acceleration"), "×")])
    rows.append(["acceleration, first crossing", _estimate(measured.get("acceleration_first"), "×")])
    rows.append(["acceleration, to the baseline's least loss", _estimate(measured.get("acceleration_least"), "×")])
    rows += [[f"{name} ratio, below 1 is better", _estimate(measured[f"{name}_ratio"])] for name in ("area", "final")]
    fits = [["L0 + (B/t)^β", "greatest correlation", "least squares"]]
    shown = {
        "ΔB = 1 − B₂/B₁": ("delta_B_percent", "%"), "Δβ = β₂/β₁ − 1": ("delta_beta_percent", "%"),
        "acceleration of the law": ("acceleration_predicted", "×"), "L0": ("L0", ""), "t0": ("t0", ""),
        "B, base": ("B_base", ""), "B, mine": ("B_mine", ""), "β, base": ("beta_base", ""), "β, mine": ("beta_mine", ""),
        "r², base": ("r2_base", ""), "r², mine": ("r2_mine", ""),
    }  # fmt: skip
    for label, (name, unit) in shown.items():
        fits.append([label, *(_estimate(summary[criterion].get(name), unit) for criterion in (CORRELATION, LEAST_SQUARES))])
    return "\n".join([*aligned(rows), "", *aligned(fits)])


def _left_out(base: Mapping[Any, Any], mine: Mapping[Any, Any], what: str) -> list[str]:
    """A note on the seeds or sizes that only one side has."""
    keys = sorted({*base} ^ {*mine}, key=lambda key: (isinstance(key, str), key))
    shown = ", ".join(key if isinstance(key, str) else f"{key:g}" for key in keys)
    return [f"left out, as only one table has them: {what} {shown}"] if shown and {*base} & {*mine} else []


def _law_notes(laws: Mapping[str, Any]) -> list[str]:
    """Fits over sizes that did not converge or ended on a bound."""
    notes = []
    for run in laws["runs"]:
        for name, found in ((name, value) for name, value in run.items() if isinstance(value, Mapping)):
            if found["status"] != "converged" or found["at_bounds"]:
                bounds = f", on a bound: {', '.join(found['at_bounds'])}" if found["at_bounds"] else ""
                notes.append(f"{name}, seed {run['seed']}: {found['status']}{bounds}; do not use its ratios")
    return notes


def _notes(found: Mapping[str, Any]) -> list[str]:
    """What has to be known before the figures are used."""
    notes = []
    if len(found["runs"]) == 1:
        notes.append("one pair of curves: no interval. Give several seeds (a column seed) to know how far the figures would move")
    for run in found["runs"]:
        common, which = run["steps"], f", seed {run['seed']}" if len(found["runs"]) > 1 else ""
        if common["base"] != common["mine"]:
            spans = ", ".join(f"{side} runs over {common[side][0]:g}–{common[side][1]:g}" for side in ("base", "mine"))
            notes.append(
                f"{spans}{which}: compared over {common['first']:g}–{common['last']:g} alone; the baseline's last loss is that "
                f"at step {common['last']:g}" + (", and an acceleration is at least what is shown" if common["first"] > 1 else "")
            )
    rise = max(run["scatter"]["rise"] for run in found["runs"])
    early = max(run["measured"]["acceleration_of_baseline"] for run in found["runs"])
    if rise > 0 and early > EARLY:
        notes.append(
            f"the baseline rises again, by {rise:.2g} nats, and so first crosses its own last loss {early:.3g}× as early: "
            "an acceleration by the last loss says little; read the ratios, and the acceleration to the least loss"
        )
    rough = [run["scatter"] for run in found["runs"]]
    wild = [r for r in rough if r["scatter"] > abs(r["late_fall"])]
    if wild:
        worst = max(wild, key=lambda r: r["scatter"])
        moves = f"{'fall' if worst['late_fall'] >= 0 else 'rise'} by {abs(worst['late_fall']):.2g}"
        notes.append(
            f"the baseline's losses scatter by {worst['scatter']:.2g} and {moves} in the last tenth of the run: "
            "single losses decide accelerations (first crossing too large, the others too small); read the area ratio, or smooth"
        )
    for criterion in (CORRELATION, LEAST_SQUARES):
        bounds = {bound for run in found["runs"] for bound in run[criterion]["on_bound"]}
        if "beta" in bounds:
            notes.append(f"{criterion}: a loss does not fall beyond t0 (β ≤ 0), so that ΔB and Δβ do not exist")
        bounds -= {"beta"}
        if bounds:
            notes.append(f"{criterion}: {', '.join(sorted(bounds))} on a bound of what was tried; B and β depend on it")
        worst = min(run[criterion][side] for run in found["runs"] for side in ("r2_base", "r2_mine"))
        if worst < 0.98:
            notes.append(f"{criterion}: r² is {worst:.3f} at worst, so that a power law describes these curves badly")
    return notes


def _drawn(found: Mapping[str, Any], base: Mapping[Any, Any], mine: Mapping[Any, Any]) -> Any:
    """The first seed's curves with their law; None where a curve does not fall, and so has none."""
    from matplotlib.figure import Figure

    from olm import plots
    from olm.plots.scaling import improvement as figure

    run = found["runs"][0]
    seed, fit = run["seed"], run[CORRELATION]
    fits = (fit["B_base"], fit["beta_base"]), (fit["B_mine"], fit["beta_mine"])
    if not all(0 < value < np.inf for pair in fits for value in pair):
        return None
    curves = [side.get(seed, next(iter(side.values()))) for side in (base, mine)]
    which = f", seed {seed}" if len(found["runs"]) > 1 else ""
    labels = f"baseline{which}", f"mine{which}"
    with plots.style():
        canvas = Figure(figsize=(6.4, 4.4), layout="constrained")
        axes = canvas.subplots()
        figure(*on_common_steps(*curves), fit["L0"], fits, axes, t0=max(fit["t0"], 1.0), labels=labels)
    return canvas


def _write(folder: Path, record: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
    """Everything is computed and drawn before; the record comes last."""
    from olm import plots

    with explained(folder, "make the folder"):
        folder.mkdir(parents=True, exist_ok=True)
    with plots.style():
        for name, canvas in figures.items():
            plots.save(canvas, folder, name)
    write_json(folder / "compare.json", record)


def run(words: Sequence[str]) -> int:
    """The command; returns its exit status."""
    if not words:
        raise InputError("name two tables of curves: olm compare BASE.csv MINE.csv")
    options = parse(Compare, words, prog="olm compare", description=HELP)
    if options.output is not None and Path(options.output).exists() and not Path(options.output).is_dir():
        raise InputError(f"--output {options.output} is a file: name a folder")
    base, mine = (_curves(path, options) for path in (options.base, options.mine))
    for flag, value in (("tokens-per-step", options.tokens_per_step), ("E", options.E)):
        if value is not None and not 0 < value < np.inf:
            raise InputError(f"--{flag} is {value:g}: give a number above 0")
    sizes = [size for size in base if size in mine]
    if not sizes:
        shown = [", ".join(f"N = {size:g}" if size else "no column N" for size in side) for side in (base, mine)]
        what = f"{options.base} has {shown[0]}, {options.mine} has {shown[1]}"
        raise InputError(f"no N is in both: {what}: give both sides the same N, or neither one")
    least = min(losses.min() for size in sizes for side in (base, mine) for _, losses in side[size].values())
    if options.E is not None and least <= options.E:
        raise InputError(f"--E is {options.E:g}, and the least loss {least:g}: give the loss that no model gets below")
    for flag in ("tokens_per_step", "E") if len(sizes) < 2 else ():
        if getattr(options, flag) is not None:
            raise InputError(
                f"--{flag.replace('_', '-')} is of the law over several N, and {len(sizes)} N is in both: leave it out"
            )
    if options.E is not None and options.tokens_per_step is None:
        raise InputError("--E is of the Chinchilla law, which needs --tokens-per-step: give both")
    settings = {"t0": options.t0, "L0": options.L0, "latest_share": options.latest_share}
    found = {size: improvement(base[size], mine[size], **settings) for size in sizes}
    lines, notes, laws = [], _left_out(base, mine, "N"), None
    for size, result in found.items():
        seeds = [*_left_out(base[size], mine[size], "seeds"), *_notes(result)]
        lines += [*([f"N = {size:g}"] if size else []), _table(result), *(f"note: {note}" for note in seeds), ""]
    if len(sizes) > 1:
        both = [{size: side[size] for size in sizes} for side in (base, mine)]
        try:
            laws = improvement_over_sizes(*both, tokens_per_step=options.tokens_per_step, E=options.E, check_units=False)
        except InputError as error:  # each size has been compared already
            notes.append(f"no law over model sizes: {error}")
        else:
            ratios = [[name, _estimate(value)] for name, value in laws["summary"].items()]
            lines += aligned([["laws over model sizes", "mine / base"], *ratios])
            seeds = sorted({seed for size in sizes for side in both for seed in side[size]} - {*laws["seeds"]}, key=str)
            notes += [
                *_law_notes(laws),
                *([f"the laws over sizes leave out what not every size has: seed {', '.join(map(str, seeds))}"] if seeds else []),
                *([f"{len(sizes)} sizes; a law over sizes says little below 4"] if len(sizes) < 4 else []),
            ]
    lines += [f"note: {note}" for note in notes]
    record = {
        "command": ["olm", "compare", *words],
        "sizes": {f"{size:g}": result for size, result in found.items()},
        "laws": laws,
    }
    print("\n".join(lines).rstrip())
    if options.output is not None:
        names = {size: f"improvement-N={size:g}" if size else "improvement" for size in found}
        figures = {names[size]: _drawn(result, base[size], mine[size]) for size, result in found.items()}
        _write(Path(options.output), record, {name: canvas for name, canvas in figures.items() if canvas is not None})
        print(f"written: {options.output}")
    return 0
