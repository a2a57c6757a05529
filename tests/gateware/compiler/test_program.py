# SPDX-License-Identifier: Apache-2.0
"""Descriptors and files of compiled programs."""

import dataclasses
import itertools
import json

import pytest

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.arch.isa import Base, Opcode
from gateware.arch.registers import config_digest
from gateware.compiler.lower import lower
from gateware.compiler.operations import CompileError, Gemm, Pool, TensorKey
from gateware.compiler.program import IMAGE, MANIFEST, Program, compile_graph
from ir.ratio import Ratio
from tests.helpers.builder import INPUT, GraphBuilder
from tests.helpers.graphs import residual_graph
from tests.helpers.seeds import suite_rng
from tests.helpers.units import TINY, descriptors

ROOMY = dataclasses.replace(TINY, act_depth=512, weight_depth=256, wide_depth=16)
LARGE = AccelConfig.from_ratio(Ratio(50, 25, 25), 16, pixels=4, requant_lanes=8)
CONFIGS = {"tiny": ROOMY, "large": LARGE}


def builder(*shape: int, **options) -> GraphBuilder:
    return GraphBuilder(suite_rng(), shape, ratio="50:25:25", tile_rows=4, **options)


def test_descriptors_of_a_strided_convolution():
    build = builder(9, 7, 10, bits=8, zero_point=0x25)
    build.conv(INPUT, 6, (3, 2), stride=(2, 3), padding=(2, 1, 1, 3))
    build.conv(INPUT, 4, 1)  # a second reader, or the input would become patches
    graph = build.build()
    program = compile_graph(graph, ROOMY)
    found = descriptors(program)
    assert [opcode.name for opcode, _ in found] == [
        "LOAD_TENSOR",
        *["LOAD_WEIGHTS", "LOAD_SLOTS", "EXECUTE"] * 3,
        "STORE_TENSOR",
        "END",
    ]
    assert [(s.layer, s.first, s.last) for s in program.segments] == [
        ("input", 0, 1),
        ("conv0", 1, 7),
        ("conv1", 7, 11),
    ]
    # Ten columns in four banks: three words per row; nine channels: two groups; two planes.
    loaded = found[0][1]
    no_waits = {"wait_loads": 0, "wait_executes": 0, "wait_stores": 0}
    assert loaded == no_waits | {
        "opcode": Opcode.LOAD_TENSOR,
        "base": Base.INPUT,
        "offset": 0,
        "beats": 7 * 10 * 4,
        "address": 0,
        "height": 7,
        "width": 10,
        "groups": 4,
        "group_pitch": 21,
        "row_pitch": 3,
    }
    out_height, out_width = 4, 5
    execute = found[3][1]
    slots = execute.pop("slots")
    assert 1 <= slots <= 4
    assert execute == no_waits | {
        # The image, and weights and slots of the first tile.
        "wait_loads": 3,
        "opcode": Opcode.EXECUTE,
        "pool": 0,
        "pool_sum": 0,
        "wide": 0,
        "out_planes": 0,
        "residual": 0,
        "residual_planes": 0,
        "planes": 1,
        "table": 0,
        "first_row": 65536 - 2 * 3,
        "height": 7,
        "width": 10,
        "groups": 2,
        "group_pitch": 21,
        "row_pitch": 3,
        "row_step": 6,
        "plane_pitch": 42,
        "kernel_y": 3,
        "kernel_x": 2,
        "stride_y": 2,
        "stride_x": 3,
        "pad_top": 2,
        "pad_left": 1,
        "pad_value": 0x25,
        "out_height": out_height,
        "out_width": out_width,
        "out_address": 84,
        "out_row_pitch": 2,
        "out_plane_pitch": 8,
        "residual_address": 84,
        "residual_plane_pitch": 8,
        "residual_n": 0,
        **dict.fromkeys(("product", "broadcast", "resume", "lower"), 0),
        "low": 0,
        "high": 15,
        "weight_address": 0,
        "slot_address": 0,
    }
    stored = found[-2][1]
    assert (stored["base"], stored["offset"], stored["beats"]) == (Base.OUTPUT, 0, 70)
    assert stored["wait_executes"] == 3
    assert found[-1][1] == dict.fromkeys(loaded.keys() & found[-1][1].keys(), 0) | {
        "opcode": Opcode.END,
        "destination": 0,
    }


