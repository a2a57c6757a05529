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
    """One word of every pixel lane, by address.

    control : WordControl
    row_address : activation buffer address of (plane, group, row), column quotient 0
    row_inside : the row lies in the image; otherwise the pad value is read
    x : signed column of pixel lane 0
    pad : nibble outside the image
    weight_address : word of the weight buffer
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


#: Fields of EXECUTE that the drain needs.
DRAIN_FIELDS = (
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


class DrainJob(data.StructLayout):
    """The pixels whose sums are complete.

    pixel : words from the output tensor's first word to this pixel's, in its bank
    bank : bank of the first pixel
    count : how many of the pixel lanes lie inside the output
    final : the last pixels of an EXECUTE
    execute : what the drain must know of it, named as there
    """

    def __init__(self, config: AccelConfig) -> None:
        fields = dict(isa.EXECUTE)
        super().__init__(
            {
                "pixel": isa.ADDRESS_BITS,
                "bank": ceil_log2(config.banks),
                "count": range(config.pixels + 1),
                "final": 1,
                "execute": data.StructLayout({name: fields[name].shape for name in DRAIN_FIELDS}),
            }
        )


class TransferJob(data.StructLayout):
    """A LOAD_* or STORE_* that may begin, and where in memory it is.

    tensor : the descriptor; what TRANSFER calls ``destination`` is ``address`` here
    address : of its first byte
    """

    def __init__(self) -> None:
        super().__init__({"tensor": isa.TENSOR, "address": 32})
