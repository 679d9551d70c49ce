"""The verbs that use a finished model: tokens, generate, verify, bench, profile, to-optimum, report."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compress.cli.group import OutputFile, example, json_option, leave, threads_option, whole_numbers
from compress.cli.terminal import Terminal, console, print_json, print_rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compress.verify.comparison import Comparison
    from export.runtime.shape import Shape

COMPARED = "comparison.html"
LAST_SEED = 2**64 - 1  # of pictures


class Share(click.FloatRange):
    """A share in a closed range; click lets NaN pass every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value} is not a number in the range {self._describe_range()}.", param, ctx)
        return number


@click.command()
@example("compress tokens photos/ -o tokens.npz --model digits")
@click.argument("images", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=OutputFile(), required=True, help="The TokenSet to write (.npz).")
@click.option("--model", "model_name", default="digits", show_default=True, help="A shipped model or a checkpoint.")
@click.option("--validation", type=Share(0, 0.9), default=0.05, show_default=True, help="Share set apart.")
@click.option("--held-out", type=Share(0, 0.9), default=0.2, show_default=True, help="Share set apart.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the split.")
def tokens(images: Path, output: Path, model_name: str, validation: float, held_out: float, seed: int) -> None:
    """Turn a folder of pictures into a TokenSet with the model's tokenizer.

    Pictures in a subfolder named 0, 1, 2 ... get that class; pictures right in the folder get no class.
    """
    from compress.core.settings import InputError
    from compress.data.tokens import from_folder
    from compress.models.candidate import open_model

    if output.suffix != ".npz":
        raise InputError(f"--output: '{output}' must end in .npz")
    model = open_model(model_name)
    made = from_folder(images, model, validation, held_out, seed)
    made.save(output)
    parts = {part: len(made.part(part)) for part in ("train", "validation", "held_out")}
    counts = ", ".join(f"{count} {part.replace('_', '-')}" for part, count in parts.items())
    click.echo(f"{output}: {len(made)} pictures of {made.tokens.shape[1]} tokens ({counts})")


@click.command()
@example("compress generate runs/quickstart/engines/cpu --labels 3,1,4 -o out.png")
@click.argument("engine", type=click.Path(path_type=Path))
@click.option("--labels", help="Classes, separated by commas.")
@click.option("--count", type=click.IntRange(1), help="How many pictures of a model without classes.  [default: 1]")
@click.option("--features", type=click.Path(path_type=Path), help="Features of texts, .npy (pictures, length, width).")
@click.option("-o", "--output", type=OutputFile(), required=True, help="The PNG to write.")
@click.option("--image", type=click.Path(path_type=Path), help="A picture to start from; give --mask or --keep too.")
@click.option("--mask", type=click.Path(path_type=Path), help="What is white in it is drawn anew (inpainting).")
@click.option("--keep", type=Share(0, 1), help="Share of its tokens that stay, in the order of drawing.")
@click.option("--seed", type=click.IntRange(0, LAST_SEED), default=0, help="Seed of the pictures.  [default: 0]")
@click.option("--steps", type=click.IntRange(1), help="Steps of a masked model.  [default: the engine's]")
@click.option("--cfg-scale", type=click.FloatRange(0), help="Guidance; 1 is none.  [default: the engine's]")
@click.option("--temperature", type=click.FloatRange(0), help="0 always takes the likeliest.  [default: the engine's]")
@click.option("--top-k", type=click.IntRange(0), help="Keep the k likeliest; 0 keeps all.  [default: the engine's]")
@click.option("--top-p", type=click.FloatRange(0, 1), help="Keep this much probability.  [default: the engine's]")
@click.option("--batch", type=click.IntRange(1), help="Pictures drawn at once.  [default: as many as memory holds]")
@threads_option
def generate(
    engine: Path, labels: str | None, count: int | None, features: Path | None, output: Path, image: Path | None,
    mask: Path | None, keep: float | None, seed: int, steps: int | None, cfg_scale: float | None,
    temperature: float | None, top_k: int | None, top_p: float | None, batch: int | None, threads: int,
) -> None:  # fmt: skip
    """Draw pictures with an engine (or a checkpoint, in PyTorch), or draw a part of a given picture anew.

    A causal model keeps the upper rows of a picture (--keep 0.5 completes the lower half); a masked model keeps tokens
    all over it, or redraws what a mask shows; a next-scale model keeps the coarse scales.
    """
    import numpy as np

    from compress.core.settings import InputError
    from compress.data.editing import known_tokens
    from compress.measure.pictures.images import save_grid
    from compress.models.candidate import open_candidate
    from export.runtime.drawing import check, sampler_of
    from export.runtime.throughput import check_pictures, draw_in_batches

    drawer = open_candidate(str(engine), threads)
    try:
        given = {"cfg_scale": cfg_scale, "temperature": temperature, "top_k": top_k, "top_p": top_p, "steps": steps}
        sampler = sampler_of(drawer.shape, drawer.sampler, **given)
    except ValueError as error:
        raise InputError(str(error)) from error
    classes, texts = wanted(drawer.shape, labels, count, features)
    if (image is not None) != (mask is not None or keep is not None) or (mask is not None and keep is not None):
        raise InputError("--image goes with exactly one of --mask and --keep")
    known = known_tokens(drawer, image, mask, keep, len(classes)) if image else None
    try:
        check_pictures(drawer.picture, len(classes))
        check(classes, drawer.shape, texts, known)
        with Terminal().work(f"draw with {engine}") as progress:
            report = lambda done, total: progress(done, total, {})  # noqa: E731
            drawn = draw_in_batches(drawer, classes, seed, sampler, texts, known, batch or 0, report)
            pictures = np.concatenate(list(drawn))
    except ValueError as error:
        raise InputError(str(error)) from error
    save_grid(pictures, output)
    click.echo(f"{output}: {len(classes)} pictures")


