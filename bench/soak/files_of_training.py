# SPDX-License-Identifier: Apache-2.0
"""Files of runs: settings, checkpoints, weights, tables, for :mod:`bench.soak.files`."""

import functools
import io
import json
import pickle
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import safetensors.torch
import torch

from bench.soak.files import Files, Target
from bench.soak.files_of_hardware import ERRORS, content, mutate_arrays, mutate_document
from bench.soak.mutations import VALUES, Trap, mutated_bytes
from ir.cli import UserError
from quant import evaluate, train
from quant.models.weights import load_pretrained
from quant.training import plots
from quant.training.config import TrainConfig, read_settings
from quant.training.runs import RunFolder

#: The smallest training.
SMALL = (
    *("--subset", "64", "--batch-size", "16", "--width", "4", "--float-epochs", "2"),
    *("--epochs", "2", "--integer-samples", "16", "--no-plots", "--no-tensorboard", "-q"),
)
RUN = "runs/digits"


class Stopped(BaseException):
    """End of a training for a checkpoint."""


@functools.cache
def run_files() -> Files:
    """Folder of a finished run."""
    with tempfile.TemporaryDirectory() as folder:
        train.main([*SMALL, "--out", f"{folder}/runs"])
        files = content(Path(folder))
    files.pop("runs/latest", None)
    return {path: data for path, data in files.items() if path.startswith(f"{RUN}/")}


@functools.cache
def stopped_files(saves: int) -> Files:
    """Folder of a run that was stopped after that many checkpoints."""
    left, own = saves, RunFolder.save_state

    def save(self: RunFolder, name: str, **state: object) -> None:
        nonlocal left
        own(self, name, **state)
        left -= name == "checkpoint.pt"
        if not left:
            raise Stopped

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(RunFolder, "save_state", save):
        try:
            train.main([*SMALL, "--out", f"{folder}/runs"])
        except Stopped:
            return content(Path(folder))
    raise AssertionError("training was not stopped")


def mutated_state(rng: random.Random, stored: bytes) -> tuple[bytes, str]:
    """Mutation of a file of :func:`torch.save`."""
    if rng.random() < 0.25:
        return mutated_bytes(rng, stored)
    if rng.random() < 0.1:
        return pickle.dumps({"model": Trap()}), "a pickle that calls a function"
    state = torch.load(io.BytesIO(stored), weights_only=True)
    said = _change(rng, state)
    made = io.BytesIO()
    torch.save(state, made)
    return made.getvalue(), said


def _change(rng: random.Random, state: Any) -> str:
    """Change of one value somewhere in ``state``, its tensors among them."""
    path: list[object] = []
    while True:
        keys = list(state) if isinstance(state, dict) else range(len(state))
        key = rng.choice(list(keys))
        path.append(key)
        inner = state[key]
        if isinstance(inner, dict | list) and len(inner) and rng.random() < 0.9:
            state = inner
            continue
        break
    if isinstance(state, dict) and rng.random() < 0.3:
        state[rng.choice(("x", 7, f"{key}x"))] = state.pop(key)
        return f"{path} has another name"
    if isinstance(inner, torch.Tensor) and rng.random() < 0.8:
        state[key] = _changed_tensor(rng, inner)
    elif not isinstance(state, tuple):
        state[key] = rng.choice([v for v in VALUES if v != 10**400])
    return f"{path} is {str(state[key])[:40]!r}"


def _changed_tensor(rng: random.Random, tensor: torch.Tensor) -> Any:
    changed = (
        lambda t: t.to(torch.float64),
        lambda t: t.to(torch.int8),
        lambda t: t.reshape(-1)[:1],
        lambda t: t[None],
        lambda t: torch.full(t.shape, float("nan")),
        lambda t: torch.full(t.shape, 1e30),
        lambda t: torch.zeros(t.shape, dtype=t.dtype),
        lambda t: torch.zeros(0),
        lambda t: torch.zeros(1).expand(1 << 20, 1 << 20),
        lambda t: t.to_sparse() if t.dim() else t,
        lambda t: t.to(torch.complex64),
        lambda t: "x",
    )
    return rng.choice(changed)(tensor)


def mutate_state(*names: str) -> Callable[[random.Random, Files], str]:
    """Mutation of one of the files ``names``."""

    def mutate(rng: random.Random, files: Files) -> str:
        name = rng.choice([name for name in names if name in files])
        files[name], said = mutated_state(rng, files[name])
        return f"{name} {said}"

    return mutate


