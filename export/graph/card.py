"""The model card of an engine folder, README.md: what it is, how to draw, what was measured, how to verify it.

It is written from the manifest alone, so that the same engine always has the same card. It is not among the files that
the manifest has hashes of: the runtime never reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from export.runtime.manifest import Manifest
from export.runtime.sampling import Sampler

CARD = "README.md"
SHOWN_CLASSES = 12
SCRIPT = "```"


def card(manifest: Manifest) -> str:
    """The card of an engine, in Markdown with the header that model hubs read."""
    parts = (header(manifest), about(manifest), drawing(manifest), measured(manifest), verifying(manifest))
    return "\n".join(line for part in parts for line in (*part, "")).rstrip() + "\n"


def header(manifest: Manifest) -> Iterator[str]:
    """YAML for model hubs."""
    yield "---"
    if manifest.licence:
        yield f"license: {manifest.licence.lower()}"
    yield "library_name: image-token-engine"
    yield f"pipeline_tag: {'text-to-image' if manifest.shape.text else 'unconditional-image-generation'}"
    yield "tags: [onnx, image-generation]"
    yield "---"


def about(manifest: Manifest) -> Iterator[str]:
    """What it is."""
    shape = manifest.shape
    yield f"# {plain(manifest.name)}"
    yield ""
    yield (
        f"An engine of `compress` that draws pictures {shape.drawing.words}: ONNX graphs with all that a runtime needs "
        f"to know of them in `manifest.json`."
    )
    yield ""
    rows = {
        "Family": manifest.family,
        "Licence": manifest.licence or "not known",
        "Exported for": manifest.target,
        "Parameters": f"{manifest.parameters:,} (transformer)",
        "Tokens of a picture": f"{shape.length}, of {shape.vocabulary:,}",
        "Classes": classes(manifest),
        "Computes in": manifest.floats + (", its weights quantized" if manifest.weight_only else ""),
        "Cache": manifest.cache if manifest.cache == "none" else f"{manifest.cache}, {manifest.cache_format}",
        "Sampler": sampler(manifest.sampler),
        "Processors": {"vnni": "x86 with VNNI", "any": "any"}.get(manifest.cpu or "", "not recorded"),
    }
    yield from table(("", ""), rows.items())


def classes(manifest: Manifest) -> str:
    """How many there are, and what the first are called."""
    shape = manifest.shape
    if shape.text:
        return f"none; texts of {shape.text.length} x {shape.text.width} features"
    names = ", ".join(shape.class_names[:SHOWN_CLASSES])
    rest = ", ..." if len(shape.class_names) > SHOWN_CLASSES else ""
    return f"{shape.classes}" + (f" ({names}{rest})" if names else "")


def sampler(given: Sampler) -> str:
    """The settings that are not what they are by default."""
    usual = Sampler()
    changed = {name: value for name, value in vars(given).items() if value != getattr(usual, name)}
    return ", ".join(f"{name} {value}" for name, value in changed.items()) or "as it comes: temperature 1, no guidance"


def drawing(manifest: Manifest) -> Iterator[str]:
    """How to draw, in this folder."""
    shape = manifest.shape
    asked = "--labels 0" if shape.classes else "--count 4"
    given = f"[0], seed=7{', features=features' if shape.text else ''}"
    if shape.text:
        asked = "--features features.npy"
    yield "## Draw"
    yield ""
    yield "In this folder; the runtime `image-token-engine` needs NumPy and ONNX Runtime alone:"
    yield ""
    yield f"{SCRIPT}bash"
    yield f"image-token-engine . {asked} --seed 7 -o out.png"
    yield f"compress generate . {asked} --seed 7 -o out.png"
    yield SCRIPT
    yield ""
    yield f"{SCRIPT}python"
    yield "from image_token_engine.engine import Engine"
    yield ""
    yield f'pictures = Engine.load(".").generate({given})  # uint8 (N, H, W, C)'
    yield SCRIPT


def measured(manifest: Manifest) -> Iterator[str]:
    """Drift and speed, as far as a run has measured them."""
    found = manifest.measured
    yield "## Measured"
    yield ""
    rows = [*drift(found), *speed(found)]
    if not rows:
        yield "Nothing: exporting measures nothing. `compress run` writes here what it measures; by hand:"
        yield ""
        yield f"{SCRIPT}bash"
        yield "compress verify REFERENCE . && compress bench ."
        yield SCRIPT
        return
    yield "By `compress run`, against the model that the recipe began with, on the machine that made this engine:"
    yield ""
    yield from table(("What", "Value", "95 % interval"), rows)


def drift(found: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Rows of what was lost."""
    fidelity = found.get("fidelity")
    if not isinstance(fidelity, Mapping):
        return
    for name, what, share in (
        ("nll_drift", "NLL drift on held-out pictures", True),
        ("kl", "KL from the reference, nats per token", False),
        ("agreement", "likeliest token is the reference's", True),
    ):
        value, ends = fidelity.get(name), fidelity.get(f"{name}_ci95")
        if isinstance(value, int | float):
            yield what, number(value, share), interval(ends, share)


def speed(found: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Rows of how long pictures take."""
    for row in found.get("speed") or ():
        if isinstance(row, Mapping) and {"batch", "runtime", "median_ms"} <= row.keys():
            what = f"ms for {row['batch']} at once ({row['runtime']})"
            yield what, f"{row['median_ms']:.4g}", interval(row.get("ci95"), False)
            faster = row.get("speedup_vs_reference")
            if isinstance(faster, int | float):
                ends = interval(row.get("speedup_vs_reference_ci95"), False)
                yield f"speedup over the reference's export, {row['batch']} at once", f"{faster:.3g}", ends


def number(value: float, share: bool) -> str:
    """A value for a person."""
    return f"{100 * value:.3g} %" if share else f"{value:.3g}"


def interval(ends: Any, share: bool) -> str:
    """Both ends of an interval, where there is one."""
    if not isinstance(ends, Sequence) or len(ends) != 2:
        return ""
    return " to ".join(number(end, share) for end in ends)


def verifying(manifest: Manifest) -> Iterator[str]:
    """How to see that the folder is whole, and draws as it should."""
    yield "## Verify"
    yield ""
    yield (
        "`manifest.json` holds the SHA-256 of every file below; an engine that is loaded is checked against them. "
        "Against the model that it was made of:"
    )
    yield ""
    yield f"{SCRIPT}bash"
    yield "compress verify REFERENCE . --gates gates.yaml"
    yield SCRIPT
    yield ""
    yield from table(("Role", "File"), manifest.files.items())
    yield ""
    yield f"The metadata of the transformer's graphs holds `manifest_key`: `{manifest.key}`."


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table in Markdown."""
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield "| " + " | ".join(plain(cell) for cell in row) + " |"


def plain(text: str) -> str:
    """Text in which nothing is markup."""
    for mark in "\\`*_{}[]<>#|":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
