# SPDX-License-Identifier: Apache-2.0
"""Assembly of a build folder: Verilog, programs, project, report, and what the tools measure.

Files are written to a folder beside it, which takes its place when it is complete.
"""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import boards
from boards.board import Board
from gateware.arch.config import AccelConfig
from gateware.arch.results import DoesNotFit, ToolError, ToolReport
from gateware.compiler.hybrid import Compiled, compile_all
from gateware.compiler.operations import CompileError
from gateware.explore.retraining import Retraining, retraining
from gateware.flow import clock, manifest
from gateware.flow.target import TARGETS, check_fit, driver_bytes
from gateware.flow.verilog import MODULE, accelerator_verilog
from gateware.report import page
from gateware.report.summary import markdown, report
from ir import cli
from ir.cli import UserError
from ir.files import exclusive, replace_folder, replace_text
from ir.graph import GRAPH, GraphError, IntGraph
from ir.vectors import Vectors, VectorsError, beside, find

MAX_BATCH = 64  #: images of a run; every one has descriptors of its own
VECTORS = 100  #: most test vectors that are copied to beside it

Say = Callable[[str], None]


def load(name: str, path: Path | None) -> tuple[Board, IntGraph | None, Vectors | None]:
    """Board of a name, network of a file and the test vectors beside it. Raises UserError."""
    try:
        board = boards.get(name)
        graph = IntGraph.load(path) if path else None
        vectors = find(path, graph) if path and graph else None
    except (boards.UnknownBoard, GraphError, VectorsError) as error:
        raise UserError(str(error)) from error
    return board, graph, vectors


