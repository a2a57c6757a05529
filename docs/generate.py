# SPDX-License-Identifier: Apache-2.0
"""Writes the pages of docs/ that follow from the code: ``python -m docs.generate``.

``tests/test_docs.py`` compares the committed pages with :func:`pages`.
"""

import argparse
import logging
import pathlib
from collections.abc import Sequence

import numpy as np

from docs import operations
from docs.flow import svg
from gateware.arch import registers
from ir import numerics
from ir.numerics import Scheme

HERE = pathlib.Path(__file__).resolve().parent
NOTE = "<!-- Written by `python -m docs.generate`; change the code it reads, not this page. -->\n"

logger = logging.getLogger(__loader__.name)


def table(heads: list[str], rows: list[list]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)


def scheme_table() -> str:
    rows = []
    for scheme in Scheme:
        values = numerics.weight_values(scheme)
        unused = sorted(
            set(range(1 << scheme.bits)) - set(numerics.encode_weights(scheme, values).tolist())
        )
        rows.append(
            [
                scheme.value,
                scheme.name,
                scheme.bits,
                len(values),
                f"{values[0]} to {values[-1]}",
                f"value / {scheme.denominator}",
                ", ".join(f"`{code:#0{scheme.bits + 2}b}`" for code in unused),
            ]
        )
    return table(
        ["number", "scheme", "bits", "levels", "values", "level", "codes never used"], rows
    )


def code_table(scheme: Scheme) -> str:
    """Every code of a 4-bit scheme with the threshold above its level."""
    values, limits = numerics.weight_values(scheme), numerics.thresholds(scheme)
    codes = numerics.encode_weights(scheme, values)
    above = [f"v <= {limit}" for limit in limits] + ["above"]
    return table(
        ["code", "value", "level", "chosen for v = w / alpha"],
        [
            [f"`{code:04b}`", value, f"{value / scheme.denominator:.6g}", bound]
            for code, value, bound in zip(codes, values, above, strict=True)
        ],
    )


def fixed8_bounds() -> str:
    scheme = Scheme.FIXED8
    limits = numerics.thresholds(scheme)
    values = numerics.weight_values(scheme)
    codes = numerics.encode_weights(scheme, values)
    shown = [0, 1, 126, 127, 128, 253, 254]
    above = [f"v <= {limit}" for limit in limits] + ["above"]
    return table(
        ["code", "value", "level", "chosen for v = w / alpha"],
        [
            [f"`{codes[i]:08b}`", values[i], f"{values[i] / scheme.denominator:.6g}", above[i]]
            for i in shown
        ],
    )


def product_table() -> str:
    rows = []
    for scheme in Scheme:
        row = [scheme.name]
        for bits in (numerics.ACT_BITS, 2 * numerics.ACT_BITS):
            low, high = numerics.acc_bounds(
                numerics.weight_values(scheme)[[0, -1], None], numerics.act_max(bits)
            )
            largest = int(max(-low.min(), high.max()))
            terms = ((1 << numerics.ACC_BITS - 1) - 1) // largest
            row += [f"{low.min()} to {high.max()}", f"{terms:,}"]
        rows.append(row)
    return table(
        [
            "scheme",
            "product with a nibble",
            "terms that always fit",
            "product with 8 bits",
            "terms that always fit",
        ],
        rows,
    )


def width_table() -> str:
    limit = numerics.BIAS_LIMIT
    acc = 1 << numerics.ACC_BITS - 1
    multiplier = (1 << numerics.MULTIPLIER_BITS) - 1
    wide = acc * multiplier + limit
    rows = [
        [
            "a",
            "activation",
            numerics.ACT_BITS,
            f"0 to {numerics.NIBBLE_MAX}; an 8-bit activation is two nibbles, `16 * high + low`",
        ],
        [
            "acc",
            "exact dot product",
            f"{numerics.ACC_BITS}, signed",
            f"{-acc + 1:,} to {acc - 1:,}; a graph that could leave it is refused",
        ],
        [
            "M",
            "multiplier of a row",
            numerics.MULTIPLIER_BITS,
            f"{1 << numerics.MULTIPLIER_BITS - 1:,} to {multiplier:,}; less in logits, which "
            f"share S, and below 2^{numerics.MULTIPLIER_BITS - 1 - numerics.SHIFT_MAX}",
        ],
        [
            "S",
            "shift of a row",
            numerics.SHIFT_MAX.bit_length(),
            f"{numerics.SHIFT_MIN} to {numerics.SHIFT_MAX}",
        ],
        ["B", "bias of a row", f"{numerics.BIAS_BITS}, signed", f"{-limit:,} to {limit - 1:,}"],
        [
            "acc*M + B",
            "raw output, logits",
            f"{numerics.BIAS_BITS}, signed",
            f"at most {wide:,} in magnitude, less than 2^{wide.bit_length()}",
        ],
        [
            "r",
            "residual operand",
            2 * numerics.ACT_BITS,
            f"0 to {numerics.act_max(2 * numerics.ACT_BITS)}",
        ],
        [
            "n",
            "residual multiplier",
            numerics.RESIDUAL_BITS,
            f"0 to {(1 << numerics.RESIDUAL_BITS) - 1:,}; "
            f"`n = round(ratio * 2^{numerics.SHIFT_MIN})`",
        ],
        ["y", "result", "4 or 8", "low to high of the layer"],
    ]
    return table(["symbol", "meaning", "bits", "range"], rows)


