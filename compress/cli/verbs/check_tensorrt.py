"""The command `check-tensorrt`: what TensorRT says of an ONNX file, before anything depends on it."""

from __future__ import annotations

from pathlib import Path

import click

from compress.cli.group import example, json_option, leave
from compress.cli.paths import UserPath
from compress.cli.saying import saying_options
from compress.cli.terminal import print_json, print_line, print_rows
from export.runtime.counted import counted

LARGEST_ROWS = 2**16


@click.command("check-tensorrt")
@saying_options
@example("compress check-tensorrt model.onnx --capability 8.9")
@click.argument("path", metavar="MODEL", type=UserPath())
@click.option(
    "--capability",
    "capabilities",
    multiple=True,
    default=("8.6", "8.9", "12.0"),
    show_default=True,
    help="A compute capability to build for; may be given several times.",
)
@click.option(
    "--rows",
    type=click.IntRange(1, LARGEST_ROWS),
    default=16,
    show_default=True,
    help="The largest value of a size that varies.",
)
@json_option
def check_tensorrt(path: Path, capabilities: tuple[str, ...], rows: int, as_json: bool) -> None:
    """Say what TensorRT's parser, its builder and the rules here make of an ONNX file or an engine folder.

    TensorRT for RTX parses and builds every graph for each compute capability; no GPU is needed. Without it only the
    rules speak. Exit code 1: a graph is refused.
    """
    from compress.recipe.early import check_capabilities, check_there

    check_there(path)
    check_capabilities(capabilities)
    from compress.verifying.tensorrt_check import check

    found = check(path, capabilities, rows)
    if as_json:
        print_json(found)
        leave(passed=found.passed)
    print_line(f"TensorRT for RTX {found.builder}" if found.builder else found.missing)
    for graph in found.graphs:
        builds = ", ".join(f"{capability} {said}" for capability, said in graph.builds.items())
        rows_of_graph = [
            [
                each.node or "-",
                each.operator or "-",
                each.by,
                ", ".join(each.capabilities) or "all",
                each.text,
                each.cure,
            ]
            for each in graph.said
        ]
        print_line(f"{graph.graph}: {builds}")
        for each in graph.evidence:
            products = ", ".join(f"{count} {types}" for types, count in each.products.items()) or "none"
            print_line(
                f"  {each.profile}: {counted(each.kernels, 'kernel')}; products {products}; {each.low} of "
                f"{each.asked} quantized "
                f"ones in low precision, {each.unpacked} weights unpacked at every call; {each.fused} of "
                f"{counted(each.attentions, 'attention')} fused; {each.in_place} of "
                f"{counted(each.caches, 'cache')} in place"
            )
        if rows_of_graph:
            headers = ["node", "operator", "said by", "capability", "what", "cure"]
            print_rows(f"{graph.graph}, node by node", headers, rows_of_graph)
    leave(passed=found.passed)
