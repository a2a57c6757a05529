# SPDX-License-Identifier: Apache-2.0
"""How a network gets along with the activation buffer: places, strips, and tensors in memory."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence

from gateware.arch.config import AccelConfig
from gateware.compiler.batch import instance, repeat, together
from gateware.compiler.layout import DoesNotFit, Life, Placement, allocate
from gateware.compiler.operations import (
    CompileError,
    Gemm,
    Operation,
    Pool,
    Reload,
    Spill,
    operands,
)
from ir.graph import IntGraph


@dataclasses.dataclass(frozen=True)
class Plan:
    """Operations in order, and every tensor's place.

    strips : for a convolution whose result only the maximum pooling after it reads, and which does
        not fit as a whole: how many rows of the pooling's result are made at a time. The place of
        such a result holds the rows that this takes.
    input_strips : the graph's input lies in two places of the form of ``places``, one after the
        other, which take the rows for one strip after another in turns
    """

    operations: tuple[Operation, ...]
    places: dict[str, Placement]
    strips: dict[str, int]
    input_strips: bool


@dataclasses.dataclass(frozen=True)
class _Cut:
    """Strips that are tried: ``count`` of the pooling's result."""

    count: int
    input_strips: bool = False


def input_rows(operation: Gemm | Pool, height: int, first: int, last: int) -> tuple[int, int]:
    """The rows of an input of ``height`` that output rows ``first`` to ``last`` are made from."""
    begin = first * operation.stride[0] - operation.padding[0]
    end = (last - 1) * operation.stride[0] - operation.padding[0] + operation.kernel[0]
    return max(0, begin), min(height, max(end, 0))


