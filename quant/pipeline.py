# SPDX-License-Identifier: Apache-2.0
"""A training run from data set to verified integer graph: the steps, in order."""

import dataclasses
import time

import numpy as np
import torch
from torch import Tensor, nn

from quant import assign, data, inference, qat
from quant.cli import UserError
from quant.config import TrainConfig
from quant.export import export, snap_shortcuts
from quant.intgraph import IntGraph
from quant.layers import quantised_layers
from quant.models.tiny_resnet import TinyResNet
from quant.numerics import Scheme
from quant.prepare import calibrate, prepare
from quant.progress import Progress
from quant.ratio import Ratio
from quant.runs import RunFolder
from quant.sensitivity import row_eigenvalues

VECTORS = 1000      #: most test images in vectors.npz


def train(config: TrainConfig, dataset: data.Dataset, run: RunFolder,
          progress: Progress) -> dict[str, object]:
    """Do everything ``config`` says, write it into ``run`` and give the content of result.json."""
    started = time.monotonic()
    setup_torch(config)
    train_set, test_set = images_of(dataset, config.device)
    training = Training(config, train_set, test_set, run, progress)
    model = build(config, dataset).to(config.device, memory_format=torch.channels_last)

    training.fit(model, "float", config.float_epochs, config.float_lr)
    run.save_state("float.pt", model=model.state_dict())
    float_accuracy = qat.accuracy(model, test_set)

    model = prepare(model)
    calibrate(model, train_set.x[: config.hessian_images])
    changes = training.fit(model, "quantised", config.epochs, config.lr)

    snap_shortcuts(model)
    run.save_state("checkpoint.pt", stage="finished", epoch=config.epochs,
                   model=model.state_dict())
    graph = export_run(model.eval().cpu(), config, dataset)
    graph.save(run / "graph.safetensors")
    progress.place = "in the comparison of integer models"
    accuracies, agreement, logits = check(model, graph, dataset)
    accuracies = {"float": float_accuracy, **accuracies}
    run.save_vectors(dataset.test_images[:VECTORS], dataset.test_labels[:VECTORS],
                     logits[:VECTORS], accuracies)
    rows = {name: [int((layer.scheme == s).sum()) for s in Scheme]
            for name, layer in quantised_layers(model).items()}
    result = {"run": str(run.final_path), "dataset": dataset.name, "digest": graph.digest,
              "ratio": config.ratio, "tile_rows": config.tile_rows, "seed": config.seed,
              "images": len(logits), "accuracy": accuracies, "agreement": agreement, "rows": rows,
              "reassignments": changes, "seconds": round(time.monotonic() - started, 1)}
    run.finish(result)
    return result


def choose_device(config: TrainConfig, wanted: str) -> TrainConfig:
    """``config`` with the device that ``wanted`` (auto, cpu, cuda) means here."""
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise UserError("--device cuda: torch finds no CUDA device here")
    device = "cuda" if wanted != "cpu" and available else "cpu"
    return dataclasses.replace(config, device=device)


def setup_torch(config: TrainConfig) -> None:
    torch.manual_seed(config.seed)
    if config.threads:
        torch.set_num_threads(config.threads)


def images_of(dataset: data.Dataset, device: str) -> tuple[qat.Images, qat.Images]:
    """Training and test set as torch sees them, pixels divided by 255."""
    def convert(images: np.ndarray, labels: np.ndarray) -> qat.Images:
        return qat.Images(torch.tensor(images).to(device).float() / 255,
                          torch.tensor(labels).to(device))
    return (convert(dataset.train_images, dataset.train_labels),
            convert(dataset.test_images, dataset.test_labels))


def build(config: TrainConfig, dataset: data.Dataset) -> nn.Module:
    """The float network for images of ``dataset``."""
    return TinyResNet(dataset.shape[0], len(dataset.class_names), config.width)


