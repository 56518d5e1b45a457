"""The README's example is run as it stands, and its commands name real flags."""

import re

import pytest
from paths import ROOT

from vae_jax.cli.arguments import option_names
from vae_jax.cli.sweep import Arguments
from vae_jax.config import KINDS, Config, entries

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
    for kind in KINDS:
        for name, entry in entries(kind).items():
            settings = " ".join(f"`--{setting.name.replace('_', '-')}`" for setting in entry.settings)
            rows.append(f"| `--{kind}` | `{name}` | {entry.help.replace('|', chr(92) + '|')} | {settings} |")
    return "\n".join(rows)


def test_the_table_of_names_and_settings_is_that_of_the_registry():
    assert registry_table() in README, f"put this table into README.md:\n{registry_table()}"


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
