# SPDX-License-Identifier: Apache-2.0
"""Outcome of a build: why it cannot be, or what the tools said about it."""

import dataclasses


class DoesNotFit(ValueError):
    """Need of the design for more of a resource than the device has."""


class ToolError(RuntimeError):
    """Failure of the tools to give a usable bitstream; the message says where to look."""


@dataclasses.dataclass(frozen=True)
class Attempt:
    """Placement and routing with one set of directives.

    slack_ns : worst slack of setup and hold; None where the tools failed
    """

    directives: str
    slack_ns: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Power:
    """Power in W that the tools estimate, and how far they trust it (``Low`` to ``High``)."""

    total_w: float
    dynamic_w: float
    static_w: float
    confidence: str


@dataclasses.dataclass(frozen=True)
class ToolReport:
    """Measurements after synthesis, or after placement and routing.

    resources : cells by resource of the device
    slack_ns : worst slack of the clock asked for (WNS), negative when it is missed; None where
        nothing was routed
    modules : cells of each part of the design, named, with its number of ``instances``
    total_slack_ns : sum of all negative slacks (TNS), 0 where there is none
    hold_slack_ns : worst slack of hold (WHS)
    power : estimate after routing
    tool : name and version of what routed
    attempts : placements that were tried, in order
    unclocked : pins of registers that no clock reaches, and whose paths nothing has checked
    """

    resources: dict[str, float]
    slack_ns: float | None = None
    _: dataclasses.KW_ONLY
    modules: tuple[dict[str, str | float], ...] = ()
    total_slack_ns: float | None = None
    hold_slack_ns: float | None = None
    power: Power | None = None
    tool: str | None = None
    attempts: tuple[Attempt, ...] = ()
    unclocked: int = 0

    def routed_hz(self, clock_hz: int) -> float:
        """Fastest clock in Hz that the routed design allows, when ``clock_hz`` was asked for.

        Raises ValueError where nothing was routed.
        """
        if self.slack_ns is None:
            raise ValueError("nothing was routed")
        return 1e9 / (1e9 / clock_hz - self.slack_ns)
