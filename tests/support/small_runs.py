"""The settings of the small run that several files of tests share."""

SMALL = ("--hidden", 16, "--latent-dim", 2, "--batch-size", 256)
