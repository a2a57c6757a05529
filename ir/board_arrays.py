# SPDX-License-Identifier: Apache-2.0
"""Array of each board: ratio, rows and sizes that training and hardware share.

The repository ships one JSON file a board in ``boards/arrays/``. The answer of a user's own search,
``python -m gateware.ratio --keep``, goes to :func:`user_folder`, which is read first.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Self

from ir.ratio import Ratio

SHIPPED = Path(__file__).resolve().parents[1] / "boards" / "arrays"


@dataclasses.dataclass(frozen=True)
class BoardArray:
    """Array that suits a board.

    Parameters
    ----------
    ratio : Ratio
        Shares of the schemes that its lanes were split by.
    rows : int
        Row lanes of a tile.
    sizes : dict of str to int
        Other sizes by name, as ``gateware.arch.config.SIZES`` has them.
    """

    ratio: Ratio
    rows: int
    sizes: dict[str, int]

    def save(self, folder: Path, board: str) -> Path:
        """Export to ``folder``/``board``.json, whole or not at all; returns its path."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {"ratio": str(self.ratio), "rows": self.rows, "sizes": self.sizes}
        path = folder / f"{board}.json"
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(content, indent=1) + "\n")
        unfinished.replace(path)
        return path

    @classmethod
    def load(cls, path: Path) -> Self:
        """Array in a file; raises ValueError, one line, for a file that holds none."""
        try:
            content = json.loads(path.read_text())
            sizes = {str(name): int(size) for name, size in content["sizes"].items()}
            return cls(Ratio.parse(content["ratio"]), int(content["rows"]), sizes)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} holds no array of a board ({error}): delete it, or write it again with "
                "python -m gateware.ratio --keep"
            ) from error


def user_folder() -> Path:
    """Folder of the arrays that were found on this machine."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "rmsmp" / "arrays"


def board_files() -> dict[str, Path]:
    """File of each board that an array is known for; the user's own win."""
    return {
        path.stem: path for folder in (SHIPPED, user_folder()) for path in folder.glob("*.json")
    }


def board_array(board: str) -> BoardArray:
    """Array of ``board``; raises ValueError where none is known, or its file is damaged."""
    files = board_files()
    if board not in files:
        raise ValueError(
            f"no array is known for board {board!r}, only for {', '.join(sorted(files))}"
        )
    return BoardArray.load(files[board])
