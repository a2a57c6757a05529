# SPDX-License-Identifier: Apache-2.0
"""BERT and its relatives for classification of text, from Hugging Face transformers."""

import contextlib
import pathlib
import types
from collections.abc import Iterator
from typing import Any, cast

import safetensors
import torch
from torch import Tensor, nn

from ir.cli import UserError, require


class BertClassifier(nn.Module):
    """BERT with a classifier: logits (N, classes) of texts of T tokens.

    Its inputs are ``input_ids``, ``attention_mask`` and ``token_type_ids``, all int64 (N, T).

    Has the parts, and so the parameter names, of the
    :class:`transformers.BertForSequenceClassification` that it is made from, which must use eager
    attention. The mask is made additive here; what transformers does to it instead leaves constants
    of one device in a captured graph.
    """

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        self.bert = source.get_submodule("bert")
        self.dropout = source.get_submodule("dropout")
        self.classifier = cast(nn.Linear, source.get_submodule("classifier"))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """Logits (N, classes), float32; inputs int64 (N, T)."""
        absent = attention_mask.eq(0).unsqueeze(1).unsqueeze(2)
        hidden = self.bert(
            input_ids=input_ids,
            token_type_ids=token_type_ids,
            attention_mask=absent.float() * torch.finfo(torch.float32).min,
        )
        return self.classifier(self.dropout(hidden.pooler_output))


def build(source: str, shape: tuple[int, ...], classes: int) -> BertClassifier:
    """BERT with random weights of the architecture of ``source``, for texts of ``shape`` (tokens,).

    ``source`` is a folder with ``config.json``, or a name on the Hugging Face hub, which
    transformers downloads or has in its cache. Raises :class:`~ir.cli.UserError`.
    """
    (tokens,) = shape
    with _loading(source) as transformers:
        config = _config(source, classes)
        if tokens > config.max_position_embeddings:
            raise UserError(
                f"texts of {tokens} tokens are too long for {source}, which takes "
                f"{config.max_position_embeddings}: choose a smaller max_length"
            )
        return BertClassifier(transformers.BertForSequenceClassification(config).float())


def load(source: str, classes: int) -> BertClassifier:
    """Pre-trained BERT from a ``source`` as of :func:`build`, which also has weights.

    Its classifier is new unless it is one for ``classes`` already. Raises
    :class:`~ir.cli.UserError`.
    """
    return _load(source, classes)[0]


def load_weights(model: BertClassifier, source: str) -> list[str]:
    """Replacement of the weights of ``model`` by those of ``source``, as :func:`load` takes it.

    Returns the names of those that ``source`` does not have, which are random. Raises
    :class:`~ir.cli.UserError` for another architecture.
    """
    other, missing = _load(source, len(model.classifier.weight))
    try:
        model.load_state_dict(other.state_dict())
    except RuntimeError as error:
        raise UserError(
            f"{source} is of another architecture than the model that was named for its tokenizer"
        ) from error
    return missing


def _load(source: str, classes: int) -> tuple[BertClassifier, list[str]]:
    with _loading(source) as transformers:
        bert, report = transformers.BertForSequenceClassification.from_pretrained(
            source,
            config=_config(source, classes),
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    missing = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    return BertClassifier(bert.float()), sorted(missing)


def _config(source: str, classes: int) -> Any:
    transformers = require("transformers")
    folder = pathlib.Path(source)
    if folder.exists() and not (folder / "config.json").is_file():
        raise UserError(f"{source} is not a folder with a model: it has no config.json")
    config = transformers.AutoConfig.from_pretrained(
        source, num_labels=classes, attn_implementation="eager"
    )
    if config.model_type != "bert":
        raise UserError(f"{source} is a model of type {config.model_type!r}, not 'bert'")
    return config


@contextlib.contextmanager
def _loading(source: str) -> Iterator[types.ModuleType]:
    """The package transformers, silent; its failures are one-line errors."""
    transformers = require("transformers")
    try:
        with _quiet(transformers.utils.logging):
            yield transformers
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"cannot load {source!r}, neither a folder with a model nor one that "
            f"the Hugging Face hub gives: {reason}"
        ) from error


@contextlib.contextmanager
def _quiet(log: types.ModuleType) -> Iterator[None]:
    """Without a progress bar, and without the page about the classifier being new."""
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()
