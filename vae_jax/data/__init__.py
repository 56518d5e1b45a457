"""Data behind one `load(name)`, and its preparation for a likelihood: binarisation, scaling, dequantisation."""

from vae_jax.data.dataset import Dataset as Dataset
from vae_jax.data.dataset import load as load
from vae_jax.data.expect import check_given as check_given
from vae_jax.data.moments import Moments as Moments
from vae_jax.data.moments import is_image as is_image
from vae_jax.data.moments import train_moments as train_moments
from vae_jax.data.on_disk import Rows as Rows
from vae_jax.data.preprocessing import Prepared as Prepared
from vae_jax.data.preprocessing import binarize as binarize
from vae_jax.data.preprocessing import prepare as prepare
from vae_jax.data.values import check_support as check_support
from vae_jax.data.values import values as values
