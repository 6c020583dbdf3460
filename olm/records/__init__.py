"""Run folders that explain themselves: arrays, configuration, metrics and summary, written so that a crash loses nothing.

An array file is a plain ``.npz`` (``numpy.load`` opens it) whose keys are the paths of a tree, such as ``phi/table``, with two
JSON texts beside them: ``__format__`` (version, structure) and ``__meta__`` (the caller's). Nothing is ever pickled.
A run folder holds

==================  ==============================================================================
``config.json``     every setting, resolved, and the command that made the run
``metrics.jsonl``   one JSON object a line; a line cut by a crash is ignored
``*.npz``           trees of arrays: ``policy``, ``params``, ``curves`` and ``state`` (to continue from)
``summary.json``    the final numbers and how the run ended; absent before that
==================  ==============================================================================

Every file but the metrics is replaced whole: temporary file in the same folder, fsync, rename, fsync of the folder. So at any
moment, after ``kill -9`` too, each file is either the old or the new one. One process writes a run at a time (``flock``, which
the system releases when a process dies; not available on Windows, where nothing is locked).

Not done: compression (tables are written often and weights compress badly), sharded arrays (use Orbax), typed PRNG keys
(store ``jax.random.key_data``).
"""

from olm.records.arrays import fingerprint, load_arrays, load_meta, save_arrays
from olm.records.files import atomic_write, read_json, write_json
from olm.records.provenance import versions
from olm.records.run import Run, unique_run_dir

__all__ = [
    "Run",
    "atomic_write",
    "fingerprint",
    "load_arrays",
    "load_meta",
    "read_json",
    "save_arrays",
    "unique_run_dir",
    "versions",
    "write_json",
]
