# SPDX-License-Identifier: Apache-2.0
"""Training loops, the same before and after quantisation."""

import concurrent.futures
import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from quant.data import Split
from quant.data.splits import Inputs
from quant.nn import modes
from quant.nn.activations import ActQuantiser
from quant.nn.modes import evaluating
from quant.training.checkpoints import check_optimiser, check_random
from quant.training.distributed import Processes

OPTIMISERS = ("sgd", "adamw")
DIVERGED = 3  #: times the loss of guessing, ln(classes): training has lost its way
PATIENCE = 100  #: batches in a row with such a loss that are waited for
EXPLODED = 100  #: growth of an activation's clip within one epoch that means the same
EVALUATED = 500  #: samples evaluated at once
REESTIMATED = 10_000  #: most training samples that final statistics of batch-norm are made of


class Diverged(ArithmeticError):
    """Error of training that left the range where it can find back."""


@dataclasses.dataclass(frozen=True)
class EpochResult:
    """Means over one epoch of training, learning rate of its last step, and its seconds."""

    loss: float
    accuracy: float
    lr: float
    seconds: float


def forward(model: nn.Module, inputs: Inputs) -> Tensor:
    """Logits (N, classes) of a batch: of several results the first."""
    results = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    return results if isinstance(results, Tensor) else tree_leaves(results)[0]


class Trainer:
    """Gradient descent with a cosine schedule after a warm-up.

    Parameters
    ----------
    model : trained in place
    epochs : length of the schedule
    batch_size : of all processes together; samples that do not fill a last batch are left out
    lr : peak learning rate, reached after the first twentieth of the steps
    weight_decay : applied to weights, not to scales, biases and batch-norm
    seed : of order and augmentation
    optimiser : "sgd" with Nesterov momentum 0.9, or "adamw"
    amp : compute in bfloat16 where torch's autocast does
    compiled : compile the model with torch.compile
    processes : that share each batch

    Raises ValueError for an unknown ``optimiser``.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Split,
        *,
        epochs: int,
        batch_size: int,
        lr: float,
        weight_decay: float,
        seed: int,
        optimiser: str = "sgd",
        amp: bool = False,
        compiled: bool = False,
        processes: Processes | None = None,
    ) -> None:
        decayed, free = [], []
        for parameter in model.parameters():
            (decayed if parameter.dim() > 1 else free).append(parameter)
        groups = [
            {"params": decayed, "weight_decay": weight_decay},
            {"params": free, "weight_decay": 0.0},
        ]
        self.processes = processes or Processes()
        self.model, self.data, self.amp = model, data, amp
        self.part = self.processes.part(batch_size)
        self.training_model = self.processes.parallel(model)
        if compiled:
            self.training_model = cast(nn.Module, torch.compile(self.training_model))
        self.batches, self.batch_size, self.lr = len(data) // batch_size, batch_size, lr
        if optimiser not in OPTIMISERS:
            raise ValueError(f"unknown optimiser {optimiser!r}; known are {', '.join(OPTIMISERS)}")
        if optimiser == "sgd":
            self.optimiser = torch.optim.SGD(groups, lr, momentum=0.9, nesterov=True)
        else:
            self.optimiser = torch.optim.AdamW(groups, lr)
        self.step, self.steps = 0, max(1, epochs * self.batches)
        self.above = 0  # batches in a row with a loss that says diverged
        self.generator = torch.Generator().manual_seed(seed)

    def rate(self, step: int) -> float:
        """Learning rate of ``step``, counted from 0."""
        warm_up = max(1, self.steps // 20)
        return (
            self.lr
            * min(1, (step + 1) / warm_up)
            * 0.5
            * (1 + math.cos(math.pi * step / self.steps))
        )

    def epoch(self, report: Callable[[float, float], None]) -> EpochResult:
        """Training of one epoch; ``report(loss, accuracy)`` is called after every batch.

        Raises :class:`Diverged`; before that, a loss that is not finite changes nothing.
        """
        started, total, right = time.monotonic(), 0.0, 0.0
        modes.train(self.model)
        clips = _clips(self.model)
        order = torch.randperm(len(self.data), generator=self.generator)
        parts = order[: self.batches * self.batch_size].split(self.batch_size)
        for count, (inputs, labels) in enumerate(self._batches(parts), 1):
            loss, share, classes = self._batch(inputs, labels, count)
            self.above = self.above + 1 if loss > DIVERGED * math.log(classes) else 0
            if self.above >= PATIENCE:
                raise Diverged(
                    f"batch {count}: the loss has been above {DIVERGED} times that of "
                    f"guessing for {PATIENCE} batches"
                )
            total, right = total + loss, right + share
            report(total / count, right / count)
        _check_finite(self.model, clips)
        count = max(1, self.batches)
        return EpochResult(
            total / count,
            right / count,
            self.rate(max(0, self.step - 1)),
            time.monotonic() - started,
        )

    def _batch(self, inputs: Inputs, labels: Tensor, count: int) -> tuple[float, float, int]:
        """One step; gives loss, accuracy and number of classes."""
        with torch.autocast(labels.device.type, torch.bfloat16, enabled=self.amp):
            logits = forward(self.training_model, inputs)
        logits = logits.float() if self.amp else logits
        loss = F.cross_entropy(logits, labels)
        right = (logits.detach().argmax(1) == labels).double().mean()
        mean, share = (
            v / self.processes.count for v in self.processes.total(loss.item(), right.item())
        )
        if not math.isfinite(mean):
            raise Diverged(f"batch {count}: the loss is {mean}")
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(self.step)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.step += 1
        return mean, share, logits.shape[1]

    def _batches(self, parts: tuple[Tensor, ...]) -> Iterator[tuple[Inputs, Tensor]]:
        """Batches; where a GPU computes, the next one is made meanwhile."""

        def make(indices: Tensor) -> tuple[Inputs, Tensor]:
            return self.data.batch(indices, self.generator, self.part)

        if self.processes.device.type == "cpu":
            yield from map(make, parts)
            return
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            ahead = None
            for indices in parts:
                ready, ahead = ahead, pool.submit(make, indices)
                if ready:
                    yield ready.result()
            if ahead:
                yield ahead.result()

    def state_dict(self) -> dict[str, Any]:
        """State that continues training bit for bit, beside the model."""
        return {
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "above": self.above,
            "generator": self.generator.get_state(),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continuation from what :meth:`state_dict` gave; ValueError for another training's."""
        own = self.state_dict()
        if not isinstance(state, dict) or own.keys() - state.keys():
            raise ValueError(f"the state of training has not all of {', '.join(own)}")
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        check_optimiser(own["optimiser"], state["optimiser"], parameters)
        for name in ("generator", "torch"):
            check_random(own[name], state[name])
        if type(state["step"]) is not int or not 0 <= state["step"] <= self.steps:
            raise ValueError("the state of training has another number of steps")
        if type(state["above"]) is not int or not isinstance(state["cuda"], list):
            raise ValueError("the state of training has no count of losses")
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.above = state["step"], state["above"]
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch"])
        if len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])


