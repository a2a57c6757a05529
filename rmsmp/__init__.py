# SPDX-License-Identifier: Apache-2.0
"""Door of the project: a PyTorch model to a proven accelerator in a dozen lines.

    import rmsmp

    net = rmsmp.from_onnx("net.onnx")                   # or any PyTorch module
    model = rmsmp.quantise(net, images, board="zedboard")
    rmsmp.train(model, images, labels, epochs=2)        # or any loop of yours
    rmsmp.evaluate(model, test_images, test_labels)
    rmsmp.export(model, "own.safetensors", images=test_images)
    build = rmsmp.build("own.safetensors", board="zedboard")
    result = rmsmp.simulate(build, images=10)

Nothing heavy is imported before it is used: ``import rmsmp`` takes milliseconds.
"""

import importlib
from typing import TYPE_CHECKING

from rmsmp.version import __version__

if TYPE_CHECKING:
    from rmsmp.hardware import Build, build, simulate
    from rmsmp.network import evaluate, export, from_onnx, from_qonnx, quantise, train

__all__ = [
    "Build",
    "__version__",
    "build",
    "evaluate",
    "export",
    "from_onnx",
    "from_qonnx",
    "quantise",
    "simulate",
    "train",
]

#: Module of each public name.
_HOMES = {
    **dict.fromkeys(
        ("evaluate", "export", "from_onnx", "from_qonnx", "quantise", "train"), "rmsmp.network"
    ),
    **dict.fromkeys(("Build", "build", "simulate"), "rmsmp.hardware"),
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'rmsmp' has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        from ir.cli import explained

        raise explained(error) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
