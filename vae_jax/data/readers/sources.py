"""The embedded digits, and the reader for a path: by its ending, or by the files of a folder."""

import importlib.util
import os
from collections import Counter
from pathlib import Path

import numpy as np

from vae_jax.data.readers import idx
from vae_jax.data.readers import images as pictures
from vae_jax.data.readers import numpy_files as archives
from vae_jax.data.readers.listing import joined, list_files, other_files
from vae_jax.data.split import Split
from vae_jax.errors import UserError

_SAVE_IT = "Save them as one array in an .npy file, or leave out --stream."


def digits() -> Split:
    """Returns the 1,797 handwritten digits of scikit-learn, 8x8, levels 0 to 16 (UCI, Alpaydin & Kaynak 1998)."""
    package = importlib.util.find_spec("sklearn")
    file = Path(package.origin).parent / "datasets/data/digits.csv.gz" if package and package.origin else None
    if file and file.is_file():  # what load_digits reads: to import scikit-learn takes a second, a fifth of a run's start
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)
        pixels, labels = table[:, :-1], table[:, -1]
    else:
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
    images = np.asarray(pixels).reshape(-1, 8, 8).astype(np.uint8)
    return Split(images, np.asarray(labels), max_level=16, channels_last=True)


def from_path(path: Path, stream: bool = False) -> Split:
    """Reads an .npy or .npz file, or a folder of IDX files or of images; with `stream` the training images stay on disk."""
    path = Path(os.path.expanduser(path))  # which, unlike Path.expanduser, leaves an unknown ~user as it is
    try:
        if not path.exists():
            start = "" if path.is_absolute() else f" The path starts at the working folder, {Path.cwd()}."
            raise UserError(f"{path}: no such file or folder.{start}")
    except OSError as error:  # such as a name that is too long
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from None
    if path.is_dir():
        return _from_folder(path, stream)
    if not path.is_file():  # a pipe or a device, which may never end
        raise UserError(f"{path}: expected a file or a folder, got something else.")
    ending = path.suffix.lower()
    if ending == ".npy":
        return archives.read_npy(path, stream)
    if ending == ".npz":
        if stream:
            raise UserError(f"--stream: {path}: an archive cannot be read row by row. {_SAVE_IT}")
        return archives.read_npz(path)
    fix = "Read it in Python and save its images as one array: np.save('images.npy', images)."
    if ending in pictures.ENDINGS or idx.is_idx(path):
        fix = f"Pass the folder that it is in: {path.parent}."
    raise UserError(f"{path}: expected an .npy or .npz file or a folder, got a file ending in {path.suffix!r}. {fix}")


def _from_folder(folder: Path, stream: bool) -> Split:
    files = list_files(folder)
    shown = [file for file in files if file.suffix.lower() in pictures.ENDINGS]
    # Programs keep copies of pictures in folders such as .thumbnails and .ipynb_checkpoints.
    visible = [file for file in shown if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
    if visible := visible or shown:
        if stream:
            raise UserError(f"--stream: {folder}: images are not read from their files while training. {_SAVE_IT}")
        found, kind = pictures.read_folder(folder, visible), "PNG and JPEG files outside of hidden folders"
        used = set(visible)
    elif named := [file for file in files if idx.is_idx(file)]:
        found, kind = idx.read_folder(folder, named, stream), "IDX files"
        used = set(named)
    else:
        raise UserError(_nothing_in(folder, files))
    others = other_files(folder, [file for file in files if file not in used], kind)
    return found._replace(notes=(*found.notes, *others))


def _nothing_in(folder: Path, files: list[Path]) -> str:
    endings = Counter(file.suffix.lower() for file in files)
    fix = ""
    if arrays := [file for file in files if file.suffix.lower() in (".npy", ".npz")]:
        fix = f" Pass the array file itself: {arrays[0]}."
    elif endings:
        fix = " Convert the images to PNG."
    kinds = f" ({joined(ending or 'no ending' for ending, _ in endings.most_common())})" if endings else ""
    return f"{folder}: expected a folder with IDX files or PNG/JPEG images, found none among {len(files)} files{kinds}.{fix}"
