# SPDX-License-Identifier: Apache-2.0
"""Random networks of ordinary operations, each from PyTorch to the program in the emulator.

python -m bench.random_networks                    300 networks; takes minutes
python -m bench.random_networks --count 20 --seed 5
python -m bench.random_networks --only 173         one of them again, its layers printed
python -m bench.random_networks --buffers          each with buffers of random size, mostly tiny

Every network is equal on all levels (:mod:`bench.constructs`), refused with a reason, or a fault of
this project. The same seed gives the same networks.
"""

import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.constructs import FAULTS, Difference, Fn, chain
from gateware.compiler.operations import CompileError
from ir import cli

#: Arrays for which networks are compiled, one after the other.
CONFIGS: tuple[dict[str, int], ...] = ({}, {"pixels": 2, "act_copies": 1}, {"requant_lanes": 8})
#: Words of the buffers that ``--buffers`` draws from.
DEPTHS = {
    "act_depth": (64, 128, 256, 512),
    "weight_depth": (128, 192, 256, 512),
    "slot_depth": (16, 32, 64),
    "wide_depth": (16, 64, 256),
}
FUNCTIONS: dict[str, Callable[[], nn.Module]] = {
    "ReLU": nn.ReLU,
    "ReLU6": nn.ReLU6,
    "leaky ReLU": lambda: nn.LeakyReLU(0.1),
    "hard swish": nn.Hardswish,
    "SiLU": nn.SiLU,
    "GELU": nn.GELU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "ELU": nn.ELU,
}


class RandomNetwork(nn.Module):
    """Network of a random chain of steps, some with branches, and a head.

    Parameters
    ----------
    rng : decides everything but the weights
    shape : (C, H, W) of the images
    """

    def __init__(self, rng: random.Random, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.rng, self.image, self.shape, self.names = rng, shape, shape, list[str]()
        self.steps = nn.ModuleList()
        self._layer(rng.choice([8, 12, 16, 20]), 3, 1)
        for _ in range(rng.randint(1, 4)):
            rng.choice(STEPS)(self)
        self.head = rng.choice(["linear", "pooled", "map", "two"])
        channels, height, width = self.shape
        self.final = nn.Linear(channels * height * width if self.head == "linear" else channels, 5)
        self.final_map = nn.Conv2d(channels, 3, 1)

    def forward(self, x: Tensor) -> object:
        """Logits, a map, or both."""
        for step in self.steps:
            x = step(x)
        if self.head == "map":
            return self.final_map(x)
        if self.head == "linear":
            return self.final(x.flatten(1))
        logits = self.final(x.mean((2, 3)))
        return (logits, self.final_map(x)) if self.head == "two" else logits

    def add(self, name: str, f: Callable[..., Tensor], **modules: nn.Module) -> None:
        """Append a step, ``f(step, x)`` with its ``modules``; its shape is found by a run."""
        self.names.append(name)
        self.steps.append(Fn(f, **modules))
        with torch.no_grad():
            shape = self.steps[-1].eval()(torch.zeros(2, *self.shape)).shape[1:]
        self.shape = (int(shape[0]), int(shape[1]), int(shape[2]))

    def block(self, i: int, o: int, kernel: int, stride: int, groups: int = 1) -> nn.Module:
        """Convolution, mostly batch-norm, and an activation function."""
        norm = self.rng.random() < 0.8
        conv = nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=not norm)
        name = self.rng.choice([*FUNCTIONS, "ReLU", "ReLU", "ReLU"])
        parts = [conv, nn.BatchNorm2d(o)] if norm else [conv]
        return nn.Sequential(*parts, FUNCTIONS[name]())

    def _layer(self, o: int, kernel: int, stride: int, groups: int = 1) -> None:
        layer = self.block(self.shape[0], o, kernel, stride, groups)
        self.add(f"conv {kernel}x{kernel}", lambda s, x: s.a(x), a=layer)


def _convolution(net: RandomNetwork) -> None:
    kernel = net.rng.choice([1, 3, 5])
    net._layer(net.rng.choice([8, 16, 24, 33]), kernel, net.rng.choice([1, 1, 2]))


