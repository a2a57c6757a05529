# SPDX-License-Identifier: Apache-2.0
"""Documents that the page is drawn from, as they must be: checked where they are read."""

from typing import Annotated, Literal, TypeVar

import pydantic

from ir.cli import UserError

Positive = Annotated[int | float, pydantic.Field(gt=0)]
Count = Annotated[int, pydantic.Field(ge=0)]
How = Literal["estimated", "measured"]


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow", frozen=True)


class Layer(_Part):
    """Layer of the network, see :func:`gateware.report.layers.layers`."""

    name: str
    op: str
    input: str
    output: str
    residual: str | None
    shape: tuple[int, int, int]
    schemes: list[Annotated[int, pydantic.Field(ge=0, le=2)]] | None
    weight_bytes: Count
    macs: Count
    cycles: Count
    utilisation: float


class Cycles(_Part):
    """Estimated or measured cycles of an image."""

    total: Annotated[int, pydantic.Field(gt=0)]
    how: How


class Network(_Part):
    """Network and its program."""

    graph: str
    graph_digest: str
    hybrid: bool
    bytes: Count
    batch: Annotated[int, pydantic.Field(gt=0)]
    cycles: Cycles
    layers: list[Layer]


class Resource(_Part):
    """Cells of one kind: used, and the limit of the device."""

    used: int | float
    limit: Positive
    how: How


class Lanes(_Part):
    """Row lanes of each scheme, by number."""

    pot4: Count
    fixed4: Count
    fixed8: Count


class Sizes(_Part):
    """Fields of the configuration that the page names."""

    bus_bits: int
    pixels: int


class Time(_Part):
    """Clock that times are given at, and its evidence."""

    hz: Positive
    basis: str


class Clock(_Part):
    """Clock of the build, see :class:`gateware.flow.clock.Clock`."""

    times: Annotated[list[Time], pydantic.Field(min_length=1)]
    sentence: str


class Power(_Part):
    """Power that the tools estimate."""

    sentence: str


class Routing(_Part):
    """Results of a router, see :func:`gateware.report.summary.report`."""

    power: Power | None


class Report(_Part):
    """Content of ``report.json``, see :func:`gateware.report.summary.report`."""

    title: str
    part: str
    clock_hz: Positive
    clock: Clock
    config: Sizes
    config_digest: str
    lanes: Lanes
    macs_per_cycle: Annotated[int, pydantic.Field(gt=0)]
    bus_bytes_per_cycle: Positive
    resources: dict[str, Resource]
    modules: list[dict[str, str | int | float]]
    routed_hz: Positive | None
    routing: Routing | None
    program: Network | None = None
    accuracy: dict[str, float] = {}  #: by kind, 0..1, of the test set


class SimulatedLayer(_Part):
    """Layer as it ran, see :class:`sim.verify.breakdown.LayerRow`."""

    layer: str
    macs: Count
    cycles: Count
    array_cycles: Count = 0
    read_bytes: Count = 0
    write_bytes: Count = 0
    stalls: dict[str, Count] = {}


class Simulation(_Part):
    """Content of ``simulation.json``, what ``python -m sim.run BUILD`` writes."""

    build: str | None = None  #: of what, see :func:`gateware.report.page.build_digest`
    images: Annotated[int, pydantic.Field(gt=0)] = 1
    equal: Count | None = None  #: images whose results are the reference's
    reference: str = "the reference's"
    conditions: str = ""
    batch: Annotated[int, pydantic.Field(gt=0)] = 1
    layers: list[SimulatedLayer] = []

    cycles_per_image: Annotated[int, pydantic.Field(gt=0)]
    #: Of the images, by register; None where layers were simulated one by one.
    counters: dict[str, Annotated[list[int], pydantic.Field(min_length=1)]] | None = None

    @pydantic.field_validator("counters")
    @classmethod
    def _has_cycles(cls, counters: dict[str, list[int]] | None) -> dict[str, list[int]] | None:
        if counters is not None and not sum(counters.get("CYCLES", [])):
            raise ValueError("no CYCLES are counted")
        return counters


Document = TypeVar("Document", Report, Simulation)


def parse(kind: type[Document], text: str, path: object, command: str) -> dict:
    """Document in ``text``, read from ``path``. Raises UserError for anything else.

    ``command`` is what makes it anew.
    """
    try:
        return kind.model_validate_json(text).model_dump()
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "content"
        raise UserError(
            f"{path} is damaged ({place}: {first['msg']}): run {command} again"
        ) from error
