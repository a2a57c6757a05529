# SPDX-License-Identifier: Apache-2.0
"""Row engines for 4-bit fixed-point weights: four or two multiplications per DSP48E1, or LUTs."""

import numpy as np
from amaranth import *
from amaranth.lib import data

from gateware.pe.base import (
    Resources,
    RowEngine,
    accumulate,
    accumulator_resources,
    control_resources,
    delay,
    require_pairs,
)
from gateware.pe.broadcast import copies, steering
from gateware.pe.cascade import LANE_SHIFT, cascade, late, late_bits, late_weights, two_pixels
from gateware.pe.dsp48 import P_BITS, DspAccumulator, DspMac
from gateware.pe.logic import pair, single
from gateware.pe.trees import Term, add_tree, levels, tree_resources
from ir.numerics import ACC_BITS, ACT_BITS, NIBBLE_MAX, Scheme

WEIGHT_SHIFT = 10  #: distance of the two rows inside the 48-bit sum
FIELDS = ((0, 0), (1, 0), (0, 1), (1, 1))  #: (row, pixel) of the sum's four fields, low bits first
CENTRE = 1 << ACT_BITS - 1  #: taken from each activation, to halve its magnitude
#: Products that a 10-bit field holds, for all weights and activations.
DEPTH = 8


