# SPDX-License-Identifier: Apache-2.0
"""The benchmark of ONNX models, on its smallest networks."""

import pytest

from bench import onnx
from ir.cli import UserError


def test_network_that_is_read(capsys) -> None:
    assert onnx.main(["--read", "squeezenet"]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[4:]]
    assert [row[0] for row in rows] == ["| squeezenet"] * 2
    assert all(float(row[4]) < 1e-6 < float(row[5]) for row in rows)
    assert all(row[6].rstrip("| ") == "38 / 38" for row in rows)


def test_unknown_network() -> None:
    for options in (["resnet"], ["--read", "resnet"]):
        with pytest.raises(UserError, match="unknown network 'resnet'; known are resnet"):
            onnx.main(options)
