"""Training in JAX: vae_jax as its scripts run it, Flax's convolutions, and NumPyro's SVI."""

from typing import Any

import numpy as np
from peers import Problem
from workload import RATE, Network, make_vae


class VaeJax:
    """Training by the program of `training.fit`, with an epoch as one program whose state is donated."""

    label = "vae_jax"

    def __init__(self, problem: Problem, seed: int, vae: Any = None) -> None:
        import jax
        import jax.numpy as jnp
        from optax import adam

        from vae_jax import data, evaluation, training
        from vae_jax.config import Hyperparams

        dataset, top = problem.dataset, problem.dataset.max_level or 1
        prepared = data.prepare(dataset, binarization="dynamic")
        vae = make_vae(problem.network) if vae is None else vae
        self.keys, self.batch_size = training.run_keys(seed), problem.batch_size
        self.state = jax.jit(lambda key: training.init_state(vae, adam, key))(self.keys.init)
        self.hyperparams = Hyperparams(jnp.float32(1.0), jnp.float32(RATE))
        self.train = prepared.train
        draw = prepared.train_input if problem.binarize else lambda key, batch: batch.astype(jnp.float32) / top
        step = training.make_train_step(vae, optimizer=adam, train_input=draw)
        epoch = jax.jit(training.make_epoch(step, problem.batch_size), donate_argnums=0)
        self.run = epoch.lower(self.state, self.keys, jnp.int32(0), self.train, self.hyperparams).compile()
        self.evaluate = jax.jit(
            lambda params: evaluation.evaluate(
                training.evaluation_key(0), vae, params, jnp.asarray(problem.test), to_input=lambda x: x.astype(jnp.float32)
            )
        )

    def epoch(self, number: int) -> int:
        """Trains one epoch and returns the number of examples used."""
        import jax

        self.state, metrics, _ = self.run(self.state, self.keys, np.int32(number), self.train, self.hyperparams)
        jax.block_until_ready(metrics)
        return len(self.train) // self.batch_size * self.batch_size

    def test_elbo(self) -> tuple[float, float]:
        """Returns the test ELBO and its standard error, in nats."""
        from vae_jax.evaluation import means

        result = means(self.evaluate(self.state.params))
        return result.elbo, result.elbo_standard_error


def linen_vae(network: Network) -> Any:
    """Returns a VAE of the same sizes with Flax's `nn.Conv` and `nn.ConvTranspose`."""
    import jax.numpy as jnp
    from flax import linen

    from vae_jax import likelihoods, model, networks

    class Encoder(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            for features, size in zip(network.channels, network.kernels, strict=True):
                x = linen.relu(linen.Conv(features, (size, size), strides=(2, 2))(x))
            x = x.reshape(-1)
            for units in network.dense:
                x = linen.relu(linen.Dense(units)(x))
            return tuple(jnp.split(linen.Dense(2 * network.latent)(x), 2))

    class Decoder(linen.Module):
        @linen.compact
        def __call__(self, z: Any) -> Any:
            for units in reversed(network.dense):
                z = linen.relu(linen.Dense(units)(z))
            z = linen.Dense(int(np.prod(network.smallest)))(z).reshape(network.smallest)
            for features in (*network.channels[-2::-1], network.shape[2]):
                z = linen.ConvTranspose(features, (4, 4), strides=(2, 2))(linen.relu(z))
            return z

    encoder = networks.from_linen(Encoder(), network.shape)
    decoder = networks.from_linen(Decoder(), (network.latent,))
    return model.make_vae(encoder, decoder, likelihoods.bernoulli(), network.shape)


class FlaxConv(VaeJax):
    """Training with Flax's convolutions in the same scanned epoch."""

    label = "Flax nn.Conv, scanned epoch"

    def __init__(self, problem: Problem, seed: int) -> None:
        super().__init__(problem, seed, linen_vae(problem.network))


class NumPyro:
    """VAE example of NumPyro with an epoch as one compiled loop, and with analytic KL and logits so that the work is equal."""

    label = "NumPyro SVI, scanned epoch"

    def __init__(self, problem: Problem, seed: int) -> None:
        import jax
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist
        from jax.example_libraries import stax
        from numpyro.infer import SVI, TraceMeanField_ELBO

        network, dataset, test, batch_size, binarize = problem
        self.test = jnp.asarray(test.reshape(len(test), -1), jnp.float32)
        train = jnp.asarray(dataset.train.reshape(len(dataset.train), -1).astype(np.float32) / (dataset.max_level or 1))
        (hidden,), latent, pixels = network.dense, network.latent, train.shape[1]
        encoder_net = stax.serial(
            stax.Dense(hidden),
            stax.Relu,
            stax.FanOut(2),
            stax.parallel(stax.Dense(latent), stax.serial(stax.Dense(latent), stax.Exp)),
        )
        decoder_net = stax.serial(stax.Dense(hidden), stax.Relu, stax.Dense(pixels))

        def model(batch: Any) -> None:
            decode = numpyro.module("decoder", decoder_net, (batch_size, latent))
            with numpyro.plate("batch", batch.shape[0]):
                z = numpyro.sample("z", dist.Normal(0, 1).expand([latent]).to_event(1))
                numpyro.sample("x", dist.Bernoulli(logits=decode(z)).to_event(1), obs=batch)

        def guide(batch: Any) -> None:
            encode = numpyro.module("encoder", encoder_net, (batch_size, pixels))
            mean, scale = encode(batch)
            with numpyro.plate("batch", batch.shape[0]):
                numpyro.sample("z", dist.Normal(mean, scale).to_event(1))

        self.svi = SVI(model, guide, numpyro.optim.Adam(RATE), TraceMeanField_ELBO())
        self.state = self.svi.init(jax.random.key(seed), train[:batch_size])
        self.key, self.count = jax.random.key(seed + 1), len(train) // batch_size * batch_size

        def run(state: Any, key: Any, train: Any) -> Any:
            key_order, key_pixels = jax.random.split(key)
            order = jax.random.permutation(key_order, len(train))[: self.count].reshape(-1, batch_size)

            def body(state: Any, step_and_index: Any) -> Any:
                step, index = step_and_index
                batch = train[index]
                if binarize:
                    batch = jax.random.bernoulli(jax.random.fold_in(key_pixels, step), batch).astype(jnp.float32)
                return self.svi.update(state, batch)

            return jax.lax.scan(body, state, (jnp.arange(len(order)), order))

        def elbo(params: Any, key: Any, x: Any) -> Any:
            mean, scale = encoder_net[1](params["encoder$params"], x)
            z = mean + scale * jax.random.normal(key, mean.shape)
            logits = decoder_net[1](params["decoder$params"], z)
            kl = 0.5 * (mean**2 + scale**2 - 1 - 2 * jnp.log(scale))
            return jnp.sum(x * logits - jax.nn.softplus(logits), axis=1) - jnp.sum(kl, axis=1)

        self.train, self.elbo = train, jax.jit(elbo)
        self.run = jax.jit(run, donate_argnums=0).lower(self.state, self.key, train).compile()

    def epoch(self, number: int) -> int:
        """Trains one epoch and returns the number of examples used."""
        import jax

        self.state, losses = self.run(self.state, jax.random.fold_in(self.key, number), self.train)
        jax.block_until_ready(losses)
        return self.count

    def test_elbo(self) -> tuple[float, float]:
        """Returns the test ELBO and its standard error, in nats."""
        import jax

        values = np.asarray(self.elbo(self.svi.get_params(self.state), jax.random.key(0), self.test), np.float64)
        return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)
