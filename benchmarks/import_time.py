"""What `import olm` costs beyond the libraries it stands on: its time over that of `import jax, flax, optax`.

Each import happens in a fresh interpreter which times itself, so that starting Python counts for neither side; the two alternate.
Byte code and the disk cache are warmed by one untimed import of each. Run: ``python benchmarks/import_time.py``.
"""

from __future__ import annotations

import os
import subprocess
import sys

import _bench

LIBRARIES = "import jax, flax, optax"
OLM = "import olm"


def import_seconds(statement: str) -> float:
    """Seconds that ``statement`` takes in a fresh interpreter, measured inside it."""
    program = f"import time\nstart = time.perf_counter()\n{statement}\nprint(time.perf_counter() - start)"
    path = os.pathsep.join(filter(None, [str(_bench.ROOT), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path}
    )
    return float(done.stdout)


def main() -> None:
    parser = _bench.parser(__doc__.splitlines()[0], seeds=())
    parser.add_argument("--repeats", type=int, default=11, help="pairs of fresh interpreters")
    args = parser.parse_args()
    repeats = 2 if args.quick else args.repeats
    times: dict[str, list[float]] = {OLM: [], LIBRARIES: []}
    for statement in times:
        import_seconds(statement)
    for pair in range(repeats):
        for statement in (OLM, LIBRARIES) if pair % 2 == 0 else (LIBRARIES, OLM):
            times[statement].append(import_seconds(statement))
    result = _bench.compare(times[OLM], times[LIBRARIES])
    low, _, high = result["pair_ratio_quartiles"]
    _bench.table([
        {"statement": OLM, "median s": result["a_median_s"], "ratio": result["ratio"], "pairs 25-75%": f"{low:.3f}-{high:.3f}"},
        {"statement": LIBRARIES, "median s": result["b_median_s"], "ratio": 1.0, "pairs 25-75%": None},
    ])  # fmt: skip
    _bench.save("import_time", {"olm": OLM, "libraries": LIBRARIES, **result}, args)


if __name__ == "__main__":
    main()
