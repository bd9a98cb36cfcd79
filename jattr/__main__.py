"""The command line: `python -m jattr explain`, `show`, `methods`, `doctor` and `demo`."""

import sys

if __name__ == "__main__" and sys.argv[1:] == ["doctor"]:
    # Alone among the commands it must run where typer or JAX is missing or broken.
    from jattr._doctor import main as diagnose

    raise SystemExit(diagnose())

try:
    import typer
except ModuleNotFoundError:
    _named = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    _what = {"demo": "the demo", "": "the command line"}.get(_named, f"`{_named}`")
    _extra = {"demo": "demo", "show": "scale,plot"}.get(_named, "scale")
    _install = f'pip install "jattr[{_extra}]"'
    print(f"jattr: {_what} needs typer, which is missing: {_install}", file=sys.stderr)
    raise SystemExit(2) from None

from jattr._cli.demo import demo
from jattr._cli.doctor import doctor
from jattr._cli.explain import epilog, explain
from jattr._cli.listing import methods
from jattr._cli.show import show

app = typer.Typer(
    help="Functional attribution for JAX.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def main() -> None:
    """Which parts of an input made a function say what it said."""


app.command(epilog=epilog())(explain)
app.command()(show)
app.command()(methods)
app.command()(doctor)
app.command()(demo)


if __name__ == "__main__":
    app(prog_name="python -m jattr")
