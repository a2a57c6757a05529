# SPDX-License-Identifier: Apache-2.0
"""Records of a run where they cannot be written."""

import errno
import os
import threading

from tensorboard.summary.writer import record_writer

from quant import cli, train


def test_tensorboard_on_a_full_disk_is_one_line(tmp_path, monkeypatch, capsys) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    monkeypatch.setattr(record_writer.RecordWriter, "write", full)
    assert cli.run(train.main, ["--subset", "64", "--float-epochs", "1", "--epochs", "0", "-q",
                                "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: cannot write to {tmp_path}/digits.partial: " \
        "No space left on device\n"
