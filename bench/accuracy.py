# SPDX-License-Identifier: Apache-2.0
"""Train methods times seeds and compare them; started again, it goes on where it was stopped.

python -m bench.accuracy                     all tables, hours
python -m bench.accuracy --tables narrow     one of them
python -m bench.accuracy --report            only the tables of the runs that are there
"""

import concurrent.futures
import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence

import rich.console
import rich.progress

from bench import tables
from bench.experiments import TABLES, Run, Table
from quant import cli

RESULTS = pathlib.Path(__file__).parent / "results"


def parser() -> cli.Parser:
    p = cli.Parser(prog="python -m bench.accuracy", description=__doc__)
    p.add_argument("--tables", default=",".join(TABLES), metavar="A,B",
                   help="which tables (default: %(default)s)")
    p.add_argument("--runs", default="runs/accuracy", metavar="DIR",
                   help="folder of the trainings (default: %(default)s)")
    p.add_argument("--jobs", type=int, default=2, metavar="N",
                   help="trainings at a time, a thread each (default: %(default)s)")
    p.add_argument("--seeds", type=int, metavar="N", help="seeds (default: the table's)")
    p.add_argument("--report", action="store_true", help="train nothing")
    p.add_argument("--out", default=str(RESULTS), metavar="DIR",
                   help="folder of accuracy.json and accuracy.md (default: %(default)s)")
    p.add_argument("--json", action="store_true", help="print the result as one JSON document")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    chosen = []
    for name in options.tables.split(","):
        if name not in TABLES:
            raise cli.UserError(f"unknown table {name!r}; known are {', '.join(TABLES)}")
        chosen.append(TABLES[name])
    folder = pathlib.Path(options.runs)
    if not options.report:
        runs = [run for table in chosen for run in table.runs()
                if options.seeds is None or run.seed <= options.seeds]
        train_all(runs, folder, options.jobs)
    measured = {table.name: measure(table, folder) for table in chosen}
    report = tables.report([t for t in chosen if measured[t.name]], measured)
    out = pathlib.Path(options.out)
    try:
        tables.save(report, out)
    except OSError as error:
        raise cli.UserError(f"cannot write to {out}: {error.strerror}") from error
    cli.give(json.dumps(report) if options.json else tables.markdown(report))
    return 0


def train_all(runs: Sequence[Run], folder: pathlib.Path, jobs: int) -> None:
    """Do the trainings that ``folder`` does not have yet, the float ones first."""
    missing = [run for run in runs if not (folder / run.name / "result.json").is_file()]
    console = rich.console.Console(stderr=True)
    columns = ("{task.description}", rich.progress.BarColumn(),
               rich.progress.MofNCompleteColumn(), rich.progress.TimeRemainingColumn(), "left")
    with rich.progress.Progress(*columns, console=console) as progress, \
            concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        task = progress.add_task("trainings", total=len(runs),
                                 completed=len(runs) - len(missing))
        for stage in ([r for r in missing if r.row is None], [r for r in missing if r.row]):
            started = {pool.submit(train, run, folder): run for run in stage}
            try:
                for done in concurrent.futures.as_completed(started):
                    done.result()
                    progress.advance(task)
                    if not console.is_terminal:
                        cli.say(f"{started[done].name} done")
            except BaseException:
                for future in started:
                    future.cancel()
                raise


def train(run: Run, folder: pathlib.Path) -> None:
    """One training in a process of its own. Raises UserError with its last line when it fails."""
    start = folder / Run(run.table, None, run.seed).name / "float.pt"
    settings = run.settings(str(start)) | {"tensorboard": False, "plots": False}
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / f"{run.name}.json"
    config.write_text(json.dumps(settings, indent=2) + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "quant.train", "--config", str(config), "--out", str(folder),
         "--name", run.name, "-q"], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise cli.UserError(f"{run.name}: {lines[-1]}")
    config.unlink()


def measure(table: Table, folder: pathlib.Path) -> dict[str, dict[int, dict[str, float]]]:
    """Percentages by label and seed of the runs that are there: ``accuracy`` of the network as
    trained, of the ``integer`` one, and their ``agreement``."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for run in table.runs():
        path = folder / run.name / "result.json"
        if not path.is_file():
            continue
        result = json.loads(path.read_text())
        accuracy = result["accuracy"]
        values = {"accuracy": 100 * accuracy.get("quantised", accuracy["float"])}
        if "integer" in accuracy:
            values |= {"integer": 100 * accuracy["integer"],
                       "agreement": 100 * result["agreement"]}
        found.setdefault(run.label, {})[run.seed] = values
    return found


if __name__ == "__main__":
    sys.exit(cli.run(main))
