"""The process in which a foreign graph is run for the first time; `export.foreign.trial` starts, bounds and judges it.

A foreign graph can loop for ever, ask for terabytes, or bring down the runtime: here it harms nobody. It runs as the
file is, one picture after the other without padding, and as the engine that it became, in one call and step by step.

Letters: N pictures, n tokens of each, V image tokens.
"""

from __future__ import annotations

import json
import os
import re
import sys
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from export.graph.child import ANSWER, REQUEST
from export.graph.graph_file import brief, graphs_of
from export.runtime.engine import Engine
from export.runtime.processor import exact_products
from export.runtime.providers import CPU
from export.runtime.throughput import free_bytes

DATA_PAGES = 5  # the field of /proc/self/statm
MOST_LOGITS = 2**26  # of the file's whole vocabulary, 256 MB
UNKNOWN_VOCABULARY = 2**18  # assumed where the file does not say it
NUMPY_TYPES = {
    "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_, "tensor(float)": np.float32,
    "tensor(float16)": np.float16, "tensor(double)": np.float64,
}  # fmt: skip


def main() -> None:
    """Answer the question in the folder that is named by the first argument."""
    room = Path(sys.argv[1])
    request = json.loads((room / REQUEST).read_text(encoding="utf-8"))
    bound(request["bytes_mapped"], request["seconds"])
    phase, answer = "run it", dict[str, Any]()
    try:
        theirs = of_file(request)
        phase = "run it as it is driven here"
        own, steps = of_engine(
            Engine.load(room, request["threads"]), request["rows"], theirs.shape[1], request["steps"]
        )
        answer = {"rows": [compared(*each) for each in zip(theirs, own, steps, strict=True)]}
    except Exception as error:
        answer = {"phase": phase, "reason": reason(error)}
    (room / ANSWER).write_text(json.dumps(answer), encoding="utf-8")


def reason(error: Exception) -> str:
    """What ONNX Runtime says in few words: the node that failed and why, without places in its own source."""
    text = " ".join(str(error).split()) or type(error).__name__
    if wanted := re.search(r"allocate memory for requested buffer of size (\d+)", text):
        return f"it asks for {int(wanted[1]) / 2**30:,.1f} GiB of memory at once, more than is free"
    found = re.search(r"running (\S+) node\. Name:'(.*?)' Status Message: (?:.* was false\. )?(.*)", text)
    if found:
        return f"{brief(found[1])} {brief(found[2])}: {brief(found[3])}"
    return brief(re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .*? failed: ?)?", "", text))


def bound(mapped: int, seconds: float) -> None:
    """Let allocations fail beyond the memory that is free now, where the system can; mapped files come on top.

    Whoever started this process ends it after `seconds`; should that process be killed before, the time of all cores
    ends this one too. The limit on memory is on data, because stacks and arenas of many threads only reserve addresses.
    """
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[DATA_PAGES])
        limit = pages * resource.getpagesize() + free_bytes() + mapped
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        of_all_cores = ceil(seconds * (os.cpu_count() or 1))
        resource.setrlimit(resource.RLIMIT_CPU, (of_all_cores, of_all_cores))
    except (ImportError, OSError, ValueError):
        return


def of_file(request: dict[str, Any]) -> NDArray[np.float32]:
    """Logits (N, n, V) of image tokens by the file itself, if need be without what it says of its inner values.

    Converters leave types of before, and names of lengths that are not equal; ONNX Runtime believes both.
    """
    path = Path(request["source"])
    try:
        return of_session(opened(str(path), options_of(request)), request)
    except Exception as error:
        options = options_of(request)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
        try:
            light = without_annotations(path)
            return of_session(opened(light, options), request)
        except Exception:
            raise error from None


