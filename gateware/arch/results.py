# SPDX-License-Identifier: Apache-2.0
"""Outcome of a build: why it cannot be, or what the tools said about it."""

import dataclasses


class DoesNotFit(ValueError):
    """Need of the design for more of a resource than the device has."""


class ToolError(RuntimeError):
    """Failure of the tools to give a usable bitstream; the message says where to look."""


@dataclasses.dataclass(frozen=True)
class ToolReport:
    """Measurements after synthesis, or after placement and routing.

    resources : cells by resource of the device
    slack_ns : worst slack of the clock asked for, negative when it is missed; None where nothing
        was routed
    modules : cells of each part of the design, named, with its number of ``instances``
    """

    resources: dict[str, float]
    slack_ns: float | None = None
    modules: tuple[dict[str, str | float], ...] = ()

    def routed_hz(self, clock_hz: int) -> float:
        """Fastest clock in Hz that the routed design allows, when ``clock_hz`` was asked for.

        Raises ValueError where nothing was routed.
        """
        if self.slack_ns is None:
            raise ValueError("nothing was routed")
        return 1e9 / (1e9 / clock_hz - self.slack_ns)
