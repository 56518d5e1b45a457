"""Times the program of a sweep: steps, epochs and kernels, and each member against the same member alone."""

import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from workload import BATCH, NETWORKS, RATE, make_vae

MAX_DIFFERENCE = 1e-3  # relative, of a loss side by side from the same alone; TF32 rounds to 5e-4 in each product


VARIANTS = {  # each removes or changes one possible cost
    "static": "number of steps known to the compiler",
    "graph": "loops inside CUDA graphs",
    "bits": "no random bits: pixels divided by 255",
    "sgd": "SGD in place of Adam",
}
# Value of xla_gpu_enable_command_buffer: the default of XLA, and loops and branches.
GRAPH = "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,DYNAMIC_SLICE_FUSION,CONDITIONAL,WHILE"


class Case(NamedTuple):
    """Settings of one program to time."""

    network: str
    dtype: str
    strategy: str
    members: int
    variant: str = ""


def blobs(seed: int, count: int) -> np.ndarray:
    """Returns images with three smooth blobs each as levels (count, 28, 28, 1), with most pixels near 0 as in MNIST."""
    rng = np.random.default_rng(seed)
    grid = np.arange(28, dtype=np.float32)
    center = rng.uniform(6, 22, (2, count, 3, 1)).astype(np.float32)
    width = rng.uniform(1.5, 4, (count, 3, 1)).astype(np.float32)
    vertical, horizontal = (np.exp(-0.5 * ((grid - c) / width) ** 2) for c in center)
    return np.minimum(255 * np.matmul(vertical.swapaxes(1, 2), horizontal), 255).astype(np.uint8)[..., None]


class Trainer:
    """Compiled program of `fit_members` with its state, which runs an epoch or its first steps at a time."""

    def __init__(self, case: Case, prepared: Any) -> None:
        import jax
        import jax.numpy as jnp
        import optax
        from optax import adam

        from vae_jax.config import Hyperparams
        from vae_jax.training.epoch import init_member, make_epoch, make_epoch_end, make_member_epoch, run_keys
        from vae_jax.training.placement import Placement, over_members, place
        from vae_jax.training.step import make_train_step

        self.case, self.steps, self.epoch = case, len(prepared.train) // BATCH, 0
        vae = make_vae(NETWORKS[case.network](prepared.train.shape[1:]), case.dtype)
        optimizer = optax.sgd if case.variant == "sgd" else adam
        draw = (lambda key, batch: batch.astype(jnp.float32) / 255) if case.variant == "bits" else prepared.train_input
        step = make_train_step(vae, optimizer=optimizer, train_input=draw)
        whole_epoch = make_epoch(step, BATCH)

        def all_steps(state: Any, keys: Any, epoch: Any, data: Any, hyperparams: Any, _: Any) -> Any:
            return whole_epoch(state, keys, epoch, data, hyperparams)

        run_epoch = all_steps if case.variant == "static" else whole_epoch  # the former ignores the number of steps
        member_epoch = make_member_epoch(run_epoch, make_epoch_end(vae, prepared, None, 1000, 0))
        self._init = jax.jit(
            jax.vmap(lambda keys: init_member(vae, optimizer, keys.init, keep_best=prepared.validation is not None))
        )
        self._keys = jax.jit(jax.vmap(run_keys))
        self._hyperparams = Hyperparams(learning_rate=RATE)
        options: dict[str, str | bool] | None = {"xla_gpu_enable_command_buffer": GRAPH} if case.variant == "graph" else None
        placement: Placement | None = place(case.members, case.strategy, devices=jax.local_devices()[:1])
        while placement is not None:
            self.placement = placement
            self._shared = placement.replicate((prepared.train, prepared.test, prepared.validation))
            self.reset()
            began = time.perf_counter()
            program = jax.jit(over_members(member_epoch, placement), donate_argnums=0)
            self.program = program.lower(*self._arguments(self.steps)).compile(options)
            self.compile_seconds = time.perf_counter() - began
            placement = placement.with_smaller_chunk(self.program)

    def reset(self, first_seed: int = 0) -> None:
        """Resets all members, with seeds from this one on. Members that only fill a chunk are inactive."""
        import jax

        slots = self.placement.num_slots(self.case.members)
        keys = self._keys(first_seed + np.arange(slots, dtype=np.uint32))
        hyperparams = jax.tree.map(lambda value: np.full(slots, value, np.float32), self._hyperparams)
        self.members = self.placement.put(self._init(keys))
        self._inputs = self.placement.put((keys, hyperparams))
        self._active = self.placement.put(np.arange(slots) < self.case.members)

    def _arguments(self, steps: int) -> tuple[Any, ...]:
        return (self.members, self._inputs, self._active, np.int32(self.epoch), np.int32(steps), *self._shared)

    def run(self, steps: int) -> tuple[float, Any]:
        """Runs this number of steps with the order and evaluation of an epoch, and returns the seconds and the outcome."""
        import jax

        began = time.perf_counter()
        self.members, outcome = self.program(*self._arguments(steps))
        jax.block_until_ready((self.members, outcome))
        self.epoch += 1
        return time.perf_counter() - began, outcome

    def memory(self) -> dict[str, int | None]:
        """Returns the bytes that the compiled program needs, and the peak of this process on the device so far."""
        use = self.program.memory_analysis()
        stats = self.placement.mesh.devices.flat[0].memory_stats() or {}
        parts = ("argument", "output", "temp", "alias")
        sizes = {f"{name}_bytes": getattr(use, f"{name}_size_in_bytes", None) for name in parts}
        return {**sizes, "process_peak_bytes": stats.get("peak_bytes_in_use"), "limit_bytes": stats.get("bytes_limit")}


