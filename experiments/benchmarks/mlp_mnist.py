"""Throughput and test ELBO of one MLP VAE on MNIST: vae_jax against a PyTorch loop and a NumPyro SVI epoch.

All train 784-400-20 (ReLU, Adam 1e-3, batch 128) on dynamically binarised MNIST held in memory, one after another inside each
epoch, so that a noisy machine is noisy for all; ratios of the median epoch times are what counts. Quality is the test ELBO on
one fixed binarised test set, with one draw of z.
"""

import dataclasses
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import parse, run_script
from peers import BATCH, HIDDEN, LATENT, RATE, PyTorch
from tables import check_counts, markdown, write_results


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Benchmark an MLP VAE on MNIST; prints a table and writes JSON.

    Example: python experiments/benchmarks/mlp_mnist.py --dataset mnist --data-dir ~/tensorflow_datasets --epochs 20
    """

    dataset: str = "mnist"
    """MNIST: a TFDS name, or a folder with its IDX files."""
    data_dir: str | None = None
    """Where TFDS finds prepared data."""
    epochs: int = 20
    """Epochs of each."""
    seed: int = 0
    """Seed of all of them."""
    peers: tuple[str, ...] = ("vae_jax", "pytorch", "numpyro")
    """Which to run."""
    out: Path | None = None
    """JSON file to write."""


class VaeJax:
    """vae_jax as `training.fit` runs it."""

    label = "vae_jax"

    def __init__(self, dataset: Any, test: np.ndarray, seed: int) -> None:
        import jax
        import jax.numpy as jnp
        import optax

        from vae_jax import data, evaluation, likelihoods, model, training
        from vae_jax.config import Hyperparams

        prepared = data.prepare(dataset, binarization="dynamic")
        vae = model.mlp_vae(dataset.data_shape, likelihoods.bernoulli(), latent_dim=LATENT, hidden=(HIDDEN,))
        self.keys = training.run_keys(seed)
        self.state = jax.jit(lambda key: training.init_state(vae, optax.adam, key))(self.keys.init)
        self.hyperparams = Hyperparams(jnp.float32(1.0), jnp.float32(RATE))
        self.train = prepared.train
        step = training.make_train_step(vae, train_input=prepared.train_input)
        epoch = jax.jit(training.make_epoch(step, BATCH), donate_argnums=0)
        self.run = epoch.lower(self.state, self.keys, jnp.int32(0), self.train, self.hyperparams).compile()
        self.evaluate = jax.jit(
            lambda params: evaluation.evaluate(
                training.evaluation_key(0), vae, params, jnp.asarray(test), to_input=lambda x: x.astype(jnp.float32)
            )
        )

    def epoch(self, number: int) -> int:
        """Trains one epoch; returns the examples used."""
        import jax

        self.state, metrics, _ = self.run(self.state, self.keys, np.int32(number), self.train, self.hyperparams)
        jax.block_until_ready(metrics)
        return len(self.train) // BATCH * BATCH

    def test_elbo(self) -> tuple[float, float]:
        """Test ELBO and its standard error."""
        from vae_jax.evaluation import means

        result = means(self.evaluate(self.state.params))
        return result.elbo, result.elbo_standard_error


class NumPyro:
    """The VAE example of NumPyro, an epoch as one compiled loop; with the analytic KL and logits, so that the work is equal."""

    label = "NumPyro SVI, scanned epoch"

    def __init__(self, dataset: Any, test: np.ndarray, seed: int) -> None:
        import jax
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist
        from jax.example_libraries import stax
        from numpyro.infer import SVI, TraceMeanField_ELBO

        self.test = jnp.asarray(test.reshape(len(test), -1), jnp.float32)
        train = jnp.asarray(dataset.train.reshape(len(dataset.train), -1).astype(np.float32) / 255)
        pixels = train.shape[1]
        encoder_net = stax.serial(
            stax.Dense(HIDDEN),
            stax.Relu,
            stax.FanOut(2),
            stax.parallel(stax.Dense(LATENT), stax.serial(stax.Dense(LATENT), stax.Exp)),
        )
        decoder_net = stax.serial(stax.Dense(HIDDEN), stax.Relu, stax.Dense(pixels))

        def model(batch: Any) -> None:
            decode = numpyro.module("decoder", decoder_net, (BATCH, LATENT))
            with numpyro.plate("batch", batch.shape[0]):
                z = numpyro.sample("z", dist.Normal(0, 1).expand([LATENT]).to_event(1))
                numpyro.sample("x", dist.Bernoulli(logits=decode(z)).to_event(1), obs=batch)

        def guide(batch: Any) -> None:
            encode = numpyro.module("encoder", encoder_net, (BATCH, pixels))
            mean, scale = encode(batch)
            with numpyro.plate("batch", batch.shape[0]):
                numpyro.sample("z", dist.Normal(mean, scale).to_event(1))

        self.svi = SVI(model, guide, numpyro.optim.Adam(RATE), TraceMeanField_ELBO())
        self.state = self.svi.init(jax.random.key(seed), train[:BATCH])
        self.key, self.count = jax.random.key(seed + 1), len(train) // BATCH * BATCH

        def run(state: Any, key: Any, train: Any) -> Any:
            key_order, key_pixels = jax.random.split(key)
            order = jax.random.permutation(key_order, len(train))[: self.count].reshape(-1, BATCH)

            def body(state: Any, step_and_index: Any) -> Any:
                step, index = step_and_index
                batch = jax.random.bernoulli(jax.random.fold_in(key_pixels, step), train[index]).astype(jnp.float32)
                return self.svi.update(state, batch)

            return jax.lax.scan(body, state, (jnp.arange(len(order)), order))

        self.train = train
        self.run = jax.jit(run, donate_argnums=0).lower(self.state, self.key, train).compile()

    def epoch(self, number: int) -> int:
        """Trains one epoch; returns the examples used."""
        import jax

        self.state, losses = self.run(self.state, jax.random.fold_in(self.key, number), self.train)
        jax.block_until_ready(losses)
        return self.count

    def test_elbo(self) -> tuple[float, float]:
        """Test ELBO and its standard error over batches of examples."""
        values = [-float(self.svi.evaluate(self.state, batch)) / len(batch) for batch in self.test.reshape(100, 100, -1)]
        return statistics.mean(values), statistics.stdev(values) / 10


PEERS = {"vae_jax": VaeJax, "pytorch": PyTorch, "numpyro": NumPyro}


def main() -> int:
    """Runs the peers in turn and prints the table."""
    arguments = parse(Arguments)
    from vae_jax import data
    from vae_jax.errors import unknown

    check_counts(epochs=arguments.epochs)
    for name in arguments.peers:
        if name not in PEERS:
            raise unknown("peer", name, PEERS)
    dataset = data.load(arguments.dataset, data_dir=arguments.data_dir)
    test = np.asarray(data.prepare(dataset, binarization="dynamic").test)
    print(f"compiling {', '.join(arguments.peers)} ...", flush=True)
    peers = {name: PEERS[name](dataset, test, arguments.seed) for name in arguments.peers}
    rates: dict[str, list[float]] = {name: [] for name in peers}
    for number in range(arguments.epochs):
        for name, peer in peers.items():
            began = time.perf_counter()
            examples = peer.epoch(number)
            rates[name].append(examples / (time.perf_counter() - began))
        last = "  ".join(f"{name} {values[-1]:8,.0f}/s" for name, values in rates.items())
        print(f"epoch {number + 1}/{arguments.epochs}  {last}", flush=True)
    rows = []
    for name, peer in peers.items():
        elbo, error = peer.test_elbo()
        rows.append(
            {
                "peer": peer.label,
                "examples_per_second": statistics.median(rates[name]),
                # epoch by epoch, so that a slow minute of the machine counts for both
                "ratio": statistics.median(a / b for a, b in zip(rates[arguments.peers[0]], rates[name], strict=True)),
                "test_elbo": elbo,
                "test_elbo_standard_error": error,
            }
        )
    cells = [
        (
            row["peer"],
            f"{row['examples_per_second']:,.0f}",
            f"{row['ratio']:.2f}",
            f"{row['test_elbo']:.2f} ± {row['test_elbo_standard_error']:.2f}",
        )
        for row in rows
    ]
    header = ("", "examples/s", f"{rows[0]['peer']} is faster by", f"test ELBO after {arguments.epochs} epochs")
    print(f"\n{markdown(header, cells)}")
    if arguments.out is not None:
        settings = {"epochs": arguments.epochs, "batch_size": BATCH, "network": f"784-{HIDDEN}-{LATENT}", "learning_rate": RATE}
        write_results(arguments.out, {"rows": rows, "settings": settings}, ("jax", "flax", "optax", "torch", "numpyro"))
    return 0


if __name__ == "__main__":
    run_script(main)
