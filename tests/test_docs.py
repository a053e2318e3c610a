"""The documentation: its programs run, it leaves nothing out, and its links lead somewhere.

Every block marked `python` in README.md and docs/ is run, the blocks of a page one after the other as one
program. The line `<!-- prints -->` before a `text` block means: that is what the program above prints, with
`...` for what differs from run to run. The line `<!-- file: NAME -->` before a block makes it a file beside
the program instead, and `<!-- NAME prints -->` shows the output of that file. Code of other libraries is
marked `python-other` and not run.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import neoq
from tests.processes import running

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    ROOT / "benchmarks" / "README.md",
    *sorted(DOCS.glob("*.md")),
    *sorted(DOCS.glob("recipes/*.md")),
]
ON_SERVERS = {  # pages that read NEOQ_URL
    "postgres.md": "postgres_url",
    "redis.md": "redis_url",
    "transactions.md": "postgres_url",
}
SECONDS_A_PAGE = 45
MARK = re.compile(r"<!-- (?:file: (?P<file>\S+)|(?:(?P<printer>\S+) )?prints) -->")
PROGRAM = "the program of the page"
END_OF_BLOCK = "\x1e"  # printed between the outputs of two blocks
FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<language>[^\s`]*)")


class Block(NamedTuple):
    """A fenced block: its language, the number of its first line, and its lines."""

    language: str
    start: int
    lines: list[str]
    file: str | None  # it is a file of this name, not a part of the page's program
    printer: str | None  # it shows what this prints: PROGRAM, or a file


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> list[Block]:
    """Every fenced block of a page, in order."""
    lines = page.read_text(encoding="utf-8").splitlines()
    blocks, number = [], 0
    while number < len(lines):
        opened = FENCE.match(lines[number])
        number += 1
        if not opened:
            continue
        start, indent, ticks = number, len(opened["indent"]), opened["ticks"]
        while lines[number].strip() != ticks:
            number += 1
        inside = [line[indent:] for line in lines[start:number]]
        above = next((line for line in reversed(lines[: start - 1]) if line.strip()), "")
        mark = MARK.fullmatch(above.strip())
        file = mark["file"] if mark else None
        printer = (mark["printer"] or PROGRAM) if mark and not file else None
        blocks.append(Block(opened["language"], start, inside, file, printer))
        number += 1
    return blocks


def code_blocks_of(page: Path) -> list[Block]:
    """The Python blocks that are the program of a page."""
    return [block for block in blocks_of(page) if block.language == "python" and block.file is None]


def write_files(page: Path, folder: Path) -> None:
    """Write the blocks of a page that are files."""
    for block in blocks_of(page):
        if block.file is not None:
            (folder / block.file).write_text("\n".join(block.lines) + "\n", encoding="utf-8")


def shown_output(page: Path, printer: str) -> list[str]:
    """The lines that a page shows as the output of one of its files."""
    (block,) = (block for block in blocks_of(page) if block.printer == printer)
    return block.lines


def program_of(page: Path) -> str:
    """The Python blocks of a page as one program, each at the line that it has in the page."""
    program: list[str] = []
    for block in code_blocks_of(page):
        program += [""] * (block.start - len(program))
        program += [*block.lines, f"print({END_OF_BLOCK!r}, flush=True)"]
    return "\n".join(program) + "\n"


def outputs_expected(page: Path) -> Iterator[tuple[int, Block]]:
    """Each block that shows an output, with the place of the Python block that prints it."""
    count = 0
    for block in blocks_of(page):
        if block.printer == PROGRAM:
            yield count - 1, block
        count += block.language == "python" and block.file is None


def environment_of(variables: dict[str, str]) -> dict[str, str]:
    """What the programs of the pages find in their environment."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **variables}


def run_page(page: Path, folder: Path, variables: dict[str, str]) -> list[str]:
    """Run the program of a page in a fresh interpreter; return what each of its blocks printed."""
    program = folder / f"page_{page.stem.lower()}.py"  # redis.py would be imported as redis
    program.write_text(program_of(page), encoding="utf-8")
    write_files(page, folder)
    environment = environment_of(variables)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS_A_PAGE,
        check=False,
    )
    assert done.returncode == 0, f"{name_of(page)} failed\n{done.stdout}\n{done.stderr}"
    return done.stdout.split(END_OF_BLOCK + "\n")


def agree(expected: list[str], printed: str) -> bool:
    """Whether a program printed what the page says, `...` standing for any text within a line."""
    lines = [".*".join(map(re.escape, line.rstrip().split("..."))) for line in expected]
    return re.fullmatch("\n".join(lines), printed.strip("\n")) is not None


