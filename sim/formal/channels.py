# SPDX-License-Identifier: Apache-2.0
"""Channels with a valid/ready handshake, found by walking the signatures of a design's components.

A channel is a pair of members ``...valid`` and ``...ready`` of a port: ``amaranth.lib.stream``, the
five channels of an AXI port, or plain members such as ``load_valid`` and ``load_ready``. Its
payload is what else of the port begins with the same prefix and goes the same way as ``valid``.
"""

import dataclasses
from collections.abc import Iterator

from amaranth.hdl import Cat, Elaboratable, Fragment, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import Out


@dataclasses.dataclass(frozen=True, kw_only=True)
class Channel:
    """Channel at a port of a component.

    name : such as ``commands[0]`` or ``hp0.aw``
    is_source : the component drives ``valid`` and ``payload``, its neighbour ``ready``
    is_bus : a channel of AXI
    """

    name: str
    is_source: bool
    is_bus: bool
    valid: Signal
    ready: Signal
    payload: tuple[Signal, ...]

    @property
    def word(self) -> Value:
        """The payload as one value."""
        return Cat(self.payload)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unit:
    """Component of a design that has channels.

    path : names of the instances from the top to it, without the top
    """

    path: tuple[str, ...]
    component: wiring.Component
    channels: tuple[Channel, ...]

    @property
    def name(self) -> str:
        """Such as ``accelerator.share``; empty for the top."""
        return ".".join(self.path)


def channels(component: wiring.Component) -> tuple[Channel, ...]:
    """Channels at the ports of ``component``, in the order of its members."""
    ports: dict[tuple, dict[str, tuple[bool, Signal]]] = {}
    for path, member, value in component.signature.flatten(component):
        signal = Value.cast(value)
        if isinstance(signal, Signal):  # not the constants of stream.Signature(always_valid=True)
            group = ports.setdefault(path[:-1], {})
            group[str(path[-1])] = member.flow == Out, signal
    return tuple(channel for path, group in ports.items() for channel in _of_port(path, group))


def _of_port(path: tuple, members: dict[str, tuple[bool, Signal]]) -> Iterator[Channel]:
    for name, (is_source, valid) in members.items():
        prefix = name.removesuffix("valid")
        if name == prefix or f"{prefix}ready" not in members:
            continue
        back, ready = members[f"{prefix}ready"]
        if back == is_source:
            raise ValueError(f"valid and ready of {_text(path, prefix)} go the same way")
        payload = (
            signal
            for other, (way, signal) in members.items()
            if other.startswith(prefix) and way == is_source and other != name
        )
        yield Channel(
            name=_text(path, prefix),
            is_source=is_source,
            is_bus=prefix in ("ar", "aw", "w", "b", "r"),
            valid=valid,
            ready=ready,
            payload=tuple(payload),
        )


def _text(path: tuple, prefix: str) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return ".".join(filter(None, [text.removeprefix("."), prefix.rstrip("_")]))


class Elaborated(Elaboratable):
    """Elaborated design as a submodule of another one."""

    def __init__(self, fragment: Fragment) -> None:
        self._fragment = fragment

    def elaborate(self, platform: object) -> Fragment:
        return self._fragment


def units(design: Fragment) -> list[Unit]:
    """Components with channels in an elaborated design, those around others first."""
    return list(_units(design, ()))


def _units(fragment: Fragment, path: tuple[str, ...]) -> Iterator[Unit]:
    for component in fragment.origins or ():
        if isinstance(component, wiring.Component) and (found := channels(component)):
            yield Unit(path=path, component=component, channels=found)
    for index, (inner, name, *_) in enumerate(fragment.subfragments):
        yield from _units(inner, (*path, name or f"U${index}"))
