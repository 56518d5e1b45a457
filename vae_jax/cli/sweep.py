"""`vae-jax sweep`: trains a sweep over beta, seeds, learning rates ... as one compiled program, with its table and report."""

import dataclasses
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vae_jax.cli.arguments import parse_with_config
from vae_jax.cli.branching import check_initial_parts, expect_init_from, read_init, read_new
from vae_jax.cli.checks import expect_out, expect_outside_data, expect_seconds
from vae_jax.cli.columns import resolved_columns, with_proposed_columns
from vae_jax.cli.devices import expect_devices, make_devices
from vae_jax.cli.messages import note, option
from vae_jax.cli.program import current_program
from vae_jax.cli.progress import Interrupt, SweepProgress
from vae_jax.cli.supervisor import supervised
from vae_jax.cli.user_parts import PARTS, as_option, check_new, check_recorded, import_parts, split_parts
from vae_jax.errors import UserError

if TYPE_CHECKING:
    from vae_jax.build import PartOptions
    from vae_jax.config import Config
    from vae_jax.sweep import Halving
    from vae_jax.sweep.directory import Tick
    from vae_jax.sweep.members import Group
    from vae_jax.sweep.processes import Processes
    from vae_jax.sweep.results import Results

AXES = ("betas", "seeds", "learning_rates", "over", "groups", "points", "design", "ranges", "num_points", "design_seed")
HALVING = ("halving", "min_epochs", "halving_by", "num_concurrent")
_PLACEMENT = ("strategy", "chunk", "devices", "data_parallel")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Sweep hyperparameters and seeds: members that differ in traced values are one program, compiled once.

    Example: vae-jax sweep --dataset digits --betas 0.25 0.5 1 2 4 8 --seeds 0 1 2 3 4 --out runs/sweep
    """

    betas: tuple[float, ...] = ()
    """Values of beta."""
    seeds: tuple[int, ...] = ()
    """Seeds, for every setting. Replaces `seed`."""
    learning_rates: tuple[float, ...] = ()
    """Peak learning rates."""
    over: tuple[str, ...] = ()
    """Values of any other hyperparameter: capacity=5,10,25 gamma=10,100 free_bits=0.1,0.5 ..."""
    groups: tuple[str, ...] = ()
    """Values of static settings, a program for each combination: latent_dim=2,10 hidden=256x256,512 objective=elbo,iwae ..."""
    points: Path | None = None
    """CSV file with a header of setting names and a member a line: a list instead of a grid; crossed with `seeds` if given."""
    ranges: tuple[str, ...] = ()
    """Ranges for `design`: beta=0.1:10:log learning_rate=1e-4:1e-2:log ..."""
    design: Literal["grid", "random", "sobol"] = "grid"
    """Placement of the members in `ranges`."""
    num_points: int = 8
    """Members of the design; for a grid, values of each range."""
    design_seed: int = 0
    """Seed of random and sobol."""
    halving: int | None = None
    """Successive halving: one member in this many continues at each rung, after min_epochs * halving^k epochs. The others stop,
    and members of the list that wait take their places. Needs validation data."""
    min_epochs: int = 5
    """Epochs of the first rung of `halving`."""
    halving_by: str = "validation_elbo"
    """Column of metrics.jsonl by which `halving` compares members; with :min the smallest is the best (train_loss:min)."""
    num_concurrent: int | None = None
    """Members that `halving` trains at the same time. By default one in `halving` of all, at least `halving`."""
    out: str = ""
    """Sweep directory to write; new or empty, unless `resume`. Required."""
    resume: bool = False
    """Continue the sweep in `out`; members that it does not have yet are added. Settings left out are taken from there. With
    more `epochs`, all members continue to that length."""
    init_from: str = ""
    """Run directory, or sweep directory with `init_member`, whose trained parameters all members start from. Settings that are
    left out are taken from there, and with a different `dataset` those that name its files, columns and levels are not."""
    init_parts: tuple[Literal["encoder", "decoder", "likelihood", "prior", "posterior"], ...] = ()
    """Parts of the parameters to start from. By default all that both models have; others start at random values."""
    init_member: int | None = None
    """Number of the member of a sweep that `init_from` names."""
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
    """Join the processes of a cluster. auto: with `coordinator`, or started by srun or mpirun with several tasks; yes: let JAX
    find them (TPU slices, Kubernetes)."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where JAX cannot find it by itself."""
    num_processes: int | None = None
    """Number of processes, with `coordinator`."""
    process_id: int | None = None
    """Number of this process from 0, with `coordinator`."""
    coordinator_timeout: float = 60.0
    """Seconds to wait for the other processes."""
    checkpoint_seconds: float = 15.0
    """Least time between checkpoints. 0: after every epoch."""
    report: bool = True
    """Draw the figures and write report.html at the end."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder, so that the next sweep starts faster."""

    def record(self, base: "Config") -> dict[str, object]:
        """Returns the arguments that define the members, as they stand in sweep.json."""
        points = self.points and os.path.abspath(os.path.expanduser(self.points))
        axes = {name: getattr(self, name) for name in AXES} | {"points": points}
        selection = {name: getattr(self, name) for name in HALVING} if self.halving is not None else {}
        return {"base": dataclasses.asdict(base), **axes, **selection}

    def halving_settings(self) -> "Halving | None":
        """Returns the settings of successive halving; raises `UserError` for options that belong to it, without it."""
        given = [field for field in dataclasses.fields(self) if field.name in HALVING[1:]]
        given = [field.name for field in given if getattr(self, field.name) != field.default]
        if self.halving is None:
            if given:
                raise UserError(f"`{given[0]}` belongs to `halving`.", fix="Add `halving=3`, or leave it out.")
            return None
        from vae_jax.sweep import Halving

        return Halving(self.halving, self.min_epochs, self.halving_by, self.num_concurrent)

    def placement_options(self) -> list[str]:
        """Returns the options about devices and parallelism that are not the defaults, as words of the command line."""
        options = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in _PLACEMENT and value != field.default:
                options += [option(field.name), str(value)]
        return options


