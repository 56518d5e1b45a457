"""Training loops in PyTorch and pythae that the benchmarks compare with, on the networks of `workload`."""

import itertools
import logging
import os
import tempfile
import time
from typing import Any, NamedTuple

import numpy as np
from workload import HIDDEN as HIDDEN
from workload import LATENT as LATENT
from workload import RATE as RATE
from workload import Network


class Problem(NamedTuple):
    """Training problem, the same for all libraries."""

    network: Network
    dataset: Any  # `data.Dataset`: images as levels
    test: np.ndarray  # zeros and ones, drawn once
    batch_size: int
    binarize: bool  # pixels drawn anew at every step, rather than levels as numbers in [0, 1]


def modules(network: Network) -> tuple[Any, Any]:
    """Returns an encoder whose outputs are twice the latent dimensions, and a decoder whose outputs are logits.

    Without convolutions, both use flat images.
    """
    from torch import nn

    channels = network.shape[2]
    encoder: list[Any] = []
    for features, size in zip(network.channels, network.kernels, strict=True):
        encoder += [nn.Conv2d(channels, features, size, stride=2, padding=size // 2 - 1), nn.ReLU()]
        channels = features
    height, width, channels = network.smallest if network.channels else network.shape
    units = (channels * height * width, *network.dense)
    if network.channels:
        encoder.append(nn.Flatten())
    decoder: list[Any] = []
    for inputs, outputs in itertools.pairwise(units):
        encoder += [nn.Linear(inputs, outputs), nn.ReLU()]
        decoder = [nn.ReLU(), nn.Linear(outputs, inputs), *decoder]
    encoder.append(nn.Linear(units[-1], 2 * network.latent))
    decoder.insert(0, nn.Linear(network.latent, units[-1]))
    if not network.channels:  # flat images
        return nn.Sequential(*encoder), nn.Sequential(*decoder)
    decoder.append(nn.Unflatten(1, (channels, height, width)))
    for features in (*network.channels[-2::-1], network.shape[2]):
        decoder += [nn.ReLU(), nn.ConvTranspose2d(channels, features, 4, stride=2, padding=1)]
        channels = features
    return nn.Sequential(*encoder), nn.Sequential(*decoder)


def images(levels: np.ndarray, max_level: int | None, device: str = "cpu") -> Any:
    """Returns images in [0, 1] as a contiguous tensor (examples, channels, height, width)."""
    import torch

    x = np.ascontiguousarray(np.moveaxis(levels, -1, 1), np.float32)
    return torch.tensor(x / np.float32(max_level or 1), device=device)


class PyTorch:
    """Usual PyTorch training loop with the data in memory and one optimizer step per batch.

    The step is eager or compiled. With `loader`, a DataLoader collates every batch from single examples, as in tutorials.
    """

    label = "PyTorch, eager, in memory"

    def __init__(
        self,
        problem: Problem,
        seed: int,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        compile_mode: str | None = None,
        fused: bool | None = None,  # Adam; by default on accelerators
        loader: bool = False,
    ) -> None:
        import torch

        torch.manual_seed(seed)
        torch.set_num_threads(os.cpu_count() or 1)
        if device != "cpu":
            torch.set_float32_matmul_precision("high")  # TF32, as JAX does by default
        network, dataset, test, batch_size, binarize = problem
        self.torch, self.device, self.dtype = torch, device, getattr(torch, dtype)
        self.batch_size, self.binarize = batch_size, binarize
        self.train = images(dataset.train, dataset.max_level, device)
        self.test = images(test, None, device)
        if not network.channels:
            self.train, self.test = self.train.flatten(1), self.test.flatten(1)
        self.shape, self.layout = self.train.shape[1:], torch.contiguous_format
        self.encoder, self.decoder = (module.to(device) for module in modules(network))
        parameters = [*self.encoder.parameters(), *self.decoder.parameters()]
        self.adam = torch.optim.Adam(parameters, lr=RATE, fused=device != "cpu" if fused is None else fused)
        self.loss = self._loss
        if compile_mode:
            torch.compiler.reset()  # else it gives up at the eighth program of this method, whichever model's
            self.loss = torch.compile(self._loss, mode=compile_mode)
        self.loader = None
        if loader:
            examples = torch.utils.data.TensorDataset(self.train)
            self.loader = torch.utils.data.DataLoader(examples, batch_size, shuffle=True, drop_last=True)

    def _elbo(self, x: Any) -> Any:
        torch = self.torch
        with torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32):
            mean, log_scale = self.encoder(x).float().chunk(2, dim=1)
            z = mean + torch.exp(log_scale) * torch.randn_like(mean)
            logits = self.decoder(z).reshape(x.shape).float()
        cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)
        kl = 0.5 * (mean.pow(2) + torch.exp(2 * log_scale) - 1 - 2 * log_scale).sum(1)
        return -cross_entropy - kl

    def _loss(self, batch: Any) -> Any:
        return -self._elbo(self.torch.bernoulli(batch) if self.binarize else batch).mean()

    def _gradient(self, batch: Any) -> None:
        self.adam.zero_grad(set_to_none=True)
        batch = batch.contiguous(memory_format=self.layout) if batch.ndim == 4 else batch
        self.loss(batch).backward()

    def warm_up(self) -> None:
        """Compiles the step and chooses the faster memory layout of convolutions, without changing any parameter."""
        torch, times = self.torch, {}
        first = self.train[: self.batch_size]
        layouts = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}
        for name, layout in layouts.items():
            self._lay(layout)
            self._gradient(first)
            began = time.perf_counter()
            for _ in range(3):
                self._gradient(first)
            times[name] = time.perf_counter() - began
            if first.ndim != 4 or self.loss != self._loss:  # torch.compile chooses the layout
                break
        best = min(times, key=lambda name: times[name])
        self._lay(layouts[best])
        if len(times) > 1:
            self.label = f"{self.label}, {best}"

    def _lay(self, layout: Any) -> None:
        self.layout = layout
        for module in (self.encoder, self.decoder):
            module.to(memory_format=layout)

    def epoch(self, number: int) -> int:
        """Trains one epoch and returns the number of examples used."""
        torch, count = self.torch, len(self.train) // self.batch_size * self.batch_size
        if self.loader is not None:
            for (batch,) in self.loader:
                self._gradient(batch)
                self.adam.step()
            return count
        for index in torch.randperm(len(self.train), device=self.device)[:count].split(self.batch_size):
            self._gradient(self.train[index])
            self.adam.step()
        if self.device != "cpu":
            torch.cuda.synchronize()
        return count

    def test_elbo(self) -> tuple[float, float]:
        """Returns the test ELBO and its standard error, in nats."""
        with self.torch.no_grad():
            values = self.torch.cat([self._elbo(x) for x in self.test.split(1000)]).double().cpu().numpy()
        return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)


