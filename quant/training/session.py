# SPDX-License-Identifier: Apache-2.0
"""Training with everything around it: schemes, metrics, checkpoints and going on from one."""

import time
from typing import Any

import torch
from torch import nn

from ir.cli import UserError
from quant import data
from quant.assignment import assign
from quant.assignment.errors import row_errors, savings
from quant.assignment.methods import method
from quant.assignment.sensitivity import row_scores
from quant.data.splits import Inputs
from quant.nn.layers import quantised_layers
from quant.training import checkpoints, loop
from quant.training.config import TrainConfig
from quant.training.distributed import Processes
from quant.training.metrics import Metrics
from quant.training.progress import Progress
from quant.training.runs import CHECKPOINT, RunFolder, restore

#: Command line options of the two stages' learning rates.
RATES = {"float": "--float-lr", "quantised": "--lr"}


class Training:
    """Training of a network stage by stage, with a checkpoint after every epoch.

    Where ``run`` has a checkpoint, it goes on from there: stages before it are left out, and the
    stage it was made in continues. ``record`` is what the result needs to know of earlier sessions.
    """

    def __init__(
        self,
        *,
        config: TrainConfig,
        dataset: data.Dataset,
        run: RunFolder,
        progress: Progress,
        processes: Processes,
    ) -> None:
        self.config, self.data, self.run = config, dataset, run
        self.progress, self.processes = progress, processes
        self.started = time.monotonic()
        load = processes.first and run.resuming
        self.checkpoint = processes.of_first(run.load_state(CHECKPOINT) if load else None)
        self.record: dict[str, Any] = {"reassignments": [], "seconds": 0.0, "rows": 0}
        if self.checkpoint:
            try:
                checkpoints.check(
                    self.checkpoint, {"float": config.float_epochs, "quantised": config.epochs}
                )
            except ValueError as error:
                raise UserError(
                    f"{run / CHECKPOINT} is no checkpoint of this training ({error}); "
                    "train again without --resume"
                ) from error
        if self.checkpoint:
            self.record = self.checkpoint["record"]
            progress.note(
                f"going on after epoch {self.checkpoint['epoch']} of "
                f"{self.checkpoint['stage']} training"
            )
        self.metrics = None
        if processes.first:
            self.metrics = Metrics(run, keep=self.record["rows"], tensorboard=config.tensorboard)

    @property
    def quantised_already(self) -> bool:
        """True if the float stage was over when the checkpoint was made."""
        return bool(self.checkpoint) and self.checkpoint["stage"] == "quantised"

    @property
    def elapsed(self) -> float:
        """Seconds of all sessions."""
        before = self.checkpoint["record"]["seconds"] if self.checkpoint else 0.0
        return before + time.monotonic() - self.started

    def fit(self, model: nn.Module, stage: str, epochs: int, lr: float) -> None:
        """Training of one ``stage``, "float" or "quantised", for ``epochs``.

        Rows of a prepared ``model`` get their schemes first and again every ``reassign_every``
        epochs. Raises Diverged.
        """
        config = self.config
        trainer = loop.Trainer(
            model,
            self.data.train,
            epochs=epochs,
            batch_size=config.batch_size,
            lr=lr,
            weight_decay=config.weight_decay,
            seed=config.seed,
            optimiser=config.optimiser,
            amp=config.amp == "bf16",
            compiled=config.compile,
            processes=self.processes,
        )
        done = self._go_on(model, trainer, stage)
        self.progress.stage(stage, epochs, trainer.batches, done)
        for epoch in range(done, epochs):
            change = None
            if stage == "quantised" and self.assigns(epoch):
                change = self.reassign(model, epoch)
            self.progress.epoch_begins(epoch + 1)
            try:
                result = trainer.epoch(self.progress.batch)
            except loop.Diverged as error:
                raise loop.Diverged(
                    f"{stage} epoch {epoch + 1}, {error}; train with a lower "
                    f"{RATES[stage]} than {lr:g}"
                ) from error
            if epoch + 1 == epochs:
                loop.reestimate_batch_norm(model, self.data.train, self.processes, config.seed)
            self._write(model, trainer, stage, epoch + 1, result, change)
        if stage == "quantised" and not epochs and self.assigns(0):
            self.reassign(model, 0)

    def assigns(self, epoch: int) -> bool:
        """True if rows get schemes before ``epoch``; those of a calibrated start have them."""
        given = self.config.start or self.config.calibration_images
        return epoch % self.config.reassign_every == 0 and not (given and epoch == 0)

    def _go_on(self, model: nn.Module, trainer: loop.Trainer, stage: str) -> int:
        """Load the checkpoint where it was made in this stage; gives the epochs that are done."""
        if not self.checkpoint or self.checkpoint["stage"] != stage:
            return 0
        try:
            restore(model, self.checkpoint["model"])
            trainer.load_state_dict(self.checkpoint["trainer"])
        except ValueError as error:
            raise UserError(
                f"{self.run / CHECKPOINT} does not belong to the settings of its run; "
                "train again without --resume"
            ) from error
        return self.checkpoint["epoch"]

    def _write(
        self,
        model: nn.Module,
        trainer: loop.Trainer,
        stage: str,
        epoch: int,
        result: loop.EpochResult,
        change: dict[str, int] | None,
    ) -> None:
        """Metrics first, then the checkpoint, which says how many of their lines count."""
        row = {
            "stage": stage,
            "epoch": epoch,
            "loss": result.loss,
            "train_accuracy": result.accuracy,
            "test_accuracy": self.test_accuracy(model),
            "lr": result.lr,
            "changed": None,
            "churn": None,
            "seconds": result.seconds,
        }
        if change and epoch > 1:
            row |= {"changed": change["changed"], "churn": change["changed"] / change["rows"]}
        if self.metrics:
            self.metrics.add(row, model)
            self.keep(rows=self.record["rows"] + 1, seconds=self.elapsed)
            self.save(
                CHECKPOINT,
                model,
                stage=stage,
                epoch=epoch,
                record=self.record,
                trainer=trainer.state_dict(),
            )
        self.progress.epoch(row)

    def reassign(self, model: nn.Module, epoch: int) -> dict[str, int]:
        """Assignment of schemes to the rows by sensitivities measured now.

        Returns the ``epoch``, the number of ``rows`` and of those that ``changed``.
        """
        config, generator = self.config, torch.Generator().manual_seed(self.config.seed)
        chosen = method(config.method, config.ratio)
        errors = None
        if config.split == "error":
            errors = row_errors(
                model, self.sample(), seed=config.seed, report=self.progress.measured
            )
        if chosen.ratio.fixed8 and errors and config.assign == "error":
            scores = savings(errors)
        elif chosen.ratio.fixed8:
            scores = row_scores(
                config.assign, model, self.sample(), seed=config.seed, report=self.progress.measured
            )
        else:  # they would choose no row
            scores = {n: torch.zeros(len(m.weight)) for n, m in quantised_layers(model).items()}
        changed, rows = assign.assign(
            model,
            chosen,
            config.tile_rows,
            scores,
            split=config.split,
            first_last=config.first_last,
            generator=generator,
            errors=errors,
        )
        self.processes.equalise(model)
        if self.processes.first:
            self.run.save_schemes(assign.scheme_table(model, scores))
        if epoch:
            self.progress.note(f"epoch {epoch}: {changed} of {rows} rows got another scheme")
        else:
            self.progress.note(f"schemes {config.ratio} assigned to {rows} rows")
        change = {"epoch": epoch, "changed": changed if epoch else rows, "rows": rows}
        self.keep(reassignments=[*self.record["reassignments"], change])
        return change

    def sample(self) -> Inputs:
        """Samples that sensitivities are measured on, the same ones each time."""
        generator = torch.Generator().manual_seed(self.config.seed)
        order = torch.randperm(len(self.data.train), generator=generator)
        return self.data.train.batch(order[: self.config.hessian_images])[0]

    def test_accuracy(self, model: nn.Module) -> float:
        """Share of right decisions on the test set, 0..1."""
        return loop.accuracy(model, self.data.test, self.processes)

    def keep(self, **facts: Any) -> None:
        """Record of ``facts`` for the result, and for a session that goes on."""
        self.record = self.record | facts

    def save(self, name: str, model: nn.Module, **content: Any) -> None:
        """Checkpoint of the state of ``model`` in the run, where this process writes."""
        if self.processes.first:
            self.run.save_state(name, model=model.state_dict(), **content)

    def close(self) -> None:
        """End of the files of metrics."""
        if self.metrics:
            self.metrics.close()
