"""Measures how the cost of training grows: time and memory against examples, batch size, width and members, and compilations.

The program of a sweep under map, without its evaluation, trains 784-400-20 (ReLU, Adam 1e-3) on synthetic images of MNIST's
shape that are binarized anew at every step. One size grows at a time. The others stay at the second of their values, and
members at the first. All programs take turns, and times are medians over the rounds. Against the batch size, the time of a step
is fitted, otherwise that of an epoch. The slope is that of log time against log size with its standard error, and 1 is linear.
The line a + b size minimizes the relative errors. Memory is what the compiled program reports that it needs for arguments,
results and temporary arrays. Compilations are counted over whole runs of `fit_members`, with caches cleared before each. Their
number must not grow with the numbers of epochs, betas and seeds.
"""

if __name__ == "__main__":
    import environment

    environment.expect_packages()

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from members import blobs
from workload import RATE, Network, make_vae, mlp

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.results_file import write_results
from vae_jax.cli.script import run_script
from vae_jax.cli.tables import markdown

SHAPE = (28, 28, 1)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Measure how time and memory grow; prints a table and writes JSON.

    Example: python experiments/benchmarks/scaling.py --out results.json
    """

    examples: tuple[int, ...] = (8192, 16384, 32768, 65536)
    """Numbers of training images."""
    batch_size: tuple[int, ...] = (64, 128, 256, 512)
    """Numbers of examples in a step."""
    width: tuple[int, ...] = (200, 400, 800, 1600)
    """Numbers of hidden units."""
    members: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of members of a sweep, which run one after another."""
    rounds: int = 5
    """Turns of each program."""
    out: Path | None = None
    """JSON file to write."""


class Point(NamedTuple):
    """Sizes of one program."""

    examples: int
    batch_size: int
    width: int
    members: int


class Power(NamedTuple):
    """Power law: y proportional to size ** slope."""

    slope: float
    standard_error: float


class Line(NamedTuple):
    """Line: y = start + each * size."""

    start: float
    each: float
    worst: float  # the greatest relative error


def fit_power(sizes: Sequence[float], y: Sequence[float]) -> Power:
    """Fits log y against log size by least squares. The standard error has len(sizes) - 2 degrees of freedom."""
    x = np.log(np.asarray(sizes, np.float64))
    log_y = np.log(np.asarray(y, np.float64))
    x = x - x.mean()
    slope = float(x @ log_y / (x @ x))
    residual = log_y - log_y.mean() - slope * x
    return Power(slope, float(np.sqrt(residual @ residual / (len(x) - 2) / (x @ x))))


def fit_line(sizes: Sequence[float], y: Sequence[float]) -> Line:
    """Returns the start and the slope that minimize the sum of ((start + each * size - y) / y)^2."""
    values = np.asarray(y, np.float64)
    design = np.stack([1 / values, np.asarray(sizes, np.float64) / values], axis=1)
    (start, each), *_ = np.linalg.lstsq(design, np.ones(len(values)))
    return Line(float(start), float(each), float(np.abs(design @ (start, each) - 1).max()))


