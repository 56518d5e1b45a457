"""Data sets that need no file of the user's: scikit-learn's digits, and the sprites that are computed."""

import importlib.util
from pathlib import Path

import numpy as np

from vae_jax.data.readers.registry import Bundled, register_bundled
from vae_jax.data.split import Split


def digits() -> Split:
    """Reads the 1,797 handwritten digits of scikit-learn, 8x8, levels 0 to 16 (UCI, Alpaydin & Kaynak 1998)."""
    package = importlib.util.find_spec("sklearn")
    file = Path(package.origin).parent / "datasets/data/digits.csv.gz" if package and package.origin else None
    # This is the file that load_digits reads. Importing scikit-learn takes a second, a fifth of the start of a run.
    if file and file.is_file():
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)
        pixels, labels = table[:, :-1], table[:, -1]
    else:
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
    images = np.asarray(pixels).reshape(-1, 8, 8).astype(np.uint8)
    return Split(images, np.asarray(labels), max_level=16, channels_last=True)


def _sprites() -> Split:
    from vae_jax.data import sprites  # imports JAX

    return sprites.sprites()


def _sprites_grid() -> Split:
    from vae_jax.data import sprites  # imports JAX

    return sprites.sprites_grid()


register_bundled(Bundled("digits", "scikit-learn's 1,797 handwritten digits of 8 x 8 pixels (part of its package)", digits))
register_bundled(Bundled("sprites", "images like those of dSprites, drawn anew in every epoch (computed)", _sprites))
register_bundled(
    Bundled("sprites_grid", "the 737,280 images of the grid that sprites are drawn from (computed)", _sprites_grid)
)
