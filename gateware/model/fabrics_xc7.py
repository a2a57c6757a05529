# SPDX-License-Identifier: Apache-2.0
"""Constants of the delay model of 7-series devices, by fabric.

The slow corner of the timing database of Project X-Ray (SDF files in f4pga/prjxray-db and
openXC7/prjxray-db), which was read out of Vivado. ``zynq7`` there is XC7Z010 and XC7Z020 of grade
-1, whose fabric is that of Artix-7; ``virtex7`` is the fabric that XC7Z045 shares with Kintex-7,
at grade -2 by its figures. What the database lacks is marked: "reports" are cells as in Vivado's
timing reports, from memory, "assumed" has no source.

Other grades: all delays times a factor, rounded from LUT, flip-flop and block RAM in the tables of
switching characteristics (DS187 for XC7Z020, DS191 for XC7Z045), from memory.
"""

import dataclasses
import math
import re
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fabric:
    """Delays in ns of one fabric in one grade.

    grade : speed grade that the numbers are of
    factors : all delays of another grade, by grade
    carry : ``(from, to)`` of a CARRY4 by bit, such as ``("S", "CO"): ((S0 to CO0, ...), ...)``
    dsp : of a DSP48E1; ``pin>register`` is a setup, ``+`` stands for the pre-adder
    """

    grade: int
    factors: Mapping[int, float]
    net_base: float
    net_doubling: float
    lut: float
    lut5: float
    muxf7: float
    muxf7_select: float
    muxf8: float
    muxf8_select: float
    ff_out: float
    ff_setup: float
    ff_enable: float
    ff_reset: float
    srl_out: float
    srl_setup: float
    srl_enable: float
    ram_out: float
    ram_setup: float
    ram_address: float
    ram_enable: float
    bram_out: float
    bram_out_register: float
    bram_address: float
    bram_write: float
    bram_enable: float
    bram_data: float
    port_in: float
    port_out: float
    carry: Mapping[tuple[str, str], tuple[tuple[float, ...], ...]]
    dsp: Mapping[str, float]


#: Setup of the registers at the inputs of a DSP48E1, of what has none before M and P, and the rest.
_DSP_ARTIX = {
    # Own register of the pin.
    "A>A": 0.362,
    "B>B": 0.450,
    "C>C": 0.233,
    "D>D": 0.413,
    "ACIN>A": 0.319,
    "BCIN>B": 0.352,
    "INMODE>INMODE": 0.449,
    "OPMODE>OPMODE": 0.449,
    "ALUMODE>ALUMODE": 0.246,
    "CARRYIN>CARRYIN": 0.299,
    "CARRYINSEL>CARRYINSEL": 0.208,
    # Through the pre-adder, or without it, to the register after it, of the product, of the sum.
    "A>AD": 1.756,
    "D>AD": 1.626,
    "A>M": 1.928,
    "B>M": 1.743,
    "A+>M": 3.288,
    "D+>M": 3.158,
    "A>P": 3.722,
    "B>P": 3.536,
    "A+>P": 5.081,
    "D+>P": 4.951,
    "AB>P": 1.958,  # concatenated, no multiplier
    "C>P": 1.701,
    "PCIN>P": 1.400,
    "OPMODE>P": 2.209,
    "ALUMODE>P": 1.978,
    "CARRYIN>P": 1.298,
    "CARRYINSEL>P": 1.793,
    # Clock to P, by the last register on the way; PCOUT takes `pcout` more.
    "P": 0.434,
    "M": 2.305,
    "AD": 3.684,
    "A": 4.009,
    "B": 3.813,
    "A+": 5.368,
    "D+": 5.320,
    "AB": 2.215,
    "C": 2.291,
    "pcout": 0.195,
    "pcout_register": 0.044,
    # A combinational way to P takes this much more than the setup before the register P.
    "through": 0.119,
    # From the clock to where a pin without the register would be.
    "start": 0.168,
    "enable": 0.524,
    "reset": 0.589,
}

