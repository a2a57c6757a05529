# SPDX-License-Identifier: Apache-2.0
"""Files between training, build, simulation and board, for :mod:`bench.soak.files`."""

import contextlib
import functools
import hashlib
import json
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pydantic
import safetensors.numpy

from bench.soak.files import Files, Target
from bench.soak.mutations import (
    VALUES,
    mutated_array,
    mutated_bytes,
    mutated_json,
    mutated_npz,
    mutated_text,
)
from boards import driver
from boards.driver.package import Package
from boards.driver.registers import MAJOR
from gateware import assembly
from gateware import build as gateware_build
from gateware.compiler.hybrid import is_hybrid
from gateware.compiler.operations import CompileError
from gateware.compiler.program import Program
from gateware.explore import choose as choosing
from gateware.flow import target
from gateware.model.emulator import Emulator
from gateware.report import page
from ir import golden
from ir.cli import UserError
from ir.graph import GRAPH, GraphError, Header, IntGraph, _digest
from ir.vectors import Vectors, VectorsError
from sim.verify import hybrid, network
from sim.verify.inputs import choose, choose_codes, load_graph
from tests.helpers.graphs import random_images, residual_graph, sequence_graph, several_outputs

BOARD = "zedboard"
VERILOG = "module accelerator(\n);\nendmodule\n"  #: in place of what takes seconds to generate
LARGE = 1 << 20  #: elements of a network that is not computed: it is what was asked for
OPTIONS = ("--board", BOARD, "--no-search", "--rows", "16", "--project-only", "-q")


@contextlib.contextmanager
def quick(project: bool = False) -> Iterator[None]:
    """Context in which a build takes no time for its Verilog, nor for the tools' project."""
    with contextlib.ExitStack() as patches:
        patch = mock.patch.object
        patches.enter_context(patch(assembly, "accelerator_verilog", lambda *_: VERILOG))
        if not project:
            patches.enter_context(patch(type(target.TARGETS["xc7"]), "write"))
        yield


def built(folder: Path, graph: Path, project: bool = False) -> Path:
    """Build of the network in the file ``graph``."""
    with quick(project):
        gateware_build.main([*OPTIONS, "--graph", str(graph), "--out", str(folder)])
    return folder / BOARD


def content(folder: Path) -> Files:
    """Files of a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


GRAPHS: dict[str, Callable[[], IntGraph]] = {
    "residual": lambda: residual_graph(1),
    "sequence": lambda: sequence_graph(1),
    "outputs": lambda: several_outputs(np.random.default_rng(1)),
}


@functools.cache
def graph_file(kind: str) -> bytes:
    """Graph of a kind of :data:`GRAPHS`."""
    with tempfile.TemporaryDirectory() as folder:
        GRAPHS[kind]().save(Path(folder) / GRAPH)
        return (Path(folder) / GRAPH).read_bytes()


@functools.cache
def build_files(kind: str = "residual") -> Files:
    """Build folder of a graph of that kind."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / GRAPH).write_bytes(graph_file(kind))
        own = content(built(folder / "build", folder / GRAPH, project=True))
        graph = IntGraph.load(folder / GRAPH)
        vectors = folder / "vectors.npz"
        if not is_hybrid(graph):
            images = random_images(graph, np.random.default_rng(1), 3)
            tensors = golden.run(graph, images)
            logits = tensors[graph.output.name].reshape(3, -1)
            others = {name: tensors[name] for name in graph.header.output_tensors[1:]}
            Vectors.of(graph, images, logits, outputs=others, labels=np.arange(3)).save(vectors)
            own["vectors.npz"] = vectors.read_bytes()
        return own


def parts_of_graph(stored: bytes) -> tuple[dict, dict[str, np.ndarray]]:
    """Document in the header of a graph file, and its arrays."""
    size = int.from_bytes(stored[:8], "little")
    header = json.loads(stored[8 : 8 + size])
    return json.loads(header["__metadata__"]["graph"]), safetensors.numpy.load(stored)


def graph_of_parts(document: object, arrays: dict[str, np.ndarray]) -> bytes:
    """Graph file with the right digest, as far as there is one."""
    text, digest = json.dumps(document), "0"
    with contextlib.suppress(pydantic.ValidationError, ValueError):
        header = Header.model_validate(document)
        text = header.model_dump_json()
        digest = _digest(header, arrays)
    return safetensors.numpy.save(arrays, {"graph": text, "digest": digest})


