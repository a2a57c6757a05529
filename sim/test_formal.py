# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Row engines equal separate exact products, for all inputs; a wrong constant or bit is found.

With any control bits, several words let a sum begin anew, shift and stall in every possible way.

Mirrors no module: it runs the proofs of sim.formal.
"""

from pathlib import Path

import pytest

from gateware.pe import fixed4_pair, pot4
from gateware.pe.base import RowEngine
from gateware.pe.dsp48 import DspMac, Head
from gateware.pe.fixed4_dsp import Fixed4DspEngine
from gateware.pe.fixed4_lut import Fixed4LutEngine
from gateware.pe.fixed4_pair import Fixed4PairEngine
from gateware.pe.fixed8 import Fixed8Engine
from gateware.pe.pot4 import Pot4Engine
from sim.formal.engines import Slices, prove
from sim.formal.reference_slice import prove_product, prove_slice
from sim.formal.smt import ProofFailed

PACKED = (Fixed4PairEngine, Fixed4DspEngine, Fixed8Engine)


@pytest.mark.parametrize(
    "kind, k, words, any_control",
    [
        (Pot4Engine, 1, 3, True),
        (Pot4Engine, 2, 1, False),
        (Pot4Engine, 3, 1, False),
        (Fixed4LutEngine, 1, 2, True),
    ],
)
def test_engine_keeps_its_contract(
    kind: type[RowEngine], k: int, words: int, any_control: bool, tmp_path: Path
) -> None:
    prove(kind(k=k, pixels=1), words=words, any_control=any_control, folder=tmp_path)


@pytest.mark.parametrize("kind", PACKED)
def test_a_packed_product_is_separate_ones(kind: type[RowEngine], tmp_path: Path) -> None:
    prove_product(kind, folder=tmp_path)


# The slices of Fixed4DspEngine are those of Fixed8Engine, with fewer weights.
@pytest.mark.parametrize("head", [Head.PRODUCT, Head.SUM])
@pytest.mark.parametrize("kind", [Fixed4PairEngine, Fixed8Engine])
def test_a_slice_keeps_its_fields_apart(kind: type[RowEngine], head: Head, tmp_path: Path) -> None:
    prove_slice(kind, head, folder=tmp_path)


@pytest.mark.parametrize(
    "kind, k, slices",
    [
        (Fixed4PairEngine, 8, Slices.REFERENCE),
        (Fixed8Engine, 16, Slices.REFERENCE),
        (Fixed4DspEngine, 2, Slices.FIELDS),
    ],
)
def test_engine_on_slices_keeps_its_contract(
    kind: type[RowEngine], k: int, slices: Slices, tmp_path: Path
) -> None:
    prove(kind(k=k, pixels=2), words=2, slices=slices, folder=tmp_path)


def test_weights_that_are_too_close_are_found(tmp_path: Path) -> None:
    with pytest.raises(ProofFailed, match="a product of Fixed4PairEngine is not what its fields"):
        prove_product(Fixed4PairEngine, shift=9, folder=tmp_path)


def test_a_wrong_constant_of_the_pre_adder_is_found(tmp_path: Path) -> None:
    mac = DspMac(preadd=-(8 << 20) - 7)
    with pytest.raises(ProofFailed, match="a slice of Fixed4PairEngine mixes its fields in cycle"):
        prove_slice(Fixed4PairEngine, Head.PRODUCT, mac=mac, folder=tmp_path)


def test_an_engine_with_another_constant_is_found(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fixed4_pair, "CENTRE", 7)
    with pytest.raises(ProofFailed, match=r"Fixed4PairEngine\(k=1\) breaks its contract in cycle"):
        prove(Fixed4PairEngine(k=1, pixels=2), words=1, any_control=False, folder=tmp_path)


def test_a_missing_borrow_is_found(monkeypatch, tmp_path: Path) -> None:
    engine = Fixed4PairEngine(k=2, pixels=2)
    add_fields = fixed4_pair._add_fields
    monkeypatch.setattr(
        fixed4_pair,
        "_add_fields",
        lambda m, fields, name: add_fields(m, [(field, None) for field, _ in fields], name),
    )
    with pytest.raises(ProofFailed, match="breaks its contract"):
        prove(engine, words=1, any_control=False, slices=Slices.REFERENCE, folder=tmp_path)


def test_a_wrong_bit_of_a_lut_is_found(monkeypatch, tmp_path: Path) -> None:
    engine = Pot4Engine(k=3, pixels=1)
    monkeypatch.setattr(pot4, "choose", lambda select, one, zero: select & one | zero)
    with pytest.raises(ProofFailed, match=r"Pot4Engine\(k=3\) breaks its contract"):
        prove(engine, words=1, any_control=False, folder=tmp_path)
