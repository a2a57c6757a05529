# SPDX-License-Identifier: Apache-2.0
"""Ordinary pieces of real networks, each from PyTorch to the program that the accelerator runs.

python -m bench.constructs            every piece: what becomes of it, and the time
python -m bench.constructs pool       those whose name holds a word

Each is prepared, calibrated, assigned, trained for three steps, exported, and verified: torch's
integers are the golden model's, and those of the compiled program in the emulator. Numbers behind
names are public reports in which users met the same situation.
"""

import dataclasses
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from gateware.arch.config import SIZES, AccelConfig
from gateware.compiler.lower import needs_tables
from gateware.compiler.operations import CompileError
from gateware.compiler.program import compile_graph
from gateware.compiler.slices import needs_parts
from gateware.model.emulator import Emulator
from ir import cli
from ir.graph import IntGraph
from ir.ratio import Ratio
from quant.assignment.assign import assign
from quant.assignment.methods import method
from quant.assignment.sensitivity import row_scores
from quant.lowering import verify
from quant.lowering.export import export
from quant.lowering.prepare import calibrate, prepare

RATIO = Ratio.parse("65:30:5")
TILE_ROWS = 16
IMAGES = 16
SEED = 0
#: What no network may lead to.
FAULTS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError)


class Difference(AssertionError):
    """Result of the compiled program that is not the golden model's."""


class Construct(NamedTuple):
    """Piece of a network.

    name : and, in brackets, a public report
    make : gives the float network, with random weights
    shape : of an image, (C, H, W) or (C, L), with values in 0..1
    """

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]


class Fn(nn.Module):
    """Module that computes ``f(self, x)`` with the submodules that it is given."""

    def __init__(self, f: Callable[..., object], **modules: nn.Module) -> None:
        super().__init__()
        self.f = f
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> object:
        """Result of ``f``."""
        return self.f(self, x)


class PaddedConv(nn.Conv2d):
    """Convolution with a padding module of its own, as ports from TensorFlow have."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__(i, o, 3, 2, bias=False)
        self.static_padding = nn.ZeroPad2d((0, 1, 0, 1))

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Map (N, O, H', W')."""
        return F.conv2d(self.static_padding(x), self.weight, self.bias, self.stride)


def cbr(
    i: int, o: int, k: int = 3, s: int = 1, p: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Module:
    """Convolution, batch-norm, ReLU."""
    conv = nn.Conv2d(i, o, k, s, p, dilation, groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(o), nn.ReLU())


def conv_bn(i: int, o: int, stride: int = 1) -> nn.Sequential:
    """Convolution and batch-norm."""
    return nn.Sequential(nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o))


def zero_gamma(c: int) -> nn.Module:
    """Convolution and a batch-norm that begins with zero."""
    norm = nn.BatchNorm2d(c)
    nn.init.zeros_(norm.weight)
    return nn.Sequential(nn.Conv2d(c, c, 3, padding=1, bias=False), norm)


