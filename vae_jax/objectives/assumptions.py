"""What objectives assume of q(z|x), and the errors where the posterior of a model is a different one."""

from typing import TYPE_CHECKING

from vae_jax.errors import UserError

if TYPE_CHECKING:
    from vae_jax.posteriors.base import Posterior


def check_gaussian(objective: str, posterior: "Posterior") -> None:
    """Raises `UserError` unless q(z|x) is a Gaussian whose factor is known.

    Args:
      objective: its name and what it needs, the subject and the verb of the sentence.
      posterior: the posterior of the model.
    """
    if posterior.factor is None or posterior.log_prob is None:
        raise UserError(
            f"{objective}, which are known for a Gaussian q(z|x) only, and the posterior {posterior.name!r} is not one.",
            fix='Use `posterior="diagonal"`, "full" or "householder", or an objective for any posterior, such as "info_vae".',
        )


def check_free_bits(posterior: "Posterior", num_groups: int | None, num_layers: int | None = None) -> None:
    """Raises `UserError` where the KL does not have the parts that free bits would clip.

    Args:
      posterior: the posterior of the model, not the diagonal one.
      num_groups: number of groups; None for each dimension.
      num_layers: number of KLs that `posterior.sample_and_kl` returns, if it is known already.
    """
    name, has_layers = posterior.name, posterior.sample_and_kl is not None
    if num_groups is None:
        raise UserError(
            "free bits for each dimension need a KL of each dimension, which a diagonal Gaussian has, and the posterior "
            f"{name!r} has one {'of each layer' if has_layers else 'of the whole code'} only.",
            fix=f'Use `free_bits_per="group"`, which clips the KL of {"each layer" if has_layers else "the whole code"}.',
        )
    if has_layers and num_groups not in (1, num_layers or num_groups):
        raise UserError(
            field="num_groups",
            message=f"the groups of the posterior {name!r} are its {num_layers} layers, got {num_groups}.",
            fix="Leave it out.",
        )
    if not has_layers and num_groups != 1:
        raise UserError(
            field="num_groups",
            message=f"the KL of the posterior {name!r} is one of the whole code, without parts for {num_groups} groups.",
            fix="Leave it out, which clips the KL of the whole code.",
        )


def check_batch_free_bits(posterior: "Posterior") -> None:
    """Raises `UserError` unless the KL has parts whose means over a batch can be clipped."""
    if posterior.sample_and_kl is None:
        raise UserError(
            "free bits of the batch mean need a KL of each dimension, which a diagonal Gaussian has, or of each layer, and the "
            f"posterior {posterior.name!r} has one of the whole code only.",
            fix='Use `free_bits_per="group"`, which clips the KL of the whole code of each example.',
        )