def wanted(
    shape: Shape, labels: str | None, count: int | None, features: Path | None
) -> tuple[NDArray[np.int64], NDArray[np.float32] | None]:
    """The classes (N,) to draw, and features of texts, as the options say.

    Raises:
        InputError: the model takes something else.
    """
    import numpy as np

    from compress.core.settings import InputError
    from export.runtime.drawing import classes_of

    if shape.text is not None:
        if features is None or labels is not None:
            raise InputError("this model draws texts: give --features FILE.npy, not --labels")
        texts = read_features(features)
        return np.zeros(len(texts), dtype=np.int64), texts
    if features is not None:
        raise InputError("--features: this model draws no texts; leave it out")
    if shape.classes == 0:
        if labels is not None:
            raise InputError("--labels: this model knows no classes; give --count instead")
        return np.zeros(count or 1, dtype=np.int64), None
    if count is not None:
        raise InputError("--count: this model draws classes; give a label for each picture and leave it out")
    if labels is None:
        raise InputError(f"--labels: needed, one of 0 to {shape.classes - 1} for each picture, separated by commas")
    try:
        return classes_of(whole_numbers(labels, "--labels", "3,1,4"), shape), None
    except ValueError as error:
        raise InputError(f"--labels: {error}") from error


def read_features(path: Path) -> NDArray[np.float32]:
    """Features of texts (N, P, C) from a .npy file, which is mapped before it is read: its header may say any size.

    Raises:
        InputError: it is no such file.
    """
    import numpy as np

    from compress.core.settings import InputError

    if path.exists() and not path.is_file():
        raise InputError(f"--features: {path}: is not a regular file")
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy parses the header as Python, with whatever that raises
        raise InputError(f"--features: {path}: not a readable .npy file ({str(error)[:200]})") from error
    if not isinstance(found, np.ndarray) or found.ndim != 3 or found.dtype.kind != "f":
        said = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else "an archive"
        raise InputError(f"--features: {path}: holds {said}; floats (pictures, length, width) are needed")
    return found.astype(np.float32)


