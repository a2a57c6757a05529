# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Row engines equal separate exact products, for all inputs; a wrong constant or bit is found.

With any control bits, several words let a sum begin anew, shift and stall in every possible way.
"""

from pathlib import Path

import pytest

from gateware.pe import fixed4, pot4
from gateware.pe.base import RowEngine
from gateware.pe.fixed4 import Fixed4DspEngine, Fixed4LutEngine, Fixed4PairEngine
from gateware.pe.fixed8 import Fixed8Engine
from gateware.pe.pot4 import Pot4Engine
from sim.formal import ProofFailed, prove


@pytest.mark.parametrize("kind, k, words, any_control", [
    (Pot4Engine, 1, 3, True), (Pot4Engine, 2, 1, False), (Pot4Engine, 3, 1, False),
    (Fixed4LutEngine, 1, 2, True)])
def test_engine_keeps_its_contract(kind: type[RowEngine], k: int, words: int, any_control: bool,
                                   tmp_path: Path) -> None:
    prove(kind(k=k, pixels=1), words=words, any_control=any_control, folder=tmp_path)


@pytest.mark.parametrize("kind, split", [
    (Fixed4PairEngine, "weights"), (Fixed4DspEngine, "weights"), (Fixed8Engine, "act")])
def test_packed_products_are_separate_ones(
        kind: type[RowEngine], split: str, tmp_path: Path) -> None:
    prove(kind(k=1, pixels=2), words=1, any_control=False, split=split, folder=tmp_path)


def test_a_wrong_constant_of_the_pre_adder_is_found(monkeypatch, tmp_path: Path) -> None:
    engine = Fixed4PairEngine(k=2, pixels=2)
    monkeypatch.setattr(fixed4, "CENTRE", 7)
    with pytest.raises(ProofFailed, match=r"Fixed4PairEngine\(k=2\) breaks its contract in cycle"):
        prove(engine, words=1, any_control=False, folder=tmp_path)


def test_a_missing_borrow_is_found(monkeypatch, tmp_path: Path) -> None:
    engine = Fixed4PairEngine(k=2, pixels=2)
    add_fields = fixed4._add_fields
    monkeypatch.setattr(fixed4, "_add_fields", lambda m, fields, name: add_fields(
        m, [(field, None) for field, _ in fields], name))
    with pytest.raises(ProofFailed, match="breaks its contract"):
        prove(engine, words=1, any_control=False, folder=tmp_path)


def test_a_wrong_bit_of_a_lut_is_found(monkeypatch, tmp_path: Path) -> None:
    engine = Pot4Engine(k=3, pixels=1)
    monkeypatch.setattr(pot4, "choose", lambda select, one, zero: select & one | zero)
    with pytest.raises(ProofFailed, match=r"Pot4Engine\(k=3\) breaks its contract"):
        prove(engine, words=1, any_control=False, folder=tmp_path)
