# SPDX-License-Identifier: Apache-2.0
"""Rules of the house: ir is the floor, quant and gateware stand on it side by side, no circles.

Mirrors no module: it is about the whole house.
"""

import subprocess
import sys

import pytest

from tests.helpers.imports import (
    PACKAGES,
    ROOT,
    circle,
    circles,
    folders,
    import_graph,
    imported,
    matches,
    modules,
    within,
)

#: What each package may import of ours.
MAY = {
    "ir": (),
    "boards": ("ir",),
    "quant": ("ir",),
    "gateware": ("ir", "boards"),
    "sim": ("ir", "boards", "gateware"),
    "rmsmp": ("ir", "boards", "quant", "gateware", "sim"),
}
#: What it must not import, ours or not.
NEVER = {
    "ir": ("torch", "amaranth"),
    "quant": ("amaranth", "amaranth_boards", "cocotb", "cocotb_tools"),
    "boards": ("torch",),
    "gateware": ("torch", "cocotb", "cocotb_tools"),
    "sim": ("torch",),
    "gateware.rtl": ("gateware.compiler", "gateware.model", "gateware.report"),
    "gateware.compiler": ("gateware.rtl",),
    "sim.benches": ("sim.verify",),
}


def offences(module: str, names: set[str]) -> set[str]:
    """Those of the imported ``names`` that ``module`` must not import."""
    package = module.partition(".")[0]
    others = set(PACKAGES) | {"bench", "examples", "tests"}
    foreign = others - {package, *MAY[package]}
    never = [
        name for place, banned in NEVER.items() if matches(module, (place,)) for name in banned
    ]
    return {name for name in names if matches(name, [*foreign, *never])}


def test_arrows() -> None:
    graph = import_graph()
    assert {name.partition(".")[0] for name in graph} == set(PACKAGES)
    found = {module: offences(module, names) for module, names in graph.items()}
    assert {module: bad for module, bad in found.items() if bad} == {}


def test_no_circle() -> None:
    graph = import_graph()
    assert circle(within(graph)) == []
    assert circle(folders(graph)) == []


def test_no_third_level() -> None:
    deep = [file for file in modules().values() if len(file.relative_to(ROOT).parts) > 3]
    assert deep == []


def test_the_floor_is_light() -> None:
    """The interpreter's answer, which also covers third parties."""
    names = [module for module in modules() if matches(module, ("ir",))]
    program = (
        f"import sys, {', '.join([*names, 'quant.train', 'quant.training.config'])}\n"
        "print([name for name in ('torch', 'amaranth') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_driver_runs_on_the_board_with_numpy_alone() -> None:
    # pynq is on PYNQ images, and imported where nothing else gives memory.
    known = ("numpy", "pynq", "boards.driver", *sys.stdlib_module_names)
    drivers = {m: names for m, names in import_graph().items() if matches(m, ("boards.driver",))}
    assert len(drivers) > 5
    foreign = {m: {n for n in names if not matches(n, known)} for m, names in drivers.items()}
    assert {module: bad for module, bad in foreign.items() if bad} == {}


@pytest.mark.parametrize(
    ("module", "source", "bad"),
    [
        ("ir.graph", "import torch.nn", {"torch.nn"}),
        ("ir.graph", "from boards.board import Board", {"boards.board.Board"}),
        ("quant.train", "import amaranth", {"amaranth"}),
        ("quant.train", "from gateware import build", {"gateware.build"}),
        ("quant.train", "import quant.nn.layers, torch", set()),
        ("boards.zc706", "from quant.nn import layers", {"quant.nn.layers"}),
        ("gateware.build", "def f():\n    from quant.lowering import x", {"quant.lowering.x"}),
        ("gateware.build", "from ir.numerics import Scheme\nimport boards", set()),
        ("gateware.build", "import sim.run, bench.zoo", {"sim.run", "bench.zoo"}),
        ("gateware.rtl.top", "from gateware.model import timeline", {"gateware.model.timeline"}),
        ("gateware.soc.ecp5", "from gateware.model import timeline", set()),
        ("sim.run", "import numpy, gateware.rtl.axi", set()),
    ],
)
def test_rule_catches(module, source, bad) -> None:
    assert offences(module, imported(source)) == bad


def test_relative_imports_are_resolved() -> None:
    assert imported("from . import axi", "gateware.soc") == {"gateware.soc.axi"}
    assert imported("from ..axi import Resp", "gateware.soc") == {"gateware.axi.Resp"}


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": {"f"}, "f": {"e"}}
    assert len(circle(graph)) == 4 and circles(graph) == 2
    assert circle({"a": {"b"}, "b": set()}) == []
