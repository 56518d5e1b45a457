"""CelebA's folder with its partition and its attributes, as the authors and as Kaggle distribute them."""

import csv

import numpy as np
import pytest
from sources import write_pictures

from vae_jax import data
from vae_jax.errors import DataWarning, UserError

NAMES = [f"{i:06d}.jpg" for i in range(1, 9)]
PARTS = [0, 0, 0, 0, 1, 2, 2, 0]  # not in blocks
ATTRIBUTES = ["5_o_Clock_Shadow", "Bald", "Male", "Young"]
VALUES = np.array(
    [
        [1, -1, -1, 1],
        [-1, -1, 1, 1],
        [1, -1, 1, 1],
        [1, -1, -1, 1],
        [1, 1, 1, -1],
        [-1, -1, -1, 1],
        [1, -1, 1, 1],
        [-1, -1, 1, 1],
    ]
)  # Bald and Young vary in the validation set alone


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("VAE_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))


def write_celeba(root, images="img_align_celeba", lists=("", ""), kind="txt", names=NAMES):
    """Writes pictures of the levels 20, 40, ..., and the two lists in these folders; returns the root."""
    write_pictures(root / images, {name: min(20 * int(name[:6]), 200) for name in names})
    partition, attributes = (
        root / place / name for place, name in zip(lists, ("list_eval_partition", "list_attr_celeba"), strict=True)
    )
    for path in (partition, attributes):
        path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "txt":
        partition.with_suffix(".txt").write_text("".join(f"{name} {part}\n" for name, part in zip(NAMES, PARTS, strict=True)))
        rows = [f"{name} {' '.join(f'{value:2d}' for value in row)}\n" for name, row in zip(NAMES, VALUES, strict=True)]
        attributes.with_suffix(".txt").write_text(f"{len(NAMES)}\n{' '.join(ATTRIBUTES)} \n{''.join(rows)}")
        return root
    with partition.with_suffix(".csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image_id", "partition"), *zip(NAMES, PARTS, strict=True)])
    with attributes.with_suffix(".csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image_id", *ATTRIBUTES), *([n, *v] for n, v in zip(NAMES, VALUES.tolist(), strict=True))])
    return root


def levels(images):
    return (np.rint(images[:, 1, 1, 0] / 20) * 20).astype(int).tolist()  # JPEG rounds


def load_with_notes(path, *texts, **options):
    with pytest.warns(DataWarning) as caught:
        got = data.load(path, **options)
    notes = [str(warning.message) for warning in caught]
    assert len(notes) == len(texts), notes
    for note, text in zip(notes, texts, strict=True):
        assert text in note
    return got


CONSTANT = "2 attributes are the same for all pictures and not used: Bald and Young"


