# SPDX-License-Identifier: Apache-2.0
"""Mutations of files: of bytes, of JSON, of arrays. Each says in a few words what it did."""

import copy
import io
import json
import random
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

#: Values that no file should hold, or not where a mutation puts them.
VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    1,
    -1,
    3,
    255,
    256,
    1 << 20,
    (1 << 31) - 1,
    1 << 40,
    1 << 64,
    -(1 << 63),
    10**400,
    0.5,
    -1e308,
    float("inf"),
    float("nan"),
    "",
    "x",
    "0",
    "../../../outside",
    "/outside",
    "a\nb",
    "\u0000",
    "\ud800",
    "äöü 网络",
    "x" * 5000,
    [],
    [0],
    [[]],
    {},
    {"a": 1},
)


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Paths of all values in a JSON document, its own () among them."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, inner in items:
        yield from places(inner, (*path, key))


def at(value: Any, path: tuple) -> Any:
    """Value at a path of :func:`places`."""
    for key in path:
        value = value[key]
    return value


def mutated_json(rng: random.Random, document: Any) -> tuple[Any, str]:
    """Copy of ``document`` with one to three changes, and what they are."""
    document, said = copy.deepcopy(document), []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        paths = list(places(document))[1:]
        if not paths:
            break
        path = rng.choice(paths)
        said.append(_change(rng, at(document, path[:-1]), path[-1], paths, document))
        said[-1] = f"{'.'.join(map(str, path))} {said[-1]}"
    return document, "; ".join(said)


