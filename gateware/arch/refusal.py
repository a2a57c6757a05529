# SPDX-License-Identifier: Apache-2.0
"""Descriptors that the accelerator refuses: what :mod:`gateware.rtl.decode` does, in Python."""

from collections.abc import Mapping

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.arch.isa import Base, Opcode
from gateware.arch.registers import ErrorCode


def refusal(bits: int, config: AccelConfig, sizes: Mapping[Base, int]) -> ErrorCode:
    """Error that the descriptor ``bits``, 512 of them, ends a run with; NONE for one that is
    carried out.

    ``sizes`` are the bytes of the host's buffers. Waits are not looked at, and neither is what an
    EXECUTE finds in the buffers: that may be any codes, but never makes an access to memory.
    """
    opcode = isa.unpack(isa.HEADER, bits)["opcode"]
    if opcode == Opcode.END:
        return ErrorCode.NONE
    queue = next((name for name in isa.QUEUES if opcode in isa.opcodes(config, name)), None)
    if queue is None:
        return ErrorCode.BAD_DESCRIPTOR
    if queue == "executes":
        execute = isa.unpack(isa.EXECUTE, bits)
        good = all(execute[name] for name in isa.LOOPS)
        return ErrorCode.NONE if good else ErrorCode.BAD_DESCRIPTOR
    transfer, beat = isa.unpack(isa.TRANSFER, bits), config.bus_bits // 8
    allowed = (Base.OUTPUT,) if queue == "stores" else tuple(Base)
    if transfer["base"] not in allowed or transfer["offset"] % beat:
        return ErrorCode.BAD_DESCRIPTOR
    spread = config.ports if opcode in (Opcode.LOAD_WEIGHTS, Opcode.LOAD_SLOTS) else 1
    end = transfer["offset"] // beat + transfer["beats"] * spread
    outside = end > sizes[Base(transfer["base"])] // beat
    return ErrorCode.OUT_OF_BOUNDS if outside else ErrorCode.NONE
