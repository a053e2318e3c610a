"""The metrics of a process: what they count, and that a scrape depends on nothing."""

from __future__ import annotations

import json
import queue
import re
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import neoq
import neoq.metrics
from neoq.errors import BackendUnavailable
from neoq.job import Job
from neoq.metrics import levels
from neoq.metrics.figures import Figures, add, as_message, grown, of_message
from neoq.metrics.names import (
    KIND_RUN,
    METRICS,
    MOST_KINDS,
    OPERATIONS,
    OUTCOMES,
    REASONS,
    RUNS,
    STATES,
    THREADS,
)
from neoq.series import BUCKETS
from neoq.store import Extended, lease_of
from tests.test_docs import anchors_of


@pytest.fixture
def backend() -> Iterator[neoq.MemBackend]:
    """A backend in memory."""
    with neoq.MemBackend() as made:
        yield made


def samples(backend: neoq.Backend) -> dict[tuple[str, ...], float]:
    """The samples of a scrape, by name and the values of their labels in the order of the labels' names."""
    kind, text = neoq.metrics.exposition(backend)
    assert kind.startswith("text/plain; version=")
    return {
        (one.name, *(value for _, value in sorted(one.labels.items()))): one.value
        for family in text_string_to_metric_families(text.decode())
        for one in family.samples
    }


_begun: set[int] = set()


def end_in_every_way(job: Job) -> None:
    """End as the payload says, and well at the second attempt."""
    how = "" if job.id in _begun else job.payload["how"]
    _begun.add(job.id)
    if how == "snoozed":
        raise neoq.Snooze(0)
    if how == "retried":
        raise neoq.Retry(after=0)
    if how == "dead":
        raise neoq.Discard("no use")


def test_attempts_are_counted_by_outcome(backend: neoq.MemBackend) -> None:
    """Each attempt is counted under its outcome, and its times in the histograms of waiting and running."""
    backend.listen("emails", end_in_every_way)
    for how in ("succeeded", "snoozed", "retried", "dead"):
        backend.enqueue("emails", {"how": how})
    assert backend.drain(20)
    found = samples(backend)
    assert found["neoq_jobs_enqueued_total", "emails"] == 4
    outcomes = {key[1]: n for key, n in found.items() if key[0] == "neoq_jobs_finished_total"}
    assert outcomes == {
        "succeeded": 3,
        "snoozed": 1,
        "retried": 1,
        "dead": 1,
        "cancelled": 0,
        "lost": 0,
        "stale": 0,
    }
    assert found["neoq_job_run_seconds_count", "ok", "emails"] == 4
    assert found["neoq_job_run_seconds_count", "failed", "emails"] == 2
    assert found["neoq_job_wait_seconds_count", "emails"] == 6
    assert found["neoq_jobs", "emails", "dead"] == 1
    assert found["neoq_workers",] == found["neoq_store_up",] == 1


def test_lost_leases_are_counted_once(backend: neoq.MemBackend) -> None:
    """A job whose lease is lost while it runs is counted once, however often the store says so."""
    begun: queue.SimpleQueue[Job] = queue.SimpleQueue()

    def run_on(job: Job) -> None:
        begun.put(job)
        while not job.cancelled:
            time.sleep(0.001)

    backend.listen("emails", run_on)
    backend.enqueue("emails", {})
    lease = lease_of(begun.get(timeout=20))
    for _ in range(2):
        backend.engine.note_extended([lease], Extended({lease.job_id}, set()))
    assert samples(backend)["neoq_leases_lost_total",] == 1


def test_a_rate_begins_at_zero(backend: neoq.MemBackend) -> None:
    """Every series of a queue is there before its first job."""
    backend.listen("emails", print)
    before = samples(backend)
    backend.enqueue("emails", {})
    assert backend.drain(20)
    levels_of = {metric.name for metric in METRICS if metric.type == "gauge"}
    assert {key for key in samples(backend) if key[0] not in levels_of} == {
        key for key in before if key[0] not in levels_of
    }