def _clips(model: nn.Module) -> dict[str, float]:
    return {
        name: module.clip.item()
        for name, module in model.named_modules()
        if isinstance(module, ActQuantiser)
    }


def _check_finite(model: nn.Module, before: dict[str, float]) -> None:
    """Raise :class:`Diverged` for parameters that are not finite, or clips that exploded."""
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise Diverged(f"last batch: {name} is not finite")
    for name, clip in _clips(model).items():
        if clip > EXPLODED * max(before[name], 1.0):  # those of dead layers begin near 0
            raise Diverged(
                f"last batch: the clip of {name} grew from {before[name]:.3g} to {clip:.3g}"
            )


@torch.no_grad()
def reestimate_batch_norm(
    model: nn.Module, data: Split, processes: Processes | None = None, seed: int = 0
) -> bool:
    """Update of batch-norm to the statistics of training samples under the final weights.

    It is kept where it lowers the loss on these samples; returns True if it did.

    Weights of 4 bits keep jumping between levels, and the running averages of the last steps may
    lag far behind (Nagel et al. 2022, "Overcoming Oscillations in Quantization-Aware Training").
    """
    frozen = modes.frozen_norms(model)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    processes = processes or Processes()
    batch = min(EVALUATED, len(data)) // processes.count * processes.count
    if not norms or batch < 2:
        return False
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randperm(len(data), generator=generator)[:REESTIMATED]
    before = [(m.momentum, copy.deepcopy(m.state_dict())) for m in norms]
    loss = _mean_loss(model, data, indices)
    with evaluating(model):
        for norm in norms:
            norm.train(norm not in frozen)
        for count, part in enumerate(indices[: len(indices) // batch * batch].split(batch), 1):
            for norm in norms:
                norm.momentum = 1 / count  # the mean over all batches so far
            forward(model, data.batch(part, generator, processes.part(batch))[0])
    better = processes.of_first(_mean_loss(model, data, indices) < loss)
    for norm, (momentum, state) in zip(norms, before, strict=True):
        norm.momentum = momentum
        if not better:
            norm.load_state_dict(state)
    return better


def _mean_loss(model: nn.Module, data: Split, indices: Tensor) -> float:
    """Mean loss of the samples ``indices``, in evaluation mode and without augmentation."""
    total = 0.0
    with evaluating(model):
        for part in indices.split(EVALUATED):
            inputs, labels = data.batch(part)
            total += F.cross_entropy(forward(model, inputs), labels, reduction="sum").item()
    return total / len(indices)


@torch.no_grad()
def predict(model: nn.Module, data: Split, indices: Tensor | None = None) -> Tensor:
    """Class of each sample, int64 (N,) on the CPU, in evaluation mode.

    With ``indices`` only of those samples.
    """
    indices = torch.arange(len(data)) if indices is None else indices
    with evaluating(model):
        return torch.cat(
            [
                forward(model, data.batch(part)[0]).argmax(1).cpu()
                for part in indices.split(EVALUATED)
            ]
        )


def accuracy(model: nn.Module, data: Split, processes: Processes | None = None) -> float:
    """Share of right predictions, 0..1; ``processes`` share the work."""
    processes = processes or Processes()
    own = torch.arange(processes.index, len(data), processes.count)
    right = int((predict(model, data, own) == torch.from_numpy(data.labels)[own]).sum())
    return processes.total(right)[0] / len(data)
