# SPDX-License-Identifier: Apache-2.0
"""Gather: picks, zeros and stride, against indexing."""

import torch

from quant.nn.gather import Gather


def test_picks_of_several_tensors(seed):
    torch.manual_seed(seed)
    a, b = torch.rand(2, 3, 5, 4), torch.rand(2, 4, 5, 4)
    whole = torch.cat([a, b], 1)
    found = Gather([6, -1, 0, 6], (2, 3))(a, b)
    assert torch.equal(found[:, [0, 2, 3]], whole[:, [6, 0, 6], ::2, ::3])
    assert (found[:, 1] == 0).all()


def test_vectors_and_gradients(seed):
    torch.manual_seed(seed)
    x = torch.rand(2, 4, requires_grad=True)
    Gather([3, 3, -1])(x).sum().backward()
    assert torch.equal(x.grad, torch.tensor([[0.0, 0, 0, 2]] * 2))
