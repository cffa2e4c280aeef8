"""Draws the states into docs/sessions.md: `python -m tests.support.diagram`."""

from __future__ import annotations

from pathlib import Path

from proxy.core.states import mermaid

PAGE = Path(__file__).parent.parent.parent / "docs" / "sessions.md"
BEGIN = "<!-- The states, drawn by `python -m tests.support.diagram`: do not edit. -->\n"
END = "<!-- End of the states. -->\n"


def redrawn(page: str) -> str:
    """The page with the diagram as the table has it now; nothing else is changed.

    Raises ValueError if the two marks are not there, once each and in their order.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in before + after:
        message = f"the page needs these two lines, once each:\n{BEGIN}{END}"
        raise ValueError(message)
    return f"{before}{begin}\n```mermaid\n{mermaid()}```\n\n{end}{after}"


def main() -> None:
    """Renew the page, and say whether that was needed."""
    before = PAGE.read_text(encoding="utf-8")
    after = redrawn(before)
    if after == before:
        print(f"docs/{PAGE.name} is as the table has it")
        return
    PAGE.write_text(after, encoding="utf-8")
    print(f"docs/{PAGE.name} renewed")


if __name__ == "__main__":
    main()
