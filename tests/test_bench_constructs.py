# SPDX-License-Identifier: Apache-2.0
"""Every ordinary piece of a network runs: torch = golden model = compiled program."""

import pytest
from torch import nn

from bench.constructs import CONSTRUCTS, Construct, chain, main, outcome


@pytest.mark.parametrize("construct", CONSTRUCTS, ids=lambda c: c.name)
def test_construct_runs(construct: Construct) -> None:
    chain(construct.make, construct.shape)


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["one dimension"]) == 0
    assert "1 runs" in capsys.readouterr().out


def test_what_is_refused_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = Construct(
        "norm", lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4)), (3, 8, 8)
    )
    monkeypatch.setattr("bench.constructs.CONSTRUCTS", [refused])
    assert "use batch-norm" in outcome(refused)
    assert main([]) == 1
