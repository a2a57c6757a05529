# SPDX-License-Identifier: Apache-2.0
"""Batches: several images in one run, so that the weights of a layer are loaded once for all.

That gains something where loading a tile takes longer than computing it. So the layers before the
first of that kind run image by image, as their tensors are large; from there on each layer runs for
all images before the next one begins.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

from gateware.arch.config import AccelConfig
from gateware.compiler.layout import TensorLayout
from gateware.compiler.operations import Gemm, Operation, Pool, Rearrange, TensorKey


def of_image(operation: Gemm | Pool | Rearrange, image: int) -> Gemm | Pool | Rearrange:
    """Operation of the same layer on the tensors of another image."""
    source, target = operation.source.of_image(image), operation.target.of_image(image)
    if isinstance(operation, Rearrange):
        return dataclasses.replace(operation, source=source, target=target)
    residual = operation.residual and operation.residual.of_image(image)
    return dataclasses.replace(operation, source=source, target=target, residual=residual)


def repeat(
    operations: Sequence[Gemm | Pool | Rearrange],
    forms: dict[TensorKey, TensorLayout],
    config: AccelConfig,
    batch: int,
) -> tuple[list[Gemm | Pool | Rearrange], dict[TensorKey, TensorLayout]]:
    """Operations of ``batch`` images in their order, and the layouts of all their tensors."""
    split = _split(operations, forms, config)
    before = [
        of_image(operation, image) for image in range(batch) for operation in operations[:split]
    ]
    after = [
        of_image(operation, image) for operation in operations[split:] for image in range(batch)
    ]
    return before + after, {
        key.of_image(image): form for image in range(batch) for key, form in forms.items()
    }


def _split(
    operations: Sequence[Gemm | Pool | Rearrange],
    forms: dict[TensorKey, TensorLayout],
    config: AccelConfig,
) -> int:
    """The first operation whose weights take longer to load than to use.

    Not a convolution that may have to be made in strips with the maximum pooling behind it, nor
    anything before it.
    """
    first = max(
        (
            index + 1
            for index, operation in enumerate(operations)
            if isinstance(operation, Pool) and not operation.total
        ),
        default=0,
    )
    for index in range(first, len(operations)):
        operation = operations[index]
        if isinstance(operation, Gemm):
            target, planes = forms[operation.target], forms[operation.source].planes
            uses = planes * target.height * -(-target.width // config.pixels)
            if config.weight_beats / config.ports > uses:
                return index
    return len(operations)


def together(operations: Sequence[Operation]) -> Iterator[list[Operation]]:
    """Consecutive operations that are the same for different images, as one list each."""

    def key(numbered: tuple[int, Operation]) -> object:
        index, operation = numbered
        return operation.name if isinstance(operation, Gemm | Pool) else index

    for _, run in itertools.groupby(enumerate(operations), key):
        yield [operation for _, operation in run]
