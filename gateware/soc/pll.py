# SPDX-License-Identifier: Apache-2.0
"""PLL of an ECP5."""

import dataclasses
import math

from amaranth import *


@dataclasses.dataclass(frozen=True)
class Pll:
    """Dividers of an EHXPLLL: ``output = input / refclk * feedback``, the VCO ``post`` times that.

    Limits of the ECP5 (FPGA-DS-02012, table 3.25): VCO 400 to 800 MHz, phase detector 3.125 to
    400 MHz.
    """

    refclk: int
    feedback: int
    post: int

    @classmethod
    def solve(cls, source_hz: int, target_hz: int) -> "Pll":
        """Dividers for exactly ``target_hz``. Raises ValueError when there are none."""
        ratio = math.gcd(source_hz, target_hz)
        refclk, feedback = source_hz // ratio, target_hz // ratio
        if refclk <= 128 and feedback <= 80 and 3_125_000 <= source_hz / refclk <= 400_000_000:
            # The VCO in the middle of its range.
            post = min(range(1, 129), key=lambda post: abs(target_hz * post - 600_000_000))
            if 400_000_000 <= target_hz * post <= 800_000_000:
                return cls(refclk, feedback, post)
        raise ValueError(
            f"the PLL cannot make {target_hz / 1e6:g} MHz from {source_hz / 1e6:g} MHz; ask for "
            f"another clock"
        )

    def instance(self, source: Value, output: Signal, locked: Signal) -> Instance:
        """Instance of the PLL from clock ``source`` to ``output``, which is its feedback as well.

        ``locked`` is high once ``output`` has its frequency.
        """
        return Instance(
            "EHXPLLL",
            a_ICP_CURRENT="12",
            a_LPF_RESISTOR="8",
            p_PLLRST_ENA="DISABLED",
            p_INTFB_WAKE="DISABLED",
            p_STDBY_ENABLE="DISABLED",
            p_DPHASE_SOURCE="DISABLED",
            p_OUTDIVIDER_MUXA="DIVA",
            p_OUTDIVIDER_MUXB="DIVB",
            p_OUTDIVIDER_MUXC="DIVC",
            p_OUTDIVIDER_MUXD="DIVD",
            p_CLKI_DIV=self.refclk,
            p_CLKFB_DIV=self.feedback,
            p_FEEDBK_PATH="CLKOP",
            p_CLKOP_ENABLE="ENABLED",
            p_CLKOP_DIV=self.post,
            p_CLKOP_CPHASE=self.post // 2,
            p_CLKOP_FPHASE=0,
            i_CLKI=source,
            i_CLKFB=output,
            o_CLKOP=output,
            o_LOCK=locked,
            i_RST=C(0, 1),
            i_STDBY=C(0, 1),
            i_PHASESEL0=C(0, 1),
            i_PHASESEL1=C(0, 1),
            i_PHASEDIR=C(0, 1),
            i_PHASESTEP=C(0, 1),
            i_PHASELOADREG=C(0, 1),
            i_PLLWAKESYNC=C(0, 1),
            i_ENCLKOP=C(0, 1),
        )
