"""The registry of formats: a reader that is added at run time, the order of readers, and what importing it costs."""

import subprocess
import sys

import numpy as np
import pytest
from sources import write_idx, write_pictures

from vae_jax import data
from vae_jax.cli.train import read_command_line
from vae_jax.data import readers
from vae_jax.data.readers import registry
from vae_jax.errors import UserError


@pytest.fixture(autouse=True)
def _restored_registry(monkeypatch):
    for table in ("_readers", "_bundled"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))


def test_a_reader_registered_at_run_time_is_used_and_listed(tmp_path):
    def read_csv(request):
        rows = np.loadtxt(request.path, dtype=np.uint8, delimiter=",")
        return data.Split(rows.reshape(-1, 2, 3), notes=("read as a table",))

    readers.register(readers.Reader("csv", ".csv tables", "a .csv file: an image in each row", read_csv, endings=(".csv",)))
    images = np.random.default_rng(0).integers(0, 256, (10, 2, 3), dtype=np.uint8)
    np.savetxt(tmp_path / "x.csv", images.reshape(10, 6), fmt="%d", delimiter=",")
    with pytest.warns(match="read as a table"):
        got = data.load(tmp_path / "x.csv", split="last")
    np.testing.assert_array_equal(np.concatenate([got.train, got.test])[..., 0], images)
    assert "a .csv file: an image in each row" in readers.help_lines()
    with pytest.raises(UserError, match=r"stream: .*x.csv: .csv tables cannot be read row by row while training"):
        data.load(tmp_path / "x.csv", stream=True)
    (tmp_path / "x.unknown").touch()
    with pytest.raises(UserError, match=r"expected a file ending in .*\.npz, .* or \.csv, or a folder with .*IDX files, PNG"):
        data.load(tmp_path / "x.unknown")


def test_a_bundled_data_set_registered_at_run_time_is_a_name():
    images = np.arange(20, dtype=np.uint8).reshape(5, 2, 2)
    readers.register_bundled(readers.Bundled("squares", "five small images", lambda: data.Split(images, max_level=19)))
    assert data.load("squares").data_shape == (2, 2, 1)
    assert "squares: five small images" in readers.help_lines()
    with pytest.raises(UserError, match=r"Did you mean 'squares'.* Expected digits, sprites, sprites_grid, squares, a TFDS"):
        data.load("square")


def test_a_folder_reader_registered_later_is_asked_first(tmp_path):
    write_idx(tmp_path / "train-images-idx3-ubyte", np.zeros((5, 3, 4), np.uint8))
    write_pictures(tmp_path, {f"{i}.png": 200 + i for i in range(5)})
    with pytest.warns(match="train-images-idx3-ubyte is left out, because only PNG/JPEG images outside of hidden folders are"):
        assert data.load(tmp_path).train.min() >= 200
    seen = []

    def read_pngs(request):
        seen.extend(path.name for path in request.files)
        return data.Split(np.full((5, 2, 2), 0.5), channels_last=True)

    readers.register(readers.Reader("pngs", "PNG files", "", read_pngs, recognizes=lambda file: file.suffix == ".png"))
    with pytest.warns(match="train-images-idx3-ubyte is left out, because only PNG files are read"):
        assert data.load(tmp_path).max_level is None
    assert seen == [f"{i}.png" for i in range(5)]


def test_reading_the_registry_imports_no_heavy_library():
    heavy = "('jax', 'flax', 'PIL', 'tensorflow_datasets', 'grain', 'sklearn')"
    code = "import sys; from vae_jax.data import readers; readers.help_lines(); "
    code += f"print([name for name in {heavy} if name in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_the_help_of_the_train_command_names_a_new_format(capsys):
    reader = readers.Reader("text", ".txt tables", "a .txt file, each row an image", lambda request: None, endings=(".txt",))
    readers.register(reader)
    with pytest.raises(SystemExit):
        read_command_line(["--help"])
    assert "a .txt file, each row an image" in " ".join(capsys.readouterr().out.replace("│", " ").split())
