# SPDX-License-Identifier: Apache-2.0
"""Checks of ``accelerator.json`` and ``program.json``: types, ranges, and what belongs together.

A digest tells damage; these checks tell a file of another release, or an edited one, before
anything is computed from it.
"""

import re
from pathlib import PurePosixPath
from typing import Any, Dict, List, Set

import numpy as np

from .registers import MAJOR
from .tail import apply

MOST_BYTES = 1 << 32  #: that an address reaches
MOST_SIDE = 1 << 16  #: pixels of a side, and channels
COUNT = range(MOST_BYTES)
SIDE = range(1, MOST_SIDE)
CODE = range(256)
SOME = range(-MOST_SIDE, MOST_SIDE)
DIGEST = re.compile("[0-9a-f]{16,128}")

#: What a value must be: a type, a range of integers, a pattern of a text, a set of choices, a list
#: of one kind, a tuple of kinds, or a dictionary with at least these keys.
PLACE = {
    "channels": SIDE,
    "height": SIDE,
    "width": SIDE,
    "bits": {4, 8},
    "zero_point": CODE,
    "k": {8, 16},
    "banks": SIDE,
    "address": COUNT,
}
AXIS = {"patch": SIDE, "step": SIDE, "origin": SOME, "size": SIDE}
PROGRAM = {
    "name": str,
    "graph_digest": DIGEST,
    "network_digest": DIGEST,
    "config_digest": COUNT,
    "config": dict,
    "input": PLACE,
    "space_to_depth": {
        "shape": (SIDE, SIDE, SIDE),
        "y": AXIS,
        "x": AXIS,
        "zero_point": CODE,
        "border": [CODE],
    },
    "outputs": [
        {
            "name": str,
            "offset": COUNT,
            "wide_rows": range(MOST_SIDE),
            "place": PLACE,
            "scale": float,
            "wide_pitch": range(2 * MOST_SIDE),
            "columns": [range(MOST_SIDE)],
            "tiles": [[range(MOST_SIDE)]],
        }
    ],
    "results": [
        {
            "tensor": str,
            "name": str,
            "shape": [COUNT],
            "tail": [{"name": str, "arguments": [float]}],
        }
    ],
    "segments": [{"layer": str, "first": COUNT, "last": COUNT}],
    "class_names": [str],
    "image_bytes": COUNT,
    "image_digest": DIGEST,
    "input_scale": float,
    "output_bytes": COUNT,
    "batch": range(1, MOST_SIDE),
    "output_stride": COUNT,
    "wide_bytes": {8},
}
ACCELERATOR = {
    "title": str,
    "clock_hz": range(1, MOST_BYTES),
    "config_digest": COUNT,
    "connection": {"kind": {"zynq7", "serial"}},
    "bitstream": str,
    "registers": {
        "id": COUNT,
        "version": (COUNT, COUNT),
        "window_bytes": range(4096, 1 << 24),
        "registers": [
            {
                "name": str,
                "offset": range(0, 1 << 24, 4),
                "fields": [{"name": str, "lsb": range(32), "width": range(1, 33)}],
            }
        ],
        "error_codes": dict,
    },
}
CONNECTIONS = {
    "zynq7": {"register_base": COUNT, "hp_ports": range(1, 5), "ps_clock_hz": COUNT},
    "serial": {"baud": range(1, MOST_BYTES)},
}
#: Registers that the driver uses, and their fields.
REGISTERS: Dict[str, Set[str]] = {
    "ID": set(),
    "VERSION": {"major"},
    "CONTROL": {"start", "abort"},
    "STATUS": {"busy", "error", "error_code"},
    "PROGRAM_BASE": set(),
    "INPUT_BASE": set(),
    "OUTPUT_BASE": set(),
    "PROGRAM_SIZE": set(),
    "INPUT_SIZE": set(),
    "OUTPUT_SIZE": set(),
    "WATCHDOG": set(),
    "IRQ_ENABLE": {"finished"},
    "IRQ_STATUS": {"finished"},
    "ERROR_DESCRIPTOR": {"index"},
    "SHAPE": {"rows", "k", "pixels"},
    "CONFIG_DIGEST": set(),
    "CYCLES": set(),
}


def check_program(content: Any) -> None:
    """Check of the content of ``program.json``; raises ValueError that names the field."""
    _check(content, PROGRAM, "")
    _check_input(content)
    _check_outputs(content)


def check_accelerator(content: Any) -> None:
    """Check of the content of ``accelerator.json``; raises ValueError that names the field."""
    _check(content, ACCELERATOR, "")
    connection = content["connection"]
    _check(connection, CONNECTIONS[connection["kind"]], "connection")
    place = PurePosixPath(content["bitstream"])
    if place.is_absolute() or ".." in place.parts or not place.name or "\0" in str(place):
        raise ValueError(f"bitstream is {str(place)[:80]!r}, which is not in the folder")
    codes = content["registers"]["error_codes"].values()
    if not all(type(code) is int for code in codes):
        raise ValueError("error_codes are no integers")
    if content["registers"]["version"][0] != MAJOR:
        return  # of which Registers tells
    found = {register["name"]: register for register in content["registers"]["registers"]}
    for name, fields in REGISTERS.items():
        own = {field["name"] for field in found[name]["fields"]} if name in found else set()
        if name not in found or not fields <= own:
            raise ValueError(f"register {name} or one of its fields is missing")