def mutate_graph(rng: random.Random, files: Files) -> str:
    """Mutation of header, arrays or bytes of a graph."""
    stored = graph_file(rng.choice(list(GRAPHS)))
    if rng.random() < 0.1:
        files[GRAPH], said = mutated_bytes(rng, stored)
        return said
    document, arrays = parts_of_graph(stored)
    if rng.random() < 0.15:
        document, arrays, said = renamed(rng, document, arrays)
    elif rng.random() < 0.6:
        document, said = mutated_json(rng, document)
        if "\\ud800" in json.dumps(document):
            document["name"], said = "x", "surrogate"
    else:
        name = rng.choice(sorted(arrays))
        array, how = mutated_array(rng, arrays[name])
        arrays[name], said = array if array.dtype.kind != "U" else np.zeros(3), f"{name} {how}"
        arrays = {key: np.ascontiguousarray(value) for key, value in arrays.items()}
        if rng.random() < 0.1:
            arrays[rng.choice(("x", "x.y", ".table", "../x.codes"))] = arrays.pop(name)
    files[GRAPH] = graph_of_parts(document, arrays)
    return said


def renamed(
    rng: random.Random, document: dict, arrays: dict[str, np.ndarray]
) -> tuple[dict, dict[str, np.ndarray], str]:
    """Graph of which a node or a tensor has another name, wherever it is named."""
    old = rng.choice([part["name"] for key in ("nodes", "tensors") for part in document[key]])
    new = rng.choice([v for v in VALUES if isinstance(v, str) and v != "\ud800"])
    text = json.dumps(document).replace(json.dumps(old), json.dumps(new))
    swapped = {
        new + key[len(old) :] if key.startswith(f"{old}.") else key: array
        for key, array in arrays.items()
    }
    return json.loads(text), swapped, f"{old} is called {new[:30]!r}"


def use_graph(folder: Path) -> None:
    """Build of the graph, and its program in the emulator against the golden model."""
    graph = IntGraph.load(folder / GRAPH)
    if sum(int(np.prod(spec.shape, dtype=object)) for spec in graph.header.tensors) > LARGE:
        raise GraphError("large, and not computed")
    place = built(folder / "build", folder / GRAPH)
    if is_hybrid(graph):
        return
    program = Program.load(place)
    images = random_images(graph, np.random.default_rng(1))
    memory = Emulator(program.config).run(
        program.image, program.pack(images[0]), program.output_size
    )
    reference = golden.run(graph, images)
    for name, values in program.read(memory)[0].items():
        assert np.array_equal(values, reference[name][0]), f"{name} differs"
    golden.results(graph, reference)


def mutate_document(name: str) -> Callable[[random.Random, Files], str]:
    """Mutation of a JSON file."""

    def mutate(rng: random.Random, files: Files) -> str:
        text, said = mutated_text(rng, files[name].decode())
        files[name] = text.encode("utf-8", "surrogatepass")
        return said

    return mutate


def mutate_arrays(name: str) -> Callable[[random.Random, Files], str]:
    """Mutation of an ``.npz`` file."""

    def mutate(rng: random.Random, files: Files) -> str:
        files[name], said = mutated_npz(rng, files[name])
        return said

    return mutate


def mutate_program(rng: random.Random, files: Files) -> str:
    """Mutation of the manifest of a program, or of its image with the right digest."""
    if rng.random() < 0.8:
        return mutate_document("program.json")(rng, files)
    image, said = mutated_bytes(rng, files["program.bin"])
    manifest = json.loads(files["program.json"])
    manifest |= {"image_bytes": len(image), "image_digest": hashlib.blake2s(image).hexdigest()}
    files |= {"program.bin": image, "program.json": json.dumps(manifest).encode()}
    return f"image, {said}"


def use_build(folder: Path) -> None:
    """What a simulation reads of a build, without the simulation."""
    graph, path = load_graph(folder, None)
    if is_hybrid(graph):
        hybrid.load_layers(folder, graph)
        choose_codes(folder, graph, path, 2, 1)
        return
    program = network.load_program(folder, graph, path)
    inputs = choose(folder, graph, path, 2, 1)
    assert inputs.images.shape[0] == len(inputs.logits)
    for image in inputs.images:
        program.pack(image)
    for tensors in program.read(bytes(program.output_size)):
        assert set(tensors) >= set(graph.header.output_tensors)


class Echo(driver.Hardware):
    """Accelerator of a package that ends every run at once, its results all zero."""

    interrupts = False

    def __init__(self, package: Package) -> None:
        registers = package.accelerator["registers"]
        self.words = {
            register["offset"]: value
            for register in registers["registers"]
            for name, value in (
                ("ID", registers["id"]),
                ("VERSION", MAJOR << 16),
                ("CONFIG_DIGEST", package.accelerator["config_digest"]),
            )
            if register["name"] == name
        }

    def read(self, offset: int) -> int:
        return self.words.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        assert 0 <= value < 1 << 32, f"{value} into a register"

    def allocate(self, size: int) -> driver.Buffer:
        if not 0 < size < 1 << 26:
            raise driver.NoHardware(f"no {size} bytes")
        return Plain(np.zeros(size, np.uint8), 4096)

    def wait(self, seconds: float) -> None:
        pass

    def now(self) -> float:
        return 0.0

    def reset(self) -> None:
        pass

    def close(self) -> None:
        pass


