"""Imputation by the scripts: tables and arrays with missing entries, in the formats of a run, and what is refused."""

import csv
import json

import numpy as np
import pytest
from scripts import run

from vae_jax.cli import impute
from vae_jax.cli.messages import render
from vae_jax.errors import UserError

TRAIN = ("--epochs", 2, "--hidden", 8, "--latent-dim", 2, "--batch-size", 32, "--no-report")
NAMES = ["age", "height", "weight"]


def write_csv(path, rows, names=NAMES):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])


def read_csv(path):
    with path.open(newline="") as file:
        names, *rows = csv.reader(file)
    return names, rows


def table(rows=80, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=rows)
    return np.round(np.stack([40 + 10 * z, 1.7 + 0.1 * z, 70 + 5 * z + rng.normal(size=rows)], axis=1), 3)


@pytest.fixture(scope="module")
def reals(tmp_path_factory):
    """A folder with a run on a complete table, and the same rows with missing cells, labels and an integer column."""
    folder = tmp_path_factory.mktemp("impute")
    write_csv(folder / "train.csv", table().tolist())
    run("train.py", "--dataset", folder / "train.csv", "--likelihood", "gaussian", *TRAIN, "--out", folder / "run")
    return folder


@pytest.fixture(scope="module")
def levels(tmp_path_factory):
    """A folder with a run on binary vectors, stored as integers."""
    folder = tmp_path_factory.mktemp("impute_levels")
    x = (np.random.default_rng(0).random((80, 5)) < [0.1, 0.9, 0.5, 0.9, 0.1]).astype(np.uint8)
    np.save(folder / "train.npy", x)
    run("train.py", "--dataset", folder / "train.npy", *TRAIN, "--out", folder / "run")
    return folder


def test_a_table_keeps_its_cells_columns_and_types(reals, tmp_path):
    rows = [[str(int(a)), *map(str, rest), name] for (a, *rest), name in zip(table(6, 1), "abcabc", strict=True)]
    rows[1][0] = rows[2][1] = rows[2][2] = ""
    write_csv(tmp_path / "in.csv", rows, [*NAMES, "label"])
    done = run("impute.py", reals / "run", "--data", tmp_path / "in.csv", "--out", tmp_path / "out.csv", "--num-samples", 50)
    assert "imputed 3 missing entries of 2 of 6 rows; 50 samples worth" in done.stdout
    names, complete = read_csv(tmp_path / "out.csv")
    assert names == [*NAMES, "label"]
    for before, after in zip(rows, complete, strict=True):
        assert all(float(b) == float(a) if b[:1].isdigit() else not b or b == a for b, a in zip(before, after, strict=True))
    assert complete[1][0] == str(int(complete[1][0]))  # a whole number in a column of whole numbers
    assert all(np.isfinite([float(complete[2][1]), float(complete[2][2])]))
    names, stacked = read_csv(tmp_path / "out.imputations.csv")
    assert names == ["imputation", *NAMES, "label"]
    assert [row[0] for row in stacked] == [str(m) for m in range(1, 6) for _ in range(6)]
    assert all(row[1:] == complete[i % 6] for i, row in enumerate(stacked) if i % 6 not in (1, 2))
    assert len({row[2] for row in stacked[2::6]}) == 5


@pytest.mark.slow
def test_results_do_not_depend_on_other_rows(reals, tmp_path):
    x = table(9, 2)
    x[4, 0] = x[8, 1] = np.nan
    outputs = []
    for rows, seed in ((x, 0), (x[:6], 0), (x, 1)):
        np.save(tmp_path / "in.npy", rows)
        out = tmp_path / "out.npz"
        run(
            "impute.py",
            reals / "run",
            "--data",
            tmp_path / "in.npy",
            "--out",
            out,
            "--num-samples",
            40,
            "--overwrite",
            "--seed",
            seed,
        )
        outputs.append(dict(np.load(out)))
    one, fewer, other = outputs
    assert {name: array.shape for name, array in one.items()} == {
        "mean": (9, 3),
        "imputations": (5, 9, 3),
        "effective_sample_size": (9,),
        "mask": (9, 3),
    }
    np.testing.assert_allclose(one["mean"][:6], fewer["mean"], rtol=1e-5)
    assert one["mean"][4, 0] != other["mean"][4, 0]
    np.testing.assert_array_equal(one["mask"], ~np.isnan(x))
    np.testing.assert_array_equal(one["mean"][one["mask"]], np.float32(x[one["mask"]]))
    assert np.all(one["imputations"][:, one["mask"]] == np.float32(x[one["mask"]]))


@pytest.mark.slow
def test_a_complete_file_is_written_as_it_is(reals, tmp_path):
    write_csv(tmp_path / "in.csv", table(4, 3).tolist())
    done = run("impute.py", reals / "run", "--data", tmp_path / "in.csv", "--out", tmp_path / "out.csv", "--num-imputations", 0)
    assert "nothing is missing" in done.stdout
    assert [[float(v) for v in row] for row in read_csv(tmp_path / "out.csv")[1]] == table(4, 3).tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv"]


