# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Row engines equal separate exact products, for all inputs; a wrong constant is found.

A number of words beyond 1 lets an accumulation begin anew, shift and stall in every possible way.
"""

from pathlib import Path

import pytest

from gateware.pe import fixed4, pot4
from gateware.pe.base import RowEngine
from gateware.pe.fixed4 import Fixed4DspEngine, Fixed4LutEngine, Fixed4PairEngine
from gateware.pe.fixed8 import Fixed8Engine
from gateware.pe.pot4 import Pot4Engine
from sim.formal import ProofFailed, prove


@pytest.mark.parametrize("kind, k, pixels, words", [
    (Pot4Engine, 1, 1, 4), (Pot4Engine, 16, 1, 1), (Fixed4PairEngine, 16, 2, 1),
    (Fixed4DspEngine, 1, 2, 2), (Fixed4DspEngine, 8, 2, 1), (Fixed4LutEngine, 1, 1, 2),
    (Fixed4LutEngine, 8, 1, 1), (Fixed8Engine, 4, 2, 1)])
def test_engine_keeps_its_contract(
        kind: type[RowEngine], k: int, pixels: int, words: int, tmp_path: Path) -> None:
    engine = kind(k=k, pixels=pixels)
    prove(engine, cycles=engine.latency + words, folder=tmp_path)


def test_a_wrong_constant_of_the_pre_adder_is_found(monkeypatch, tmp_path: Path) -> None:
    engine = Fixed4PairEngine(k=2, pixels=2)
    monkeypatch.setattr(fixed4, "CENTRE", 7)
    with pytest.raises(ProofFailed, match=r"Fixed4PairEngine\(k=2\) breaks its contract in cycle"):
        prove(engine, cycles=engine.latency + 1, folder=tmp_path)


def test_a_missing_borrow_is_found(monkeypatch, tmp_path: Path) -> None:
    engine = Fixed4PairEngine(k=2, pixels=2)
    add_fields = fixed4._add_fields
    monkeypatch.setattr(fixed4, "_add_fields", lambda m, fields, name: add_fields(
        m, [(field, None) for field, _ in fields], name))
    with pytest.raises(ProofFailed, match="breaks its contract"):
        prove(engine, cycles=engine.latency + 1, folder=tmp_path)


def test_a_wrong_bit_of_a_lut_is_found(monkeypatch, tmp_path: Path) -> None:
    engine = Pot4Engine(k=3, pixels=1)
    monkeypatch.setattr(pot4, "choose", lambda select, one, zero: select & one | zero)
    with pytest.raises(ProofFailed, match=r"Pot4Engine\(k=3\) breaks its contract"):
        prove(engine, cycles=engine.latency + 1, folder=tmp_path)
