# SPDX-License-Identifier: Apache-2.0
"""Input of the graph in the program: loaded whole, row by row as it is needed, or in strips."""

import dataclasses
from collections.abc import Iterator, Sequence

from gateware.compiler.layout import Strip, TensorLayout
from gateware.compiler.operations import Gemm, TensorKey, input_rows
from gateware.compiler.program_image import ProgramImage
from gateware.compiler.transfers import Home, load_rows

LOAD_STRIPS = 16  #: parts that a large input is loaded in, so that the first layer begins early
LARGE_INPUT = 2048  #: bus beats


class Source:
    """Input of one image.

    Parameters
    ----------
    image : ProgramImage
        The program.
    key : TensorKey
    place : TensorLayout
        Of the whole tensor, or of the rows of a strip.
    height : int
        Rows of the whole tensor.
    home : Home
        Where it comes from.
    """

    def __init__(
        self, image: ProgramImage, key: TensorKey, place: TensorLayout, *, height: int, home: Home
    ) -> None:
        self._image, self._key, self._place = image, key, place
        self._height, self._home, self._loaded = height, home, 0

    @property
    def large(self) -> bool:
        """True if it is worth to begin before all of it is there."""
        return self._place.beats >= LARGE_INPUT

    def need(self, rows: int | None = None) -> None:
        """Addition of the load up to row ``rows`` (exclusive), by default of all, if it is
        missing."""
        rows = self._height if rows is None else rows
        if rows > self._loaded:
            self._load(Strip.whole(self._place), self._loaded, rows)
            self._loaded = rows

    def parts(self, share: float) -> int:
        """Number of parts in which the first operation goes over ``share`` of its rows."""
        return 1 if self._loaded == self._height else max(1, int(LOAD_STRIPS * share))

    def strips(self, gemm: Gemm, edges: Sequence[tuple[int, int]]) -> Iterator[Strip]:
        """Strips of the input, one for each strip of a result, loaded one ahead, into two places in
        turn.

        ``edges`` are first and last (exclusive) row of the result's strips.
        """

        def load(index: int) -> Strip:
            begin, end = input_rows(gemm, self._height, *edges[index])
            address = self._place.address + index % 2 * self._place.words
            strip = Strip(dataclasses.replace(self._place, address=address), begin, self._height)
            if begin < end:  # else it is made of padding alone
                self._load(strip, begin, end)
            return strip

        ahead = load(0)
        for index in range(1, len(edges) + 1):
            current = ahead
            if index < len(edges):
                ahead = load(index)
            yield current

    def _load(self, strip: Strip, first: int, last: int) -> None:
        load_rows(self._image, self._key, strip, first, last, self._home)