@pytest.mark.parametrize("page", [page for page in PAGES if code_blocks_of(page)], ids=name_of)
def test_the_programs_run_and_print_what_the_page_says(
    page: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The Python blocks of a page run without a warning, and print what the page shows."""
    server = ON_SERVERS.get(page.name)
    variables = {"NEOQ_URL": request.getfixturevalue(server)} if server else {}
    printed = run_page(page, tmp_path, variables)
    for at, block in outputs_expected(page):
        expected = "\n".join(block.lines)
        where = f"{name_of(page)}:{block.start}"
        assert agree(block.lines, printed[at]), f"{where} shows\n{expected}\nbut printed was\n{printed[at]}"


def start_worker(file: str, folder: Path, variables: dict[str, str]) -> subprocess.Popen[str]:
    """Start a file of a page as a process that works until it is told to stop."""
    return subprocess.Popen(
        [sys.executable, "-u", "-W", "error", file],
        cwd=folder,
        env=environment_of(variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )


def run_beside(program: list[str], folder: Path, variables: dict[str, str]) -> str:
    """Run a second process to its end; return what it printed."""
    command = [sys.executable, "-W", "error", *program]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment_of(variables),
        stdout=subprocess.PIPE,
        encoding="utf-8",
        timeout=SECONDS_A_PAGE,
        check=True,
    ).stdout


def read_lines(worker: subprocess.Popen[str], count: int) -> list[str]:
    """Wait for the next lines that a worker prints."""
    assert worker.stdout is not None
    return [worker.stdout.readline().rstrip("\n") for _ in range(count)]


def test_the_tutorial_ends_with_two_processes(tmp_path: Path) -> None:
    """The worker of the last step runs what the producer enqueues, and Ctrl-C ends it."""
    page = DOCS / "tutorial.md"
    write_files(page, tmp_path)
    shown = shown_output(page, "worker.py")
    with start_worker("worker.py", tmp_path, {}) as worker:
        try:
            begun = read_lines(worker, 1)
            produced = run_beside(["producer.py"], tmp_path, {})
            printed = begun + read_lines(worker, len(shown) - 1)
            worker.send_signal(signal.SIGINT)
            assert worker.wait(timeout=20) == 0
        finally:
            worker.kill()
    assert agree(shown_output(page, "producer.py"), produced)
    assert agree(shown, "\n".join(printed))


def test_the_three_files_of_tasks_run(tmp_path: Path) -> None:
    """What the application of the page on tasks enqueues is done by its worker, also by one started again."""
    page = DOCS / "tasks.md"
    write_files(page, tmp_path)
    for again in range(2):
        assert run_beside(["app.py"], tmp_path, {}) == "accepted jobs.send\n"
        with start_worker("worker.py", tmp_path, {}) as worker:
            try:
                assert read_lines(worker, 1) == ["welcome, ada@example.com"], again
            finally:
                worker.kill()


def test_the_recipe_of_web_and_worker_runs(tmp_path: Path, postgres_url: str) -> None:
    """What the web process of the recipe answers with 202 is done by its worker, which SIGTERM ends."""
    page = DOCS / "recipes" / "web-and-worker.md"
    write_files(page, tmp_path)
    variables = {"NEOQ_URL": postgres_url}
    post = (
        "from app import app; client = app.test_client(); "
        "print(client.post('/signups', json={'to': 'ada@example.com'}).status)"
    )
    with start_worker("worker.py", tmp_path, variables) as worker:
        try:
            assert run_beside(["-c", post], tmp_path, variables) == "202 ACCEPTED\n"
            assert agree(shown_output(page, "worker.py"), "\n".join(read_lines(worker, 1)))
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(timeout=20) == 0
        finally:
            worker.kill()


ASK = """
import asyncio, httpx
from app import app, lifespan

async def main():
    transport = httpx.ASGITransport(app)
    async with lifespan(app), httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for path in "/signups/ada@example.com", "/invitations/bob@example.com":
            answer = await client.post(path)
            job = f"/jobs/{answer.json()['job']}"
            changes = await client.get(f"{job}/changes")
            print(answer.status_code, changes.text.split()[-1], (await client.get(job)).json()["result"])
        print((await client.get("/jobs/12345")).status_code)

asyncio.run(main())
"""


def test_the_application_in_fastapi_and_its_worker_run(tmp_path: Path) -> None:
    """What the endpoints of the page enqueue is done by `neoq worker`, and their clients see it end."""
    write_files(DOCS / "fastapi.md", tmp_path)
    variables = {"NEOQ_RUNTIME_DIR": str(tmp_path)}
    with running([sys.executable, "-m", "neoq", "worker", "jobs"], env=variables, cwd=tmp_path) as worker:
        assert run_beside(["-c", ASK], tmp_path, variables).splitlines() == [
            "202 succeeded welcome, ada@example.com",
            "202 succeeded an invitation, bob@example.com",
            "404",
        ]
        worker.signal(signal.SIGTERM)
        worker.ends_well()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_are_marked_with_a_language(page: Path) -> None:
    """Every block says what it is, so that none is left untested by a slip."""
    known = {"python", "python-other", "text", "console", "ini", "sql", "yaml", "docker", "html"}
    known |= {"{eval-rst}", "{toctree}"}
    assert not [
        f"{name_of(page)}:{b.start} {b.language!r}" for b in blocks_of(page) if b.language not in known
    ]


def public_objects() -> dict[str, Any]:
    """Everything that a user may call or read, by the name that the documentation has to use."""
    import neoq.cron
    import neoq.testing

    names: dict[str, Any] = {name: getattr(neoq, name) for name in neoq.__all__}
    names |= {f"neoq.testing.{name}": getattr(neoq.testing, name) for name in neoq.testing.__all__}
    for cls in (neoq.Backend, neoq.Job, neoq.RetryPolicy, neoq.Stats, neoq.QueueCounts, neoq.WorkerInfo):
        names |= public_members(cls)
    names |= public_members(neoq.ShutdownReport) | public_members(neoq.cron.Schedule)
    return names


def public_members(cls: type) -> dict[str, Any]:
    """The methods, properties and fields of a class, without the seam's."""
    from neoq.record import Record
    from neoq.store import Store

    seam = {*dir(Store), *dir(Record)}
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    names = {*dir(cls), *(spec.name for spec in fields)}
    return {
        f"{cls.__name__}.{name}": inspect.getattr_static(cls, name, None)
        for name in names
        if not name.startswith("_") and name not in seam
    }


def code_in(page: Path) -> str:
    """What a page sets as code: its blocks, and what stands between backticks."""
    text = page.read_text(encoding="utf-8")
    blocks = "\n".join("\n".join(block.lines) for block in blocks_of(page))
    return blocks + "\n" + "\n".join(re.findall(r"`([^`\n]+)`", text))


def test_every_public_name_is_documented() -> None:
    """A page mentions, as code, every public name, method, property and field."""
    code = "\n".join(map(code_in, PAGES))
    missing = [
        name
        for name in public_objects()
        if not re.search(rf"(?<!\w){re.escape(name.rpartition('.')[2])}(?!\w)", code)
    ]
    assert not missing, f"no page mentions {', '.join(missing)}"


def test_every_public_name_has_a_docstring() -> None:
    """Every public class, function, method and property says what it does."""
    described = (type, property, staticmethod, classmethod)
    missing = [
        name
        for name, value in public_objects().items()
        if (inspect.isroutine(value) or isinstance(value, described)) and not inspect.getdoc(value)
    ]
    assert not missing, f"no docstring: {', '.join(missing)}"


def default_of(spec: dataclasses.Field[Any]) -> str:
    """A setting's default as the page shows it."""
    if spec.name == "concurrency":
        return "min(32, cpus + 4)"
    if spec.name == "logger":
        return 'logging.getLogger("neoq")'
    return repr(spec.default)


def settings_table(config: type) -> list[str]:
    """The rows of the table of settings, from what config.py says of each."""
    return [
        f"| `{spec.name}` | `{default_of(spec)}` | {spec.metadata['doc']} | {spec.metadata['kind'].words} |"
        for spec in dataclasses.fields(config)
    ]


def test_every_setting_is_documented() -> None:
    """docs/configuration.md has a row for each setting, with its default, meaning and range in config.py."""
    page = (DOCS / "configuration.md").read_text(encoding="utf-8").splitlines()
    config = neoq.MemBackend.config_class
    rows = settings_table(config)
    missing = [row for row in rows if row not in page]
    assert not missing, "docs/configuration.md lacks or misstates:\n" + "\n".join(missing)
    names = re.findall(r"(?m)^\| `(\w+)` \| `", "\n".join(page))
    assert set(names) <= {spec.name for spec in dataclasses.fields(config)}


def links_of(page: Path) -> list[tuple[str, str]]:
    """The links of a page that lead into the repository, as (file, anchor)."""
    text = page.read_text(encoding="utf-8")
    for block in blocks_of(page):
        text = text.replace("\n".join(block.lines), "")
    targets = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text))
    inside = [target for target in targets if not re.match(r"[a-z]+:", target)]
    return [(file, anchor) for file, _, anchor in (target.partition("#") for target in inside)]


