# SPDX-License-Identifier: Apache-2.0
"""Names of weights in checkpoints of timm, Hugging Face and others, as those of our networks.

Each scheme of names is a list of patterns, tried in turn, and what a match becomes.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

#: Blocks of each stage of MobileNet-v2 and of EfficientNet-Lite0.
_MOBILENET, _LITE = (1, 2, 3, 4, 3, 3, 1), (1, 2, 2, 3, 3, 4, 1)
_HF_PARTS = {"convolution": 0, "normalization": 1}
#: Of a block of MobileNet-v2 with an expansion, by the names of timm and Hugging Face.
_TIMM_PARTS = {"conv_pw": "0.0", "bn1": "0.1", "conv_dw": "1.0", "bn2": "1.1"} | {
    "conv_pwl": "2",
    "bn3": "3",
}
_TIMM_FIRST = {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "1", "bn2": "2"}
_HF_LAYERS = {"expand_1x1": ("0.0", "0.1"), "conv_3x3": ("1.0", "1.1"), "reduce_1x1": ("2", "3")}
_HF_STEM = {
    "first_conv": ("0.0", "0.1"),
    "conv_3x3": ("1.conv.0.0", "1.conv.0.1"),
    "reduce_1x1": ("1.conv.1", "1.conv.2"),
}
_LITE_PARTS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_LITE_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw"} | {
    "_bn2": "bn2"
}
_LITE_ENDS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_HEAD = f"features.{1 + sum(_MOBILENET)}"

Rule = tuple[str, Callable[[re.Match[str]], str]]


def _place(counts: Iterable[int], number: int) -> tuple[int, int]:
    """Stage and place in it of block ``number`` of stages with ``counts`` blocks."""
    for stage, count in enumerate(counts):
        if number < count:
            return stage, number
        number -= count
    raise KeyError(number)


def _timm_block(match: re.Match[str]) -> str:
    stage, block = int(match[1]), int(match[2])
    number = 1 + sum(_MOBILENET[:stage]) + block
    return f"features.{number}.conv.{(_TIMM_PARTS if stage else _TIMM_FIRST)[match[3]]}.{match[4]}"


def _lite_block(match: re.Match[str]) -> str:
    stage, block = _place(_LITE, int(match[1]))
    return f"blocks.{stage}.{block}.{(_LITE_PARTS if stage else _LITE_FIRST)[match[2]]}.{match[3]}"


#: By a name that only checkpoints of this scheme have.
SCHEMES: dict[str, tuple[Rule, ...]] = {
    "resnet.embedder.embedder.convolution.weight": (
        (
            r"resnet\.embedder\.embedder\.(\w+)\.(\w+)",
            lambda m: f"{('conv1', 'bn1')[_HF_PARTS[m[1]]]}.{m[2]}",
        ),
        (
            r"resnet\.encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.(\w+)\.(\w+)",
            lambda m: f"layer{int(m[1]) + 1}.{m[2]}.downsample.{_HF_PARTS[m[3]]}.{m[4]}",
        ),
        (
            r"resnet\.encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.(\w+)\.(\w+)",
            lambda m: (
                f"layer{int(m[1]) + 1}.{m[2]}.{('conv', 'bn')[_HF_PARTS[m[4]]]}"
                f"{int(m[3]) + 1}.{m[5]}"
            ),
        ),
        (r"classifier\.1\.(\w+)", lambda m: f"fc.{m[1]}"),
    ),
    "mobilenet_v2.conv_stem.first_conv.convolution.weight": (
        (
            r"mobilenet_v2\.conv_stem\.(\w+)\.(\w+)\.(\w+)",
            lambda m: f"features.{_HF_STEM[m[1]][_HF_PARTS[m[2]]]}.{m[3]}",
        ),
        (
            r"mobilenet_v2\.layer\.(\d+)\.(\w+)\.(\w+)\.(\w+)",
            lambda m: f"features.{int(m[1]) + 2}.conv.{_HF_LAYERS[m[2]][_HF_PARTS[m[3]]]}.{m[4]}",
        ),
        (
            r"mobilenet_v2\.conv_1x1\.(\w+)\.(\w+)",
            lambda m: f"{_HEAD}.{_HF_PARTS[m[1]]}.{m[2]}",
        ),
        (r"classifier\.(\w+)", lambda m: f"classifier.1.{m[1]}"),
    ),
    "blocks.0.0.conv_dw.weight": (
        (r"(conv_stem|bn1)\.(\w+)", lambda m: f"features.0.{int(m[1] == 'bn1')}.{m[2]}"),
        (r"blocks\.(\d+)\.(\d+)\.(\w+)\.(\w+)", _timm_block),
        (r"(conv_head|bn2)\.(\w+)", lambda m: f"{_HEAD}.{int(m[1] == 'bn2')}.{m[2]}"),
        (r"classifier\.(\w+)", lambda m: f"classifier.1.{m[1]}"),
    ),
    "_blocks.0._depthwise_conv.weight": (
        (r"_blocks\.(\d+)\.(\w+)\.(\w+)", _lite_block),
        (r"(\w+)\.(\w+)", lambda m: f"{_LITE_ENDS[m[1]]}.{m[2]}"),
    ),
}


def in_our_names(given: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """``given`` by the names in ``wanted``, where they are of a scheme of :data:`SCHEMES`.

    Names that no rule knows stay, as do all of a checkpoint that has our names already.
    """
    for mark, rules in SCHEMES.items():
        if mark in given and mark not in wanted:
            return {_renamed(name, rules): value for name, value in given.items()}
    return dict(given)


def _renamed(name: str, rules: tuple[Rule, ...]) -> str:
    for pattern, become in rules:
        if match := re.fullmatch(pattern, name):
            try:
                return become(match)
            except KeyError:  # a part that our network does not have
                return name
    return name
