"""Draw the picture of README.md: the perceptron of the paper, learned with uniform weights and with found policies.

    python docs/figure.py

Three searches of 40 evaluations at the paper's sizes, some minutes on two cores. Left, both sides at the paper's learning rate;
right, each at its own best one by validation. The loss is that of 8,192 held-out examples.
"""

from __future__ import annotations

from pathlib import Path

import jax
import optax

import olm
from olm import plots
from olm.search import best_rates
from olm.tasks.perceptron import perceptron


def main() -> None:
    """Search and draw."""
    task, key, settings = perceptron(jax.random.key(0)), jax.random.key(1), {"steps": 2000, "evaluations": 40, "progress": True}
    same = olm.find_policy(task, olm.Learner(optax.sgd(0.1)), key=key, **settings)
    grid = best_rates(task, lambda rate: olm.Learner(optax.sgd(rate)), learning_rate=12.8, key=key, searches=2, **settings)
    rates = grid.learning_rates
    with plots.style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.6, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        plots.loss_curves(same.baseline.test, same.curve.test, left, label="held-out loss")
        left.set_title(f"both at η = 0.1: {same.acceleration:.0f}× faster, area × {same.area_ratio:.2f}", loc="left")
        plots.loss_curves(grid.baseline.test, grid.found.test, right, label="held-out loss", log_x=True)
        title = f"each at its best η, {rates['uniform']:g} and {rates['found']:g}: area × {grid.claim['area_ratio']:.2f}"
        right.set_title(title, loc="left")
        svg, png = plots.save(figure, Path(__file__).resolve().parent / "figures", "learning_curves")
    png.unlink()  # the page shows the drawing that stays sharp
    print(f"{svg.name}: {left.get_title('left')}; {right.get_title('left')}")


if __name__ == "__main__":
    main()
