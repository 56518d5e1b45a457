"""Limits that keep the package readable: sizes of folders, modules and functions, names, options in texts, uses of Any."""

import ast
import functools
import re
from pathlib import Path

from paths import EXPERIMENTS, PACKAGE, ROOT

MODULES = sorted(PACKAGE.rglob("*.py"))
# Functions whose keywords users type.
MANY_PARAMETERS = {
    "data/in_memory.py:from_arrays",
    "data/loading.py:load",
    "evaluation/gaps.py:gaps",
    "model/architectures.py:assemble_vae",
    "model/architectures.py:conv_vae",
    "model/architectures.py:ladder_vae",
    "model/architectures.py:mlp_vae",
    "networks/convolutional.py:conv_decoder",
    "networks/convolutional.py:conv_encoder",
    "networks/ladder.py:ladder",
    "networks/mlp.py:mlp_decoder",
    "networks/mlp.py:mlp_encoder",
    "objectives/batch/beta_tcvae.py:beta_tc_elbo",
    "objectives/batch/dip_info_vae.py:dip_elbo",
    "objectives/batch/dip_info_vae.py:info_elbo",
    "objectives/elbo.py:capacity_elbo",
    "objectives/elbo.py:elbo",
    "objectives/elbo.py:free_bits_elbo",
    "objectives/importance.py:ciwae",
    "objectives/importance.py:iwae",
    "objectives/importance.py:miwae",
    "objectives/importance.py:piwae",
    "runs/recorded_training.py:train",
    "sweep/directory.py:run_sweep",
    "sweep/in_memory.py:sweep",
    "training/loop.py:fit",
    "training/loop.py:fit_members",
}
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@functools.cache
def parsed(path):
    return ast.parse(path.read_text())


def name_of(path):
    return str(path.relative_to(PACKAGE))


def functions(path):
    """(name, number of lines, number of parameters) of every function of a module; `self` and `cls` do not count."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, DEFINITIONS):
            a = node.args
            names = [arg.arg for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
            yield node.name, node.end_lineno - node.lineno + 1, len([name for name in names if name not in ("self", "cls")])


def test_the_top_level_has_at_most_24_entries():
    assert len([path for path in PACKAGE.iterdir() if path.name != "__pycache__"]) <= 24


def test_no_module_has_more_than_400_lines():
    assert {name_of(path) for path in MODULES if len(path.read_text().splitlines()) > 400} == set()


def test_no_function_has_more_than_80_lines():
    assert {f"{name_of(path)}:{name}" for path in MODULES for name, lines, _ in functions(path) if lines > 80} == set()


def test_no_internal_function_has_more_than_8_parameters():
    many = {f"{name_of(path)}:{name}" for path in MODULES for name, _, count in functions(path) if count > 8}
    assert many - MANY_PARAMETERS == set()


def test_the_library_does_not_speak_of_options():
    texts = {name_of(path): re.findall(r"--[a-z][a-z-]*", path.read_text()) for path in MODULES if "cli" not in path.parts}
    assert {name: options for name, options in texts.items() if options} == {}


def test_any_is_rare():
    names = (node for path in MODULES for node in ast.walk(parsed(path)) if isinstance(node, ast.Name))
    assert sum(name.id == "Any" for name in names) <= 120


def test_scripts_import_an_installed_package():
    scripts = [path for path in EXPERIMENTS.rglob("*.py") if re.search(r"sys\.path\.(insert|append)", path.read_text())]
    assert scripts == []


def test_names_say_what_a_value_is():
    vague = re.compile(r"(^|_)(own|found|words|told)(_|$)|^_?of_|_around$")
    nodes = ((path, node) for path in MODULES for node in ast.walk(parsed(path)))
    names = {
        f"{name_of(path)}: {name}"
        for path, node in nodes
        for name in (getattr(node, "id", None), getattr(node, "arg", None), getattr(node, "name", None))
        if isinstance(name, str) and vague.search(name.lower())
    }
    assert names == set()


def test_test_files_have_fewer_than_400_lines_and_short_names():
    texts = {path.name: path.read_text() for path in (ROOT / "tests").rglob("*.py")}
    assert {name for name, text in texts.items() if len(text.splitlines()) >= 400} == set()
    assert [name for text in texts.values() for name in re.findall(r"def (test_\w+)", text) if len(name) > 80] == []


def test_the_package_says_that_it_has_types():
    assert Path(PACKAGE / "py.typed").is_file()