def _change(rng: random.Random, parent: Any, key: Any, paths: list[tuple], document: Any) -> str:
    """Change of one value in ``parent``."""
    old = parent[key]
    way = rng.choice(("value", "value", "number", "remove", "add", "other", "deep", "long"))
    if way == "number" and type(old) in (int, float):
        factor = rng.choice((-1, 2, 1000))
        parent[key] = rng.choice((old + 1, old - 1, old * factor, old // 2, float(old)))
    elif way == "remove":
        del parent[key]
        return "removed"
    elif way == "add" and isinstance(old, dict):
        old[rng.choice(("x", "", "name", "äöü"))] = rng.choice(VALUES)
    elif way == "add" and isinstance(old, list):
        old.insert(rng.randint(0, len(old)), copy.deepcopy(rng.choice([*old, *VALUES])))
    elif way == "long" and isinstance(old, list) and old:
        parent[key] = (old * 3)[: rng.randint(1, 3 * len(old))]
    elif way == "other":
        parent[key] = copy.deepcopy(at(document, rng.choice(paths)))
    elif way == "deep" and rng.random() < 0.1:
        parent[key] = _nested(rng.choice((50, 150)))
    else:
        parent[key] = copy.deepcopy(rng.choice(VALUES))
    return f"is {str(parent[key])[:60]!r}"


def _nested(depth: int) -> list:
    nested: list = []
    for _ in range(depth):
        nested = [nested]
    return nested


def mutated_text(rng: random.Random, text: str) -> tuple[str, str]:
    """JSON text that is mutated as a document or as bytes."""
    if rng.random() < 0.03:
        depth = rng.choice((2000, 100_000))
        return "[" * depth + "]" * depth, f"nested {depth} deep"
    if rng.random() < 0.1:
        return mutated_bytes(rng, text.encode())[0].decode("utf-8", "replace"), "bytes"
    document, said = mutated_json(rng, json.loads(text))
    return json.dumps(document), said


def mutated_bytes(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    """Copy of ``content`` that is cut, longer, or has other bytes."""
    if not content:
        return bytes(rng.randbytes(8)), "was empty"
    data, way = (
        bytearray(content),
        rng.choice(("flip", "flip", "head", "cut", "more", "zero", "swap")),
    )
    place = rng.randrange(len(data))
    if way == "flip":
        for _ in range(rng.choice((1, 1, 4, 30))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif way == "head":
        data[rng.randrange(min(64, len(data)))] = rng.choice((0, 1, 127, 128, 255))
    elif way == "cut":
        del data[place:]
    elif way == "more":
        data[place:place] = rng.randbytes(rng.choice((1, 8, 1000)))
    elif way == "zero":
        size = rng.choice((1, 16, 400))
        data[place : place + size] = bytes(min(size, len(data) - place))
    else:
        size = rng.choice((1, 8, 100))
        other = rng.randrange(len(data))
        data[place : place + size], data[other : other + size] = (
            data[other : other + size],
            data[place : place + size],
        )
    return bytes(data), f"bytes, {way} at {place} of {len(content)}"


DTYPES = ("uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "bool")


def mutated_array(rng: random.Random, array: np.ndarray) -> tuple[np.ndarray, str]:
    """Copy of an array with other values, another shape or another type."""
    way = rng.choice(("value", "value", "type", "shape", "empty", "rank", "more", "extreme"))
    array = np.array(array)
    if way == "type" and array.dtype.kind in "biuf":
        with np.errstate(all="ignore"):
            array = array.astype(rng.choice(DTYPES))
    elif way == "shape" and array.size:
        array = array.reshape(-1)[: rng.randrange(array.size)]
    elif way == "empty":
        array = array[:0] if array.ndim else array.reshape(1)[:0]
    elif way == "rank":
        array = array[None] if rng.random() < 0.5 else array.reshape(-1)
    elif way == "more" and array.ndim:
        array = np.concatenate([array, array])
    elif array.dtype.kind in "iuf" and array.size:
        flat = array.reshape(-1).copy()
        extreme = np.iinfo(array.dtype) if array.dtype.kind in "iu" else np.finfo(array.dtype)
        choices = [extreme.min, extreme.max, 0, 1]
        choices += [np.nan, np.inf] if array.dtype.kind == "f" else []
        for _ in range(1 if way == "value" else flat.size):
            flat[rng.randrange(flat.size)] = rng.choice(choices)
        array = flat.reshape(array.shape)
    else:
        array = np.array("x")
    return array, f"{way}: {array.dtype} {array.shape}"


def mutated_npz(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    """Copy of an ``.npz`` file: one of its arrays, its members, or its bytes."""
    if rng.random() < 0.3:
        return mutated_bytes(rng, content)
    with np.load(io.BytesIO(content)) as file:
        arrays = {name: file[name] for name in file.files}
    name = rng.choice(list(arrays))
    way = rng.choice(("array", "array", "array", "remove", "rename", "header", "object"))
    if way == "header":
        return _claiming(rng, arrays, name)
    said = way
    if way == "array":
        arrays[name], said = mutated_array(rng, arrays[name])
    elif way == "object":
        arrays[name] = np.array([Trap(), None], dtype=object)
    else:
        array = arrays.pop(name)
        if way == "rename":
            arrays[rng.choice(("x", "codes.x", "output.x", "accuracy_x", "../x", "labels"))] = array
    made = io.BytesIO()
    np.savez_compressed(made, allow_pickle=True, **arrays)
    return made.getvalue(), f"{name} {said}"


def _claiming(rng: random.Random, arrays: dict[str, np.ndarray], chosen: str) -> tuple[bytes, str]:
    """Arrays of which one claims to have more elements than there are."""
    made, shape = io.BytesIO(), rng.choice(((1 << 40,), (1 << 31, 1 << 31), (-1,), (10**30,)))
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            if name == chosen:
                header = {"descr": "<i8", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)
                member.write(bytes(64))
            else:
                np.save(member, array)
            archive.writestr(f"{name}.npy", member.getvalue())
    return made.getvalue(), f"{chosen} claims {shape}"


class Trap:
    """Object whose pickle, where anybody loads it, is caught by :func:`sprung`."""

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return spring, ()


_sprung = False


def spring() -> None:
    """What a pickle of a :class:`Trap` calls."""
    global _sprung
    _sprung = True


def sprung() -> bool:
    """True if a pickle was executed; asked once."""
    global _sprung
    was, _sprung = _sprung, False
    return was
