"""The Learning Law of Gu et al. 2024, measured: what examples contribute along a run, how equal a policy makes it, what it drops.

`measures` has the quantities of one step, `study` measures them along a run of any policy, `trend` compares runs along a search.
"""

from olm.law.measures import contributions, similarity, stationarity
from olm.law.study import Study, study
from olm.law.trend import SimilarityFit, fit_similarity, trend

__all__ = ["SimilarityFit", "Study", "contributions", "fit_similarity", "similarity", "stationarity", "study", "trend"]
