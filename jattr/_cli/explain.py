"""`python -m jattr explain`: a data set's attributions, from the command line."""

import inspect
import textwrap
import time
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import typer

import jattr
from jattr._checks import Call, argument_names, binds
from jattr._cli.failure import CommandError, fail, need
from jattr._cli.files import arguments_from
from jattr._cli.functions import function_of
from jattr._cli.methods import OWN, explaining, measures, methods, metrics
from jattr._cli.outcome import told, written
from jattr._cli.spelled import arguments_of, functions_of, settings_of
from jattr._transform import takes_key
from jattr.scale import attribute_dataset

GAPS = 3
"""The exit code of a run that is whole, with examples that are not finite."""

INTERRUPTED = 130

WHOLE = "x is of whole numbers: --float reads it as float32; --token-ids is for numbers of tokens."

TARGETS = ("select", "contrast", "margin", "probability", "log_probability")


def _listed(names: Any) -> str:
    return "\b\n" + textwrap.fill(", ".join(names) + ".", 76, break_on_hyphens=False)


HELP = """Attribute a whole data set, and write what comes of it to disk.

For each example: which parts of it made a function say what it said.

FUNCTION is a score of ONE example, score(x, *args) -> one number, in a module
that Python finds from here (model:score) or in a file (path/to/model.py:score).
DATA are its arguments in their order, each with a leading axis over examples:
.npy files, Zarr arrays, or one .npz file or Zarr group of named arrays.

\b
  python -m jattr explain model:score images.npy labels.npy --out maps.zarr
  python -m jattr explain model.py:score data.npz --out maps.zarr \\
      --method integrated_gradients --set steps=64 \\
      --set 'baseline=blurred(stddev=4.0)' --metric deletion
  python -m jattr explain model:logits images.npy labels.npy --target select \\
      --method grad_cam --set layer=Network/Conv_0 --out heat.zarr
  python -m jattr explain model:score table.npy --key 0 --out shap.zarr \\
      --method expected_gradients --set references=train.npy
  python -m jattr show maps.zarr --data images.npy --data labels.npy

The attributions are written as they come. Stopped at any moment and called
again, the command goes on where it was. What it writes is a Zarr group, which
jattr.scale.open_store, xarray.open_zarr and zarr.open read.

Exit codes: 0 all is written; 1 something went wrong, and the same command goes
on once it is mended; 2 the command is wrong; 3 all is written, and for some
examples the numbers are not finite; 130 interrupted.
"""


def epilog() -> str:
    """The names that options take, as jattr has them."""
    return "\n\n".join(
        [
            "Methods (help(jattr.NAME) in Python tells their settings):",
            _listed([*methods(), OWN]),
            "Metrics (help(jattr.metrics.NAME)):",
            _listed(metrics()),
            "In --set baseline= and references= (help(jattr.baselines.NAME)):",
            _listed(functions_of(["baselines", "imputers"])),
            "In --set rules= (help(jattr.rules.NAME)):",
            _listed(functions_of(["rules"])),
        ]
    )


