# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The register map: what host, driver and documentation know of it."""

import dataclasses
import hashlib
import json

import pytest

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.arch.registers import (
    REGISTERS,
    ErrorCode,
    config_digest,
    register_manifest,
    register_table_markdown,
)
from gateware.rtl.register_file import RegisterFile

CONFIG = AccelConfig(pot4_rows=5, fixed4_rows=2, fixed8_rows=1, pixels=4)
OFFSET = {register.name: register.offset for register in REGISTERS}


def test_map_is_well_formed() -> None:
    assert len({register.offset for register in REGISTERS}) == len(REGISTERS)
    assert len({register.name for register in REGISTERS}) == len(REGISTERS)
    assert [register.offset for register in REGISTERS] == sorted(OFFSET.values())
    for register in REGISTERS:
        assert register.offset % 4 == 0 and register.offset < 0x1000
        end = 0
        for field in register.fields:
            assert field.lsb >= end
            end = field.lsb + field.width
        assert end <= 32


def test_map_of_the_driver() -> None:
    """What is deployed: a change here is a new version of the map."""
    assert OFFSET == {
        "ID": 0x00,
        "VERSION": 0x04,
        "CONTROL": 0x08,
        "STATUS": 0x0C,
        "PROGRAM_BASE": 0x10,
        "INPUT_BASE": 0x14,
        "OUTPUT_BASE": 0x18,
        "WATCHDOG": 0x1C,
        "IRQ_ENABLE": 0x20,
        "IRQ_STATUS": 0x24,
        "ERROR_DESCRIPTOR": 0x28,
        "SHAPE": 0x2C,
        "CONFIG_DIGEST": 0x30,
        "PROGRAM_SIZE": 0x34,
        "INPUT_SIZE": 0x38,
        "OUTPUT_SIZE": 0x3C,
        "CYCLES": 0x40,
        "ARRAY_CYCLES": 0x44,
        "STALL_DRAIN": 0x48,
        "STALL_LOAD": 0x4C,
        "STALL_EXECUTE": 0x50,
        "STALL_STORE": 0x54,
        "STALL_FETCH": 0x58,
        "READ_BEATS": 0x5C,
        "WRITE_BEATS": 0x60,
        "DESCRIPTORS": 0x64,
    }
    assert {code.name: code.value for code in ErrorCode} == {
        "NONE": 0,
        "BAD_DESCRIPTOR": 1,
        "READ_ERROR": 2,
        "WRITE_ERROR": 3,
        "WATCHDOG": 4,
        "ABORTED": 5,
        "OUT_OF_BOUNDS": 6,
        "DEADLOCK": 7,
    }


def test_manifest_survives_json() -> None:
    manifest = json.loads(json.dumps(register_manifest()))
    assert manifest == register_manifest()
    assert {entry["name"]: entry["offset"] for entry in manifest["registers"]} == OFFSET
    status = next(entry for entry in manifest["registers"] if entry["name"] == "STATUS")
    assert [(f["name"], f["lsb"], f["width"]) for f in status["fields"]] == [
        ("busy", 0, 1),
        ("done", 1, 1),
        ("error", 2, 1),
        ("error_code", 8, 8),
    ]
    assert manifest["error_codes"]["WATCHDOG"] == 4


def test_table_names_every_register_and_field() -> None:
    lines = register_table_markdown().splitlines()
    assert len(lines) == 2 + len(REGISTERS) + sum(len(register.fields) for register in REGISTERS)
    assert len({line.count("|") for line in lines}) == 1
    assert "| 0x0C | STATUS |  | RO | State of the last run; start clears it. |" in lines
    assert "| | STATUS.error_code | 15:8 | | Why it failed, an ErrorCode. |" in lines


def test_digest(monkeypatch) -> None:
    before = config_digest(CONFIG)
    digest = hashlib.blake2s(f"{CONFIG.to_json()}\n{isa.VERSION}".encode()).hexdigest()
    assert f"{before:08x}" == digest[:8]
    assert config_digest(dataclasses.replace(CONFIG, clock_hz=1)) != before
    monkeypatch.setattr(isa, "VERSION", isa.VERSION + 1)
    assert config_digest(CONFIG) != before


def test_init_wrong_config() -> None:
    with pytest.raises(ValueError, match="8 rows and 256 pixels do not fit SHAPE"):
        RegisterFile(AccelConfig(pot4_rows=8, fixed4_rows=0, fixed8_rows=0, pixels=256))
