"""Recorded answers: every form that may be written, and what is said of those that may not."""

from __future__ import annotations

import shutil
import subprocess
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from typing_extensions import override

from proxy.cli.recorded import Recorded, Unreadable, read_recorded
from proxy.settings.defaults import MAX_ANSWER_BYTES

ANSWER = b'HTTP/1.1 402 Payment Required\nContent-Type: application/json\n\n{"a":\n\n1}\n'
REQUEST = b"POST /pay?x=1 HTTP/1.1\nHost: gw.example\nContent-Type: text/x\n\na=1\n\nb=2\n###\n"


def read(folder: Path, data: bytes) -> Recorded:
    """A file with these bytes."""
    path = folder / "one.http"
    path.write_bytes(data)
    return read_recorded(path)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_an_exchange(tmp_path: Path, end: bytes) -> None:
    """Comments, the request, and the answer, with bodies that hold empty lines."""
    text = b"# a card that is declined\n# expect: declined, replayed\n\n" + REQUEST + ANSWER
    found = read(tmp_path, text.replace(b"\n", end))
    assert found.expected == ("declined", "replayed")
    assert found.request is not None
    assert (found.request.method, found.request.target) == ("POST", "/pay?x=1")
    assert found.request.headers == (("Host", "gw.example"), ("Content-Type", "text/x"))
    assert found.request.values["content-type"] == "text/x"
    assert found.request.body == b"a=1\n\nb=2".replace(b"\n", end)
    assert (found.facts.status, found.facts.status_text) == (402, "Payment Required")
    assert found.facts.headers == (("Content-Type", "application/json"),)
    assert found.facts.body == b'{"a":\n\n1}\n'.replace(b"\n", end)


def test_an_answer_alone(tmp_path: Path) -> None:
    """What looks like a separator or a comment in its body is its body."""
    found = read(tmp_path, ANSWER + b"###\n# expect: nothing\n")
    assert (found.request, found.expected) == (None, ())
    assert found.facts.body.endswith(b"###\n# expect: nothing\n")


FORMS = {
    "HTTP/2, as curl prints it": b"HTTP/2 402 \r\ncontent-type: application/json\r\n\r\n{}",
    "after 100 Continue": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 402 No\r\nA: b\r\n\r\n{}",
    "after a tunnel's and early hints": (
        b"HTTP/1.1 100 Continue\n\nHTTP/1.1 103 Early Hints\nLink: </a>\n\nHTTP/1.1 402 No\n\n{}"
    ),
    "without headers": b"HTTP/1.1 402 No\n\n{}",
    "expected before the answer": b"GET /a\n\n###\n# expect: declined\nHTTP/1.1 402 No\n\n{}",
}


@pytest.mark.parametrize("data", FORMS.values(), ids=FORMS)
def test_other_forms(tmp_path: Path, data: bytes) -> None:
    """All of them are 402 with an empty object."""
    found = read(tmp_path, data)
    assert (found.facts.status, found.facts.body) == (402, b"{}")
    assert bool(found.expected) == (b"expect" in data)


@pytest.mark.parametrize(
    "line", ["GET /v1/a?b", "GET /v1/a?b HTTP/2", "GET https://gw.example/v1/a?b HTTP/1.1"]
)
def test_request_lines(tmp_path: Path, line: str) -> None:
    """With or without a version, and with the whole address, as editors write it."""
    found = read(tmp_path, line.encode() + b"\n\n###\n" + ANSWER)
    assert found.request is not None
    assert (found.request.target, found.request.path) == ("/v1/a?b", "/v1/a")


def test_a_head_alone(tmp_path: Path) -> None:
    """`curl -I`, and a file that ends with its head."""
    assert read(tmp_path, b"HTTP/1.1 204 No Content\r\nA: b\r\n\r\n").facts.body == b""
    assert read(tmp_path, b"HTTP/1.1 204 No Content").facts.headers == ()


WRONG = {
    b"": "1:1: write a request (POST /pay HTTP/1.1) or an answer (HTTP/1.1 200 OK)",
    b"# expect: x\n": "2:1: write a request (POST /pay HTTP/1.1) or an answer (HTTP/1.1 200 OK)",
    b"# Expected: declined\n": "1:1: what must be true of it stands behind `# expect:`",
    b"{}\n": "1:1: write a request (POST /pay HTTP/1.1) or an answer (HTTP/1.1 200 OK)",
    b"POST pay\n": "1:1: write a request (POST /pay HTTP/1.1) or an answer (HTTP/1.1 200 OK)",
    b"POST /pay\n\na=1\n": "3:1: a line ### and the answer are missing after the request",
    b"POST /pay\n\n###\n": "4:1: an answer begins with its status, like HTTP/1.1 200 OK",
    b"POST /pay\n\n###\n{}": "4:1: an answer begins with its status, like HTTP/1.1 200 OK",
    b"HTTP/1.1 2OO\n": "1:1: an answer begins with its status, like HTTP/1.1 200 OK",
    b"HTTP/1.1 200 OK\nA: b\n{}\n": (
        "3:1: write a header as NAME: VALUE, and an empty line after the last"
    ),
    b"#\nPOST /pay\nno header\n\n###\n": (
        "3:1: write a header as NAME: VALUE, and an empty line after the last"
    ),
}


@pytest.mark.parametrize("data", WRONG)
def test_what_is_no_recorded_answer(tmp_path: Path, data: bytes) -> None:
    """The line, and what should stand there."""
    with pytest.raises(Unreadable) as told:
        read(tmp_path, data)
    assert str(told.value) == f"{tmp_path / 'one.http'}:{WRONG[data]}"


def test_what_cannot_be_read(tmp_path: Path) -> None:
    """A folder, a file that is not there, and one without an end."""
    for path, why in (
        (tmp_path, "Is a directory"),
        (tmp_path / "none.http", "No such file or directory"),
    ):
        with pytest.raises(Unreadable, match=why):
            read_recorded(path)
    with pytest.raises(Unreadable, match="is larger than an answer may be"):
        read(tmp_path, ANSWER + b" " * MAX_ANSWER_BYTES)


class _Gateway(BaseHTTPRequestHandler):
    """Declines everything."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = b'{"error": {"type": "card_error"}}'
        self.send_response(402)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @override
    def log_message(self, *_: object) -> None:
        return


def test_what_curl_prints(tmp_path: Path) -> None:
    """`curl -is` is such a file, as it is."""
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    with HTTPServer(("127.0.0.1", 0), _Gateway) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/pay"
        printed = subprocess.run(
            [curl, "-is", "--noproxy", "*", "-d", "amount=1999", url],
            capture_output=True,
            check=True,
        )
        server.shutdown()
    found = read(tmp_path, printed.stdout)
    assert (found.facts.status, found.facts.body) == (402, b'{"error": {"type": "card_error"}}')
