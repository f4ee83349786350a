# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: one verb a file under `commands`, errors turned into exit codes in one place."""

from __future__ import annotations

import importlib
import io
import pkgutil
import platform
import sys
from collections.abc import Sequence

import click

import balloontrace
from balloontrace import commands
from balloontrace.console import standard_streams
from balloontrace.console.missing_libraries import explain_import_error
from balloontrace.console.stderr import say
from balloontrace.errors import BalloontraceError, ExitCode, UsageError
from balloontrace.trace.engines import shipped
from balloontrace.untrusted import printable, printable_lines


def _keep_lines(command: click.Command) -> click.Command:
    """Have examples printed as they stand: docstrings are raw, and click wants the character itself."""
    command.help = (command.help or "").replace("\\b\n", "\b\n")
    return command


class _Verbs(click.Group):
    """Finds a verb by its module in `commands`; a new one is a file there."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return sorted(module.name for module in pkgutil.iter_modules(commands.__path__) if not module.ispkg)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in (verbs := self.list_commands(ctx)):
            if shipped.is_bundle() and not ctx.resilient_parsing:
                raise UsageError(
                    f"a bundle has only {', '.join(verbs)}: run {name} where balloontrace is installed"
                )
            return None
        command: click.Command = getattr(importlib.import_module(f"{commands.__name__}.{name}"), name)
        return _keep_lines(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        verbs = [self.get_command(ctx, name) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(verb.name or "", verb.short_help or "") for verb in verbs if verb])


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=lambda ctx, _, wanted: _show_version(ctx) if wanted else None,
    help="Show the versions of this, of bcc and of the kernel, and exit.",
)
def cli() -> None:
    r"""Show where the time of a live virtio memory balloon goes.

    \b
    Example:
      sudo balloontrace record -o inflate.bt --operations 1
      balloontrace report inflate.bt

    Completion of verbs, options and recordings in bash (zsh_source in zsh, fish_source in fish):

    \b
      eval "$(_BALLOONTRACE_COMPLETE=bash_source balloontrace)"

    Exit status: 0 ok; 1 failure; 2 usage; 3 cannot trace here; 4 a required probe is missing;
    5 data lost beyond --max-lost; 6 slower than compare --fail-on-regression allows; 130 interrupted.
    """


_keep_lines(cli)


def _show_version(ctx: click.Context) -> None:
    """Three lines; bcc's version is read from its files, for importing it takes a second."""
    click.echo(f"balloontrace {balloontrace.__version__}")  # `measure` waits for no more
    from balloontrace.trace.machine_checks import find_bcc

    bcc = find_bcc()
    version = ".".join(map(str, bcc.version)) or "of an unknown version"
    click.echo(f"bcc {version}" if bcc.found else "bcc is not installed for this Python")
    click.echo(f"Python {platform.python_version()}, {platform.system()} {platform.release()}")
    ctx.exit()


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit; the only place that does."""
    status = _run(argv)
    standard_streams.drop_unwritable_stderr()
    sys.exit(status)


def _run(argv: Sequence[str] | None) -> int:
    standard_streams.open_missing()
    try:
        result = cli.main(args=argv, prog_name="balloontrace", standalone_mode=False)
    except BalloontraceError as error:
        say(f"balloontrace: {printable_lines(str(error))}\n")
        return error.exit_code
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        say(printable_lines(shown.getvalue()))  # it may quote a file's name
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        say("balloontrace: interrupted\n")
        return ExitCode.INTERRUPTED
    except SystemExit:
        # How click answers a closed pipe. The reader has seen enough; nothing more can be said there.
        return ExitCode.OK
    except ImportError as error:
        sentence = explain_import_error(error)
        if sentence is None:
            raise
        say(f"balloontrace: {sentence}\n")
        return ExitCode.FAILURE
    except OSError as error:
        place = error.filename or "standard output"
        say(f"balloontrace: cannot use {printable(str(place))}: {error.strerror}\n")
        standard_streams.drop(standard_streams.STDOUT)
        return ExitCode.FAILURE
    return result if isinstance(result, int) else ExitCode.OK
