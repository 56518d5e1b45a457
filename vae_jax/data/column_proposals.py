"""Proposes a likelihood for each column of a table, from its values, and reads the likelihoods that the user chooses."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vae_jax.data.column_types import ColumnType
from vae_jax.data.dataset import Dataset
from vae_jax.data.readers.listing import joined
from vae_jax.errors import UserError, unknown

LEFT_OUT = "none"  # in place of a likelihood: the column is not part of the examples
AUTO = "auto"  # in place of all columns: propose them, and take `bernoulli` where it suits every column
# Names of likelihoods for a column; those with a number after a colon take it as this.
LIKELIHOODS: dict[str, str] = {
    "bernoulli": "",
    "categorical": "",
    "gaussian": "",
    "laplace": "",
    "student_t": "degrees of freedom",
    "poisson": "",
    "negative_binomial": "",
    "zero_inflated_negative_binomial": "",
    "continuous_bernoulli": "",
}
# Integers are categories where there are at most this many different ones, and each occurs in 20 rows on average. Ratings,
# months and codes of levels are such; ages and most counts are not. A category costs one decoder output and is learned by
# itself, so it needs rows to be learned from.
_MAX_INTEGER_CATEGORIES, _ROWS_PER_CATEGORY = 12, 20
# Text has no other likelihood, so more categories are allowed. Text that differs in more than half of the rows names them.
_MAX_TEXT_CATEGORIES, _MAX_TEXT_SHARE = 1000, 0.5
_MAX_CATEGORIES = 10_000  # that a user may ask for
_IDENTIFIERS = ("id", "index", "idx", "key", "uuid", "rownames", "row_id")
_MIN_IDENTIFIED_ROWS = 20
_LARGEST_EXACT = 2**24  # the largest count up to which float32 has every whole number


class ColumnPlan(NamedTuple):
    """One column of a table, the values seen in it, and its likelihood.

    Attributes:
      name: the column.
      seen: the values in words, such as "3 categories: no, unknown, yes".
      likelihood: its name, with a number after a colon for "student_t:3"; "none" for a column that is left out.
      reason: why it is left out, or what to know of it; "" otherwise.
    """

    name: str
    seen: str
    likelihood: str
    reason: str = ""

    @property
    def setting(self) -> str:
        """The column and its likelihood as one word, as the setting `columns` has it."""
        return f"{self.name}={self.likelihood}"


class ColumnFacts(NamedTuple):
    """Facts about the training data of one column, from which its likelihood starts.

    Attributes:
      name: the column.
      likelihood: name of its likelihood.
      number: the number after the colon, if there is one.
      mean, std: over observed entries.
      values: the different numbers in all parts of the data, in increasing order, for a categorical likelihood; else ().
      frequencies: the share of each of them in the training set.
    """

    name: str
    likelihood: str
    number: float | None
    mean: float
    std: float
    values: tuple[float, ...] = ()
    frequencies: tuple[float, ...] = ()


def check_mixed(dataset: Dataset) -> None:
    """Raises `UserError` unless a data set has vectors in memory, whose columns may have likelihoods of their own."""
    if is_dense_table(dataset):
        return
    got = "a sparse matrix" if len(dataset.data_shape) == 1 and not hasattr(dataset.train, "scan") else "other data"
    if len(dataset.data_shape) != 1:
        got = f"examples of shape {dataset.data_shape}"
    elif hasattr(dataset.train, "stored"):
        got = "examples that are streamed from disk. Leave out `stream=True`"
    elif dataset.max_level not in (None, 1):
        got = f"levels from 0 to {dataset.max_level} stored as bytes. Save x.astype(np.int32)"
    raise UserError(f'{dataset.name}: `likelihood="columns"` expects vectors with a column for each number, got {got}.')


def is_dense_table(dataset: Dataset) -> bool:
    """Returns whether a data set has vectors in memory, with numbers rather than levels of pixels."""
    return len(dataset.data_shape) == 1 and isinstance(dataset.train, np.ndarray) and dataset.max_level in (None, 1)


def types_of(dataset: Dataset) -> tuple[ColumnType, ...]:
    """Returns the type of each column of a data set of vectors.

    Columns of arrays have the type of the array. Those without names are called 0, 1, 2, ...
    """
    return dataset.column_types or types_of_numbers(dataset.data_shape[0], dataset.column_names, dataset.train.dtype)


def types_of_numbers(width: int, column_names: Sequence[str] | None, dtype: np.dtype) -> tuple[ColumnType, ...]:
    """Returns the types of the columns of vectors that are no mixed table; those without names are called 0, 1, 2, ..."""
    names = column_names or tuple(map(str, range(width)))
    return tuple(ColumnType(name, None, "float32" if dtype == np.float32 else "int64") for name in names)


def _observed(dataset: Dataset, column: int, parts: Sequence[str] = ("train", "validation", "test")) -> np.ndarray:
    """Returns the observed numbers of a column in some parts."""
    arrays = []
    for part in parts:
        if (array := getattr(dataset, part)) is not None:
            mask = getattr(dataset, f"{part}_mask")
            arrays.append(array[:, column] if mask is None else array[:, column][mask[:, column]])
    return np.concatenate(arrays)


def propose(dataset: Dataset) -> tuple[ColumnPlan, ...]:
    """Proposes a likelihood for each column, by the first rule that holds.

    1. One value in all rows: none, the column is left out.
    2. Booleans, and numbers that are all 0 or 1: bernoulli.
    3. Text: categorical; none where more than half of the values differ, as in names and free text, or with more than 1,000
       different ones.
       Dates: none.
    4. Integers that identify the rows, all different in at least 20 rows, and named id or index or without gaps: none.
    5. Integers, of at most 12 different values, each in at least 20 rows on average: categorical.
    6. Other integers >= 0, up to 2^24: negative_binomial.
    7. Other integers, and real numbers: gaussian.

    Integers are those of integer columns, and whole numbers in a column of reals with missing values, as pandas stores integers
    that have some.
    """
    return tuple(_propose(kind, _observed(dataset, i), _has_missing(dataset, i)) for i, kind in enumerate(types_of(dataset)))


def _has_missing(dataset: Dataset, column: int) -> bool:
    masks = (getattr(dataset, f"{part}_mask") for part in ("train", "validation", "test"))
    return any(mask is not None and not mask[:, column].all() for mask in masks)


def _propose(kind: ColumnType, observed: np.ndarray, has_missing: bool) -> ColumnPlan:
    """Proposes the likelihood of one column."""
    distinct = np.unique(observed)
    is_whole = kind.is_integer or (has_missing and bool(np.array_equal(distinct, np.round(distinct))))
    seen = _describe(kind, distinct, is_whole) + (", some missing" if has_missing else "")
    if not len(distinct):
        return ColumnPlan(kind.name, "no values", LEFT_OUT, "it has no values")
    if len(distinct) == 1:
        return ColumnPlan(kind.name, seen, LEFT_OUT, "it is the same in all rows")
    if kind.dtype == "bool" or (kind.categories is None and distinct.tolist() == [0, 1]):
        return ColumnPlan(kind.name, seen, "bernoulli")
    if kind.is_date:
        return ColumnPlan(kind.name, seen, LEFT_OUT, "it has dates; to model them, convert them to numbers, such as days")
    if kind.categories is not None:
        if len(distinct) > max(_MAX_TEXT_SHARE * len(observed), 2) or len(distinct) > _MAX_TEXT_CATEGORIES:
            return ColumnPlan(kind.name, seen, LEFT_OUT, "its text differs in too many rows to be learned")
        return ColumnPlan(kind.name, seen, "categorical")
    if not is_whole:
        return ColumnPlan(kind.name, seen, "gaussian")
    if _identifies_rows(kind.name, observed, distinct):
        return ColumnPlan(kind.name, seen, LEFT_OUT, "it has a different number in each row, which identifies the row")
    if len(distinct) <= min(_MAX_INTEGER_CATEGORIES, len(observed) / _ROWS_PER_CATEGORY):
        return ColumnPlan(kind.name, seen, "categorical")
    if max(-distinct[0], distinct[-1]) > _LARGEST_EXACT:
        return ColumnPlan(kind.name, seen, "gaussian", "whole numbers beyond 2^24 are rounded to the 24 bits of float32")
    return ColumnPlan(kind.name, seen, "negative_binomial" if distinct[0] >= 0 else "gaussian")


def _identifies_rows(name: str, observed: np.ndarray, distinct: np.ndarray) -> bool:
    """Returns whether whole numbers only identify the rows."""
    if len(distinct) < len(observed) or len(observed) < _MIN_IDENTIFIED_ROWS:
        return False
    text = name.strip().lower().replace("-", "_").replace(" ", "_")
    is_named = text in _IDENTIFIERS or text.endswith("_id")
    return is_named or float(distinct[-1]) - float(distinct[0]) == len(distinct) - 1


def _describe(kind: ColumnType, distinct: np.ndarray, is_whole: bool) -> str:
    """Describes the values of a column."""
    if not len(distinct):
        return "no values"
    low, high = (f"{value:.6g}".replace("-", "−") for value in (distinct[0], distinct[-1]))
    if kind.categories is not None:
        present = [kind.categories[int(code)] for code in distinct]
        noun = "category" if len(present) == 1 else "categories"
        return f"{len(present)} {noun}: {joined((text if len(text) <= 20 else text[:19] + '…' for text in present), limit=3)}"
    if kind.dtype == "bool":
        return "booleans"
    if len(distinct) <= 3:
        return f"{'integers' if is_whole else 'numbers'} " + ", ".join(f"{v:.6g}".replace("-", "−") for v in distinct)
    if is_whole:
        return f"{len(distinct)} integers from {low} to {high}"
    return f"real numbers from {low} to {high}"


def parse_columns(settings: Sequence[str]) -> dict[str, str]:
    """Returns the likelihood of each column that the setting `columns` names, in the order of the setting.

    Args:
      settings: texts such as "age=gaussian" or "grade=student_t:3", and paths of JSON files {"age": "gaussian", ...}.

    Raises:
      UserError: a text without a likelihood, a file that cannot be read, an unknown likelihood, or a column named twice.
    """
    chosen: dict[str, str] = {}
    for setting in settings:
        pairs = (
            [setting.rsplit("=", 1)] if "=" in setting and not Path(setting).is_file() else list(_read_file(setting).items())
        )
        for name, likelihood in pairs:
            name, likelihood = name.strip(), likelihood.strip()
            if name in chosen and chosen[name] != likelihood:
                raise UserError(
                    field="columns", message=f"the column {name!r} has two likelihoods, {chosen[name]} and {likelihood}."
                )
            split_likelihood(name, likelihood)
            chosen[name] = likelihood
    return chosen


def _read_file(path: str) -> Mapping[str, str]:
    """Reads a JSON file with the likelihood of each column."""
    try:
        content = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            field="columns",
            message=f"expected COLUMN=LIKELIHOOD, such as age=gaussian, or a JSON file, got {path!r}, which is not a file.",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(field="columns", message=f"{path}: not a readable JSON file. {reason}.") from None
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
        raise UserError(field="columns", message=f'{path}: expected {{"column": "likelihood", ...}} with texts.')
    return content


def split_likelihood(name: str, likelihood: str) -> tuple[str, float | None]:
    """Returns the name of a column's likelihood and the number after the colon, if there is one.

    Raises:
      UserError: it is unknown, or it does not take this number.
    """
    kind, colon, text = likelihood.partition(":")
    options = [*LIKELIHOODS, LEFT_OUT]
    if kind not in options:
        hint = f" It is that of the column {name!r}. Expected {', '.join(options[:-1])}, or {LEFT_OUT} to leave the column out."
        raise unknown("likelihood", kind, options, hint, list_all=False)
    if not colon:
        return kind, None
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not LIKELIHOODS.get(kind) or not 1e-3 <= number <= 1e9:
        meaning = LIKELIHOODS.get(kind)
        expected = f"{kind}:NUMBER with {meaning} > 0" if meaning else f"{kind} without a number"
        raise UserError(field="columns", message=f"the column {name!r}: expected {expected}, got {likelihood!r}.")
    return kind, number


def plan_columns(dataset: Dataset, settings: Sequence[str]) -> tuple[ColumnPlan, ...]:
    """Returns the likelihood of each column: that of the setting `columns`, or else the proposed one.

    Raises:
      UserError: columns that the data do not have, likelihoods that do not suit the values of their column, or no column left.
    """
    check_mixed(dataset)
    chosen, types = parse_columns([setting for setting in settings if setting != AUTO]), types_of(dataset)
    names = [kind.name for kind in types]
    for name in chosen:
        if name not in names:
            hint = f" Expected a column of {dataset.name}."
            if name in (dataset.label_names or ()):
                hint += f" {name!r} is a label."
            raise unknown("column", name, names, hint)
    plans = []
    for i, proposal in enumerate(propose(dataset)):
        if (likelihood := chosen.get(proposal.name)) is None:
            plans.append(proposal)
            continue
        reason = "as chosen" if likelihood == LEFT_OUT else ""
        plans.append(proposal._replace(likelihood=likelihood, reason=reason))
        _check_suits(dataset.name, types[i], likelihood, np.unique(_observed(dataset, i)))
    for i, (plan, kind) in enumerate(zip(plans, types, strict=True)):
        if plan.likelihood != LEFT_OUT and kind.num_known is not None and kind.categories is not None:
            present = np.unique(_observed(dataset, i, ("validation", "test"))).astype(int)
            if unseen := [kind.categories[code] for code in present if code >= kind.num_known]:
                raise UserError(
                    f"{dataset.name}: the column {kind.name!r} of the validation or test set has categories that the training "
                    f"set does not have: {joined(unseen)}.",
                    fix="Leave out these rows, or move some of them into the training set.",
                )
    if all(plan.likelihood == LEFT_OUT for plan in plans):
        reasons = "; ".join(f"{plan.name}: {plan.reason}" for plan in plans[:3])
        raise UserError(f"{dataset.name}: every column is left out ({reasons}). Choose likelihoods by `columns`.")
    return tuple(plans)


def _check_suits(name: str, kind: ColumnType, likelihood: str, distinct: np.ndarray) -> None:
    """Raises `UserError` where the values of a column are not those of its likelihood."""
    family, _ = split_likelihood(kind.name, likelihood)
    if family == LEFT_OUT:
        return
    if not len(distinct):
        raise UserError(f"{name}: the column {kind.name!r} has no values.", field="columns", fix=f"Use {kind.name}={LEFT_OUT}.")
    is_whole, low, high = bool(np.array_equal(distinct, np.round(distinct))), float(distinct[0]), float(distinct[-1])
    problem, expected = "", ""
    if kind.categories is not None and family != "categorical" and not (family == "bernoulli" and len(kind.categories) == 2):
        problem, expected = "text", "numbers"
    elif family == "bernoulli" and not set(distinct.tolist()) <= {0, 1}:
        problem, expected = f"{low:g} to {high:g}" + ("" if is_whole else " with fractions"), "zeros and ones"
    elif family == "categorical" and (not 2 <= len(distinct) <= _MAX_CATEGORIES or not is_whole):
        what = f"{len(distinct)} different values" if is_whole else f"numbers with fractions, {low:g} to {high:g}"
        problem, expected = what, f"2 to {_MAX_CATEGORIES:,} different whole numbers or texts"
    elif family in ("poisson", "negative_binomial", "zero_inflated_negative_binomial") and (low < 0 or not is_whole):
        problem, expected = f"{low:g} to {high:g}" + ("" if is_whole else " with fractions"), "counts (whole numbers >= 0)"
    elif family == "continuous_bernoulli" and (low < 0 or high > 1):
        problem, expected = f"{low:g} to {high:g}", "numbers in [0, 1]"
    if problem:
        text = f"{name}: the column {kind.name!r} has {problem}, and {family} expects {expected}."
        raise UserError(text, field="columns", fix=f"Choose a different likelihood for it, or {kind.name}={LEFT_OUT}.")


def column_facts(dataset: Dataset, plans: Sequence[ColumnPlan]) -> tuple[ColumnFacts, ...]:
    """Returns the facts about the columns of a data set, from which those without a likelihood are left out already."""
    facts = []
    for i, plan in enumerate(plan for plan in plans if plan.likelihood != LEFT_OUT):
        family, number = split_likelihood(plan.name, plan.likelihood)
        train = _observed(dataset, i, ("train",)).astype(np.float64)
        mean, std = (float(train.mean()), float(train.std())) if len(train) else (0.0, 1.0)
        std = std if std > 1e-9 * abs(mean) else 1.0
        values, counts = (), ()
        if family == "categorical":
            kind = types_of(dataset)[i]
            present = np.unique(_observed(dataset, i))
            values = np.arange(len(kind.categories)) if kind.categories is not None else present
            counts = [(train == value).sum() for value in values]
        shares = tuple(float(count / max(len(train), 1)) for count in counts)
        facts.append(ColumnFacts(plan.name, family, number, mean, std, tuple(map(float, values)), shares))
    return tuple(facts)
