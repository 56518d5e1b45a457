"""What the benchmarks of training count and fit: products of a step, slopes and lines; and that they run, on tiny settings."""

import importlib
import importlib.util
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from optax import adam
from scripts import EXPERIMENTS, run

from vae_jax import training
from vae_jax.config import Hyperparams

SHAPES = {"mlp": (28, 28, 1), "conv": (64, 64, 1), "conv of 28": (28, 28, 1), "conv of colors": (32, 48, 3)}


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS / "benchmarks"))
    return importlib.import_module


def network_of(workload, name):
    return workload.NETWORKS[name.split()[0]](SHAPES[name])


def is_jaxpr(value):
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(equation.params, is_leaf=is_jaxpr):
            if is_jaxpr(inner):
                yield from equations(getattr(inner, "jaxpr", inner))


def products(jaxpr):
    """FLOPs of the matrix products, from the shapes of their operands."""
    total = 0
    for equation in equations(jaxpr):
        if equation.primitive.name in ("dot_general", "rows_product"):
            (contracted, _), _ = equation.params.get("dimension_numbers", (((1,), (0,)), ()))
            inner = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * inner * math.prod(equation.outvars[0].aval.shape)
    return total


def convolutions(jaxpr):
    """Multiplications of the native convolutions; where the input was spread out, its zeros do not count."""
    found = []
    for equation in equations(jaxpr):
        if equation.primitive.name == "conv_general_dilated":
            numbers = equation.params["dimension_numbers"]
            out, kernel = equation.outvars[0].aval.shape, equation.invars[1].aval.shape
            taps = math.prod(kernel) // kernel[numbers.rhs_spec[0]]
            found.append(math.prod(out) * taps // math.prod(equation.params["lhs_dilation"]))
    return found


def train_step_jaxpr(vae, shape, batch_size):
    step = training.make_train_step(vae, optimizer=adam)
    state = jax.eval_shape(lambda key: training.init_state(vae, adam, key), jax.random.key(0))
    hyperparams = jax.tree.map(jnp.float32, Hyperparams())
    return jax.make_jaxpr(step)(state, jax.random.key(0), jnp.zeros((batch_size, *shape)), hyperparams).jaxpr


def border(network):
    """FLOPs of our own convolutions beyond the count: those that multiply first do so for one more row and column.

    The shapes say where: of 2 x 2 blocks, at least four times as many channels go in as come out. Transposed ones give one
    more row and column of blocks, which is cut off, whichever comes first.
    """
    height, width, channels = network.shape
    extra = 0
    for i, (features, size) in enumerate(zip(network.channels, network.kernels, strict=True)):
        height, width = height // 2, width // 2
        if size == 4 and 4 * channels >= 4 * features:
            more = (height + 1) * (width + 1) - height * width
            extra += 2 * (2 if i == 0 else 3) * more * size**2 * channels * features
        channels = features
    for features in (*network.channels[-2::-1], network.shape[2]) if network.channels else ():
        if channels < 4 * 4 * features:  # patches of the blocks that come out
            more = (height + 1) * (width + 1) - height * width
        else:
            more = (height + 2) * (width + 2) - height * width
        extra += 2 * 3 * more * 16 * channels * features
        height, width, channels = 2 * height, 2 * width, features
    return extra


@pytest.mark.parametrize("name", SHAPES)
def test_flops_are_those_of_the_train_step(benchmark, name):
    workload = benchmark("workload")
    network, batch_size = network_of(workload, name), 3
    done = products(train_step_jaxpr(workload.make_vae(network), network.shape, batch_size))
    assert done == batch_size * (workload.training_flops(network) + border(network))
    assert border(network) < 0.3 * workload.training_flops(network)


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "mlp"])
def test_convolutions_are_counted_as_flax_has_them(benchmark, name):
    workload, peers = benchmark("workload"), benchmark("peers_jax")
    network = network_of(workload, name)
    vae, own = peers.linen_vae(network), workload.make_vae(network)
    params = jax.eval_shape(vae.init, jax.random.key(0))
    x, z = jnp.zeros(network.shape), jnp.zeros(network.latent)
    counted = workload.multiplications(network)
    depth = len(network.channels)
    assert convolutions(jax.make_jaxpr(vae.encode)(params, x).jaxpr) == counted[:depth]
    assert convolutions(jax.make_jaxpr(vae.decode)(params, z).jaxpr) == counted[-depth:]
    sizes = [sorted(leaf.size for leaf in jax.tree.leaves(p)) for p in (params, jax.eval_shape(own.init, jax.random.key(0)))]
    assert sizes[0] == sizes[1]


def test_flops_of_the_mlp_by_hand(benchmark):
    workload = benchmark("workload")
    assert workload.training_flops(workload.mlp((28, 28, 1))) == 2 * (2 * 784 * 400 + 3 * (400 * 40 + 20 * 400 + 400 * 784))
    assert workload.mlp((28, 28, 1)).label == "784-400-20"
    assert workload.conv((64, 64, 1)).label == "conv 32-32-64-64-256-10"


