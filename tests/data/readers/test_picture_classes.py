"""Class folders of pictures as labels, with and without folders of parts."""

import numpy as np
import pytest
from sources import write_pictures

from vae_jax import data
from vae_jax.errors import DataWarning


def levels_by_label(images, labels, names):
    """The sorted levels of the images of each class."""
    assert len(images) == len(labels)
    levels = {name: [] for name in names}
    for image, label in zip(images, labels, strict=True):
        levels[names[label]].append(int(image[0, 0, 0]))
    return {name: sorted(group) for name, group in levels.items()}


@pytest.mark.parametrize("validation", ["val", "valid"])
def test_class_folders_of_three_parts_are_labels_numbered_by_all_parts(tmp_path, validation):
    pictures = {"train/dog/a.png": 50, "train/cat/b.png": 60, "train/cat/more/c.png": 70, "train/Emu/z.png": 80}
    pictures |= {f"{validation}/dog/a.png": 90, "test/ant/a.png": 100, "test/dog/b.png": 110}
    got = data.load(write_pictures(tmp_path, pictures))
    assert got.label_names == ("Emu", "ant", "cat", "dog")  # as sorted() has them, as in torchvision's ImageFolder
    assert "labels from 4 class folders" in got.split
    assert got.train[:, 0, 0, 0].tolist() == [80, 60, 70, 50]
    assert got.train_labels.tolist() == [0, 2, 2, 3]
    assert got.validation_labels.tolist() == [3]
    assert (got.test[:, 0, 0, 0].tolist(), got.test_labels.tolist()) == ([100, 110], [1, 3])
    assert got.train_labels.dtype.kind == "i"


@pytest.mark.parametrize("stream", [False, True])
def test_class_folders_without_parts_keep_their_labels_when_the_set_is_divided(tmp_path, monkeypatch, stream):
    monkeypatch.setenv("VAE_JAX_CACHE", str(tmp_path / "cache"))
    pictures = {f"cat/{i}.png": 50 + i for i in range(6)} | {f"dog/{i}.png": 80 + i for i in range(6)}
    got = data.load(write_pictures(tmp_path / "a", pictures), validation_fraction=0.25, stream=stream)
    assert got.label_names == ("cat", "dog")
    assert "labels from 2 class folders" in got.split
    for part in ("train", "validation", "test"):
        labels, images = getattr(got, f"{part}_labels"), getattr(got, part)[:]
        assert labels.tolist() == (images[:, 0, 0, 0] >= 80).astype(int).tolist()
    assert len(got.train) + len(got.validation) + len(got.test) == 12


@pytest.mark.parametrize(
    "names",
    [
        ["0/a.png", "1/a.png", "10/a.png", "2/a.png"],  # the digits, sorted as strings
        ["00/0.png", "00/1.png", "01/0.png", "01/1.png"],  # numbered anew in each class
        ["00000/00000_00000.png", "00000/00001_00000.png", "00001/00002_00000.png"],
        ["n01440764/1.png", "n01443537/2.png"],
    ],
)
def test_numbered_classes_are_classes(tmp_path, names):
    path = write_pictures(tmp_path, {name: 50 + 10 * i for i, name in enumerate(names)})
    got = data.load(path, test_fraction=0.3, split="last")
    classes = sorted({name.split("/")[0] for name in names})
    assert got.label_names == tuple(classes)
    images, labels = np.concatenate([got.train, got.test]), np.concatenate([got.train_labels, got.test_labels])
    expected = {name: [50 + 10 * i for i, file in enumerate(names) if file.startswith(f"{name}/")] for name in classes}
    assert levels_by_label(images, labels, got.label_names) == expected


@pytest.mark.parametrize(
    "names",
    [
        [f"thumbnails128x128/{i // 3 * 3:05d}/{i:05d}.png" for i in range(9)],  # FFHQ
        [f"{i // 3 * 3:05d}/{i:05d}.png" for i in range(9)],
        [f"{i // 3:03d}/{i:06d}.png" for i in range(9)],
        ["a/0.png", "b/1.png", "c.png"],  # one picture outside
        ["only/0.png", "only/1.png"],
    ],
)
def test_folders_that_are_no_classes_give_no_labels(tmp_path, names):
    path = write_pictures(tmp_path, {name: 50 + 10 * i for i, name in enumerate(names)})
    got = data.load(path, test_fraction=0.3, split="last")
    assert (got.label_names, got.train_labels, got.test_labels) == (None, None, None)
    assert [*got.train[:, 0, 0, 0], *got.test[:, 0, 0, 0]] == [50 + 10 * i for i in range(len(names))]


def test_a_part_without_class_folders_has_no_labels_and_is_named(tmp_path):
    pictures = {"train/cat/0.png": 50, "train/dog/0.png": 60, "val/dog/0.png": 70, "test/0.png": 80, "test/cat/1.png": 90}
    with pytest.warns(DataWarning, match=r"the test pictures have no labels, because test/ has pictures outside of class"):
        got = data.load(write_pictures(tmp_path, pictures))
    assert (got.train_labels.tolist(), got.validation_labels.tolist(), got.test_labels) == ([0, 1], [1], None)


def test_class_folders_in_train_alone_are_labels(tmp_path):
    pictures = {f"train/{name}/nested/{i}.png": 50 + 40 * j + 10 * i for j, name in enumerate("ab") for i in range(3)}
    got = data.load(write_pictures(tmp_path, pictures), split="last", test_fraction=1 / 3)
    assert (got.train_labels.tolist(), got.test_labels.tolist(), got.label_names) == ([0, 0, 0, 1], [1, 1], ("a", "b"))


def test_folders_that_are_not_classes_of_the_training_pictures_are_named(tmp_path):
    """Tiny ImageNet has train/n01443537/images/*.JPEG, and all validation pictures in val/images."""
    pictures = {"train/n1/images/0.png": 50, "train/n2/images/1.png": 60, "val/images/0.png": 70, "test/images/1.png": 80}
    with pytest.warns(DataWarning) as notes:
        got = data.load(write_pictures(tmp_path, pictures))
    assert [str(note.message).split(": ")[1] for note in notes] == [
        f"the {part} pictures have no labels, because the folders in {folder}/ are not those of train/."
        for part, folder in (("validation", "val"), ("test", "test"))
    ]
    assert (got.train_labels.tolist(), got.validation_labels, got.test_labels) == ([0, 1], None, None)
    assert got.label_names == ("n1", "n2")
