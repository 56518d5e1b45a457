"""Measures the cost of many members of a sweep on a GPU or TPU, under vmap and under map.

The program of `fit_members` trains 1, 8, 64 and 256 members of 784-400-20 (ReLU, Adam 1e-3, batch 128) on 60,000 synthetic
images of MNIST's shape, and then members of the default convolutional network. PyTorch loops are timed beside them if torch is
installed and sees the same device. The script needs jax, flax, optax and numpy, no network, and less than eight minutes. Cases
that do not fit into the budget are left out and listed. Run it from a checkout in which vae_jax is installed:

    python experiments/benchmarks/accelerator.py --out results.json

The time of a step is (time of an epoch - time of an epoch of one step) / (steps - 1). The rest is the order of the epoch and
its evaluation. The share of the roof compares the products of a step with the rate of large products in the same arithmetic.
"""

if __name__ == "__main__":
    import environment  # noqa: F401

import argparse
import functools
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from members import VARIANTS, Case, Trainer, blobs, correctness, kernels, repeat, timed
from peers import Problem, PyTorch
from workload import BATCH, NETWORKS, RATE, product_rate, training_flops

from vae_jax.cli.checks import expect_counts
from vae_jax.cli.messages import use_options
from vae_jax.cli.results_file import write_results
from vae_jax.cli.script import run_script
from vae_jax.cli.tables import markdown

BEGAN = time.perf_counter()
TRAIN, TEST, SHAPE = 60_000, 10_000, (28, 28, 1)
TARGET_MEMBERS, TARGET_RATIO = 64, 3.0


class Peer(NamedTuple):
    """Kind of PyTorch loop."""

    label: str
    mode: str | None  # of torch.compile
    guess: float  # expected seconds


PEERS = {
    "eager": Peer("PyTorch, eager", None, 10),
    "compile": Peer("torch.compile", "default", 60),
    "graphs": Peer("torch.compile, CUDA graphs", "reduce-overhead", 60),
}


def peer_row(dataset: Any, test: np.ndarray, device: str, network: str, dtype: str, kind: str) -> dict[str, Any]:
    """Returns the results of a PyTorch loop."""
    began = time.perf_counter()
    problem = Problem(NETWORKS[network](SHAPE), dataset, test, BATCH, binarize=True)
    loop = PyTorch(problem, 0, compile_mode=PEERS[kind].mode, device=device, dtype=dtype)
    loop.epoch(0)
    compile_seconds = time.perf_counter() - began

    def run() -> float:
        began = time.perf_counter()
        loop.epoch(1)
        return time.perf_counter() - began

    steps = len(dataset.train) // BATCH
    step = repeat(run, 5.0) / steps
    row = {"kind": PEERS[kind].label, "network": network, "dtype": dtype, "members": 1}
    return {**row, "compile_seconds": compile_seconds, "step_seconds": step, "member_images_per_second": BATCH / step}


