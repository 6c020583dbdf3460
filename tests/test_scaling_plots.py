"""Figures of scaling laws: what is drawn is what was given, and arrays that do not fit are refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

from olm.errors import InputError
from olm.plots import scaling


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    yield
    plt.close("all")


def line(ax: Any, start: str) -> np.ndarray:
    """[2, n], the line whose label starts so."""
    return np.array(next(line for line in ax.get_lines() if str(line.get_label()).startswith(start)).get_data())


def test_improvement_draws_the_power_laws_and_their_change() -> None:
    t = np.arange(0, 200)
    with np.errstate(divide="ignore"):
        both = [1 + np.minimum((B / t) ** beta, 50.0) for B, beta in ((9.0, 0.5), (3.0, 0.6))]
    ax = scaling.improvement(t, *both, 1.0, ((9.0, 0.5), (3.0, 0.6)), t0=10)
    for label, B, beta in (("uniform weights", 9.0, 0.5), ("found policy", 3.0, 0.6)):
        x, y = line(ax, label)
        assert x[0] == pytest.approx(10) and y == pytest.approx((B / x) ** beta)
    assert ax.get_xscale() == ax.get_yscale() == "log" and ax.get_title("left") == "B −66.7%, β +20.0%"
    with pytest.raises(InputError, match="positive B and β"):
        scaling.improvement(t, *both, 1.0, ((9.0, 0.5), (3.0, -0.6)))
    with pytest.raises(InputError, match="steps 199, baseline 200"):
        scaling.improvement(t[1:], *both, 1.0, ((9.0, 0.5), (3.0, 0.6)))


def test_predictions_show_what_was_held_out_and_its_error() -> None:
    ax = scaling.predicted_measured([2.0, 3.3], [2.0, 3.0], held_out=[False, True], relative=True)
    assert line(ax, "held out")[:, 0] == pytest.approx([3.0, 10.0]) and "10.00%" in ax.get_title("left")
    assert line(scaling.predicted_measured([2.0, 3.3], [2.0, 3.0]), "fitted")[1] == pytest.approx([2.0, 3.3])


def test_a_parabola_passes_through_its_minimum() -> None:
    ax = scaling.isoflop_parabolas([1e7, 1e8, 1e9], [3.1, 3.0, 3.1], [0, 0, 0], [1e18], [1e8], [3.0], [0.02])
    x, y = np.array(ax.get_lines()[0].get_data())
    assert y == pytest.approx(3 + 0.02 * np.log(x / 1e8) ** 2) and x[[0, -1]] == pytest.approx([1e7, 1e9])


def test_many_sizes_share_a_short_legend() -> None:
    N = np.geomspace(1e6, 1e10, 30)
    ax = scaling.loss_by_size(N * 1e9, np.linspace(4, 2, 30), N, lines={N[0]: ([1e15, 2e15], [4.0, 3.9])})
    assert len(ax.get_legend().get_texts()) == 7
    assert scaling.loss_by_size(N, N, N, legend=False).get_legend() is None


def test_curves_leave_their_first_steps_out_of_the_scale() -> None:
    steps = np.arange(100)
    losses = np.r_[[90.0, 50.0], np.full(98, 2.0)]
    ax = scaling.law_curves([{"name": "a", "steps": steps, "losses": losses, "predicted": losses + 0.1, "test": True}])
    assert ax.get_ylim()[1] < 3 and "a, not fitted" in [text.get_text() for text in ax.get_legend().get_texts()]
    errors = scaling.law_curves([{"name": "a", "steps": steps, "losses": losses, "predicted": losses + 0.1}], errors=True)
    assert line(errors, "a")[1] == pytest.approx(np.full(100, 0.1))


def test_budgets_have_their_intervals() -> None:
    ax = scaling.allocation([1e20, 1e18], [1e9, 1e8], interval=[[8e8, 2e9], [9e7, 2e8]], bootstrap=[[8e8, 2e9], [9e7, 2e8]])
    assert line(ax, "best N").tolist() == [[1e18, 1e20], [1e8, 1e9]]
    assert len(ax.collections) == 2
    with pytest.raises(InputError, match="differ in length"):
        scaling.allocation([1e20], [1e9, 1e8])
