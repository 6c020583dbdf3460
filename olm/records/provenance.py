"""What a number depended on."""

from __future__ import annotations

import platform
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path

__all__ = ["versions"]

LIBRARIES = ("olm", "jax", "jaxlib", "flax", "optax", "numpy", "scipy", "matplotlib", "tokenizers")


def versions() -> dict[str, str]:
    """What a number depended on: versions of Python and the libraries, the device, and the commit of a source checkout.

    Returns:
      A dict of texts; libraries that are not installed are left out.

    >>> {"python", "jax", "numpy", "device"} <= set(versions())
    True
    """
    import jax

    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for name in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    devices = jax.devices()
    found["device"] = f"{len(devices)} × {devices[0].platform}: {devices[0].device_kind}"
    source = Path(__file__).resolve().parents[2]
    if (source / ".git").exists():  # not a repository that merely contains the environment
        command = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        with suppress(OSError, subprocess.SubprocessError):
            found["commit"] = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    return found
