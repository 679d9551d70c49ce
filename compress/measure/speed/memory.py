"""Peak memory of an engine: of a fresh process that loads nothing but the engine folder and draws one batch."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

TIMEOUT_S = 600

DRAW = """
import sys
from pathlib import Path
from export.runtime.drawing import conditions
from export.runtime.engine import Engine
folder, batch, threads = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
engine = Engine.load(folder, threads=threads)
labels, features = conditions(engine.shape, batch)
engine.decode_images(engine.draw_tokens(labels, 0, None, features))
"""

# ru_maxrss is no use on Linux: a child inherits the high-water mark of the process that started it. VmHWM begins anew.
PEAK = """
import sys
if sys.platform == "linux":
    with open("/proc/self/status") as status:
        print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
else:
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(peak / 1024 if sys.platform == "darwin" else peak)
"""


def peak_mib(folder: Path, batch: int = 1, threads: int = 0) -> float:
    """Peak resident memory in MiB of a process that loads the engine folder and draws `batch` pictures.

    It counts the interpreter, NumPy and ONNX Runtime (45 MiB together), because a deployment pays for them too.

    Raises:
        RuntimeError: the process failed; the message ends with the last line it wrote.
    """
    return peak_of(DRAW, [str(folder), str(batch), str(threads)], f"peak memory of {folder}")


def peak_of(program: str, arguments: list[str], where: str) -> float:
    """Peak resident memory in MiB of a fresh interpreter that runs the program."""
    search = os.pathsep.join(filter(None, [root(), os.environ.get("PYTHONPATH")]))
    process = subprocess.run(  # -P: a folder called `export` where the user happens to be is not ours
        [sys.executable, "-P", "-c", program + PEAK, *arguments],
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if process.returncode:
        lines = process.stderr.strip().splitlines() or [f"it ended with code {process.returncode}"]
        raise RuntimeError(f"{where}: {lines[-1]}")
    return float(process.stdout.split()[-1]) / 1024


def root() -> str:
    """The folder that holds the package `export`, wherever it is installed."""
    found = importlib.util.find_spec("export")
    assert found is not None
    assert found.origin is not None
    return str(Path(found.origin).parent.parent)
