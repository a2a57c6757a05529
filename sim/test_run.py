# SPDX-License-Identifier: Apache-2.0
"""The command line around a simulation: which inputs it takes, what it compares, what it reports.

The program emulator stands in for the simulated Verilog here, which takes minutes to build.
"""

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from gateware import assembly, build
from gateware.arch.registers import COUNTERS
from gateware.compiler.program import Program
from gateware.flow.manifest import GOLDEN, GOLDEN_IMAGES
from gateware.model.emulator import Emulator
from gateware.report import page
from ir import cli, golden
from ir.cli import UserError
from ir.graph import IntGraph
from ir.vectors import Vectors, beside
from sim import run
from sim.verify import hybrid, network, waveform
from sim.verify.conditions import Conditions
from sim.verify.simulation import Simulation
from tests.helpers.graphs import (
    random_images,
    random_tokens,
    residual_graph,
    sequence_graph,
    sequence_host,
    several_outputs,
)

CYCLES = 1000  #: of each emulated run
COUNT = 12  #: test vectors
VERILOG = "module accelerator(clk);\nendmodule\n"


def emulated(tasks, verilog, **options) -> list[Simulation]:
    """Simulations as :func:`sim.verify.simulation.simulate_all` has them, by the emulator."""
    return [emulate(program, images) for program, images in tasks]


def emulate(program: Program, images: np.ndarray, *_: object, **options: object) -> Simulation:
    outputs, counters, samples = [], [], []
    last = program.segments[-1].last
    for image in images:
        memory = Emulator(program.config).run(
            program.image, program.pack(image), program.output_size
        )
        outputs += program.read(memory)
        none = dict.fromkeys(("CYCLES", *(name.upper() for name in COUNTERS)), 0)
        counters.append(none | {"CYCLES": CYCLES})
        samples.append(
            [
                none | {"CYCLES": CYCLES * i // 10, "ERROR_DESCRIPTOR": last * i // 10}
                for i in range(1, 10)
            ]
        )
    return Simulation(outputs, counters, samples, program.batch)


@pytest.fixture(autouse=True)
def emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "accelerator_verilog", lambda *args: VERILOG)
    monkeypatch.setattr(run, "find_simulator", lambda prefer: None)
    monkeypatch.setattr(network, "simulate", emulate)
    monkeypatch.setattr(hybrid, "simulate_all", emulated)


def built(path: Path, folder: Path) -> Path:
    argv = ["--board", "zedboard", "--graph", str(path), "--out", str(folder), "-q", "--no-search"]
    assert cli.run(build.main, [*argv, "--rows", "16", "--ratio", "65:30:5", "--project-only"]) == 0
    return folder / "zedboard"


@pytest.fixture
def own(tmp_path: Path, seed: int) -> tuple[Path, IntGraph]:
    """Network of a person's own, with test vectors."""
    graph, path = residual_graph(seed, channels=4, size=4), tmp_path / "own.safetensors"
    images = random_images(graph, np.random.default_rng(seed), COUNT)
    graph.save(path)
    Vectors.of(graph, images, golden.logits(graph, images)).save(beside(path))
    return path, graph


@pytest.fixture
def hybrid_network(tmp_path: Path, seed: int) -> tuple[Path, IntGraph]:
    """Hybrid network, with the codes that its layers read for two inputs."""
    graph, path = sequence_graph(seed, length=4), tmp_path / "hybrid.safetensors"
    tokens = random_tokens(graph, np.random.default_rng(seed), 2)
    tensors = golden.run(graph, tokens, sequence_host)
    codes = {name: tensors[name] for node in graph.nodes for name in getattr(node, "outputs", ())}
    graph.save(path)
    logits = golden.logits(graph, tokens, sequence_host)
    Vectors.of(graph, tokens, logits, codes=codes).save(beside(path))
    return path, graph


def said(capsys: pytest.CaptureFixture, *argv: object) -> tuple[int, str, str]:
    status = cli.run(run.main, [str(word) for word in argv])
    return status, *capsys.readouterr()


def test_a_network_of_ones_own_is_simulated_without_more_words(own, tmp_path, capsys) -> None:
    folder = built(own[0], tmp_path)
    for moved in (False, True):  # the folder carries what is needed
        if moved:
            own[0].unlink()
            beside(own[0]).unlink()
        status, out, err = said(capsys, folder)
        assert status == 0, err
        assert out.startswith(
            f"{COUNT} of {COUNT} images: RTL logits equal to PyTorch's integers; {CYCLES} cycles"
        )
        assert str(beside(folder / "graph.safetensors")) in err


def test_vectors_beside_the_graph_come_first(own, tmp_path, capsys) -> None:
    folder = built(own[0], tmp_path)
    status, out, err = said(capsys, folder, "--graph", own[0], "--images", 3)
    assert status == 0 and out.startswith("3 of 3 images") and str(beside(own[0])) in err


def test_golden_images_where_there_are_no_vectors(own, tmp_path, capsys) -> None:
    beside(own[0]).unlink()
    folder = built(own[0], tmp_path)
    status, out, err = said(capsys, folder)
    assert status == 0 and str(folder / GOLDEN) in err
    count = GOLDEN_IMAGES
    assert out.startswith(f"{count} of {count} images: RTL logits equal to the golden model's;")


