"""What every test shares: a compilation cache, figures without a screen, derandomised property tests, float64 on request.

Set through the environment where a child process (the command line, a notebook's kernel) must see the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

os.environ.setdefault("MPLBACKEND", "Agg")
# Compilation is most of a small test's time; jax reads both when it is imported.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

# A first example compiles, so time is no sign of a bad test; fixtures here (float64) hold no state between examples.
hypothesis.settings.register_profile(
    "olm",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=25,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("olm")


@pytest.fixture
def x64() -> Iterator[None]:
    """The test runs in float64: exactness is claimed there, while users run in float32."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="module")
def few_memory_maps() -> Iterator[None]:
    """Compiled programs hold memory maps, of which Linux gives a process 65,530: a worker that runs out of them crashes."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's folder."""
    return ROOT
