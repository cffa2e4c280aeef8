"""The pages of docs/policies/: made from the code, whole, and drawn so that Mermaid reads them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic.fields import FieldInfo

from docs import build as generator
from proxy.settings import defaults as d
from proxy.settings import schema as s
from proxy.settings.json_schema import Text
from proxy.settings.load import load
from tests.support.lab import settings_from

ROOT = Path(__file__).parent.parent.parent
BUILT = generator.built()
NAMES = [page.name for page in generator.PAGES]
SECTIONS = ["Keys", "Metrics to watch", "When all is well", "When it is not", "Anti-patterns"]


def page(name: str) -> str:
    """A page's text."""
    return (generator.POLICIES / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", BUILT, ids=lambda path: path.name)
def test_what_is_committed_is_what_is_made(path: Path) -> None:
    """Tables and schemas are the code's."""
    assert path.read_text(encoding="utf-8") == BUILT[path], "run: python docs/build.py"


# --- every page is whole --------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_page_says_all_of_a_policy(name: str) -> None:
    """What it does with an example, keys, metrics, the two ways it goes, and what not to do."""
    text = page(name)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS
    does, *parts = re.split(r"^## .*$", text, flags=re.MULTILINE)
    assert "```yaml\n" in does
    keys, metrics, well, ill, dont = parts
    assert re.search(r"^\| `[a-z]", keys, re.MULTILINE)
    assert re.search(r"^\| \[`holdfast_", metrics, re.MULTILINE)
    assert [part.count("```mermaid\nsequenceDiagram\n") for part in (well, ill)] == [1, 1]
    assert len(re.findall(r"^- \*\*.+\*\*", dont, re.MULTILINE)) >= 3


@pytest.mark.parametrize("name", NAMES)
def test_every_metric_that_a_page_names_is_there(name: str) -> None:
    """In its sentences too, by the name under which Prometheus has it."""
    known = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    for metric in re.findall(r"\bholdfast_[a-z_]+", page(name)):
        assert f"`{metric}`" in known, metric


@pytest.mark.parametrize("name", NAMES)
def test_every_label_value_that_a_page_names_is_there(name: str) -> None:
    """`reason="budget_spent"` is one that is counted."""
    known = (ROOT / "docs/metrics.md").read_text() + (ROOT / "docs/problems.md").read_text()
    for value in re.findall(r'`?holdfast_[a-z_]+\{[a-z]+="([^"]+)"', page(name)):
        assert f"`{value}`" in known, value


@pytest.mark.parametrize("name", NAMES)
def test_every_answer_that_a_diagram_shows_is_one(name: str) -> None:
    """`503 overloaded` has its explanation in docs/problems.md, with that status."""
    problems = (ROOT / "docs/problems.md").read_text(encoding="utf-8")
    for status, code in re.findall(r": ([45]\d\d) ([a-z]+-[a-z-]+)", page(name)):
        told = problems.partition(f"### `{code}`\n")[2].partition("\n### ")[0]
        assert f"Status {status} " in told, f"{status} {code}"


def test_the_defaults_that_are_stated_hold(tmp_path: Path) -> None:
    """A policy that writes out every default of the pages is the one that writes none."""
    known = {each.key: each.default for each in generator.settings(s.PolicyFile)}
    lines = []
    for key, default in known.items():
        alone = not key.startswith("gateways") and key != "defaults.breaker.slow_ratio"
        if default.startswith("`") and alone:
            inner = f"{key.rpartition('.')[2]}: {default.strip('`')}"
            for step in reversed(key.split(".")[:-1]):
                inner = f"{step}: {{{inner}}}"
            lines.append(inner)
    gateway = 'gateways: {g: {listen: "127.0.0.1:1", upstream: "http://127.0.0.1:2"}}\n'
    plain = settings_from(gateway, tmp_path)
    assert len(lines) > 25
    for line in lines:
        assert settings_from(gateway + line, tmp_path) == plain, line
    assert settings_from(f"{gateway}defaults: {{max_body: 2MiB}}", tmp_path) != plain


def test_the_lists_of_files_are_whole() -> None:
    """The index names every page and every policy to start from."""
    index = generator.INDEX.read_text(encoding="utf-8")
    for name in NAMES:
        assert f"](policies/{name})" in index
    for config in (ROOT / "config").glob("*.yaml"):
        assert f"](../config/{config.name})" in index
        assert load(config, {}).gateways


# --- what is missing is told ----------------------------------------------------------------------


def test_a_setting_without_a_text_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its place in the code, with what to write there."""
    monkeypatch.setattr(generator, "texts", dict[tuple[str, str], Text])
    with pytest.raises(generator.WrongError, match=r"schema\.py: ListenModel\.sessions: say what"):
        generator.settings(s.PolicyFile)


def test_a_default_without_a_reason_is_told() -> None:
    """With the default and how a reason is written; what is off by default needs none."""
    text = Text("How often.", "")
    with pytest.raises(generator.WrongError, match=r"RetryModel\.x: its default is 3; end its"):
        generator._complain("RetryModel.x", FieldInfo(default=d.MAX_ATTEMPTS), text)
    generator._complain("RetryModel.x", FieldInfo(default=None), text)
    generator._complain("RetryModel.x", FieldInfo(), text)


KNOWN = [generator.Setting(key, "text", "none", Text("x", "")) for key in ("a.b", "a.c", "a.cd")]


@pytest.mark.parametrize(
    ("blocks", "told"),
    [
        ("keys: a.b", "a.c is on no page"),
        ("keys: a.b a.c", "a.cd is on no page"),
        ("keys: a a.b a.b", "two blocks"),
        ("keys: a a.x", "no setting is left for"),
        ("keys: a -->\n<!-- end -->\n<!-- metrics: holdfast_nothing", "no metric holdfast_nothing"),
    ],
)
def test_a_page_that_cannot_be_made_is_told(blocks: str, told: str) -> None:
    """Nothing is left out silently, and nothing is said twice."""
    with pytest.raises(generator.WrongError, match=told):
        generator._filled(KNOWN, {Path("x.md"): f"<!-- {blocks} -->\n<!-- end -->\n"})


def test_a_new_setting_finds_its_page() -> None:
    """It goes where most of its path is named, and nowhere else."""
    text = "<!-- keys: a -->\n<!-- end -->\n<!-- keys: a.c -->\n<!-- end -->\n"
    made = generator._filled(KNOWN, {Path("x.md"): text})[Path("x.md")]
    assert re.findall(r"keys: (\S+)|^\| `(\S+)`", made, re.MULTILINE) == [
        ("a", ""), ("", "a.b"), ("", "a.cd"), ("a.c", ""), ("", "a.c"),
    ]  # fmt: skip


# --- diagrams -------------------------------------------------------------------------------------

# What the pages use of Mermaid's sequence diagrams. `;` would end a line, `#` begin an entity.
_SAID = r"[^;#\n]+"
_PARTICIPANT = re.compile(rf"participant ([A-Z]) as {_SAID}")
_ARROW = re.compile(rf"([A-Z])(?:->>|-->>|-x|--x)([A-Z]): {_SAID}")
_NOTE = re.compile(rf"Note over ([A-Z])(?:,([A-Z]))?: {_SAID}")
_BEGIN = re.compile(rf"(loop|alt|opt) {_SAID}")
_ELSE = re.compile(rf"else {_SAID}")


def misdrawn(diagram: str) -> list[str]:
    """The lines of a sequence diagram that Mermaid would not read as they are meant."""
    first, *lines = diagram.splitlines()
    wrong = [] if first == "sequenceDiagram" else [first]
    known: set[str] = set()
    open_: list[str] = []
    for line in lines:
        text = line.strip()
        if match := _PARTICIPANT.fullmatch(text):
            known.add(match[1])
        elif match := _ARROW.fullmatch(text) or _NOTE.fullmatch(text):
            wrong += [] if known >= {name for name in match.groups() if name} else [line]
        elif match := _BEGIN.fullmatch(text):
            open_.append(match[1])
        elif text == "end" and open_:
            open_.pop()
        elif not (_ELSE.fullmatch(text) and open_[-1:] == ["alt"]):
            wrong.append(line)
    return wrong + open_


@pytest.mark.parametrize("name", NAMES)
def test_the_diagrams_can_be_drawn(name: str) -> None:
    """Each line is one that Mermaid has, of someone who takes part, and what begins ends."""
    for diagram in re.findall(r"^```mermaid\n(.*?)^```$", page(name), re.MULTILINE | re.DOTALL):
        assert misdrawn(diagram) == []


@pytest.mark.parametrize(
    "lines",
    [
        "A->>C: nobody",
        "A->B: no such arrow is used",
        "A->>B: two; at once",
        "A->>B: an entity #1",
        "A->>B:",
        "loop for ever\n    A->>B: hi",
        "end",
        "else without alt",
        "opt maybe\n    else not\n    end",
        "Note A,B: over is missing",
    ],
)
def test_a_wrong_diagram_is_seen(lines: str) -> None:
    """What Mermaid would refuse or misread is found."""
    head = "sequenceDiagram\n    participant A as Anne\n    participant B as Bob\n"
    assert misdrawn(f"{head}    A->>B: hi\n") == []
    assert misdrawn(f"{head}    {lines}\n") != []
