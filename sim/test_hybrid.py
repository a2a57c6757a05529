# SPDX-License-Identifier: Apache-2.0
"""The layers of a network with a host between them, built and simulated by the command line."""

import dataclasses
import json
from pathlib import Path

import pytest

from gateware import build
from gateware.arch.isa import Opcode
from gateware.compiler.hybrid import LAYERS
from gateware.compiler.program import Program
from ir import cli, golden
from ir.graph import IntGraph
from ir.vectors import Vectors, beside
from sim import run
from tests.helpers.graphs import random_tokens, sequence_graph, sequence_host
from tests.helpers.seeds import suite_rng, suite_seed
from tests.helpers.units import descriptors

TOKENS = 2


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folder of a build, and the graph it is of with the codes that its layers read."""
    folder = tmp_path_factory.mktemp("hybrid")
    graph, path = sequence_graph(suite_seed(), length=12), folder / "graph.safetensors"
    graph.save(path)
    tokens = random_tokens(graph, suite_rng(), TOKENS)
    tensors = golden.run(graph, tokens, sequence_host)
    codes = {name: tensors[name] for node in graph.nodes for name in getattr(node, "outputs", ())}
    logits = golden.logits(graph, tokens, sequence_host)
    Vectors.of(graph, tokens, logits, codes=codes).save(beside(path))
    assert (
        cli.run(
            build.main,
            [
                "--board",
                "zc706",
                "--graph",
                str(path),
                "--out",
                str(folder),
                "--project-only",
                "-q",
                "--no-search",
                "--rows",
                "16",
                "--ratio",
                "65:30:5",
            ],
        )
        == 0
    )  # as in test_accelerator, built once
    return folder / "zc706", path


def test_every_layer_equals_the_golden_model(built, capsys, seed):
    folder, path = built
    report = json.loads((folder / "report.json").read_text())["program"]
    assert report["hybrid"] and len(report["layers"]) == 4
    argv = [str(folder), "--graph", str(path), "--stall", "48", "--seed", str(seed)]
    assert cli.run(run.main, argv) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"4 of 4 layers, {TOKENS} inputs each: RTL results equal")


def test_cycles_are_those_estimated(built, capsys):
    folder, path = built
    argv = [str(folder), "--graph", str(path), "--images", "1", "--report", "--json"]
    assert cli.run(run.main, argv) == 0
    layers = json.loads(capsys.readouterr().out)["layers"]
    measured, estimated = (sum(layer[key] for layer in layers) for key in ("cycles", "estimated"))
    assert abs(measured - estimated) <= 0.03 * measured, (measured, estimated)
    assert sum(layer["macs"] for layer in layers) == 12 * 3 * 8 * 8 + 8 * 3
    assert (folder / "simulation.md").read_text().count("\n") == 2 + 4 + 1


def test_a_wrong_weight_is_found(built, capsys):
    folder, path = built
    name = "conv4"
    program = Program.load(folder / LAYERS / name)
    network = IntGraph.load(path).digest
    image = bytearray(program.image)
    at = next(f["offset"] for opcode, f in descriptors(program) if opcode is Opcode.LOAD_WEIGHTS)
    image[at] ^= 1
    dataclasses.replace(program, image=bytes(image)).save(folder / LAYERS / name, network)
    try:
        assert cli.run(run.main, [str(folder), "--graph", str(path), "--images", "1"]) == 1
    finally:
        program.save(folder / LAYERS / name, network)
    said = capsys.readouterr()
    assert said.out.startswith("3 of 4 layers") and f"layer '{name}'" in said.err


def test_without_codes_layers_read_random_ones(built, tmp_path, capsys):
    folder, _ = built
    vectors = beside(folder / "graph.safetensors")
    vectors.rename(tmp_path / vectors.name)
    try:
        assert cli.run(run.main, [str(folder), "--images", "3"]) == 0
    finally:
        (tmp_path / vectors.name).rename(vectors)
    assert capsys.readouterr().out.startswith("4 of 4 layers, 3 inputs each")


def test_another_build_is_refused_in_a_line(built, tmp_path, capsys):
    folder, path = built
    other = tmp_path / "other.safetensors"
    sequence_graph(suite_seed() + 1, length=12).save(other)
    for argv, words in (
        ([str(folder), "--graph", str(other)], "was built for another network"),
        ([str(tmp_path), "--graph", str(path)], "no accelerator.v in"),
    ):
        assert cli.run(run.main, argv) == 2
        assert words in capsys.readouterr().err
