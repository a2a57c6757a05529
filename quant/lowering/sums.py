# SPDX-License-Identifier: Apache-2.0
"""Quantisers where sums of a flat graph are read as codes.

In the flat graph of :mod:`quant.capture.trace` every value is one of two kinds. *Codes* lie on the
grid of an unsigned integer: the image, what a quantiser gives, and what pools, padding and flatten
make of it. A *sum* is what a layer accumulates, with batch-norm and at most one residual operand;
it exists only until a quantiser takes it, or leaves as logits. Layers read codes and make sums, so
where a sum is read as codes, a quantiser goes in between: a ReLU becomes one, elsewhere a signed
one is inserted.
"""

import operator

from torch import fx, nn

from quant.capture.nodes import (
    argument,
    free_submodule,
    is_affine,
    is_constant,
    module_of,
    name_of,
    replace_submodule,
    shape_of,
)
from quant.capture.writer import UnsupportedLayer
from quant.lowering.copies import copy_for, insert_copy
from quant.lowering.grids import (
    AVERAGES,
    KEEPS_CODES,
    NORMS,
    bits_of,
    codes_source,
    feeds_layer,
    grid_of,
    is_add,
    is_of_image,
    is_signed,
    kind_of,
    most_codes,
    name_at,
)
from quant.lowering.meetings import regridded, relus_first, tie_grids
from quant.lowering.slopes import lower_slopes
from quant.lowering.transposed import (
    SpreadConv2d,
    in_phases,
    insert_spread,
    lower_transposed,
)
from quant.nn.activations import ActQuantiser, QuantAvgPool, Regrid
from quant.nn.elementwise import Elementwise, TableQuantiser, clamp_function
from quant.nn.gather import Gather
from quant.nn.layers import QuantConv2d, QuantLinear, RowQuantised
from quant.nn.product import ProductQuantiser
from quant.nn.tail import Tail

SHORTCUT_BITS = 8  #: of a sum that only an addition reads
POOLED_BITS = 8  #: of a global average


