"""Foreign losses against ours: the numbers by hand, the statements by computing both losses, the PyTorch code by running it."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from vae_jax import likelihoods
from vae_jax.config import Config
from vae_jax.conventions import EXAMPLES, Recipe, implied, in_pytorch
from vae_jax.divergences import kl_to_standard_normal

N, D, LATENT = 4, 6, 3  # all different, so that no two can be taken for each other
SIZES = {"data_dims": D, "latent_dims": LATENT, "batch_size": N}
ERRORS = ("mse", "half_mse", "mae", "bce", "gaussian_nll")
REDUCTIONS = ("sum", "mean", "batch_mean")
PAIRS = list(itertools.product(REDUCTIONS, REDUCTIONS))


def draw(seed):
    """A batch as a decoder and an encoder would give it, float64."""
    rng = np.random.default_rng(seed)
    decoded, decoded_log_scale = rng.normal(size=(2, N, D))
    mean, log_scale = rng.normal(size=(2, N, LATENT))
    x = rng.uniform(size=(N, D))
    return {"x": x, "decoded": decoded, "decoded_log_scale": decoded_log_scale, "mean": mean, "log_scale": log_scale}


def foreign(batch, reconstruction, reconstruction_reduction, kl_reduction, kl_weight, scale_factor):
    """The loss of a whole batch as others write it: NumPy, from the logarithm of the variance."""
    x, decoded, log_variance = batch["x"], batch["decoded"], 2 * batch["decoded_log_scale"]
    difference, probs = x - decoded, special.expit(decoded)
    error = {
        "mse": difference**2,
        "half_mse": difference**2 / 2,
        "mae": abs(difference),
        "bce": -x * np.log(probs) - (1 - x) * np.log(1 - probs),
        "gaussian_nll": 0.5 * (log_variance + difference**2 / np.exp(log_variance)),
    }[reconstruction]
    mean, log_variance = batch["mean"], 2 * batch["log_scale"]
    kl = -0.5 * (1 + log_variance - mean**2 - np.exp(log_variance))
    reduce = {"sum": np.sum, "mean": np.mean, "batch_mean": lambda e: e.sum(axis=1).mean()}
    return scale_factor * reduce[reconstruction_reduction](error) + kl_weight * reduce[kl_reduction](kl)


def ours(batch, likelihood, scale, beta):
    """The mean over the batch of -(log p(x|z) - beta KL), from the package's own functions."""

    def one(x, decoded, decoded_log_scale, mean, log_scale):
        log_scale_of_x = decoded_log_scale if scale is None else math.log(scale)
        log_prob = {
            "bernoulli": lambda: likelihoods.bernoulli_log_prob(decoded, x),
            "gaussian": lambda: likelihoods.gaussian_log_prob(decoded, log_scale_of_x, x),
            "laplace": lambda: likelihoods.laplace_log_prob(decoded, log_scale_of_x, x),
        }[likelihood]()
        return -(log_prob - beta * kl_to_standard_normal(mean, log_scale))

    names = ("x", "decoded", "decoded_log_scale", "mean", "log_scale")
    return jnp.mean(jax.vmap(one)(*(jnp.asarray(batch[name]) for name in names)))


def assert_true(says, reconstruction, reconstruction_reduction, kl_reduction, seed=0):
    """Our mean loss is multiplier * L + constant, for a batch, weights and factors that were not chosen."""
    batch, (kl_weight, scale_factor) = draw(seed), np.random.default_rng(seed).uniform(0.3, 3, size=2)
    reductions = {"reconstruction_reduction": reconstruction_reduction, "kl_reduction": kl_reduction}
    weights = {"kl_weight": kl_weight, "scale_factor": scale_factor}
    loss = foreign(batch, reconstruction, **reductions, **weights) / (N if reconstruction_reduction == "sum" else 1)
    got = says(reconstruction, **reductions, **weights, **SIZES)
    expected = float(ours(batch, got.likelihood, got.scale, got.beta))
    np.testing.assert_allclose(got.multiplier * loss + got.constant, expected, rtol=1e-10)


@pytest.mark.parametrize("reductions", PAIRS, ids="-".join)
@pytest.mark.parametrize("reconstruction", ERRORS)
def test_the_statement_is_true(reconstruction, reductions, x64):
    for seed in range(2):
        assert_true(implied, reconstruction, *reductions, seed=seed)


