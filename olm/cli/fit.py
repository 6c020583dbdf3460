"""`olm fit`: fit a scaling law to a table of runs, or a law of loss curves to logs of runs."""

from __future__ import annotations

import contextlib
import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
from tyro.conf import Positional, arg

from olm.cli.common import aligned, parse
from olm.errors import InputError
from olm.records import atomic_write, write_json
from olm.records.files import explained
from olm.scaling import laws
from olm.scaling.compute import Allocation, IsoFlop, allocate, envelope, isoflop
from olm.scaling.curves import LossCurve, annealing, fit_curves, multi_power, predict_curve, rates_from_log, score
from olm.scaling.fit import Fit, fit, shown
from olm.scaling.holdout import holdout
from olm.scaling.problem import rename_rows
from olm.scaling.steps import CORRELATION, LEAST_SQUARES, fit_steps
from olm.scaling.tables import Table, learning_curves, read_table, split_pairs

HELP = """Fit a scaling law to a table of runs, one row a run: olm fit RUNS.csv --law chinchilla.

Laws of a table: {tables}; and, without a law, isoflop (Approach 2) and envelope (Approach 1, rows are records of runs).
Laws of loss curves, one CSV a run with columns step, lr, loss: {curves}. Columns are found by name: N (or params), D (or tokens),
loss, C (or flops), one of N, D and C following from C = 6 N D; --columns N=my_name says otherwise. For envelope the rows of one N
are one run, or --columns run=my_name says which column tells runs apart.
And L0 + (B/t)^β of one run (--law step), columns step, loss: several tables share L0 and t0, by both criteria."""
CURVES = ("multi_power", "annealing")
APPROACHES = ("isoflop", "envelope")


@dataclass(frozen=True)
class Options:
    """Settings of `olm fit`."""

    tables: Annotated[Positional[tuple[str, ...]], arg(metavar="TABLE.csv")]
    """The table; or, for a law of loss curves, one log a run."""
    law: str = "chinchilla"
    """The law; see above."""
    form: str | None = None
    """The form of a law that has several: ratio, domain or general for cmr."""
    columns: tuple[str, ...] = ()
    """NAME=COLUMN, the file's names where they differ: N=params_active D=tokens loss=final_loss. run=COLUMN says which rows
    are of one run: a bootstrap then draws whole runs, and envelope follows their curves."""
    where: tuple[str, ...] = ()
    """COLUMN=VALUE, to use only the rows that have it."""
    fixed: tuple[str, ...] = ()
    """PARAMETER=VALUE, held instead of fitted; for step L0 and t0."""
    huber: str = "law"
    """δ of the Huber loss, none for least squares, or the law's own."""
    residual: Literal["law", "log", "raw"] = "law"
    """Residuals of the logarithm or of the loss, or as the law has them."""
    bootstrap: int = 0
    """How many resamplings to refit: of the rows, or, with --columns run=COLUMN, of whole runs."""
    seed: int = 0
    """Of the resamplings."""
    level: float | None = None
    """Of the intervals: 0.95, for envelope the 0.8 of the paper."""
    holdout: float | None = None
    """Also fit without this share of the rows, those of most compute, and report the error on them."""
    flops: tuple[float, ...] = ()
    """Budgets to allocate; for isoflop the budgets of the table."""
    flops_per_token: float = 6.0
    """c of C = c N D."""
    warmup: int | None = None
    """Loss curves: steps of linear warm-up before the first rate logged; else up to the first step logged."""
    test: tuple[str, ...] = ()
    """Loss curves: further logs, to score the law on; not fitted."""
    lam: str = "0.999"
    """annealing: λ, or fit."""
    smooth: float = 0.0
    """envelope: standard deviation, in records, of the Gaussian that smooths each run."""
    any_units: bool = False
    """Take N or D below 10,000 for counts, and not for billions."""
    output: str | None = None
    """A folder for fit.json, predictions.csv and the figures; nothing is written without it."""