def self_test(context: click.Context, parameter: click.Parameter, asked: bool) -> None:
    """Try the verifier on planted faults and on an equal model, and leave with the result."""
    if not asked or context.resilient_parsing:
        return
    from compress.verify import selftest

    with Terminal().work("self-test") as progress:
        found = selftest.run(report=lambda done, count: progress(done, count, {}))
    print_rows(
        "planted faults",
        ["fault", "noticed by", "planted in", "localised in", ""],
        [
            [each.fault, ", ".join(each.noticed) or "nothing", each.planted_in or "–", each.localised or "–",
             "caught" if each.caught else "MISSED"]
            for each in found.faults
        ],
    )  # fmt: skip
    click.echo(
        f"95 % intervals of the difference between two halves of the same scores left out 0 in "
        f"{found.intervals_missed} of {found.trials} trials; 5 of 100 are expected"
    )
    click.echo(f"stated rate of false alarms: at most {100 * selftest.STATED_RATE:g} of 100")
    click.echo(found.words())
    leave(passed=found.passed)


@click.command()
@example("compress verify digits runs/quickstart/engines/cpu --gates gates.yaml --json")
@click.argument("reference")
@click.argument("candidate")
@click.option("--gates", type=click.Path(path_type=Path), help="YAML mapping of gates, for example  nll_drift: 2%")
@click.option(
    "--tokens",
    "source",
    default="digits",
    show_default=True,
    help="'digits', a TokenSet (.npz), or 'drawn': pictures that the reference draws.",
)
@click.option("--held-out", type=click.IntRange(2), default=None, help="Pictures that are scored.  [default: all]")
@click.option(
    "--self-test",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=self_test,
    help="Plant faults into models and see that the verifier finds every one; needs no arguments.",
)
@click.option("--junit", type=OutputFile(), help="Write a JUnit XML file: a case for each gate.")
@click.option("--markdown", type=OutputFile(), help="Write a summary in Markdown.")
@click.option("--than", help="Another candidate: is the first one closer to the reference than this one?")
@threads_option
@json_option
def verify(
    reference: str,
    candidate: str,
    gates: Path | None,
    source: str,
    held_out: int | None,
    than: str | None,
    junit: Path | None,
    markdown: Path | None,
    threads: int,
    as_json: bool,
) -> None:
    """Measure how far a candidate's outputs drift from a reference's, on held-out tokens.

    Each of the two is a shipped model, a checkpoint folder or an engine folder. Exits with 1 if a gate is breached, or
    if the reference's predictions are such that no drift could show.
    """
    from compress.core.strict_yaml import read_yaml

    limits = read_yaml(gates) if gates else None  # before anything heavy is imported
    from compress.recipe.verdict import read_gate
    from compress.report.text.cells import precision
    from compress.verify import junit as reports
    from compress.verify.comparison import compare

    gate = read_gate(limits, f"{gates}:") if gates else None
    result = compare(reference, candidate, gate, source, held_out, threads, than)
    if junit is not None:
        junit.write_text(reports.junit(result, gate), encoding="utf-8")
    if markdown is not None:
        markdown.write_text(reports.summary(result, gate, drift_rows(result)), encoding="utf-8")
    if as_json:
        print_json(result)
    else:
        print_rows(f"{candidate} against {reference}", ["measurement", "value", "95 % interval"], drift_rows(result))
        click.echo(precision(result.fidelity))
        if (nearer := result.difference) is not None and nearer.kl_ci95[0] <= 0 <= nearer.kl_ci95[1]:
            click.echo(f"no measurable change of the KL against that of {nearer.other}: the interval holds 0")
        for breach in result.verdict.breaches:
            click.echo(f"breach: {breach.text}")
        if gate is not None and result.verdict.passed:
            click.echo("every gate holds")
    leave(passed=result.verdict.passed)