def read_command_line(argv: Sequence[str] | None) -> "tuple[Arguments, Config]":
    """Returns the options and the settings. With `resume=True`, the defaults are those that the sweep began with."""
    arguments, base = parse_with_config(Arguments, argv, "sweep")
    expect_out(arguments.out, "a sweep directory", "runs/sweep")
    recorded = Path(arguments.out) / "sweep.json"
    expect_init_from(arguments)
    if not (arguments.resume and recorded.exists()):
        return read_new("sweep", arguments, base, argv)
    try:
        content = json.loads(recorded.read_text())
        defaults = {**_recorded_defaults(content), "out": arguments.out, "resume": True}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{recorded}: cannot be read: {error}") from None
    return parse_with_config(Arguments, argv, "sweep", defaults)


def _recorded_defaults(content: Mapping[str, object]) -> dict[str, object]:
    """Returns the values of options and settings that sweep.json records."""
    from vae_jax.config import entries, from_dict
    from vae_jax.config.validation import check_name

    recorded = content["arguments"]
    if recorded is None:
        raise ValueError("it was begun by run_sweep without arguments, so continue it by run_sweep(..., resume=True)")
    base = from_dict(recorded["base"])  # pyright: ignore
    for kind in PARTS:  # a file is named by the command line alone
        check_name(kind, getattr(base, kind), entries(kind))  # pyright: ignore
    defaults = {field.name: getattr(base, field.name) for field in dataclasses.fields(base)}
    defaults |= {name: tuple(recorded[name]) if isinstance(recorded[name], list) else recorded[name] for name in AXES}  # pyright: ignore
    defaults |= {name: recorded[name] for name in HALVING if name in recorded}  # pyright: ignore
    points = defaults["points"]
    return {**defaults, "points": points and Path(points), "data_dir": content.get("data_dir")}


