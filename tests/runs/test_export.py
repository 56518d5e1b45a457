"""Exported models: the same bits as the model itself, for every batch size, without the training libraries."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mixed_csv import content, write_csv
from safetensors.numpy import load_file
from speed import slow_but

from vae_jax import networks, runs
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.data import from_arrays
from vae_jax.errors import UserError
from vae_jax.example import Example, event_of
from vae_jax.networks import Network
from vae_jax.runs import TrainedModel, export_model, load_exported

pytest.importorskip("flatbuffers")
RNG = np.random.default_rng(0)
FEW = {"latent_dim": 2, "batch_size": 32}
SMALL = {"hidden": (8,), **FEW}
PHOTOS = RNG.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
FLOATS = RNG.normal(3.0, 2.0, (80, 5)).astype(np.float32)
COUNTS = RNG.poisson(3.0, (80, 6)).astype(np.int32)
GAPS = np.where(RNG.random(FLOATS.shape) < 0.3, np.nan, FLOATS)
KIND, AGE = np.array(["b", "a", "c", "a"] * 20), RNG.normal(40, 9, 80)


def series():
    return from_arrays(RNG.normal(size=(60, 8, 2)).astype(np.float32), event="series", name="series")


CASES = {
    "mlp": (Config(**SMALL), None),
    "vamp": (Config(prior="vamp", prior_components=3, **SMALL), None),
    "threshold": (Config(binarize="threshold", **SMALL), None),
    "levels": (
        Config(likelihood="discretized_logistic", network="conv", channels=(4,), dense=(8,), **FEW),
        lambda: from_arrays(PHOTOS, name="photos"),
    ),
    "resnet": (
        Config(likelihood="categorical", network="resnet", channels=(4,), dense=(8,), condition="labels", **FEW),
        None,
    ),
    "dequantized": (Config(likelihood="gaussian", scale="per_pixel", dequantize=True, **SMALL), None),
    "series": (Config(likelihood="gaussian", network="conv", channels=(4,), dense=(8,), **FEW), series),
    "floats": (Config(likelihood="gaussian", **SMALL), lambda: from_arrays(FLOATS, name="floats")),
    "counts": (Config(likelihood="negative_binomial", **SMALL), lambda: from_arrays(COUNTS, name="counts")),
    "gaps": (
        Config(likelihood="laplace", mask_input=True, **SMALL),
        lambda: from_arrays(GAPS, missing="nan", name="gaps"),
    ),
    "conditional": (
        Config(likelihood="gaussian", prior="conditional", **SMALL),
        lambda: from_arrays(FLOATS, condition={"kind": KIND, "age": AGE}, name="people"),
    ),
    "columns": (Config(likelihood="columns", **SMALL), None),
}


QUICK = ("mlp", "gaps", "conditional", "columns")


def make(name, folder):
    """Returns a model with random parameters as `load_model` does, and what `build` made."""
    config, dataset = CASES[name]
    if name == "columns":
        config = Config(dataset=str(write_csv(folder / "table.csv", content())), missing="nan", likelihood="columns", **SMALL)
    built = build(config, dataset=dataset and dataset())
    params = jax.jit(built.vae.init)(jax.random.key(3))
    return TrainedModel(folder, built.config, built.description, built.vae, params, 1), built


def stored_arguments(built, count):
    """Returns test rows as they are stored: x, and the condition and the mask where there are any."""
    part = (lambda name: getattr(built.dataset, f"test_{name}")) if built.data.condition or built.data.has_missing else None
    x = np.resize(np.asarray(built.dataset.test), (count, *built.dataset.data_shape))
    arrays = [x]
    for name in ("condition", "mask") if part else ():
        if part(name) is not None:
            arrays.append(np.resize(part(name), (count, *part(name).shape[1:])))
    return arrays


def rows_of(built, arrays):
    """Returns the same rows as the pipeline of training takes them."""
    x, rest = arrays[0], list(arrays[1:])
    condition = rest.pop(0) if built.data.condition else None
    mask = rest.pop(0) if rest else None
    return (
        x
        if condition is None and mask is None
        else Example(*(a if a is None else jnp.asarray(a) for a in (x, condition, mask)))
    )


def reference(name, model, built, arrays, z):
    """The model jitted with the same batch, by the pipeline of training, with the parameters as arguments."""
    top = built.dataset.max_level
    drawn = {
        "mlp": lambda x: x / top,
        "vamp": lambda x: x / top,
        "threshold": lambda x: (x / top >= 0.5).astype(jnp.float32),
        "dequantized": lambda x: (x + 0.5) / (top + 1),
    }
    if name in drawn:
        inputs = drawn[name](jnp.asarray(arrays[0], jnp.float32))
    else:
        inputs = built.data.eval_input(rows_of(built, arrays))
    vae, is_count = model.vae, model.vae.likelihood.support == "counts"
    stored = (
        (lambda mean: mean * (top + 1) - 0.5) if name == "dequantized" else lambda mean: mean * (1 if is_count else top or 1)
    )
    encode = jax.jit(lambda params, inputs: jax.vmap(lambda x: vae.encode(params, x))(inputs))
    companion = [] if built.data.condition is None else [inputs.condition]
    decode = jax.jit(lambda params, z, *c: jax.vmap(lambda *zc: vae.decode(params, *zc))(z, *c))
    means = jax.jit(lambda params, z, *c: stored(jax.vmap(vae.likelihood.mean)(decode(params, z, *c))))
    return encode(model.params, inputs), decode(model.params, z, *companion), means(model.params, z, *companion)


@pytest.mark.parametrize("name", slow_but(QUICK, tuple(CASES)))
def test_an_exported_model_gives_the_bits_of_the_model(name, tmp_path):
    model, built = make(name, tmp_path)
    exported = load_exported(export_model(model, tmp_path / "out"))
    for count in (1, 64) if name == "mlp" else (1, 7, 64) if name in ("floats", "series") else (7,):
        arrays = stored_arguments(built, count)
        z = RNG.normal(size=(count, model.vae.latent_dim)).astype(np.float32)
        codes, outputs, means = reference(name, model, built, arrays, z)
        for one, other in zip(exported.encode(*encode_arguments(built, arrays)), codes, strict=True):
            np.testing.assert_array_equal(one, other)
        condition = arrays[1] if built.data.condition else None
        got = exported.decode(z, condition)
        assert jax.tree.structure(got) == jax.tree.structure(outputs)
        jax.tree.map(np.testing.assert_array_equal, got, outputs)
        np.testing.assert_array_equal(exported.mean(z, condition), means)
    saved = load_file(tmp_path / "out" / "params.safetensors")
    described = exported.config["params"]
    assert {name: list(array.shape) for name, array in saved.items()} == {n: one["shape"] for n, one in described.items()}
    assert sum(array.size for array in saved.values()) == sum(leaf.size for leaf in jax.tree.leaves(model.params))


def encode_arguments(built, arrays):
    """Returns (x, condition, mask), with None for what the model does not take."""
    condition = arrays[1] if built.data.condition else None
    return arrays[0], condition, arrays[-1] if built.data.has_missing else None


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    folder = tmp_path_factory.mktemp("conditional")
    model, built = make("conditional", folder)
    return export_model(model, folder / "out"), model, built


def test_arguments_that_do_not_fit_are_refused(conditional):
    exported = load_exported(conditional[0])
    x, c = FLOATS[:3], np.array([[0, 30.0], [1, 40.0], [2, 50.0]])
    exported.encode(x, condition=c)
    for arguments, named, text in (
        ((x,), {}, "condition is missing"),
        ((x, c, x > 0), {}, "mask is not taken"),
        ((x[:, :4], c), {}, r"x of shape \(batch, 5\), got \(3, 4\)"),
        ((x, c[:2]), {}, r"condition of shape \(3, 2\)"),
        ((x[0], c), {}, "x of shape"),
        ((x[:0], c[:0]), {}, "x of shape"),
        ((x, c + np.array([[3, 0]])), {}, "a category from 0 to 2 in column 0"),
        ((x, c), {"x": x}, "expected the arguments"),
        ((x, c), {"key": 1}, "expected the arguments"),
    ):
        with pytest.raises(UserError, match=text):
            exported.encode(*arguments, **named)
    with pytest.raises(UserError, match="condition is missing"):
        exported.decode(np.zeros((3, 2)))


def test_the_config_says_what_to_pass(conditional):
    config = load_exported(conditional[0]).config
    kind, age = config["condition"]
    assert kind["categories"] == ["a", "b", "c"]
    assert (age["mean"], age["categories"]) == (conditional[2].data.condition.columns[1].mean, None)
    x, condition = config["functions"]["encode"]["arguments"]
    assert x["text"] == "numbers in the unit of the training data."
    assert (condition["columns"], condition["num_categories"]) == (["kind", "age"], [3, None])
    assert config["model"]["codes"].startswith("u = (z - m(c)) / s(c)")
    assert config["versions"]["jax"] == jax.__version__
    assert config["stablehlo"]["platforms"] == ["cpu", "cuda", "tpu"]
    values = np.exp(config["likelihood"]["learned"]["values"])  # the scales start at the spread of the columns
    np.testing.assert_allclose(values, conditional[2].data.moments.std, rtol=0.05)


def damage(name):
    def change(folder):
        path = folder / name
        whole = bytearray(path.read_bytes())
        whole[len(whole) // 2] ^= 1
        path.write_bytes(whole)

    return change


def edit(change):
    def write(folder):
        content = json.loads((folder / "config.json").read_text())
        change(content)
        (folder / "config.json").write_text(json.dumps(content))

    return write


DAMAGES = {
    "program": damage("mean.stablehlo"),
    "gone": lambda folder: (folder / "encoder.stablehlo").unlink(),
    "no config": lambda folder: (folder / "config.json").unlink(),
    "not JSON": lambda folder: (folder / "config.json").write_text("{"),
    "newer": edit(lambda content: content.update(format=2)),
    "incomplete": edit(lambda content: content["functions"].pop("mean")),
    "elsewhere": edit(lambda content: content["functions"]["mean"].update(file="../../mean.stablehlo")),
    "an argument without a shape": edit(lambda content: content["functions"]["mean"]["arguments"].insert(0, 7)),
    "a shape of text": edit(lambda content: content["functions"]["mean"]["arguments"][0].update(shape="batch")),
    "a list": lambda folder: (folder / "config.json").write_text("[]"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_is_refused(conditional, tmp_path, name):
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in conditional[0].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    DAMAGES[name](folder)
    with pytest.raises(UserError, match=str(folder)):
        load_exported(folder)


def test_a_program_that_jax_does_not_read_is_refused(conditional, tmp_path, monkeypatch):
    def expired(content):
        raise ValueError("the artifact is too old\nmore")

    monkeypatch.setattr(jax.export, "deserialize", expired)
    with pytest.raises(UserError, match=r"cannot read it: the artifact is too old\. Export the model again"):
        load_exported(conditional[0])


def test_a_folder_is_replaced_only_when_asked(conditional, tmp_path, monkeypatch):
    _, model, _ = conditional
    monkeypatch.setattr("vae_jax.runs.trained.export._serialize", lambda *arguments: b"program")
    out = tmp_path / "deep" / "out"
    export_model(model, out)
    before = {path.name for path in out.iterdir()}
    with pytest.raises(UserError, match="overwrite=True"):
        export_model(model, out)
    (out / "old").write_text("of the earlier export")
    export_model(model, out, overwrite=True)
    assert {path.name for path in out.iterdir()} == before
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    (tmp_path / "file").write_text("mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    (tmp_path / "link").symlink_to(out)
    for name in ("file", "mine", "link"):
        with pytest.raises(UserError, match="is not an exported model"):
            export_model(model, tmp_path / name, overwrite=True)


def test_nothing_is_left_of_an_export_that_fails(conditional, tmp_path, monkeypatch):
    monkeypatch.setattr("vae_jax.runs.trained.export._serialize", lambda *arguments: b"program")

    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("vae_jax.runs.trained.export.write_json", full)
    with pytest.raises(OSError, match="No space"):
        export_model(conditional[1], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_earlier_export_survives_one_that_fails(conditional, tmp_path, monkeypatch):
    monkeypatch.setattr("vae_jax.runs.trained.export._serialize", lambda *arguments: b"program")
    out = export_model(conditional[1], tmp_path / "out")
    (out / "encoder.stablehlo").write_bytes(b"earlier")
    rename = Path.rename

    def interrupted(path, target):
        if target == out and not path.name.endswith(".old"):
            raise OSError(5, "Input/output error", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(OSError, match="Input/output error"):
        export_model(conditional[1], out, overwrite=True)
    assert (out / "encoder.stablehlo").read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [out]


def counting(params, x):
    return jax.pure_callback(lambda x: np.asarray(x), jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="sequential")


@jax.custom_batching.custom_vmap
def branching(x):
    return x


@branching.def_vmap
def _(size, batched, x):
    return (x if size > 8 else x + 0), True


@pytest.mark.parametrize("function", [counting, lambda params, x: branching(x)], ids=["callback", "branch"])
def test_a_network_that_cannot_be_exported_is_named(function, tmp_path):
    encoder = networks.mlp_encoder((5,), 2, hidden=())
    odd = Network(encoder.init, lambda params, x: encoder.apply(params, function(params, x)))
    pair = (odd, networks.mlp_decoder(2, (5,), hidden=()))
    built = build(Config(likelihood="gaussian", scale="1.0", **SMALL), dataset=from_arrays(FLOATS, name="floats"), network=pair)
    params = built.vae.init(jax.random.key(0))
    model = TrainedModel(tmp_path, built.config, built.description, built.vae, params, 1)
    with pytest.raises(UserError, match=r'the encoder of `network="custom"` cannot be exported'):
        export_model(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


BLOCKED = ("flax", "optax", "orbax", "safetensors", "grain", "tensorflow_datasets", "sklearn", "tyro", "filelock")
LIGHT = f"""
import sys
class Block:
    def find_spec(self, name, *rest):
        if name.split(".")[0] in {BLOCKED}: raise ImportError(name)
