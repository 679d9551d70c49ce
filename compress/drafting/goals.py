"""The chains of a goal: those of a shipped recipe, without the passes that do not suit a model, and why not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from compress.core.settings import InputError
from compress.core.strict_yaml import read_yaml
from compress.drafting.facts import Facts
from compress.models.artifact import Form
from compress.passes import find
from compress.recipe import shipped
from compress.recipe.recipe import read_step, targets_of
from export.targets import find as find_target

# The shipped recipe of each goal.
GOALS = {
    "lossless": "lossless",
    "balanced": "balanced",
    "fastest": "fastest-cpu",
    "smallest": "smallest",
    "tensorrt": "int8-tensorrt",
}
# A recipe of `digits` has a palette, which nothing quantizes, and small pictures: for larger models the image decoder's
# step with its limits, and the numbers of pictures, are those of this one.
LARGER = "balanced"
DECODED = ("fastest", "smallest")  # goals whose recipes are of `digits` and change the image decoder
# What takes the place of the chain on a graph that was adopted, in front of `decoder` and `engine`.
ADOPTED: dict[str, tuple[dict[str, Any], ...]] = {
    "lossless": ({"fuse": {}},),
    "balanced": ({"fuse": {}}, {"quantize-onnx": {"weights": "int8"}}),
    "fastest": ({"quantize-onnx": {"activations": "int8"}},),
    "smallest": ({"fuse": {}}, {"quantize-onnx": {"weights": "int4"}}),
}
GRAPH_PASSES = ("decoder", "engine")  # that adopted graphs take as they are
SHARES = (0.6, 0.7, 0.8, 0.9)  # of the parameters, that are tried where fewer cannot be reached
REPAIRED = "prune-to"
MENDS = "distill"
# What is said of a pass whose settings another model may not stand.
OTHERS = {REPAIRED: "what the shipped digits can lose; some models lose far less, and the gate tells"}
# Settings that a pass goes without where a model has not what they change.
UNFIT = {"quantize": ("embedding",), "distill": ("guidance",)}


@dataclass(frozen=True)
class Item:
    """A pass of a chain with its settings, or, with `why`, one that was left out."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""
    remark: str = ""  # what is different from the shipped recipe


@dataclass(frozen=True)
class Draft:
    """The chains that suit a model, and the limits that its engines can be held to."""

    goal: str
    doc: str  # what the goal is, in the words of the shipped recipe
    trunk: tuple[Item, ...]
    engines: dict[str, tuple[Item, ...]]
    gate: dict[str, Any]
    ungated: dict[str, str]  # limits of the shipped recipe that are left out, and why
    bench: dict[str, Any]
    calibration: int
    held_out: int

    @property
    def kept(self) -> Iterator[Item]:
        """The passes that run."""
        return (each for chain in (self.trunk, *self.engines.values()) for each in chain if not each.why)


def draft(goal: str, facts: Facts) -> Draft:
    """The recipe of a goal, as it suits a checkpoint.

    Raises:
        InputError: the goal is not for such a model.
    """
    path = shipped.ROOT / f"{GOALS[goal]}.yaml"
    template, larger = read_yaml(path), read_yaml(shipped.ROOT / f"{LARGER}.yaml")
    if goal in DECODED:
        template = with_decoder(template, larger)
    trunk: tuple[Item, ...]
    if facts.model is None:
        trunk, engines = (), adopted(goal, template, facts)
    else:
        trunk = tuple(suited(template.get("passes", []), facts, targets_in(template)))
        engines = {
            name: tuple(suited(with_hoist(chain, facts), facts, targets_of(map(step, chain))))
            for name, chain in template["engines"].items()
        }
    kept = {each.name for chain in engines.values() for each in chain if not each.why}
    gate, ungated = limits(template.get("gate", {}), facts, "decoder" in kept)
    doc = " ".join(line for line in shipped.described(path).doc.split("\n"))
    return Draft(
        *(goal, doc, trunk, engines, gate, ungated, dict(template["bench"])),
        calibration=larger["tokens"]["calibration"],
        held_out=larger["tokens"]["held_out"],
    )


def step(item: Any) -> Any:
    """A step of a shipped recipe."""
    return read_step(item, "shipped")


def targets_in(template: Mapping[str, Any]) -> frozenset[str]:
    """What a recipe exports for."""
    return frozenset().union(*(targets_of(map(step, chain)) for chain in template["engines"].values()))


