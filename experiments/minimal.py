"""The file to copy: a variational autoencoder with your own Flax networks. Networks and likelihoods take one example."""

import math
from pathlib import Path

import flax.linen as nn
import flax.serialization
import jax
import matplotlib.pyplot as plt
import numpy as np

from vae_jax import data, evaluation, likelihoods, model, networks, training

LATENT_DIM, EPOCHS, NUM_SAMPLES, OUT = 8, 50, 500, Path("runs/minimal")

# Data: gray images of 8 x 8 pixels, each pixel drawn as 0 or 1 anew at every training step.
digits = data.load("digits")
prepared = data.prepare(digits, binarization="dynamic")
shape = digits.data_shape


class Encoder(nn.Module):
    """Maps an image to the mean and the log standard deviation of q(z|x)."""

    @nn.compact
    def __call__(self, x):
        hidden = nn.relu(nn.Dense(256)(x.ravel()))
        return nn.Dense(LATENT_DIM)(hidden), nn.Dense(LATENT_DIM)(hidden)


class Decoder(nn.Module):
    """Maps z to the logits of the pixels."""

    @nn.compact
    def __call__(self, z):
        hidden = nn.relu(nn.Dense(256)(z))
        return nn.Dense(math.prod(shape))(hidden).reshape(shape)


# Training. The test ELBO is in nats per example.
encoder, decoder = networks.from_linen(Encoder(), shape), networks.from_linen(Decoder(), (LATENT_DIM,))
vae = model.make_vae(encoder, decoder, likelihoods.bernoulli(), shape)
result = training.fit(vae, prepared, epochs=EPOCHS, batch_size=128, seed=0)
print(f"test ELBO {result.test.elbo:.2f} = log-likelihood {result.test.log_likelihood:.2f} - KL {result.test.kl:.2f}")

# Evaluation: log p(x) of every test image, by importance sampling.
estimate = jax.jit(evaluation.importance_log_px, static_argnames=("vae", "num_samples", "to_input"))
options = {"num_samples": NUM_SAMPLES, "to_input": prepared.eval_input}
log_px = np.asarray(estimate(jax.random.key(1), vae, result.params, prepared.test, **options).log_px)
print(f"log p(x) {log_px.mean():.2f} +- {log_px.std(ddof=1) / len(log_px) ** 0.5:.2f}")

# Saving the parameters, and reading them again.
OUT.mkdir(parents=True, exist_ok=True)
(OUT / "params.msgpack").write_bytes(flax.serialization.to_bytes(result.params))
params = flax.serialization.from_bytes(result.params, (OUT / "params.msgpack").read_bytes())

# Plot: test images, their reconstructions, and samples from the prior.
images = prepared.eval_input(prepared.test[:10])
codes, _ = jax.vmap(lambda x: vae.encode(params, x))(images)
decode = jax.vmap(lambda z: vae.likelihood.mean(vae.decode(params, z)))
figure, axes = plt.subplots(3, 1, figsize=(8, 3), layout="constrained")
for axis, row in zip(axes, (images, decode(codes), decode(jax.random.normal(jax.random.key(2), codes.shape))), strict=True):
    axis.imshow(np.hstack([np.squeeze(image) for image in row]), cmap="gray")
    axis.axis("off")
figure.savefig(OUT / "images.png", dpi=150)
