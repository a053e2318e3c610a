"""How a child ended, in words, and the likely cause."""

from __future__ import annotations

import signal
from pathlib import Path

from neoq.cli.places import Child

_MEMORY_EVENTS = Path("/sys/fs/cgroup/memory.events")
_CRASH = "a crash in native code; its stack is above, if Python could still write it"
_CAUSES = {
    "SIGKILL": "somebody's kill -9, or the system, out of memory: see dmesg",
    "SIGSEGV": _CRASH,
    "SIGBUS": _CRASH,
    "SIGILL": _CRASH,
    "SIGFPE": _CRASH,
    "SIGABRT": "native code gave up; its stack is above",
    "SIGTERM": "somebody stopped this process alone, before it could drain",
    "SIGXCPU": "its limit of CPU time",
}


def out_of_memory_kills() -> int:
    """How many processes of this container the kernel has killed for memory, as far as it says."""
    try:
        lines = _MEMORY_EVENTS.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(
        int(number) for name, _, number in (line.partition(" ") for line in lines) if name == "oom_kill"
    )


def describe(code: int, *, killed_for_memory: bool) -> str:
    """What an exit code of a child means; a negative one is a signal."""
    if code >= 0:
        cause = "an error of its own, above" if code == 1 else "sys.exit() or os._exit() in the application"
        return f"exit code {code}: {cause}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    cause = _CAUSES.get(name, "a signal that the application did not expect")
    if name == "SIGKILL" and killed_for_memory:
        cause = "its container is out of memory"
    return f"{name}: {cause}"


def reason_of(child: Child, code: int, *, stopping: bool) -> str:
    """The end of a child in one word, of those that `neoq_child_exits_total` counts."""
    if child.refusal is not None:
        return "refused"
    if child.killed is not None:
        return "killed"
    if code < 0:
        return "signal"
    if child.ended is not None or child.asked:
        return "replaced" if child.asked and not stopping else "stopped"
    return "failed"
