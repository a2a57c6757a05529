# SPDX-License-Identifier: Apache-2.0
"""A run without training: quantisation on some images, export, checks and what each row costs."""

import json
import time
from typing import Any

import torch
from torch import nn

from quant import data
from quant.assignment.assign import scheme_table
from quant.calibration.flow import Calibration
from quant.calibration.network import LayerReport
from quant.lowering.align import align_scales
from quant.nn.quantizers import SCHEMES
from quant.training import loop, pipeline, plots, starts
from quant.training.config import TrainConfig
from quant.training.device import lay_out, setup_torch
from quant.training.metrics import COLUMNS
from quant.training.progress import Progress
from quant.training.runs import SENSITIVITY, RunFolder


def calibrate_run(
    config: TrainConfig, dataset: data.Dataset, run: RunFolder, progress: Progress
) -> dict[str, Any]:
    """Result of quantisation without training as ``config`` says; the files are written to ``run``.

    They are those of a trained run, with sensitivity.json beside them. Raises UserError.
    """
    started = time.monotonic()
    setup_torch(config)
    model = pipeline.start(config, dataset, run, progress)
    config = pipeline.for_array(model, config, dataset, progress)
    run.begin(config)
    run.append("metrics.csv", f"{','.join(COLUMNS)}\n")  # of no epoch
    run.append("metrics.jsonl", "")
    progress.note(
        f"quantising on {config.calibration_images} training samples, run folder {run.path}"
    )
    model = lay_out(model, "cpu")
    record: dict[str, Any] = {"reassignments": []}
    record["float_accuracy"] = loop.accuracy(model, dataset.test)
    run.save_state("float.pt", model=model.state_dict())
    prepared: nn.Module = pipeline.quantisable(model, config, dataset)
    prepared = lay_out(prepared, "cpu")
    found = starts.compensate(starts.flat(prepared), config, dataset, progress)
    align_scales(starts.flat(prepared))
    run.save_state("quantised.pt", model=prepared.state_dict())
    run.save_schemes(scheme_table(prepared, {}))
    report = sensitivity(found)
    run.replace(SENSITIVITY, f"{json.dumps(report, indent=1)}\n".encode())
    result = pipeline.finish(prepared.eval(), config, dataset, run, progress, record)
    result |= {
        "calibration": {
            "images": config.calibration_images,
            "held_out": found.held_out,
            "error": found.error,
            "batch_norm_reestimated": found.reestimated,
            "costliest": [layer["layer"] for layer in costliest(report)],
        }
    }
    result["weights"] = run.weights()
    result["seconds"] = round(time.monotonic() - started, 1)
    if config.plots:
        plots.draw(run)
    run.finish(result)
    return result


def sensitivity(found: Calibration) -> dict[str, Any]:
    """Cost of layers and rows, the content of sensitivity.json.

    ``error`` of a layer is the squared error of its sums relative to their variance, ``rows`` what
    each row has of it, ``under`` what ``error`` would be with all rows of one scheme.
    """
    return {
        "held_out_error": found.error,
        "layers": [_of_layer(layer) for layer in found.layers],
    }


def _of_layer(layer: LayerReport) -> dict[str, Any]:
    signal = layer.signal.sum().clamp_min(torch.finfo(torch.float64).tiny)
    error = layer.error / signal
    return {
        "layer": layer.name,
        "error": error.sum().item(),
        "under": {
            SCHEMES[number]: (errors.sum() / signal).item()
            for number, errors in enumerate(layer.errors)
        },
        "schemes": [SCHEMES[number] for number in layer.scheme.tolist()],
        "rows": error.tolist(),
    }


def costliest(report: dict[str, Any], most: int = 3) -> list[dict[str, Any]]:
    """Layers of :func:`sensitivity` with the largest relative errors, the largest first."""
    return sorted(report["layers"], key=lambda layer: -layer["error"])[:most]
