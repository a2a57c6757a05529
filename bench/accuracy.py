# SPDX-License-Identifier: Apache-2.0
"""Train methods times seeds and compare them; started again, it goes on where it was stopped.

python -m bench.accuracy                     the tables of Fashion-MNIST, hours
python -m bench.accuracy --tables narrow     one of them
python -m bench.accuracy --tables bert --minilm DIR --movies DIR
python -m bench.accuracy --report            only the tables of the runs that are there
"""

import concurrent.futures
import contextlib
import io
import json
import multiprocessing
import os
import pathlib
import signal
import sys
import threading
from collections.abc import Sequence

import rich.console
import rich.progress

import quant.train
from bench import bert, tables
from bench.experiments import TABLES, Run, Table
from ir import cli

RESULTS = pathlib.Path(__file__).parent / "results"


def parser() -> cli.Parser:
    p = cli.Parser(prog="python -m bench.accuracy", description=__doc__)
    p.add_argument(
        "--tables",
        default=",".join(TABLES),
        metavar="A,B",
        help="which tables (default: %(default)s)",
    )
    p.add_argument("--minilm", metavar="DIR", help=f"for the table bert: {bert.MINILM}")
    p.add_argument("--movies", metavar="DIR", help=f"for the table bert: {bert.MOVIES}")
    p.add_argument(
        "--runs",
        default="runs/accuracy",
        metavar="DIR",
        help="folder of the networks (default: %(default)s)",
    )
    p.add_argument(
        "--jobs",
        type=int,
        default=2,
        metavar="N",
        help="trainings at a time, a thread each (default: %(default)s)",
    )
    p.add_argument("--seeds", type=int, metavar="N", help="seeds (default: the table's)")
    p.add_argument("--report", action="store_true", help="train nothing")
    p.add_argument(
        "--out",
        default=str(RESULTS),
        metavar="DIR",
        help="folder of accuracy.jsonl, a line for each training, and of the tables "
        "accuracy.json and accuracy.md (default: %(default)s)",
    )
    p.add_argument("--json", action="store_true", help="print the result as one JSON document")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    known = TABLES | {"bert": bert.table(options.minilm, options.movies)}
    chosen = []
    for name in options.tables.split(","):
        if name not in known:
            raise cli.UserError(f"unknown table {name!r}; known are {', '.join(known)}")
        if name == "bert" and not options.report and not (options.minilm and options.movies):
            raise cli.UserError(
                f"table bert needs --minilm ({bert.MINILM}) and --movies ({bert.MOVIES})"
            )
        chosen.append(known[name])
    out = pathlib.Path(options.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        records = Records(out / "accuracy.jsonl")
        if not options.report:
            runs = [
                run
                for table in chosen
                for run in table.runs()
                if options.seeds is None or run.seed <= options.seeds
            ]
            train_all(runs, pathlib.Path(options.runs), records, options.jobs)
        measured = {table.name: records.measured(table) for table in known.values()}
        report = tables.report([t for t in known.values() if measured[t.name]], measured)
        tables.save(report, out)
    except concurrent.futures.process.BrokenProcessPool as error:
        raise cli.UserError("the process of a training died; what was done is on record") from error
    except OSError as error:
        raise cli.UserError(f"cannot write {error.filename}: {error.strerror}") from error
    cli.give(json.dumps(report) if options.json else tables.markdown(report))
    return 0


class Records:
    """The file with one line for each training that is done; whoever starts again reads it."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.is_file() else []
        self.by_name = {record["name"]: record for record in map(json.loads, lines)}

    def has(self, run: Run) -> bool:
        """Whether ``run`` was done with the settings that it has now."""
        return self.by_name.get(run.name, {}).get("settings") == run.settings

    def add(self, run: Run, result: dict[str, object]) -> None:
        """Note the result.json of ``run``, accuracies in percent. A float network that was only
        trained again, because its file was gone, keeps the record that others are paired with."""
        if self.has(run):
            return
        accuracy = result["accuracy"]
        values = {"accuracy": 100 * accuracy.get("quantised", accuracy["float"])}
        if "integer" in accuracy:
            values |= {"integer": 100 * accuracy["integer"], "agreement": 100 * result["agreement"]}
        record = {
            "name": run.name,
            "settings": run.settings,
            "values": values,
            "seconds": result["seconds"],
            "digest": result["digest"],
        }
        self.by_name[run.name] = record
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def measured(self, table: Table) -> dict[str, dict[int, dict[str, float]]]:
        """Values by label and seed."""
        found: dict[str, dict[int, dict[str, float]]] = {}
        for run in table.runs():
            if self.has(run):
                found.setdefault(run.label, {})[run.seed] = self.by_name[run.name]["values"]
        return found


def train_all(runs: Sequence[Run], folder: pathlib.Path, records: Records, jobs: int) -> None:
    """Do the trainings that are not on record, the float ones that they start from first."""
    missing = [run for run in runs if not records.has(run)]
    starts = {run.start.name: run.start for run in missing if run.row}
    first = [run for run in starts.values() if not (folder / run.name / "float.pt").is_file()]
    first += [run for run in missing if run.row is None and run.name not in starts]
    console = rich.console.Console(stderr=True)
    columns = (
        "{task.description}",
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(),
        "left",
    )
    stages = (first, [run for run in missing if run.row])
    with rich.progress.Progress(*columns, console=console) as progress, workers(jobs) as pool:
        task = progress.add_task("trainings", total=sum(map(len, stages)))
        for stage in stages:
            started = {pool.submit(train, run, folder): run for run in stage}
            try:
                for done in concurrent.futures.as_completed(started):
                    records.add(started[done], done.result())
                    progress.advance(task)
                    if not console.is_terminal:
                        cli.say(f"{started[done].name} done")
            except BaseException:
                for future in started:
                    future.cancel()
                raise


def workers(jobs: int) -> concurrent.futures.Executor:
    """Processes that train one network after the other: what they import takes as long as a
    training of the smallest."""
    return concurrent.futures.ProcessPoolExecutor(
        jobs, multiprocessing.get_context("spawn"), end_with_parent
    )


def end_with_parent() -> None:
    """Let Ctrl-C, and the end of the process that started this one, end it at once."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=wait, daemon=True).start()


def train(run: Run, folder: pathlib.Path) -> dict[str, object]:
    """One training; gives its result.json. Raises UserError with its last line when it fails."""
    settings = {"tensorboard": False, "plots": False} | run.settings | run.places
    if run.row:
        settings |= {"pretrained": str(folder / run.start.name / "float.pt")}
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / f"{run.name}.json"
    config.write_text(json.dumps(settings, indent=2) + "\n")
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = cli.run(
            quant.train.main,
            [
                "--config",
                str(config),
                "--out",
                str(folder),
                "--name",
                run.name,
                "--overwrite",
                "--json",
                "-q",
            ],
        )
    if code:
        lines = errors.getvalue().strip().splitlines() or ["no output"]
        raise cli.UserError(f"{run.name}: {lines[-1]}")
    config.unlink()
    return json.loads(out.getvalue())


if __name__ == "__main__":
    sys.exit(cli.run(main))
