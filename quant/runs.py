# SPDX-License-Identifier: Apache-2.0
"""The folder of one training run."""

import contextlib
import csv
import io
import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator
from typing import Self

import numpy as np
import torch

from quant.cli import UserError
from quant.config import TrainConfig

LATEST = "latest"
PARTIAL = ".partial"        #: end of the name of what is not complete


class RunFolder:
    """``<out>/<name>/`` with everything a run writes.

    config.json      resolved settings
    metrics.csv      one line per epoch
    float.pt         the network before quantisation
    checkpoint.pt    the network after the last complete epoch
    schemes.csv      one line per weight row
    graph.safetensors  the integer graph, all that the hardware side reads
    vectors.npz      test images with the logits that every implementation must reproduce
    result.json      accuracies, digest, row counts; written last
    """

    FILES = ("config.json", "metrics.csv", "float.pt", "checkpoint.pt", "schemes.csv",
             "graph.safetensors", "vectors.npz", "result.json")

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> pathlib.Path:
        return self.path / name

    @classmethod
    def create(cls, out: str, name: str, config: TrainConfig) -> Self:
        """Make ``<name>.partial``, which :meth:`finish` moves: a former run stays until then."""
        if name in ("", ".", "..", LATEST) or "/" in name:
            raise UserError(f"{name!r} cannot name a run")
        run = cls(pathlib.Path(out) / f"{name}{PARTIAL}")
        with run.writing():
            if run.path.exists():
                shutil.rmtree(run.path)
            run.path.mkdir(parents=True)
            config.save(run / "config.json")
        return run

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """A folder that cannot be written, or a full disk, is a :class:`UserError`."""
        try:
            yield
        except OSError as error:
            raise UserError(f"cannot write to {self.path}: {error.strerror}") from error

    @property
    def final_path(self) -> pathlib.Path:
        """Where the run lies when it is finished."""
        return self.path.with_name(self.path.name.removesuffix(PARTIAL))

    @classmethod
    def open(cls, path: str) -> Self:
        """An existing run; raises :class:`UserError` when it was not completed."""
        run = cls(pathlib.Path(path))
        if not run.path.is_dir():
            raise UserError(f"no run at {path}; python -m quant.train makes one")
        missing = [file for file in cls.FILES if not (run / file).is_file()]
        if missing:
            raise UserError(f"{path} is not a complete run: {missing[0]} is missing; "
                            "python -m quant.train makes one")
        return run

    def config(self) -> TrainConfig:
        try:
            return TrainConfig.load(self / "config.json")
        except ValueError as error:
            raise UserError(f"{self / 'config.json'}: {error}") from error

    def result(self) -> dict[str, object]:
        try:
            return json.loads((self / "result.json").read_text())
        except json.JSONDecodeError as error:
            raise UserError(f"{self / 'result.json'} is damaged: {error}") from error

    def add_metrics(self, row: dict[str, object]) -> None:
        path = self / "metrics.csv"
        fresh = not path.exists()
        with self.writing(), path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if fresh:
                writer.writeheader()
            writer.writerow(row)

    def save_state(self, name: str, **content: object) -> None:
        """Write a checkpoint; the old one stays until the new one is complete."""
        partial, buffer = self / f"{name}{PARTIAL}", io.BytesIO()
        torch.save(content, buffer)
        with self.writing():
            try:
                partial.write_bytes(buffer.getbuffer())
            except OSError:
                partial.unlink(missing_ok=True)
                raise
            partial.replace(self / name)

    def load_state(self, name: str) -> dict[str, object]:
        try:
            return torch.load(self / name, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"{self / name} cannot be read: {reason}") from error

    def save_schemes(self, table: Iterable[dict[str, object]]) -> None:
        table = list(table)
        with self.writing(), (self / "schemes.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, table[0])
            writer.writeheader()
            writer.writerows(table)

    def save_vectors(self, images: np.ndarray, labels: np.ndarray, logits: np.ndarray,
                     accuracies: dict[str, float]) -> None:
        """``images`` uint8, ``labels`` and ``logits`` int64, ``accuracy_<kind>`` float64."""
        with self.writing():
            np.savez_compressed(self / "vectors.npz", images=images, labels=labels, logits=logits,
                                **{f"accuracy_{kind}": a for kind, a in accuracies.items()})

    def finish(self, result: dict[str, object]) -> None:
        """Write the result, put the folder in its place, and point ``latest`` beside it there."""
        final = self.final_path
        link = final.parent / LATEST
        pointer = final.parent / f".{LATEST}.{os.getpid()}"
        with self.writing():
            (self / "result.json").write_text(json.dumps(result, indent=2) + "\n")
            final.mkdir(exist_ok=True)      # what others put there stays
            for file in self.FILES:
                (self / file).replace(final / file)
            self.path.rmdir()
            self.path = final
            pointer.unlink(missing_ok=True)
            pointer.symlink_to(final.name)
            pointer.replace(link)
