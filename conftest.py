# SPDX-License-Identifier: Apache-2.0
"""Options of the whole test suite. They become environment variables, which worker and simulator
processes inherit: ``SEED``, ``SIM`` and ``WAVES``."""

import os

import pytest

# One torch thread per test process: on these small tensors a second one makes it ten times slower,
# and pytest-xdist has the other cores. Set before any test imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("rmsmp")
    group.addoption(
        "--seed", type=int, metavar="N", help="seed of random tests (default: $SEED, else 1)"
    )
    group.addoption(
        "--simulator",
        choices=("icarus", "verilator"),
        help="Verilog simulator (default: $SIM, else found)",
    )
    group.addoption(
        "--waves", action="store_true", help="keep waves of every bench under build/sim"
    )


def pytest_configure(config: pytest.Config) -> None:
    seed = config.getoption("--seed")
    os.environ["SEED"] = str(seed if seed is not None else os.environ.get("SEED", "1"))
    if config.getoption("--simulator"):
        os.environ["SIM"] = config.getoption("--simulator")
    if config.getoption("--waves"):
        os.environ["WAVES"] = "1"


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed: {os.environ['SEED']} (repeat with --seed {os.environ['SEED']})"


@pytest.fixture
def seed() -> int:
    """Seed for a test's random numbers."""
    return int(os.environ["SEED"])