def _depthwise(net: RandomNetwork) -> None:
    net._layer(net.shape[0], 3, net.rng.choice([1, 2]), groups=net.shape[0])


def _residual(net: RandomNetwork) -> None:
    inner = net.block(net.shape[0], net.shape[0], 3, 1)
    conv = nn.Conv2d(net.shape[0], net.shape[0], 3, padding=1)
    net.add("residual", lambda s, x: F.relu(x + s.b(s.a(x))), a=inner, b=conv)


def _concatenation(net: RandomNetwork) -> None:
    a = net.block(net.shape[0], net.rng.choice([4, 8, 16]), 1, 1)
    b = net.block(net.shape[0], net.rng.choice([7, 16]), 3, 1)
    itself = net.rng.random() < 0.5
    net.add(
        "concatenation",
        lambda s, x: torch.cat([s.a(x), s.b(x), *([x] if itself else [])], 1),
        a=a,
        b=b,
    )


def _split(net: RandomNetwork) -> None:
    if net.shape[0] % 2:
        return

    def call(s: Any, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        return torch.cat([left, s.a(right)], 1)

    net.add("split", call, a=net.block(net.shape[0] // 2, net.shape[0] // 2, 3, 1))


def _shuffle(net: RandomNetwork) -> None:
    if net.shape[0] % 4 == 0:
        net.add("shuffle", lambda _, x: F.channel_shuffle(x, 4))


def _excitation(net: RandomNetwork) -> None:
    net.add(
        "excitation",
        lambda s, x: x * torch.sigmoid(s.b(F.relu(s.a(x.mean((2, 3), keepdim=True))))),
        a=nn.Conv2d(net.shape[0], 4, 1),
        b=nn.Conv2d(4, net.shape[0], 1),
    )


def _norm(net: RandomNetwork) -> None:
    net.add("batch-norm", lambda s, x: s.a(x), a=nn.BatchNorm2d(net.shape[0]))


def _arithmetic(net: RandomNetwork) -> None:
    functions = (lambda _, x: x * 0.5 + 0.25, lambda _, x: x + x, lambda _, x: 1 - x)
    net.add("arithmetic", net.rng.choice(functions))


def _max_pool(net: RandomNetwork) -> None:
    size = net.rng.choice([2, 3, 4])
    stride, padding = net.rng.randint(1, size), net.rng.randint(0, size // 2)
    ceil = net.rng.random() < 0.3
    if min(net.shape[1:]) >= size:
        net.add("max pool", lambda _, x: F.max_pool2d(x, size, stride, padding, ceil_mode=ceil))


def _average_pool(net: RandomNetwork) -> None:
    size = net.rng.choice([2, 3, 4])
    stride, padding = net.rng.randint(1, size), net.rng.randint(0, size // 2)
    counted = net.rng.random() < 0.5
    if min(net.shape[1:]) >= size:
        net.add(
            "average pool",
            lambda _, x: F.avg_pool2d(x, size, stride, padding, count_include_pad=counted),
        )


def _adaptive_pool(net: RandomNetwork) -> None:
    size = net.rng.choice([1, 2, 3])
    kind = net.rng.choice([F.adaptive_avg_pool2d, F.adaptive_max_pool2d])
    if min(net.shape[1:]) >= size:
        net.add("adaptive pool", lambda _, x: kind(x, size))


def _upsampling(net: RandomNetwork) -> None:
    mode = net.rng.choice(["nearest", "nearest", "bilinear"])
    if max(net.shape[1:]) <= 12:
        net.add(f"{mode} upsampling", lambda _, x: F.interpolate(x, scale_factor=2, mode=mode))


def _transposed(net: RandomNetwork) -> None:
    kernel = net.rng.choice([2, 3, 4])
    layer = nn.ConvTranspose2d(net.shape[0], 8, kernel, 2, (kernel - 1) // 2)
    if max(net.shape[1:]) <= 12:
        net.add("transposed convolution", lambda s, x: F.relu(s.a(x)), a=layer)


def _dilated(net: RandomNetwork) -> None:
    layer = nn.Conv2d(net.shape[0], 12, 3, padding=2, dilation=2)
    net.add("dilated convolution", lambda s, x: F.relu(s.a(x)), a=layer)


def _strided(net: RandomNetwork) -> None:
    if min(net.shape[1:]) >= 4:
        net.add("stride 4", lambda s, x: F.relu(s.a(x)), a=nn.Conv2d(net.shape[0], 16, 4, 4))


def _twice(net: RandomNetwork) -> None:
    net.add("layer twice", lambda s, x: s.a(s.a(x)), a=net.block(net.shape[0], net.shape[0], 3, 1))


def _option_a(net: RandomNetwork) -> None:
    channels = net.shape[0]
    net.add(
        "option A",
        lambda s, x: F.relu(s.a(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))),
        a=nn.Conv2d(channels, channels + 8, 3, 2, 1),
    )


STEPS = (
    _convolution,
    _convolution,
    _depthwise,
    _residual,
    _concatenation,
    _split,
    _shuffle,
    _excitation,
    _norm,
    _arithmetic,
    _max_pool,
    _average_pool,
    _adaptive_pool,
    _upsampling,
    _transposed,
    _dilated,
    _strided,
    _twice,
    _option_a,
)


def network(seed: int) -> tuple[RandomNetwork, tuple[int, int, int]]:
    """Network number ``seed``, and the shape of its images."""
    rng = random.Random(seed)
    shape = (rng.choice([1, 3]), rng.randint(6, 16), rng.randint(6, 16))
    torch.manual_seed(seed)
    return RandomNetwork(rng, shape), shape


def random_buffers(seed: int) -> dict[str, int]:
    """Depths of the buffers for network ``seed``."""
    rng = random.Random(f"buffers {seed}")
    return {name: rng.choice(depths) for name, depths in DEPTHS.items()}


def outcome(
    seed: int, buffers: bool = False, instead: RandomNetwork | None = None
) -> tuple[str, str]:
    """What becomes of network ``seed``, maybe in :func:`random_buffers`: "equal", "refused" or
    "FAULT"; and the reason. ``instead`` is a network that takes its place."""
    net, shape = network(seed)
    net = instead or net
    sizes = CONFIGS[seed % len(CONFIGS)] | (random_buffers(seed) if buffers else {})
    try:
        chain(lambda: net.eval(), shape, sizes, seed=seed)
    except Difference as error:
        return "FAULT", str(error)
    except (CompileError, ValueError) as error:
        return "refused", str(error)
    except FAULTS as error:
        return "FAULT", f"{type(error).__name__}: {error}"
    return "equal", ""


def main(argv: Sequence[str] | None = None) -> int:
    """Counts of what became of the networks; exit code 1 where there is a fault."""
    parser = cli.Parser(prog="bench.random_networks", description=__doc__)
    parser.add_argument("--count", type=int, default=300, help="networks")
    parser.add_argument("--seed", type=int, default=0, help="number of the first")
    parser.add_argument("--only", type=int, help="this one alone")
    parser.add_argument("--buffers", action="store_true", help="buffers of random size")
    args = parser.parse_args(argv)
    first, count = (args.only, 1) if args.only is not None else (args.seed, args.count)
    results, reasons, began = Counter[str](), Counter[str](), time.monotonic()
    print(f"networks {first} to {first + count - 1}, seeds of the same numbers", flush=True)
    for seed in range(first, first + count):
        result, reason = outcome(seed, args.buffers)
        results[result] += 1
        if result != "equal":
            reasons[f"{result}: {reason[:160]}"] += 1
            names = ", ".join(network(seed)[0].names)
            print(f"{seed}: {result}: {reason[:300]} ({names})", flush=True)
        elif args.only is not None:
            print(f"{seed}: {', '.join(network(seed)[0].names)}")
    seconds = time.monotonic() - began
    print(
        f"{count} networks in {seconds:.0f} s: " + ", ".join(f"{n} {r}" for r, n in results.items())
    )
    return int(results["FAULT"] > 0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
