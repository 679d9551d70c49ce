"""Print docs/api.md: the Python API, from its signatures and docstrings.

python docs/make_api.py > docs/api.md
"""

from __future__ import annotations

import ast
import inspect
import re

from compress import api

WIDTH = 100
ORDER = (
    *("load", "load_engine", "load_tokens", "init", "plan", "run", "apply", "search", "sensitivity", "verify"),
    *("bisect", "bench", "generate", "vary", "outpaint", "upscale", "draw_shards", "train"),
)
HEAD = """\
# Python API

`import compress` gives the functions below; it loads no heavy package until one of them needs it. The command line
calls the same functions, so both do the same. This page is made from their docstrings
(`python docs/make_api.py > docs/api.md`).

```python
import compress

report = compress.run("recipes/quickstart.yaml", "runs/quickstart")
assert report.verdict.passed, [breach.text for breach in report.verdict.breaches]

engine = compress.load_engine("runs/quickstart/engines/cpu")
pictures = compress.generate(engine, [3, 1, 4], seed=7)  # uint8 (3, height, width, channels)
```

Passes can be used on their own. Each is a frozen dataclass whose fields are its settings; a wrong one raises
`InputError` when the pass is made:

```python
from compress.passes.export import Export
from compress.passes.prune_heads import PruneHeads

digits = compress.load_tokens("digits")
pruned = compress.apply(compress.load("digits"), PruneHeads(ratio=0.25), digits)
model = compress.apply(pruned, Export(target="onnxruntime"), digits)
model.save(folder)  # an existing, empty folder; compress.load_engine(folder) opens it
```

Every error that an input causes is a `compress.InputError` of one line: where, what is wrong, what would
be right. A breached gate is no error: `Report.verdict` and `Comparison.verdict` hold the breaches.

**Stability.** What this page names keeps its name, its arguments and their meaning within a major version; before
version 1.0, within a minor one. New keyword arguments may be added. A function that is to be removed warns for one
minor version first. Everything else in the packages `compress`, `export` and `calibration` may change at any time.
"""


def signature(function: ast.FunctionDef) -> str:
    """A function's signature as it is written, an argument a line where it is long."""
    returns = ast.unparse(function.returns) if function.returns else "None"
    text = f"compress.{function.name}({', '.join(arguments(function.args))}) -> {returns}"
    if len(text) > WIDTH:
        lines = "".join(f"    {each},\n" for each in arguments(function.args))
        text = f"compress.{function.name}(\n{lines}) -> {returns}"
    return text.replace("'", '"')


def arguments(given: ast.arguments) -> list[str]:
    """Each argument with its type and default, and the star before those that go by keyword."""
    plain = len(given.args) - len(given.defaults)
    parts = [written(each, given.defaults[i - plain] if i >= plain else None) for i, each in enumerate(given.args)]
    if given.kwonlyargs:
        pairs = zip(given.kwonlyargs, given.kw_defaults, strict=True)
        parts += ["*", *(written(each, default) for each, default in pairs)]
    return [*parts, *([f"**{ast.unparse(given.kwarg)}"] if given.kwarg else [])]


def written(argument: ast.arg, default: ast.expr | None) -> str:
    """One argument."""
    return ast.unparse(argument) + (f" = {ast.unparse(default)}" if default else "")


def page() -> str:
    """The whole page."""
    sections = []
    for name in ORDER:
        function = ast.parse(inspect.getsource(getattr(api, name))).body[0]
        assert isinstance(function, ast.FunctionDef)
        doc = ast.get_docstring(function) or ""
        text = re.sub(r"^Raises:\n((?:    .*\n?)+)", raises, doc.replace("``", "`"), flags=re.MULTILINE)
        sections.append(f"## {name}\n\n```python\n{signature(function)}\n```\n\n{text.strip()}\n")
    return "\n".join([HEAD, *sections])


def raises(found: re.Match[str]) -> str:
    """The errors of a docstring as a list."""
    lines = " ".join(line.strip() for line in found[1].splitlines())
    name, _, text = lines.partition(": ")
    return f"Raises `{name}`: {text}\n"


if __name__ == "__main__":
    print(page(), end="")
