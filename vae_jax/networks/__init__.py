"""Encoders and decoders as pairs of pure functions: the only place that imports flax."""

from vae_jax.networks.adapters import Network as Network
from vae_jax.networks.adapters import from_linen as from_linen
from vae_jax.networks.adapters import from_nnx as from_nnx
from vae_jax.networks.mlp import ACTIVATIONS as ACTIVATIONS
from vae_jax.networks.mlp import mlp_decoder as mlp_decoder
from vae_jax.networks.mlp import mlp_discriminator as mlp_discriminator
from vae_jax.networks.mlp import mlp_encoder as mlp_encoder
