# SPDX-License-Identifier: Apache-2.0
"""Registered trees of ternary adders for unsigned terms, and the copies of what steers them."""

import dataclasses
from collections.abc import Sequence

from amaranth import *

from gateware.pe.base import Resources
from gateware.pe.logic import add3


@dataclasses.dataclass(frozen=True)
class Term:
    """Unsigned value and the largest number that it takes."""

    value: Value
    limit: int


def levels(terms: int) -> int:
    """Register stages of :func:`add_tree`: the logarithm of ``terms`` to base 3, rounded up."""
    count = 0
    while terms > 1:
        terms, count = -(-terms // 3), count + 1
    return count


def add_tree(m: Module, platform: object, terms: Sequence[Term], name: str) -> Term:
    """Sum of ``terms``, :func:`levels` cycles later, one per cycle; three terms to an adder."""
    level = 0
    while len(terms) > 1:
        level += 1
        terms = [
            _register(m, platform, terms[i : i + 3], f"{name}_{level}_{i // 3}")
            for i in range(0, len(terms), 3)
        ]
    return terms[0]


def tree_resources(terms: Sequence[int]) -> tuple[Resources, int]:
    """Estimated cells of :func:`add_tree` for terms with these limits, and their sum's limit."""
    total = Resources()
    while len(terms) > 1:
        groups = [terms[i : i + 3] for i in range(0, len(terms), 3)]
        for group in groups:
            widths = sorted(limit.bit_length() for limit in group)
            # A ternary adder has a LUT for each bit that any term has, a pair shares those of one.
            lut = {1: 0, 2: widths[0], 3: widths[-1]}[len(group)]
            total += Resources(lut=lut, ff=sum(group).bit_length())
        terms = [sum(group) for group in groups]
    return total, terms[0]


def _register(m: Module, platform: object, group: Sequence[Term], name: str) -> Term:
    limit = sum(term.limit for term in group)
    total = Signal(range(limit + 1), name=name, reset_less=True)
    values = [term.value for term in group]
    if len(values) == 3:
        m.d.sync += total.eq(add3(m, platform, name, *values, width=len(total)))
    else:
        m.d.sync += total.eq(sum(values[1:], values[0]))
    return Term(total, limit)
