"""The command line as a whole: help, version, exit codes, broken pipes."""

from __future__ import annotations

import asyncio
import os
import sys

import pytest

import proxy
from tests.support.running import ROOT
from tests.support.shell import environment, holdfast

COMMANDS = ["serve", "check", "schema", "health", "sessions", "keys", "audit", "demo", "gateway"]


async def test_help_names_every_command() -> None:
    """`--help` says what there is, on standard output, and ends with 0."""
    done = await holdfast("--help")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("usage: holdfast [-h] [--version] COMMAND ...\n")
    for command in COMMANDS:
        assert f"\n    {command} " in done.out


async def test_version_says_where_it_is() -> None:
    """The version, and the folder: `proxy` is a name that other packages have too."""
    done = await holdfast("--version")
    folder = os.path.dirname(proxy.__file__)  # noqa: PTH120 -- as the command line says it
    assert (done.code, done.out) == (0, f"holdfast {proxy.__version__} ({folder})\n")


@pytest.mark.parametrize(
    "command", [*COMMANDS, "sessions list", "sessions settle", "keys drop", "audit verify"]
)
async def test_every_command_explains_itself(command: str) -> None:
    """`holdfast COMMAND --help` says what it does and how it is used."""
    done = await holdfast(*command.split(), "--help")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"usage: holdfast {command} [-h]")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["serv"], "invalid choice: 'serv'"),
        (["serve"], "the following arguments are required: --config"),
        (["check"], "one of the arguments FILE --profile is required"),
        (["check", "a.yaml", "--profile", "stripe"], "not allowed with argument"),
        (["check", "a.yaml", "--against", "b.http"], "--against with --profile"),
        (["check", "--profile", "stripe", "--explain", "POST", "/"], "--explain goes with FILE"),
        (["check", "a.yaml", "b.yaml"], "unrecognized arguments: b.yaml"),
        (["serve", "--conf", "a.yaml"], "the following arguments are required: --config"),
        (["sessions"], "the following arguments are required: ACTION"),
        (["sessions", "show"], "the following arguments are required: SESSION"),
        (["sessions", "cancel", "ps_1"], "the following arguments are required: --reason"),
        (["sessions", "settle", "ps_1"], "the following arguments are required: --reference"),
        (["sessions", "list", "--limit", "0"], "'0' is not a whole number of at least 1"),
        (["sessions", "list", "--active", "--order", "1"], "--active goes with"),
        (["keys"], "the following arguments are required: ACTION"),
        (["keys", "rotate"], "the following arguments are required: --config"),
        (["keys", "drop", "--config", "a.yaml", "1"], "'1' is not an id of 8 hexadecimal digits"),
        (["demo", "--orders", "many"], "'many' is not a whole number of at least 1"),
        (["demo", "--interruptions", "15"], "'15' is not a number from 0 to 1"),
        (["demo", "--interruptions", "nan"], "'nan' is not a number from 0 to 1"),
        (["gateway", "--listen", "8080"], "write an address to listen on as host:port"),
        (["gateway", "--latency", "-1"], "is not a number from 0 to 60"),
    ],
)
async def test_wrong_usage_ends_with_2(arguments: list[str], told: str) -> None:
    """What cannot be meant is told on standard error, and nothing is done."""
    done = await holdfast(*arguments)
    assert (done.code, done.out) == (2, "")
    assert told in done.err


async def test_an_output_nobody_reads_is_no_error() -> None:
    """`holdfast check … | head -0` ends quietly."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "proxy", "check", "config/holdfast.yaml",
            stdout=writer, stderr=asyncio.subprocess.PIPE, cwd=ROOT, env=environment(),
        )  # fmt: skip
    finally:
        os.close(writer)
    _, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