def check_batch(batch: int) -> None:
    """Check of the images of a run. Raises UserError."""
    if not 1 <= batch <= MAX_BATCH:
        raise UserError(f"batch must be 1 to {MAX_BATCH} images, not {batch}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Content:
    """Content of a build folder.

    board, config : where the accelerator runs, and its sizes
    graph, vectors : network and its test vectors, where there are any
    compiled : programs of the network
    other : what training for this array would bring; None where nothing
    verilog : text of the accelerator
    """

    board: Board
    config: AccelConfig
    graph: IntGraph | None
    vectors: Vectors | None
    compiled: Sequence[Compiled]
    other: Retraining | None
    verilog: str

    def write(self, folder: Path) -> None:
        """Files of the build, all but its report, in the empty ``folder``."""
        (folder / f"{MODULE}.v").write_text(self.verilog)
        (folder / "config.json").write_text(self.config.to_json() + "\n")
        for one in self.compiled:
            (folder / one.folder).mkdir(parents=True, exist_ok=True)
            one.program.save(folder / one.folder, self.graph.digest if self.graph else None)
        memory = driver_bytes(one.program for one in self.compiled)
        target = TARGETS[self.board.device.family]
        target.write(self.board, self.config, memory, self.verilog, folder)
        if self.graph is not None:
            self._write_network(self.graph, folder)

    def _write_network(self, graph: IntGraph, folder: Path) -> None:
        """The graph, its test vectors, and the golden ones of the driver's self-test."""
        images = self.vectors.read(graph) if self.vectors else {}
        for one in self.compiled:
            manifest.write_golden(folder / one.folder, one.graph, images.get(one.tensor))
        graph.save(folder / GRAPH)
        if self.vectors is not None:
            self.vectors.head(VECTORS).save(beside(folder / GRAPH))

    def write_report(self, folder: Path, measured: ToolReport | None = None) -> None:
        """Report, with what the tools ``measured``, as JSON, Markdown and a page in ``folder``."""
        found = clock.evidence(self.board, self.config, self.verilog, measured)
        content = report(
            self.board, self.config, self.graph, self.compiled, measured, self.other, clock=found
        )
        content["accuracy"] = dict(self.vectors.accuracies) if self.vectors else {}
        replace_text(folder / "report.json", json.dumps(content, indent=1) + "\n")
        replace_text(folder / "report.md", markdown(content))
        page.write(folder)

    def clock_remarks(self) -> Iterator[str]:
        """Warnings where the clock asked for is above what evidence supports."""
        known = clock.evidence(self.board, self.config, self.verilog, None)
        yield from clock.remarks(self.board, self.config, known)


def build(
    board: Board,
    config: AccelConfig,
    graph: IntGraph | None,
    folder: Path,
    *,
    vectors: Vectors | None = None,
    batch: int = 1,
    bitstream: bool = True,
    synth: bool = False,
    quiet: bool = False,
    strict: bool = False,
) -> dict:
    """Complete build in ``folder``; returns its report. Raises UserError.

    With ``synth`` the accelerator is synthesised to count its cells, and there is no bitstream. The
    first of ``vectors``, which are those of ``graph``, become the golden ones of the driver's
    self-test and the images of a simulation. The program runs ``batch`` images together. With
    ``strict`` a graph that was trained for other lanes, and is slower for it, is refused.
    """
    say = (lambda text: None) if quiet else cli.say
    check_batch(batch)
    _check_place(folder)
    busy = "wait for it, or give this build another --out"
    target = TARGETS[board.device.family]
    try:
        synthesise = target.synthesiser() if synth else None
        with exclusive(folder, busy):
            compiled = [] if graph is None else compile_all(graph, config, batch)
            other = _other_lanes(graph, config, compiled, strict=strict, say=say)
            say(
                f"{board.title}: {config.rows} rows {':'.join(map(str, config.lanes))} x "
                f"{config.k} channels x {config.pixels} pixels; generating Verilog"
            )
            content = Content(
                board=board,
                config=config,
                graph=graph,
                vectors=vectors,
                compiled=compiled,
                other=other,
                verilog=accelerator_verilog(config, target.primitives()),
            )
            _assemble(content, folder, say)
            if synthesise is not None:
                _synthesise(content, folder, synthesise, say)
            elif bitstream:
                _make_bitstream(content, folder, say)
            return json.loads((folder / "report.json").read_text())
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error
    except (CompileError, DoesNotFit, GraphError, ToolError) as error:
        raise UserError(str(error)) from error


def _check_place(folder: Path) -> None:
    """Raise UserError where ``folder`` has what no build wrote, which would be lost."""
    if folder.is_dir():
        if any(folder.iterdir()) and not (folder / f"{MODULE}.v").is_file():
            raise UserError(
                f"{folder} has files but no build, which would replace them: move it away, or give "
                "another --out"
            )
    elif folder.exists() or folder.is_symlink():
        raise UserError(f"{folder} is no folder: move it away, or give another --out")


def _other_lanes(
    graph: IntGraph | None,
    config: AccelConfig,
    compiled: Sequence[Compiled],
    *,
    strict: bool,
    say: Say,
) -> Retraining | None:
    """What training for this array would bring, said, and refused with ``strict``."""
    other = retraining(graph, config, compiled) if graph else None
    if other and other.cycles > other.cycles_retrained:
        if strict:
            raise UserError(str(other))
        say(str(other))
    return other


def _assemble(content: Content, folder: Path, say: Say) -> None:
    """Put a complete folder in the place of ``folder``, which no other process writes."""
    partial = folder.with_name(f"{folder.name}.partial")
    with _fresh(partial):
        content.write(partial)
        for line in content.clock_remarks():
            say(line)
        content.write_report(partial)
        replace_folder(partial, folder)
    say(f"wrote {folder}")


@contextlib.contextmanager
def _fresh(folder: Path) -> Iterator[None]:
    """Context with the empty folder ``folder``, which is removed unless it was moved away."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _synthesise(
    content: Content, folder: Path, synthesise: Callable[[Path], ToolReport], say: Say
) -> None:
    """Count of the cells, and a report with them. Raises DoesNotFit."""
    say(f"synthesising {folder / MODULE}.v with Yosys; takes minutes")
    measured = synthesise(folder)
    content.write_report(folder, measured)
    check_fit(content.board, measured.resources, "measured")


def _make_bitstream(content: Content, folder: Path, say: Say) -> None:
    """Bitstream and a report of what the board's tools measured, where they are installed."""
    target, asked = TARGETS[content.board.device.family], content.config.clock_hz
    project = folder / target.folder
    if not target.found():
        say(
            f"{target.tools} not on the PATH: stopping after the project in {project}; run sh "
            f"build_top.sh there"
        )
        return
    say(f"running {target.tools} in {project}")
    measured = target.run(content.config, project)
    content.write_report(folder, measured)
    if measured.unclocked:
        say(f"warning: {measured.unclocked} pins of registers have no clock, see {project}")
    routed = measured.routed_hz(asked)
    say(f"bitstream in {project}: {routed / 1e6:.2f} MHz routed, {clock.mhz(asked)} MHz asked for")