def test_a_queue_has_at_most_80_series(backend: neoq.MemBackend) -> None:
    """What a queue adds to a scrape is bounded, and no label is a host, a process, a job or an error."""
    backend.listen("emails", end_in_every_way, max_retries=0)
    for how in ("succeeded", "retried", "dead", *map(str, range(100))):
        backend.enqueue("emails", {"how": how})
    assert backend.drain(20)
    lines = neoq.metrics.exposition(backend)[1].decode().splitlines()
    assert 60 < sum('queue="emails"' in line for line in lines) <= 80
    labels = {name for line in lines for name in re.findall(r'(\w+)="', line)}
    assert labels == {"le", "outcome", "queue", "state"}


def test_kinds_are_counted_where_asked_for(backend: neoq.MemBackend) -> None:
    """Without count_kinds no label has a kind; with it at most 200 have series, and the others are one."""
    backend.listen("emails", end_in_every_way)
    backend.enqueue("emails", {"how": ""}, kind="before")
    assert backend.drain(20)
    assert not [key for key in samples(backend) if key[0].startswith(KIND_RUN)]
    neoq.metrics.count_kinds(backend)
    neoq.metrics.count_kinds(backend)
    backend.enqueue("emails", {"how": "dead"})
    for number in range(MOST_KINDS + 9):
        backend.enqueue("emails", {"how": "snoozed"}, kind=f"kind-{number}")
    assert backend.drain(20)
    found = {key[1:3]: n for key, n in samples(backend).items() if key[0] == f"{KIND_RUN}_count"}
    assert len(found) == MOST_KINDS + 1
    assert found["(none)", "failed"] == 1
    assert found["kind-7", "ok"] == 2
    assert found["other", "ok"] == 20
    assert sum(found.values()) == 2 * (MOST_KINDS + 9) + 1