def repeat(run: Callable[[], float], seconds: float, most: int = 9) -> float:
    """Returns the median time of at least two runs, and of more while they fit into `seconds`."""
    times: list[float] = []
    while len(times) < 2 or (len(times) < most and sum(times) + times[-1] < seconds):
        times.append(run())
    return statistics.median(times)


def measure(trainer: Trainer, seconds: float = 3.0) -> dict[str, Any]:
    """Returns times of a step and of an epoch, after a warm-up epoch of one step."""
    members, steps = trainer.case.members, trainer.steps
    static = trainer.case.variant == "static"
    trainer.run(1)
    short = 0.0 if static else repeat(lambda: trainer.run(1)[0], seconds / 3)
    if not static and steps > 20:  # for slow programs, a part of the epoch is enough
        step = (trainer.run(11)[0] - short) / 10
        steps = int(np.clip(seconds / max(step, 1e-9), 11, steps))
    whole = repeat(lambda: trainer.run(steps)[0], seconds)
    step = (whole - short) / max(steps - 1, 1)
    finite = bool(np.all(np.asarray(trainer.run(1)[1].good_steps)[:members] >= 1))
    return {
        "step_seconds": None if static else step,
        "epoch_seconds": whole + (trainer.steps - steps) * step,
        "order_and_evaluation_seconds": None if static else short - step,
        "steps_timed": steps,
        "member_images_per_second": None if static else members * BATCH / step,
        "finite": finite,
    }


def timed(case: Case, prepared: Any) -> tuple[dict[str, Any], Trainer]:
    """Times a case and returns its row of the results and its program."""
    trainer = Trainer(case, prepared)
    row = {"kind": "vae_jax", **case._asdict(), "chunk": trainer.placement.chunk, "why": trainer.placement.description}
    row |= {"compile_seconds": trainer.compile_seconds, **measure(trainer), "memory": trainer.memory()}
    return row, trainer


def correctness(alone: Trainer, together: Trainer, steps: int = 20) -> dict[str, Any]:
    """Compares members side by side with the same members alone by the mean loss of their first steps."""
    steps = min(steps, together.steps)
    together.reset()
    together.epoch = 0
    losses = np.asarray(together.run(steps)[1].metrics.loss)[: together.case.members]
    singles = []
    for seed in range(together.case.members):
        alone.reset(seed)
        alone.epoch = 0
        singles.append(float(alone.run(steps)[1].metrics.loss[0]))
    difference = float(np.max(np.abs(losses - singles) / np.abs(singles)))
    return {
        "members": together.case.members,
        "steps": steps,
        "max_relative_difference": difference,
        "spread_between_members": float(np.ptp(singles) / np.mean(np.abs(singles))),  # the difference if members were confused
        "passed": difference <= MAX_DIFFERENCE,
    }


def kernels(trainer: Trainer, steps: int = 20, most: int = 12) -> dict[str, Any]:
    """Returns the kernels of a step, from the profile of an epoch of 1 + `steps` steps minus that of one step."""
    import jax

    def profile(steps: int) -> tuple[Counter[str], Counter[str]]:
        seconds, count = Counter[str](), Counter[str]()
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                trainer.run(steps)
            data = jax.profiler.ProfileData.from_file(str(next(Path(folder).rglob("*.xplane.pb"))))
            lines = [line for plane in data.planes if plane.name.startswith("/device:") for line in plane.lines]
            streams = [
                line for line in lines if (line.name or "").startswith("Stream")
            ]  # of GPUs, where the other lines repeat them
            for line in streams or [line for line in lines if line.name == "XLA Ops"]:
                for event in line.events:
                    seconds[event.name] += event.duration_ns / 1e9
                    count[event.name] += 1
        return seconds, count

    steps = min(steps, trainer.steps - 1)
    (base, base_count), (more, more_count) = profile(1), profile(1 + steps)
    each = {name: (more[name] - base[name]) / steps for name in more if more_count[name] > base_count[name]}
    largest = sorted(each, key=lambda name: -each[name])[:most]
    return {
        **trainer.case._asdict(),
        "kernels_per_step": sum(more_count[name] - base_count[name] for name in each) / steps,
        "busy_seconds_per_step": sum(each.values()),
        "largest": [
            {"name": name, "per_step": (more_count[name] - base_count[name]) / steps, "seconds": each[name]} for name in largest
        ],
    }
