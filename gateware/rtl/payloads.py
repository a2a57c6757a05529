# SPDX-License-Identifier: Apache-2.0
"""Payloads that pass between the units of the accelerator."""

from amaranth import *
from amaranth.lib import data
from amaranth.utils import ceil_log2

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.pe.base import WordControl
from ir.numerics import ACT_BITS


class WordRequest(data.StructLayout):
    """Request for one word of every pixel lane, by address.

    Members
    -------
    control : WordControl
    row_address : unsigned(16)
        Activation buffer address of (plane, group, row), column quotient 0.
    row_inside : unsigned(1)
        The row lies in the image; otherwise the pad value is read.
    x : signed(12)
        Column of pixel lane 0.
    pad : unsigned(4)
        Nibble outside the image.
    weight_address : unsigned(16)
        Word of the weight buffer.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "control": WordControl(),
                "row_address": isa.ADDRESS_BITS,
                "row_inside": 1,
                "x": signed(isa.SIZE_BITS + 2),
                "pad": ACT_BITS,
                "weight_address": isa.ADDRESS_BITS,
            }
        )


_DRAIN_FIELDS = (
    "wide",
    "out_planes",
    "residual",
    "residual_planes",
    "out_address",
    "out_plane_pitch",
    "residual_address",
    "residual_plane_pitch",
    "residual_n",
    "low",
    "high",
    "slot_address",
    "slots",
)


def drain_fields(config: AccelConfig) -> tuple[str, ...]:
    """Fields of EXECUTE that the drain needs."""
    return (*_DRAIN_FIELDS, "table", *isa.TABLE_FIELDS) if config.tables else _DRAIN_FIELDS


class DrainJob(data.StructLayout):
    """Job of the drain: the pixels whose sums are complete.

    Parameters
    ----------
    config : AccelConfig

    Members
    -------
    pixel : unsigned(16)
        Words from the output tensor's first word to the first pixel's, in its bank.
    bank : unsigned(ceil_log2(banks))
        Of the first pixel.
    count : range(pixels + 1)
        How many of the pixel lanes lie inside the output.
    final : unsigned(1)
        The last pixels of an EXECUTE.
    execute : StructLayout
        :func:`drain_fields` of the descriptor.
    """

    def __init__(self, config: AccelConfig) -> None:
        fields = dict(isa.EXECUTE)
        super().__init__(
            {
                "pixel": isa.ADDRESS_BITS,
                "bank": ceil_log2(config.banks),
                "count": range(config.pixels + 1),
                "final": 1,
                "execute": data.StructLayout(
                    {name: fields[name].shape for name in drain_fields(config)}
                ),
            }
        )


class ActPlace(data.StructLayout):
    """Place of a word in the activation buffer.

    Parameters
    ----------
    config : AccelConfig

    Members
    -------
    address : unsigned(16)
        Within the bank.
    bank : unsigned(ceil_log2(banks))
    """

    def __init__(self, config: AccelConfig) -> None:
        super().__init__({"address": isa.ADDRESS_BITS, "bank": ceil_log2(config.banks)})


class ActWord(data.StructLayout):
    """Word for the activation buffer, and its place.

    Parameters
    ----------
    config : AccelConfig

    Members
    -------
    place : ActPlace
    data : unsigned(bus_bits)
        A nibble for each of ``k`` columns.
    """

    def __init__(self, config: AccelConfig) -> None:
        super().__init__({"place": ActPlace(config), "data": config.bus_bits})


class TransferJob(data.StructLayout):
    """Job of the loader or the storer: a LOAD_* or STORE_* that may begin.

    Members
    -------
    tensor : isa.TENSOR
        The descriptor; what TRANSFER calls ``destination`` is ``address`` here.
    address : unsigned(32)
        Of its first byte in memory.
    """

    def __init__(self) -> None:
        super().__init__({"tensor": isa.TENSOR, "address": 32})
