# SPDX-License-Identifier: Apache-2.0
"""One call for the usual way: the same network as its steps give."""

import pytest
import torch
from torch import nn

from ir.numerics import Scheme
from ir.ratio import Ratio
from quant.assignment.assign import assign
from quant.assignment.methods import method
from quant.assignment.sensitivity import row_scores
from quant.calibration.quantise import CALIBRATION_IMAGES, SENSITIVITY_IMAGES, quantise
from quant.lowering.export import export
from quant.lowering.prepare import calibrate, prepare
from quant.models import build
from quant.nn.layers import quantised_layers


@pytest.fixture
def model(seed) -> nn.Module:
    torch.manual_seed(seed)
    return build("tiny", shape=(1, 8, 8), classes=5, width=8).eval()


@pytest.mark.slow
@pytest.mark.parametrize("first_last", ["same", "w8a8"])
def test_steps_in_one_call(model, first_last) -> None:
    images = torch.rand(CALIBRATION_IMAGES + 9, 1, 8, 8)
    quantised = quantise(model, images, ratio="50:30:20", tile_rows=8, first_last=first_last)
    expected = prepare(model, images[:2], first_last=first_last)
    calibrate(expected, images[:CALIBRATION_IMAGES])
    scores = row_scores("hessian", expected, images[:SENSITIVITY_IMAGES])
    assign(expected, method("rmsmp", "50:30:20"), 8, scores, first_last=first_last)
    graphs = [
        export(m, images, name="test", ratio=Ratio(50, 30, 20), tile_rows=8)
        for m in (quantised, expected)
    ]
    assert graphs[0].digest == graphs[1].digest


def test_other_methods_and_bits(model) -> None:
    quantised = quantise(model, torch.rand(8, 1, 8, 8), method="pot4+fixed4", act_bits=8)
    schemes = torch.cat([layer.scheme for layer in quantised_layers(quantised).values()])
    assert set(schemes.tolist()) == {Scheme.POT4, Scheme.FIXED4}
    assert quantised.get_submodule("relu").bits == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "pot8"}, "unknown method"),
        ({"ratio": "50:50:50"}, "ratio"),
        ({"first_last": "w4a8"}, "first_last must be"),
        ({"act_bits": 5}, "act_bits must be 4 or 8, not 5"),
    ],
)
def test_options_that_make_no_sense(model, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        quantise(model, torch.rand(4, 1, 8, 8), **options)


def test_compensation_lowers_the_error_of_the_logits(model) -> None:
    images = torch.rand(48, 1, 8, 8)
    errors = []
    for compensate in (False, True):
        quantised = quantise(model, images[:32], act_bits=8, compensate=compensate).eval()
        with torch.no_grad():
            errors.append((quantised(images[32:]) - model(images[32:])).square().mean())
    assert errors[1] < 0.7 * errors[0], errors
