# SPDX-License-Identifier: Apache-2.0
"""The folder of one training run."""

import contextlib
import csv
import fcntl
import hashlib
import io
import json
import os
import pathlib
import pickle
import shutil
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from ir.cli import UserError
from ir.graph import RUNS
from ir.numerics import Scheme
from ir.vectors import Vectors
from quant.assignment.methods import method
from quant.models.weights import UNREADABLE, is_plain, read_tensors
from quant.training.config import FLOAT32, TrainConfig

LATEST = "latest"
PARTIAL = ".partial"  #: end of the name of what is not complete
CHECKPOINT = "checkpoint.pt"
LONGEST = 200  #: bytes of a run's name; file systems take 255 with the ends we add

ALWAYS = ("config.json", "metrics.csv", "metrics.jsonl", "float.pt", "result.json")
QUANTISED = ("quantised.pt", "schemes.csv")
INTEGER = ("graph.safetensors", "vectors.npz")
WEIGHTS = ("float.pt", "quantised.pt")
SENSITIVITY = "sensitivity.json"  #: what rows cost, of a run without training
FOLDERS = ("tensorboard", "plots")


class RunFolder:
    """Folder ``<out>/<name>/`` with everything a run writes.

    config.json      resolved settings
    metrics.csv      one line per epoch; the same as JSON in metrics.jsonl
    float.pt         the network before quantisation
    quantised.pt     the network after it
    schemes.csv      one line per weight row
    graph.safetensors  the integer graph, all that the hardware side reads
    sensitivity.json  what layers and rows cost, of a run of python -m quant.calibrate
    vectors.npz      test samples with the logits that every implementation must reproduce
    result.json      accuracies, digests of graph and weights, row counts; written last
    tensorboard/, plots/  what was asked for of them

    While it is trained the folder is called ``<name>.partial`` and has checkpoint.pt, everything
    that training needs to go on after the last complete epoch. A float32 run ends with float.pt,
    one with APoT rows has no graph.
    """

    FILES = (*ALWAYS[:-1], *QUANTISED, *INTEGER, SENSITIVITY, ALWAYS[-1])

    def __init__(self, path: pathlib.Path, resuming: bool = False) -> None:
        self.path = path
        self.resuming = resuming  #: there is a checkpoint to go on from
        self._claim: int | None = None  #: the locked folder

    def __truediv__(self, name: str) -> pathlib.Path:
        return self.path / name

    @classmethod
    def plan(cls, out: str, name: str, overwrite: bool = False) -> Self:
        """Folder of a run to begin; nothing is written.

        Raises UserError for a bad name, and unless ``overwrite`` for that of a run with something
        to lose.
        """
        if (
            name in ("", ".", "..", LATEST)
            or "/" in name
            or name.endswith(PARTIAL)
            or len(os.fsencode(name)) > LONGEST
        ):
            reason = "that is the newest run's" if name == LATEST else "a run is one folder"
            raise UserError(f"{name!r} cannot name a run: {reason}")
        run = cls(pathlib.Path(out) / f"{name}{PARTIAL}")
        if not overwrite:
            run._check_free()
        return run

    def _check_free(self) -> None:
        """Raise UserError where this would replace a run that is finished or has a checkpoint."""
        again = f"replace it with --overwrite, or give this one another --name than {self.name}"
        if (self / CHECKPOINT).is_file():
            self.claim()  # by another process it is told that that trains
            self.release()
            raise UserError(
                f"{self.final_path} was interrupted: go on with --resume {self.name}, {again}"
            )
        if (self.final_path / "config.json").is_file():
            raise UserError(f"{self.final_path} is a finished run: {again}")

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.final_path.name

    def begin(self, config: TrainConfig) -> None:
        """Creation of ``<name>.partial``, which :meth:`finish` moves.

        A former run stays until then. Raises UserError where another process trains it, its place
        is taken, or the disk refuses.
        """
        final, link = self.final_path, self.final_path.with_name(LATEST)
        if final.exists() and not final.is_dir():
            raise UserError(f"{final} is a file: move it away, or give the run another --name")
        if link.exists() and not link.is_symlink():
            raise UserError(f"{link} is no link to the newest run: move it away")
        with self.writing():
            if self.path.exists():
                self.claim()
                shutil.rmtree(self.path)
                self.release()
            self.path.mkdir(parents=True)
            self.claim()
        self.replace("config.json", config.dump().encode())

    def claim(self) -> None:
        """Lock of the run against other processes, until :meth:`release` or the end of this one.

        Raises UserError where another process has it.
        """
        if self._claim is not None:
            return
        with self.writing():
            folder = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(folder)
            raise UserError(
                f"another process trains {self.final_path}: wait for it, or give this "
                "run another --name"
            ) from None
        except OSError:
            pass  # some network file systems cannot lock a folder
        self._claim = folder

    def release(self) -> None:
        """Release of the lock, which lets other processes have the run."""
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None

    @property
    def claimed(self) -> bool:
        """True if this process may write to the folder, which therefore exists."""
        return self._claim is not None

    @classmethod
    def reopen(cls, out: str, which: str) -> Self:
        """Folder of the run ``which``, a path or a name in ``out``, to go on with.

        It is the part that awaits completion, if there is one. Raises UserError for none.
        """
        found = pathlib.Path(which)
        if not found.is_dir() and not found.with_name(f"{found.name}{PARTIAL}").is_dir():
            found = pathlib.Path(out) / which
        found = found.resolve() if found.is_symlink() or found.name in ("", "..") else found
        if found.name:  # that of / is empty
            partial = found.with_name(f"{found.name.removesuffix(PARTIAL)}{PARTIAL}")
            for path in (partial, found):
                if (path / "config.json").is_file():
                    return cls(path, (path / CHECKPOINT).is_file())
        raise UserError(f"no run {which}, neither here nor in {out}")

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Context in which an OSError, as of a full disk, becomes a :class:`UserError`."""
        try:
            yield
        except OSError as error:
            raise UserError(f"cannot write to {self.path}: {error.strerror}") from error

    @property
    def final_path(self) -> pathlib.Path:
        """Place of the run when it is finished."""
        return self.path.with_name(self.path.name.removesuffix(PARTIAL))

    @property
    def finished(self) -> bool:
        """True if all is done, but perhaps for the move to its final place."""
        return (self / "result.json").is_file()

    @classmethod
    def open(cls, path: str) -> Self:
        """Existing run; raises :class:`UserError` when it was not completed."""
        if not path:
            raise UserError(
                "the run's name is empty: give a folder that python -m quant.train made"
            )
        run = cls(pathlib.Path(path))
        if not run.path.is_dir():
            run = cls(RUNS / path)
        if not run.path.is_dir():
            raise UserError(
                f"no run at {path}, nor of this name in {RUNS}; python -m quant.train makes one"
            )
        if (run / "accelerator.v").is_file():
            raise UserError(f"{path} is a build of an accelerator: name a run of quant.train")
        needed = ALWAYS
        if (run / "config.json").is_file():
            needed = files_of(run.config())
        missing = [file for file in needed if not (run / file).is_file()]
        if missing:
            raise UserError(
                f"{path} is not a complete run: {missing[0]} is missing; "
                "python -m quant.train makes one"
            )
        return run

    def config(self) -> TrainConfig:
        """Settings of the run; raises UserError for a damaged file."""
        try:
            return TrainConfig.load(self / "config.json")
        except ValueError as error:
            place, text = f"{self / 'config.json'}", str(error)
            raise UserError(text if text.startswith(place) else f"{place}: {text}") from error

    def result(self) -> dict[str, Any]:
        """Content of result.json; raises UserError for a damaged file."""
        try:
            content = json.loads((self / "result.json").read_text())
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self / 'result.json'} is damaged: {error}") from error
        if not isinstance(content, dict):
            raise UserError(f"{self / 'result.json'} is damaged: it holds no result by name")
        return content

    def replace(self, name: str, content: bytes | memoryview) -> None:
        """Replacement of a file, which has the old content until the new one is on the disk.

        Raises UserError.
        """
        partial = self / f"{name}{PARTIAL}"
        with self.writing():
            try:
                with partial.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError:
                partial.unlink(missing_ok=True)
                raise
            partial.replace(self / name)
            folder = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(folder)  # the new name
            finally:
                os.close(folder)

    def append(self, name: str, text: str) -> None:
        """Addition of ``text`` to the end of a file; raises UserError."""
        with self.writing(), (self / name).open("a") as file:
            file.write(text)

    def keep_lines(self, name: str, count: int) -> None:
        """Removal of all but the first ``count`` lines of a file that may be missing."""
        if (self / name).exists():
            lines = (self / name).read_bytes().splitlines(keepends=True)
            self.replace(name, b"".join(lines[:count]))

    def save_state(self, name: str, **content: object) -> None:
        """Checkpoint of ``content`` in a file; the old one stays until the new one is complete."""
        buffer = io.BytesIO()
        torch.save(content, buffer)
        self.replace(name, buffer.getbuffer())

    def load_state(self, name: str) -> dict[str, Any]:
        """Content that :meth:`save_state` wrote; ``model`` is always in it.

        Raises UserError for a damaged file.
        """
        try:
            content = read_tensors(self / name)
        except (*UNREADABLE, pickle.UnpicklingError) as error:
            # torch tells at length how to read other files, which are none of ours.
            reason = error.strerror if isinstance(error, PermissionError) else "it is damaged"
            raise UserError(f"{self / name} cannot be read: {reason}") from error
        if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
            raise UserError(f"{self / name} cannot be read: it holds no network")
        return content

    def weights(self) -> dict[str, str]:
        """Digests of the networks in the run's files, by file; raises UserError for damage."""
        return {
            name: weights_digest(self.load_state(name)["model"])
            for name in WEIGHTS
            if (self / name).is_file()
        }

    def save_schemes(self, table: Iterable[dict[str, object]]) -> None:
        """Export of ``table`` as schemes.csv, a line for each record."""
        table, text = list(table), io.StringIO()
        writer = csv.DictWriter(text, table[0])
        writer.writeheader()
        writer.writerows(table)
        self.replace("schemes.csv", text.getvalue().encode())

    def save_vectors(self, vectors: Vectors) -> None:
        """Export of ``vectors`` as vectors.npz; raises UserError."""
        with self.writing():
            vectors.save(self / "vectors.npz")

    def finish(self, result: dict[str, Any]) -> None:
        """Export of the result, after which the folder moves to its place."""
        self.replace("result.json", f"{json.dumps(result, indent=2)}\n".encode())
        self.publish()

    def publish(self) -> None:
        """Publication of a finished run at its place, with the link ``latest`` beside it.

        Can be repeated when it was interrupted.
        """
        final = self.final_path
        link, old = final.parent / LATEST, final.parent / f".{final.name}.old"
        pointer = final.parent / f".{LATEST}.{os.getpid()}"
        with self.writing():
            if self.path != final:
                (self / CHECKPOINT).unlink(missing_ok=True)
                if final.exists():
                    for entry in final.iterdir():
                        if entry.name not in (*self.FILES, *FOLDERS):
                            entry.replace(self / entry.name)  # what others put there stays
                    shutil.rmtree(old, ignore_errors=True)
                    final.rename(old)
                self.path.rename(final)
                self.path = final
                shutil.rmtree(old, ignore_errors=True)
            pointer.unlink(missing_ok=True)
            pointer.symlink_to(final.name)
            pointer.replace(link)


def restore(model: nn.Module, state: Mapping[str, object]) -> None:
    """Replacement of ``model``'s state by ``state``, which was read from a file.

    Raises ValueError unless it has tensors of the model's names and shapes, so that any other error
    is a fault of ours.
    """
    own = model.state_dict()
    if state.keys() != own.keys():
        raise ValueError(f"{next(iter(state.keys() ^ own.keys()))!r} is in one of them only")
    for name, value in state.items():
        if not is_plain(value) or value.shape != own[name].shape:
            raise ValueError(f"{name!r} is no tensor of shape {tuple(own[name].shape)}")
    model.load_state_dict(state)


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of a network's tensors with their names, types and shapes, in hexadecimal."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def has_graph(config: TrainConfig) -> bool:
    """True if the run ends with an integer graph: APoT rows have no hardware."""
    return config.method != FLOAT32 and method(config.method, config.ratio).base == Scheme.POT4


def files_of(config: TrainConfig) -> tuple[str, ...]:
    """Files, by name, that a complete run with these settings has."""
    kinds = (
        ALWAYS,
        () if config.method == FLOAT32 else QUANTISED,
        INTEGER if has_graph(config) else (),
    )
    return tuple(file for kind in kinds for file in kind)
