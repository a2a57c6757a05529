# SPDX-License-Identifier: Apache-2.0
"""Emulator: the bytes of a program executed in numpy, descriptor by descriptor.

Descriptors take effect in the order of the program. The accelerator overlaps them, so the emulator
also checks that every access is ordered by waits (:mod:`gateware.model.hazards`).
"""

import itertools
from collections.abc import Iterator, Mapping

import numpy as np

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.arch.isa import Opcode
from gateware.arch.refusal import refusal
from gateware.arch.registers import ErrorCode
from gateware.compiler.pack import unpack_weights
from gateware.model.hazards import HazardError, Hazards
from gateware.pe.lanes import row_engines
from ir import numerics
from ir.numerics import ACT_BITS


class EmulatorError(RuntimeError):
    """Request of a program that the accelerator would refuse, or never begin."""


class Emulator:
    """Emulator of one accelerator, with the state of its buffers.

    Parameters
    ----------
    config : AccelConfig
    """

    def __init__(self, config: AccelConfig) -> None:
        self.config = config
        self.act = np.zeros((config.banks, config.act_depth, config.k), np.int64)
        self.wide = np.zeros(config.wide_depth, np.int64)
        self._weight_bytes = config.weight_beats * config.bus_bits // 8
        self.weights = np.zeros((config.weight_depth, self._weight_bytes), np.uint8)
        self.slots: list[dict | None] = [None] * config.slot_depth
        self._sums = np.zeros((0, 0, 0), np.int64)  # of the last pixel group, if there is but one
        self.table = np.zeros(numerics.TABLE_SIZE, np.int64)
        self._hazards = self._new_hazards(0)

    def _new_hazards(self, output_size: int) -> Hazards:
        config = self.config
        return Hazards(
            {
                "memory": (output_size * 8 // config.bus_bits,),
                "act": (config.banks, config.act_depth),
                "wide": (config.wide_depth,),
                "weights": (config.weight_depth,),
                "slots": (config.slot_depth,),
                "table": (1,),
            }
        )

    def run(self, image: bytes, tensor: bytes, output_size: int) -> bytes:
        """Bytes from OUTPUT_BASE on, ``output_size`` of them, after a run of ``image`` on the bytes
        of an input tensor.

        Raises EmulatorError for a descriptor that the accelerator refuses, and for an access that
        may come too early or too late.
        """
        self._hazards = self._new_hazards(output_size)
        output = bytearray(output_size)
        bases = {
            int(isa.Base.PROGRAM): memoryview(image),
            int(isa.Base.INPUT): memoryview(tensor),
            int(isa.Base.OUTPUT): memoryview(output),
        }
        for index, descriptor in enumerate(self._decoded(image, bases)):
            if descriptor.opcode is Opcode.END:
                break
            try:
                self._hazards.begin(descriptor.queue, index, descriptor.waits)
                if descriptor.opcode is Opcode.EXECUTE:
                    self._execute(descriptor.fields)
                else:
                    self._transfer(descriptor, bases)
            except HazardError as error:
                raise EmulatorError(str(error)) from error
        return bytes(output)

    def _decoded(self, image: bytes, bases: Mapping[int, memoryview]) -> Iterator[isa.Descriptor]:
        """Descriptors of ``image``. Raises EmulatorError for one that the accelerator refuses."""
        sizes = {isa.Base(base): len(memory) for base, memory in bases.items()}
        for index in itertools.count():
            start = index * isa.DESCRIPTOR_BYTES
            bits = int.from_bytes(image[start : start + isa.DESCRIPTOR_BYTES], "little")
            code = refusal(bits, self.config, sizes)
            if code is not ErrorCode.NONE:
                opcode = isa.unpack(isa.HEADER, bits)["opcode"]
                raise EmulatorError(
                    f"descriptor {index} has opcode {opcode} and is refused with {code.name}"
                )
            yield isa.decode(bits)

    def _transfer(self, descriptor: isa.Descriptor, bases: Mapping[int, memoryview]) -> None:
        f = descriptor.fields
        size = f["beats"] * self.config.bus_bits // 8
        memory, start = bases[f["base"]], f["offset"]
        match descriptor.opcode:
            case Opcode.LOAD_WEIGHTS:
                words = self._words_of_ports(
                    memory[start : start + size * self.config.ports], self.config.weight_beats
                )
                at = self._buffer_words("weights", f["destination"], len(words))
                self._hazards.write("weights", at)
                self.weights[at] = words
            case Opcode.LOAD_SLOTS:
                self._hazards.write("slots", self.load_slots(f, memory))
            case Opcode.LOAD_TABLE:
                self._hazards.write("table", np.zeros(1, np.int64))
                beats = np.frombuffer(memory[start : start + size], np.uint8)
                self.table[: f["beats"]] = beats.reshape(f["beats"], -1)[:, 0]
            case Opcode.LOAD_TENSOR:
                if f["base"] == isa.Base.OUTPUT:
                    self._hazards.read("memory", self._bus_words(f))
                packed = np.frombuffer(memory[start : start + size], np.uint8)
                nibbles = np.stack([packed & 15, packed >> 4], -1)
                self._hazards.write("act", *self._walk(f))
                self.act[self._walk(f)] = nibbles.reshape(f["beats"], self.config.k)
            case Opcode.STORE_TENSOR:
                self._hazards.read("act", *self._walk(f))
                self._hazards.write("memory", self._bus_words(f))
                nibbles = self.act[self._walk(f)].reshape(-1)
                packed = (nibbles[0::2] | nibbles[1::2] << 4).astype(np.uint8)
                memory[start : start + size] = packed.tobytes()
            case Opcode.STORE_WIDE:
                at = self._buffer_words("wide", f["destination"], size * 8 // isa.WIDE_BITS)
                self._hazards.read("wide", at)
                memory[start : start + size] = self.wide[at].astype("<i8").tobytes()

    def load_slots(self, f: dict[str, int], memory: bytes | memoryview) -> np.ndarray:
        """Places in the slot buffer, int64 (slots,), that a LOAD_SLOTS with the fields ``f`` has
        filled."""
        size = f["beats"] * self.config.bus_bits // 8 * self.config.ports
        words = self._words_of_ports(
            memory[f["offset"] : f["offset"] + size], isa.slot_beats(self.config)
        )
        at = self._buffer_words("slots", f["destination"], len(words))
        for place, word in zip(at.tolist(), words, strict=True):
            bits = int.from_bytes(word.tobytes(), "little")
            self.slots[place] = isa.unpack_slot(self.config, bits)
        return at

    def _words_of_ports(self, stored: bytes | memoryview, word_beats: int) -> np.ndarray:
        """Bytes (words, bytes of a word) of what the ports bring one after the other."""
        ports, beat_bytes = self.config.ports, self.config.bus_bits // 8
        parts = np.frombuffer(stored, np.uint8).reshape(ports, -1, word_beats // ports, beat_bytes)
        return parts.transpose(1, 2, 0, 3).reshape(-1, word_beats * beat_bytes)

    def _bus_words(self, f: dict[str, int]) -> np.ndarray:
        return f["offset"] * 8 // self.config.bus_bits + np.arange(f["beats"])

    def _buffer_words(self, buffer: str, first: int, count: int) -> np.ndarray:
        depth = {
            "weights": self.config.weight_depth,
            "slots": self.config.slot_depth,
            "wide": self.config.wide_depth,
        }[buffer]
        return (first + np.arange(count)) % depth

    def _walk(self, f: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
        """Bank and address of every word of a tensor in memory order."""
        y, x, group = np.meshgrid(
            *(np.arange(f[n]) for n in ("height", "width", "groups")), indexing="ij"
        )
        address = (
            f["address"] + y * f["row_pitch"] + group * f["group_pitch"] + x // self.config.banks
        )
        return x.reshape(-1) % self.config.banks, self._wrap(address).reshape(-1)

    def _wrap(self, address: np.ndarray) -> np.ndarray:
        return address % min(self.config.act_depth, 1 << isa.ADDRESS_BITS)

    def _execute(self, f: dict[str, int]) -> None:
        sums = self._pool_sums(f) if f["pool"] else self._gemm_sums(f)
        y, x = np.meshgrid(np.arange(f["out_height"]), np.arange(f["out_width"]), indexing="ij")
        pixel, bank = y * f["out_row_pitch"] + x // self.config.banks, x % self.config.banks
        at = self._buffer_words("slots", f["slot_address"], f["slots"])
        self._hazards.read("slots", at)
        if f["table"]:
            self._hazards.read("table", np.zeros(1, np.int64))
        for slot in (self.slots[place] for place in at.tolist()):
            for column, entry in enumerate(slot["columns"]):
                if entry["enable"]:
                    self._drain(f, sums, slot["lanes"][entry["lane"]], entry, column, pixel, bank)

    def _drain(
        self,
        f: dict[str, int],
        sums: np.ndarray,
        lane: dict,
        entry: dict,
        column: int,
        pixel: np.ndarray,
        bank: np.ndarray,
    ) -> None:
        """Requantise one engine lane over all pixels and write it to its column."""
        acc = sums[..., lane["row"] * self.config.requant_lanes + entry["lane"]]
        constants = (lane["multiplier"], lane["bias"], lane["shift"])
        if f["wide"]:
            at = (
                f["out_address"] + entry["offset"] + pixel * self.config.banks + bank
            ) % self.config.wide_depth
            self._hazards.write("wide", at)
            self.wide[at] = numerics.accumulate(acc, *constants)
            return
        place = pixel + entry["offset"]
        residual: int | np.ndarray = 0
        if f["residual"]:
            residual = self._operand(f, lane["column"], entry["offset"], pixel, bank)
        if f["product"]:
            m = lane["multiplier"] - (1 << numerics.MULTIPLIER_BITS) * (lane["multiplier"] > 0)
            acc = acc * ((residual << numerics.TABLE_BITS) + m)
            residual, constants = numerics.act_max(8) - residual, (1, *constants[1:])
        y = numerics.requantise(acc, *constants, f["low"], f["high"], residual, f["residual_n"])
        if f["table"]:
            y = self.table[y]
        out = f["out_address"] + place
        if f["out_planes"]:
            self._hazards.write("act", bank, self._wrap(out))
            self.act[bank, self._wrap(out), column] = y >> ACT_BITS
            out = out + f["out_plane_pitch"]
        self._hazards.write("act", bank, self._wrap(out))
        self.act[bank, self._wrap(out), column] = y & numerics.NIBBLE_MAX

    def _operand(
        self, f: dict[str, int], column: int, offset: int, pixel: np.ndarray, bank: np.ndarray
    ) -> np.ndarray:
        """Codes of the residual operand of each pixel."""
        if f["broadcast"]:
            pixel, bank = np.zeros_like(pixel), np.zeros_like(bank)
        at = f["residual_address"] + pixel + offset
        residual = self._nibble(at, bank, column)
        if f["residual_planes"]:
            low = self._nibble(at + f["residual_plane_pitch"], bank, column)
            residual = residual << ACT_BITS | low
        return residual

    def _nibble(self, address: np.ndarray, bank: np.ndarray, column: int) -> np.ndarray:
        self._hazards.read("act", bank, self._wrap(address))
        return self.act[bank, self._wrap(address), column]

    def _words(self, f: dict[str, int], plane: int) -> np.ndarray:
        """Activation words (out_height, out_width, kernel_y, kernel_x, groups, k) of one plane."""
        y = np.arange(f["out_height"])[:, None] * f["stride_y"] + np.arange(f["kernel_y"])
        x = (
            np.arange(f["out_width"])[:, None] * f["stride_x"]
            + np.arange(f["kernel_x"])
            - f["pad_left"]
        )
        row = f["first_row"] + plane * f["plane_pitch"] + y * f["row_pitch"]
        address = (
            row[:, None, :, None, None]
            + (x // self.config.banks)[None, :, None, :, None]
            + np.arange(f["groups"]) * f["group_pitch"]
        )
        bank = np.broadcast_to((x % self.config.banks)[None, :, None, :, None], address.shape)
        words = self.act[bank, self._wrap(address)]
        inside_y, inside_x = y - f["pad_top"], x
        inside = ((inside_y >= 0) & (inside_y < f["height"]))[:, None, :, None] & (
            (inside_x >= 0) & (inside_x < f["width"])
        )[None, :, None, :]
        inside = np.broadcast_to(inside[..., None], address.shape)
        self._hazards.read("act", bank[inside], self._wrap(address[inside]))
        high_plane = f["planes"] and plane == 0
        pad = f["pad_value"] >> ACT_BITS if high_plane else f["pad_value"] & numerics.NIBBLE_MAX
        return np.where(inside[..., None], words, pad)

    def _gemm_sums(self, f: dict[str, int]) -> np.ndarray:
        """Raw sums (out_height, out_width, rows), as the engines give them."""
        count = f["kernel_y"] * f["kernel_x"] * f["groups"]
        at = self._buffer_words("weights", f["weight_address"], count)
        self._hazards.read("weights", at)
        values = unpack_weights(self.weights[at].tobytes(), self.config)
        flat = values.transpose(1, 0, 2).reshape(self.config.rows, -1)
        total = np.concatenate(
            [
                placed.engine.offsets(flat[placed.lanes], f["planes"] + 1)
                for placed in row_engines(self.config)
            ]
        )
        for plane in range(f["planes"] + 1):
            words = self._words(f, plane).reshape(f["out_height"], f["out_width"], -1)
            weight = 1 << ACT_BITS if f["planes"] and plane == 0 else 1
            total = total + weight * (words.astype(np.float64) @ flat.T).astype(np.int64)
        if f["resume"]:
            total += self._before(f, total) << ACT_BITS * f["lower"]
        self._sums = total[:1, : self.config.pixels]
        return total

    def _before(self, f: dict[str, int], total: np.ndarray) -> np.ndarray:
        """Sums that an EXECUTE goes on with, of the shape of its own ``total``."""
        if not self.config.parts or f["planes"] or self._sums.shape != total.shape:
            raise EmulatorError("an EXECUTE goes on with sums that are not there")
        return self._sums

    def _pool_sums(self, f: dict[str, int]) -> np.ndarray:
        """Sums (out_height, out_width, rows + k) with the row lanes zero."""
        planes = [self._words(f, plane)[:, :, :, :, 0] for plane in range(f["planes"] + 1)]
        if f["pool_sum"]:
            pooled = planes[0].sum((2, 3))
            for words in planes[1:]:
                pooled = (pooled << ACT_BITS) + words.sum((2, 3))
        else:
            pooled = planes[-1].max((2, 3))
        if f["resume"]:
            before = self._before(f, pooled)
            pooled = (
                pooled + (before << ACT_BITS * f["lower"])
                if f["pool_sum"]
                else np.maximum(pooled, before)
            )
        self._sums = pooled[:1, : self.config.pixels]
        row_lanes = np.zeros((*pooled.shape[:2], self.config.rows), np.int64)
        return np.concatenate([row_lanes, pooled], -1)
