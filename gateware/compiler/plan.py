# SPDX-License-Identifier: Apache-2.0
"""Plan of the activation buffer: places, strips, and tensors in memory meanwhile."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Container, Iterator, Sequence

from gateware.arch.config import AccelConfig
from gateware.compiler.bands import Bands
from gateware.compiler.batch import repeat, together
from gateware.compiler.copies import Copy
from gateware.compiler.layout import MAX_GROUPS, LiveRange, NoRoom, TensorLayout, allocate
from gateware.compiler.memory_plan import MemoryPlanner
from gateware.compiler.operations import (
    CompileError,
    Gemm,
    Operation,
    Pool,
    Rearrange,
    Reload,
    Spill,
    TensorKey,
    operands,
    result,
    touches,
)
from ir.graph import IntGraph


class NoPlan(CompileError):
    """Network whose tensors have no places, but may run in bands."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Operations in order, and every tensor's place.

    strips : for a convolution whose result only the maximum pooling after it reads, and which does
        not fit as a whole: how many rows of the pooling's result are made at a time. The place of
        such a result holds the rows that this takes.
    bands : by their result, the operations of which some tensors live in memory
    together : an operation runs for several images of a run tile by tile; else image by image
    input_strips : the graph's input lies in two places of the form of ``places``, one after the
        other, which take the rows for one strip after another in turns
    """

    operations: tuple[Operation, ...]
    places: dict[TensorKey, TensorLayout]
    strips: dict[TensorKey, int]
    input_strips: bool
    _: dataclasses.KW_ONLY
    bands: dict[TensorKey, Bands] = dataclasses.field(default_factory=dict)
    together: bool = True

    @property
    def memory(self) -> set[TensorKey]:
        """Tensors that live in memory."""
        return {key for bands in self.bands.values() for key in bands.places}

    def slab(self, key: TensorKey) -> int | None:
        """Groups of channels of a tensor in memory that lie together, see
        :class:`~gateware.compiler.transfers.Home`."""
        form = self.places[key]
        sizes = [
            bands.groups
            for target, bands in self.bands.items()
            if bands.groups and key in bands.places and key != target
        ]
        if form.groups * form.planes > MAX_GROUPS and (form.height, form.width) != (1, 1):
            sizes.append(1 << MAX_GROUPS.bit_length() - 1)
        return min(sizes, default=None)

    def window(self, key: TensorKey) -> int | None:
        """Rows of its operand that the operation that makes a tensor takes at a time; None for any
        number."""
        return self.bands[key].window if key in self.bands else None

    def result_place(self, key: TensorKey) -> TensorLayout:
        """Layout in which an operation makes a tensor: of all of it, of a strip or of a band."""
        places = self.bands[key].places if key in self.bands else {}
        return places.get(key, self.places[key])


@dataclasses.dataclass(frozen=True)
class _Cut:
    """Strips that are tried: ``count`` of the pooling's result."""

    count: int
    input_strips: bool = False


