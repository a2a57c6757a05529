# SPDX-License-Identifier: Apache-2.0
"""Logic that is written twice: portably, and with the primitives of Xilinx' 7-series.

Which of them an engine gets depends on the ``platform`` that it is elaborated for. Both compute the
same in every cycle; ``sim/test_engines.py`` and ``sim/test_formal.py`` hold them together.
"""

from collections.abc import Callable
from typing import TypeVar

from amaranth import *

from gateware.pe.series7 import is_series7

Bit = TypeVar("Bit", int, Value)

CARRY_BITS = 4  #: bits of one CARRY4


def choose(select: Bit, one: Bit, zero: Bit) -> Bit:
    """Multiplexer of single bits for functions that :func:`pair` takes: ``one`` for ``select``
    1."""
    return (select & one) | ((1 ^ select) & zero)


def pair(
    m: Module,
    platform: object,
    name: str,
    first: Callable[..., Bit],
    second: Callable[..., Bit],
    *bits: Value,
) -> tuple[Value, Value]:
    """Two functions of the same one to five bits in one LUT: ``first(*bits), second(*bits)``.

    The functions use ``&``, ``|``, ``^`` and :func:`choose` only, so that they work on integers,
    which gives the LUT's content, and on values, which is the portable form. Raises ValueError for
    another number of bits.
    """
    if not 0 < len(bits) <= 5:
        raise ValueError(f"a LUT with two outputs has 1 to 5 inputs, not {len(bits)}")
    if not is_series7(platform):
        return first(*bits), second(*bits)
    init = _content(first, len(bits), 5) | _content(second, len(bits), 5) << 32
    low, high = Signal(name=f"{name}_o5"), Signal(name=f"{name}_o6")
    m.submodules[name] = Instance(
        "LUT6_2",
        p_INIT=Const(init, 64),
        o_O5=low,
        o_O6=high,
        i_I5=Const(1, 1),
        **{f"i_I{i}": bits[i] if i < len(bits) else Const(0, 1) for i in range(5)},
    )
    return low, high


def single(
    m: Module, platform: object, name: str, function: Callable[..., Bit], *bits: Value
) -> Value:
    """Function of one to six bits in one LUT, ``function(*bits)``, as :func:`pair` takes it.

    Raises ValueError for another number of bits.
    """
    if not 0 < len(bits) <= 6:
        raise ValueError(f"a LUT has 1 to 6 inputs, not {len(bits)}")
    if not is_series7(platform):
        return function(*bits)
    out = Signal(name=f"{name}_o")
    m.submodules[name] = Instance(
        "LUT6",
        p_INIT=Const(_content(function, len(bits), 6), 64),
        o_O=out,
        **{f"i_I{i}": bits[i] if i < len(bits) else Const(0, 1) for i in range(6)},
    )
    return out


def _content(function: Callable[..., int], arity: int, inputs: int) -> int:
    """Truth table over ``inputs`` bits, of which the function takes the first ``arity``."""
    return sum(
        function(*(index >> i & 1 for i in range(arity))) << index for index in range(1 << inputs)
    )


def add3(m: Module, platform: object, name: str, x: Value, y: Value, z: Value, width: int) -> Value:
    """Ternary adder ``(x + y + z) mod 2^width`` of unsigned values, without a register.

    For 7-series a LUT per bit and one carry chain: each LUT compresses three bits to a sum bit and
    a carry bit, the chain adds the two words.
    """
    if not is_series7(platform):
        return (x + y + z)[:width]
    zero = Const(0, 1)
    operands = [[value[i] if i < len(value) else zero for value in (x, y, z)] for i in range(width)]
    propagate, carries, carry = [], [], zero
    for i, bits in enumerate(operands):
        if any(bit is not zero for bit in bits):
            carries.append(carry)
            carry, total = pair(
                m,
                platform,
                f"{name}_lut_{i}",
                lambda a, b, c, _: (a & b) | (c & (a | b)),
                lambda a, b, c, d: a ^ b ^ c ^ d,
                *bits,
                carry,
            )
            propagate.append(total)
        else:  # nothing but the carry word is left
            propagate.append(carry)
            carries.append(zero)
            carry = zero
    out = Signal(-(-width // CARRY_BITS) * CARRY_BITS, name=f"{name}_out")
    chain = zero
    for low in range(0, width, CARRY_BITS):
        carry_out = Signal(CARRY_BITS, name=f"{name}_carry_{low}")
        part = slice(low, low + CARRY_BITS)
        missing = [zero] * (CARRY_BITS - len(propagate[part]))
        m.submodules[f"{name}_carry4_{low // CARRY_BITS}"] = Instance(
            "CARRY4",
            i_CI=chain,
            i_CYINIT=zero,
            i_S=Cat(*propagate[part], *missing),
            i_DI=Cat(*carries[part], *missing),
            o_O=out[low : low + CARRY_BITS],
            o_CO=carry_out,
        )
        chain = carry_out[-1]
    return out[:width]
