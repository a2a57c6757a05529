# SPDX-License-Identifier: Apache-2.0
"""Every ordinary piece of a network runs: torch = golden model = compiled program."""

import pytest

from bench.constructs import CONSTRUCTS, Construct, chain, main

#: Pieces that are still refused; a name leaves this list when its piece runs.
PENDING = {
    "convolution in one dimension",
}


@pytest.mark.parametrize(
    "construct",
    [
        pytest.param(
            c, id=c.name, marks=[pytest.mark.xfail(raises=ValueError)] * (c.name in PENDING)
        )
        for c in CONSTRUCTS
    ],
)
def test_construct_runs(construct: Construct) -> None:
    chain(construct.make, construct.shape)


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["one dimension"]) == 1
    assert "refused" in capsys.readouterr().out
