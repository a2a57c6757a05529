# SPDX-License-Identifier: Apache-2.0
"""Checks of a checkpoint before training goes on from it.

What a file holds is compared with what this training would write, so that an exception of a later
step is a fault of ours.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from quant.models.weights import is_plain

#: What a checkpoint that training goes on from must have.
HOLDS = {"model", "trainer", "record", "stage", "epoch"}
STAGES = ("float", "quantised")
#: Numbers of a change of schemes.
CHANGE = {"epoch", "changed", "rows"}


def check(content: Mapping[str, Any], epochs: Mapping[str, int]) -> None:
    """Check of a checkpoint of a training with ``epochs`` of each stage.

    Raises ValueError that names the part.
    """
    if missing := HOLDS - content.keys():
        raise ValueError(f"it has no {min(missing)}")
    stage, epoch, record = content["stage"], content["epoch"], content["record"]
    if stage not in STAGES or not _whole(epoch) or epoch > epochs[stage]:
        raise ValueError("its stage or epoch is none of the training")
    if not isinstance(record, dict) or not {"reassignments", "seconds", "rows"} <= record.keys():
        raise ValueError("its record lacks a part")
    changes = record["reassignments"]
    if not isinstance(changes, list) or not all(
        isinstance(change, dict) and change.keys() == CHANGE and all(map(_whole, change.values()))
        for change in changes
    ):
        raise ValueError("its record has other reassignments")
    accuracy = record.get("float_accuracy", 0.0)
    if not (_whole(record["rows"]) and _number(record["seconds"]) and _number(accuracy)):
        raise ValueError("its record has other numbers")
    if stage == STAGES[1] and "float_accuracy" not in record:
        raise ValueError("its record has no accuracy of the float network")


def check_optimiser(own: Mapping[str, Any], given: object, parameters: list[Tensor]) -> None:
    """Check that ``given`` is a state like ``own``, an optimiser's of ``parameters``.

    Raises ValueError.
    """
    if not isinstance(given, dict) or given.keys() != own.keys():
        raise ValueError("the state of the optimiser is another one's")
    groups = given["param_groups"]
    if not isinstance(groups, list) or not all(map(_like, groups, own["param_groups"])):
        raise ValueError("the groups of the optimiser are others")
    if len(groups) != len(own["param_groups"]) or not isinstance(given["state"], dict):
        raise ValueError("the groups of the optimiser are others")
    for index, state in given["state"].items():
        known = _whole(index) and index < len(parameters)
        if (
            not known
            or not isinstance(state, dict)
            or not all(
                value is None or (is_plain(value) and value.shape in ((), parameters[index].shape))
                for value in state.values()
            )
        ):
            raise ValueError("the state of the optimiser has other tensors")


def check_random(own: Tensor, given: object) -> None:
    """Check that ``given`` is a state of a random generator like ``own``; raises ValueError."""
    if not isinstance(given, Tensor) or given.dtype != own.dtype or given.shape != own.shape:
        raise ValueError("the state of a random generator is another one's")
    try:
        torch.Generator().set_state(given)
    except (RuntimeError, TypeError) as error:
        raise ValueError("the state of a random generator is damaged") from error


def _like(given: object, own: Mapping[str, Any]) -> bool:
    """True if ``given`` has the names of ``own``, and values of the same kinds."""
    if not isinstance(given, dict) or given.keys() != own.keys():
        return False
    return all(
        given[name] == value
        if isinstance(value, list | bool) or value is None
        else _number(given[name])
        if isinstance(value, int | float)
        else isinstance(given[name], tuple) and all(map(_number, given[name]))
        for name, value in own.items()
    )


def _whole(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
