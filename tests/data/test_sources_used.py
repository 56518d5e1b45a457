"""Every file and array that a source has is used, or refused, or named in a note; files are in the order of their numbers."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sources import write_idx, write_pictures, write_tfds

from vae_jax import data
from vae_jax.data.readers.listing import natural_key
from vae_jax.errors import DataWarning, UserError


def levels(images):
    """The level of each image that has one level."""
    return [] if images is None else images[:, 0, 0, 0].tolist()


def load_with_note(path, *words, **options):
    """Loads a source that gives one note with these words."""
    with pytest.warns(DataWarning) as caught:
        got = data.load(path, **options)
    assert got.notes == tuple(str(warning.message) for warning in caught)
    [note] = got.notes
    assert not [word for word in words if word not in note], note
    return got


# Order


@pytest.mark.parametrize(
    "names",
    [
        [f"frame{i}.png" for i in range(1, 13)],
        [f"clip{i // 4}/{i}.png" for i in range(8, 20)],  # clip10 would come before clip2 as a string
        [f"Bild {i} von 20.jpg" for i in range(5, 17)],
    ],
)
def test_pictures_are_in_the_order_of_the_numbers_in_their_names(tmp_path, names):
    path = write_pictures(tmp_path, {name: 50 + 10 * i for i, name in enumerate(names)})
    got = data.load(path, split="last", test_fraction=0.25)
    assert [round(level, -1) for level in levels(got.train)] == [50 + 10 * i for i in range(9)]  # JPEG rounds
    assert [round(level, -1) for level in levels(got.test)] == [140, 150, 160]


def test_names_with_numbers_of_one_width_keep_the_order_of_strings():
    rng = np.random.default_rng(0)
    signs = np.array(list("aZ_-. é"))
    names = ["".join(rng.choice(signs, 3)) + f"{rng.integers(1000):04d}" + "".join(rng.choice(signs, 2)) for _ in range(200)]
    paths = [Path("data", name[:2], name) for name in names]
    assert sorted(paths, key=natural_key) == sorted(paths)


# Pictures


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev", "Val", "val2017", "validation_set"])
def test_the_three_folders_of_pictures_are_the_three_parts(tmp_path, name):
    path = write_pictures(
        tmp_path, {"train/a.png": 50, "train/deep/b.png": 60, f"{name}/a.png": 70, "test/a.png": 80, "test/dev/b.png": 90}
    )
    got = data.load(path)
    assert (levels(got.train), levels(got.validation), levels(got.test)) == ([50, 60], [70], [80, 90])
    assert got.split == f"the source's own (training train/, validation {name}/, test test/)"


def test_the_folders_may_be_below_others(tmp_path):
    names = ["cable/train/0.png", "wood/train/0.png", "cable/test/0.png", "wood/test/1.png"]
    got = data.load(write_pictures(tmp_path, {name: 50 + 10 * i for i, name in enumerate(names)}))
    assert (levels(got.train), levels(got.test)) == ([50, 60], [70, 80])
    assert "training cable/train/ and wood/train/, test cable/test/ and wood/test/" in got.split


def test_without_a_test_folder_the_test_set_is_split_off_the_training_pictures(tmp_path):
    path = write_pictures(tmp_path, {f"train/{i}.png": 50 + i for i in range(10)} | {"val/a.png": 200, "val/b.png": 201})
    got = data.load(path)
    assert levels(got.validation) == [200, 201]
    assert sorted(levels(got.train) + levels(got.test)) == list(range(50, 60))
    assert len(got.test) == 2
    assert got.split == "random with seed 0; the source's own training train/, validation val/"


def test_pictures_outside_of_the_folders_are_named(tmp_path):
    path = write_pictures(tmp_path, {"train/a.png": 50, "test/a.png": 60, "loose.png": 70, "masks/a.png": 80})
    got = load_with_note(path, "2 pictures are not used", "train/ and test/", "loose.png and masks/a.png")
    assert (levels(got.train), levels(got.test)) == ([50], [60])


def test_held_out_folders_without_a_training_folder_are_pooled_and_named(tmp_path):
    path = write_pictures(tmp_path, {"images/a.png": 50, "images/b.png": 60, "test/a.png": 70, "val/a.png": 80})
    got = load_with_note(path, "val/ and test/ are pooled", "Rename the folder of the training pictures to train")
    assert sorted(levels(got.train) + levels(got.test)) == [50, 60, 70, 80]
    (tmp_path / "images").rename(tmp_path / "train")  # the advice
    assert levels(data.load(path).test) == [70]


def test_two_folders_for_one_part_are_refused(tmp_path):
    path = write_pictures(tmp_path, {"train/a.png": 50, "val/a.png": 60, "valid/b.png": 70, "test/a.png": 80})
    with pytest.raises(UserError, match=r"expected one folder of validation pictures, got val/ and valid/. Merge them"):
        data.load(path)
    (tmp_path / "valid/b.png").rename(tmp_path / "val/b.png")
    assert levels(data.load(path).validation) == [60, 70]


def test_files_of_other_kinds_are_named_by_kind_and_hidden_ones_are_not(tmp_path):
    path = write_pictures(tmp_path, {f"{i}.png": 50 + i for i in range(10)} | {".thumbnails/0.png": 250})
    for name in (".DS_Store", "labels.csv", "LICENSE", "notes/a.txt", "notes/b.txt", "c.webp", "d.gif", "e.bmp", "f.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    got = load_with_note(path, ": 2 files *.txt, ", "and 3 more are left out, because only PNG/JPEG images outside of hidden")
    assert ".DS_Store" not in got.notes[0]
    assert 250 not in levels(got.train) + levels(got.test)
    for file in (tmp_path / "notes").iterdir():
        file.unlink()
    for name in ("LICENSE", "d.gif", "e.bmp", "f.tif"):
        (tmp_path / name).unlink()
    load_with_note(path, ".thumbnails/0.png, c.webp and labels.csv are left out")


def test_a_folder_without_images_says_what_it_has(tmp_path):
    (tmp_path / "x.webp").write_bytes(b"RIFF")
    with pytest.raises(UserError, match=r"found none among 1 files \(.webp\). Convert the images to PNG."):
        data.load(str(tmp_path))
    np.save(tmp_path / "x.npy", np.full((10, 2, 2), 0.5))
    assert len(load_with_note(tmp_path, "x.webp is left out, because only .npy files are read").train) == 8


# Archives

IMAGES = np.arange(40, 60, dtype=np.uint8).reshape(20, 1, 1)


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "val", "test"),
        ("x_train", "x_valid", "x_test"),
        ("X_train", "X_val", "X_test"),
        ("train_images", "val_images", "test_images"),
        ("trainX", "devX", "testX"),
        ("x", "validation", "test"),
        ("training_set", "validation_set", "test_set"),
    ],
)
def test_the_names_of_three_arrays_are_the_three_parts(tmp_path, train, validation, test):
    np.savez(tmp_path / "a.npz", **{train: IMAGES[:15], validation: IMAGES[15:17], test: IMAGES[17:]})
    got = data.load(tmp_path / "a.npz")
    assert (len(got.train), levels(got.validation), levels(got.test)) == (15, [55, 56], [57, 58, 59])
    assert got.split == f"the source's own (training {train}, validation {validation}, test {test})"


@pytest.mark.parametrize("labels", [("Y_train", "Y_val", "Y_test"), ("train_labels", "val_labels", "test_labels")])
def test_labels_of_each_part_are_known_by_their_names(tmp_path, labels):
    """Those of the test set may be a column, as in many archives."""
    parts = dict(zip(labels, (np.arange(15), np.arange(2), np.arange(3)[:, None]), strict=True))
    np.savez(tmp_path / "a.npz", x_train=IMAGES[:15], x_val=IMAGES[15:17], x_test=IMAGES[17:], **parts)
    assert data.load(tmp_path / "a.npz").test_labels.tolist() == [0, 1, 2]


def test_a_validation_array_without_a_test_array_is_not_trained_on(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=IMAGES[:15], x_valid=IMAGES[15:])
    got = data.load(tmp_path / "a.npz", split="last")
    assert (levels(got.train), levels(got.validation), levels(got.test)) == (
        list(range(40, 52)),
        list(range(55, 60)),
        [52, 53, 54],
    )
    assert got.split == "the last block; the source's own training x_train, validation x_valid"


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"arr_0": IMAGES, "arr_1": IMAGES[:3]}, ["the array arr_1 is not used", "np.savez(path, x_train=..."]),
        ({"x_train": IMAGES, "x": IMAGES[:3]}, ["the array x is not used"]),
        ({"images": IMAGES, "arr_0": IMAGES[:3], "mean": np.zeros(3)}, ["the arrays arr_0 and mean are not used"]),
        ({"x": IMAGES, "y": np.arange(20), "labels": np.arange(20)}, ["the array y is not used"]),
        ({"x": IMAGES, "info": np.array([{"a": 1}], dtype=object)}, ["the array info is not used"]),  # never unpickled
    ],
)
def test_arrays_that_are_not_used_are_named(tmp_path, arrays, words):
    np.savez(tmp_path / "a.npz", **arrays)
    got = load_with_note(str(tmp_path / "a.npz"), *words)
    assert len(got.train) + len(got.test) == 20


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("train", "x_train"), "expected one array of training images, got train and x_train"),
        (("images", "data"), "expected one array of training images, got images and data"),
        (("x_train", "val", "x_valid"), "expected one array of validation images, got val and x_valid"),
    ],
)
def test_two_arrays_for_one_part_are_refused(tmp_path, names, words):
    np.savez(tmp_path / "a.npz", **dict.fromkeys(names, IMAGES))
    with pytest.raises(UserError, match=words):
        data.load(tmp_path / "a.npz")


# IDX


def test_an_unpacked_idx_file_is_read_rather_than_its_archive(tmp_path):
    """The folder that torchvision leaves."""
    raw = tmp_path / "MNIST" / "raw"
    for name, images in (("train-images-idx3-ubyte", IMAGES), ("t10k-images-idx3-ubyte", IMAGES[:5])):
        write_idx(raw / name, images)
        write_idx(raw / f"{name}.gz", images)
    for stream in (False, True):
        got = data.load(str(tmp_path), stream=stream)  # a warning would be an error
        assert got.notes == ()
        assert (got.train[:].shape, len(got.test)) == ((20, 1, 1, 1), 5)
    write_idx(raw / "t10k-images-idx3-ubyte.gz", IMAGES[5:10])
    load_with_note(str(tmp_path), "raw/t10k-images-idx3-ubyte.gz is not used, because other unpacked files of that name")


@pytest.mark.parametrize(
    "names",
    [
        ("train-images-idx3-ubyte", "val-images-idx3-ubyte", "test-images-idx3-ubyte"),
        (
            "emnist-letters-train-images-idx3-ubyte.gz",
            "emnist-letters-dev-idx3-ubyte",
            "emnist-letters-test-images-idx3-ubyte.gz",
        ),
        ("training/images.idx", "valid/images.idx", "testing/images.idx"),
    ],
)
def test_idx_files_are_parts_by_their_names_or_folders(tmp_path, names):
    for name, images in zip(names, (IMAGES[:15], IMAGES[15:17], IMAGES[17:]), strict=True):
        write_idx(tmp_path / name, images)
    got = data.load(str(tmp_path))
    assert (len(got.train), levels(got.validation), levels(got.test)) == (15, [55, 56], [57, 58, 59])
    assert f"training {names[0]}, validation {names[1]}, test {names[2]}" in got.split


def test_other_files_beside_idx_files_are_named_and_two_data_sets_are_refused(tmp_path):
    for kind in ("letters", "digits"):
        write_idx(tmp_path / kind / f"{kind}-train-images-idx3-ubyte", IMAGES)
    (tmp_path / "letters" / "mapping.txt").touch()
    got = load_with_note(str(tmp_path / "letters"), "mapping.txt is left out, because only IDX files are read")
    assert len(got.train) == 16
    with pytest.raises(
        UserError, match=r"one file of training images, got digits/.* and letters/.* Pass a folder that holds one"
    ):
        data.load(str(tmp_path))


# TFDS


def test_splits_of_tfds_that_are_not_read_are_named(tmp_path, monkeypatch):
    def record(level):
        content = io.BytesIO()
        Image.fromarray(np.full((32, 32, 3), level, np.uint8)).save(content, "png")
        return {"image": content.getvalue(), "label": 0, "id": ""}

    splits = {"train": [record(50 + i) for i in range(5)], "test": [record(70)], "extra": [record(80)]}
    write_tfds("svhn_cropped", tmp_path, splits)
    monkeypatch.setenv("VAE_JAX_CACHE", str(tmp_path / "cache"))
    got = load_with_note("svhn_cropped", "'svhn_cropped': the split extra is not used", data_dir=str(tmp_path))
    assert (levels(got.train), levels(got.test)) == ([50, 51, 52, 53, 54], [70])


@pytest.mark.parametrize("name", ["nosuch", "spoken_digits", "imagenett", "nsynt", "voxcele", "mnits", "cifar", "Celeb_A_HQ"])
def test_unknown_names_suggest_only_what_can_be_loaded(tmp_path, capfd, name):
    """Each suggestion gets as far as asking for its files; nsynth is audio, imagenette has images of many sizes."""
    with pytest.raises(UserError, match=f"unknown data set {name!r}") as refused:
        data.load(name, data_dir=str(tmp_path))
    message = str(refused.value)
    suggested = message.partition("Did you mean ")[2].partition("?")[0].replace("'", "").split(" or ")
    assert {"mnits": "mnist", "Celeb_A_HQ": "celeb_a_hq"}.get(name, suggested[0]) == suggested[0]
    for suggestion in filter(None, suggested):
        if suggestion not in ("digits", "sprites"):
            with pytest.raises(UserError, match="is not prepared"):
                data.load(suggestion, data_dir=str(tmp_path))
    assert capfd.readouterr() == ("", "")  # builders that need TensorFlow print a banner


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nsynth", "TFDS cannot open 'nsynth'"),
        ("reddit", "expected images, got features author, body, .* Choose an image data set."),
        ("imagenette", r"expected images of one fixed size, got shape \(None, None, 3\). Resize them"),
    ],
)
def test_tfds_sets_without_usable_images_are_refused_before_they_are_fetched(tmp_path, name, words):
    with pytest.raises(UserError, match=words):
        data.load(name, data_dir=str(tmp_path))


# Settings of the split


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"validation_fraction": 0.5}, ["`validation_fraction=0.5` has no effect", "its own validation set"]),
        ({"test_fraction": 0.5}, ["`test_fraction=0.5` has no effect", "its own test set"]),
        ({"split": "last"}, ['`split="last"` has no effect', "its own test set"]),
    ],
)
def test_options_of_a_split_that_the_source_has_are_named(tmp_path, options, words):
    np.savez(tmp_path / "a.npz", x_train=IMAGES[:15], x_val=IMAGES[15:17], x_test=IMAGES[17:])
    got = load_with_note(str(tmp_path / "a.npz"), *words, **options)
    assert (len(got.train), len(got.validation), len(got.test)) == (15, 2, 3)


def test_an_option_that_splits_off_a_validation_set_has_an_effect(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=IMAGES[:15], x_test=IMAGES[17:])
    got = data.load(tmp_path / "a.npz", split="last", validation_fraction=0.2)
    assert levels(got.validation) == [52, 53, 54]
