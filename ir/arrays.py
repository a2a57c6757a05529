# SPDX-License-Identifier: Apache-2.0
"""The arrays of one layer with weights, as integers and as a graph file stores them."""

import dataclasses

import numpy as np

from ir import numerics
from ir.numerics import Scheme


class GraphError(ValueError):
    """Error of a graph or graph file that cannot be used; the message is one line that says why."""


class ExportError(ValueError):
    """Error of a trained value that the accelerator's number formats cannot hold."""


#: Types of the arrays that a graph file holds of a layer, each of one dimension.
STORED = {
    "codes": np.uint8,
    "shape": np.int32,
    "scheme": np.uint8,
    "multiplier": np.int32,
    "bias": np.int64,
    "shift": np.uint8,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerArrays:
    """Arrays of one conv or linear layer with O rows.

    values : int64 (O, I/groups, kh, kw) or (O, I), weight values of each row's scheme
    scheme : uint8 (O,), :class:`~ir.numerics.Scheme` numbers
    multiplier, bias, shift : int64 (O,), M, B and S of the requantisation

    Raises :class:`GraphError` for an array whose values its type cannot hold.
    """

    values: np.ndarray
    scheme: np.ndarray
    multiplier: np.ndarray
    bias: np.ndarray
    shift: np.ndarray

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            given = np.asarray(getattr(self, field.name))
            dtype = np.uint8 if field.name == "scheme" else np.int64
            array = np.ascontiguousarray(given.astype(dtype))
            if not np.array_equal(array, np.atleast_1d(given)):
                raise GraphError(
                    f"layer array {field.name!r} of {given.dtype} is not {array.dtype}"
                )
            object.__setattr__(self, field.name, array)

    @property
    def rows(self) -> np.ndarray:
        """``values`` as int64 (O, terms)."""
        return self.values.reshape(len(self.values), -1)

    def pack(self) -> dict[str, np.ndarray]:
        """Arrays as stored: ``codes`` holds one row after the other, 4-bit codes two to a byte.

        ``codes``, ``scheme`` and ``shift`` are uint8, ``shape`` and ``multiplier`` int32, ``bias``
        int64. Raises ValueError for a weight value that its row's scheme does not have.
        """
        packed: dict[int, np.ndarray] = {}
        for scheme in Scheme:
            (mine,) = np.nonzero(self.scheme == scheme)
            codes = numerics.encode_weights(scheme, self.rows[mine])
            if scheme.bits == 4:
                codes = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2)))
                codes = codes[:, 0::2] | codes[:, 1::2] << 4
            packed |= zip(mine.tolist(), codes, strict=True)
        return {
            "codes": np.concatenate([packed[row] for row in range(len(self.rows))]),
            "shape": np.array(self.values.shape, np.int32),
            "scheme": self.scheme,
            "multiplier": self.multiplier.astype(np.int32),
            "bias": self.bias,
            "shift": self.shift.astype(np.uint8),
        }

    @classmethod
    def unpack(cls, stored: dict[str, np.ndarray]) -> "LayerArrays":
        """Inverse of :meth:`pack`; raises ValueError for codes that mean nothing, and KeyError for
        an array that is missing."""
        for name, dtype in STORED.items():
            if stored[name].dtype != dtype or stored[name].ndim != 1:
                raise ValueError(f"{name} is {stored[name].dtype} of {stored[name].shape}")
        shape, codes = tuple(int(d) for d in stored["shape"]), stored["codes"]
        if min(shape, default=0) < 1 or len(stored["scheme"]) != shape[0]:
            raise ValueError("shape and scheme table disagree")
        terms, at, rows = int(np.prod(shape[1:])), 0, []
        for number in stored["scheme"]:
            scheme = Scheme(int(number))
            size = terms if scheme.bits == 8 else -(-terms // 2)
            row = codes[at : at + size]
            at += size
            if scheme.bits == 4:
                row = np.stack([row & 15, row >> 4], 1).reshape(-1)[:terms]
            if len(row) != terms:
                raise ValueError("codes end early")
            rows.append(numerics.decode_weights(scheme, row))
        if at != len(codes):
            raise ValueError("codes are too long")
        return cls(
            values=np.stack(rows).reshape(shape),
            scheme=stored["scheme"],
            multiplier=stored["multiplier"],
            bias=stored["bias"],
            shift=stored["shift"],
        )
