"""The processes that are measured: started on their CPU, read from /proc, and always ended."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parent.parent.parent
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_START_SECONDS = 20.0
_POLL_SECONDS = 0.002


@dataclass(frozen=True, slots=True)
class Target:
    """A process that listens, and takes payments or pretends to be the gateway."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    folder: Path = ROOT  # where a Holdfast has its log

    def cpu_seconds(self) -> float:
        """User and system time of all its threads, so far."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii")
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def resident_mb(self) -> float:
        """Its resident memory."""
        statm = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii")
        return int(statm.split()[1]) * _PAGE / 1e6


class Targets:
    """Everything a measurement starts. Proxies get a CPU of their own; this process, which makes
    the load, and the stub share another. Leaving the `with` block kills all of them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[subprocess.Popen[bytes]] = []
        self._all_cpus = os.sched_getaffinity(0)

    def __enter__(self) -> Self:
        _allow_many_sockets()
        os.sched_setaffinity(0, {min(self._all_cpus)})
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._started:
            process.kill()
        for process in self._started:
            process.wait()
        os.sched_setaffinity(0, self._all_cpus)

    @property
    def cpus(self) -> str:
        """Who runs where."""
        if len(self._all_cpus) == 1:
            return "all on the one CPU there is: the figures mean little"
        cpus = f"CPU {max(self._all_cpus)}, load and stub on CPU {min(self._all_cpus)}"
        return f"the proxy under load on {cpus}"

    def stub(self, *, hang: bool = False) -> Target:
        """The gateway."""
        command = ["-m", "tests.bench.stub", *(["hang"] if hang else [])]
        return self._printing("stub", command, {min(self._all_cpus)})

    def bare(self, upstream: int, *, name: str = "bare", uvloop: bool = False) -> Target:
        """The yardstick."""
        command = ["-m", "tests.bench.bare", str(upstream), *(["--uvloop"] if uvloop else [])]
        return self._printing(name, command, {max(self._all_cpus)})

    def holdfast(
        self, upstream: int, more: str = "", *, store: str = "sqlite:///holdfast.db"
    ) -> Target:
        """`holdfast serve` as it is shipped: durable payments, nothing acknowledged that is not
        fsynced. `more` is added to its policy file.
        """
        port = _free_port()
        folder = self.folder / f"holdfast-{port}"
        folder.mkdir()
        config = folder / "policy.yaml"
        config.write_text(
            'listen: {sessions: "127.0.0.1:0", admin: "127.0.0.1:0"}\n'
            f"store: {store}\n"
            f'gateways: {{stripe: {{profile: stripe, listen: "127.0.0.1:{port}", '
            f'upstream: "http://127.0.0.1:{upstream}"}}}}\n{more}',
            encoding="utf-8",
        )
        command = ["-m", "proxy", "serve", "--config", str(config)]
        log = folder / "log"
        with log.open("wb") as out:
            process = self._start(command, {max(self._all_cpus)}, out.fileno())
        until = time.monotonic() + _START_SECONDS
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"holdfast did not start: {log.read_text(encoding='utf-8')}")
            time.sleep(_POLL_SECONDS)
        return Target("holdfast", process, port, folder)

    def end(self, target: Target) -> None:
        """Kill one before the others."""
        target.process.kill()
        target.process.wait()
        self._started.remove(target.process)

    def _printing(self, name: str, command: list[str], cpus: set[int]) -> Target:
        process = self._start(command, cpus, subprocess.PIPE)
        assert process.stdout is not None
        with process.stdout:
            port = process.stdout.readline()
        if not port.strip():
            raise RuntimeError(f"{name} did not start")
        return Target(name, process, int(port))

    def _start(self, command: list[str], cpus: set[int], out: int) -> subprocess.Popen[bytes]:
        """A child inherits the CPUs of its parent, from its first thread on. In a session of its
        own it does not hear of Ctrl-C, and is ended by us.
        """
        mine = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cpus)
        try:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                stdout=out,
                stderr=None if out == subprocess.PIPE else subprocess.STDOUT,
                start_new_session=True,
            )
        finally:
            os.sched_setaffinity(0, mine)
        self._started.append(process)
        return process


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except ConnectionRefusedError:
        return False
    return True


def _allow_many_sockets() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
