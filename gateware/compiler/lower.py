# SPDX-License-Identifier: Apache-2.0
"""Lowering: graph nodes to operations of the tile engine, tensors to places in its buffer."""

import dataclasses

from gateware.arch.config import AccelConfig
from gateware.arch.isa import SIZE_BITS
from gateware.compiler import rearrange
from gateware.compiler.border import store_border
from gateware.compiler.copies import Copy, copies
from gateware.compiler.layout import TensorLayout
from gateware.compiler.operations import (
    MEMORY_LIMIT,
    CompileError,
    Gemm,
    Pool,
    Rearrange,
    TensorKey,
    operands,
)
from gateware.compiler.plan import Plan, make_banded_plan, make_plan
from gateware.compiler.raw import aligned
from gateware.compiler.slices import MAX_KERNEL, needs_slices, slices
from gateware.compiler.space_to_depth import SpaceToDepth, identity, rewrite
from gateware.compiler.windows import Constants, Maximum, in_parts, regular_windows
from ir.graph import (
    AvgPool,
    Conv,
    DepthToSpace,
    Flatten,
    Gather,
    Host,
    IntegerNode,
    IntGraph,
    Linear,
    MaxPool,
    Mul,
    Upsample,
    WindowPool,
)
from ir.numerics import ACT_BITS, SHIFT_MIN, act_max, encode_mean

FACTOR_BITS = 8  #: by which a product of codes is finer in the requantiser


@dataclasses.dataclass(frozen=True)
class Lowered:
    """Graph in terms of the tile engine: its plan, and the arrangement of its image."""

    plan: Plan
    space_to_depth: SpaceToDepth
    input_key: TensorKey


def needs_tables(graph: IntGraph) -> bool:
    """True for a network with functions or products, which only an array with tables has."""
    return bool(graph.tables) or any(isinstance(node, Mul) for node in graph.nodes)


def lower(graph: IntGraph, config: AccelConfig, batch: int = 1, *, banded: bool = False) -> Lowered:
    """Lowering of ``graph`` to operations of the tile engine, for ``batch`` images in a run.

    With ``banded`` tensors may live in memory. Raises CompileError naming the layer and the reason,
    NoPlan where ``banded`` may help.
    """
    forms = {
        TensorKey(spec.name): TensorLayout.of(
            spec.shape, config, bits=spec.bits, zero_point=spec.zero_point
        )
        for spec in graph.header.tensors
    }
    operations, stored = _operations(graph, forms, config)
    if not operations:
        raise CompileError(f"graph {graph.header.name!r} has no layer to run")
    for output in graph.header.output_tensors:
        if stored[output] != output:
            raise CompileError(
                f"graph {graph.header.name!r} ends with {output!r}, a flattened tensor; "
                f"let it end with {stored[output]!r}"
            )
    source = graph.input
    arrangement = identity(source.shape, source.zero_point)
    image, first = TensorKey(source.name), operations[0]
    if (
        isinstance(first, Gemm)
        and isinstance(graph.nodes[0], Conv | Flatten)
        and first.groups == 1
        and first.residual != image
        and sum(image in operands(o) for o in operations) == 1
    ):
        better = rewrite(
            first.values,
            stride=first.stride,
            padding=first.padding,
            source=forms[image],
            target=forms[first.target],
            config=config,
            border=graph.header.border,
            whole=not banded,
        )
        operations[0] = dataclasses.replace(
            first, values=better.values, stride=better.stride, padding=better.padding
        )
        arrangement = better.space_to_depth
        forms[image] = dataclasses.replace(
            forms[image],
            channels=better.values.shape[1],
            height=arrangement.y.size,
            width=arrangement.x.size,
        )
    elif graph.header.border:
        arrangement = store_border(operations, forms, image, graph.header.border)
    size = batch * forms[image].beats * config.bus_bits // 8
    if size >= MEMORY_LIMIT:
        raise CompileError(
            f"graph {graph.header.name!r} reads {size} bytes for {batch} images in a run, which "
            f"addresses {MEMORY_LIMIT}"
        )
    kept = {TensorKey(name) for name in (source.name, *graph.header.output_tensors)}
    operations = rearrange.rearranged(operations, forms, kept, config)
    operations = [aligned(operation, forms, config) for operation in operations]
    for operation in operations:
        if isinstance(operation, Rearrange):
            rearrange.check(operation, forms[operation.source], forms[operation.target])
        else:
            _check(forms, operation, config)
    if banded:
        plan = make_banded_plan(operations, forms, config, batch)
    else:
        plan = make_plan(graph, operations, forms, config, batch)
    return Lowered(plan, arrangement, image)


