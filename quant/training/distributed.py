# SPDX-License-Identifier: Apache-2.0
"""Training by several processes, which ``torchrun`` or ``accelerate launch`` start.

Together they do what one process with the same batch would do, but for rounding: every batch is
drawn as a whole and cut into parts, batch-norm has the statistics of the whole batch, and gradients
are means over it. Decisions that are not gradients (clips, schemes) are those of the first process.
"""

import os
from typing import Any, TypeVar, cast

import torch
import torch.distributed
from torch import Tensor, nn

from ir.cli import UserError, require

Value = TypeVar("Value")


class Processes:
    """Processes that train together; one alone is the usual case.

    ``device`` is "cpu" or "cuda"; each process gets a GPU of its own.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device, self.count, self.index = torch.device(device), 1, 0
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # what both launchers set
            accelerate = require("accelerate")
            self._accelerator = accelerate.Accelerator(cpu=device == "cpu", mixed_precision="no")
            self.device = self._accelerator.device
            self.count = self._accelerator.num_processes
            self.index = self._accelerator.process_index

    @property
    def first(self) -> bool:
        """True for the process that writes and prints."""
        return self.index == 0

    @property
    def announces(self) -> bool:
        """True for the process of its machine that tells errors."""
        return self.count == 1 or self._accelerator.is_local_main_process

    def part(self, batch_size: int) -> slice:
        """Part of a batch that is this process's; raises :class:`UserError` for unequal parts."""
        each, rest = divmod(batch_size, self.count)
        if rest:
            raise UserError(f"batch_size {batch_size} cannot be divided by {self.count} processes")
        return slice(each * self.index, each * (self.index + 1))

    def parallel(self, model: nn.Module) -> nn.Module:
        """``model`` for training: its backward averages gradients over the processes."""
        if self.count == 1:
            return model
        globalise_batch_norm(model)
        return self._accelerator.prepare_model(model)

    def total(self, *values: float) -> list[float]:
        """Sums of ``values`` over the processes."""
        if self.count == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(tensor)
        return tensor.tolist()

    def of_first(self, value: Value) -> Value:
        """Value of the first process, on all of them; tensors are on the CPU."""
        if self.count == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, 0, device=self.device)
        return box[0]

    def equalise(self, model: nn.Module) -> None:
        """Update of ``model`` to the state that it has in the first process."""
        if self.count > 1:
            own = model.state_dict().items() if self.first else ()
            state = {k: v.cpu() if isinstance(v, Tensor) else v for k, v in own}
            model.load_state_dict(self.of_first(state))

    def end(self) -> None:
        """End of the work together, where there are several."""
        if self.count > 1:
            self._accelerator.end_training()


class _Sum(torch.autograd.Function):
    """Sum over the processes, whose derivative is the sum of their derivatives."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.clone()
        torch.distributed.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, *grads: Tensor) -> Tensor:
        grad = grads[0].clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(grad)
        return grad


class GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Mixin of a batch-norm that trains with the statistics of all processes' parts of a batch.

    The parts are of equal size. It runs on any device, which torch's own (for GPUs only) does not.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Batch-norm as torch's, of this process's part of the batch."""
        if not self.training:
            return super().forward(input)
        x = input
        over = [d for d in range(x.dim()) if d != 1]
        shape = [-1, *[1] * (x.dim() - 2)]
        count = x.numel() // x.shape[1] * torch.distributed.get_world_size()
        real = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = _Sum.apply(real.sum(over)) / count
        centred = real - mean.view(shape)
        # In a second round: a sum of squares less the squared mean would cancel.
        variance = _Sum.apply(centred.square().sum(over)) / count
        if self.track_running_stats:
            self._track(mean, variance * (count / (count - 1)))
        slope = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * slope.view(shape) + self.bias.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        counter, means, variances = self.num_batches_tracked, self.running_mean, self.running_var
        if counter is None or means is None or variances is None:
            return
        counter += 1
        share = 1 / counter.item() if self.momentum is None else self.momentum
        means.lerp_(mean, share)
        variances.lerp_(variance, share)


class GlobalBatchNorm1d(GlobalBatchNorm, nn.BatchNorm1d):
    """Global batch-norm of (N, C) or (N, C, L)."""


class GlobalBatchNorm2d(GlobalBatchNorm, nn.BatchNorm2d):
    """Global batch-norm of (N, C, H, W)."""


def globalise_batch_norm(model: nn.Module) -> None:
    """Change of ``model``'s batch-norms to global ones, in place; parameters and names stay."""
    for module in model.modules():
        for kind, is_global in (
            (nn.BatchNorm1d, GlobalBatchNorm1d),
            (nn.BatchNorm2d, GlobalBatchNorm2d),
        ):
            if type(module) is kind:
                cast(Any, module).__class__ = is_global
