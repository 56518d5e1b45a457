"""The PyTorch loops that the benchmarks compare with, and pythae's: the networks of `workload`, in PyTorch's usual words."""

import itertools
import logging
import os
import tempfile
import time
from typing import Any, NamedTuple

import numpy as np
from workload import BATCH as BATCH
from workload import HIDDEN as HIDDEN
from workload import LATENT as LATENT
from workload import RATE as RATE
from workload import Network, mlp


class Problem(NamedTuple):
    """What every peer is given."""

    network: Network
    dataset: Any  # `data.Dataset`: images as levels
    test: np.ndarray  # zeros and ones, drawn once
    batch_size: int
    binarize: bool  # pixels drawn anew at every step, rather than levels as numbers in [0, 1]


def modules(network: Network) -> tuple[Any, Any]:
    """The encoder, with twice the latent dimensions as outputs, and the decoder, with logits as outputs.

    Without convolutions they take and give flat images.
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
    if not network.channels:  # of flat images
        return nn.Sequential(*encoder), nn.Sequential(*decoder)
    decoder.append(nn.Unflatten(1, (channels, height, width)))
    for features in (*network.channels[-2::-1], network.shape[2]):
        decoder += [nn.ReLU(), nn.ConvTranspose2d(channels, features, 4, stride=2, padding=1)]
        channels = features
    return nn.Sequential(*encoder), nn.Sequential(*decoder)


def images(levels: np.ndarray, max_level: int | None, device: str = "cpu") -> Any:
    """(examples, channels, height, width) in [0, 1], contiguous."""
    import torch

    x = np.ascontiguousarray(np.moveaxis(levels, -1, 1), np.float32)
    return torch.tensor(x / np.float32(max_level or 1), device=device)


class PyTorch:
    """The loop that people write: the data in memory, one optimiser step a batch; eager, or under torch.compile in a mode.

    With `loader` the textbook's: a DataLoader puts every batch together from single examples.
    """

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
        network: Network | None = None,
        batch_size: int = BATCH,
        binarize: bool = True,
        fused: bool | None = None,  # Adam; by default on accelerators
        loader: bool = False,
    ) -> None:
        import torch

        torch.manual_seed(seed)
        torch.set_num_threads(os.cpu_count() or 1)
        if device != "cpu":
            torch.set_float32_matmul_precision("high")  # TF32, as JAX does by default
        network = network or mlp(dataset.data_shape)
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
        """Compiles what there is to compile; of convolutions finds the faster layout in memory. No parameter changes."""
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
            if first.ndim != 4 or self.loss != self._loss:  # torch.compile chooses by itself
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
        """Trains one epoch; returns the examples used."""
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
        """Test ELBO and its standard error."""
        with self.torch.no_grad():
            values = self.torch.cat([self._elbo(x) for x in self.test.split(1000)]).double().cpu().numpy()
        return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)


def pytorch(problem: Problem, seed: int, label: str, **options: Any) -> PyTorch:
    """A `PyTorch` that is ready to be timed."""
    network, dataset, test, batch_size, binarize = problem
    peer = PyTorch(dataset, test, seed, network=network, batch_size=batch_size, binarize=binarize, **options)
    peer.label = label
    peer.warm_up()
    return peer


class Pythae:
    """pythae's trainer on its own VAE, with the same networks as its encoder and decoder; without its progress bar."""

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
                return ModelOutput(reconstruction=torch.sigmoid(self.layers(z)))  # its loss takes probabilities

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
        few = BaseDataset(train[: self.count], torch.zeros(self.count))  # whole batches, as the others have them
        logging.disable(logging.WARNING)  # it tells of its folders and checks
        self.trainer = BaseTrainer(self.model, few, training_config=training)
        self.trainer.prepare_training()
        logging.disable(logging.NOTSET)
        self.trainer.callback_handler.callbacks = []

    def epoch(self, number: int) -> int:
        """Trains one epoch; returns the examples used."""
        self.trainer.train_step(number + 1)
        return self.count

    def test_elbo(self) -> tuple[float, float]:
        """Test ELBO and its standard error."""
        torch = self.torch
        self.model.eval()
        values = []
        with torch.no_grad():
            for x in self.test.split(1000):
                found = self.model.encoder(x)
                mean, log_variance = found.embedding, found.log_covariance
                z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
                p = self.model.decoder(z).reconstruction.reshape(x.shape)
                cross_entropy = torch.nn.functional.binary_cross_entropy(p, x, reduction="none").flatten(1).sum(1)
                values.append(-cross_entropy - 0.5 * (mean.pow(2) + log_variance.exp() - 1 - log_variance).sum(1))
        found = torch.cat(values).double().numpy()
        return float(found.mean()), float(found.std(ddof=1) / len(found) ** 0.5)
