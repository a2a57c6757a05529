# SPDX-License-Identifier: Apache-2.0
"""Object files of C++ sources, and programs linked of them, with a log of every command."""

import concurrent.futures
import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

import cocotb_tools.config

from sim.backend.simulators import cxx

JOBS = max(1, min(4, os.cpu_count() or 1))
Unit = tuple[Path, tuple[str, ...]]  #: a C++ file, and options of the compiler for it


class BuildFailed(RuntimeError):
    """Failure of Verilator or the C++ compiler to build the design; its log is in the message."""


def compiler() -> str:
    """C++ compiler. Raises BuildFailed where there is none."""
    found = cxx()
    if found is None:
        raise BuildFailed("no C++ compiler: install g++ or clang++, or set CXX")
    return found


def compile_units(units: list[Unit], flags: list[str], folder: Path, log: Path) -> list[Path]:
    """Compile every unit to an object file in ``folder``, a few at a time, the largest first."""
    ordered = sorted(units, key=lambda unit: -unit[0].stat().st_size)
    with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:

        def compile_one(unit: Unit) -> Path:
            source, optimisation = unit
            output = folder / f"{source.stem}.o"
            run([compiler(), *optimisation, *flags, "-c", "-o", output, source], log)
            return output

        return list(pool.map(compile_one, ordered))


def run(command: list, log: Path, env: Mapping[str, str] | None = None) -> None:
    """Run of a command whose output is appended to ``log``. Raises BuildFailed where it fails."""
    words = [str(word) for word in command]
    result = subprocess.run(
        words, capture_output=True, text=True, check=False, env={**os.environ, **(env or {})}
    )
    output = result.stdout + result.stderr
    with log.open("a") as file:
        file.write(f"$ {' '.join(words)}\n{output}")
    if result.returncode:
        raise BuildFailed(f"{words[0]} failed with exit status {result.returncode}:\n{output}")


def link(program: Path, objects: Iterable[Path], libraries: Iterable[Path], log: Path) -> None:
    """Link ``objects`` and those in the folders ``libraries`` with cocotb's library."""
    libs = cocotb_tools.config.libs_dir
    run(
        [
            compiler(),
            "-o",
            program,
            *objects,
            *(file for library in libraries for file in sorted(library.glob("*.o"))),
            "-pthread",
            f"-Wl,-rpath,{libs}",
            f"-L{libs}",
            "-lcocotbvpi_verilator",
        ],
        log,
    )