def pytorch(problem: Problem, seed: int, label: str, **options: Any) -> PyTorch:
    """Returns a compiled `PyTorch` with this label, ready to be timed."""
    peer = PyTorch(problem, seed, **options)
    peer.label = label
    peer.warm_up()
    return peer


class Pythae:
    """Training by pythae on its VAE class, with the same networks as encoder and decoder and without the progress bar."""

    label = "pythae, BaseTrainer"

    def __init__(self, problem: Problem, seed: int) -> None:
        import torch
        from pythae.data.datasets import BaseDataset
        from pythae.models import VAE, VAEConfig
        from pythae.models.base.base_utils import ModelOutput
        from pythae.models.nn import BaseDecoder, BaseEncoder
        from pythae.trainers import BaseTrainer, BaseTrainerConfig

        torch.manual_seed(seed)
        torch.set_num_threads(os.cpu_count() or 1)
        network, dataset, test, batch_size, binarize = problem
        encoder, decoder = modules(network)
        height, width, channels = network.shape

        class Encoder(BaseEncoder):
            def __init__(self) -> None:
                super().__init__()
                self.layers = encoder

            def forward(self, x: Any) -> Any:
                mean, log_variance = self.layers(x).chunk(2, dim=1)
                return ModelOutput(embedding=mean, log_covariance=log_variance)

        class Decoder(BaseDecoder):
            def __init__(self) -> None:
                super().__init__()
                self.layers = decoder

            def forward(self, z: Any) -> Any:
                return ModelOutput(reconstruction=torch.sigmoid(self.layers(z)))  # the loss of pythae takes probabilities

        class Drawn(VAE):
            def forward(self, inputs: Any, **options: Any) -> Any:
                return super().forward({"data": torch.bernoulli(inputs["data"])}, **options)

        config = VAEConfig(input_dim=(channels, height, width), latent_dim=network.latent, reconstruction_loss="bce")
        self.torch, self.model = torch, (Drawn if binarize else VAE)(config, encoder=Encoder(), decoder=Decoder())
        train = images(dataset.train, dataset.max_level)
        self.count, self.test = len(train) // batch_size * batch_size, images(test, None)
        if not network.channels:
            train, self.test = train.flatten(1), self.test.flatten(1)
        self.folder = tempfile.TemporaryDirectory()
        options = {"per_device_train_batch_size": batch_size, "learning_rate": RATE, "seed": seed, "no_cuda": True}
        training = BaseTrainerConfig(output_dir=self.folder.name, optimizer_cls="Adam", **options)
        few = BaseDataset(train[: self.count], torch.zeros(self.count))  # whole batches, as for the other libraries
        logging.disable(logging.WARNING)  # pythae logs its folders and checks
        self.trainer = BaseTrainer(self.model, few, training_config=training)
        self.trainer.prepare_training()
        logging.disable(logging.NOTSET)
        self.trainer.callback_handler.callbacks = []

    def epoch(self, number: int) -> int:
        """Trains one epoch and returns the number of examples used."""
        self.trainer.train_step(number + 1)
        return self.count

    def test_elbo(self) -> tuple[float, float]:
        """Returns the test ELBO and its standard error, in nats."""
        torch = self.torch
        self.model.eval()
        values = []
        with torch.no_grad():
            for x in self.test.split(1000):
                codes = self.model.encoder(x)
                mean, log_variance = codes.embedding, codes.log_covariance
                z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
                p = self.model.decoder(z).reconstruction.reshape(x.shape)
                cross_entropy = torch.nn.functional.binary_cross_entropy(p, x, reduction="none").flatten(1).sum(1)
                values.append(-cross_entropy - 0.5 * (mean.pow(2) + log_variance.exp() - 1 - log_variance).sum(1))
        elbo = torch.cat(values).double().numpy()
        return float(elbo.mean()), float(elbo.std(ddof=1) / len(elbo) ** 0.5)
