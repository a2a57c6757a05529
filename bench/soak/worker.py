# SPDX-License-Identifier: Apache-2.0
"""Processes that run cases of attacks, one after the other, under watch.

A process that dies, is silent for longer than its attack allows, opens a connection, starts a
program that the attack does not ask for, or grows by more than :data:`MEMORY` is a fault.
"""

import contextlib
import importlib
import importlib.util
import logging
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

from bench.soak import ATTACKS, Outcome, Verdict

MEMORY = 1 << 30  #: bytes that the largest case of a process may add to the ones before it
STARTING = 120  #: seconds that imports of an attack may take


def available(name: str) -> bool:
    """True if the attack ``name`` is here."""
    return importlib.util.find_spec(f"bench.soak.{name}") is not None


def run_here(name: str, seed: int, number: int) -> Outcome:
    """Outcome of a case, run in this process; an exception is a fault."""
    attack = importlib.import_module(f"bench.soak.{name}")
    before, seen = _peak(), Raised()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, seen:
        outcome = attack.case(seed, number, Path(folder))
    if seen.text:
        return Outcome(Verdict.FAULT, seen.text)
    if _peak() - before > MEMORY:
        return Outcome(Verdict.FAULT, f"{(_peak() - before) >> 20} MiB more; {outcome.reason}")
    return outcome


class Raised(contextlib.AbstractContextManager):
    """Context that ends with whatever exception a case raises, which is what is looked for.

    ``text`` is the end of its traceback, in a line; empty where there was none.
    """

    def __init__(self) -> None:
        self.text = ""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if error is None or isinstance(error, KeyboardInterrupt):
            return False
        lines = traceback.format_exception(error, limit=-4)
        self.text = " | ".join(line.strip() for line in "".join(lines).splitlines() if line.strip())
        return True


def slice_of(
    name: str, seed: int, numbers: range, until: float
) -> Iterator[tuple[int, Outcome, float]]:
    """Cases of ``numbers`` in order, each with its outcome and seconds, ``until`` a time of
    :func:`time.monotonic`. Whatever happens to a process is the fault of its case."""
    context = multiprocessing.get_context("spawn")
    at = numbers.start
    while at < numbers.stop and time.monotonic() < until:
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, name, seed), daemon=True)
        process.start()
        theirs.close()
        limit = STARTING + ATTACKS[name]
        try:
            while at < numbers.stop and time.monotonic() < until:
                began = time.monotonic()
                outcome = _ask(ours, process, at, limit)
                yield at, outcome, time.monotonic() - began
                at, limit = at + 1, ATTACKS[name]
                if not process.is_alive():
                    break
        finally:
            process.kill()
            process.join()
            ours.close()


def _ask(
    ours: Connection, process: multiprocessing.process.BaseProcess, number: int, limit: float
) -> Outcome:
    """Outcome of case ``number`` in ``process``, which is killed where it does not answer."""
    try:
        ours.send(number)
        if ours.poll(limit):
            return ours.recv()
        process.kill()
        process.join()
        return Outcome(Verdict.FAULT, f"no end within {limit:g} s")
    except (EOFError, OSError):
        process.join()
        return Outcome(Verdict.FAULT, f"its process died, exit code {process.exitcode}")


def _serve(theirs: Connection, name: str, seed: int) -> None:
    """Cases that the other end asks for, until it closes."""
    logging.disable()
    sys.stdout = sys.stderr = Path(os.devnull).open("w")  # of the commands that cases call
    while True:
        try:
            number = theirs.recv()
        except EOFError:
            return
        theirs.send(run_here(name, seed, number))


def _peak() -> int:
    """Most memory that this process ever had, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
