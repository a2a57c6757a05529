# SPDX-License-Identifier: Apache-2.0
"""Verilog text for ECP5: the platform that asks for it."""


class Ecp5:
    """Platform argument of ``elaborate`` for text that an ECP5 is made from.

    Such text instantiates MULT18X18D with its registers, which no synthesiser here infers.
    Amaranth's own simulator cannot run it, a Verilog simulator needs ``sim/backend/ecp5.v``. The
    engines' sums are those of the portable form in every cycle.
    """


def is_ecp5(platform: object) -> bool:
    """True if ``platform`` allows instances of ECP5 primitives."""
    return isinstance(platform, Ecp5)
