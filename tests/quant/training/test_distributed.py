# SPDX-License-Identifier: Apache-2.0
"""Several processes do together what one does alone. Two of them talk over gloo on the CPU."""

import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ir.cli import UserError
from quant.data import ArraySplit, Augment
from quant.models.resnet import TinyResNet
from quant.training import loop
from quant.training.distributed import GlobalBatchNorm2d, Processes
from tests.helpers.seeds import suite_rng, suite_seed

ROOT = Path(__file__).resolve().parents[3]


def launch(*command: str, cwd: Path) -> subprocess.CompletedProcess:
    """``command`` as two processes, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            "2",
            "--master-port",
            str(port),
            *command,
        ],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


class Double(ArraySplit):
    """Images in double precision, where a difference is one of the method and not of rounding."""

    def batch(self, *given, **options) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = super().batch(*given, **options)
        return x.double(), y


@pytest.mark.parametrize("momentum", [None, 0.3])
@pytest.mark.parametrize("tracks", [True, False])
def test_statistics_move_as_torchs_own(seed, monkeypatch, momentum, tracks) -> None:
    """Of one process; those of two are compared with it below."""
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 1)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: None)
    norms = [cls(3, momentum=momentum) for cls in (nn.BatchNorm2d, GlobalBatchNorm2d)]
    generator = torch.Generator().manual_seed(seed)
    for norm in norms:
        norm.track_running_stats = tracks
    for _ in range(3):
        x = torch.randn(4, 3, 5, 5, generator=generator)
        torch.testing.assert_close(norms[1](x), norms[0](x))
    for name, value in norms[0].state_dict().items():
        torch.testing.assert_close(norms[1].state_dict()[name], value)
    assert norms[1].num_batches_tracked == (3 if tracks else 0)


def fit(out: Path) -> None:
    """Train a little and save what came out, with what evaluation says."""
    processes = Processes("cpu")
    rng = suite_rng()
    data = Double(
        rng.integers(0, 256, (34, 1, 8, 8), dtype=np.uint8),
        np.arange(34) % 10,
        Augment(shift=1, flip=True),
    )
    torch.manual_seed(suite_seed())
    model = nn.Sequential(TinyResNet(width=2), nn.BatchNorm1d(10)).double()
    trainer = loop.Trainer(
        model,
        data,
        epochs=2,
        batch_size=8,
        lr=0.1,
        weight_decay=0.01,
        seed=suite_seed(),
        processes=processes,
    )
    epochs = [trainer.epoch(lambda loss, accuracy: None) for _ in range(2)]
    accuracy = loop.accuracy(model, data, processes)
    if processes.first:
        torch.save(
            {
                "model": model.state_dict(),
                "accuracy": accuracy,
                "means": [(e.loss, e.accuracy, e.lr) for e in epochs],
            },
            out,
        )
    processes.end()


@pytest.mark.slow
def test_two_processes_train_the_same_network(tmp_path) -> None:
    """Weights, batch-norm statistics, loss and accuracies, to the precision of float64."""
    (tmp_path / "worker.py").write_text(
        textwrap.dedent(f"""
        import importlib.util, os, pathlib
        spec = importlib.util.spec_from_file_location("test", {str(Path(__file__))!r})
        test = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(test)
        test.fit(pathlib.Path("two.pt"))
        os._exit(0)     # threads of gloo now and then abort an interpreter that ends
    """)
    )
    done = launch("worker.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    fit(tmp_path / "one.pt")
    one, two = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in ("one", "two"))
    assert one["accuracy"] == two["accuracy"]
    np.testing.assert_allclose(two["means"], one["means"], rtol=1e-9)
    assert one["model"].keys() == two["model"].keys()
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, rtol=1e-7, atol=1e-10, msg=name)


@pytest.mark.slow
def test_run_of_two_processes(tmp_path) -> None:
    """One folder, one voice; the first loss is the one that a single process has."""
    argv = [
        "-m",
        "quant.train",
        "--subset",
        "64",
        "--batch-size",
        "16",
        "--float-epochs",
        "1",
        "--epochs",
        "1",
        "--width",
        "4",
        "--tile-rows",
        "8",
        "--no-plots",
        "--json",
        "--device",
        "cpu",
        "--out",
        str(tmp_path),
    ]
    two = launch(*argv, "--name", "two", cwd=tmp_path)
    assert two.returncode == 0, two.stderr
    one = subprocess.run(
        [sys.executable, *argv, "--name", "one"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    results = [json.loads(process.stdout) for process in (one, two)]  # one document each
    assert two.stderr.count("float 1/1: loss") == two.stderr.count("training on cpu") == 1
    assert {file.name for file in (tmp_path / "two").iterdir()} == {
        file.name for file in (tmp_path / "one").iterdir()
    }
    assert results[0]["rows"] == results[1]["rows"]
    losses = [
        json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0])["loss"]
        for name in ("one", "two")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_batch_that_cannot_be_shared(monkeypatch) -> None:
    processes = Processes()
    monkeypatch.setattr(processes, "count", 3)
    monkeypatch.setattr(processes, "index", 1)
    assert processes.part(12) == slice(4, 8)
    with pytest.raises(UserError, match="batch_size 64 cannot be divided by 3 processes"):
        processes.part(64)
