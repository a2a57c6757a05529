# SPDX-License-Identifier: Apache-2.0
"""The driver's parts that need no accelerator; runs of it are in ``sim/test_driver.py``."""

import ast
import json
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import boards
from boards import driver
from boards.driver import __main__ as command
from boards.driver.hardware import Arena
from boards.driver.package import Package
from boards.driver.registers import Registers
from gateware.arch.config import AccelConfig
from gateware.arch.registers import REGISTERS, VERSION_MAJOR, register_manifest
from gateware.compiler.layout import TensorLayout
from gateware.compiler.program import Output, Program, compile_graph
from gateware.compiler.space_to_depth import identity
from gateware.flow import manifest
from gateware.model.emulator import Emulator
from gateware.soc import zynq7
from ir import golden as golden_model
from ir import nodes
from ir.graph import HostFunction, IntGraph
from ir.ratio import Ratio
from tests.helpers.graphs import random_images, several_outputs

FOLDER = Path(driver.__file__).parent
CONFIG = AccelConfig.from_ratio(Ratio(60, 35, 5), 16)
PLACE = TensorLayout(channels=1, height=4, width=4, bits=8, zero_point=0, k=16, banks=4)


# The board's Python.


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.py")), ids=lambda file: file.name)
def test_syntax_is_that_of_python_3_8(file: Path) -> None:
    ast.parse(file.read_text(), feature_version=(3, 8))


def test_library_calls_are_those_of_python_3_8() -> None:
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            "import vermin; vermin.main()",
            "--no-tips",
            "--eval-annotations",
            "-t=3.8-",
            "--violations",
            str(FOLDER),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout


