# SPDX-License-Identifier: Apache-2.0
"""Descriptors and slots: every field survives, nothing is truncated in silence."""

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.arch.isa import Opcode
from gateware.compiler.pack import SlotResult, pack_slot
from ir.numerics import BIAS_BITS
from tests.helpers.units import TINY, fields

LAYOUTS = {"TRANSFER": isa.TRANSFER, "TENSOR": isa.TENSOR, "EXECUTE": isa.EXECUTE}
WIDTHS = [
    (layout, name, field.width) for layout, fields_ in LAYOUTS.items() for name, field in fields_
]

CONFIGS = [
    TINY,
    AccelConfig(pot4_rows=1, fixed4_rows=0, fixed8_rows=0, requant_lanes=1, bus_bits=32),
    AccelConfig(pot4_rows=10, fixed4_rows=5, fixed8_rows=1, pixels=4, requant_lanes=4),
    AccelConfig(pot4_rows=42, fixed4_rows=19, fixed8_rows=3, pixels=8, requant_lanes=16),
    AccelConfig(pot4_rows=3, fixed4_rows=2, fixed8_rows=1, requant_lanes=2),
]


@pytest.mark.parametrize("name", LAYOUTS)
def test_fits_a_descriptor(name):
    assert LAYOUTS[name].size <= isa.DESCRIPTOR_BITS


def test_all_layouts_begin_alike():
    # The sequencer reads the header of every descriptor through HEADER, base and offset through
    # TENSOR, and the buffers' destination through TRANSFER.
    for layout in LAYOUTS.values():
        assert {name: layout[name] for name, _ in isa.HEADER} == dict(isa.HEADER)
    shared = ("base", "offset", "beats")
    assert [isa.TENSOR[n] for n in shared] == [isa.TRANSFER[n] for n in shared]


@pytest.mark.parametrize("opcode", Opcode)
def test_decoded_descriptors(opcode, seed):
    """A descriptor decodes to the fields that were packed, of the opcode's own layout."""
    rng = random.Random(seed)
    layout = isa.LAYOUTS[opcode]
    given = {name: rng.getrandbits(field.width) for name, field in layout} | {"opcode": opcode}
    noise = rng.getrandbits(isa.DESCRIPTOR_BITS) >> layout.size << layout.size
    decoded = isa.decode(isa.pack(layout, **given) | noise)
    assert decoded.opcode is opcode and decoded.fields == given
    assert decoded.waits == {queue: given[f"wait_{queue}"] for queue in isa.QUEUES}
    if opcode is Opcode.END:
        with pytest.raises(ValueError, match="END goes to no queue"):
            _ = decoded.queue
    else:
        assert opcode in isa.QUEUES[decoded.queue]


def test_descriptors_of_an_image():
    """They end with END; what has no opcode is named when it is reached."""
    words = [fields(isa.TRANSFER, opcode=opcode) for opcode in (Opcode.STORE_WIDE, Opcode.END, 0)]
    image = b"".join(
        isa.pack(isa.TRANSFER, **word).to_bytes(isa.DESCRIPTOR_BYTES, "little") for word in words
    )
    assert [d.opcode for d in isa.descriptors(image)] == [Opcode.STORE_WIDE, Opcode.END]
    rest = isa.descriptors(image[: isa.DESCRIPTOR_BYTES])
    assert next(rest).opcode is Opcode.STORE_WIDE
    with pytest.raises(ValueError, match=r"^descriptor 1 has opcode 0$"):
        next(rest)


@pytest.mark.parametrize("name", LAYOUTS)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_round_trip(name, data):
    layout = LAYOUTS[name]
    edge = {
        field: st.one_of(
            st.sampled_from([0, (1 << f.width) - 1]), st.integers(0, (1 << f.width) - 1)
        )
        for field, f in layout
    }
    values = data.draw(st.fixed_dictionaries(edge))
    bits = isa.pack(layout, **values)
    assert isa.unpack(layout, bits) == values
    assert bits.bit_length() <= layout.size
    # What the hardware's view of the same bits says.
    constant = layout.from_bits(bits)
    assert {field: int(constant[field]) for field, _ in layout} == values


@pytest.mark.parametrize(("name", "field", "width"), WIDTHS)
def test_out_of_range(name, field, width):
    good = fields(LAYOUTS[name])
    for value in (1 << width, -1):
        with pytest.raises(ValueError, match=rf"field {field} = {value} does not fit {width} bits"):
            isa.pack(LAYOUTS[name], **good | {field: value})
    assert isa.unpack(
        LAYOUTS[name], isa.pack(LAYOUTS[name], **good | {field: (1 << width) - 1})
    ) == good | {field: (1 << width) - 1}


def test_missing_and_unknown_fields():
    good = fields(isa.TRANSFER, opcode=1)
    with pytest.raises(ValueError, match=r"\['beats'\] are missing or unknown"):
        isa.pack(isa.TRANSFER, **{k: v for k, v in good.items() if k != "beats"})
    with pytest.raises(ValueError, match=r"\['colour'\] are missing or unknown"):
        isa.pack(isa.TRANSFER, **good, colour=1)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_slots_read_the_same_in_hardware_and_emulator(config, seed):
    rng = random.Random(seed)
    layout = isa.slot_layout(config)
    for _ in range(5):
        bits = rng.getrandbits(layout.size)
        slot = isa.unpack_slot(config, bits)
        constant = layout.from_bits(bits)
        for part, count in (("lanes", config.requant_lanes), ("columns", config.k)):
            assert len(slot[part]) == count
            for i, entry in enumerate(slot[part]):
                view = {name: int(constant[part][i][name]) for name in entry}
                if part == "lanes":
                    view["bias"] -= view["bias"] >> BIAS_BITS - 1 << BIAS_BITS
                assert entry == view


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_packed_slots(config, seed):
    rng = random.Random(seed)
    q = config.requant_lanes
    columns = rng.sample(range(config.k), q)
    results = [
        SlotResult(
            lane=rng.randrange((config.rows + config.k) // q) * q + lane,
            column=columns[lane],
            offset=rng.randrange(1 << 16),
            multiplier=rng.randrange(1 << 16),
            bias=rng.randrange(-1 << 47, 1 << 47),
            shift=rng.randrange(14, 46),
        )
        for lane in range(q)
    ]
    stored = pack_slot(results, config)
    assert len(stored) * 8 == isa.slot_beats(config) * config.bus_bits
    slot = isa.unpack_slot(config, int.from_bytes(stored, "little"))
    for lane, result in enumerate(results):
        assert slot["lanes"][lane] == {
            "row": result.lane // q,
            "column": result.column,
            "multiplier": result.multiplier,
            "bias": result.bias,
            "shift": result.shift,
        }
        assert slot["columns"][result.column] == {
            "enable": 1,
            "lane": lane,
            "offset": result.offset,
        }
    assert sum(column["enable"] for column in slot["columns"]) == q


@pytest.mark.parametrize("tables", [False, True])
def test_opcodes_of_an_array(tables: bool) -> None:
    """Tables are loaded only where there are some."""
    config = dataclasses.replace(TINY, tables=tables)
    loads = {Opcode.LOAD_WEIGHTS, Opcode.LOAD_SLOTS, Opcode.LOAD_TENSOR}
    assert set(isa.opcodes(config, "loads")) == loads | ({Opcode.LOAD_TABLE} if tables else set())
    assert isa.opcodes(config, "executes") == (Opcode.EXECUTE,)
