# SPDX-License-Identifier: Apache-2.0
"""Random networks are the same for a seed, and never a fault of the project."""

import pytest

from bench.random_networks import main, network, outcome


@pytest.mark.parametrize("number", range(6))
def test_no_network_is_a_fault(number: int, seed: int) -> None:
    result, reason = outcome(1000 * seed + number)
    assert result in ("equal", "refused"), reason


def test_a_seed_gives_the_same_network() -> None:
    assert network(3)[0].names == network(3)[0].names
    assert len({tuple(network(seed)[0].names) for seed in range(10)}) > 5


def test_one_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "2"]) == 0
    assert "conv 3x3" in capsys.readouterr().out