def anchors_of(page: Path) -> set[str]:
    """The anchors that a forge, and Sphinx, give to the headings of a page."""
    inside = {number for b in blocks_of(page) for number in range(b.start, b.start + len(b.lines))}
    lines = page.read_text(encoding="utf-8").splitlines()
    headings = [line for number, line in enumerate(lines) if number not in inside and line.startswith("#")]
    words = [re.sub(r"[^\w\- ]", "", heading.lstrip("#").strip().lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in words}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """Every link into the repository names a file that exists, and a heading in it."""
    dead = []
    for file, anchor in links_of(page):
        target = page.parent / file if file else page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            dead.append(f"{file}#{anchor}")
    assert not dead, f"{name_of(page)} links to {', '.join(dead)}"


RETIRED = r"(?i)\b(keeper|ticker|lanes?|baton|bury|choked|stranded|whom|such a one|is told|judges nobody)\b"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_uses_the_words_of_the_glossary(page: Path) -> None:
    """No page has a word that the glossary of CONTRIBUTING.md has replaced, nor a turn that nobody says."""
    assert not re.findall(RETIRED, page.read_text(encoding="utf-8"))


def test_the_index_lists_every_page() -> None:
    """Each page stands in the table of contents of docs/index.md, or of its folder's index."""
    for index in (DOCS / "index.md", DOCS / "recipes" / "index.md"):
        listed = {line.strip() for b in blocks_of(index) if b.language == "{toctree}" for line in b.lines}
        assert {page.stem for page in index.parent.glob("*.md")} - {"index"} <= listed
    assert "recipes/index" in (DOCS / "index.md").read_text(encoding="utf-8").splitlines()


def test_the_commands_of_make_exist() -> None:
    """Every `make` command that a page names is in the Makefile."""
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8")))
    named = {
        (name_of(page), target) for page in PAGES for target in re.findall(r"\bmake ([a-z-]+)", code_in(page))
    }
    assert not {(page, target) for page, target in named if target not in targets}


def test_the_internals_name_every_thread() -> None:
    """docs/internals.md has each name that a thread of the package gets, and no other."""
    source = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "neoq").rglob("*.py"))
    named = set(re.findall(r'"(neoq-[a-z]+(?:-[a-z]+)*)(?:-\{[^"]*)?"', source))
    page = (DOCS / "internals.md").read_text(encoding="utf-8")
    assert named == set(re.findall(r"`(neoq-[a-z]+(?:-[a-z]+)*)(?:-<[^`]*)?`", page))


