"""The results.json of a benchmark or reproduction: its content, the machine, and the versions of packages."""

import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path


def write_results(out: Path, content: Mapping[str, object], packages: Sequence[str]) -> None:
    """Writes the content with the machine and the versions of packages as JSON.

    Args:
      out: file to write. Its folder is made if need be.
      content: entries of the file.
      packages: names of distributions. The version of one that is not installed is null.
    """
    from vae_jax.storage.atomic import write_json

    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, {**content, "machine": machine, "versions": versions})
