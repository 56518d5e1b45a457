"""`Notation`: how texts about a run name its densities, such as log p(x|c) where the model has a condition."""

import re
from typing import NamedTuple, Self

import numpy as np

from vae_jax.build import Built
from vae_jax.storage.atomic import JsonObject

# Densities of a model without condition and without missing entries, as texts write them.
_LOG_LIKELIHOOD = re.compile(r"(?<=log )p\(x(?=[)|])")  # draws from p(x|z) have all entries, so "log" tells the two apart
_POSTERIOR = re.compile(r"(?<!\w)q\((?:z|z_j)\|x(?=\))")
_GIVEN = re.compile(
    r"(?<!\w)(?:q\((?:z|z_j)\|x(?:_\w+)?|E\[z\|x|E\[x_missing\|x_observed|p\(x(?:_observed)?\|z|E\[x\|z)(?=[)\]])"
)
_MARGINAL = re.compile(r"(?<!\w)p\(x(?:_observed)?(?=\))")
_CODE = re.compile(r"(?<![\w.])z(?=\b|_j\b)")


class Notation(NamedTuple):
    """Names of the densities of one run.

    Texts are written for a model without condition and without missing entries, and a `Notation` translates them: with a
    condition c, log p(x) is log p(x|c), q(z|x) is q(z|x,c) and E[x|z] is E[x|z,c]. With missing entries log p(x) is
    log p(x_observed). Under a prior p(z|c) the codes are u = (z - m(c)) / s(c), so z is u.

    Attributes:
      condition: the columns of the condition in words, such as "label (10 categories)"; "" without one.
      has_missing: whether entries are missing.
      has_conditional_prior: whether the prior is p(z|c).

    Example:
      >>> Notation("age").translate("log p(x) and E[x|z]")
      'log p(x|c) and E[x|z,c]'
      >>> Notation(has_missing=True).translate("log p(x)"), Notation().translate("log p(x)")
      ('log p(x_observed)', 'log p(x)')
    """

    condition: str = ""
    has_missing: bool = False
    has_conditional_prior: bool = False

    @classmethod
    def of(cls, built: Built) -> Self:
        """Returns the notation of a model and its data."""
        condition = built.data.condition.describe() if built.data.condition else ""
        return cls(condition, built.data.has_missing, built.vae.conditional_prior is not None)

    @classmethod
    def read(cls, record: JsonObject) -> Self:
        """Returns the notation of a record that has the result of `facts`, such as the content of evaluation.json."""
        return cls(record.get("conditioned_on", ""), "missing_share_of_test" in record, "codes" in record)

    def translate(self, text: str) -> str:
        """Returns a text with the densities of this run. The text is unchanged without condition and missing entries."""
        if self.has_missing:
            text = _LOG_LIKELIHOOD.sub("p(x_observed", text)
            text = _POSTERIOR.sub(r"\g<0>_observed", text)
        if self.condition:
            text = _GIVEN.sub(lambda match: f"{match[0]},{'c_n' if match[0].endswith('x_n') else 'c'}", text)
            text = _MARGINAL.sub(r"\g<0>|c", text)
        return _CODE.sub("u", text) if self.has_conditional_prior else text

    def explain(self) -> list[str]:
        """Returns sentences that say what the densities are given, which entries they leave out, and what the codes are."""
        texts = []
        if self.condition:
            texts.append(f"The model is conditioned on c: {self.condition}. All densities of x are given c.")
        if self.has_missing:
            texts.append("Missing entries of x are left out of every likelihood, so x_observed are the observed entries.")
        if self.has_conditional_prior:
            texts.append(
                "The prior p(z|c) = N(m(c), s(c)²) is learned. Codes are u = (z − m(c)) / s(c), which are N(0, I) under it, "
                "and KL(q(u|x,c) ‖ N(0, I)) = KL(q(z|x,c) ‖ p(z|c))."
            )
        return texts


def facts(built: Built) -> JsonObject:
    """Returns what records of results say about conditions and missing entries; {} for a model without either.

    `conditioned_on` describes the columns of the condition. `codes` says what the codes are under a prior p(z|c).
    `missing_share_of_test` is the share of entries of the test set that are missing, and `missing_share_of_train` that of the
    training set, where its mask is in memory.
    """
    notation, dataset, record = Notation.of(built), built.dataset, {}
    if notation.condition:
        record["conditioned_on"] = notation.condition
    if notation.has_conditional_prior:
        record["codes"] = "u = (z - m(c)) / s(c), N(0, I) under p(z|c) = N(m(c), s(c)^2)"
    if notation.has_missing:
        for part, mask in (("test", dataset.test_mask), ("train", dataset.train_mask)):
            if mask is None and (part == "test" or not dataset.missing_on_disk):
                record[f"missing_share_of_{part}"] = 0.0
            elif isinstance(mask, np.ndarray):
                record[f"missing_share_of_{part}"] = 1.0 - float(mask.mean())
    return record
