"""Keeps compiled programs from one test run to the next, so that only programs that changed are compiled.

JAX does not write its cache atomically, and some tests kill the scripts that write to it. Therefore no two processes share
a cache folder that is kept. Each folder that JAX writes to starts with hard links to the kept programs, and what was added
to it is checked and linked back, atomically, when it is no longer in use. JAX never overwrites an existing entry.
"""

import contextlib
import hashlib
import os
import platform
import shutil
import tempfile
import time
import zlib
from pathlib import Path

import jax
import jaxlib
from paths import ROOT

MOST_BYTES = 2_000_000_000
DAY = 86_400


def kept_folder() -> Path:
    """Returns the folder of programs for this JAX and this processor; JAX's own keys tell apart everything else."""
    try:
        processor = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        processor = platform.processor()
    key = hashlib.sha256(f"{jax.__version__} {jaxlib.__version__} {platform.machine()} {processor}".encode()).hexdigest()
    return ROOT / "build" / "test-programs" / key[:16]


def start(folder: Path) -> None:
    """Fills a folder with links to all kept programs."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):  # another file system, or nothing kept yet: everything is compiled
        for entry in os.scandir(kept_folder()):
            os.link(entry.path, folder / entry.name)


def keep(folder: Path) -> None:
    """Adds the complete new programs of a folder to the kept ones. Half-written ones, of killed processes, are left out."""
    kept = kept_folder()
    try:
        kept.mkdir(parents=True, exist_ok=True)
        known = set(os.listdir(kept))
        new = [path for path in folder.glob("*-cache") if path.name not in known]
    except OSError:
        return
    for path in new:
        if _is_complete(path):
            with contextlib.suppress(OSError):  # another worker kept it, or this file system has no links
                os.link(path, kept / path.name)


def _is_complete(path: Path) -> bool:
    """Returns whether a program can be decompressed. JAX compresses with zlib, or with zstd from Python 3.14 on."""
    data = path.read_bytes()
    try:
        if data[:4] == b"\x28\xb5\x2f\xfd":
            from compression import zstd  # pyright: ignore[reportMissingImports]

            zstd.decompress(data)
        else:
            zlib.decompress(data)
    except Exception:
        return False
    return True


def new_folder() -> Path:
    """Makes a folder for the caches of one run, beside the kept programs, where links to them are possible."""
    parent = kept_folder().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="run-", dir=parent))
    except OSError:  # a checkout that cannot be written to
        return Path(tempfile.mkdtemp(prefix="vae_jax-tests-"))


def tidy() -> None:
    """Removes what killed runs left, the programs of other versions after a month, and all of them where they grow too many."""
    now, kept = time.time(), kept_folder()
    with contextlib.suppress(OSError):
        kept.mkdir(parents=True, exist_ok=True)
        os.utime(kept)
        if sum(entry.stat().st_size for entry in os.scandir(kept)) > MOST_BYTES:
            shutil.rmtree(kept, ignore_errors=True)
        for folder in kept.parent.iterdir():
            age = now - folder.stat().st_mtime
            if age > (DAY if folder.name.startswith("run-") else 30 * DAY):
                shutil.rmtree(folder, ignore_errors=True)
