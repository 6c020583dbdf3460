"""`olm fit`: what it prints, writes and returns, for each kind of law, and that bad input leaves nothing behind."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olm.cli import fit as command
from olm.cli import main
from olm.errors import InputError
from olm.scaling.curves import LossCurve, annealing, predict_curve, schedule

TRUTH = {"E": 1.7, "A": 400.0, "B": 800.0, "alpha": 0.3, "beta": 0.3}
HELD = ["--fixed", "alpha=0.3", "beta=0.3"]  # few starts


def loss(N: Any, D: Any) -> np.ndarray:
    return np.asarray(TRUTH["E"] + TRUTH["A"] / N**0.3 + TRUTH["B"] / D**0.3)


def write(path: Path, columns: dict[str, Any]) -> str:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return str(path)


def grid() -> tuple[np.ndarray, np.ndarray]:
    N, D = np.meshgrid(np.geomspace(1e7, 1e10, 5), np.geomspace(1e9, 1e12, 5))
    return N.ravel(), D.ravel()


@pytest.fixture
def runs(tmp_path: Path) -> str:
    """25 runs of the law and a row of another set that would spoil the fit."""
    N, D = grid()
    columns = {"params": [*N, 1e8], "tokens": [*D, 1e10], "final": [*loss(N, D), 9.0], "set": ["a"] * 25 + ["b"]}
    return write(tmp_path / "runs.csv", columns)


def test_a_law_of_runs(runs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = [runs, "--columns", "loss=final", "--where", "set=a", *HELD, "--holdout", "0.2", "--bootstrap", "12",
             "--flops", "1e20", "1e22", "--output", str(out)]  # fmt: skip
    assert command.run(words) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for part in ("chinchilla: L = E + A/N^α + B/D^β", "25 rows", "converged", "in the best basin", "bootstrap: 12 refits",
                 "alpha 0.30000 held", "compute-optimal, C = 6 N D", "without the 5 rows of most compute"):  # fmt: skip
        assert part in printed, part
    record = json.loads((out / "fit.json").read_text())
    assert record["parameters"] == pytest.approx(TRUTH, rel=1e-4)
    assert record["command"][:3] == ["olm", "fit", runs]
    assert record["holdout"]["worst_percent"] < 1e-3
    best = record["allocation"]
    assert [row["flops"] for row in best] == [1e20, 1e22]
    assert best[1]["N"] / best[0]["N"] == pytest.approx(10, rel=1e-6)
    assert 6 * best[0]["N"] * best[0]["D"] == pytest.approx(1e20)
    rows = list(csv.DictReader((out / "predictions.csv").read_text().splitlines()))
    assert len(rows) == 25 and sum(int(row["held_out"]) for row in rows) == 5
    assert [int(row["line"]) for row in rows] == list(range(2, 27))
    assert all(abs(float(row["predicted"]) / float(row["loss"]) - 1) < 1e-5 for row in rows)
    names = {"fit.json", "predictions.csv"} | {f"{n}.{k}" for n in ("loss", "predicted", "allocation") for k in ("svg", "png")}
    assert {path.name for path in out.iterdir()} == names


def test_the_settings_reach_the_fit(runs: str, capsys: pytest.CaptureFixture[str]) -> None:
    common = [runs, "--columns", "loss=final", *HELD]

    def objective(*words: str) -> float:
        assert command.run([*common, *words]) == 0
        line = next(line for line in capsys.readouterr().out.splitlines() if "objective" in line)
        return float(line.split("objective ")[1].split()[0])

    # The odd row's residual ln 9 − ln L̂ is far beyond δ: it enters by δ·|residual|, or by half its square.
    robust, square, raw = objective(), objective("--huber", "none"), objective("--residual", "raw")
    assert robust == pytest.approx(1e-3 * np.log(9 / loss(1e8, 1e10)), rel=1e-2)
    assert square > 50 * robust and raw > 2 * robust
    assert objective("--huber", "0.01") == pytest.approx(10 * robust, rel=0.02)
    assert objective("--where", "set=a") < 1e-12


def test_approach_two_and_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    C = np.repeat([1e18, 1e19, 1e20], 5)
    scale = (400 / 800) ** (1 / 0.6)
    N = scale * np.sqrt(C / 6) * np.exp(np.tile(np.linspace(-1, 1, 5), 3))
    table = write(tmp_path / "iso.csv", {"N": N, "C": C, "loss": loss(N, C / (6 * N))})
    assert command.run([table, "--law", "isoflop", "--output", str(tmp_path / "iso")]) == 0
    assert "N ∝ C^a 0.50000" in " ".join(capsys.readouterr().out.split())
    record = json.loads((tmp_path / "iso" / "fit.json").read_text())
    assert [row["N"] for row in record["budgets"]] == pytest.approx((scale * np.sqrt(C / 6))[::5], rel=1e-6)
    wide = [table, "--law", "isoflop", "--where", "C=1e18"]
    with pytest.raises(InputError, match="one budget"):
        command.run(wide)
    sizes, tokens = (part.ravel() for part in np.meshgrid(np.geomspace(1e7, 1e10, 13), np.geomspace(1e6, 1e12, 40)))
    curves = write(tmp_path / "curves.csv", {"N": sizes, "D": tokens, "loss": loss(sizes, tokens)})
    assert command.run([curves, "--law", "envelope", "--output", str(tmp_path / "envelope")]) == 0
    record = json.loads((tmp_path / "envelope" / "fit.json").read_text())
    assert record["N_law"]["exponent"] == pytest.approx(0.5, abs=0.03)
    assert {path.name for path in (tmp_path / "envelope").iterdir()} == {
        "fit.json",
        "predictions.csv",
        "envelope.svg",
        "envelope.png",
    }


def log(path: Path, name: str) -> str:
    """A run of the annealing law as it would be logged."""
    rates = schedule(name, 400, 0.01, end=0.001, warmup=20, decay_from=250)
    at = np.arange(30, 401, 10)
    losses = predict_curve(annealing(0.99), LossCurve(at, np.ones(len(at)), rates), {"L0": 2.5, "A": 0.6, "alpha": 0.5, "C": 0.5})
    return write(path / f"{name}.csv", {"step": at, "lr": rates[at], "loss": losses})


def test_a_law_of_loss_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = [log(tmp_path, name) for name in ("constant", "wsd_linear", "wsd_constant")]
    words = [*logs[:2], "--law", "annealing", "--lam", "0.99", "--warmup", "20", "--test", logs[2]]
    assert command.run([*words, "--output", str(tmp_path / "out")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "test curves" in printed and "alpha 0.50000" in printed and "not independent" in printed
    record = json.loads((tmp_path / "out" / "fit.json").read_text())
    assert record["parameters"] == pytest.approx({"L0": 2.5, "A": 0.6, "alpha": 0.5, "C": 0.5}, rel=1e-6)
    assert record["test"]["mean"]["worst_e"] < 1e-6 and record["test"]["rows"][0]["name"] == logs[2]
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").read_text().splitlines()))
    assert len(rows) == 3 * 38 and {row["curve"] for row in rows if row["held_out"] == "1"} == {logs[2]}
    assert (tmp_path / "out" / "curves.png").stat().st_size > 10_000


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path: Path, runs: str) -> None:
    out, curve = tmp_path / "out", log(tmp_path, "cosine")
    N, D = grid()
    broken = write(tmp_path / "broken.csv", {"N": N, "D": D, "loss": [*loss(N, D)[:-1], "abc"]})
    billions = write(tmp_path / "billions.csv", {"N": N / 1e9, "D": D, "loss": loss(N, D)})
    equal = write(tmp_path / "equal.csv", {"N": np.full(25, 1e8), "D": D, "loss": loss(1e8, D)})
    few = write(tmp_path / "few.csv", {"N": N[:3], "D": D[:3], "loss": loss(N, D)[:3]})
    twice = write(tmp_path / "twice.csv", {"step": [1, 2, 2], "lr": [1, 1, 1], "loss": [3, 2, 2]})
    millions = write(tmp_path / "millions.csv", {"N": N, "D": D / 1e6, "loss": loss(N, D)})
    single = write(tmp_path / "single.csv", {"N": [1e7, 1e7, 1e8], "D": [1e9, 2e9, 1e9], "loss": [3, 2.9, 2.8]})
    holed = write(
        tmp_path / "holed.csv", {"N": [1e8, *N], "D": [1e10, *D], "final": [9.0, *loss(N, D)], "set": ["b"] + ["a"] * 25}
    )
    final = ["--columns", "loss=final"]
    cases: list[tuple[list[str], str]] = [
        ([], "name a table"),
        ([str(tmp_path / "no.csv")], "cannot read"),
        ([broken], "broken.csv, line 26, column loss: 'abc' is not a number"),
        ([billions], "billions.csv, line 6: N is at most 10 parameters"),
        ([equal], "column N: every row has 1e+08"),
        ([few], "3 rows for 5 parameters"),
        ([runs], "no column loss"),
        ([runs, *final, "--law", "chinchila"], "unknown law 'chinchila'"),
        ([runs, broken], "reads one table, 2 are given"),
        ([runs, *final, "--fixed", "gamma=1"], "fixed has 'gamma'"),
        ([runs, *final, "--fixed", "alpha=x"], "--fixed alpha is 'x'"),
        ([runs, *final, "--form", "ratio"], "--form has no meaning with --law chinchilla"),
        ([runs, *final, "--flops", "-1"], "--flops are -1: give positive"),
        ([runs, *final, "--flops-per-token", "0"], "--flops-per-token is 0"),
        ([runs, *final, "--huber", "x"], "--huber is 'x'"),
        (
            [holed, *final, "--where", "set=a", "--fixed", "E=2.5", "alpha=0.3", "beta=0.3"],
            f"holed.csv, line {int(np.argmax(loss(N, D) <= 2.5)) + 3}: loss",
        ),
        ([single, "--law", "envelope"], "single.csv, line 4 has one record"),
        ([millions], "millions.csv, line 22: D is at most 1e+06 tokens, 0.0001 for each parameter in the median row"),
        ([runs, *final, "--law", "step", "--fixed", "B=2", "--columns", "step=params"], "--fixed B: --law step holds L0 or t0"),
        ([runs, *final, *HELD, "--holdout", "2"], "--holdout is 2"),
        ([runs, *final, "--warmup", "3"], "--warmup has no meaning with --law chinchilla"),
        ([runs, *final, "--law", "isoflop", "--bootstrap", "3"], "--bootstrap has no meaning with --law isoflop"),
        ([curve, "--law", "multi_power", "--flops", "1e20"], "--flops has no meaning"),
        ([curve, "--law", "annealing", "--warmup", "40"], "cosine.csv: the first step logged is 30"),
        ([curve, "--law", "annealing", "--lam", "x"], "--lam is 'x'"),
        ([twice, "--law", "annealing"], "twice.csv, line 4, column step: 2: steps must be whole and increase"),
        ([runs, "--bogus"], "--bogus"),
    ]
    for words, message in cases:
        with pytest.raises(InputError) as error:
            command.run([*words, "--output", str(out)] if words else [])
        assert message in str(error.value) and "\n" not in str(error.value), (words, str(error.value))
        assert not out.exists(), words
    with pytest.raises(InputError, match="is a file: name a folder"):
        command.run([runs, *final, "--output", runs])


def test_step_laws_of_two_runs_share_their_irreducible_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = []
    for name, B, beta in (("a", 3000.0, 0.3), ("b", 800.0, 0.34)):
        rows = [f"{t},{1 + (B / max(t, 1)) ** beta:.8f}" for t in range(0, 1001, 10)]
        files.append(tmp_path / f"{name}.csv")
        files[-1].write_text("\n".join(["step,loss", *rows]) + "\n")
    assert main(["fit", *map(str, files), "--law", "step", "--output", str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out" / "fit.json").read_text())
    for one in record["fits"]:
        assert one["L0"] == pytest.approx(1.0, abs=1e-4)
        assert one["B"] == pytest.approx([3000.0, 800.0], rel=2e-3)
        assert one["beta"] == pytest.approx([0.3, 0.34], rel=1e-3)
    assert (tmp_path / "out" / "curves.png").exists()
    words = ["fit", *map(str, files), "--law", "step", "--fixed", "L0=0.9", "t0=100", "--output", str(tmp_path / "held")]
    assert main(words) == 0
    held = json.loads((tmp_path / "held" / "fit.json").read_text())["fits"]
    assert [x for one in held for x in (one["L0"], one["t0"])] == pytest.approx([0.9, 100.0] * 2) and held[0]["B"][
        0
    ] != pytest.approx(3000.0, rel=0.1)
    assert main(["fit", str(files[0]), "--law", "step", "--bootstrap", "9"]) == 2
    assert "--bootstrap has no meaning with --law step" in capsys.readouterr().err


def test_small_counts_are_refused_unless_they_are_meant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{n},{d},{0.1 + n**-0.5 + 3 * d**-0.3:.8f}" for n in (2, 8, 32, 128) for d in (1e4, 1e5, 1e6)]
    (tmp_path / "t.csv").write_text("\n".join(["N,D,loss", *rows]) + "\n")
    assert main(["fit", str(tmp_path / "t.csv")]) == 2
    assert "--any-units" in capsys.readouterr().err
    assert main(["fit", str(tmp_path / "t.csv"), "--any-units"]) == 0
    assert "alpha      0.50000" in capsys.readouterr().out


def test_levels_and_seeds_are_checked_whatever_the_law(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{n},{d},{1.7 + 400 / n**0.34 + 400 / d**0.3:.6f}" for n in (1e7, 1e8, 1e9) for d in (1e9, 1e10, 1e11)]
    (tmp_path / "t.csv").write_text("\n".join(["N,D,loss", *rows]) + "\n")
    for law in ("isoflop", "envelope", "chinchilla"):
        assert main(["fit", str(tmp_path / "t.csv"), "--law", law, "--level", "95"]) == 2
        assert "--level is 95: give a share" in capsys.readouterr().err
    assert main(["fit", str(tmp_path / "t.csv"), "--law", "envelope", "--seed", "-1"]) == 2
    assert "--seed is -1" in capsys.readouterr().err


def test_a_bootstrap_of_whole_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run's rows share an error: whole runs give wider intervals than rows."""
    rng = np.random.default_rng(0)
    rows = []
    for run, n in enumerate(np.repeat(np.geomspace(1e7, 1e10, 6), 3)):
        shift = np.exp(0.01 * rng.standard_normal())
        rows += [f"{n},{d},{float(loss(n, d)) * shift:.8f},run-{run}" for d in np.geomspace(1e9, 1e12, 8)]
    (tmp_path / "t.csv").write_text("\n".join(["N,D,loss,id", *rows]) + "\n")
    words = ["fit", str(tmp_path / "t.csv"), *HELD, "--columns", "run=id"]
    widths = []
    for name, more in (("rows", []), ("runs", ["--columns", "run=id"])):
        assert main([*words[:-2], *more, "--bootstrap", "100", "--output", str(tmp_path / name)]) == 0
        low, high = json.loads((tmp_path / name / "fit.json").read_text())["bootstrap_intervals"]["A"]
        widths.append(np.log(high / low))
        assert ("drew 18 whole runs" in capsys.readouterr().out) == (name == "runs")
    assert widths[1] > 1.5 * widths[0]
    assert main(words) == 2
    assert "says what --bootstrap draws whole" in capsys.readouterr().err


