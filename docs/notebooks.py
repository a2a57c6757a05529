# SPDX-License-Identifier: Apache-2.0
"""Executes the notebooks of examples/ and keeps what they print: ``python -m docs.notebooks``.

They run in the root of the repository and write to build/tutorial. A cell that fails ends this
with its traceback and exit code 1.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from ir import cli

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ("digits", "own_network")
TIMEOUT_S = 1800  #: of a cell; simulations are the longest


def parser() -> cli.Parser:
    p = cli.Parser(prog="python -m docs.notebooks", description=__doc__)
    p.add_argument("names", nargs="*", metavar="NAME", help=f"default: {' '.join(NOTEBOOKS)}")
    p.add_argument(
        "--out",
        type=Path,
        default=ROOT / "examples",
        metavar="DIR",
        help="where executed notebooks go (default: the notebooks themselves)",
    )
    return p


def execute(source: Path, target: Path) -> None:
    """Run ``source`` from its first cell on, and write it with its outputs to ``target``.

    Raises CellExecutionError where a cell does.
    """
    notebook = nbformat.read(source, as_version=4)
    NotebookClient(
        notebook,
        timeout=TIMEOUT_S,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(ROOT)}},
    ).execute()
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    for cell in notebook.cells:
        cell.metadata = {}
    nbformat.write(notebook, target)


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if unknown := set(args.names) - set(NOTEBOOKS):
        raise cli.UserError(f"no notebook is called {min(unknown)}; {', '.join(NOTEBOOKS)} are")
    # Cells call commands of this environment: `!python -m quant.train`.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for name in args.names or NOTEBOOKS:
        cli.say(f"executing {name}")
        try:
            execute(ROOT / "examples" / f"{name}.ipynb", args.out / f"{name}.ipynb")
        except CellExecutionError as error:
            cli.say(str(error))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