def test_blocks_are_aligned_and_inside_the_image():
    program = compile_graph(residual_graph(3), LARGE)
    ends = []
    for opcode, fields in descriptors(program):
        if opcode in (Opcode.LOAD_WEIGHTS, Opcode.LOAD_SLOTS):
            assert fields["offset"] % 64 == 0
            assert (
                fields["offset"]
                >= (len(descriptors(program)) + isa.FETCH_AHEAD) * isa.DESCRIPTOR_BYTES
            )
            ends.append(fields["offset"] + fields["beats"] * LARGE.bus_bits // 8)
    assert ends == sorted(ends) and ends[-1] == len(program.image)


def test_residual_and_wide_descriptors():
    graph = residual_graph(3)
    program = compile_graph(graph, LARGE)
    places = lower(graph, LARGE).plan.places
    by_layer = {
        segment.layer: descriptors(program)[segment.first : segment.last]
        for segment in program.segments
    }
    node = next(
        n
        for n in graph.nodes
        if getattr(n, "residual", None) and graph.tensor(n.residual.tensor).bits == 8
    )
    place = places[TensorKey(node.residual.tensor)]
    for fields in (f for opcode, f in by_layer[node.name] if opcode == Opcode.EXECUTE):
        assert (fields["residual"], fields["residual_planes"]) == (1, 1)
        assert fields["residual_address"] == place.address
        assert fields["residual_plane_pitch"] == place.plane_pitch
        assert fields["residual_n"] == node.residual.n
    *_, (opcode, fields) = by_layer[graph.nodes[-1].name]
    assert opcode == Opcode.STORE_WIDE and fields["beats"] == 10
    assert all(
        f["wide"] == (name == graph.nodes[-1].name)
        for name, found in by_layer.items()
        for opcode, f in found
        if opcode == Opcode.EXECUTE
    )


def test_dump_keeps_the_output_first():
    graph = residual_graph(3)
    program, plain = compile_graph(graph, LARGE, dump=True), compile_graph(graph, LARGE)
    assert program.outputs[0].name == plain.outputs[0].name == graph.output.name
    assert {o.name for o in program.outputs} == {
        str(operation.target) for operation in lower(graph, LARGE).plan.operations
    }
    regions = sorted((o.offset, o.offset + o.size) for o in program.outputs)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(regions))
    for compiled, end in ((program, regions[-1][1]), (plain, plain.outputs[0].size)):
        assert compiled.output_size == -(-end // 64) * 64


def test_lowering_names_every_operation():
    graph = residual_graph(3)
    lowered = lower(graph, LARGE)
    assert [type(o) for o in lowered.plan.operations] == [
        Gemm,
        Pool,
        Gemm,
        Gemm,
        Gemm,
        Gemm,
        Gemm,
        Pool,
        Gemm,
    ]
    assert lowered.plan.operations[-1].kernel == (1, 1)
    assert lowered.plan.operations[-1].source == lowered.plan.operations[-2].target


def test_save_and_load(tmp_path):
    program = compile_graph(residual_graph(3), LARGE, dump=True)
    program.save(tmp_path)
    assert Program.load(tmp_path) == program
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    assert manifest["config_digest"] == config_digest(LARGE)
    assert manifest["graph_digest"] == residual_graph(3).digest


def test_compiling_twice_gives_the_same_bytes():
    assert compile_graph(residual_graph(3), LARGE) == compile_graph(residual_graph(3), LARGE)


def test_loading_what_is_not_there(tmp_path):
    message = r"no program in .*nowhere: run python -m gateware\.build"
    with pytest.raises(CompileError, match=message):
        Program.load(tmp_path / "nowhere")
    program = compile_graph(residual_graph(3), LARGE)
    program.save(tmp_path)
    with pytest.raises(CompileError, match="no program in"):
        Program.load(tmp_path / MANIFEST)
    (tmp_path / IMAGE).unlink()
    with pytest.raises(CompileError, match="no program in"):
        Program.load(tmp_path)


def test_loading_a_truncated_image(tmp_path):
    program = compile_graph(residual_graph(3), LARGE)
    program.save(tmp_path)
    (tmp_path / IMAGE).write_bytes(program.image[:-1])
    with pytest.raises(
        CompileError,
        match=f"has {len(program.image) - 1} bytes instead of {len(program.image)}; build it again",
    ):
        Program.load(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:100],
        lambda text: "[]",
        lambda text: text.replace('"image_bytes"', '"bytes"'),
        lambda text: text.replace('"channels"', '"depth"'),
        lambda text: text.replace('"pixels": 4', '"pixels": 5'),
        lambda text: "\udcff" + text,
    ],
)
def test_loading_a_damaged_manifest(damage, tmp_path):
    compile_graph(residual_graph(3), LARGE).save(tmp_path)
    path = tmp_path / MANIFEST
    path.write_bytes(damage(path.read_text()).encode(errors="surrogateescape"))
    with pytest.raises(CompileError, match=r"program\.json is damaged .*; build it again"):
        Program.load(tmp_path)
