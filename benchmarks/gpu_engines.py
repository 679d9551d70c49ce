"""What exported engines do under ONNX Runtime's CUDA provider: `python benchmarks/gpu_engines.py FOLDER --json FILE`.

FOLDER is what `gpu_engines_make.py` wrote, on any machine. This one needs a CUDA device, PyTorch for CUDA,
onnxruntime-gpu instead of onnxruntime, and this checkout on PYTHONPATH. `--shape tiny --device cpu` tries the script.

Every engine's step is compared with ONNX Runtime's CPU provider on the same weights, then timed beside PyTorch's steps
(`gpu_work.py`) in interleaved rounds, with buffers bound on the device. An engine that fails is named with the reason.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gpu
import gpu_limits
import gpu_work
import numpy as np
import onnxruntime
import torch
from gpu_work import PLAIN, Work
from torch import Tensor

FP32, FP16 = "fp32", "fp16"
WEIGHTS, VALUES = "weights.bin", "values.bin"
ALIGN = 4096
COMPARED = {"emoji": 256, "digits": 64, "llamagen-b": 32, "llamagen-xl": 8}  # positions from the first
COMPARED_ROWS = 2
PAST = 128  # cached positions of the timed step, where there are twice as many
BASELINES = ("eager", "CUDA graph, packed")
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
FATAL = 4
KERNELS = 8  # that are listed of a step
PROFILED = ("fused", "static cache", "int4 g128")
SAMPLED = {"guidance": 2.0, "temperature": 1.0, "top_k": 2000, "top_p": 1.0, "min_p": 0.0}
KINDS = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(int64)": torch.int64,
         "tensor(int32)": torch.int32}  # fmt: skip
NUMPY = {torch.float32: np.float32, torch.float16: np.float16, torch.int64: np.int64, torch.int32: np.int32}

GRAPHS = itertools.count(1)  # a captured graph reads the buffers of one loop, so each loop has its own

Row = dict[str, Any]


def layout(tensors: list[dict[str, Any]], precision: str) -> dict[str, tuple[int, int, list[int]]]:
    """Offset, bytes and sizes of each large constant in the file of weights."""
    places, offset = {}, 0
    for each in tensors:
        width = 1 if each["kind"] != "float" else 4 if precision == FP32 else 2
        count = int(np.prod(each["sizes"])) * width
        places[each["name"]] = (offset, count, each["sizes"])
        offset += -(-count // ALIGN) * ALIGN
    return places


@dataclass(frozen=True)
class Case:
    """A graph on disk, in fp32 and fp16, and what `gpu_engines_make.py` says of it."""

    folder: Path
    about: dict[str, Any]

    @property
    def past(self) -> int:
        """Cached positions of the step that is timed."""
        return min(PAST, int(self.about["length"]) // 2)

    def unpack(self, precision: str, room: Path, device: torch.device) -> Path:
        """The graph with its weights beside it: the real ones, or random ones that are the same in both precisions."""
        path = room / f"{precision}.onnx"
        path.write_bytes((self.folder / path.name).read_bytes())
        known = torch.from_numpy(np.fromfile(self.folder / VALUES, dtype=np.uint8)) if self.about["real"] else None
        generator = torch.Generator(device).manual_seed(0)
        read = 0
        with (room / WEIGHTS).open("wb") as file:
            places = layout(self.about["tensors"], precision).values()
            for each, place in zip(self.about["tensors"], places, strict=True):
                floats, count = each["kind"] == "float", int(np.prod(each["sizes"]))
                if known is not None:
                    size = count * (2 if floats else 1)
                    made = known[read : read + size].view(torch.float16 if floats else torch.uint8)
                    read += size
                elif floats:
                    made = torch.randn(count, generator=generator, device=device)
                    made = (made * each["spread"] + each["mean"]).half()
                else:
                    made = torch.randint(0, 256, (count,), generator=generator, device=device, dtype=torch.uint8)
                made = made.float() if floats and precision == FP32 else made
                file.seek(place[0])
                made.cpu().numpy().tofile(file)
            file.truncate(-(-file.tell() // ALIGN) * ALIGN)
        return path


class Loop:
    """A decode graph with every buffer bound: `place` says the position, `run` makes the step, `logits` are written.

    ONNX Runtime copies an input that a node on the CPU reads when it is bound, and never again. So a fused fp32 graph,
    whose attention the CUDA provider does not have, stays at the first position: its logits are wrong, and a loop that
    binds again would take longer.
    """

    def __init__(self, session: Any, case: Case, rows: int, device: torch.device, graph: bool = False) -> None:
        self.session, self.about, self.rows, self.device, self.graph = session, case.about, rows, device, graph
        self.binding = session.io_binding()
        self.inputs = {each.name: KINDS[each.type] for each in session.get_inputs() if each.type in KINDS}
        self.kind = next(kind for name, kind in self.inputs.items() if name.startswith("past."))
        self.tokens = torch.zeros(rows, 1, dtype=torch.int64, device=device)
        self.logits = torch.zeros(rows, 1, self.about["predicted"], device=device)
        self.bound: dict[str, Tensor] = {}
        self.bind("tokens", self.tokens)
        self.bind("logits", self.logits, out=True)
        if "noise" in self.inputs:
            self.choice(max(1, rows // 2))
        self.caches: dict[str, Tensor] = {}
        if self.about["cache"] != "growing":
            self.caches = self.empty(self.about["reach"])
            self.bind_caches(self.caches)
        self.options = onnxruntime.RunOptions()
        if device.type == "cuda":
            self.options.add_run_config_entry("disable_synchronize_execution_providers", "1")
            self.options.add_run_config_entry("gpu_graph_id", str(next(GRAPHS)) if graph else "-1")

    def bind(self, name: str, value: Tensor, out: bool = False) -> None:
        """A tensor as an input or output; it is kept."""
        self.bound[f"{'out' if out else 'in'} {name}"] = value
        bind = self.binding.bind_output if out else self.binding.bind_input
        bind(name, value.device.type, 0, NUMPY[value.dtype], tuple(value.shape), value.data_ptr())

    def bind_caches(self, past: dict[str, Tensor]) -> None:
        """What the step reads, and `caches` as what it writes: the same tensors unless the cache grows."""
        for name, cache in self.caches.items():
            self.bind(f"past.{name}", past[name])
            self.bind(f"present.{name}", cache, out=True)

    def fill(self, name: str, sizes: tuple[int, ...], value: int) -> None:
        """An input on the device that says a position; a captured graph reads it at one address."""
        if f"in {name}" not in self.bound:
            self.bind(name, torch.zeros(sizes, dtype=self.inputs[name], device=self.device))
        self.bound[f"in {name}"].fill_(value)

    def choice(self, pictures: int) -> None:
        """What a graph that samples reads and gives: half as many pictures as rows."""
        ranks = {each.name: len(each.shape) for each in self.session.get_inputs()}
        self.bind("noise", torch.rand(pictures, 1, self.about["vocabulary"], device=self.device))
        for name, value in SAMPLED.items():
            if name in self.inputs:
                sizes = (1,) * ranks[name]
                self.bind(name, torch.full(sizes, value, dtype=self.inputs[name], device=self.device))
        self.bind("drawn", torch.zeros(pictures, 1, dtype=torch.int64, device=self.device), out=True)

    def empty(self, length: int) -> dict[str, Tensor]:
        """Caches of zeros, for so many positions."""
        return {
            f"{layer}.{part}": torch.zeros(
                self.rows, heads, length, self.about["head_width"], dtype=self.kind, device=self.device
            )
            for layer, heads in enumerate(self.about["kv_heads"])
            for part in ("key", "value")
        }

    def place(self, position: int) -> None:
        """Where the next step is; a growing cache becomes what the last step gave, or zeros of that length."""
        if self.about["cache"] == "shared":
            # A captured graph keeps the total; the lengths on the device are what its kernels read.
            total = self.about["reach"] if self.graph else position + 1
            self.bind("total_sequence_length", torch.tensor(total, dtype=torch.int32))
            self.fill("seqlens_k", (self.rows,), position)
        elif self.about["cache"] == "static":
            self.fill("position", (), position)
        else:
            held = self.caches if self.caches and next(iter(self.caches.values())).shape[2] == position else None
            past, self.caches = held or self.empty(position), self.empty(position + 1)
            self.bind_caches(past)

    def run(self) -> Tensor:
        """One step with what is bound."""
        self.session.run_with_iobinding(self.binding, self.options)
        return self.logits

    def forced(self, inputs: Tensor) -> Tensor:
        """Logits (R, S, O) of inputs (R, S), one step each from the first position."""
        said = []
        for position in range(inputs.shape[1]):
            self.tokens.copy_(inputs[:, position : position + 1])
            self.place(position)
            said.append(self.run().clone().cpu())
        return torch.cat(said, dim=1)


@dataclass(frozen=True)
class Engine:
    """An engine in one precision, open on the device; `captures` says whether its steps can be a CUDA graph."""

    case: Case
    precision: str
    session: Any
    captures: bool

    @property
    def name(self) -> str:
        """As the tables call it."""
        return f"{self.case.about['engine']}, {self.precision}"


def opened(
    path: Path, device: torch.device, stream: Any = None, graph: bool = False, profile: str = "", tf32: bool = True
) -> Any:
    """A session of a graph on one provider and, if that is not the CPU, the CPU for what it lacks."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    if device.type == "cpu":
        return onnxruntime.InferenceSession(str(path), options, providers=[CPU])
    settings = {"device_id": "0", "enable_cuda_graph": str(int(graph)), "use_tf32": str(int(tf32))}
    if stream is not None:
        settings["user_compute_stream"] = str(stream.cuda_stream)
    session = onnxruntime.InferenceSession(str(path), options, providers=[(CUDA, settings), CPU])
    if CUDA not in session.get_providers():
        raise RuntimeError("the CUDA provider was not loaded")
    return session


