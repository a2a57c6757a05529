# SPDX-License-Identifier: Apache-2.0
"""Mutated files of every kind that a command reads, their digests corrected.

Each is refused in one line, or gives a result that is right for the file as it is. Nothing in a
file is executed, and nothing outside the folder of the files is read or written.
"""

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path

from bench.soak import Outcome, Verdict
from bench.soak.mutations import sprung
from bench.soak.watch import watched

OFTEN = 5  #: turns of other kinds for one of a slow kind

Files = dict[str, bytes]  #: content by path in the folder


@dataclasses.dataclass(frozen=True)
class Target:
    """Kind of file.

    template : right files, made once
    mutate : change of some of them in place; says what it did
    use : what a command does with the files in a folder; AssertionError for a wrong result
    refusals : exceptions that the command tells as one line
    slow : the command takes a second or more
    """

    template: Callable[[], Files]
    mutate: Callable[[random.Random, Files], str]
    use: Callable[[Path], None]
    refusals: tuple[type[Exception], ...]
    slow: bool = dataclasses.field(default=False, kw_only=True)


def targets() -> dict[str, Target]:
    """Kinds of files by name."""
    from bench.soak import files_of_data, files_of_hardware, files_of_training

    return files_of_hardware.TARGETS | files_of_training.TARGETS | files_of_data.TARGETS


def case(seed: int, number: int, folder: Path) -> Outcome:
    """Outcome of mutation ``number``: of each kind of file in turn, of slow ones less often."""
    found = targets()
    slow = [name for name, target in found.items() if target.slow]
    turns = [name for name in found if name not in slow] * OFTEN + slow
    name = turns[number % len(turns)]
    return attack(name, found[name], random.Random(f"{seed} {number}"), folder)


def attack(name: str, target: Target, rng: random.Random, folder: Path) -> Outcome:
    """Outcome of one mutation of ``target`` in ``folder``."""
    files = dict(target.template())
    said = f"{name}: {target.mutate(rng, files)}"[:300]
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    verdict = Verdict.EQUAL
    with watched(folder) as seen:
        try:
            target.use(folder)
        except target.refusals as error:
            verdict, line = Verdict.REFUSED, str(error)
            if "\n" in line.strip() or not line:
                return Outcome(Verdict.FAULT, f"{said}: refused, not in one line: {line[:300]!r}")
            said = f"{said}: {line[:200]}"
        except Exception as error:
            error.add_note(f"mutation: {said}")
            raise
    if sprung():
        return Outcome(Verdict.FAULT, f"{said}: something in the file was executed")
    if seen:
        return Outcome(Verdict.FAULT, f"{said}: outside its folder: {seen[0]}")
    return Outcome(verdict, said)
