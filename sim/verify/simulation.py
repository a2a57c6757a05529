# SPDX-License-Identifier: Apache-2.0
"""Simulation of compiled programs on the generated Verilog of a whole accelerator.

The simulated memory holds the program, all input tensors and all output regions; the bench
(:mod:`sim.benches.accelerator_bench`) starts one run per image and hands back the memory and the
counters.
"""

import contextlib
import dataclasses
import functools
import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np

from gateware.arch.config import AccelConfig
from gateware.compiler.program import Program
from gateware.flow.verilog import accelerator_verilog
from gateware.model.emulator import Emulator
from gateware.model.timeline import Timeline
from gateware.pe.series7 import Series7
from gateware.rtl.array import engine_modules
from ir import cli
from sim.backend.harness import (
    BUILD_ROOT,
    ECP5_MODELS,
    SERIES7_MODELS,
    BenchFailed,
    build_simulation,
    run_bench,
)
from sim.backend.simulators import VERILATOR, Simulator, find_simulator
from sim.world.ddr import DDR_VERILOG
from sim.world.system import (
    COUNTER_LOG,
    WAVEFORM_FILE,
    WAVEFORM_TRIGGER,
    System,
    read_counter_log,
)

PAGE = 4096  #: bytes; regions start at a multiple
MIN_DDR_BEATS = 1 << 16
TOPLEVEL = "system"
SAMPLES = 1000  #: about as many times per run the counters are logged between descriptors
OTHER_FILL = 0b1010  #: another content of the buffers than 0
MIN_SAMPLE = 100  #: cycles, at least, from one time to the next

Task = tuple[Program, np.ndarray]  #: a program, and integer images (N, C, H, W) for it


@dataclasses.dataclass(frozen=True)
class Simulation:
    """Outputs and counters of an accelerator.

    outputs : for each image, tensors (C, H, W) by name
    counters : for each run, the accelerator's counters by register name
    samples : for each run, the same counters and ERROR_DESCRIPTOR, the first descriptor that is not
        complete: exact when that changes, and from time to time between
    batch : images of a run
    """

    outputs: list[dict[str, np.ndarray]]
    counters: list[dict[str, int]]
    samples: list[list[dict[str, int]]] = dataclasses.field(default_factory=list)
    batch: int = 1

    @property
    def cycles(self) -> int:
        """Mean cycles per image, rounded."""
        return round(sum(c["CYCLES"] for c in self.counters) / len(self.counters) / self.batch)


class RunOptions(TypedDict, total=False):
    """Keyword arguments that :func:`simulate_all` and :func:`trace` share."""

    stall: int
    seed: int
    plusargs: Iterable[str]


class Options(RunOptions, total=False):
    """Keyword arguments of :func:`simulate_all`."""

    testcase: str
    simulator: Simulator | None
    build_root: Path


def simulate(
    program: Program,
    images: np.ndarray,
    verilog: Path | str | None = None,
    **options: Unpack[Options],
) -> Simulation:
    """Simulation of integer ``images`` (N, C, H, W) on the generated Verilog; see
    :func:`simulate_all`."""
    return simulate_all([(program, images)], verilog, **options)[0]


