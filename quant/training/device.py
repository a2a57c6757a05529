# SPDX-License-Identifier: Apache-2.0
"""Device of a training, torch's settings on it, and how a model lies in its memory."""

from typing import Any

import torch
from torch import nn
from torch.torch_version import TorchVersion

from ir.cli import UserError
from quant.training.config import TrainConfig
from quant.training.distributed import Processes

POINTWISE_CHANNELS = 8  #: fewest inputs of a pointwise convolution with a stride, channels last
COMPILES = "2.12"  #: first torch whose compiled gradients are those of the quantisers


def choose_device(wanted: str) -> str:
    """Device "cpu" or "cuda" that ``wanted``, which may also be "auto", means here.

    Raises UserError for "cuda" where there is none.
    """
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise UserError("device cuda: torch finds no CUDA device here")
    return "cuda" if wanted != "cpu" and available else "cpu"


def setup_torch(config: TrainConfig) -> None:
    """Setup of torch: seed, determinism and threads, as ``config`` says.

    Raises UserError for a version of torch that does not compile as it should.
    """
    if config.compile and TorchVersion(torch.__version__) < COMPILES:
        raise UserError(
            f"torch {torch.__version__} compiles to wrong gradients of the quantisers: "
            f"leave --compile out, or install torch {COMPILES} or newer"
        )
    torch.manual_seed(config.seed)
    torch.backends.cudnn.deterministic = True  # or a resumed run would be another one
    if config.threads:
        torch.set_num_threads(config.threads)


def placed(model: nn.Module, processes: Processes) -> nn.Module:
    """``model`` on the device of ``processes``, laid out as :func:`memory_format` says."""
    return lay_out(model.to(processes.device), processes.device.type)


def lay_out(model: nn.Module, device: str) -> nn.Module:
    """``model`` with the :func:`memory_format` of a device of kind ``device``, in place."""
    anything: Any = model  # the stubs of Module.to() know no memory format alone
    return anything.to(memory_format=memory_format(model, device))


def memory_format(model: nn.Module, device: str) -> torch.memory_format:
    """Memory format of ``model`` on ``device`` ("cpu" or "cuda"): channels last, where that works.

    On CPUs torch 2.13 writes beyond the gradient of a pointwise convolution with a stride and fewer
    than 8 channels when channels come last, and the process dies.
    """
    dies = device == "cpu" and any(
        isinstance(m, nn.Conv2d)
        and m.in_channels // m.groups < POINTWISE_CHANNELS
        and m.kernel_size == (1, 1)
        and m.stride != (1, 1)
        for m in model.modules()
    )
    return torch.contiguous_format if dies else torch.channels_last
