"""What people do afterwards: one call is one event, written through the same door as everything else.

An action checks against the catalogue that what it means is there, appends its event, and returns once the event is in the
kernel. Nothing is ever overwritten: the value before stays in the journal and is shown among the changes. Actions raise
where a run's own logging would only warn: a person or a program waits for the answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import events, queries, values
from .errors import RejectedError
from .journal import Writer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .views import Lab

FLAGS = ("PUBLISH", "BEST", "BAD RUN")
NOTE_MAX = 1_000_000
"""Characters of a note."""
TAG_MAX = 250
"""Characters of a tag's name."""


class Actions:
    """Act on a store; keeps one segment open for its life.

    Args:
        lab: the catalogue of the store; brought up to date before and after every action.
        via: cli, http, agent, import or server.
        by: the person or token, where there is one.
    """

    def __init__(self, lab: Lab, *, via: str, by: str | None = None) -> None:
        self.lab = lab
        self._writer = Writer(lab.store, via=via, by=by, strict=True)

    def close(self) -> None:
        """Seal the segment."""
        self._writer.seal()

    def __enter__(self) -> Actions:  # noqa: PYI034
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    def note(self, run_id: str, text: str) -> queries.RunDetail:
        """Set the note of a run.

        Raises:
            NotFoundError: there is no such run.
            RejectedError: the note is longer than a million characters.
        """
        return self._act(run_id, events.NoteChanged(note=_note(text)))

    def flag(self, run_id: str, flag: str) -> queries.RunDetail:
        """Flag a run PUBLISH, BEST or BAD RUN: set the tag, and put the word in front of the note.

        Raises:
            NotFoundError: there is no such run.
            RejectedError: it is another word.
        """
        word = flag.replace("_", " ").replace("-", " ").upper().strip()
        if word not in FLAGS:
            raise RejectedError(f"flag {flag[:40]!r} is not allowed", key="flag", hint=f"allowed: {', '.join(FLAGS)}")
        self.lab.refresh()
        before = queries.get_run(self.lab, run_id).note or ""
        note = before if before == word or before.startswith(f"{word}:") else f"{word}: {before}" if before else word
        return self._act(run_id, events.RunFlagged(flag=word, note=_note(note)))

    def tag(self, run_id: str, tags: Any = None, *, remove: Iterable[str] = ()) -> queries.RunDetail:
        """Set tags (a dictionary, or words) and take others away.

        Raises:
            NotFoundError: there is no such run.
            RejectedError: a tag has no name, or too long a one.
        """
        chosen, gone = values.tags(tags), [str(name) for name in remove]
        for name in [*chosen, *gone]:
            if not name.strip() or len(name) > TAG_MAX:
                raise RejectedError(f"tag {name[:60]!r} is not allowed", key="tag", hint=f"a tag has 1 to {TAG_MAX} characters")
        return self._act(run_id, events.TagsChanged(set=chosen, removed=gone))

    def _act(self, run_id: str, event: events.Event) -> queries.RunDetail:
        self.lab.refresh()
        queries.get_run(self.lab, run_id)
        self._writer.observe(self.lab.clock_of(run_id))
        self._writer.append(event, run=run_id)
        self.lab.refresh()
        return queries.get_run(self.lab, run_id)


def _note(text: str) -> str:
    if len(text) > NOTE_MAX:
        raise RejectedError(f"a note of {len(text)} characters is too long", key="note", hint=f"at most {NOTE_MAX}")
    return text.encode("utf-8", "backslashreplace").decode()
