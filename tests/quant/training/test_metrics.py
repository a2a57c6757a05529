# SPDX-License-Identifier: Apache-2.0
"""Records of a run where they cannot be written."""

import errno
import os
import sys
import threading

import pytest
from tensorboard.summary.writer import record_writer

from ir import cli
from ir.cli import UserError
from quant import train


@pytest.mark.parametrize("room", [0, 3])
def test_tensorboard_on_a_full_disk_is_one_line(room, tmp_path, monkeypatch, capsys) -> None:
    """Of the first event, and of those of an epoch."""
    written = []

    def write(writer: record_writer.RecordWriter, data: bytes) -> None:
        if len(written) == room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(data)

    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    monkeypatch.setattr(record_writer.RecordWriter, "write", write)
    assert (
        cli.run(
            train.main,
            [
                "--tensorboard",
                "--subset",
                "64",
                "--float-epochs",
                "1",
                "--epochs",
                "0",
                "-q",
                "--out",
                str(tmp_path),
            ],
        )
        == 2
    )
    assert len(written) == room
    assert (
        capsys.readouterr().err == f"error: cannot write to {tmp_path}/digits.partial: "
        "No space left on device\n"
    )


def test_missing_tensorboard_is_named_before_anything_is_written(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    options = ["-q", "--out", str(tmp_path / "runs"), "--tensorboard"]
    with pytest.raises(UserError, match=r"tensorboard, which is not installed.*'rmsmp\[tensorb"):
        train.main(options)
    assert not list(tmp_path.rglob("*.pt")) and not list(tmp_path.rglob("config.json"))
