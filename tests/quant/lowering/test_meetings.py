# SPDX-License-Identifier: Apache-2.0
"""Tensors that meet in a concatenation have one grid, and integers that agree with it."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench.constructs import Fn, cbr, chain, head
from quant.lowering.grids import grid_of
from quant.lowering.prepare import calibrate, prepare
from quant.nn.activations import Regrid
from quant.nn.gather import Gather


def _meeting(f, **more):
    return lambda: Fn(f, c=cbr(3, 8), d=nn.Conv2d(8, 8, 3, padding=1), h=head(16), **more)


CASES = {
    "ReLU and a sum": _meeting(lambda s, x: (lambda y: s.h(torch.cat([y, s.d(y)], 1)))(s.c(x))),
    "ReLU6 and ReLU": _meeting(
        lambda s, x: (lambda y: s.h(torch.cat([F.relu6(s.d(y)), y], 1)))(s.c(x))
    ),
    "image": lambda: Fn(
        lambda s, x: s.h(torch.cat([s.c(x), x], 1)),
        c=cbr(3, 8),
        h=nn.Sequential(cbr(11, 8), head(8)),
    ),
    "fine average": lambda: Fn(
        lambda s, x: (lambda y: s.h(torch.cat([y.mean((2, 3)), F.relu(s.d(y)).flatten(1)], 1)))(
            s.c(x)
        ),
        c=cbr(3, 8),
        d=nn.Conv2d(8, 8, 8),
        h=nn.Linear(16, 4),
    ),
    "ReLU behind": _meeting(
        lambda s, x: (lambda y: s.h(F.relu(torch.cat([s.d(y), s.d2(y)], 1))))(s.c(x)),
        d2=nn.Conv2d(8, 8, 1),
    ),
    "sum with a concatenation": _meeting(
        lambda s, x: (lambda y: s.h(F.relu(s.e(y) + torch.cat([y, y], 1))))(s.c(x)),
        e=nn.Conv2d(8, 16, 1),
    ),
    "inside a residual block": _meeting(
        lambda s, x: (lambda y: s.h(torch.cat([y, F.relu(y + s.d(y))], 1)))(s.c(x))
    ),
    "split and joined again": _meeting(
        lambda s, x: (
            lambda y: s.h(torch.cat([y, torch.cat(list(reversed(y.chunk(2, 1))), 1)], 1))
        )(s.c(x))
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_integers_down_to_the_program(name, seed):
    chain(CASES[name], (3, 8, 8), seed=seed)


def _gather(model):
    return next(n for n in model.graph.nodes if isinstance(_module(model, n), Gather))


def _module(model, node):
    return model.get_submodule(node.target) if node.op == "call_module" else None


def test_one_clip_through_training_copies_and_files(seed):
    torch.manual_seed(seed)
    net, x = CASES["ReLU and a sum"]().eval(), torch.rand(8, 3, 8, 8)
    model = prepare(net, x)
    calibrate(model, x)
    for this in (model, copy.deepcopy(model)):
        first, second = (grid_of(n) for n in _gather(this).all_input_nodes)
        assert first is not second and first.clip is second.clip
        assert first.zero_point == second.zero_point > 0
        assert (first.low, second.low) == (0, -second.zero_point)
    optimiser = torch.optim.SGD(model.train().parameters(), 0.1)
    model(x).square().mean().backward()
    optimiser.step()
    fresh = prepare(net, x)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh.eval()(x), model.eval()(x))


def test_the_common_grid_holds_all_values(seed):
    torch.manual_seed(seed)
    net, x = CASES["ReLU and a sum"]().eval(), torch.rand(8, 3, 8, 8)
    net.d.weight.data.mul_(30)
    model = prepare(net, x)
    calibrate(model, x)
    grid = grid_of(_gather(model).all_input_nodes[0])
    assert grid.clip > 5 * net.c(x).max()


def test_only_what_cannot_be_chosen_is_rounded_again(seed):
    torch.manual_seed(seed)
    counts = {}
    for name in ("image", "ReLU and a sum"):
        model = prepare(CASES[name]().eval(), torch.rand(2, 3, 8, 8))
        counts[name] = sum(isinstance(m, Regrid) for m in model.modules())
    assert counts == {"image": 1, "ReLU and a sum": 0}


def test_fake_quantisation_agrees_with_the_integers(seed):
    graph = chain(CASES["ReLU and a sum"], (3, 8, 8), seed=seed)
    gather = next(n for n in graph.nodes if n.op == "gather")
    assert len({graph.tensor(n).scale for n in (*gather.inputs, gather.output)}) == 1
    assert np.array_equal(gather.picks, range(16))