class Fixed4PairEngine(RowEngine):
    """Two rows of 4-bit weights on DSP48E1: four multiplications in each.

    ::

        A + D = (a1 - 8) * 2^20 + (a0 - 8),  B = w1 * 2^10 + w0
        P[9:0] = w0 (a0 - 8),  P[19:10] = w1 (a0 - 8),  P[29:20] = w0 (a1 - 8),  P[47:30] = ...

    The pre-adder takes the constants. Cascades of eight add up to 8 * 7 * 8 = 448 in magnitude,
    which ten bits hold. Each field borrows 1 from the next one when it is negative; the sign bit of
    the field below, as a carry-in, puts that right. Two cascades, for 16 channels, meet in a
    registered adder, and then in an accumulator of LUTs.

    Stored codes are ``w0`` and ``w1 - (w0 < 0)``, four bits each, so that B is their concatenation
    with the signs extended. What the sums miss, ``8 * sum(w)``, is in the bias.

    Parameters, members and errors as in :class:`RowEngine`; ``pixels`` even, ``k`` at most 8 or a
    multiple of 8.

    Latency: 4 for the first product, 7 for the cascade (``k - 1`` where k is less), one for each
    adder level of the cascades, accumulator, sums.
    """

    scheme = Scheme.FIXED4
    rows = 2

    def __init__(self, *, k: int, pixels: int) -> None:
        super().__init__(k=k, pixels=pixels)
        require_pairs(pixels)
        if k > DEPTH and k % DEPTH:
            raise ValueError(f"k must be at most {DEPTH} or a multiple of it, not {k!r}")

    @staticmethod
    def _cascades(k: int) -> list[range]:
        return [range(c, min(c + DEPTH, k)) for c in range(0, k, DEPTH)]

    @classmethod
    def _dot_latency(cls, k: int) -> int:
        adders = (len(cls._cascades(k)) - 1).bit_length()
        return DspMac.latency_for(preadd=True) + min(k, DEPTH) - 1 + adders

    @classmethod
    def latency_for(cls, k: int) -> int:
        return cls._dot_latency(k) + 2

    @classmethod
    def skew(cls, channel: int) -> int:
        return channel % DEPTH

    @classmethod
    def encode(cls, values: np.ndarray) -> np.ndarray:
        values = np.asarray(values)
        codes = super().encode(values)
        return np.stack([codes[0], codes[1] - (values[0] < 0) & 15]).astype(np.uint8)

    @classmethod
    def decode(cls, codes: np.ndarray) -> np.ndarray:
        codes = np.asarray(codes, np.int64)
        return super().decode(np.stack([codes[0], codes[1] + (codes[0] >> 3) & 15]))

    @classmethod
    def word_offset(cls, values: np.ndarray) -> np.ndarray:
        return -CENTRE * values.sum(-1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        control = steering(m, self.control, self._dot_latency(self.k), self.pixels)
        weights = self._weights(m)
        for p in range(0, self.pixels, 2):
            totals = self._cascade(m, p, weights)
            for i, (row, pixel) in enumerate(FIELDS):
                low = i * WEIGHT_SHIFT
                dots = [
                    (total[low : low + WEIGHT_SHIFT].as_signed(), total[low - 1] if i else None)
                    for total in totals
                ]
                dot, carry = _add_fields(m, dots, f"field_{p}_{i}")
                m.d.comb += self.sums[row][p + pixel].eq(
                    accumulate(
                        m,
                        dot,
                        control[p + pixel],
                        shape=self.acc_shape,
                        carry=carry,
                        name=f"row_{row}_pixel_{p + pixel}",
                    )
                )
        return m

    def _weights(self, m: Module) -> list[Value]:
        """Operand B for each channel, as late as its activations."""
        bits = self.scheme.bits
        weights = []
        for c in range(self.k):
            both = Cat(self.weights.word_select(row * self.k + c, bits) for row in range(2))
            both = late(m, both, self.skew(c), f"weight_{c}")
            operand = Cat(
                both[:bits],
                both[bits - 1].replicate(WEIGHT_SHIFT - bits),
                both[bits:],
                both[-1].replicate(WEIGHT_SHIFT - 2 - bits),
            )
            weights.append(operand.as_signed())
        return weights

    def _cascade(self, m: Module, p: int, weights: list[Value]) -> list[Value]:
        """Sums of the cascades of pixels p and p + 1, four fields in each."""
        acts = two_pixels(self.act, p)
        preadd = -(CENTRE << LANE_SHIFT) - CENTRE
        return [
            cascade(m, [(acts[c], weights[c]) for c in channels], f"mac_{p}_{i}", preadd=preadd).p
            for i, channels in enumerate(self._cascades(self.k))
        ]

    @classmethod
    def resources(cls, *, k: int, pixels: int) -> Resources:
        more = len(cls._cascades(k)) - 1
        lane = accumulator_resources(cls.acc_shape) + Resources(lut=10, ff=11) * more
        steering = Resources(ff=late_bits(k, cls)) + control_resources(cls._dot_latency(k) - 1)
        return lane * pixels * cls.rows + steering + Resources(dsp48e1=k * pixels // 2)


def _add_fields(
    m: Module, fields: list[tuple[Value, Value | None]], name: str
) -> tuple[Value, Value | None]:
    """One number and one carry bit equal to all ``fields``, whose second entry is a carry bit.

    Pairwise, a cycle for each level. A carry bit below both operands costs no LUT of its own.
    """
    level = 0
    while len(fields) > 1:
        level += 1
        sums = []
        for i in range(0, len(fields), 2):
            (one, carry), *rest = fields[i : i + 2]
            other, left = rest[0] if rest else (Const(0, signed(1)), None)
            added = one + other
            if carry is not None:
                added = (Cat(carry, one).as_signed() + Cat(carry, other).as_signed()) >> 1
            total = Signal(
                signed(max(len(one), len(other)) + 1), name=f"{name}_{level}_{i}", reset_less=True
            )
            m.d.sync += total.eq(added)
            if left is not None:
                left = delay(m, left, 1, name=f"{name}_{level}_{i}_carry")
            sums.append((total, left))
        fields = sums
    return fields[0]


class Fixed4DspEngine(RowEngine):
    """Row of 4-bit weights without a LUT per multiplication: two in each DSP48E1.

    As :class:`~gateware.pe.fixed8.Fixed8Engine`, but small enough for the sum over all words to
    stay in the 20-bit lanes: one more slice behind the cascade of ``k`` accumulates. A sum must
    fit 20 bits signed; that is 4,993 products at worst, many more for most weights, but only 293 of
    8-bit activations.

    A borrow between the lanes never happens, because the lower one starts at 2^19 and is therefore
    not negative. Two planes add 16 * 2^19 = 8 * 2^20 to that, which the upper lane takes out again.

    Parameters, members and errors as in :class:`RowEngine`; ``pixels`` even.

    Latency: ``k + 3``: operands, product, ``k`` sums, accumulator; sums wait in a register.
    """

    scheme = Scheme.FIXED4
    acc_shape = signed(LANE_SHIFT)

    def __init__(self, *, k: int, pixels: int) -> None:
        super().__init__(k=k, pixels=pixels)
        require_pairs(pixels)

    @classmethod
    def latency_for(cls, k: int) -> int:
        return DspMac.latency_for(preadd=False) + k - 1 + DspAccumulator.latency + 1

    @classmethod
    def skew(cls, channel: int) -> int:
        return channel

    def elaborate(self, platform: object) -> Module:
        m = Module()
        weights = late_weights(m, self.weights, self.scheme.bits)
        # The constants join the first product of a word, the modes come a cycle before the sum.
        pairs = self.pixels // 2
        begun = delay(m, self.control, DspMac.latency_for(preadd=False) - 2, name="begun")
        begin = copies(m, begun, pairs, "begin")
        mode = delay(m, self.control, self.latency - 3, name="mode")
        control = copies(m, mode, pairs, "control")
        for i in range(pairs):
            p = 2 * i
            last = cascade(
                m,
                list(zip(two_pixels(self.act, p), weights, strict=True)),
                f"mac_{p}",
                start=self._start(begin[i]),
            )
            accumulator = DspAccumulator()
            m.submodules[f"accumulator_{p}"] = accumulator
            m.d.comb += [
                accumulator.pcin.eq(last.pcout),
                accumulator.first.eq(mode.first),
                accumulator.shift.eq(mode.shift),
                accumulator.valid.eq(control[i].valid),
            ]
            done = delay(m, control[i].valid & control[i].last, 1, name=f"done_{p}")
            self._hold_sums(m, p, accumulator.p, done)
        return m

    @staticmethod
    def _start(begin: data.View) -> Value:
        """What a cascade starts with: 2^19 for the first word of a plane, less 8 * 2^20 for the
        second plane."""
        started = begin.first | begin.shift
        shifted = begin.shift & ~begin.first
        return Cat(
            Const(0, LANE_SHIFT - 1),
            started,
            Const(0, ACT_BITS - 1),
            shifted.replicate(P_BITS - LANE_SHIFT - ACT_BITS + 1),
        )

    def _hold_sums(self, m: Module, p: int, total: Value, done: Value) -> None:
        """Sums of pixels p and p + 1 from both lanes, held until the next are ``done``."""
        for lane in range(2):
            low = lane * LANE_SHIFT
            held = Signal(signed(LANE_SHIFT), name=f"pixel_{p + lane}_sum", reset_less=True)
            # The lower lane has 2^19 too much: its highest bit is the other way round.
            top = total[low + LANE_SHIFT - 1] ^ (lane == 0)
            with m.If(done):
                m.d.sync += held.eq(Cat(total[low : low + LANE_SHIFT - 1], top))
            m.d.comb += self.sums[0][p + lane].eq(held)

    @classmethod
    def resources(cls, *, k: int, pixels: int) -> Resources:
        slices = Resources(
            lut=5,
            dsp48e1=(k + 1) * pixels // 2,
            ff=(LANE_SHIFT + 5) * pixels + late_bits(k, cls) + 4,
        )
        return slices + control_resources(cls.latency_for(k) - 5)


class Fixed4LutEngine(RowEngine):
    """Row of 4-bit weights in LUTs, for devices that run out of DSP48E1 first.

    Offset-unsigned as :class:`~gateware.pe.pot4.Pot4Engine`: a negative weight uses ``15 - a``.
    The magnitude times each half of that nibble is a table of six inputs, four LUTs because two
    of the five bits share one. The halves have an adder tree each.

    Stored codes are sign and magnitude.

    Parameters, members and errors as in :class:`RowEngine`.

    Latency: ``4 + levels``: tables, ternary adders, halves together, accumulator, sums.
    """

    scheme = Scheme.FIXED4
    acc_shape = unsigned(ACC_BITS)

    @classmethod
    def _dot_latency(cls, k: int) -> int:
        return 2 + levels(k)

    @classmethod
    def latency_for(cls, k: int) -> int:
        return cls._dot_latency(k) + 2

    @classmethod
    def encode(cls, values: np.ndarray) -> np.ndarray:
        codes = super().encode(values)
        return np.where(codes & 8, 8 | (16 - codes) & 7, codes).astype(np.uint8)

    @classmethod
    def decode(cls, codes: np.ndarray) -> np.ndarray:
        codes = np.asarray(codes, np.int64)
        return super().decode(np.where(codes & 8, 16 - (codes & 7), codes))

    @classmethod
    def word_offset(cls, values: np.ndarray) -> np.ndarray:
        return -NIBBLE_MAX * np.minimum(values, 0).sum(-1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        control = steering(m, self.control, self._dot_latency(self.k), self.pixels)
        half_bits = ACT_BITS // 2
        limit = self.scheme.denominator * ((1 << half_bits) - 1)
        for p in range(self.pixels):
            halves = []
            for half in range(2):
                terms = []
                for c in range(self.k):
                    code = self.weights.word_select(c, self.scheme.bits)
                    act = self.act[p][c].word_select(half, half_bits)
                    terms.append(Term(_product(m, platform, act, code, f"{p}_{half}_{c}"), limit))
                halves.append(add_tree(m, platform, terms, f"sum_{p}_{half}"))
            low, high = halves
            dot = Signal(
                range(low.limit + (high.limit << half_bits) + 1), name=f"dot_{p}", reset_less=True
            )
            m.d.sync += dot.eq(low.value + (high.value << half_bits))
            m.d.comb += self.sums[0][p].eq(
                accumulate(m, dot, control[p], shape=self.acc_shape, name=f"pixel_{p}")
            )
        return m

    @classmethod
    def resources(cls, *, k: int, pixels: int) -> Resources:
        limit = 3 * cls.scheme.denominator
        tree, half = tree_resources([limit] * k)
        tables = Resources(lut=4, ff=limit.bit_length()) * k
        both = Resources(lut=half.bit_length() - 2, ff=(5 * half).bit_length())
        pixel = (tables + tree) * 2 + both + accumulator_resources(cls.acc_shape)
        return pixel * pixels + control_resources(cls._dot_latency(k) - 1)


def _product(m: Module, platform: object, act: Value, code: Value, name: str) -> Signal:
    """Magnitude of ``code`` times two bits, inverted where its sign says so: 0..21."""
    m0, m1, m2, sign = code
    bit_0, bit_1 = pair(
        m,
        platform,
        f"product_{name}_0",
        lambda a0, a1, s, m0, m1: m0 & (a0 ^ s),
        lambda a0, a1, s, m0, m1: (m1 & (a0 ^ s)) ^ (m0 & (a1 ^ s)),
        *act,
        sign,
        m0,
        m1,
    )

    def upper(a0, a1, s, m0, m1, m2):
        """Bits 2 to 4: partial products of weight 4 and 8, and the carries into them."""
        a0, a1 = a0 ^ s, a1 ^ s
        carry_1 = m0 & m1 & a0 & a1
        one, other = m2 & a0, m1 & a1
        carry_2 = (one & other) | (carry_1 & (one ^ other))
        three = m2 & a1
        return one ^ other ^ carry_1, three ^ carry_2, three & carry_2

    product = Signal(
        range(3 * Scheme.FIXED4.denominator + 1), name=f"product_{name}", reset_less=True
    )
    rest = [
        single(
            m,
            platform,
            f"product_{name}_{i + 2}",
            lambda *bits, i=i: upper(*bits)[i],
            *act,
            sign,
            m0,
            m1,
            m2,
        )
        for i in range(3)
    ]
    m.d.sync += product.eq(Cat(bit_0, bit_1, *rest))
    return product