#: XC7Z010, XC7Z020: Artix-7 fabric, measured at grade -1.
ARTIX = Fabric(
    grade=1,
    factors={1: 1.0, 2: 0.85, 3: 0.76},  # DS187, from memory
    net_base=0.5,  # assumed
    net_doubling=0.12,  # assumed
    lut=0.124,
    lut5=0.153,
    muxf7=0.223,
    muxf7_select=0.314,
    muxf8=0.104,
    muxf8_select=0.283,
    ff_out=0.456,  # reports
    ff_setup=0.070,  # reports
    ff_enable=0.205,  # reports
    ff_reset=0.429,  # reports
    srl_out=1.605,  # reports
    srl_setup=0.170,
    srl_enable=0.638,
    ram_out=1.314,  # reports
    ram_setup=0.334,
    ram_address=0.362,
    ram_enable=0.654,
    bram_out=2.454,  # reports
    bram_out_register=0.882,  # reports
    bram_address=0.566,  # reports
    bram_write=0.532,  # reports
    bram_enable=0.443,  # reports
    bram_data=0.737,  # reports
    port_in=1.3,  # of PS7, assumed
    port_out=0.9,  # of PS7, assumed
    carry={
        ("CI", "O"): ((0.222, 0.334, 0.239, 0.313),),
        ("CI", "CO"): ((0.271, 0.157, 0.228, 0.114),),
        ("CYINIT", "O"): ((0.482, 0.598, 0.584, 0.642),),
        ("CYINIT", "CO"): ((0.536, 0.494, 0.592, 0.580),),
        ("S", "O"): ((0.223, 0.400, 0.523, 0.582), (0.205, 0.558, 0.618), (0.226, 0.330), (0.227,)),
        ("S", "CO"): (
            (0.340, 0.433, 0.512, 0.508),
            (0.469, 0.548, 0.528),
            (0.292, 0.376),
            (0.380,),
        ),
        ("DI", "O"): ((math.nan, 0.337, 0.486, 0.545), (math.nan, 0.471, 0.532), (math.nan, 0.372)),
        ("DI", "CO"): (
            (0.329, 0.396, 0.474, 0.456),
            (0.376, 0.459, 0.443),
            (0.289, 0.324),
            (0.327,),
        ),
    },
    dsp=_DSP_ARTIX,
)

#: XC7Z030 and larger: Kintex-7 fabric, measured at grade -2.
KINTEX = Fabric(
    grade=2,
    factors={1: 1.18, 2: 1.0, 3: 0.88},  # DS191, from memory
    net_base=0.38,  # assumed: 0.75 of Artix -1, as its block RAMs and DSPs
    net_doubling=0.09,  # assumed
    lut=0.043,
    lut5=0.055,
    muxf7=0.123,
    muxf7_select=0.163,
    muxf8=0.045,
    muxf8_select=0.141,
    ff_out=0.223,  # reports
    ff_setup=0.030,  # reports
    ff_enable=0.178,  # reports
    ff_reset=0.304,  # reports
    srl_out=0.916,
    srl_setup=0.114,
    srl_enable=0.339,
    ram_out=0.700,  # the database has 0.608 to 0.626 before the output's multiplexer
    ram_setup=0.271,
    ram_address=0.211,
    ram_enable=0.366,
    bram_out=1.800,
    bram_out_register=0.622,
    bram_address=0.416,
    bram_write=0.404,
    bram_enable=0.328,
    bram_data=0.543,
    port_in=1.1,  # of PS7, assumed
    port_out=0.75,  # of PS7, assumed
    carry={
        ("CI", "O"): ((0.111, 0.166, 0.111, 0.149),),
        ("CI", "CO"): ((0.139, 0.077, 0.110, 0.053),),
        ("CYINIT", "O"): ((0.250, 0.309, 0.290, 0.326),),
        ("CYINIT", "CO"): ((0.282, 0.254, 0.293, 0.287),),
        ("S", "O"): ((0.113, 0.207, 0.255, 0.285), (0.097, 0.270, 0.300), (0.106, 0.167), (0.105,)),
        ("S", "CO"): (
            (0.182, 0.220, 0.262, 0.248),
            (0.238, 0.279, 0.255),
            (0.137, 0.184),
            (0.182,),
        ),
        ("DI", "O"): ((math.nan, 0.152, 0.232, 0.263), (math.nan, 0.219, 0.248), (math.nan, 0.176)),
        ("DI", "CO"): (
            (0.122, 0.195, 0.236, 0.227),
            (0.181, 0.225, 0.204),
            (0.138, 0.157),
            (0.154,),
        ),
    },
    # Sixteen that were compared are 0.63 to 0.80 of Artix -1, most of them 0.71.
    dsp={name: round(0.72 * ns, 3) for name, ns in _DSP_ARTIX.items()},
)


def fabric_of(part: str) -> Fabric:
    """Fabric of a Zynq-7000, by the name of the part."""
    return ARTIX if re.match("xc7z0(07|10|12|14|15|20)", part) else KINTEX