def head(c: int, n: int = 4) -> nn.Module:
    """Classifier behind a global average."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, n))


def act(module: nn.Module) -> nn.Module:
    """Network around an activation function."""
    return nn.Sequential(conv_bn(3, 16), module, cbr(16, 16), head(16))


CONSTRUCTS = [
    Construct(
        "normalisation inside the model",
        lambda: Fn(lambda s, x: s.h(s.c((x - 0.45) / 0.22)), c=cbr(3, 16), h=head(16)),
        (3, 16, 16),
    ),
    Construct(
        "batch-norm on the image",
        lambda: nn.Sequential(nn.BatchNorm2d(3), cbr(3, 16), head(16)),
        (3, 16, 16),
    ),
    Construct(
        "batch-norm after ReLU",
        lambda: nn.Sequential(
            cbr(3, 16),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.ReLU(),
            nn.BatchNorm2d(16),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.ReLU(),
            head(16),
        ),
        (3, 16, 16),
    ),
    Construct(
        "concatenation (brevitas#295, nncf#421)",
        lambda: Fn(
            lambda s, x: (lambda y: s.h(torch.cat([s.a(y), s.b(y)], 1)))(s.c(x)),
            c=cbr(3, 16),
            a=cbr(16, 8, 1, 1, 0),
            b=cbr(16, 24),
            h=head(32),
        ),
        (3, 16, 16),
    ),
    Construct(
        "concatenation of unaligned channels",
        lambda: Fn(
            lambda s, x: (lambda y: s.h(torch.cat([s.a(y), y, s.b(y)], 1)))(s.c(x)),
            c=cbr(3, 13),
            a=cbr(13, 7, 1, 1, 0),
            b=cbr(13, 9),
            h=nn.Sequential(cbr(29, 16), head(16)),
        ),
        (3, 16, 16),
    ),
    Construct(
        "dense block",
        lambda: Fn(
            lambda s, x: (
                lambda y: (lambda z: s.h(torch.cat([z, s.b(z)], 1)))(torch.cat([y, s.a(y)], 1))
            )(s.c(x)),
            c=cbr(3, 16),
            a=cbr(16, 8),
            b=cbr(24, 8),
            h=head(32),
        ),
        (3, 16, 16),
    ),
    Construct(
        "nearest upsampling",
        lambda: Fn(
            lambda s, x: s.h(F.interpolate(s.c(x), scale_factor=2)),
            c=cbr(3, 16),
            h=nn.Sequential(cbr(16, 8), head(8)),
        ),
        (3, 16, 16),
    ),
    Construct(
        "bilinear upsampling (brevitas#295)",
        lambda: Fn(
            lambda s, x: s.h(F.interpolate(s.c(x), scale_factor=2, mode="bilinear")),
            c=cbr(3, 16),
            h=nn.Sequential(cbr(16, 8), head(8)),
        ),
        (3, 16, 16),
    ),
    Construct(
        "transposed convolution (brevitas#186)",
        lambda: nn.Sequential(cbr(3, 16), nn.ConvTranspose2d(16, 8, 2, 2), nn.ReLU(), head(8)),
        (3, 16, 16),
    ),
    Construct(
        "transposed convolution 4x4, stride 2",
        lambda: nn.Sequential(
            cbr(3, 16),
            nn.ConvTranspose2d(16, 8, 4, 2, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            head(8),
        ),
        (3, 16, 16),
    ),
    Construct("leaky ReLU (quantized-yolov5#48)", lambda: act(nn.LeakyReLU(0.1)), (3, 16, 16)),
    Construct("PReLU", lambda: act(nn.PReLU(16)), (3, 16, 16)),
    Construct("hard swish", lambda: act(nn.Hardswish()), (3, 16, 16)),
    Construct("SiLU", lambda: act(nn.SiLU()), (3, 16, 16)),
    Construct("GELU", lambda: act(nn.GELU()), (3, 16, 16)),
    Construct("sigmoid inside", lambda: act(nn.Sigmoid()), (3, 16, 16)),
    Construct(
        "squeeze and excitation",
        lambda: Fn(
            lambda s, x: (
                lambda y: s.h(y * torch.sigmoid(s.f2(F.relu(s.f1(y.mean((2, 3), keepdim=True))))))
            )(s.c(x)),
            c=cbr(3, 16),
            f1=nn.Conv2d(16, 4, 1),
            f2=nn.Conv2d(4, 16, 1),
            h=nn.Sequential(cbr(16, 16), head(16)),
        ),
        (3, 16, 16),
    ),
    Construct(
        "dilated convolution",
        lambda: nn.Sequential(cbr(3, 16), cbr(16, 16, 3, 1, 2, dilation=2), head(16)),
        (3, 16, 16),
    ),
    Construct(
        "convolution with stride 4",
        lambda: nn.Sequential(cbr(3, 16), cbr(16, 16, 4, 4, 0), head(16)),
        (3, 16, 16),
    ),
    Construct(
        "adaptive pool to 2x2",
        lambda: nn.Sequential(cbr(3, 16), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 4)),
        (3, 16, 16),
    ),
    Construct(
        "max pool 4x4 before a classifier (finn#298)",
        lambda: nn.Sequential(cbr(1, 16), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(256, 10)),
        (1, 16, 16),
    ),
    Construct(
        "max pool, ceil mode",
        lambda: nn.Sequential(cbr(3, 16), nn.MaxPool2d(3, 2, ceil_mode=True), head(16)),
        (3, 17, 17),
    ),
    Construct(
        "average pool with padding",
        lambda: nn.Sequential(cbr(3, 16), nn.AvgPool2d(3, 2, 1), cbr(16, 16), head(16)),
        (3, 16, 16),
    ),
    Construct(
        "average pool, padding not counted",
        lambda: nn.Sequential(
            cbr(3, 16), nn.AvgPool2d(3, 2, 1, count_include_pad=False), cbr(16, 16), head(16)
        ),
        (3, 16, 16),
    ),
    Construct(
        "global max pool",
        lambda: nn.Sequential(cbr(3, 16), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(16, 4)),
        (3, 16, 16),
    ),
    Construct(
        "convolution in one dimension",
        lambda: nn.Sequential(
            nn.Conv1d(1, 16, 5, padding=2),
            nn.ReLU(),
            nn.Conv1d(16, 16, 3, 2, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(16, 4),
        ),
        (1, 64),
    ),
    Construct(
        "two outputs",
        lambda: Fn(
            lambda s, x: (lambda y: (s.h(y), s.g(y)))(s.c(x)),
            c=cbr(3, 16),
            h=head(16),
            g=head(16, 7),
        ),
        (3, 16, 16),
    ),
    Construct(
        "a map as output (finn#304)",
        lambda: nn.Sequential(cbr(3, 16), nn.Conv2d(16, 4, 1)),
        (3, 16, 16),
    ),
    Construct(
        "maps at two scales (detection)",
        lambda: Fn(
            lambda s, x: (lambda y: (s.h(y), s.g(s.d(y))))(s.c(x)),
            c=cbr(3, 16),
            d=cbr(16, 16, 3, 2),
            h=nn.Conv2d(16, 18, 1),
            g=nn.Conv2d(16, 18, 1),
        ),
        (3, 32, 32),
    ),
    Construct(
        "one layer used twice",
        lambda: Fn(lambda s, x: s.h(s.d(s.d(s.c(x)))), c=cbr(3, 16), d=cbr(16, 16), h=head(16)),
        (3, 16, 16),
    ),
    Construct(
        "shortcut by slicing and channel padding",
        lambda: Fn(
            lambda s, x: (
                lambda y: s.h(F.relu(s.d(y) + F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))))
            )(s.c(x)),
            c=cbr(3, 16),
            d=nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32)),
            h=head(32),
        ),
        (3, 16, 16),
    ),
    Construct(
        "channels cut in two",
        lambda: Fn(
            lambda s, x: (lambda a, b: s.h(F.relu(a + s.d(b))))(*s.c(x).chunk(2, 1)),
            c=cbr(3, 32),
            d=nn.Conv2d(16, 16, 3, padding=1),
            h=head(16),
        ),
        (3, 16, 16),
    ),
    Construct(
        "channel shuffle",
        lambda: Fn(
            lambda s, x: s.h(s.d(F.channel_shuffle(s.c(x), 4))),
            c=cbr(3, 16),
            d=cbr(16, 16, groups=4),
            h=head(16),
        ),
        (3, 16, 16),
    ),
    Construct(
        "softmax at the end",
        lambda: nn.Sequential(cbr(3, 16), head(16), nn.Softmax(1)),
        (3, 16, 16),
    ),
    Construct(
        "sigmoid at the end",
        lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 64), nn.Sigmoid()
        ),
        (1, 8, 8),
    ),
    Construct(
        "tanh at the end", lambda: nn.Sequential(cbr(3, 16), head(16, 3), nn.Tanh()), (3, 16, 16)
    ),
    Construct(
        "classifier of 12,288 inputs",
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(12288, 32), nn.ReLU(), nn.Linear(32, 4)),
        (3, 64, 64),
    ),
    Construct(
        "3,000 channels",
        lambda: nn.Sequential(cbr(3, 8), nn.Conv2d(8, 3000, 1), nn.ReLU(), head(3000)),
        (3, 4, 4),
    ),
    Construct(
        "a layer that pads its own input",
        lambda: Fn(lambda s, x: s.h(s.c(x)), c=PaddedConv(3, 16), h=head(16)),
        (3, 16, 16),
    ),
    Construct(
        "output rows of padding alone",
        lambda: nn.Sequential(
            nn.ZeroPad2d((0, 2, 0, 2)), nn.Conv2d(4, 17, 1, 3), nn.ReLU(), cbr(17, 8), head(8)
        ),
        (4, 17, 26),
    ),
    Construct(
        "residual branch that starts at zero",
        lambda: Fn(
            lambda s, x: (lambda y: s.h(F.relu(y + s.d(y))))(s.c(x)),
            c=cbr(3, 16),
            d=zero_gamma(16),
            h=head(16),
        ),
        (3, 16, 16),
    ),
]


def chain(
    make: Callable[[], nn.Module],
    shape: Sequence[int],
    sizes: Mapping[str, int] | AccelConfig | None = None,
    seed: int = SEED,
) -> IntGraph:
    """Integer graph of a network after a short training, verified down to the emulator.

    ``sizes`` are the array's :class:`~gateware.arch.config.AccelConfig`, or fields of it. Raises
    ValueError where the network is refused, and :class:`Difference` for a wrong result.
    """
    torch.manual_seed(seed)
    net, codes = make().eval(), torch.randint(256, (IMAGES, *shape), dtype=torch.uint8)
    images = codes / 255
    model = prepare(net, images[:2])
    calibrate(model, images)
    assign(model, method("rmsmp"), TILE_ROWS, row_scores("random", model, images))
    optimiser = torch.optim.SGD(model.train().parameters(), 0.01)
    for _ in range(3):
        results = model(images)
        optimiser.zero_grad()
        leaves = [r for r in tree_leaves(results) if isinstance(r, Tensor)]
        torch.stack([r.float().square().mean() for r in leaves]).sum().backward()
        optimiser.step()
    graph = export(model.eval(), images, name="case", ratio=RATIO, tile_rows=TILE_ROWS)
    outputs = verify.verify_outputs(graph, codes.numpy())
    first = {name: values[0] for name, values in outputs.items()}
    run_program(graph, codes[0].numpy().astype(np.int64), first, sizes)
    return graph


def run_program(
    graph: IntGraph,
    image: np.ndarray,
    outputs: Mapping[str, np.ndarray],
    sizes: Mapping[str, int] | AccelConfig | None = None,
) -> None:
    """Compiled program of ``graph`` in the emulator, against the ``outputs`` that it must give.

    Raises :class:`Difference` and CompileError.
    """
    if isinstance(sizes, AccelConfig):
        config = sizes
    else:
        given = SIZES | {"act_depth": 2048} | dict(sizes or {})
        config = AccelConfig.from_ratio(RATIO, TILE_ROWS, tables=needs_tables(graph), **given)
        config = dataclasses.replace(config, parts=needs_parts(graph, config))
    program = compile_graph(graph, config)
    memory = Emulator(config).run(program.image, program.pack(image), program.output_size)
    found = program.read(memory)[0]
    for name, values in outputs.items():
        if not np.array_equal(found[name].reshape(-1), values.reshape(-1)):
            raise Difference(f"the emulator's {name!r} is not the golden model's")


def outcome(construct: Construct) -> str:
    """What becomes of a construct, in a line: "runs", or why not."""
    try:
        chain(construct.make, construct.shape)
    except CompileError as error:
        return f"refused by the compiler: {error}"
    except ValueError as error:
        return f"refused: {error}"
    except FAULTS as error:
        return f"FAULT {type(error).__name__}: {error}"
    return "runs"


def main(argv: Sequence[str] | None = None) -> int:
    """Table of all constructs; exit code 1 where one does not run."""
    parser = cli.Parser(prog="bench.constructs", description=__doc__)
    parser.add_argument("word", nargs="?", default="", help="only those whose name holds it")
    word = parser.parse_args(argv).word
    counts: Counter[str] = Counter()
    for construct in CONSTRUCTS:
        if word in construct.name:
            began = time.monotonic()
            result = outcome(construct)
            counts[result.partition(" ")[0]] += 1
            print(f"{construct.name:46s} {time.monotonic() - began:5.1f} s  {result}", flush=True)
    print(", ".join(f"{count} {what}" for what, count in counts.items()))
    return int(set(counts) != {"runs"})


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
