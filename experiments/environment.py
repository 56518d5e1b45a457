"""Ends a script with one line if this Python is too old for it, or lacks vae_jax or a package that it needs.

The check runs when this module is imported. It is the first import of every script. Its code, and that of the scripts up to
this import, can be read by Python 2.7 and any Python 3, because an old interpreter has to reach the check.
"""

import os
import sys

PYTHON = (3, 11)
CORE = {
    "vae_jax": "vae_jax",
    "jax": "jax",
    "jaxlib": "jaxlib",
    "flax": "flax",
    "optax": "optax",
    "numpy": "numpy",
    "jaxtyping": "jaxtyping",
    "lazy_loader": "lazy_loader",
}
OTHERS = {  # module -> distribution
    "orbax.checkpoint": "orbax-checkpoint",
    "grain": "grain",
    "tensorflow_datasets": "tensorflow-datasets",
    "importlib_resources": "importlib_resources",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "scipy": "scipy",
    "matplotlib": "matplotlib",
    "tqdm": "tqdm",
    "tyro": "tyro",
    "filelock": "filelock",
    "flatbuffers": "flatbuffers",
    "safetensors": "safetensors",
}
EXTRAS = {"torch": "bench", "numpyro": "bench", "tensorboardX": "tensorboard", "tensorflow": "tfds-prepare"}
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def _shown(path):
    """Returns a path relative to the current folder if that is shorter."""
    try:
        relative = os.path.relpath(path)
    except ValueError:  # another drive
        relative = path
    shortest = relative if len(relative) < len(path) else path
    return '"{}"'.format(shortest) if " " in shortest else shortest


def _stop(problem, install=None):
    """Prints the problem with this Python and how to get one that works, and ends the script with status 2.

    `install` is the argument of `pip install` that mends this Python, by default the repository; "" if pip cannot.
    """
    script, interpreter = _shown(os.path.abspath(sys.argv[0])), os.path.join(ROOT, ".venv", "bin", "python")
    advice = []
    if os.path.normpath(sys.executable or "") == interpreter:
        if install == "":
            advice.append("remove {} and run `make train`, which makes it anew".format(_shown(os.path.join(ROOT, ".venv"))))
    elif not install:
        if os.path.exists(os.path.join(ROOT, ".venv", ".base")):
            advice.append("run {} {}".format(_shown(interpreter), script))
        else:
            place = "" if _shown(ROOT) == "." else " in {}".format(_shown(ROOT))
            advice.append("run `make train`{} once and then {} {}".format(place, _shown(interpreter), script))
    if install != "":
        target = "-e {}".format(_shown(ROOT)) if install is None else install
        advice.append("install it with {} -m pip install {}".format(sys.executable, target))
    version = ".".join(str(number) for number in sys.version_info[:3])
    text = ", or ".join(advice)
    if script not in text:
        text += ", and run {} again".format(script)
    sys.stderr.write("error: this Python ({}, {}) {}: {}\n".format(sys.executable, version, problem, text))
    sys.stderr.flush()
    sys.exit(2)


def missing(modules):
    """Returns the distributions whose module is not installed, without importing any."""
    import importlib.util

    absent = []
    for module, distribution in modules.items():
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):  # its parent is missing
            spec = None
        if spec is None or spec.origin is None:  # no origin: a folder that something else left behind
            absent.append(distribution)
    return absent


def outdated():
    """Returns the packages whose installed version pyproject.toml does not allow, such as "jax 0.4.1 (jax>=0.10)"."""
    import re
    import tomllib
    from importlib import metadata

    def numbers(version):
        return [int(part) for part in re.findall(r"^[0-9.]*", version)[0].split(".") if part]

    try:
        with open(os.path.join(ROOT, "pyproject.toml"), "rb") as file:
            required = tomllib.load(file)["project"]["dependencies"]
    except (OSError, KeyError, ValueError):  # the scripts were copied elsewhere
        return []
    refused = []
    for requirement in required:
        name = re.findall(r"^[A-Za-z0-9_-]+", requirement)[0]
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        for operator, bound in re.findall(r"(>=|<)\s*([0-9.]+)", requirement):
            if (numbers(installed) >= numbers(bound)) != (operator == ">="):
                refused.append("{} {} ({})".format(name, installed, requirement))
                break
    return refused


def expect_packages():
    """Ends the script unless every package that vae_jax requires is installed in a version that it allows."""
    absent = missing(OTHERS)
    if absent:
        _stop("has no {}, which vae_jax needs".format(", ".join(absent)))
    old = outdated()
    if old:
        _stop("has versions that vae_jax does not support: {}".format(", ".join(old)))


def _explain_import(error):
    """Ends the script if an import failed because of this Python, not because of the code."""
    import importlib.util

    package = (getattr(error, "name", None) or "").partition(".")[0]
    text = " ".join(str(error).split())
    spec = importlib.util.find_spec(package) if package else None
    if package == "vae_jax":
        folder = os.path.dirname(os.path.abspath(spec.origin)) if spec and spec.origin else ""
        if folder != os.path.join(ROOT, "vae_jax"):
            _stop("has a different vae_jax ({}) from the one these scripts belong to: {}".format(folder, text))
    elif isinstance(error, ModuleNotFoundError) and spec is None and package:
        names = dict(OTHERS, **CORE)
        distribution = next((name for module, name in names.items() if module.partition(".")[0] == package), None)
        if distribution:
            _stop("has no {}, which vae_jax needs".format(distribution))
        source = "-e '{}[{}]'".format(_shown(ROOT), EXTRAS[package]) if package in EXTRAS else package
        _stop("has no {}, which this script needs".format(package), source)
    elif package in [module.partition(".")[0] for module in dict(OTHERS, **CORE)] or "jaxlib" in text:
        name = package or "jaxlib"
        _stop("cannot import {} ({})".format(name, text[:200]), "--force-reinstall -e {}".format(_shown(ROOT)))


def _explain(kind, error, traceback):
    """Explains an error that the packages of this Python cause, and shows any other error with its traceback."""
    if issubclass(kind, (ImportError, AttributeError, TypeError)):
        old = outdated()
        if old:
            _stop("has versions that vae_jax does not support: {}".format(", ".join(old)))
    if issubclass(kind, ImportError) or (issubclass(kind, RuntimeError) and "jaxlib" in str(error)):
        _explain_import(error)
    sys.__excepthook__(kind, error, traceback)


if sys.version_info < PYTHON:
    _stop("is older than {}, which vae_jax needs".format(".".join(str(number) for number in PYTHON)), "")
if missing(CORE):
    _stop("has no {}, which the scripts need".format(", ".join(missing(CORE))))
sys.excepthook = _explain
