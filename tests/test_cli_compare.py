"""`olm compare`: what it finds in curves whose law is known, and what it says about tables that it cannot use."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from olm.cli import main
from olm.records import files


def write(path: Path, B: float, beta: float, *, seeds: int = 1, sizes: tuple[float, ...] = (), header: str = "step,loss") -> str:
    """Curves of L0 + (B/t)^β with small errors as a CSV file."""
    rng = np.random.default_rng(0)
    lines = [",".join([header, *(["seed"] if seeds > 1 else []), *(["N"] if sizes else [])])]
    for size in sizes or (0.0,):
        for seed in range(seeds):
            for t in range(0, 501, 10):
                loss = 1.0 + (1e4 / size) ** 0.5 * bool(size) if size else 1.0
                loss += (B / max(t, 1)) ** beta * np.exp(0.001 * rng.standard_normal())
                cells = [f"{t}", f"{loss:.6f}", *([f"{seed}"] if seeds > 1 else []), *([f"{size:g}"] if sizes else [])]
                lines.append(",".join(cells))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_the_change_that_made_the_curves_is_found_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = write(tmp_path / "base.csv", 3000.0, 0.3, seeds=3)
    mine = write(tmp_path / "mine.csv", 1000.0, 0.33, seeds=3)
    assert main(["compare", base, mine, "--output", str(tmp_path / "out")]) == 0
    found = files.read_json(tmp_path / "out" / "compare.json")["sizes"]["0"]["summary"]["correlation"]
    assert found["delta_B_percent"]["mean"] == pytest.approx(100 * 2 / 3, abs=2)
    assert found["delta_beta_percent"]["mean"] == pytest.approx(10, abs=2)
    assert found["delta_B_percent"]["low"] < found["delta_B_percent"]["mean"] < found["delta_B_percent"]["high"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"compare.json", "improvement.png", "improvement.svg"}
    shown = capsys.readouterr().out
    assert "ΔB" in shown and "no interval" not in shown


def test_one_pair_of_curves_has_no_interval_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["--columns", "step=iter,loss=nll"]
    base, mine = (write(tmp_path / f"{B:g}.csv", B, 0.3, header="iter,nll") for B in (3000.0, 1000.0))
    assert main(["compare", base, mine, *names]) == 0
    assert "one pair of curves: no interval" in capsys.readouterr().out


@pytest.mark.slow
def test_several_sizes_are_compared_by_their_laws_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = (2e4, 8e4, 3e5)
    base, mine = (write(tmp_path / f"{B:g}.csv", B, 0.5, sizes=sizes) for B in (300.0, 150.0))
    assert main(["compare", base, mine, "--output", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "kaplan_ns_S_c_ratio" in shown and "says little below 4" in shown and "N = 80000" in shown
    assert len(list((tmp_path / "out").glob("improvement-N=*.png"))) == 3


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("step,loss\n1,2.0\n2,x\n", "line 3, column loss: 'x' is not a number"),
        ("step,loss\n1,2.0\n2,-1\n", "line 3, column loss: -1"),
        ("step,value\n1,2.0\n", "no column loss"),
        ("step,loss\n1,2.0\n1,3.0\n", "line 3: step 1 is there twice: add a column N or seed"),
        ("step,loss\n-1,2.0\n1,3.0\n", "line 2: step -1 is below 0"),
        ("step,loss\n1,2.0\n2,1.5\n", "at least 8"),
        ("", "empty"),
        ("N,step,loss\n7,1,2.0\n", "give counts, not millions or billions"),
    ],
)
def test_bad_tables_are_named(text: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write(tmp_path / "good.csv", 3000.0, 0.3)
    (tmp_path / "bad.csv").write_text(text, encoding="utf-8")
    assert main(["compare", good, str(tmp_path / "bad.csv"), "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert complaint in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_missing_arguments_and_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write(tmp_path / "good.csv", 3000.0, 0.3)
    other = write(tmp_path / "other.csv", 3000.0, 0.3, sizes=(5e4,))
    sizes = write(tmp_path / "sizes.csv", 3000.0, 0.3, sizes=(5e4, 1e5))
    for words, complaint in (
        (["compare", sizes, sizes, "--E", "1"], "needs --tokens-per-step"),
        (["compare", sizes, sizes, "--E", "9", "--tokens-per-step", "64"], "--E is 9, and the least loss"),
        (["compare"], "name two tables"),
        (["compare", good], "required"),
        (["compare", good, str(tmp_path / "none.csv")], "cannot read"),
        (["compare", good, other], "no N is in both"),
        (["compare", good, good, "--columns", "step"], "write --columns NAME=VALUE"),
        (["compare", good, good, "--L0", "9"], "not below the least loss"),
    ):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert complaint in said and said.count("\n") == 1


def test_a_loss_that_rises_is_said_to_have_no_law(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = write(tmp_path / "base.csv", 3000.0, 0.3)
    rows = [f"{t},{2 + (t / 300) ** 0.5:.6f}" for t in range(0, 501, 10)]
    (tmp_path / "rise.csv").write_text("\n".join(["step,loss", *rows]) + "\n", encoding="utf-8")
    assert main(["compare", base, str(tmp_path / "rise.csv"), "--output", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "does not fall beyond t0" in shown and re.search(r"ΔB = 1 − B₂/B₁ +– +–", shown)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["compare.json"]


def test_what_only_one_table_has_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, mine = write(tmp_path / "b.csv", 3000.0, 0.3, seeds=3), write(tmp_path / "m.csv", 1000.0, 0.3, seeds=2)
    assert main(["compare", base, mine]) == 0
    assert "left out, as only one table has them: seeds 2" in capsys.readouterr().out
    for words, complaint in (
        (["--latest-share", "0"], "between 0 and 1"),
        (["--L0", "-1"], "at least 0"),
        (["--E", "1"], "several N"),
        (["--tokens-per-step", "-5"], "--tokens-per-step is -5: give a number above 0"),
        (["--E", "nan"], "--E is nan"),
    ):
        assert main(["compare", base, mine, *words]) == 2
        assert complaint in capsys.readouterr().err


def test_runs_may_have_names_and_shorter_curves_are_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def table(name: str, B: float, last: int) -> str:
        rows = [f"{t},{2 + (B / t) ** 0.5:.8f},{run}" for run in ("run-a", "run-b") for t in range(1, last + 1, 5)]
        (tmp_path / name).write_text("\n".join(["step,loss,run", *rows]) + "\n", encoding="utf-8")
        return str(tmp_path / name)

    words = ["compare", table("b.csv", 100.0, 1000), table("m.csv", 40.0, 500), "--columns", "seed=run"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "seed run-a: compared over 1–496 alone; the baseline's last loss is that at step 496" in shown
    assert "ΔB = 1 − B₂/B₁" in shown and "60%" in shown
    assert main([*words, "--output", str(tmp_path / "b.csv")]) == 2
    assert "is a file: name a folder" in capsys.readouterr().err


def test_a_baseline_that_rises_again_is_said_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{t},{2 + (20 / t) ** 0.8 + 0.4 * (t / 200) ** 2:.8f}" for t in range(1, 201)]
    (tmp_path / "up.csv").write_text("\n".join(["step,loss", *rows]) + "\n", encoding="utf-8")
    path = str(tmp_path / "up.csv")
    assert main(["compare", path, path]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"the baseline rises again, by 0\.\d+ nats, and so first crosses its own last loss 4\.5", shown)
    assert re.search(r"acceleration, to the baseline's least loss +1×", shown)
    assert "a power law describes these curves badly" in shown and "losses scatter" not in shown


def test_a_baseline_scatters_on_its_own_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Between its records lie straight lines, which do not scatter."""
    noise = 0.05 * np.random.default_rng(1).standard_normal(400)
    for name, every in (("coarse", 10), ("fine", 1)):
        rows = [f"{t},{2 + (20 / t) ** 0.8 + noise[t // every % 400]:.8f}" for t in range(1, 2001, every)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["step,loss", *rows]) + "\n", encoding="utf-8")
    assert main(["compare", str(tmp_path / "coarse.csv"), str(tmp_path / "fine.csv")]) == 0
    assert re.search(r"losses scatter by 0\.0[456]", capsys.readouterr().out)


