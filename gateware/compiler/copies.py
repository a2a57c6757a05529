# SPDX-License-Identifier: Apache-2.0
"""Copies of channels through the array, for what a Gather takes from each of its inputs.

A row whose only weight is a 1 gives the code that it reads, whatever its scheme. Rows that read the
same word of a pixel make a part, so that no word is read in vain.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from gateware.arch.config import AccelConfig
from gateware.compiler.operations import Gemm, Part, TensorKey
from ir.graph import Gather, TensorSpec
from ir.numerics import SHIFT_MIN, Scheme, act_max

SHIFT = SHIFT_MIN + 1  #: of a copy: M is 2^15, normalised


@dataclasses.dataclass(frozen=True, kw_only=True)
class Copy(Gemm):
    """Copy of some channels of one tensor to some of another, of which it leaves the rest.

    Parameters
    ----------
    moves : of each channel that is written, its number in the target, and in the source's window,
        flattened, or -1
    """

    moves: Sequence[tuple[int, int]]

    def most_words(self, k: int) -> int:
        """Each part reads one."""
        return 1

    def parts(self, k: int) -> list[Part]:
        """Parts of the rows, each of one word of ``k`` channels."""
        by_word: dict[int, list[int]] = {}
        pixels = math.prod(self.kernel)
        for row, channel in self.moves:
            by_word.setdefault(max(channel, 0) // pixels // k, []).append(row)
        padded, missing = self.values, -self.values.shape[1] % k
        if missing:
            padded = np.pad(padded, ((0, 0), (0, missing), (0, 0), (0, 0)))
        return [
            Part(word, 1, rows, padded[rows, word * k : (word + 1) * k])
            for word, rows in sorted(by_word.items())
        ]


def copies(
    gather: Gather,
    sources: Sequence[TensorSpec],
    target: TensorSpec,
    config: AccelConfig,
) -> list[Copy]:
    """Copies that make the result of ``gather``, one for each of its inputs that gives channels.

    Parameters
    ----------
    sources : the tensors whose words its inputs are; of a flattened input, the map
    """
    moves: list[list[tuple[int, int]]] = [[] for _ in sources]
    flat = (target.shape[1:], gather.stride) == ((1, 1), (1, 1))
    sizes = [math.prod(spec.shape) if flat else spec.shape[0] for spec in sources]
    edges = np.cumsum([0, *sizes])
    for row, pick in enumerate(gather.picks):
        which = 0 if pick < 0 else int(np.searchsorted(edges, pick, "right")) - 1
        moves[which].append((row, pick if pick < 0 else pick - int(edges[which])))
    taken = [i for i, chosen in enumerate(moves) if chosen]
    result = []
    for index in taken:
        shape = sources[index].shape
        result.append(
            dataclasses.replace(
                copy_channels(
                    gather.name if len(taken) == 1 else f"{gather.name} {index}",
                    TensorKey(sources[index].name),
                    TensorKey(gather.output),
                    shape=shape if flat else (shape[0], 1, 1),
                    picks=gather.picks,
                    moves=moves[index],
                    bits=target.bits,
                    zero_point=target.zero_point,
                    config=config,
                ),
                stride=gather.stride,
                partial=index != taken[-1],
            )
        )
    return result


def copy_channels(
    name: str,
    source: TensorKey,
    target: TensorKey,
    *,
    shape: tuple[int, int, int],
    picks: Sequence[int],
    bits: int,
    config: AccelConfig,
    moves: Sequence[tuple[int, int]] | None = None,
    zero_point: int = 0,
) -> Copy:
    """Copy of the values ``picks`` of a window of ``shape``, -1 for zeros.

    ``moves`` are those of :class:`Copy`, by default of all.
    """
    rows, moves = len(picks), list(enumerate(picks)) if moves is None else moves
    schemes, values = np.zeros(rows, np.int64), np.zeros((rows, *shape), np.int64)
    lanes = [scheme for scheme in Scheme for _ in range(config.lanes[scheme])]
    for place, (row, channel) in enumerate(moves):
        schemes[row] = lanes[place % len(lanes)]
        if channel >= 0:
            values[row].flat[channel] = 1
    zeros = np.array([pick < 0 for pick in picks])
    return Copy(
        name=name,
        source=source,
        target=target,
        values=values,
        scheme=schemes,
        multiplier=np.full(rows, 1 << SHIFT),
        bias=(1 << SHIFT - 1) + zeros * (zero_point << SHIFT),
        shift=np.full(rows, SHIFT),
        stride=(1, 1),
        padding=(0, 0, 0, 0),
        low=0,
        high=act_max(bits),
        moves=moves,
    )