def changed(**changes):
    """`implied` with some of its answers changed: name -> function of the true answer."""

    def says(*args, **kwargs):
        true = implied(*args, **kwargs)
        return true._replace(**{name: change(true) for name, change in changes.items()})

    return says


def asked(**changes):
    """`implied`, asked the wrong question: name -> function of the right arguments."""

    def says(reconstruction, **kwargs):
        arguments = {"reconstruction": reconstruction, **kwargs}
        return implied(**arguments | {name: change(arguments) for name, change in changes.items()})

    return says


TWINS = {
    "no half: sigma^2 = 1 / scale_factor": (changed(scale=lambda t: t.scale * math.sqrt(2)), "mse", "sum", "sum"),
    "no half, its constant too": (asked(reconstruction=lambda a: "half_mse"), "mse", "mean", "batch_mean"),
    "a half too many": (asked(reconstruction=lambda a: "mse"), "half_mse", "sum", "sum"),
    "variance for scale": (changed(scale=lambda t: t.scale**2), "mse", "batch_mean", "batch_mean"),
    "no constant, gaussian": (changed(constant=lambda t: 0.0), "mse", "sum", "sum"),
    "no constant, laplace": (changed(constant=lambda t: 0.0), "mae", "sum", "sum"),
    "no constant, learned": (changed(constant=lambda t: 0.0), "gaussian_nll", "sum", "sum"),
    "constant of one pixel": (changed(constant=lambda t: t.constant / D), "mse", "mean", "mean"),
    "dimensions swapped": (
        asked(data_dims=lambda a: a["latent_dims"], latent_dims=lambda a: a["data_dims"]),
        *("bce", "mean", "mean"),
    ),
    "pixel mean taken for a sum": (asked(reconstruction_reduction=lambda a: "batch_mean"), "mse", "mean", "batch_mean"),
    "latent mean taken for a sum": (asked(kl_reduction=lambda a: "batch_mean"), "bce", "batch_mean", "mean"),
    "sum over the batch taken for a mean": (asked(kl_reduction=lambda a: "batch_mean"), "bce", "batch_mean", "sum"),
    "batch size upside down": (changed(beta=lambda t: t.beta * N**2), "mae", "sum", "mean"),
    "scale_factor forgotten": (asked(scale_factor=lambda a: 1.0), "mse", "sum", "sum"),
    "scale_factor in beta and in the scale": (changed(beta=lambda t: t.beta * t.scale), "mae", "sum", "sum"),
    "kl_weight forgotten": (asked(kl_weight=lambda a: 1.0), "gaussian_nll", "mean", "mean"),
    "multiplier upside down": (changed(multiplier=lambda t: 1 / t.multiplier), "bce", "mean", "mean"),
}


@pytest.mark.parametrize(("says", "reconstruction", "reduction", "kl_reduction"), TWINS.values(), ids=TWINS)
def test_the_proof_fails_on_a_broken_copy(says, reconstruction, reduction, kl_reduction, x64):
    assert_true(implied, reconstruction, reduction, kl_reduction)
    with pytest.raises(AssertionError):
        assert_true(says, reconstruction, reduction, kl_reduction)


def gradients(batch, likelihood, scale, beta):
    """Of our mean loss, with respect to everything that the networks put out."""
    outputs = {name: jnp.asarray(value) for name, value in batch.items() if name != "x"}
    return jax.grad(lambda outputs: ours({"x": batch["x"], **outputs}, likelihood, scale, beta))(outputs)


@pytest.mark.parametrize("reconstruction", ["mse", "half_mse", "mae"])
def test_pairs_with_the_same_minimum_have_parallel_gradients(reconstruction, x64):
    got = implied(reconstruction, kl_weight=0.3, scale_factor=2.5, reconstruction_reduction="mean", **SIZES)
    pairs = [(got.scale, got.beta), (got.scale_at_beta_one, 1.0), (1.0, got.beta_at_scale_one)]
    flat = [np.concatenate([np.ravel(g) for g in gradients(draw(0), got.likelihood, *pair).values()]) for pair in pairs]
    lengths = [np.linalg.norm(g) for g in flat]
    assert lengths[0] > 1.1 * lengths[1] or lengths[1] > 1.1 * lengths[0]  # parallel, but not the same
    for gradient, length in zip(flat, lengths, strict=True):
        np.testing.assert_allclose(gradient / length, flat[0] / lengths[0], rtol=1e-10, atol=1e-14)