def opened(graph: str | bytes, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """A session that does not fall back, which prints on standard output and tries the same processor again."""
    return onnxruntime.InferenceSession(graph, options, providers=[CPU], enable_fallback=0)


def without_annotations(path: Path) -> bytes:
    """The file's content without types and shapes of inner values and without names of lengths."""
    import onnx

    proto = onnx.load(path, load_external_data=False)
    for graph in graphs_of(proto.graph):
        del graph.value_info[:]
    for value in (*proto.graph.input, *proto.graph.output):
        for size in value.type.tensor_type.shape.dim:
            size.ClearField("dim_param")
    content: bytes = proto.SerializeToString()
    return content


def of_session(session: onnxruntime.InferenceSession, request: dict[str, Any]) -> NDArray[np.float32]:
    """Logits (N, n, V) of all pictures."""
    count = min(len(request["rows"][0]["tokens"]), most_tokens(session))
    return np.stack([of_row(session, row, count, request) for row in request["rows"]])


def options_of(request: dict[str, Any]) -> onnxruntime.SessionOptions:
    """Options of a session that writes no log and multiplies as the engine does."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = request["threads"]
    options.log_severity_level = 4
    exact_products(options)  # as the engine's: what is compared is what the graph says, not what a processor saturates
    return options


def most_tokens(session: onnxruntime.InferenceSession) -> int:
    """How many tokens of a picture are read: logits of all the file's ids are made of each."""
    shape = next(each.shape for each in session.get_outputs() if each.name == "logits")
    known = shape[-1] if shape and isinstance(shape[-1], int) and shape[-1] > 0 else UNKNOWN_VOCABULARY
    return max(2, MOST_LOGITS // known)


def of_row(
    session: onnxruntime.InferenceSession, row: dict[str, Any], count: int, request: dict[str, Any]
) -> NDArray[np.float32]:
    """Logits (n, V) of image tokens: one picture, written out in its ids, behind an empty cache."""
    predicting = row["predicting"][:count]
    ids = np.array([row["ids"][: predicting[-1] + 1]], dtype=np.int64)
    given = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "position_ids": np.arange(ids.shape[1])[None],
        "use_cache_branch": np.array([False]),
    }
    feeds: dict[str, NDArray[Any]] = {}
    for each in session.get_inputs():
        kind = NUMPY_TYPES.get(each.type, np.float32)
        if each.name in given:
            feeds[each.name] = given[each.name].astype(kind).reshape(given[each.name].shape if each.shape else ())
        else:  # the cache
            heads = request["kv_heads"][int(each.name.split(".")[1])]
            feeds[each.name] = np.zeros((1, heads, 0, request["head_width"]), dtype=kind)
    logits: NDArray[Any] = session.run(["logits"], feeds)[0]
    chosen: NDArray[np.float32] = logits[0, predicting][:, request["image_ids"]].astype(np.float32)
    return chosen


def of_engine(
    engine: Engine, rows: list[dict[str, Any]], count: int, steps: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits (N, n, V) of the engine for all pictures in one call, and of the first tokens step by step."""
    classes = np.array([[engine.shape.first_class + row["label"]] for row in rows])
    tokens = np.array([row["tokens"][: count - 1] for row in rows], dtype=np.int64).reshape(len(rows), count - 1)
    inputs = np.concatenate([classes, tokens], axis=1)
    whole = engine.graphs.sessions.decode.run(["logits"], engine.feeds(inputs, None))[0]
    return whole, engine.score_stepwise(inputs[:, : min(count, steps)])


def compared(
    theirs: NDArray[np.float32], own: NDArray[np.float32], steps: NDArray[np.float32]
) -> dict[str, float | bool]:
    """One picture's logits (n, V) by the file, by the engine, and by the engine step by step (fewer of them)."""
    apart, drift = own - theirs, steps - own[: len(steps)]
    return {
        "file_finite": bool(np.isfinite(theirs).all()),
        "finite": bool(np.isfinite(own).all() and np.isfinite(steps).all()),
        "spread": float(theirs.std()),
        "largest": float(np.abs(theirs).max()),
        "apart": float(np.abs(apart).max()),
        "apart_rms": float(np.sqrt(np.square(apart).mean())),
        "drift": float(np.abs(drift).max()),
        "drift_rms": float(np.sqrt(np.square(drift).mean())),
    }