def drift_rows(result: Comparison) -> list[list[str]]:
    """A comparison as rows of a table."""
    parts = [("", result.fidelity), ("sampled ", result.sampled), ("image decoder ", result.decoding)]
    if (nearer := result.difference) is not None:
        parts.append((f"less that of {nearer.other}: ", nearer))
    shown = ("nll", "nll_drift", "nll_drift_nats", "nll_drift_bits", "kl", "kl_reverse", "total_variation",
             "agreement", "agreement_top5", "agreement_weighted", "flip_rate", "psnr", "ssim")  # fmt: skip
    rows = []
    for prefix, part in parts:
        for name in shown:
            if part is not None and getattr(part, name, None) is not None:
                low, high = getattr(part, f"{name}_ci95")
                rows.append([f"{prefix}{name}", f"{getattr(part, name):.5g}", f"{low:.5g} to {high:.5g}"])
    rows.append(["kl_p99", f"{result.fidelity.kl_p99:.5g}", ""])
    rows.append(["max_abs_difference", f"{result.fidelity.max_abs_difference:.5g}", ""])
    loop = result.cached_loop
    rows.append(["cached loop kl", f"{loop.kl:.5g}", f"{loop.kl_ci95[0]:.5g} to {loop.kl_ci95[1]:.5g}"])
    rows.append(["cached loop max_abs_difference", f"{loop.max_abs_difference:.5g}", ""])
    return rows


@click.command()
@example("compress bench runs/quickstart/engines/cpu digits --batch 1,8")
@click.argument("engines", nargs=-1, required=True)
@click.option("--batch", default="1,8", show_default=True, help="Pictures drawn at once, separated by commas.")
@click.option("--repeats", type=click.IntRange(6), default=20, show_default=True, help="Interleaved rounds.")
@threads_option
@json_option
def bench(engines: tuple[str, ...], batch: str, repeats: int, threads: int, as_json: bool) -> None:
    """Time engines (or checkpoints, in PyTorch) interleaved in one process; the first is the reference."""
    from compress.verify.comparison import bench as run_bench

    rows = run_bench(engines, whole_numbers(batch, "--batch", "1,8", low=1), repeats, threads)
    if as_json:
        print_json(rows)
        return
    from compress.measure.speed.timing import words
    from compress.report.text.markdown import figure as said

    energy = ["J/picture"] if any(row.speed.joules_per_picture for row in rows) else []
    print_rows(
        f"{threads} threads, {repeats} interleaved rounds; the first engine is the reference",
        ["engine", "runtime", "batch", "ms", "p95", "first", "noise", "ms/token", "images/s", *energy, "speedup"],
        [
            [row.engine, one.runtime, str(one.batch), f"{one.median_ms:.1f}", f"{one.p95_ms or 0:.1f}",
             said(one.first_tokens_ms), f"{one.noise or 0:.1%}", f"{one.ms_per_token:.3f}",
             f"{one.images_per_second:.2f}", *(said(one.joules_per_picture) for _ in energy),
             words(one.speedup_vs_reference, one.speedup_vs_reference_ci95)]
            for row in rows
            for one in [row.speed]
        ],
    )  # fmt: skip


@click.command()
@example("compress profile runs/quickstart/engines/cpu --batch 4")
@click.argument("engine", type=click.Path(path_type=Path))
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Pictures drawn at once.")
@threads_option
@json_option
def profile(engine: Path, batch: int, threads: int, as_json: bool) -> None:
    """Show where an engine's time goes, by kind of layer, beside what this machine could do at most."""
    from compress.core.settings import InputError
    from compress.measure.speed.profile import profile as measured
    from compress.models.candidate import open_engine
    from export.runtime import roofline
    from export.runtime.throughput import check_batch

    opened = open_engine(engine, threads)
    try:
        check_batch(opened.shape, opened.sampler, opened.cache_bytes, batch)
    except ValueError as error:
        raise InputError(f"--{error}") from error
    limits = roofline.measure(threads)
    rows = measured(opened, batch, limits)
    if as_json:
        print_json({"roofline": limits, "rows": rows})
        return
    print_rows(
        f"{threads} threads; this machine reads {limits.read_gb_per_s:.1f} GB/s and computes "
        f"{limits.fp32_gflops:.0f} GFLOP/s in fp32, {limits.int8_gflops:.0f} Gop/s in int8",
        ["kind", "calls", "ms", "ms per token", "share", "KB per token", "of the limit"],
        [
            [row.kind, str(row.calls), f"{row.milliseconds:.2f}", f"{row.ms_per_token:.4f}", f"{row.share:.1%}",
             f"{row.bytes_per_token / 1e3:.1f}" if row.bytes_per_token else "–",
             "–" if row.roofline_share is None else f"{row.roofline_share:.0%}"]
            for row in rows
        ],
    )  # fmt: skip


