"""Pictures in Parquet files, as the data sets library of Hugging Face writes them: a column of {bytes, path}, and labels."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vae_jax.data.readers.condition_columns import check_columns_exist, columns_of_table, named_codes
from vae_jax.data.readers.listing import UNREADABLE, check_fits_in_memory, joined
from vae_jax.data.readers.pictures import Picture, picture_from_bytes
from vae_jax.data.readers.registry import Request
from vae_jax.data.readers.table_columns import labels_of_column
from vae_jax.data.split import Split
from vae_jax.errors import UserError, unknown

if TYPE_CHECKING:  # pyarrow is an optional dependency
    import pyarrow
    import pyarrow.parquet

_PICTURE_NAMES = ("image", "img", "picture", "png", "jpg", "jpeg")  # of columns of plain bytes
_LABEL_NAMES = ("label", "labels", "fine_label", "class", "target")
_BATCH = 256  # rows that are read at once


class _Feature(NamedTuple):
    """The type of a column as Hugging Face's library stores it: its kind, and the names of classes."""

    kind: str
    names: tuple[str, ...] | None


def picture_column(schema: "pyarrow.Schema") -> str | None:
    """Returns the column of pictures of a Parquet file; None where there is none."""
    import pyarrow.types as types

    for field in schema:
        is_struct = types.is_struct(field.type)
        if is_struct and any(child.name == "bytes" and types.is_binary(child.type) for child in field.type):
            return field.name
        if field.name.lower() in _PICTURE_NAMES and (types.is_binary(field.type) or types.is_large_binary(field.type)):
            return field.name
    return None


def read_pictures(request: Request, file: "pyarrow.parquet.ParquetFile", column: str) -> Split:
    """Decodes the PNG or JPEG files in a column, and reads the column of labels.

    Args:
      request: the file, with the options for pictures.
      file: the opened file.
      column: the column of pictures.
    """
    path, names = request.path, file.schema_arrow.names
    features = _features(file.schema_arrow)
    wanted = request.options.label_column
    if wanted is not None and wanted not in names:
        raise unknown("column", wanted, names, f" Expected a column of {path}.")
    classes = [name for name in names if name in features and features[name].kind == "ClassLabel"]
    label = wanted or next((name for name in (*_LABEL_NAMES, *classes) if name in names and name != column), None)
    images, num_transparent = _decoded(request, file, column)
    labels, label_names, notes = None, None, []
    if label is not None:
        labels = labels_of_column(str(path), file.read(columns=[label]), label)
        label_names = features[label].names if label in features else None
        if label_names is not None and (
            labels.dtype.kind not in "iu" or not 0 <= labels.min() <= labels.max() < len(label_names)
        ):
            fix = "Leave these rows out." if labels.dtype.kind in "iu" and labels.min() == -1 else "The file is damaged."
            raise UserError(f"{path}: expected labels from 0 to {len(label_names) - 1} in {label!r}. {fix}")
    if num_transparent:
        notes.append(
            f"{path}: {num_transparent} of {len(images)} pictures had transparent pixels and were composited on black."
        )
    conditions = _conditions(request, file, column, features)
    if rest := [name for name in names if name not in (column, label, *request.options.condition)]:
        notes.append(f"{path}: {joined(rest)} {'is' if len(rest) == 1 else 'are'} not used.")
    return Split(
        images,
        train_labels=labels,
        assumed_level=255,
        channels_last=True,
        notes=tuple(notes),
        label_names=label_names,
        train_condition=conditions,
    )


def _conditions(
    request: Request, file: "pyarrow.parquet.ParquetFile", column: str, features: "dict[str, _Feature]"
) -> dict[str, np.ndarray] | None:
    """Returns the columns of the condition; classes that have names are words."""
    if not (wanted := request.options.condition):
        return None
    path, others = str(request.path), [name for name in file.schema_arrow.names if name != column]
    check_columns_exist(path, wanted, others)
    conditions = columns_of_table(path, file.read(columns=list(wanted)), wanted)
    for name, values in conditions.items():
        classes = features[name].names if name in features else None
        if classes and values.dtype.kind in "iu" and len(values) and 0 <= values.min() <= values.max() < len(classes):
            conditions[name] = named_codes(classes, values)
    return conditions


def _features(schema: "pyarrow.Schema") -> dict[str, _Feature]:
    """Returns the types of columns from the JSON in the metadata of the schema; empty where there is none that can be read."""
    try:
        info = json.loads((schema.metadata or {})[b"huggingface"])
        return {
            name: _Feature(str(feature.get("_type")), tuple(map(str, feature["names"])) if feature.get("names") else None)
            for name, feature in info["info"]["features"].items()
            if isinstance(feature, dict)
        }
    except (*UNREADABLE, AttributeError, RecursionError):
        return {}


def _contents(file: "pyarrow.parquet.ParquetFile", column: str) -> Iterator[bytes | None]:
    for batch in file.iter_batches(_BATCH, columns=[column]):
        for value in batch.column(0):
            content = value.as_py()
            yield content.get("bytes") if isinstance(content, dict) else content


def _decoded(request: Request, file: "pyarrow.parquet.ParquetFile", column: str) -> tuple[np.ndarray, int]:
    """Returns the pixels of all pictures, and how many of them had transparent pixels."""
    path, count = request.path, file.metadata.num_rows
    options = request.options
    images: np.ndarray | None = None
    num_transparent = 0
    index = -1
    for index, content in enumerate(_contents(file, column)):
        if content is None:
            raise UserError(
                f"{path}: expected the bytes of a picture in row {index} of {column!r}, got none. Pictures that lie in other "
                "files are not opened: save the data set with embed_external_files=True, or leave the row out."
            )
        picture = picture_from_bytes(content, f"{path}, row {index} of {column!r}", options)
        num_transparent += picture.was_transparent
        if images is None:
            check_fits_in_memory(path, count * picture.pixels.nbytes)
            images = np.empty((count, *picture.pixels.shape), picture.pixels.dtype)
        images, pixels = _alike(f"{path}, row {index} of {column!r}", images, picture)
        images[index] = pixels
    if images is None or index + 1 != count:
        raise UserError(f"{path}: expected {count} pictures in {column!r}, got {index + 1}. The file is damaged or empty.")
    return images, num_transparent


def _alike(name: str, images: np.ndarray, picture: Picture) -> tuple[np.ndarray, np.ndarray]:
    """Gives gray pictures three equal channels where others have color."""
    pixels = picture.pixels
    if pixels.shape[:2] != images.shape[1:3]:
        sizes = f"{images.shape[1:3]} (row 0) and {pixels.shape[:2]}"
        fix = "Pass `resize`, such as `resize=64`."
        raise UserError(f"{name}: expected images of one size (height, width), got {sizes}. {fix}", field="resize")
    if pixels.dtype != images.dtype:
        raise UserError(f"{name}: expected images of {images.dtype.itemsize * 8} bits, got {pixels.dtype}. Convert them.")
    if pixels.ndim < images.ndim - 1:
        pixels = np.repeat(pixels[..., np.newaxis], 3, axis=-1)
    elif pixels.ndim > images.ndim - 1:
        images = np.repeat(images[..., np.newaxis], 3, axis=-1)
    return images, pixels
