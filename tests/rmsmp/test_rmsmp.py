# SPDX-License-Identifier: Apache-2.0
"""The door: what it imports, and that its names are those of its modules."""

import subprocess
import sys
import time

import pytest

import rmsmp
from tests.helpers.imports import ROOT

IMPORT_SECONDS = 0.3


def python(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_import_is_light_and_fast() -> None:
    """Nothing but the standard library and the door itself; the best of three attempts counts."""
    program = (
        "import sys, time; before = set(sys.modules); start = time.perf_counter(); import rmsmp\n"
        "took = time.perf_counter() - start; new = {m.partition('.')[0] for m in sys.modules}\n"
        "print(took, *sorted(new - before - set(sys.stdlib_module_names)))"
    )
    took, *names = python(program).split()
    assert names == ["rmsmp"]
    assert min(float(took), *(float(python(program).split()[0]) for _ in range(2))) < IMPORT_SECONDS


def test_every_public_name_is_there() -> None:
    for name in rmsmp._HOMES:
        value = getattr(rmsmp, name)
        assert callable(value) and value.__doc__, name
        assert value.__module__.startswith("rmsmp.")
    assert set(rmsmp.__all__) == {*rmsmp._HOMES, "__version__"} <= set(dir(rmsmp))
    with pytest.raises(AttributeError, match="'rmsmp' has no attribute 'quantize'"):
        rmsmp.__getattr__("quantize")


def test_version_is_that_of_the_package() -> None:
    assert f'version = "{rmsmp.__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_hardware_needs_no_torch() -> None:
    """A person who only builds has not installed it."""
    assert python("import sys, rmsmp; rmsmp.build; print('torch' in sys.modules)") == "False"


def test_start_time_of_the_console() -> None:
    start = time.perf_counter()
    assert python("from rmsmp import cli; print(cli.parser().prog)") == "rmsmp"
    assert time.perf_counter() - start < 5


def test_missing_torch_is_named() -> None:
    program = (
        "import sys; sys.modules['torch'] = None; import rmsmp\n"
        "try: rmsmp.quantise\nexcept Exception as error: print(error)"
    )
    assert python(program).endswith("pip install 'rmsmp[train]'")