def test_step_laws_name_the_file_and_its_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = np.arange(1, 200)
    rows = [f"{t},{2 + (50 / t) ** 0.5:.8f}" for t in np.random.default_rng(0).permutation(steps)]
    (tmp_path / "shuffled.csv").write_text("\n".join(["step,loss", *rows]) + "\n")
    assert main(["fit", str(tmp_path / "shuffled.csv"), "--law", "step"]) == 0  # sorted, as olm compare does
    rows = [f"{t},{2 + (50 / t) ** 0.5:.8f},{seed}" for seed in (0, 1) for t in steps]
    (tmp_path / "two.csv").write_text("\n".join(["step,loss,seed", *rows]) + "\n")
    assert main(["fit", str(tmp_path / "two.csv"), "--law", "step", "--where", "seed=1"]) == 0
    capsys.readouterr()
    (tmp_path / "short.csv").write_text("step,loss\n1,3\n2,2\n")
    for name, complaint in (
        ("two", "two.csv holds curves of seed 0, 1: choose one with --where seed="),
        ("short", "short.csv has 2 steps"),
    ):
        assert main(["fit", str(tmp_path / f"{name}.csv"), "--law", "step"]) == 2
        said = capsys.readouterr().err
        assert complaint in said and said.count("\n") == 1


def test_compute_in_another_unit_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = []
    for c in (1e18, 1e20, 1e22):
        for x in np.linspace(-0.5, 0.5, 5):
            n = np.sqrt(c / 120) * np.exp(x)
            rows.append(f"{n},{c / 6 / n},{c / 8.64e19},{c},{2 + 0.1 * x * x:.8f}")
    (tmp_path / "t.csv").write_text("\n".join(["N,D,days,flops,loss", *rows]) + "\n")
    for column, noted in (("days", True), ("flops", False)):
        assert main(["fit", str(tmp_path / "t.csv"), "--law", "isoflop", "--columns", f"C={column}"]) == 0
        assert ("is it in FLOPs" in capsys.readouterr().out) == noted
