"""Parts of the user on the command line: what is imported and when, what a directory records, and what is refused."""

import json
import shutil
import sys

import jax
import numpy as np
import pytest
from test_main import call

from vae_jax import runs
from vae_jax.build.parts import file_sha256
from vae_jax.cli.main import main
from vae_jax.cli.user_parts import FOR_MODEL, PartArguments, import_parts, load_parts, load_parts_of_each, split_parts
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.sweep import load_sweep
from vae_jax.sweep.directory import run_sweep
from vae_jax.sweep.results import load_params

# Small networks of plain functions. Importing the module leaves a mark beside it.
MODULE = """
from pathlib import Path
import jax, jax.numpy as jnp, optax
from vae_jax.likelihoods import bernoulli_log_prob
from vae_jax.networks import Network
from vae_jax.objectives import elbo
from vae_jax.priors import Prior

Path(__file__).with_name("mark").touch()

class Made:
    def network(config, data):
        size = config.latent_dim
        def init(key):
            return 0.1 * jax.random.normal(key, (64, 2 * size))
        encoder = Network(init, lambda w, x: jnp.split(x.reshape(-1) @ w, 2))
        decoder = Network(lambda key: init(key)[:, :size], lambda w, z: (w @ z).reshape(data.output_shape))
        return encoder, decoder

def prior(config, data):
    def log_prob(log_scale, encode, z):
        return jnp.sum(jax.scipy.stats.norm.logpdf(z, scale=jnp.exp(log_scale)))
    def sample(log_scale, encode, key):
        return jnp.exp(log_scale) * jax.random.normal(key, (config.latent_dim,))
    return Prior("scaled", lambda key: jnp.zeros(()), log_prob, sample)

def likelihood(logits, x):
    return bernoulli_log_prob(logits, x)

def objective(key, encode, decode, log_prob, x, hyperparams, prior_log_prob=None):
    terms = elbo(key, encode, decode, log_prob, x, beta=1.0, prior_log_prob=prior_log_prob)
    return terms._replace(loss=terms.loss + hyperparams.beta * jnp.square(terms.loss))

optimizer = optax.sgd
"""
NAMES = {"network": "Made.network"} | {name: name for name in ("prior", "likelihood", "objective", "optimizer")}
# Without a learned prior, so that an objective of the package takes the model as well.
PLAIN = {name: NAMES[name] for name in ("network", "optimizer")}


def words(module, names):
    return [word for name, attribute in names.items() for word in (f"--{name}", f"{module}:{attribute}")]


def options(module, names):
    return load_parts(PartArguments(**{name: f"{module}:{attribute}" for name, attribute in names.items()}))


