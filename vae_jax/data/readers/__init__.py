"""Readers of data files, one module for each family of formats, and the registry that lists them.

A new format is one module that calls `register`, and its import below. Where two readers take the same files, the later
import wins: a folder with both IDX files and pictures is read as pictures.
"""

from vae_jax.data.readers import amat as amat
from vae_jax.data.readers import bundled as bundled
from vae_jax.data.readers import cars3d as cars3d
from vae_jax.data.readers import cifar as cifar
from vae_jax.data.readers import hdf5_files as hdf5_files
from vae_jax.data.readers import idx as idx
from vae_jax.data.readers import images as images
from vae_jax.data.readers import matlab as matlab
from vae_jax.data.readers import npz_files as npz_files
from vae_jax.data.readers import numpy_files as numpy_files
from vae_jax.data.readers import ratings as ratings
from vae_jax.data.readers import small_norb as small_norb
from vae_jax.data.readers import sparse_files as sparse_files
from vae_jax.data.readers import tables as tables
from vae_jax.data.readers.registry import Bundled as Bundled
from vae_jax.data.readers.registry import Reader as Reader
from vae_jax.data.readers.registry import Request as Request
from vae_jax.data.readers.registry import help_lines as help_lines
from vae_jax.data.readers.registry import register as register
from vae_jax.data.readers.registry import register_bundled as register_bundled
