# SPDX-License-Identifier: Apache-2.0
"""Exact copies: codes become a sum again, where one is needed.

Batch-norm, ReLU, scalars and additions work on sums, in the requantisation of a layer. Where
codes are what they read, such as an image, a pool's or another ReLU's, or a sum that something else
reads, too, a depthwise 1x1 layer with weights of one makes a sum of them, to the bit.
"""

from collections.abc import Iterable

from torch import fx, nn

from quant.capture.nodes import argument, free_submodule, module_of, shape_of
from quant.nn.activations import ActQuantiser
from quant.nn.layers import CopyLayer


def insert_copy(module: fx.GraphModule, source: fx.Node, reader: fx.Node, stem: str) -> fx.Node:
    """Sum that equals the codes of ``source``, in front of ``reader``; the first of its arguments
    that is ``source`` becomes it.

    Raises ValueError for codes that have no channels of their own.
    """
    shape = shape_of(source)
    if len(shape) == 1 and _flattens_map(source):
        raise ValueError(
            "it reads a flattened map: move it in front of flatten, or behind the next layer"
        )
    if len(shape) not in (1, 3):
        raise ValueError(f"it reads a tensor of {shape}, which is neither maps nor a vector")
    quantiser = module_of(source)
    if isinstance(quantiser, ActQuantiser) and set(source.users) == {reader}:
        quantiser.widen()  # so that values are rounded to act_bits once, not twice
    name = free_submodule(module, f"{stem}_copy")
    module.add_submodule(name, CopyLayer.of_channels(shape[0]))
    with module.graph.inserting_before(reader):
        copy = module.graph.call_module(name, (source,))
    copy.meta |= {key: source.meta[key] for key in ("shape", "path") if key in source.meta}
    place = reader.args.index(source)
    reader.args = (*reader.args[:place], copy, *reader.args[place + 1 :])
    return copy


def copy_for(module: fx.GraphModule, source: fx.Node, readers: Iterable[fx.Node]) -> fx.Node:
    """Sum that equals the codes of a map ``source``, and takes its place in ``readers``."""
    name = free_submodule(module, f"{source.target}_copy")
    module.add_submodule(name, CopyLayer.of_channels(shape_of(source)[0]))
    with module.graph.inserting_after(source):
        copy = module.graph.call_module(name, (source,))
    copy.meta |= {key: source.meta[key] for key in ("shape", "path") if key in source.meta}
    for reader in readers:
        reader.replace_input_with(source, copy)
    return copy


def _flattens_map(node: fx.Node) -> bool:
    """Whether the channels of ``node`` are pixels of a map that was flattened."""
    while isinstance(module := module_of(node), nn.Flatten | nn.Dropout):
        source = argument(node)
        if isinstance(module, nn.Flatten) and any(size > 1 for size in shape_of(source)[1:]):
            return True
        node = source
    return False
