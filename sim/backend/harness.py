# SPDX-License-Identifier: Apache-2.0
"""Harness of simulations: builds a design for the simulator at hand, runs a cocotb bench on it.

Built designs live under ``build/sim/<toplevel>-<simulator>-<hash>``, where the hash covers the
Verilog and every option, so an unchanged design is built once and shared by all tests and all test
processes. Finding simulators is :mod:`sim.backend.simulators`, compiling for them
:mod:`sim.backend.compilers`."""

import dataclasses
import hashlib
import json
import os
import shutil
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping
from pathlib import Path

from amaranth.lib import wiring
from cocotb_tools.runner import get_runner

from gateware.pe.series7 import to_verilog
from ir import cli
from sim.backend.compilers import built_once, compile_icarus, verilate
from sim.backend.objects import BuildFailed
from sim.backend.simulators import ICARUS, Simulator, SimulatorNotFound, find_simulator

__all__ = [
    "BUILD_ROOT",
    "ECP5_MODELS",
    "SERIES7_MODELS",
    "BenchFailed",
    "BuildFailed",
    "Simulator",
    "SimulatorNotFound",
    "build_and_test",
    "build_simulation",
    "find_simulator",
    "run_bench",
    "to_verilog",
]

#: Verilog of the primitives that text for :class:`~gateware.pe.series7.Series7` instantiates.
SERIES7_MODELS = Path(__file__).with_name("series7.v")
#: The same for :class:`~gateware.pe.ecp5.Ecp5`.
ECP5_MODELS = Path(__file__).with_name("ecp5.v")
BUILD_ROOT = Path(__file__).resolve().parents[2] / "build" / "sim"
TIMESCALE = ("1ns", "1ps")
LOG_TAIL = 40  #: lines of a failed bench's log that are shown


class BenchFailed(AssertionError):
    """Failure of a bench: a cocotb test failed, none ran at all, or the simulator stopped with
    an error."""