def _check(value: Any, kind: Any, place: str) -> None:
    """Raise ValueError, with ``place`` in it, unless ``value`` is of ``kind``."""
    if isinstance(kind, dict):
        _demand(isinstance(value, dict), place, value)
        for key, inner in kind.items():
            if key not in value:
                raise ValueError(f"{f'{place}.{key}'.lstrip('.')} is missing")
            _check(value[key], inner, f"{place}.{key}".lstrip("."))
    elif isinstance(kind, (list, tuple)):
        _demand(isinstance(value, (list, tuple)), place, value)
        _demand(isinstance(kind, list) or len(value) == len(kind), place, value)
        for index, item in enumerate(value):
            _check(item, kind[0 if isinstance(kind, list) else index], f"{place}.{index}")
    elif isinstance(kind, range):
        _demand(type(value) is int and value in kind, place, value)
    elif isinstance(kind, set):
        _demand(type(value) in (int, str) and value in kind, place, value)
    elif isinstance(kind, re.Pattern):
        _demand(isinstance(value, str) and kind.fullmatch(value) is not None, place, value)
    elif kind is float:
        _demand(type(value) in (int, float) and abs(value) < 1e300, place, value)
    else:
        _demand(isinstance(value, kind), place, value)


def _demand(holds: bool, place: str, value: Any) -> None:
    if not holds:
        raise ValueError(f"{place or 'content'} is {str(value)[:60]!r}")


def _check_input(content: Dict[str, Any]) -> None:
    """Check that images, rearranged, are the input tensor."""
    place, patches = content["input"], content["space_to_depth"]
    y, x = patches["y"], patches["x"]
    found = [patches["shape"][0] * y["patch"] * x["patch"], y["size"], x["size"]]
    if found != [place["channels"], place["height"], place["width"]]:
        raise ValueError(f"space_to_depth gives {found}, which is not the shape of input")
    if len(patches["border"]) not in (0, patches["shape"][0]):
        raise ValueError("space_to_depth.border has not a code for each channel")
    if content["input_scale"] <= 0:
        raise ValueError(f"input_scale is {content['input_scale']}")
    if content["batch"] * _bytes(place) >= MOST_BYTES:
        raise ValueError("input is larger than the memory that an address reaches")


def _check_outputs(content: Dict[str, Any]) -> None:
    """Check that outputs lie in the memory of a run, and that results are made of them."""
    outputs: Dict[str, Dict[str, Any]] = {output["name"]: output for output in content["outputs"]}
    if not outputs or len(outputs) != len(content["outputs"]):
        raise ValueError("outputs are none, or have the same name")
    for output in outputs.values():
        end = output["offset"] + (_raw_bytes(output) or _bytes(output["place"]))
        if end > content["output_stride"]:
            raise ValueError(f"output {output['name'][:60]!r} ends behind output_stride")
    if content["batch"] * content["output_stride"] > content["output_bytes"]:
        raise ValueError("outputs of the batch are larger than output_bytes")
    if not content["results"]:
        raise ValueError("results are none")
    for result in content["results"]:
        if result["tensor"] not in outputs:
            raise ValueError(f"result of {result['tensor'][:60]!r}, which is no output")
        place = outputs[result["tensor"]]["place"]
        shape = [place["channels"], place["height"], place["width"]]
        _check_result(result, shape)


def _check_result(result: Dict[str, Any], shape: List[int]) -> None:
    size, wanted = 1, 1
    for side in shape:
        size *= side
    for side in result["shape"] or shape:
        wanted *= side
    if size != wanted:
        raise ValueError(f"result of {result['tensor'][:60]!r} has shape {result['shape']}")
    if result["tail"]:
        with np.errstate(all="ignore"):
            try:
                apply(result["tail"], np.zeros([1, *(result["shape"] or shape)]))
            except (KeyError, TypeError, IndexError, ValueError) as error:
                raise ValueError(f"result of {result['tensor'][:60]!r}: {error}") from error


def _bytes(place: Dict[str, int]) -> int:
    """Bytes of a tensor of codes."""
    groups = -(-place["channels"] // place["k"])
    return place["height"] * place["width"] * groups * place["k"] * place["bits"] // 8


def _raw_bytes(output: Dict[str, Any]) -> int:
    """Bytes of a raw output, whose parts are checked; 0 for one of codes."""
    rows, place, columns = output["wide_rows"], output["place"], output["columns"]
    if not rows:
        return 0
    name = output["name"][:60]
    widths = [last - first for first, last in zip(columns, columns[1:])]
    if columns[:1] != [0] or columns[-1] != place["width"] or min(widths, default=0) < 1:
        raise ValueError(f"columns of output {name!r} are not those of its width")
    if output["wide_pitch"] < max(widths):
        raise ValueError(f"wide_pitch of output {name!r} is less than its columns")
    channels = sorted(channel for tile in output["tiles"] for channel in tile)
    if channels != list(range(place["channels"])):
        raise ValueError(f"tiles of output {name!r} have not each channel once")
    parts = -(-place["height"] // rows)
    return len(channels) * parts * len(widths) * rows * output["wide_pitch"] * 8