def is_distributed(arguments: Arguments) -> bool:
    """Returns True if there are other processes to join."""
    explicit = (arguments.coordinator, arguments.num_processes, arguments.process_id)
    if arguments.distributed == "no":
        return False
    if any(value is not None for value in explicit) and arguments.distributed == "auto":
        if None in explicit:
            raise UserError("`coordinator`, `num_processes` and `process_id` belong together; give all three.")
        return arguments.num_processes != 1
    tasks = [os.environ.get(name, "1") for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")]
    return arguments.distributed == "yes" or any(task.isdigit() and int(task) > 1 for task in tasks)


def join(arguments: Arguments, num_members: int, joined: Callable[[], None]) -> "Processes":
    """Joins the other processes, where there are any, and sets the number of virtual devices on CPU."""
    from vae_jax.sweep.processes import Processes, initialize

    processes = Processes(timeout=arguments.coordinator_timeout)
    if is_distributed(arguments):
        explicit = (arguments.coordinator, arguments.num_processes, arguments.process_id)
        processes = initialize(*explicit, timeout=arguments.coordinator_timeout)
        joined()
    expect_devices(arguments.devices)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = -(-num_members // processes.size)
    make_devices(arguments.devices or max(1, min(8, cores, share)))
    return processes


def work(arguments: Arguments, base: "Config", argv: Sequence[str], joined: Callable[[], None] = lambda: None) -> int:
    """Trains the sweep in this process, alone or as one of several, and returns the exit status."""
    began = time.perf_counter()
    data_dir = None if arguments.data_dir is None else os.path.abspath(os.path.expanduser(arguments.data_dir))

    from vae_jax.cli.sweep_members import read_members

    base, sources = split_parts(base)
    base = resolved_columns(base, data_dir, shown=not arguments.process_id)
    members, halving = read_members(arguments, base, argv), arguments.halving_settings()
    processes = join(arguments, len(members), joined)

    from vae_jax.storage.cache import enable_compilation_cache
    from vae_jax.storage.directories import is_fresh
    from vae_jax.sweep.blocks import Layout
    from vae_jax.sweep.directory import Launch, read_sweep, run_sweep

    if arguments.compilation_cache:
        enable_compilation_cache()
    out, is_leader = Path(arguments.out), processes.rank == 0
    expect_outside_data(out, members[0])
    if arguments.resume and not is_fresh(out):
        read_sweep(out)  # says what is wrong with a folder that is no sweep
        check_recorded(out, sources)
    else:
        check_initial_parts(arguments, base, sources)
        check_new(base, sources)
    parts = import_parts(sources)  # after the processes have joined, because the files import JAX
    progress = SweepProgress()

    def on_block(group: "Group", reason: str, done: int, notes: Sequence[str]) -> None:
        for text in notes:
            note(text)
        if is_leader:
            label = f" ({group.label})" if group.label else ""
            print(f"{len(group.members)} members{label}, {group.configs[0].epochs} epochs; {reason}", flush=True)
            if done:
                print(f"resuming after epoch {done}", flush=True)

    with Interrupt("these steps" if members[0].stream else "the epoch") as interrupt:

        def on_progress(tick: "Tick") -> bool:
            if is_leader:
                progress.update(tick)
            return interrupt.signal is not None

        layout = Layout(arguments.strategy, arguments.chunk, arguments.data_parallel, arguments.devices)
        record = arguments.record(base)
        is_finished = run_sweep(
            members,
            out,
            resume=arguments.resume,
            launch=Launch(layout, processes, record, lambda: interrupt.signal is not None),
            halving=halving,
            data_dir=data_dir,
            init=read_init(arguments),
            checkpoint_seconds=arguments.checkpoint_seconds,
            on_block=on_block,
            on_progress=on_progress,
            **parts,
        )
        progress.close()
        if not is_finished:
            command = [*current_program().parts("sweep"), "--out", str(out), "--resume", *arguments.placement_options()]
            options = [as_option(name, source) for name, source in sources.items()]
            part = " up to the last checkpoint" if members[0].stream else ""
            print(f"saved{part}; continue with:\n  {' '.join([shlex.join(command), *options])}", flush=True)
            return interrupt.exit_status
    if is_leader:
        write_outcome(out, began, arguments.report, parts)
    return 0


def write_outcome(out: Path, began: float, draw_report: bool, parts: "PartOptions") -> None:
    """Writes and prints the table of a sweep that has ended, and draws the report."""
    from vae_jax.sweep.results import describe_overfitting, write_results
    from vae_jax.sweep.statistics import DONE

    results = write_results(out, time.perf_counter() - began)
    print_points(results)
    if results.decisions:
        print_halving(results)
    stopped = {decision.member for decision in results.decisions if not decision.is_promoted}
    lost = [row for row in results.rows if row["status"] not in DONE and row["member"] not in stopped]
    left_out = [f"{row['member']} ({row['status']})" for row in lost]
    if left_out:
        note(f"left out of the means: member {', '.join(left_out)}")
    overfit = describe_overfitting(results)
    if overfit:
        note(overfit)
    print(f"table: {out / 'results.csv'} ({len(results.rows)} members, {time.perf_counter() - began:.0f} s)", flush=True)
    if draw_report:
        from vae_jax.report import write_sweep_report

        print("drawing the report ...", flush=True)
        print(f"report: {write_sweep_report(results, **parts)}")


def print_halving(results: "Results") -> None:
    """Prints how many members each rung compared and let continue, and what the sweep cost."""
    rungs = sorted({(decision.rung, decision.epoch) for decision in results.decisions})
    print()
    for rung, epoch in rungs:
        promoted = [decision.is_promoted for decision in results.decisions if decision.rung == rung]
        print(f"rung {rung}, epoch {epoch}: {sum(promoted)} of {len(promoted)} members continued")
    made, whole = sum(row["epochs"] for row in results.rows), sum(member.epochs for member in results.members)
    print(f"{made:,} member-epochs, {made / whole:.0%} of those without halving")


def print_points(results: "Results") -> None:
    """Prints one line for each setting: means over its seeds, with standard errors."""
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


def main(argv: Sequence[str] | None = None) -> int:
    """Trains the sweep and returns the exit status. One of several processes runs in a child, see `supervised`."""
    arguments, base = read_command_line(argv)
    expect_seconds(checkpoint_seconds=arguments.checkpoint_seconds, coordinator_timeout=arguments.coordinator_timeout)
    given = sys.argv[1:] if argv is None else list(argv)
    base = base if arguments.init_from else with_proposed_columns(base, given)
    if not is_distributed(arguments):
        return work(arguments, base, given)
    return supervised(lambda joined: work(arguments, base, given, joined), arguments.coordinator_timeout)
