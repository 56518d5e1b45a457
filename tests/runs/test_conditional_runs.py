"""Run directories of conditional models: what they record, and conditions that have changed since."""

import dataclasses
import json

import numpy as np
import pytest

from vae_jax import data, runs
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.runs.label_accuracy import follow_from_condition
from vae_jax.sweep import grid

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3)).astype(np.float32)
KIND, AGE = np.array(["b", "a", "c"] * 20), np.round(RNG.normal(40, 9, 60), 3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run given a file of conditions."""
    folder = tmp_path_factory.mktemp("runs")
    np.save(folder / "x.npy", X)
    np.savez(folder / "c.npz", kind=KIND, age=AGE)
    config = Config(
        dataset=str(folder / "x.npy"),
        condition=str(folder / "c.npz"),
        likelihood="gaussian",
        epochs=1,
        hidden=(4,),
        latent_dim=2,
        batch_size=16,
    )
    runs.train(build(config), folder / "run")
    return folder, config


def test_the_columns_and_their_categories_are_recorded(trained):
    folder, config = trained
    content = json.loads((folder / "run" / "config.json").read_text())
    assert content["config"]["condition"] == config.condition
    kind, age = content["data"]["condition"]["columns"]
    assert kind == {"name": "kind", "categories": ["a", "b", "c"]}
    assert age["name"] == "age"
    rows = [int(np.flatnonzero((one == X).all(axis=1))[0]) for one in data.load(folder / "x.npy").train]
    assert age["mean"] == pytest.approx(AGE[rows].mean(), rel=1e-6)
    assert age["standard_deviation"] == pytest.approx(AGE[rows].std(), rel=1e-6)
    assert content["data"]["treatment"].endswith("; given kind (3 categories), age")
    assert runs.load_run(folder / "run").built.dataset.condition.describe() == "kind (3 categories), age"


@pytest.mark.parametrize("name", ["values", "order", "category", "column", "rows", "gone"])
def test_a_condition_that_has_changed_is_refused(trained, name):
    folder, config = trained
    content = (folder / "c.npz").read_bytes()
    kind = np.where(KIND == "a", "z", KIND) if name == "category" else KIND[::-1] if name == "order" else KIND
    columns = {"kind": kind, "years" if name == "column" else "age": AGE + (name == "values")}
    np.savez(folder / "c.npz", **{key: column[: 59 if name == "rows" else 60] for key, column in columns.items()})
    message = r"the condition of the data set .* differs from the one that the run was trained on: it is .*Restore the columns"
    message = {"rows": "expected 60 rows, .* got 59", "gone": "c.npz: no such file"}.get(name, message)
    if name == "gone":
        (folder / "c.npz").unlink()
    try:
        with pytest.raises(UserError, match=message):
            runs.load_run(folder / "run")
        if name not in ("rows", "gone"):
            with pytest.raises(UserError, match=r"the condition of .* differs from the one that the run began with") as caught:
                runs.train(build(config), folder / "run", resume=True)
            assert caught.value.field == "resume"
    finally:
        (folder / "c.npz").write_bytes(content)
    runs.load_run(folder / "run")


def test_other_data_with_the_same_condition_are_refused_as_data(trained):
    folder, _ = trained
    np.save(folder / "x.npy", X + 1)
    try:
        with pytest.raises(
            UserError, match=r"the data set .* differs from the one that the run was trained on: its fingerprint"
        ):
            runs.load_run(folder / "run")
    finally:
        np.save(folder / "x.npy", X)


def test_a_run_without_a_condition_records_none(trained, tmp_path):
    _, config = trained
    built = build(dataclasses.replace(config, condition=""))
    content = json.loads(json.dumps(runs.config_file.describe(built, None)))
    assert "condition" not in content["data"]
    assert content["config"]["condition"] == ""


def test_data_with_a_condition_are_passed_to_build():
    dataset = data.from_arrays(X, condition={"kind": KIND})
    built = build(Config(likelihood="gaussian", prior="conditional", hidden=(4,), latent_dim=2, batch_size=16), dataset=dataset)
    assert built.config.condition == "custom"
    assert built.data.condition_dim == 3
    plain = data.from_arrays(X)
    with pytest.raises(UserError, match="there is no condition"):
        build(Config(likelihood="gaussian", prior="conditional"), dataset=plain)


def test_labels_that_follow_from_the_condition_are_recognized():
    labels = np.arange(60) % 3
    options = {"labels": labels, "split": "last"}
    for condition, expected in (
        ("labels", True),
        ({"word": KIND}, True),
        ({"age": AGE, "fine": np.arange(60) % 6}, True),
        ({"coarse": labels // 2}, False),
        ({"age": AGE}, False),
        (None, False),
    ):
        assert follow_from_condition(data.from_arrays(X, condition=condition, **options)) == expected


def test_members_of_a_sweep_share_the_condition():
    with pytest.raises(UserError, match="condition cannot be swept: all members share the data"):
        grid(Config(), condition=["labels", "factors"])
