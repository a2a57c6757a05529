# SPDX-License-Identifier: Apache-2.0
"""Arrays that are asked for by their sizes, and what is refused before anything is generated."""

import dataclasses

import numpy as np
import pytest

import boards
from boards.board import Board
from gateware.compiler.program import compile_graph
from gateware.explore.configure import configure
from gateware.model import estimate
from ir.cli import UserError
from tests.helpers.graphs import residual_graph
from tests.helpers.table_graphs import product_graph


def test_a_network_with_functions_gets_tables(seed: int) -> None:
    """And its array 3 % more LUTs at most; one without has the array of before."""
    board, options = boards.get("zc706"), {"ratio": None, "rows": 16, "clock_hz": None}
    rng = np.random.default_rng(seed)
    config = configure(board, product_graph(rng), **options)
    assert config.tables and compile_graph(product_graph(rng), config).config.tables
    plain = configure(board, residual_graph(seed), **options)
    assert not plain.tables and "tables" not in plain.to_json()
    need = estimate.resources(dataclasses.replace(plain, tables=True)).lut
    assert need <= 1.03 * estimate.resources(plain).lut


def test_more_ports_than_the_board_has() -> None:
    board = boards.get("zc706")
    small = dataclasses.replace(board, memory=dataclasses.replace(board.memory, hp_ports=1))
    options = {"ratio": None, "rows": 16, "clock_hz": None}
    assert configure(board, None, **options, ports=4).ports == 4
    with pytest.raises(UserError, match="has 1 memory ports, --ports 2 asks for more"):
        configure(small, None, **options, ports=2)


@pytest.mark.parametrize(
    ("resource", "options"),
    [
        ("lut", {"rows": 16}),
        ("ff", {"rows": 16}),
        ("dsp48e1", {"rows": 16}),
        ("bram36", {"rows": 16}),
    ],
)
def test_refusal_names_resource_need_and_limit(resource: str, options: dict[str, int]) -> None:
    """One less than is needed is refused, what is needed is not."""
    board = boards.get("zc706")
    options = {"ratio": None, "clock_hz": None, **options}
    need = getattr(estimate.resources(configure(board, None, **options)), resource)

    def limited(limit: int) -> Board:
        device = dataclasses.replace(board.device, limits={**board.device.limits, resource: limit})
        return dataclasses.replace(board, device=device)

    assert configure(limited(need), None, **options).rows == 16
    with pytest.raises(
        UserError,
        match=rf"^the accelerator needs {need:.10g} {resource.upper()} "
        rf"\(estimated\), {board.title} has {need - 1:.10g}; use",
    ):
        configure(limited(need - 1), None, **options)


def test_refusal_names_all_that_is_short() -> None:
    board = boards.get("zedboard")
    with pytest.raises(
        UserError,
        match=r"LUT .* has 53200; .* FF .* has 106400; .* DSP48E1 .* "
        r"has 220; .* BRAM36 .* has 140; use fewer",
    ):
        configure(
            board,
            None,
            ratio="30:65:5",
            rows=64,
            clock_hz=None,
            pixels=16,
            ports=4,
            weight_depth=2048,
        )
