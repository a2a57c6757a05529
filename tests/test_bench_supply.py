# SPDX-License-Identifier: Apache-2.0
"""What comes from others is listed whole; nothing is asked of the network but where it must be."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import supply

ROOT = Path(__file__).resolve().parents[1]
#: Program that trains and builds where every connection is an error.
OFFLINE = """
import sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        raise SystemExit(f"network: {event} {arguments}")
sys.addaudithook(refuse)
import socket
if sys.argv[1:] == ["connect"]:
    socket.getaddrinfo("example.org", 80)
from gateware import build
from ir import cli
from quant import evaluate, train
code = cli.run(train.main, ["--subset", "64", "--batch-size", "16", "--width", "4",
    "--float-epochs", "1", "--epochs", "1", "--integer-samples", "8", "--no-plots", "-q"])
code = code or cli.run(evaluate.main, ["digits", "--json"])
code = code or cli.run(build.main, ["--board", "zedboard", "--graph", "digits", "--no-search",
    "--project-only", "-q"])
sys.exit(code)
"""


def offline(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", OFFLINE, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.slow
def test_training_measuring_and_building_need_no_network(tmp_path: Path) -> None:
    done = offline(tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "build/zedboard/accelerator.v").is_file()


def test_a_connection_would_be_seen(tmp_path: Path) -> None:
    assert "network: socket.getaddrinfo" in offline(tmp_path, "connect").stderr


def test_everything_that_is_needed_has_a_licence() -> None:
    found = supply.needed(["train"])
    names = {d.name.lower() for d in found}
    assert {"amaranth", "numpy", "torch", "sympy"} <= names  # the last one is torch's
    assert "pytest" not in names and "rmsmp" not in names
    assert not [d.name for d in found if supply.licence(d) == "not named"]
    components = supply.sbom(found)["components"]
    assert isinstance(components, list) and len(components) == len(found)


def test_lock_has_a_hash_for_every_package() -> None:
    def entry(name: str, **hashes: str) -> dict:
        about = {"name": name, "version": "1.0"}
        return {"metadata": about, "download_info": {"archive_info": {"hashes": hashes}}}

    text = supply.lock({"install": [entry("B", sha256="b" * 64), entry("a", sha256="a" * 64)]})
    assert re.findall(r"^(\w+)==1.0 \\\n    --hash=sha256:(\w)", text, re.M) == [
        ("a", "a"),
        ("b", "b"),
    ]
    own = {"metadata": {"name": "rmsmp", "version": "0"}, "download_info": {"dir_info": {}}}
    assert "rmsmp" not in supply.lock({"install": [own]})
