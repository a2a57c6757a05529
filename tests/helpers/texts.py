# SPDX-License-Identifier: Apache-2.0
"""What training on texts needs, small: a tokenizer, a random BERT, an archive of sentences."""

import io
import pathlib
import tarfile
import zipfile

import tokenizers
import torch
import transformers

from quant.data import movies
from tests.helpers.seeds import suite_seed

WORDS = "good bad film a the was not is it very".split()
ID = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}


def save_tokenizer(path: pathlib.Path) -> None:
    """Write a tokenizer like BERT's that knows ten words into folder ``path``."""
    inner = tokenizers.Tokenizer(tokenizers.models.WordPiece(ID, unk_token="[UNK]"))
    inner.normalizer = tokenizers.normalizers.BertNormalizer()
    inner.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    inner.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        padding_side="left",
    ).save_pretrained(path)


def save_bert(path: pathlib.Path, **settings: object) -> None:
    """Write a random encoder without a classifier, of two layers, into folder ``path``."""
    torch.manual_seed(suite_seed())
    config = transformers.BertConfig(
        **{
            "vocab_size": len(ID),
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "max_position_embeddings": 16,
            "initializer_range": 0.2,
            **settings,
        }
    )
    transformers.BertModel(config).save_pretrained(path)


def save_movies(path: pathlib.Path, table: str) -> None:
    """Write the archive ``path`` of :mod:`quant.data.movies` with ``table`` in it."""
    inner, content = io.BytesIO(), table.encode()
    with tarfile.open(fileobj=inner, mode="w:gz") as tar:
        member = tarfile.TarInfo(movies.TABLE)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as outer:
        outer.writestr(movies.INNER, inner.getvalue())
