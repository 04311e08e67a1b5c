"""The command `specs-data`: a verb per capability, and no logic of its own."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from specs_data.errors import CheckFailed, SpecsDataError, UserError
from specs_data.flags import with_flags
from specs_data.recipe import Recipe, make_recipe

app = typer.Typer(
    name="specs-data",
    help="Self-distilled preference data for the cold start of RL on vision-language models (Metis-SPECS).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

File = Annotated[Path | None, typer.Option("--recipe", help="TOML file with the same keys as the flags")]
Out = Annotated[Path | None, typer.Option("--out", help="folder of the run (default: runs/<name of the policy>)")]
Target = Annotated[str, typer.Argument(metavar="RUN|DATASET", help="a run, a dataset folder or file, or a Hub id")]


def main() -> None:
    """Run the command line. A user's mistake is one sentence on standard error and exit status 2."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        status = app(standalone_mode=False)
    except TyperException as error:
        error.show()  # type: ignore[attr-defined]
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted; the same command goes on from here", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    except CheckFailed as error:
        print(error, file=sys.stderr)  # noqa: T201
        sys.exit(1)
    except SpecsDataError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    sys.exit(status or 0)


@app.command()
@with_flags(Recipe)
def build(
    recipe: File = None,
    out: Out = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="try a few problems and print a forecast")] = False,
    pilot: Annotated[int, typer.Option(min=1, help="problems that a dry run tries")] = 32,
    **settings: Any,
) -> None:
    """Turn problems and a policy (or responses) into a preference dataset. The same command resumes."""
    from specs_data.pipeline import build as run
    from specs_data.pipeline import forecast
    from specs_data.summary import summary

    made = make_recipe(settings, recipe)
    if dry_run:
        typer.echo(forecast(made, out, pilot))
        return
    built = run(made, out)
    typer.echo(summary(built.manifest))
    if not built.pairs:
        raise UserError(f"no pairs came of it; {built.out / 'dropped.jsonl'} says why, line by line")
    typer.echo(f"{built.pairs} pairs in {built.out / 'dataset'}")


@app.command()
def corruptions() -> None:
    """The corruption operators found, where each comes from, one worked example each."""
    from specs_data.corruption import find_corruptions
    from specs_data.summary import describe_corruptions

    typer.echo(describe_corruptions(find_corruptions()))


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Treat a polite request to end (a cluster's preemption) like Ctrl-C."""
    raise KeyboardInterrupt
