"""Checkpoints: what is read is what was written, or the one before it, or a clear error."""

import shutil

import chex
import jax
import optax
import pytest
from orbax_deprecations import seen

from vae_jax import likelihoods, model, training
from vae_jax.errors import UserError
from vae_jax.runs.checkpoints import Checkpoints, digest
from vae_jax.training import optimizers


@pytest.fixture(scope="module")
def progresses():
    vae = model.mlp_vae((4, 4, 1), likelihoods.gaussian("shared"), hidden=(8,), latent_dim=2)
    optimizer = optimizers.with_params_ema(optax.adam, 0.9)
    first = training.initial_progress(vae, optimizer, 0)
    return [jax.tree.map(lambda leaf, k=k: leaf + k, first) for k in range(4)]


@pytest.fixture
def folder(tmp_path, progresses):
    with Checkpoints(tmp_path / "c", keep=2) as checkpoints:
        for epoch in (1, 2, 3):
            checkpoints.save(epoch, *progresses[epoch][:2])
    return tmp_path / "c"


def restore(folder, like):
    with Checkpoints(folder) as checkpoints:
        return checkpoints.restore(like)


def test_the_last_few_are_kept_and_the_newest_is_read(folder, progresses):
    epoch, state, best, complaints = restore(folder, progresses[0][:2])
    assert (epoch, complaints) == (3, [])
    chex.assert_trees_all_equal(state, progresses[3].state)
    chex.assert_trees_all_equal(best, progresses[3].best)
    assert jax.tree.structure(state) == jax.tree.structure(progresses[3].state)
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.epochs() == [2, 3]


def _largest(folder):
    return max((file for file in folder.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "emptied", "file removed"])
def test_a_damaged_checkpoint_is_skipped_and_reported(folder, progresses, damage):
    victim = _largest(folder / "3")
    content = bytearray(victim.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
    elif damage == "truncated":
        victim.write_bytes(content[: len(content) // 2])
    elif damage == "emptied":
        victim.write_bytes(b"")
    else:
        victim.unlink()
    epoch, state, _, complaints = restore(folder, progresses[0][:2])
    assert epoch == 2
    assert len(complaints) == 1
    assert "checkpoint 3 is damaged" in complaints[0]
    chex.assert_trees_all_equal(state, progresses[2].state)
    with Checkpoints(folder) as checkpoints:  # the run goes on and writes epoch 3 again
        checkpoints.restore(progresses[0][:2])
        assert checkpoints.epochs() == [2]
        checkpoints.save(3, *progresses[3][:2])
        assert checkpoints.epochs() == [2, 3]
    assert restore(folder, progresses[0][:2])[0] == 3


def test_an_unfinished_write_is_no_checkpoint(folder, progresses):
    shutil.copytree(folder / "3", folder / "4.orbax-checkpoint-tmp-1")
    assert restore(folder, progresses[0][:2])[0] == 3


def test_another_models_checkpoints_are_an_error(folder):
    other = model.mlp_vae((4, 4, 1), likelihoods.gaussian("shared"), hidden=(9,), latent_dim=2)
    like = training.initial_progress(other, optimizers.with_params_ema(optax.adam, 0.9), 0)
    with pytest.raises(UserError, match=r"no good checkpoint.*a different run or model"):
        restore(folder, like[:2])


def test_no_checkpoint_is_none(tmp_path, progresses):
    assert restore(tmp_path / "nothing", progresses[0][:2]) is None


def test_the_digest_sees_values_shapes_and_names(progresses):
    params = progresses[0].state.params
    assert digest(params) == digest(jax.tree.map(lambda leaf: leaf + 0, params))
    assert digest(params) != digest(jax.tree.map(lambda leaf: leaf + 1, params))
    assert digest({"a": params}) != digest({"b": params})


def test_deprecations_of_orbax_are_noticed_although_its_log_is_off(folder):
    """Every test fails if there are such messages at its end, so this one takes them away."""
    with Checkpoints(folder) as checkpoints:
        checkpoints._manager.all_steps(read=True)
    jax.monitoring.record_event("/jax/orbax/deprecation/checkpointer_legacy_args")
    assert [message.split(":")[0] for message in seen()] == ["absl", "/jax/orbax/deprecation/checkpointer_legacy_args"]
