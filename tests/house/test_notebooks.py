"""The notebooks run from top to bottom, and what is committed with them are the outputs of such a run.

They are executed in a process of their own: Jupyter's warnings are not ours to turn into errors.
"""

import ast
import json
import os
import re
import subprocess
import sys

import nbformat
import pytest
from paths import ROOT

FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
REPRODUCTIONS = FOLDER.parent / "experiments" / "reproductions"

# What replaces the cell tagged "settings", so that a run takes seconds; and the figures that the notebook shows.
SMALL = {
    "01_elbo_from_scratch": "EPOCHS = 1; BOUND_SAMPLES = (1, 4); GRADIENT_SAMPLES = (1, 4); GRADIENTS = 50",
    "02_swap_the_likelihood": "EPOCHS = 1; HIDDEN = ()",
    "03_conventions_and_beta": "EPOCHS = 1; SWEEP_EPOCHS = 1; LINEAR_STEPS = 500",
    "04_beta_sweep": "EPOCHS = 1; BETAS = (0.5, 1.0, 2.0); NUM_SEEDS = 2; NUM_RATES = 2",
    "05_reproduce_a_table": f"REPRODUCTIONS = Path({str(REPRODUCTIONS)!r}); STEPS = 100; SEEDS = (0,)",
}
FIGURES = {
    "01_elbo_from_scratch": 5,
    "02_swap_the_likelihood": 3,
    "03_conventions_and_beta": 4,
    "04_beta_sweep": 5,
    "05_reproduce_a_table": 5,
}

# Matplotlib builds its fonts' cache before the kernel starts, since it would say so on the stderr of a cell.
EXECUTE = """
import sys
import matplotlib.font_manager
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

source, target, folder = sys.argv[1:]
notebook = nbformat.read(source, as_version=4)
client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}})
try:
    client.execute()
except CellExecutionError as error:
    sys.exit(str(error))
nbformat.write(notebook, target)
"""


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def settings_cell(notebook):
    tagged = [cell for cell in code_cells(notebook) if "settings" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1, f'expected one code cell tagged "settings", got {len(tagged)}'
    return tagged[0]


def assigned(source):
    return {node.targets[0].id for node in ast.parse(source).body if isinstance(node, ast.Assign)}


def check_outputs(notebook, num_figures):
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    warnings = [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert not warnings, f"expected nothing on stderr, got {warnings}"
    assert sum("image/png" in output.get("data", {}) for output in outputs) == num_figures


@pytest.fixture
def jupyter(tmp_path, monkeypatch):
    """A kernel "python3" that is this very interpreter, and no settings of the user's."""
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # most of the time would be compilation
    return tmp_path


def test_all_are_here():
    assert {path.stem for path in NOTEBOOKS} == set(SMALL) == set(FIGURES)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path, jupyter):
    notebook = nbformat.read(path, as_version=4)
    settings = settings_cell(notebook)
    small = SMALL[path.stem]
    assert assigned(small) == assigned(settings.source), "the test's settings and the notebook's are not the same names"
    settings.source = small
    committed = [bool(cell.outputs) for cell in code_cells(notebook)]
    (jupyter / "run").mkdir()
    source, target = jupyter / "source.ipynb", jupyter / "target.ipynb"
    nbformat.write(notebook, source)
    command = [sys.executable, "-c", EXECUTE, str(source), str(target), str(jupyter / "run")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=jupyter, timeout=600, check=False)
    if done.returncode:
        pytest.fail(re.sub(r"\x1b\[[0-9;]*m", "", done.stderr), pytrace=False)
    executed = nbformat.read(target, as_version=4)
    check_outputs(executed, FIGURES[path.stem])
    assert [bool(cell.outputs) for cell in code_cells(executed)] == committed, "stored outputs are not those of a whole run"
    assert not os.listdir(jupyter / "run"), "a notebook leaves files behind"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_committed(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "expected one run from top to bottom"
    check_outputs(notebook, FIGURES[path.stem])
    assert path.stat().st_size < 1_000_000
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("image/png", None)  # its letters are random
    assert not re.findall(r"/(?:work|home|tmp|root|Users)/[\w./-]*", nbformat.writes(notebook)), "a path of somebody's machine"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_public_names_only(path):
    for cell in code_cells(nbformat.read(path, as_version=4)):
        for node in ast.walk(ast.parse(cell.source)):
            names = [node.attr] if isinstance(node, ast.Attribute) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.startswith("_") or "._" in name], cell.source
