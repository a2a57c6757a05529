# SPDX-License-Identifier: Apache-2.0
"""Targets: top level, tools and connection of a driver for each family of boards."""

import abc
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from amaranth.build.run import BuildPlan

from boards import clocks
from boards.board import RESOURCES, Board
from gateware.arch.config import AccelConfig
from gateware.arch.registers import WINDOW_BITS
from gateware.arch.results import DoesNotFit, ToolError, ToolReport
from gateware.compiler.program import Program
from gateware.flow import manifest, trellis, vivado, yosys
from gateware.flow.verilog import MODULE
from gateware.model import estimate
from gateware.pe import ecp5 as primitives
from gateware.pe.series7 import Series7
from gateware.soc import ecp5, zynq7
from gateware.soc.serial_system import BUS_BITS

PAGE = 4096  #: bytes; where a driver's buffers begin
OVERLAY = "rmsmp.dts"
BUFFER_MIN = 1 << 20  #: bytes of contiguous memory that a driver on a Zynq asks for


class Target(abc.ABC):
    """Family of devices: the tools for its boards, and how a driver reaches an accelerator on them.

    tools : name of what makes the bitstream, for messages
    folder : where its project lies in the build folder
    sizes : what an AccelConfig must have here
    """

    tools: str
    folder: str
    sizes: dict[str, int]

    @abc.abstractmethod
    def resources(self, config: AccelConfig) -> dict[str, int]:
        """Estimated cells of the accelerator, by resource of the device."""

    @abc.abstractmethod
    def primitives(self) -> object:
        """Platform that the accelerator's Verilog is elaborated for; None for the portable form."""

    @abc.abstractmethod
    def check_clock(self, board: Board, clock_hz: int) -> None:
        """Check of a clock: ValueError, with the range, for one that the board does not make."""

    def check(self, board: Board, config: AccelConfig) -> None:
        """Check of clock and memory ports: ValueError for what the board cannot have."""
        self.check_clock(board, config.clock_hz)

    def check_memory(self, board: Board, config: AccelConfig, memory: int) -> None:
        """Check that the ``memory`` bytes of :func:`driver_bytes` have room: DoesNotFit if not."""
        if memory > board.memory.size_bytes:
            raise DoesNotFit(
                f"programs, image and results need {memory} bytes, {board.title} has "
                f"{board.memory.size_bytes}"
            )

    @abc.abstractmethod
    def write(
        self, board: Board, config: AccelConfig, memory: int, verilog: str, folder: Path
    ) -> None:
        """Export of the project, and of what the driver must know of it, to ``folder``.

        Raises DoesNotFit where the board has no room for the ``memory`` bytes of
        :func:`driver_bytes`.
        """

    @abc.abstractmethod
    def found(self) -> bool:
        """True if the tools are installed."""

    @abc.abstractmethod
    def synthesiser(self) -> Callable[[Path], ToolReport]:
        """Function that synthesises ``accelerator.v`` of a build folder and places nothing.

        It raises UserError where that fails. Raises ToolError for a family whose tools do not stop
        there.
        """

    @abc.abstractmethod
    def run(self, config: AccelConfig, project: Path) -> ToolReport:
        """Synthesis, placement and routing of ``project`` up to the bitstream; returns the tools'
        report.

        Raises ToolError for a failure or a missed clock.
        """


class Zynq(Target):
    """Zynq-7000: processing system and DDR memory, by Vivado."""

    tools = "Vivado"
    folder = "vivado"
    sizes = {"bus_bits": zynq7.HP_DATA_BITS}

    def resources(self, config: AccelConfig) -> dict[str, int]:
        return dataclasses.asdict(estimate.resources(config))

    def primitives(self) -> object:
        return Series7()

    def check_clock(self, board: Board, clock_hz: int) -> None:
        """Check of the range; within it, the driver sets the next lower clock that the processing
        system makes."""
        makes = clocks.zynq7_clocks()
        if not makes[0] <= clock_hz <= makes[-1]:
            raise ValueError(
                f"the processing system of {board.title} makes clocks of {makes[0] / 1e6:.3f} MHz, "
                f"its PLL by both dividers, to {makes[-1] / 1e6:g} MHz, the limit of FCLK0, not "
                f"{clock_hz / 1e6:g} MHz"
            )

    def check(self, board: Board, config: AccelConfig) -> None:
        super().check(board, config)
        if config.ports > board.memory.hp_ports:
            raise ValueError(
                f"{board.title} has {board.memory.hp_ports} memory ports, --ports "
                f"{config.ports} asks for more"
            )

    def write(
        self, board: Board, config: AccelConfig, memory: int, verilog: str, folder: Path
    ) -> None:
        manifest.write_accelerator(
            folder,
            board,
            config,
            connection=zynq7.connection(board, config.ports),
            bitstream=f"{self.folder}/{vivado.TOP}.bit",
        )
        buffers = max(BUFFER_MIN, 1 << (2 * memory).bit_length())
        (folder / OVERLAY).write_text(zynq7.device_tree_overlay(1 << WINDOW_BITS, buffers))
        _extract(vivado.build_plan(board, config, verilog), folder / self.folder)

    def found(self) -> bool:
        return vivado.find() is not None

    def synthesiser(self) -> Callable[[Path], ToolReport]:
        return _synthesise

    def run(self, config: AccelConfig, project: Path) -> ToolReport:
        return vivado.run(project)


