# SPDX-License-Identifier: Apache-2.0
"""One frozen description of an accelerator, from which every width and depth follows."""

import dataclasses
import enum
import functools
import json
import reprlib
from typing import Any, NamedTuple

from ir.numerics import ACT_BITS, Scheme
from ir.ratio import Ratio

MAX_ROWS = 1024  #: row lanes; no board holds more
MAX_PIXELS = 512  #: a DSP serves two, and rows of a tensor have less than 1024
MAX_DEPTH = 1 << 16  #: words of a buffer, as an address has 16 bits


def _is_power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


class Fixed4Style(enum.StrEnum):
    """Engines of Fixed-4 rows, a choice that trades LUTs for DSP48E1."""

    PAIRS = "pairs"  #: two rows share DSP48E1 that do four MACs each; an odd row takes LUTs
    DSP = "dsp"  #: two MACs per DSP48E1 and no LUTs; sums of 20 bits at most


class Size(NamedTuple):
    """Size of an accelerator that has an option: its default, and what it is."""

    default: int
    text: str


#: Sizes beside the rows: what the command line offers, with what a small network needs.
SIZE_OPTIONS = {
    "pixels": Size(
        2, "output pixels of a row that are computed at once: 2, 4, 8; costs DSPs and LUTs"
    ),
    "requant_lanes": Size(
        8,
        "results that become codes in a cycle; a divisor of the rows and of the 16 channels of a "
        "word; more help layers with few inputs",
    ),
    "drain_pixels": Size(
        1,
        "pixels whose results become codes in the same cycle, each with requantisers of its own: a "
        "power of two, at most half the pixels",
    ),
    "ports": Size(1, "memory ports that weights come through: 1, 2 or 4"),
    "act_depth": Size(
        1024,
        "words of 16 codes in each of the activation buffer's 2 x pixels banks, a power of two; "
        "what does not fit goes through memory",
    ),
    "act_copies": Size(
        2,
        "copies of the activations; 1 halves their block RAMs, and rows of an odd number of pixels "
        "drain as if there were one more",
    ),
    "weight_depth": Size(
        512, "words of 16 weights of every row that are kept, best a multiple of 512"
    ),
    "slot_depth": Size(
        64,
        "scales and offsets of rows that are kept, a power of two, at least the rows",
    ),
    "wide_depth": Size(
        64,
        "raw results (logits) that wait for memory, a power of two, at least the rows",
    ),
}

