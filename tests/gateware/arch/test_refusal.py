# SPDX-License-Identifier: Apache-2.0
"""Refusal of descriptors, case by case."""

import dataclasses

import pytest

from gateware.arch import isa
from gateware.arch.isa import Base, Opcode
from gateware.arch.refusal import refusal
from gateware.arch.registers import ErrorCode
from tests.helpers.units import TINY, descriptor

SIZES = {Base.PROGRAM: 256, Base.INPUT: 64, Base.OUTPUT: 128}
WEIGHTS = {"opcode": Opcode.LOAD_WEIGHTS, "base": Base.PROGRAM, "beats": 2, "offset": 248}
STORE = {"opcode": Opcode.STORE_TENSOR, "base": Base.OUTPUT, "beats": 32}
EXECUTE = {"opcode": Opcode.EXECUTE} | dict.fromkeys(isa.LOOPS, 1)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"opcode": Opcode.END, "base": 9}, ErrorCode.NONE),
        ({"opcode": 0}, ErrorCode.BAD_DESCRIPTOR),
        ({"opcode": Opcode.LOAD_TABLE}, ErrorCode.BAD_DESCRIPTOR),  # there are no tables
        (WEIGHTS, ErrorCode.NONE),
        (WEIGHTS | {"beats": 3}, ErrorCode.OUT_OF_BOUNDS),
        (WEIGHTS | {"offset": 252}, ErrorCode.OUT_OF_BOUNDS),
        (WEIGHTS | {"offset": 2}, ErrorCode.BAD_DESCRIPTOR),
        (WEIGHTS | {"base": 3}, ErrorCode.BAD_DESCRIPTOR),
        (WEIGHTS | {"base": Base.INPUT}, ErrorCode.OUT_OF_BOUNDS),
        (WEIGHTS | {"offset": 0xFFFF_FFFC, "beats": 1}, ErrorCode.OUT_OF_BOUNDS),
        (STORE, ErrorCode.NONE),
        (STORE | {"beats": 33}, ErrorCode.OUT_OF_BOUNDS),
        (STORE | {"base": Base.PROGRAM}, ErrorCode.BAD_DESCRIPTOR),
        (STORE | {"base": Base.INPUT, "beats": 1}, ErrorCode.BAD_DESCRIPTOR),
        (EXECUTE, ErrorCode.NONE),
        *((EXECUTE | {name: 0}, ErrorCode.BAD_DESCRIPTOR) for name in isa.LOOPS),
    ],
)
def test_refusal(fields: dict[str, int], code: ErrorCode) -> None:
    layout = isa.EXECUTE if fields["opcode"] == Opcode.EXECUTE else isa.TRANSFER
    assert refusal(descriptor(layout, **fields), TINY, SIZES) is code


def test_weights_of_all_ports_count() -> None:
    word, ports = descriptor(isa.TRANSFER, **WEIGHTS), dataclasses.replace(TINY, ports=2)
    assert refusal(word, ports, SIZES) is ErrorCode.OUT_OF_BOUNDS
    assert refusal(word, ports, SIZES | {Base.PROGRAM: 264}) is ErrorCode.NONE
