# SPDX-License-Identifier: Apache-2.0
"""Conditions of a simulation: the memory beside the accelerator, pauses of its bus, the seed."""

import dataclasses

from gateware.arch.config import AccelConfig
from gateware.compiler.program import Program
from gateware.model.timeline import READ_LATENCY, Timeline
from ir.cli import UserError
from sim.verify.simulation import RunOptions

MAX_STALL = 255  #: of 256; with more a channel would never move
MAX_SEED = (1 << 31) - 1  #: what the DDR model's random numbers begin from


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditions:
    """Memory system and random pauses of a simulation.

    Parameters
    ----------
    stall : int
        Probability, out of 256, that a bus channel pauses in a cycle; at most :data:`MAX_STALL`.
    seed : int
        Of the pauses, and of random inputs.
    ddr_bytes : int, optional
        Bytes per cycle of the memory, all ports and both directions together; by default a beat
        per port and direction.
    read_latency : int
        Cycles from a read address to its data, at least 2.
    """

    stall: int = 0
    seed: int = 1
    ddr_bytes: int | None = None
    read_latency: int = READ_LATENCY

    def __post_init__(self) -> None:
        if not 0 <= self.stall <= MAX_STALL:
            raise UserError(f"stall must be 0 to {MAX_STALL}, not {self.stall}")
        if not 0 <= self.seed <= MAX_SEED:
            raise UserError(f"seed must be 0 to {MAX_SEED}, not {self.seed}")
        if self.ddr_bytes is not None and self.ddr_bytes < 1:
            raise UserError(f"ddr_bytes must be at least 1, not {self.ddr_bytes}")

    def options(self, config: AccelConfig) -> RunOptions:
        """Options of a simulation of ``config``; the plusargs are those of the DDR model."""
        plusargs = [f"+ddr_read_latency={self.read_latency}"]
        if not 0 <= self.seed <= MAX_SEED:
            raise UserError(f"seed must be 0 to {MAX_SEED}, not {self.seed}")
        if self.ddr_bytes is not None:
            plusargs += [
                f"+ddr_shared_beats={self.ddr_bytes}",
                f"+ddr_shared_cycles={config.bus_bits // 8}",
            ]
        return {"stall": self.stall, "seed": self.seed, "plusargs": plusargs}

    def estimate(self, program: Program) -> int:
        """Cycles of a run that the timeline predicts, without pauses of the bus."""
        bus_bytes = program.config.bus_bits // 8
        return Timeline(
            program.config,
            program.image,
            None if self.ddr_bytes is None else self.ddr_bytes / bus_bytes,
            self.read_latency,
        ).cycles

    def __str__(self) -> str:
        memory = "" if self.ddr_bytes is None else f", memory of {self.ddr_bytes} bytes a cycle"
        return f"seed {self.seed}, stall {self.stall}/256{memory}"