@pytest.mark.slow
def test_classes_get_their_mode_and_masks_mark_missing_integers(levels, tmp_path):
    x = np.load(levels / "train.npy")[:7]
    mask = np.ones(x.shape, bool)
    mask[3, 1] = mask[5] = False
    np.savez(tmp_path / "in.npz", x=np.where(mask, x, 1 - x), mask=mask)
    run("impute.py", levels / "run", "--data", tmp_path / "in.npz", "--out", tmp_path / "out.npz", "--num-samples", 60)
    out = dict(np.load(tmp_path / "out.npz"))
    assert set(np.unique(out["mean"])) <= {0, 1}
    assert out["imputations"].dtype == np.uint8
    np.testing.assert_array_equal(out["mean"][mask], x[mask])
    np.testing.assert_array_equal(out["mean"][5], [0, 1, out["mean"][5, 2], 1, 0])  # the prior's modes
    # NaN needs floats, and marks the same entries of the same integers.
    np.save(tmp_path / "nan.npy", np.where(mask, x, np.nan))
    run("impute.py", levels / "run", "--data", tmp_path / "nan.npy", "--out", tmp_path / "out.npy", "--num-samples", 60)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), out["mean"])


def test_what_does_not_fit_is_one_line_and_nothing_is_written(reals, levels, tmp_path):
    write_csv(tmp_path / "other.csv", [[1, 2, ""]], ["age", "size", "weight"])
    write_csv(tmp_path / "fine.csv", [[40, 1.7, ""]])
    (tmp_path / "there.csv").write_text("kept")
    np.save(tmp_path / "wide.npy", np.full((2, 4), np.nan))
    np.save(tmp_path / "gray.npy", np.array([[0, 0.5, np.nan, 1, 1]]))
    fine, before = tmp_path / "fine.csv", sorted(tmp_path.iterdir())
    for folder, flags, message in (  # in this process, because most of them end before anything is loaded
        (reals, (), "--data: expected a file with missing entries"),
        (reals, ("--data", tmp_path / "none.csv", "--out", tmp_path / "o.csv"), "none.csv: no such file or folder"),
        (reals, ("--data", fine), "--out: expected a file to write, ending in .npz, .npy, .csv or .parquet"),
        (reals, ("--data", fine, "--out", tmp_path / "there.csv"), "exists. Add --overwrite, or choose a different name."),
        (reals, ("--data", fine, "--out", fine, "--overwrite"), "it is the file to read"),
        (reals, ("--data", fine, "--out", tmp_path / "no" / "o.csv"), "is not a folder"),
        (
            reals,
            ("--data", fine, "--out", tmp_path / "o.csv", "--num-samples", 0),
            "--num-samples: expected a whole number >= 1",
        ),
        (reals, ("--data", fine, "--out", tmp_path / "o.csv", "--condition", fine), "--condition: the run has no condition"),
        (reals, ("--data", tmp_path / "other.csv", "--out", tmp_path / "o.csv"), "column"),
        (reals, ("--data", tmp_path / "wide.npy", "--out", tmp_path / "o.npz"), "(4,)"),
        (levels, ("--data", tmp_path / "gray.npy", "--out", tmp_path / "o.npz"), "gray.npy"),
    ):
        with pytest.raises(UserError) as error:
            impute.main([str(folder / "run"), *map(str, flags)])
        assert message in render(error.value), (flags, error.value)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "there.csv").read_text() == "kept"


@pytest.mark.slow
def test_few_effective_samples_are_reported(reals, tmp_path):
    write_csv(tmp_path / "in.csv", [[400, 17, ""], [40, 1.7, ""]])
    done = run("impute.py", reals / "run", "--data", tmp_path / "in.csv", "--out", tmp_path / "out.csv")
    assert "1 of 2 rows has fewer than 10 effective samples of 1000: raise --num-samples." in done.stderr


@pytest.mark.slow
def test_evaluate_hides_entries_and_compares_with_other_methods(reals):
    done = run("evaluate.py", reals / "run", "--hide", 0.4, "--num-samples", 50)
    assert "| this model | " in done.stdout
    hidden = json.loads((reals / "run" / "evaluation.json").read_text())["hidden_entries"]
    assert list(hidden["methods"]) == ["vae", "mean", "IterativeImputer", "conditional Gaussian"]
    for scores in hidden["methods"].values():
        assert 0 < scores["rmse"] < 10
        assert scores["rmse_standard_error"] > 0
        assert list(scores["by_column"]) == NAMES
    methods = hidden["methods"]
    assert methods["conditional Gaussian"]["rmse"] < methods["mean"]["rmse"]  # the columns are correlated
    assert hidden["log_px_observed_mean"] < 0


@pytest.mark.slow
def test_evaluate_hides_classes(levels):
    done = run("evaluate.py", levels / "run", "--hide", 0.5, "--hide-seed", 3, "--num-samples", 50)
    assert "accuracy of classes" in done.stdout
    methods = json.loads((levels / "run" / "evaluation.json").read_text())["hidden_entries"]["methods"]
    assert all(0.5 < scores["accuracy"] <= 1 for scores in methods.values())
    done = run("evaluate.py", levels / "run", "--hide", 1.5, check=False)
    assert (done.returncode, done.stderr) == (2, "error: --hide: expected a share from 0 to below 1, got 1.5.\n")


@pytest.mark.slow
def test_the_training_file_itself_is_imputed(reals, tmp_path):
    done = run("impute.py", reals / "run", "--data", reals / "train.csv", "--out", tmp_path / "out.csv", "--num-imputations", 0)
    assert f"{reals / 'train.csv'}: nothing is missing" in done.stdout
