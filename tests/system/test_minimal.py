"""experiments/minimal.py, the file to copy, with fewer epochs."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from paths import EXPERIMENTS
from PIL import Image


def test_it_trains_evaluates_saves_and_plots(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    source = (EXPERIMENTS / "minimal.py").read_text()
    assert len(source.splitlines()) <= 70
    assert "cli" not in source
    shorter, count = re.subn(r"= 8, 50, 500, Path", "= 8, 2, 20, Path", source)
    assert count == 1
    names = {"__name__": "minimal"}
    exec(compile(shorter, "minimal.py", "exec"), names)
    plt.close("all")
    printed = capsys.readouterr().out
    elbo, log_px = (float(number) for number in re.findall(r"^(?:test ELBO|log p\(x\)) (-[\d.]+)", printed, re.MULTILINE))
    assert -40 < elbo < log_px < -20
    for name, layer in names["result"].params["encoder"].items():
        np.testing.assert_array_equal(layer["kernel"], names["params"]["encoder"][name]["kernel"])
    assert Image.open(Path("runs/minimal/images.png")).size == (1200, 450)
