# SPDX-License-Identifier: Apache-2.0
"""Plan with bands: which tensors live in memory, and in what bands the others' room is used."""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from gateware.arch.config import AccelConfig
from gateware.arch.isa import ADDRESS_BITS
from gateware.compiler.bands import Bands, Step, steps_of
from gateware.compiler.layout import MAX_GROUPS, LiveRange, NoRoom, TensorLayout, allocate
from gateware.compiler.operations import CompileError, Gemm, Operation, TensorKey

_MISSING = 1e9  #: cycles for what does not fit at all, and for each word of it that is missing

Memory = frozenset[TensorKey]


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """Operations in order, places of the tensors that have one, bands of those that run in them.

    Tensors that live in memory have the whole tensor's layout, at address 0.
    """

    operations: tuple[Operation, ...]
    places: dict[TensorKey, TensorLayout]
    bands: dict[TensorKey, Bands]


class _NoBands(ValueError):
    """Step that fits in no bands; its number."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


class MemoryPlanner:
    """Search for the tensors that live in memory.

    One after the other is moved there, always the one with which the network is fastest, until all
    fits. Then each is moved, there or back, where that makes the network faster.

    Parameters
    ----------
    operations : of the network
    forms : layouts of all tensors
    config : AccelConfig
    """

    def __init__(
        self,
        operations: Sequence[Operation],
        forms: Mapping[TensorKey, TensorLayout],
        config: AccelConfig,
    ) -> None:
        self._forms, self._config = forms, config
        self._depth = min(config.act_depth, 1 << ADDRESS_BITS)
        self._steps = steps_of(operations, forms, config)
        self._born: dict[TensorKey, int] = {}
        self._dies: dict[TensorKey, int] = {}
        for number, step in enumerate(self._steps):
            for key in (*step.operands, step.target):
                self._born.setdefault(key, number)
                self._dies[key] = number
        wide = {step.target for step in self._steps if step.wide}
        self._whole = [key for key in self._born if key not in wide]
        self._fixed = wide.union(*(step.fixed for step in self._steps))
        made = {step.target for step in self._steps}
        self._inputs = {key for key in self._whole if key not in made}
        self._fixed |= {key for key in self._inputs if not _moves(forms[key])}
        self._tied = self._ties()

    def plan(self) -> MemoryPlan:
        """Plan with the fewest cycles that were found. Raises CompileError."""
        memory: Memory = frozenset()
        while True:
            try:
                found = self._place(memory)
                break
            except _NoBands as error:
                memory = self._more(memory, error.step)
        for key in sorted(self._whole, key=self._traffic, reverse=True):
            other = memory - self._tied[key] if key in memory else memory | self._tied[key]
            if other & self._fixed or self._cycles(other) >= self._cycles(memory):
                continue
            try:
                found, memory = self._place(other), other
            except _NoBands:
                pass
        return found

    def _ties(self) -> dict[TensorKey, Memory]:
        """For each tensor those that are in memory if it is."""
        tied = {key: frozenset([key]) for key in self._born}
        for step in self._steps:
            together = frozenset[TensorKey]().union(*(tied[key] for key in step.tied))
            tied |= dict.fromkeys(together, together)
        return tied

    def _more(self, memory: Memory, number: int) -> Memory:
        """``memory`` and one more tensor that is needed at a step. Raises CompileError."""
        candidates = {
            memory | self._tied[key]
            for key in self._whole
            if self._born[key] <= number <= self._dies[key]
            and key not in memory
            and not self._tied[key] & self._fixed
        }
        if not candidates:
            raise self._refusal(memory, number)
        return min(sorted(candidates, key=_names), key=self._cycles)

    def _refusal(self, memory: Memory, number: int) -> CompileError:
        step, used = self._steps[number], int(self._used(memory)[number])
        words = min((bands.words for bands in self._options(step, memory)), default=0)
        return CompileError(
            f"layer {step.operations[0].name!r} does not fit the activation buffer: even in bands "
            f"of a row it takes {words} words beside {used} in use, of {self._config.act_depth} "
            "per bank"
        )

    def _traffic(self, key: TensorKey) -> int:
        return self._forms[key].beats

    def _used(self, memory: Memory) -> np.ndarray:
        """Words of the buffer that whole tensors take at each step, int64 (steps,)."""
        used = np.zeros(len(self._steps), np.int64)
        for key in self._whole:
            if key not in memory:
                used[self._born[key] : self._dies[key] + 1] += self._forms[key].words
        for number, step in enumerate(self._steps):
            if (over := self._over(step, number, memory)) is not None:
                used[number] -= min(self._forms[over].words, self._forms[step.target].words)
        return used

    def _cycles(self, memory: Memory) -> float:
        """Cycles of the network, estimated; more than any where something does not fit."""
        total = 0.0
        for step, used in zip(self._steps, self._used(memory).tolist(), strict=True):
            room = self._depth - used
            if memory.isdisjoint((*step.operands, step.target)):
                total += step.whole
                least = 0
            else:
                options = self._options(step, memory)
                least = min(bands.words for bands in options)
                fits = next((bands for bands in options if bands.words <= room), options[-1])
                total += step.cycles(fits)
            if least > room:
                total += _MISSING * (1 + least - room)
        return total

    def _options(self, step: Step, memory: Memory) -> list[Bands]:
        """Bands that a step can run in; an input lies in memory as the host stores it."""
        found = step.options(memory)
        if self._inputs.isdisjoint(step.operands):
            return found
        return [bands for bands in found if bands.groups is None]

    def _over(self, step: Step, number: int, memory: Memory) -> TensorKey | None:
        """The residual operand, if the result may lie over it: nobody reads it again."""
        operation = step.operations[0]
        if not isinstance(operation, Gemm) or operation.residual in (None, operation.source):
            return None
        if memory & {operation.residual, step.target} or self._dies[operation.residual] > number:
            return None
        return None if operation.wide else operation.residual

    def _place(self, memory: Memory) -> MemoryPlan:
        """Places with ``memory`` there. Raises _NoBands."""
        live_ranges = [
            LiveRange(
                key=key,
                place=self._forms[key],
                born=self._born[key],
                dies=self._dies[key],
                over=self._over(step, self._born[key], memory)
                if (step := self._steps[self._born[key]]).target == key
                else None,
            )
            for key in self._whole
            if key not in memory
        ]
        try:
            places = allocate(live_ranges, self._config)
        except NoRoom as error:
            raise _NoBands(error.live.born) from error
        alive = defaultdict(list)
        for live in live_ranges:
            for number in range(live.born, live.dies + 1):
                alive[number].append(places[live.key])
        bands = {}
        for number, step in enumerate(self._steps):
            if memory.isdisjoint((*step.operands, step.target)):
                continue
            taken = [(place.address, place.address + place.words) for place in alive[number]]
            fitting = (self._fitted(option, taken) for option in self._options(step, memory))
            placed = next(filter(None, fitting), None)
            if placed is None:
                raise _NoBands(number)
            bands[step.target] = placed
        rest = {key: self._forms[key] for key in self._born if key not in places}
        operations = tuple(operation for step in self._steps for operation in step.operations)
        return MemoryPlan(operations, places | rest, bands)

    def _fitted(self, bands: Bands, taken: Sequence[tuple[int, int]]) -> Bands | None:
        """``bands`` at addresses between those that are taken, None if there is no room."""
        taken, places = sorted(taken), {}
        for key, place in sorted(bands.places.items(), key=lambda item: -item[1].words):
            address, words = 0, bands.copies * place.words
            for begin, end in taken:
                if address + words <= begin:
                    break
                address = max(address, end)
            if address + words > self._depth:
                return None
            taken = sorted([*taken, (address, address + words)])
            places[key] = dataclasses.replace(place, address=address)
        return dataclasses.replace(bands, places=places)


def _moves(form: TensorLayout) -> bool:
    """True if a load or store has a tensor of this form."""
    return form.groups * form.planes <= MAX_GROUPS or (form.height, form.width) == (1, 1)


def _names(memory: Memory) -> list[str]:
    return sorted(map(str, memory))