def with_decoder(template: Mapping[str, Any], larger: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with the image decoder's step of another one in front of `engine`, and with its limits."""
    decoder = next(item for chain in larger["engines"].values() for item in chain if step(item).name == "decoder")
    engines = {}
    for name, chain in template["engines"].items():
        place = [step(item).name for item in chain].index("engine")
        engines[name] = [*chain[:place], decoder, *chain[place:]]
    limits = {key: limit for key, limit in larger["gate"].items() if key.startswith("decoder_")}
    return {**template, "engines": engines, "gate": {**template["gate"], **limits}}


def with_hoist(chain: list[Any], facts: Facts) -> list[Any]:
    """The chain, with `hoist` behind the export where the model has something to hoist."""
    names = [step(item).name for item in chain]
    if not facts.conditioned or "hoist" in names or "export" not in names:
        return chain
    place = names.index("export") + 1
    return [*chain[:place], {"hoist": {}}, *chain[place:]]


def suited(chain: list[Any], facts: Facts, targets: frozenset[str]) -> Iterator[Item]:
    """Each pass of a chain as it suits the model; the passes themselves say what they require of one in PyTorch."""
    pruned = False
    for item in chain:
        name = step(item).name
        settings = (item[name] if isinstance(item, Mapping) else None) or {}
        if name == MENDS and not pruned:
            yield Item(name, settings, why="nothing was pruned, so there is nothing to mend")
            continue
        made = choice(name, settings, facts, targets)
        pruned = pruned or (name == REPAIRED and not made.why)
        yield made


def choice(name: str, settings: Mapping[str, Any], facts: Facts, targets: frozenset[str] = frozenset()) -> Item:
    """A pass with the first settings that it can work on the model with, or why there are none."""
    if name == "decoder" and not facts.convolutional:
        return Item(name, settings, why="the image decoder has no convolutions, so there is nothing to quantize")
    if name == "quantize-cache" and facts.unshared:
        return Item(name, settings, why=facts.unshared)
    if name == "hoist" and not facts.conditioned:
        return Item(name, settings, why="nothing of this model depends on the class or the text alone")
    if name == "export" and facts.config and (why := find_target(settings["target"]).refusal(facts.config.shape)):
        raise InputError(f"{facts.path}: {settings['target']}: {why}")
    if facts.model is None or find(name, "init").accepts is not Form.TORCH:
        return Item(name, settings)
    why = ""
    for tried in alternatives(name, settings):
        made = find(name, "init")(**tried).deployed_on("any", targets)
        try:
            made.requires(facts.model)
        except InputError as error:
            why = why or str(error)
            continue
        remark = f"the shipped recipe's {shown_settings(settings)}: {why}" if why else OTHERS.get(name, "")
        return Item(name, tried, remark=remark)
    return Item(name, settings, why=why)


def alternatives(name: str, settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The settings, then others that ask for less."""
    yield dict(settings)
    if name == REPAIRED:
        yield from ({**settings, "parameters": share} for share in SHARES if share > settings["parameters"])
    for key in UNFIT.get(name, ()):
        if key in settings:
            yield {each: value for each, value in settings.items() if each != key}


def shown_settings(settings: Mapping[str, Any]) -> str:
    """Settings in a comment."""
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def adopted(goal: str, template: Mapping[str, Any], facts: Facts) -> dict[str, tuple[Item, ...]]:
    """The engine of a goal for what is an ONNX graph from the beginning.

    Raises:
        InputError: there is none for TensorRT.
    """
    if goal not in ADOPTED:
        raise InputError(
            f"--goal {goal}: {facts.path} is read as an ONNX graph (family {facts.family}), which runs in ONNX Runtime "
            f"alone; use {', '.join(ADOPTED)}"
        )
    (name, chain), *_ = template["engines"].items()
    why = "takes a model in PyTorch, and this one is an ONNX graph; quantize-onnx takes the place of quantize"
    steps = [step(item) for item in [*template.get("passes", []), *chain]]
    in_torch = [each.name for each in steps if each.setting.accepts is Form.TORCH and each.name != "export"]
    left = [Item(each, why=why) for each in in_torch]
    last = [choice(each.name, own, facts) for each, own in with_settings(chain) if each.name in GRAPH_PASSES]
    cache = [Item("quantize-cache", why=facts.unshared) for each in steps if each.name == "quantize-cache"]
    own = [Item(key, settings) for item in ADOPTED[goal] for key, settings in item.items()]
    return {name: (*left, *own, *cache, *last)}


def with_settings(chain: list[Any]) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """The steps of a chain, each with its settings as they are written."""
    for item in chain:
        made = step(item)
        yield made, (item[made.name] if isinstance(item, Mapping) else None) or {}


def limits(gate: Mapping[str, Any], facts: Facts, decoder: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """The limits of the shipped recipe that can be measured of such a model, and why the others cannot be kept."""
    kept: dict[str, Any] = {}
    left: dict[str, str] = {}
    for key, limit in gate.items():
        if key.startswith("decoder_") and not facts.convolutional:
            left[key] = "the image decoder is a table of colours, which no pass changes"
        elif key in ("decoder_psnr", "decoder_ssim") and not decoder and "images_psnr" not in gate:
            left[key] = "no pass changes the image decoder"
        elif key in ("low_precision_products", "fused_attention", "caches_in_place") and not facts.plain:
            left[key] = "promised for models drawn token by token from a class; the report says what is reached here"
        else:
            kept[key] = limit
    return kept, left
