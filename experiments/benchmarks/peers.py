"""The model that the benchmarks train, 784-400-20, and the PyTorch loop that they compare with."""

import os
from typing import Any

import numpy as np

HIDDEN, LATENT, BATCH, RATE = 400, 20, 128, 1e-3


class PyTorch:
    """The loop that people write: the data in memory, one optimiser step a batch; eager, or under torch.compile in a mode."""

    label = "PyTorch, eager, in memory"

    def __init__(
        self,
        dataset: Any,
        test: np.ndarray,
        seed: int,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        compile_mode: str | None = None,
    ) -> None:
        import torch
        from torch import nn

        torch.manual_seed(seed)
        torch.set_num_threads(os.cpu_count() or 1)
        if device != "cpu":
            torch.set_float32_matmul_precision("high")  # TF32, as JAX does by default
        self.torch, self.device, self.dtype = torch, device, getattr(torch, dtype)
        self.train = torch.tensor(dataset.train.reshape(len(dataset.train), -1).astype(np.float32) / 255, device=device)
        self.test = torch.tensor(test.reshape(len(test), -1).astype(np.float32), device=device)
        pixels = self.train.shape[1]
        self.encoder = nn.Sequential(nn.Linear(pixels, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * LATENT)).to(device)
        self.decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, pixels)).to(device)
        parameters = [*self.encoder.parameters(), *self.decoder.parameters()]
        self.adam = torch.optim.Adam(parameters, lr=RATE, fused=device != "cpu")
        self.loss = torch.compile(self._loss, mode=compile_mode) if compile_mode else self._loss

    def _elbo(self, x: Any) -> Any:
        torch = self.torch
        with torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32):
            mean, log_scale = self.encoder(x).float().chunk(2, dim=1)
            z = mean + torch.exp(log_scale) * torch.randn_like(mean)
            logits = self.decoder(z).float()
        cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
        kl = 0.5 * (mean.pow(2) + torch.exp(2 * log_scale) - 1 - 2 * log_scale).sum(1)
        return -cross_entropy - kl

    def _loss(self, batch: Any) -> Any:
        return -self._elbo(self.torch.bernoulli(batch)).mean()

    def epoch(self, number: int) -> int:
        """Trains one epoch; returns the examples used."""
        torch, count = self.torch, len(self.train) // BATCH * BATCH
        for index in torch.randperm(len(self.train), device=self.device)[:count].split(BATCH):
            self.adam.zero_grad(set_to_none=True)
            self.loss(self.train[index]).backward()
            self.adam.step()
        if self.device != "cpu":
            torch.cuda.synchronize()
        return count

    def test_elbo(self) -> tuple[float, float]:
        """Test ELBO and its standard error."""
        with self.torch.no_grad():
            values = self.torch.cat([self._elbo(x) for x in self.test.split(1000)]).double().cpu().numpy()
        return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)
