# SPDX-License-Identifier: Apache-2.0
"""Driver of an accelerator, for the board itself: numpy and Python 3.8, nothing else.

Copy this folder to the board as ``driver``, and a build folder beside it::

    import driver
    with driver.connect("pynq_z2") as accelerator:
        print(accelerator.classify(image).name)

It knows nothing of the project around it: what it needs to know of the accelerator and of the
network is in the files of the build folder.
"""

from pathlib import Path
from typing import Optional, Union

from . import bitstream
from .accelerator import TIMEOUT, Accelerator, Answer, Result, SelfTest, Throughput
from .errors import DriverError, NoHardware, RunFailed, RunTimeout, WrongPackage
from .hardware import Buffer, Hardware
from .package import Package
from .serial import SerialHardware, TerminalLine
from .zynq import ZynqHardware

__all__ = [
    "TIMEOUT",
    "Accelerator",
    "Answer",
    "Buffer",
    "DriverError",
    "Hardware",
    "NoHardware",
    "Package",
    "Result",
    "RunFailed",
    "RunTimeout",
    "SelfTest",
    "SerialHardware",
    "Throughput",
    "WrongPackage",
    "ZynqHardware",
    "connect",
]


def connect(
    folder: Union[str, Path],
    timeout: float = TIMEOUT,
    load: bool = True,
    port: Optional[str] = None,
) -> Accelerator:
    """An accelerator ready to run the network of the build folder ``folder``.

    Parameters
    ----------
    timeout : float
        Seconds that a run may take.
    load : bool
        Load the bitstream first, where that is done by the board itself.
    port : str, optional
        Serial device of a board that has no processor, such as ``/dev/ttyUSB0``.

    Raises DriverError with one line that says what to do.
    """
    package = Package(Path(folder))
    connection = package.accelerator["connection"]
    if connection["kind"] == "serial":
        if port is None:
            raise NoHardware(
                "{} is reached over a serial line: say which, as --port /dev/ttyUSB0".format(
                    package.accelerator["title"]
                )
            )
        hardware = SerialHardware(
            connection, TerminalLine(port, connection["baud"])
        )  # type: Hardware
    else:
        if load:
            bitstream.load(package.bitstream())
        registers = package.accelerator["registers"]
        hardware = ZynqHardware(
            connection, package.accelerator["clock_hz"], registers["window_bytes"]
        )
    try:
        return Accelerator(hardware, package, timeout)
    except BaseException:
        hardware.close()
        raise