def test_imports_alone_under_the_name_it_has_on_a_board(tmp_path: Path) -> None:
    """A copy of the folder, without the project around it."""
    (tmp_path / "driver").symlink_to(FOLDER)
    result = subprocess.run(
        [sys.executable, "-m", "driver", "selftest", "nowhere"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={},
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "error: cannot read nowhere/accelerator.json: No such file or directory; "
        "python -m gateware.build writes it\n"
    )


# Tensors.


# Registers.


class FakeHardware(driver.Hardware):
    """Registers that remember."""

    def __init__(self) -> None:
        self.words: dict[int, int] = {}

    def read(self, offset: int) -> int:
        return self.words.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        self.words[offset] = value

    allocate = wait = now = reset = close = None


def test_registers_are_those_of_the_accelerator() -> None:
    """By name and field, at the offsets of gateware.arch.registers; counters from CYCLES on."""
    hardware = FakeHardware()
    registers = Registers(hardware, json.loads(json.dumps(register_manifest())))
    offsets = {register.name: register.offset for register in REGISTERS}
    registers.write("INPUT_BASE", 0x1234)
    registers.set("CONTROL", abort=1)
    assert hardware.words == {offsets["INPUT_BASE"]: 0x1234, offsets["CONTROL"]: 2}
    hardware.words[offsets["STATUS"]] = 4 | 3 << 8
    assert registers.fields("STATUS") == {"busy": 0, "done": 0, "error": 1, "error_code": 3}
    assert registers.codes[3] == "WRITE_ERROR"
    assert registers.counters == [r.name for r in REGISTERS if r.offset >= offsets["CYCLES"]]


def test_another_register_map_is_refused() -> None:
    described = register_manifest()
    described["version"] = [VERSION_MAJOR + 1, 0]
    with pytest.raises(driver.WrongPackage, match="take the driver of the same release"):
        Registers(FakeHardware(), described)


# Packages.


def golden(folder: Path, graph_digest: str) -> None:
    np.savez(
        folder / "golden.npz",
        images=np.zeros((2, 1, 4, 4), int),
        logits=np.zeros((2, 10), int),
        graph_digest=np.array(graph_digest),
    )


def test_results_are_those_of_the_golden_model(tmp_path: Path, seed: int) -> None:
    """Several tensors, raw ones and codes, in parts, with functions that the host computes."""
    rng = np.random.default_rng(seed)
    graph = several_outputs(rng, "60:35:5")
    softmax = (HostFunction(name="softmax", arguments=(-1,)),)
    boxes = (HostFunction(name="reshape", arguments=(-1, 7)), HostFunction(name="sigmoid"))
    first, body, other, head, pooled = graph.header.outputs
    outputs = (
        first.model_copy(update={"shape": (9,), "tail": softmax}),
        first,
        body,
        other,
        head.model_copy(update={"tail": boxes}),
        pooled,
    )
    graph = IntGraph(graph.header.model_copy(update={"outputs": outputs}), graph.layers)
    program = compile_graph(graph, CONFIG)
    program.save(tmp_path)
    board = boards.get("pynq_z2")
    connection = zynq7.connection(board, 2)
    manifest.write_accelerator(tmp_path, board, CONFIG, connection=connection, bitstream="x")
    images = random_images(graph, rng, 3)
    manifest.write_golden(tmp_path, graph, images)
    package = Package(tmp_path)
    expected = golden_model.run(graph, images)
    returned = golden_model.results(graph, expected)
    stored = package.golden()
    assert np.array_equal(stored["logits"], expected[first.tensor].reshape(3, -1))
    for number, image in enumerate(images):
        memory = Emulator(CONFIG).run(program.image, program.pack(image), program.output_size)
        result = driver.Accelerator._result(
            types.SimpleNamespace(package=package), np.frombuffer(memory, np.uint8), {}
        )
        assert result.logits.tolist() == stored["logits"][number].tolist()
        for output in (body, other, head, pooled):
            found = result.tensors[output.tensor]
            np.testing.assert_array_equal(found, stored[f"output.{output.tensor}"][number])
        for found, right in zip(result.results, returned, strict=True):
            np.testing.assert_array_equal(found, right[number])


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package of a program that does nothing."""
    place = TensorLayout(channels=10, height=1, width=1, bits=8, zero_point=0, k=16, banks=4)
    patches = identity((PLACE.channels, PLACE.height, PLACE.width), 0)
    Program(
        name="nothing",
        image=bytes(64),
        input=PLACE,
        space_to_depth=patches,
        outputs=(
            Output(name="logits", offset=0, wide_rows=1, place=place, tiles=(tuple(range(10)),)),
        ),
        results=(nodes.Output(tensor="logits"),),
        segments=(),
        graph_digest="0" * 64,
        config=CONFIG,
        class_names=("a", "b"),
        input_scale=0.25,
        output_size=80,
        output_stride=80,
    ).save(tmp_path)
    manifest.write_accelerator(
        tmp_path,
        boards.get("pynq_z2"),
        CONFIG,
        connection=zynq7.connection(boards.get("pynq_z2"), 2),
        bitstream="vivado/top.bit",
    )
    golden(tmp_path, "0" * 64)
    return tmp_path


def test_package(package: Path) -> None:
    files = Package(package)
    assert files.accelerator["connection"] == {
        "kind": "zynq7",
        "register_base": 0x4000_0000,
        "interrupt": 61,
        "hp_ports": 2,
        "ps_clock_hz": 50_000_000,
    }
    assert files.accelerator["registers"] == json.loads(json.dumps(register_manifest()))
    assert (files.output_bytes, files.input["scale"], files.class_names) == (80, 0.25, ["a", "b"])
    assert files.golden()["images"].shape == (2, 1, 4, 4)
    with pytest.raises(driver.WrongPackage, match=r"no bitstream top.bit in .*; make it"):
        files.bitstream()
    (package / "top.bit").touch()
    assert files.bitstream() == package / "top.bit"
    (package / "vivado").mkdir()
    (package / "vivado/top.bit").touch()
    assert files.bitstream() == package / "vivado/top.bit"


def test_damaged_packages_give_one_line(package: Path) -> None:
    def refused(message: str) -> None:
        with pytest.raises(driver.WrongPackage, match=message) as error:
            Package(package).golden()
        assert "\n" not in str(error.value)

    def change(name: str, content: bytes) -> bytes:
        before = (package / name).read_bytes()
        (package / name).write_bytes(content)
        return before

    before = change("program.bin", bytes(60))
    refused("program.bin has 60 bytes instead of 64; copy it again")
    change("program.bin", bytes(63) + b"1")
    refused("program.bin is not the program of program.json: .* copy the whole build folder")
    change("program.bin", before)
    golden(package, "1" * 64)
    refused(rf"golden.npz belongs to another network \({'1' * 16}\) than program.json \({'0' * 16}")
    golden(package, "0" * 64)
    before = change("program.json", b"{")
    refused("program.json is damaged")
    change("program.json", b"{}")
    refused("is not of this release")
    change("program.json", b"[]")
    refused("program.json is damaged")
    other = json.loads(before) | {"config_digest": 1}
    change("program.json", json.dumps(other).encode())
    refused("of different builds; copy the whole build folder")
    change("program.json", before)
    change("golden.npz", b"PK")
    refused("golden.npz")
    np.savez(package / "golden.npz", images=np.zeros((2, 1, 4, 4)), logits=np.zeros((2, 10)))
    refused("golden.npz .*graph_digest.*; build it again")
    (package / "accelerator.json").unlink()
    refused("accelerator.json: No such file")


@pytest.mark.parametrize(
    ("file", "path", "value"),
    [
        ("accelerator.json", ("bitstream",), "../../outside.bit"),
        ("accelerator.json", ("bitstream",), "/outside.bit"),
        ("accelerator.json", ("registers", "registers", 3, "fields", 0, "name"), "x"),
        ("accelerator.json", ("connection", "kind"), "x"),
        ("program.json", ("batch",), 1 << 40),
        ("program.json", ("input", "height"), 1.0),
        ("program.json", ("input", "width"), 5),
        ("program.json", ("outputs", 0, "offset"), 8),
        ("program.json", ("outputs", 0, "tiles", 0, 3), 10),
        ("program.json", ("outputs", 0, "columns"), [0, 2]),
        ("program.json", ("output_bytes",), 79),
        ("program.json", ("results", 0, "tensor"), "x"),
        ("program.json", ("results", 0, "tail"), [{"name": "argmax", "arguments": [7]}]),
    ],
)
def test_manifests_that_are_not_whole(
    package: Path, file: str, path: tuple[str | int, ...], value: object
) -> None:
    """Whatever is edited is told before anything is computed from it."""
    content = json.loads((package / file).read_text())
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    (package / file).write_text(json.dumps(content))
    with pytest.raises(
        driver.WrongPackage, match=r"is damaged or is not of this release \(.*\)"
    ) as no:
        Package(package)
    assert "\n" not in str(no.value)


def test_arena() -> None:
    arena = Arena(16384)
    assert [arena.take(1), arena.take(4096), arena.take(4097), arena.take(4096)] == [
        0,
        4096,
        8192,
        None,
    ]


# Command line.


class FakeAccelerator:
    """What the commands ask of an accelerator."""

    def __init__(self, package: Path) -> None:
        self.package = Package(package)
        self.registers = types.SimpleNamespace(
            fields=lambda name: {"rows": 16, "k": 16, "pixels": 2}
        )

    def __enter__(self) -> "FakeAccelerator":
        return self

    def __exit__(self, *details: object) -> None:
        pass

    def selftest(self, images: int | None) -> driver.SelfTest:
        return driver.SelfTest(8, [3] if images == 7 else [], [2000] * 4)

    def throughput(self, images: int) -> driver.Throughput:
        return driver.Throughput(images, 2.0, 1000 * images)

    def classify(self, image: np.ndarray) -> driver.Answer:
        return driver.Answer(1, "b", driver.RunResult(np.array([1, 2]), {}))


def run(
    monkeypatch: pytest.MonkeyPatch, package: Path, capsys: pytest.CaptureFixture, *argv: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(command, "connect", lambda *args: FakeAccelerator(package))
    status = command.main([*argv])
    return status, *capsys.readouterr()


def test_commands(monkeypatch, package: Path, capsys) -> None:
    def said(*argv: str) -> tuple[int, str, str]:
        return run(monkeypatch, package, capsys, *argv)

    folder = str(package)
    assert said("selftest", folder) == (
        0,
        "8 of 8 golden images: all logits equal; 1000 cycles per image\n",
        "",
    )
    assert said("selftest", folder, "--images", "7") == (
        1,
        "7 of 8 golden images: all logits equal; 1000 cycles per image\nwrong: images 3\n",
        "",
    )
    assert said("throughput", folder) == (
        0,
        "100 images in 2.000 s: 50.0 images/s with the host's part; 1000 cycles per image, "
        "0.010 ms at 100 MHz\n",
        "",
    )
    assert said("info", folder)[1].startswith("TUL PYNQ-Z2: 16 rows x 16 channels x 2 pixels, 100")
    np.save(package / "images.npy", np.zeros((3, 1, 4, 4)))
    assert said("classify", folder, str(package / "images.npy")) == (0, "b\nb\nb\n", "")
    status, out, _ = said("classify", folder, str(package / "images.npy"), "--json")
    assert (status, json.loads(out)["classes"]) == (0, ["b", "b", "b"])


def test_a_network_with_a_host_is_called_layer_by_layer(monkeypatch, package: Path, capsys) -> None:
    with pytest.raises(driver.WrongPackage, match=r"^no layers in .*: its network is run by"):
        driver.connect_layers(package)
    assert Package.layers(package) == []
    for name in ("b.query", "a.dense"):
        (package / "layers" / name).mkdir(parents=True)
        for file in ("program.json", "program.bin", "golden.npz"):
            shutil.copy(package / file, package / "layers" / name)
    with pytest.raises(driver.WrongPackage, match="needs a host between its 2 layers: use connect"):
        driver.connect(package)

    class FakeLayers(FakeAccelerator):
        def __init__(self) -> None:
            pass

        def selftest(self, images: int | None) -> dict[str, driver.SelfTest]:
            return {
                name: driver.SelfTest(2, [1] if name in faulty else [], [300, 100])
                for name in Package.layers(package)
            }

    faulty: list[str] = []
    monkeypatch.setattr(command, "connect_layers", lambda *args: FakeLayers())
    text = " of 2 layers: all results of golden inputs equal; 400 cycles for all of them\n"
    for wrong_layers, status, out in (
        ([], 0, f"2{text}"),
        (["b.query"], 1, f"1{text}wrong: layers b.query\n"),
    ):
        faulty[:] = wrong_layers
        assert command.main(["selftest", str(package)]) == status
        assert capsys.readouterr().out == out
    other = package / "layers/b.query/program.json"
    program = json.loads(other.read_text()) | {"network_digest": "1" * 64}
    other.write_text(json.dumps(program))
    packages = {name: Package(package, name) for name in Package.layers(package)}
    with pytest.raises(
        driver.WrongPackage, match=r"b\.query belongs to another network \(1{16}\) than .*a\.dense"
    ):
        driver.Layers(FakeHardware(), packages)
    layer = Package(package, "a.dense")
    assert layer.golden()["images"].shape == (2, 1, 4, 4)
    assert layer.accelerator == Package(package).accelerator


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["classify", "DIR"], "classify needs a file"),
        (["classify", "DIR", "none.npy"], "cannot read none.npy"),
        (["selftest", "DIR", "--images", "0"], "--images must be at least 1, not 0"),
        (["selftest", "DIR", "--timeout", "0"], "--timeout must be positive, not 0"),
    ],
)
def test_command_errors_are_one_line(monkeypatch, package: Path, capsys, argv, message) -> None:
    status, out, err = run(monkeypatch, package, capsys, *argv)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


def test_connect_needs_what_the_board_needs(package: Path, monkeypatch) -> None:
    loaded = []
    monkeypatch.setattr(driver.bitstream, "load", loaded.append)
    monkeypatch.setattr(driver, "ZynqHardware", dict)
    monkeypatch.setattr(driver, "Accelerator", lambda hardware, package, timeout: hardware)
    with pytest.raises(driver.WrongPackage, match=r"no bitstream top\.bit"):
        driver.connect(package)
    (package / "top.bit").touch()
    content = json.loads((package / "accelerator.json").read_text())
    assert driver.connect(package) == {
        "connection": content["connection"],
        "clock_hz": 100_000_000,
        "window_bytes": 4096,
    }
    assert loaded == [package / "top.bit"]
    driver.connect(package, load=False)
    assert len(loaded) == 1
    content["connection"] = {"kind": "serial", "baud": 115200}
    (package / "accelerator.json").write_text(json.dumps(content))
    with pytest.raises(driver.NoHardware, match="say which, as --port /dev/ttyUSB0"):
        driver.connect(package)
