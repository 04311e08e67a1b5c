"""The command `specs-data`: a verb per capability, and no logic of its own."""

from __future__ import annotations

import atexit
import io
import os
import re
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from shlex import quote
from types import FrameType
from typing import Annotated, Any, Literal

import typer
from typer.exceptions import TyperException

from specs_data.errors import CheckFailed, SpecsDataError, UserError
from specs_data.flags import Flagged, with_flags
from specs_data.inert import visible

_INTERRUPTED = 130  # typer's status after Ctrl-C
_TERMINATED = 143  # the shell's after SIGTERM
_CLOSED_PIPE = 141  # the shell's for a program whose reader, like head, has seen enough

_terminated = False
_status: int | None = None  # of the command, once it is done

app = typer.Typer(
    name="specs-data",
    help="Self-distilled preference data for the cold start of RL on vision-language models (Metis-SPECS).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

File = Annotated[
    Path | None,
    typer.Option("--recipe", help="TOML file with the same keys as the flags, or a shipped recipe such as paper"),
]
TrainFile = Annotated[Path | None, typer.Option("--recipe", help="TOML file with the same keys as the flags")]
Out = Annotated[Path | None, typer.Option("--out", help="folder of the run (default: runs/<name of the policy>)")]
Target = Annotated[str, typer.Argument(metavar="RUN|DATASET", help="a run, a dataset folder or file, or a Hub id")]
Images = Annotated[Path | None, typer.Option(help="folder of the pictures that rows name (default: the dataset's own)")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
Columns = Annotated[str | None, typer.Option(help="its own columns: chosen=...,rejected=...,prompt=...,answer=...")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from specs_data import __version__

        typer.echo(f"specs-data {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="print the version", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Self-distilled preference data for the cold start of RL on vision-language models (Metis-SPECS)."""


def main() -> None:
    """Run the command line. A user's mistake is one sentence on standard error and exit status 2."""
    global _status  # noqa: PLW0603 - what ends the process has nowhere else to learn it
    _open_streams()
    atexit.register(_end)
    signal.signal(signal.SIGTERM, _interrupt)
    for stream in (sys.stdout, sys.stderr):  # an ASCII terminal shows what it lacks as an escape
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    status = _run()
    if status == _INTERRUPTED:
        status = _TERMINATED if _terminated else _INTERRUPTED
        _tell("interrupted; the same command goes on from here")
    for number in (signal.SIGINT, signal.SIGTERM):  # all is said: what threads still do may be cut short
        signal.signal(number, lambda *_: os._exit(status))
    _status = status
    sys.exit(status)


def _end() -> None:
    """Last of all, when only Python's own end is left: it would put signals' defaults in place of the handlers, and end
    by SIGINT where an interrupt once met an import."""
    if _status is None:
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if _status in (_INTERRUPTED, _TERMINATED):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # nobody reads, or it is closed
                stream.flush()
        os._exit(_status)


def _refuse_empty(arguments: Sequence[str]) -> None:
    """Raise UserError for an argument without content, as of a shell's variable that is not set: an empty path would be
    this folder, and an empty name another default. The first words of a response may be none."""
    parts = [part for one in arguments for part in ((one[:-1], "") if re.fullmatch(r"--[\w-]+=", one) else (one,))]
    for before, part in pairwise(("specs-data", *parts)):
        if not part and before != "--prefill":
            raise UserError(f"an empty argument follows {before}: give a value, or leave it out")


def _run() -> int:
    Flagged.hidden = sys.argv[1:] in ([], ["-h"], ["--help"], ["--version"])
    try:
        _refuse_empty(sys.argv[1:])
        status = int(app(standalone_mode=False) or 0)
        if sys.stdout is not None:
            sys.stdout.flush()
    except TyperException as error:
        error.show()  # type: ignore[attr-defined]
        return int(error.exit_code)
    except CheckFailed as error:
        _tell(str(error))
        return 1
    except SpecsDataError as error:
        _tell(f"error: {error}")
        return 2
    except BrokenPipeError:
        return _leave_quietly(_CLOSED_PIPE)
    except OSError as error:
        said = error.strerror or str(error)
        _tell(f"error: cannot use {error.filename}: {said}" if error.filename else f"error: {error}")
        return 2 if error.filename else _leave_quietly(2)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except _cancelled():
        _tell("error: a part of the work was cancelled, by nobody here; the same command goes on from here")
        return 2
    except SystemExit as ended:  # how typer and rich take it that nobody reads on
        if not isinstance(ended.__context__, BrokenPipeError):
            raise
        return _leave_quietly(_CLOSED_PIPE)
    finally:
        Flagged.hidden = False
    return status


def _cancelled() -> Any:
    """asyncio's CancelledError, where asyncio was needed at all."""
    asyncio = sys.modules.get("asyncio")
    return () if asyncio is None else asyncio.CancelledError


def _say(text: str, *, as_json: bool = False) -> None:
    """What a verb has found. What it quotes may be anybody's: for people unseen characters are shown."""
    typer.echo(text.removesuffix("\n") if as_json else visible(text))


def _tell(text: str) -> None:
    """A line on standard error; what it quotes may be anybody's."""
    with suppress(OSError):  # nobody reads there
        typer.echo(visible(text), err=True)


def _open_streams() -> None:
    """Standard streams that are closed go nowhere: or the next file that is opened would get what is printed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))


@app.command()
@with_flags("recipe:Recipe")
def build(
    recipe: File = None,
    out: Out = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only try a few problems and print a forecast")] = False,
    pilot: Annotated[int, typer.Option(min=1, help="problems that a dry run tries")] = 32,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace a finished dataset of another policy or other problems")
    ] = False,
    go_on: Annotated[bool, typer.Option("--go-on", help="go on where it seems to be in vain")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="say only what is wrong, and the result")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="say what becomes of each response")] = False,
    **settings: Any,
) -> None:
    """Turn problems and a policy (or responses) into a preference dataset. The same command resumes."""
    from specs_data.build.run import build as run
    from specs_data.build.run import forecast
    from specs_data.look.summary import summary
    from specs_data.recipe import make_recipe

    made = make_recipe(settings, recipe)
    if dry_run:
        _say(str(forecast(made, out, pilot, quiet=quiet)))
        return
    built = run(made, out, overwrite=overwrite, go_on=go_on, quiet=quiet, verbose=verbose)
    _say(summary(built.manifest))
    if not built.count:
        place = quote(str(built.out))
        raise UserError(f"no pairs came of it; specs-data show {place} --dropped shows what was left out, and why")
    _say(f"{built.count} pairs in {built.out / 'dataset'}")


train = typer.Typer(help="Thin TRL trainers: GRPO, the DPO + SFT hybrid, SFT.", no_args_is_help=True)
app.add_typer(train, name="train")


@train.command()
@with_flags("train.settings:GrpoSettings")
def grpo(recipe: TrainFile = None, **settings: Any) -> None:
    """GRPO with the format and accuracy rewards (paper, stages 1a and 3)."""
    from specs_data.recipe import read_settings
    from specs_data.train.grpo import train_grpo
    from specs_data.train.settings import GrpoSettings

    _say(f"trained checkpoint in {train_grpo(read_settings(GrpoSettings, settings, recipe))}")


@train.command()
@with_flags("train.settings:DpoSettings")
def dpo(recipe: TrainFile = None, **settings: Any) -> None:
    """The cold start: DPO + lambda SFT on a preference dataset (paper, stage 2)."""
    from specs_data.recipe import read_settings
    from specs_data.train.dpo import train_dpo
    from specs_data.train.settings import DpoSettings

    _say(f"trained checkpoint in {train_dpo(read_settings(DpoSettings, settings, recipe))}")


@train.command()
@with_flags("train.settings:SftSettings")
def sft(recipe: TrainFile = None, **settings: Any) -> None:
    """SFT on the chosen responses (an ablation of the paper)."""
    from specs_data.recipe import read_settings
    from specs_data.train.settings import SftSettings
    from specs_data.train.sft import train_sft

    _say(f"trained checkpoint in {train_sft(read_settings(SftSettings, settings, recipe))}")


@app.command()
def init() -> None:
    """Write a commented specs-data.toml."""
    from specs_data.recipe import write_default_recipe

    _say(f"wrote {write_default_recipe()}")


@app.command()
def demo(
    out: Annotated[
        Path | None, typer.Option("--out", help="folder for everything the demo makes; runs/demo or runs/demo-full")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="close the loop: train before and after, and compare")] = False,
) -> None:
    """The main job in miniature, on the shipped tiny checkpoint: no network, GPU or key."""
    if full:
        from specs_data.demo import demo_full

        demo_full(out or Path("runs/demo-full"))
        return
    from specs_data.demo import demo as run
    from specs_data.look.show import show as show_pairs
    from specs_data.look.summary import summary

    built = run(out or Path("runs/demo"))
    show_pairs(built.out, 1)
    _say(summary(built.manifest))
    place = quote(str(built.out))
    _say(f"{built.count} pairs in {built.out / 'dataset'}; specs-data report {place} makes a page of them")


@app.command()
def corruptions(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME|./FILE.py ...]", help="these only, such as your own")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The corruption operators found, where each comes from, one worked example each."""
    from specs_data.look.summary import corruptions_json, describe_corruptions

    _say(corruptions_json(names or ()) if as_json else describe_corruptions(names or ()), as_json=as_json)


@app.command()
def show(
    target: Target,
    count: Annotated[int, typer.Option("-n", min=1, help="how many pairs")] = 3,
    columns: Columns = None,
    images: Images = None,
    dropped: Annotated[bool, typer.Option("--dropped", help="responses that the run left out instead")] = False,
    stage: Annotated[str | None, typer.Option(help="dropped: only of this stage (judge, format, verify, ...)")] = None,
    reason: Annotated[str | None, typer.Option(help="dropped: only whose reason has these words")] = None,
) -> None:
    """Pairs in the terminal, with the difference marked; or with --dropped what was left out, and why."""
    from specs_data.look.show import show as show_pairs
    from specs_data.look.show import show_left_out
    from specs_data.recipe import read_columns

    if dropped or stage or reason:
        show_left_out(target, count, stage=stage, reason=reason)
        return
    show_pairs(target, count, columns=read_columns(columns), images=images)


@app.command()
def report(
    target: Target,
    out: Annotated[Path | None, typer.Option("--out", help="the HTML file (default: report.html in the run)")] = None,
    images: Images = None,
    columns: Columns = None,
) -> None:
    """One self-contained HTML page: the funnel, the figures, and the pairs to look at."""
    from specs_data.look.report import report as run
    from specs_data.recipe import read_columns

    _say(f"wrote {run(target, out, images, read_columns(columns))}")


@app.command()
def check(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="any preference dataset with chosen and rejected")],
    response_format: Annotated[str | None, typer.Option("--format", help="the format it should teach")] = None,
    columns: Columns = None,
    as_json: AsJson = False,
) -> None:
    """Prove, row by row, that a preference dataset is format-only. Exit status 1 if it is not."""
    import msgspec

    from specs_data.format import load_format
    from specs_data.look.check import check as run
    from specs_data.recipe import read_columns

    result = run(dataset, load_format(response_format) if response_format else None, read_columns(columns))
    found = msgspec.json.format(msgspec.json.encode(result), indent=2).decode() if as_json else str(result)
    _say(found, as_json=as_json)
    if not result.ok:
        raise typer.Exit(1)


@app.command()
@with_flags("recipe:Recipe", of="export")
def export(
    source: Annotated[str, typer.Argument(metavar="DATASET|PROBLEMS")],
    to: Annotated[str, typer.Option(help="llamafactory, ms-swift or openrlhf; for problems trl, easyr1 or verl")],
    out: Annotated[Path, typer.Option(help="folder for the files")],
    images: Images = None,
    **settings: Any,
) -> None:
    """Write a dataset for another trainer, or problems as its GRPO prompts."""
    from specs_data.recipe import Recipe, read_columns, read_settings
    from specs_data.share.export import describe_export
    from specs_data.share.export import export as export_pairs
    from specs_data.share.prompt_sets import PROMPT_TARGETS, export_prompts

    if to in PROMPT_TARGETS:
        _refuse_flags({"images": images}, "pairs")
        done = export_prompts(read_settings(Recipe, {**settings, "problems": source}), to, out)
    else:
        columns = read_columns(settings.pop("columns"))
        _refuse_flags(settings, f"problems ({', '.join(PROMPT_TARGETS)})")
        done = export_pairs(source, to, out, images, columns)
    _say(describe_export(done))


def _refuse_flags(flags: dict[str, Any], of: str) -> None:
    """Raise UserError for a flag that was given and would have no effect, as it is one for exports `of` others."""
    for name in (name for name, value in flags.items() if value not in (None, [])):
        raise UserError(f"--{name.replace('_', '-')} is for exports of {of}: leave it out")


@app.command()
def push(
    dataset: Annotated[str, typer.Argument(metavar="RUN|DATASET")],
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID")],
    tag: Annotated[str, typer.Option(help="the version, vX.Y.Z")],
    private: Annotated[
        bool, typer.Option("--private/--public", help="who sees it; a public one needs --public")
    ] = True,
    gated: Annotated[bool, typer.Option(help="readers ask for access")] = False,
    license_id: Annotated[str | None, typer.Option("--license", help="a Hub license id for the card")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the plan only")] = False,
) -> None:
    """Publish a dataset: one guarded commit, a tag on it, and a look at what the Hub holds."""
    from specs_data.share.push import push as run

    run(
        dataset,
        repo_id,
        tag=tag,
        say=_say,
        private=private,
        gated="auto" if gated else False,
        license=license_id,
        dry_run=dry_run,
    )


@app.command()
def versions(repo_id: Annotated[str, typer.Argument(metavar="REPO_ID")], as_json: AsJson = False) -> None:
    """The tags of a pushed dataset, and what changed between them."""
    import msgspec

    from specs_data.share.push import describe_versions
    from specs_data.share.push import versions as run

    found = run(repo_id)
    _say(msgspec.json.encode(found).decode() if as_json else describe_versions(found), as_json=as_json)


@app.command()
def merge(
    datasets: Annotated[list[str], typer.Argument(metavar="A B ...", help="runs or datasets")],
    out: Annotated[Path, typer.Option(help="folder for the merged dataset")],
    images: Images = None,
) -> None:
    """Several datasets into one, without duplicates by problem and picture."""
    from specs_data.share.merge import describe_merge
    from specs_data.share.merge import merge as run

    _say(describe_merge(run(datasets, out, images)))


@app.command()
def judge(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSONL or Parquet: response, gold, type[, choices]")],
    response_format: Annotated[str, typer.Option("--format", help="the responses' format")] = "think-answer",
) -> None:
    """A verdict per response as JSON lines, and the rule that decided."""
    from specs_data.format import load_format
    from specs_data.measure.judge_file import judge_file

    tally = judge_file(file, sys.stdout.buffer, load_format(response_format))
    typer.echo(f"{tally.right:,} right, {tally.wrong:,} wrong, {tally.unjudged:,} not to be judged", err=True)


Formats = Annotated[
    list[str] | None, typer.Option("--format", help="response format; again for changed ones, the first is trained on")
]


@app.command()
@with_flags("recipe:Recipe", of="evaluate")
def evaluate(
    recipe: File = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="the JSON file (default: runs/<name of the policy>/evaluation.json)")
    ] = None,
    formats: Formats = None,
    as_json: AsJson = False,
    **settings: Any,
) -> None:
    """Format and answer accuracy, pass@k and branching of a policy. The same command resumes."""
    from specs_data.measure.bench import default_out
    from specs_data.measure.evaluate import evaluate as run
    from specs_data.measure.evaluation import encode, write_evaluation
    from specs_data.measure.table import table
    from specs_data.recipe import measured_recipe

    made = measured_recipe(settings, recipe)
    file = out or default_out(made)
    evaluation = run(made, formats or (), out=file)
    write_evaluation(evaluation, file)
    _say(encode(evaluation).decode() if as_json else f"{table(evaluation)}\n\nwrote {file}", as_json=as_json)


@app.command()
@with_flags("recipe:Recipe", of="errors")
def errors(
    recipe: File = None,
    out: Annotated[Path | None, typer.Option("--out", help="a JSON file for the distribution")] = None,
    response_format: Annotated[
        str | None, typer.Option("--format", help="the response format (default: the recipe's, or think-answer)")
    ] = None,
    as_json: AsJson = False,
    **settings: Any,
) -> None:
    """The format errors that a policy really makes, and the corruption mix that matches them."""
    from specs_data.measure.errors import encode, natural_errors, write
    from specs_data.recipe import measured_recipe

    made = measured_recipe(settings, recipe)
    found = natural_errors(made, response_format or made.format, out=out)
    if out is not None:
        write(found, out)
    _say(encode(found).decode() if as_json else str(found), as_json=as_json)


@app.command()
def gf(
    base: Annotated[Path, typer.Option(help="evaluation of the base model")],
    step: Annotated[list[str], typer.Option(help="N=EVAL, one for each training step; again for further seeds")],
    out: Annotated[Path | None, typer.Option(help="file for the factors: JSON, or a plot (.png, .svg, .pdf)")] = None,
    measure: Annotated[Literal["format", "accuracy"], typer.Option(help="what is compared")] = "format",
    as_json: AsJson = False,
) -> None:
    """The Generalization Factor per training step, on scores and on gains."""
    from specs_data.measure.gf import encode, read_step, write
    from specs_data.measure.gf import gf as run

    factors = run(base, list(map(read_step, step)), measure)
    if out is not None:
        write(factors, out)
    _say(encode(factors).decode() if as_json else str(factors), as_json=as_json)


@app.command()
def compare(
    targets: Annotated[
        list[str], typer.Argument(metavar="[NAME=]EVAL|RUN ...", help="evaluations and training runs; a name for seeds")
    ],
    out: Annotated[Path | None, typer.Option("--out", help="an HTML page")] = None,
    as_json: AsJson = False,
) -> None:
    """Evaluations and training runs side by side, as tables and as one self-contained page."""
    from specs_data.measure.compare import compare as run
    from specs_data.measure.compare import encode, read_named, write_page

    found = run(read_named(targets))
    _say(encode(found).decode() if as_json else str(found), as_json=as_json)
    if out is not None:
        typer.echo(f"wrote {write_page(found, out)}", err=as_json)


@app.command("verifier-score")
@with_flags("recipe:Recipe", of="verifier-score")
def verifier_score(
    verifier: Annotated[
        list[str] | None, typer.Option(help="as in build; several are scored on the same, with their agreement")
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="consistent responses, each with an inconsistent twin")] = 500,
    cases: Annotated[
        str | None,
        typer.Option(help="labelled cases instead: JSONL with thought, answer, sound; or prose, the shipped ones"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
    **settings: Any,
) -> None:
    """Precision and recall of a verifier on responses of which it is known whether they reason soundly."""
    from specs_data.measure.verifier_score import describe_scores, score_verifiers, scores_json
    from specs_data.recipe import Recipe, read_settings

    named = [{"verifier": name} for name in verifier or ()] or [{}]
    recipes = [read_settings(Recipe, settings | one) for one in named]
    scores = score_verifiers(recipes, pairs, cases)
    _say(scores_json(scores) if as_json else describe_scores(scores), as_json=as_json)


def _leave_quietly(status: int) -> int:
    """Let what is still to be printed go nowhere, so that Python's own last flush finds no closed pipe or full disk."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return status


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Treat a polite request to end (a cluster's preemption) like Ctrl-C."""
    global _terminated  # noqa: PLW0603 - a signal handler has nowhere else to tell it
    _terminated = True
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):
        raise KeyboardInterrupt
    handler(signal.SIGINT, frame)
