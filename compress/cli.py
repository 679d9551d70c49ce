"""The command line: the only place that prints and exits.

Exit codes: 0 all well; 1 a gate was breached (or a comparison failed); 2 bad usage or bad input; 130 interrupted.
Heavy packages are imported inside the verbs, so `compress --help` is quick.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from compress.comparison import Comparison
    from compress.listener import Progress

BREACH = 1
BAD_INPUT = 2
INTERRUPTED = 130

GIB = 2**30


class Group(click.Group):
    """The verbs in the order of a user's day, with did-you-mean, and one line for every error a user can mend."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            from compress.settings import nearest

            ctx.fail(f"no verb is called {args[0]!r}; {nearest(args[0], self.commands)}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        from compress.settings import InputError

        try:
            return super().invoke(ctx)
        except InputError as error:
            fail(str(error))
        except OSError as error:
            if error.filename is None:
                raise
            fail(f"{error.filename}: {error.strerror}")
        except KeyboardInterrupt:
            click.echo("\ninterrupted; what was finished is kept, and the next run goes on from there", err=True)
            sys.exit(INTERRUPTED)


def fail(text: str) -> None:
    """One clear line, exit code 2."""
    click.echo(f"error: {text}", err=True)
    sys.exit(BAD_INPUT)


def example(text: str) -> Callable[[Any], Any]:
    """Show an example below a verb's help."""

    def decorate(function: Any) -> Any:
        function.__doc__ = f"{function.__doc__}\n\n\b\nExample:\n  {text}\n"
        return function

    return decorate


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
store_option = click.option(
    "--store", "store_path", type=click.Path(path_type=Path), default=Path(".compress"), show_default=True,
    help="Where artifacts and measurements are kept.",
)  # fmt: skip
threads_option = click.option(
    "--threads", type=click.IntRange(1), default=2, show_default=True, help="Runtime threads."
)


def console(stderr: bool = False) -> Console:
    """The terminal; 120 columns where it is none, so that tables in logs are whole."""
    from rich.console import Console

    return Console(stderr=stderr, width=None if sys.stdout.isatty() else 140, highlight=False)


class Terminal:
    """Shows what the pipeline says, and progress bars for long work, on standard error."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = console(stderr=True)

    def say(self, text: str) -> None:
        if not self.quiet:
            self.console.print(text, markup=False)

    @contextmanager
    def work(self, title: str) -> Iterator[Progress]:
        if self.quiet or not self.console.is_terminal:
            yield self._lines(title)
            return
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                   TimeRemainingColumn(), TextColumn("{task.fields[values]}"))  # fmt: skip
        with Bars(*columns, console=self.console, transient=True) as bars:
            task = bars.add_task(title, total=None, values="")
            yield lambda done, total, values: bars.update(task, completed=done, total=total, values=shown(values))

    def _lines(self, title: str) -> Progress:
        """Where no bar can be drawn: a line at each tenth of the work."""
        told = [0]

        def progress(done: int, total: int, values: dict[str, float]) -> None:
            if 10 * done // max(total, 1) > told[0]:
                told[0] = 10 * done // max(total, 1)
                self.say(f"  {title}: {done} of {total} {shown(values)}")

        return progress


def shown(values: dict[str, float]) -> str:
    """Numbers beside a progress bar."""
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())


def print_json(value: Any) -> None:
    """JSON on standard output."""
    from compress.settings import plain

    click.echo(json.dumps(plain(value), indent=1))


def print_rows(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table on standard output."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    console().print(table, markup=False)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="compress")
def main() -> None:
    """Make a trained image-token transformer small and fast, and prove what was lost and won at every step.

    \b
    Start with:          compress run recipes/quickstart.yaml
    Shell completion:    eval "$(_COMPRESS_COMPLETE=bash_source compress)"   (or zsh_source, fish_source)
    """


@main.command()
@example("compress run recipes/quickstart.yaml")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The run's folder.  [default: runs/<recipe>]")
@store_option
@click.option("--skip-preflight", is_flag=True, help="Do not rehearse the chain on a two-layer copy first.")
@json_option
def run(recipe: Path, output: Path | None, store_path: Path, skip_preflight: bool, as_json: bool) -> None:
    """Compress, export, measure and judge: the whole recipe.

    Writes report.json, report.md, the engines and the pictures into the run's folder. What the store holds is reused.
    Exits with 1 if a gate is breached, 2 if the recipe or an input is wrong.
    """
    from compress import pipeline
    from compress import recipe as recipes
    from compress.report.table import table
    from compress.store import Store

    loaded = recipes.load(recipe)
    folder = output or Path("runs") / loaded.name
    terminal = Terminal(quiet=as_json)
    result = pipeline.run(loaded, Store(store_path), folder, terminal, preflight=not skip_preflight)
    if as_json:
        print_json(result)
    else:
        console().print(table(result))
        for line in pipeline.closing_lines(result, folder):
            click.echo(line)
    sys.exit(0 if result.verdict.passed else BREACH)


@main.command()
@example("compress plan recipes/quickstart.yaml --preflight")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--preflight", is_flag=True, help="Also drive the whole chain once on a two-layer copy of the model.")
@store_option
@json_option
def plan(recipe: Path, preflight: bool, store_path: Path, as_json: bool) -> None:
    """Show the chain of forms, what the store would reuse, and why the rest would be made. Costs nothing."""
    from compress import plan as plans
    from compress import recipe as recipes
    from compress.store import Store

    loaded = recipes.load(recipe)
    store = Store(store_path)
    tokens = plans.load_tokens(loaded)
    planned = plans.make_plan(loaded, tokens)
    made = store.makers()
    rows = [
        {
            "name": node.name,
            "form": node.form.value,
            "key": node.key,
            "reason": plans.explain(node, store, made),
        }
        for node in planned.nodes
    ]
    if not as_json:
        print_rows(
            f"{recipe}", ["step", "form", "key", ""], [[r["name"], r["form"], r["key"][:12], r["reason"]] for r in rows]
        )
    estimate = None
    if preflight:
        from compress import pipeline
        from compress.preflight import rehearse

        model = pipeline.load_reference(loaded, tokens)
        estimate = rehearse(loaded, planned, model, tokens, Terminal(quiet=as_json))
    if as_json:
        print_json({"steps": rows, "preflight": estimate})


@main.command()
@example("compress train recipes/train-digits.yaml -o runs/train-digits")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder of the checkpoint.")
def train(recipe: Path, output: Path) -> None:
    """Train a reference model from a recipe; an interrupted training goes on where it was."""
    from compress.train import TrainRecipe
    from compress.train import train as run_training

    loaded = TrainRecipe.load(recipe)
    terminal = Terminal()
    with terminal.work(f"train {loaded.name}") as progress:
        result = run_training(loaded, output, progress)
    click.echo(f"{output}: held-out NLL {result['held_out_nll']:.4f} nats per token")


@main.command()
@example("compress tokens photos/ -o tokens.npz --model digits")
@click.argument("images", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The TokenSet to write (.npz).")
@click.option("--model", "model_name", default="digits", show_default=True, help="A shipped model or a checkpoint.")
@click.option("--validation", type=click.FloatRange(0, 0.9), default=0.05, show_default=True, help="Share set apart.")
@click.option("--held-out", type=click.FloatRange(0, 0.9), default=0.2, show_default=True, help="Share set apart.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the split.")
def tokens(images: Path, output: Path, model_name: str, validation: float, held_out: float, seed: int) -> None:
    """Turn a folder of pictures into a TokenSet with the model's tokenizer.

    Pictures in a subfolder named 0, 1, 2 ... get that class; pictures right in the folder get no class.
    """
    from compress.models import families
    from compress.tokens import from_folder

    model = families.load("reference", model_name, "--model")
    made = from_folder(images, model, validation, held_out, seed)
    made.save(output)
    parts = {part: len(made.part(part)) for part in ("train", "validation", "held_out")}
    counts = ", ".join(f"{count} {part.replace('_', '-')}" for part, count in parts.items())
    click.echo(f"{output}: {len(made)} pictures of {made.tokens.shape[1]} tokens ({counts})")


@main.command()
@example("compress generate runs/quickstart/engines/cpu --labels 3,1,4 -o out.png")
@click.argument("engine", type=click.Path(path_type=Path))
@click.option("--labels", required=True, help="Classes, separated by commas.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The PNG to write.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--cfg-scale", type=click.FloatRange(0), help="Guidance; 1 is none.  [default: the engine's]")
@click.option("--temperature", type=click.FloatRange(0), help="0 always takes the likeliest.  [default: the engine's]")
@click.option("--top-k", type=click.IntRange(0), help="Keep the k likeliest; 0 keeps all.  [default: the engine's]")
@click.option("--top-p", type=click.FloatRange(0, 1), help="Keep this much probability.  [default: the engine's]")
@threads_option
def generate(
    engine: Path, labels: str, output: Path, seed: int, cfg_scale: float | None, temperature: float | None,
    top_k: int | None, top_p: float | None, threads: int,
) -> None:  # fmt: skip
    """Draw pictures with an engine (or a checkpoint, in PyTorch)."""
    import numpy as np

    from compress.candidate import open_candidate
    from compress.measure.images import save_grid
    from compress.settings import InputError

    try:
        classes = np.array([int(label) for label in labels.split(",")], dtype=np.int64)
    except ValueError:
        raise InputError(f"--labels: {labels!r} is not a list of whole numbers like 3,1,4") from None
    drawer = open_candidate(str(engine), threads)
    try:
        sampler = drawer.sampler.changed(cfg_scale=cfg_scale, temperature=temperature, top_k=top_k, top_p=top_p)
        pictures = drawer.decode_images(drawer.draw_tokens(classes, seed, sampler))
    except ValueError as error:
        raise InputError(str(error)) from error
    save_grid(pictures, output)
    click.echo(f"{output}: {len(classes)} pictures")


@main.command()
@example("compress verify digits runs/quickstart/engines/cpu --gates gates.yaml --json")
@click.argument("reference")
@click.argument("candidate")
@click.option("--gates", type=click.Path(path_type=Path), help="YAML mapping of gates, for example  nll_drift: 2%")
@click.option("--tokens", "source", default="digits", show_default=True, help="'digits' or a TokenSet (.npz).")
@click.option("--held-out", type=click.IntRange(2), default=None, help="Held-out pictures.  [default: all]")
@threads_option
@json_option
def verify(
    reference: str, candidate: str, gates: Path | None, source: str, held_out: int | None, threads: int, as_json: bool
) -> None:
    """Measure how far a candidate's outputs drift from a reference's, on held-out tokens.

    Each of the two is a shipped model, a checkpoint folder or an engine folder. Exits with 1 if a gate is breached.
    """
    from compress.comparison import compare
    from compress.recipe import read_yaml
    from compress.settings import parse
    from compress.verdict import Gate

    gate = parse(Gate, read_yaml(gates), str(gates)) if gates else None
    result = compare(reference, candidate, gate, source, held_out, threads)
    if as_json:
        print_json(result)
    else:
        print_rows(f"{candidate} against {reference}", ["measurement", "value", "95 % interval"], drift_rows(result))
        for breach in result.verdict.breaches:
            click.echo(f"breach: {breach.text}")
        if gate is not None and result.verdict.passed:
            click.echo("every gate holds")
    sys.exit(0 if result.verdict.passed else BREACH)


def drift_rows(result: Comparison) -> list[list[str]]:
    """A comparison as rows of a table."""
    drift = result.fidelity
    intervals = ("nll", "reference_nll", "nll_drift", "nll_drift_nats", "kl", "agreement")
    rows = []
    for name in intervals:
        low, high = getattr(drift, f"{name}_ci95")
        rows.append([name, f"{getattr(drift, name):.5g}", f"{low:.5g} to {high:.5g}"])
    rows.append(["kl_p99", f"{drift.kl_p99:.5g}", ""])
    rows.append(["max_abs_difference", f"{drift.max_abs_difference:.5g}", ""])
    rows.append(["stepwise_max_abs_difference", f"{result.stepwise_max_abs_difference:.5g}", ""])
    return rows


@main.command()
@example("compress bench runs/quickstart/engines/cpu digits --batch 1,8")
@click.argument("engines", nargs=-1, required=True)
@click.option("--batch", default="1,8", show_default=True, help="Pictures drawn at once, separated by commas.")
@click.option("--repeats", type=click.IntRange(5), default=20, show_default=True, help="Interleaved rounds.")
@threads_option
@json_option
def bench(engines: tuple[str, ...], batch: str, repeats: int, threads: int, as_json: bool) -> None:
    """Time engines (or checkpoints, in PyTorch) interleaved in one process; the first is the reference."""
    from compress.comparison import bench as run_bench
    from compress.settings import InputError

    try:
        batches = tuple(int(size) for size in batch.split(","))
    except ValueError:
        raise InputError(f"--batch: {batch!r} is not a list of whole numbers like 1,8") from None
    if min(batches) < 1:
        raise InputError(f"--batch: {batch!r}: every batch must be at least 1")
    rows = run_bench(engines, batches, repeats, threads)
    if as_json:
        print_json(rows)
        return
    from compress.measure.speed import words

    print_rows(
        f"{threads} threads, {repeats} interleaved rounds; the first engine is the reference",
        ["engine", "runtime", "batch", "ms per token", "images/s", "speedup"],
        [
            [row.engine, row.speed.runtime, str(row.speed.batch), f"{row.speed.ms_per_token:.3f}",
             f"{row.speed.images_per_second:.2f}",
             words(row.speed.speedup_vs_reference, row.speed.speedup_vs_reference_ci95)]
            for row in rows
        ],
    )  # fmt: skip


@main.command()
@example("compress report runs/quickstart")
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@json_option
def report(run_folder: Path, as_json: bool) -> None:
    """Show a finished run's report again."""
    from compress import pipeline
    from compress import report as reports
    from compress.report.table import table

    result = reports.load(run_folder / reports.FILE)
    if as_json:
        print_json(result)
        return
    console().print(table(result))
    for line in pipeline.closing_lines(result, run_folder):
        click.echo(line)


@main.command()
@example("compress passes prune-heads")
@click.argument("name", required=False)
@json_option
def passes(name: str | None, as_json: bool) -> None:
    """List the passes, or one pass's settings with defaults."""
    from compress import catalogue

    rows = catalogue.passes(name)
    if as_json:
        print_json(rows)
        return
    if name is None:
        listed = [
            [r["name"], f"{r['accepts']} -> {r['returns']}", "exact" if r["exact"] else "lossy", r["doc"]] for r in rows
        ]
        print_rows("passes", ["pass", "forms", "", "what it does"], listed)
        return
    settings = [[s["name"], s["type"], s["default"], s["doc"]] for s in rows[0]["settings"]]
    print_rows(f"{name}: {rows[0]['doc']}", ["setting", "type", "default", "what it is"], settings)


@main.command()
@example("compress models --json")
@json_option
def models(as_json: bool) -> None:
    """List the shipped models and the families of checkpoints that can be read."""
    from compress import catalogue

    found = catalogue.models()
    if as_json:
        print_json(found)
        return
    print_rows("shipped models", ["model", "parameters", "size", "held-out NLL", "what it draws"], [
        [m["name"], f"{m['parameters'] / 1e6:.2f} M", f"{m['size_bytes'] / 1e6:.1f} MB",
         f"{m['held_out_nll']:.4f}", m["doc"]]
        for m in found["models"]
    ])  # fmt: skip
    print_rows("families", ["family", "what it reads"], [[f["name"], f["doc"]] for f in found["families"]])


@main.group(cls=Group)
def store() -> None:
    """See and tidy the store of artifacts."""


@store.command("list")
@example("compress store list")
@store_option
@json_option
def store_list(store_path: Path, as_json: bool) -> None:
    """What the store holds, and which recipes need it."""
    from compress.store import Store

    rows = Store(store_path).rows()
    if as_json:
        print_json(rows)
        return
    print_store_rows(f"{store_path}: {len(rows)} artifacts", rows)
    click.echo(f"{sum(row['size_bytes'] for row in rows) / 1e6:.1f} MB in all")


@store.command("gc")
@example("compress store gc --max-size 2GiB")
@click.option("--max-size", required=True, help="What may stay: bytes, or with MB, GB, MiB, GiB.")
@store_option
@json_option
def store_gc(max_size: str, store_path: Path, as_json: bool) -> None:
    """Delete artifacts until the store is small enough: those no recipe needs first, then least recently used."""
    from compress.store import Store

    rows = Store(store_path).collect(parse_size(max_size))
    if as_json:
        print_json(rows)
        return
    print_store_rows(f"{store_path}: deleted {len(rows)} artifacts", rows)


def print_store_rows(title: str, rows: list[dict[str, Any]]) -> None:
    """Artifacts of the store as a table."""
    print_rows(title, ["key", "pass", "size", "unused", "needed by"], [
        [row["key"][:12], row["pass"], f"{row['size_bytes'] / 1e6:.2f} MB", f"{row['unused_seconds'] / 3600:.1f} h",
         ", ".join(Path(user).name for user in row["needed_by"]) or "-"]
        for row in rows
    ])  # fmt: skip


def parse_size(text: str) -> int:
    """Bytes of a size like 500MB or 2GiB."""
    from compress.settings import InputError

    units = {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9, "B": 1, "": 1}
    upper = text.strip().upper()
    for unit, size in units.items():
        number = upper.removesuffix(unit) if unit else upper
        if upper.endswith(unit) and number.strip().replace(".", "", 1).isdigit():
            return int(float(number) * size)
    raise InputError(f"--max-size: {text!r} is not a size like 500MB or 2GiB")


@main.command()
@example("compress doctor")
@json_option
def doctor(as_json: bool) -> None:
    """What this machine can run: CPU features, ONNX Runtime providers, TensorRT, CUDA."""
    from compress.doctor import examine
    from compress.settings import plain

    health = examine()
    if as_json:
        print_json(health)
        return
    machine = {
        key: ", ".join(map(str, value)) if isinstance(value, list) else value
        for key, value in plain(health.machine).items()
    }
    print_rows("this machine", ["", ""], [[key, str(value)] for key, value in machine.items()])
    print_rows("what can run", ["", "", ""], [[c.name, "yes" if c.works else "no", c.detail] for c in health.checks])
