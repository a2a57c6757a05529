# SPDX-License-Identifier: Apache-2.0
"""Errors of the driver; every message is one line that says what to do."""


class DriverError(Exception):
    """Base of all errors of the driver."""


class NoHardware(DriverError):
    """Error where the board, or a part of its system that the driver needs, is not there."""


class WrongPackage(DriverError):
    """Error of files that are damaged, or do not belong to the accelerator in the FPGA."""


class RunFailed(DriverError):
    """Error that the accelerator ended a run with. It can run again at once.

    code : str
        Name of the error code, such as ``READ_ERROR``.
    descriptor : int
        Number of the descriptor in execution.
    """

    def __init__(self, message: str, code: str, descriptor: int) -> None:
        super().__init__(message)
        self.code = code
        self.descriptor = descriptor


class RunTimeout(DriverError):
    """Error of a run that did not end in time and was aborted. Another can begin at once.

    was_reset : bool
        Aborting was not enough (the memory did not answer), so the logic was reset.
    """

    def __init__(self, message: str, was_reset: bool) -> None:
        super().__init__(message)
        self.was_reset = was_reset
