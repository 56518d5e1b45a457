"""The pages in docs/ have short examples that run as they stand, options that exist, and small pictures that are there."""

import re

import pytest
from paths import ROOT

from vae_jax.cli import train
from vae_jax.cli.arguments import option_names
from vae_jax.config import Config

PAGES = sorted((ROOT / "docs").glob("*.md"))
EXAMPLES = [
    pytest.param(code, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]


SEQUENCES = ("export",)  # pages whose examples need the files of those above them
ALONE = [example for example in EXAMPLES if example.id.split("-")[0] not in SEQUENCES]


def execute(code):
    for name in ("wandb", "mlflow"):
        if f"import {name}" in code:
            pytest.importorskip(name)
    exec(compile(re.sub(r"epochs=\d+", "epochs=1", code), "docs", "exec"), {})


@pytest.mark.slow
@pytest.mark.filterwarnings("default::DeprecationWarning", "default::FutureWarning")  # of trackers and what they import
@pytest.mark.parametrize("code", ALONE)
def test_an_example_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    execute(code)
    assert "runs." not in code or list(tmp_path.glob("runs/*/summary.json"))


@pytest.mark.slow
@pytest.mark.parametrize("page", SEQUENCES)
def test_the_examples_of_a_page_run_one_after_the_other(page, tmp_path, monkeypatch):
    pytest.importorskip("flatbuffers")
    monkeypatch.chdir(tmp_path)
    for example in EXAMPLES:
        if example.id.startswith(f"{page}-"):
            execute(*example.values)


@pytest.mark.parametrize("code", EXAMPLES)
def test_an_example_has_at_most_fifteen_lines(code):
    assert len(code.splitlines()) <= 15
    compile(code, "docs", "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_pictures_and_options_of_a_page_exist_and_the_readme_links_it(page):
    text = page.read_text()
    assert f"docs/{page.name}" in (ROOT / "README.md").read_text()
    for picture in re.findall(r"!\[[^]]+\]\(([^)]+)\)", text):
        assert 0 < (page.parent / picture).stat().st_size < 100_000, picture
    options = option_names(Config, train.Arguments)
    for command in re.findall(r"vae-jax train ([^`\n]*)", text):
        for flag in re.findall(r"--([a-z-]+)", command):
            assert flag.replace("-", "_") in options, flag