def make_plan(
    graph: IntGraph,
    operations: Sequence[Gemm | Pool],
    forms: dict[str, Placement],
    config: AccelConfig,
    batch: int = 1,
) -> Plan:
    """Places over the operations' order; a tensor's words are free after its last reader.

    What does not fit is tried with more and more strips of those results that can have strips, each
    time first with the whole input, then with strips of it; if that is not enough, tensors that
    have to wait for their next reader while there is no room are spilled. Raises CompileError.
    """
    operations, forms = repeat(operations, forms, config, batch)
    ends = [
        {instance(name, image) for image in range(batch)}
        for name in (graph.header.input, graph.header.output)
    ]
    first_error = None
    cuts = list(_cuts(graph, operations, forms))
    for spills, cut in itertools.product((False, True), cuts):
        strips = (
            {}
            if cut.count == 1
            else {
                gemm.target: -(-forms[pool.target].height // cut.count)
                for gemm, pool in _pairs(graph, operations)
                if forms[pool.target].height >= cut.count
            }
        )
        trial, trial_forms = tuple(operations), dict(forms)
        while True:
            lives = _lives(ends[0], trial, trial_forms, strips, cut.input_strips)
            try:
                places = allocate(lives, config)
            except DoesNotFit as error:
                first_error = first_error or error
                spilled = _spill(ends[0] | ends[1], trial, lives, error.life) if spills else None
                if spilled is None:
                    break
                trial, name = spilled
                trial_forms[_reloaded(name)] = trial_forms[name]
                continue
            wide = {
                operation.target: forms[operation.target]
                for operation in operations
                if operation.wide
            }
            return Plan(trial, places | wide, strips, cut.input_strips)
    by_target = {operation.target: operation.name for operation in operations}
    name = first_error.life.name
    reason = (
        f"the output of layer {by_target[name]!r}" if name in by_target else f"graph input {name!r}"
    )
    raise CompileError(
        f"{reason} does not fit the activation buffer: {first_error.life.words} words beside "
        f"{first_error.used} in use, of {config.act_depth} per bank"
    )


def _cuts(
    graph: IntGraph, operations: Sequence[Operation], forms: dict[str, Placement]
) -> Iterator[_Cut]:
    yield _Cut(1)
    pairs = _pairs(graph, operations)
    most = max((forms[pool.target].height for _, pool in pairs), default=1)
    source = graph.header.input
    readers = sum(source in operands(operation) for operation in operations)
    first = bool(pairs) and pairs[0][0] is operations[0] and readers == 1
    for count in range(2, most + 1):
        yield _Cut(count)
        if first and forms[pairs[0][1].target].height >= count:
            yield _Cut(count, input_strips=True)


def _pairs(graph: IntGraph, operations: Sequence[Operation]) -> list[tuple[Gemm, Pool]]:
    """Convolutions whose result only the maximum pooling right after them reads."""
    readers = Counter(name for operation in operations for name in operands(operation))
    return [
        (gemm, pool)
        for gemm, pool in itertools.pairwise(operations)
        if isinstance(gemm, Gemm)
        and isinstance(pool, Pool)
        and not pool.total
        and pool.source == gemm.target
        and readers[gemm.target] == 1
        and gemm.residual is None
        and gemm.target != graph.header.output
    ]


def _lives(
    inputs: set[str],
    operations: Sequence[Operation],
    forms: dict[str, Placement],
    strips: dict[str, int],
    input_strips: bool,
) -> list[Life]:
    """When each tensor needs its place; strips of a pair are made in one step, and so is what runs
    for several images together."""
    steps, step, in_strips = [], -1, False
    for run in together(operations):
        step += not in_strips
        steps += [step] * len(run)
        in_strips = run[-1].target in strips
    last = {}
    for step, operation in zip(steps, operations, strict=True):
        for name in filter(None, (*operands(operation), operation.target)):
            last[name] = step
    lives = []
    for index, (step, operation) in enumerate(zip(steps, operations, strict=True)):
        target = operation.target
        form, over, copies = forms.get(target), None, 1
        if target in strips:
            pool = operations[index + 1]
            rows = (strips[target] - 1) * pool.stride[0] + pool.kernel[0]
            form = dataclasses.replace(form, height=min(form.height, rows))
        for name in inputs & set(operands(operation)) - {life.name for life in lives}:
            place = forms[name]
            if input_strips and target in strips:
                rows = (form.height - 1) * operation.stride[0] + operation.kernel[0]
                place, copies = dataclasses.replace(place, height=min(place.height, rows)), 2
            lives.append(Life(name, place, step, last[name], copies=copies))
        if operation.wide or target is None:
            continue
        if operation.residual not in (None, operation.source) and last[operation.residual] == step:
            over = operation.residual
        lives.append(Life(target, form, step, last[target], over))
    return lives


def _reloaded(name: str) -> str:
    return name + " reloaded"


def _spill(
    kept: set[str], operations: tuple[Operation, ...], lives: list[Life], failed: Life
) -> tuple[tuple[Operation, ...], str] | None:
    """The operations with a tensor in memory while ``failed`` is born, and its name.

    It is the smallest of those that nobody reads then; None if there is none.
    """
    at = next(
        index for index, operation in enumerate(operations) if _touches(operation, failed.name)
    )
    idle = [
        life
        for life in lives
        if life.born < failed.born < life.dies
        and life.name not in kept
        and not _touches(operations[at], life.name)
    ]
    for life in sorted(idle, key=lambda life: life.place.words):
        name = life.name
        before = max(index for index in range(at) if _touches(operations[index], name))
        if isinstance(operations[before], Reload):
            continue  # it would go as it comes
        if isinstance(operations[before + 1], Pool):  # maybe one with a convolution in strips
            before += 1
        after = next(
            index for index in range(at, len(operations)) if _touches(operations[index], name)
        )
        later = [_rename(operation, name, _reloaded(name)) for operation in operations[after:]]
        return (
            *operations[: before + 1],
            Spill(name),
            *operations[before + 1 : after],
            Reload(name, _reloaded(name)),
            *later,
        ), name
    return None


def _touches(operation: Operation, name: str) -> bool:
    return name == operation.target or name in operands(operation)


def _rename(operation: Operation, name: str, new: str) -> Operation:
    changes = {field: new for field in ("source", "residual") if getattr(operation, field) == name}
    return dataclasses.replace(operation, **changes)