@pytest.mark.parametrize(
    ("images", "lists", "kind", "path"),
    [
        ("img_align_celeba", ("", ""), "txt", ""),  # torchvision's root
        ("img_align_celeba", ("", ""), "txt", "img_align_celeba"),
        ("img_align_celeba", ("img_align_celeba", "img_align_celeba"), "txt", "img_align_celeba"),
        ("Img/img_align_celeba", ("Eval", "Anno"), "txt", ""),  # the authors' download
        ("Img/img_align_celeba", ("Eval", "Anno"), "txt", "Img/img_align_celeba"),
        ("img_align_celeba/img_align_celeba", ("", ""), "csv", ""),  # Kaggle's
        ("img_align_celeba/img_align_celeba", ("", ""), "csv", "img_align_celeba"),
        ("img_align_celeba/img_align_celeba", ("", ""), "csv", "img_align_celeba/img_align_celeba"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_the_partition_and_the_attributes_are_read_wherever_they_lie(tmp_path, images, lists, kind, path, stream):
    root = write_celeba(tmp_path / "celeba", images, lists, kind)
    got = load_with_notes(root / path, CONSTANT, stream=stream)
    assert levels(got.train[:]) == [20, 40, 60, 80, 160]
    assert (levels(got.validation), levels(got.test)) == ([100], [120, 140])
    assert got.factor_names == ("5_o_Clock_Shadow", "Male")
    assert got.train_factors.tolist() == [[1, 0], [0, 1], [1, 1], [1, 0], [0, 1]]
    assert got.test_factors.tolist() == [[0, 0], [1, 1]]
    name = f"list_eval_partition.{kind}"
    assert got.split == f"the source's own (training 0 in {name}, validation 1 in {name}, test 2 in {name})"
    assert got.train_labels is None


def test_pictures_without_an_entry_and_entries_without_a_picture_are_named(tmp_path):
    root = write_celeba(tmp_path / "celeba", names=[*NAMES[:3], *NAMES[5:], "000099.jpg"])
    got = load_with_notes(
        root,
        "1 picture is not used, being absent from list_eval_partition.txt: img_align_celeba/000099.jpg",
        "2 of 8 pictures in list_eval_partition.txt have no file",
        "2 of 8 pictures in list_attr_celeba.txt have no file",
        CONSTANT,
    )
    assert (levels(got.train), got.validation, levels(got.test)) == ([20, 40, 60, 160], None, [120, 140])
    assert got.train_factors[:, 1].tolist() == [0, 1, 1, 1]


def test_one_of_both_lists_is_enough(tmp_path):
    root = write_celeba(tmp_path / "celeba")
    (root / "list_attr_celeba.txt").rename(tmp_path / "kept")
    got = data.load(root)
    assert (levels(got.test), got.train_factors, got.factor_names) == ([120, 140], None, None)
    (root / "list_eval_partition.txt").unlink()
    (tmp_path / "kept").rename(root / "list_attr_celeba.txt")
    got = data.load(root, split="last", test_fraction=0.25)
    assert got.factor_names == tuple(ATTRIBUTES)
    np.testing.assert_array_equal(np.concatenate([got.train_factors, got.test_factors]), (VALUES + 1) // 2)


def test_png_copies_of_the_pictures_are_known_by_their_numbers(tmp_path):
    root = write_celeba(tmp_path / "celeba", "img_align_celeba_png", names=[name.replace("jpg", "png") for name in NAMES])
    assert levels(load_with_notes(root, CONSTANT).test) == [120, 140]


def test_lists_beside_a_folder_that_is_not_celeba_are_not_applied(tmp_path):
    write_celeba(tmp_path / "celeba", images="faces")
    got = data.load(tmp_path / "celeba" / "faces", split="last")
    assert got.factor_names is None
    assert got.split == "the last block"


def test_folders_of_parts_come_before_the_partition(tmp_path):
    root = write_celeba(tmp_path / "celeba")
    for i, name in enumerate(NAMES):
        (root / ("test" if i < 3 else "train")).mkdir(exist_ok=True)
        (root / "img_align_celeba" / name).rename(root / ("test" if i < 3 else "train") / name)
    got = load_with_notes(root, "list_eval_partition.txt is not used, because the folders train/ and test/ are the parts")
    assert levels(got.test) == [20, 40, 60]
    assert got.test_factors.tolist() == ((VALUES[:3] + 1) // 2).tolist()


def test_the_text_is_read_rather_than_its_copy_as_csv(tmp_path):
    root = write_celeba(tmp_path / "celeba")
    write_celeba(root, kind="csv")
    got = load_with_notes(root, "list_eval_partition.csv is not used", "list_attr_celeba.csv is not used", CONSTANT)
    assert levels(got.test) == [120, 140]


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "list_eval_partition.txt",
            lambda text: text.replace("000003.jpg 0", "000003.jpg 7"),
            "expected 0, 1 or 2 for 000003.jpg, got '7'",
        ),
        (
            "list_eval_partition.txt",
            lambda text: text[:-3],
            "expected a file name and 1 entry for each picture, got 0 entries in line 8",
        ),
        ("list_eval_partition.txt", lambda text: text + "000001.jpg 1\n", "one row for each picture, got several for 000001"),
        ("list_eval_partition.txt", lambda text: text.replace("0000", "1111"), "expected pictures that are named in"),
        ("list_attr_celeba.txt", lambda text: text[: text.index("000007")], "got 6 rows for 8 pictures. The file is damaged"),
        ("list_attr_celeba.txt", lambda text: text[:-6], "4 entries for each picture, got 2 entries in line 10"),
        ("list_attr_celeba.txt", lambda text: text.replace(" -1", " 3", 1), "expected -1 and 1, got '3'"),
        ("list_attr_celeba.txt", lambda text: text[2:], "expected the number of pictures in the first line"),
        ("list_attr_celeba.txt", lambda text: "", "expected the number of pictures in the first line"),
    ],
)
def test_damaged_lists_are_refused_by_name(tmp_path, file, change, message):
    root = write_celeba(tmp_path / "celeba")
    (root / file).write_text(change((root / file).read_text()))
    with pytest.raises(UserError, match=message) as refused:
        data.load(root)
    assert file in str(refused.value)


def test_lists_that_are_no_text_are_refused(tmp_path):
    root = write_celeba(tmp_path / "celeba")
    (root / "list_attr_celeba.txt").write_bytes(b"\xff\xfe\x00\x01" * 10)
    with pytest.raises(UserError, match=r"list_attr_celeba.txt: cannot be read"):
        data.load(root)


def test_two_copies_of_the_pictures_are_refused(tmp_path):
    root = write_celeba(tmp_path / "celeba")
    write_celeba(root, "img_align_celeba_png", names=[NAMES[2].replace("jpg", "png")])
    with pytest.raises(
        UserError, match=r"one picture 000003, got img_align_celeba/000003.jpg and img_align_celeba_png/000003.png"
    ):
        data.load(root)
