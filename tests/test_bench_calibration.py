# SPDX-License-Identifier: Apache-2.0
"""The benchmark of quantisation without training, on a network of seconds."""

import numpy as np
import pytest
import torch

from bench import calibration
from ir import cli
from quant.models import build


@pytest.fixture
def case(seed) -> calibration.Case:
    torch.manual_seed(seed)
    network = build("tiny", shape=(1, 8, 8), classes=5, width=4).eval()
    images = np.random.default_rng(seed).integers(0, 256, (80, 1, 8, 8), np.uint8)
    with torch.no_grad():
        labels = network(calibration.real(images)).argmax(1).numpy()
    return calibration.Case(network, images[:30], images[30:], labels[30:])


def test_rows_of_the_table(case) -> None:
    (recipe, bits), *_ = calibration.cases([8], ["65:30:5"], plain=False)
    row = calibration.measure(case, recipe, 20, bits)
    assert row["integer_agreement"] == 1 and row["top1"] > 60
    text = calibration.page("tiny", "python -m bench.calibration", 100.0, [row])
    assert "| 65:30:5 | 8 bits | compensated | 20 |" in text


def test_plain_rounding_is_measured_first() -> None:
    found = calibration.cases([8, 4], ["65:30:5", "0:100:0"], plain=True)
    assert [(r.compensate, bits) for r, bits in found] == [(False, 8), (True, 8)] * 2 + [
        (False, 4),
        (True, 4),
    ] * 2


def test_folder_without_images(tmp_path, capsys) -> None:
    options = ["--network", "resnet20", "--data", str(tmp_path)]
    assert cli.run(calibration.main, options) == 2
    assert "resnet20 needs --weights FILE" in capsys.readouterr().err


def test_shortcut_of_option_a() -> None:
    block = calibration.BasicBlock(2, 4, 2).eval()
    torch.nn.init.zeros_(block.bn2.weight)
    x = torch.rand(1, 2, 4, 4)
    y = block(x)
    assert torch.equal(y[:, 1:3], x[:, :, ::2, ::2]) and not y[:, [0, 3]].any()