def placement(path: Path, case: Case, device: torch.device, room: Path) -> dict[str, dict[str, int]]:
    """Operators of one step by the provider that ran them, from ONNX Runtime's own profile."""
    session = opened(path, device, profile=str(room / "profile"))
    loop = Loop(session, case, COMPARED_ROWS, device)
    loop.place(1)
    loop.run()
    found: dict[str, collections.Counter[str]] = {}
    for event in json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            said = event["args"]
            found.setdefault(said["provider"], collections.Counter())[said["op_name"]] += 1
    return {provider: dict(counted) for provider, counted in found.items()}


def kernels(loop: Loop, device: torch.device) -> list[list[Any]]:
    """What the device does in a step: kernel, calls and microseconds, the longest first."""
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    steps = 10
    with torch.profiler.profile(activities=kinds) as profiler:
        for _ in range(steps):
            loop.run()
        torch.cuda.synchronize(device)
    seen = [(each.key[:90], each.count, each.self_device_time_total) for each in profiler.key_averages()]
    rows = [[name, count / steps, spent / steps] for name, count, spent in seen if spent > 0]
    rows.sort(key=lambda row: -row[2])
    return [["all", sum(row[1] for row in rows), sum(row[2] for row in rows)], *rows[:KERNELS]]


class Bench:
    """Everything of one run: where it runs, and what was found."""

    def __init__(self, asked: argparse.Namespace, device: torch.device, stream: Any, started: float) -> None:
        self.asked, self.device, self.stream, self.started = asked, device, stream, started
        self.limits = gpu_limits.measure(device, small=device.type != "cuda")
        machine = {**gpu.machine(device), "limits": asdict(self.limits)}
        self.found: dict[str, Any] = {"machine": machine, "onnxruntime": onnxruntime.__version__}
        self.found |= {"rows": [], "placement": {}, "kernels": {}, "opened": [], "left_out": []}
        gpu.say(started, f"{machine}")

    def shape(self, name: str) -> None:
        """Open every engine of a shape, compare each with the CPU provider, then time all of them together."""
        cases = [
            Case(path.parent, json.loads(path.read_text(encoding="utf-8")))
            for path in sorted(self.asked.folder.glob(f"{name}/*/case.json"))
        ]
        engines: list[Engine] = []
        for case in cases:
            with self.guarded(f"{name}: {case.about['engine']}"):
                engines += self.engine(case)
        work = None
        if engines and not engines[0].case.about["real"]:
            with self.guarded(f"{name}: PyTorch"):
                work = Work(name, self.device, max(self.asked.rows))
        for rows in self.asked.rows:
            with self.guarded(f"{name}: {rows} rows"):
                self.timed(name, engines, work, rows)
            gpu.say(self.started, f"{name}, {rows} rows")
        for engine in engines if self.device.type == "cuda" else []:
            if engine.case.about["engine"] in PROFILED and engine.precision == FP16:
                with self.guarded(f"{name}: kernels of {engine.name}"):
                    loop = Loop(engine.session, engine.case, COMPARED_ROWS, self.device)
                    loop.place(engine.case.past)
                    loop.run()
                    self.found["kernels"][f"{name}: {engine.name}"] = kernels(loop, self.device)

    def engine(self, case: Case) -> list[Engine]:
        """Both precisions of an engine, opened on the device and compared with fp32 on the CPU provider."""
        about, cpu = case.about, torch.device("cpu")
        generator = torch.Generator().manual_seed(1)
        count = min(COMPARED.get(about["shape"], about["length"]), about["length"])
        inputs = torch.randint(0, about["vocabulary"], (COMPARED_ROWS, count), generator=generator)
        inputs[:, 0] = about["first_class"] + torch.arange(COMPARED_ROWS) % max(1, about["classes"])
        made: list[Engine] = []
        with tempfile.TemporaryDirectory() as folder:
            for precision in (FP32, FP16):
                room = Path(folder) / precision  # its own: an open session reads weights from its file
                room.mkdir()
                path = case.unpack(precision, room, self.device)
                if precision == FP32:
                    loop = Loop(opened(path, cpu), case, COMPARED_ROWS, cpu)
                    reference = loop.forced(inputs)
                    loop.place(case.past)
                    times = sorted(gpu.interleaved({"": loop.run}, cpu, 5)[""])
                    self.found["opened"].append({**self.key(case, "fp32 on the CPU provider"), "ms": times[2]})
                    del loop
                made.append(self.one(case, precision, path, inputs, reference))
        return made

    def one(self, case: Case, precision: str, path: Path, inputs: Tensor, reference: Tensor) -> Engine:
        """An engine in one precision: opened, its operators placed, its logits compared."""
        row: Row = self.key(case, precision)
        self.found["opened"].append(row)
        begun = time.perf_counter()
        captures, session = self.device.type == "cuda", None
        if self.device.type == "cuda":
            try:
                session = opened(path, self.device, self.stream, graph=True)
            except Exception as error:  # a finding: not all of the graph runs on the GPU
                captures, row["no_graph"] = False, gpu.reason(error)
        session = session or opened(path, self.device, self.stream)
        row["open_s"] = time.perf_counter() - begun

        def compare(label: str, against: Any, graph: bool = False) -> None:
            said = Loop(against, case, COMPARED_ROWS, self.device, graph).forced(inputs.to(self.device))
            kl, agreement = gpu_work.differing(reference, said)
            most = float((reference - said).abs().max())
            row[label] = {"kl": kl, "agreement": agreement, "most": most, "logits": float(reference.std())}

        compare("plain", session)
        if captures:
            compare("graph", session, graph=True)
        if precision == FP32 and case.about["real"] and self.device.type == "cuda":
            compare("no TF32", opened(path, self.device, self.stream, tf32=False))
        if case.about["shape"] != "llamagen-xl":  # which has the operators of llamagen-b
            label = f"{case.about['shape']}: {case.about['engine']}, {precision}"
            self.found["placement"][label] = placement(path, case, self.device, path.parent)
        gpu.say(self.started, f"{row}")
        return Engine(case, precision, session, captures)

    def timed(self, name: str, engines: list[Engine], work: Work | None, rows: int) -> None:
        """Milliseconds of every step of so many rows, in interleaved rounds."""
        runs: dict[str, Callable[[], object]] = {}
        floor = None
        for way in PLAIN:
            if work is not None and way.name in BASELINES:
                variant = work.variant(way, rows)
                floor = variant.cost.floor_ms(self.limits)  # of weights in bf16, also where an engine's are smaller
                runs[way.name] = variant.run
        for engine in engines:
            for graph in (False, True)[: 1 + engine.captures]:
                loop = Loop(engine.session, engine.case, rows, self.device, graph)
                loop.place(engine.case.past)
                runs[f"{engine.name}{', CUDA graph' if graph else ''}"] = loop.run
        for run in runs.values():
            for _ in range(3):
                run()
        times = gpu.interleaved(runs, self.device, gpu.ROUNDS[self.device.type])
        for label in runs:
            row: Row = {"shape": name, "rows": rows, "what": "step", "note": "", **gpu.timed(times, label)}
            row["variant"] = f"PyTorch bf16, {label}" if label in BASELINES else label
            row |= {"floor_ms": floor, "x_floor": row["ms"] / floor if floor else None}
            self.found["rows"].append(row)

    def key(self, case: Case, precision: str) -> Row:
        """Which engine something is of."""
        return {"shape": case.about["shape"], "engine": case.about["engine"], "precision": precision}

    @contextlib.contextmanager
    def guarded(self, label: str) -> Iterator[None]:
        """What fails is written down, and the rest goes on; the JSON is as it stands then."""
        try:
            yield
        except Exception as error:
            self.found["left_out"].append(f"{label}: {gpu.reason(error)}")
            gpu.say(self.started, self.found["left_out"][-1])
        gpu.write(self.found, self.asked.json)


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> None:
    """Shape after shape."""
    started = time.perf_counter()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", nargs="+", default=["emoji", "llamagen-b", "llamagen-xl", "digits"])
    parser.add_argument("--rows", nargs="+", type=int, default=[2, 8, 1, 64], help="rows of a step")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(arguments)
    device, stream = torch.device(asked.device), None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            print("gpu_engines.py: PyTorch finds no CUDA device; `--device cpu` only tries the script", file=sys.stderr)
            raise SystemExit(2)
        onnxruntime.preload_dlls()
        stream = torch.cuda.Stream()
    else:
        torch.set_num_threads(1)
    with torch.cuda.stream(stream) if stream else contextlib.nullcontext():
        bench = Bench(asked, device, stream, started)
        for name in asked.shape:
            bench.shape(name)
            gpu.free(device)
    print(gpu.table(bench.found["rows"]))
    print("\n".join(f"Left out: {each}" for each in bench.found["left_out"]))


if __name__ == "__main__":
    main()