class Benchmark:
    """Results so far, which are written after every case, and the remaining time."""

    def __init__(self, arguments: argparse.Namespace, device: dict[str, Any]) -> None:
        settings = {name: value for name, value in vars(arguments).items() if name != "out"}
        settings |= {"batch_size": BATCH, "learning_rate": RATE}
        settings |= {name: network(SHAPE).label for name, network in NETWORKS.items()}
        self.results: dict[str, Any] = {"device": device, "settings": settings, "rows": [], "left_out": [], "failed": []}
        self.results["roof_flops_per_second"] = {}
        self.out, self.budget = arguments.out, arguments.budget_seconds
        self.title = f"{device['kind']} ({device['platform']}), JAX {device['jax']}"
        self._longest: dict[str, float] = {}

    def attempt(self, kind: str, name: str, do: Callable[[], Any], guess: float = 5.0) -> Any:
        """Runs one case unless the remaining time is too short for another case of its kind. An error is recorded.

        Args:
          kind: cases of one kind take about the same time.
          name: for the list of cases that failed or were left out.
          do: runs the case.
          guess: expected seconds of the first case of its kind.
        """
        began = time.perf_counter()
        if began - BEGAN + self._longest.get(kind, guess) > self.budget:
            self.results["left_out"].append(name)
            return None
        print(f"{began - BEGAN:4.0f} s  {name}", flush=True)
        try:
            done = do()
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"note: {name} failed: {text[:300]}", file=sys.stderr, flush=True)
            self.results["failed"].append({"kind": kind, "name": name, "error": text[:2000]})
            done = None
        self._longest[kind] = max(self._longest.get(kind, 0.0), time.perf_counter() - began)
        self.save()
        return done

    def find(self, like: dict[str, Any], **fields: Any) -> dict[str, Any] | None:
        """Returns the first row of vae_jax that equals this row except for the given fields."""
        wanted = {name: like.get(name) for name in Case._fields} | fields
        rows = (row for row in self.results["rows"] if row["kind"] == "vae_jax")
        return next((row for row in rows if all(row[name] == value for name, value in wanted.items())), None)

    def ratio(self, row: dict[str, Any], name: str) -> float | None:
        """Returns a time in units of that of a single member, which runs as in train.py."""
        one = self.find(row, members=1, strategy="map", variant="")
        return row[name] / one[name] if one and row.get(name) and one.get(name) else None

    def share_of_roof(self, row: dict[str, Any]) -> float | None:
        """Returns the rate of products in a step relative to the rate of products alone."""
        roof, rate = self.results["roof_flops_per_second"].get(row["dtype"]), row.get("member_images_per_second")
        return rate * training_flops(NETWORKS[row["network"]](SHAPE)) / roof if rate and roof else None

    def targets(self) -> list[dict[str, Any]]:
        """Compares the cost of many members with the target."""
        targets = []
        for row in self.results["rows"]:
            many = row.get("strategy") == "vmap" and row["members"] == TARGET_MEMBERS and not row["variant"]
            ratio = self.ratio(row, "step_seconds") if many else None
            if ratio:
                case = {"network": row["network"], "dtype": row["dtype"], "ratio": ratio}
                targets.append({**case, "at_most": TARGET_RATIO, "met": ratio <= TARGET_RATIO})
        return targets

    def table(self) -> str:
        """Returns the rows as a table in Markdown, with remarks below."""
        header = ("", "network", "compute", "strategy", "members", "at once", "step, ms", "x one member", "member-images/s")
        header = (*header, "share of the roof", "epoch with evaluation, s", "x one member")
        header = (*header, "program, GB", "process peak, GB", "compile, s")
        cells = [self._cells(row) for row in self.results["rows"]]
        remarks = [*self._comparisons(), *self._profiles()]
        if self.results["left_out"]:
            remarks.append(f"Left out, no time in {self.budget:g} s: {', '.join(self.results['left_out'])}.")
        remarks += [f"Failed: {failed['name']}: {failed['error'][:200]}" for failed in self.results["failed"]]
        remarks += self.results.get("notes", [])
        return f"{self.title}\n\n{markdown(header, cells)}\n\n" + "\n".join(f"- {line}" for line in remarks) + "\n"

    def _cells(self, row: dict[str, Any]) -> tuple[str, ...]:
        def number(value: float | None, form: str, factor: float = 1.0) -> str:
            return "" if value is None else format(factor * value, form)

        memory = row.get("memory", {})
        parts = [memory.get(f"{name}_bytes") for name in ("argument", "output", "temp", "alias")]
        needed = None if None in parts else sum(parts[:3]) - parts[3]
        variant = f": {VARIANTS[row['variant']]}" if row.get("variant") else ""
        return (
            f"{row['kind']}{variant}",
            row["network"],
            row["dtype"],
            row.get("strategy", ""),
            str(row["members"]),
            str(row.get("chunk", "")),
            number(row["step_seconds"], ",.3f", 1e3),
            number(self.ratio(row, "step_seconds"), ".2f"),
            number(row["member_images_per_second"], ",.0f"),
            number(row.get("share_of_roof"), ".3f"),
            number(row.get("epoch_seconds"), ",.3f"),
            number(self.ratio(row, "epoch_seconds"), ".2f"),
            number(needed, ",.2f", 1e-9),
            number(memory.get("process_peak_bytes"), ",.2f", 1e-9),
            number(row["compile_seconds"], ".1f"),
        )

    def _comparisons(self) -> Iterator[str]:
        """Yields remarks on targets, correctness and variants."""
        for target in self.targets():
            verdict = "met" if target["met"] else "missed"
            on_cpu = " (a target for accelerators; this is a CPU)" if self.results["device"]["platform"] == "cpu" else ""
            yield (
                f"{TARGET_MEMBERS} members, {target['network']}, {target['dtype']}: {target['ratio']:.2f} times the step of "
                f"one; target at most {target['at_most']:g}: {verdict}{on_cpu}."
            )
        for check in self.results.get("correctness", []):
            yield (
                f"{check['members']} members side by side against each alone, {check['network']}, {check['steps']} steps, "
                f"{check['dtype']}: losses differ by at most {check['max_relative_difference']:.1e} (relative; members among "
                f"themselves by {check['spread_between_members']:.1e}): {'passed' if check['passed'] else 'FAILED'}."
            )
        for row in self.results["rows"]:
            plain = self.find(row, variant="") if row.get("variant") else None
            if plain:
                share = row["epoch_seconds"] / plain["epoch_seconds"]
                case = f"{row['members']} members, {row['network']}, {VARIANTS[row['variant']]}"
                yield f"{case}: the epoch takes {share:.2f} of its time."

    def _profiles(self) -> Iterator[str]:
        """Yields remarks on the roof and on the kernels of a step."""
        for dtype, rate in self.results["roof_flops_per_second"].items():
            yield f"The roof, {dtype}: {rate / 1e12:,.2f} TFLOP/s."
        for profile in self.results.get("kernels", []):
            names = "; ".join(f"{k['name']} {1e6 * k['seconds']:.1f} us" for k in profile["largest"][:6])
            yield (
                f"{profile['members']} members, {profile['network']}: {profile['kernels_per_step']:.0f} kernels and copies per "
                f"step, which keep the device busy for {1e6 * profile['busy_seconds_per_step']:.0f} us; the largest: {names}."
            )

    def save(self) -> None:
        """Writes the results as JSON, and the table beside them."""
        for row in self.results["rows"]:
            row["share_of_roof"] = self.share_of_roof(row)
        if self.out is not None:
            content = {**self.results, "targets": self.targets(), "seconds": time.perf_counter() - BEGAN}
            write_results(self.out, content, ("jax", "jaxlib", "flax", "optax", "numpy", "torch"))
            self.out.with_suffix(".md").write_text(self.table())


