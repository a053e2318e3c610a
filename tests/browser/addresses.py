"""The pages of the dashboard, as the tests visit them."""

from __future__ import annotations

from urllib.parse import quote

from tests.browser.shop import Shop

NAMES = [
    "overview", "queues", "queue", "paused queue", "jobs", "dead jobs", "no jobs", "dead job", "running job",
    "retrying job", "succeeded job", "failures", "schedules", "workers", "actions", "all that match",
    "wrong filter", "no such page",
]  # fmt: skip


def address_of(name: str, root: str, shop: Shop) -> str:
    """The address of a page, by its name above."""
    if name == "no such page":
        return root + "no-such-page"
    queue = quote("emails" + shop.text, safe="")
    paths = {
        "overview": "",
        "queue": f"queue?name={queue}",
        "paused queue": f"queue?name={quote('letters' + shop.text, safe='')}",
        "dead jobs": f"jobs?queue={queue}&status=dead",
        "all that match": f"confirm?action=delete&queue={queue}&status=dead",
        "wrong filter": f"jobs?queue={queue}&since=long+ago&payload=no",
        "no jobs": f"jobs?queue={queue}&status=dead&key=nobody{quote(shop.text, safe='')}",
    }
    state, _, what = name.partition(" ")
    if what == "job" and state in shop.ids:
        return f"{root}job?id={shop.ids[state]}"
    return root + paths.get(name, name)
