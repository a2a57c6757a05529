# SPDX-License-Identifier: Apache-2.0
"""Another accelerator in every respect runs a network of another ratio: twice the rows, half the
channels on two 32-bit ports, half the requantisers."""

import pytest

from gateware.config import AccelConfig
from quant.ratio import Ratio
from sim.cases import CaseMaker, check_layers, check_logits

CONFIG = AccelConfig.from_ratio(
    Ratio(60, 35, 5), 32, bus_bits=32, ports=2, requant_lanes=4, act_depth=2048, slot_depth=128
)


@pytest.mark.parametrize("stall", [0, 48])
def test_logits_equal_pytorch(case: CaseMaker, stall: int, seed: int) -> None:
    check_logits(case(CONFIG, "60:35:5"), stall, seed)


def test_every_layer_equals_the_golden_model(case: CaseMaker, seed: int) -> None:
    check_layers(case(CONFIG, "60:35:5"), seed)
