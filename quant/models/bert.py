# SPDX-License-Identifier: Apache-2.0
"""BERT and its relatives for classification of text, from Hugging Face transformers."""

import contextlib
import pathlib
import types
from collections.abc import Iterator

import safetensors
import torch
from torch import Tensor, nn

from quant.cli import UserError


class BertClassifier(nn.Module):
    """Logits (N, classes) of ``input_ids`` and ``attention_mask``, both int64 (N, T).

    Has the parts, and so the parameter names, of the
    :class:`transformers.BertForSequenceClassification` that it is made from, which must use eager
    attention. The mask is made additive here; what transformers does to it instead leaves constants
    of one device in a captured graph.
    """

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        self.bert, self.dropout, self.classifier = source.bert, source.dropout, source.classifier

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        absent = attention_mask.eq(0).unsqueeze(1).unsqueeze(2)
        hidden = self.bert(input_ids=input_ids, token_type_ids=torch.zeros_like(input_ids),
                           attention_mask=absent.float() * torch.finfo(torch.float32).min)
        return self.classifier(self.dropout(hidden.pooler_output))


def load(pretrained: str, classes: int) -> BertClassifier:
    """A pre-trained BERT, its classifier new unless it has ``classes`` already.

    ``pretrained`` is a folder with ``config.json`` and weights, or a name on the Hugging Face hub,
    which transformers downloads or has in its cache. Raises :class:`~quant.cli.UserError`.
    """
    try:
        import transformers
    except ImportError as error:
        raise UserError("BERT needs transformers: pip install transformers") from error
    folder = pathlib.Path(pretrained)
    if folder.exists() and not (folder / "config.json").is_file():
        raise UserError(f"{pretrained} is not a folder with a model: it has no config.json")
    try:
        config = transformers.AutoConfig.from_pretrained(pretrained)
        if config.model_type != "bert":
            raise UserError(f"{pretrained} is a model of type {config.model_type!r}, not 'bert'")
        with _quiet(transformers.utils.logging):
            bert = transformers.BertForSequenceClassification.from_pretrained(
                pretrained, num_labels=classes, attn_implementation="eager",
                ignore_mismatched_sizes=True)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"cannot load {pretrained!r}, neither a folder with a model nor one that "
                        f"the Hugging Face hub gives: {reason}") from error
    return BertClassifier(bert.float())


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
