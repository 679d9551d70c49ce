"""What a decode graph takes and gives, compared with the graphs that export and the rewrites write."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from export.rewrites.sampling_graph import with_sampling
from export.runtime.sampling import Sampler
from export.runtime.signature import DecodeSignature, Port, choice_ports
from export.targets import fuse


def described(values: list[ir.Value]) -> dict[str, tuple[str, list[int | str]]]:
    """Type and sizes of a graph's inputs or outputs."""
    return {
        value.name: (value.dtype.numpy().name, [size if isinstance(size, int) else str(size) for size in value.shape])
        for value in values
    }


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        ("grouped", "onnxruntime"),
        ("text", "onnxruntime"),
        ("next-scale", "standard"),
        ("masked", "onnxruntime"),
        ("u-vit", "standard"),
        ("grouped", "tensorrt"),
    ],
)
def test_an_exported_graph_takes_the_ports_of_its_manifest(kind, target, exported) -> None:
    model = exported(kind, target)
    found = described(model.decode.graph.inputs)
    ports = DecodeSignature.of(model.manifest).inputs
    assert found == {name: (port.kind, list(port.sizes)) for name, port in ports.items()}


def test_a_fused_graph_that_samples_takes_and_gives_the_ports_of_its_manifest(exported) -> None:
    model = with_sampling(fuse(exported("grouped")).model)
    signature = DecodeSignature.of(model.manifest)
    found = described(model.decode.graph.inputs)
    assert {name: kind for name, (kind, _) in found.items()} == {n: p.kind for n, p in signature.inputs.items()}
    assert {value.name for value in model.decode.graph.outputs} == set(signature.outputs)
    assert signature.caches["0.key"].bound(batch=3) == (3, 1, 16, 16)


def test_a_cut_that_the_sampler_does_not_make_is_fed_where_a_graph_has_it(exported) -> None:
    manifest = replace(exported("grouped").manifest, sampling=True, sampler=Sampler(top_k=0, top_p=0.9))
    signature = DecodeSignature.of(manifest)
    assert "top_p" in signature.inputs
    assert signature.spare == {"top_k": Port("int64", (1,), needed=False)}
    assert list(choice_ports(Sampler(top_k=5))) == ["noise", "guidance", "temperature", "top_k"]


def test_a_port_makes_zeros_of_its_type_where_the_sizes_that_vary_are_given() -> None:
    zeros = Port("int8", ("batch", 2, "past", 8)).zeros(batch=3, past=0)
    assert zeros.shape == (3, 2, 0, 8)
    assert zeros.dtype == np.int8


def test_a_row_of_an_int8_cache_takes_a_quarter_of_the_bytes_and_of_int4_an_eighth(exported) -> None:
    manifest = replace(exported("grouped").manifest, cache="shared")
    assert DecodeSignature.of(manifest).cache_bytes(16) == 2 * 2 * 16 * 16 * 4  # layers, key and value, L, d, bytes
    assert DecodeSignature.of(replace(manifest, cache_format="int8")).cache_bytes(16) == 2 * 2 * 16 * 16
    packed = DecodeSignature.of(replace(manifest, cache_format="int4"))
    assert packed.caches["0.key"] == Port("uint8", ("batch", 1, 16, 8))
    assert packed.cache_bytes(16) == 2 * 2 * 16 * 16 // 2