def test_levels_are_read_once_in_five_seconds(
    backend: neoq.MemBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scrapes share what was read of the store until it is five seconds old."""
    now = [1000.0]
    monkeypatch.setattr(levels, "monotonic", lambda: now[0])
    reads: list[float] = []
    counts = backend.store.counts
    monkeypatch.setattr(backend.store, "counts", lambda: [reads.append(now[0]), counts()][1])
    for now[0] in (1000.0, 1001.0, 1004.9, 1005.1):
        samples(backend)
    assert reads == [1000.0, 1005.1]


def test_a_scrape_while_the_store_is_away(backend: neoq.MemBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the store does not answer, levels are absent, neoq_store_up is 0, and counters are there."""

    def away() -> list[neoq.QueueCounts]:
        raise BackendUnavailable("the store is away")

    backend.listen("emails", print)
    monkeypatch.setattr(backend.store, "counts", away)
    found = samples(backend)
    assert found["neoq_store_up",] == 0
    assert not {key[0] for key in found} & {"neoq_jobs", "neoq_workers", "neoq_queue_oldest_seconds"}
    assert found["neoq_jobs_finished_total", "succeeded", "emails"] == 0


def test_a_scrape_while_the_store_hangs(backend: neoq.MemBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that does not answer in time holds a scrape up for that time only, and by one thread in all."""
    let_go, begun = threading.Event(), threading.Semaphore(0)
    counts = backend.store.counts

    def slow() -> list[neoq.QueueCounts]:
        begun.release()
        let_go.wait(20)
        return counts()

    monkeypatch.setattr(levels, "LIMIT", 0.05)
    monkeypatch.setattr(backend.store, "counts", slow)
    try:
        assert [samples(backend)["neoq_store_up",] for _ in range(3)] == [0, 0, 0]
        assert begun.acquire(timeout=20)
        assert not begun.acquire(blocking=False)
    finally:
        let_go.set()


def test_one_registry_with_metrics_of_others(backend: neoq.MemBackend) -> None:
    """The collector goes into a registry of one's own, once, and says what the text of a scrape says."""
    registry = CollectorRegistry()
    registry.register(neoq.metrics.collector(backend))
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        registry.register(neoq.metrics.collector(backend))
    backend.listen("emails", end_in_every_way)
    backend.listen('odd \\ " name', end_in_every_way)
    neoq.metrics.count_kinds(backend)
    for name in ("emails", 'odd \\ " name'):
        for how in ("", "snoozed", "dead"):
            backend.enqueue(name, {"how": how})
    assert backend.drain(20)
    ours, theirs = (
        {
            (family.name, family.type, family.documentation, one.name, *sorted(one.labels.items())): one.value
            for family in text_string_to_metric_families(text.decode())
            for one in family.samples
        }
        for text in (neoq.metrics.exposition(backend)[1], generate_latest(registry))
    )
    assert ours == theirs


def test_calls_of_a_store_are_timed(tmp_path: Path) -> None:
    """Calls of a store outside of the process are timed by operation, also those in a transaction."""
    with neoq.connect(f"sqlite:///{tmp_path}/jobs.db", autostart=False) as backend:
        assert samples(backend)["neoq_store_seconds_count", "add"] == 0
        backend.listen("emails", lambda job: None)
        backend.start()
        with sqlite3.connect(tmp_path / "jobs.db") as connection:
            backend.enqueue("emails", transaction=connection)
        connection.close()
        backend.enqueue("emails", {}, unique=True)
        assert backend.drain(20)
        found = samples(backend)
        assert found["neoq_store_seconds_count", "add"] == 2
        assert found["neoq_store_seconds_count", "settle"] >= 1
        assert found["neoq_store_seconds_sum", "claim"] > 0


def test_names_are_those_that_prometheus_asks_for() -> None:
    """Names have base units; counters, and nothing else, end in _total; each has a help."""
    for metric in METRICS:
        assert re.fullmatch(r"neoq(_[a-z]+)+", metric.name)
        assert (metric.type == "counter") == metric.name.endswith("_total")
        assert not re.search(r"_(milliseconds|ms|minutes|count|sum|bucket|info|gauge|counter)\b", metric.name)
        assert (metric.type != "histogram") or metric.name.endswith("_seconds")
        assert metric.help.endswith(".")
        assert not {"le", "job", "instance", "host", "pid", "error"} & set(metric.labels)


def test_deltas_add_up() -> None:
    """What counters have gained since, sent and added up, is what they are; zeros are told, too."""
    steps: list[Figures] = [
        {("a",): (0,), ("h", "x"): (1, 2, 0.5)},
        {("a",): (0,), ("h", "x"): (1, 2, 0.5)},
        {("a",): (3,), ("h", "x"): (2, 2, 0.75), ("b",): (1,)},
    ]
    total: Figures = {}
    before: Figures = {}
    gains = []
    for now in steps:
        gains.append(grown(now, before))
        add(total, of_message(json.loads(json.dumps(as_message(gains[-1])))))
        before = now
    assert total == steps[-1]
    assert gains[0] == steps[0]
    assert gains[1] == {}


def test_without_prometheus_client_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where prometheus-client is not installed the error says what to install."""
    monkeypatch.setitem(sys.modules, "prometheus_client.core", None)
    monkeypatch.delitem(sys.modules, "neoq.metrics.prometheus", raising=False)
    with (
        neoq.MemBackend() as backend,
        pytest.raises(ModuleNotFoundError, match=r"pip install 'neoq\[metrics\]'"),
    ):
        neoq.metrics.collector(backend)


ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GAUGES = {metric.name for metric in METRICS if metric.type == "gauge"}
LABELS = {
    series: {*metric.labels, *(["le"] if series.endswith("_bucket") else [])}
    for metric in METRICS
    for series in (
        [f"{metric.name}_{part}" for part in ("bucket", "count", "sum")]
        if metric.type == "histogram"
        else [metric.name]
    )
}


def alerts() -> list[dict[str, Any]]:
    """The rules of docs/alerts.yml."""
    groups = yaml.safe_load((DOCS / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def grafana() -> dict[str, Any]:
    """The dashboard for Grafana."""
    found: dict[str, Any] = json.loads((DOCS / "grafana" / "neoq.json").read_text(encoding="utf-8"))
    return found


def expressions() -> list[str]:
    """The PromQL of the alerts and of the dashboard."""
    targets = [target["expr"] for panel in grafana()["panels"] for target in panel["targets"]]
    return [*(rule["expr"] for rule in alerts()), *targets]


@pytest.mark.parametrize("expression", expressions())
def test_expressions_name_series_and_labels_that_exist(expression: str) -> None:
    """Each series and label of an alert or a panel exists, brackets match, and no level is summed."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    named = re.findall(r"\b(neoq_\w+)(?:{([^}]*)})?", bare)
    assert named
    for series, matchers in named:
        assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)) <= LABELS[series]
    known = set().union(*(LABELS[series] for series, _ in named))
    for grouping in re.findall(r"\b(?:by|on) \(([^)]*)\)", bare):
        assert set(grouping.split(", ")) <= known
    for opening, closing in ("()", "[]", "{}"):
        assert bare.count(opening) == bare.count(closing)
    assert not re.search(rf"sum(?: by \([^)]*\))? ?\((?:{'|'.join(GAUGES)})\b", bare)


