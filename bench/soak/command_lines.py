# SPDX-License-Identifier: Apache-2.0
"""Options of every command with values that nobody should give.

Options come from the parsers themselves. What a command does when all its options are right is left
out. Whatever the values are, the command ends with an exit code of its own, says at most one line
of error, and leaves no file of which the first half is written.
"""

import argparse
import contextlib
import importlib
import io
import os
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

from bench.soak import Outcome, Verdict
from bench.soak.watch import watched
from ir import cli

#: Commands, and what each calls once its options are right.
COMMANDS: dict[str, tuple[str, ...]] = {
    "quant.train": ("quant.training.pipeline.train", "quant.training.pipeline.load_data"),
    "quant.calibrate": ("quant.training.pipeline.load_data", "quant.training.runs.RunFolder.begin"),
    "quant.evaluate": ("quant.evaluate.evaluate",),
    "quant.to_onnx": ("quant.training.runs.RunFolder.open",),
    "gateware.build": ("gateware.explore.choose.choose", "gateware.assembly.accelerator_verilog"),
    "gateware.ratio": ("gateware.ratio.explore",),
    "gateware.report.page": (),
    "sim.run": ("sim.verify.network.verify", "sim.verify.hybrid.verify"),
    "quant.training.plots": (),
    "rmsmp.doctor": (),
    "rmsmp.cli": (),
}
VALUES = (
    "",
    " ",
    "x",
    "-1",
    "0",
    "1",
    "3",
    "-0.5",
    "nan",
    "inf",
    "1e999",
    "9" * 5000,
    "1_0",
    "\uff11\uff12",
    "ä ö/网络",
    "\udcff",
    "a\nb",
    "%s %(default)s {0}",
    "x" * 5000,
    "/",
    ".",
    "..",
    "../..",
    "/dev/null",
    "/dev/full",
    "/dev/zero",
    "~",
    "1:2:3",
    "100:0:0",
    "zc706",
    "zedboard",
    "ulx3s_85f",
    "--",
    "-",
)
#: Values that are no number, whatever they are for.
WORDS = ("", " ", "x", "ä ö/网络", "\udcff", "a\nb", "/", "~", "zc706", "1:2:3")
#: Exit codes: done, a difference was found, the user's mistake.
CODES = (0, 1, cli.EXIT_USER_ERROR)


class Enough(cli.UserError):
    """End of a command whose options were right."""


def case(seed: int, number: int, folder: Path) -> Outcome:
    """Outcome of command line ``number``: of each command in turn."""
    name = list(COMMANDS)[number % len(COMMANDS)]
    rng = random.Random(f"{seed} {number}")
    place = folder / rng.choice(("plain", "spaces and ümläute", "x"))
    place.mkdir()
    (place / "file").write_text("three years")
    module = importlib.import_module(name)
    argv, must_fail = arguments(rng, module.parser())
    with watched(place) as seen, contextlib.chdir(place):
        code, out, err = call(name, argv)
    left = sorted(str(path.relative_to(place)) for path in place.rglob("*"))
    said = f"{name} {' '.join(map(repr, argv))}"[:300]
    lines = [line for line in err.splitlines() if line.strip()]
    errors = [line.startswith("error: ") for line in lines]
    # Without a command, rmsmp prints its help.
    told = (sum(errors) == 1 and errors[-1]) or (name == "rmsmp.cli" and not err and out)
    tools = "subprocess.Popen"  # a simulator is asked for its version
    asked = any("/" in text or ".." in text or "~" in text for text in argv)
    elsewhere = [line for line in seen if not asked and not line.startswith(tools)]
    faults = (
        (code not in CODES, f"exit code {code}"),
        (must_fail and code == 0, "accepted"),
        (code == 2 and not told, f"said {err[-300:]!r}"),
        (any(map(_is_part, left)), f"left {left[:3]}"),
        ((place / "file").read_text() != "three years", "lost a file"),
        (bool(elsewhere), f"outside its folder: {elsewhere}"),
    )
    for is_so, what in faults:
        if is_so:
            return Outcome(Verdict.FAULT, f"{said}: {what}")
    return Outcome(Verdict.REFUSED if code else Verdict.EQUAL, f"{said}: {err.strip()[-200:]}")


def _is_part(name: str) -> bool:
    return name.endswith((".partial", ".lock", ".old"))


def arguments(rng: random.Random, parser: argparse.ArgumentParser) -> tuple[list[str], bool]:
    """One to four options with values, and whether the command must refuse them."""
    argv, must_fail = list[str](), False
    own = [a for a in parser._actions if a.dest not in ("help", "version", "arguments")]
    for action in own:
        if action.required and action.option_strings and rng.random() < 0.9:
            argv += [action.option_strings[0], "zedboard"]
    for action in rng.sample(own, min(len(own), rng.choice((1, 1, 2, 4)))):
        value = rng.choice(VALUES)
        numeric = action.metavar in ("N", "F") or action.type in (int, float)
        if action.nargs == 0:
            argv.append(rng.choice(action.option_strings))
        elif not action.option_strings:
            argv.append(value)
        elif action.choices is not None or numeric:
            argv.append(f"{rng.choice(action.option_strings)}={value}")
            wrong = value in WORDS if numeric else value not in map(str, action.choices or ())
            must_fail = must_fail or wrong
        else:
            argv.append(f"{rng.choice(action.option_strings)}={value}")
    if rng.random() < 0.1:
        argv.append(rng.choice(("--nonsense", "--nonsense=1", "-Z")))
        must_fail = True
    return argv, must_fail


def call(name: str, argv: Sequence[str]) -> tuple[int, str, str]:
    """Exit code of a command, and what it wrote to stdout and stderr.

    Both encode as in a terminal: stdout refuses what is no text.
    """
    module = importlib.import_module(name)
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace", write_through=True)
    with stopping(COMMANDS[name]), mock.patch.multiple(sys, stdout=out, stderr=err):
        try:
            code = cli.run(module.main, list(argv))
        except SystemExit as end:  # --help, --version
            code = end.code if isinstance(end.code, int) else 1
    return code, *(stream.buffer.getvalue().decode() for stream in (out, err))


@contextlib.contextmanager
def stopping(names: Sequence[str]) -> Iterator[None]:
    """Context in which functions, named with their modules, raise :class:`Enough`."""

    def enough(*_: object, **__: object) -> None:
        raise Enough("options are right, and no more was asked for")

    with contextlib.ExitStack() as patches:
        for name in names:
            patches.enter_context(mock.patch(name, enough))
        patches.enter_context(mock.patch.dict(os.environ, {"COLUMNS": "80"}))
        yield
