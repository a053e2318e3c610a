"""Whether the jobs that a Redis server keeps add up: each is in one place, and nothing is left over."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import redis

PLACES = ("ready", "wait", "retry", "lines", "lease", "done", "dead", "cancelled")


Client = redis.Redis | redis.RedisCluster


def check_ledger(client: Client, prefix: str) -> None:
    """Fail where a job is in two places or in none, or a fingerprint is held by nobody."""
    for queue in _fields(client, f"{{{prefix}}}:queues").keys() - {""}:
        check_queue(client, f"{{{prefix}:{queue}}}:")


def check_queue(client: Client, tag: str) -> None:
    jobs = _fields(client, tag + "jobs")
    lives = _fields(client, tag + "life")
    at: dict[str, str] = {}
    for place in PLACES:
        for member in client.zrange(tag + place, 0, -1):
            job = _id_in(place, member.decode())
            assert job not in at, f"{job} is in {at[job]} and in {place}"
            at[job] = place
    assert at.keys() == jobs.keys(), f"in no place, or in one without a record: {at.keys() ^ jobs.keys()}"
    assert {
        job for member in client.zrange(tag + "ids", 0, -1) for job in _ids_in(member.decode())
    } >= jobs.keys()
    for extra in ("life", "payloads", "results", "progress"):
        assert _fields(client, tag + extra).keys() <= jobs.keys(), extra
    held = {}
    for job, record in jobs.items():
        status = json.loads(lives[job])["s"] if job in lives else 0
        ended = {"done": 3, "dead": 4, "cancelled": 5}.get(at[job])
        assert (status if status > 2 else None) == ended, (job, status, at[job])
        if record[:1] in b"14" and ended is None:
            held[record[21 : 21 + int(record[5:9])].decode()] = job
    holders = {print_: job.decode() for print_, job in _fields(client, tag + "uniq").items()}
    until_started = {job for job, record in jobs.items() if record[:1] in b"25"}
    spent = {
        print_
        for print_, span in _fields(client, tag + "spent").items()
        if holders.get(print_) == _last(span)
    }
    assert {
        print_: job
        for print_, job in holders.items()
        if job not in until_started and (print_ not in spent or print_ in held)
    } == held
    _check_turns(client, tag, at)
    for name in ("cancel", "crashed"):
        unfinished = {
            job for job, place in at.items() if place in {"ready", "wait", "retry", "lines", "lease"}
        }
        assert {member.decode() for member in client.smembers(tag + name)} <= unfinished, name


def _last(span: bytes) -> str:
    return span.decode().split()[-1]


def _check_turns(client: Client, tag: str, at: dict[str, str]) -> None:
    """Each turn is that of a job which may have one, and each key has as many as are counted."""
    turns = _fields(client, tag + "turn")
    assert {at[job] for job in turns} <= {"ready", "wait", "retry", "lease", "dead"}, turns
    busy = Counter(key.decode() for key in turns.values())
    assert {key: int(number) for key, number in _fields(client, tag + "busy").items()} == busy


def _fields(client: Client, key: str) -> dict[str, Any]:
    return {name.decode(): value for name, value in client.hgetall(key).items()}


def _id_in(place: str, member: str) -> str:
    if place == "lines":
        return str(int(member[-16:]))
    if place == "lease":
        return member.partition(":")[0]
    return member[3:] if place in {"wait", "retry"} else member


def _ids_in(member: str) -> list[str]:
    first, _, count = member.partition(":")
    count, _, step = count.partition(":")
    return [str(int(first) + number * int(step or 1)) for number in range(int(count or 1))]
