# SPDX-License-Identifier: Apache-2.0
"""Mutation testing of the heart: small changes of the code that some test must notice.

python -m bench.mutants --count 300 --seed 1     mutants of all modules of HEART, in turn
python -m bench.mutants --only ir/numerics.py:40

A mutant has one constant, comparison, operator or condition changed, in a copy of the repository;
the test of its module runs there. What survives is printed with its line. The result is kept in
build/mutants.json, and the same command goes on from there.
"""

import ast
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ir import cli
from ir.files import replace_text

ROOT = Path(__file__).resolve().parents[1]
#: Modules, and the tests that are to notice a change.
HEART = {
    "ir/numerics.py": ("tests/ir/test_numerics.py",),
    "ir/arrays.py": ("tests/ir/test_graph.py",),
    "ir/validate.py": ("tests/ir/test_validate.py",),
    "ir/golden.py": ("tests/ir/test_golden.py",),
    "ir/ratio.py": ("tests/ir/test_ratio.py",),
    "ir/tail.py": ("tests/ir/test_tail.py",),
    "gateware/compiler/pack.py": ("tests/gateware/compiler/test_compiler.py",),
    "gateware/compiler/layout.py": ("tests/gateware/compiler/test_compiler.py",),
    "gateware/compiler/space_to_depth.py": ("tests/gateware/compiler/test_space_to_depth.py",),
    "gateware/compiler/windows.py": ("tests/gateware/compiler/test_windows.py",),
    "gateware/arch/isa.py": ("tests/gateware/arch/test_isa.py",),
    "gateware/rtl/requant.py": ("tests/gateware/rtl/test_requant.py",),
    "gateware/pe/pot4.py": ("tests/gateware/pe",),
    "gateware/pe/fixed8.py": ("tests/gateware/pe",),
    "gateware/pe/fixed4_lut.py": ("tests/gateware/pe",),
    "boards/driver/tensors.py": ("tests/boards/driver",),
    "boards/driver/manifest.py": ("tests/boards/driver",),
    "boards/driver/package.py": ("tests/boards/driver",),
}
LIMIT = 240  #: seconds of a test; a mutant that takes longer is noticed
OPERATORS: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Add, ast.FloorDiv),
    ast.FloorDiv: (ast.Mult,),
    ast.Mod: (ast.FloorDiv,),
    ast.LShift: (ast.RShift,),
    ast.RShift: (ast.LShift,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.USub: (ast.UAdd,),
}


