# SPDX-License-Identifier: Apache-2.0
"""Bench of ``sim/test_driver.py``: the driver of the boards, unchanged, on generated Verilog."""

import os
from collections.abc import Callable
from pathlib import Path

import cocotb
from cocotb.task import bridge

from boards.driver import Accelerator, Layers, Package, RunFailed, RunTimeout, WrongPackage
from sim.benches.accelerator_bench import check_bus
from sim.world.simulated_board import SimulatedBoard

SEED = int(os.environ["SEED"])


def package() -> Package:
    """Package of the driver that the environment names."""
    return Package(Path(os.environ["DRIVER_PACKAGE"]))


async def with_driver(
    dut,
    use: Callable[[Accelerator], None],
    *,
    interrupts: bool = True,
    pauses: str = "none",
    timeout: float = 0.01,
) -> None:
    """Call of ``use(accelerator)``, as a program on the board makes it."""
    files = package()
    board = SimulatedBoard(
        dut, files.accelerator["connection"]["register_base"], interrupts=interrupts
    )
    await board.start(pauses, SEED)

    def program() -> None:
        with Accelerator(board, files, timeout) as accelerator:
            use(accelerator)

    await bridge(program)()
    check_bus(dut)


def right(accelerator: Accelerator, images: int = 1) -> None:
    """Golden images give golden logits."""
    result = accelerator.selftest(images)
    assert (result.images, result.wrong) == (images, [])


@cocotb.test()
@cocotb.parametrize(interrupts=[True, False])
async def runs(dut, interrupts: bool) -> None:
    """Self-test, classes, counters, throughput; by interrupt and by polling."""

    def use(accelerator: Accelerator) -> None:
        golden = accelerator.package.golden()
        right(accelerator, 3)  # the program is for two at a time
        answer = accelerator.classify(golden["images"][0])
        assert answer.index == golden["logits"][0].argmax()
        assert answer.name == accelerator.package.class_names[answer.index]
        floats = golden["images"][0] * accelerator.package.input["scale"]
        assert (accelerator.run(floats).logits == golden["logits"][0]).all()
        counters = answer.result.counters
        last = accelerator.package.program["segments"][-1]["last"]
        assert counters["DESCRIPTORS"] == last + 1
        assert counters["CYCLES"] > counters["ARRAY_CYCLES"] > 0
        pair = accelerator.run_batch(golden["images"][:2])
        assert [result.logits.tolist() for result in pair] == golden["logits"][:2].tolist()
        speed = accelerator.throughput(4)
        assert abs(speed.cycles - 2 * counters["CYCLES"]) <= 0.02 * speed.cycles
        assert speed.seconds > speed.cycles / accelerator.package.accelerator["clock_hz"]

    await with_driver(dut, use, interrupts=interrupts)


@cocotb.test()
async def layers(dut) -> None:
    """A hybrid network: every layer has its program, on one accelerator."""
    folder = Path(os.environ["DRIVER_LAYERS"])
    packages = {name: Package(folder, name) for name in Package.layers(folder)}
    files = package()
    board = SimulatedBoard(dut, files.accelerator["connection"]["register_base"], interrupts=True)
    await board.start("none", SEED)

    def program() -> None:
        with Layers(board, packages, 0.01) as network:
            assert {name: result.wrong for name, result in network.selftest(2).items()} == {
                name: [] for name in packages
            }
            assert len(packages) == 4
            for name, accelerator in network.items():
                golden = accelerator.package.golden()
                codes = golden["images"][1].reshape(len(golden["images"][1]), -1)
                sums = network.run(name, codes)
                assert sums.shape[1] == codes.shape[1]
                assert (sums.reshape(-1) == golden["logits"][1]).all()

    await bridge(program)()
    check_bus(dut)


@cocotb.test()
async def pauses(dut) -> None:
    """A memory that pauses at random changes nothing but the time."""
    await with_driver(dut, lambda accelerator: right(accelerator, 2), pauses="random")