def test_each_alert_leads_to_what_to_do() -> None:
    """Each rule has a name of its own, says how bad it is, and names a heading in troubleshooting."""
    pages = {f"docs/troubleshooting.md#{anchor}" for anchor in anchors_of(DOCS / "troubleshooting.md")}
    names = [rule["alert"] for rule in alerts()]
    assert len(set(names)) == len(names) > 10
    for rule in alerts():
        assert rule["annotations"]["runbook"] in pages
        assert rule["annotations"]["runbook"].endswith(f"#{rule['alert'].lower()}")
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        assert re.fullmatch(r"\d+[mh]", rule.get("for", "0m"))
        used = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        assert used <= set().union(*(LABELS[name] for name in re.findall(r"\b(neoq_\w+)", rule["expr"])))


def test_the_dashboard_for_grafana_is_sound() -> None:
    """Panels have ids, titles, units and places of their own, and ask the data source that is chosen."""
    made = grafana()
    panels = made["panels"]
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
    assert len({panel["title"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken
        taken |= cells
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert [target["refId"] for target in panel["targets"]] == list("ABC"[: len(panel["targets"])])
        assert {one["datasource"]["uid"] for one in (panel, *panel["targets"])} == {"${datasource}"}
    variables = {one["name"] for one in made["templating"]["list"]}
    assert variables == set(re.findall(r"\$\{?([a-z]\w+)", json.dumps(made))) - {"__rate_interval"}
    asked = " ".join(target["expr"] for panel in panels for target in panel["targets"])
    shown = {re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"neoq_\w+", asked)}
    assert shown == {metric.name for metric in METRICS} - {KIND_RUN}


def test_the_page_lists_every_metric() -> None:
    """docs/metrics.md has a row for each metric with its type and labels, and none that does not exist."""
    page = (DOCS / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"(?m)^\| `(neoq_\w+)` \| (\w+) \| [^|]+ \|([^|]*)\|", page)
    assert {(name, kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows} == {
        metric[:3] for metric in METRICS
    }
    for word in (*OUTCOMES, *REASONS, *STATES, *THREADS, *OPERATIONS, *RUNS):
        assert f"`{word}`" in page
    assert ", ".join(f"{bound:,g}" for bound in BUCKETS[:-1]) + f" and {BUCKETS[-1]:,g}" in page
