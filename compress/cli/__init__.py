"""The command line: the only place that prints and exits.

Exit codes: 0 success; 1 a gate was breached; 2 bad usage or bad input; 70 an unexpected error; 130 interrupted.
Heavy packages are imported inside the verbs, so `compress --help` is quick.
"""

from __future__ import annotations

import click

from compress.cli.group import EXIT_CODES, Group, debug_option
from compress.cli.verbs.bench import bench
from compress.cli.verbs.bisect import bisect
from compress.cli.verbs.check_tensorrt import check_tensorrt
from compress.cli.verbs.doctor import doctor
from compress.cli.verbs.export_triton import export_triton
from compress.cli.verbs.export_web import export_web
from compress.cli.verbs.generate import generate
from compress.cli.verbs.init import init
from compress.cli.verbs.models import models
from compress.cli.verbs.outpaint import outpaint
from compress.cli.verbs.passes import passes
from compress.cli.verbs.plan import plan
from compress.cli.verbs.profile import profile
from compress.cli.verbs.recipes import recipes
from compress.cli.verbs.report import report
from compress.cli.verbs.run import run
from compress.cli.verbs.schema import schema
from compress.cli.verbs.search import search
from compress.cli.verbs.sensitivity import sensitivity
from compress.cli.verbs.serve import serve
from compress.cli.verbs.store import store
from compress.cli.verbs.to_optimum import to_optimum
from compress.cli.verbs.tokens import tokens
from compress.cli.verbs.train import train
from compress.cli.verbs.upscale import upscale
from compress.cli.verbs.vary import vary
from compress.cli.verbs.verify import verify


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    params=[debug_option()],
    epilog=EXIT_CODES,
)
@click.version_option(package_name="image-token-compress")
def main() -> None:
    """Make a trained image-token transformer small and fast, and prove what was lost and won at every step.

    \b
    Start with:          compress run quickstart
    Shell completion:    eval "$(_COMPRESS_COMPLETE=bash_source compress)"   (or zsh_source, fish_source)
    """


for verb in (
    *(init, run, plan, sensitivity, search, train, tokens, generate, vary, outpaint, upscale, serve),
    *(verify, bisect, bench, profile),
    *(to_optimum, export_triton, export_web, check_tensorrt, report, recipes, schema, passes, models, store, doctor),
):
    main.add_command(verb)
