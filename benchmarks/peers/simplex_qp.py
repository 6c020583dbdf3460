"""Euclidean projection of rows on the probability simplex by a general quadratic-programme solver, one programme a row.

This is how the published search of learning policies projects (arXiv 2402.17759, section 4.1): every training step's weights are
one programme, handed to cvxpy's default solver in a process pool. A module without torch and jax, so that a worker starts fast.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.pool import Pool

import numpy as np

if importlib.util.find_spec("cvxpy") is None:
    sys.exit("cvxpy, which the PyTorch peer projects with, is not installed: run `make peer` first")


def project_row(row: np.ndarray) -> tuple[np.ndarray, float, str]:
    """The nearest point of the simplex, min ||x - row||^2 over sum(x) = 1, x >= 0, as the solver finds it.

    Returns:
      The point [N] in the dtype of ``row``, the seconds it took, and the solver's name and status.
    """
    import cvxpy

    start = time.perf_counter()
    point = cvxpy.Variable(row.size)
    programme = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(row - point)), [cvxpy.sum(point) == 1, point >= 0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "solution may be inaccurate": reported through the status
        programme.solve()
    found = np.asarray(point.value, row.dtype)
    return found, time.perf_counter() - start, f"{programme.solver_stats.solver_name}: {programme.status}"


@contextmanager
def process_pool(processes: int) -> Iterator[Pool]:
    """A pool of single-threaded workers that have cvxpy loaded and have solved one small programme."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        pool = multiprocessing.get_context("spawn").Pool(processes)
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
    try:
        pool.map(project_row, [np.linspace(0.0, 1.0, 8, dtype=np.float32)] * (4 * processes), chunksize=1)
        yield pool
    finally:
        pool.terminate()
        pool.join()
