"""The pages are true: what they list is what the code has, and what they point to is there.

Settings are held by tests/settings/test_docs.py and tests/docs/test_policies.py, metrics by
tests/telemetry/test_metrics.py, the session API by tests/web/test_openapi.py, the gateways' page by
tests/e2e/test_docs_gateways.py.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from proxy.cli import _parser
from proxy.core.problems import problem
from proxy.core.profile import MAX_PROCESSING_SECONDS
from proxy.core.recovery import LOOKUP_SCHEDULE
from proxy.core.refusals import Refusal
from proxy.core.states import LIVE, AttemptStatus, Outcome, State, join
from proxy.keyring import Keyring
from proxy.settings.load import load
from proxy.settings.values import Gateway, Tokens
from proxy.telemetry.metrics import Metrics
from proxy.web.admin import Admin
from proxy.web.auth import Gatekeeper
from proxy.web.breakers import Breakers
from tests.campaigns.mutants import MUTANTS
from tests.stores.test_conformance import STORES
from tests.support import diagram
from tests.support.building import a_session

ROOT = Path(__file__).resolve().parent.parent
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def pages() -> list[str]:
    """Every page of the project, by its path from the top."""
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*.md"))
    return sorted(
        path.as_posix()
        for path in found
        if not any(part.startswith(".") or part == "node_modules" for part in path.parts)
    )


PAGES = pages()


def read(page: str) -> str:
    """A page's text."""
    return (ROOT / page).read_text(encoding="utf-8")


def section(page: str, heading: str) -> str:
    """What stands below a heading, up to the next one."""
    text = _FENCED.sub("", page)
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"there is no heading {heading!r}"
    return found[1]


def table(text: str) -> dict[str, list[str]]:
    """The rows of a table by their backticked first cell, each with its other cells."""
    found = re.findall(r"^\| `([^`]+)` \|(.*)\|$", text, re.MULTILINE)
    assert len(found) == len(dict(found)), "a row stands there twice"
    return {name: [cell.strip() for cell in rest.split("|")] for name, rest in found}


# --- docs/problems.md -----------------------------------------------------------------------------

PROBLEMS = read("docs/problems.md")
_FACTS = re.compile(
    r"Status (?P<status>\d+)(?: \(Stripe: (?P<stripe>[^)]+)\))? · acts: (?P<acts>\w+) · "
    r"repeat: (?P<repeat>yes|no) · sent: [^·]+ · `error=(?P<error>\w+)`"
)


@pytest.fixture(scope="module")
def stripe() -> Gateway:
    """A gateway whose SDK wants a form of its own."""
    return load(ROOT / "config/holdfast.yaml", {}).gateways["stripe"]


def test_every_refusal_is_explained_and_no_other() -> None:
    """docs/problems.md has one section per code."""
    told = re.findall(r"^### `([^`]+)`$", PROBLEMS, re.MULTILINE)
    assert sorted(told) == sorted(refusal.code for refusal in Refusal)


@pytest.mark.parametrize("refusal", Refusal, ids=lambda refusal: refusal.code)
def test_an_explanation_states_the_facts(refusal: Refusal, stripe: Gateway) -> None:
    """Title, status, Stripe's form, whose turn it is, whether to repeat, the error token."""
    row = refusal.value
    title, line, *explanation = section(PROBLEMS, f"`{row.code}`").strip().splitlines()
    assert title == f"**{row.title}.**"
    facts = _FACTS.fullmatch(line)
    assert facts, line
    form = stripe.profile.refusal_forms.get(row.code)
    theirs = None if form is None else f"{form.status or ''} `{form.error_type}`".strip()
    assert facts.groupdict() == {
        "status": str(row.status),
        "stripe": theirs,
        "acts": row.blame.value,
        "repeat": "yes" if row.safe_to_repeat else "no",
        "error": row.proxy_error,
    }
    assert any(explanation)


