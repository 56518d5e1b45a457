"""Scripts that are started by a Python that cannot run them end in one line which says what to do, with status 2."""

import ast
import importlib
import os
import re
import runpy
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
from scripts import EXPERIMENTS

ROOT = EXPERIMENTS.parent
UNGUARDED = {"environment.py", "minimal.py", "peer_scvi.py"}  # parts of scripts, the file to copy, a script without vae_jax
SCRIPTS = sorted(
    path
    for path in EXPERIMENTS.rglob("*.py")
    if 'if __name__ == "__main__":' in path.read_text() and path.name not in UNGUARDED
)


def one_line(done, *parts):
    """Asserts that a script ended as it should."""
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: this Python (")
    for part in parts:
        assert part in done.stderr
    return done.stderr


@pytest.fixture
def environment(monkeypatch):
    """experiments/environment.py, as it is in this Python."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    monkeypatch.setattr(sys, "argv", [str(EXPERIMENTS / "train.py")])
    hook = sys.excepthook
    yield importlib.import_module("environment")
    sys.excepthook = hook


def ended(call, capsys):
    """Calls something that ends the script, and returns its line on stderr."""
    with pytest.raises(SystemExit) as stop:
        call()
    stderr = capsys.readouterr().err
    assert stop.value.code == 2
    assert stderr.count("\n") == 1
    return stderr


def test_every_script_is_guarded_and_an_old_python_can_read_it_so_far():
    assert {"train.py", "sweep.py", "summary.py", "training.py"} <= {path.name for path in SCRIPTS}
    assert {path.name for path in EXPERIMENTS.glob("*.py")} - UNGUARDED <= {path.name for path in SCRIPTS}
    for path in SCRIPTS:
        tree = ast.parse(path.read_text(), feature_version=(3, 7))  # no walrus, no match: each would be a SyntaxError there
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        first = min(imports, key=lambda node: node.lineno)  # dataclasses and Literal are newer than the oldest Python in use
        assert [name.name for name in first.names] == ["environment"], path


@pytest.mark.parametrize("name", ["environment.py", "benchmarks/environment.py"])
def test_the_guard_is_written_for_any_python(name):
    text = (EXPERIMENTS / name).read_text()
    newer = (ast.JoinedStr, ast.NamedExpr, ast.AnnAssign, ast.Match, ast.Starred, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(text)):
        assert not isinstance(node, newer)
        if isinstance(node, ast.FunctionDef):
            assert node.returns is None
            assert not node.args.kwonlyargs
            assert not any(argument.annotation for argument in node.args.args)
    text.encode("ascii")  # Python 2 wants a declaration for anything else


def test_the_guards_of_subfolders_run_that_of_the_folder_above():
    subfolders = {path.parent for path in SCRIPTS} - {EXPERIMENTS}
    texts = {(folder / "environment.py").read_text() for folder in subfolders}
    assert len(texts) == 1
    code = "import environment; print(environment.ROOT, environment.expect_packages.__doc__)"
    for folder in subfolders:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
        assert done.stdout.startswith(f"{ROOT} Ends the script unless"), done.stderr


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(EXPERIMENTS)))
def test_without_vae_jax_or_jax_every_script_is_one_line(path, tmp_path):
    bare = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [sys.executable, "-S", str(path)]  # without site-packages
    stderr = one_line(subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=bare), "jax", path.name)
    assert "`make train`" in stderr or ".venv" in stderr
    assert f"-m pip install -e {os.path.relpath(ROOT, tmp_path)}" in stderr or f"-m pip install -e {ROOT}" in stderr


def test_a_package_that_is_missing_at_the_top_of_a_script_is_one_line():
    code = "import runpy, sys; sys.modules['tyro'] = None; sys.argv = [{0!r}]; sys.path[0] = {1!r}; runpy.run_path({0!r})"
    script = code.format(str(EXPERIMENTS / "evaluate.py"), str(EXPERIMENTS))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    one_line(done, "has no tyro, which vae_jax needs")


def test_an_old_python_is_told_which_one_is_needed(environment, monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    for executable, advice in (
        ("/usr/bin/python3", r"run .*\.venv/bin/python "),
        (f"{ROOT}/.venv/bin/python", r"remove .*\.venv and run `make train`"),
    ):
        monkeypatch.setattr(sys, "executable", executable)
        stderr = ended(lambda: importlib.reload(environment), capsys)
        assert f"error: this Python ({executable}, 3.9.18) is older than 3.11, which vae_jax needs: " in stderr
        assert re.search(advice, stderr)
        assert "pip install" not in stderr  # pip of that Python would refuse


@pytest.mark.parametrize(("module", "named"), [("orbax", "orbax-checkpoint"), ("matplotlib", "matplotlib"), ("PIL", "pillow")])
def test_a_missing_dependency_ends_a_script_at_its_start(environment, monkeypatch, capsys, tmp_path, module, named):
    script = str(EXPERIMENTS / "train.py")
    monkeypatch.setattr(sys, "argv", [script, "--out", str(tmp_path / "run")])
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    stderr = ended(lambda: runpy.run_path(script, run_name="__main__"), capsys)
    assert f"has no {named}, which vae_jax needs: " in stderr
    assert not (tmp_path / "run").exists()


def test_a_folder_that_an_uninstalled_package_left_behind_is_not_taken_for_it(environment, monkeypatch, tmp_path):
    (tmp_path / "left_behind").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert environment.missing({"left_behind": "left-behind", "json": "json"}) == ["left-behind"]


def test_versions_that_are_not_allowed_are_named(environment, monkeypatch, capsys):
    assert environment.outdated() == []
    installed = {"jax": "0.9.9", "flax": "0.12.0rc1", "orbax-checkpoint": "1.0.0", "numpy": "10.0"}
    monkeypatch.setattr(metadata, "version", lambda name: installed.get(name, "999"))
    named = ["jax 0.9.9 (jax>=0.10)", "orbax-checkpoint 1.0.0 (orbax-checkpoint>=0.11.20,<1)"]
    assert environment.outdated() == named
    stderr = ended(environment.expect_packages, capsys)
    assert f"has versions that vae_jax does not support: {', '.join(named)}: " in stderr
    # The same where the import itself fails, such as for a name that an old package does not have.
    assert "jax 0.9.9" in ended(lambda: environment._explain(AttributeError, AttributeError("jax.shard_map"), None), capsys)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            ModuleNotFoundError("No module named 'numpyro'", name="numpyro"),
            "has no numpyro, which this script needs: install it",
        ),
        (ModuleNotFoundError("No module named 'nothing_so'", name="nothing_so"), "-m pip install nothing_so"),
        (ImportError("libstdc++.so.6: no such file", name="numpy._core"), "cannot import numpy (libstdc++.so.6: no such file)"),
        (RuntimeError("jaxlib is version 0.4.1, but this version of jax requires >= 0.10."), "cannot import jaxlib"),
    ],
)
def test_imports_that_fail_later_are_one_line(environment, capsys, monkeypatch, error, words):
    if getattr(error, "name", None) == "numpyro":
        monkeypatch.setitem(sys.modules, "numpyro", None)
    stderr = ended(lambda: environment._explain(type(error), error, None), capsys)
    assert words in stderr
    assert "numpyro" not in words or "[bench]'" in stderr


def test_another_vae_jax_is_named_and_an_error_of_our_own_keeps_its_traceback(environment, capsys, monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "__excepthook__", lambda *error: shown.append(error[0]))
    own = ImportError("cannot import name 'x' from 'vae_jax.config'", name="vae_jax.config")
    for kind, error in ((ImportError, own), (ValueError, ValueError("a bug")), (TypeError, TypeError("a bug"))):
        environment._explain(kind, error, None)
    assert shown == [ImportError, ValueError, TypeError]
    monkeypatch.setattr(environment, "ROOT", "/elsewhere")
    stderr = ended(lambda: environment._explain(ImportError, own, None), capsys)
    assert re.search(
        r"has a different vae_jax \(.*vae_jax\) from the one these scripts belong to: cannot import name 'x'", stderr
    )


def test_what_is_checked_is_what_the_package_declares(environment):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.match(r"[\w-]+", line).group() for line in project["dependencies"]}
    assert set(environment.OTHERS.values()) | set(environment.CORE.values()) == declared | {"vae_jax", "jaxlib"}
    assert project["requires-python"] == f">={'.'.join(map(str, environment.PYTHON))}"
    for module, extra in environment.EXTRAS.items():
        assert any(module.lower() in line.lower() for line in project["optional-dependencies"][extra])
