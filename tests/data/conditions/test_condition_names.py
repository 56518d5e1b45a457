"""The text of a condition: words, files, and names with commas between them."""

import pytest

from vae_jax.data.conditions.setting import is_condition_path, parse_condition
from vae_jax.errors import UserError


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("age", ("age",)),
        ("age,sex", ("age", "sex")),
        (" age , cell type ", ("age", "cell type")),
        ('"height, cm",age', ("height, cm", "age")),
        ('"say ""hi""", b', ('say "hi"', "b")),
        ('"labels"', ("labels",)),
        ('"factors", x', ("factors", "x")),
        ('"x.csv"', ("x.csv",)),
        ("a,b.csv", ("a", "b.csv")),
        ("labels,age", ("labels", "age")),
        ("rate/s", ("rate/s",)),
    ],
)
def test_names(text, names):
    assert parse_condition(text) == ("names", names, "")


@pytest.mark.parametrize("text", ["labels", "factors", ""])
def test_words(text):
    assert parse_condition(text).kind == (text or "none")


@pytest.mark.parametrize("text", ["c.npy", "C.NPZ", "a b.csv", "x.tsv.gz", "x.parquet", "/c", "./labels", "~/c", "../c"])
def test_files(text):
    assert parse_condition(text) == ("file", (), text)


def test_a_folder_is_a_path_and_a_name_without_a_slash_is_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "batch" / "inner").mkdir(parents=True)
    (tmp_path / "a,b.csv").touch()
    assert is_condition_path("batch/inner")
    assert is_condition_path("batch/")
    assert not is_condition_path("batch")
    assert is_condition_path("a,b.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,,b", "empty one in 'a,,b'"),
        ("a,", "empty one"),
        (",", "empty one"),
        ('""', "empty one"),
        ("a,b,a", "'a' is named twice"),
        ('"a,b', "double quotes"),
        ('a"b', "double quotes"),
        ('"a"b', "double quotes"),
    ],
)
def test_texts_that_mean_nothing_are_refused(text, message):
    with pytest.raises(UserError, match=message) as caught:
        parse_condition(text)
    assert caught.value.field == "condition"