def mutate_checkpoint(rng: random.Random, files: Files) -> str:
    """Mutation of a checkpoint, or of the settings beside it."""
    files.clear()
    files |= stopped_files(rng.choice((1, 2, 3)))
    if rng.random() < 0.2:
        return mutate_document(f"{RUN}.partial/config.json")(rng, files)
    return mutate_state(f"{RUN}.partial/checkpoint.pt")(rng, files)


def _finished(code: int) -> None:
    if code:
        raise UserError("told as an error, exit code 1")


def use_checkpoint(folder: Path) -> None:
    """Training that goes on, for one epoch more than there is."""
    _finished(train.main(["--resume", str(folder / RUN), "-q", "--out", str(folder / "runs")]))


def mutate_run(rng: random.Random, files: Files) -> str:
    """Mutation of a file of a finished run."""
    way = rng.choice(("state", "state", "config.json", "result.json", "vectors.npz"))
    if way == "state":
        return mutate_state(f"{RUN}/float.pt", f"{RUN}/quantised.pt")(rng, files)
    path = f"{RUN}/{way}"
    mutate = mutate_arrays(path) if way == "vectors.npz" else mutate_document(path)
    return f"{way} {mutate(rng, files)}"


def use_run(folder: Path) -> None:
    """Measurement of a finished run."""
    _finished(evaluate.main([str(folder / RUN), "--json"]))


def mutate_tables(rng: random.Random, files: Files) -> str:
    """Mutation of what curves are drawn from."""
    document = {"layers": [{"layer": "a", "error": 0.1, "rows": [0.1, 0.2]}]}
    document["layers"][0] |= {"schemes": ["POT4", "FIXED4"], "under": {"POT4": 0.2}}
    files[f"{RUN}/sensitivity.json"] = json.dumps(document).encode()
    name = rng.choice(("metrics.csv", "schemes.csv", "quantised.pt", "sensitivity.json"))
    path = f"{RUN}/{name}"
    if name == "quantised.pt":
        return mutate_state(path)(rng, files)
    if name == "sensitivity.json":
        return mutate_document(path)(rng, files)
    files[path], said = mutated_bytes(rng, files[path])
    return f"{name} {said}"


def use_tables(folder: Path) -> None:
    """Plots of a run."""
    plots.draw(RunFolder(folder / RUN))


def settings() -> Files:
    """Settings in both formats."""
    document = {"dataset": "digits", "float-lr": 0.1, "epochs": 3, "ratio": "65:30:5", "width": 4}
    toml = b'dataset = "digits"\nlr = 0.1\nepochs = 3\n[x]\ny = 1\n'
    return {"settings.json": json.dumps(document).encode(), "settings.toml": toml}


def mutate_settings(rng: random.Random, files: Files) -> str:
    """Mutation of the settings in one of the formats; the other file goes."""
    if rng.random() < 0.5:
        del files["settings.toml"]
        return mutate_document("settings.json")(rng, files)
    del files["settings.json"]
    if rng.random() < 0.1:
        files["settings.toml"] = b"x = " + b"[" * 9000 + b"]" * 9000
        return "nested"
    files["settings.toml"], said = mutated_bytes(rng, files["settings.toml"])
    return said


def use_settings(folder: Path) -> None:
    """Settings that a training would begin with."""
    (path,) = folder.iterdir()
    try:
        TrainConfig.resolve(**read_settings(path))
    except ValueError as error:  # what the command makes of it
        raise UserError(str(error)) from error


@functools.cache
def pretrained() -> Files:
    """Weights of a small network, in every format."""
    state = _network().state_dict()
    made = io.BytesIO()
    torch.save({"state_dict": state}, made)
    return {"w.pt": made.getvalue(), "w.safetensors": safetensors.torch.save(state)}


def _network() -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Flatten(), torch.nn.Linear(8, 3)
    )


def mutate_pretrained(rng: random.Random, files: Files) -> str:
    """Mutation of weights in one of the formats; the other file goes."""
    if rng.random() < 0.6:
        del files["w.safetensors"]
        return mutate_state("w.pt")(rng, files)
    del files["w.pt"]
    files["w.safetensors"], said = mutated_bytes(rng, files["w.safetensors"])
    return said


def use_pretrained(folder: Path) -> None:
    """Network with these weights."""
    (path,) = folder.iterdir()
    load_pretrained(_network(), path)


TARGETS = {
    "checkpoint": Target(lambda: {}, mutate_checkpoint, use_checkpoint, ERRORS, slow=True),
    "run": Target(run_files, mutate_run, use_run, ERRORS, slow=True),
    "tables of a run": Target(run_files, mutate_tables, use_tables, ERRORS, slow=True),
    "settings": Target(settings, mutate_settings, use_settings, ERRORS),
    "weights": Target(pretrained, mutate_pretrained, use_pretrained, ERRORS),
}
