# SPDX-License-Identifier: Apache-2.0
"""Boxes of the heads' fields, their mean average precision, and a picture of them."""

import dataclasses
from pathlib import Path

import numpy as np

from examples.detector.network import SIZES, STRIDES
from examples.detector.scenes import CLASSES, Scenes

OVERLAP = 0.5  #: intersection over union from which a box is right, and from which two are one
LEAST = 0.05  #: score of a box
SHOWN = 0.4  #: score of a box that is drawn


@dataclasses.dataclass(frozen=True)
class Detections:
    """Boxes found in one picture: (M, 4) pixels, (M,) digits, (M,) scores in 0..1, best first."""

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


def decode(heads: list[np.ndarray]) -> list[Detections]:
    """Boxes of each picture from the fields of both heads, float (N, FIELDS, H, W)."""
    return [_decode([head[n] for head in heads]) for n in range(len(heads[0]))]


def _decode(heads: list[np.ndarray]) -> Detections:
    boxes, labels, scores = [], [], []
    for fields, stride, size in zip(heads, STRIDES, SIZES, strict=True):
        classes = np.exp(fields[3:] - fields[3:].max(0))
        classes /= classes.sum(0)
        score = _sigmoid(fields[0]) * classes.max(0)
        rows, columns = np.nonzero(score >= LEAST)
        dx, dy = _sigmoid(fields[1:3, rows, columns])
        x, y = (columns + dx) * stride, (rows + dy) * stride
        half = size / 2
        boxes.append(np.stack((x - half, y - half, x + half, y + half), 1))
        labels.append(classes.argmax(0)[rows, columns])
        scores.append(score[rows, columns])
    return _suppress(np.concatenate(boxes), np.concatenate(labels), np.concatenate(scores))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -x))


def _suppress(boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> Detections:
    """Boxes without those that overlap a better one."""
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if not kept or overlap(boxes[i], boxes[kept]).max() < OVERLAP:
            kept.append(int(i))
    return Detections(boxes[kept], labels[kept], scores[kept])


def overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of ``box`` (4,) with each of ``others`` (M, 4), 0..1."""
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[2:], others[:, 2:])
    shared = np.prod(np.maximum(high - low, 0), 1)
    areas = np.prod(others[:, 2:] - others[:, :2], 1)
    return shared / (np.prod(box[2:] - box[:2]) + areas - shared)


def mean_average_precision(found: list[Detections], scenes: Scenes) -> float:
    """Mean over the digits of the area under precision by recall, 0..1, at OVERLAP.

    Precision is made falling, as in PASCAL VOC since 2010.
    """
    return float(np.mean([_average_precision(found, scenes, c) for c in range(CLASSES)]))


def _average_precision(found: list[Detections], scenes: Scenes, digit: int) -> float:
    hits: list[tuple[float, bool]] = []
    total = 0
    for n, detections in enumerate(found):
        true = scenes.boxes[n][scenes.labels[n] == digit]
        total += len(true)
        free = np.ones(len(true), bool)
        for i in np.flatnonzero(detections.labels == digit):
            match = overlap(detections.boxes[i], true) * free if len(true) else np.zeros(1)
            hit = bool(match.max() >= OVERLAP)
            if hit:
                free[match.argmax()] = False
            hits.append((detections.scores[i], hit))
    if not hits or not total:
        return 0.0
    right = np.array([hit for _, hit in sorted(hits, key=lambda h: -h[0])])
    recall = np.cumsum(right) / total
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0) * precision))


def draw(images: np.ndarray, found: list[Detections], path: Path) -> None:
    """Picture of the first scenes with the boxes that were found: (N, 1, H, W) in 0..1."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    columns = 6
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2 * columns, 2 * rows), layout="constrained")
    for n, ax in enumerate(np.ravel(figure.subplots(rows, columns, squeeze=False))):
        ax.set_axis_off()
        if n >= len(images):
            continue
        ax.imshow(images[n, 0], cmap="gray", vmin=0, vmax=1)
        for box, label, score in zip(found[n].boxes, found[n].labels, found[n].scores, strict=True):
            if score < SHOWN:
                continue
            left, top, right, bottom = box - 0.5  # pixel centres lie on whole numbers
            ax.add_patch(
                Rectangle((left, top), right - left, bottom - top, fill=False, ec="#ffb000", lw=1.5)
            )
            ax.text(left, top - 0.5, f"{label} {score:.0%}", color="#ffb000", fontsize=8)
    figure.savefig(path, dpi=120)
