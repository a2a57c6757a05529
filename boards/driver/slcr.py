# SPDX-License-Identifier: Apache-2.0
"""The registers of a Zynq-7000's processing system that concern its logic (UG585, appendix B)."""

from typing import Tuple

import numpy as np

from .errors import NoHardware

BASE = 0xF800_0000  #: system level control registers, and further on those of the HP ports
SIZE = 0xC000

UNLOCK, UNLOCK_KEY = 0x008, 0xDF0D
ARM_PLL, DDR_PLL, IO_PLL = 0x100, 0x104, 0x108
FCLK0, FCLK0_GATE = 0x170, 0x178
LOGIC_RESET = 0x240
HP0_READ, HP0_WRITE, HP_PITCH = 0x8000, 0x8014, 0x1000

DIVISOR_MAX = 63


class Slcr:
    """Clock, reset and port width of the logic.

    Parameters
    ----------
    words : np.ndarray
        The registers from BASE on, uint32.
    ps_clock_hz : int
        Crystal of the processing system, in Hz.
    """

    def __init__(self, words: np.ndarray, ps_clock_hz: int) -> None:
        self._words = words
        self._ps_clock_hz = ps_clock_hz
        # Linux keeps them unlocked; locking them again would stop its own drivers.
        self._set(UNLOCK, UNLOCK_KEY)

    def set_fclk0(self, hertz: int) -> int:
        """Setting of FCLK0 to ``hertz`` or the next lower frequency that exists, which is returned.

        Raises NoHardware where the PLL cannot come within a tenth.
        """
        register = self._get(FCLK0)
        source = register >> 4 & 3
        pll = {2: ARM_PLL, 3: DDR_PLL}.get(source, IO_PLL)
        multiplier = self._get(pll) >> 12 & 0x7F
        first, second = self.divisors(self._ps_clock_hz * multiplier, hertz)
        actual = self._ps_clock_hz * multiplier // (first * second) if first else 0
        if not 0.9 * hertz <= actual:
            raise NoHardware(
                f"the clock of the logic cannot be {hertz / 1e6:g} MHz: its PLL runs at "
                f"{self._ps_clock_hz * multiplier / 1e6:g} MHz"
            )
        wanted = register & ~(0x3F << 8 | 0x3F << 20) | first << 8 | second << 20
        self._set(FCLK0_GATE, 0)  # Linux stops clocks that none of its drivers uses
        if wanted != register:
            self._set(FCLK0, wanted)
            self.reset_logic()  # it may have seen short cycles
        return actual

    @staticmethod
    def divisors(pll_hertz: int, hertz: int) -> Tuple[int, int]:
        """Two divisors with the highest result that is not above ``hertz``; 0, 0 for none."""
        best, found = 0.0, (0, 0)
        for first in range(1, DIVISOR_MAX + 1):
            second = max(1, -(-pll_hertz // (hertz * first)))
            if second <= DIVISOR_MAX and best < pll_hertz / (first * second):
                best, found = pll_hertz / (first * second), (first, second)
        return found

    def use_64_bit_ports(self, count: int) -> None:
        """Setting of HP ports 0 to ``count - 1`` to a width of 64 bits."""
        for port in range(count):
            for first in (HP0_READ, HP0_WRITE):
                register = first + port * HP_PITCH
                self._set(register, self._get(register) & ~1)

    def reset_logic(self) -> None:
        """Reset of the accelerator by a pulse on FCLKRESETN0."""
        value = self._get(LOGIC_RESET)
        self._set(LOGIC_RESET, value | 1)
        self._set(LOGIC_RESET, value & ~1)

    def _get(self, offset: int) -> int:
        return int(self._words[offset // 4])

    def _set(self, offset: int, value: int) -> None:
        self._words[offset // 4] = value
