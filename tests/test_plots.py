"""Figures: what is drawn is what the numbers say, in one style that leaves matplotlib as it was."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from olm import plots
from olm.errors import InputError
from olm.objective import acceleration_ratio

HISTORY = [
    {"evaluation": 1, "objective": 0.5, "validation": 0.52, "accepted": True},
    {"evaluation": 2, "objective": 0.1, "validation": 0.1, "accepted": False},
    {"evaluation": 3, "objective": 0.40, "validation": 0.45, "accepted": True},
    {"evaluation": 4, "objective": 0.39, "validation": 0.47, "accepted": True},
    {"evaluation": 5, "objective": float("inf"), "validation": None, "accepted": False},
]
GRID = [
    {"side": side, "learning_rate": rate, "area_validation": area, "area_test": area * 1.1}
    for side, areas in (("uniform", [0.30, 0.20, 0.25, float("nan")]), ("found", [0.15, 0.10, 9e9, float("inf")]))
    for rate, area in zip([0.1, 0.2, 0.4, 0.8], areas, strict=True)
]
TABLE = np.array([[0.25, 0.25, 0.25, 0.25], [0.1, 0.7, 0.2, 0.0], [0.0, 1.0, 0.0, 0.0]])
POLICIES = [
    {"name": "high loss", "mean": 1.2, "low": None, "high": None},
    {"name": "table", "mean": 0.5, "low": 0.4, "high": 0.6, "searched": True, "cost": "183 runs"},
]
FIGURES: dict[str, Callable[..., Any]] = {
    "loss_curves": lambda ax=None: plots.loss_curves([1.0, 0.8, 0.5], [1.0, 0.5, 0.4], ax, entropy=0.3),
    "objective_history": lambda ax=None: plots.objective_history(HISTORY, ax, baseline=0.5),
    "learning_rate_grid": lambda ax=None: plots.learning_rate_grid(GRID, ax),
    "policies_compared": lambda ax=None: plots.policies_compared(POLICIES, ax),
    "weights_heatmap": lambda ax=None: plots.weights_heatmap(TABLE, ax, group=[0, 1, 0, 1]),
    "weights_distribution": lambda ax=None: plots.weights_distribution(TABLE, ax=ax),
    "contributions": lambda ax=None: plots.contributions([0.1, 0.2, -0.1], [0.5, 0.5, 0.0], ax),
}


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    yield
    plt.close("all")


def labelled(ax: Any, start: str) -> Any:
    """The line whose label starts so."""
    return next(line for line in ax.get_lines() if str(line.get_label()).startswith(start))


def marks(ax: Any, marker: str) -> list[tuple[float, float]]:
    """Where points of one marker stand."""
    return [
        (float(x), float(y))
        for line in ax.get_lines()
        if line.get_marker() == marker
        for x, y in zip(*line.get_data(), strict=True)
    ]


def test_policies_stand_best_first_with_their_interval_and_cost() -> None:
    axes = plots.policies_compared(POLICIES)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["table", "high loss"]
    interval = next(line for line in axes.get_lines() if list(line.get_xdata()) == [0.4, 0.6])
    assert list(interval.get_ydata()) == [0, 0] and [text.get_text() for text in axes.texts] == ["183 runs"]
    for rows in ([], [{"name": "a", "mean": 0.0}]):
        with pytest.raises(InputError, match="no policy to draw"):
            plots.policies_compared(rows)


def test_the_right_axis_of_a_search_reads_compression_ratios() -> None:
    axes = plots.objective_history(HISTORY, alphabet=2)
    (right,) = axes.child_axes
    axes.figure.canvas.draw()
    low, high = axes.get_ylim()
    np.testing.assert_allclose(sorted(right.get_ylim()), [np.log(2) / high, np.log(2) / low], rtol=1e-6)
    assert "compression ratio" in right.get_ylabel() and not plots.objective_history(HISTORY).child_axes


# --- style ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_draws_where_it_is_told_and_changes_no_setting(name: str) -> None:
    before = dict(matplotlib.rcParams)
    plt.close("all")  # what other tests left open
    figure, ax = plt.subplots()
    assert FIGURES[name](ax) is ax and plt.get_fignums() == [figure.number]
    alone = FIGURES[name]()
    assert alone.figure is not figure and len(plt.get_fignums()) == 2
    assert alone.get_xlabel() == ax.get_xlabel() != ""
    assert dict(matplotlib.rcParams) == before


def test_matplotlib_is_imported_only_when_a_figure_is_drawn(root: Path) -> None:
    files = sorted((root / "olm" / "plots").glob("*.py"))
    assert len(files) > 8
    for file in files:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                assert "matplotlib" not in ast.unparse(node), f"{file.name}: {ast.unparse(node)}"


def test_equal_figures_are_equal_files(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        with plots.style():
            for name in ("loss_curves", "weights_heatmap"):
                ax = plots.new_figure()
                FIGURES[name](ax)
                paths = plots.save(ax.figure, tmp_path / folder / "figures", name)
                assert [path.name for path in paths] == [f"{name}.svg", f"{name}.png"]
    files = sorted((tmp_path / "a" / "figures").iterdir())
    assert len(files) == 4
    for file in files:
        assert file.read_bytes() == (tmp_path / "b" / "figures" / file.name).read_bytes()
    assert all(b"<dc:date>" not in file.read_bytes() for file in files)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot make the folder"):
        plots.save(ax.figure, tmp_path / "file" / "figures", "x")


# --- learning curves --------------------------------------------------------------------------------------------------


@hypothesis.settings(max_examples=60)
@hypothesis.given(pair=st.integers(2, 9).flatmap(lambda n: st.tuples(*2 * [st.lists(st.integers(1, 5), min_size=n, max_size=n)])))
def test_the_marked_acceleration_is_the_acceleration_ratio(pair: tuple[list[int], list[int]]) -> None:
    baseline, found = pair
    with plots.style():
        ax = plots.loss_curves(baseline, found, plots.new_figure())
    ratio = acceleration_ratio(baseline, found)
    reached = min(found[-1], baseline[-1]) == found[-1]
    if reached and np.isfinite(ratio):
        assert ax.get_title("left") == f"{ratio:.3g}× faster"
        step = round((len(baseline) - 1) / ratio)
        assert labelled(ax, "at or below").get_data() == ([step], [found[step]])
        assert all(loss <= baseline[-1] for loss in found[step:])
    else:
        assert "faster" not in ax.get_title("left")


def test_curves_are_drawn_as_given() -> None:
    baseline, found = [4.0, 2.0, 1.5, 1.2], [4.0, 1.5, 1.1, 1.0]
    ax = plots.loss_curves(baseline, found, label="test loss", entropy=0.9)
    assert np.array_equal(labelled(ax, "uniform").get_ydata(), baseline) and np.array_equal(
        labelled(ax, "found").get_ydata(), found
    )
    assert np.array_equal(labelled(ax, "uniform").get_xdata(), [0, 1, 2, 3])
    assert set(labelled(ax, "entropy").get_ydata()) == {0.9}
    assert ax.get_ylabel() == "test loss (nats)" and ax.get_ylim()[0] < 0.9 and ax.get_ylim()[1] > 4.0
    assert ax.get_yscale() == "log" and plots.loss_curves([4.0, 3.0]).get_yscale() == "linear"
    logarithmic = plots.loss_curves(baseline, found, log_x=True)
    assert logarithmic.get_xscale() == "log" and np.array_equal(labelled(logarithmic, "found").get_xdata(), [1, 2, 3])


def test_a_loss_that_explodes_does_not_flatten_the_rest() -> None:
    ax = plots.loss_curves([4.0, 3.0, 2.0], [4.0, 1e30, float("inf")], log_y=False)
    assert 4.0 < ax.get_ylim()[1] < 12.0


# --- search -----------------------------------------------------------------------------------------------------------


def test_the_history_stars_the_kept_evaluation_and_crosses_the_retried() -> None:
    ax = plots.objective_history(HISTORY, baseline=0.5)
    assert marks(ax, "*") == [(3.0, 0.45)]  # not the retried 2, not 4 with the lower objective
    assert marks(ax, "x")[0] == (2.0, 0.1) and np.array_equal(labelled(ax, "objective").get_xdata(), [1, 3, 4])
    assert [x for x, _ in marks(ax, "^")] == [5.0]
    assert marks(plots.objective_history(HISTORY, best=4), "*") == [(4.0, 0.47)]
    plain = [{"evaluation": k, "objective": v} for k, v in enumerate([3.0, 1.0, 2.0])]
    assert marks(plots.objective_history(plain), "*") == [(1.0, 1.0)]


@pytest.mark.parametrize(("best", "said"), [(0, "kept: the start"), (3, "kept: the step after the last"), (1, "kept: 1")])
def test_the_history_says_what_was_kept(best: int, said: str) -> None:
    history = [{"evaluation": 1, "objective": 0.3}, {"evaluation": 2, "objective": 0.2}]
    legend = plots.objective_history(history, best=best).get_legend()
    assert [text.get_text() for text in legend.get_texts() if "kept" in text.get_text()] == [said]


def test_negative_losses_are_drawn_inside_the_figure() -> None:
    ax = plots.loss_curves([-1.0, -1.5, -2.0], [-1.0, -1.9, -2.5])
    low, high = ax.get_ylim()
    assert low < -2.5 and -1.0 < high < 0


def test_the_grid_stars_the_best_finite_learning_rate_of_each_side() -> None:
    ax = plots.learning_rate_grid(GRID)
    assert sorted(marks(ax, "*")) == [(0.2, 0.10), (0.2, 0.20)]
    assert sorted(x for x, _ in marks(ax, "^")) == [0.4, 0.8, 0.8]
    assert ax.get_ylim()[1] < 1.0 and [tick.get_text() for tick in ax.get_xticklabels()] == ["0.1", "0.2", "0.4", "0.8"]
    with pytest.raises(InputError, match="positive learning_rate"):
        plots.learning_rate_grid([{"side": "uniform", "learning_rate": 0.0, "area_validation": 1.0}])


# --- weights ----------------------------------------------------------------------------------------------------------


def mesh(ax: Any) -> np.ndarray:
    """The drawn values, examples down, steps across."""
    return np.ma.filled(ax.collections[0].get_array(), np.nan)


def test_the_heat_map_sorts_by_mean_weight_within_groups() -> None:
    ax = plots.weights_heatmap(TABLE, bound=100.0)
    assert np.allclose(mesh(ax), np.clip(4 * TABLE.T[[1, 2, 0, 3]], 0.01, 100))
    grouped = plots.weights_heatmap(TABLE, bound=100.0, group=[1, 1, 0, 0], steps=[5, 0, 9])
    assert np.allclose(mesh(grouped), np.clip(4 * TABLE[[1, 0, 2]].T[[2, 3, 1, 0]], 0.01, 100))
    assert [tick.get_text() for tick in grouped.get_yticklabels()] == ["clean", "corrupted"]
    assert grouped.collections[0].get_coordinates()[0, :, 0].tolist() == [-2.5, 2.5, 7.0, 11.0]


def test_a_large_table_is_thinned_and_stays_relative_to_the_whole() -> None:
    rng = np.random.default_rng(0)
    table = rng.dirichlet(np.ones(1000), size=500)
    assert mesh(plots.weights_heatmap(table)).shape == (400, 400)
    assert mesh(plots.weights_heatmap(table, max_steps=7, max_examples=9)).shape == (9, 7)
    some = table[:, :100]
    assert np.allclose(mesh(plots.weights_heatmap(some, n_examples=1000, bound=1e9)).mean(), 1000 * some[:400].mean(), rtol=0.1)
    estimated = mesh(plots.weights_heatmap(some, bound=1e9, max_steps=500))
    assert estimated.mean() == pytest.approx(1.0)


def test_the_distribution_reads_off_shares_and_effective_sample() -> None:
    ax = plots.weights_distribution(TABLE, [0, 10, 20], at=[1, 19])
    lines = [line for line in ax.get_lines() if line.get_label() != "uniform"]
    assert [line.get_label() for line in lines] == ["0 (100%)", "20 (25%)"]
    x, y = lines[1].get_data()
    assert (x[0], y[0]) == (1e-3, 0.75) and (x[1], y[1]) == (4.0, 1.0)  # three of four examples have no weight
    x, y = lines[0].get_data()
    assert y[np.flatnonzero(x == 1.0)[0]] == 1.0 and y[np.flatnonzero(x < 1.0)].tolist() == [0.0]
    assert len(plots.weights_distribution(np.full((50, 4), 0.25)).get_lines()) == 6
    unnormalised = plots.weights_distribution([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 3.0, 9.0]])
    assert [line.get_label() for line in unnormalised.get_lines()] == ["uniform", "0 (100%)", "1 (40%)"]  # 12² / (4 · 90)


def test_contributions_show_the_weighted_mean() -> None:
    ax = plots.contributions([0.1, 0.3, -0.2, 0.4], [0.5, 0.5, 0.0, np.nan], group=[0, 1, 0, 0])
    assert list(labelled(ax, "weighted mean").get_xdata()) == pytest.approx([0.2, 0.2])
    points = np.concatenate([collection.get_offsets() for collection in ax.collections])
    assert np.allclose(sorted(points.tolist()), [[-0.2, 1e-3], [0.1, 1.5], [0.3, 1.5]])


# --- hard input -------------------------------------------------------------------------------------------------------

nan, inf = float("nan"), float("inf")


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: plots.loss_curves([1.0], [0.5], ax),
        lambda ax: plots.loss_curves([1.0, 0.5], None, ax, log_x=True),
        lambda ax: plots.loss_curves([nan, nan, nan], [nan, nan, nan], ax, entropy=nan),
        lambda ax: plots.loss_curves([inf, 1.0, 0.5], [3.0, inf, nan], ax, log_x=True, log_y=True),
        lambda ax: plots.loss_curves([0.0, -1.0, 0.0], [0.0, 0.0, 0.0], ax, log_y=True),
        lambda ax: plots.objective_history([{"objective": nan}], ax),
        lambda ax: plots.objective_history(
            [{"objective": None, "accepted": False}, {"objective": inf}], ax, baseline=nan, best=7
        ),
        lambda ax: plots.objective_history([{"evaluation": 1, "objective": 0.0}], ax, baseline=0.0),
        lambda ax: plots.learning_rate_grid([{"side": "found", "learning_rate": 1.0, "area_validation": nan}], ax),
        lambda ax: plots.learning_rate_grid([{"side": "uniform", "learning_rate": 1.0, "area_validation": -1.0}], ax),
        lambda ax: plots.weights_heatmap([[1.0]], ax),
        lambda ax: plots.weights_heatmap([[nan, nan], [0.5, inf]], ax, group=[1, 1]),
        lambda ax: plots.weights_heatmap(np.eye(3), ax),
        lambda ax: plots.weights_distribution([[1.0]], ax=ax),
        lambda ax: plots.weights_distribution([[nan, nan], [0.0, inf], [0.0, 1.0], [0.0, 0.0]], ax=ax),
        lambda ax: plots.contributions([nan], [1.0], ax),
        lambda ax: plots.contributions([0.0], [1.0], ax),
    ],
)
def test_what_is_not_finite_or_single_is_drawn_without_a_warning(draw: Callable[[Any], Any]) -> None:
    with plots.style():
        ax = plots.new_figure(3, 2)
        draw(ax)
        ax.figure.canvas.draw()
    assert np.isfinite([*ax.get_xlim(), *ax.get_ylim()]).all() and ax.get_xlabel()


@pytest.mark.parametrize(
    ("draw", "complaint"),
    [
        (lambda: plots.loss_curves([]), "baseline's curve has shape (0,)"),
        (lambda: plots.loss_curves([[1.0]]), "shape (1, 1)"),
        (lambda: plots.loss_curves(["a"]), "cannot be drawn"),
        (lambda: plots.loss_curves([1.0, 2.0], [1.0]), "2 and 1 entries"),
        (lambda: plots.objective_history([]), "no evaluation"),
        (lambda: plots.learning_rate_grid([]), "no learning rate"),
        (lambda: plots.weights_heatmap(np.zeros((0, 4))), "shape (0, 4)"),
        (lambda: plots.weights_heatmap(np.zeros((2, 4))), "no positive mean"),
        (lambda: plots.weights_heatmap(TABLE, steps=[1]), "steps has 1 entries for weights with 3"),
        (lambda: plots.weights_heatmap(TABLE, group=[1]), "group has 1 entries for weights with 4"),
        (lambda: plots.weights_distribution(TABLE[0]), "2 axes"),
        (lambda: plots.contributions([1.0], [1.0, 2.0]), "1 entries"),
        (lambda: plots.contributions([], []), "shape (0,)"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_line(draw: Callable[[], Any], complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        draw()
    assert complaint in str(caught.value) and "\n" not in str(caught.value)
    assert plt.get_fignums() == []