def build_simulation(
    design: wiring.Component | str | Path,
    *,
    toplevel: str,
    build_root: Path = BUILD_ROOT,
    extra_verilog: Iterable[Path | str] = (),
    parameters: Mapping[str, object] | None = None,
    waves: bool = False,
    optimise: bool = False,
    hierarchical_modules: Iterable[str] = (),
    simulator: Simulator | None = None,
) -> Path:
    """Folder of the built simulation of ``design``, built unless the same build exists.

    Parameters
    ----------
    design : Component, str or Path
        An Amaranth component, Verilog text, or a Verilog file.
    toplevel : str
        Top module, which is also the name that a component gets.
    extra_verilog : iterable of Path or str
        Files or texts of modules that the design instantiates, such as a model of ``DSP48E1``.
    parameters : mapping
        Verilog parameters of the top module.
    waves : bool
        Build with signal tracing. Also on when the environment has ``WAVES=1``.
    optimise : bool
        For large designs on long runs: compile each file alone, let Verilator drop signals,
        so that a bench sees the ports of the top module only. Icarus ignores it.
    hierarchical_modules : iterable of str
        Modules that the design has many times, if it has them: compiled once, see
        :mod:`sim.backend.hierarchical`; waves do not show what is in them. Icarus ignores it.
    simulator : Simulator, optional
        Default :func:`~sim.backend.simulators.find_simulator`.

    Raises
    ------
    SimulatorNotFound
        No simulator is installed.
    BuildFailed
        The simulator's compiler refused the design; its log is in the message.
    """
    simulator = simulator or find_simulator()
    waves = waves or _waves_wanted()
    if isinstance(design, wiring.Component):
        design = to_verilog(design, toplevel)
    files = [design, *extra_verilog]
    request = _Request(
        simulator=simulator,
        toplevel=toplevel,
        texts=[file.read_text() if isinstance(file, Path) else file for file in files],
        parameters=dict(parameters or {}),
        waves=waves,
        optimise=optimise,
        hierarchical_modules=sorted(hierarchical_modules),
    )
    folder = build_root / f"{toplevel}-{simulator.name}-{request.digest}"
    if optimise and not folder.exists():
        cli.say("compiling the simulation: a minute to half an hour, once for each accelerator")
    return built_once(
        folder,
        lambda folder: request.compile(folder, build_root),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Request:
    """Texts and options of a simulation: all that its build depends on."""

    simulator: Simulator
    toplevel: str
    texts: list[str]
    parameters: dict[str, object]
    waves: bool
    optimise: bool
    hierarchical_modules: list[str]

    @property
    def digest(self) -> str:
        """Digest of everything, in hexadecimal, 8 bytes of BLAKE2s."""
        key = json.dumps(
            [
                self.simulator.name,
                self.simulator.version,
                str(self.simulator.executable),
                self.toplevel,
                self.texts,
                {name: str(value) for name, value in self.parameters.items()},
                self.waves,
                self.optimise,
                self.hierarchical_modules,
            ]
        )
        return hashlib.blake2s(key.encode(), digest_size=8).hexdigest()

    def compile(self, folder: Path, cache: Path) -> None:
        """Fill ``folder``; ``cache`` is where designs share what is compiled once."""
        sources = [folder / f"source_{index}.v" for index in range(len(self.texts))]
        for source, text in zip(sources, self.texts, strict=True):
            source.write_text(text)
        if self.simulator.name == ICARUS:
            compile_icarus(
                self.simulator,
                sources,
                toplevel=self.toplevel,
                folder=folder,
                parameters=self.parameters,
                timescale=TIMESCALE,
                waves=self.waves,
            )
        else:
            verilate(
                self.simulator,
                sources,
                toplevel=self.toplevel,
                folder=folder,
                parameters=self.parameters,
                timescale=TIMESCALE,
                waves=self.waves,
                optimise=self.optimise,
                hierarchical_modules=self.hierarchical_modules,
                cache=cache,
            )


def run_bench(
    built: Path,
    *,
    toplevel: str,
    test_module: str,
    simulator: Simulator | None = None,
    plusargs: Iterable[str] = (),
    env: Mapping[str, str] | None = None,
    seed: int | None = None,
    testcase: str | None = None,
    waves: bool = False,
) -> Path:
    """Results, ``results.xml``, of the cocotb tests of ``test_module`` on a built simulation.

    Each run has a folder of its own below ``built``, so processes may share one build. ``testcase``
    selects one test; ``seed`` seeds Python's ``random`` inside the bench, default the environment's
    ``SEED``; the other parameters are those of :func:`build_and_test`. What the bench prints goes
    to ``bench.log`` in its folder, and the end of it to stderr when it fails. Raises BenchFailed.
    """
    simulator = simulator or find_simulator()
    waves = waves or _waves_wanted()
    plusargs, env = list(plusargs), dict(env or {})
    if seed is None:
        seed = int(os.environ.get("SEED", "1"))

    runs = built / "runs"
    runs.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{test_module.rpartition('.')[2]}-", dir=runs))
    if waves and simulator.name == ICARUS:
        plusargs.append(f"+dumpfile_path={folder / 'dump.fst'}")
    results, log = folder / "results.xml", folder / "bench.log"
    failure = ""
    try:
        get_runner(simulator.name).test(
            test_module=test_module,
            hdl_toplevel=toplevel,
            hdl_toplevel_lang="verilog",
            build_dir=built,
            test_dir=folder,
            results_xml=str(results),
            plusargs=plusargs,
            extra_env=env,
            seed=seed,
            testcase=testcase,
            waves=waves,
            log_file=log,
        )
    except (RuntimeError, SystemExit) as error:
        # The runner reports a simulator that stopped as RuntimeError and failed tests as
        # SystemExit, the latter only under pytest; what the results say decides in both cases.
        failure = str(error)
    passed, failed = _read_results(results)
    if failed:
        failure = f"failed: {', '.join(failed)}"
    elif not passed:
        failure = f"no test ran ({failure})"
    if failure:
        _show_tail(log)
        raise BenchFailed(f"{test_module} on {simulator.name}: {failure}; seed {seed}, log {log}")
    return results


def _show_tail(log: Path) -> None:
    tail = log.read_text(errors="replace").splitlines()[-LOG_TAIL:] if log.is_file() else []
    sys.stderr.write("\n".join([*tail, ""]))


def build_and_test(
    design: wiring.Component | str | Path,
    *,
    toplevel: str,
    test_module: str,
    build_root: Path = BUILD_ROOT,
    extra_verilog: Iterable[Path | str] = (),
    parameters: Mapping[str, object] | None = None,
    plusargs: Iterable[str] = (),
    env: Mapping[str, str] | None = None,
    seed: int | None = None,
    testcase: str | None = None,
    waves: bool = False,
    optimise: bool = False,
    simulator: Simulator | None = None,
) -> None:
    """Check of ``design``, built by :func:`build_simulation`, with a cocotb bench that must pass.

    Parameters
    ----------
    test_module : str
        Importable module with ``@cocotb.test()`` functions, such as ``sim.benches.counter``.
    plusargs : iterable of str
        Arguments of the simulation, such as ``+image=3``.
    env : mapping
        Environment for the bench, which is how a test hands over paths and sizes.
    seed : int, optional
        Seed of the bench; default ``SEED`` of the environment, else 1. A failure prints it.
    testcase : str, optional
        Run this test of the module only.

    Raises
    ------
    BenchFailed
        A test failed or none ran; the message names them.
    """
    simulator = simulator or find_simulator()
    built = build_simulation(
        design,
        toplevel=toplevel,
        build_root=build_root,
        extra_verilog=extra_verilog,
        parameters=parameters,
        waves=waves,
        optimise=optimise,
        simulator=simulator,
    )
    results = run_bench(
        built,
        toplevel=toplevel,
        test_module=test_module,
        simulator=simulator,
        plusargs=plusargs,
        env=env,
        seed=seed,
        testcase=testcase,
        waves=waves,
    )
    if not (waves or _waves_wanted()):
        shutil.rmtree(results.parent)  # kept after a failure and for its waves only


def _waves_wanted() -> bool:
    return os.environ.get("WAVES", "0") not in ("", "0")


def _read_results(file: Path) -> tuple[list[str], list[str]]:
    """Names of the passed and of the failed tests in a results file; none if it does not exist."""
    if not file.exists():
        return [], []
    passed, failed = [], []
    for case in ElementTree.parse(file).iter("testcase"):
        if case.find("skipped") is None:
            bad = case.find("failure") is not None or case.find("error") is not None
            (failed if bad else passed).append(case.get("name", "?"))
    return passed, failed
