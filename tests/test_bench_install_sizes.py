# SPDX-License-Identifier: Apache-2.0
"""Sizes of extras, from files and from what pip says it would install."""

import io
import tarfile
import zipfile
from pathlib import Path

from bench import install_sizes
from tests.helpers.imports import ROOT


def test_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    wheel, archive = tmp_path / "a.whl", tmp_path / "b.tar.gz"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.py", bytes(100_000))
    with tarfile.open(archive, "w:gz") as file:
        member = tarfile.TarInfo("b.py")
        member.size = 50_000
        file.addfile(member, io.BytesIO(bytes(50_000)))
    download = wheel.stat().st_size + archive.stat().st_size
    assert install_sizes.size([wheel, archive]) == (download, 150_000) and download < 2000
    first, _, row = install_sizes.table({"sim": {"cocotb": wheel, "b": archive}})
    assert first.startswith("| extra |") and row == "| `sim` | 2 | 0 | 0 | cocotb |"


def test_report_of_pip_gives_the_files() -> None:
    entry = {"metadata": {"name": "Torch"}, "download_info": {"url": "file:///w/torch%2B1.whl"}}
    entry["download_info"]["archive_info"] = {}
    own = {"metadata": {"name": "rmsmp"}, "download_info": {"url": "file:///x", "dir_info": {}}}
    assert install_sizes.chosen({"install": [entry, own]}) == {"torch": Path("/w/torch+1.whl")}


def test_every_extra_is_measured() -> None:
    asked = install_sizes.extras()
    assert asked[""] == "" and {"train", "text", "sim", "dev", "docs"} <= set(asked)
    page = (ROOT / "docs/install.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in page for name in asked if name and "," not in name)
