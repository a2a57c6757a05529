# SPDX-License-Identifier: Apache-2.0
"""Sentences as rows of tokens, all of one length, so that the shapes of a network are fixed."""

from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ir.cli import require
from quant.data.splits import EVERYTHING, DatasetError, Split, labels_of

CHUNK = 10_000  #: sentences tokenised at once; the tokenizer's own results are large


class TextSplit(Split):
    """Tokens (N, L) of texts, or pairs of texts, that begin at 0.

    Each has ``lengths`` (N,) tokens, of which the first ``borders`` (N,) belong to its first text;
    a text that is no pair has no others.
    """

    def __init__(
        self,
        *,
        tokens: np.ndarray,
        lengths: np.ndarray,
        borders: np.ndarray,
        labels: np.ndarray,
        device: str | torch.device = "cpu",
    ) -> None:
        self.tokens, self.lengths, self.borders, self.device = tokens, lengths, borders, device
        self.labels = labels.astype(np.int64)
        self.shape = tuple(tokens.shape[1:])

    def to(self, device: str | torch.device) -> Self:
        """Same samples, giving their batches on ``device``."""
        return type(self)(
            tokens=self.tokens,
            lengths=self.lengths,
            borders=self.borders,
            labels=self.labels,
            device=device,
        )

    def first(self, count: int | None) -> Self:
        """Same samples, only the first ``count`` (all of them for None)."""
        return type(self)(
            tokens=self.tokens[:count],
            lengths=self.lengths[:count],
            borders=self.borders[:count],
            labels=self.labels[:count],
            device=self.device,
        )

    def batch(
        self, indices: Tensor, generator: torch.Generator | None = None, part: slice = EVERYTHING
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """Tokens and two masks, int64 (n, L), and labels, int64 (n,), of ``indices[part]``.

        They are what the base class says. Texts are the same in training: ``generator`` is not
        used.
        """
        chosen = indices[part].cpu()
        rows = chosen.numpy()
        places = np.arange(self.shape[0])
        present = places < self.lengths[rows][:, None]
        second = present & (places >= self.borders[rows][:, None])
        tokens, is_token, is_second = (
            torch.from_numpy(array.astype(np.int64)).to(self.device)
            for array in (self.tokens[rows], present, second)
        )
        return (tokens, is_token, is_second), labels_of(self, chosen, self.device)


Tokenise = Callable[[Sequence[tuple[str, ...]], Sequence[int]], TextSplit]


def tokeniser(name: str | None, max_length: int) -> Tokenise:
    """Function that makes a split of texts (each one or two sentences) and labels.

    ``name`` is that of the tokenizer: the folder of a Hugging Face model, or its name on the hub.
    Longer texts are cut to ``max_length`` tokens, shorter ones filled up. Raises DatasetError.
    """
    if name is None:
        raise DatasetError(
            "texts need a tokenizer: name the folder of a Hugging Face model, or "
            "its name on the hub, with --tokenizer"
        )
    if max_length < 8:
        raise DatasetError(f"texts of {max_length} tokens say nothing: give at least 8")
    transformers = require("transformers")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DatasetError(
            f"no tokenizer {name} ({reason}): name the folder of a Hugging Face "
            "model, which has a tokenizer.json or vocab.txt"
        ) from error
    if tokenizer.pad_token is None:
        raise DatasetError(
            f"the tokenizer {name} cannot fill up texts: take one of an encoder such as BERT"
        )
    tokenizer.padding_side = "right"

    def make(texts: Sequence[tuple[str, ...]], labels: Sequence[int]) -> TextSplit:
        tokens = np.empty((len(texts), max_length), np.int32)
        lengths, borders = np.empty((2, len(texts)), np.int64)
        for start in range(0, len(texts), CHUNK):
            columns = [list(column) for column in zip(*texts[start : start + CHUNK], strict=True)]
            made = tokenizer(
                *columns,
                padding="max_length",
                truncation=True,
                max_length=max_length,
                return_token_type_ids=True,
                return_tensors="np",
            )
            part = slice(start, start + CHUNK)
            tokens[part], lengths[part] = made["input_ids"], made["attention_mask"].sum(1)
            borders[part] = lengths[part] - made["token_type_ids"].sum(1)
        return TextSplit(tokens=tokens, lengths=lengths, borders=borders, labels=np.array(labels))

    return make