@dataclass(frozen=True)
class Outcome:
    """What a fit leaves: lines to print, the record, the rows of predictions.csv, and figures by name."""

    lines: list[str]
    record: dict[str, Any]
    rows: list[dict[str, Any]]
    figures: dict[str, list[Callable[[Any], Any]]]


# --- what is printed --------------------------------------------------------------------------------------------------


def _budget_lines(best: Allocation) -> list[str]:
    percent = f"{100 * best.level:g}%"
    rows = [["FLOPs", "N", percent, "D", percent, "D/N", "loss", percent]]
    shown = best.intervals if best.bootstrap is None else best.bootstrap
    for i, budget in enumerate(best.flops):
        ends = {name: f"[{shown[name][i, 0]:.4g}, {shown[name][i, 1]:.4g}]" for name in ("N", "D", "loss")}
        N, D = best.N[i], best.D[i]
        rows.append(
            [f"{budget:.4g}", f"{N:.4g}", ends["N"], f"{D:.4g}", ends["D"], f"{D / N:.3g}", f"{best.loss[i]:.4f}", ends["loss"]]
        )
    kind = "delta method" if best.bootstrap is None else "bootstrap"
    lines = ["", f"compute-optimal, C = {best.flops_per_token:g} N D, intervals by {kind}", *aligned(rows)]
    if best.without_optimum.any():
        lines.append(f"note: up to {best.without_optimum.max()} refits have no best size at a budget and are left out there")
    return lines


# --- laws of a table --------------------------------------------------------------------------------------------------


def _settings(options: Options) -> dict[str, Any]:
    """Arguments of `fit` that come as words."""
    huber: float | str | None = options.huber
    if options.huber not in ("law", "none"):
        huber = _float(options.huber, "--huber", "a number above 0, none or law")
    elif options.huber == "none":
        huber = None
    return {
        "fixed": _fixed(options),
        "huber": huber,
        "residual": options.residual,
        "level": _level(options),
        "check_units": not options.any_units,
    }


def _fixed(options: Options) -> dict[str, float]:
    return {name: _float(value, f"--fixed {name}", "a number") for name, value in split_pairs(options.fixed, "--fixed").items()}


def _level(options: Options) -> float:
    level = options.level if options.level is not None else 0.8 if options.law == "envelope" else 0.95
    if not 0 < level < 1:
        raise InputError(f"--level is {level:g}: give a share between 0 and 1, such as 0.95")
    return level


