# SPDX-License-Identifier: Apache-2.0
"""Base of every row engine of the array: ports, control word, accumulator, resources."""

import abc
import dataclasses
import operator
from collections.abc import Sequence

import numpy as np
from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ir.numerics import (
    ACC_BITS,
    ACT_BITS,
    Scheme,
    acc_bounds,
    act_max,
    decode_weights,
    encode_weights,
)

SUM_BITS = ACC_BITS + 1  #: signed width of every sum that leaves an engine


class WordControl(data.StructLayout):
    """Control that travels with every activation word; ignored while ``valid`` is 0.

    ::

        base = 0 if first else (acc << 4 if shift else acc)
        acc  = base + dot
        sums = acc                                                  # when last, held until the next

    Members
    -------
    valid : unsigned(1)
        There is a word in this cycle.
    first : unsigned(1)
        The first word of a sum; wins over ``shift``.
    shift : unsigned(1)
        The first word of the low-nibble plane of an 8-bit tensor: ``acc = 16*dot(high) +
        dot(low)``.
    last : unsigned(1)
        The last word of a sum.
    """

    def __init__(self) -> None:
        super().__init__({"valid": 1, "first": 1, "shift": 1, "last": 1})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Word:
    """Word of one cycle, on the host side: ``act`` is int (pixels, k), nibbles 0..15."""

    act: np.ndarray
    valid: bool = True
    first: bool = False
    shift: bool = False
    last: bool = False

    @property
    def control(self) -> dict[str, int]:
        """Fields of :class:`WordControl`, each 0 or 1."""
        return {name: int(getattr(self, name)) for name in ("valid", "first", "shift", "last")}


@dataclasses.dataclass(frozen=True)
class Resources:
    """Estimated 7-series cells; ``lut`` counts LUT cells before any two share a LUT6."""

    lut: int = 0
    ff: int = 0
    dsp48e1: int = 0

    def __add__(self, other: "Resources") -> "Resources":
        return Resources(self.lut + other.lut, self.ff + other.ff, self.dsp48e1 + other.dsp48e1)

    def __mul__(self, count: int) -> "Resources":
        return Resources(self.lut * count, self.ff * count, self.dsp48e1 * count)


def act_layout(k: int, pixels: int) -> data.ArrayLayout:
    """Layout of one activation word of each pixel: ``act[pixel][channel]``."""
    return data.ArrayLayout(data.ArrayLayout(unsigned(ACT_BITS), k), pixels)


def positive(name: str, value: int) -> int:
    """Positive integer ``value`` as an int; TypeError for no integer, ValueError, which names
    the parameter, for one below 1."""
    if operator.index(value) < 1:
        raise ValueError(f"{name} must be a positive integer, not {value!r}")
    return operator.index(value)


def require_pairs(pixels: int) -> None:
    """Check that ``pixels`` is even, because two share a DSP48E1; ValueError otherwise."""
    if pixels % 2:
        raise ValueError(f"pixels must be even, two share a DSP48E1, not {pixels!r}")


def delay(
    m: Module, source: Value | data.View, cycles: int, *, name: str, reset_less: bool = True
) -> Value | data.View:
    """Shift register: ``source``, ``cycles`` clock cycles later; ``source`` itself for 0.

    Without reset a synthesiser may use SRLs.
    """
    for stage in range(cycles):
        late = Signal(source.shape(), name=f"{name}_{stage + 1}", reset_less=reset_less)
        m.d.sync += late.eq(source)
        source = late
    return source


