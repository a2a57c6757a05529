# SPDX-License-Identifier: Apache-2.0
"""An accelerator with a network loaded: the same code on a board and in simulation."""

from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np

from .errors import RunFailed, RunTimeout, WrongPackage
from .hardware import Buffer, Hardware
from .package import OUTPUT, Package
from .registers import MAJOR, Registers
from .tail import apply
from .tensors import gather, input_codes, pack, unpack

TIMEOUT = 1.0  #: seconds that a run may take, unless told otherwise
ABORT_SECONDS = 0.01  #: what ends a run takes far less, unless the memory does not answer
WORD_BYTES = 8  #: of the widest bus
WATCHDOG_MAX = 0xFFFF_FFFF

CAUSES = {
    "BAD_DESCRIPTOR": "the program is damaged",
    "READ_ERROR": "the memory refused a read",
    "WRITE_ERROR": "the memory refused a write",
    "WATCHDOG": "it took longer than allowed",
    "ABORTED": "it was aborted",
    "OUT_OF_BOUNDS": "the program reaches beyond its buffers, it is damaged or of another network",
    "DEADLOCK": "nothing moved any more, the program is damaged",
}


class RunResult:
    """Outputs of an image, and the counters of its run.

    logits : np.ndarray
        Int64 (classes,), the first output; of a classifier the largest is the answer.
    counters : dict of str to int
        The accelerator's counters by register name; ``CYCLES`` is the run's length in clock
        cycles, and a run may have several images.
    tensors : dict of str to np.ndarray
        All outputs, int64 (C, H, W), by the name of the tensor.
    """

    def __init__(
        self,
        logits: np.ndarray,
        counters: Dict[str, int],
        tensors: Optional[Dict[str, np.ndarray]] = None,
        package: Optional[Package] = None,
    ) -> None:
        self.logits = logits
        self.counters = counters
        self.tensors = tensors or {}
        self._package = package

    @property
    def results(self) -> List[np.ndarray]:
        """Results that the network returns: real values, float32 (or int64 of an argmax).

        Functions at its end, such as a softmax, are computed here.
        """
        package, found = self._package, []
        if package is None:
            return found
        for result in package.results:
            output, steps = package.outputs[result["tensor"]], self.tensors[result["tensor"]]
            steps = steps - output["place"]["zero_point"]
            real = (steps * np.float64(output["scale"])).astype(np.float32)
            shape = result["shape"] or steps.shape
            found.append(apply(result["tail"], real.reshape(1, *shape))[0])
        return found


class Answer:
    """Classified image: class ``index``, its ``name``, and the ``result`` behind it."""

    def __init__(self, index: int, name: str, result: RunResult) -> None:
        self.index = index
        self.name = name
        self.result = result


class SelfTest:
    """Outcome of golden images on the accelerator.

    images : int
        Images that were run.
    wrong : list of int
        Numbers of the images with other outputs than the golden ones.
    cycles : list of int
        Clock cycles of each run, which has as many images as the program is for.
    """

    def __init__(self, images: int, wrong: List[int], cycles: List[int]) -> None:
        self.images = images
        self.wrong = wrong
        self.cycles = cycles


class Throughput:
    """Speed of ``images`` images.

    ``seconds`` include packing of the images, the clock ``cycles`` of all runs do not.
    """

    def __init__(self, images: int, seconds: float, cycles: int) -> None:
        self.images = images
        self.seconds = seconds
        self.cycles = cycles


