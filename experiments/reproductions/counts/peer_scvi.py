"""Trains SCVI of scvi-tools on the counts that run.py simulates, and writes its scores in nats per cell.

It runs in an environment of its own, with scvi-tools 1.5 (`pip install scvi-tools`), and without vae_jax:

    python experiments/reproductions/counts/run.py --save-counts counts.npy
    python experiments/reproductions/counts/peer_scvi.py counts.npy scvi.json
    python experiments/reproductions/counts/run.py --scvi scvi.json

SCVI knows the row's total, as `exposure="observed"` does, and has a dispersion for each gene. Its layers have the widths of
run.py, and neither batch norm nor dropout, unless its name says "defaults". `get_elbo` is the mean of E_q log p(x|z) - KL over
the cells, and `get_marginal_ll` an importance estimate of log p(x) as in run.py. Both are in nats, with all constants.
"""

import json
import sys
import warnings

import numpy as np


def _score(train, test, likelihood, seed, options):
    """Returns the test ELBO, log p(x), both in nats per cell, and the number of epochs of one SCVI."""
    import anndata
    import scvi

    scvi.settings.seed = seed
    cells, held_out = anndata.AnnData(train), anndata.AnnData(test)
    scvi.model.SCVI.setup_anndata(cells)
    model = scvi.model.SCVI(cells, n_hidden=128, n_latent=10, n_layers=1, gene_likelihood=likelihood, **options)
    model.train(
        max_epochs=300,
        accelerator="cpu",
        train_size=0.9,
        early_stopping=True,
        early_stopping_patience=20,
        check_val_every_n_epoch=1,
        enable_progress_bar=False,
        plan_kwargs={"n_epochs_kl_warmup": 1, "weight_decay": 0.0},
    )
    elbo = float(model.get_elbo(held_out))
    return elbo, float(model.get_marginal_ll(held_out, n_mc_samples=1000)), len(model.history["elbo_validation"])


def _summarize(values):
    error = float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "standard_error": error}


def main():
    """Trains every variant with three seeds and writes the file."""
    if len(sys.argv) != 3:
        print("usage: peer_scvi.py counts.npy scvi.json", file=sys.stderr)
        return 2
    from importlib.metadata import version

    warnings.simplefilter("ignore")
    counts = np.load(sys.argv[1]).astype(np.float32)
    num_train = len(counts) - len(counts) // 5
    plain = {"use_batch_norm": "none", "dropout_rate": 0.0}
    variants = [("poisson", plain), ("nb", plain), ("zinb", plain), ("nb", {})]
    models = []
    for likelihood, options in variants:
        scores = [_score(counts[:num_train], counts[num_train:], likelihood, seed, options) for seed in range(3)]
        elbos, log_px, epochs = zip(*scores, strict=True)
        name = f"SCVI, {likelihood}" + ("" if options else ", defaults")
        model = {"name": name, "exposure": "observed", "log_px": _summarize(log_px), "elbo": _summarize(elbos)}
        models.append({**model, "epochs": _summarize(epochs)})
        print(models[-1], flush=True)
        versions = {package: version(package) for package in ("scvi-tools", "torch", "anndata")}
        with open(sys.argv[2], "w") as file:  # again after each variant, because all of them take an hour
            json.dump({"models": models, "versions": versions}, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
