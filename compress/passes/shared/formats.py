"""Which number formats the linear layers of a model get, by patterns of their names."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from compress.core.settings import MOST_WIDTH, nearest, setting, shown
from compress.models.transformer.quantized import Activations, LinearQuantization, Weights
from compress.passes import PassError


@dataclass(frozen=True)
class Override:
    """What is different for some layers; what is not given stays as it is for all."""

    weights: Weights | None = setting(None, doc="format of the weights")
    activations: Activations | None = setting(None, doc="format of the inputs of the products")
    dynamic: bool | None = setting(None, doc="scale int8 activations as they come")
    group: int | None = setting(None, doc="inputs that share a weight scale", low=0, high=MOST_WIDTH)
    symmetric: bool | None = setting(None, doc="no zero points")

    def applied(self, spec: LinearQuantization) -> LinearQuantization:
        """The formats of a layer with what is given here; int8 weights keep the range that static products need.

        Raises:
            ValueError: formats that do not go together.
        """
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        changes = {name: value for name, value in given.items() if value is not None}
        if changes.get("weights", spec.weights) != "int8":
            changes["reduce_range"] = False
        return replace(spec, **changes)


def matched(pattern: str, names: Sequence[str], where: str) -> list[str]:
    """The names that a pattern matches: a name, or with ``*``, ``?`` and ``[...]`` as a shell has them.

    Raises:
        PassError: none; the nearest is suggested.
    """
    if found := fnmatch.filter(names, pattern):
        return found
    raise PassError(f"{where}: {shown(pattern)} matches none of {len(names)} layers; {nearest(pattern, names)}")


def kept(patterns: Iterable[str], names: Sequence[str]) -> set[str]:
    """The layers that stay in float.

    Raises:
        PassError: a pattern matches nothing.
    """
    return {name for pattern in patterns for name in matched(pattern, names, "keep")}


def overridden(
    specs: dict[str, LinearQuantization], overrides: Mapping[str, Override]
) -> dict[str, LinearQuantization]:
    """The formats of each layer, changed by the patterns one after the other.

    Raises:
        PassError: a pattern matches nothing, or makes formats that do not go together.
    """
    for pattern, override in overrides.items():
        for name in matched(pattern, [*specs], "override"):
            try:
                specs[name] = override.applied(specs[name])
            except ValueError as error:
                raise PassError(f"override.{pattern}: {name}: {error}") from error
    return specs


def exactly(spec: LinearQuantization) -> Override:
    """What makes the format of any layer this one."""
    return Override(spec.weights, spec.activations, spec.dynamic, spec.group, spec.symmetric)


def check_together(specs: Mapping[str, LinearQuantization]) -> None:
    """Refuse int8 weights with exact inputs beside layers with static ones.

    ONNX Runtime's optimizer, which makes int8 products of the latter, rounds the inputs of the former too.

    Raises:
        PassError: names a layer of each.
    """
    static = next((name for name, spec in specs.items() if spec.static), None)
    alone = next((name for name, spec in specs.items() if spec.weights == "int8" and spec.activations == "none"), None)
    if static and alone:
        raise PassError(
            f"{alone} has int8 weights alone and {static} static activations: onnxruntime would round the inputs of "
            f"both; keep {alone} in float, or give it activations too"
        )