class Accelerator:
    """Accelerator with a network loaded, ready to run.

    Parameters
    ----------
    hardware : Hardware
        How it is reached; :meth:`close` closes it.
    package : Package
        Build folder with the network's program.
    timeout : float
        Seconds that a run may take. The accelerator's watchdog counts them, so that a run ends even
        when this program does not; where the accelerator itself stays silent, the run is aborted a
        quarter later, and reset if that does not help.

    Raises WrongPackage when another accelerator is in the FPGA, NoHardware for too little memory.
    """

    def __init__(self, hardware: Hardware, package: Package, timeout: float = TIMEOUT) -> None:
        if timeout <= 0:
            raise ValueError(f"timeout must be positive, not {timeout}")
        self.hardware = hardware
        self.package = package
        self.timeout = timeout
        self.registers = Registers(hardware, package.accelerator["registers"])
        self._check()
        place = package.input["place"]
        empty = np.zeros([place[n] for n in ("channels", "height", "width")], np.int64)
        sizes = {
            "program": len(package.image),
            "input": package.batch * pack(empty, place).size,
            "output": package.output_bytes,
        }
        #: Memory of the program, the input tensor and the outputs.
        self.buffers: Dict[str, Buffer] = {
            use: hardware.allocate(size) for use, size in sizes.items()
        }
        self.load_program(package.image)
        self._prepare()

    def load_program(self, image: bytes) -> None:
        """Update of the program in the accelerator's memory to ``image``, of the same size."""
        self.buffers["program"].array[:] = np.frombuffer(image, np.uint8)
        self.buffers["program"].to_device()

    def close(self) -> None:
        """End of use: abort of what is running, release of the hardware."""
        self.abort()
        self.hardware.close()

    def __enter__(self) -> "Accelerator":
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    # Runs.

    def classify(self, image: np.ndarray) -> Answer:
        """Class of one image (C, H, W), integer codes or float pixels; raises as :meth:`run`."""
        result = self.run(image)
        index = int(result.logits.argmax())
        names = self.package.class_names
        return Answer(index, names[index] if index < len(names) else str(index), result)

    def run(self, image: np.ndarray) -> RunResult:
        """Logits and counters of one image (C, H, W); see :meth:`run_batch`."""
        return self.run_batch([image])[0]

    def run_batch(self, images: Sequence[np.ndarray]) -> List[RunResult]:
        """Results of images (C, H, W) that run together: as many as the program is for, or fewer.

        Integers are codes, floats the values that training saw.

        Raises ValueError for an image of the wrong shape or range and for too many of them,
        RunFailed when the accelerator reports an error, RunTimeout when it reports nothing. The
        next run is not affected.
        """
        package, tensor = self.package, self.package.input
        if not 1 <= len(images) <= package.batch:
            raise ValueError(
                f"the program runs 1 to {package.batch} images together, not {len(images)}"
            )
        packed = [
            pack(gather(input_codes(image, tensor), tensor["space_to_depth"]), tensor["place"])
            for image in images
        ]
        stored, counters = self._run(np.concatenate(packed))
        return [
            self._result(stored[index * package.output_stride :], counters)
            for index in range(len(images))
        ]

    def _result(self, stored: np.ndarray, counters: Dict[str, int]) -> RunResult:
        """Outputs in the ``stored`` bytes of an image."""
        tensors = {}
        for name, output in self.package.outputs.items():
            place = output["place"]
            values = unpack(stored[output["offset"] :], output)
            tensors[name] = values.reshape(place["channels"], place["height"], place["width"])
        logits = next(iter(tensors.values())).reshape(-1)
        return RunResult(logits, counters, tensors, self.package)

    def _run(self, packed: np.ndarray) -> Tuple[np.ndarray, Dict[str, int]]:
        """The output buffer and the counters of a run on the bytes of some images."""
        registers = self.registers
        for use, buffer in self.buffers.items():
            registers.write(use.upper() + "_BASE", buffer.address)
            # Whole words; what was allocated is whole pages.
            registers.write(use.upper() + "_SIZE", -(-buffer.array.size // WORD_BYTES) * WORD_BYTES)
        self.buffers["input"].array[: packed.size] = packed
        self.buffers["input"].to_device()
        # Or a line of the cache that is written back later would cover the results.
        self.buffers["output"].to_device()
        # A run that another program left behind, or the interrupt of the last one.
        self._stop()
        registers.set("IRQ_STATUS", finished=1)
        registers.set("CONTROL", start=1)
        try:
            status = self._finish()
        except BaseException:
            # Ctrl-C included: never leave a run behind that writes to memory.
            self._stop()
            raise
        if status["error"]:
            raise self._failure(status["error_code"])
        counters = {name: registers.read(name) for name in registers.counters}
        self.buffers["output"].from_device()
        return self.buffers["output"].array, counters

    def _finish(self) -> Dict[str, int]:
        """STATUS when the run is over. Raises RunTimeout after aborting it."""
        hardware, registers = self.hardware, self.registers
        deadline = hardware.now() + 1.25 * self.timeout
        while True:
            status = registers.fields("STATUS")
            if not status["busy"]:
                registers.set("IRQ_STATUS", finished=1)
                return status
            if status["error"]:  # its watchdog has given up on the memory
                break
            left = deadline - hardware.now()
            if left <= 0:
                break
            hardware.wait(left)
        where = self._where()
        was_reset = self._stop()
        raise RunTimeout(
            "the run did not end within {:g} s, it was {}; {} {}".format(
                self.timeout if status["error"] else 1.25 * self.timeout,
                where,
                "the memory does not answer, the logic was" if was_reset else "it was",
                "reset" if was_reset else "aborted",
            ),
            was_reset,
        )

    def abort(self) -> bool:
        """Abort of the run, if there is one; False where the accelerator is busy after that."""
        hardware, registers = self.hardware, self.registers
        if not registers.fields("STATUS")["busy"]:
            return True
        registers.set("CONTROL", abort=1)
        deadline = hardware.now() + ABORT_SECONDS
        while registers.fields("STATUS")["busy"]:
            left = deadline - hardware.now()
            if left <= 0:
                return False
            hardware.wait(left)
        registers.set("IRQ_STATUS", finished=1)
        return True

    # Tests.

    def selftest(self, images: Optional[int] = None) -> SelfTest:
        """Comparison of all outputs of the golden images, or of the first ``images``.

        Equality, because the accelerator computes integers. Raises as :meth:`run_batch`, and
        WrongPackage without golden images.
        """
        golden = self.package.golden()
        wrong, cycles = [], []
        tensors, batch = golden["images"][:images], self.package.batch
        for first in range(0, len(tensors), batch):
            results = self.run_batch(list(tensors[first : first + batch]))
            cycles.append(results[0].counters["CYCLES"])
            for index, result in enumerate(results, first):
                expected = [golden["logits"][index]]
                expected += [golden[OUTPUT + name][index] for name in self._others()]
                found = [result.logits, *(result.tensors[name] for name in self._others())]
                if not all(map(np.array_equal, found, expected)):
                    wrong.append(index)
        return SelfTest(len(tensors), wrong, cycles)

    def throughput(self, images: int) -> Throughput:
        """Speed of ``images`` images, the golden ones in turn; raises as :meth:`selftest`."""
        golden = self.package.golden()["images"]
        start, cycles, batch = self.hardware.now(), 0, self.package.batch
        for first in range(0, images, batch):
            indices = range(first, min(first + batch, images))
            results = self.run_batch([golden[index % len(golden)] for index in indices])
            cycles += results[0].counters["CYCLES"]
        return Throughput(images, self.hardware.now() - start, cycles)

    # Parts.

    def _others(self) -> List[str]:
        """Tensors that the network returns, but for the logits."""
        names = dict.fromkeys(result["tensor"] for result in self.package.results)
        return list(names)[1:]

    def _check(self) -> None:
        """Is this the accelerator that the package was built for?"""
        registers, expected = self.registers, self.package.accelerator["config_digest"]
        found = registers.read("ID")
        if found != registers.identification:
            raise WrongPackage(
                f"no accelerator answers (ID reads {found:#010x} instead of "
                f"{registers.identification:#010x}); load its "
                "bitstream first"
            )
        digest = registers.read("CONFIG_DIGEST")
        version = registers.fields("VERSION")
        if version["major"] != MAJOR:
            raise WrongPackage(
                f"the FPGA holds an accelerator with register map {version['major']}, the package "
                f"is of {MAJOR}; load the package's bitstream"
            )
        if digest != expected:
            raise WrongPackage(
                f"the FPGA holds accelerator {digest:08x}, the package is of {expected:08x}; "
                "load the package's "
                "bitstream"
            )
        if not self.abort():
            self.hardware.reset()

    def _prepare(self) -> None:
        """Registers that stay from run to run."""
        clock = self.package.accelerator["clock_hz"]
        registers = self.registers
        registers.write("WATCHDOG", min(max(1, round(self.timeout * clock)), WATCHDOG_MAX))
        registers.set("IRQ_ENABLE", finished=int(self.hardware.interrupts))

    def _stop(self) -> bool:
        """No run is going on after this; True when that took a reset."""
        stopped = self.abort()
        if not stopped:
            self.hardware.reset()
            self._prepare()
        return not stopped

    def _where(self) -> str:
        index = self.registers.fields("ERROR_DESCRIPTOR")["index"]
        return f"at descriptor {index}, layer {self.package.layer(index)!r}"

    def _failure(self, code: int) -> RunFailed:
        name = self.registers.codes.get(code, f"error {code}")
        index = self.registers.fields("ERROR_DESCRIPTOR")["index"]
        return RunFailed(
            "the run failed with {} {}: {}".format(
                name, self._where(), CAUSES.get(name, "unknown to this driver")
            ),
            name,
            index,
        )
