"""One self-contained page about a run, and its figures, made from the files of the run folder alone.

The page needs no network and no script, reads in light and dark and on paper, and says what is missing where a run was
interrupted. Nothing is computed here but ratios of numbers that are in the folder.
"""

from olm.report.figures import write_figures
from olm.report.page import write_report

__all__ = ["write_figures", "write_report"]
