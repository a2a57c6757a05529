# SPDX-License-Identifier: Apache-2.0
"""Console command ``rmsmp``: one sub-command for each of the project's modules.

    rmsmp train       quant.train           train, quantise, export
    rmsmp calibrate   quant.calibrate       quantise with some images, without training
    rmsmp evaluate    quant.evaluate        measure a run again
    rmsmp to-onnx     quant.to_onnx         integer graph as an ONNX model
    rmsmp build       gateware.build        accelerator for a board
    rmsmp explore     gateware.ratio        array and ratio for a board
    rmsmp sim         sim.run               proof on the generated Verilog
    rmsmp report      gateware.report.page  page of a build
    rmsmp doctor      rmsmp.doctor          what is installed, what is missing for which command

Options are those of ``python -m MODULE``. Completion for bash, zsh, fish, tcsh or PowerShell:
``eval "$(rmsmp --print-completion bash)"``, ``rmsmp --print-completion fish | source``.
"""

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import shtab

from ir import cli
from rmsmp.version import __version__

#: Module of each sub-command, and what it does in a few words.
COMMANDS = {
    "train": ("quant.train", "train, quantise and export a network"),
    "calibrate": ("quant.calibrate", "quantise with some images, without training"),
    "evaluate": ("quant.evaluate", "measure a finished run again"),
    "to-onnx": ("quant.to_onnx", "integer graph as an ONNX model"),
    "build": ("gateware.build", "accelerator for a board"),
    "explore": ("gateware.ratio", "array and ratio that suit a board"),
    "sim": ("sim.run", "simulate a build, compare with PyTorch's integers"),
    "report": ("gateware.report.page", "write the page of a build again"),
    "doctor": ("rmsmp.doctor", "what is installed, what is missing for which command"),
}
SHELLS = tuple(shtab.SUPPORTED_SHELLS)


def parser() -> cli.Parser:
    """Parser of the options before the sub-command."""
    lines = "\n".join(f"  {name:10} {text}" for name, (_, text) in COMMANDS.items())
    p = cli.Parser(
        prog="rmsmp",
        description="4-bit neural networks on small FPGAs: train, build, prove.",
        epilog=f"commands:\n{lines}\n\nrmsmp COMMAND --help lists the options of one.",
    )
    p.add_argument("--version", action="version", version=f"rmsmp {__version__}")
    p.add_argument(
        "--print-completion", choices=SHELLS, metavar="SHELL", help=f"one of {', '.join(SHELLS)}"
    )
    p.add_argument("command", nargs="?", choices=COMMANDS, metavar="COMMAND", help="see below")
    p.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return p


def module(command: str) -> ModuleType:
    """Module behind the sub-command ``command``."""
    cli.Parser.aliases |= {
        f"python -m {name}": f"rmsmp {short}" for short, (name, _) in COMMANDS.items()
    }
    return importlib.import_module(COMMANDS[command][0])


def completion(shell: str) -> str:
    """Completion script of ``shell`` for commands, options, choices and files."""
    whole = argparse.ArgumentParser(prog="rmsmp")
    whole.add_argument("--version", action="store_true")
    commands = whole.add_subparsers()
    for command, (_, text) in COMMANDS.items():
        try:
            own = module(command).parser()
        except ModuleNotFoundError:  # of an extra that is not installed
            continue
        for action in own._actions:
            if action.type is Path or action.metavar in ("DIR", "FILE", "PATH", "RUN", "BUILD"):
                vars(action)["complete"] = shtab.FILE  # what shtab looks for
        commands.add_parser(command, help=text, parents=[own], add_help=False)
    return shtab.complete(whole, shell)


def main(argv: Sequence[str] | None = None) -> int:
    p = parser()
    args = p.parse_args(argv)
    if args.print_completion:
        cli.give(completion(args.print_completion))
        return 0
    if args.command is None:
        p.print_help()
        return cli.EXIT_USER_ERROR
    return module(args.command).main(args.arguments)


def start() -> int:
    """Entry point of the console command."""
    return cli.run(main)
