# SPDX-License-Identifier: Apache-2.0
"""The quantisation methods of the paper's Table 1 by name. Torch-free."""

import dataclasses

from ir.numerics import Scheme
from ir.ratio import Ratio
from quant.nn.apot import APOT4


@dataclasses.dataclass(frozen=True)
class Method:
    """Quantisation method: the schemes that rows of every layer have, and their ratio."""

    name: str
    ratio: Ratio
    #: the scheme that takes the ratio's first share: PoT-4, or APoT-4, which only training knows
    base: int = Scheme.POT4


METHODS = {
    m.name: m
    for m in (
        Method("fixed4", Ratio(0, 100, 0)),
        Method("pot4", Ratio(100, 0, 0)),
        Method("apot4", Ratio(100, 0, 0), APOT4),
        Method("pot4+fixed4", Ratio(50, 50, 0)),
        Method("apot4+fixed4", Ratio(60, 40, 0), APOT4),
        Method("fixed4+fixed8", Ratio(0, 95, 5)),
        Method("rmsmp", Ratio(65, 30, 5)),
    )
}


def method(name: str, ratio: str | None = None) -> Method:
    """Method ``name``, with its own ratio or the given one, such as ``"60:35:5"``.

    Raises ValueError for an unknown name, for a ratio that :meth:`Ratio.parse` refuses, and for one
    with rows of a scheme that the name does not promise.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; known are {', '.join(METHODS)}")
    found = METHODS[name]
    if ratio is None:
        return found
    wanted = Ratio.parse(ratio)
    for share, own, scheme in zip(wanted.shares, found.ratio.shares, Scheme, strict=True):
        if share and not own:
            raise ValueError(
                f"method {name!r} has no {scheme.name} rows, a ratio of {ratio} has; "
                "the method rmsmp takes any ratio"
            )
    return dataclasses.replace(found, ratio=wanted)
