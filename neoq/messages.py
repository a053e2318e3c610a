"""What processes that share a store say to each other about jobs that are waited for, as text."""

from __future__ import annotations

from collections.abc import Sequence

END, EVERY_CHANGE = "end", "every"


def text_of_ids(job_ids: Sequence[int] | None) -> str:
    """The text that names jobs; empty for all of them."""
    return "" if job_ids is None else ",".join(map(str, job_ids))


def ids_in(text: str) -> set[int] | None:
    """The jobs that a text names; None where it names none, or nothing that is ours."""
    try:
        return set(map(int, text.split(",")))
    except ValueError:
        return None


def text_of_ask(job_ids: Sequence[int], *, every_change: bool) -> str:
    """The text that asks for the end of jobs, or for every change."""
    return f"{EVERY_CHANGE if every_change else END} {text_of_ids(job_ids)}"


def ask_in(text: str) -> tuple[list[int], bool] | None:
    """What a text asks for: which jobs, and whether for every change; None where it is none of ours."""
    word, _, named = text.partition(" ")
    ids = ids_in(named)
    if word not in {END, EVERY_CHANGE} or ids is None:
        return None
    return sorted(ids), word == EVERY_CHANGE