def run_torch(torch, recipe, batch):
    """The recipe's code, run as it stands: the loss and its gradients."""
    names = {name: torch.tensor(value, requires_grad=name != "x") for name, value in batch.items()}
    names |= {"torch": torch, "F": torch.nn.functional}
    exec(compile(recipe.code, "recipe", "exec"), names)
    names["loss"].backward()
    # torch leaves None where the loss does not depend on a tensor
    return names["loss"].item(), {name: names[name].grad for name in batch if name != "x"}


@pytest.mark.parametrize("reductions", PAIRS, ids="-".join)
@pytest.mark.parametrize(
    ("likelihood", "scale"), [("bernoulli", None), ("gaussian", 0.4), ("gaussian", None), ("laplace", 0.4)], ids=str
)
def test_the_pytorch_code_is_our_loss(likelihood, scale, reductions, x64):
    torch = pytest.importorskip("torch")
    beta, batch = 1.7, draw(3)
    by = dict(zip(("reconstruction_reduction", "kl_reduction"), reductions, strict=True))
    recipe = in_pytorch(likelihood, beta=beta, scale=scale, **by, **SIZES)
    got = implied(**recipe._asdict())
    factor = got.multiplier / (N if reductions[0] == "sum" else 1)
    loss, theirs = run_torch(torch, recipe, batch)
    assert factor * loss + got.constant == pytest.approx(float(ours(batch, likelihood, scale, beta)), rel=1e-10)
    for name, gradient in gradients(batch, likelihood, scale, beta).items():
        wanted = np.zeros_like(gradient) if theirs[name] is None else factor * theirs[name].numpy()
        np.testing.assert_allclose(gradient, wanted, rtol=1e-9, atol=1e-12)
    assert theirs["mean"] is not None
    assert theirs["decoded"] is not None
    wrong_loss, _ = run_torch(torch, recipe._replace(kl_weight=2 * recipe.kl_weight), batch)
    assert wrong_loss != pytest.approx(loss, rel=1e-3)


def test_a_half_in_pytorch(x64):
    torch = pytest.importorskip("torch")
    half = Recipe("half_mse", "mean", "mean", kl_weight=0.5, scale_factor=2.0, data_dims=D, latent_dims=LATENT, batch_size=None)
    expected = foreign(draw(1), "half_mse", "mean", "mean", 0.5, 2.0)
    assert run_torch(torch, half, draw(1))[0] == pytest.approx(expected, rel=1e-12)


# (likelihood, beta, scale, scale at beta 1, beta at scale 1, constant, multiplier), worked out by hand
BY_HAND = {
    "summed BCE + KL": ("bernoulli", 1, None, None, None, 0, 1),
    "summed MSE + KL": ("gaussian", 1, 0.70710678, 0.70710678, 0.5, 2344.40681, 1),  # 2048 log(pi)
    # 0.00025 x 12288; sqrt(3.072 / 2); 3.072 / 2; 6144 log(pi)
    "pixel-mean MSE + 0.00025 KL": ("gaussian", 3.072, 0.70710678, 1.23935467, 1.536, 7033.22042, 12288),
    # 1 / sqrt(510); 6144 log(2 pi / 510)
    "255 times the summed MSE + KL": ("gaussian", 1, 0.04428074, 0.04428074, 0.00196078, -27012.3028, 1),
    # 0.1 x 3072 / 256; sqrt(1.2 / 2); 1536 log(pi)
    "pixel-mean MSE + 0.1 latent-mean KL": ("gaussian", 1.2, 0.70710678, 0.77459667, 0.6, 1758.30510, 3072),
}


@pytest.mark.parametrize(("name", "source", "arguments"), EXAMPLES, ids=[name for name, _, _ in EXAMPLES])
def test_public_losses(name, source, arguments):
    assert "/" in source
    likelihood, *numbers = BY_HAND[name]
    got = implied(**arguments)
    assert got.likelihood == likelihood
    assert got.batch_size is None
    for value, expected in zip(got[1:7], numbers, strict=True):
        assert value == (None if expected is None else pytest.approx(expected, rel=3e-6))


def test_the_table_has_every_example():
    assert [name for name, _, _ in EXAMPLES] == list(BY_HAND)