class Plain(driver.Buffer):
    """Buffer of ordinary memory."""

    def to_device(self) -> None:
        pass

    def from_device(self) -> None:
        pass


def use_driver(folder: Path) -> None:
    """Self-test of a build on a board that gives zeros; the results of its first image."""
    try:
        for layer in Package.layers(folder) or [None]:
            _use_package(Package(folder, layer), folder)
    except ValueError as error:  # the driver's command tells it as one of its own
        raise driver.DriverError(str(error)) from error


def _use_package(package: Package, folder: Path) -> None:
    with contextlib.suppress(driver.WrongPackage):  # of builds without one
        assert package.bitstream().is_relative_to(folder)
    accelerator = driver.Accelerator(Echo(package), package)
    accelerator.selftest(2)
    image = np.zeros(tuple(package.input["space_to_depth"]["shape"]), np.uint8)
    accelerator.classify(image)
    assert isinstance(accelerator.run(image).results, list)
    package.layer(3)


def mutate_driver(rng: random.Random, files: Files) -> str:
    """Mutation of what a board reads."""
    files["x.bit"] = b"bitstream"
    way = rng.choice(("accelerator.json", "program.json", "program.json", "golden.npz"))
    if way == "golden.npz":
        return mutate_arrays(way)(rng, files)
    return f"{way} {mutate_document(way)(rng, files)}"


def use_page(folder: Path) -> None:
    """Page of a build."""
    assert page.write(folder).stat().st_size > 1000


@functools.cache
def simulated() -> Files:
    """Build with a result of a simulation."""
    files = build_files()
    layer = {"layer": "conv0", "macs": 10, "cycles": 5, "array_cycles": 3, "read_bytes": 1}
    document = {
        "build": None,
        "images": 2,
        "equal": 2,
        "layers": [layer | {"write_bytes": 1, "stalls": {"x": 1}}],
        "cycles_per_image": 100,
        "counters": {"CYCLES": [100, 100]},
    }
    return files | {"simulation.json": json.dumps(document).encode()}


def mutate_page(rng: random.Random, files: Files) -> str:
    """Mutation of a document that the page is drawn from."""
    name = rng.choice(("report.json", "simulation.json"))
    return f"{name} {mutate_document(name)(rng, files)}"


@functools.cache
def chosen() -> Files:
    """Graph, and the array that was chosen for it."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / GRAPH).write_bytes(graph_file("residual"))
        with quick():
            gateware_build.main(_choosing(folder))
        return {
            GRAPH: graph_file("residual"),
            "build/choices.json": (folder / "build" / f"{BOARD}.choices.json").read_bytes(),
        }


def _choosing(folder: Path) -> list[str]:
    options = ["--board", BOARD, "--rows", "16", "--pixels", "2", "--ratio", "50:25:25", "-q"]
    graph = str(folder / GRAPH)
    return [*options, "--project-only", "--graph", graph, "--out", str(folder / "build")]


def use_choices(folder: Path) -> None:
    """Build by the array that was kept."""
    (folder / "build" / "choices.json").rename(folder / "build" / f"{BOARD}.choices.json")

    def search(*_: object) -> None:
        raise UserError("the file is no answer: search again")

    with quick(), mock.patch.object(choosing, "choose", search):
        gateware_build.main(_choosing(folder))


def stored_graph() -> Files:
    """Graph of any kind; mutations choose which."""
    return {GRAPH: b""}


def mutate_layers(rng: random.Random, files: Files) -> str:
    """Mutation of the program of a layer."""
    files["x.bit"] = b"bitstream"
    layer = rng.choice(sorted({Path(path).parts[1] for path in files if path[:7] == "layers/"}))
    name = rng.choice(("program.json", "program.json", "golden.npz"))
    path = f"layers/{layer}/{name}"
    return (mutate_arrays if name == "golden.npz" else mutate_document)(path)(rng, files)


def use_build_and_driver(folder: Path) -> None:
    """What a simulation and a board read of a build."""
    use_build(folder)
    use_driver(folder)


ERRORS = (UserError, GraphError, VectorsError, CompileError)
ALL = (*ERRORS, driver.DriverError)
TARGETS = {
    "graph": Target(stored_graph, mutate_graph, use_graph, ERRORS),
    "vectors": Target(
        lambda: build_files("outputs"), mutate_arrays("vectors.npz"), use_build, ERRORS
    ),
    "program": Target(build_files, mutate_program, use_build, ERRORS),
    "program of several outputs": Target(
        lambda: build_files("outputs"), mutate_program, use_build, ERRORS
    ),
    "program of layers": Target(
        lambda: build_files("sequence"), mutate_layers, use_build_and_driver, ALL
    ),
    "driver": Target(
        lambda: build_files("outputs"), mutate_driver, use_driver, (driver.DriverError,)
    ),
    "page": Target(simulated, mutate_page, use_page, ERRORS),
    "choices": Target(chosen, mutate_document("build/choices.json"), use_choices, ERRORS),
}
