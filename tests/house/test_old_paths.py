"""Modules that moved can be imported from their old paths, with a warning that names the new one."""

import importlib
import sys

import pytest
from paths import PACKAGE

OLD = sorted(path.stem for path in (PACKAGE / "_numerics" / "old_paths").glob("*.py"))


@pytest.mark.parametrize("name", [*OLD, "sweep.table", "report.figures"])
def test_an_old_path_warns_and_has_all_names_of_the_new_one(name):
    sys.modules.pop(f"vae_jax.{name}", None)
    with pytest.warns(DeprecationWarning, match=rf"vae_jax\.{name} moved to vae_jax\.") as record:
        old = importlib.import_module(f"vae_jax.{name}")
    for place in str(record[0].message).split(" moved to ")[1].split(" and "):
        new = importlib.import_module(place)
        names = getattr(new, "__all__", None) or [key for key in vars(new) if not key.startswith("_")]
        assert all(getattr(old, key) is getattr(new, key) for key in names)


def test_the_changelog_lists_them():
    changelog = (PACKAGE.parent / "CHANGELOG.md").read_text()
    assert [name for name in (*OLD, "sweep.table", "report.figures") if f"`vae_jax.{name}`" not in changelog] == []
