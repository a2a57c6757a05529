# SPDX-License-Identifier: Apache-2.0
"""Functions of the host equal torch's, on the board as in the golden model."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from boards.driver import tail as on_board
from ir import tail
from ir.nodes import HostFunction

#: Arguments of each function, and what torch computes.
CASES = {
    "softmax": ((-2,), lambda x: x.softmax(1)),
    "log_softmax": ((-1,), lambda x: x.log_softmax(2)),
    "argmax": ((-2,), lambda x: x.argmax(1)),
    "sigmoid": ((), torch.sigmoid),
    "log_sigmoid": ((), F.logsigmoid),
    "tanh": ((), torch.tanh),
    "exp": ((), torch.exp),
    "softplus": ((2.0,), lambda x: F.softplus(x, 2.0)),
    "silu": ((), F.silu),
    "gelu": ((), F.gelu),
    "hardsigmoid": ((), F.hardsigmoid),
    "hardswish": ((), F.hardswish),
    "leaky_relu": ((0.1,), lambda x: F.leaky_relu(x, 0.1)),
    "elu": ((0.5,), lambda x: F.elu(x, 0.5)),
    "maximum": ((-1.0,), lambda x: x.clamp(-1)),
    "minimum": ((6,), lambda x: x.clamp(max=6)),
    "add": ((0.25,), lambda x: x + 0.25),
    "multiply": ((3,), lambda x: x * 3),
    "reshape": ((4, 6), lambda x: x.reshape(-1, 4, 6)),
    "permute": ((-1, -2), lambda x: x.permute(0, 2, 1)),
}


@pytest.mark.parametrize("name", tail.FUNCTIONS)
def test_function_is_that_of_torch(name: str, seed: int) -> None:
    arguments, expected = CASES[name]
    x = np.random.default_rng(seed).normal(0, 30, (5, 3, 8)).astype(np.float32)
    wanted = expected(torch.from_numpy(x).double()).numpy()
    functions = (HostFunction(name=name, arguments=arguments),)
    found = tail.apply(functions, x)
    assert found.dtype == (np.int64 if name == "argmax" else np.float32)
    np.testing.assert_allclose(found, wanted.astype(found.dtype), rtol=1e-6, atol=1e-30)
    again = on_board.apply([f.model_dump() for f in functions], x)
    assert again.dtype == found.dtype
    np.testing.assert_array_equal(again, found)


def test_functions_follow_one_another() -> None:
    functions = (
        HostFunction(name="multiply", arguments=(2,)),
        HostFunction(name="reshape", arguments=(3, 1)),
        HostFunction(name="add", arguments=(-1,)),
    )
    found = tail.apply(functions, np.array([[1.0, 2.0, 3.0]]))
    assert found.tolist() == [[[1.0], [3.0], [5.0]]]


def test_no_such_function() -> None:
    with pytest.raises(ValueError, match=r"^there is no function 'cubed'$"):
        tail.apply((HostFunction(name="cubed"),), np.zeros((1, 2)))
