"""Command lines: help from metadata or from docstrings, settings that are added at run time, mistakes in one line."""

import dataclasses
from pathlib import Path
from typing import Literal

import pytest
import tyro

from vae_jax.cli import sweep, train
from vae_jax.cli.arguments import attribute_docstrings, extend, option_names, parse, parse_with_config
from vae_jax.config import Config, Entry, Setting, register, unregister
from vae_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Do something with `stream=True`.

    Example: vae-jax train --out runs/first
    """

    path: tyro.conf.Positional[Path]
    """A folder."""
    num_steps: int = 3
    """Steps; more with `kind="b"`.

    Of two paragraphs."""
    kind: Literal["a", "b"] = dataclasses.field(default="a", metadata={"help": "Kind, for `num_steps`; see `other`."})
    out: str = ""
    """Folder to write."""

    def doubled(self):
        return 2 * self.num_steps


def help_of(capsys, call):
    with pytest.raises(SystemExit) as stop:
        call()
    assert stop.value.code in (0, None)
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_help_comes_from_the_metadata_or_from_the_string_below_the_attribute(capsys):
    text = help_of(capsys, lambda: parse(Arguments, ["--help"], "train"))
    assert "Do something with --stream." in text  # a setting of a run, which messages of every command may name
    assert "Steps; more with --kind b. Of two paragraphs. (default: 3)" in text
    assert "Kind, for --num-steps; see `other`. (default: a)" in text
    assert "A folder. (required)" in text


def test_the_values_are_an_instance_of_the_class():
    arguments = parse(Arguments, ["x", "--num-steps", "4", "--out", "~/runs"])
    assert isinstance(arguments, Arguments)
    assert (arguments.path, arguments.doubled(), arguments.out) == (Path("x"), 8, str(Path.home() / "runs"))
    assert option_names(Arguments) == {"num_steps", "kind", "out"}


def test_mistakes_are_one_line():
    with pytest.raises(UserError, match=r"^Error parsing --num-steps: .* vae-jax train --help lists the options\.$"):
        parse(Arguments, ["x", "--num-steps", "many"], "train")
    with pytest.raises(UserError, match=r"^out: expected a name that can be written as UTF-8"):
        parse(Arguments, ["x", "--out", "\udcff"])


def test_settings_come_before_the_options_and_defaults_can_be_replaced(tmp_path):
    names = [field.name for field in dataclasses.fields(extend(Config, train.Arguments))]
    assert names[: len(dataclasses.fields(Config))] == [field.name for field in dataclasses.fields(Config)]
    assert names[-1] == "compilation_cache"
    defaults = {"beta": 2.0, "epochs": 7, "resume": True}
    (tmp_path / "x.npy").touch()
    words = ["--epochs", "8", "--hidden", "3", "4", "--dataset", str(tmp_path / "x.npy")]
    arguments, config = parse_with_config(train.Arguments, words, "train", defaults)
    assert (config.beta, config.epochs, config.hidden, config.seed) == (2.0, 8, (3, 4), 0)
    assert (arguments.resume, arguments.report) == (True, True)
    assert config.dataset == str(tmp_path / "x.npy")


def test_the_path_of_a_data_set_becomes_absolute_and_the_name_of_a_bundled_one_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, recorded in (("digits", "digits"), ("mnist", "mnist"), ("data", str(tmp_path / "data"))):
        if name != "mnist":
            (tmp_path / name).mkdir()
        for field in ("dataset", "validation_dataset", "test_dataset"):
            _, config = parse_with_config(train.Arguments, [f"--{field.replace('_', '-')}", name], "train")
            assert getattr(config, field) == recorded


def test_the_path_of_a_condition_becomes_absolute_and_names_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("batch", "labels", "inner"):
        (tmp_path / name).mkdir()
    (tmp_path / "c.csv").touch()
    for text, recorded in (
        *((name, name) for name in ("batch", "labels", "batch,age", '"c.csv"', "factors", "")),
        *((name, str(tmp_path / "c.csv")) for name in ("c.csv", "./c.csv", "inner/../c.csv")),
        *((name, str(tmp_path / "inner")) for name in ("./inner", "inner/")),
    ):
        _, config = parse_with_config(train.Arguments, ["--condition", text], "train")
        assert config.condition == recorded


def test_settings_that_are_registered_at_run_time_are_options(capsys):
    weight = Setting("new_weight", float, 0.5, "Weight of the new term; with `beta`.", low=0, traced=True)
    register(Entry("objective", "new", "a new term", lambda config, data: None, (weight,)))
    try:
        _, config = parse_with_config(train.Arguments, ["--new-weight", "2"], "train")
        assert (config.new_weight, config.beta) == (2.0, 1.0)
        text = help_of(capsys, lambda: parse_with_config(train.Arguments, ["--help"], "train"))
    finally:
        unregister("objective", "new")
    assert "Weight of the new term; with --beta. For new. (default: 0.5)" in text
    with pytest.raises(UserError, match="--new-weight"):
        parse_with_config(train.Arguments, ["--new-weight", "2"], "train")


@pytest.mark.parametrize("cls", [train.Arguments, sweep.Arguments])
def test_every_option_has_a_help(cls):
    texts = attribute_docstrings(cls) | {field.name: field.metadata.get("help") for field in dataclasses.fields(cls)}
    texts |= {name: text for name, text in attribute_docstrings(cls).items() if not texts[name]}
    assert all(texts.values())
