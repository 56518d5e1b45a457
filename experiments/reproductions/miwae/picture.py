"""Draws digits with half of their pixels missing, and their imputations by a VAE that was trained on such digits."""

if __name__ == "__main__":
    import environment

    environment.expect_packages()

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vae_jax import data
from vae_jax._numerics.keys import Stream, stream
from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.script import run_script
from vae_jax.config import Config
from vae_jax.evaluation import ImputationSettings, impute_dataset
from vae_jax.evaluation.hidden_entries import hide
from vae_jax.sweep import sweep

FOLDER = Path(__file__).parent
SHARE, NUM_SHOWN, NUM_IMPUTATIONS = 0.5, 8, 3


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train on binary images with half of the pixels missing, and draw test images, their observed pixels, their imputed means
    and three random imputations.

    Example: python experiments/reproductions/miwae/picture.py --dataset mnist --data-dir ~/tensorflow_datasets
    """

    dataset: str = "mnist"
    """Data set of images: a TFDS name, digits, or a path."""
    data_dir: str | None = None
    """Folder with prepared TFDS data."""
    num_train: int = 10_000
    """Training images, the first ones."""
    epochs: int = 20
    """Passes over the training images."""
    num_samples: int = 5
    """Importance samples K in training."""
    out: Path = FOLDER / "picture.png"
    """Picture to write."""


def incomplete(images: np.ndarray, max_level: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns images that are binarized once, 0 at missing pixels, and the masks of the observed pixels."""
    binary = (np.random.default_rng(seed).random(images.shape) < images / max_level).astype(np.uint8)
    return binary, ~hide(seed + 1, np.ones(images.shape, bool), SHARE)


def main() -> int:
    """Trains and draws."""
    arguments = parse(Arguments)
    expect_counts(1, **{name: getattr(arguments, name) for name in ("num_train", "epochs", "num_samples")})
    source = data.load(arguments.dataset, data_dir=arguments.data_dir)
    top = source.max_level or 1
    train, mask = incomplete(np.asarray(source.train[: arguments.num_train]), top, 0)
    test, test_mask = incomplete(np.asarray(source.test[:NUM_SHOWN]), top, 2)
    dataset = data.from_arrays(train, test, mask=mask, test_mask=test_mask, name=f"{arguments.dataset}, half of it")
    objective: dict[str, Any] = {"objective": "iwae", "num_samples": arguments.num_samples}
    config = Config(hidden=(200, 200), latent_dim=20, epochs=arguments.epochs, output_bias="train_mean", **objective)
    [(_, built, fit)] = sweep([config], dataset=dataset).fits
    params = jax.tree.map(lambda leaf: leaf[0], fit.params)
    settings = ImputationSettings(2000, NUM_IMPUTATIONS)
    imputed = jax.jit(
        lambda params: impute_dataset(
            stream(0, Stream.REPRODUCTION), built.vae, params, built.data.test, settings, to_input=built.data.eval_input
        )
    )(params)
    observed = np.where(test_mask, test, 0.5)
    rows = [test, observed, np.asarray(imputed.mean), *np.moveaxis(np.asarray(imputed.imputations), 1, 0)]
    names = ["original", "observed", "mean", *(f"imputation {i + 1}" for i in range(NUM_IMPUTATIONS))]
    draw(rows, names, arguments.out)
    print(f"written: {arguments.out}")
    return 0


def draw(rows: list[np.ndarray], names: list[str], out: Path) -> None:
    """Writes the picture: a row of images for each kind."""
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(NUM_SHOWN + 1.2, len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), NUM_SHOWN, squeeze=False)
    for line, images, name in zip(axes, rows, names, strict=True):
        for axis, image in zip(line, images, strict=True):
            axis.imshow(image[..., 0], cmap="gray_r", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.savefig(out, dpi=80, format="png")
    with Image.open(out) as picture:
        gray = picture.convert("L")  # a fraction of the bytes
    gray.save(out, format="png", optimize=True)


if __name__ == "__main__":
    run_script(main)