class Ecp5(Target):
    """ECP5: block RAM and a serial line, by Yosys, nextpnr and Trellis."""

    tools = "Yosys, nextpnr-ecp5 and ecppack"
    folder = trellis.FOLDER
    sizes = {"bus_bits": BUS_BITS}

    def resources(self, config: AccelConfig) -> dict[str, int]:
        return trellis.resources(config)

    def primitives(self) -> object:
        return primitives.Ecp5()

    def check_clock(self, board: Board, clock_hz: int) -> None:
        ecp5.check_clock(board, clock_hz)

    def check_memory(self, board: Board, config: AccelConfig, memory: int) -> None:
        ecp5.memory_bytes(board, self.resources(config)["ebr"], memory)

    def write(
        self, board: Board, config: AccelConfig, memory: int, verilog: str, folder: Path
    ) -> None:
        size = ecp5.memory_bytes(board, self.resources(config)["ebr"], memory)
        plan = trellis.build_plan(board, config, verilog, size)
        manifest.write_accelerator(
            folder,
            board,
            config,
            connection=ecp5.connection(size, config.clock_hz),
            bitstream=f"{self.folder}/{trellis.TOP}.bit",
        )
        _extract(plan, folder / self.folder)

    def found(self) -> bool:
        return trellis.find() is not None

    def synthesiser(self) -> Callable[[Path], ToolReport]:
        raise ToolError(f"ECP5 boards are placed and routed, by {self.tools}: leave --synth out")

    def run(self, config: AccelConfig, project: Path) -> ToolReport:
        tools = trellis.find()
        if tools is None:
            raise ToolError(f"{self.tools} are not installed")
        return trellis.run(project, config.clock_hz, tools)


def _extract(plan: BuildPlan, folder: Path) -> None:
    """Write the files of a plan."""
    cast(Any, plan).extract(folder)  # amaranth-stubs do not know it


def _synthesise(folder: Path) -> ToolReport:
    netlist = yosys.synthesise(folder / f"{MODULE}.v", MODULE)
    return ToolReport(
        _xc7_cells(netlist.cells),
        modules=tuple(
            {"name": unit.name, "instances": unit.instances, **_xc7_cells(unit.cells)}
            for unit in netlist.units()
        ),
    )


def _xc7_cells(cells: Counter) -> dict[str, float]:
    counted = yosys.summary(cells)
    return {name: counted[name] for name in RESOURCES["xc7"]}


def check_fit(board: Board, used: Mapping[str, float], how: str = "estimated") -> None:
    """Check that ``used`` cells fit the board: :class:`DoesNotFit` names each resource that is
    short, the need and the limit."""
    short = [
        f"{used[name]:.10g} {name.upper()} ({how}), {board.title} has {limit:.10g}"
        for name, limit in board.device.limits.items()
        if used[name] > limit
    ]
    if short:
        raise DoesNotFit(
            f"the accelerator needs {'; '.join(short)}; use fewer --rows or "
            "--pixels, smaller buffers, or another board"
        )


def driver_bytes(programs: Iterable[Program]) -> int:
    """Bytes that a driver takes for each program, its input and outputs, whole pages each."""
    sizes = [
        size
        for program in programs
        for size in (
            len(program.image),
            program.batch * program.input.beats * program.input.k // 2,
            program.output_size,
        )
    ]
    return sum(-(-size // PAGE) * PAGE for size in sizes or [1])


TARGETS: dict[str, Target] = {"xc7": Zynq(), "ecp5": Ecp5()}
