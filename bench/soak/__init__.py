# SPDX-License-Identifier: Apache-2.0
"""Attacks on every part of the project, short ones in the tests and long ones by command.

An attack is a module here with a function ``case(seed, number, folder)``: case ``number`` of
``seed``, always the same one, with an empty ``folder`` of its own. It gives a :class:`Outcome`.
"""

import dataclasses
import enum

__all__ = ["ATTACKS", "Outcome", "Verdict"]

#: Modules of this package that are attacks, and seconds that a case of each may take.
ATTACKS = {
    "networks": 120,
    "files": 180,
    "command_lines": 60,
    "training": 300,
    "hardware": 1200,
}


class Verdict(enum.StrEnum):
    """What became of a case; all but ``FAULT`` are as they should be."""

    EQUAL = "equal"  #: a result, equal to the reference's
    REFUSED = "refused"  #: one line that says why
    FAULT = "fault"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Outcome of a case, and its reason: a line, of a fault what was seen."""

    verdict: Verdict
    reason: str = ""