@dataclasses.dataclass
class Training:
    """Trains a network and writes down every epoch."""

    config: TrainConfig
    train_set: qat.Images
    test_set: qat.Images
    run: RunFolder
    progress: Progress

    def fit(self, model: nn.Module, stage: str, epochs: int, lr: float) -> list[dict[str, int]]:
        """Train for ``epochs``. Rows of a prepared ``model`` get their schemes first and again
        every ``reassign_every`` epochs; gives one record for each time."""
        config, changes = self.config, []
        trainer = qat.Trainer(
            model, self.train_set, epochs=epochs, batch_size=config.batch_size, lr=lr,
            weight_decay=config.weight_decay, seed=config.seed,
            augment=qat.Augment(config.shift, config.flip))
        self.progress.stage(stage, epochs, trainer.batches)
        for epoch in range(epochs):
            if stage == "quantised" and epoch % config.reassign_every == 0:
                changes.append(self.reassign(model, epoch))
            self.progress.epoch_begins(epoch + 1)
            done = trainer.epoch(self.progress.batch)
            row = {"stage": stage, "epoch": epoch + 1, "loss": done.loss,
                   "train_accuracy": done.accuracy,
                   "test_accuracy": qat.accuracy(model, self.test_set),
                   "lr": done.lr, "seconds": done.seconds}
            self.run.add_metrics(row)
            self.run.save_state("checkpoint.pt", stage=stage, epoch=epoch + 1,
                                model=model.state_dict())
            self.progress.epoch(row)
        if stage == "quantised" and not epochs:
            changes.append(self.reassign(model, 0))
        return changes

    def reassign(self, model: nn.Module, epoch: int) -> dict[str, int]:
        """Measure sensitivities and give the rows their schemes."""
        config = self.config
        eigenvalues = row_eigenvalues(model, self.sample(), seed=config.seed)
        changed, rows = assign.assign(model, eigenvalues, Ratio.parse(config.ratio),
                                      config.tile_rows)
        self.run.save_schemes(assign.scheme_table(model, eigenvalues))
        if epoch:
            self.progress.note(f"epoch {epoch}: {changed} of {rows} rows got another scheme")
        else:
            self.progress.note(f"schemes {config.ratio} assigned to {rows} rows")
        return {"epoch": epoch, "changed": changed if epoch else rows, "rows": rows}

    def sample(self) -> Tensor:
        """The images that sensitivities are measured on, the same ones each time."""
        generator = torch.Generator().manual_seed(self.config.seed)
        order = torch.randperm(len(self.train_set), generator=generator)
        return self.train_set.x[order[: self.config.hessian_images].to(self.config.device)]


def export_run(model: nn.Module, config: TrainConfig, dataset: data.Dataset) -> IntGraph:
    """The integer graph of a trained model, with where it comes from. No times: the digest of two
    equal runs is equal."""
    provenance = {"dataset": dataset.name, "model": type(model).__name__, "seed": str(config.seed),
                  "float_epochs": str(config.float_epochs), "epochs": str(config.epochs),
                  "torch": torch.__version__}
    return export(model, name=f"{type(model).__name__}-{dataset.name}",
                  ratio=Ratio.parse(config.ratio), tile_rows=config.tile_rows,
                  input_shape=dataset.shape, class_names=dataset.class_names, provenance=provenance)


def check(model: nn.Module, graph: IntGraph,
          dataset: data.Dataset) -> tuple[dict[str, float], float, np.ndarray]:
    """Compare fake quantisation, torch's integers and the golden model on the whole test set.

    Returns accuracies, the share of images on which fake quantisation and integers decide alike,
    and the integer logits. Raises :class:`~quant.inference.Mismatch` when integers differ.
    """
    test_set = images_of(dataset, "cpu")[1]
    predicted = qat.predict(model, test_set.x).numpy()
    logits = inference.verify(graph, dataset.test_images)
    decided, labels = logits.argmax(1), dataset.test_labels
    accuracies = {"quantised": float((predicted == labels).mean()),
                  "integer": float((decided == labels).mean())}
    return accuracies, float((predicted == decided).mean()), logits
