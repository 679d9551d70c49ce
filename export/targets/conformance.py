"""What can be proven of a model without the runtime of its target: the ONNX standard, and the target's own rules.

No finding means static-legal: the checker accepts the graphs, their types and shapes agree, and every rule that the
target's documents state is kept. It does not prove that a runtime builds them or how fast they are.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

from export.graph.builder import MICROSOFT
from export.graph.inference import inferred, without_weights
from export.graph.onnx_model import OnnxModel
from export.runtime.signature import POSITIONS, DecodeSignature
from export.targets import STANDARD, Target, find

# What ONNX Runtime adds to the standard's own domain, where the checker does not know it; onnxruntime-genai writes it.
UNREGISTERED = ("SimplifiedLayerNormalization",)


def violations(model: OnnxModel) -> list[str]:
    """What is wrong with a model's graphs, one sentence a finding; none where nothing is.

    A target's rules hold for the decode graph; ONNX Runtime runs the others.
    """
    target = find(model.manifest.target)
    findings = list(signature(model, target))
    for name, graph in model.graphs.items():
        findings += [f"{name}: {text}" for text in domains(graph, target)]
        light = without_weights(graph)
        if MICROSOFT in target.domains:
            disown(light)
        broken = standard(ir.to_proto(light))
        findings += [f"{name}: {text}" for text in broken]
        if target.rules and name == "decode" and not broken:
            typed = inferred(light)
            for rule in target.rules:
                findings += [f"{name}: {text}" for text in rule(typed)]
    return findings


def signature(model: OnnxModel, target: Target) -> Iterator[str]:
    """The decode graph takes and gives what the runtime binds for the manifest's cache."""
    decode, manifest, signature = model.decode, model.manifest, DecodeSignature.of(model.manifest)
    inputs = set(signature.inputs)
    if target.cache == "static":  # a masked model makes the logits of all positions
        inputs.discard(POSITIONS)
    if model.begin is not None:  # reads some inputs in the decode graph's place, and gives it others
        read, own = ({value.name or "" for value in each.graph.inputs} for each in (model.begin, decode))
        inputs = (inputs - (read - own)) | {value.name or "" for value in model.begin.graph.outputs}
    wanted = {"inputs": inputs, "outputs": set(signature.outputs)}
    for what, values in (("inputs", decode.graph.inputs), ("outputs", decode.graph.outputs)):
        found = {value.name or "" for value in values}
        if found != wanted[what]:
            missing, more = sorted(wanted[what] - found), sorted(found - wanted[what])
            yield (
                f"decode: its {what} are not those of a {manifest.cache} cache with {len(manifest.kv_heads)} layers "
                f"(missing {', '.join(missing) or 'none'}; not known {', '.join(more) or 'none'})"
            )


def domains(model: ir.Model, target: Target) -> Iterator[str]:
    """Every operator comes from a domain that the target knows."""
    allowed = target.domains
    for node in model.graph.all_nodes():
        if node.domain not in allowed:
            listed = " and ".join(domain for domain in allowed if domain != "")
            operator = f"{node.domain}::{node.op_type}"
            yield f"{node.name}: {operator} is no operator of {target.name}; it knows those of {listed}"
    for domain, name, _ in model.functions:
        yield f"function {domain}::{name} is left in the model; inline it, few runtimes read functions"


def disown(light: ir.Model) -> None:
    """Name operators of ONNX Runtime as such, whose domain is the standard's but which the checker does not know."""
    for node in light.graph.all_nodes():
        if node.domain in STANDARD and node.op_type in UNREGISTERED:
            node.domain = MICROSOFT
            light.opset_imports.setdefault(MICROSOFT, 1)


def standard(proto: onnx.ModelProto) -> list[str]:
    """What the ONNX checker with strict type and shape inference says (operators of other domains have no schema)."""
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        return [f"the ONNX checker refuses it ({' '.join(str(error).split())})"]
    return []
