"""Verdicts on reproduced numbers, and the entries of a reproduction."""

import pytest

from vae_jax.cli.reproduction import Row, judge, rows_with_verdicts
from vae_jax.cli.reproduction_entries import kept, split_entry, train_entries
from vae_jax.config import Config
from vae_jax.errors import UserError


def row(published, measured, error=None, published_error=None):
    return Row("NLL", published, measured, error, 3, published_error)._asdict()


@pytest.mark.parametrize(
    ("numbers", "options", "expected"),
    [
        # Two standard errors of the difference are 2 sqrt(0.03^2 + 0.04^2) = 0.1.
        ((84.0, 84.09, 0.03, 0.04), {}, "Reproduced: 0.09 apart, within 0.1 (2 standard errors)."),
        ((84.0, 83.91, 0.03, 0.04), {}, "Reproduced: 0.09 apart, within 0.1 (2 standard errors)."),
        ((84.0, 84.11, 0.03, 0.04), {}, "Short of it by 0.11, because of a reason."),
        # One of the two errors alone would allow 0.06 or 0.08 only.
        ((84.0, 84.09, 0.03, None), {}, "Short of it by 0.09, because of a reason."),
        ((84.0, 84.09, None, 0.04), {}, "Short of it by 0.09, because of a reason."),
        ((84.0, 84.0, None, None), {}, "Reproduced: 0 apart, within 0 (2 standard errors)."),
        ((84.0, 84.2, 0.03, 0.04), {"margin": 0.3}, "Reproduced: 0.2 apart, within 0.3 (the stated margin)."),
        ((84.0, 84.2, 0.15, None), {"margin": 0.1}, "Reproduced: 0.2 apart, within 0.3 (2 standard errors)."),
        ((84.0, 82.5, 0.03, None), {"better": "lower"}, "Reproduced, and better by 1.5."),
        ((84.0, 85.5, 0.03, None), {"better": "lower"}, "Short of it by 1.5, because of a reason."),
        ((-84.0, -82.5, 0.03, None), {"better": "higher"}, "Reproduced, and better by 1.5."),
        ((-84.0, -85.5, 0.03, None), {"better": "higher"}, "Short of it by 1.5, because of a reason."),
        ((0.0, -0.02, None, None), {"margin": 0.01}, "Short of it by 0.02, because of a reason."),
    ],
)
def test_the_verdict_follows_from_the_numbers(numbers, options, expected):
    assert judge(row(*numbers), because="of a reason", **options) == expected


def test_every_row_needs_a_verdict():
    content = {"rows": [row(1.0, 1.0), row(2.0, 2.0)]}
    with pytest.raises(ValueError, match="shorter"):
        rows_with_verdicts(content, lambda content: ["Reproduced."])
    first, second = rows_with_verdicts(content, lambda content: [f"{one['published']:g}." for one in content["rows"]])
    assert (first["verdict"], second["verdict"], second["measured"]) == ("1.", "2.", 2.0)


def test_an_entry_is_split_into_its_parts_and_passes():
    assert split_entry("iwae:5:2@800", "iwae:5@800") == (["iwae", "5", "2"], 800)
    assert split_entry("vae:1", "iwae:5@800") == (["vae", "1"], None)
    for text in ("iwae:5@", "iwae:5@0", "iwae:5@x", "iwae:5@800:2", "iwae:5@8@8"):
        with pytest.raises(UserError, match="a number of passes after @"):
            split_entry(text, "iwae:5@800")


def test_an_old_sweep_directory_is_refused_with_the_place_to_move_it_to(tmp_path):
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(UserError, match="is itself a sweep directory") as caught:
        train_entries({"iwae-5-800": [Config()]}, tmp_path, data_dir=None, minutes=1)
    assert "iwae-5-800" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.json"]


def test_numbers_are_computed_once(tmp_path):
    path, calls = tmp_path / "evaluation" / "0-5.json", []

    def compute():
        calls.append(1)
        return {"nll": 1.5}

    assert kept(path, compute) == kept(path, compute) == {"nll": 1.5}
    assert len(calls) == 1
