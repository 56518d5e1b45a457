"""What records and reports say of a posterior other than the diagonal Gaussian."""

from vae_jax.model import VAE
from vae_jax.posteriors import Posterior
from vae_jax.storage.atomic import JsonObject


def has_kl_parts(posterior: Posterior) -> bool:
    """Returns whether an evaluation computes the mutual information, which needs the density q(z|x_n) of a draw for every n.

    A code of several layers has that density too, but the outputs of its encoder are too large to be kept for a whole test set.
    """
    return posterior.log_prob is not None and posterior.sample_and_kl is None


def describe_posterior(posterior: Posterior) -> JsonObject:
    """Returns the entry "posterior" of evaluation.json: its name, and what of the code's numbers is known for it.

    `marginals` is "exact" where q(z_j|x) is a Gaussian with known moments, and "from draws" where the numbers of single
    dimensions are those of a Gaussian with moments estimated from draws. `missing` says which parts of the KL are not known.
    """
    missing = None
    if posterior.log_prob is None:
        missing = "the density q(z|x) of a given z is not known, so mutual information and total correlation are not computed"
    elif not has_kl_parts(posterior):
        missing = "mutual information and total correlation are not computed for a code of several layers"
    elif posterior.factor is None:
        missing = "the densities q(z_j|x) of single dimensions are not known, so total correlation is not computed"
    return {
        "name": posterior.name,
        "marginals": "from draws" if posterior.factor is None else "exact",
        "missing": missing,
    }


def posterior_facts(vae: VAE) -> JsonObject:
    """Returns a record with `describe_posterior` as its entry "posterior"; {} for the diagonal posterior."""
    return {} if vae.posterior is None else {"posterior": describe_posterior(vae.posterior)}


def about_dimensions(record: JsonObject) -> str:
    """Returns a sentence on the KL of each dimension, with a leading space; "" for the diagonal posterior.

    Args:
      record: with the result of `describe_posterior` as its entry "posterior", or without.
    """
    if (posterior := record.get("posterior")) is None:
        return ""
    taken = "" if posterior["marginals"] == "exact" else ", taken as Gaussians with the mean and the variance of draws"
    return (
        f" The posterior ({posterior['name']}) is not a diagonal Gaussian: these are KLs of the marginals q(z_j|x){taken}. "
        "They do not add up to KL(q(z|x) ‖ p(z))."
    )
