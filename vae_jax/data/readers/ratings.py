"""Readers of implicit feedback: which users liked which items, as sparse rows of zeros and ones."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from vae_jax.data.readers.extras import unpacked_size
from vae_jax.data.readers.listing import UNREADABLE, joined
from vae_jax.data.readers.registry import Reader, Request, register
from vae_jax.data.readers.sparse_files import stays_in_memory
from vae_jax.data.readers.tables import read_csv
from vae_jax.data.sparse import SparseMatrix, SparseRows, sparse_rows
from vae_jax.data.split import Split
from vae_jax.errors import UserError

if TYPE_CHECKING:  # pyarrow is an optional dependency
    import pyarrow

_ITEMS = "unique_sid.txt"
# The files of each part. Those of held-out users are in two: the items that a recommender sees, and those that it predicts.
_FILES = {
    "train": ("train.csv",),
    "validation": ("validation_tr.csv", "validation_te.csv"),
    "test": ("test_tr.csv", "test_te.csv"),
}
_NAMES = {_ITEMS, *(name for names in _FILES.values() for name in names)}
_RATINGS = {"user": ("userid", "user_id", "user"), "item": ("movieid", "movie_id", "itemid", "item_id", "item")}
_MIN_RATING, _MIN_ITEMS = 3.5, 5  # of Liang et al. 2018, section 4.1: ratings above, users with at least so many


def _is_mult_vae(file: Path) -> bool:
    return file.name in _NAMES and (file.parent / _ITEMS).is_file() and (file.parent / "validation_tr.csv").is_file()


def _read_folder(request: Request) -> Split:
    """Reads the folder pro_sg that the code of Mult-VAE writes (Liang et al. 2018), with its sets of users."""
    files = {file.name: file for file in request.files}
    folder = request.files[0].parent
    if missing := sorted(_NAMES - files.keys()):
        verb = "is" if len(missing) == 1 else "are"
        raise UserError(
            f"{folder}: expected the files {joined(sorted(_NAMES), 8)}, and {joined(missing)} {verb} missing. Add them."
        )
    if len(files) < len(request.files):
        raise UserError(f"{request.path}: expected one folder with {_ITEMS}, got several. Pass one of them.")
    items = _lines(files[_ITEMS])
    parts = {part: _users([files[name] for name in names], len(items)) for part, names in _FILES.items()}
    note = (
        f"{folder}: each validation and test user is one row with all of the user's items (those of *_tr.csv and *_te.csv "
        "together), which log-likelihoods are of. Rankings such as NDCG need them apart."
    )
    return Split(
        parts["train"],
        validation=parts["validation"],
        test=parts["test"],
        part_names={part: joined(names) for part, names in _FILES.items()},
        column_names=items,
        notes=(note,),
    )


def _lines(path: Path) -> tuple[str, ...]:
    unpacked_size(path)
    try:
        items = tuple(line.strip() for line in path.read_text().splitlines() if line.strip())
    except (*UNREADABLE, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable list of items. {error}. It is damaged.") from None
    if not items:
        raise UserError(f"{path}: expected the name of an item in each line, got an empty file.")
    return items


def _users(files: list[Path], num_items: int) -> SparseRows:
    """Returns a row for each user of files with the columns uid and sid, in the order of the numbers of the users."""
    users, items = [], []
    for file in files:
        _, table = read_csv(file)
        users.append(_whole_numbers(file, table, "uid"))
        items.append(_whole_numbers(file, table, "sid"))
        if not 0 <= items[-1].min() <= items[-1].max() < num_items:
            got = f"{items[-1].min()} to {items[-1].max()}"
            raise UserError(f"{file}: expected items from 0 to {num_items - 1}, as in {_ITEMS}, got {got}. It is damaged.")
    row = np.unique(np.concatenate(users), return_inverse=True)[1]
    return _zeros_and_ones(str(files[0]), row, np.concatenate(items), num_items)


def _whole_numbers(path: Path, table: "pyarrow.Table", column: str) -> np.ndarray:
    if column not in table.column_names:
        got = joined(map(str, table.column_names))
        raise UserError(f"{path}: expected a table with the columns uid and sid, got {got}. It is damaged.")
    values = table.column(column)
    if str(values.type) != "int64" or values.null_count or not len(values):
        raise UserError(f"{path}: expected a whole number in each row of {column!r}. It is damaged or empty.")
    return np.asarray(values.to_numpy())


def _zeros_and_ones(name: str, row: np.ndarray, column: np.ndarray, num_columns: int) -> SparseRows:
    import scipy.sparse

    matrix = scipy.sparse.coo_array((np.ones(len(row), np.int64), (row, column)), shape=(int(row.max()) + 1, num_columns))
    rows = sparse_rows(name, cast(SparseMatrix, matrix))
    return rows.with_data(np.ones(len(rows.data), np.uint8))  # an item may be listed twice


def is_ratings(names: list[str]) -> bool:
    """Returns whether a table has the columns of the ratings of MovieLens: userId, movieId, rating."""
    return _columns(names) is not None


def _columns(names: list[str]) -> tuple[str, str, str] | None:
    lower = {str(name).strip().lower(): str(name) for name in names}
    chosen = [next((lower[name] for name in options if name in lower), None) for options in _RATINGS.values()]
    user, item, rating = *chosen, lower.get("rating")
    return None if user is None or item is None or rating is None else (user, item, rating)


def read_ratings(request: Request, table: "pyarrow.Table") -> Split:
    """Turns ratings into rows of zeros and ones, with the users and ratings that Liang et al. 2018 keep, in section 4.1.

    A one stands for a rating above 3.5. Users with fewer than 5 such ratings are left out.
    """
    path, columns = request.path, _columns(table.column_names)
    assert columns is not None
    if request.options.label_column is not None:
        raise UserError(f"{path}: ratings have no labels. Leave out `label_column`.", field="label_column")
    if request.stream:
        raise stays_in_memory(path)
    if any(table.column(name).null_count for name in columns) or not table.num_rows:
        raise UserError(f"{path}: expected a value in each row of {joined(columns)}. It is damaged or empty.")
    users, items, ratings = (np.asarray(table.column(name).to_numpy()) for name in columns)
    if ratings.dtype.kind not in "iuf":
        raise UserError(f"{path}: expected numbers as ratings, got {ratings.dtype}. It is damaged.")
    is_liked = ratings > _MIN_RATING
    users, items = users[is_liked], items[is_liked]
    ids, row, counts = np.unique(users, return_inverse=True, return_counts=True)
    is_kept = counts[row] >= _MIN_ITEMS
    if not is_kept.any():
        raise UserError(f"{path}: no user has {_MIN_ITEMS} ratings above {_MIN_RATING}. Make a sparse matrix of what is meant.")
    kept_users, row = np.unique(users[is_kept], return_inverse=True)
    names, column = np.unique(items[is_kept], return_inverse=True)
    note = (
        f"{path}: {len(kept_users)} of {len(ids)} users are used, those with at least {_MIN_ITEMS} ratings above "
        f"{_MIN_RATING}. Such ratings are ones, all others zeros. The test users are chosen as for any data. For the published "
        "sets, pass the folder pro_sg that the code of Mult-VAE writes."
    )
    rows = _zeros_and_ones(str(path), row, column, len(names))
    return Split(rows, column_names=tuple(str(name) for name in names), notes=(note,))


register(
    Reader(
        "mult_vae",
        "Mult-VAE's tables (unique_sid.txt, train.csv ...)",
        "the folder pro_sg of Mult-VAE (needs vae_jax[tables]): unique_sid.txt, train.csv, validation_tr.csv ...",
        _read_folder,
        recognizes=_is_mult_vae,
        extra="tables",
        published=("MovieLens-20M",),
    )
)
