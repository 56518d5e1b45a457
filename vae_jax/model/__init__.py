"""`VAE`: a bundle of pure functions (init, encode, decode) of one example, with its likelihood and its prior."""

from vae_jax._numerics.arrays import Params as Params
from vae_jax.model.architectures import assemble_vae as assemble_vae
from vae_jax.model.architectures import conv_vae as conv_vae
from vae_jax.model.architectures import decoder_shape as decoder_shape
from vae_jax.model.architectures import ladder_vae as ladder_vae
from vae_jax.model.architectures import mlp_vae as mlp_vae
from vae_jax.model.architectures import split_layers as split_layers
from vae_jax.model.scaling import FROM_DATA as FROM_DATA
from vae_jax.model.scaling import SCALING as SCALING
from vae_jax.model.scaling import Standardize as Standardize
from vae_jax.model.scaling import keep_scaling as keep_scaling
from vae_jax.model.scaling import with_moments as with_moments
from vae_jax.model.vae import VAE as VAE
from vae_jax.model.vae import BoundModel as BoundModel
from vae_jax.model.vae import bind as bind
from vae_jax.model.vae import decode_given as decode_given
from vae_jax.model.vae import encoder_shape as encoder_shape
from vae_jax.model.vae import example_shapes as example_shapes
from vae_jax.model.vae import make_vae as make_vae
from vae_jax.model.vae import num_parameters as num_parameters
from vae_jax.model.vae import posterior_moments as posterior_moments
from vae_jax.model.vae import posterior_params as posterior_params
from vae_jax.model.vae import prior_log_prob as prior_log_prob
from vae_jax.model.vae import sample_prior as sample_prior
from vae_jax.model.vae import with_weights as with_weights
