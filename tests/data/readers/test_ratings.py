"""Implicit feedback: the folder of Mult-VAE, and the ratings of MovieLens."""

import numpy as np
import pytest

from vae_jax import data
from vae_jax.data.readers.paths import read_path
from vae_jax.errors import DataWarning, UserError

pytest.importorskip("pyarrow")

RNG = np.random.default_rng(0)
LIKES = RNG.random((9, 6)) < 0.5  # users x items
LIKES[:, 0] = True
ITEMS = [3, 17, 5, 260, 1, 99]  # numbers of films, by number of the item
PARTS = {"train": range(0, 5), "validation": range(5, 7), "test": range(7, 9)}


def pairs(users, keep=lambda item: True):
    lines = [f"{user},{item}" for user in users for item in np.flatnonzero(LIKES[user]) if keep(item)]
    return "\n".join(["uid,sid", *lines, ""])


@pytest.fixture
def pro_sg(tmp_path):
    """The files that the notebook of Mult-VAE writes; held-out users have their items in two files."""
    folder = tmp_path / "ml-20m" / "pro_sg"
    folder.mkdir(parents=True)
    (folder / "unique_sid.txt").write_text("".join(f"{item}\n" for item in ITEMS))
    (folder / "train.csv").write_text(pairs(PARTS["train"]))
    for part in ("validation", "test"):
        (folder / f"{part}_tr.csv").write_text(pairs(PARTS[part], lambda item: item % 2 == 0))
        (folder / f"{part}_te.csv").write_text(pairs(PARTS[part], lambda item: item % 2 == 1))
    return folder


def test_the_folder_of_mult_vae_is_read(pro_sg):
    split = read_path(pro_sg)
    for part, array in split.images_by_part().items():
        np.testing.assert_array_equal(array[:], LIKES[list(PARTS[part])])
        assert array.dtype == np.uint8
    assert split.column_names == tuple(map(str, ITEMS))
    with pytest.warns(DataWarning, match=r"one row with all of the user's items \(those of \*_tr.csv and \*_te.csv together\)"):
        dataset = data.load(str(pro_sg))
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (5, 2, 2)
    assert dataset.max_level == 1
    assert "validation_tr.csv" in dataset.split
    (pro_sg.parent / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,2,3.5,9\n")
    np.testing.assert_array_equal(read_path(pro_sg.parent).train[:], LIKES[:5])


def test_an_item_that_is_listed_twice_is_one(pro_sg):
    with (pro_sg / "train.csv").open("a") as file:
        file.write("0,0\n0,0\n")
    np.testing.assert_array_equal(read_path(pro_sg).train[:], LIKES[:5])


DAMAGED = {
    "item": ("train.csv", "uid,sid\n0,6\n", "expected items from 0 to 5, as in unique_sid.txt, got 6 to 6"),
    "negative item": ("train.csv", "uid,sid\n0,-1\n", "got -1 to -1"),
    "columns": ("test_te.csv", "user,item\n0,0\n", "expected a table with the columns uid and sid, got user and item"),
    "empty": ("train.csv", "uid,sid\n", "expected a whole number in each row"),
    "text": ("train.csv", "uid,sid\n0,a\n", "expected a whole number in each row"),
    "no items": ("unique_sid.txt", "", "got an empty file"),
    "missing": ("test_te.csv", None, "test_te.csv is missing"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_folders_are_refused(pro_sg, kind):
    name, content, message = DAMAGED[kind]
    if content is None:
        (pro_sg / name).unlink()
    else:
        (pro_sg / name).write_text(content)
    with pytest.raises(UserError, match=message):
        data.load(str(pro_sg))


def ratings(rows):
    return "\n".join(["userId,movieId,rating,timestamp", *(",".join(map(str, row)) for row in rows), ""])


def test_ratings_become_zeros_and_ones(tmp_path):
    """User 7 has 5 ratings above 3.5, user 2 has 6, user 5 has 4 and one of exactly 3.5."""
    liked = {7: [10, 3, 5, 260, 99], 2: [10, 3, 5, 1, 99, 4], 5: [10, 3, 5, 1]}
    rows = [(user, item, 4.0 + (item % 3) / 2, 978300019) for user, items in liked.items() for item in items]
    rows += [(5, 99, 3.5, 978300019), (7, 1, 1.0, 978300019), (2, 777, 3.5, 978300019)]
    path = tmp_path / "ratings.csv"
    path.write_text(ratings(rows))
    split = read_path(path)
    items = [1, 3, 4, 5, 10, 99, 260]
    expected = [[item in liked[user] for item in items] for user in (2, 7)]
    np.testing.assert_array_equal(split.train[:], expected)
    assert split.column_names == tuple(map(str, items))
    assert "2 of 3 users are used, those with at least 5 ratings above 3.5" in split.notes[0]


def test_unsuitable_ratings_are_refused(tmp_path):
    path = tmp_path / "ratings.csv"
    for content, message in [
        (ratings([(1, 2, 3.0, 1)]), "no user has 5 ratings above 3.5"),
        (ratings([(1, 2, "", 1)]), "expected a value in each row"),
        (ratings([(1, 2, "good", 1)]), "expected numbers as ratings"),
    ]:
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            data.load(str(path))
