# SPDX-License-Identifier: Apache-2.0
"""A difference between onnxruntime and the golden model is found, and told with its place."""

import numpy as np
import pytest

from ir import golden
from quant.onnx import check
from tests.helpers.graphs import random_images, residual_graph


def test_one_wrong_element_is_found(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = residual_graph(seed)
    codes = random_images(graph, np.random.default_rng(seed), 2)
    tensors = golden.run(graph, codes)
    count = sum(array.size for name, array in tensors.items() if name != graph.input.name)
    assert check.compare(graph, codes) == count + tensors[graph.output.name].size
    name = graph.nodes[2].output
    tensors[name][1, 3, 2, 5] += 1
    monkeypatch.setattr(golden, "run", lambda *_: tensors)
    with pytest.raises(check.Mismatch, match=rf"'{name}' .* at \(1, 3, 2, 5\)"):
        check.compare(graph, codes)
