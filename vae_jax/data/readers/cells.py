"""Layouts of HDF5 files of cells: AnnData (.h5ad) and 10x Genomics. Their matrices stay sparse."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from vae_jax.data.on_disk import Rows
from vae_jax.data.readers.condition_columns import check_columns_exist, missing_values, named_codes
from vae_jax.data.readers.hdf5_files import checked, is_dataset, open_dataset, read_array
from vae_jax.data.readers.listing import UNREADABLE, joined
from vae_jax.data.readers.registry import Request
from vae_jax.data.readers.sparse_files import Features, expression_split, stays_in_memory
from vae_jax.data.sparse import SparseMatrix, SparseRows, csr_rows, damage_reported, sparse_rows
from vae_jax.data.split import Split
from vae_jax.errors import UserError, unknown

if TYPE_CHECKING:  # h5py is an optional dependency
    import h5py

    Objects = dict[str, h5py.Group | h5py.Dataset]

_SPARSE_ARRAYS = ("data", "indices", "indptr")


def is_anndata(objects: "Objects") -> bool:
    """Returns whether these are the groups and arrays of an .h5ad file."""
    return {"X", "obs", "var"} <= objects.keys() or {"obs", "var", "layers"} <= objects.keys()


def genomes(objects: "Objects") -> list[str]:
    """Returns the groups of an .h5 file of 10x Genomics: "matrix", or in old files one for each genome; else nothing."""
    arrays = (*_SPARSE_ARRAYS, "shape", "barcodes")
    groups = [name for name, item in objects.items() if not is_dataset(item)]
    return [name for name in groups if all(f"{name}/{array}" in objects for array in arrays)]


def read_anndata(request: Request, objects: "Objects") -> Split:
    """Reads an .h5ad file: X, or the matrix that `array` names, such as "layers/counts" or "raw/X"."""
    path = request.path
    layers = [name for name in objects if name.startswith("layers/") and name.count("/") == 1]
    matrices = [name for name in ("X", *layers, "raw/X") if name in objects]
    # anndata writes no X where there is none, or an empty array.
    default = "X" if "X" in matrices or len(matrices) != 1 else matrices[0]
    chosen = request.options.array or default
    chosen = {"raw": "raw/X"}.get(chosen, chosen if "/" in chosen or chosen in matrices else f"layers/{chosen}")
    if chosen not in matrices:
        raise unknown("array", request.options.array or "X", matrices, f" Expected the name of a matrix in {path}.")
    matrix = _read_matrix(request, objects, chosen)
    labels, label_names = _labels(path, objects, request.options.label_column)
    conditions = obs_conditions(path, objects, request.options.condition)
    notes = []
    if rest := [name for name in matrices if name != chosen]:
        verb = "is" if len(rest) == 1 else "are"
        notes.append(f'{path}: {joined(rest)} {verb} not used. Pass `array="{rest[0]}"` for a different matrix than {chosen}.')
    columns = _frame_columns(objects, "obs")
    if columns and labels is None and conditions is None:
        notes.append(f"{path}: obs has the columns {joined(columns)}. Pass `label_column` to take one as the labels.")
    return Split(
        matrix,
        train_labels=labels,
        notes=tuple(notes),
        label_names=label_names,
        train_condition=conditions,
        column_names=_index(path, objects, "raw/var" if chosen == "raw/X" else "var"),
    )


def _read_matrix(request: Request, objects: "Objects", name: str) -> np.ndarray | Rows | SparseRows:
    """Reads a matrix of an .h5ad file, (cells, genes)."""
    path, item = request.path, objects[name]
    if is_dataset(item):
        dataset = cast("h5py.Dataset", item)
        return open_dataset(path, dataset) if request.stream else read_array(path, dataset)
    if request.stream:
        raise stays_in_memory(path)
    # Files of 2018 and older have attributes with names of h5sparse.
    encoding = _text(item.attrs.get("encoding-type", item.attrs.get("h5sparse_format", "")))
    shape = item.attrs.get("shape", item.attrs.get("h5sparse_shape"))
    if encoding not in ("csr_matrix", "csc_matrix", "csr", "csc") or shape is None:
        raise UserError(f"{path}: expected {name!r} as an array or a sparse matrix, got encoding {encoding!r}. It is damaged.")
    data, indices, indptr = _sparse_arrays(path, objects, name)
    sizes = tuple(int(size) for size in shape)
    if encoding.startswith("csr"):
        return csr_rows(f"{path}: {name}", data, indices, indptr, sizes)
    import scipy.sparse

    with damage_reported(f"{path}: {name}"):
        columns = scipy.sparse.csc_array((data, indices, indptr), shape=sizes)
    return sparse_rows(f"{path}: {name}", cast(SparseMatrix, columns))


def _sparse_arrays(path: Path, objects: "Objects", group: str) -> list[np.ndarray]:
    names = [f"{group}/{name}" for name in _SPARSE_ARRAYS]
    if missing := [name for name in names if name not in objects or not is_dataset(objects[name])]:
        raise UserError(
            f"{path}: expected the arrays of a sparse matrix in {group!r}, {joined(missing)} missing. It is damaged."
        )
    return [read_array(path, cast("h5py.Dataset", objects[name])) for name in names]


def read_10x(request: Request, objects: "Objects", groups: list[str]) -> Split:
    """Reads an .h5 file of 10x Genomics, whose matrix has the shape (genes, cells) and is stored cell by cell."""
    path, chosen = request.path, request.options.array
    if request.stream:
        raise stays_in_memory(path)
    if request.options.label_column is not None:
        raise UserError(
            f"{path}: its cells have no columns to take labels from. Leave out `label_column`.", field="label_column"
        )
    if chosen is None and len(groups) > 1:
        raise UserError(
            f'{path}: expected one genome, got {joined(groups)}. Name one, such as `array="{groups[0]}"`.', field="array"
        )
    group = chosen or groups[0]
    if group not in groups:
        raise unknown("array", group, groups, f" Expected the name of a matrix in {path}.")
    data, indices, indptr = _sparse_arrays(path, objects, group)
    shape = read_array(path, cast("h5py.Dataset", objects[f"{group}/shape"])).ravel().tolist()
    cells = csr_rows(f"{path}: {group}", data, indices, indptr, tuple(int(size) for size in reversed(shape)))

    def texts(*names: str) -> tuple[str, ...] | None:
        name = next((name for name in names if f"{group}/{name}" in objects), None)
        return None if name is None else _texts(path, cast("h5py.Dataset", objects[f"{group}/{name}"]))

    names = texts("features/name", "gene_names", "genes") or tuple(str(i) for i in range(cells.shape[1]))
    features = Features(names, texts("features/feature_type"))
    for texts_of_columns in filter(None, features):
        if len(texts_of_columns) != cells.shape[1]:
            count = len(texts_of_columns)
            raise UserError(f"{path}: expected a name for each of {cells.shape[1]} genes, got {count}. It is damaged.")
    return expression_split(path, cells, features)


def _index(path: Path, objects: "Objects", frame: str) -> tuple[str, ...] | None:
    """Returns the index of a table of an .h5ad file, such as the names of the genes; None where it has none."""
    item = objects.get(frame)
    if item is None:
        return None
    if is_dataset(item):  # files of anndata before 0.7: one array of records
        records = cast("h5py.Dataset", item)
        names = [name for name in ("index", "_index") if name in (records.dtype.names or ())]
        return tuple(_text(value) for value in checked(path, records)[names[0]]) if names else None
    values = _values(path, objects, f"{frame}/{_text(item.attrs.get('_index', '_index'))}")
    return None if values is None else tuple(_text(value) for value in values[0])


def _frame_columns(objects: "Objects", frame: str) -> list[str]:
    item = objects.get(frame)
    if item is None:
        return []
    if is_dataset(item):
        return [name for name in cast("h5py.Dataset", item).dtype.names or () if name not in ("index", "_index")]
    index = _text(item.attrs.get("_index", "_index"))
    names = [name.split("/")[1] for name in objects if name.startswith(f"{frame}/") and name.count("/") == 1]
    return [name for name in names if name not in (index, "__categories")]


def obs_conditions(path: Path, objects: "Objects", names: Sequence[str]) -> dict[str, np.ndarray] | None:
    """Returns columns of obs as conditions: categories as words, other columns as numbers or words; None for no names.

    Raises:
      UserError: a column that is not there, that has missing values, or that is neither plain nor categorical.
    """
    if not names:
        return None
    check_columns_exist(str(path), names, _frame_columns(objects, "obs"), "columns of obs")
    conditions = {}
    for name in names:
        if is_dataset(objects["obs"]):
            values = checked(path, cast("h5py.Dataset", objects["obs"]))[name]
        else:
            values = _obs_values(path, objects, name)
        is_text = values.dtype.kind in "OS"
        conditions[name] = np.array([_text(value) for value in values], dtype=np.str_) if is_text else np.asarray(values)
    return conditions


def _obs_values(path: Path, objects: "Objects", name: str) -> np.ndarray:
    """Returns the values of a column of obs, categories by their names."""
    if (coded := _codes(path, objects, name)) is not None:
        numbers, categories = coded
        if count := int((numbers < 0).sum()):
            raise missing_values(str(path), name, count)
        return named_codes(categories, numbers)
    if (plain := _values(path, objects, f"obs/{name}")) is None:
        raise UserError(
            f"{path}: the column {name!r} of obs is neither plain nor categorical, so it cannot be a condition.",
            field="condition",
        )
    values, is_missing = plain
    if is_missing.any():
        raise missing_values(str(path), name, int(is_missing.sum()))
    return values


def _codes(path: Path, objects: "Objects", column: str) -> tuple[np.ndarray, tuple[str, ...]] | None:
    """Returns the codes of a categorical column of obs, with -1 for missing ones, and the names; None for other columns."""
    item = objects[f"obs/{column}"]
    codes = item if is_dataset(item) else objects.get(f"obs/{column}/codes")
    categories = _values(path, objects, f"obs/__categories/{column}" if is_dataset(item) else f"obs/{column}/categories")
    if categories is None or codes is None or not is_dataset(codes):
        return None
    names = tuple(_text(value) for value in categories[0])
    numbers = read_array(path, cast("h5py.Dataset", codes))
    if numbers.dtype.kind not in "iu" or (len(numbers) and not -1 <= numbers.min() <= numbers.max() < len(names)):
        raise UserError(f"{path}: expected codes of {len(names)} categories in {column!r}. It is damaged.")
    return numbers.astype(np.int64), names


def _labels(path: Path, objects: "Objects", column: str | None) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """Returns the labels in a column of obs, and their names where the column is categorical."""
    if column is None:
        return None, None
    if column not in (known := _frame_columns(objects, "obs")):
        raise unknown("column", column, known, f" Expected a column of obs in {path}.")
    if is_dataset(objects["obs"]):
        return _plain_labels(path, checked(path, cast("h5py.Dataset", objects["obs"]))[column]), None
    if (coded := _codes(path, objects, column)) is not None:
        if (coded[0] < 0).any():
            raise _missing_labels(path, column, int((coded[0] < 0).sum()))
        return coded
    if (plain := _values(path, objects, f"obs/{column}")) is None:
        rest = joined(name for name in known if name != column)
        raise UserError(
            f"{path}: cannot take labels from {column!r}, which is neither a plain nor a categorical column."
            + (f" Choose one of {rest}." if rest else " Leave it out."),
            field="label_column",
        )
    values, is_missing = plain
    if is_missing.any():
        raise _missing_labels(path, column, int(is_missing.sum()))
    return _plain_labels(path, values), None


def _values(path: Path, objects: "Objects", name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns a column and which of its values are missing; None for a missing column or one of a different kind.

    A column is an array, or a group with the arrays `values` and `mask` for pandas' types with missing values, as which newer
    versions of anndata write strings too.
    """
    item = objects.get(name)
    mask = None if item is None or is_dataset(item) else objects.get(f"{name}/mask")
    if item is not None and not is_dataset(item):
        item = None if mask is None else objects.get(f"{name}/values")
    if item is None or not is_dataset(item) or (mask is not None and not is_dataset(mask)):
        return None
    dataset = cast("h5py.Dataset", item)
    is_text = dataset.dtype.kind in "OS"
    values = np.array(_texts(path, dataset), dtype=object) if is_text else np.ravel(read_array(path, dataset))
    is_missing = np.zeros(len(values), bool) if mask is None else read_array(path, cast("h5py.Dataset", mask)).astype(bool)
    if is_missing.shape != values.shape:
        raise UserError(f"{path}: expected a mask of {len(values)} values in {name!r}, got {is_missing.shape}. It is damaged.")
    return values, is_missing


def _plain_labels(path: Path, values: np.ndarray) -> np.ndarray:
    if values.dtype.kind in "OS":
        return np.array([_text(value) for value in values])
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise _missing_labels(path, "the column", int((~np.isfinite(values)).sum()))
    return values.astype(np.int64) if values.dtype.kind == "b" else values


def _missing_labels(path: Path, column: str, count: int) -> UserError:
    return UserError(
        f"{path}: expected a label for each cell, and {count} of {column} are missing. Leave these cells out, such as "
        "adata[adata.obs[column].notna()], or choose a different column.",
        field="label_column",
    )


def _texts(path: Path, dataset: "h5py.Dataset") -> tuple[str, ...]:
    """Reads an array of strings, of fixed or variable length; numbers are written out."""
    values = checked(path, dataset)[()]
    return tuple(_text(value) for value in np.ravel(values))


def _text(value: object) -> str:
    try:
        return value.decode() if isinstance(value, bytes) else str(value)
    except UNREADABLE:
        return value.decode("latin1") if isinstance(value, bytes) else str(value)
