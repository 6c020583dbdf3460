"""Figures of controlled generation: numbers stand where they belong, and what cannot be drawn is said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

from olm import plots
from olm.errors import InputError
from olm.plots import control

nan, inf = float("nan"), float("inf")
RATES = [1e-1, 1e-2, 1e-3]
KL = {
    "NADO": [[0.2, 0.1, 0.3], [1.5, 1.0, 2.0], [5.0, 4.5, 5.5]],
    "DiNADO, explored": [[0.1, -0.1, 0.3], [0.2, 0.1, 0.3], [nan, nan, nan]],
    "GeLaTo": [0.3, 0.35, 0.4],
}
WORDS = [["a", "dog", "runs"], ["the", "cat", "sits"]]
EXACT = np.log([[0.1, 0.6, 1.0], [0.05, 0.5, 0.25]])
LEARNED = {"NADO": EXACT - 0.5, "DiNADO": EXACT + 0.1 * np.array([[1, 1, 0], [0, 1, 0]])}
TOKENS = ["a", "b", "c", "d"]
BASE, NADO, DINADO, POSTERIOR = [0.4, 0.3, 0.2, 0.1], [0.2, 0.2, 0.1, 0.5], [0.1, 0.1, 0.1, 0.7], [0.0, 0.1, 0.1, 0.8]


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    yield
    plt.close("all")


def line(ax: Any, label: str) -> Any:
    return next(line for line in ax.get_lines() if line.get_label() == label)


def legend(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


# --- divergences ------------------------------------------------------------------------------------------------------


def test_the_base_is_minus_the_logarithm_of_the_rate() -> None:
    ax = control.divergences(RATES, KL)
    x, y = line(ax, "base, −log R(x)").get_data()
    assert np.allclose(y, -np.log(x)) and np.allclose([x.min(), x.max()], [1e-3, 1e-1])
    assert ax.get_xscale() == ax.get_yscale() == "log"
    left, right = ax.get_xlim()
    assert left > 0.1 > 1e-3 > right  # rarer to the right
    assert ax.get_ylabel() == "KL(q* ‖ q) (nats per sequence)" and "R(x)" in ax.get_xlabel()


def test_means_stand_at_their_rates_and_what_is_not_finite_is_left_out() -> None:
    ax = control.divergences(RATES[::-1], {name: values[::-1] for name, values in KL.items()})  # in any order
    x, y = line(ax, "NADO").get_data()
    assert np.allclose(y, [5.0, 1.5, 0.2]) and np.allclose(x, [1e-3, 1e-2, 1e-1], rtol=0.1)
    assert np.allclose(line(ax, "DiNADO, explored").get_ydata(), [0.2, 0.1])
    assert legend(ax) == ["base, −log R(x)", *KL]
    assert len({(each.get_color(), each.get_linestyle(), each.get_marker()) for each in ax.get_lines()}) == 4


def test_intervals_are_bars_that_end_at_the_edge_where_they_reach_zero() -> None:
    ax = control.divergences(RATES, KL)
    bars = [np.sort(path[:, 1]) for bars in ax.collections for path in bars.get_segments()]
    assert any(np.allclose(bar, (1.0, 2.0)) for bar in bars) and any(np.allclose(bar, (0.1, 0.3)) for bar in bars)
    bottom, top = ax.get_ylim()
    assert 0 < bottom < 0.1 < 6.9 < top and any(np.allclose(bar, (bottom, 0.3)) for bar in bars)
    assert len(bars) == 3 + 2  # none of a method without intervals


def test_fourteen_methods_look_different() -> None:
    ax = control.divergences(RATES, {f"method {i}": [1.0, 2.0, 3.0] for i in range(14)})
    looks = {(each.get_color(), str(each.get_linestyle()), each.get_marker()) for each in ax.get_lines()}
    assert len(looks) == 15


def test_samples_are_ticks_of_their_own() -> None:
    ax = control.sample_efficiency([2500, 5000, 20_000], {"NADO": [3.0, 2.0, 1.0]}, base=4.6)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["2,500", "5,000", "20,000"]
    assert line(ax, "base, −log R(x)").get_ydata() == [4.6, 4.6] and ax.get_ylim()[1] > 4.6
    assert np.allclose(line(ax, "NADO").get_data(), [[2500, 5000, 20_000], [3, 2, 1]], rtol=0.03)
    assert legend(control.sample_efficiency([10], {"a": [1.0]})) == ["a"]


# --- values -----------------------------------------------------------------------------------------------------------


def test_each_sequence_has_a_panel_of_learned_and_exact_values() -> None:
    panels = control.values_along(WORDS, LEARNED, EXACT, marked=[[0, 1, 0], [0, 0, 1]])
    assert len(panels) == 2 and panels[0].get_ylim() == panels[1].get_ylim()
    for row, panel in enumerate(panels):
        assert np.allclose(line(panel, "exact").get_ydata(), np.exp(EXACT[row]))
        assert np.allclose(line(panel, "NADO").get_ydata(), np.exp(LEARNED["NADO"][row]))
        assert [label.get_text() for label in panel.get_xticklabels()] == WORDS[row] and panel.get_yscale() == "log"
        assert list(line(panel, "DiNADO").get_xdata()) == [1, 2, 3]
    assert [label.get_fontweight() for label in panels[0].get_xticklabels()] == ["normal", "bold", "normal"]
    assert legend(panels[0]) == ["exact", "NADO", "DiNADO"] and "bold" in panels[1].get_xlabel()
    panels[0].figure.canvas.draw()
    above, below = (panel.get_position() for panel in panels)
    assert above.y0 > below.y1 and above.x0 == pytest.approx(below.x0)


def test_a_lost_constraint_is_a_cross_at_the_edge() -> None:
    exact = np.array([[-1.0, -2.0, -inf]])
    (panel,) = control.values_along(WORDS[:1], {"NADO": [[-1.0, -2.0, -3.0]]}, exact)
    assert list(line(panel, "exact").get_xdata()) == [1, 2]
    cross = line(panel, "_lost")
    assert cross.get_marker() == "x" and list(cross.get_xdata()) == [3] and list(cross.get_ydata()) == [0]
    assert panel.get_ylim()[0] < np.exp(-3)


# --- next tokens ------------------------------------------------------------------------------------------------------


def test_bars_are_the_probabilities_side_by_side() -> None:
    ax = control.next_tokens(TOKENS, BASE, {"NADO": NADO, "DiNADO": DINADO}, POSTERIOR, prefix="the dog", most=4)
    groups = [[patch.get_height() for patch in container] for container in ax.containers]
    assert np.allclose(groups, [BASE, NADO, DINADO, POSTERIOR])
    assert [container.get_label() for container in ax.containers] == legend(ax) == ["base", "NADO", "DiNADO", "posterior q*"]
    centres = np.array([[patch.get_x() + patch.get_width() / 2 for patch in container] for container in ax.containers])
    assert np.allclose(centres.mean(0), [0, 1, 2, 3]) and (np.diff(centres, axis=0) > 0.2).all()
    assert ax.get_title(loc="left") == "after the dog"
    assert len({to_hex(container[0].get_facecolor()) for container in ax.containers}) == 4


def test_the_most_probable_are_shown_in_order_and_the_rest_is_summed() -> None:
    ax = control.next_tokens(TOKENS, BASE, {"NADO": NADO}, POSTERIOR, most=2)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "d", "others"]
    assert np.allclose([[patch.get_height() for patch in container] for container in ax.containers],
                       [[0.4, 0.1, 0.5], [0.2, 0.5, 0.3], [0.0, 0.8, 0.2]])  # fmt: skip


# --- every figure -----------------------------------------------------------------------------------------------------

FIGURES: dict[str, Callable[..., Any]] = {
    "divergences": lambda ax=None: control.divergences(RATES, KL, ax),
    "sample_efficiency": lambda ax=None: control.sample_efficiency([10, 20, 30], KL, ax),
    "values_along": lambda ax=None: control.values_along(WORDS, LEARNED, EXACT, ax),
    "next_tokens": lambda ax=None: control.next_tokens(TOKENS, BASE, {"NADO": NADO}, POSTERIOR, ax),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_draws_where_it_is_told_and_changes_no_setting(name: str) -> None:
    before = dict(matplotlib.rcParams)
    figure, ax = plt.subplots()
    drawn = FIGURES[name](ax)
    assert (drawn[0] if isinstance(drawn, list) else drawn) is ax and plt.get_fignums() == [figure.number]
    FIGURES[name]()
    assert len(plt.get_fignums()) == 2 and dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: control.divergences([1.0], {"a": [0.0]}, ax),
        lambda ax: control.divergences([0.1, 0.01], {"a_$b": [nan, inf]}, ax),
        lambda ax: control.sample_efficiency([100], {"a": [[0.5, nan, nan]]}, ax, base=2.0),
        lambda ax: control.values_along([["x"]], {"a": [[-inf]]}, [[nan]], ax),
        lambda ax: control.values_along([["x", "y"]], {"a": [[0.0, -1e4]]}, [[0.0, 0.0]], ax),
        lambda ax: control.next_tokens(["a"], [nan], {}, [0.0], ax),
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
        (lambda: control.divergences(RATES, {}), "no method"),
        (lambda: control.divergences(RATES, {"a": [1.0]}), "divergence of a has shape (1, 3) for 3 rates"),
        (lambda: control.divergences([0.1, 2.0], {"a": [1.0, 2.0]}), "rates are not all within 0 … 1"),
        (lambda: control.sample_efficiency([0], {"a": [1.0]}), "numbers of samples are not all within 0 … inf"),
        (lambda: control.sample_efficiency([1], {"a": ["x"]}), "the divergence of a cannot be drawn"),
        (lambda: control.values_along(WORDS, {"a": EXACT[:1]}, EXACT), "the values of a have shape (1, 3)"),
        (lambda: control.values_along(WORDS[:1], {}, EXACT), "2 sequences of 3 tokens"),
        (lambda: control.values_along(WORDS, {}, EXACT, marked=[[True]]), "marked has shape (1, 1)"),
        (lambda: control.values_along(WORDS, {}, EXACT, plt.figure().add_axes((0, 0, 1, 1))), "not of a grid"),
        (lambda: control.next_tokens(TOKENS, BASE[:2], {}, POSTERIOR), "base has 2 numbers for 4 tokens"),
        (lambda: control.next_tokens(TOKENS, BASE, {}, POSTERIOR, most=0), "most is 0"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_line(draw: Callable[[], Any], complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        draw()
    assert complaint in str(caught.value) and "\n" not in str(caught.value)
