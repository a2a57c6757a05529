# SPDX-License-Identifier: Apache-2.0
"""Tensors as the compiler lays them out, packed and read by the driver."""

import dataclasses
import json

import numpy as np
import pytest

from boards.driver.tensors import gather, input_codes, pack, unpack
from gateware.compiler.layout import TensorLayout
from gateware.compiler.program import Output
from gateware.compiler.space_to_depth import Axis, SpaceToDepth


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("channels", [1, 3, 16, 37])
def test_tensors_are_packed_as_the_compiler_does(bits: int, channels: int, seed: int) -> None:
    place = TensorLayout(
        channels=channels, height=3, width=5, bits=bits, zero_point=0, k=16, banks=4
    )
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (channels, 3, 5))
    fields = {
        name: getattr(place, name)
        for name in ("channels", "height", "width", "bits", "zero_point", "k", "banks", "address")
    }
    stored = pack(codes, fields)
    assert stored.tobytes() == place.pack(codes)
    output = {"place": fields, "wide_rows": 0, "wide_bytes": 8}
    np.testing.assert_array_equal(unpack(stored, output), codes.reshape(-1))


@pytest.mark.parametrize(("height", "width", "rows"), [(1, 1, 1), (5, 6, 2), (3, 4, 3)])
def test_wide_results_are_read_as_the_compiler_does(
    height: int, width: int, rows: int, seed: int
) -> None:
    place = TensorLayout(
        channels=10, height=height, width=width, bits=8, zero_point=0, k=16, banks=4
    )
    output = Output(
        name="logits",
        offset=0,
        wide_rows=rows,
        place=place,
        tiles=((3, 1, 0, 9), (2, 4, 5), (8, 6, 7)),
    )
    stored = np.random.default_rng(seed).integers(-1 << 40, 1 << 40, output.size // 8)
    described = json.loads(json.dumps(dataclasses.asdict(output))) | {"wide_bytes": 8}
    read = output.read(stored.astype("<i8").tobytes() + bytes(48))
    # Channel 1 is the second of the first tile; its rows of pixels come with those of the tile.
    pitch, tile = place.wide_pitch, 4 * rows * place.wide_pitch
    assert (
        read[1, -1, -1]
        == stored[
            (height - 1) // rows * tile + rows * pitch + (height - 1) % rows * pitch + width - 1
        ]
    )
    got = unpack(np.frombuffer(stored.astype("<i8").tobytes() + bytes(48), np.uint8), described)
    np.testing.assert_array_equal(got, read.reshape(-1))


def test_images_become_codes() -> None:
    place = {"channels": 1, "height": 2, "width": 2, "bits": 8, "zero_point": 3, "k": 16}
    tensor = {"place": place, "scale": 0.5, "space_to_depth": {"shape": [1, 2, 2]}}
    assert input_codes(np.array([[0, 1], [2, 255]], np.uint8), tensor).tolist() == [
        [[0, 1], [2, 255]]
    ]
    # Floats are divided by the scale and rounded half up.
    assert input_codes(np.array([[[0.0, 0.25], [-1.0, 126.2]]]), tensor).tolist() == [
        [[3, 4], [1, 255]]
    ]
    for wrong, message in (
        (np.zeros((2, 3), int), r"\(channels, height, width\) = \(1, 2, 2\), not \(2, 3\)"),
        (np.full((1, 2, 2), 256), r"codes of an image must be in 0..255, not 256..256"),
        (np.full((1, 2, 2), np.nan), "must hold finite numbers"),
        (np.full((1, 2, 2), -2.0), r"must be in -1\.5\.\.126, .*, not -2\.\.-2; pixels of 8 bits"),
        (np.full((1, 2, 2), 126.3), r"must be in -1\.5\.\.126, .*, not 126\.3\.\.126\.3; pixels"),
        (np.full((1, 2, 2), "x"), "must hold finite numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            input_codes(wrong, tensor)


@pytest.mark.parametrize("x", [Axis(1, 1, 0, 5), Axis(2, 2, 0, 3), Axis(3, 2, -1, 3)])
def test_patches_are_gathered_as_the_compiler_does(x: Axis, seed: int) -> None:
    patches = SpaceToDepth((3, 6, 5), Axis(3, 2, -1, 3), x, 9)
    codes = np.random.default_rng(seed).integers(0, 256, patches.shape)
    described = json.loads(json.dumps(dataclasses.asdict(patches)))
    np.testing.assert_array_equal(gather(codes, described), patches.gather(codes))
