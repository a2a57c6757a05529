# SPDX-License-Identifier: Apache-2.0
"""Trained networks for the benches that run real ones."""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sim.backend.compilers import built_once
from sim.backend.harness import BUILD_ROOT
from sim.verify.cases import Case, CaseMaker

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def trained() -> Callable[[str, int], Path]:
    """``trained(ratio, tile_rows)``: folder of a network trained on the digits for a few epochs.

    Made once per state of ir/ and quant/, and shared by all test processes.
    """
    sources = sorted(file for top in ("ir", "quant") for file in (ROOT / top).rglob("*.py"))
    state = hashlib.blake2s(
        b"".join(file.read_bytes() for file in sources), digest_size=8
    ).hexdigest()

    def train(ratio: str, tile_rows: int) -> Path:
        def make(folder: Path) -> None:
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "quant.train",
                    "-q",
                    "--out",
                    folder,
                    "--name",
                    "digits",
                    "--ratio",
                    ratio,
                    "--tile-rows",
                    str(tile_rows),
                    "--float-epochs",
                    "3",
                    "--epochs",
                    "3",
                ],
                cwd=ROOT,
                check=True,
            )

        name = f"digits-{ratio.replace(':', '-')}-{tile_rows}-{state}"
        return built_once(BUILD_ROOT.parent / "test-runs" / name, make) / "digits"

    return train


@pytest.fixture(scope="session")
def make_case(trained: Callable[[str, int], Path]) -> CaseMaker:
    """``make_case(config, ratio)``: network trained with ``ratio`` in tiles of the array's rows."""
    return lambda config, ratio: Case.load(config, trained(ratio, config.rows))
