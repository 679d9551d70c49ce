"""Build a plan with TensorRT for RTX through its own API; no GPU is needed. It runs in a process of its own.

A graph can bring the builder down, and its logger is one for the whole process. `main` answers the request that
`process` writes.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from export.building.layers import START
from export.graph.child import ANSWER, REQUEST

# What the parser appends to each error where no driver answers.
NO_DRIVER = re.compile(r"\[checkMacros\.cpp::catchCudaError.*")
NO_RANDOM_ADDRESSES, ASK = 0x0040000, 0xFFFFFFFF  # of personality(2)
NOTHING_SAID = "it says no reason"
EMPTY = {"node": "", "operator": "", "code": "NO_GRAPH", "text": "the file holds no graph with outputs"}


def main() -> None:
    """Answer the request in the folder that is named by the first argument."""
    keep_addresses()
    folder = Path(sys.argv[1])
    request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    answer = build(request)
    (folder / ANSWER).write_text(json.dumps(answer), encoding="utf-8")


def keep_addresses() -> None:
    """Start this process again without randomized addresses, where the system lets it.

    The builder orders the symbols of a plan by where they lie in memory, so that a few bytes of equal plans differ from
    one process to the next.
    """
    if sys.platform != "linux":
        return
    system = ctypes.CDLL(None)
    now = system.personality(ASK)
    if now >= 0 and not now & NO_RANDOM_ADDRESSES and system.personality(now | NO_RANDOM_ADDRESSES) >= 0:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def build(request: Mapping[str, Any]) -> dict[str, Any]:
    """Parse a graph and, for every list of capabilities, build its plan.

    The request has `graph`, the `profiles` (`shapes`: smallest, best and largest by input; `value`: of numbers that
    sizes come from), and `builds`: the `capabilities` and the file of the `plan` of each, which may be empty where
    only the verdict counts. The answer has the version, `unparsed` (what the parser refuses) and `builds`:
    `refused` (what the builder says, or empty), the `layers` part of its log, its `warnings`, the attentions that
    are taken apart, seconds and processor seconds.
    """
    import tensorrt_rtx as trt

    log = logger(trt)
    started, processor = time.monotonic(), time.process_time()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(request["graph"]):
        errors = [refusal(parser.get_error(number)) for number in range(parser.num_errors)]
        return {"version": trt.__version__, "unparsed": errors, "builds": []}
    if not network.num_outputs:  # what is no ONNX at all parses too
        return {"version": trt.__version__, "unparsed": [EMPTY], "builds": []}
    let_attention_be_taken_apart(trt, network)
    parsing, answers = warnings(log.lines), []
    for each in request["builds"]:
        log.lines.clear()
        config = configuration(trt, builder, network, request["profiles"], each["capabilities"])
        made = builder.build_serialized_network(network, config)
        if made is not None and each["plan"]:
            Path(each["plan"]).write_bytes(memoryview(made))
        answers.append(
            {
                "refused": "" if made is not None else said(log.lines),
                "layers": "\n".join(text for _, text in log.lines if text.startswith(START)),
                "warnings": parsing + warnings(log.lines),
                "seconds": time.monotonic() - started,
                "processor_seconds": time.process_time() - processor,
                "peak_mib": peak_mib(),
            }
        )
        started, processor = time.monotonic(), time.process_time()
    return {"version": trt.__version__, "unparsed": [], "builds": answers}


def logger(trt: Any) -> Any:
    """A logger that keeps what it is told, in `lines` of severity and text."""

    class Said(trt.ILogger):  # type: ignore[misc]
        """Keeps every message."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[tuple[str, str]] = []

        def log(self, severity: Any, text: str) -> None:
            """Called by the library."""
            self.lines.append((severity.name, text))

    return Said()


def refusal(error: Any) -> dict[str, str]:
    """What the parser says of one node."""
    return {
        "node": error.node_name(),
        "operator": error.node_operator(),
        "code": error.code().name,
        "text": " ".join(" ".join(NO_DRIVER.sub("", line) for line in error.desc().splitlines()).split()),
    }


def let_attention_be_taken_apart(trt: Any, network: Any) -> None:
    """Allow products and a softmax instead of one kernel, where no fused kernel fits: otherwise the build fails."""
    for layer in attention_outputs(trt, network):
        layer.attention.decomposable = True


def attention_outputs(trt: Any, network: Any) -> Iterator[Any]:
    """The layers that hold the attentions of a network."""
    for number in range(network.num_layers):
        layer = network.get_layer(number)
        if layer.type == trt.LayerType.ATTENTION_OUTPUT:
            layer.__class__ = trt.IAttentionOutputLayer  # the bindings give the base class
            yield layer


def configuration(trt: Any, builder: Any, network: Any, profiles: list[Any], capabilities: list[str]) -> Any:
    """The configuration of a build: what it is for, its shapes, and a log that lists its layers."""
    config = builder.create_builder_config()
    config.num_compute_capabilities = len(capabilities)
    for number, capability in enumerate(capabilities):
        config.set_compute_capability(getattr(trt.ComputeCapability, "SM" + capability.replace(".", "")), number)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for asked in profiles:
        profile = builder.create_optimization_profile()
        for name, (smallest, best, largest) in asked["shapes"].items():
            profile.set_shape(name, smallest, best, largest)
        for value in (network.get_input(number) for number in range(network.num_inputs)):
            if value.is_shape_tensor:
                profile.set_shape_input(
                    value.name, *([each] * max(1, math.prod(value.shape)) for each in asked["value"])
                )
        config.add_optimization_profile(profile)
    return config


def warnings(lines: list[tuple[str, str]]) -> list[str]:
    """What the library warns of, but for the reminder that int64 inputs are bound as int64."""
    found = (" ".join(text.split()) for severity, text in lines if severity == "WARNING")
    return list(dict.fromkeys(text for text in found if "Int64 binding" not in text))


def said(lines: list[tuple[str, str]]) -> str:
    """The builder's reason, in one line; what it says of a missing driver is no reason where there is another."""
    errors = [" ".join(text.split()) for severity, text in lines if severity in ("ERROR", "INTERNAL_ERROR")]
    reasons = [text for text in errors if "Cuda Runtime" not in text] or errors
    return "; ".join(dict.fromkeys(reasons)) or NOTHING_SAID


def peak_mib() -> float:
    """Peak resident memory of this process, MiB; 0 where the system does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="utf-8"))
    return int(found[1]) / 1024 if found else 0.0
