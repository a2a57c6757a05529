# SPDX-License-Identifier: Apache-2.0
"""Network, targets and loss of the detector, in the manner of YOLOv3-tiny."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.detector.scenes import CLASSES, SIDE, Scenes

STRIDES = (4, 8)  #: pixels of a cell of each head
SIZES = (8, 16)  #: sides of the boxes that each head finds, in pixels
FIELDS = 3 + CLASSES  #: of a cell: an object's logit, its centre within the cell, its class


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1))


class Detector(nn.Module):
    """Backbone of stride 8; the finer head reads upsampled deep features beside early ones."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_block(1, 16, 2), _block(16, 32, 2), _block(32, 32))
        self.deep = nn.Sequential(_block(32, 64, 2), _block(64, 64))
        self.lateral = nn.Sequential(
            nn.Conv2d(64, 32, 1, bias=False), nn.BatchNorm2d(32), nn.LeakyReLU(0.1)
        )
        self.fine = _block(64, 32)
        self.small, self.large = nn.Conv2d(32, FIELDS, 1), nn.Conv2d(64, FIELDS, 1)
        for head in (self.small, self.large):
            assert head.bias is not None
            nn.init.constant_(head.bias[:1], -3.0)  # most cells are empty

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Fields of the cells, (N, FIELDS, 12, 12) of small digits and (N, FIELDS, 6, 6)."""
        early = self.stem(x)
        deep = self.deep(early)
        up = F.interpolate(self.lateral(deep), scale_factor=2.0, mode="nearest")
        return self.small(self.fine(torch.cat((early, up), 1))), self.large(deep)


def targets(scenes: Scenes) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Of each head: objects float (N, H, W), centres (N, 2, H, W) in 0..1, classes (N, H, W)."""
    found = []
    for stride, size in zip(STRIDES, SIZES, strict=True):
        cells = SIDE // stride
        objects = torch.zeros(len(scenes.images), cells, cells)
        centres = torch.zeros(len(scenes.images), 2, cells, cells)
        classes = torch.zeros(len(scenes.images), cells, cells, dtype=torch.int64)
        for n, (boxes, labels) in enumerate(zip(scenes.boxes, scenes.labels, strict=True)):
            for box, label in zip(boxes, labels, strict=True):
                if box[2] - box[0] != size:
                    continue
                x, y = (box[:2] + box[2:]) / 2 / stride
                row, column = int(y), int(x)
                objects[n, row, column] = 1
                centres[n, :, row, column] = torch.tensor((x - column, y - row))
                classes[n, row, column] = int(label)
        found.append((objects, centres, classes))
    return found


def loss(
    heads: tuple[Tensor, Tensor], wanted: list[tuple[Tensor, Tensor, Tensor]], batch: Tensor
) -> Tensor:
    """Loss of a batch: objects everywhere, centres and classes where there is an object."""
    total = torch.zeros(())
    for fields, (objects, centres, classes) in zip(heads, wanted, strict=True):
        here = objects[batch]
        mask = here > 0
        weight = 1 + 4 * here
        total = total + F.binary_cross_entropy_with_logits(
            fields[:, 0], here, weight, reduction="sum"
        )
        given = fields.permute(0, 2, 3, 1)[mask]
        aim = centres[batch].permute(0, 2, 3, 1)[mask]
        total = total + 5 * F.mse_loss(given[:, 1:3].sigmoid(), aim, reduction="sum")
        total = total + F.cross_entropy(given[:, 3:], classes[batch][mask], reduction="sum")
    return total / len(batch)


def fit(
    model: nn.Module, scenes: Scenes, *, epochs: int, lr: float, seed: int, batch_size: int = 64
) -> None:
    """An ordinary training loop of a detector: nothing in it knows of quantisation."""
    generator = torch.Generator().manual_seed(seed)
    wanted = targets(scenes)
    optimiser = torch.optim.AdamW(model.parameters(), lr, weight_decay=1e-4)
    steps = epochs * -(-len(scenes.images) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(scenes.images), generator=generator).split(batch_size):
            optimiser.zero_grad()
            loss(model(scenes.images[batch]), wanted, batch).backward()
            optimiser.step()
            schedule.step()
    model.eval()


def predict(model: nn.Module, images: Tensor) -> list[np.ndarray]:
    """Fields of both heads, float64 (N, FIELDS, H, W)."""
    with torch.no_grad():
        parts = [model(part) for part in images.split(256)]
    return [torch.cat(head).double().numpy() for head in zip(*parts, strict=True)]