def simulate_all(
    tasks: Sequence[Task],
    verilog: Path | str | None = None,
    *,
    stall: int = 0,
    seed: int = 1,
    plusargs: Iterable[str] = (),
    testcase: str = "run_images",
    simulator: Simulator | None = None,
    build_root: Path = BUILD_ROOT,
) -> list[Simulation]:
    """Simulations of programs for one accelerator, each on its images, one after the other.

    As many images at a time as the program is for; a last run is filled up with the last image.
    ``verilog`` is the accelerator's file or text; by default it is generated from the programs'
    configuration for a 7-series device. ``stall`` is the probability out of 256 that each bus
    channel pauses in a cycle; ``plusargs`` are those of the DDR model; ``testcase`` is a test of
    :mod:`sim.benches.accelerator_bench`.

    Raises BenchFailed when a run ends with an error, never ends, or breaks a bus rule.
    """
    system = _System(tasks, verilog, simulator, build_root)
    data, folder = system.run(testcase, stall, seed, plusargs)
    shutil.rmtree(folder)
    found, first = [], 0
    for program, images in tasks:
        runs = slice(first, first + -(-len(images) // program.batch))
        outputs = [
            output
            for region in data["memory"][runs]
            for output in program.read(bytes.fromhex(region))
        ]
        found.append(
            Simulation(
                outputs[: len(images)],
                data["counters"][runs],
                data["samples"][runs],
                program.batch,
            )
        )
        first = runs.stop
    return found


def attack(
    program: Program,
    images: np.ndarray,
    testcase: str,
    *,
    seed: int,
    first: int,
    count: int,
    seconds: float,
    stall: int = 0,
    build_root: Path = BUILD_ROOT,
) -> dict:
    """Attacks ``first`` and on, ``count`` of them or as many as ``seconds`` allow.

    ``testcase`` is a test of :mod:`sim.benches.attack_bench`. The result has ``counts`` by what
    came of them, the ``most`` cycles of a program whose first descriptor was refused, and
    ``failures``, a line for each attack that the accelerator did not stand. Raises BenchFailed
    where the right program fails without any.
    """
    system = _System([(program, images)], None, None, build_root)
    packed = b"".join(program.pack(image) for image in images[: program.batch])
    output, other = (_emulated(program, packed, fill) for fill in (0, OTHER_FILL))
    more = {
        "config": program.config.to_json(),
        "program": program.image.hex(),
        "expected": output.hex(),
        "matters": bytes(a == b for a, b in zip(output, other, strict=True)).hex(),
        "seed": seed,
        "first": first,
        "count": count,
        "seconds": seconds,
    }
    data, folder = system.run(testcase, stall, seed, (), more, module="attack_bench")
    shutil.rmtree(folder)
    return {name: data[name] for name in ("counts", "most", "failures")}


def _emulated(program: Program, packed: bytes, fill: int) -> bytes:
    """Output of ``program`` in an emulator whose buffers begin with ``fill``, which a store brings
    along in channels that there are not."""
    emulator = Emulator(program.config)
    emulator.act[:], emulator.wide[:] = fill, fill
    return emulator.run(program.image, packed, program.output_size)


def trace(
    program: Program,
    images: np.ndarray,
    verilog: Path | str | None,
    cycles: tuple[int, int],
    target: Path,
    *,
    stall: int = 0,
    seed: int = 1,
    plusargs: Iterable[str] = (),
    build_root: Path = BUILD_ROOT,
) -> None:
    """Waveform of ``cycles`` (first, last) of one run, simulated again, in ``target``.

    A waveform of a whole run is too large to look at. Other parameters are those of
    :func:`simulate`, whose counters say which cycles matter.
    """
    system = _System([(program, images)], verilog, None, build_root, traced=True)
    plusargs = [*plusargs, f"+waveform_from={cycles[0]}"]
    _, folder = system.run("run_until", stall, seed, plusargs, {"end": cycles[1]})
    shutil.move(folder / WAVEFORM_FILE, target)
    shutil.rmtree(folder)


class _System:
    """A built simulation of programs on some images each."""

    def __init__(
        self,
        tasks: Sequence[Task],
        verilog: Path | str | None,
        simulator: Simulator | None,
        build_root: Path,
        *,
        traced: bool = False,
    ) -> None:
        config = tasks[0][0].config
        self._simulator = simulator or find_simulator(prefer=VERILATOR)
        self._memory, self._runs = _layout(tasks)
        self._bus_bytes = config.bus_bits // 8
        beats = max(MIN_DDR_BEATS, 1 << (len(self._memory) // self._bus_bytes).bit_length())
        if verilog is None:
            verilog = _generated(config)
        elif isinstance(verilog, Path):
            verilog = verilog.read_text()
        self._built = build_simulation(
            System(config, beats, traced=traced),
            toplevel=TOPLEVEL,
            extra_verilog=[
                verilog,
                DDR_VERILOG,
                COUNTER_LOG,
                SERIES7_MODELS,
                ECP5_MODELS,
                *([WAVEFORM_TRIGGER] if traced else []),
            ],
            optimise=True,
            hierarchical_modules=engine_modules(config),
            simulator=self._simulator,
            waves=traced,
            build_root=build_root,
        )

    def run(
        self,
        testcase: str,
        stall: int,
        seed: int,
        plusargs: Iterable[str],
        more: dict[str, Any] | None = None,
        module: str = "accelerator_bench",
    ) -> tuple[dict, Path]:
        """Result of the bench, and the folder that it ran in."""
        with tempfile.TemporaryDirectory() as folder:
            contents, job, result, log = (
                Path(folder) / name
                for name in ("memory.hex", "job.json", "result.json", "counters.txt")
            )
            size = -(-len(self._memory) // self._bus_bytes) * self._bus_bytes
            words = np.frombuffer(self._memory.ljust(size, b"\0"), f"<u{self._bus_bytes}")
            contents.write_text(
                "\n".join(f"{word:0{2 * self._bus_bytes}x}" for word in words.tolist()) + "\n"
            )
            job.write_text(
                json.dumps(
                    {
                        "runs": self._runs,
                        "bus_bytes": self._bus_bytes,
                        **(more or {}),
                        "result": str(result),
                    }
                )
            )
            with _told(job) as environment:
                results = run_bench(
                    self._built,
                    toplevel=TOPLEVEL,
                    test_module=f"sim.benches.{module}",
                    testcase=testcase,
                    simulator=self._simulator,
                    plusargs=[
                        f"+ddr_init={contents}",
                        f"+counter_log={log}",
                        f"+counter_every={self._runs[0]['sample_cycles']}",
                        f"+ddr_stall={stall}",
                        f"+ddr_seed={seed}",
                        *plusargs,
                    ],
                    env=environment,
                    seed=seed,
                )
            if not result.is_file():
                raise BenchFailed("the accelerator bench left no result")
            samples = read_counter_log(log.read_text()) if log.is_file() else []
            return json.loads(result.read_text()) | {"samples": samples}, results.parent


@functools.cache
def _generated(config: AccelConfig) -> str:
    return accelerator_verilog(config, Series7())


@contextlib.contextmanager
def _told(job: Path) -> Iterator[dict[str, str]]:
    """The environment of the bench. Its own output goes to a log: a terminal comes by name, and
    lines of progress for anything else through a file."""
    environment = {"ACCELERATOR_JOB": str(job)}
    if sys.stderr.isatty():
        yield environment | {"ACCELERATOR_TERMINAL": os.ttyname(sys.stderr.fileno())}
        return
    lines, ended = job.with_name("progress"), threading.Event()
    lines.touch()

    def follow() -> None:
        with lines.open() as file:
            while not ended.wait(1):
                for line in file:
                    cli.say(line.rstrip())

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield environment | {"ACCELERATOR_LINES": str(lines)}
    finally:
        ended.set()
        thread.join()


def _layout(tasks: Sequence[Task]) -> tuple[bytes, list[dict[str, int]]]:
    """Memory contents, and each run: where program, inputs and outputs are, what it may take."""
    memory, runs = bytearray(), []

    def put(content: bytes) -> int:
        memory.extend(bytes(-len(memory) % PAGE))
        at = len(memory)
        memory.extend(content)
        return at

    for program, images in tasks:
        at, expected = put(program.image), Timeline(program.config, program.image).cycles
        packed = [program.pack(image) for image in np.asarray(images, np.int64)]
        packed += packed[-1:] * (-len(packed) % program.batch)
        runs += [
            {
                "program": at,
                "program_size": len(program.image),
                "input": put(b"".join(packed[first : first + program.batch])),
                "input_size": sum(map(len, packed[first : first + program.batch])),
                "output": put(bytes(program.output_size)),
                "output_size": program.output_size,
                "expected_cycles": expected,
                "sample_cycles": max(MIN_SAMPLE, expected // SAMPLES),
            }
            for first in range(0, len(packed), program.batch)
        ]
    put(b"")
    return bytes(memory), runs
