# SPDX-License-Identifier: Apache-2.0
"""What every row engine of the array shares: its ports, its control word and its accumulator."""

import abc
import dataclasses
import operator
from collections.abc import Sequence

import numpy as np
from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from quant.numerics import ACC_BITS, ACT_BITS, Scheme

SUM_BITS = ACC_BITS + 1     #: signed width of every sum that leaves an engine


class WordControl(data.StructLayout):
    """Travels with every activation word; all of it is ignored while ``valid`` is 0.

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


@dataclasses.dataclass(frozen=True)
class Word:
    """One cycle at the activation port, on the host side: ``act`` is (pixels, k) of nibbles."""

    act: np.ndarray
    valid: bool = True
    first: bool = False
    shift: bool = False
    last: bool = False

    @property
    def control(self) -> dict[str, int]:
        """The fields of :class:`WordControl`."""
        return {name: int(getattr(self, name)) for name in ("valid", "first", "shift", "last")}


@dataclasses.dataclass(frozen=True)
class Resources:
    """Estimated 7-series cells; ``lut`` counts LUT cells before any two share a LUT6."""

    lut: int = 0
    ff: int = 0
    dsp48e1: int = 0

    def __add__(self, other: "Resources") -> "Resources":
        return Resources(self.lut + other.lut, self.ff + other.ff, self.dsp48e1 + other.dsp48e1)


def act_layout(k: int, pixels: int) -> data.ArrayLayout:
    """One activation word of each pixel: ``act[pixel][channel]``."""
    return data.ArrayLayout(data.ArrayLayout(unsigned(ACT_BITS), k), pixels)


def positive(name: str, value: int) -> int:
    """``value`` as a positive int; TypeError or ValueError name the parameter otherwise."""
    if operator.index(value) < 1:
        raise ValueError(f"{name} must be a positive integer, not {value!r}")
    return operator.index(value)


def delay(m: Module, source: Value | data.View, cycles: int, *, name: str,
          reset_less: bool = True) -> Value | data.View:
    """``source``, ``cycles`` clock cycles later. Without reset a synthesiser may use SRLs."""
    for stage in range(cycles):
        late = Signal(source.shape(), name=f"{name}_{stage + 1}", reset_less=reset_less)
        m.d.sync += late.eq(source)
        source = late
    return source


def delay_resources(bits: int, cycles: int) -> Resources:
    """What :func:`delay` costs: flip-flops up to two cycles, else SRLs of up to 32 cycles each."""
    return Resources(ff=bits * cycles) if cycles < 3 else Resources(lut=bits * -(-cycles // 32))


def accumulator_base(control: data.View, *, shape: Shape, name: str) -> tuple[Signal, Value]:
    """An accumulator register and what :class:`WordControl` says the next word is added to."""
    acc = Signal(shape, name=f"{name}_acc", reset_less=True)
    base = Mux(control.first, 0, Mux(control.shift, acc << ACT_BITS, acc))[:shape.width]
    return acc, base.as_signed() if shape.signed else base


def accumulator_sum(m: Module, acc: Signal, added: Value, control: data.View, *,
                    name: str) -> Signal:
    """Load ``acc`` with ``added`` for a valid word; returns ``sums``, two cycles later."""
    total = Signal(acc.shape(), name=f"{name}_sum", reset_less=True)
    done = Signal(name=f"{name}_done")
    with m.If(control.valid):
        m.d.sync += acc.eq(added)
    m.d.sync += done.eq(control.valid & control.last)
    with m.If(done):
        m.d.sync += total.eq(acc)
    return total


def accumulate(m: Module, dot: Value, control: data.View, *, shape: Shape, name: str,
               carry: Value | None = None) -> Signal:
    """The accumulator of :class:`WordControl`; returns what ``sums`` shows, two cycles later.

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


def model_sums(dots: np.ndarray, words: Sequence[Word], shape: Shape) -> np.ndarray:
    """What :func:`accumulate` shows after each word: int64, same shape as ``dots`` (words, ...)."""
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
    """Computes one row of a tile: ``pixels`` dot products over ``k`` channels in every cycle.

    One word per cycle, without a stall; see :class:`WordControl` for what happens to it.

    Parameters
    ----------
    scheme : Scheme
        Of the row's weights.
    k : int
        Channels per word.
    pixels : int
        Pixels that share the row's weights.

    Members
    -------
    act : In(act_layout(k, pixels))
        ``act[pixel][channel]``; channel c comes c cycles late when ``skewed``.
    weights : In(unsigned(k * scheme.bits))
        Codes of :func:`quant.numerics.encode_weights`, channel 0 in the low bits, together with
        ``control``.
    control : In(WordControl)
    sums : Out(ArrayLayout(signed(SUM_BITS), pixels))
        Raw sums: the dot product of the values plus
        :func:`gateware.compiler.pack.engine_offset`, wrapped to ``acc_shape``.

    Attributes
    ----------
    latency : int
        Cycles from ``control.last`` at the input until ``sums`` shows the sum: ``latency_for(k)``.
    skewed : bool
        Whether ``act`` must be skewed. The array does it once for all engines that ask for it.
    acc_shape : Shape
        Shape of the accumulator.

    Raises
    ------
    TypeError, ValueError
        For sizes that are not positive integers.
    """

    skewed = False
    acc_shape = signed(SUM_BITS)

    def __init__(self, *, scheme: Scheme, k: int, pixels: int) -> None:
        self.scheme = Scheme(scheme)
        self.k = positive("k", k)
        self.pixels = positive("pixels", pixels)
        super().__init__({
            "act": In(act_layout(k, pixels)),
            "weights": In(unsigned(k * self.scheme.bits)),
            "control": In(WordControl()),
            "sums": Out(data.ArrayLayout(signed(SUM_BITS), pixels)),
        })

    @property
    def latency(self) -> int:
        return self.latency_for(self.k)

    @classmethod
    @abc.abstractmethod
    def latency_for(cls, k: int) -> int:
        """``latency`` of an engine of ``k`` channels."""

    @classmethod
    @abc.abstractmethod
    def dots(cls, values: np.ndarray, acts: np.ndarray) -> np.ndarray:
        """What each word adds, int64 (words, pixels).

        ``values`` is (words, k) and ``acts`` (words, pixels, k).
        """

    @classmethod
    def model(cls, values: np.ndarray, words: Sequence[Word]) -> np.ndarray:
        """``sums`` after each word, int64 (words, pixels), from an idle engine after power-up.

        ``values`` is int (words, k): weight values, not codes.
        """
        acts = np.array([word.act for word in words], np.int64)
        return model_sums(cls.dots(np.asarray(values, np.int64), acts), words, cls.acc_shape)

    @classmethod
    @abc.abstractmethod
    def resources(cls, *, scheme: Scheme, k: int, pixels: int) -> Resources:
        """An estimate, fitted to yosys 0.70 ``synth_xilinx`` of engines with k = 16."""
