# SPDX-License-Identifier: Apache-2.0
"""Watch over what a case does outside its folder: files, programs, connections."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

#: Name of what mutations of paths ask for; nothing may look at it.
OUTSIDE = "outside"
#: Events that start a program or a connection.
PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect")
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "os.symlink")
#: Where libraries keep what they compute once.
CACHES = (Path.home() / ".cache", Path.home() / ".config", Path("/dev"), Path("/proc"))

_allowed: tuple[Path, ...] | None = None  # while a case is watched
_seen: list[str] = []
_installed = False


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[list[str]]:
    """Context whose list gets a line for everything that is done outside ``folder``."""
    global _allowed, _installed
    if not _installed:
        sys.addaudithook(_hook)  # stays for good
        _installed = True
    _seen.clear()
    _allowed = (folder.resolve(), Path(tempfile.gettempdir()) / "matplotlib", *CACHES)
    try:
        yield _seen
    finally:
        _allowed = None


def _hook(event: str, arguments: tuple) -> None:
    if _allowed is None:
        return
    if event in PROGRAMS:
        _seen.append(f"{event} {str(arguments[:1])[:100]}")
    elif event == "open":
        path, mode, flags = arguments
        if isinstance(path, str | bytes | os.PathLike):
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) if mode is None else 0
            writes = writes or (isinstance(mode, str) and not mode.startswith("r"))
            _check(path, f"{'writes' if writes else 'reads'}", bool(writes))
    elif event in CHANGES:
        relative = isinstance(arguments[-1], int) and arguments[-1] >= 0  # to an open folder
        first = 1 if event == "os.symlink" else 0  # what it points to is not touched
        for path in arguments[first : first + (2 if event == "os.rename" else 1)]:
            if isinstance(path, str | bytes | os.PathLike) and not relative:
                _check(path, event, writes=True)


def _check(path: "str | bytes | os.PathLike", what: str, writes: bool) -> None:
    place = Path(os.path.realpath(os.fsdecode(path)))
    inside = any(place.is_relative_to(folder) for folder in _allowed or ())
    if (writes and not inside) or (place.name == OUTSIDE and not inside):
        _seen.append(f"{what} {place}")
