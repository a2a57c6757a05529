# SPDX-License-Identifier: Apache-2.0
"""The detector of examples/detector: its boxes, their precision, and a short run to the build."""

import numpy as np
import pytest

from examples.detector import __main__ as command
from examples.detector import boxes, network, scenes
from examples.detector.boxes import Detections
from gateware.compiler.program import Program
from gateware.model.emulator import Emulator
from ir.graph import IntGraph
from ir.vectors import Vectors, beside


def perfect(shown: scenes.Scenes) -> list[np.ndarray]:
    """Fields of a network that is sure of all that is shown, and of nothing else."""
    heads = []
    for objects, centres, classes in network.targets(shown):
        fields = np.full((len(objects), network.FIELDS, *objects.shape[1:]), -9.0)
        fields[:, 0] = np.where(objects > 0, 9.0, -9.0)
        middle = np.clip(centres.numpy(), 0.001, 0.999)
        fields[:, 1:3] = np.log(middle / (1 - middle))
        np.put_along_axis(fields, 3 + classes.numpy()[:, None], 9.0, 1)
        heads.append(fields)
    return heads


def test_boxes_of_sure_fields_are_those_that_are_shown(seed) -> None:
    shown = scenes.draw(40, held_out=False, seed=seed)
    found = boxes.decode(perfect(shown))
    assert boxes.mean_average_precision(found, shown) == 1
    for detections, box, label in zip(found, shown.boxes, shown.labels, strict=True):
        best = [boxes.overlap(b, detections.boxes).argmax() for b in box]
        np.testing.assert_allclose(detections.boxes[best], box, atol=0.02)
        np.testing.assert_array_equal(detections.labels[best], label)


def test_scenes_are_of_pixels_that_do_not_overlap(seed) -> None:
    shown = scenes.draw(30, held_out=True, seed=seed)
    pixels = shown.images.numpy() * 255
    np.testing.assert_allclose(pixels, pixels.round(), atol=1e-4)
    for box in shown.boxes:
        for i in range(len(box)):
            assert not boxes.overlap(box[i], np.delete(box, i, 0)).any()


def test_precision_falls_with_what_is_wrong_missed_or_found_twice() -> None:
    box = np.array([[0.0, 0, 8, 8], [20, 20, 28, 28]])
    digits = np.arange(scenes.CLASSES)
    shown = scenes.Scenes(
        None,  # type: ignore[arg-type]  # not read
        [box for _ in digits],
        [np.array([d, d]) for d in digits],
    )

    def precision(found: np.ndarray, scores: list[float]) -> float:
        return boxes.mean_average_precision(
            [Detections(found, np.full(len(found), d), np.array(scores)) for d in digits], shown
        )

    assert precision(box, [0.9, 0.8]) == 1
    assert precision(box[:1], [0.9]) == 0.5
    assert precision(box[[0, 0]], [0.9, 0.8]) == 0.5  # the second is no hit
    wrong = box + np.array([[0], [5]])
    assert precision(wrong, [0.8, 0.9]) == pytest.approx(0.25)  # one half, at half the precision
    assert precision(np.empty((0, 4)), []) == 0


@pytest.mark.slow
def test_short_run_ends_with_a_build(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    few = "--scenes 96 --test-scenes 12 --epochs 1 --quantised-epochs 1 --no-simulation"
    assert command.main(few.split()) == 0
    assert "integers: mAP" in capsys.readouterr().out
    assert (command.FOLDER / "detections.png").stat().st_size > 10_000
    graph = IntGraph.load(command.FOLDER / "detector.safetensors")
    assert [len(graph.tensor(o.tensor).shape) for o in graph.header.outputs] == [3, 3]
    vectors = Vectors.load(beside(command.FOLDER / "detector.safetensors"), graph)
    program = Program.load(command.FOLDER / "zedboard")
    memory = Emulator(program.config).run(
        program.image, program.pack(vectors.images[0]), program.output_size
    )
    found = program.read(memory)[0]
    first, second = graph.header.output_tensors
    np.testing.assert_array_equal(found[first].reshape(-1), vectors.logits[0])
    np.testing.assert_array_equal(found[second], vectors.outputs[second][0])