def example_table() -> str:
    rows = []
    cases = (
        (100, 0.05, 0, 0.0),
        (-100, 0.05, 0, 0.0),
        (100, 0.05, 7, 0.75),
        (4000, 0.05, 0, 0.0),
        (1, 1.5, 0, 0.0),
    )
    for acc, real, residual, ratio in cases:
        m, s = numerics.encode_multiplier(real)
        n, bias = numerics.encode_residual(ratio), 1 << s - 1
        y = numerics.requantise(acc, m, bias, s, 0, numerics.NIBBLE_MAX, residual, n)
        t = numerics.accumulate(acc, m, bias, s, residual, n)
        rows.append([acc, real, m, s, bias, residual, n, int(t), int(np.asarray(y))])
    return table(["acc", "real multiplier", "M", "S", "B", "r", "n", "t", "y"], rows)


def numerics_page() -> str:
    """docs/numerics.md."""
    m = numerics
    return f"""{NOTE}
# Numbers

Training, golden model, compiler, RTL and driver take every number from `ir/numerics.py`.

## Weights

`w = alpha[row] * level`, one scheme and one scale per row. A level is the integer `value`, which
the hardware multiplies with, over the scheme's denominator.

{scheme_table()}
The level is the one nearest to `v = w / alpha`, found by comparing `v` (float32) with thresholds;
`np.searchsorted` and `torch.bucketize` agree. A threshold is the largest float32 that is not above
the exact midpoint of two levels; a `v` that is the midpoint takes the lower level.

### {Scheme.POT4.name}: sign, and 0 for zero or e + 1 for 2^e

{code_table(Scheme.POT4)}
### {Scheme.FIXED4.name}: two's complement

{code_table(Scheme.FIXED4)}
### {Scheme.FIXED8.name}: two's complement, an excerpt

{fixed8_bounds()}
## Activations

`x = scale * (a - zero_point)` with `a` unsigned:
`a = clamp(floor(x / scale + 0.5) + zero_point, 0, 2^bits - 1)`, in float32. Zero points are folded
into the bias and are the padding value; the array sees unsigned nibbles only.

{product_table()}
## Requantisation

    t = acc*M + B + r*N          N = n * 2^(S - {m.SHIFT_MIN})
    y = clamp(t >> S, low, high)

`>>` is arithmetic, that is, floor. B holds the rounding constant `2^(S-1)` and all zero points;
ReLU is `low` equal to the output's zero point. Logits are `t` itself. Hardware shifts twice, which
gives the same integer:

    y = clamp((((acc*M + B) >> (S - {m.SHIFT_MIN})) + r*n) >> {m.SHIFT_MIN}, low, high)

{width_table()}
Examples, with `low = 0` and `high = {m.NIBBLE_MAX}`:

{example_table()}"""


def registers_page() -> str:
    """docs/registers.md."""
    codes = table(["code", "name"], [[code.value, code.name] for code in registers.ErrorCode])
    size = 1 << registers.WINDOW_BITS
    return (
        f"{NOTE}\n# Registers\n\nA window of {size} bytes on AXI4-Lite, 32-bit words.\n\n"
        f"{registers.register_table_markdown()}\n## Error codes\n\n{codes}"
    )


def pages() -> dict[str, str]:
    """File name and text of every generated page and picture."""
    return {
        "numerics.md": numerics_page(),
        "operations.md": f"{NOTE}\n{operations.page(table)}",
        "registers.md": registers_page(),
        "flow.svg": svg(),
    }


def main(argv: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser(prog="python -m docs.generate", description=__doc__).parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name, text in pages().items():
        (HERE / name).write_text(text, encoding="utf-8")
        logger.info("wrote %s", HERE / name)


if __name__ == "__main__":
    main()
