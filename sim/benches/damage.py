# SPDX-License-Identifier: Apache-2.0
"""Damaged programs, and how the accelerator must end them."""

import dataclasses
import random
from collections.abc import Callable, Sequence

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.arch.isa import Base, Opcode
from gateware.arch.refusal import refusal
from gateware.arch.registers import ErrorCode

#: Codes that :func:`gateware.arch.refusal.refusal` foresees.
REFUSALS = (ErrorCode.BAD_DESCRIPTOR, ErrorCode.OUT_OF_BOUNDS)

Sizes = dict[Base, int]


@dataclasses.dataclass
class Damaged:
    """Program with damage.

    words : descriptors, and what is fetched beyond the last
    sizes : bytes of the buffers that the host names
    said : what was done to it
    data : what lies behind ``words`` in memory, as descriptors that it would be
    """

    words: list[int]
    sizes: Sizes
    said: str = ""
    data: tuple[int, ...] = ()

    def end(self, config: AccelConfig) -> tuple[int, ErrorCode]:
        """Number of the first descriptor that is END or is refused, and the error."""
        group = isa.FETCH_GROUP * isa.DESCRIPTOR_BYTES
        fetched = self.sizes[Base.PROGRAM] // group * isa.FETCH_GROUP
        words = [*self.words, *self.data][:fetched]
        for index, word in enumerate(words):
            code = refusal(word, config, self.sizes)
            if code is not ErrorCode.NONE or isa.unpack(isa.HEADER, word)["opcode"] == Opcode.END:
                return index, code
        return len(words), ErrorCode.BAD_DESCRIPTOR


def damaged(rng: random.Random, words: Sequence[int], sizes: Sizes, config: AccelConfig) -> Damaged:
    """One of many kinds of damage to a program, by chance."""
    program = Damaged(list(words), dict(sizes))
    end = next(index for index, word in enumerate(words) if isa.decode(word).opcode is Opcode.END)
    kind = rng.choice(KINDS)
    program.said = f"{kind.__name__[1:].replace('_', ' ')} {kind(rng, program, end, config)}"
    return program


def _random_bits(rng: random.Random, program: Damaged, end: int, config: AccelConfig) -> str:
    """Descriptors of random bits; of most the opcode is one that there is."""
    first = rng.randint(0, end)
    count = rng.choice([1, 1, 2, 5, end + 1 - first])
    for index in range(first, min(first + count, end + 1)):
        word = rng.getrandbits(isa.DESCRIPTOR_BITS)
        if rng.random() < 0.8:
            word = word >> isa.OPCODE_BITS << isa.OPCODE_BITS | rng.choice([*Opcode])
        program.words[index] = word
    return f"from {first}"


def _flipped_bits(rng: random.Random, program: Damaged, end: int, config: AccelConfig) -> str:
    flips = [
        (rng.randint(0, end), rng.randrange(isa.DESCRIPTOR_BITS))
        for _ in range(rng.choice([1, 1, 2, 8]))
    ]
    for index, bit in flips:
        program.words[index] ^= 1 << bit
    return str(flips)


def _wrong_field(rng: random.Random, program: Damaged, end: int, config: AccelConfig) -> str:
    """A field at an end of its range, off by one, or anything."""
    index = rng.randrange(end)
    descriptor = isa.decode(program.words[index])
    layout = isa.LAYOUTS[descriptor.opcode]
    name, field = rng.choice([*layout])
    top, value = (1 << field.width) - 1, descriptor.fields[name]
    choices = [
        0,
        1,
        top,
        top - 1,
        value ^ 1,
        value + 1,
        value - 1,
        2 * value,
        rng.getrandbits(field.width),
    ]
    fields = descriptor.fields | {name: rng.choice(choices) & top}
    above = program.words[index] >> layout.size << layout.size
    program.words[index] = isa.pack(layout, **fields) | above
    return f"{name} = {fields[name]} of {descriptor.opcode.name} {index}"


def _edge_of_a_buffer(rng: random.Random, program: Damaged, end: int, config: AccelConfig) -> str:
    """A transfer that ends at, or just beyond, the end of a buffer."""
    transfers = [i for i in range(end) if isa.decode(program.words[i]).opcode is not Opcode.EXECUTE]
    index, beat = rng.choice(transfers), config.bus_bits // 8
    descriptor = isa.decode(program.words[index])
    layout, base = isa.LAYOUTS[descriptor.opcode], rng.choice([*Base])
    spread = config.ports if descriptor.opcode in (Opcode.LOAD_WEIGHTS, Opcode.LOAD_SLOTS) else 1
    beats = rng.choice([descriptor.fields["beats"], rng.getrandbits(6)])
    last = program.sizes[base] // beat - beats * spread + rng.choice([-1, 0, 0, 1, 2])
    fields = descriptor.fields | {"base": base, "beats": beats, "offset": last * beat % (1 << 32)}
    program.words[index] = isa.pack(layout, **fields)
    return f"{base.name} of {descriptor.opcode.name} {index}, {beats} beats"


def _wrong_waits(rng: random.Random, program: Damaged, end: int, config: AccelConfig) -> str:
    """Waits for what never comes, or for nothing."""
    index = rng.randrange(end)
    waits = {
        f"wait_{name}": rng.choice([0, 1, rng.getrandbits(6), rng.getrandbits(16)])
        for name in isa.QUEUES
    }
    header = isa.unpack(isa.HEADER, program.words[index]) | waits
    above = program.words[index] >> isa.HEADER.size << isa.HEADER.size
    program.words[index] = isa.pack(isa.HEADER, **header) | above
    return f"of {index}: {waits}"


def _other_order(rng: random.Random, program: Damaged, end: int, config: AccelConfig) -> str:
    """Descriptors exchanged, lost or repeated."""
    a, b = sorted(rng.randint(0, end) for _ in range(2))
    words, length = program.words, len(program.words)
    match rng.choice(["exchanged", "lost", "repeated", "all the same"]):
        case "exchanged":
            words[a], words[b] = words[b], words[a]
        case "lost":
            words[a : b + 1] = []
        case "repeated":
            words[a:a] = words[a : b + 1]
        case "all the same":
            words[:] = [words[a]] * length
    program.words = (words + [0] * length)[:length]
    return f"{a} to {b}"


def _no_end(rng: random.Random, program: Damaged, end: int, config: AccelConfig) -> str:
    """A program cut off, or one that runs into its own data."""
    if rng.random() < 0.5:
        program.sizes[Base.PROGRAM] = rng.randrange((end + 8) * isa.DESCRIPTOR_BYTES)
        return f"{program.sizes[Base.PROGRAM]} bytes are left"
    program.words[end] = program.words[rng.randrange(end)]
    return "it has none"


def _small_buffers(rng: random.Random, program: Damaged, end: int, config: AccelConfig) -> str:
    """A host that names buffers that are too small, or of no whole beat."""
    base = rng.choice([*Base])
    size = program.sizes[base]
    program.sizes[base] = rng.choice([0, 1, size // 2, size - 1, rng.randint(0, size)])
    return f"{base.name} of {program.sizes[base]} bytes"


Kind = Callable[[random.Random, Damaged, int, AccelConfig], str]
KINDS: tuple[Kind, ...] = (
    _random_bits,
    _random_bits,
    _flipped_bits,
    _wrong_field,
    _edge_of_a_buffer,
    _wrong_waits,
    _other_order,
    _no_end,
    _small_buffers,
)
