# SPDX-License-Identifier: Apache-2.0
"""Records of attacks on disk: how many cases there were, what was found, where to go on."""

import json
from pathlib import Path
from typing import Any

from bench.soak import Outcome, Verdict
from ir.files import replace_text

KEPT = 50  #: faults of an attack that are kept one by one
REASON = 400  #: characters of a reason that are kept


class Records:
    """Records of the attacks of one seed, in a file."""

    def __init__(self, path: Path, content: dict[str, dict[str, Any]]) -> None:
        self.path, self.content = path, content

    @classmethod
    def load(cls, path: Path) -> "Records":
        """Records in ``path``, or none where there is no such file."""
        return cls(path, json.loads(path.read_text()) if path.exists() else {})

    def save(self) -> None:
        """Replacement of the file. Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(self.path, json.dumps(self.content, indent=1) + "\n")

    def next(self, name: str) -> int:
        """Number of the first case of attack ``name`` that was not run."""
        return self._of(name)["next"]

    def add(self, name: str, number: int, outcome: Outcome, seconds: float) -> None:
        """Addition of a case."""
        own = self._of(name)
        own["next"] = number + 1
        own["seconds"] += seconds
        own["counts"][outcome.verdict] = own["counts"].get(outcome.verdict, 0) + 1
        if outcome.verdict == Verdict.FAULT and len(own["faults"]) < KEPT:
            own["faults"].append({"number": number, "reason": outcome.reason[:REASON]})

    def faults(self) -> int:
        """Number of faults of all attacks."""
        return sum(own["counts"].get(Verdict.FAULT, 0) for own in self.content.values())

    def table(self) -> str:
        """Table of the attacks in Markdown."""
        lines = [
            f"| attack | cases | {' | '.join(Verdict)} | s |",
            "|---|---:|" + "---:|" * (len(Verdict) + 1),
        ]
        for name, own in self.content.items():
            counts = " | ".join(str(own["counts"].get(verdict, 0)) for verdict in Verdict)
            lines.append(f"| {name} | {own['next']} | {counts} | {own['seconds']:.0f} |")
        return "\n".join(lines)

    def _of(self, name: str) -> dict[str, Any]:
        empty = {"next": 0, "counts": {}, "faults": [], "seconds": 0.0}
        return self.content.setdefault(name, empty)
