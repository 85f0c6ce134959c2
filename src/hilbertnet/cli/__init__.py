"""The command line: ``hilbertnet fit digits``, and what is done with the run folder it leaves.

Exit code 0 is success; 2 is bad usage or bad input, with one message that says what to do; 130 is Ctrl-C.
"""

from __future__ import annotations

import os
import sys
import warnings

import typer

from hilbertnet.cli import attack, fit, gram, norms, predict, report, reproduce, spectrum, stability

__all__ = ["app", "main"]

app = typer.Typer(
    help="Convolutional models as functions in a reproducing kernel Hilbert space.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root() -> None:
    warnings.showwarning = lambda message, *_: typer.echo(f"hilbertnet: warning: {message}", err=True)


app.command(help=fit.HELP)(fit.fit)
app.command(help=predict.HELP)(predict.predict)
app.command(help=gram.HELP)(gram.gram)
app.command(help=report.HELP)(report.report)
app.command(help=norms.HELP)(norms.norms)
app.command(help=attack.HELP)(attack.attack)
app.command(help=spectrum.HELP)(spectrum.spectrum)
app.command(help=stability.HELP)(stability.stability)
app.command(help=reproduce.HELP)(reproduce.reproduce)


def main() -> None:
    """Entry point: bad input is one message and exit code 2."""
    # torch's threads spin while they wait; where other programs run, that makes small products up to 20 times slower
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except ValueError as error:
        typer.echo(f"hilbertnet: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        typer.echo(f"hilbertnet: {error.strerror or error}: {error.filename}", err=True)
        sys.exit(2)
