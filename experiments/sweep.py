"""Trains a sweep over beta, seeds, learning rates ... as one compiled program and writes its table, figures and report."""

import environment  # noqa: F401

import contextlib
import dataclasses
import json
import math
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any, Literal

from common import Interrupt, config_of, expect_outside_data, expect_seconds, parse, run_script, supervised, with_options

from vae_jax.config import Config, from_dict
from vae_jax.errors import UserError

_AXES = ("betas", "seeds", "learning_rates", "over", "groups", "points", "design", "ranges", "num_points", "design_seed")


@dataclasses.dataclass(frozen=True)
class Arguments(Config):
    """Sweep hyperparameters and seeds: members that differ in traced values are one program, compiled once.

    Example: python experiments/sweep.py --dataset digits --betas 0.25 0.5 1 2 4 8 --seeds 0 1 2 3 4 --out runs/sweep
    """

    betas: tuple[float, ...] = ()
    """Values of beta."""
    seeds: tuple[int, ...] = ()
    """Seeds, for every setting. Replaces --seed."""
    learning_rates: tuple[float, ...] = ()
    """Peak learning rates."""
    over: tuple[str, ...] = ()
    """Values of any other hyperparameter: capacity=5,10,25 gamma=10,100 free_bits=0.1,0.5 ..."""
    groups: tuple[str, ...] = ()
    """Values of static settings, a program for each combination: latent_dim=2,10 hidden=256x256,512 objective=elbo,iwae ..."""
    points: Path | None = None
    """CSV file with a header of setting names and a member a line: a list in place of a grid; crossed with --seeds if given."""
    ranges: tuple[str, ...] = ()
    """Ranges for --design: beta=0.1:10:log learning_rate=1e-4:1e-2:log ..."""
    design: Literal["grid", "random", "sobol"] = "grid"
    """How to place members in --ranges."""
    num_points: int = 8
    """Members of the design; for a grid, values of each range."""
    design_seed: int = 0
    """Seed of random and sobol."""
    out: str = ""
    """Sweep directory to write; new or empty, unless --resume. Required."""
    resume: bool = False
    """Go on with the sweep in --out; members that it does not have yet are added. Settings left out are taken from there."""
    data_dir: str | None = None
    """Where TFDS finds or keeps prepared data."""
    strategy: Literal["auto", "map", "vmap"] = "auto"
    """map: members one after another inside the program, bit for bit as alone; vmap: side by side; auto: map on CPU."""
    chunk: int | None = None
    """Members at once on each device under vmap; by default all that fit into memory."""
    devices: int | None = None
    """Devices of this process to use. By default all; on CPU one virtual device for each core, eight at most."""
    data_parallel: int = 1
    """Devices that share each batch, for models or batches that are too large for one."""
    distributed: Literal["auto", "yes", "no"] = "auto"
    """Join the processes of a cluster. auto: with --coordinator, or started by srun or mpirun with several tasks; yes: let JAX
    find them (TPU slices, Kubernetes)."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where JAX cannot find it by itself."""
    num_processes: int | None = None
    """Number of processes, with --coordinator."""
    process_id: int | None = None
    """Number of this process from 0, with --coordinator."""
    coordinator_timeout: float = 60.0
    """Seconds to wait for the other processes."""
    checkpoint_seconds: float = 15.0
    """Least time between checkpoints. 0: after every epoch."""
    report: bool = True
    """Draw the figures and write report.html at the end."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder, so that the next sweep starts faster."""

    @property
    def base(self) -> Config:
        """The settings that all members have where the sweep says nothing else."""
        return config_of(self)

    @property
    def record(self) -> dict[str, Any]:
        """What defines the members, for sweep.json."""
        points = self.points and os.path.abspath(os.path.expanduser(self.points))
        axes = {name: getattr(self, name) for name in _AXES} | {"points": points}
        return {"base": dataclasses.asdict(self.base), **axes}

    @property
    def placement(self) -> list[str]:
        """The flags that say how it runs, where they are not the defaults."""
        own = [field for field in dataclasses.fields(self) if field.name in ("strategy", "chunk", "devices", "data_parallel")]
        given = {field.name: getattr(self, field.name) for field in own if getattr(self, field.name) != field.default}
        return [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def parse_arguments() -> Arguments:
    """The command line; with --resume, what the sweep began with are the defaults."""
    arguments = parse(Arguments)
    if not arguments.out:
        raise UserError("--out: expected a sweep directory to write, such as runs/sweep, got none.")
    recorded = Path(arguments.out) / "sweep.json"
    if not (arguments.resume and recorded.exists()):
        return arguments
    try:
        content = json.loads(recorded.read_text())
        own = content["arguments"]
        if own is None:
            raise ValueError("it was begun by run_sweep without arguments, so go on with it by run_sweep(..., resume=True)")
        base = from_dict(own["base"])
        settings: dict[str, Any] = {field.name: getattr(base, field.name) for field in dataclasses.fields(Config)}
        settings |= {name: tuple(own[name]) if isinstance(own[name], list) else own[name] for name in _AXES}
        settings["points"] = settings["points"] and Path(settings["points"])
        default = Arguments(**settings, data_dir=content.get("data_dir"), out=arguments.out, resume=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{recorded}: cannot be read: {error}") from None
    return parse(Arguments, default)


def make_members(arguments: Arguments) -> list[Config]:
    """The members that the command line describes."""
    from vae_jax.sweep import cross, design
    from vae_jax.sweep.members import check_name, parse_range, parse_value, read_points

    values: dict[str, Any] = {}

    def add(flag: str, name: str, options: Any) -> None:
        if name in values:
            raise UserError(f"{flag}: {name} is swept twice. Give all its values in one place.")
        values[name] = options

    for flag, static in (("over", False), ("groups", True)):
        for text in getattr(arguments, flag):
            name, _, options = text.partition("=")
            check_name(name, static=static)
            if not options:
                raise UserError(f"--{flag} {text}: expected NAME=VALUE,VALUE,..., such as {name}=1,2, got no values.")
            add(f"--{flag}", name, [parse_value(name, option) for option in options.split(",")])
    for flag, name in (("betas", "beta"), ("learning_rates", "learning_rate"), ("seeds", "seed")):
        options, flag = getattr(arguments, flag), f"--{flag.replace('_', '-')}"
        if options:
            add(flag, name, options)
        elif flag in sys.argv:
            raise UserError(f"{flag}: expected at least one value, got none.")
    ranges = dict(parse_range(text) for text in arguments.ranges)
    if not values and not ranges and arguments.points is None:
        raise UserError(
            "nothing to sweep: expected --betas, --seeds, --learning-rates, --over, --groups, --points or --ranges."
        )
    if len(ranges) < len(arguments.ranges):
        raise UserError("--ranges: expected each name once. Give the whole range in one place.")
    if not ranges and (arguments.design, arguments.num_points, arguments.design_seed) != ("grid", 8, 0):
        raise UserError("--design, --num-points and --design-seed place members in --ranges. Add that, or leave them out.")
    if ranges and arguments.points is not None:
        raise UserError("--ranges and --points exclude each other. Leave one out.")
    members = [arguments.base]
    if ranges:
        twice = set(ranges) & set(values)
        if twice:
            raise UserError(f"--ranges: {', '.join(twice)} is swept twice. Give all its values in one place.")
        members = design(arguments.base, ranges, arguments.num_points, arguments.design, arguments.design_seed)
    elif arguments.points is not None:
        members = read_points(arguments.base, arguments.points)
        for name in values:
            if any(getattr(member, name) != getattr(arguments.base, name) for member in members):
                raise UserError(f"--points: {name} is swept twice. Give all its values in one place.")
    in_order = sorted(values, key=lambda name: (name == "seed", name not in ("beta", "learning_rate")))  # seeds vary fastest
    return cross(members, **{name: values[name] for name in in_order})


def read_members(arguments: Arguments) -> list[Config]:
    """The members that the command line describes; a sweep that goes on as it began does not need its CSV file any more."""
    from vae_jax.sweep.directory import read_sweep

    out = Path(arguments.out)
    if arguments.resume and arguments.points and not arguments.points.exists() and (out / "sweep.json").exists():
        members, content = read_sweep(out)
        if content["arguments"] == json.loads(json.dumps(arguments.record)):
            return members
    return make_members(arguments)


def is_distributed(arguments: Arguments) -> bool:
    """Whether there are other processes to join."""
    explicit = (arguments.coordinator, arguments.num_processes, arguments.process_id)
    if arguments.distributed == "no":
        return False
    if any(value is not None for value in explicit) and arguments.distributed == "auto":
        if None in explicit:
            raise UserError("--coordinator, --num-processes and --process-id belong together; give all three.")
        return arguments.num_processes != 1
    tasks = [os.environ.get(name, "1") for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")]
    return arguments.distributed == "yes" or any(task.isdigit() and int(task) > 1 for task in tasks)


class SweepProgress:
    """A bar over epochs times members on a terminal; about twenty lines in all elsewhere."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._shown = 0
        self._began = 0.0

    def update(self, tick: Any) -> None:
        """Shows the state after an epoch."""
        from tqdm import tqdm

        terminal, epochs = sys.stderr.isatty(), tick.group.configs[0].epochs
        running = tick.progress.status.count("running")
        tests = [history[-1].test.elbo for history in tick.progress.histories if history]
        tests = [elbo for elbo in tests if math.isfinite(elbo)]
        words = f"epoch {tick.progress.epoch}/{epochs}"
        words += f"  best ELBO {max(tests):z.2f}" if tests else ""
        diverged = tick.progress.status.count("diverged")
        words += f"  {diverged} diverged" if diverged else ""
        if self._bar is None:
            self._bar = tqdm(total=tick.total, unit=" member-epochs", disable=not terminal, dynamic_ncols=True)
            self._bar.n = self._bar.initial = self._shown = tick.done - running
            self._began, self._first = time.perf_counter() - tick.seconds, self._shown
        rate = (tick.done - self._first) / max(time.perf_counter() - self._began, 1e-9)
        left = (tick.total - tick.done) / rate if rate else float("nan")
        words += f"  {rate / epochs:.2f} members/s"
        if terminal:
            self._bar.set_postfix_str(words, refresh=False)
            self._bar.update(tick.done - self._bar.n)
        elif tick.done == tick.total or tick.done - self._shown >= tick.total / 20:
            self._shown = tick.done
            print(f"{tick.done}/{tick.total} member-epochs  {words}  {left:.0f} s left", flush=True)

    def close(self) -> None:
        """Ends the bar's line."""
        if self._bar is not None:
            self._bar.close()


def work(arguments: Arguments, joined: Any = lambda: None) -> int:
    """Trains the sweep in this process, alone or as one of several."""
    began = time.perf_counter()
    import jax

    from vae_jax.sweep.processes import Processes, initialize

    members = read_members(arguments)
    processes = Processes(timeout=arguments.coordinator_timeout)
    if is_distributed(arguments):
        explicit = (arguments.coordinator, arguments.num_processes, arguments.process_id)
        processes = initialize(*explicit, timeout=arguments.coordinator_timeout)
        joined()
    if arguments.devices is not None and not 1 <= arguments.devices <= 256:
        raise UserError(f"--devices: expected a whole number from 1 to 256, got {arguments.devices}.")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = -(-len(members) // processes.size)
    with contextlib.suppress(RuntimeError):  # a backend that runs already keeps the devices that it has
        jax.config.update("jax_num_cpu_devices", arguments.devices or max(1, min(8, cores, share)))

    from vae_jax.storage.cache import enable_compilation_cache
    from vae_jax.sweep.directory import Layout, run_sweep
    from vae_jax.sweep.results import overfit_words, write_results
    from vae_jax.sweep.statistics import DONE

    if arguments.compilation_cache:
        enable_compilation_cache()
    out, leader = Path(arguments.out), processes.rank == 0
    expect_outside_data(out, members[0])
    data_dir = None if arguments.data_dir is None else os.path.abspath(os.path.expanduser(arguments.data_dir))
    layout = Layout(arguments.strategy, arguments.chunk, arguments.data_parallel, arguments.devices)
    progress = SweepProgress()

    def on_block(group: Any, why: str, done: int, notes: list[str]) -> None:
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
        if leader:
            label = f" ({group.label})" if group.label else ""
            print(f"{len(group.members)} members{label}, {group.configs[0].epochs} epochs; {why}", flush=True)
            if done:
                print(f"resuming after epoch {done}", flush=True)

    with Interrupt() as interrupt:

        def on_epoch(tick: Any) -> bool:
            if leader:
                progress.update(tick)
            return interrupt.signal is not None

        ended = run_sweep(
            members,
            out,
            resume=arguments.resume,
            layout=layout,
            processes=processes,
            arguments=arguments.record,
            data_dir=data_dir,
            checkpoint_seconds=arguments.checkpoint_seconds,
            on_block=on_block,
            on_epoch=on_epoch,
        )
        progress.close()
        if not ended:
            command = shlex.join([sys.executable, sys.argv[0], "--out", str(out), "--resume", *arguments.placement])
            print(f"saved; continue with:\n  {command}", flush=True)
            return interrupt.exit_status
    if not leader:
        return 0
    results = write_results(out, time.perf_counter() - began)
    print_points(results)
    lost = [f"{row['member']} ({row['status']})" for row in results.rows if row["status"] not in DONE]
    if lost:
        print(f"note: left out of the means: member {', '.join(lost)}", file=sys.stderr)
    words = overfit_words(results)
    if words:
        print(f"note: {with_options(words)}", file=sys.stderr)
    print(f"table: {out / 'results.csv'} ({len(results.rows)} members, {time.perf_counter() - began:.0f} s)", flush=True)
    if arguments.report:
        from vae_jax.report import write_sweep_report

        print("drawing the report ...", flush=True)
        print(f"report: {write_sweep_report(results)}")
    return 0


def print_points(results: Any) -> None:
    """One line for each setting: means over its seeds, with standard errors."""
    header = f"{'test ELBO':>18}  {'rate':>16}  {'distortion':>18}  {'active':>6}  {'n':>2}"
    labels = [
        "  ".join(filter(None, [point.group, *(f"{name} = {value:zg}" for name, value in point.settings.items())]))
        for point in results.points
    ]
    width = max(map(len, labels))
    print(f"\n{'':{width}}  {header}   (nats per example; mean +- standard error over n seeds)")
    for label, point in zip(labels, results.points, strict=True):
        if not point.numbers:
            print(f"{label:{width}}  none of {point.num_lost} ended well")
            continue
        cells = [
            f"{one.mean:z.3f}" + (f" +- {one.standard_error:.3f}" if one.n > 1 else "")
            for one in (point.numbers[name] for name in ("test_elbo", "rate", "distortion"))
        ]
        active = point.numbers["active_units"].mean
        print(f"{label:{width}}  {cells[0]:>18}  {cells[1]:>16}  {cells[2]:>18}  {active:6.1f}  {len(point.members):2d}")


def main() -> int:
    """Parses and sweeps; as one of several processes under supervision, so that the death of another ends in one clear line."""
    arguments = parse_arguments()
    seconds = {name: getattr(arguments, name) for name in ("checkpoint_seconds", "coordinator_timeout")}
    expect_seconds(**seconds)
    if not is_distributed(arguments):
        return work(arguments)
    return supervised(lambda joined: work(arguments, joined), arguments.coordinator_timeout)


if __name__ == "__main__":
    run_script(main)
