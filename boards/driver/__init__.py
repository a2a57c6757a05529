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
from .accelerator import TIMEOUT, Accelerator, Answer, RunResult, SelfTest, Throughput
from .errors import DriverError, NoHardware, RunFailed, RunTimeout, WrongPackage
from .hardware import Buffer, Hardware
from .layers import Layers
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
    "Layers",
    "NoHardware",
    "Package",
    "RunFailed",
    "RunResult",
    "RunTimeout",
    "SelfTest",
    "SerialHardware",
    "Throughput",
    "WrongPackage",
    "ZynqHardware",
    "connect",
    "connect_layers",
]


def connect(
    folder: Union[str, Path],
    timeout: float = TIMEOUT,
    load: bool = True,
    port: Optional[str] = None,
) -> Accelerator:
    """Accelerator ready to run the network of the build folder ``folder``.

    Parameters
    ----------
    timeout : float
        Seconds that a run may take.
    load : bool
        True to load the bitstream first, where that is done by the board itself.
    port : str, optional
        Serial device of a board that has no processor, such as ``/dev/ttyUSB0``.

    Raises DriverError with one line that says what to do.
    """
    layers = Package.layers(Path(folder))
    if layers:
        raise WrongPackage(
            f"the network of {folder} needs a host between its {len(layers)} layers: use "
            "connect_layers"
        )
    package = Package(Path(folder))
    hardware = _reach(package, load, port)
    try:
        return Accelerator(hardware, package, timeout)
    except BaseException:
        hardware.close()
        raise


def connect_layers(
    folder: Union[str, Path],
    timeout: float = TIMEOUT,
    load: bool = True,
    port: Optional[str] = None,
) -> Layers:
    """Layers of the hybrid network in the build folder ``folder``.

    Parameters and errors are those of :func:`connect`; WrongPackage for a network without a host.
    """
    packages = {name: Package(Path(folder), name) for name in Package.layers(Path(folder))}
    if not packages:
        raise WrongPackage(f"no layers in {folder}: its network is run by connect")
    hardware = _reach(next(iter(packages.values())), load, port)
    try:
        return Layers(hardware, packages, timeout)
    except BaseException:
        hardware.close()
        raise


def _reach(package: Package, load: bool, port: Optional[str]) -> Hardware:
    """The hardware of a package, with the bitstream loaded."""
    connection = package.accelerator["connection"]
    if connection["kind"] == "serial":
        if port is None:
            raise NoHardware(
                "{} is reached over a serial line: say which, as --port /dev/ttyUSB0".format(
                    package.accelerator["title"]
                )
            )
        return SerialHardware(connection, TerminalLine(port, connection["baud"]))
    if load:
        bitstream.load(package.bitstream())
    return ZynqHardware(
        connection=connection,
        clock_hz=package.accelerator["clock_hz"],
        window_bytes=package.accelerator["registers"]["window_bytes"],
    )