class SumQuantiser:
    """Rewrite of a flat float graph, in place: its sums become codes where they are read as such.

    Parameters
    ----------
    module : of float layers
    act_bits : 4 or 8, of the codes that layers read
    """

    def __init__(self, module: fx.GraphModule, act_bits: int) -> None:
        self.module, self.graph, self.act_bits = module, module.graph, act_bits
        self.sums: dict[fx.Node, bool] = {}  # and whether one has a residual operand already
        self.memo: dict[int, object] = {}  # of copied layers

    def run(self) -> None:
        relus_first(self.graph)
        for node in list(self.graph.nodes):
            try:
                self._visit(node)
            except ValueError as error:
                raise UnsupportedLayer(name_at(node), kind_of(node), str(error)) from error
        for node in self.graph.nodes:
            self._note_residual(node)
        self.graph.lint()
        self.module.recompile()

    def _visit(self, node: fx.Node) -> None:
        module = module_of(node)
        if is_add(node):
            self._addition(node)
        elif node.target is operator.mul and not is_affine(node):
            self._product(node)
        elif self._follows_product(node):
            self._absorb(node)
        elif node.op == "output" or isinstance(module, Tail):
            self._end(node)
        elif isinstance(module, nn.ConvTranspose2d | SpreadConv2d):
            self._codes(argument(node))
            if isinstance(module, nn.ConvTranspose2d):
                module = lower_transposed(self.module, node, module, self.memo)
            insert_spread(self.module, node, module)
            self.sums[node] = False
        elif isinstance(module, nn.Conv2d | nn.Linear):
            self._codes(argument(node))
            kind = QuantConv2d if isinstance(module, nn.Conv2d) else QuantLinear
            if not isinstance(module, RowQuantised):  # of an earlier call
                self._replace(node, kind.from_float(module, self.memo))
            self.sums[node] = False
        elif isinstance(module, NORMS) or is_affine(node):
            if self.sums.get(argument(node)) is not False or len(argument(node).users) > 1:
                self._copy(node)
            self.sums[node] = False
        elif isinstance(module, nn.Dropout) and len(argument(node).users) == 1:
            if argument(node) in self.sums:
                self.sums[node] = self.sums[argument(node)]
        elif isinstance(module, nn.ReLU | nn.Hardtanh):
            self._relu(node, getattr(module, "max_val", None))
        elif isinstance(module, Elementwise):
            self._function(node, module)
        elif isinstance(module, nn.PReLU):
            self._codes(argument(node))
            total = lower_slopes(self.module, node, module)
            self.sums |= {node: False, total: True}
        elif isinstance(module, AVERAGES):
            self._average(node, module)
        elif isinstance(module, Gather):
            self._gather(node)
        elif isinstance(module, KEEPS_CODES):
            self._codes(argument(node))
            if isinstance(module, nn.ZeroPad2d):
                self._pad(node)

    def _end(self, node: fx.Node) -> None:
        """Results leave as they are: sums without a residual operand, or codes."""
        for source in node.all_input_nodes:
            if self.sums.get(source) or in_phases(source):
                self._codes(source)
            if codes_source(source).op == "placeholder":
                raise ValueError("it returns its input, which no layer has read")

    def _gather(self, node: fx.Node) -> None:
        for source in node.all_input_nodes:
            self._codes(source)
        for source in regridded(node, grid_of):
            name = free_submodule(self.module, f"{node.target}_regrid")
            grid = grid_of(source)
            signed = grid is not None and grid.zero_point > 0
            self.module.add_submodule(name, Regrid(self.act_bits, signed=signed))
            with self.graph.inserting_before(node):
                call = self.graph.call_module(name, (source,))
            call.meta |= source.meta
            node.replace_input_with(source, call)
        tie_grids(node, grid_of)

    def _pad(self, node: fx.Node) -> None:
        """Zeros are added by the convolution or maximum behind them; for others by a copy."""
        grid = grid_of(node)
        signed = grid is not None and grid.zero_point
        takes = (nn.Conv2d, nn.ZeroPad2d) if signed else (nn.Conv2d, nn.ZeroPad2d, nn.MaxPool2d)
        others = [user for user in node.users if not isinstance(module_of(user), takes)]
        if others:
            self.sums[copy_for(self.module, node, others)] = False

    def _relu(self, node: fx.Node, limit: float | None) -> None:
        source = argument(node)
        if source in self.sums and len(source.users) == 1:
            ends = all(u.op == "output" or isinstance(module_of(u), Tail) for u in node.users)
            bits = SHORTCUT_BITS if ends else self.act_bits
            self._replace(node, ActQuantiser(bits, limit=limit))
            return
        self._codes(source)
        grid = grid_of(argument(node))
        if limit is not None or (grid is not None and grid.zero_point):
            self._copy(node)
            self._replace(node, ActQuantiser(self.act_bits, limit=limit))
            return
        node.replace_all_uses_with(argument(node))  # codes without sign already
        self.graph.erase_node(node)

    def _function(self, node: fx.Node, function: Elementwise) -> None:
        """A table behind the sum, or a layer of its own where something else reads the sum, too."""
        source = argument(node)
        of_sums = source in self.sums and len(source.users) == 1
        if not of_sums:
            self._codes(source)
        bits = self.act_bits if feeds_layer(node) else SHORTCUT_BITS
        self._replace(node, TableQuantiser(function, bits, of_sums=of_sums))

    def _product(self, node: fx.Node) -> None:
        for index in (0, 1):  # after the first the second may be another node
            self._codes(argument(node, index))
        x, factor = argument(node), argument(node, 1)
        grids = grid_of(x), grid_of(factor)
        if shape_of(x) == shape_of(factor) and bits_of(grids[0]) > bits_of(grids[1]):
            x, factor, grids = factor, x, (grids[1], grids[0])
        if grids[1] is not None and grids[1].bits != SHORTCUT_BITS:
            grids[1].widen()  # the table has 8 bits of the product
        quantiser = ProductQuantiser(
            grids,
            self.act_bits if feeds_layer(node) else SHORTCUT_BITS,
            signed=any(map(is_signed, grids)),
        )
        name = free_submodule(self.module, f"{self._place(node)}_quant")
        self.module.add_submodule(name, quantiser)
        with self.graph.inserting_after(node):
            call = self.graph.call_module(name, (x, factor))
        call.meta |= node.meta
        node.replace_all_uses_with(call)
        self.graph.erase_node(node)

    def _follows_product(self, node: fx.Node) -> bool:
        """Whether ``node`` is a function of a product that nothing else reads."""
        if not isinstance(module_of(node), nn.ReLU | nn.Hardtanh | Elementwise):
            return False
        source = argument(node)
        return isinstance(module_of(source), ProductQuantiser) and len(source.users) == 1

    def _absorb(self, node: fx.Node) -> None:
        """The table of a product gives a function of it as well."""
        source, function = argument(node), module_of(node)
        product = module_of(source)
        assert isinstance(product, ProductQuantiser)
        if not isinstance(function, Elementwise):
            function = clamp_function(getattr(function, "max_val", None))
        bits = self.act_bits if feeds_layer(node) else SHORTCUT_BITS
        signed = not function.never_negative()
        self._replace(node, ProductQuantiser(product.grids, bits, signed=signed, function=function))
        node.args = (*source.args, *node.args[1:])
        self.graph.erase_node(source)
        self.module.delete_submodule(name_of(source))

    def _average(self, node: fx.Node, pool: nn.AvgPool2d | nn.AdaptiveAvgPool2d) -> None:
        self._codes(argument(node))
        source = grid_of(argument(node))
        bits = POOLED_BITS if shape_of(node)[1:] == (1, 1) else bits_of(source)
        _, height, width = shape_of(argument(node))
        self._replace(
            node,
            QuantAvgPool(
                source=source, pool=pool, size=(height, width), bits=bits, most=most_codes(node)
            ),
        )

    def _addition(self, node: fx.Node) -> None:
        """One operand is accumulated, the other added in the requantisation."""
        operands = argument(node), argument(node, 1)
        free = [
            a
            for a in operands
            if self.sums.get(a) is False and len(a.users) == 1 and not in_phases(a)
        ]
        if not free or operands[0] is operands[1]:
            free = [self._copy(node, *operands)]
            operands = argument(node), argument(node, 1)
        order = {n: i for i, n in enumerate(self.graph.nodes)}
        kept = max(free, key=order.__getitem__)
        for operand in operands:
            if operand is not kept:
                self._codes(operand)
        other = argument(node, 1) if argument(node) is kept else argument(node)
        node.args = (kept, other)
        self.sums[node] = True

    def _copy(self, node: fx.Node, *operands: fx.Node) -> fx.Node:
        """Sum for ``node`` alone of what it reads: of the operand that takes fewest bits."""
        for operand in dict.fromkeys(operands or (argument(node),)):
            self._codes(operand)
        given = [n for n in node.args if isinstance(n, fx.Node) and not is_constant(n)]
        source = min(given, key=lambda n: bits_of(grid_of(n)))
        copy = insert_copy(self.module, source, node, self._stem(node))
        self.sums[copy] = False
        return copy

    @staticmethod
    def _note_residual(node: fx.Node) -> None:
        """A quantiser of a sum learns of the codes that are added to it."""
        quantiser = module_of(node)
        if not isinstance(quantiser, ActQuantiser):
            return
        source = argument(node)
        while isinstance(module_of(source), nn.Dropout):
            source = argument(source)
        if is_add(source):
            quantiser.requantised.residual = [grid_of(argument(source, 1))]

    def _stem(self, node: fx.Node) -> str:
        return name_of(node) if node.op == "call_module" else self._place(node)

    def _codes(self, node: fx.Node) -> None:
        """Quantise ``node`` for all its readers, where it is a sum."""
        if node not in self.sums:
            return
        rounded = feeds_layer(node) and not is_of_image(node)
        bits = self.act_bits if rounded else SHORTCUT_BITS
        name = free_submodule(self.module, f"{self._stem(node)}_quant")
        self.module.add_submodule(name, ActQuantiser(bits, signed=True))
        with self.graph.inserting_after(node):
            quantiser = self.graph.call_module(name, (node,))
        quantiser.meta |= node.meta
        node.replace_all_uses_with(quantiser, lambda user: user is not quantiser)

    @staticmethod
    def _place(node: fx.Node) -> str:
        return ".".join(filter(None, (node.meta.get("path"), kind_of(node))))

    def _replace(self, node: fx.Node, module: nn.Module) -> None:
        replace_submodule(self.module, name_of(node), module)
