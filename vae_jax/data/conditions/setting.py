"""The text of the setting `condition`: labels, factors, names of columns, or a file. Imports neither jax nor pyarrow."""

import os
import re
from typing import Literal, NamedTuple

from vae_jax.errors import UserError

# A text with one of these endings is a file. A column of such a name can be put in quotes.
FILE_ENDINGS = (".npy", ".npz", ".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet", ".parq")
_NAME = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^",]*))\s*(,|$)')


class ConditionText(NamedTuple):
    """The meaning of a condition.

    Attributes:
      kind: "none", "labels", "factors", "names" of columns or factors, or "file" for a file or a folder of files by part.
      names: the names, where these are meant.
      path: the file or folder, where one is meant.
    """

    kind: Literal["none", "labels", "factors", "names", "file"]
    names: tuple[str, ...] = ()
    path: str = ""


def parse_condition(text: str) -> ConditionText:
    """Returns the meaning of the text of a condition, in this order.

    1. The words labels and factors.
    2. A file: a text that ends in .npy, .npz, .csv, .tsv or .parquet; or a folder, written with a slash, as "./conditions".
    3. Names of columns of a table, or of factors, with commas between them. A name in double quotes may have commas in it, and
       is always a name: '"labels"' is the column of that name.

    Raises:
      UserError: an empty name, a name that comes twice, or quotes that do not close.

    Example:
      >>> parse_condition('age, "height, cm"').names
      ('age', 'height, cm')
      >>> parse_condition("labels").kind, parse_condition("covariates.csv").kind
      ('labels', 'file')
    """
    if not text:
        return ConditionText("none")
    if text == "labels" or text == "factors":
        return ConditionText(text)
    if is_condition_path(text):
        return ConditionText("file", path=text)
    names: list[str] = []
    position, separator = 0, ","
    while separator:
        match = _NAME.match(text, position)
        if match is None:
            raise UserError(
                f"expected names with commas between them, got {text!r}.",
                field="condition",
                fix='Put a name with commas or quotes in double quotes, and double the quotes in it: "height, cm".',
            )
        quoted, plain, separator = match.groups()
        name = plain.strip() if quoted is None else quoted.replace('""', '"')
        if not name:
            raise UserError(f"expected names with commas between them, got an empty one in {text!r}.", field="condition")
        if name in names:
            raise UserError(f"{name!r} is named twice in {text!r}.", field="condition", fix="Name each column once.")
        names.append(name)
        position = match.end()
    return ConditionText("names", tuple(names))


def is_condition_path(text: str) -> bool:
    """Returns whether the text of a condition is a file, or a folder that is written with a slash."""
    if text.startswith('"'):
        return False
    if text.startswith(("/", "./", "../", "~")):
        return True
    if text.lower().endswith(FILE_ENDINGS):
        return "," not in text or os.path.lexists(os.path.expanduser(text))
    return os.sep in text and os.path.isdir(text)