@cocotb.test()
async def errors(dut) -> None:
    """Errors that the accelerator reports: one line that names the layer; then runs are right."""

    def use(accelerator: Accelerator) -> None:
        image = accelerator.package.golden()["images"][0]
        memory = accelerator.hardware.memory

        def fails(code: str, *words: str) -> None:
            try:
                accelerator.run(image)
            except RunFailed as error:
                assert error.code == code, error
                assert accelerator.package.layer(error.descriptor) in str(error)
                for word in (code, *words):
                    assert word in str(error), error
            else:
                raise AssertionError(f"no {code}")

        start = accelerator.buffers["program"].address
        memory.refuse = range(start, start + 64)
        fails("READ_ERROR", "descriptor 0", "'input'", "the memory refused a read")
        memory.refuse = range(0)
        right(accelerator)

        end = start + len(accelerator.package.image)
        memory.refuse = range(end - 64, end)
        fails("READ_ERROR", "'fc'")
        memory.refuse = range(0)
        right(accelerator)

        output = accelerator.buffers["output"]
        memory.refuse = range(output.address, output.address + 8)
        fails("WRITE_ERROR", "the memory refused a write")
        memory.refuse = range(0)
        right(accelerator)

        damaged = bytearray(accelerator.package.image)
        damaged[3 * 64] = 0xEE
        accelerator.load_program(bytes(damaged))
        fails("BAD_DESCRIPTOR", "descriptor 3", "the program is damaged")
        accelerator.load_program(accelerator.package.image)
        right(accelerator)

    await with_driver(dut, use)


@cocotb.test()
@cocotb.parametrize(interrupts=[True, False])
async def timeouts(dut, interrupts: bool) -> None:
    """The watchdog; a run aborted by the driver; a memory that is silent; Ctrl-C."""

    def use(accelerator: Accelerator) -> None:
        image = accelerator.package.golden()["images"][0]
        registers, board = accelerator.registers, accelerator.hardware
        try:
            accelerator.run(image)
            raise AssertionError("no watchdog")
        except RunFailed as error:
            assert error.code == "WATCHDOG", error

        registers.write("WATCHDOG", 0)
        try:
            accelerator.run(image)
            raise AssertionError("no time-out")
        except RunTimeout as error:
            assert not error.was_reset
            assert "within 2.5e-05 s, it was at descriptor" in str(error), error
        assert not registers.fields("STATUS")["busy"]

        board.memory.silent = True
        try:
            accelerator.run(image)
            raise AssertionError("no time-out")
        except RunTimeout as error:
            assert error.was_reset
            assert "the memory does not answer" in str(error), error
        assert registers.read("WATCHDOG") == 2000  # set again after the reset
        registers.write("WATCHDOG", 0)

        accelerator.timeout = 0.01
        right(accelerator)

        def interrupt() -> None:
            board.meanwhile = lambda: None
            raise KeyboardInterrupt

        board.meanwhile = interrupt
        try:
            accelerator.run(image)
            raise AssertionError("not interrupted")
        except KeyboardInterrupt:
            pass
        assert not registers.fields("STATUS")["busy"]
        assert registers.fields("STATUS")["error_code"] == 5
        right(accelerator)

    await with_driver(dut, use, interrupts=interrupts, timeout=20e-6)


@cocotb.test()
async def differences(dut) -> None:
    """Wrong weights fail the self-test; a package of another accelerator is refused."""

    def use(accelerator: Accelerator) -> None:
        damaged = bytearray(accelerator.package.image)
        for index in range(len(damaged) // 2, len(damaged) // 2 + 400):
            damaged[index] ^= 0x11
        accelerator.load_program(bytes(damaged))
        assert accelerator.selftest(1).wrong == [0]
        other = package()
        other.accelerator["config_digest"] ^= 1
        try:
            Accelerator(accelerator.hardware, other)
            raise AssertionError("not refused")
        except WrongPackage as error:
            assert "the FPGA holds accelerator" in str(error)
        other.accelerator["registers"]["id"] += 1
        try:
            Accelerator(accelerator.hardware, other)
            raise AssertionError("not refused")
        except WrongPackage as error:
            assert "no accelerator answers" in str(error)

    await with_driver(dut, use)
