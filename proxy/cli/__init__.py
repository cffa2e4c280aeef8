"""The command line. A command's module is loaded when it is called, so that `--help` is quick."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import re
import sys
from pathlib import Path

from proxy import __version__

# What people write → the module and function that does it.
_DEFAULT_API = "http://127.0.0.1:8081"
_DEFAULT_HEALTH = "http://127.0.0.1:8082/readyz"


def main(arguments: list[str] | None = None) -> int:
    """Run a command; its exit code: 0 done, 1 it said no, 2 wrong usage, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what the terminal cannot show must not end us
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    module, _, function = options.run.partition(":")
    try:
        run = getattr(importlib.import_module(f"proxy.cli.{module}"), function)
        code = int(run(options))
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` has seen enough; nor is there anyone to flush to at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="holdfast",
        description="A payment resilience sidecar between a backend and its payment gateway.",
        allow_abbrev=False,
    )
    # The package is called `proxy`, and it is not the only one of that name: say where it is.
    where = Path(__file__).parent.parent
    parser.add_argument("--version", action="version", version=f"holdfast {__version__} ({where})")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _serve(commands)
    _check(commands)
    _schema(commands)
    _migrate(commands)
    _health(commands)
    _sessions(commands)
    _keys(commands)
    _audit(commands)
    _demo(commands)
    _gateway(commands)
    return parser


_Commands = argparse._SubParsersAction  # noqa: SLF001 -- argparse has no public name for it


def _command(
    commands: _Commands[argparse.ArgumentParser], name: str, run: str, text: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    command.set_defaults(run=run)
    return command


def _serve(commands: _Commands[argparse.ArgumentParser]) -> None:
    serve = _command(commands, "serve", "serve:serve", "Run the sidecar until SIGTERM or Ctrl-C.")
    serve.add_argument("--config", required=True, type=Path, metavar="FILE", help="policy file")


def _check(commands: _Commands[argparse.ArgumentParser]) -> None:
    text = (
        "Check a policy file or a gateway profile: every mistake with its line; exit code 0 or 1."
    )
    check = _command(commands, "check", "check:check", text)
    what = check.add_mutually_exclusive_group(required=True)
    what.add_argument("file", type=Path, nargs="?", metavar="FILE")
    text = "instead: check a gateway profile, a file NAME.yaml or the name of one that ships"
    what.add_argument("--profile", help=text)
    text = "with --profile: how it has these recorded answers read"
    check.add_argument("--against", nargs="+", type=Path, metavar="RECORDED", help=text)
    text = "what holds for such a request, value by value, and where each was written"
    check.add_argument("--explain", nargs=2, metavar=("METHOD", "PATH"), help=text)


def _schema(commands: _Commands[argparse.ArgumentParser]) -> None:
    text = "Print the JSON Schema of a policy file, for editors."
    schema = _command(commands, "schema", "schema:schema", text)
    text = "of a gateway profile instead"
    schema.add_argument("--profile", action="store_true", help=text)


def _migrate(commands: _Commands[argparse.ArgumentParser]) -> None:
    text = "Bring the schema of a store that replicas share up to date."
    migrate = _command(commands, "migrate", "migrate:migrate", text)
    migrate.add_argument("--config", required=True, type=Path, metavar="FILE", help="policy file")
    migrate.add_argument(
        "--accept-loss",
        action="store_true",
        help="instead: trust the store again, after what it lost was looked up at the gateway",
    )


def _health(commands: _Commands[argparse.ArgumentParser]) -> None:
    text = "Ask a running Holdfast whether it is ready (for images without curl)."
    health = _command(commands, "health", "sessions:health", text)
    health.add_argument("--url", default=_DEFAULT_HEALTH, help="default: %(default)s")


def _sessions(commands: _Commands[argparse.ArgumentParser]) -> None:
    text = "List payment sessions, and act on one."
    sessions = commands.add_parser("sessions", help=text, description=text, allow_abbrev=False)
    actions = sessions.add_subparsers(metavar="ACTION", required=True)
    listing = _command(actions, "list", "sessions:list_sessions", "Find sessions, newest first.")
    listing.add_argument("--active", action="store_true", help="only what is open or unknown")
    for name in ("order", "user", "status", "outcome", "gateway"):
        listing.add_argument(f"--{name}")
    listing.add_argument("--limit", type=_count, default=50, help="default: %(default)s")
    show = _command(
        actions, "show", "sessions:show", "One session: why it stopped, and its timeline."
    )
    resume = _command(actions, "resume", "sessions:resume", "Bring an interrupted one forward.")
    cancel = _command(actions, "cancel", "sessions:cancel", "Cancel one; never a charged one.")
    interrupt = _command(
        actions, "interrupt", "sessions:interrupt", "Hold one: nothing is sent until it is resumed."
    )
    settle = _command(
        actions, "settle", "sessions:settle", "Vouch that it was charged, or that it was not."
    )
    for action in (show, resume, cancel, interrupt, settle):
        action.add_argument("session", metavar="SESSION")
    for action in (cancel, interrupt):
        action.add_argument("--reason", required=True)
    text = "the gateway's id of the payment; with --not-charged, what proves that there is none"
    settle.add_argument("--reference", required=True, help=text)
    text = "it was looked up at the gateway, and nothing was charged nor will be"
    settle.add_argument("--not-charged", action="store_true", help=text)
    for action in (listing, show, resume, cancel, interrupt, settle):
        action.add_argument(
            "--api",
            default=None,
            metavar="URL",
            help=f"session API; default: $HOLDFAST_API or {_DEFAULT_API}",
        )
        action.add_argument("--json", action="store_true", help="the API's own answer")


def _keys(commands: _Commands[argparse.ArgumentParser]) -> None:
    text = "List the keys of an installation, and change the one that seals."
    keys = commands.add_parser("keys", help=text, description=text, allow_abbrev=False)
    actions = keys.add_subparsers(metavar="ACTION", required=True)
    listing = _command(actions, "list", "keys:list_keys", "The keys: which seals, who needs which.")
    rotate = _command(actions, "rotate", "keys:rotate", "Seal with a new key from the next start.")
    drop = _command(actions, "drop", "keys:drop", "Remove an old key that no kept answer needs.")
    drop.add_argument("key", type=_key_id, metavar="KEY", help="its id")
    drop.add_argument("--force", action="store_true", help="also if answers are lost")
    for action in (listing, rotate, drop):
        action.add_argument(
            "--config", required=True, type=Path, metavar="FILE", help="policy file"
        )


def _audit(commands: _Commands[argparse.ArgumentParser]) -> None:
    text = "Look after the audit trail."
    audit = commands.add_parser("audit", help=text, description=text, allow_abbrev=False)
    actions = audit.add_subparsers(metavar="ACTION", required=True)
    text = "Check every line and the chain that they make; exit code 0 or 1."
    verify = _command(actions, "verify", "audit:verify", text)
    verify.add_argument("file", type=Path, metavar="FILE")


def _demo(commands: _Commands[argparse.ArgumentParser]) -> None:
    text = "See payments survive a faulty gateway, with and without Holdfast."
    demo = _command(commands, "demo", "demo:demo", text)
    demo.add_argument("--orders", type=_count, default=300, help="default: %(default)s")
    demo.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    demo.add_argument(
        "--interruptions", type=_share, default=0.15, metavar="SHARE", help="default: %(default)s"
    )
    demo.add_argument("--stay", action="store_true", help="keep running for a look around")


def _gateway(commands: _Commands[argparse.ArgumentParser]) -> None:
    text = "Run the simulated faulty gateway alone."
    gateway = _command(commands, "gateway", "demo:gateway", text)
    gateway.add_argument("--listen", default="127.0.0.1:12111", help="default: %(default)s")
    gateway.add_argument("--dialect", default="stripe", help="default: %(default)s")
    gateway.add_argument("--seed", type=int, default=1)
    gateway.add_argument("--interruptions", type=_share, default=0.15, metavar="SHARE")
    gateway.add_argument("--latency", type=_seconds, default=0.02, metavar="SECONDS")


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        message = f"{text!r} is not a whole number of at least 1"
        raise argparse.ArgumentTypeError(message)
    return number


def _key_id(text: str) -> bytes:
    if not re.fullmatch("[0-9a-f]{8}", text):
        message = f"{text!r} is not an id of 8 hexadecimal digits"
        raise argparse.ArgumentTypeError(message)
    return bytes.fromhex(text)


def _share(text: str) -> float:
    return _number(text, 1)


def _seconds(text: str) -> float:
    return _number(text, 60)  # nobody waits longer for a simulation


def _number(text: str, most: int) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= most:
        message = f"{text!r} is not a number from 0 to {most}"
        raise argparse.ArgumentTypeError(message)
    return number
