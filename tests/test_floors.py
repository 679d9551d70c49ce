"""Imports point down only, as docs/architecture.md says; heavy libraries are imported where they may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("compress", "export", "calibration")

# From the top down; a module may import what is in its own room and in those below.
ROOMS = {
    "compress": (
        *("cli", "api", "drafting", "serving", "applications", "verifying", "searching", "running", "report", "recipe"),
        *("passes", "training", "measure", "data", "models", "bulk", "workers", "core"),
    ),
    "export": ("web", "foreign", "targets", "building", "tracing", "rewrites", "graph", "runtime"),
}
ENTRANCE = ("compress.__main__",)

# The files that may import each of these: the runtime, and the one door to each tool.
ONLY_IN = {
    "onnxruntime": {
        *(
            "export/runtime/graphs.py",
            "export/runtime/loaded.py",
            "export/runtime/profiling.py",
            "export/runtime/binding.py",
            "export/runtime/providers.py",
            "export/foreign/first_run.py",
            "export/runtime/processor.py",
            "export/runtime/sessions.py",
        ),
        *("export/rewrites/ort_quantization.py", "export/runtime/roofline.py"),
    },
    "tensorrt": {"export/runtime/tensorrt.py"},
    "tensorrt_rtx": {"export/building/rtx.py", "export/runtime/tensorrt.py"},
    "polygraphy": {"export/building/classic.py"},
    "optimum": {"compress/models/families/huggingface.py"},
    "ray": {"compress/workers/cluster.py"},
    "optuna": {"compress/searching/study.py"},
    "starlette": {"compress/serving/app.py", "compress/serving/server.py"},
    "uvicorn": {"compress/serving/server.py"},
    "prometheus_client": {
        *("compress/serving/app.py", "compress/serving/metrics.py", "compress/serving/server.py"),
    },
    "fsspec": {"compress/core/store/objects.py"},
    "gcsfs": {"compress/core/store/objects.py"},
}


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the project by its dotted name."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "build" in path.relative_to(ROOT).parts:  # what building the runtime's own package leaves
                continue
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(modules())


def is_typing_only(node: ast.AST) -> bool:
    """Whether a statement is `if TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def absolute(node: ast.ImportFrom, path: Path) -> str:
    """The module that a statement imports from."""
    above = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
    return ".".join([*above, *([node.module] if node.module else [])])


def imports(path: Path, *, typing_only: bool = True) -> set[str]:
    """The modules that a file imports, anywhere in it; without those that only type checkers see, if asked."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if is_typing_only(node) and not typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = absolute(node, path)
            named = {f"{module}.{name.name}" for name in node.names}
            found |= {name if name in MODULES else module for name in named}
        waiting += ast.iter_child_nodes(node)
    return found


def project(names: set[str]) -> set[str]:
    """Those of the modules that are the project's own."""
    return {name for name in names if name.split(".")[0] in PACKAGES}


def room(name: str) -> int:
    """The number of a module's room, from the top."""
    package, own = name.split(".")[:2]
    assert own in ROOMS[package], f"{name} is in no room; place it in ROOMS and in docs/architecture.md"
    return ROOMS[package].index(own)


IN_ROOMS = [name for name in MODULES if name.split(".")[0] in ROOMS and "." in name and name not in ENTRANCE]


@pytest.mark.parametrize("name", IN_ROOMS)
def test_a_module_imports_nothing_from_a_room_above_its_own(name: str) -> None:
    package = name.split(".")[0]
    above = {
        other
        for other in project(imports(MODULES[name]))
        if other.startswith(f"{package}.") and room(other) < room(name)
    }
    assert not above, f"{name} imports from a room above its own"


def test_a_package_holds_nothing_beside_its_rooms() -> None:
    for package, rooms in ROOMS.items():
        found = {
            path.stem for path in (ROOT / package).iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
        }
        assert found - {"__init__", "__main__"} == set(rooms)


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith("compress")])
def test_export_and_calibration_know_neither_compress_nor_each_other(name: str) -> None:
    own = name.split(".")[0]
    assert {other.split(".")[0] for other in project(imports(MODULES[name]))} <= {own}


@pytest.mark.parametrize("name", MODULES)
def test_only_the_runtime_imports_relatively_and_only_from_itself(name: str) -> None:
    """It is packed apart too, under another name, and works beside a file that is called `export.py`."""
    nodes = list(ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))))
    froms = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    whole = {each.name for node in nodes if isinstance(node, ast.Import) for each in node.names}
    if name.startswith("export.runtime"):
        outside = [absolute(node, MODULES[name]) for node in froms if node.level]
        assert all(f"{module}.".startswith("export.runtime.") for module in outside)
        assert not project(whole | {str(node.module) for node in froms if not node.level})
    else:
        assert not any(node.level for node in froms)


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = {name: project(imports(path, typing_only=False)) - {name} for name, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize(("library", "allowed"), ONLY_IN.items())
def test_a_library_is_imported_where_it_may_be(library: str, allowed: set[str]) -> None:
    importers = {
        str(path.relative_to(ROOT))
        for path in MODULES.values()
        if any(name.split(".")[0] == library for name in imports(path))
    }
    assert importers <= allowed


def loaded_by(program: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after running a program."""
    script = f"{program}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(output.stdout.splitlines()[-1].split())


def test_the_runtime_needs_numpy_and_onnxruntime_only() -> None:
    loaded = loaded_by("import export.runtime.engine")
    assert {"numpy", "onnxruntime"} <= loaded
    assert not loaded & {"torch", "compress", "onnx", "scipy", "calibration", "sklearn", "PIL", "yaml", "click"}


def test_the_help_loads_no_heavy_library() -> None:
    program = "from compress.cli import main\nmain(['--help'], standalone_mode=False)"
    assert not loaded_by(program) & {"torch", "numpy", "onnx", "onnxruntime", "scipy", "sklearn", "rich", "yaml"}