sys.meta_path.insert(0, Block())
import numpy as np
from vae_jax.storage.exported_model import load_exported
x, c, folder = np.load(sys.argv[1]), np.load(sys.argv[2]), sys.argv[3]
mean, _ = load_exported(folder).encode(x, c)
import jax, jax.export
plain = jax.export.deserialize(bytearray(open(folder + "/encoder.stablehlo", "rb").read()))
assert (plain.call(x, c)[0] == mean).all()
np.save(sys.argv[4], mean)
"""


def test_it_loads_without_the_training_libraries(conditional, tmp_path):
    folder, *_ = conditional
    x, c = FLOATS[:4], np.array([[0, 30.0], [1, 40.0], [2, 50.0], [2, 51.0]], np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "c.npy", c)
    arguments = [tmp_path / "x.npy", tmp_path / "c.npy", folder, tmp_path / "mean.npy"]
    subprocess.run([sys.executable, "-c", LIGHT, *map(str, arguments)], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "mean.npy"), load_exported(folder).encode(x, c)[0])


@pytest.mark.slow
def test_a_member_of_a_sweep_is_exported_by_the_command(tmp_path, capsys):
    from vae_jax.cli.export import main
    from vae_jax.sweep import grid
    from vae_jax.sweep.directory import run_sweep
    from vae_jax.sweep.results import write_results

    run_sweep(grid(Config(epochs=1, **SMALL), beta=[0.5, 2.0]), tmp_path / "sweep")
    write_results(tmp_path / "sweep", 1.0)
    with pytest.raises(UserError, match="one member must be chosen"):
        main([str(tmp_path / "sweep"), "--out", str(tmp_path / "out")])
    assert main([str(tmp_path / "sweep"), "--best", "test_elbo", "--out", str(tmp_path / "out")]) == 0
    exported = load_exported(tmp_path / "out")
    member = exported.config["model"]["member"]
    assert member == runs.best(tmp_path / "sweep", "test_elbo")
    assert f"member {member}" in capsys.readouterr().out
    model = runs.load_model(tmp_path / "sweep", member=member)
    saved = load_file(tmp_path / "out" / "params.safetensors")
    np.testing.assert_array_equal(saved["encoder.Dense_0.kernel"], model.params["encoder"]["Dense_0"]["kernel"])


@pytest.mark.slow
def test_a_trained_run_is_exported_by_the_command(tmp_path, capsys):
    from vae_jax.cli.export import main

    runs.train(build(Config(epochs=1, **SMALL)), tmp_path / "run")
    assert main([str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    assert str(tmp_path / "out") in capsys.readouterr().out
    run = runs.load_run(tmp_path / "run")
    x = np.asarray(run.built.dataset.test[:7])
    codes = jax.vmap(lambda x: run.built.vae.encode(run.params, x))(jnp.asarray(event_of(x)) / 16)
    np.testing.assert_allclose(load_exported(tmp_path / "out").encode(x)[0], codes[0], rtol=1e-5, atol=1e-6)
