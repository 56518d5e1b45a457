"""Readers of data files, one module for each family of formats, and the registry that lists them.

A new format is one module that calls `register`, and its import below. Where two readers take the same files, the later
import wins: a folder with both IDX files and pictures is read as pictures.

A folder may hold files for each part: train, val (valid, validation, dev, eval) or test in their names, or in those of
their folders, tells the part. Several files of a part are joined in natural order. Labels (y_train.npy) belong to theirs.

An .npz file may hold x_train, x_validation and x_test (also X_train, train_images, val, valid ...), labels of each,
`factors` of the training images, `validation_factors` and `test_factors`, integers (examples, factors), and their
`factor_names`. A mask of the observed entries is `mask`, `train_mask`, `x_test_mask` ...: True or 1 where an entry is
observed, False or 0 where it is missing, in the shape of the examples as they are stored. For images with channels it may be
(examples, height, width), unless it stays on disk. The same names hold in HDF5 and MATLAB files, and for .npy files of a
folder (train.npy, train_mask.npy).

Folders in a folder of images that are named train, val (valid, validation, dev) and test are the splits. Without test/ the
test set is split off train/. Files are in the order of their names, with numbers in names compared by value. Images are
turned as their EXIF orientation says, transparent pixels are composited on black (level 0, as the background of digits and
sprites), and gray images among color images get three equal channels.

Class folders of images are labels: the first folder below train, val and test, or below the folder itself where those are
missing, if every image is in one and there are at least two. They are numbered in sorted order, as torchvision's
`ImageFolder` does. Folders that number the images through, as FFHQ's 00000 and 01000 do, are not classes. CelebA's
list_eval_partition and list_attr_celeba (.txt, or Kaggle's .csv) in the folder or beside it are the split and the factors.

Images of a folder are decoded in parallel. Where they are resized, cut, streamed, more than 2,000 or more than 64 MiB, they
are written to the cache folder, and read from there until a file of the folder changes.
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
