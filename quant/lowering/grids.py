# SPDX-License-Identifier: Apache-2.0
"""Questions to the nodes of a prepared network: on which grid codes lie, and who reads them."""

import operator

from torch import fx, nn

from ir import numerics
from quant.capture.nodes import (
    argument,
    is_affine,
    is_constant,
    module_of,
    name_of,
)
from quant.nn.activations import ActQuantiser, QuantAvgPool
from quant.nn.blocks import DepthToSpace, Repeat, Spread
from quant.nn.border import BorderPad
from quant.nn.gather import Gather
from quant.nn.layers import CopyLayer

AVERAGES = (nn.AvgPool2d, nn.AdaptiveAvgPool2d)
LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


#: Modules whose output has the codes of their input.
KEEPS_CODES = (
    nn.MaxPool2d,
    nn.AdaptiveMaxPool2d,
    nn.ZeroPad2d,
    BorderPad,
    nn.Flatten,
    nn.Unflatten,
    nn.Dropout,
    Gather,
    DepthToSpace,
    Repeat,
    Spread,
)


def is_add(node: fx.Node) -> bool:
    """True if ``node`` adds two tensors of activations."""
    return (
        node.op == "call_function" and node.target is operator.add and not is_constant(node.args[1])
    )


def codes_source(node: fx.Node) -> fx.Node:
    """Node that decides the grid of ``node``'s codes: quantiser, average pool or image."""
    while isinstance(module_of(node), KEEPS_CODES):
        node = argument(node)
    return node


def grid_of(node: fx.Node) -> ActQuantiser | QuantAvgPool | None:
    """Module whose grid ``node``'s codes lie on; None for the image's."""
    module = module_of(codes_source(node))
    return module if isinstance(module, ActQuantiser | QuantAvgPool) else None


def name_at(node: fx.Node) -> str:
    """Name of the module that ``node`` calls, or the place in the model of what else it is."""
    return name_of(node) if node.op == "call_module" else node.meta.get("path", "")


def kind_of(node: fx.Node) -> str:
    """Class of the module that ``node`` calls, or the name of its function."""
    module = module_of(node)
    return type(module).__name__ if module is not None else getattr(node.target, "__name__", "add")


def feeds_layer(node: fx.Node) -> bool:
    """True if a layer multiplies with ``node``, directly or behind pools and the like."""
    return any(
        isinstance(module_of(user), LAYERS)
        or (isinstance(module_of(user), (*KEEPS_CODES, *AVERAGES)) and feeds_layer(user))
        for user in node.users
    )


def is_of_image(node: fx.Node) -> bool:
    """True if ``node`` is the image but for a batch-norm or constants: it keeps its 8 bits.

    A maximum is taken of 4 bits.
    """
    if any(isinstance(module_of(user), nn.MaxPool2d) for user in node.users):
        return False
    while isinstance(module_of(node), (*NORMS, nn.Dropout)) or is_affine(node):
        node = argument(node)
    copied = isinstance(module_of(node), CopyLayer)
    return copied and codes_source(argument(node)).op == "placeholder"


def bits_of(grid: ActQuantiser | QuantAvgPool | None) -> int:
    """Bits of the codes of ``grid``, 4 or 8; None is the image's."""
    return numerics.act_max(8).bit_length() if grid is None else grid.bits


def is_signed(grid: ActQuantiser | QuantAvgPool | None) -> bool:
    """True if codes of ``grid`` may stand for negative values."""
    if isinstance(grid, QuantAvgPool):
        return is_signed(grid.source)
    return grid is not None and grid.signed


def most_codes(node: fx.Node) -> int:
    """Largest code with which no layer that reads ``node`` can leave its accumulator."""
    most = numerics.act_max(8)
    for user in node.users:
        module = module_of(user)
        if isinstance(module, LAYERS):
            row = (
                module.weight[:, 0] if isinstance(module, nn.ConvTranspose2d) else module.weight[0]
            )
            worst = row.numel() * numerics.Scheme.FIXED8.denominator
            most = min(most, numerics.SUM_LIMIT // worst)
        elif isinstance(module, KEEPS_CODES):
            most = min(most, most_codes(user))
    return most