#: Default of each.
SIZES = {name: size.default for name, size in SIZE_OPTIONS.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AccelConfig:
    """Sizes of one accelerator.

    The array multiplies ``rows x k x pixels`` activation nibbles per cycle. An activation word
    holds ``k`` channels of one pixel and is one bus beat, so ``k = bus_bits / 4``.

    Parameters
    ----------
    pot4_rows, fixed4_rows, fixed8_rows : int
        Lanes of each scheme in one row tile (lane order: POT4, FIXED4, FIXED8).
    pixels : int
        Output pixels per cycle, along x; even, because one DSP serves two pixels; a power of two.
    requant_lanes : int
        Requantisers that drain a finished tile; divides both ``rows`` and ``k``.
    drain_pixels : int
        Pixels of a group that are drained at once, each by ``requant_lanes`` requantisers of its
        own; a power of two, at most half of ``pixels``, or 1.
    bus_bits : int
        Width of a memory port: 64 (or 32).
    ports : int
        Memory ports, 1, 2 or 4. Weights and slots are read through all of them at once; the other
        traffic goes through the first.
    act_depth : int
        Words per bank of the activation buffer, which has ``2 * pixels`` banks.
    act_copies : int
        Ports of the activation buffer, each with a copy of the words. With 2, the drain reads
        residual operands through a port of their own while it writes. With 1, which takes half the
        block RAMs, it takes pixels in pairs, so that operands and results are in different banks.
    weight_depth : int
        Words of the weight buffer, a multiple of 512 to use whole block RAMs; one word holds ``k``
        weights of every row lane.
    slot_depth : int
        Drain slots that the slot buffer holds.
    wide_depth : int
        Raw outputs (logits) that are kept until they are stored; at least one for each row lane.
        With twice as many as a row tile gives, none waits for those before.
    tables : bool
        Whether each requantiser has a table of 256 codes for activation functions.
    parts : bool
        Whether an EXECUTE can go on with the sums of the one before, for layers with more weights
        per row than the weight buffer holds.
    fixed4_style : Fixed4Style
        Engines of the Fixed-4 rows, see :mod:`gateware.pe.lanes`.
    clock_hz : int
        Clock asked for.

    Raises
    ------
    ValueError
        For a size out of its range.
    """

    pot4_rows: int
    fixed4_rows: int
    fixed8_rows: int
    pixels: int = SIZES["pixels"]
    requant_lanes: int = SIZES["requant_lanes"]
    drain_pixels: int = SIZES["drain_pixels"]
    bus_bits: int = 64
    ports: int = SIZES["ports"]
    act_depth: int = SIZES["act_depth"]
    act_copies: int = SIZES["act_copies"]
    weight_depth: int = SIZES["weight_depth"]
    slot_depth: int = SIZES["slot_depth"]
    wide_depth: int = SIZES["wide_depth"]
    tables: bool = False
    parts: bool = False
    fixed4_style: Fixed4Style = Fixed4Style.PAIRS
    clock_hz: int = 100_000_000

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type in (int, bool) and type(value) is not field.type:
                kind = "true or false" if field.type is bool else "a whole number"
                raise ValueError(f"{field.name} must be {kind}, not {reprlib.repr(value)}")
        if self.rows > MAX_ROWS or self.pixels > MAX_PIXELS:
            raise ValueError(
                f"rows must be at most {MAX_ROWS} and pixels {MAX_PIXELS}, not {self.rows} and "
                f"{self.pixels}"
            )
        if min(self.lanes) < 0 or self.rows == 0:
            raise ValueError(f"row lanes must not be negative and not all zero, got {self.lanes}")
        if self.bus_bits not in (32, 64):
            raise ValueError(f"bus_bits must be 32 or 64, not {self.bus_bits}")
        if self.ports not in (1, 2, 4):
            raise ValueError(f"ports must be 1, 2 or 4, not {self.ports}")
        if self.act_copies not in (1, 2):
            raise ValueError(f"act_copies must be 1 or 2, not {self.act_copies}")
        if not _is_power_of_two(self.pixels) or self.pixels < 2:
            raise ValueError(f"pixels must be a power of two and at least 2, not {self.pixels}")
        if self.requant_lanes < 1 or self.k % self.requant_lanes:
            raise ValueError(
                f"requant_lanes must divide the {self.k} channels of a word, not "
                f"{self.requant_lanes}"
            )
        if self.rows % self.requant_lanes:
            raise ValueError(
                f"rows must be a multiple of requant_lanes, which is {self.requant_lanes}, not "
                f"{self.rows}: change either"
            )
        if not _is_power_of_two(self.drain_pixels) or self.drain_pixels > self.pixels // 2:
            raise ValueError(
                f"drain_pixels must be a power of two and at most half of the {self.pixels} "
                f"pixels, not {self.drain_pixels}"
            )
        if not 1 <= self.weight_depth <= 1 << 15:
            raise ValueError(f"weight_depth must be in 1..32768, not {self.weight_depth}")
        for field in ("act_depth", "slot_depth", "wide_depth"):
            if not _is_power_of_two(getattr(self, field)):
                raise ValueError(f"{field} must be a power of two, not {getattr(self, field)}")
            if getattr(self, field) > MAX_DEPTH:
                raise ValueError(f"{field} must be at most {MAX_DEPTH}, not {getattr(self, field)}")
        if self.slot_depth < self.rows:
            raise ValueError(
                f"slot_depth must be at least the {self.rows} rows, not {self.slot_depth}"
            )
        if self.wide_depth < self.rows:
            raise ValueError(
                f"wide_depth must be at least the {self.rows} rows, not {self.wide_depth}"
            )
        # From JSON it comes as text. Raises ValueError with the name that is not one.
        object.__setattr__(self, "fixed4_style", Fixed4Style(self.fixed4_style))
        if self.clock_hz <= 0:
            raise ValueError(f"clock_hz must be positive, not {self.clock_hz}")

    @classmethod
    def from_ratio(cls, ratio: Ratio, rows: int, **sizes: Any) -> "AccelConfig":
        """Configuration of ``rows`` lanes split by ``ratio``, by the function that training uses.

        ``sizes`` are the other fields.
        """
        pot4, fixed4, fixed8 = ratio.lanes(rows)
        return cls(pot4_rows=pot4, fixed4_rows=fixed4, fixed8_rows=fixed8, **sizes)

    @property
    def lanes(self) -> tuple[int, int, int]:
        """Row lanes of a tile in PoT-4, Fixed-4 and Fixed-8."""
        return (self.pot4_rows, self.fixed4_rows, self.fixed8_rows)

    @property
    def rows(self) -> int:
        """Row lanes of a tile."""
        return sum(self.lanes)

    @property
    def k(self) -> int:
        """Input channels per activation word."""
        return self.bus_bits // ACT_BITS

    @property
    def banks(self) -> int:
        """Banks of the activation buffer; pixel x lies in bank ``x % banks``."""
        return 2 * self.pixels

    @property
    def max_stride(self) -> int:
        """Largest horizontal stride at which the pixel lanes never meet in a bank."""
        return max(1, (self.banks - 1) // (self.pixels - 1))

    @property
    def drain_interleave(self) -> int:
        """Turns that pixels take in the drain, ``drain_pixels`` in each: 1, or 2 with one copy of
        the activations."""
        return 3 - self.act_copies

    def drain_turns(self, pixels: int, *, raw: bool) -> int:
        """Turns of a row's last ``pixels``, or of its ``pixels``: an even number for codes where
        pixels take turns."""
        turns = -(-pixels // self.drain_pixels)
        return turns if raw else -(-turns // self.drain_interleave) * self.drain_interleave

    @property
    def macs_per_cycle(self) -> int:
        """Multiply-accumulates of the array per cycle."""
        return self.rows * self.k * self.pixels

    @functools.cached_property
    def lane_schemes(self) -> tuple[Scheme, ...]:
        """Scheme of each row lane."""
        return tuple(s for s, n in zip(Scheme, self.lanes, strict=True) for _ in range(n))

    @functools.cached_property
    def weight_bits(self) -> int:
        """Weight bits that all lanes consume per cycle."""
        return sum(self.k * scheme.bits for scheme in self.lane_schemes)

    @property
    def weight_beats(self) -> int:
        """Bus beats of one stored word of the weight buffer, the same number for every port."""
        return self.whole_beats(self.weight_bits)

    def whole_beats(self, bits: int) -> int:
        """Bus beats that hold ``bits``, a multiple of the ports."""
        return -(-bits // (self.bus_bits * self.ports)) * self.ports

    def fields(self) -> dict[str, Any]:
        """Fields by name, without ``tables`` and ``parts`` where there are none, and without a
        ``drain_pixels`` of 1: what an array of before was known by it still is."""
        absent = [name for name in ("tables", "parts") if not getattr(self, name)]
        absent += ["drain_pixels"] if self.drain_pixels == 1 else []
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in absent}

    def to_json(self) -> str:
        """:meth:`fields` as JSON text, the inverse of :meth:`from_json`."""
        return json.dumps(self.fields(), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "AccelConfig":
        """Configuration of JSON text; ValueError or TypeError for text of none."""
        return cls(**json.loads(text))
