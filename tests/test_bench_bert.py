# SPDX-License-Identifier: Apache-2.0
"""The trainings of the table of BERT."""

from bench import bert
from bench.experiments import FLOAT
from quant.training.config import TrainConfig


def test_rows_start_from_the_float_network_on_the_same_data() -> None:
    table = bert.table("minilm", "reviews.zip")
    runs = list(table.runs())
    assert len(runs) == table.seeds * 8 and len({run.name for run in runs}) == len(runs)
    for run in runs:
        start = {"pretrained": "float.pt"} if run.row else {}
        config = TrainConfig.resolve(**run.settings | run.places | start)
        assert (config.model, config.tokenizer, config.data) == ("bert", "minilm", "reviews.zip")
        if run.row is None:
            assert (config.pretrained, config.float_epochs, config.subset) == ("minilm", 2, None)
        else:
            assert config.float_epochs == (run.label == f"{FLOAT} longer")
            assert config.subset == bert.SENTENCES
    settings = [
        TrainConfig.resolve(**run.settings | run.places | {"pretrained": "float.pt"})
        for run in runs
        if run.row and run.row.settings["method"] != FLOAT and run.seed == 1
    ]
    assert {(c.method, c.act_bits) for c in settings} == {
        (method, bits) for method in bert.METHODS for bits in (4, 8)
    }


def test_places_do_not_decide_whether_a_training_is_on_record() -> None:
    here, there = (list(bert.table(*places).runs()) for places in (("a", "b"), ("c", "d")))
    assert [run.settings for run in here] == [run.settings for run in there]
    assert here[0].places == {"pretrained": "a", "tokenizer": "a", "data": "b"}
    assert here[-1].places == {"tokenizer": "a", "data": "b"}
