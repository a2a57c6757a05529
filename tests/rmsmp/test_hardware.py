# SPDX-License-Identifier: Apache-2.0
"""What cannot be built is one line, as in the commands."""

from pathlib import Path

import pytest

import rmsmp
from ir.cli import UserError
from ir.vectors import beside
from tests.helpers.graphs import residual_graph


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"board": "zc707"}, "no board is called 'zc707'"),
        ({"batch": 0}, "batch must be 1 to 64 images, not 0"),
        ({"batch": -1}, "batch must be 1 to 64 images, not -1"),
        ({"batch": 1_000_000}, "batch must be 1 to 64 images, not 1000000"),
        ({"pixel": 4}, "no size is called 'pixel'; sizes are "),
        ({"clock_mhz": float("nan")}, "a clock is a number of MHz, not nan"),
    ],
)
def test_options_that_make_no_sense(options: dict, words: str, tmp_path: Path, seed: int) -> None:
    path = tmp_path / "own.safetensors"
    residual_graph(seed, channels=4, size=4).save(path)
    with pytest.raises(UserError, match=words):
        rmsmp.build(path, **{"board": "zedboard", **options}, out=tmp_path, quiet=True)
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_are_missing_or_damaged(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "own.safetensors"
    with pytest.raises(UserError, match="no graph file"):
        rmsmp.build(path, board="zedboard")
    residual_graph(seed, channels=4, size=4).save(path)
    beside(path).write_bytes(b"no vectors")
    with pytest.raises(UserError, match="is damaged"):
        rmsmp.build(path, board="zedboard")
