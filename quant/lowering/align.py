# SPDX-License-Identifier: Apache-2.0
"""Alignment: trained scales, gammas and offsets move to what the integer formats hold."""

import math

import numpy as np
import torch
from torch import Tensor, fx, nn

from ir import numerics
from quant.capture.nodes import argument, module_of
from quant.lowering import rounding
from quant.lowering.fusion import FusionGroup, encode_or_raise, fusion_groups, scale_of
from quant.lowering.grids import codes_source, grid_of
from quant.lowering.partition import is_hybrid
from quant.nn.activations import ActQuantiser
from quant.nn.layers import quantised_layers
from quant.nn.offloaded import OffloadedLinear

MAX_STEPS = 3.99  #: of an output per unit of the sum; M / 2^S is less than 4
MAX_PASSES = 4  #: a sum of three terms needs two: its scales depend on one another
#: Relative error that float32 leaves of an exact value: of one rounding, and of the several of a
#: quotient of scales. M and n have 16 bits, so values that were never aligned are farther off.
EXACT = 2.0**-22
EXACT_QUOTIENT = 2.0**-20


@torch.no_grad()
def align_scales(model: fx.GraphModule) -> int:
    """Alignment of scales and gammas, in place, to what the integer formats hold.

    A residual operand's ``n`` becomes exact, by a shift of a scale of up to 2^-15: without it, fake
    quantisation and integers round 1 of 300 sums of a block differently. Multipliers become exact
    by a change of gamma, or of alpha where there is no batch-norm, of up to 2^-16. Offsets go to
    the middle between two sums (:func:`quant.lowering.rounding.centre_rounding_margin`), so that
    none is at a tie. A model that is aligned already stays as it is, to the bit.

    A row with more than MAX_STEPS steps of its output per unit of the sum has a multiplier that M
    cannot express, and which brings nothing. An 8-bit output takes a coarser scale; of a 4-bit
    output that row gets a smaller gamma around the same mean, which happens where its inputs are
    all but dead. Returns how many rows that were. Raises :class:`~ir.arrays.ExportError`.
    """
    if is_hybrid(model):
        for layer in quantised_layers(model).values():
            if isinstance(layer, OffloadedLinear):
                _align_offloaded(layer)
        return 0
    for layer in quantised_layers(model).values():
        layer.fit_sums_()
    groups = list(fusion_groups(model).values())
    tamed = 0
    for _ in range(MAX_PASSES):
        leading = _leading(groups)
        if all(_is_aligned(group, leads=group in leading) for group in groups):
            break
        tamed += _align(groups)
    return tamed


def _align_offloaded(layer: OffloadedLinear) -> None:
    """Move each ``alpha`` to where its M is exact, by up to 2^-16 outside the last layer, so that
    what was trained is nearest to what the accelerator computes."""
    m, _, s = layer.requantisation()
    exact = torch.from_numpy(np.ldexp(m, -s)).to(layer.alpha.device)
    change = torch.where(exact > 0, exact / layer.factors(), 1)
    if (change - 1).abs().max() > EXACT:
        layer.alpha.mul_(change)


def _align(groups: list[FusionGroup]) -> int:
    tamed = sum(_limit_steps(group) for group in groups if group.quantiser is not None)
    for group in groups:
        if group.residual is not None:
            _exact_residual(group, group.residual)
    for group in _leading(groups):
        if group.quantiser is not None:
            _exact_multipliers(group)
            _centre_offsets(group)
    return tamed


def _leading(groups: list[FusionGroup]) -> list[FusionGroup]:
    """Groups without those whose multipliers an earlier one moves, as of a layer used twice."""
    first: dict[int, FusionGroup] = {}
    for group in groups:
        first.setdefault(id(_multiplier(group)), group)
    return list(first.values())


def _multiplier(group: FusionGroup) -> nn.Parameter:
    """The parameter that moves the multipliers of ``group``."""
    return group.layer.alpha if group.norm is None else group.norm.weight