def test_every_field_of_a_problem_is_explained(stripe: Gateway) -> None:
    """The table of fields has what an answer with everything in it has, and nothing else."""
    session = a_session(AttemptStatus.UNKNOWN)
    refusal = Refusal.OUTCOME_UNKNOWN
    answer = problem(refusal, profile=stripe.profile, session=session, retry_after_ms=1000)
    # Below the table of fields stands that of headers, whose names are capitals.
    told = {name for name in table(section(PROBLEMS, "The document")) if name[0].islower()}
    assert told == set(json.loads(answer.body))


def test_the_example_of_a_problem_is_one(stripe: Gateway) -> None:
    """The document that is shown says what Holdfast would say."""
    blocks = re.findall(r"^```json\n(.*?)^```$", PROBLEMS, re.MULTILINE | re.DOTALL)
    shown, form = map(json.loads, blocks)
    session = a_session(AttemptStatus.IN_FLIGHT, id=shown["sessionId"])
    answer = problem(Refusal.IN_PROGRESS, session=session, retry_after_ms=5000)
    assert shown == json.loads(answer.body)
    held = json.loads(problem(Refusal.SESSION_HELD, profile=stripe.profile).body)["error"]
    beginning = form["error"].pop("message").removesuffix("…")
    assert held.pop("message").startswith(beginning)
    assert form["error"] == held


# --- docs/sessions.md -----------------------------------------------------------------------------

SESSIONS = read("docs/sessions.md")


def test_the_diagram_is_the_table() -> None:
    """What is drawn in docs/sessions.md is what proxy/core/states.py says."""
    assert diagram.redrawn(SESSIONS) == SESSIONS, "run: python -m tests.support.diagram"


def test_a_stale_diagram_is_renewed() -> None:
    """The command mends the drawing and touches nothing else."""
    stale = SESSIONS.replace("INITIATED --> EXPIRED", "INITIATED --> NOWHERE")
    assert stale != SESSIONS
    assert diagram.redrawn(stale) == SESSIONS


@pytest.mark.parametrize("mark", [diagram.BEGIN, diagram.END])
def test_a_page_without_the_marks_is_left_alone(mark: str) -> None:
    """Where the diagram belongs must be said once; else nothing is written."""
    for wrong in (SESSIONS.replace(mark, ""), SESSIONS.replace(mark, mark + mark)):
        with pytest.raises(ValueError, match="once each"):
            diagram.redrawn(wrong)


def test_every_state_is_explained() -> None:
    """Each state, in the order of the code, and whether it goes on."""
    told = table(section(SESSIONS, "States"))
    assert list(told) == list(State)
    assert {state for state, cells in told.items() if cells[-1] == "goes on"} == set(LIVE)
    assert {state for state, cells in told.items() if cells[-1] == "over"} == set(State) - LIVE


def test_every_outcome_is_explained() -> None:
    """What can be known of the money."""
    assert list(table(section(SESSIONS, "Outcome"))) == list(Outcome)


def test_every_attempt_status_is_explained() -> None:
    """Each status of a send, with its level: more is never followed by less."""
    told = {name: int(cells[0]) for name, cells in table(section(SESSIONS, "Attempts")).items()}
    assert set(told) == set(AttemptStatus)
    for one, other in product(AttemptStatus, repeat=2):
        wins = join(one, other) is other
        assert wins is (told[other] > told[one] or other is one), (one, other)


def test_the_look_up_schedule_is_the_real_one() -> None:
    """How often the gateway is asked, and when "not charged" counts."""

    def shown(seconds: int) -> str:
        for unit, size in (("h", 3600), ("min", 60)):
            if seconds >= size:
                return f"{seconds // size} {unit}"
        return f"{seconds} s"

    first, *others, last = map(shown, LOOKUP_SCHEDULE)
    text = " ".join(section(SESSIONS, "Looking up what is unknown").split())
    assert f"after {first}, then {', '.join(others)} and {last}." in text
    assert f"when the last send is {shown(round(MAX_PROCESSING_SECONDS))} ago" in text


# --- the command line -----------------------------------------------------------------------------

CLI = read("docs/cli.md")


