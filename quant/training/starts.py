# SPDX-License-Identifier: Apache-2.0
"""What quantised training begins with: rounded or compensated weights, or those of another run."""

import math
from typing import cast

import torch
from torch import Tensor, fx, nn

from ir.cli import UserError
from quant import data, models
from quant.assignment.methods import method
from quant.calibration.flow import Calibration, quantise_without_training
from quant.calibration.network import Recipe
from quant.data.splits import Inputs
from quant.lowering.prepare import calibrate
from quant.training.config import TrainConfig
from quant.training.progress import Progress
from quant.training.runs import RunFolder, restore

CALIBRATION = 1 << 25  #: most input values that clips are calibrated on
CALIBRATION_TEXTS = 128  #: and most texts, of which each token becomes thousands of values


def flat(model: nn.Module) -> fx.GraphModule:
    """Flat graph that :func:`quantisable` gave, by its type."""
    return cast(fx.GraphModule, model)


def start_quantised(
    model: fx.GraphModule,
    config: TrainConfig,
    dataset: data.Dataset,
    progress: Progress,
) -> None:
    """Scales that quantised training begins with, in place, and schemes where they are known."""
    if config.start:
        load_start(model, config.start)
    elif config.calibration_images:
        compensate(model, config, dataset, progress)
    else:
        calibrate(model, *in_tuple(sample(config, dataset)))


def load_start(model: fx.GraphModule, start: str) -> None:
    """Replacement of the state of ``model`` by that of the run ``start``; raises UserError."""
    try:
        restore(model, RunFolder.open(start).load_state("quantised.pt")["model"])
    except ValueError as error:
        raise UserError(f"{start} is a run of another network: {error}") from error


def check_images(config: TrainConfig, dataset: data.Dataset) -> None:
    """Check that ``dataset`` has the calibration images that are asked for: UserError if not."""
    wanted = config.calibration_images or 0
    if wanted > len(dataset.train):
        raise UserError(
            f"{wanted} calibration images are more than the {len(dataset.train)} training samples"
        )


def compensate(
    model: fx.GraphModule, config: TrainConfig, dataset: data.Dataset, progress: Progress
) -> Calibration:
    """Quantisation of ``model``, in place, without training."""
    wanted = config.calibration_images
    generator = torch.Generator().manual_seed(config.seed)
    chosen = torch.randperm(len(dataset.train), generator=generator)[:wanted]
    recipe = Recipe(
        method=method(config.method, config.ratio),
        tile_rows=config.tile_rows,
        assign=config.assign,
        split=config.split,
        first_last=config.first_last,
        seed=config.seed,
    )
    inputs = in_tuple(dataset.train.batch(chosen)[0])
    return quantise_without_training(model, inputs, recipe, report=progress.calibrated)


def sample(config: TrainConfig, dataset: data.Dataset) -> Inputs:
    """Training samples that clips are calibrated on."""
    most = max(64, CALIBRATION // math.prod(dataset.shape))
    if models.MODELS[config.model].reads == "texts":
        most = CALIBRATION_TEXTS
    count = min(config.hessian_images, most)
    return dataset.train.batch(torch.arange(min(count, len(dataset.train))))[0]


def in_tuple(inputs: Inputs) -> tuple[Tensor, ...]:
    """Inputs of a network as a tuple, also a single one."""
    return inputs if isinstance(inputs, tuple) else (inputs,)
