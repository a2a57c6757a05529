# SPDX-License-Identifier: Apache-2.0
"""Facts shared by boards with a Lattice ECP5, which open tools take from Verilog to bitstream.

No processor, and no controller here for their memory chips: an accelerator on them has the block
RAM of the FPGA and a serial port to a computer.
"""

from boards.board import Device

DS02012 = "ECP5 and ECP5-5G Family Data Sheet (FPGA-DS-02012), table 1.1; LUTs as nextpnr has them"


def ecp5_85(part: str) -> Device:
    """Limits of an ECP5 of 84 k LUTs; ``part`` is the full part name."""
    return Device(
        part=part,
        family="ecp5",
        limits={"lut4": 83_640, "ff": 83_640, "mult18": 156, "ebr": 208},
        source=DS02012,
    )