def _operations(
    graph: IntGraph, forms: dict[TensorKey, TensorLayout], config: AccelConfig
) -> tuple[list[Gemm | Pool | Rearrange], dict[str, str]]:
    """Operations in order, and for each tensor the one whose words it is. Raises CompileError.

    Tensors in between get their ``forms``.
    """
    stored = {graph.header.input or "": graph.header.input or ""}
    operations = []
    for node in graph.nodes:
        if isinstance(node, Host):
            raise CompileError(
                f"node {node.name!r} runs {', '.join(node.ops) or 'nothing'} on the "
                "host; its layers become a program each, see compile_all"
            )
        stored[node.output] = node.output
        if isinstance(node, Flatten):
            stored[node.output] = stored[node.input]
            continue
        if isinstance(node, Gather):
            operations += _gather(graph, node, stored, config)
            continue
        if isinstance(node, DepthToSpace | Upsample):
            operations.append(_rearrange(graph, node, stored))
            continue
        if isinstance(node, MaxPool | AvgPool | WindowPool):
            operations += _pooling(graph, node, stored, forms, config)
            continue
        operations.append(_operation(graph, node, stored))
    return operations, stored


def _gather(
    graph: IntGraph, node: Gather, stored: dict[str, str], config: AccelConfig
) -> list[Copy]:
    sources = [graph.tensor(stored[name]) for name in node.inputs]
    return copies(node, sources, graph.tensor(node.output), config)


def _rearrange(graph: IntGraph, node: DepthToSpace | Upsample, stored: dict[str, str]) -> Rearrange:
    source = stored[node.input]
    if graph.tensor(source).shape != graph.tensor(node.input).shape:
        raise CompileError(f"layer {node.name!r} reads a flattened tensor; only a linear layer can")
    return Rearrange(
        name=node.name,
        source=TensorKey(source),
        target=TensorKey(node.output),
        kind="repeat" if isinstance(node, Upsample) else "merge",
        factor=node.block,
        border=node.border if isinstance(node, Upsample) else (0, 0),
    )


def _operation(graph: IntGraph, node: Conv | Linear | Mul, stored: dict[str, str]) -> Gemm | Pool:
    source = _source(graph, node, stored)
    if isinstance(node, Mul):
        return _product(graph, node, stored)
    layer = graph.layers[node.name]
    values, stride, padding, groups = layer.values, (1, 1), (0, 0, 0, 0), 1
    if isinstance(node, Conv):
        stride, padding, groups = node.stride, node.padding, node.groups
    else:
        values = values.reshape(len(values), *graph.tensor(source).shape)
    return Gemm(
        name=node.name,
        source=TensorKey(source),
        target=TensorKey(node.output),
        values=values,
        scheme=layer.scheme,
        multiplier=layer.multiplier,
        bias=layer.bias,
        shift=layer.shift,
        stride=stride,
        padding=padding,
        low=node.low,
        high=node.high,
        wide=node.wide,
        residual=TensorKey(stored[node.residual.tensor]) if node.residual else None,
        residual_n=node.residual.n if node.residual else 0,
        groups=groups,
        table=_table(graph, node),
    )


def _source(graph: IntGraph, node: IntegerNode, stored: dict[str, str]) -> str:
    source = stored[node.input]
    flat = graph.tensor(source).shape != graph.tensor(node.input).shape
    if flat and not isinstance(node, Linear):
        raise CompileError(f"layer {node.name!r} reads a flattened tensor; only a linear layer can")
    return source


def _pooling(
    graph: IntGraph,
    node: MaxPool | AvgPool | WindowPool,
    stored: dict[str, str],
    forms: dict[TensorKey, TensorLayout],
    config: AccelConfig,
) -> list[Gemm | Pool]:
    """Operations of a pooling: one, but for maxima of 8 bits."""
    source, target = TensorKey(_source(graph, node, stored)), TensorKey(node.output)
    place, out, mean = forms[source], forms[target], None
    total = isinstance(node, AvgPool) or (isinstance(node, WindowPool) and node.mean)
    pool = Pool(
        name=node.name,
        source=source,
        target=target,
        kernel=(1, 1),
        stride=(1, 1),
        padding=(0, 0, 0, 0),
        total=total,
        multiplier=1 << SHIFT_MIN,
        bias=0,
        shift=SHIFT_MIN,
        low=0,
        high=act_max(ACT_BITS),
    )
    if isinstance(node, AvgPool):
        pool = dataclasses.replace(
            pool,
            multiplier=node.multiplier,
            bias=node.bias,
            shift=node.shift,
            low=node.low,
            high=node.high,
            table=_table(graph, node),
        )
    if isinstance(node, WindowPool):
        rows, columns = node.rows, node.columns
        if node.mean:
            mean = _mean(node, place.zero_point)
            pool = dataclasses.replace(pool, high=node.high)
    else:
        padding = node.padding if isinstance(node, MaxPool) else (0, 0, 0, 0)
        whole = dataclasses.replace(pool, kernel=node.kernel, stride=node.stride, padding=padding)
        if (total or place.planes == 1) and _steps_over(whole, out, config):
            return [whole]
        rows = regular_windows(node, place.height, out.height, 0)
        columns = regular_windows(node, place.width, out.width, 1)
        if isinstance(node, AvgPool):
            mean = _always(node.multiplier, node.bias, node.shift)
    if not total and place.planes > 1:
        return Maximum(pool, forms, config).run(rows, columns)
    return in_parts(pool, rows, columns, forms, config, mean)


