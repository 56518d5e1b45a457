"""The README's example is run as it stands, and its commands name real flags."""

import re
from pathlib import Path

import pytest
from paths import ROOT

from vae_jax.cli import train
from vae_jax.cli.arguments import option_names
from vae_jax.cli.sweep import Arguments
from vae_jax.config import KINDS as ENTRY_KINDS
from vae_jax.config import Config, entries
from vae_jax.data.readers import documentation
from vae_jax.data.readers.registry import readers
from vae_jax.data.readers.unsupported import KINDS, unsupported_kind

README = (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_the_example_runs_and_is_short(capsys):
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    assert len(example.splitlines()) <= 25
    names = {}
    exec(compile(example, "README.md", "exec"), names)
    assert -26 < names["result"].test.elbo < -22
    assert names["images"].shape == (16, 8, 8, 1)
    assert "test ELBO -2" in capsys.readouterr().out
    evaluation = next(code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "importance_log_px(" in code)
    exec(compile(evaluation, "README.md", "exec"), names)
    assert names["result"].test.elbo < names["estimates"](names["result"].params, names["prepared"].test).log_px.mean()
    assert names["bounds"].lower.log_px.shape == (20,)


def test_the_two_commands_are_at_the_top():
    first = README[: README.index("## ")]
    assert first.index("make train") < first.index("make test") < first.index("experiments/train.py")


def registry_table():
    """The table of all names and their settings, as the README has it."""
    rows = ["| option | name | | settings |", "|---|---|---|---|"]
    for kind in ENTRY_KINDS:
        for name, entry in entries(kind).items():
            settings = " ".join(f"`--{setting.name.replace('_', '-')}`" for setting in entry.settings)
            rows.append(f"| `--{kind}` | `{name}` | {entry.help.replace('|', chr(92) + '|')} | {settings} |")
    return "\n".join(rows)


def test_the_table_of_names_and_settings_is_that_of_the_registry():
    assert registry_table() in README, f"put this table into README.md:\n{registry_table()}"


def test_the_tables_of_formats_are_those_of_the_readers(tmp_path):
    fix = "run: python -m vae_jax.data.readers.documentation README.md"
    assert documentation.markdown_table() in README, fix
    assert documentation.with_table(README) == README, fix
    stale = README.replace("| smallNORB files |", "| other files |")
    (tmp_path / "README.md").write_text(stale)
    assert documentation.with_table(stale) == README != stale
    table = documentation.markdown_table().split("\n\n")
    assert all(row.count("|") == 7 for row in table[0].splitlines())
    assert len(table[0].splitlines()) == 4 + len(readers())


def test_refused_formats_are_refused_under_the_names_in_the_table():
    for kind in KINDS:
        for ending in re.findall(r"`(\.\w+)`", kind.files):
            inside = Path("x.zarr/c/0") if ending == ".zarr" else Path(f"x{ending}")
            assert unsupported_kind([inside]) == (inside, kind), ending


def test_the_commands_of_train_parse():
    options = option_names(Config, train.Arguments)
    flags = set(re.findall(r"--([a-z-]+)", " ".join(re.findall(r"experiments/train\.py([^#`\n]*)", README))))
    assert {"label-column", "exposure", "event", "crop", "resize", "validation-dataset"} <= flags
    for flag in flags:
        assert flag.replace("-", "_") in options, flag


@pytest.mark.slow
def test_the_example_of_arrays_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example = next(code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "from_arrays(" in code)
    exec(compile(example.replace("epochs=100", "epochs=1"), "README.md", "exec"), {})
    assert (tmp_path / "runs" / "wine" / "summary.json").is_file()


def test_the_conventions_example_says_what_its_comments_say():
    example = next(code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "implied(" in code)
    names = {}
    exec(compile(example, "README.md", "exec"), names)
    loss = names["loss"]
    shown = re.search(r"# ([\d.]+), ([\d.]+), ([\d.]+):", example).groups()
    assert shown == (f"{loss.beta:.3f}", f"{loss.scale:.4f}", f"{loss.scale_at_beta_one:.3f}")


def test_the_sweep_example_runs():
    example = next(code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "sweep(grid(" in code)
    names = {}
    exec(compile(example.replace("epochs=5", "epochs=1"), "README.md", "exec"), names)
    assert names["result"].table["test_elbo"].shape == (9,)
    assert names["result"].points[0].numbers["rate"].n == 3


def test_the_sweep_commands_parse():
    """Every flag that the README shows for sweep.py is one that it has."""
    options = option_names(Config, Arguments)
    commands = re.findall(r"experiments/sweep\.py([^#`]*)", README)  # of a line, without what launches it
    flags = {flag for command in commands for flag in re.findall(r"--([a-z-]+)", command.splitlines()[0])}
    assert len(flags) > 8
    for flag in flags:
        assert flag.replace("-", "_") in options, flag
