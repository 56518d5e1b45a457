"""Encoders and decoders as pairs of pure functions. This is the only part of the package that imports flax."""

from vae_jax.networks.base import Network as Network
from vae_jax.networks.base import check_network as check_network
from vae_jax.networks.base import from_linen as from_linen
from vae_jax.networks.base import from_nnx as from_nnx
from vae_jax.networks.conv import Norm as Norm
from vae_jax.networks.conv import check_image as check_image
from vae_jax.networks.conv import conv_decoder as conv_decoder
from vae_jax.networks.conv import conv_encoder as conv_encoder
from vae_jax.networks.conv import default_channels as default_channels
from vae_jax.networks.conv_ops import conv as conv
from vae_jax.networks.conv_ops import conv_transpose as conv_transpose
from vae_jax.networks.mlp import ACTIVATIONS as ACTIVATIONS
from vae_jax.networks.mlp import mlp_decoder as mlp_decoder
from vae_jax.networks.mlp import mlp_discriminator as mlp_discriminator
from vae_jax.networks.mlp import mlp_encoder as mlp_encoder