def parse_arguments() -> argparse.Namespace:
    """Reads the command line, with argparse because a bare GPU image does not have tyro."""
    summary, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(description=summary, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--members", type=int, nargs="+", default=[1, 8, 64, 256], help="numbers of members (default: 1 8 64 256)")
    add("--networks", nargs="+", choices=NETWORKS, default=["mlp", "conv"], help="networks (default: mlp conv)")
    add("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"], help="arithmetic")
    add("--peers", nargs="*", choices=PEERS, default=list(PEERS), help="PyTorch loops (default: all)")
    add("--variants", nargs="*", choices=VARIANTS, default=list(VARIANTS), help="changes of the program of the first network")
    add("--steps", type=int, help="train on this number of batches only, for a quick trial")
    add("--budget-seconds", type=float, default=420.0, help="start nothing that would end later (default: 420)")
    add("--out", type=Path, help="JSON file to write, with the table beside it as .md")
    arguments = parser.parse_args()
    use_options(vars(arguments))
    return arguments


def describe(device: Any) -> dict[str, Any]:
    """Describes the device."""
    import jax

    described = {"kind": device.device_kind, "platform": device.platform, "count": jax.local_device_count()}
    return {**described, "jax": jax.__version__, "runtime": getattr(device.client, "platform_version", None)}


def run_members(bench: Benchmark, network: str, dtype: str, numbers: list[int], prepared: Any) -> None:
    """Times one member as in train.py and several side by side, and then compares and profiles these programs."""
    trainers: dict[int, Trainer] = {}
    for members in numbers:
        case = Case(network, dtype, "vmap" if members > 1 else "map", members)
        trainer = run_case(bench, case, prepared)
        if trainer:
            trainers[members] = trainer
    measure_roof(bench, dtype)
    several = [members for members in trainers if members > 1]
    if 1 in trainers and several:
        compare = functools.partial(correctness, trainers[1], trainers[several[0]])
        check = bench.attempt("correctness", f"{network} {dtype} correctness", compare)
        if check:
            bench.results.setdefault("correctness", []).append({"network": network, "dtype": dtype, **check})
    if dtype == "float32" and bench.results["device"]["platform"] != "cpu":
        for members in (1, TARGET_MEMBERS):
            if members in trainers:
                do = functools.partial(kernels, trainers[members])
                profile = bench.attempt("profile", f"{network} profile of {members}", do, guess=15)
                if profile:
                    bench.results.setdefault("kernels", []).append(profile)


