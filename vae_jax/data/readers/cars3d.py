"""Reader of Cars3D (Reed et al. 2015): a folder of MATLAB files, each with the pictures of one car from 96 directions."""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vae_jax.data.readers.array_cache import cached_file, computed_once
from vae_jax.data.readers.factors import grid_factors, varying_factors
from vae_jax.data.readers.listing import check_fits_in_memory, joined, silence
from vae_jax.data.readers.registry import Reader, Request, register
from vae_jax.data.split import Split
from vae_jax.errors import UserError

_DIRECTIONS = (24, 4)  # azimuths and elevations: the last two axes of `im`
_FACTORS = ("elevation", "azimuth", "object")  # in the order of disentanglement_lib
_SIZE = (64, 64)  # of images in the literature
_MANY = 20  # cars from which on the resized images are cached, as it takes seconds


def is_mesh(shape: Sequence[int]) -> bool:
    """Returns whether an array has the shape (height, width, 3, azimuths, elevations)."""
    return len(shape) == 5 and shape[2] == 3 and tuple(shape[3:]) == _DIRECTIONS


def cars_images(
    path: Path,
    files: Sequence[Path],
    read: Callable[[Path], np.ndarray],
    size: tuple[int, int] | None = None,
    stream: bool = False,
) -> Split:
    """Reads the pictures of cars, and resizes them as the literature does.

    Args:
      path: the data set, for messages.
      files: a file for each car.
      read: reads the array `im` of a file, uint8, (height, width, 3, 24 azimuths, 4 elevations).
      size: height and width to which images are resized by Pillow's Lanczos filter; None: 64 x 64.
      stream: leave the images in the cache folder, as `Rows`.

    Returns:
      Images in the order of the files; for each, the azimuths in order, and for each of these the elevations.
    """
    height, width = size or _SIZE

    def images_of(file: Path) -> np.ndarray:
        stored = read(file)
        if stored.dtype != np.uint8 or not is_mesh(stored.shape):
            raise UserError(
                f"{file}: expected an array im of bytes with shape (height, width, 3, 24, 4), got {stored.dtype} "
                f"{stored.shape}. Leave it out of the folder."
            )
        pictures = np.ascontiguousarray(stored.transpose(3, 4, 0, 1, 2)).reshape(-1, *stored.shape[:3])
        return _resized(pictures, height, width)

    count = math.prod(_DIRECTIONS)
    check_fits_in_memory(path, len(files) * count * height * width * 3)

    def all_images() -> np.ndarray:
        from concurrent.futures import ThreadPoolExecutor

        images = np.empty((len(files) * count, height, width, 3), np.uint8)
        with ThreadPoolExecutor(min(len(files), os.cpu_count() or 1)) as pool:
            for index, pictures in enumerate(pool.map(images_of, files)):
                images[index * count : (index + 1) * count] = pictures
        return images

    if stream or len(files) > _MANY:
        cached = cached_file("cars3d", files, height, width)
        images = computed_once(cached, all_images, f"{path}: resizing the pictures of {len(files)} cars", stream)
    else:
        images = all_images()
    directions = grid_factors(_DIRECTIONS)[:, ::-1]
    objects = np.repeat(np.arange(len(files)), count)
    factors = varying_factors(str(path), _FACTORS, np.column_stack([np.tile(directions, (len(files), 1)), objects]))
    conversion = f"resized to {height} x {width} by Pillow's Lanczos filter"
    return Split(
        images,
        train_factors=factors.train,
        factor_names=factors.names,
        channels_last=True,
        conversion=conversion,
        notes=factors.notes,
    )


def _resized(pictures: np.ndarray, height: int, width: int) -> np.ndarray:
    from PIL import Image

    if pictures.shape[1:3] == (height, width):
        return pictures
    return np.stack([np.asarray(Image.fromarray(one).resize((width, height), Image.Resampling.LANCZOS)) for one in pictures])


def _is_car(file: Path) -> bool:
    """Returns whether a file is a MATLAB file with the pictures of a car, or with that ending and damaged."""
    if file.suffix.lower() != ".mat":
        return False
    try:
        with file.open("rb") as opened:
            start = opened.read(16)
    except OSError:
        return False
    if not start.startswith(b"MATLAB 5.0"):
        return False
    from scipy.io import whosmat

    try:
        with silence():
            return any(name == "im" and is_mesh(shape) for name, shape, _ in whosmat(str(file), appendmat=False))
    except Exception:  # the reader says what is wrong with it, and no car is left out without a word
        return True


def _read_folder(request: Request) -> Split:
    from vae_jax.data.readers.matlab import list_variables, read_variable

    def read(file: Path) -> np.ndarray:
        variables = list_variables(file)
        if "im" not in variables:
            raise UserError(f"{file}: expected an array im, got {joined(variables) or 'none'}. Leave it out of the folder.")
        return read_variable(file, "im", variables["im"])

    return cars_images(request.path, request.files, read, request.options.resize, request.stream)


register(
    Reader(
        "cars3d",
        "Cars3D's MATLAB files",
        "a folder of the MATLAB files of Cars3D, resized to 64 x 64, with their factors",
        _read_folder,
        recognizes=_is_car,
        can_stream=True,
        uses=("resize",),
        published=("Cars3D",),
    )
)