def test_half_a_squared_error_is_a_unit_gaussian():
    got = implied("half_mse", reconstruction_reduction="batch_mean", kl_reduction="batch_mean", data_dims=10, latent_dims=2)
    assert got[:5] == ("gaussian", 1, 1, 1, 1)
    assert got.constant == pytest.approx(5 * math.log(2 * math.pi))


def test_beta_depends_on_the_batch_size_only_where_one_term_is_summed_over_it():
    mixed = {"reconstruction_reduction": "mean", "kl_reduction": "sum", "data_dims": 784, "latent_dims": 20}
    assert [implied("bce", **mixed, batch_size=n).beta for n in (1, 128)] == pytest.approx([784, 784 * 128])
    assert implied("bce", **mixed, batch_size=128).batch_size == 128
    for both in REDUCTIONS:
        alike = {"reconstruction_reduction": both, "kl_reduction": both, "data_dims": 784, "latent_dims": 20}
        assert implied("bce", **alike, batch_size=128) == implied("bce", **alike)
    with pytest.raises(ValueError, match=r"batch_size: expected a number.*'mean'.*'sum'.*got None"):
        implied("bce", **mixed)
    with pytest.raises(ValueError, match=r"in_pytorch: batch_size: expected a number"):
        in_pytorch("bernoulli", **mixed)


def test_a_factor_in_front_of_cross_entropy_divides_beta():
    got = implied("bce", scale_factor=4, data_dims=784, latent_dims=20)
    assert (got.beta, got.scale, got.multiplier) == (0.25, None, 0.25)


def test_no_kl_is_an_autoencoder():
    got = implied("mse", kl_weight=0, data_dims=784, latent_dims=20)
    assert (got.beta, got.scale_at_beta_one, got.beta_at_scale_one) == (0, None, 0)
    assert "autoencoder" in got.sentence
    assert in_pytorch("gaussian", beta=0, scale=got.scale, data_dims=784, latent_dims=20).kl_weight == 0


@pytest.mark.parametrize(("alias", "name"), [("l2", "mse"), ("l1", "mae"), ("cross_entropy", "bce")])
def test_other_names_of_errors(alias, name):
    assert implied(alias, data_dims=784, latent_dims=20) == implied(name, data_dims=784, latent_dims=20)


@pytest.mark.parametrize("alias", ["batchmean", "mean_sum", "sum_mean"])
def test_other_names_of_the_batch_mean(alias):
    sizes = {"data_dims": 784, "latent_dims": 20}
    recipe = in_pytorch("laplace", scale=0.1, reconstruction_reduction=alias, kl_reduction=alias, **sizes)
    assert recipe.reconstruction_reduction == recipe.kl_reduction == "batch_mean"
    assert recipe == in_pytorch("laplace", scale=0.1, reconstruction_reduction="batch_mean", kl_reduction="batch_mean", **sizes)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([("bernoulli", False), ("gaussian", False), ("gaussian", True), ("laplace", True)]),
    st.floats(0, 1e4),
    st.floats(1e-3, 1e3),
    st.sampled_from(REDUCTIONS),
    st.sampled_from(REDUCTIONS),
    st.tuples(st.integers(1, 10**6), st.integers(1, 10**4), st.integers(1, 10**4)),
)
def test_there_and_back(kind, beta, scale, reduction, kl_reduction, sizes):
    likelihood, has_scale = kind
    arguments = {"reconstruction_reduction": reduction, "kl_reduction": kl_reduction}
    arguments |= dict(zip(("data_dims", "latent_dims", "batch_size"), sizes, strict=True))
    recipe = in_pytorch(likelihood, beta=beta, scale=scale if has_scale else None, **arguments)
    got = implied(**recipe._asdict())
    assert got.likelihood == likelihood
    assert got.beta == pytest.approx(beta, rel=1e-14, abs=1e-300)
    assert got.scale == (pytest.approx(scale, rel=1e-14) if has_scale else None)
    again = in_pytorch(got.likelihood, beta=got.beta, scale=got.scale, **arguments)
    assert again[3:5] == pytest.approx(recipe[3:5], rel=1e-14, abs=1e-300)