@click.command("to-optimum")
@example("compress to-optimum runs/quickstart/engines/cpu -o optimum/")
@click.argument("engine", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The folder to write.")
def to_optimum(engine: Path, output: Path) -> None:
    """Write a causal engine as a folder that optimum's ORTModelForCausalLM.from_pretrained opens.

    The folder holds model.onnx with the names of Hugging Face, config.json and generation_config.json. Its ids are the
    engine's: image tokens, then classes. optimum is not needed to write it.
    """
    from compress.core.settings import InputError
    from compress.models import artifact
    from export.runtime.engine import EngineError
    from export.targets.optimum_layout import LayoutError, write

    try:
        model = artifact.load(engine, artifact.Form.ONNX)
        output.mkdir(parents=True, exist_ok=True)
        write(model, output)  # type: ignore[arg-type]  # an engine folder never holds a torch model
    except (EngineError, LayoutError) as error:
        raise InputError(str(error)) from error
    click.echo(f"{output}: open it with ORTModelForCausalLM.from_pretrained")
    if model.manifest.cpu == "vnni":  # type: ignore[union-attr]
        click.echo(
            "its int8 weights are for x86 processors with VNNI; on others, open it with a session whose options have "
            "session.x64quantprecision = 1, or make the engine with  cpu: any"
        )


@click.command()
@example("compress report runs/quickstart --open")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--open", "browse", is_flag=True, help="Show the page in the browser; that of one run is made anew.")
@click.option("--compare", is_flag=True, help="Show the engines of several runs side by side.")
@click.option("-o", "--output", type=OutputFile(), help=f"Page of --compare.  [with --open: {COMPARED}]")
@json_option
def report(runs: tuple[Path, ...], browse: bool, compare: bool, output: Path | None, as_json: bool) -> None:
    """Show a finished run's report again, or the engines of several runs side by side.

    --compare also says what differs in their recipes and machines; with -o or --open it writes a page.
    """
    from compress import report as reports
    from compress.core.settings import InputError
    from compress.report.page import compare as comparing
    from compress.report.page import html
    from compress.report.text.table import table
    from compress.run import pipeline

    if compare != (len(runs) > 1):
        said = "compares several runs; name two at least" if compare else "belongs to several runs; name one"
        raise InputError(f"--compare {said}")
    if output is not None and not compare:
        raise InputError("--output goes with --compare; the page of one run lies in its folder")
    found = {str(folder): reports.load(folder / reports.FILE) for folder in runs}
    if compare:
        if as_json:
            print_json({"engines": comparing.outcomes(found), "differences": comparing.differences(found)})
        else:
            print_rows(
                "engines, each against the reference of its own run", [*comparing.HEADERS], comparing.rows(found)
            )
            print_rows("what differs", ["place", *found], comparing.differences(found))
        if output is not None or browse:
            output = output or Path(COMPARED)
            output.write_text(comparing.html(found), encoding="utf-8")
            click.echo(f"page: {output}", err=as_json)
            if browse:
                show(output)
        return
    (run_folder,), (result,) = runs, found.values()
    if as_json:
        print_json(result)
        return
    console().print(table(result))
    for line in pipeline.closing_lines(result, run_folder):
        click.echo(line)
    if browse:
        try:
            page = html.write(result, run_folder)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise InputError(f"{run_folder / reports.FILE}: holds what no page can show ({error})") from error
        show(page)


def show(path: Path) -> None:
    """A page in the browser."""
    import webbrowser

    webbrowser.open(path.resolve().as_uri())