def test_random_codes_where_there_is_nothing_else(own, tmp_path, capsys, seed) -> None:
    beside(own[0]).unlink()
    folder = built(own[0], tmp_path)
    (folder / GOLDEN).unlink()
    status, out, err = said(capsys, folder, "--images", 5, "--seed", seed)
    assert status == 0 and f"5 images of random, seed {seed}" in err
    assert out.startswith("5 of 5 images: RTL logits equal to the golden model's;")


def test_files_of_another_network_are_refused(own, tmp_path, capsys, seed) -> None:
    path, graph = own
    folder = built(path, tmp_path)
    other = residual_graph(seed + 1, channels=4, size=4)
    for file in (beside(folder / "graph.safetensors"), beside(path)):
        wrong = Vectors.load(file, graph)
        images = wrong.images
        Vectors.of(other, images, golden.logits(other, images)).save(file)
        status, _, err = said(capsys, folder, *(("--graph", path) if file == beside(path) else ()))
        assert status == 2 and err.startswith(f"error: {file} belongs to another network")
        assert err.count("\n") == 1
        wrong.save(file)
    other.save(folder / "graph.safetensors")
    status, _, err = said(capsys, folder)
    assert status == 2 and "was built for graph" in err and err.count("\n") == 1


def test_a_build_without_a_network_says_so(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # where nothing was trained
    argv = ["--board", "zedboard", "--out", str(tmp_path), "-q", "--project-only"]
    assert cli.run(build.main, argv) == 0
    for folder in (tmp_path / "zedboard", tmp_path / "nowhere"):
        status, _, err = said(capsys, folder)
        assert status == 2
        assert err == (
            f"error: no network in {folder}: run python -m gateware.build --graph FILE first\n"
        )


def test_a_build_without_its_verilog_says_so(own, tmp_path, capsys) -> None:
    folder = built(own[0], tmp_path)
    (folder / "accelerator.v").unlink()
    status, _, err = said(capsys, folder)
    assert status == 2 and err.startswith(f"error: no accelerator.v in {folder}: ")
    assert err.count("\n") == 1


def test_arguments_of_the_function_that_make_no_sense(tmp_path) -> None:
    with pytest.raises(UserError, match="images must be at least 1, not 0"):
        run.verify(tmp_path, images=0)
    with pytest.raises(UserError, match="check is one of logits, layers, not 'all'"):
        run.verify(tmp_path, check="all")
    with pytest.raises(UserError, match="stall must be 0 to 255, not 300"):
        Conditions(stall=300)
    with pytest.raises(UserError, match="ddr_bytes must be at least 1, not 0"):
        Conditions(ddr_bytes=0)


def test_report_draws_the_program_that_ran(own, tmp_path, monkeypatch, capsys) -> None:
    """Program of the plot: with --check layers the one that dumps every layer's output."""
    drawn = []
    monkeypatch.setattr(network.plot, "draw", lambda program, *rest: drawn.append(program))
    folder = built(own[0], tmp_path)
    for check in ("logits", "layers"):
        status, out, _ = said(capsys, folder, "--images", 1, "--check", check, "--report")
        assert status == 0 and "| total |" in out
    plain, dumping = drawn
    assert plain.image == Program.load(folder).image
    assert len(plain.outputs) == 1 and len(dumping.outputs) > 1
    assert dumping.segments[-1].last > plain.segments[-1].last


@pytest.mark.parametrize(("check", "layer"), [("logits", "linear9"), ("layers", "conv0")])
def test_a_difference_is_told_and_traced(
    own, tmp_path, monkeypatch, capsys, check: str, layer: str
) -> None:
    folder, recorded = built(own[0], tmp_path), []
    monkeypatch.setattr(
        network,
        "simulate",
        lambda program, images, *rest, **options: emulate(program, images ^ 128),
    )
    monkeypatch.setattr(waveform, "trace", lambda *args, **options: recorded.append(args))
    status, out, err = said(capsys, folder, "--images", 2, "--check", check, "--waves")
    assert status == 1 and out
    assert f"error: mismatch: image 0, layer {layer!r}, pixel y=" in err
    _, images, verilog, (first, last), target = recorded[0]
    assert (len(images), verilog, target) == (1, folder / "accelerator.v", folder / "waves.vcd")
    assert 0 <= first < last <= CYCLES + waveform.MARGIN


def test_all_outputs_are_compared(tmp_path, monkeypatch, capsys, seed) -> None:
    """Those of the build's vectors, and of random codes; each output that is wrong is found."""
    rng = np.random.default_rng(seed)
    graph, path = several_outputs(rng, "65:30:5"), tmp_path / "own.safetensors"
    images = random_images(graph, rng, 3)
    tensors = golden.run(graph, images)
    graph.save(path)
    outputs = {name: tensors[name] for name in graph.header.output_tensors[1:]}
    Vectors.of(graph, images, golden.logits(graph, images), outputs=outputs).save(beside(path))
    folder = built(path, tmp_path)
    status, out, err = said(capsys, folder)
    assert status == 0 and out.startswith("3 of 3 images: RTL logits equal to PyTorch's"), err

    def wrong(
        name: str, program: Program, images: np.ndarray, *_: object, **__: object
    ) -> Simulation:
        simulation = emulate(program, images)
        simulation.outputs[1][name][-1, -1, -1] ^= 1
        return simulation

    for name in graph.header.output_tensors:
        monkeypatch.setattr(network, "simulate", functools.partial(wrong, name))
        status, out, err = said(capsys, folder)
        assert status == 1 and out.startswith("2 of 3 images")
        assert f"mismatch: image 1, layer {name!r}, pixel y=" in err
    beside(folder / "graph.safetensors").unlink()
    beside(path).unlink()
    (folder / GOLDEN).unlink()
    monkeypatch.setattr(network, "simulate", emulate)
    status, out, _ = said(capsys, folder, "--images", 2)
    assert status == 0 and out.startswith("2 of 2 images: RTL logits equal to the golden model's")


def test_hybrid_networks(hybrid_network, tmp_path, capsys) -> None:
    folder = built(hybrid_network[0], tmp_path)
    status, out, err = said(capsys, folder, "--check", "layers")
    assert status == 0 and str(beside(folder / "graph.safetensors")) in err
    assert out.startswith("4 of 4 layers, 2 inputs each: RTL results equal to PyTorch's integers;")
    beside(folder / "graph.safetensors").unlink()
    status, out, err = said(capsys, folder, "--images", 3, "--json")
    assert status == 0 and "inputs: random, seed 1" in err
    document = json.loads(out)
    assert (document["images"], document["equal"]) == (3, 3)
    assert document["reference"] == "the golden model's"
    status, _, err = said(capsys, folder, "--check", "logits")
    assert status == 2 and "computed by the host" in err and err.count("\n") == 1


def test_waveform_of_a_hybrid_network(hybrid_network, tmp_path, monkeypatch, capsys) -> None:
    folder, recorded = built(hybrid_network[0], tmp_path), []

    def one_layer_wrong(tasks, *rest, **options) -> list[Simulation]:
        return [
            emulate(program, 255 - images if program.name == "conv2" else images)
            for program, images in tasks
        ]

    monkeypatch.setattr(hybrid, "simulate_all", one_layer_wrong)
    monkeypatch.setattr(waveform, "trace", lambda *args, **options: recorded.append(args))
    status, out, err = said(capsys, folder, "--waves")
    assert status == 1 and out.startswith("3 of 4 layers, 2 inputs each")
    assert "mismatch: image 0, layer 'conv2'" in err
    program, images, _, (first, last), target = recorded[0]
    assert (program.name, len(images), target) == ("conv2", 1, folder / "waves.vcd")
    assert first < last


def test_result_of_the_function(own, tmp_path) -> None:
    folder = built(own[0], tmp_path)
    result = run.verify(folder, images=4, conditions=Conditions(stall=9, seed=5), quiet=True)
    assert (result.images, result.equal, result.cycles) == (4, 4, CYCLES)
    assert result.differences == [] and "seed 5, stall 9/256" in result.summary()
    assert repr(result) == f"<NetworkResult: 4 of 4 images equal, {CYCLES:,} cycles each>"
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--images", "0"), "must be at least 1, not 0"),
        (("--read-latency", "1"), "must be at least 2, not 1"),
        (("--images", "many"), "must be a whole number, not 'many'"),
        (("--check", "nothing"), "invalid choice"),
        (("--stall", "256"), "must be 0 to 255, not 256"),
        (("--stall", "-1"), "must be 0 to 255, not -1"),
    ],
)
def test_options_that_make_no_sense(option, words, capsys) -> None:
    status, _, err = said(capsys, "build", *option)
    assert status == 2 and words in err and err.count("\n") == 1


@pytest.mark.parametrize("text", ["", VERILOG[:-5], "module other();\nendmodule"])
def test_verilog_that_was_cut(own, tmp_path, capsys, text: str) -> None:
    folder = built(own[0], tmp_path)
    (folder / "accelerator.v").write_text(text)
    status, _, told = said(capsys, folder)
    assert status == 2
    again = "run python -m gateware.build again"
    assert told == f"error: {folder}/accelerator.v is not complete: {again}\n"


def test_result_is_kept_and_shown(own, tmp_path, capsys) -> None:
    """The page tells what was measured, but not of an accelerator that was here before."""
    folder = built(own[0], tmp_path)
    status, _, told = said(capsys, folder, "--images", "1000")
    assert status == 0
    assert f"has {COUNT} inputs, fewer than 1000: all are simulated" in told
    kept = json.loads((folder / "simulation.json").read_text())
    assert kept["cycles_per_image"] == CYCLES and kept["equal"] == COUNT
    assert f"{CYCLES:,}" in (folder / "report.html").read_text()
    (folder / "accelerator.v").write_text(VERILOG + VERILOG)
    page.write(folder)
    assert f"{CYCLES:,}" not in (folder / "report.html").read_text()