def make_plan(
    graph: IntGraph,
    operations: Sequence[Gemm | Pool | Rearrange],
    forms: dict[TensorKey, TensorLayout],
    config: AccelConfig,
    batch: int = 1,
) -> Plan:
    """Places over the operations' order; a tensor's words are free after its last reader.

    What does not fit is tried with more and more strips of those results that can have strips, each
    time first with the whole input, then with strips of it; if that is not enough, tensors that
    have to wait for their next reader while there is no room are spilled. Each is tried in the
    given order and with shortcuts as late as they can be; of two that spill, that which spills less
    is taken. Raises NoPlan.
    """
    orders = [repeat(order, forms, config, batch) for order in _orders(operations)]
    operations, forms = orders[0]
    inputs, outputs = (
        {TensorKey(name, image) for image in range(batch) for name in names}
        for names in ((graph.input.name,), graph.header.output_tensors)
    )
    refusals: list[NoRoom] = []
    trials = list(itertools.product((False, True), _cuts(graph, operations, forms)))
    if _too_large(graph, operations, forms, config):
        trials = trials[:1]  # which says what does not fit
    for spills, cut in trials:
        strips = {
            gemm.target: -(-forms[pool.target].height // cut.count)
            for gemm, pool in _pairs(graph, operations)
            if 1 < cut.count <= forms[pool.target].height
        }
        plans = []
        for order, _ in orders:
            if len(_pairs(graph, order)) < len(_pairs(graph, operations)):
                continue
            try:
                plans.append(
                    _allocated(order, forms, strips, cut, inputs, inputs | outputs, spills, config)
                )
            except NoRoom as error:
                refusals.append(error)
        if plans:
            return min(plans, key=lambda plan: _spilled(plan, forms))
    raise _refusal(operations, refusals[0], config)


def _orders(
    operations: Sequence[Gemm | Pool | Rearrange],
) -> Iterator[Sequence[Gemm | Pool | Rearrange]]:
    """The order given, and one in which each operation that is not needed by the next comes just
    before the first that needs it, where that is another one.

    A shortcut's convolution has a result larger than what the main branch has at the time.
    """
    yield operations
    late = list(operations)
    for operation in reversed(operations):
        index = next(i for i, other in enumerate(late) if other is operation)
        target = result(operation)
        readers = (
            i
            for i in range(index + 1, len(late))
            if target is not None and touches(late[i], target)
        )
        first = next(readers, index + 1)
        late.insert(first - 1, late.pop(index))
    if any(a is not b for a, b in zip(late, operations, strict=True)):
        yield late


def _allocated(
    operations: Sequence[Operation],
    forms: dict[TensorKey, TensorLayout],
    strips: dict[TensorKey, int],
    cut: _Cut,
    inputs: set[TensorKey],
    kept: set[TensorKey],
    spills: bool,
    config: AccelConfig,
) -> Plan:
    """Plan of operations in this order, with tensors spilled if ``spills``. Raises NoRoom."""
    trial = tuple(operations)
    while True:
        live_ranges = _live_ranges(inputs, trial, forms, strips, cut.input_strips)
        try:
            places = allocate(live_ranges, config)
        except NoRoom as error:
            more = _spill(kept, trial, live_ranges, error.live, strips) if spills else None
            if more is None:
                raise
            trial = more
            continue
        raw = {o.target: forms[o.target] for o in operations if isinstance(o, Gemm) and o.wide}
        return Plan(trial, places | raw, strips, cut.input_strips)


def _spilled(plan: Plan, forms: dict[TensorKey, TensorLayout]) -> int:
    """Bus beats of what a plan spills."""
    return sum(forms[o.source.origin].beats for o in plan.operations if isinstance(o, Spill))


def _too_large(
    graph: IntGraph,
    operations: Sequence[Gemm | Pool | Rearrange],
    forms: dict[TensorKey, TensorLayout],
    config: AccelConfig,
) -> bool:
    """True if an operation that has no strips needs more tensors at a time than the buffer holds:
    then neither strips nor spilled tensors help."""
    in_strips = {id(operation) for pair in _pairs(graph, operations) for operation in pair}
    for operation in operations:
        if id(operation) in in_strips:
            continue
        target, residual = operation.target, operation.residual
        words = {key: forms[key.origin].words for key in operands(operation)}
        if not operation.wide:
            over = 0 if residual in (None, operation.source) else words[residual]
            words[target] = max(0, forms[target.origin].words - over)  # it may lie over it
        if sum(words.values()) > config.act_depth:
            return True
    return False


def make_banded_plan(
    operations: Sequence[Gemm | Pool | Rearrange],
    forms: dict[TensorKey, TensorLayout],
    config: AccelConfig,
    batch: int = 1,
) -> Plan:
    """Plan in which tensors live in memory, of what :func:`make_plan` has none for. Raises
    CompileError."""
    operations, forms = repeat(operations, forms, config, batch)
    found = MemoryPlanner(operations, forms, config).plan()
    return Plan(found.operations, found.places, {}, False, bands=found.bands, together=False)


def _refusal(
    operations: Sequence[Gemm | Pool | Rearrange], error: NoRoom, config: AccelConfig
) -> NoPlan:
    """Why a graph cannot be planned, by the name of the layer."""
    key = error.live.key
    by_target = {operation.target: operation.name for operation in operations}
    what = (
        f"the output of layer {by_target[key]!r}"
        if key in by_target
        else f"graph input {str(key)!r}"
    )
    return NoPlan(
        f"{what} does not fit the activation buffer: {error.live.words} words beside "
        f"{error.used} in use, of {config.act_depth} per bank"
    )


def _cuts(
    graph: IntGraph,
    operations: Sequence[Gemm | Pool | Rearrange],
    forms: dict[TensorKey, TensorLayout],
) -> Iterator[_Cut]:
    yield _Cut(1)
    pairs = _pairs(graph, operations)
    most = max((forms[pool.target].height for _, pool in pairs), default=1)
    readers = sum(
        key.name == graph.header.input and key.image == 0
        for operation in operations
        for key in operands(operation)
    )
    first = bool(pairs) and pairs[0][0] is operations[0] and readers == 1
    for count in range(2, most + 1):
        yield _Cut(count)
        if first and forms[pairs[0][1].target].height >= count:
            yield _Cut(count, input_strips=True)


def _pairs(
    graph: IntGraph, operations: Sequence[Gemm | Pool | Rearrange]
) -> list[tuple[Gemm, Pool]]:
    """Convolutions whose result only the maximum pooling right after them reads."""
    readers = Counter(key for operation in operations for key in operands(operation))
    return [
        (gemm, pool)
        for gemm, pool in itertools.pairwise(operations)
        if isinstance(gemm, Gemm)
        and not isinstance(gemm, Copy)
        and isinstance(pool, Pool)
        and not pool.total
        and not pool.parts
        and gemm.columns is None
        and pool.source == gemm.target
        and readers[gemm.target] == 1
        and gemm.residual is None
        and gemm.target.name not in graph.header.output_tensors
    ]


def _live_ranges(
    inputs: set[TensorKey],
    operations: Sequence[Operation],
    forms: dict[TensorKey, TensorLayout],
    strips: dict[TensorKey, int],
    input_strips: bool,
) -> list[LiveRange]:
    """When each tensor needs its place; strips of a pair are made in one step, and so is what runs
    for several images together."""
    steps, step, in_strips = [], -1, False
    for run in together(operations):
        step += not in_strips
        steps += [step] * len(run)
        in_strips = result(run[-1]) in strips
    last = {}
    for step, operation in zip(steps, operations, strict=True):
        for key in filter(None, (*operands(operation), result(operation))):
            last[key] = step
    live_ranges, begun = list[LiveRange](), set[TensorKey]()
    for index, (step, operation) in enumerate(zip(steps, operations, strict=True)):
        target = result(operation)
        form = None if target is None else forms[target.origin]
        new = inputs & set(operands(operation)) - begun
        begun |= new
        places, copies = {key: forms[key] for key in new}, 1
        if form is not None and target in strips:
            form = _strip(operations[index + 1], strips[target], form)
            if input_strips:
                places = {
                    key: _strip(operation, form.height, place) for key, place in places.items()
                }
                copies = 2
        live_ranges += [
            LiveRange(key=key, place=place, born=step, dies=last[key], copies=copies)
            for key, place in places.items()
        ]
        wide = isinstance(operation, Gemm) and operation.wide
        if target is None or form is None or wide or target in begun:  # others write the rest
            continue
        begun.add(target)
        live_ranges.append(
            LiveRange(
                key=target,
                place=form,
                born=step,
                dies=last[target],
                over=_free_residual(operation, last, step),
            )
        )
    return live_ranges


def _strip(operation: Operation, rows: int, form: TensorLayout) -> TensorLayout:
    """The part of an input of ``form`` that any ``rows`` rows of the result are made from."""
    assert isinstance(operation, Gemm | Pool)
    height = (rows - 1) * operation.stride[0] + operation.kernel[0]
    return dataclasses.replace(form, height=min(form.height, height))


def _free_residual(operation: Operation, last: dict[TensorKey, int], step: int) -> TensorKey | None:
    """The residual operand, if the result may lie over it: nobody reads it again."""
    if not isinstance(operation, Gemm) or operation.residual in (None, operation.source):
        return None
    return operation.residual if last[operation.residual] == step else None


def _spill(
    kept: set[TensorKey],
    operations: tuple[Operation, ...],
    live_ranges: list[LiveRange],
    failed: LiveRange,
    strips: Container[TensorKey | None],
) -> tuple[Operation, ...] | None:
    """Operations with a tensor in memory while ``failed`` is born.

    It is the smallest of those that nobody reads then; None if there is none. A tensor is moved
    at most once between two operations that touch it, so this comes to an end.
    """
    at = next(index for index, operation in enumerate(operations) if touches(operation, failed.key))
    idle = [
        live
        for live in live_ranges
        if live.born < failed.born < live.dies
        and live.key not in kept
        and not touches(operations[at], live.key)
    ]
    for live in sorted(idle, key=lambda live: live.place.words):
        key = live.key
        before = max(index for index in range(at) if touches(operations[index], key))
        if isinstance(operations[before], Reload):
            continue  # it would go as it comes
        if result(operations[before]) in strips:
            before += 1  # the pooling, which is made in turns with it
        if before >= at:
            continue
        after = next(
            index for index in range(at, len(operations)) if touches(operations[index], key)
        )
        return (
            *operations[: before + 1],
            Spill(key),
            *operations[before + 1 : after],
            Reload(key, key.reloaded()),
            *(_after_reload(operation, key) for operation in operations[after:]),
        )
    return None


def _after_reload(operation: Operation, key: TensorKey) -> Operation:
    """``operation`` behind one more :class:`Reload` of ``key``."""

    def renamed(other: TensorKey) -> TensorKey:
        later = other.origin == key.origin and other.reloads >= key.reloads
        return other.reloaded() if later else other

    changes = {
        field.name: renamed(value)
        for field in dataclasses.fields(operation)
        if isinstance(value := getattr(operation, field.name), TensorKey)
    }
    return dataclasses.replace(operation, **changes)