def _is_aligned(group: FusionGroup, leads: bool) -> bool:
    """Whether n and, where it ``leads``, M and B of ``group`` are exact, as far as float32 can
    tell."""
    if group.quantiser is None:
        return True
    target = group.output.scale.item()
    if group.residual is not None:
        real = scale_of(group.residual) / target * (1 << numerics.SHIFT_MIN)
        if abs(real - round(real)) > EXACT_QUOTIENT * real or not 1 <= round(real):
            return False
    if not leads:
        return True
    factors, offsets = _rows(group)
    parameter, errors = _offset(group), [math.inf] * len(offsets)
    if parameter is not None:
        errors = (EXACT * (parameter.abs().double() * group.gain.abs() / target)).tolist()
    for factor, offset, error in zip(factors, offsets, errors, strict=True):
        try:
            m, b, s = numerics.encode_row(factor, offset)
        except ValueError:  # too large
            return False
        if m and abs(math.ldexp(m, -s) - factor) > EXACT * factor:
            return False
        if abs(numerics.row_offset(b, s) - offset) > error + EXACT * abs(offset):
            return False
    return True


def _rows(group: FusionGroup) -> tuple[list[float], list[float]]:
    """Factor and offset of each row in steps of the output; the factor without its sign."""
    scale = group.output.scale.item()
    steps = group.steps(scale_of(group.source), scale).abs()
    return steps.tolist(), (group.affine[1] / scale).tolist()


def _offset(group: FusionGroup) -> Tensor | None:
    """The parameter that moves the offsets of ``group``."""
    return group.layer.bias if group.norm is None else group.norm.bias


def _limit_steps(group: FusionGroup) -> int:
    quantiser = group.output
    excess = group.steps(scale_of(group.source), quantiser.scale.item()).abs() / MAX_STEPS
    if quantiser.bits == 8 or group.norm is None:
        quantiser.clip.mul_(max(1.0, excess.max().item()))
        return 0
    excess.clamp_(min=1)
    group.norm.weight.div_(excess)  # of gamma * (x - mean) / sigma + beta
    return int((excess > 1 + EXACT).sum())


def _exact_residual(group: FusionGroup, residual: fx.Node) -> None:
    operand, out = codes_source(residual), group.output
    out.clamp_scales_()
    own, target = scale_of(operand), out.scale.item()
    n = encode_or_raise(group.name, numerics.encode_residual, own / target)
    ratio = max(n, 1) / (1 << numerics.SHIFT_MIN)
    quantiser = module_of(operand)
    tie = quantiser.tie if isinstance(quantiser, ActQuantiser) else None
    if quantiser is out or (tie is not None and out in tie.members):
        return  # one grid
    alone = set(operand.users) == {argument(group.result)} and tie is None
    if isinstance(quantiser, ActQuantiser) and alone:
        quantiser.clip.copy_(out.scale * ratio * quantiser.high)
    else:  # its other readers need it as it is
        out.clip.fill_(own / ratio * out.high)


def _exact_multipliers(group: FusionGroup) -> None:
    factors, offsets = _rows(group)
    exact = []
    for factor, offset in zip(factors, offsets, strict=True):
        m, _, s = encode_or_raise(group.name, numerics.encode_row, factor, offset)
        exact.append(math.ldexp(m, -s) / factor if m else 1.0)
    parameter = _multiplier(group)
    parameter.mul_(torch.tensor(exact, dtype=torch.float64, device=parameter.device))


def _centre_offsets(group: FusionGroup) -> None:
    parameter = _offset(group)
    if parameter is None:
        return
    quantiser, scale = group.output, group.output.scale.item()
    n, residuals = 0, (0, 0)
    if group.residual is not None:
        real = scale_of(group.residual) / scale
        n = encode_or_raise(group.name, numerics.encode_residual, real)
        residuals = _range(group.residual)
    outputs = quantiser.low, quantiser.high
    factors, offsets = _rows(group)
    moved = []
    for factor, offset in zip(factors, offsets, strict=True):
        m, b, s = encode_or_raise(group.name, numerics.encode_row, factor, offset)
        b = rounding.centre_rounding_margin(m, b, s, outputs, n, residuals)
        moved.append(numerics.row_offset(b, s) - offset)
    change = torch.tensor(moved, dtype=torch.float64, device=parameter.device) * scale
    gain = group.gain
    parameter.add_(torch.where(gain != 0, change / gain, 0))


def _range(node: fx.Node) -> tuple[int, int]:
    """Least and largest code of ``node``, less its zero point."""
    grid = grid_of(node)
    if grid is None:
        return 0, numerics.act_max(8)
    return -grid.zero_point, numerics.act_max(grid.bits) - grid.zero_point
