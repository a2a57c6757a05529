# SPDX-License-Identifier: Apache-2.0
"""Training loops, the same before and after quantisation."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant.layers import keep_scales_sane


@dataclasses.dataclass(frozen=True)
class Images:
    """Images float32 (N, C, H, W) in 0..1 with labels, on the device that trains."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random translation by up to ``shift`` pixels (zeros move in) and random mirroring."""

    shift: int = 0
    flip: bool = False

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        n, _, height, width = x.shape
        if self.flip:
            mirror = torch.rand(n, generator=generator).to(x.device) < 0.5
            x = torch.where(mirror[:, None, None, None], x.flip(3), x)
        if self.shift:
            padded = F.pad(x, [self.shift] * 4)
            moves = torch.randint(2 * self.shift + 1, (n, 2), generator=generator).to(x.device)
            rows = moves[:, :1] + torch.arange(height, device=x.device)
            columns = moves[:, 1:] + torch.arange(width, device=x.device)
            x = padded[torch.arange(n, device=x.device)[:, None, None], :,
                       rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
        return x


@dataclasses.dataclass(frozen=True)
class EpochResult:
    """Means over one epoch of training, and the learning rate of its last step."""

    loss: float
    accuracy: float
    lr: float
    seconds: float


class Trainer:
    """Stochastic gradient descent with Nesterov momentum and a cosine schedule after a warm-up.

    Parameters
    ----------
    model : trained in place
    epochs : length of the schedule
    lr : peak learning rate, reached after the first twentieth of the steps
    weight_decay : applied to weights, not to scales, biases and batch-norm
    seed : of order and augmentation
    """

    def __init__(self, model: nn.Module, data: Images, *, epochs: int, batch_size: int, lr: float,
                 weight_decay: float, augment: Augment, seed: int) -> None:
        decayed, free = [], []
        for parameter in model.parameters():
            (decayed if parameter.dim() > 1 else free).append(parameter)
        groups = [{"params": decayed, "weight_decay": weight_decay},
                  {"params": free, "weight_decay": 0.0}]
        self.model, self.data, self.augment = model, data, augment
        self.batches = len(data) // batch_size
        self.batch_size = batch_size
        self.optimiser = torch.optim.SGD(groups, lr, momentum=0.9, nesterov=True)
        steps = max(1, epochs * self.batches)
        warm_up = max(1, steps // 20)

        def schedule(step: int) -> float:
            return min(1, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * step / steps))

        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, schedule)
        self.generator = torch.Generator().manual_seed(seed)

    def epoch(self, report: Callable[[float, float], None]) -> EpochResult:
        """Train for one epoch; ``report(loss, accuracy)`` is called after every batch."""
        started, total, right, seen = time.monotonic(), 0.0, 0, 0
        self.model.train()
        order = torch.randperm(len(self.data), generator=self.generator)
        lr = self.schedule.get_last_lr()[0]
        for batch in order[: self.batches * self.batch_size].split(self.batch_size):
            batch = batch.to(self.data.x.device)
            x, y = self.augment(self.data.x[batch], self.generator), self.data.y[batch]
            logits = self.model(x)
            loss = F.cross_entropy(logits, y)
            self.optimiser.zero_grad()
            loss.backward()
            lr = self.schedule.get_last_lr()[0]
            self.optimiser.step()
            self.schedule.step()
            keep_scales_sane(self.model)
            total += float(loss.detach()) * len(y)
            right += int((logits.argmax(1) == y).sum())
            seen += len(y)
            report(total / seen, right / seen)
        return EpochResult(total / seen, right / seen, lr, time.monotonic() - started)


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, batch: int = 500) -> Tensor:
    """Class of each image, in evaluation mode."""
    with evaluating(model):
        return torch.cat([model(part).argmax(1) for part in images.split(batch)])


def accuracy(model: nn.Module, data: Images) -> float:
    """Share of right predictions."""
    return float((predict(model, data.x) == data.y).double().mean())


@contextlib.contextmanager
def evaluating(model: nn.Module):
    """Evaluation mode inside, the former mode after it."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
