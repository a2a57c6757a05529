# SPDX-License-Identifier: Apache-2.0
"""Poolings whose windows an EXECUTE cannot step over, in parts; maxima of 8-bit codes in steps.

A part is a range of rows and of columns whose windows have one size and one distance. An EXECUTE
begins in bank 0, on both sides, so a part also writes the columns before it; parts come from right
to left, so that each column is written last by its own. Where windows begin in other banks, they
are computed at every column, and a layer with weights of one picks the columns that are wanted.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from gateware.arch.config import AccelConfig
from gateware.compiler.layout import TensorLayout
from gateware.compiler.operations import CompileError, Gemm, Pool, PoolPart, TensorKey
from ir.graph import AvgPool, MaxPool, Window
from ir.numerics import SHIFT_MIN, Scheme, act_max, encode_mean

MAX_ROW_STRIDE = 15
MAX_PADDING = 31  #: columns left of the map
COPY_SHIFT = SHIFT_MIN + 1  #: of a layer that gives its sums: M is 2^15, normalised

#: M, B and S for the pixels of a window that are counted and for those of them that are not there.
Constants = Callable[[int, int], tuple[int, int, int]]


def regular_windows(node: MaxPool | AvgPool, size: int, out: int, axis: int) -> tuple[Window, ...]:
    """Windows along an axis of ``size`` and ``out`` results; those of a maximum end with the map.

    Raises CompileError for a window of padding alone.
    """
    padding = node.padding[2 * axis] if isinstance(node, MaxPool) else 0
    begins = [i * node.stride[axis] - padding for i in range(out)]
    ends = [(max(begin, 0), min(begin + node.kernel[axis], size)) for begin in begins]
    if any(first >= last for first, last in ends):
        raise CompileError(f"layer {node.name!r} has a window that lies in the padding alone")
    return tuple(Window(first=first, last=last, count=last - first) for first, last in ends)


@dataclasses.dataclass(frozen=True)
class _Run:
    """Results ``first`` to ``last`` (exclusive) of an axis, whose window i begins at
    ``begin + i * stride``; written from ``start`` on."""

    first: int
    last: int
    begin: int
    stride: int
    _: dataclasses.KW_ONLY
    size: int
    count: int
    start: int = 0


def _runs(windows: Sequence[Window], most: int) -> Iterator[_Run]:
    """Runs of equal windows, with strides up to ``most``."""
    first = 0
    while first < len(windows):
        window, last, stride = windows[first], first + 1, 1
        size, count = alike = (window.size, window.count)
        while last < len(windows) and (windows[last].size, windows[last].count) == alike:
            step = windows[last].first - windows[last - 1].first
            if not 1 <= step <= most or (last - first > 1 and step != stride):
                break
            stride, last = step, last + 1
        yield _Run(first, last, window.first - first * stride, stride, size=size, count=count)
        first = last


def _placed(run: _Run, config: AccelConfig) -> _Run | None:
    """``run`` of columns with the start and, of one column, the stride that an EXECUTE can have;
    None if there is none."""
    single = run.last - run.first == 1
    strides = range(1, config.max_stride + 1) if single else [run.stride]
    for start in range(run.first // config.banks * config.banks, -1, -config.banks):
        for stride in strides:
            begin = run.begin + run.first * (run.stride - stride)
            left = begin + start * stride
            if -MAX_PADDING <= left <= 0 or (left > 0 and left % config.banks == 0):
                return dataclasses.replace(run, start=start, stride=stride, begin=begin)
    return None


def _part(y: _Run, x: _Run, constants: Constants | None) -> PoolPart:
    m, b, s = 1 << SHIFT_MIN, 0, SHIFT_MIN
    if constants is not None:
        count = y.count * x.count
        m, b, s = constants(count, count - y.size * x.size)
    empty = not y.size or not x.size
    return PoolPart(
        rows=(y.first, y.last),
        columns=(x.start, x.last),
        kernel=(1, 1) if empty else (y.size, x.size),
        stride=(y.stride, x.stride),
        padding=(-y.begin, 0, -x.begin, 0),
        multiplier=0 if empty else m,
        bias=b,
        shift=s,
    )


def in_parts(
    pool: Pool,
    rows: Sequence[Window],
    columns: Sequence[Window],
    forms: dict[TensorKey, TensorLayout],
    config: AccelConfig,
    constants: Constants | None = None,
) -> list[Gemm | Pool]:
    """Operations of a pooling with these windows; ``forms`` gets tensors in between.

    constants : None for a maximum
    """
    along_y = list(_runs(rows, MAX_ROW_STRIDE))
    along_x = [_placed(run, config) for run in _runs(columns, config.max_stride)]
    if None not in along_x:
        pairs = itertools.product(filter(None, reversed(along_x)), along_y)
        parts = tuple(_part(y, x, constants) for x, y in pairs)
        return [dataclasses.replace(pool, parts=parts)]
    wanted: list[list[Gemm]] = [[] for _ in columns]
    operations: list[Gemm | Pool] = []
    source, target = forms[pool.source], forms[pool.target]
    for size, count in sorted({(window.size, window.count) for window in columns}):
        every = _Run(0, source.width - max(size, 1) + 1, 0, 1, size=size, count=count)
        key = TensorKey(f"{pool.target.name}.windows.{len(operations)}")
        forms[key] = dataclasses.replace(target, width=every.last)
        parts = tuple(_part(y, every, constants) for y in along_y)
        operations.append(dataclasses.replace(pool, name=key.name, target=key, parts=parts))
        places = {
            i: min(window.first, every.last - 1)
            for i, window in enumerate(columns)
            if (window.size, window.count) == (size, count)
        }
        for layer in pick_columns(pool.name, key, pool.target, places, forms, config):
            assert layer.columns is not None
            wanted[layer.columns[1] - 1].append(layer)
    picks = [layer for layers in reversed(wanted) for layer in layers]
    picks[-1] = dataclasses.replace(picks[-1], partial=False)
    return operations + picks


def pick_columns(
    name: str,
    source: TensorKey,
    target: TensorKey,
    places: dict[int, int],
    forms: dict[TensorKey, TensorLayout],
    config: AccelConfig,
) -> list[Gemm]:
    """Copies of columns of ``source`` to columns of ``target``, from right to left."""
    windows = [Window(first=place, last=place + 1, count=1) for place in places.values()]
    numbers, found = list(places), []
    for run in _runs(windows, config.max_stride):
        first, last = numbers[run.first], numbers[run.last - 1] + 1
        if last - first != run.last - run.first:  # others lie between them
            singles = [(numbers[i], windows[i].first, 1, 1) for i in range(run.first, run.last)]
        else:
            singles = [(first, windows[run.first].first, last - first, run.stride)]
        for column, place, count, stride in singles:
            start = column // config.banks * config.banks
            left = place - (column - start) * stride
            tap = left % config.banks if left > 0 else 0
            values = np.zeros((1, 1, tap + 1), np.int64)
            values[..., tap] = 1
            copy = copy_layer(f"{name}.{column}", source, target, values, forms, config)
            found.append(
                dataclasses.replace(
                    copy,
                    stride=(1, stride),
                    padding=(0, 0, start * stride - (left - tap), 0),
                    columns=(start, column + count),
                    partial=True,
                )
            )
    return found[::-1]


def copy_layer(
    name: str,
    source: TensorKey,
    target: TensorKey,
    taps: np.ndarray,
    forms: dict[TensorKey, TensorLayout],
    config: AccelConfig,
    residual: TensorKey | None = None,
) -> Gemm:
    """Layer that gives its sums of each channel on its own, with the weights ``taps`` (1, y, x),
    and the codes of ``residual`` added; any scheme has them."""
    channels = forms[source].channels
    lanes = [scheme for scheme in Scheme for _ in range(config.lanes[scheme])]
    return Gemm(
        name=name,
        source=source,
        target=target,
        values=np.repeat(taps[None], channels, 0),
        scheme=np.array([lanes[row % len(lanes)] for row in range(channels)]),
        multiplier=np.full(channels, 1 << COPY_SHIFT),
        bias=np.full(channels, 1 << COPY_SHIFT - 1),
        shift=np.full(channels, COPY_SHIFT),
        stride=(1, 1),
        padding=(0, 0, 0, 0),
        low=0,
        high=act_max(forms[target].bits),
        residual=residual,
        residual_n=1 << SHIFT_MIN if residual else 0,
        groups=channels,
    )


class Maximum:
    """Operations for the maxima of a tensor of 8-bit codes.

    With ``max(a, b) = a + relu(b - a)``, a maximum of two tensors is two layers with weights of one
    and minus one. Maxima of 2, 4, ... neighbours come from one another; a window is covered by a
    few of them, which a copy picks out.

    Parameters
    ----------
    pool : of 1x1 windows; gives names
    forms : of all tensors; those in between are added
    """

    def __init__(
        self, pool: Pool, forms: dict[TensorKey, TensorLayout], config: AccelConfig
    ) -> None:
        self.pool, self.forms, self.config = pool, forms, config
        self.operations: list[Gemm | Pool] = []
        self._last = pool.source
        self._count = 0

    def run(self, rows: Sequence[Window], columns: Sequence[Window]) -> list[Gemm | Pool]:
        """Operations, of which the last ones make the output of the pooling."""
        self._axis(columns, 1)
        self._axis(rows, 0)
        made = self._last
        del self.forms[made]
        return [
            dataclasses.replace(o, target=self.pool.target) if o.target == made else o
            for o in self.operations
        ]

    def _axis(self, windows: Sequence[Window], axis: int) -> None:
        least, most = (end(window.size for window in windows) for end in (min, max))
        reach = 1
        while reach * 2 <= least and most > 3:
            self._last = self._neighbours(self._last, reach, axis)
            reach *= 2
        picks = []
        for step in range(-(-most // reach)):
            places = [w.first + min(step * reach, w.size - reach) for w in windows]
            picks.append(self._pick(self._last, places, axis))
        self._last = picks[0]
        for other in picks[1:]:
            self._last = self._larger(self._last, other)

    def _key(self, form: TensorLayout, size: int, axis: int) -> TensorKey:
        self._count += 1
        key = TensorKey(f"{self.pool.target.name}.maximum.{self._count}")
        name = "height" if axis == 0 else "width"
        self.forms[key] = dataclasses.replace(form, **{name: size})
        return key

    def _neighbours(self, source: TensorKey, reach: int, axis: int) -> TensorKey:
        """The larger one of each value and that ``reach`` behind it."""
        form = self.forms[source]
        size = (form.height, form.width)[axis] - reach
        taps = np.zeros((2, 1, 1, reach + 1) if axis else (2, 1, reach + 1, 1), np.int64)
        taps[0].flat[[0, reach]] = -1, 1
        taps[1].flat[0] = 1
        more = self._layer(source, self._key(form, size, axis), taps[0])
        return self._layer(source, self._key(form, size, axis), taps[1], more)

    def _larger(self, one: TensorKey, other: TensorKey) -> TensorKey:
        form = self.forms[one]
        taps = np.ones((1, 1, 1), np.int64)
        more = self._layer(one, self._key(form, form.height, 0), -taps, other)
        return self._layer(one, self._key(form, form.height, 0), taps, more)

    def _layer(
        self,
        source: TensorKey,
        target: TensorKey,
        taps: np.ndarray,
        residual: TensorKey | None = None,
    ) -> TensorKey:
        self.operations.append(
            copy_layer(target.name, source, target, taps, self.forms, self.config, residual)
        )
        return target

    def _pick(self, source: TensorKey, places: Sequence[int], axis: int) -> TensorKey:
        """Copy of some rows or columns."""
        form = self.forms[source]
        target = self._key(form, len(places), axis)
        if axis:
            picks = pick_columns(
                target.name, source, target, dict(enumerate(places)), self.forms, self.config
            )
            picks[-1] = dataclasses.replace(picks[-1], partial=False)
            self.operations += picks
            return target
        rows, columns = (
            [Window(first=place, last=place + 1, count=1) for place in chosen]
            for chosen in (places, range(form.width))
        )
        copy = dataclasses.replace(
            self.pool, name=target.name, source=source, target=target, total=True, high=act_max(8)
        )
        one = encode_mean(1, 1)
        self.operations += in_parts(
            copy, rows, columns, self.forms, self.config, lambda count, missing: one
        )
        return target
