# SPDX-License-Identifier: Apache-2.0
"""The bench of the scores: its overlap by hand, and the document that it prints."""

import json

import pytest
import torch

from bench import assignment
from ir import cli


def test_overlap_counts_the_upper_twentieth_of_each_layer() -> None:
    first = {"a": torch.arange(40.0), "b": torch.arange(3.0)}
    second = {"a": torch.arange(40.0), "b": torch.tensor([2.0, 1, 0])}
    second["a"][38] = -1
    assert assignment.sensitive(first["a"]) == {38, 39}
    assert assignment.overlap(first, first) == 1
    assert assignment.overlap(first, second) == 1 / 3  # 39 of {38, 39}, none of {2}


def test_document(capsys) -> None:
    threads = torch.get_num_threads()
    assert assignment.main(["--model", "tiny", "--images", "4", "--threads", "1", "--json"]) == 0
    torch.set_num_threads(threads)
    result = json.loads(capsys.readouterr().out)
    assert result["weights"] == result["inputs"] == "random"
    assert set(result["overlap"]) == {"after 3 iterations", "other images", "fisher", "random"}
    assert all(0 <= value <= 1 for value in result["overlap"].values())
    assert result["layers"]["fc"]["rows"] == 10 and len(result["layers"]["fc"]["sensitive"]) == 1


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--images", "0"], "--images must be at least 1"),
        (["--dataset", "digits", "--images", "4000"], "give a smaller --images"),
    ],
)
def test_mistakes_are_named(argv, message) -> None:
    with pytest.raises(cli.UserError, match=message):
        assignment.main(argv)