class Site(ast.NodeTransformer):
    """Changes of a syntax tree, numbered in the order in which they are found; change ``number`` is
    made, the others are counted."""

    def __init__(self, number: int = -1) -> None:
        self.number, self.count = number, 0
        self.said = ""

    def _turn(self, node: ast.AST, what: str) -> bool:
        mine = self.count == self.number
        self.count += 1
        if mine:
            self.said = f"{getattr(node, 'lineno', 0)}: {what}"
        return mine

    def visit(self, node: ast.AST) -> ast.AST:
        """Node, or what it is changed to; annotations and docstrings stay."""
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return node
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list", "keywords_of_class"):
                continue
            if isinstance(value, list):
                value[:] = [self.visit(v) if isinstance(v, ast.AST) else v for v in value]
            elif isinstance(value, ast.AST):
                setattr(node, field, self.visit(value))
        return self._changed(node)

    def _changed(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            for step in (1, -1):
                if self._turn(node, f"{node.value} to {node.value + step}"):
                    return ast.copy_location(ast.Constant(node.value + step), node)
        elif isinstance(node, ast.Compare) and len(node.ops) == 1:
            node.ops = [self._operator(node, node.ops[0])]
        elif isinstance(node, ast.BinOp | ast.BoolOp | ast.UnaryOp | ast.AugAssign):
            node.op = self._operator(node, node.op)
        elif isinstance(node, ast.If | ast.IfExp):
            if self._turn(node, "condition negated"):
                node.test = ast.copy_location(ast.UnaryOp(ast.Not(), node.test), node.test)
        return node

    def _operator(self, node: ast.AST, operator: ast.AST) -> ast.AST:
        for other in OPERATORS.get(type(operator), ()):
            if self._turn(node, f"{type(operator).__name__} to {other.__name__}"):
                return other()
        return operator


def sites(source: str) -> int:
    """Number of mutants of a module's source."""
    counted = Site()
    counted.visit(ast.parse(source))
    return counted.count


def mutant(source: str, number: int) -> tuple[str, str]:
    """Source with change ``number``, and what it is: line and change."""
    made = Site(number)
    tree = ast.fix_missing_locations(made.visit(ast.parse(source)))
    return ast.unparse(tree), made.said


def chosen(count: int, seed: int) -> list[tuple[str, int]]:
    """Modules and numbers of ``count`` mutants, as evenly over the modules as there are any."""
    rng, left = random.Random(seed), dict[str, list[int]]()
    for name in HEART:
        if (ROOT / name).is_file():
            left[name] = list(range(sites((ROOT / name).read_text())))
            rng.shuffle(left[name])
    found: list[tuple[str, int]] = []
    while len(found) < count and any(left.values()):
        found += [(name, numbers.pop()) for name, numbers in left.items() if numbers]
    return found[:count]


def examine(copy: Path, name: str, number: int) -> tuple[bool, str]:
    """Whether a test noticed the mutant in a ``copy`` of the repository, and what it was."""
    path, source = copy / name, (ROOT / name).read_text()
    text, said = mutant(source, number)
    path.write_text(text)
    try:
        tests = [test for test in HEART[name] if (copy / test).exists()]
        return not passes(copy, tests), said
    finally:
        path.write_text(source)


def passes(copy: Path, tests: Sequence[str]) -> bool:
    """True if ``tests`` pass in a ``copy`` of the repository, in time."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests],
        cwd=copy,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
        start_new_session=True,
    )
    try:
        return process.wait(LIMIT) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run(wanted: Sequence[tuple[str, int]], results: Path) -> Iterator[tuple[str, int, bool, str]]:
    """Outcomes of mutants, those of former calls among them: module, number, noticed, change."""
    known = json.loads(results.read_text()) if results.exists() else {}
    with tempfile.TemporaryDirectory(prefix="mutants-") as place:
        copy = Path(place) / "copy"
        ignored = shutil.ignore_patterns(".*", "build", "runs", "site", "__pycache__")
        shutil.copytree(ROOT, copy, ignore=ignored)
        for name, number in wanted:
            key = f"{name}:{number}"
            if key not in known:
                known[key] = examine(copy, name, number)
                results.parent.mkdir(parents=True, exist_ok=True)
                replace_text(results, json.dumps(known, indent=1) + "\n")
            yield name, number, *known[key]


def parser() -> cli.Parser:
    """Options of the command."""
    p = cli.Parser(prog="bench.mutants", description=__doc__)
    p.add_argument("--count", type=cli.whole(1), default=300, metavar="N", help="mutants")
    p.add_argument("--seed", type=cli.whole(0), default=1, metavar="N", help="which ones")
    p.add_argument("--only", metavar="FILE:N", help="this one again")
    p.add_argument("--out", type=Path, default=Path("build/mutants.json"), metavar="FILE")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Table of the modules: mutants, noticed ones; survivors line by line."""
    args = parser().parse_args(argv)
    wanted = chosen(args.count, args.seed)
    if args.only:
        name, _, number = args.only.rpartition(":")
        if name not in HEART or not number.isdecimal():
            raise cli.UserError(f"--only is MODULE:NUMBER, not {args.only!r}")
        wanted = [(name, int(number))]
    counts: dict[str, list[int]] = {}
    for name, number, noticed, said in run(wanted, args.out):
        own = counts.setdefault(name, [0, 0])
        own[0] += 1
        own[1] += noticed
        if not noticed:
            print(f"survived {name}:{number}, line {said}", flush=True)
    print("| module | mutants | noticed |\n|---|---:|---:|")
    for name, (all_, noticed) in counts.items():
        print(f"| {name} | {all_} | {noticed} |")
    total, killed = (sum(column) for column in zip(*counts.values(), strict=True))
    print(f"| all | {total} | {killed} ({killed / total:.0%}) |")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