class Program:
    """Compiled training program of a `Point`."""

    def __init__(self, point: Point, images: np.ndarray) -> None:
        import jax
        import jax.numpy as jnp
        from optax import adam

        from vae_jax import data, training
        from vae_jax.config import Hyperparams
        from vae_jax.training.placement import over_members, place

        dataset = data.Dataset("blobs", images[: point.examples], None, images[:1], None, 255, "synthetic")
        prepared = data.prepare(dataset, binarization="dynamic")
        vae = make_vae(_network(point.width))
        step = training.make_train_step(vae, optimizer=adam, train_input=prepared.train_input)
        run_epoch = training.make_epoch(step, point.batch_size)

        def member_epoch(state: Any, member: Any, epoch: Any, train: Any) -> Any:
            keys, hyperparams = member
            state, *outcome = run_epoch(state, keys, epoch, train, hyperparams)
            return state, outcome

        placement = place(point.members, "map", devices=jax.local_devices()[:1])
        keys = jax.vmap(training.run_keys)(jnp.arange(point.members, dtype=jnp.uint32))
        every = Hyperparams(learning_rate=RATE)
        hyperparams = jax.tree.map(lambda value: jnp.full(point.members, value, jnp.float32), every)
        init = jax.vmap(lambda key: training.init_state(vae, adam, key))
        self.states, self.number = jax.jit(init)(keys.init), 0
        self.given = ((keys, hyperparams), np.ones(point.members, bool)), jnp.asarray(prepared.train)
        program = jax.jit(over_members(member_epoch, placement), donate_argnums=0)
        self.program = program.lower(*self._arguments()).compile()

    def _arguments(self) -> tuple[Any, ...]:
        inputs, train = self.given
        return (self.states, *inputs, np.int32(self.number), train)

    def run(self) -> float:
        """Trains an epoch and returns its seconds."""
        import jax

        began = time.perf_counter()
        self.states, outcome = self.program(*self._arguments())
        jax.block_until_ready((self.states, outcome))
        self.number += 1
        return time.perf_counter() - began

    def memory(self) -> int | None:
        """Returns the bytes that the program needs at once."""
        use = self.program.memory_analysis()
        if use is None:
            return None
        return use.argument_size_in_bytes + use.output_size_in_bytes + use.temp_size_in_bytes - use.alias_size_in_bytes


def _network(width: int) -> Network:
    return mlp(SHAPE)._replace(dense=(width,))


def compilations(run: Callable[[], Any]) -> int:
    """Returns the number of programs that are compiled while `run` runs, starting from cleared caches."""
    import jax

    names = list[str]()

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        names.append(event)

    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        run()
    finally:
        jax.monitoring.clear_event_listeners()
    return names.count("/jax/core/compile/backend_compile_duration")


def count_compilations(images: np.ndarray, batch_size: int) -> dict[str, int]:
    """Counts the compilations of sweeps with increasing numbers of epochs, betas and seeds."""
    from vae_jax import data, training
    from vae_jax.config import Hyperparams
    from vae_jax.training.placement import place

    few = data.Dataset("blobs", images[: 2 * batch_size], None, images[:batch_size], None, 255, "synthetic")
    prepared, vae = data.prepare(few, binarization="dynamic"), make_vae(_network(20))

    def runs(epochs: int, betas: Sequence[float], seeds: Sequence[int]) -> int:
        grid = [(beta, seed) for beta in betas for seed in seeds]
        options, placement = training.FitOptions(epochs, batch_size), place(len(grid), "map")
        hyperparams = Hyperparams(np.array([beta for beta, _ in grid], np.float32), np.full(len(grid), RATE, np.float32))
        sweep = lambda: training.fit_members(  # noqa: E731
            vae, prepared, options, seeds=[seed for _, seed in grid], hyperparams=hyperparams, placement=placement
        )
        return compilations(sweep)

    return {
        "1 epoch, 1 beta, 2 seeds": runs(1, [1.0], [0, 1]),
        "6 epochs, 1 beta, 2 seeds": runs(6, [1.0], [0, 1]),
        "1 epoch, 4 betas, 2 seeds": runs(1, [0.0, 0.5, 1.0, 8.0], [0, 1]),
        "1 epoch, 1 beta, 8 seeds": runs(1, [1.0], range(8)),
        "6 epochs, 4 betas, 8 seeds": runs(6, [0.0, 0.5, 1.0, 8.0], range(8)),
    }


def check(arguments: Arguments) -> dict[str, tuple[int, ...]]:
    """Returns the sizes of each series, and raises `UserError` if they are too few or contradict each other."""
    from vae_jax.errors import UserError

    expect_counts(1, rounds=arguments.rounds)
    series = {name: getattr(arguments, name) for name in Point._fields}
    for name, sizes in series.items():
        if len(sizes) < 3 or list(sizes) != sorted(set(sizes)) or sizes[0] < 1:
            given = " ".join(map(str, sizes)) or "none"
            raise UserError(field=name, expected="at least three growing whole numbers >= 1", got=given)
    second, most = arguments.examples[1], max(arguments.batch_size)
    if most > second or arguments.batch_size[1] > arguments.examples[0]:
        expected = (
            f"at most the second of `examples`, {second}, and the second of them at most the first, {arguments.examples[0]}"
        )
        raise UserError(field="batch_size", expected=expected, got=" ".join(map(str, arguments.batch_size)))
    return series


