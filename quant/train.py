# SPDX-License-Identifier: Apache-2.0
"""Train a network with row-wise mixed schemes and export its integer graph.

python -m quant.train                          handwritten digits, about a minute
python -m quant.train --dataset fashion-mnist  28x28 images, about ten minutes
python -m quant.train --resume digits          go on where training was stopped

Several GPUs or machines: torchrun --nproc-per-node N -m quant.train, or accelerate launch.
"""

import argparse
import contextlib
import json
import pathlib
import sys
import typing
from collections.abc import Iterator, Sequence
from typing import Any

import pydantic
from pydantic.fields import FieldInfo

from ir import cli
from quant.training.config import PRESET, PRESETS, TrainConfig, read_settings

if typing.TYPE_CHECKING:
    from quant.data import Dataset
    from quant.training.distributed import Processes
    from quant.training.runs import RunFolder

#: Settings that may differ where a run goes on: they change speed and output, not what is computed.
FREE = ("device", "threads", "tensorboard", "plots")
#: Settings that are files or folders.
PATHS = ("data", "pretrained", "onnx", "start")


def parser() -> cli.Parser:
    """Command line of ``python -m quant.train``."""
    presets = "\n".join(
        f"  {name + ':':15}{p.model}, {p.float_epochs} float epochs, {p.epochs} quantised, batch "
        f"{p.batch_size}, {p.optimiser}, lr {p.float_lr:g} / {p.lr:g}"
        for name, p in PRESETS.items()
    )
    p = cli.Parser(
        prog="python -m quant.train",
        description=__doc__,
        epilog=f"defaults by data set:\n{presets}",
    )
    p.add_argument("-q", "--quiet", action="store_true", help="only the result")
    p.add_argument("-v", "--verbose", action="store_true", help="a line for every epoch")
    p.add_argument("--json", action="store_true", help="print the result as one JSON document")
    p.add_argument(
        "--config",
        type=pathlib.Path,
        metavar="FILE",
        help="settings by name, as JSON or TOML; options of the command line win",
    )
    p.add_argument("--resume", metavar="RUN", help="go on with this run, a folder or its name")
    p.add_argument(
        "--out", default="runs", metavar="DIR", help="folder of runs (default: %(default)s)"
    )
    p.add_argument(
        "--overwrite", action="store_true", help="replace a run of this name, finished or not"
    )
    p.add_argument("--name", help="the run's folder in DIR (default: the data set's name)")
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name, field in TrainConfig.model_fields.items():
        title = group_of(field)
        if title not in groups:
            groups[title] = p.add_argument_group(title)
        add_setting(groups[title], name, field)
    return p


def settings_of_start(start: str) -> dict[str, Any]:
    """Settings of task, network and schemes of the run ``start``, a folder or a file in it.

    Raises UserError for what is no finished run.
    """
    from quant.training.runs import RunFolder

    path = pathlib.Path(start)
    run = RunFolder.open(str(path.parent if path.is_file() else path))
    config = run.config()
    if config.method == "float32":
        raise cli.UserError(f"{run.path} is not quantised: start from its float.pt by --pretrained")
    kept = {
        name: value
        for name, value in config.model_dump().items()
        if group_of(TrainConfig.model_fields[name]) in ("task", "network", "schemes")
    }
    fresh = {"pretrained": str(run / "float.pt"), "start": str(run.path), "float_epochs": 0}
    return kept | fresh | {"calibration_images": None}


def group_of(field: FieldInfo) -> str:
    """Heading of ``--help`` that a field of :class:`TrainConfig` belongs to."""
    extra = field.json_schema_extra
    return str(extra["group"]) if isinstance(extra, dict) else "other"