def _mean(node: WindowPool, zero_point: int) -> Constants:
    def constants(count: int, missing: int) -> tuple[int, int, int]:
        multiplier, bias, shift = encode_mean(node.steps, count)
        return multiplier, bias + missing * zero_point * multiplier, shift

    return constants


def _always(multiplier: int, bias: int, shift: int) -> Constants:
    return lambda count, missing: (multiplier, bias, shift)


def _steps_over(pool: Pool, out: TensorLayout, config: AccelConfig) -> bool:
    """Whether one EXECUTE can have all windows of a regular pooling."""
    return (
        (pool.stride[0] <= 15 or out.height == 1)
        and (pool.stride[1] <= config.max_stride or out.width == 1)
        and max(pool.padding) <= 31
    )


def _product(graph: IntGraph, node: Mul, stored: dict[str, str]) -> Pool:
    """A pooling over one pixel, whose sum, the code a, the requantiser multiplies.

    It computes ``a * (256 * f - 256 * z_f) + B + (255 - f) * N`` of the factor f, with
    ``N = 256 * z_a``; B makes that ``256 * ((a - z_a) * (f - z_f) + bias)``.
    """
    zero, factor_zero = graph.tensor(node.input).zero_point, graph.tensor(node.factor).zero_point
    bias = node.bias + zero * factor_zero - act_max(8) * zero
    return Pool(
        name=node.name,
        source=TensorKey(stored[node.input]),
        target=TensorKey(node.output),
        kernel=(1, 1),
        stride=(1, 1),
        padding=(0, 0, 0, 0),
        total=True,
        multiplier=-factor_zero % (1 << FACTOR_BITS) << FACTOR_BITS,
        bias=bias << FACTOR_BITS,
        shift=node.shift + FACTOR_BITS,
        low=node.low,
        high=node.high,
        table=_table(graph, node),
        residual=TensorKey(stored[node.factor]),
        residual_n=zero << SHIFT_MIN - node.shift,
        product=True,
        broadcast=graph.tensor(node.factor).shape != graph.tensor(node.input).shape,
    )


def _table(graph: IntGraph, node: Conv | Linear | AvgPool | Mul) -> bytes | None:
    return None if node.table is None else graph.tables[node.table].tobytes()


def _check(
    forms: dict[TensorKey, TensorLayout], operation: Gemm | Pool, config: AccelConfig
) -> None:
    """What fits the descriptor fields, the buffers and the accumulators."""

    def refuse(reason: str) -> None:
        raise CompileError(f"layer {operation.name!r} {reason}")

    source, target = forms[operation.source], forms[operation.target]
    product = isinstance(operation, Pool) and operation.product
    if (operation.table is not None or product) and not config.tables:
        refuse(
            f"needs {'products' if product else 'a table for its activation function'}, and the "
            "array has none: AccelConfig(tables=True), which gateware.build sets by itself"
        )
    if max(source.height, source.width, target.height, target.width) >= 1 << SIZE_BITS:
        refuse(f"has a height or width over {(1 << SIZE_BITS) - 1}")
    sliced = isinstance(operation, Gemm) and needs_slices(operation, source, config)
    kernels = [operation.kernel]
    if isinstance(operation, Pool):
        kernels += [part.kernel for part in operation.parts]
    if (
        (max(map(max, kernels)) > MAX_KERNEL and not sliced)
        or max(operation.padding) > 31
        or (operation.stride[0] > 15 and target.height > 1)
    ):
        refuse(
            f"has kernel {max(kernels)}, stride {operation.stride}, padding "
            f"{operation.padding}; the largest are {MAX_KERNEL}, 15 and 31"
        )
    if operation.stride[1] > config.max_stride and target.width > 1:
        refuse(
            f"has a horizontal stride of {operation.stride[1]}, the largest is {config.max_stride}"
        )
    if operation.wide and min(target.wide_pitch, config.banks) > config.wide_depth:
        refuse(
            f"gives raw outputs of {config.banks} pixels at a time, the buffer holds "
            f"{config.wide_depth}"
        )
    if isinstance(operation, Pool):
        if config.k // config.requant_lanes > config.slot_depth:
            refuse(
                f"needs {config.k // config.requant_lanes} drain slots, the slot buffer holds "
                f"{config.slot_depth}"
            )
        if not operation.total and source.bits != ACT_BITS:
            refuse(f"takes the maximum of a {source.bits}-bit tensor; only 4 bits are supported")
        return
    if operation.residual and forms[operation.residual].shape != target.shape:
        refuse(f"adds {str(operation.residual)!r} flattened; its words are not in that order")
    if sliced:
        for part in operation.parts(config.k):
            slices(operation, part, source, target, config)
