"""Figures from plain arrays and tables only, in one style; nothing here knows jax or the rest of olm.

Every figure function takes the axes to draw on, ``ax=None`` for a new figure, and returns the axes. matplotlib is imported
when the first figure is drawn, and its settings are never changed for good.
"""

from olm.plots.continual import interval_rows, replay_tradeoff, searched_schedule, sequence_curves, statements
from olm.plots.learning import learning_rate_grid, loss_curves, objective_history, policies_compared
from olm.plots.style import inline, new_figure, save, style
from olm.plots.weights import contributions, weights_distribution, weights_heatmap

__all__ = [
    "contributions",
    "inline",
    "interval_rows",
    "learning_rate_grid",
    "loss_curves",
    "new_figure",
    "objective_history",
    "policies_compared",
    "replay_tradeoff",
    "save",
    "searched_schedule",
    "sequence_curves",
    "statements",
    "style",
    "weights_distribution",
    "weights_heatmap",
]
