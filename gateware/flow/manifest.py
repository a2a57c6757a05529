# SPDX-License-Identifier: Apache-2.0
"""Manifest for the driver of a board: the accelerator that was built, and golden logits.

``boards/driver`` imports nothing of ours; these files are all that it knows. All files of a network
carry the digest of its graph, so that those of two networks are not used together.
"""

import json
from pathlib import Path

import numpy as np

from boards.board import Board
from gateware.arch.config import AccelConfig
from gateware.arch.registers import config_digest, register_manifest
from ir import golden
from ir.graph import IntGraph
from ir.vectors import Vectors

ACCELERATOR = "accelerator.json"
GOLDEN = "golden.npz"
GOLDEN_IMAGES = 8  #: images shipped with a program
GOLDEN_SEED = 1  #: of random images, where there are no real ones


def write_accelerator(
    folder: Path, board: Board, config: AccelConfig, *, connection: dict, bitstream: str
) -> None:
    """Export of ``accelerator.json`` to ``folder``.

    ``connection`` says how the accelerator is reached: ``kind`` is ``zynq7`` or ``serial``, the
    rest belongs to that kind. ``bitstream`` is where the tools leave it in the build folder.
    """
    content = {
        "board": board.name,
        "title": board.title,
        "part": board.device.part,
        "clock_hz": config.clock_hz,
        "config_digest": config_digest(config),
        "connection": connection,
        "bitstream": bitstream,
        "registers": register_manifest(),
    }
    (folder / ACCELERATOR).write_text(json.dumps(content, indent=1) + "\n")


def write_golden(folder: Path, graph: IntGraph, images: np.ndarray | None) -> None:
    """Export of ``golden.npz`` to ``folder``: images and the outputs that the golden model computes
    from them, as :class:`ir.vectors.Vectors`.

    The images are the first :data:`GOLDEN_IMAGES` of the integer ``images`` (N, C, H, W), or random
    ones where there are none.
    """
    spec = graph.input
    if images is None:
        rng = np.random.default_rng(GOLDEN_SEED)
        images = rng.integers(0, 1 << spec.bits, (GOLDEN_IMAGES, *spec.shape))
    images = np.asarray(images[:GOLDEN_IMAGES], np.int64).reshape(-1, *spec.shape)
    tensors = golden.run(graph, images)
    logits = tensors[graph.output.name].reshape(len(images), -1)
    others = {name: tensors[name] for name in graph.header.output_tensors[1:]}
    Vectors.of(graph, images, logits, outputs=others).save(folder / GOLDEN)
