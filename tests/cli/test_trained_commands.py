"""encode, reconstruct, score, sample and interpolate write files that others read, whole or not at all."""

import csv
import os
import signal
import subprocess
import sys

import mixed_csv
import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
from paths import ROOT
from PIL import Image

from vae_jax import data, runs
from vae_jax.build import build
from vae_jax.cli.main import run_command
from vae_jax.cli.output import Output, write_results
from vae_jax.cli.output import run_command as run_interruptible
from vae_jax.cli.score import UnlikelyRows
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.runs.trained.scoring import Scores

SMALL = dict(hidden=(16,), latent_dim=2, epochs=1, batch_size=64)


def command(*words):
    return run_command([str(word) for word in words])


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A run on gray images of 256 levels, and new images with labels."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    x, labels = rng.integers(0, 256, (300, 4, 3, 1), np.uint8), np.arange(300) % 3
    runs.train(build(Config(likelihood="gaussian", **SMALL), dataset=data.from_arrays(x)), folder / "run")
    np.savez(folder / "new.npz", x=x, labels=labels)
    return folder, x, labels


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A run on a CSV file with columns of every kind, and new rows with the columns in another order."""
    folder = tmp_path_factory.mktemp("table")
    file = mixed_csv.write_csv(folder / "people.csv", mixed_csv.content())
    runs.train(build(Config(dataset=str(file), likelihood="columns", missing="nan", **SMALL)), folder / "run")
    file.unlink()  # the training data are not needed
    mixed_csv.write_csv(folder / "new.csv", dict(reversed(mixed_csv.content(rows=150, seed=1).items())))
    return folder


def test_codes_as_archive_and_tables(images, tmp_path):
    folder, x, labels = images
    for ending in ("npz", "csv", "parquet"):
        size = ("--batch-size", 128, "--num-draws", 2, "--seed", 3)
        assert (
            command("encode", folder / "run", "--data", folder / "new.npz", "--out", tmp_path / f"codes.{ending}", *size) == 0
        )
    expected = runs.encode(runs.load_model(folder / "run"), x, num_draws=2, seed=3)
    with np.load(tmp_path / "codes.npz") as codes:
        for name in expected._fields:
            np.testing.assert_array_equal(codes[name], getattr(expected, name))
        np.testing.assert_array_equal(codes["label"], labels)
    for written in (pyarrow.parquet.read_table(tmp_path / "codes.parquet"), pyarrow.csv.read_csv(tmp_path / "codes.csv")):
        assert written.column_names[:3] == ["row", "label", "means_0"]
        assert written["row"].to_pylist() == list(range(300))
        assert written["label"].to_pylist() == labels.tolist()
        np.testing.assert_array_equal(written["log_scales_1"].to_numpy().astype(np.float32), expected.log_scales[:, 1])
        np.testing.assert_array_equal(written["draws_1_0"].to_numpy().astype(np.float32), expected.draws[:, 1, 0])


@pytest.mark.slow
def test_reconstructed_and_sampled_tables_have_the_original_columns(table, tmp_path):
    folder = table
    model = runs.load_model(folder / "run")
    kinds = {kind.name: kind for kind in model.description.column_types}
    for name in ("reconstruct", "sample"):
        source = ("--data", folder / "new.csv") if name == "reconstruct" else ("--num", 150)
        for ending in ("csv", "parquet"):
            assert command(name, folder / "run", *source, "--out", tmp_path / f"{name}.{ending}") == 0
        written = pyarrow.parquet.read_table(tmp_path / f"{name}.parquet")
        assert set(written.column_names) - {"row"} == set(kinds)
        with (tmp_path / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == written.num_rows == 150
        for column, kind in kinds.items():
            if kind.categories is not None:
                assert {row[column] for row in rows} <= set(kind.categories)
            elif kind.is_integer:
                assert str(written.schema.field(column).type) == kind.dtype
    assert command("score", folder / "run", "--data", folder / "new.csv", "--num-samples", 5, "--out", tmp_path / "s.csv") == 0
    scores = pyarrow.csv.read_csv(tmp_path / "s.csv")
    expected = runs.score(model, folder / "new.csv", num_samples=5)
    np.testing.assert_array_equal(scores["elbo"].to_numpy(), expected.elbo)
    assert {"log_px", "standard_error", "elbo_quantile", "log_px_quantile"} <= set(scores.column_names)


def test_the_last_line_of_score_names_unlikely_rows():
    rows = UnlikelyRows()
    assert rows.summary().startswith("no row is less likely than every training example")
    for quantiles in ([0.5, 0.0, 1.0], [0.001, 0.0], [0.0] * 12):
        nothing = np.zeros(len(quantiles))
        rows.add(Scores(*[nothing] * 7, elbo_quantile=nothing, log_px_quantile=np.array(quantiles)))
    assert rows.summary().startswith("14 rows are less likely")
    assert rows.summary().endswith(": 1, 4, 5, 6, 7, 8, 9, 10, 11, 12 ... (counted from 0)")


def test_samples_in_the_layouts_of_fid_programs(images, tmp_path):
    folder, _, _ = images
    assert command("sample", folder / "run", "--num", 70, "--rgb", "--out", tmp_path / "x.npz") == 0
    with np.load(tmp_path / "x.npz") as archive:
        assert archive.files == ["arr_0"]
        pixels = archive["arr_0"]
    assert pixels.dtype == np.uint8
    assert pixels.shape == (70, 4, 3, 3)
    assert command("sample", folder / "run", "--num", 70, "--out", tmp_path / "x") == 0
    files = sorted((tmp_path / "x").iterdir())
    assert [file.name for file in files[:2]] == ["000000.png", "000001.png"]
    shown = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    np.testing.assert_array_equal(shown, pixels)
    np.testing.assert_array_equal(runs.sample(runs.load_model(folder / "run"), 70), pixels[..., :1])
    assert command("sample", folder / "run", "--num", 2, "--out", tmp_path / "x", "--overwrite") == 0
    assert len(list((tmp_path / "x").iterdir())) == 2
    new = ("--data", folder / "new.npz", "--first", 3, "--last", 9, "--steps", 4)
    assert command("interpolate", folder / "run", *new, "--out", tmp_path / "way") == 0
    assert len(list((tmp_path / "way").iterdir())) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["way", "x", "x.npz"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("encode {run} --data {new}", "expected a name to write"),
        ("encode {run} --data {new} --out {tmp}/codes.txt", "ending in"),
        ("encode {run} --data {new} --out {tmp}/folder", "ending in"),
        ("encode {run} --data {new} --out {tmp}/none/codes.csv", "not a folder"),
        ("encode {run} --data {new} --out {tmp}/there.csv", "exists"),
        ("encode {run} --data {tmp}/there.csv --out {tmp}/there.csv --overwrite", "the data to read"),
        ("encode {run} --out {tmp}/codes.csv", "data: expected a file"),
        ("encode {tmp}/none --data {new} --out {tmp}/codes.csv", "no such run"),
        ("encode {run} --data {tmp}/wide.npy --out {tmp}/codes.csv", "shape"),
        ("encode {run} --data {new} --member 3 --out {tmp}/codes.csv", "no members"),
        ("score {run} --data {new} --num-samples 0 --out {tmp}/codes.csv", "num_samples"),
        ("reconstruct {run} --data {new} --out {tmp}/images.csv", "tables have vectors"),
        ("sample {run} --num 0 --out {tmp}/x.npz", "num"),
        ("sample {run} --draw --mean --out {tmp}/x.npz", "either `draw` or `mean`"),
        ("sample {run} --condition label=3 --out {tmp}/x.npz", "no condition"),
        ("sample {run} --out {tmp}/full --overwrite", "other files"),
        ("interpolate {run} --data {new} --last 5000 --out {tmp}/x.npz", "a row from 0 to 299"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_is_written(images, tmp_path, words, message):
    folder, _, _ = images
    (tmp_path / "there.csv").write_text("a,b\n1,2\n")
    np.save(tmp_path / "wide.npy", np.zeros((5, 7, 7, 1), np.uint8))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("all of it")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message):
        command(*words.format(run=folder / "run", new=folder / "new.npz", tmp=tmp_path).split())
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["x.npz", "x.csv", "folder"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing(tmp_path, name, number):
    pixels = np.zeros((5, 4, 4, 1), np.uint8)
    to_table = lambda first, part: pyarrow.table({"a": part.ravel()})  # noqa: E731
    output = Output(lambda first, part: {"arr_0": part}, to_table, lambda first, part: part)

    def chunks(report):
        yield pixels
        report(5)
        os.kill(os.getpid(), number)
        yield pixels

    assert run_interruptible(lambda: write_results(tmp_path / name, 10, chunks, output)) == 128 + number
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(number) is not None


def test_an_error_in_the_middle_leaves_nothing(tmp_path):
    def chunks(report):
        yield np.zeros((5, 2))
        yield np.zeros((5, 3))  # does not fit to the rows before

    output = Output(lambda first, part: {"arr_0": part}, lambda first, part: pyarrow.table({}))
    with pytest.raises(ValueError, match="expected rows"):
        write_results(tmp_path / "x.npz", 10, chunks, output)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_installed_wheel_needs_no_training_data(table, images, tmp_path):
    site, folder = tmp_path / "site", tmp_path / "empty"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet"]
    pip += ["--target", str(site), str(ROOT)]
    subprocess.run(pip, check=True, capture_output=True)
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site)}
    for words in (
        f"encode {table}/run --data {table}/new.csv --out codes.csv",
        f"score {table}/run --data {table}/new.csv --num-samples 10 --out scores.parquet",
        f"reconstruct {table}/run --data {table}/new.csv --out rows.csv",
        f"sample {images[0]}/run --num 40 --out images",
    ):
        program = [sys.executable, "-m", "vae_jax.cli", *words.split()]
        done = subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["codes.csv", "images", "rows.csv", "scores.parquet"]
    place = [sys.executable, "-c", "import vae_jax; print(vae_jax.__file__)"]
    assert str(site) in subprocess.run(place, cwd=folder, env=environment, capture_output=True, text=True).stdout