def add_setting(group: "argparse._ArgumentGroup", name: str, field: FieldInfo) -> None:
    """Option of one field of :class:`TrainConfig`, added to ``group``.

    Left out it is None: the default is decided together with ``--config``.
    """
    default = PRESET if field.is_required() else field.default
    text = field.description or ""
    if default is not None:
        text += f" (default: {str(default).lower() if field.annotation is bool else default})"
    kinds = (field.annotation, *typing.get_args(field.annotation))
    options: dict[str, Any] = {
        "metavar": "N"
        if int in kinds
        else "F"
        if float in kinds
        else "PATH"
        if name in PATHS
        else "NAME"
    }
    if field.annotation is bool:
        options = {"action": argparse.BooleanOptionalAction}
    elif typing.get_origin(field.annotation) is typing.Literal:
        choices = typing.get_args(field.annotation)
        options = {"choices": choices, "type": type(choices[0])}
    extra = field.json_schema_extra
    option = str(extra.get("option", name)) if isinstance(extra, dict) else name
    option = f"--{option.replace('_', '-')}"
    group.add_argument(option, dest=name, default=None, help=text, **options)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the command; raises UserError."""
    options = vars(parser().parse_args(argv))
    quiet, verbose, as_json, file, resume, out, overwrite, name = (
        options.pop(key)
        for key in ("quiet", "verbose", "json", "config", "resume", "out", "overwrite", "name")
    )
    try:
        given = read_settings(file) if file else {}
        if resume == "":
            raise ValueError("--resume needs the folder or the name of a run")
        if resume and name:
            raise ValueError("--resume has a name already: leave --name out")
        if resume and overwrite:
            raise ValueError("--resume goes on with a run, --overwrite begins it anew: leave one")
        given |= {key: value for key, value in options.items() if value is not None}
        if given.get("start") and not resume:
            of_start = settings_of_start(str(given.pop("start")))
            given = of_start | given
        config = None if resume else TrainConfig.resolve(**given)
        if config and config.board and (own := [k for k in ("ratio", "tile_rows") if k in given]):
            options = " and ".join(f"--{key.replace('_', '-')} {given[key]}" for key in own)
            if not quiet:
                cli.say(f"{options} as given, not as of {config.board}'s array")
    except ValueError as error:
        raise cli.UserError(str(error)) from error
    # From here on torch is needed, which takes seconds to import.
    from quant.training import pipeline
    from quant.training.device import choose_device
    from quant.training.distributed import Processes
    from quant.training.runs import RunFolder

    device = choose_device(given.get("device", "auto"))
    processes = Processes(device)
    with one_voice(processes), contextlib.ExitStack() as at_end:
        found = None
        if processes.first:
            if config is None:
                run = RunFolder.reopen(out, resume)
                run.claim()
            else:
                run = RunFolder.plan(out, config.dataset if name is None else name, overwrite)
            at_end.callback(run.release)
            found = run, config or same_settings(run.config(), given), run.finished
        run, config, finished = typing.cast(
            "tuple[RunFolder, TrainConfig, bool]", processes.of_first(found)
        )
        if finished and resume:
            plots = given.get("plots", False)
            return tell_finished(run, as_json, plots) if processes.first else 0
        if config.tensorboard:
            cli.require("tensorboard")  # before anything is written
        config = config.model_copy(update={"device": device})
        dataset = pipeline.load_data(config)
        verbosity = -1 if quiet or not processes.first else int(verbose)
        return session(config, dataset, run, verbosity, processes, as_json)


def session(
    config: TrainConfig,
    dataset: "Dataset",
    run: "RunFolder",
    verbosity: int,
    processes: "Processes",
    as_json: bool,
) -> int:
    """Exit code of one session of training, whose result goes to stdout: 0, or 1 where it failed.

    Raises UserError for what only the user can put right.
    """
    from ir.arrays import ExportError
    from ir.graph import GraphError
    from quant.capture.writer import UnsupportedLayer
    from quant.lowering.verify import Mismatch
    from quant.training import pipeline
    from quant.training.loop import Diverged
    from quant.training.progress import Progress

    with Progress(verbosity) as progress:
        try:
            result = pipeline.train(config, dataset, run, progress, processes)
        except KeyboardInterrupt:
            hint = (
                f"go on with python -m quant.train --resume {run.final_path}"
                if run.claimed
                else "nothing was written yet"
            )
            raise KeyboardInterrupt(f"{progress.place}; {hint}") from None
        except (GraphError, UnsupportedLayer) as error:
            raise cli.UserError(str(error)) from error
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and "memory" not in str(error):
                raise
            raise cli.UserError(
                f"not enough memory for a {config.model} with these settings: take a smaller "
                "--width, --size or --batch-size"
            ) from error
        except (ExportError, Mismatch, Diverged) as error:
            if isinstance(error, ExportError):
                rate = "--lr or --float-lr" if config.float_epochs else "--lr"
                error = f"{error}; integers cannot hold such weights, train with a lower {rate}"
            if processes.announces:
                cli.say(f"error: {error}")
            return 1
    if result:
        cli.give(json.dumps(result) if as_json else summary(result))
        if result["digest"] and not as_json and verbosity >= 0:
            board = config.board or "zc706"
            graph = run.final_path / "graph.safetensors"
            cli.next_command("python -m gateware.build", "--board", board, "--graph", graph)
    return 0


@contextlib.contextmanager
def one_voice(processes: "Processes") -> Iterator[None]:
    """Context in which only one process of a machine tells an error or an interruption."""
    try:
        yield
    except (cli.UserError, KeyboardInterrupt) as stop:
        if processes.announces:
            raise
        sys.exit(cli.EXIT_USER_ERROR if isinstance(stop, cli.UserError) else cli.EXIT_INTERRUPTED)
    finally:
        processes.end()


def same_settings(config: TrainConfig, given: dict[str, Any]) -> TrainConfig:
    """Settings of a run that goes on.

    Raises :class:`~ir.cli.UserError` where ``given`` has others, unless only speed or output
    depends on them.
    """
    for name, value in given.items():
        field = TrainConfig.model_fields.get(name)
        if field is None or name in FREE:
            continue  # an unknown one is refused below
        if not same(field, value, kept := getattr(config, name)):
            raise cli.UserError(
                f"{name} is {value} here and {kept} in the run: leave it out, or start a new run"
            )
    try:
        return TrainConfig.resolve(
            **config.model_dump()
            | {
                name: value
                for name, value in given.items()
                if name in FREE or name not in TrainConfig.model_fields
            }
        )
    except ValueError as error:
        raise cli.UserError(str(error)) from error


def same(field: FieldInfo, value: object, kept: object) -> bool:
    """True if ``value``, perhaps still a text, means the ``kept`` one."""
    try:
        kind: Any = field.annotation
        return pydantic.TypeAdapter(kind).validate_python(value) == kept
    except pydantic.ValidationError:
        return False


def tell_finished(run: "RunFolder", as_json: bool, plots: bool = False) -> int:
    """Exit code 0 for a run that is finished; its last step is done where it is missing."""
    from quant.training.plots import draw

    run.publish()
    cli.say(f"{run.path} is already finished")
    for name in draw(run) if plots else ():
        cli.say(f"drew {run / name}")
    if as_json:
        cli.give(json.dumps(run.result()))
    return 0


def summary(result: dict) -> str:
    """Text of the result for people."""
    accuracy = ", ".join(f"{kind} {value:.2%}" for kind, value in result["accuracy"].items())
    lines = [f"{accuracy} of {result['images']} test images"]
    if result.get("integer_images", result["images"]) < result["images"]:
        lines[0] += f" (integer: of the first {result['integer_images']})"
    if result["digest"]:
        lines += [
            f"integers agree with the golden model bit for bit, with fake quantisation on "
            f"{result['agreement']:.2%} of the decisions",
            f"graph {result['run']}/graph.safetensors, digest {result['digest']}",
        ]
    else:
        lines.append(f"no graph: {result['method']} has no hardware; {result['run']} has the rest")
    return "\n".join((*lines, f"{result['seconds']} s"))


if __name__ == "__main__":
    sys.exit(cli.run(main))