def _float(word: str, flag: str, wanted: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise InputError(f"{flag} is {word!r}: give {wanted}") from None


def _read(options: Options, path: str, needed: Sequence[str], **more: Any) -> Table:
    return read_table(
        path,
        needed,
        columns=split_pairs(options.columns, "--columns"),
        where=split_pairs(options.where, "--where"),
        flops_per_token=options.flops_per_token,
        check_units=not options.any_units,
        **more,
    )


def _of_lines(message: str, table: Table) -> str:
    """A message about rows of the arrays as one about lines of the file they came from."""
    return rename_rows(message, lambda row: f"{table.path}, line {table.lines[row - 1]}")


@contextlib.contextmanager
def _in_lines(table: Table) -> Iterator[None]:
    """Faults that a fit finds are named by the file's lines, as those are that reading finds."""
    try:
        yield
    except InputError as error:
        message = _of_lines(str(error), table)
        raise InputError(message if table.path in message else f"{table.path}: {message}") from None


def _one_table(options: Options) -> str:
    if len(options.tables) > 1:
        raise InputError(
            f"--law {options.law} reads one table, {len(options.tables)} are given: several are for {', '.join(CURVES)}, step"
        )
    return options.tables[0]


def _refuse(options: Options, names: Sequence[str]) -> None:
    """Fail on options that the law has no use for, instead of passing over them."""
    start = Options(options.tables)
    for name in names:
        if getattr(options, name) != getattr(start, name):
            raise InputError(f"--{name.replace('_', '-')} has no meaning with --law {options.law}: leave it out")


def _law_of_runs(options: Options) -> Outcome:
    _refuse(options, ("warmup", "test", "lam", "smooth", *(() if options.law == "cmr" else ("form",))))
    if options.holdout is not None and not 0 < options.holdout < 1:
        raise InputError(f"--holdout is {options.holdout:g}: give a share of the rows between 0 and 1")
    law = laws.named(options.law, **({} if options.form is None else {"form": options.form}))
    positive = [*(law.columns if law.positive is None else law.positive), "loss"]
    compute = ["C"] if options.holdout is not None else []
    grouped = ["run"] if "run" in split_pairs(options.columns, "--columns") else []
    if grouped and not options.bootstrap:
        raise InputError("--columns run=… says what --bootstrap draws whole: give both")
    table = _read(
        options,
        _one_table(options),
        [*law.columns, "loss", *grouped],
        optional=compute,
        labels=grouped,
        positive=[*positive, "C"],
    )
    columns: dict[str, Any] = {name: table[name] for name in law.columns}
    loss = table["loss"]
    settings = _settings(options)
    key = jax.random.key(options.seed) if options.bootstrap else None
    groups = table["run"].astype(str) if grouped else None
    with _in_lines(table):
        found = fit(loss=loss, law=law, bootstrap=options.bootstrap, key=key, groups=groups, **settings, **columns)
    found = replace(found, message=_of_lines(found.message, table))
    lines, record = str(found).splitlines(), found.as_dict()
    if groups is not None:
        lines.append(
            f"note: the bootstrap drew {len(set(groups.tolist()))} whole runs; the delta method takes rows for independent"
        )
    held = np.zeros(len(loss), bool)
    predicted = found.predict(**columns)
    if options.holdout is not None:
        with _in_lines(table):
            judged = holdout(loss=loss, law=law, largest=options.holdout, compute=table.columns.get("C"), **settings, **columns)
        lines += ["", f"fitted without the {len(judged['rows'])} rows of most compute: error on them "
                  f"{judged['mean_absolute_percent']:.3f}% (mean), {judged['worst_percent']:.3f}% (worst), "
                  f"bias {judged['bias_percent']:+.3f}%"]  # fmt: skip
        record["holdout"] = {**judged, "fit": judged["fit"].as_dict()}
        held[[row["row"] - 1 for row in judged["rows"]]] = True
        predicted = judged["fit"].predict(**columns)
    figures: dict[str, list[Callable[[Any], Any]]] = {"predicted": _prediction_panels(predicted, loss, held)}
    if {"N", "D"} <= set(columns):
        figures["loss"] = _loss_panels(found, columns, loss)
    if options.flops:
        if others := [name for name in law.columns if name not in ("N", "D")]:
            raise InputError(
                f"--flops needs a law of N and D alone, {law.name} has {', '.join(others)} too: use olm.scaling.allocate"
            )
        best = allocate(found, options.flops, flops_per_token=options.flops_per_token)
        lines += _budget_lines(best)
        record["allocation"] = best.rows()
        figures["allocation"] = _budget_panels(best)
    rows = [
        {"line": int(line), **{n: float(v[i]) for n, v in columns.items()}, "loss": float(loss[i]),
         "predicted": float(predicted[i]), "held_out": int(held[i])}
        for i, line in enumerate(table.lines)
    ]  # fmt: skip
    return Outcome(lines, record, rows, figures)


def _prediction_panels(predicted: np.ndarray, loss: np.ndarray, held: np.ndarray) -> list[Callable[[Any], Any]]:
    from olm.plots.scaling import predicted_measured

    return [
        lambda ax: predicted_measured(predicted, loss, ax, held_out=held),
        lambda ax: predicted_measured(predicted, loss, ax, held_out=held, relative=True),
    ]


def _loss_panels(found: Fit, columns: Mapping[str, np.ndarray], loss: np.ndarray) -> list[Callable[[Any], Any]]:
    """Loss against compute and tokens for each N; the law's lines where a size has several rows, and no other column."""
    from olm.plots.scaling import loss_by_size

    N, D = columns["N"], columns["D"]
    tokens: dict[float, np.ndarray] = {}
    if set(columns) == {"N", "D"}:
        tokens = {float(n): np.geomspace(D[n == N].min(), D[n == N].max(), 60) for n in np.unique(N) if np.ptp(D[n == N]) > 0}
    fitted = {n: found.predict(N=n, D=at) for n, at in tokens.items()}
    by_compute = {n: (6 * n * at, fitted[n]) for n, at in tokens.items()}
    by_tokens = {n: (at, fitted[n]) for n, at in tokens.items()}
    return [
        lambda ax: loss_by_size(6 * N * D, loss, N, ax, lines=by_compute or None, axis="6 N D (FLOPs)"),
        lambda ax: loss_by_size(D, loss, N, ax, lines=by_tokens or None, axis="D", legend=False),
    ]


def _budget_panels(best: Allocation) -> list[Callable[[Any], Any]]:
    from olm.plots.scaling import allocation

    def panel(name: str) -> Callable[[Any], Any]:
        resampled = None if best.bootstrap is None else best.bootstrap[name]
        return lambda ax: allocation(
            best.flops, getattr(best, name), ax, interval=best.intervals[name], bootstrap=resampled, name=name
        )

    return [panel("N"), panel("D")]


# --- approaches 1 and 2 -----------------------------------------------------------------------------------------------


def _approach(options: Options) -> Outcome:
    unused = ["fixed", "huber", "residual", "bootstrap", "holdout", "warmup", "test", "lam", "form"]
    _refuse(options, [*unused, "smooth"] if options.law == "isoflop" else [*unused, "flops"])
    given = split_pairs(options.columns, "--columns")
    grouped = ["run"] if options.law == "envelope" and "run" in given else []
    table = _read(
        options, _one_table(options), ["N", "D", "loss", *grouped], optional=["C"], labels=["run"],
        positive=["N", "D", "C", "loss"],
    )  # fmt: skip
    N, D, loss, C = table["N"], table["D"], table["loss"], table.columns.get("C")
    shared: dict[str, Any] = {"C": C, "flops_per_token": options.flops_per_token}
    shared |= {"level": _level(options), "check_units": not options.any_units}
    with _in_lines(table):
        if options.law == "isoflop":
            found = isoflop(N, D, loss, budgets=options.flops or None, **shared)
        else:
            run = table["run"].astype(str) if grouped else None
            found = envelope(N, D, loss, run=run, smooth=options.smooth, seed=options.seed, **shared)
    title = "Approach 2, isoFLOP parabolas" if options.law == "isoflop" else "Approach 1, lower envelope of the curves"
    used = len(loss) if found.groups is None else int((found.groups >= 0).sum())
    of = f"{used} of {len(loss)} rows" if used < len(loss) else f"{used} rows"
    lines = [f"{title}: Hoffmann et al. 2022 (arXiv 2203.15556)", f"{of}, {len(found.flops)} budgets", ""]
    unit = 1.0 if C is None else float(np.median(C / (options.flops_per_token * N * D)))
    if not 0.1 < unit < 10:
        told = f"{unit:.3g} times {options.flops_per_token:g} N D"
        lines.insert(2, f"note: column C is {told} in the median row: is it in FLOPs, and of the whole run?")
    powers = [["power law", "exponent", f"{100 * _level(options):g}% low", "high", "coefficient", "R²"]]
    for name, law in (("N ∝ C^a", found.N_law), ("D ∝ C^b", found.D_law)):
        powers.append(
            [name, *(f"{value:.5f}" for value in (law.exponent, *law.interval)), f"{law.coefficient:.4g}", f"{law.r2:.5f}"]
        )
    lines += aligned(powers)
    picked = range(len(found.flops)) if found.parabolas is not None else np.linspace(0, len(found.flops) - 1, 9).astype(int)
    budgets = [["FLOPs", "N", "D", "D/N", "loss"]]
    for i in picked:
        budgets.append([f"{found.flops[i]:.4g}", f"{found.N[i]:.4g}", f"{found.D[i]:.4g}", f"{found.D[i] / found.N[i]:.3g}",
                        f"{found.loss[i]:.4f}"])  # fmt: skip
    lines += ["", *aligned(budgets)]
    if found.parabolas is not None:
        lines.append(
            "note: parabolas are biased where α ≠ β and sizes are spread wide or off the optimum; compare with --law chinchilla"
        )
    rows = [{"flops": float(c), "N": float(n), "D": float(d), "loss": float(l)}
            for c, n, d, l in zip(found.flops, found.N, found.D, found.loss, strict=True)]  # fmt: skip
    record = {"law": options.law, "N_law": found.N_law._asdict(), "D_law": found.D_law._asdict(), "budgets": rows,
              "parabolas": None if found.parabolas is None else found.parabolas.tolist()}  # fmt: skip
    return Outcome(lines, record, rows, {options.law: _approach_panels(found, N, D, C, loss)})


def _approach_panels(found: IsoFlop, N: Any, D: Any, C: Any, loss: np.ndarray) -> list[Callable[[Any], Any]]:
    from olm.plots.scaling import allocation, isoflop_parabolas, loss_by_size

    def budgets(ax: Any) -> Any:
        return allocation(found.flops, found.N, ax)

    if found.parabolas is None:

        def curves(ax: Any) -> Any:
            loss_by_size(6 * N * D if C is None else C, loss, N, ax)
            return ax.plot(found.flops, found.loss, color="black", linewidth=1.2, zorder=4)

        return [curves, budgets]
    assert found.groups is not None
    bend, groups = found.parabolas[:, 2], found.groups
    return [lambda ax: isoflop_parabolas(N, loss, groups, found.flops, found.N, found.loss, bend, ax), budgets]


# --- laws of loss curves ----------------------------------------------------------------------------------------------


def _curve(options: Options, path: str) -> LossCurve:
    table = _read(options, path, ["step", "lr", "loss"], positive=["loss"])
    steps = table["step"]
    wrong = (steps < 0) | (steps != np.floor(steps)) | np.r_[False, np.diff(steps) <= 0]
    if wrong.any():
        place = int(np.argmax(wrong))
        raise InputError(
            f"{path}, line {table.lines[place]}, column step: {steps[place]:g}: steps must be whole and increase: sort the rows, "
            "keep one a step"
        )
    if (table["lr"] < 0).any():
        raise InputError(
            f"{path}, line {table.lines[int(np.argmax(table['lr'] < 0))]}, column lr: a rate below 0: correct the cell"
        )
    try:
        rates = rates_from_log(steps, table["lr"], options.warmup)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return LossCurve(steps, table["loss"], rates, path)


def _law_of_curves(options: Options) -> Outcome:
    _refuse(options, ["bootstrap", "holdout", "flops", "form", "smooth", *([] if options.law == "annealing" else ["lam"])])
    curves, tests = ([_curve(options, path) for path in paths] for paths in (options.tables, options.test))
    if options.law == "annealing":
        law = annealing(None if options.lam == "fit" else _float(options.lam, "--lam", "a number in [0, 1), or fit"))
    else:
        law = multi_power()
    found = fit_curves(curves, law, **{name: value for name, value in _settings(options).items() if name != "check_units"})
    lines, record = str(found).splitlines(), found.as_dict()
    lines.append("note: rows of one curve are not independent, so that the intervals are too narrow")
    measures = ("r2", "mae", "rmse", "pred_e", "worst_e")
    drawn, rows = [], []
    for title, group in (("fitted", curves), ("test", tests)):
        if not group:
            continue
        scores = score(found, group)
        table = [[f"{title} curves", "rows", "R²", "MAE", "RMSE", "PredE", "WorstE"]]
        table += [[row["name"], str(row["n"]), *(f"{row[m]:.5f}" for m in measures)] for row in scores.rows]
        table.append(["mean", "", *(f"{scores.mean[m]:.5f}" for m in measures)])
        lines += ["", *aligned(table)]
        record[title] = {"rows": list(scores.rows), "mean": scores.mean}
        for curve in group:
            predicted = predict_curve(found, curve)
            rows += [
                {"curve": curve.name, "step": int(s), "lr": float(curve.rates[s]), "loss": float(l), "predicted": float(p),
                 "held_out": int(group is tests)}
                for s, l, p in zip(curve.steps, curve.losses, predicted, strict=True)
            ]  # fmt: skip
            drawn.append({"name": Path(curve.name).stem, "steps": curve.steps, "losses": curve.losses, "predicted": predicted,
                          "test": group is tests})  # fmt: skip
    from olm.plots.scaling import law_curves

    return Outcome(
        lines, record, rows, {"curves": [lambda ax: law_curves(drawn, ax), lambda ax: law_curves(drawn, ax, errors=True)]}
    )


# --- L0 + (B/t)^β of a run ---------------------------------------------------------------------------------------------


def _one_curve(options: Options, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and losses of a file that holds one curve."""
    counts = replace(options, any_units=True)  # N only tells curves apart here
    table = _read(counts, path, ["step", "loss"], optional=["N", "seed"], labels=["seed"], positive=["loss", "N"])
    found = learning_curves(table)
    several = [("N", list(found)), *(("seed", list(seeds)) for seeds in found.values())]
    for name, values in several:
        if len(values) > 1:
            shown = ", ".join(value if isinstance(value, str) else f"{value:g}" for value in values[:6])
            raise InputError(
                f"{path} holds curves of {name} {shown}: choose one with --where {name}=…, or compare two files of them"
            )
    return next(iter(next(iter(found.values())).values()))


def _law_of_steps(options: Options) -> Outcome:
    unused = ("huber", "residual", "bootstrap", "holdout", "flops", "form", "warmup", "test", "lam", "smooth", "level")
    _refuse(options, unused)
    held = _fixed(options)
    if unknown := [name for name in held if name not in ("L0", "t0")]:
        raise InputError(f"--fixed {unknown[0]}: --law step holds L0 or t0, which its curves share")
    curves = [_one_curve(options, path) for path in options.tables]
    try:
        found = [fit_steps(curves, criterion=criterion, **held) for criterion in (CORRELATION, LEAST_SQUARES)]
    except InputError as error:
        raise InputError(re.sub(r"\bcurve (\d+)", lambda k: options.tables[int(k[1]) - 1], str(error))) from None
    lines = ["L = L0 + (B/t)^β, t > t0: Gu et al. 2024 (arXiv 2402.17759), Eq. 8"]
    rows: list[dict[str, Any]] = []
    for one in found:
        lines += ["", f"{one.criterion}: L0 {shown(one.L0)}, t0 {one.t0:g}"]
        if one.on_bound:
            lines.append(f"note: on a bound of what was tried: {', '.join(one.on_bound)}; B and β depend on it")
        table = [["curve", "B", "β", "r²"]]
        table += [
            [path, shown(B), shown(beta), f"{r2:.5f}"]
            for path, B, beta, r2 in zip(options.tables, one.B, one.beta, one.r2, strict=True)
        ]
        lines += aligned(table)
    for place, (path, (steps, losses)) in enumerate(zip(options.tables, curves, strict=True)):
        late = steps > found[0].t0
        both = [one.predict(steps[late], place) for one in found]
        rows += [
            {"curve": path, "step": float(s), "loss": float(l), "predicted": float(p), "predicted_least_squares": float(q)}
            for s, l, p, q in zip(steps[late], losses[late], *both, strict=True)
        ]
    record = {"law": "step", "fits": [asdict(one) for one in found]}
    drawn = [
        {"name": Path(path).stem, "steps": steps[steps > found[0].t0], "losses": losses[steps > found[0].t0],
         "predicted": found[0].predict(steps[steps > found[0].t0], place), "test": False}
        for place, (path, (steps, losses)) in enumerate(zip(options.tables, curves, strict=True))
    ]  # fmt: skip
    from olm.plots.scaling import law_curves

    return Outcome(lines, record, rows, {"curves": [lambda ax: law_curves(drawn, ax)]})


# --- the command ------------------------------------------------------------------------------------------------------


def _write(folder: Path, outcome: Outcome) -> None:
    """Everything is computed and drawn in memory before; each file is replaced whole."""
    from matplotlib.figure import Figure

    from olm import plots

    text = io.StringIO()
    writer = csv.DictWriter(text, list(outcome.rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(outcome.rows)
    figures = {}
    with plots.style():
        for name, panels in outcome.figures.items():
            canvas = Figure(figsize=(5.2 * len(panels), 4.0), layout="constrained")
            for panel, ax in zip(panels, np.atleast_1d(canvas.subplots(1, len(panels))), strict=True):
                panel(ax)
            figures[name] = canvas
        with explained(folder, "make the folder"):
            folder.mkdir(parents=True, exist_ok=True)
        for name, canvas in figures.items():
            plots.save(canvas, folder, name)
    atomic_write(folder / "predictions.csv", lambda file: file.write(text.getvalue().encode()))
    write_json(folder / "fit.json", outcome.record)


def run(words: Sequence[str]) -> int:
    """The command; returns its exit status."""
    if not words:
        raise InputError("name a table of runs: olm fit RUNS.csv --law chinchilla")
    description = HELP.format(tables=", ".join(laws.NAMES), curves=", ".join(CURVES))
    options = parse(Options, words, prog="olm fit", description=description)
    if not options.tables:
        raise InputError("name a table of runs: olm fit RUNS.csv --law chinchilla")
    if options.output is not None and Path(options.output).exists() and not Path(options.output).is_dir():
        raise InputError(f"--output {options.output} is a file: name a folder")
    if options.seed < 0:
        raise InputError(f"--seed is {options.seed}: give a whole number of at least 0")
    if not 0 < options.flops_per_token < np.inf:
        raise InputError(f"--flops-per-token is {options.flops_per_token:g}: give a positive number, 6 by the usual count")
    if any(not 0 < budget < np.inf for budget in options.flops):
        raise InputError(f"--flops are {', '.join(f'{budget:g}' for budget in options.flops)}: give positive numbers")
    if options.smooth < 0:
        raise InputError(f"--smooth is {options.smooth:g}: give a number of records, 0 or more")
    if options.law == "step":
        outcome = _law_of_steps(options)
    elif options.law in CURVES:
        outcome = _law_of_curves(options)
    elif options.law in APPROACHES:
        outcome = _approach(options)
    elif options.law in laws.NAMES:
        outcome = _law_of_runs(options)
    else:
        raise InputError(f"unknown law {options.law!r}: choose one of {', '.join([*laws.NAMES, *APPROACHES, *CURVES, 'step'])}")
    print("\n".join(outcome.lines))
    if options.output is not None:
        folder = Path(options.output)
        record = {"command": ["olm", "fit", *words], "tables": list(options.tables), **outcome.record}
        _write(folder, Outcome(outcome.lines, record, outcome.rows, outcome.figures))
        print(f"written: {folder}")
    return 0
