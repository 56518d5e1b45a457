"""The command `vae-jax`: its subcommands, its help, and the names by which messages call it."""

import importlib
import re
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
from paths import EXPERIMENTS, ROOT

from vae_jax.cli.main import COMMANDS, main
from vae_jax.cli.program import SCRIPTS, Program, current_program


def call(capsys, *words):
    """Returns (exit status, stdout, stderr)."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    captured = capsys.readouterr()
    return stop.value.code or 0, captured.out, captured.err


def test_the_entry_point_is_declared_and_the_types_are_in_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    module, _, function = project["project"]["scripts"]["vae-jax"].partition(":")
    assert getattr(importlib.import_module(module), function) is main
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["vae_jax"]
    assert (ROOT / "vae_jax" / "py.typed").is_file()


def test_help_lists_every_command_in_one_line(capsys):
    status, out, err = call(capsys, "--help")
    assert (status, err) == (0, "")
    assert re.findall(r"^  (\w+)  ", out, re.MULTILINE) == list(COMMANDS) == list(SCRIPTS)
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_the_help_of_its_script(capsys, monkeypatch, name):
    status, out, err = call(capsys, name, "--help")
    assert (status, err) == (0, "")
    assert f"usage: vae-jax {name}" in out
    assert re.search(f"Example:(?s:.)* vae-jax {name} ", out)
    assert "`" not in out.replace("`dci`", "")
    monkeypatch.setattr(sys, "argv", [f"experiments/{SCRIPTS[name]}", "--help"])
    with pytest.raises(SystemExit):
        importlib.import_module(f"vae_jax.cli.{name}").main()
    scripted = capsys.readouterr().out
    assert f"usage: experiments/{SCRIPTS[name]}" in scripted
    assert f"python experiments/{SCRIPTS[name]} " in scripted
    _, _, options = out.partition("╭─")
    assert scripted.endswith(options)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("trian",), "error: unknown command 'trian'. Did you mean 'train'? Known: train, sweep,"),
        ((), "error: expected a command (train, sweep,"),
        (("train",), "error: --out: expected a run directory to write, such as runs/first, got none."),
        (("evaluate",), "error: expected at least one run directory"),
        (("report", "nowhere"), "error: nowhere: not a run directory (it has no config.json) and not a sweep directory"),
        (("train", "--bata", "2"), "vae-jax train --help lists the options."),
    ],
)
def test_mistakes_are_one_line_and_status_two(capsys, words, message):
    status, _, err = call(capsys, *words)
    assert (status, err.count("\n")) == (2, 1)
    assert message in err


def test_the_version_is_that_of_the_package(capsys):
    assert call(capsys, "--version") == (0, f"vae-jax {metadata.version('vae_jax')}\n", "")


def test_it_runs_as_a_module_too():
    done = subprocess.run([sys.executable, "-m", "vae_jax.cli", "trian"], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "Did you mean 'train'?" in done.stderr


def test_messages_name_the_program_that_was_started(monkeypatch):
    python = sys.executable
    for path, words, name, example in (
        ("runs/vae-jax", ("runs/vae-jax", "latent"), "runs/vae-jax latent", "runs/vae-jax latent"),
        ("x/vae_jax/cli/__main__.py", (python, "-m", "vae_jax.cli", "latent"), *("python -m vae_jax.cli latent",) * 2),
        ("x/train.py", (python, "x/latent_space.py"), "x/latent_space.py", "python x/latent_space.py"),
        ("train.py", (python, "latent_space.py"), "latent_space.py", "python latent_space.py"),
        ("pytest", ("vae-jax", "latent"), "vae-jax latent", "vae-jax latent"),
    ):
        monkeypatch.setattr(sys, "argv", [path])
        program = current_program()
        assert (program.parts("latent"), program.name("latent"), program.example("latent")) == (words, name, example)
    program = Program((python,), "experiments")
    assert program.in_text("vae-jax sweep --out r && vae-jax report r") == (
        "python experiments/sweep.py --out r && python experiments/report.py r"
    )


def test_the_scripts_are_a_few_lines():
    for file in SCRIPTS.values():
        text = (EXPERIMENTS / file).read_text()
        assert len(text.splitlines()) <= 12
        assert "sys.path" not in text
