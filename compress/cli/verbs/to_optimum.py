"""The command `to-optimum`: an engine for optimum."""

from __future__ import annotations

from pathlib import Path

import click

from compress.cli.group import example, json_option
from compress.cli.paths import UserPath
from compress.cli.saying import saying_options
from compress.cli.terminal import print_json, print_line


@click.command("to-optimum")
@saying_options
@example("compress to-optimum runs/quickstart/engines/cpu -o optimum/")
@click.argument("engine", type=UserPath())
@click.option("-o", "--output", type=UserPath(), required=True, help="The folder to write.")
@json_option
def to_optimum(engine: Path, output: Path, as_json: bool) -> None:
    """Write a causal engine as a folder that optimum's ORTModelForCausalLM.from_pretrained opens.

    The folder holds model.onnx with the names of Hugging Face, config.json and generation_config.json. Its ids are the
    engine's: image tokens, then classes. optimum is not needed to write it.
    """
    from compress.core.settings import InputError
    from compress.recipe.early import check_engine

    check_engine(engine)
    from compress.models import artifact
    from export.runtime.engine import EngineError
    from export.targets.optimum_layout import LayoutError, write

    try:
        model = artifact.load(engine, artifact.Form.ONNX)
        output.mkdir(parents=True, exist_ok=True)
        write(model, output)  # type: ignore[arg-type]  # an engine folder never holds a torch model
    except (EngineError, LayoutError) as error:
        raise InputError(str(error)) from error
    needs_vnni = model.manifest.cpu == "vnni"  # type: ignore[union-attr]
    if as_json:
        print_json({"output": str(output), "needs_vnni": needs_vnni})
        return
    print_line(f"{output}: open it with ORTModelForCausalLM.from_pretrained")
    if needs_vnni:
        print_line(
            "its int8 weights are for x86 processors with VNNI; on others, open it with a session whose options have "
            "session.x64quantprecision = 1, or make the engine with  cpu: any"
        )
