# SPDX-License-Identifier: Apache-2.0
"""Files and folders that commands write: one process at a time, former content until the end."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ir.cli import UserError


@contextlib.contextmanager
def exclusive(folder: Path, advice: str) -> Iterator[None]:
    """Context in which no other process has ``folder`` in such a context.

    The lock is the file ``.NAME.lock`` beside the folder, which need not exist itself; it is
    removed at the end, and worth nothing when its process died. Raises UserError where another
    process has it, with ``advice``, and where the lock cannot be written.
    """
    path = folder.with_name(f".{folder.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _locked(path)
    except BlockingIOError:
        raise UserError(f"another process writes {folder}: {advice}") from None
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(lock)


def _locked(path: Path) -> int:
    """Descriptor of the locked file ``path``; raises BlockingIOError where another has it."""
    while True:
        lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            _flock(lock)
            if os.fstat(lock).st_ino == path.stat().st_ino:
                return lock
        except FileNotFoundError:
            pass  # who had it removed it just now
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


def _flock(file: int) -> None:
    """Lock of an open file or folder, where its file system can lock.

    Raises BlockingIOError where another process has it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        pass  # some network file systems cannot


def replace_folder(new: Path, final: Path) -> None:
    """Move of the folder ``new`` to ``final``, whose former content stays until then.

    Raises OSError.
    """
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    new.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def replace_text(path: Path, text: str) -> None:
    """Replacement of a file, whose former content stays until the new one is complete.

    Raises OSError.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
