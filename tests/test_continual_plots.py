"""Figures and the page of runs over a sequence of datasets: curves and labels where they belong, and nothing about policies."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest

from olm import plots
from olm.errors import InputError
from olm.records import Run
from olm.report import write_report

nan = float("nan")


def measured(mean: float, half: float | None = 0.01) -> dict[str, float | None]:
    return {"mean": mean, "low": None if half is None else mean - half, "high": None if half is None else mean + half}


ROWS = {
    name: {"old": measured(old), "new": measured(new), "forgetting": measured(old - 1.36)}
    for name, old, new in (
        ("first dataset only", 1.36, 11.6),
        ("second dataset only", 11.6, 1.46),
        ("replay 0%", 11.9, 1.44),
        ("replay 5%", 1.88, 1.39),  # not in order
        ("replay 0.5%", 3.27, 1.43),
        ("union", 1.35, 1.42),
    )
}
STEPS, RATES = [0, 10, 20, 30, 40], [0.0, 0.4, 0.1, 0.4, 0.1]
LOSSES = {"a": [5.0, 2.0, 1.0, 1.5, 1.3], "b": [5.0, 6.0, 7.0, 1.4, 1.2]}
ORDERINGS = {
    "strong shift, small model": {"2 it pays: nats": {**measured(0.02), "verdict": "held"}},
    "weak shift, small model": {
        "2 it pays: nats": {**measured(-0.012, 0.03), "verdict": "open"},
        "1 it helps: relative": {**measured(-2.0, None), "verdict": "not held"},
    },
}


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    yield
    plt.close("all")


def line(ax: Any, label: str) -> Any:
    return next(line for line in ax.get_lines() if line.get_label() == label)


def words(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.texts]


# --- losses along the run ---------------------------------------------------------------------------------------------


def test_the_curves_of_a_sequence_are_drawn_as_given_above_the_rate() -> None:
    upper, lower = plots.sequence_curves(STEPS, LOSSES, RATES, [20, 40], label="test loss", entropies={"a": 0.9, "b": None})
    for name, values in LOSSES.items():
        assert np.array_equal(line(upper, name).get_data(), [STEPS, values])
    assert len({line(upper, name).get_color() for name in LOSSES}) == len({line(upper, name).get_linestyle() for name in LOSSES})
    assert upper.get_ylabel() == "test loss (nats per token)" and lower.get_xlabel() == "step" and upper.get_yscale() == "log"
    assert [set(each.get_ydata()) for each in upper.get_lines() if set(each.get_ydata()) == {0.9}] == [{0.9}]  # b has none
    assert upper.get_ylim()[0] < 0.9 and upper.get_ylim()[1] > 7.0
    assert np.array_equal(lower.get_lines()[-1].get_data(), [STEPS[1:], RATES[1:]])  # no step precedes step 0
    upper.figure.canvas.draw()
    assert upper.get_xlim() == lower.get_xlim() == (0, 40)
    above, below = upper.get_position(), lower.get_position()
    assert above.y0 > below.y1 and above.height > 2 * below.height and above.x0 == pytest.approx(below.x0)
    assert plots.sequence_curves(STEPS, {"a": [3.0, 2.0, 2, 2, 2]}, RATES, [40])[0].get_yscale() == "linear"


def test_phases_are_divided_and_named_in_the_colour_of_their_dataset() -> None:
    upper, lower = plots.sequence_curves(STEPS, LOSSES, RATES, [20, 40])
    for panel in (upper, lower):
        assert [each.get_xdata() for each in panel.get_lines() if len(set(each.get_xdata())) == 1] == [[20, 20]]
    titles = {text.get_text(): text for text in upper.texts[:2]}
    assert {name: text.get_position()[0] for name, text in titles.items()} == {"new: a": 10, "new: b": 30}
    assert titles["new: b"].get_color() == line(upper, "b").get_color() != line(upper, "a").get_color()
    assert words(plots.sequence_curves(STEPS, LOSSES, RATES, [40])[0])[0] == "new: b"  # the last dataset is the new one
    assert words(plots.sequence_curves(STEPS, LOSSES, RATES, [40], new=["a"])[0])[0] == "new: a"
    unfinished = plots.sequence_curves(STEPS, LOSSES, RATES, [20, 80])[0]
    assert unfinished.get_xlim() == (0, 80)


def test_names_at_the_ends_of_close_lines_do_not_overlap() -> None:
    losses = {name: [5.0, last] for name, last in (("a", 1.30), ("b", 1.31), ("c", 1.30), ("d", 3.0), ("e", nan))}
    upper, _ = plots.sequence_curves([0, 10], losses, [0.0, 0.1], [10])
    upper.figure.canvas.draw()
    labels = [text for text in upper.texts if text.get_text() in losses]
    boxes = sorted((text.get_window_extent() for text in labels), key=lambda box: box.y0)
    assert all(first.y1 <= second.y0 + 1 for first, second in itertools.pairwise(boxes))
    heights = {text.get_text(): text.get_position()[1] for text in labels}
    assert heights["a"] < heights["c"] < heights["b"] < heights["d"]
    exact = upper.transAxes.inverted().transform(upper.transData.transform((10, 3.0)))[1]
    assert heights["d"] == pytest.approx(exact, abs=1e-6)  # one with room stands where its line ends


# --- replay -----------------------------------------------------------------------------------------------------------


def test_replay_shares_are_joined_in_order_and_labelled() -> None:
    ax = plots.replay_tradeoff(ROWS)
    assert np.allclose(line(ax, "replay share").get_data(), [[11.9, 3.27, 1.88], [1.44, 1.43, 1.39]])
    assert ax.get_xscale() == "log" and ax.get_xlabel() == "loss on the old data (nats per token)"
    labels = {text.get_text(): text.xy for text in ax.texts}
    assert {name: tuple(at) for name, at in labels.items()} == {"0%": (11.9, 1.44), "0.5%": (3.27, 1.43), "5%": (1.88, 1.39)}
    bars = [tuple(each.get_xdata()) for each in ax.get_lines() if len(set(each.get_ydata())) == 1 and len(each.get_xdata()) == 2]
    assert any(np.allclose(bar, (3.26, 3.28)) for bar in bars)
    assert np.allclose(line(ax, "union").get_data(), [[1.35], [1.42]])
    low, high = ax.get_ylim()
    assert low < 1.38 and 1.46 < high < 2  # the loss of a model that never saw the new data does not flatten the rest
    assert line(ax, "first dataset only ↑ 11.6").get_ydata() == [1]
    assert len({line(ax, name).get_marker() for name in ("replay share", "union", "second dataset only")}) == 3
    forgetting = plots.replay_tradeoff(ROWS, x="forgetting")
    assert forgetting.get_xscale() == "linear" and forgetting.get_xlabel() == "forgetting (nats per token)"  # some is below 0


def test_labels_of_crowded_shares_do_not_overlap() -> None:
    olds = (1.347, 1.346, 1.343, 1.330, 1.318, 1.298, 1.283)
    rows = {
        f"replay {share}%": {"old": measured(old, None), "new": measured(1.23, None)}
        for share, old in zip((0, 0.5, 1, 5, 10, 25, 50), olds, strict=True)
    }
    with plots.style():
        ax = plots.replay_tradeoff(rows, plots.new_figure(6.4, 4.4))
        ax.figure.draw_without_rendering()  # sets where the words are
    inked = [matplotlib.text.Text.get_window_extent(text).padded(-1) for text in ax.texts]
    assert len(inked) == 7 and not any(a.overlaps(b) for i, a in enumerate(inked) for b in inked[:i])


# --- orderings --------------------------------------------------------------------------------------------------------


def test_statements_say_their_verdict_in_a_word_a_sign_and_a_colour() -> None:
    ax = plots.statements(ORDERINGS)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1 it helps\n(relative)", "2 it pays\n(nats)"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["strong shift,\nsmall model", "weak shift,\nsmall model"]
    assert words(ax) == [
        "✓ held", "0.020 [0.010, 0.030]", "✗ not held", "−2.0", "? open", "−0.012 [−0.042, 0.018]",
    ]  # fmt: skip
    assert len(ax.patches) == len({patch.get_facecolor() for patch in ax.patches}) == 3  # the first setting lacks a statement
    top, bottom = ax.get_yticks()
    for text, patch, (column, row) in zip(ax.texts[::2], ax.patches, [(0, bottom), (1, top), (1, bottom)], strict=True):
        assert text.get_position()[0] == column + 0.5 and patch.get_y() < row < patch.get_y() + patch.get_height()
    ax.figure.canvas.draw()
    for number, patch in zip(ax.texts[1::2], ax.patches, strict=True):
        cell, box = patch.get_window_extent(), number.get_window_extent()
        assert cell.x0 <= box.x0 and box.x1 <= cell.x1 and cell.y0 <= box.y0


# --- search -----------------------------------------------------------------------------------------------------------


def test_a_found_schedule_stands_beside_where_it_began() -> None:
    shares, rates = [[0.1, 0.2, 0.3], [0.1, 0.0, 0.5]], [[1.0, 0.5, 0.2], [1.0, 0.6, 0.1]]
    above, below = plots.searched_schedule(shares, rates, [1.0, 0.5, 0.1], base_shares=0.25)
    for panel, found, start in ((above, shares, [0.25] * 3), (below, rates, [1.0, 0.5, 0.1])):
        *seeds, dashed = panel.get_lines()
        assert [list(each.get_ydata()) for each in seeds] == found and list(seeds[0].get_xdata()) == [1, 2, 3]
        assert list(dashed.get_ydata()) == start and dashed.get_linestyle() != "-" == seeds[0].get_linestyle()
    assert (above.get_ylabel(), below.get_ylabel(), below.get_xlabel()) == ("replay share", "learning rate", "step")
    assert [text.get_text() for text in below.get_legend().get_texts()] == ["found, 2 seeds", "start of the search"]
    assert len(plots.searched_schedule(shares[0], rates[0], rates[1])[0].get_lines()) == 1


# --- every figure -----------------------------------------------------------------------------------------------------

FIGURES: dict[str, Callable[..., Any]] = {
    "sequence_curves": lambda ax=None: plots.sequence_curves(STEPS, LOSSES, RATES, [20, 40], ax),
    "replay_tradeoff": lambda ax=None: plots.replay_tradeoff(ROWS, ax),
    "statements": lambda ax=None: plots.statements(ORDERINGS, ax),
    "searched_schedule": lambda ax=None: plots.searched_schedule([0.1, 0.2], [1.0, 0.5], [1.0, 1.0], ax),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_draws_where_it_is_told_and_changes_no_setting(name: str) -> None:
    before = dict(matplotlib.rcParams)
    figure, ax = plt.subplots()
    drawn = FIGURES[name](ax)
    assert (drawn[0] if isinstance(drawn, tuple) else drawn) is ax and plt.get_fignums() == [figure.number]
    FIGURES[name]()
    assert len(plt.get_fignums()) == 2 and dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: plots.sequence_curves([0], {"a": [5.0]}, [0.0], [10], ax),
        lambda ax: plots.sequence_curves(STEPS, {"a": [nan] * 5, "b": [1, nan, float("inf"), 2, 9]}, [nan] * 5, [40], ax),
        lambda ax: plots.sequence_curves([5], {"a_$b": [0.0]}, [0.1], [2, 4, 5], ax, entropies={"a_$b": nan, "c": 1.0}),
        lambda ax: plots.replay_tradeoff({"replay 5%": {"old": measured(1.0, None), "new": measured(1.0, None)}}, ax),
        lambda ax: plots.replay_tradeoff(ROWS | {"replay 1%": {"old": measured(2.6, 5), "new": measured(1.4)}}, ax),
        lambda ax: plots.statements({"a": {"x": {"mean": nan, "low": None, "high": None, "verdict": "open"}}}, ax),
        lambda ax: plots.searched_schedule([nan], [0.0], [0.0], ax, base_shares=nan),
    ],
)
def test_what_is_not_finite_or_single_is_drawn_without_a_warning(draw: Callable[[Any], Any]) -> None:
    with plots.style():
        ax = plots.new_figure(5, 3.5)
        draw(ax)
        ax.figure.draw_without_rendering()
    assert np.isfinite([*ax.get_xlim(), *ax.get_ylim()]).all()


@pytest.mark.parametrize(
    ("draw", "complaint"),
    [
        (lambda: plots.sequence_curves(STEPS, {}, RATES, [40]), "no dataset"),
        (lambda: plots.sequence_curves(STEPS, {"a": [1.0]}, RATES, [40]), "a has 1 values for 5 steps"),
        (lambda: plots.sequence_curves(STEPS, LOSSES, [0.1], [40]), "learning rate has 1 values"),
        (lambda: plots.sequence_curves(STEPS, LOSSES, RATES, [40, 20]), "rising steps"),
        (lambda: plots.sequence_curves(STEPS, LOSSES, RATES, [20, 40], new=["a"]), "1 new datasets for 2 phases"),
        (lambda: plots.sequence_curves(STEPS, {"a": ["x"] * 5}, RATES, [40]), "the loss of a cannot be drawn"),
        (lambda: plots.replay_tradeoff({"union": ROWS["union"]}), "no row's name begins with 'replay '"),
        (lambda: plots.replay_tradeoff({"replay much": ROWS["union"]}), "do not all end in a share"),
        (lambda: plots.replay_tradeoff({"replay 5%": {"old": measured(1.0)}}), "'replay 5%' has no 'new'"),
        (lambda: plots.replay_tradeoff({"replay 5%": {"old": measured(nan), "new": measured(1.0)}}), "not finite"),
        (lambda: plots.statements({"a": {}}), "no statement"),
        (lambda: plots.statements({"a": {"x": {"mean": 1.0, "verdict": "perhaps"}}}), "'perhaps'"),
        (lambda: plots.searched_schedule([0.1], [1.0, 1.0], [1.0, 1.0]), "the shares have 1 steps"),
        (lambda: plots.searched_schedule([[0.1, 0.2], [0.1]], [1.0], [1.0]), "the shares cannot be drawn"),
        (lambda: plots.searched_schedule([0.1], [1.0], [1.0], base_shares=[0.1, 0.2]), "at the start have 2 steps"),
        (lambda: plots.searched_schedule([0.1], [1.0], [1.0], plt.figure().add_axes((0, 0, 1, 1))), "not of a grid"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_line(draw: Callable[[], Any], complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        draw()
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


# --- the page ---------------------------------------------------------------------------------------------------------

CONFIG = {
    "kind": "continue",
    "plan": {"steps": [20, 20], "new": [0, 1], "batch_size": 4},
    "data": {"names": ["old_data", "<new>"], "fingerprint": "f"},
}
SUMMARY = {
    "status": "finished",
    "datasets": ["old_data", "<new>"],
    "loss": {"old_data": 1.3, "<new>": 1.2},
    "mean": 1.25,
    "adaptation": 1.2,
    "forgetting": {"old_data": 0.31234},
    "account": [
        {"new": "old_data", "tokens": {"old_data": 2560, "<new>": 0}, "share": {"old_data": 1.0, "<new>": 0.0}},
        {"new": "<new>", "tokens": {"old_data": 640, "<new>": 1920}, "share": {"old_data": 0.25, "<new>": 0.75}},
    ],
    "versions": {"jax": "0.10.2"},
}


def run_folder(path: Path, rows: int = 5, finished: bool = True) -> Path:
    """The folder of a run over two datasets, as `olm.continual` writes it."""
    with Run.create(path, CONFIG, ["olm", "continue", "--out", "my run"]) as run:
        for place, (step, rate) in enumerate(zip(STEPS[:rows], RATES, strict=False)):
            losses = {"old_data": LOSSES["a"][place], "<new>": LOSSES["b"][place]}
            tokens = {"old_data": 128 * step, "<new>": 0}
            row = {"step": step, "phase": step // 21, "new": "old_data", "rate": rate, "tokens": tokens}
            run.append_metrics({**row, "validation": losses, "test": {name: loss + 0.125 for name, loss in losses.items()}})
        if finished:
            table = np.array(list(LOSSES.values())).T
            run.save("curves", {"step": np.array(STEPS), "rate": np.array(RATES), "validation": table, "test": table})
            run.write_summary(SUMMARY)
    return path


def test_the_page_of_a_run_over_a_sequence_tells_of_it_and_of_no_policy(tmp_path: Path) -> None:
    path = run_folder(tmp_path / "run")
    text = write_report(path).read_text(encoding="utf-8")
    for shown in (
        '<dt>adaptation</dt><dd class="value">1.2</dd>', "test loss of &lt;new&gt;, the last new dataset",
        '<dt>forgetting of old_data</dt><dd class="value">0.3123</dd>', '<dt>mean loss</dt><dd class="value">1.25</dd>',
        '<dt>tokens of old_data</dt><dd class="value">3,200</dd>', '<dt>tokens of &lt;new&gt;</dt><dd class="value">1,920</dd>',
        '<dt>replay share</dt><dd class="value">0% → 25%</dd>', '<dt>steps</dt><dd class="value">40</dd>',
        f"olm continue --resume {path}", "olm continue --out &#39;my run&#39;", "the loss of every dataset and the learning rate",
        "sequence of datasets", "jax", "Evaluations (5)",
        '<th scope="col">step</th><th scope="col">phase</th><th scope="col">new</th><th scope="col">rate</th>'
        '<th scope="col">test old_data</th><th scope="col">test &lt;new&gt;</th><th scope="col">validation old_data</th>'
        '<th scope="col">validation &lt;new&gt;</th><th scope="col">tokens old_data</th><th scope="col">tokens &lt;new&gt;</th>',
        "<td>40</td><td>1</td><td>old_data</td><td>0.1</td><td>1.425</td><td>1.325</td><td>1.3</td><td>1.2</td>",
    ):  # fmt: skip
        assert shown in text, shown
    for absent in ("policy", "Claim (a)", "olm search", "Not everything", "acceleration"):
        assert absent not in text, absent
    assert text.count("<img") == 2


def test_an_interrupted_run_over_a_sequence_shows_what_there_is(tmp_path: Path) -> None:
    text = write_report(run_folder(tmp_path / "run", 3, finished=False)).read_text(encoding="utf-8")
    figures = sorted(path.name for path in (tmp_path / "run" / "figures").glob("*.svg"))
    assert figures == ["sequence_test.svg", "sequence_validation.svg"]
    assert (
        "This run is not complete." in text
        and '<dt>steps</dt><dd class="value">20</dd>' in text
        and "adaptation</dt>" not in text
    )
    with Run.create(tmp_path / "odd", {"kind": "continue", "plan": 3}) as run:
        run.append_metrics({"step": 1, "rate": 0.1, "test": {"a": 1.0}, "validation": None})
        run.write_summary({"forgetting": 3, "account": [{"tokens": None, "share": {"a": "x"}}], "mean": None})
    text = write_report(tmp_path / "odd").read_text(encoding="utf-8")
    assert text.count("cannot be drawn") == 2 and "<img" not in text
    Run.create(tmp_path / "empty", CONFIG).close()
    assert "metrics.jsonl is not there" in write_report(tmp_path / "empty").read_text(encoding="utf-8")
