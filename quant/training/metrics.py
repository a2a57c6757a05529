# SPDX-License-Identifier: Apache-2.0
"""One record per epoch, as CSV, as JSON lines and as TensorBoard events."""

import csv
import io
import json
import threading
from typing import TYPE_CHECKING, Any

from ir.cli import require
from quant.nn.activations import ActQuantiser
from quant.nn.layers import quantised_layers
from quant.training.runs import RunFolder

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.tensorboard import SummaryWriter

#: Of ``metrics.csv``. ``changed`` rows got another scheme before this epoch, the share ``churn`` of
#: all; both are empty where schemes were not assigned again.
COLUMNS = (
    "stage",
    "epoch",
    "loss",
    "train_accuracy",
    "test_accuracy",
    "lr",
    "changed",
    "churn",
    "seconds",
)


class Metrics:
    """Writer of a run's records, one an epoch.

    Parameters
    ----------
    keep : records of a former session that stay; later ones are removed
    tensorboard : write events, too
    """

    def __init__(self, run: RunFolder, *, keep: int, tensorboard: bool) -> None:
        self.run, self.count = run, keep
        run.keep_lines("metrics.csv", keep + 1 if keep else 0)
        run.keep_lines("metrics.jsonl", keep)
        self._writer = None
        if tensorboard:
            require("tensorboard")
            from torch.utils.tensorboard import SummaryWriter

            _leave_writer_errors_to_caller()
            with run.writing():
                self._writer = SummaryWriter(run / "tensorboard", purge_step=keep + 1)

    def add(self, row: dict[str, Any], model: "nn.Module") -> None:
        """Record of one more epoch, which ended with ``model``; UserError for a full disk."""
        text = io.StringIO()
        writer: csv.DictWriter[str] = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        if not self.count:
            writer.writeheader()
        writer.writerow(row)
        self.run.append("metrics.csv", text.getvalue())
        self.run.append("metrics.jsonl", f"{json.dumps(row)}\n")
        self.count += 1
        if self._writer:
            with self.run.writing():
                self._events(self._writer, row, model)

    def _events(self, writer: "SummaryWriter", row: dict[str, Any], model: "nn.Module") -> None:
        step = self.count
        for key in COLUMNS[2:]:
            if row.get(key) is not None:
                writer.add_scalar(f"epoch/{key}", row[key], step)
        for name, layer in quantised_layers(model).items():
            writer.add_histogram(f"alpha/{name}", layer.alpha.detach().cpu(), step)
        for name, module in model.named_modules():
            if isinstance(module, ActQuantiser):
                writer.add_scalar(f"clip/{name}", module.clip.item(), step)
        writer.flush()

    def close(self) -> None:
        """End of the event file; raises UserError for a full disk."""
        if self._writer:
            with self.run.writing():
                self._writer.close()


def _leave_writer_errors_to_caller() -> None:
    """TensorBoard's thread raises a full disk again in the one that flushes, where it becomes one
    line; its own traceback would be a second report."""
    former = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if type(args.thread).__name__ != "_AsyncWriterThread" or not issubclass(
            args.exc_type, OSError
        ):
            former(args)

    if getattr(former, "__name__", "") != "hook":
        threading.excepthook = hook
