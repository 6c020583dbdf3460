"""Figures of associative memory: numbers stand where they belong, and what cannot be drawn is said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest

from olm import plots
from olm.errors import InputError
from olm.plots import memory

nan, inf = float("nan"), float("inf")
X, PATTERNS = np.linspace(-3, 2, 11), [-2.0, 0.0, 1.0]
ENERGIES = {"Hopfield, β = 1": 0.5 * X**2, "layer": np.abs(X), "nearest neighbour": (X - 1) ** 2}
GRID_X, GRID_Y = [-2.0, 0.0, 1.0, 2.0], [-1.0, 0.0, 2.0]
MAP = [[3.0, 1.0, 0.0, 4.0], [2.0, 0.5, 1.0, 5.0], [7.0, 8.0, 9.0, 6.0]]  # rows are y
PLACES, PATHS = [[-2.0, -0.5], [0.2, -0.3], [1.5, 1.5]], [[[1.0, 1.0], [0.5, 0.0], [0.2, -0.2]], [[-1.0, 0.0], [-2.0, -0.4]]]
DISTANCES = {"50%": [4.0, 5.0, 5.0, 6.0], "100%": [0.0, 0.0, 3.0, 4.0, 4.0, 5.0, nan, 6.0]}
LAYERS = {
    "trained": [[2.0, 1.5, 2.5], [5.0, 4.0, 6.0], [40.0, 30.0, 50.0]],
    "untrained": [[1.0, 0.9, 1.1], [1.1, 1.0, 1.2], [nan, nan, nan]],
}
FRACTIONS = [0.1, 2.0, 1.0]  # not in order
RATES = {"layer 1": [[1.0, 0.9, 1.0], [0.2, 0.1, 0.3], [0.8, 0.7, 0.9]], "layer 2": [1.0, 0.0, nan]}
STEPS = [0, 10, 20]
CURVES = {
    "100%": ([4.0, 2.0, 1.5], [[4.0, 3.9, 4.1], [2.1, 2.0, 2.2], [1.6, 1.5, 1.8]]),
    "1%": ([4.0, 1.0, 0.1], [4.0, 3.0, 5.0]),
}
ROWS = [
    {"name": "dice", "entropy": 1.79, "loss": 1.81, "low": 1.75, "high": 1.9},
    {"name": "coin", "entropy": 0.3, "loss": 0.32, "low": 0.25, "high": 0.4},
    {"name": "stories", "entropy": 0.6, "loss": 0.7, "low": None, "high": None},
]
SIZES = [1e6, 1e5, 1e4]  # not in order
TOKENS = {"stories": [[nan, nan, nan], [4e5, 3e5, 5e5], [1e5, 8e4, 2e5]], "chain": [1e8, 1e7, 1e6]}


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    yield
    plt.close("all")


def line(ax: Any, label: str) -> Any:
    return next(line for line in ax.get_lines() if line.get_label() == label)


def legend(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def bars(ax: Any) -> list[tuple[float, float, float]]:
    """(x, low, high) of every bar."""
    return [
        (float(path[0, 0]), *map(float, sorted(path[:, 1])))
        for group in ax.collections
        if hasattr(group, "get_segments")
        for path in group.get_segments()
    ]


def has_bar(ax: Any, x: float, low: float, high: float, near: float = 1e-9) -> bool:
    return any(np.isclose(at, x, rtol=near, atol=near) and np.allclose(ends, (low, high)) for at, *ends in bars(ax))


# --- energies ---------------------------------------------------------------------------------------------------------


def test_energies_are_lines_over_their_states_and_patterns_ticks_at_the_axis() -> None:
    shuffled = np.random.default_rng(0).permutation(len(X))
    given = {name: values[shuffled] for name, values in ENERGIES.items()}
    ax = memory.energy_curves(X[shuffled], given, PATTERNS)
    for name, values in ENERGIES.items():
        assert np.array_equal(line(ax, name).get_data(), [X, values])
    ticks = line(ax, "patterns")
    assert list(ticks.get_xdata()) == PATTERNS and ticks.get_marker() == "|" and ticks.get_linestyle() == "None"
    places = ticks.get_transform().transform(np.array(ticks.get_data()).T)
    assert np.allclose(places[:, 1], ax.transAxes.transform((0, 0.025))[1])  # by the axis, whatever the energies are
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("state x (no unit)", "energy E(x) (no unit)")
    assert legend(ax) == [*ENERGIES, "patterns"] and legend(memory.energy_curves(X, ENERGIES)) == list(ENERGIES)
    assert len({str(line(ax, name).get_linestyle()) + line(ax, name).get_color() for name in ENERGIES}) == 3
    assert ax.get_ylim()[0] < 0 and ax.get_ylim()[1] > 16


def test_an_infinite_energy_is_a_gap() -> None:
    ax = memory.energy_curves([0, 1, 2], {"a": [1.0, inf, 3.0]})
    assert np.array_equal(line(ax, "a").get_ydata(), [1.0, nan, 3.0], equal_nan=True) and ax.get_ylim()[1] < 4


def test_thirty_series_look_different() -> None:
    ax = memory.energy_curves([0, 1], {f"energy {i}": [i, i] for i in range(30)})
    dashes = [str(memory._look(place)["linestyle"]) for place in range(30)]
    assert len({(each.get_color(), dash) for each, dash in zip(ax.get_lines(), dashes, strict=True)}) == 30


def test_a_map_has_rows_for_y_and_levels_that_hold_all_energies() -> None:
    ax = memory.energy_map(GRID_X, GRID_Y, MAP, PLACES, PATHS)
    contours = next(each for each in ax.collections if hasattr(each, "levels"))
    assert contours.levels[0] == 0.0 and contours.levels[-1] == 9.0 and (np.diff(contours.levels, n=2) > 0).all()
    lowest = np.concatenate([path.vertices for path in contours.get_paths()[:1]])
    assert np.allclose(lowest.mean(0), (1.0, -1.0), atol=0.2)  # E = 0 at x = 1, y = −1
    assert ax.get_xlim() == (-2, 2) and ax.get_ylim() == (-1, 2) and ax.get_aspect() == 1
    (bar,) = ax.child_axes
    assert bar.get_ylabel() == "energy (no unit)" and [text.get_text() for text in bar.get_yticklabels()][::6] == ["0", "9"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("state x₁ (no unit)", "state x₂ (no unit)")


def test_paths_go_from_a_ring_to_a_cross_among_the_patterns() -> None:
    ax = memory.energy_map(GRID_X, GRID_Y, MAP, PLACES, PATHS)
    assert np.array_equal(np.transpose(line(ax, "patterns").get_data()), PLACES)
    paths, begins, ends = (
        [each for each in ax.get_lines() if each.get_label() in labels]
        for labels in (("_path",), ("start of a descent", "_start"), ("its end", "_end"))
    )
    for path, drawn, begin, end in zip(PATHS, paths, begins, ends, strict=True):
        assert np.array_equal(np.transpose(drawn.get_data()), path)
        assert np.array_equal(np.transpose(begin.get_data()), path[:1]) and begin.get_marker() == "o"
        assert np.array_equal(np.transpose(end.get_data()), path[-1:]) and end.get_marker() == "X"
    assert legend(ax) == ["start of a descent", "its end", "patterns"]
    assert memory.energy_map(GRID_X, GRID_Y, MAP).get_legend() is None


# --- distances --------------------------------------------------------------------------------------------------------


def test_histograms_count_the_shares_of_each_and_duplicates_in_the_legend() -> None:
    ax = memory.nearest_distances(DISTANCES, radius=1.5)
    assert legend(ax) == ["50%", "100%, 2 duplicates", "2·radius of theory = 3"]
    for label, total in (("50%", 1.0), ("100%, 2 duplicates", 5 / 7)):  # of seven finite ones, two are duplicates
        x, y = line(ax, label).get_data()
        assert line(ax, label).get_drawstyle() == "steps-post" and y[0] == y[-1] == 0 and y.sum() == pytest.approx(total)
        assert 3.0 <= x[0] < 3.1 and 5.9 < x[-1] <= 6.0 and ax.get_xscale() == "linear"
    assert np.allclose(line(ax, "50%").get_data()[0], line(ax, "100%, 2 duplicates").get_data()[0])  # the same bins
    x, y = line(ax, "50%").get_data()
    assert sum(height for left, right, height in zip(x[1:-1], x[2:], y[1:-1], strict=True) if left <= 5 < right) == 0.5
    assert "1 duplicate" in legend(memory.nearest_distances({"a": [0.0, 1.0]}))[0].split(", ")
    assert ax.get_xlabel() == "distance to the nearest neighbour (units of the vectors)" and ax.get_ylim()[0] == 0


@pytest.mark.parametrize(
    ("twice", "at", "label"), [(True, 3.0, "2·radius of theory = 3"), (False, 1.5, "radius of theory = 1.5")]
)
def test_the_line_is_where_balls_touch_or_at_the_radius(twice: bool, at: float, label: str) -> None:
    ax = memory.nearest_distances(DISTANCES, radius=1.5, twice=twice)
    assert list(line(ax, label).get_xdata()) == [at, at] and ax.get_xlim()[0] < at < ax.get_xlim()[1]
    assert legend(memory.nearest_distances({"a": [1.0, 2.0]})) == ["a"]


def test_distances_far_from_the_theory_have_a_logarithmic_axis_that_holds_both() -> None:
    ax = memory.nearest_distances({"all": [100.0, 200.0, 300.0]}, radius=0.5)
    assert ax.get_xscale() == "log" and ax.get_xlim()[0] < 1 and ax.get_xlim()[1] > 299
    assert line(ax, "all").get_ydata().sum() == pytest.approx(1)


def test_one_far_vector_does_not_flatten_the_rest() -> None:
    values = np.r_[np.linspace(10, 20, 5000), 1e4]
    ax = memory.nearest_distances({"all": values})
    assert ax.get_xlim()[1] < 30 and line(ax, "all").get_ydata().sum() == pytest.approx(1)  # it is counted all the same


def test_radii_stand_at_their_layers_with_quartiles_beside_the_theory() -> None:
    ax = memory.layer_radii(LAYERS, 6.7)
    assert ax.get_yscale() == "log" and legend(ax) == ["theory √(n/2πe) = 6.7", "trained", "untrained"]
    for name, count in (("trained", 3), ("untrained", 2)):
        x, y = line(ax, name).get_data()
        assert np.allclose(x, np.arange(count), atol=0.1) and list(y) == [row[0] for row in LAYERS[name]][:count]
    assert len(bars(ax)) == 5 and has_bar(ax, 2, 30.0, 50.0, near=0.1) and has_bar(ax, 0, 0.9, 1.1, near=0.1)
    assert set(line(ax, "theory √(n/2πe) = 6.7").get_ydata()) == {6.7}
    assert line(ax, "trained").get_marker() != line(ax, "untrained").get_marker()
    assert ax.get_xlabel() == "layer (0: before the first block)" and "units of the activations" in ax.get_ylabel()
    close = memory.layer_radii({"a": LAYERS["trained"][:2]}, [2.0, 3.0])
    assert close.get_yscale() == "linear" and np.array_equal(line(close, "theory √(n/2πe)").get_data(), [[0, 1], [2, 3]])


def test_networks_of_other_depth_share_one_number_as_theory() -> None:
    ax = memory.layer_radii({"deep": LAYERS["trained"], "shallow": LAYERS["trained"][:2]}, 5)
    assert len(line(ax, "shallow").get_xdata()) == 2 and ax.get_xlim() == (-0.4, 2.4)


# --- retrieval --------------------------------------------------------------------------------------------------------


def test_rates_are_joined_in_order_of_the_perturbation_between_0_and_1() -> None:
    ax = memory.retrieval(FRACTIONS, RATES)
    x, y = line(ax, "layer 1").get_data()
    assert np.allclose(x, [0.1, 1.0, 2.0], rtol=0.05) and list(y) == [1.0, 0.8, 0.2]
    assert list(line(ax, "layer 2").get_ydata()) == [1.0, 0.0]
    assert has_bar(ax, 1.0, 0.7, 0.9, near=0.05) and len(bars(ax)) == 3
    assert ax.get_xscale() == "log" and -0.1 < ax.get_ylim()[0] < 0 and 1 < ax.get_ylim()[1] < 1.1
    assert list(line(ax, "the ball's edge").get_xdata()) == [1, 1] and legend(ax) == ["the ball's edge", *RATES]
    assert ax.get_xlabel() == "size of the perturbation (radii of the ball)" and ax.get_ylabel() == "share of patterns recovered"


@pytest.mark.parametrize(
    ("fractions", "log", "scale"),
    [([0.1, 2.0], None, "log"), ([0.5, 2.0], None, "linear"), ([0.0, 2.0], None, "linear"), ([0.1, 2.0], False, "linear"),
     ([0.5, 2.0], True, "log")],
)  # fmt: skip
def test_the_axis_of_perturbations_is_logarithmic_where_they_span_much(fractions: Any, log: Any, scale: str) -> None:
    assert memory.retrieval(fractions, {"a": [1.0, 0.5]}, log=log).get_xscale() == scale


def test_the_edge_is_drawn_only_where_it_is() -> None:
    assert legend(memory.retrieval([0.1, 0.2], {"a": [1.0, 1.0]})) == ["a"]


# --- training ---------------------------------------------------------------------------------------------------------


def test_a_run_has_one_colour_solid_for_validation_and_dashed_for_training() -> None:
    ax = memory.training_and_validation(STEPS, CURVES, floor=1.4, bound=1.0)
    colours = set()
    for name, (training, validation) in CURVES.items():
        solid, dashed = line(ax, f"{name}, validation"), line(ax, f"{name}, training")
        assert np.array_equal(dashed.get_data(), [STEPS, training])
        assert np.array_equal(solid.get_ydata(), np.array(validation).reshape(3, -1)[:, 0])
        assert solid.get_linestyle() == "-" and dashed.get_linestyle() == "--" and solid.get_color() == dashed.get_color()
        colours.add((solid.get_color(), solid.get_marker()))
    assert len(colours) == len({colour for colour, _ in colours}) == len({mark for _, mark in colours}) == 2
    assert len(bars(ax)) == 3 and has_bar(ax, 20, 1.5, 1.8)
    names = ["100%", "1%", "validation", "training", "entropy of the source, 1.4 nats", "theory's bound, 1 nat"]
    assert legend(ax) == names and ax.get_xlabel() == "training steps" and ax.get_ylabel() == "loss (nats per token)"
    levels = [line(ax, name) for name in names[-2:]]
    assert [set(each.get_ydata()) for each in levels] == [{1.4}, {1.0}]
    assert levels[0].get_linestyle() != levels[1].get_linestyle()


def test_levels_are_drawn_only_where_they_are_given_in_the_unit_of_the_losses() -> None:
    assert legend(memory.training_and_validation(STEPS, CURVES)) == ["100%", "1%", "validation", "training"]
    ax = memory.training_and_validation(STEPS, CURVES, floor=-3.0, bound=1.5, unit="bits per byte")
    assert legend(ax)[-2:] == ["entropy of the source, -3 bits", "theory's bound, 1.5 bits"]
    assert ax.get_ylabel() == "loss (bits per byte)" and ax.get_ylim()[0] < -3


def test_many_evaluations_have_few_marks_and_bars_but_all_of_the_line() -> None:
    steps = np.arange(100)
    table = np.stack([steps + 1.0, steps + 0.5, steps + 2.0], 1)
    ax = memory.training_and_validation(steps, {"a": (steps, table)})
    assert len(line(ax, "a, validation").get_xdata()) == 100 and 10 <= len(bars(ax)) <= 13
    marked = line(ax, "a, validation").get_markevery(), line(ax, "a, training").get_markevery()
    assert marked[0][1] == marked[1][1] == 8 and marked[0][0] != marked[1][0]  # they do not hide each other
    assert all(at % 8 == marked[0][0] for at, *_ in bars(ax))


# --- plateaus ---------------------------------------------------------------------------------------------------------


def test_plateaus_stand_between_the_diagonal_and_the_bound_with_their_names() -> None:
    ax = memory.plateaus(ROWS)
    assert np.allclose(line(ax, "measured plateau").get_data(), [[0.3, 0.6, 1.79], [0.32, 0.7, 1.81]])
    diagonal = np.array(line(ax, "loss = entropy of the source").get_data())
    assert np.array_equal(diagonal[0], diagonal[1]) and tuple(diagonal[0]) == ax.get_xlim() == ax.get_ylim()
    assert set(line(ax, "theory's bound, 1 nat").get_ydata()) == {1.0}
    assert {text.get_text(): text.xy for text in ax.texts if text.get_text()}.keys() == {"dice", "coin", "stories"}
    assert {text.get_text(): tuple(text.xy) for text in ax.texts}["stories"] == (0.6, 0.7)
    assert len(bars(ax)) == 2 and has_bar(ax, 1.79, 1.75, 1.9) and has_bar(ax, 0.3, 0.25, 0.4)
    assert ax.get_xlabel() == "entropy rate of the source (nats per token)"
    assert ax.get_ylabel() == "plateau of the loss (nats per token)"


def test_the_bound_is_on_the_figure_even_where_no_point_is_near_it() -> None:
    ax = memory.plateaus(ROWS[:1], bound=0.5)
    assert ax.get_ylim()[0] < 0.5 and legend(ax)[1] == "theory's bound, 0.5 nats"


def test_names_of_crowded_plateaus_do_not_overlap() -> None:
    rows = [{"name": f"source {i}", "entropy": 0.6 + 0.02 * i, "loss": 0.62 + 0.02 * i} for i in range(5)]
    with plots.style():
        ax = memory.plateaus([*rows, ROWS[0]], plots.new_figure(5.2, 5.0))
        ax.figure.draw_without_rendering()
    inked = [matplotlib.text.Text.get_window_extent(text).padded(-1) for text in ax.texts]
    assert len(inked) == 6 and not any(a.overlaps(b) for i, a in enumerate(inked) for b in inked[:i])


# --- data needed ------------------------------------------------------------------------------------------------------


def test_tokens_are_drawn_against_parameters_without_those_that_are_censored() -> None:
    ax = memory.data_needed(SIZES, TOKENS, exponents={"stories": (0.6, 0.4, 0.9), "chain": 1})
    assert legend(ax) == ["D ∝ √N", "D ∝ N", "stories, D* ∝ N^0.60 [0.40, 0.90], 1 censored", "chain, D* ∝ N^1.00"]
    x, y = line(ax, legend(ax)[2]).get_data()
    assert np.allclose(x, [1e4, 1e5], rtol=0.1) and list(y) == [1e5, 4e5]
    assert list(line(ax, legend(ax)[3]).get_ydata()) == [1e6, 1e7, 1e8]
    assert len(bars(ax)) == 2 and any(np.allclose(ends, (3e5, 5e5)) for _, *ends in bars(ax))
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("parameters N", "tokens needed D*")
    ax.figure.canvas.draw()
    assert {"10k", "100k", "1M"} <= {text.get_text() for text in ax.get_xticklabels()}


def test_an_interval_that_reaches_zero_ends_where_the_axis_does() -> None:
    ax = memory.data_needed([1e4, 1e5], {"a": [[1e5, 0.0, inf], [2e5, 0.0, 3e5]]})
    assert bars(ax) == [(1e5, pytest.approx(ax.get_ylim()[0]), 3e5)] and ax.get_ylim()[0] > 0


def test_guides_of_slope_a_half_and_one_go_through_the_first_finite_point() -> None:
    ax = memory.data_needed(SIZES, TOKENS)
    for label, slope in (("D ∝ √N", 0.5), ("D ∝ N", 1.0)):
        x, y = np.log(line(ax, label).get_data())
        assert np.diff(y) / np.diff(x) == pytest.approx(slope) and np.interp(np.log(1e4), x, y) == pytest.approx(np.log(1e5))
    late = memory.data_needed([1e4, 1e6], {"none": [nan, nan], "some": [nan, 5e6]})  # the first that is there
    assert np.allclose([line(late, label).get_ydata()[-1] for label in ("D ∝ √N", "D ∝ N")], 5e6)
    assert late.get_ylim()[0] < 5e4
    assert legend(memory.data_needed([1e4], {"none": [nan]})) == ["none, 1 censored"]


# --- every figure -----------------------------------------------------------------------------------------------------

FIGURES: dict[str, Callable[..., Any]] = {
    "energy_curves": lambda ax=None: memory.energy_curves(X, ENERGIES, PATTERNS, ax),
    "energy_map": lambda ax=None: memory.energy_map(GRID_X, GRID_Y, MAP, PLACES, PATHS, ax),
    "nearest_distances": lambda ax=None: memory.nearest_distances(DISTANCES, ax, radius=1.5),
    "layer_radii": lambda ax=None: memory.layer_radii(LAYERS, 6.7, ax),
    "retrieval": lambda ax=None: memory.retrieval(FRACTIONS, RATES, ax),
    "training_and_validation": lambda ax=None: memory.training_and_validation(STEPS, CURVES, ax, floor=1.4, bound=1.0),
    "plateaus": lambda ax=None: memory.plateaus(ROWS, ax),
    "data_needed": lambda ax=None: memory.data_needed(SIZES, TOKENS, ax),
}


def test_every_public_figure_is_among_those() -> None:
    assert sorted(FIGURES) == memory.__all__


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_draws_where_it_is_told_and_changes_no_setting(name: str) -> None:
    before = dict(matplotlib.rcParams)
    figure, ax = plt.subplots()
    assert FIGURES[name](ax) is ax and plt.get_fignums() == [figure.number]
    FIGURES[name]()
    assert len(plt.get_fignums()) == 2 and dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("name", FIGURES)
def test_no_legend_hides_what_is_drawn(name: str) -> None:
    ax = FIGURES[name]()
    ax.figure.draw_without_rendering()
    inside, box = ax.get_window_extent(), ax.get_legend().get_window_extent()
    assert box.x0 >= inside.x1 or box.y0 >= inside.y1
    page = ax.figure.bbox
    assert box.x0 >= page.x0 and box.x1 <= page.x1 + 1 and box.y0 >= page.y0 and box.y1 <= page.y1 + 1  # and is not cut off


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: memory.energy_curves([0.0], {"a_$b": [nan]}, [5.0], ax),
        lambda ax: memory.energy_map([0, 1], [0, 1], [[nan, 2.0], [inf, 2.0]], ax=ax),
        lambda ax: memory.nearest_distances({"a": [0.0], "b": [nan, inf]}, ax),
        lambda ax: memory.nearest_distances({"a": [0.0], "b": [1e-6, 3.0, 1e9]}, ax, radius=2.0),
        lambda ax: memory.layer_radii({"a": [[nan, nan, nan]]}, 1.0, ax),
        lambda ax: memory.layer_radii({"a": [[0.0, 0.0, 0.1], [9.0, -1.0, inf]]}, [1e-3, 2.0], ax),
        lambda ax: memory.retrieval([0.0], {"a": [nan]}, ax),
        lambda ax: memory.retrieval([2.0], {"a": [[0.5, -1.0, 2.0]]}, ax, log=True),
        lambda ax: memory.training_and_validation([3], {"a": ([nan], [inf])}, ax, floor=nan),
        lambda ax: memory.plateaus([{"name": "a", "entropy": 1.0, "loss": 1.0, "low": nan, "high": 2.0}], ax),
        lambda ax: memory.data_needed([1e5], {"a": [[1e6, 0.0, inf]]}, ax),
        lambda ax: memory.data_needed([1e5, 2e5], {"a": [nan, nan]}, ax),
    ],
)
def test_what_is_not_finite_or_single_is_drawn_without_a_warning(draw: Callable[[Any], Any]) -> None:
    with plots.style():
        ax = plots.new_figure(6, 3.5)
        draw(ax)
        ax.figure.draw_without_rendering()
    assert np.isfinite([*ax.get_xlim(), *ax.get_ylim()]).all()


@pytest.mark.parametrize(
    ("draw", "complaint"),
    [
        (lambda: memory.energy_curves(X, {}), "give the energies of at least one name"),
        (lambda: memory.energy_curves(X, {"a": [1.0]}), "the energy of a has 1 values for 11 states"),
        (lambda: memory.energy_curves([0, nan], {"a": [1.0, 2.0]}), "array of states is not finite"),
        (lambda: memory.energy_curves([0, 1], {"a": [1.0, 2.0]}, [inf]), "array of patterns is not finite"),
        (lambda: memory.energy_map([0], GRID_Y, MAP), "the grid x does not rise"),
        (lambda: memory.energy_map(GRID_X, GRID_Y[::-1], MAP), "the grid y does not rise"),
        (lambda: memory.energy_map(GRID_X, GRID_Y, np.transpose(MAP)), "shape (4, 3): make it (3, 4)"),
        (lambda: memory.energy_map([0, 1], [0, 1], [[nan, nan], [nan, 1]]), "less than two finite"),
        (lambda: memory.energy_map(GRID_X, GRID_Y, MAP, [[1.0, 2.0, 3.0]]), "array of patterns has shape (1, 3)"),
        (lambda: memory.energy_map(GRID_X, GRID_Y, MAP, None, [[0.0, 1.0]]), "descent path 0 has shape (2,)"),
        (lambda: memory.nearest_distances({}), "give the distances"),
        (lambda: memory.nearest_distances({"a": [1.0, -2.0]}), "the distances of a are negative"),
        (lambda: memory.nearest_distances({"a": [[1.0]]}), "the distances of a has shape (1, 1)"),
        (lambda: memory.nearest_distances(DISTANCES, radius=0), "radius is 0"),
        (lambda: memory.layer_radii({}, 1.0), "give the radii"),
        (lambda: memory.layer_radii({"a": [[1.0, 2.0]]}, 1.0), "have shape (1, 2): give median, lower and upper quartile"),
        (lambda: memory.layer_radii(LAYERS, [1.0, 2.0]), "the theory has 2 values, trained 3 layers"),
        (lambda: memory.layer_radii(LAYERS, nan), "the theory is not finite"),
        (lambda: memory.layer_radii(LAYERS, "x"), "the theory cannot be drawn"),
        (lambda: memory.retrieval(FRACTIONS, {}), "give the rates"),
        (lambda: memory.retrieval(FRACTIONS, {"a": [1.0]}), "rate of a has shape (1,): give 3 numbers"),
        (lambda: memory.retrieval(FRACTIONS, {"a": [[1.0], [0.5, 0.4], [1.0]]}), "rate of a cannot be drawn"),
        (lambda: memory.retrieval(FRACTIONS, {"a": [1.0, 50.0, 2.0]}), "rate of a is not within 0 … 1"),
        (lambda: memory.retrieval([0.0, 1.0], {"a": [1.0, 0.5]}, log=True), "fractions are not all positive"),
        (lambda: memory.training_and_validation(STEPS, {}), "give the losses"),
        (lambda: memory.training_and_validation(STEPS, {"a": [1.0, 2.0, 3.0]}), "curves of a are not a pair"),
        (lambda: memory.training_and_validation(STEPS, {"a": 3.0}), "curves of a are not a pair"),
        (lambda: memory.training_and_validation(STEPS, {"a": ([1.0], [1.0])}), "training loss of a has shape (1,)"),
        (lambda: memory.training_and_validation(STEPS, {"a": ([1, 2, 3], [1.0])}), "validation loss of a has shape (1,)"),
        (lambda: memory.plateaus([]), "no plateau"),
        (lambda: memory.plateaus([{"name": "a", "entropy": 1.0}]), "row 0 has no 'loss'"),
        (lambda: memory.plateaus([3.0]), "row 0 has no 'name'"),
        (lambda: memory.plateaus([{"name": "a", "entropy": 1.0, "loss": inf}]), "row 'a' is not finite"),
        (lambda: memory.data_needed(SIZES, {}), "give the tokens"),
        (lambda: memory.data_needed(SIZES, {"a": [1.0]}), "data of a has shape (1,)"),
        (lambda: memory.data_needed(SIZES, {"a": [1.0, 0.0, 2.0]}), "a: not all numbers are positive"),
        (lambda: memory.data_needed([1, 2, 0], {"a": [1.0, 1.0, 2.0]}), "parameters: not all numbers are positive"),
        (lambda: memory.data_needed(SIZES, TOKENS, exponents={"b": 1.0}), "exponents has 'b', which has no tokens"),
        (lambda: memory.data_needed(SIZES, TOKENS, exponents={"chain": [1, 2]}), "exponent of chain has 2 numbers"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_line(draw: Callable[[], Any], complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        draw()
    assert complaint in str(caught.value) and "\n" not in str(caught.value)
    assert plt.get_fignums() == []
