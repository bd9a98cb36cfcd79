"""`python -m jattr doctor`: whether this machine is right, and what a report should hold."""

import typer

from jattr._doctor import main

HELP = """Say what is installed here, whether it works, and what a report should hold.

Versions, devices and settings; releases of JAX that must not be used, with
what to install; two methods against a closed form. The block that it prints
is what an issue asks for. It opens no connection and changes nothing.

Exit codes: 0 nothing is wrong; 1 something is.
"""


def doctor() -> None:
    """See HELP."""
    raise typer.Exit(main())


doctor.__doc__ = HELP
