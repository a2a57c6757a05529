# SPDX-License-Identifier: Apache-2.0
"""Commands that are killed or interrupted at random moments.

A training that was killed goes on and ends as one that was not: the same weights, bit for bit. One
that was interrupted says how to go on, in a line. A build leaves nothing behind.
"""

import functools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.soak import Outcome, Verdict
from ir import cli
from ir.graph import IntGraph

ROOT = Path(__file__).resolve().parents[2]
TRAIN = (
    *("quant.train", "--subset", "256", "--batch-size", "16", "--width", "4", "--float-epochs"),
    *("3", "--epochs", "4", "--reassign-every", "2", "--integer-samples", "16", "--no-plots", "-q"),
)
BUILD = ("gateware.build", "--board", "zedboard", "--no-search", "--project-only")
#: Files of which two equal runs have the same bytes.
SAME = ("schemes.csv", "config.json", "vectors.npz")
LONGEST = 240  #: seconds that a command may take


def case(seed: int, number: int, folder: Path) -> Outcome:
    """Outcome of stopping a command: every fifth is a build, others are trainings."""
    rng = random.Random(f"{seed} {number}")
    if number % 5 == 4:
        return _build(rng, folder)
    return _training(rng, folder, rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGINT)))


def start(*command: str, folder: Path) -> subprocess.Popen[str]:
    """Process of a command, a group of its own, in ``folder``."""
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@functools.cache
def whole() -> tuple[dict[str, bytes], dict[str, str], float]:
    """Files and digests of weights and graph of a run that nobody stops, and its seconds."""
    with tempfile.TemporaryDirectory() as place:
        began = time.monotonic()
        process = start(*TRAIN, folder=Path(place))
        error = process.communicate(timeout=LONGEST)[1]
        assert process.returncode == 0, error
        run = Path(place) / "runs" / "digits"
        return *evidence(run), time.monotonic() - began


def evidence(run: Path) -> tuple[dict[str, bytes], dict[str, str]]:
    """What two equal runs have in common: files, and digests of weights and graph."""
    files = {name: (run / name).read_bytes() for name in SAME}
    result = json.loads((run / "result.json").read_text())
    assert IntGraph.load(run / "graph.safetensors").digest == result["digest"]
    return files, result["weights"] | {"graph": result["digest"]}


def _training(rng: random.Random, folder: Path, how: signal.Signals) -> Outcome:
    files, weights, seconds = whole()
    moments = []
    command = TRAIN
    for _ in range(rng.choice((1, 1, 2, 3))):
        process = start(*command, folder=folder)
        moments.append(round(rng.uniform(0, 1.05 * seconds), 2))
        code, error = stop(process, moments[-1], how)
        said = f"{how.name} at {moments} s"
        if fault := _told(how, code, error):
            return Outcome(Verdict.FAULT, f"{said}: {fault}")
        place = folder / "runs" / "digits"
        begun = any((p / "config.json").is_file() for p in (place, folder / "runs/digits.partial"))
        command = ("quant.train", "--resume", "digits", "-q") if begun else TRAIN
        if begun and not (folder / "runs/digits.partial").is_dir():
            break
    process = start(*command, folder=folder)
    error = process.communicate(timeout=LONGEST)[1]
    if process.returncode:
        return Outcome(Verdict.FAULT, f"{said}: going on ended with {process.returncode}: {error}")
    if evidence(folder / "runs" / "digits") != (files, weights):
        return Outcome(Verdict.FAULT, f"{said}: another result")
    return Outcome(Verdict.EQUAL, said)


def _build(rng: random.Random, folder: Path) -> Outcome:
    process = start(*BUILD, folder=folder)
    moment = rng.uniform(0, 8)
    code, error = stop(process, moment, signal.SIGINT)
    said = f"build interrupted at {moment:.2f} s"
    if fault := _told(signal.SIGINT, code, error):
        return Outcome(Verdict.FAULT, f"{said}: {fault}")
    left = sorted(path.name for path in (folder / "build").glob("*"))
    if left not in ([], ["zedboard"]):
        return Outcome(Verdict.FAULT, f"{said}: left {left}")
    return Outcome(Verdict.EQUAL, f"{said}, left {left}")


def stop(process: subprocess.Popen[str], seconds: float, how: signal.Signals) -> tuple[int, str]:
    """Exit code and errors of a process that got the signal ``how`` after some seconds.

    Raises AssertionError where a process of its group is left.
    """
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(how)
    error = process.communicate(timeout=LONGEST)[1]
    if how == signal.SIGINT:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return process.returncode, error
        raise AssertionError("a process of the command was left")
    return process.returncode, error


def _told(how: signal.Signals, code: int, error: str) -> str:
    """What is wrong with the end of a command that was stopped; nothing where it is right."""
    if code in (0, -signal.SIGKILL):
        return ""
    lines = error.strip().splitlines()
    # Before its first line of ours runs, the interpreter itself is told.
    early = code == -signal.SIGINT or "KeyboardInterrupt" in error
    if early and "/site-packages/" not in error and str(ROOT) not in error:
        return ""
    if how == signal.SIGINT and code in (cli.EXIT_INTERRUPTED, 1) and "Traceback" not in error:
        return "" if lines and lines[-1].startswith("interrupted") else f"said {error[-200:]!r}"
    return f"exit code {code}: {error[-300:]!r}"