@pytest.mark.parametrize("name", SHAPES)
def test_pytorch_has_the_same_parameters(benchmark, name):
    torch = pytest.importorskip("torch")
    workload, peers = benchmark("workload"), benchmark("peers")
    network = network_of(workload, name)
    encoder, decoder = peers.modules(network)
    ours = jax.eval_shape(workload.make_vae(network).init, jax.random.key(0))
    for module, params in ((encoder, ours["encoder"]), (decoder, ours["decoder"])):
        sizes = sorted(parameter.numel() for parameter in module.parameters())
        assert sizes == sorted(leaf.size for leaf in jax.tree.leaves(params))
    height, width, channels = network.shape
    x = torch.zeros(2, channels, height, width)
    heads = encoder(x if network.channels else x.flatten(1))
    assert heads.shape == (2, 2 * network.latent)
    assert decoder(heads[:, : network.latent]).reshape(x.shape).shape == x.shape


def test_slopes_and_lines(benchmark):
    scaling = benchmark("scaling")
    sizes = np.array([100, 200, 400, 800])
    power = scaling.fit_power(sizes, 3e-3 * sizes**0.7)
    assert power.slope == pytest.approx(0.7)
    assert power.standard_error < 1e-12
    noisy = 3e-3 * sizes**0.7 * np.array([1.1, 0.95, 0.9, 1.05])
    oracle = scipy.stats.linregress(np.log(sizes), np.log(noisy))
    assert scaling.fit_power(sizes, noisy) == pytest.approx((oracle.slope, oracle.stderr))
    exact = scaling.fit_line(sizes, 0.2 + 0.01 * sizes)
    assert exact[:2] == pytest.approx((0.2, 0.01))
    assert exact.worst < 1e-12
    line = scaling.fit_line(sizes, noisy)
    each, start = np.polyfit(sizes, noisy, 1, w=1 / noisy)
    assert line[:2] == pytest.approx((start, each))
    assert line.worst == pytest.approx(np.abs((start + each * sizes) / noisy - 1).max())


@pytest.mark.slow
@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_training_against_those_that_are_installed(network, tmp_path):
    out = tmp_path / "folder" / "results.json"
    flags = ("--dataset", "digits", "--network", network, "--batch-size", 32, "--epochs", 3, "--steps", 4, "--slow-steps", 2)
    done = run("benchmarks/training.py", *flags, "--out", out)
    (result,) = json.loads(out.read_text())["results"]
    assert result["setting"]["train_examples"] == 4 * 32
    rows = {row["name"]: row for row in result["rows"]}
    expected = {"vae_jax", *(("flax-conv",) if network == "conv" else ())}
    expected |= {"pytorch", "pytorch-loader"} if importlib.util.find_spec("torch") else set()
    expected |= {"numpyro"} if network == "mlp" and importlib.util.find_spec("numpyro") else set()
    assert expected <= set(rows)
    assert rows["vae_jax"]["ratio"] == 1
    for name, row in rows.items():
        low, high = row["ratio_range"]
        assert 0 < low <= row["ratio"] <= high
        assert row["share_of_roof"] > 0
        assert ("test_elbo" in row) == (name != "flax-conv")  # that has seen fewer images
        assert -60 < row.get("test_elbo", -40) < 0
        assert f"| {row['peer']} |" in done.stdout
    assert not result["targets"]  # those are of other images
    assert ("pythae is left out" in done.stderr) == (importlib.util.find_spec("pythae") is None)


@pytest.mark.slow
def test_scaling_in_a_tiny_form(tmp_path):
    out = tmp_path / "results.json"
    sizes = {"examples": (64, 128, 256), "batch-size": (16, 32, 64), "width": (8, 16, 32), "members": (1, 2, 4)}
    flags = [flag for name, values in sizes.items() for flag in (f"--{name}", *values)]
    done = run("benchmarks/scaling.py", *flags, "--rounds", 2, "--out", out)
    results = json.loads(out.read_text())
    assert len(set(results["compilations"].values())) == 1
    rows = {row["against"].replace("_", "-"): row for row in results["rows"]}
    assert {name: tuple(row["sizes"]) for name, row in rows.items()} == sizes
    assert all(seconds > 0 for row in rows.values() for seconds in row["seconds"])
    growing = {name: row["bytes"] for name, row in rows.items()}
    assert growing == {name: sorted(values) for name, values in growing.items()}
    # A stored image is 784 bytes; its place in the order and little else come on top.
    assert 784 <= rows["examples"]["memory_line"]["each"] < 900
    assert sum(line.startswith("| ") for line in done.stdout.splitlines()) == len(rows) + 2