def test_losses_that_scatter_are_said_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    paths = []
    for name in ("base", "mine"):
        rows = [f"{t},{2 + (20 / t) ** 0.8 + 0.02 * rng.standard_normal():.8f}" for t in range(1, 1001)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["step,loss", *rows]) + "\n", encoding="utf-8")
        paths.append(str(tmp_path / f"{name}.csv"))
    assert main(["compare", *paths]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"losses scatter by 0\.02\d* and (fall|rise) by 0\.0", shown) and "rises again" not in shown
    assert main(["compare", *[write(tmp_path / f"{B}.csv", B, 0.3) for B in (3000.0, 1000.0)]]) == 0
    assert "losses scatter" not in capsys.readouterr().out


def test_a_t0_on_its_bound_is_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{t},{1 + (300 / max(t, 100)) ** 0.5 + 0.002 * max(100 - t, 0):.8f}" for t in range(1, 1001)]
    (tmp_path / "late.csv").write_text("\n".join(["step,loss", *rows]) + "\n", encoding="utf-8")
    words = ["compare", str(tmp_path / "late.csv"), str(tmp_path / "late.csv"), "--latest-share"]
    assert main([*words, "0.05"]) == 0
    assert "correlation: t0 on a bound of what was tried" in capsys.readouterr().out
    assert main([*words, "0.25"]) == 0
    assert "t0 on a bound" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_law_over_sizes_on_its_bound_is_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Losses that do not depend on N leave Kaplan's N_c nothing to say; a seed that one size lacks is named."""
    lines = ["step,loss,N,seed"]
    for size in (2e4, 8e4, 3e5):
        for seed in (0, 1) if size < 1e5 else (0,):
            lines += [f"{t},{1e-3 + (300 / t) ** 0.5:.8f},{size:g},{seed}" for t in range(1, 400, 10)]
    (tmp_path / "flat.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert main(["compare", *[str(tmp_path / "flat.csv")] * 2]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"kaplan_ns_base, seed 0: \w+, on a bound: .*do not use its ratios", shown)
    assert "leave out what not every size has: seed 1" in shown