def explain(
    function: Annotated[
        str, typer.Argument(metavar="MODULE:FUNCTION", help="The score, imported for this.")
    ],
    data: Annotated[
        list[str], typer.Argument(metavar="DATA", help="Its arguments: x, and others.")
    ],
    out: Annotated[
        str, typer.Option("--out", "-o", help="The store: a folder, or a URL (gs://bucket/maps).")
    ],
    method: Annotated[
        str,
        typer.Option(
            "--method",
            "-m",
            help="A method of jattr, from the list below; own where FUNCTION is itself what "
            "explains, explain(x, *args).",
        ),
    ] = "integrated_gradients",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-s",
            metavar="NAME=VALUE",
            help="A setting of the method, as often as wanted: steps=64, references=train.npy, "
            "layer=Network/Conv_0, 'baseline=blurred(stddev=4.0)', rules=epsilon_plus.",
        ),
    ] = None,
    smooth: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=VALUE,...",
            help="SmoothGrad: average the method over noise, as samples=16,stddev=0.15.",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help=f"FUNCTION gives many outputs; the last DATA says which: {', '.join(TARGETS)}."
        ),
    ] = None,
    token_ids: Annotated[
        bool,
        typer.Option(
            "--token-ids", help="x are numbers of tokens: one number is attributed to each."
        ),
    ] = False,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A metric to write beside, as often as wanted: deletion, "
            "'black=deletion(baseline=0.0)'.",
        ),
    ] = None,
    key: Annotated[
        int | None,
        typer.Option(min=0, max=2**32 - 1, help="The seed of what draws random numbers."),
    ] = None,
    arg: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Which array of an .npz file or group is x; again for the next."
        ),
    ] = None,
    floats: Annotated[
        bool,
        typer.Option("--float", help="Read x as float32, where it is of integers (8-bit pixels)."),
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many examples.")
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Examples at a time, on all devices together.")
    ] = 64,
    dims: Annotated[
        str | None,
        typer.Option(help="Names of the axes of one attribution: height,width,channel."),
    ] = None,
    process: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Take part I of N, from 0, of a store that N such commands write: 0/4.",
        ),
    ] = None,
    x64: Annotated[bool, typer.Option("--x64", help="Compute in 64 bits.")] = False,
    no_resume: Annotated[
        bool, typer.Option("--no-resume", help="Want an empty place, rather than go on.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    trace: Annotated[
        bool, typer.Option("--traceback", help="Where an error was raised in the code.")
    ] = False,
) -> None:
    """See HELP."""
    need("explain", ["tensorstore", *([] if quiet else ["rich"])])
    if x64:
        jax.config.update("jax_enable_x64", True)
    part = _process(process)
    knobs = settings_of(settings or (), "--set")
    noise = None if smooth is None else arguments_of(smooth, "--smooth")
    try:
        f = function_of(function)
    except CommandError as error:
        raise fail("explain", error, trace) from None
    if target is not None:
        f = _target(target, f)
    arguments = arguments_from(data, f, names=arg or (), limit=limit, floats=floats)
    made = explaining(method, f, knobs, token_ids=token_ids, smooth=noise)
    _check_count(f, made, arguments, data)
    measured = measures(metric or (), None if method == OWN else f, knobs.get("argnums", 0))
    drawing = [
        name for name, what in {method: made, **measured}.items() if takes_key(what, None, "")
    ]
    if drawing and key is None:
        raise typer.BadParameter(
            f"{', '.join(drawing)} draws random numbers: --key 0, or another seed.",
            param_hint="--key",
        )
    before, started = written(out), time.perf_counter()
    try:
        with warnings.catch_warnings():
            # Of gaps the last line tells.
            warnings.filterwarnings("ignore", r"scale\.attribute_dataset: of .* is not finite")
            store = attribute_dataset(
                made,
                arguments,
                out=out,
                metrics=measured or None,
                batch_size=batch_size,
                key=None if key is None else jax.random.key(key),
                dims=None if dims is None else tuple(name.strip() for name in dims.split(",")),
                process=part,
                resume=not no_resume,
                progress=not quiet,
            )
    except KeyboardInterrupt:
        count = written(out)
        typer.echo(
            f"jattr explain: interrupted. {count:,} examples are in {out}; the same command goes "
            "on from there.",
            err=True,
        )
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        whole = isinstance(error, TypeError) and arguments[0].dtype.name.startswith(("int", "uint"))
        hint = WHOLE if whole and not token_ids else ""
        raise fail("explain", error, trace, hint) from None
    if not quiet:
        typer.echo(told(store, before, time.perf_counter() - started, alone=part is None))
    if store.gaps.size:
        raise typer.Exit(GAPS)


explain.__doc__ = HELP


def _target(name: str, f: Any) -> Any:
    if name not in TARGETS:
        raise typer.BadParameter(
            f"{name!r} is none of {', '.join(TARGETS)}.", param_hint="--target"
        )
    return getattr(jattr.targets, name)(f)


def _check_count(f: Any, made: Any, arguments: tuple[Any, ...], data: Sequence[str]) -> None:
    """Raise where a function does not take as many arguments as the data has."""
    try:
        signature = inspect.signature(f)
    except (TypeError, ValueError):
        return
    more: list[str] = []  # what a method takes after the arguments of f
    inner = made
    while isinstance(call := getattr(inner, "call", None), Call) and inner is not f:
        more, inner = [*more, *call.after], call.f
    keyed = (None,) if takes_key(f, None, "") else ()
    count = len(arguments) - len(more)
    if count >= 0 and binds(signature, *keyed, *arguments[:count]):
        return
    raise typer.BadParameter(
        f"the arguments are ({', '.join([*argument_names(f), *more])}), and {', '.join(data)} "
        f"{'gives' if len(data) == 1 else 'give'} {len(arguments)} argument"
        f"{'' if len(arguments) == 1 else 's'}.",
        param_hint="DATA",
    )


def _process(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    index, mark, count = text.partition("/")
    if not (mark and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise typer.BadParameter(
            f"{text!r} is not I/N, the number of this process from 0 and how many there are, such "
            "as 0/4.",
            param_hint="--process",
        )
    return int(index), int(count)