LEVELS = {"warning", "error", "critical", "exception", "log"}  # log: with a level worked out before


def logged_messages() -> Iterator[str]:
    """The format of every message of level WARNING and above in the package."""
    for file in sorted((ROOT / "neoq").rglob("*.py")):
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            level, logger = call.func.attr, ast.unparse(call.func.value)
            if level not in LEVELS or not logger.endswith(("log", "logger")):
                continue
            message = call.args[level == "log"]
            if isinstance(message, ast.Constant):
                yield message.value


def test_troubleshooting_has_every_message_of_the_log() -> None:
    """docs/troubleshooting.md begins each warning and error of the log, and none that does not exist."""
    messages = {re.sub(r"%[-+ #0-9.]*[a-z]", "...", message) for message in logged_messages()}
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8").partition("## What the log says")[2]
    shown = {text for row in re.findall(r"(?m)^\| (`[^|]+`)", page) for text in re.findall(r"`([^`]+)`", row)}
    missing = [message for message in messages if not message.startswith(tuple(shown))]
    outdated = [text for text in shown if not any(message.startswith(text) for message in messages)]
    assert len(messages) > 30
    assert not missing, "docs/troubleshooting.md lacks " + ", ".join(sorted(missing))
    assert not outdated, "docs/troubleshooting.md shows " + ", ".join(sorted(outdated))


def test_troubleshooting_has_every_error() -> None:
    """docs/troubleshooting.md says of each error, and of each interrupt, where it comes from."""
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    errors = [
        name
        for name, value in inspect.getmembers(neoq.errors, inspect.isclass)
        if issubclass(value, (neoq.NeoqError, neoq.JobInterrupted))
    ]
    assert not [name for name in errors if f"`{name}" not in page]
