"""Imports point one way, every library has its place, and importing computes nothing."""

import ast
import functools
import re
import subprocess
import sys

from paths import PACKAGE

# A folder or module may import from those of smaller numbers and from itself.
LAYERS = {
    "_numerics": 0,
    "errors": 0,
    "example": 0,
    "storage": 1,
    "config": 1,
    "conventions": 1,
    "networks": 2,
    "likelihoods": 2,
    "divergences": 2,
    "posteriors": 3,
    "priors": 4,
    "objectives": 4,
    "data": 5,
    "model": 6,
    "evaluation": 7,
    "disentanglement": 7,
    "training": 8,
    "build": 9,
    "runs": 10,
    "sweep": 11,
    "report": 12,
    "cli": 13,
}
ONLY_JAX = {"example", "likelihoods", "divergences", "posteriors", "priors", "objectives", "_numerics"}
NO_FILES = ONLY_JAX | {"model", "networks", "training", "evaluation", "disentanglement", "config", "build", "conventions"}
OLD_PATHS = PACKAGE / "_numerics" / "old_paths"  # they re-export from anywhere


def modules():
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py" and path.parent != OLD_PATHS)


def layer_name(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def parsed(path):
    return ast.parse(path.read_text())


def imports(path):
    """(imported module, name) for every import of a file, inside functions too."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)


def own_imports(path):
    for module, name in imports(path):
        parts = module.split(".")
        if parts[0] == "vae_jax":
            yield parts[1] if len(parts) > 1 else name


def test_imports_point_one_way():
    edges = {(layer_name(path), imported, path.name) for path in modules() for imported in own_imports(path)}
    assert {name for name, *_ in edges} <= set(LAYERS), "give every folder a layer"
    assert {(a, b, file) for a, b, file in edges if a != b and LAYERS[b] >= LAYERS[a]} == set()


def misplaced(path):
    """The libraries that a module imports although they have no place there."""
    own, roots = layer_name(path), {module.split(".")[0] for module, _ in imports(path)}
    roots -= {"vae_jax", *sys.stdlib_module_names}
    if path.name == "entries.py":  # its factories are the edge at which the parts of a run are chosen
        return roots - {"numpy", "optax"}
    if own in ONLY_JAX:
        return roots - {"jax", "jaxtyping", "lazy_loader"}
    places = {
        "flax": {"networks"},
        "optax": {"training", "build", "evaluation"},
        "matplotlib": {"report"},
        "orbax": {"runs"},
        "sklearn": {"data", "disentanglement", "evaluation"},
        **{root: {"data"} for root in ("tensorflow_datasets", "grain")},
        "PIL": {"data", "storage"},  # which writes folders of images
        "tqdm": {"cli", "data", "training"},  # in training, the bar that notebooks pass as on_epoch
        **{root: {"cli"} for root in ("tyro", "tensorboardX")},
        **{root: set() for root in ("tensorflow", "torch", "chex", "pytest")},
    }
    return {root for root in roots if own not in places.get(root, {own})}


def test_each_library_has_its_place():
    assert {str(path.relative_to(PACKAGE)): wrong for path in modules() if (wrong := misplaced(path))} == {}


def test_files_are_touched_where_they_may_be():
    for path in modules():
        if layer_name(path) in NO_FILES:
            names = {node.id for node in ast.walk(parsed(path)) if isinstance(node, ast.Name)}
            assert not names & {"open", "print", "input", "eval", "exec"}, path


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_everything_allocates_compiles_and_jits_nothing():
    names = [f"vae_jax.{str(p.relative_to(PACKAGE))[:-3].replace('/', '.').removesuffix('.__init__')}" for p in modules()]
    code = f"""
import importlib, jax
made = []
real = jax.jit
jax.jit = lambda *a, **k: made.append(a) or real(*a, **k)
import flax.linen, flax.nnx, optax  # their own jits at import are theirs
made.clear()
for name in {names}: importlib.import_module(name)
from jax._src import xla_bridge
print(len(made), len(xla_bridge._backends))
"""
    assert run(code).split() == ["0", "0"]  # no jit, and no backend was even started


def test_heavy_libraries_wait_until_they_are_used():
    code = "import sys, vae_jax, vae_jax.config, vae_jax.errors, vae_jax.storage.cache; print('jax' in sys.modules)"
    assert run(code).strip() == "False"  # so that --help is quick
    commands = [f"vae_jax.cli.{path.stem}" for path in (PACKAGE / "cli").glob("*.py")]
    code = f"import importlib, sys\nfor name in {commands}: importlib.import_module(name)\nprint('jax' in sys.modules)"
    assert run(code).strip() == "False"
    code = "import sys, vae_jax.runs; print([m for m in ('matplotlib', 'tensorflow_datasets', 'sklearn') if m in sys.modules])"
    assert run(code).strip() == "[]"


def reachable(edges):
    """The pairs (a, b) for which a path leads from a to b."""
    closure = set(edges)
    while new := {(a, d) for a, b in closure for c, d in closure if b == c} - closure:
        closure |= new
    return closure


def test_the_picture_in_contributing_shows_the_imports():
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    shown = set(re.findall(r"^    (\w+) --> (\w+)$", text, re.MULTILINE))
    real = {(layer_name(path), imported) for path in modules() for imported in own_imports(path)}
    real = {(a, b) for a, b in real if a != b}
    assert shown <= real
    assert reachable(shown) == reachable(real)
    assert not any(a == b for a, b in reachable(shown))  # no cycle