def fitted(name: str, points: Sequence[Point], seconds: Sequence[float], memory: Sequence[int | None]) -> dict[str, Any]:
    """Returns the fits of one series."""
    sizes = [getattr(point, name) for point in points]
    is_step = name == "batch_size"
    if is_step:
        seconds = [value / (p.examples // p.batch_size) for value, p in zip(seconds, points, strict=True)]
    row: dict[str, Any] = {"against": name, "of": "step" if is_step else "epoch", "sizes": sizes, "seconds": list(seconds)}
    row |= {"time_power": fit_power(sizes, seconds)._asdict(), "time_line": fit_line(sizes, seconds)._asdict()}
    bytes_needed = [value for value in memory if value]
    if len(bytes_needed) == len(sizes):
        row |= {"bytes": bytes_needed, "memory_line": fit_line(sizes, bytes_needed)._asdict()}
        row["memory_power"] = fit_power(sizes, bytes_needed)._asdict()
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the fits in Markdown, with one series per row."""
    cells = []
    for row in rows:
        power, line = row["time_power"], row["time_line"]
        memory = ("", "", "")
        if "bytes" in row:
            memory_power = row["memory_power"]
            memory = (
                ", ".join(f"{value / 1e6:.1f}" for value in row["bytes"]),
                f"{memory_power['slope']:.2f} ± {memory_power['standard_error']:.2f}",
                f"{row['memory_line']['worst']:.1%}",
            )
        cells.append(
            (
                row["against"].replace("_", " "),
                ", ".join(f"{size:,}" for size in row["sizes"]),
                ", ".join(f"{1e3 * value:.3g}" for value in row["seconds"]) + f" ({row['of']})",
                f"{power['slope']:.2f} ± {power['standard_error']:.2f}",
                f"{1e3 * line['start']:.3g} + {1e3 * line['each']:.3g} size",
                f"{line['worst']:.1%}",
                *memory,
            )
        )
    header = ("against", "sizes", "time, ms", "slope", "line, ms", "worst error of the line")
    return markdown((*header, "memory, MB", "slope", "worst error of a line"), cells)


def main() -> int:
    """Measures, fits and prints the table."""
    arguments = parse(Arguments)
    series = check(arguments)
    base = Point(*(sizes[1] for sizes in series.values()))._replace(members=series["members"][0])
    points = {name: [base._replace(**{name: size}) for size in sizes] for name, sizes in series.items()}
    every = sorted({point for some in points.values() for point in some})
    images = blobs(0, max(arguments.examples))
    print(f"compiling {len(every)} programs ...", flush=True)
    programs = {point: Program(point, images) for point in every}
    seconds: dict[Point, list[float]] = {point: [] for point in every}
    for program in programs.values():
        program.run()
    for number in range(arguments.rounds):
        for point, program in programs.items():
            seconds[point].append(program.run())
        print(f"round {number + 1}/{arguments.rounds}", flush=True)
    median = {point: statistics.median(values) for point, values in seconds.items()}
    memory = {point: program.memory() for point, program in programs.items()}
    rows = [fitted(name, some, [median[p] for p in some], [memory[p] for p in some]) for name, some in points.items()]
    counts = count_compilations(images, min(arguments.batch_size))
    print(f"\n{table(rows)}\n")
    print(f"Programs compiled: {'; '.join(f'{sizes}: {count}' for sizes, count in counts.items())}.")
    grew = len(set(counts.values())) > 1
    if grew:
        print("error: the number of compilations grew with epochs, betas or seeds.", file=sys.stderr)
    if arguments.out is not None:
        settings = {"network": _network(base.width).label, "rounds": arguments.rounds, "base": base._asdict()}
        write_results(arguments.out, {"rows": rows, "compilations": counts, "settings": settings}, ("jax", "flax", "optax"))
    return 1 if grew else 0


if __name__ == "__main__":
    run_script(main)