def measure_roof(bench: Benchmark, dtype: str) -> None:
    """Measures the rate of large products, once for each arithmetic."""
    side, repeats = (1024, 5) if bench.results["device"]["platform"] == "cpu" else (8192, 20)
    roofs = bench.results["roof_flops_per_second"]
    if dtype not in roofs:
        do = functools.partial(product_rate, side, side, side, repeats=repeats, dtype=dtype)
        rate = bench.attempt("roof", f"{dtype} roof", do)
        if rate:
            roofs[dtype] = rate


def run_case(bench: Benchmark, case: Case, prepared: Any) -> Trainer | None:
    """Times a case and adds its row."""
    name = f"{case.network} {case.dtype} {case.strategy} of {case.members} {case.variant}".strip()

    def do() -> Trainer:
        row, trainer = timed(case, prepared)
        bench.results["rows"].append(row)
        return trainer

    return bench.attempt("variant" if case.variant else case.strategy, name, do)


def run_peers(bench: Benchmark, kinds: list[str], network: str, dtype: str, dataset: Any, test: np.ndarray) -> None:
    """Times the PyTorch loops and adds their rows."""
    device = "cpu" if bench.results["device"]["platform"] == "cpu" else "cuda"
    if importlib.util.find_spec("torch") is not None:
        import torch

        if device == "cpu" or torch.cuda.is_available():
            for kind in kinds:
                do = functools.partial(peer_row, dataset, test, device, network, dtype, kind)
                row = bench.attempt(kind, f"PyTorch {kind} {network} {dtype}", do, guess=PEERS[kind].guess)
                if row:
                    bench.results["rows"].append(row)
            return
    bench.results["notes"] = ["PyTorch is not installed or does not see this device, so its rows are left out."]


def main() -> int:
    """Runs the cases, the most important ones first."""
    arguments = parse_arguments()
    expect_counts(1, members=min(arguments.members), **{} if arguments.steps is None else {"steps": arguments.steps})
    import jax

    from vae_jax import data

    train_size = TRAIN if arguments.steps is None else arguments.steps * BATCH
    images = blobs(0, train_size + min(TEST, train_size))
    dataset = data.Dataset("blobs", images[:train_size], None, images[train_size:], None, 255, "synthetic")
    prepared = data.prepare(dataset, binarization="dynamic")
    bench = Benchmark(arguments, describe(jax.local_devices()[0]))
    print(f"{bench.title}, budget {arguments.budget_seconds:g} s", flush=True)
    numbers, (first, *others) = sorted(set(arguments.members)), arguments.dtypes
    networks = arguments.networks
    for network in networks:
        run_members(bench, network, first, numbers, prepared)
    for network in networks:
        for members in numbers:
            run_case(bench, Case(network, first, "map" if members > 1 else "vmap", members), prepared)
    for dtype in others:
        for network in networks:
            run_members(bench, network, dtype, numbers, prepared)
    peers = functools.partial(run_peers, bench, arguments.peers, dataset=dataset, test=np.asarray(prepared.test))
    for network in networks if arguments.peers else ():
        peers(network, first)
    many = max((members for members in numbers if members <= TARGET_MEMBERS), default=numbers[0])
    for variant in arguments.variants:
        for members in sorted({1, many}) if variant in ("static", "graph") else [many]:  # a single member may gain, too
            if variant != "graph" or bench.results["device"]["platform"] == "gpu":
                run_case(bench, Case(networks[0], first, "vmap" if members > 1 else "map", members, variant), prepared)
    for dtype in others if arguments.peers else ():
        for network in networks:
            peers(network, dtype)
    bench.save()
    print(f"\n{bench.table()}")
    wrong = [failed for failed in bench.results["failed"] if failed["kind"] in ("map", "vmap", "correctness")]
    return 1 if wrong or not all(check["passed"] for check in bench.results.get("correctness", [])) else 0


if __name__ == "__main__":
    run_script(main)
