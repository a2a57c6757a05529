# SPDX-License-Identifier: Apache-2.0
"""Progress of training for a person: a bar on a terminal, a line per epoch elsewhere."""

import sys
import time
from typing import Any, Self

import rich.console
import rich.progress

from ir.cli import say


class Progress:
    """Progress of training on stderr: a bar on a terminal, lines elsewhere.

    Parameters
    ----------
    verbosity : -1 shows nothing, 0 a bar or a line per epoch, 1 both
    """

    def __init__(self, verbosity: int = 0) -> None:
        self.verbosity = verbosity
        self.place = "before the first epoch"  #: where training is, for the one who stops it
        self._bar = self._between = None
        self._rounding: float | None = None  #: when the first layer was rounded
        if verbosity >= 0 and sys.stderr.isatty():
            columns = (
                "{task.description}",
                rich.progress.BarColumn(),
                "epoch {task.fields[at]}",
                "loss {task.fields[loss]}",
                "accuracy {task.fields[accuracy]}",
                rich.progress.TimeRemainingColumn(),
                "left",
            )
            self._bar = rich.progress.Progress(*columns, console=rich.console.Console(stderr=True))

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def stage(self, name: str, epochs: int, batches: int, done: int = 0) -> None:
        """Start of a stage of ``epochs`` times ``batches``, after ``done`` epochs."""
        self._name, self._epochs, self._batches = name, epochs, batches
        self._done = done * batches
        if self._bar:
            self._task = self._bar.add_task(
                name,
                total=epochs * batches,
                completed=self._done,
                at=f"{done}/{epochs}",
                loss="-",
                accuracy="-",
            )
        self.epoch_begins(done + 1)

    def epoch_begins(self, epoch: int) -> None:
        """Start of ``epoch``, counted from 1."""
        self.place = f"in epoch {epoch} of {self._epochs} of {self._name} training"

    def batch(self, loss: float, accuracy: float) -> None:
        """End of one more batch; means over the epoch so far, accuracy 0..1."""
        self._done += 1
        if self._bar:
            at = f"{-(-self._done // self._batches)}/{self._epochs}"
            self._bar.update(
                self._task, advance=1, at=at, loss=shown(loss), accuracy=f"{accuracy:.2%}"
            )

    def measured(self, done: int, total: int) -> None:
        """Step ``done`` of ``total`` of measuring sensitivities, between two epochs."""
        self.place = f"in the measurement of sensitivities ({done} of {total} steps)"
        self._part("sensitivities", done, total)

    def calibrated(self, done: int, total: int) -> None:
        """Layer ``done`` of ``total`` of quantisation without training."""
        self.place = f"in quantisation without training ({done} of {total} layers)"
        if done <= 1 or self._rounding is None:
            self._rounding = time.monotonic()
        self._part("layers", done, total)
        if not self._bar and done > 1 and done % max(1, total // 10) == 0:
            left = (time.monotonic() - self._rounding) / max(1, done - 1) * (total - done)
            self.note(f"{done} of {total} layers rounded, about {left:.0f} s left")

    def compared(self, done: int, total: int) -> None:
        """Sample ``done`` of ``total`` of comparing integer models, after the last epoch."""
        self.place = f"in the comparison of integer models ({done} of {total} samples)"
        if not done and not self._bar:
            self.note(f"comparing integer models on {total} samples")
        self._part("integer models", done, total)

    def _part(self, name: str, done: int, total: int) -> None:
        if self._bar:
            if self._between is None:
                self._between = self._bar.add_task(
                    name, total=total, at="-", loss="-", accuracy="-"
                )
            self._bar.update(self._between, completed=done)
            if done == total:
                self._bar.remove_task(self._between)
                self._between = None

    def epoch(self, row: dict[str, object]) -> None:
        """End of one more epoch; ``row`` is its line of metrics.csv."""
        if self.verbosity > 0 or (self.verbosity == 0 and not self._bar):
            self.say(
                f"{row['stage']} {row['epoch']}/{self._epochs}: loss {shown(row['loss'])}, "
                f"train {row['train_accuracy']:.2%}, test {row['test_accuracy']:.2%}, "
                f"{row['seconds']:.1f} s"
            )

    def note(self, text: str) -> None:
        """Line about what happens between epochs."""
        if self.verbosity >= 0:
            self.say(text)

    def say(self, text: str) -> None:
        """Output of a line for the user to stderr, above the bar if there is one."""
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            say(text)


def shown(loss: Any) -> str:
    """Loss with four decimals, a large one as a power of ten."""
    return f"{loss:.4f}" if abs(loss) < 1e4 else f"{loss:.3g}"
