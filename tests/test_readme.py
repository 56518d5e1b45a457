"""The README's example is run as it stands, and its commands name real flags."""

import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_example_runs_and_is_short(capsys):
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    assert len(example.splitlines()) <= 25
    names = {}
    exec(compile(example, "README.md", "exec"), names)
    assert -26 < names["result"].test.elbo < -22
    assert names["images"].shape == (16, 8, 8, 1)
    assert "test ELBO -2" in capsys.readouterr().out


def test_the_two_commands_are_at_the_top():
    first = README[: README.index("## ")]
    assert first.index("make train") < first.index("make test") < first.index("experiments/train.py")