def delay_resources(bits: int, cycles: int) -> Resources:
    """Cost of :func:`delay`: flip-flops up to two cycles, else SRLs of up to 32 cycles each."""
    return Resources(ff=bits * cycles) if cycles < 3 else Resources(lut=bits * -(-cycles // 32))


def accumulator_base(control: data.View, *, shape: Shape, name: str) -> tuple[Signal, Value]:
    """Accumulator register, and what :class:`WordControl` says the next word is added to."""
    acc = Signal(shape, name=f"{name}_acc", reset_less=True)
    base = Mux(control.first, 0, Mux(control.shift, acc << ACT_BITS, acc))[: shape.width]
    return acc, base.as_signed() if shape.signed else base


def accumulator_sum(
    m: Module, acc: Signal, added: Value, control: data.View, *, name: str
) -> Signal:
    """Register behind ``sums``, two cycles after the last word of a sum; ``acc`` takes ``added``
    for each valid word."""
    total = Signal(acc.shape(), name=f"{name}_sum", reset_less=True)
    done = Signal(name=f"{name}_done", reset_less=True)
    with m.If(control.valid):
        m.d.sync += acc.eq(added)
    m.d.sync += done.eq(control.valid & control.last)
    with m.If(done):
        m.d.sync += total.eq(acc)
    return total


def accumulate(
    m: Module,
    dot: Value,
    control: data.View,
    *,
    shape: Shape,
    name: str,
    carry: Value | None = None,
) -> Signal:
    """Accumulator of :class:`WordControl`; returns what ``sums`` shows, two cycles after ``dot``.

    ``shape`` is the accumulator's; sums wrap to it. ``dot`` comes first in the addition, so that
    the carry chain takes it directly and the choice of ``base`` shares the adder's LUT. ``carry``
    is one more bit to add to ``dot``; as the lowest bit of both operands it costs one LUT, not an
    adder.
    """
    acc, base = accumulator_base(control, shape=shape, name=name)
    added = dot + base
    if carry is not None:
        added = (Cat(carry, dot).as_signed() + Cat(carry, base).as_signed()) >> 1
    return accumulator_sum(m, acc, added, control, name=name)


def control_resources(cycles: int) -> Resources:
    """Cost of having a control word ``cycles`` cycles later."""
    return delay_resources(WordControl().size, cycles)


def accumulator_resources(shape: Shape) -> Resources:
    """Cost of :func:`accumulate`, with the control bits that steer it."""
    return Resources(lut=shape.width, ff=2 * shape.width + 1 + WordControl().size)


def model_sums(dots: np.ndarray, words: Sequence[Word], shape: Shape) -> np.ndarray:
    """Model of :func:`accumulate`: int64 sums after each word, shape of ``dots`` (words, ...)."""
    modulus, offset = 1 << shape.width, (1 << shape.width - 1) if shape.signed else 0
    acc, total = np.zeros_like(dots[0]), np.zeros_like(dots[0])
    sums = np.empty_like(dots)
    for i, word in enumerate(words):
        if word.valid:
            base = 0 if word.first else acc << ACT_BITS if word.shift else acc
            acc = (base + dots[i] + offset) % modulus - offset
            total = acc if word.last else total
        sums[i] = total
    return sums


class RowEngine(wiring.Component):
    """Engine of ``rows`` rows of a tile: ``pixels`` dot products over ``k`` channels per cycle.

    See :class:`WordControl` for what happens to a word.

    Parameters
    ----------
    k : int
        Channels per word.
    pixels : int
        Pixels that share the rows' weights.

    Members
    -------
    act : In(act_layout(k, pixels))
        ``act[pixel][channel]``; channel c comes :meth:`skew` cycles late.
    weights : In(unsigned(rows * k * scheme.bits))
        Codes of :meth:`encode`, row 0 and channel 0 in the low bits, together with ``control``.
    control : In(WordControl)
    sums : Out(ArrayLayout(ArrayLayout(signed(SUM_BITS), pixels), rows))
        ``sums[row][pixel]``, raw: the dot product of the values plus :meth:`offset`.

    Attributes
    ----------
    scheme : Scheme
        Of the weights, which may be any of its values.
    rows : int
        Row lanes that one engine serves.
    acc_shape : Shape
        Raw sums that it can hold; greater ones wrap.
    latency : int
        Cycles from ``control.last`` at the input until ``sums`` shows the sums.

    Throughput: one word per cycle, without a stall.

    Raises
    ------
    TypeError, ValueError
        For sizes that are not positive integers.
    """

    scheme: Scheme
    rows = 1
    acc_shape = signed(SUM_BITS)

    def __init__(self, *, k: int, pixels: int) -> None:
        self.k = positive("k", k)
        self.pixels = positive("pixels", pixels)
        sums = data.ArrayLayout(data.ArrayLayout(signed(SUM_BITS), pixels), self.rows)
        super().__init__(
            {
                "act": In(act_layout(k, pixels)),
                "weights": In(unsigned(self.rows * k * self.scheme.bits)),
                "control": In(WordControl()),
                "sums": Out(sums),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from ``control.last`` to ``sums``."""
        return self.latency_for(self.k)

    @classmethod
    @abc.abstractmethod
    def latency_for(cls, k: int) -> int:
        """Latency of an engine of ``k`` channels, in cycles."""

    @classmethod
    def skew(cls, channel: int) -> int:
        """Cycles that ``act`` of ``channel`` comes after ``control``."""
        return 0

    @classmethod
    def encode(cls, values: np.ndarray) -> np.ndarray:
        """Stored codes of weight values (rows, ...): uint8, ``scheme.bits`` each, same shape."""
        return encode_weights(cls.scheme, values)

    @classmethod
    def decode(cls, codes: np.ndarray) -> np.ndarray:
        """Inverse of :meth:`encode`, int64. Raises ValueError for a code that means nothing."""
        return decode_weights(cls.scheme, codes)

    @classmethod
    def word_offset(cls, values: np.ndarray) -> int | np.ndarray:
        """Excess of the raw sum of words with weight ``values`` (..., terms) over the true one."""
        return np.zeros(np.shape(values)[:-1], np.int64)

    @classmethod
    def offset(cls, values: np.ndarray, planes: int) -> int:
        """Excess of the raw sum of a row over the true dot product; does not depend on data.

        ``raw = dot + offset``, so the bias of the row is lowered by ``offset * M``. ``planes`` is 1
        for 4-bit and 2 for 8-bit activations, whose high plane counts 16 times. Raises ValueError
        for another number.
        """
        return int(cls.offsets(np.reshape(values, (1, -1)), planes)[0])

    @classmethod
    def offsets(cls, rows: np.ndarray, planes: int) -> np.ndarray:
        """:meth:`offset` of each of some rows (rows, terms), int64 (rows,)."""
        if planes not in (1, 2):
            raise ValueError(f"planes must be 1 or 2, not {planes!r}")
        once = np.asarray(cls.word_offset(np.asarray(rows, np.int64)), np.int64)
        return once * ((1 << ACT_BITS) + 1) if planes == 2 else once

    @classmethod
    def raw_range(cls, values: np.ndarray, planes: int) -> tuple[int, int]:
        """Smallest and largest raw sum of a row, over all activations. Both are reached."""
        low, high = cls.raw_ranges(np.reshape(values, (1, -1)), planes)
        return int(low[0]), int(high[0])

    @classmethod
    def raw_ranges(cls, rows: np.ndarray, planes: int) -> tuple[np.ndarray, np.ndarray]:
        """:meth:`raw_range` of each of some rows (rows, terms), int64 (rows,) each."""
        rows = np.asarray(rows, np.int64)
        low, high = acc_bounds(rows, act_max(planes * ACT_BITS))
        offsets = cls.offsets(rows, planes)
        return low + offsets, high + offsets

    @classmethod
    def raw_limits(cls) -> tuple[int, int]:
        """Smallest and largest raw sum that does not wrap."""
        width = cls.acc_shape.width
        return (
            (-(1 << width - 1), (1 << width - 1) - 1)
            if cls.acc_shape.signed
            else (0, (1 << width) - 1)
        )

    @classmethod
    def model(cls, values: np.ndarray, words: Sequence[Word]) -> np.ndarray:
        """Model of one row: ``sums`` after each word, int64 (words, pixels), from power-up on.

        ``values`` is int (words, k): weight values, not codes.
        """
        acts = np.array([word.act for word in words], np.int64)
        values = np.asarray(values, np.int64)
        dots = (values[:, None, :] * acts).sum(2) + cls.word_offset(values)[:, None]
        return model_sums(dots, words, cls.acc_shape)

    @classmethod
    @abc.abstractmethod
    def resources(cls, *, k: int, pixels: int) -> Resources:
        """Resources of the 7-series form; ``bench.resources`` holds them against synthesis."""
