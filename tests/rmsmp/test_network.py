# SPDX-License-Identifier: Apache-2.0
"""Arguments that make no sense, told before anything is trained or written."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import rmsmp


@pytest.fixture
def images(seed: int) -> Tensor:
    return torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


@pytest.mark.parametrize("rows", [0, -3])
def test_rows_of_a_tile(rows: int, images: Tensor) -> None:
    with pytest.raises(ValueError, match=f"tile_rows must be at least 1, not {rows}"):
        rmsmp.quantise(network(), images, tile_rows=rows)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0}, "epochs and batch_size must be at least 1"),
        ({"epochs": -1}, "epochs and batch_size must be at least 1"),
        ({"batch_size": 0}, "epochs and batch_size must be at least 1"),
        ({"optimiser": "lion"}, "unknown optimiser 'lion'; known are sgd, adamw"),
    ],
)
def test_options_of_training(options: dict, words: str, images: Tensor) -> None:
    with pytest.raises(ValueError, match=words):
        rmsmp.train(network(), images, [0] * len(images), quiet=True, **options)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda x: x[:0], "images (of shape|must be a batch)"),
        (lambda x: x[0], "images (of shape|must be a batch)"),
        (lambda x: x.expand(-1, 3, -1, -1), "images (of shape|must be a batch)"),
        (lambda x: x * 255, "by 255|x.float|not finite"),
        (lambda x: x - 1, "by 255|x.float|not finite"),
        (lambda x: x * float("nan"), "by 255|x.float|not finite"),
        (lambda x: (x * 255).to(torch.uint8), "by 255|x.float|not finite"),
    ],
)
def test_refused_images_leave_the_former_export(
    wrong, words: str, images: Tensor, tmp_path: Path
) -> None:
    model = rmsmp.quantise(network(), images)
    path = tmp_path / "own.safetensors"
    rmsmp.export(model, path, images=images)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=words):
        rmsmp.export(model, path, images=wrong(images), name="other")
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