def test_sentences_and_flags():
    sizes = {"data_dims": 64 * 64 * 3, "latent_dims": 128}
    gaussian = implied("mse", reconstruction_reduction="mean", kl_reduction="batch_mean", kl_weight=0.00025, **sizes)
    assert gaussian.flags == "--likelihood gaussian --scale 0.7071068 --beta 3.072"
    for number in ("3.072 KL", "Gaussian of standard deviation 0.7071", "beta 1 with", "1.239", "beta 1.536 with"):
        assert number in gaussian.sentence
    bernoulli = implied("bce", kl_weight=4, **sizes)
    assert bernoulli.flags == "--likelihood bernoulli --beta 4"
    for part in ("4 KL", "Bernoulli", "0 and 1", "continuous_bernoulli"):
        assert part in bernoulli.sentence
    learned = implied("gaussian_nll", **sizes)
    assert learned.flags == "--likelihood gaussian --scale shared --beta 1"
    assert "learned" in learned.sentence
    laplace = implied("mae", scale_factor=8, kl_reduction="batch_mean", batch_size=64, **sizes)
    assert laplace.flags == "--likelihood laplace --scale 0.125 --beta 0.015625"
    assert laplace.settings == {"likelihood": "laplace", "scale": 0.125, "beta": 0.015625}
    assert learned.settings == {"likelihood": "gaussian", "scale": "shared", "beta": 1.0}
    for got in (gaussian, bernoulli, learned, laplace):
        Config(**got.settings)
    for part in ("Laplace of scale 0.125", "0.01562 KL", "batches of 64", "beta 1 with scale 0.001953", "beta 0.001953 with"):
        assert part in laplace.sentence
    unit = implied("half_mse", **sizes)
    assert "same minimum" not in unit.sentence  # there is no other pair to name
    for got in (gaussian, bernoulli, learned, laplace, unit):
        assert got.sentence.endswith(".")
        assert got.sentence.count(". ") == 0


WRONG = {
    "unknown error": ({"reconstruction": "mes"}, r"unknown reconstruction 'mes'.*Did you mean 'mse'"),
    "unknown reduction": ({"kl_reduction": "none"}, r"unknown reduction 'none'.*Known: sum, mean, batch_mean"),
    "no name": ({"reconstruction_reduction": None}, r"unknown reduction 'None'"),
    "negative weight": ({"kl_weight": -1}, r"implied: kl_weight: expected a number >= 0, got -1"),
    "nan": ({"kl_weight": math.nan}, r"kl_weight: expected a number >= 0, got nan"),
    "infinite": ({"kl_weight": math.inf}, r"kl_weight: expected a number >= 0, got inf"),
    "text": ({"kl_weight": "0.1"}, r"kl_weight: expected a number >= 0, got '0.1'"),
    "no factor": ({"scale_factor": 0}, r"scale_factor: expected a number > 0, got 0"),
    "truth": ({"scale_factor": True}, r"scale_factor: expected a number > 0, got True"),
    "no pixels": ({"data_dims": 0}, r"data_dims: expected a whole number >= 1 .*, got 0"),
    "a shape": ({"data_dims": (28, 28)}, r"data_dims: expected .*of a shape, the product.*, got \(28, 28\)"),
    "half a latent": ({"latent_dims": 0.5}, r"latent_dims: expected a whole number >= 1"),
    "huge": ({"latent_dims": 10**400}, r"latent_dims: expected a whole number >= 1"),
    "no batch": ({"batch_size": 0}, r"batch_size: expected a whole number >= 1"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_bad_input_gets_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        implied(**{"reconstruction": "mse", "data_dims": 784, "latent_dims": 20} | changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"likelihood": "gausian"}, r"unknown likelihood 'gausian'.*Did you mean 'gaussian'"),
        ({"likelihood": "bernoulli", "scale": 1.0}, r"scale: expected .*None for a Bernoulli.*, got 1.0"),
        ({"likelihood": "laplace"}, r"in_pytorch: scale: expected a number > 0 .*, got None"),
        ({"likelihood": "gaussian", "scale": 0.0}, r"in_pytorch: scale: expected a number > 0 .*, got 0.0"),
        ({"likelihood": "gaussian", "beta": -1.0}, r"in_pytorch: beta: expected a number >= 0, got -1.0"),
    ],
)
def test_bad_recipes_get_one_line(arguments, message):
    with pytest.raises(ValueError, match=message):
        in_pytorch(**{"data_dims": 784, "latent_dims": 20} | arguments)


def test_numpy_numbers_will_do():
    got = implied("mse", kl_weight=np.float32(2), data_dims=np.int64(784), latent_dims=np.int32(20))
    assert got == implied("mse", kl_weight=2, data_dims=784, latent_dims=20)