def inside(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands of a parser, or the subcommands of a command."""
    found: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= action.choices
    return found


def options(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The options of a command and of its subcommands, but for --help."""
    for inner in inside(parser).values():
        yield from options(inner)
    for action in parser._actions:
        if action.option_strings and "--help" not in action.option_strings:
            yield action


COMMANDS = inside(_parser())


def test_every_command_has_its_section() -> None:
    """docs/cli.md has the commands that there are, in the table and below it."""
    told = re.findall(r"^## holdfast (\w+)$", CLI, re.MULTILINE)
    assert sorted(told) == sorted(COMMANDS)
    listed = re.findall(r"^\| \[`holdfast (\w+)`\]\(#holdfast-\1\) \|", CLI, re.MULTILINE)
    assert listed == told


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_explained(command: str) -> None:
    """Each subcommand and option of it, with its default, and none that it does not have."""
    text = section(CLI, f"holdfast {command}")
    for name in inside(COMMANDS[command]) or [""]:
        assert f"`holdfast {command} {name}".strip() in text
    told = {name.split()[0]: cells[0].strip("`") for name, cells in table(text).items()}
    real = {action.option_strings[0]: action for action in options(COMMANDS[command])}
    assert set(told) == set(real)
    assert set(re.findall(r"--[a-z][a-z-]+", text)) == set(real)
    for name, action in real.items():
        if action.required:
            assert told[name].startswith("required"), name
        elif action.default not in {None, False}:
            assert told[name] == str(action.default), name


async def _nothing() -> None:
    return


async def _no_changes() -> list[str]:
    return []


def test_every_admin_page_is_named_somewhere() -> None:
    """A path that can be asked for can be read about."""
    gatekeeper = Gatekeeper(Tokens(), Keyring(b"k" * 32))
    app = Admin(
        metrics=Metrics(),
        refresh=_nothing,
        unready=lambda: None,
        broken=lambda: None,
        gatekeeper=gatekeeper,
        reload=_no_changes,
        breakers=Breakers({}, gatekeeper, None),
    ).app()
    text = "\n".join(map(read, PAGES))
    paths = {resource.canonical for resource in app.router.resources()}
    assert paths >= {"/healthz", "/readyz", "/metrics", "/-/reload"}
    assert {path for path in paths if f"`{path}`" not in text} == set()


# --- stores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", STORES)
def test_every_store_says_what_it_promises(store: str) -> None:
    """A store that passes the conformance tests has its section in proxy/stores/README.md."""
    page = read("proxy/stores/README.md")
    assert section(page, store).strip()
    assert f"`{store}.py`" in page
    assert (ROOT / f"proxy/stores/{store}.py").is_file()


# --- what pages point to --------------------------------------------------------------------------


def anchors(page: str) -> set[str]:
    """The headings of a page as links name them."""
    headings = re.findall(r"^#+ (.*)$", _FENCED.sub("", read(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    """A relative link names a file of the project, and a heading that the page has."""
    text = _FENCED.sub("", read(page))
    for link in re.findall(r"(?:\]\(|^\[[^\]]+\]: )([^)\s]+)", text, re.MULTILINE):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, heading = link.partition("#")
        there = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert there.is_relative_to(ROOT), f"{page}: {link} leads out of the project"
        assert there.exists(), f"{page}: {link} is not there"
        if heading:
            assert heading in anchors(there.relative_to(ROOT).as_posix()), f"{page}: {link}"


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_is_named_is_there(page: str) -> None:
    """`proxy/core/states.py` in a sentence is a file, unless a name in it is to be filled in."""
    named = re.findall(
        r"`((?:config|deploy|docs|grafana|proxy|tests)/[^`\s]*)`", _FENCED.sub("", read(page))
    )
    for path in named:
        if not re.search(r"[<>*{}…]|NAME", path):
            assert (ROOT / path).exists(), f"{page}: {path} is not there"


# --- docs/proof.md --------------------------------------------------------------------------------


def test_the_proof_names_every_protection_that_is_taken_out() -> None:
    """By the names under which they are run."""
    proof = " ".join(read("docs/proof.md").split())
    assert f"{'; '.join(MUTANTS)}." in proof
