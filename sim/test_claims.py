# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Claims about units are proved, and a unit with a fault breaks the claim that is about it."""

import dataclasses
from pathlib import Path

import pytest
from amaranth import *

from gateware.rtl import bursts
from gateware.rtl.control import Sequencer
from gateware.rtl.decode import Decoder
from gateware.rtl.release import ReleaseQueue
from sim.formal.claims import CLAIMS, SILENCE_CYCLES
from sim.formal.designs import CONFIG
from sim.formal.smt import ProofFailed


@pytest.mark.parametrize("name", CLAIMS)
def test_claim(name: str, tmp_path: Path) -> None:
    CLAIMS[name].prove(tmp_path)


def broken(name: str, folder: Path, **changes) -> None:
    """Check that the claim, perhaps of another unit, is broken."""
    with pytest.raises(ProofFailed, match=r"a claim about .* is broken in cycle"):
        dataclasses.replace(CLAIMS[name], **changes).prove(folder)


def test_longer_bursts_are_found(monkeypatch, tmp_path: Path) -> None:
    """Bursts that end at a multiple of 32 beats."""
    monkeypatch.setattr(bursts, "BURST_BEATS", 17)
    broken("bursts", tmp_path)


def test_a_missing_comparison_is_found(monkeypatch, tmp_path: Path) -> None:
    def compare_none(self: ReleaseQueue, m: Module, head: object) -> None:
        """Nothing is ever waited for."""

    monkeypatch.setattr(ReleaseQueue, "_compare", compare_none)
    broken("waits", tmp_path)


def test_a_missing_bound_is_found(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Decoder, "_check_end", lambda self, m, transfer: None)
    broken("outside", tmp_path)


def test_a_longer_silence_is_found(tmp_path: Path) -> None:
    longer = Sequencer(CONFIG, silence_cycles=2 * SILENCE_CYCLES)
    broken("silence", tmp_path, make=lambda: longer)