SETTINGS = ("--dataset", "digits", "--latent-dim", "2", "--epochs", "1", "--binarize", "threshold", "--learning-rate", "1e-5")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(the folder, the words of the parts) of a run and a sweep with parts of a module in the same folder."""
    folder = tmp_path_factory.mktemp("trained")
    module = folder / "parts.py"
    module.write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in (
            ["train", *words("parts.py", NAMES), "--out", "run"],
            ["sweep", *words("parts.py", PLAIN), "--out", "sweep", "--betas", "1", "4"],
        ):
            with pytest.raises(SystemExit) as stop:
                main([*command, *SETTINGS, "--no-report"])
            assert not stop.value.code
    (folder / "mark").unlink()
    return folder, module


def test_a_run_records_name_file_and_hash_and_never_the_object(trained):
    folder, module = trained
    config, content = runs.read_config(folder / "run")
    assert {name: getattr(config, name) for name in NAMES} == dict.fromkeys(NAMES, "custom")
    expected = {"file": str(module), "sha256": file_sha256(module), "imported": True}
    assert content["parts"] == {name: {"name": NAMES[name], **expected} for name in NAMES}
    assert json.loads((folder / "sweep" / "sweep.json").read_text())["parts"] == {
        name: {"name": PLAIN[name], **expected} for name in PLAIN
    }


def test_functions_read_the_run_and_the_sweep_with_the_same_parts(trained):
    folder, module = trained
    run = runs.load_run(folder / "run", **options(module, NAMES))
    assert run.notes == []
    assert run.built.vae.prior.name == "scaled"
    model = runs.load_model(
        folder / "run", **options(module, {name: NAMES[name] for name in ("network", "prior", "likelihood")})
    )
    assert jax.tree.all(jax.tree.map(np.array_equal, model.params, run.params))
    results = load_sweep(folder / "sweep")
    members = load_params(results, [0, 1], **options(module, PLAIN))
    assert members[0][0] is members[1][0]
    assert not np.array_equal(*(members[number][1]["encoder"] for number in (0, 1)))


COMMANDS = {
    "evaluate": ("run", "--num-samples", "2"),
    "report": ("run",),
    "latent": ("run",),
    "postmortem": ("run",),
    "impute": ("run", "--data", "holes.npy", "--out", "filled.npy"),
    "encode": ("run", "--data", "holes.npy", "--out", "out.npz"),
    "score": ("run", "--data", "holes.npy", "--out", "out.npz"),
    "reconstruct": ("run", "--data", "holes.npy", "--out", "out.npz"),
    "sample": ("run", "--num", "2", "--out", "out.npz"),
    "interpolate": ("run", "--data", "holes.npy", "--out", "out.npz"),
    "export": ("run", "--out", "exported"),
    "report a sweep": ("sweep",),
    "disentangle": ("sweep",),
    "train": ("--out", "run", "--resume"),
    "sweep": ("--out", "sweep", "--resume"),
    "train from a run": ("--out", "new", "--init-from", "run"),
    "sweep from a run": ("--out", "new", "--init-from", "run", "--betas", "1", "2"),
}


# They need the model alone, without objective and optimizer.
MODEL_COMMANDS = ("impute", "encode", "score", "reconstruct", "sample", "interpolate", "export")


@pytest.fixture
def copied(trained, tmp_path, monkeypatch):
    """The folder on another machine, where the recorded paths lead nowhere."""
    folder, module = trained
    for name in ("run", "sweep"):
        shutil.copytree(folder / name, tmp_path / name)
        (tmp_path / name / "diverged.json").write_text('{"term": "data"}')
    np.save(tmp_path / "holes.npy", np.full((3, 8, 8, 1), np.nan, np.float32))
    shutil.copy(module, tmp_path)
    monkeypatch.chdir(tmp_path)
    module.rename(folder / "away.py")
    yield tmp_path
    (folder / "away.py").rename(module)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_imports_code_by_itself(copied, capsys, command):
    arguments = COMMANDS[command]
    directory, names = ("sweep", PLAIN) if "sweep" in arguments else ("run", NAMES)
    status, _, err = call(capsys, command.split()[0], *arguments)
    assert status == 2, err
    if command in MODEL_COMMANDS:
        names = {name: NAMES[name] for name in FOR_MODEL if name in NAMES}
    hashes = file_sha256("parts.py")
    assert err.startswith(f"error: {directory}: was trained with the ")
    assert err.count(f"(SHA-256 {hashes})") == len(names)
    pairs = zip(words("parts.py", names)[::2], words("parts.py", names)[1::2], strict=True)
    assert all(f"{option} {value}" in err for option, value in pairs)
    assert not list(copied.glob("mark"))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_a_file_that_has_changed(copied, capsys, command):
    arguments, old = COMMANDS[command], file_sha256("parts.py")
    names = PLAIN if "sweep" in arguments else NAMES
    (copied / "parts.py").write_text(MODULE + "\nprior_scale = 2\n")
    status, _, err = call(capsys, command.split()[0], *arguments, *words("parts.py", names))
    assert status == 2, err
    assert f"the SHA-256 {old}, and {copied / 'parts.py'} has the SHA-256 {file_sha256('parts.py')}." in err
    assert not (copied / "mark").exists()


def test_functions_refuse_a_directory_without_its_parts_and_import_nothing(copied):
    results = load_sweep("sweep")
    for read in (runs.load_run, runs.load_last_good, runs.load_model, lambda path: load_params(results, [0])):
        with pytest.raises(UserError, match=r"the network Made\.network of parts\.py .*are not stored here\. Pass `.*network`"):
            read("run")
    with pytest.raises(UserError, match=r"Pass `network` and `optimizer` to run_sweep"):
        run_sweep(results.members, "sweep", resume=True)
    assert not (copied / "mark").exists()


def test_code_that_a_directory_names_as_a_registered_part_is_refused(copied, capsys):
    for name, key in (("run/config.json", "config"), ("sweep/sweep.json", "arguments")):
        content = json.loads((copied / name).read_text())
        (content[key] if key == "config" else content[key]["base"])["network"] = "parts.py:Made.network"
        (copied / name).write_text(json.dumps(content))
        command, directory = ("train", "run") if key == "config" else ("sweep", "sweep")
        status, _, err = call(capsys, command, "--out", directory, "--resume")
        assert status == 2
        assert "unknown network 'parts.py:Made.network'" in err
    assert not (copied / "mark").exists()


def test_the_words_of_the_model_encode_and_export(copied, capsys):
    np.save("new.npy", np.eye(8, dtype=np.uint8)[None, :, :, None].repeat(3, 0) * 16)
    model = words("parts.py", {name: NAMES[name] for name in FOR_MODEL if name in NAMES})
    status, _, err = call(capsys, "encode", "run", "--data", "new.npy", "--out", "codes.npz", *model)
    assert status == 0, err
    with np.load("codes.npz") as codes:
        assert codes["means"].shape == (3, 2)
    status, _, err = call(capsys, "export", "run", "--out", "exported", *model)
    assert status == 0, err


def test_the_words_continue_a_run_and_a_sweep(copied, capsys):
    status, out, err = call(capsys, "train", "--out", "run", "--resume", *words("parts.py", NAMES), "--no-report")
    assert status == 0, err
    assert (
        "training Made.network of parts.py, 2 latent dimensions, likelihood of parts.py, objective objective of parts.py" in out
    )
    assert "resuming after epoch 1" in out
    other = words("parts.py", NAMES | {"prior": "likelihood"})
    status, _, err = call(capsys, "train", "--out", "run", "--resume", *other)
    assert (status, "was trained with the prior prior of parts.py, and likelihood of parts.py is passed" in err) == (2, True)
    status, _, err = call(capsys, "evaluate", "run", "--network", "mlp")
    assert (status, "expected the file and the name of a network of yours, as parts.py:NAME, got mlp" in err) == (2, True)


def test_several_directories_get_the_parts_that_each_was_trained_with(copied):
    arguments = PartArguments(**{name: f"parts.py:{attribute}" for name, attribute in NAMES.items()})
    run, sweep = load_parts_of_each(arguments, [copied / "run", copied / "sweep"])
    assert (set(run) - {"sources"}, set(sweep) - {"sources"}) == (set(NAMES), set(PLAIN))
    with pytest.raises(
        UserError, match=r"likelihood: .*sweep: was trained with the likelihood 'bernoulli'\. Leave `likelihood`"
    ):
        load_parts_of_each(arguments, [copied / "sweep"])
    with pytest.raises(UserError, match=r"none of these directories was trained with a likelihood of yours"):
        load_parts_of_each(arguments, [copied / "sweep", copied / "sweep"])


BAD_FILES = {
    "parts.py:f": ("raise KeyError('z')", r"network: .*parts\.py: line 1: KeyError: 'z'\."),
    "./parts.py:f": ("x = 1\nx = (\n", r"line 2: SyntaxError: '\(' was never closed\."),
    "parts.py:exits": ("import sys\nsys.exit(3)", r"line 2: SystemExit: 3"),
    "parts.py:make_netwrk": ("def make_network(config, data): ...", r"'make_netwrk'\. Did you mean 'make_network'\?"),
    "parts.py:make.f": ("def make(config, data): ...", r"unknown name for `network` in .*: 'make\.f'"),
    "parts.py": ("def make(config, data): ...", r"as parts\.py:NAME, got 'parts\.py'\. It defines make"),
    "parts.py:": ("", r"as parts\.py:NAME, got 'parts\.py:'"),
    "parts.py:a b": ("", r"as parts\.py:NAME, got 'parts\.py:a b'"),
    "part.py:f": ("", r"part\.py: no such file\. Did you mean 'parts\.py'\?"),
    "folder.py:f": ("", r"folder\.py is a folder"),
    "parts.py:sibling": ("from beside import g", r"line 1: ModuleNotFoundError: .*install beside, or .*PYTHONPATH="),
    "parts.py:nul": ("\0", r"SyntaxError|null bytes"),
}  # fmt: skip


@pytest.mark.parametrize("value", BAD_FILES)
def test_a_wrong_file_or_name_is_refused_in_one_sentence(tmp_path, monkeypatch, value):
    content, message = BAD_FILES[value]
    (tmp_path / "parts.py").write_text(content)
    (tmp_path / "beside.py").touch()
    (tmp_path / "folder.py").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        import_parts(split_parts(Config(network=value))[1])


def test_a_file_is_imported_once_and_as_it_is_now(tmp_path, monkeypatch):
    module = tmp_path / "C:parts.py:1.py"  # a colon, as in paths of Windows
    module.write_text("import sys\nclass A:\n    value = 1\n")
    path = list(sys.path)
    arguments = PartArguments(prior=f"{module}:A", network=f"{module}:A.value")
    first = load_parts(arguments)
    assert first["network"] == 1
    assert load_parts(arguments)["prior"] is first["prior"]
    module.write_text("import sys\nclass A:\n    value = 2\n")  # of the same size and second: no cache of bytecode
    assert load_parts(arguments)["network"] == 2
    assert sys.path == path
    assert not (tmp_path / "__pycache__").exists()


@pytest.mark.parametrize(("value", "message"), [("mpl", r"unknown network 'mpl'\. Did you mean 'mlp'\?.*as parts\.py:NAME")])
def test_a_name_that_is_neither_registered_nor_a_file_is_refused(value, message):
    with pytest.raises(UserError, match=message):
        split_parts(Config(network=value))
