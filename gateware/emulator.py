# SPDX-License-Identifier: Apache-2.0
"""Executes a program in numpy, descriptor by descriptor, from the same bytes as the accelerator."""

import numpy as np

from gateware import isa
from gateware.compiler.pack import unpack_weights
from gateware.config import AccelConfig
from gateware.isa import Opcode
from gateware.pe.lanes import row_engines
from gateware.transfer import WIDE_BITS
from quant import numerics
from quant.numerics import ACT_BITS, BIAS_BITS


class EmulatorError(RuntimeError):
    """The program asks for something that the accelerator would refuse."""


class Emulator:
    """State of one accelerator: its buffers.

    Parameters
    ----------
    config : AccelConfig
    """

    def __init__(self, config: AccelConfig) -> None:
        self.config = config
        self.act = np.zeros((config.banks, config.act_depth, config.k), np.int64)
        self.wide = np.zeros(config.wide_depth, np.int64)
        self.weights = b""
        self.slots: list[dict] = []

    def run(self, image: bytes, tensor: bytes, output_size: int) -> bytes:
        """Execute ``image`` on the bytes of an input tensor; returns the bytes from OUTPUT_BASE on.

        Raises EmulatorError for an opcode that does not exist.
        """
        output = bytearray(output_size)
        bases = {isa.Base.PROGRAM: image, isa.Base.INPUT: tensor, isa.Base.OUTPUT: output}
        at = 0
        while True:
            word = int.from_bytes(image[at:at + isa.DESCRIPTOR_BYTES], "little")
            at += isa.DESCRIPTOR_BYTES
            opcode = word & 0xFF
            if opcode == Opcode.END:
                return bytes(output)
            if opcode == Opcode.EXECUTE:
                self._execute(isa.unpack(isa.EXECUTE, word))
                continue
            if opcode not in list(Opcode):
                index = at // isa.DESCRIPTOR_BYTES - 1
                raise EmulatorError(f"descriptor {index} has opcode {opcode}")
            layout = isa.TENSOR if "TENSOR" in Opcode(opcode).name else isa.TRANSFER
            self._transfer(Opcode(opcode), isa.unpack(layout, word), bases)

    def _transfer(self, opcode: Opcode, f: dict[str, int],
                  bases: dict[int, bytes | bytearray]) -> None:
        size = f["beats"] * self.config.bus_bits // 8
        memory, start = bases[f["base"]], f["offset"]
        match opcode:
            case Opcode.LOAD_WEIGHTS:
                self.weights = self._overlay(self.weights, f["destination"],
                                             memory[start:start + size], self.config.weight_beats)
            case Opcode.LOAD_SLOTS:
                word = isa.slot_beats(self.config) * self.config.bus_bits // 8
                slots = [_unpack_slot(memory[start + i:start + i + word], self.config)
                         for i in range(0, size, word)]
                self.slots[f["destination"]:f["destination"] + len(slots)] = slots
            case Opcode.LOAD_TENSOR:
                packed = np.frombuffer(memory[start:start + size], np.uint8)
                nibbles = np.stack([packed & 15, packed >> 4], -1)
                self.act[self._walk(f)] = nibbles.reshape(f["beats"], self.config.k)
            case Opcode.STORE_TENSOR:
                nibbles = self.act[self._walk(f)].reshape(-1)
                packed = (nibbles[0::2] | nibbles[1::2] << 4).astype(np.uint8)
                memory[start:start + size] = packed.tobytes()
            case Opcode.STORE_WIDE:
                results = self.wide[:size * 8 // WIDE_BITS]
                memory[start:start + size] = results.astype("<i8").tobytes()

    def _overlay(self, old: bytes, destination: int, new: bytes, beats: int) -> bytes:
        at = destination * beats * self.config.bus_bits // 8
        return old[:at].ljust(at, b"\0") + new + old[at + len(new):]

    def _walk(self, f: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
        """Bank and address of every word of a tensor in memory order."""
        y, x, group = np.meshgrid(*(np.arange(f[n]) for n in ("height", "width", "groups")),
                                  indexing="ij")
        address = (f["address"] + y * f["row_pitch"] + group * f["group_pitch"]
                   + x // self.config.banks)
        return x.reshape(-1) % self.config.banks, self._wrap(address).reshape(-1)

    def _wrap(self, address: np.ndarray) -> np.ndarray:
        return address % min(self.config.act_depth, 1 << isa.ADDRESS_BITS)

    def _execute(self, f: dict[str, int]) -> None:
        sums = self._pool_sums(f) if f["pool"] else self._gemm_sums(f)
        y, x = np.meshgrid(np.arange(f["out_height"]), np.arange(f["out_width"]), indexing="ij")
        pixel, bank = y * f["out_row_pitch"] + x // self.config.banks, x % self.config.banks
        for slot in self.slots[f["slot_address"]:f["slot_address"] + f["slots"]]:
            for column, entry in enumerate(slot["columns"]):
                if entry["enable"]:
                    self._drain(f, sums, slot["lanes"][entry["lane"]], entry, column, pixel, bank)

    def _drain(self, f: dict[str, int], sums: np.ndarray, lane: dict, entry: dict, column: int,
               pixel: np.ndarray, bank: np.ndarray) -> None:
        """Requantise one engine lane over all pixels and write it to its column."""
        acc = sums[..., lane["row"] * self.config.requant_lanes + entry["lane"]]
        constants = (lane["multiplier"], lane["bias"], lane["shift"])
        if f["wide"]:
            self.wide[entry["offset"]] = numerics.accumulate(acc, *constants)[0, 0]
            return
        place = pixel + entry["offset"]
        residual = 0
        if f["residual"]:
            residual = self._nibble(f["residual_address"] + place, bank, lane["column"])
            if f["residual_planes"]:
                low = self._nibble(f["residual_address"] + f["residual_plane_pitch"] + place, bank,
                                   lane["column"])
                residual = residual << ACT_BITS | low
        y = numerics.requantise(acc, *constants, f["low"], f["high"], residual, f["residual_n"])
        out = f["out_address"] + place
        if f["out_planes"]:
            self.act[bank, self._wrap(out), column] = y >> ACT_BITS
            out = out + f["out_plane_pitch"]
        self.act[bank, self._wrap(out), column] = y & numerics.NIBBLE_MAX

    def _nibble(self, address: np.ndarray, bank: np.ndarray, column: int) -> np.ndarray:
        return self.act[bank, self._wrap(address), column]

    def _words(self, f: dict[str, int], plane: int) -> np.ndarray:
        """Activation words (out_height, out_width, kernel_y, kernel_x, groups, k) of one plane."""
        y = np.arange(f["out_height"])[:, None] * f["stride_y"] + np.arange(f["kernel_y"])
        x = (np.arange(f["out_width"])[:, None] * f["stride_x"] + np.arange(f["kernel_x"])
             - f["pad_left"])
        row = f["first_row"] + plane * f["plane_pitch"] + y * f["row_pitch"]
        address = (row[:, None, :, None, None] + (x // self.config.banks)[None, :, None, :, None]
                   + np.arange(f["groups"]) * f["group_pitch"])
        bank = np.broadcast_to((x % self.config.banks)[None, :, None, :, None], address.shape)
        words = self.act[bank, self._wrap(address)]
        inside_y, inside_x = y - f["pad_top"], x
        inside = (((inside_y >= 0) & (inside_y < f["height"]))[:, None, :, None]
                  & ((inside_x >= 0) & (inside_x < f["width"]))[None, :, None, :])
        high_plane = f["planes"] and plane == 0
        pad = f["pad_value"] >> ACT_BITS if high_plane else f["pad_value"] & numerics.NIBBLE_MAX
        return np.where(inside[..., None, None], words, pad)

    def _gemm_sums(self, f: dict[str, int]) -> np.ndarray:
        """Raw sums (out_height, out_width, rows), as the engines give them."""
        count = f["kernel_y"] * f["kernel_x"] * f["groups"]
        word = self.config.weight_beats * self.config.bus_bits // 8
        first = f["weight_address"] * word
        values = unpack_weights(self.weights[first:first + count * word], self.config)
        flat = values.transpose(1, 0, 2).reshape(self.config.rows, -1)
        total = np.array([placed.engine.offset(flat[lane], f["planes"] + 1)
                          for placed in row_engines(self.config) for lane in placed.lanes])
        for plane in range(f["planes"] + 1):
            words = self._words(f, plane).reshape(f["out_height"], f["out_width"], -1)
            weight = 1 << ACT_BITS if f["planes"] and plane == 0 else 1
            total = total + weight * (words.astype(np.float64) @ flat.T).astype(np.int64)
        return total

    def _pool_sums(self, f: dict[str, int]) -> np.ndarray:
        """Sums (out_height, out_width, rows + k) with the row lanes zero."""
        pooled = 0
        for plane in range(f["planes"] + 1):
            words = self._words(f, plane)[:, :, :, :, 0]
            if f["pool_sum"]:
                pooled = (pooled << ACT_BITS) + words.sum((2, 3)) if plane else words.sum((2, 3))
            else:
                pooled = words.max((2, 3))
        row_lanes = np.zeros((*pooled.shape[:2], self.config.rows), np.int64)
        return np.concatenate([row_lanes, pooled], -1)


def _unpack_slot(stored: bytes, config: AccelConfig) -> dict:
    """The fields of a stored slot: ``lanes`` and ``columns`` as lists of dicts."""
    layout, word = isa.slot_layout(config), int.from_bytes(stored, "little")
    slot = {}
    for name in ("lanes", "columns"):
        array = layout[name]
        entry = array.shape.elem_shape
        slot[name] = [isa.unpack(entry, word >> array.offset + i * entry.size)
                      for i in range(array.shape.length)]
    for lane in slot["lanes"]:
        lane["bias"] -= (lane["bias"] >> BIAS_BITS - 1) << BIAS_BITS
    return slot
