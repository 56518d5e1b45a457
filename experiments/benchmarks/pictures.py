"""Measures seconds and peak memory of `data.load` on a folder of JPEG files, at the first and at the second start."""

if __name__ == "__main__":
    import environment

    environment.expect_packages()

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.results_file import write_results
from vae_jax.cli.script import run_script
from vae_jax.cli.tables import markdown

HEIGHT, WIDTH = 218, 178  # of CelebA's aligned pictures
_LOAD = """
import json, resource, sys, time
from vae_jax import data
data.load
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began, cpu = time.perf_counter(), time.process_time()
dataset = data.load(sys.argv[1], crop=148, resize=64, stream=sys.argv[2] == "streamed")
seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_kibibytes": peak, "fingerprint": dataset.fingerprint()}))
"""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Benchmark the cache of decoded pictures; prints a table and writes JSON.

    Each start is a process of its own. The memory is that which `data.load` adds to the process, mapped files included.

    Example: python experiments/benchmarks/pictures.py --pictures 2000
    """

    pictures: int = 2000
    """Number of JPEG files of 218 x 178 pixels that are generated."""
    repeats: int = 3
    """First and second starts, in turns. The least time of each counts."""
    out: Path | None = None
    """JSON file to write."""


def write_jpegs(folder: Path, count: int) -> None:
    """Writes smooth random pictures with some noise."""
    from PIL import Image

    def write(index: int) -> None:
        rng = np.random.default_rng(index)
        coarse = Image.fromarray(rng.integers(0, 256, (12, 10, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)).astype(int)
        noisy = np.clip(smooth + rng.integers(-12, 13, smooth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{index:06d}.jpg", quality=90)

    folder.mkdir(parents=True)
    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(1, count + 1)))


def start(folder: Path, cache: Path, way: str) -> dict[str, Any]:
    """Loads the folder in a fresh process."""
    run = subprocess.run(
        [sys.executable, "-c", _LOAD, str(folder), way],
        env=os.environ | {"VAE_JAX_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(run.stdout)


def measure(count: int, repeats: int) -> list[dict[str, Any]]:
    """Returns the least times and the highest peaks of first and second starts, in memory and streamed."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "img_align_celeba"
        write_jpegs(folder, count)
        for way in ("in memory", "streamed"):
            starts: dict[str, list[dict[str, Any]]] = {"first": [], "second": []}
            for repeat in range(repeats):
                cache = Path(temporary) / f"cache-{way}-{repeat}"
                for name, measured in starts.items():
                    measured.append(start(folder, cache, way))
                    print(f"{way}, {name} start: {measured[-1]['seconds']:.3f} s", flush=True)
            if len({one["fingerprint"] for measured in starts.values() for one in measured}) > 1:
                raise AssertionError("the starts read different data")
            for name, measured in starts.items():
                least = {key: min(one[key] for one in measured) for key in ("seconds", "cpu_seconds")}
                rows.append({"way": way, "start": name, **least, "peak_kibibytes": max(m["peak_kibibytes"] for m in measured)})
    return rows


def main() -> int:
    """Generates pictures, starts on them, and prints the table."""
    arguments = parse(Arguments)
    expect_counts(1, pictures=arguments.pictures, repeats=arguments.repeats)
    rows = measure(arguments.pictures, arguments.repeats)
    cells = [
        (
            f"{row['way']}, {row['start']} start",
            f"{row['seconds']:.3f} s",
            f"{row['cpu_seconds']:.3f} s",
            f"{row['peak_kibibytes'] / 1024:.0f} MiB",
        )
        for row in rows
    ]
    print(f"\n{markdown(('', 'seconds', 'CPU seconds', 'peak memory added'), cells)}")
    if arguments.out is not None:
        settings = dataclasses.asdict(arguments) | {"out": None}
        write_results(arguments.out, {"rows": rows, "settings": settings}, ("pillow", "numpy"))
    return 0


if __name__ == "__main__":
    run_script(main)
