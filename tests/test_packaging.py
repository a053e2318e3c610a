"""The wheel: what is in it, what it says of itself, and that it runs where nothing else is installed."""

from __future__ import annotations

import email
import email.message
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "neoq"
DATA_FILES = {".py", ".sql", ".html", ".lua", ".typed", ".css", ".js", ".svg", ".txt"}
CORE = {"apscheduler", "cron-descriptor", "inflection", "orjson"}
EXTRAS = {"postgres", "redis", "cli", "reload", "tracing", "worker", "demo", "test", "lint", "docs", "bench"}
EXTRAS |= {"metrics"}

pytestmark = pytest.mark.skipif(not (PACKAGE / "__init__.py").exists(), reason="there is no package yet")

PROGRAM = """
import neoq
from neoq.cron import Schedule

def greet(job):
    print("hello", job.payload["name"], flush=True)

with neoq.MemBackend() as backend:
    backend.listen("greetings", greet)
    backend.enqueue("greetings", {"name": "Ada"})

print(Schedule("*/5 * * * *").queue_name)
print(neoq.__version__, neoq.__file__)
"""


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        command, cwd=cwd, env=outside, capture_output=True, text=True, timeout=300, check=False
    )


def checked(*command: str | Path, cwd: Path) -> str:
    done = run(*command, cwd=cwd)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def sources() -> list[Path]:
    """The files that a commit would hold: no stray build output may help the wheel."""
    try:
        listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    except FileNotFoundError:
        listed = None
    if listed is not None and listed.returncode == 0:
        return [Path(name) for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    named = [ROOT / name for name in ("setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE")]
    inside = [path for path in PACKAGE.rglob("*") if path.suffix in DATA_FILES]
    return [path.relative_to(ROOT) for path in [*named, *inside] if path.is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("tree")
    for name in sources():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tree / name)
    out = tmp_path_factory.mktemp("wheel")
    checked(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, tree, cwd=tree)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """Every source and data file of the package is in the wheel with py.typed and LICENSE; no tests are."""
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    ours = {name.as_posix() for name in sources() if name.parts[0] == "neoq" and name.suffix in DATA_FILES}
    packaged = {name for name in inside if ".dist-info/" not in name}
    assert packaged == ours
    assert "neoq/py.typed" in packaged
    assert [name for name in inside if name.endswith(".dist-info/licenses/LICENSE")]


def test_the_metadata_says_what_an_installer_must_know(metadata: email.message.Message) -> None:
    """The metadata names licence, Python, extras, and the core dependencies alone without an extra."""
    assert metadata["Name"] == "neoq"
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert set(metadata.get_all("Provides-Extra", [])) >= EXTRAS
    required = metadata.get_all("Requires-Dist", [])
    core = {re.split(r"[^\w.-]", line)[0].lower() for line in required if "extra ==" not in line}
    assert core == CORE
    assert not [line for line in metadata.get_all("Classifier", []) if line.startswith("License ::")]


def test_the_version_stands_in_one_place(metadata: email.message.Message) -> None:
    """The version of the wheel is neoq.__version__."""
    version = checked(sys.executable, "-c", "import neoq; print(neoq.__version__)", cwd=ROOT).strip()
    assert metadata["Version"] == version


@pytest.mark.timeout(300)
def test_the_wheel_runs_in_an_empty_environment(
    wheel: Path, metadata: email.message.Message, tmp_path: Path
) -> None:
    """Installed with its core dependencies only, the wheel runs a job and exits; no warning is printed."""
    home = tmp_path / "venv"
    venv.create(home, symlinks=os.name != "nt")
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    install(python, wheel, cwd=tmp_path)
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    greeting, queue_name, where = checked(
        python, "-I", "-W", "error", tmp_path / "program.py", cwd=tmp_path
    ).splitlines()
    assert greeting == "hello Ada"
    assert queue_name == "every_5_minutes"
    assert where.startswith(f"{metadata['Version']} {home.resolve()}")


def install(python: Path, wheel: Path, *, cwd: Path) -> None:
    """Install the wheel with its dependencies; without a network the test is skipped, but not in CI."""
    pip = (sys.executable, "-m", "pip", "--python", python, "--quiet", "--disable-pip-version-check")
    done = run(*pip, "install", wheel, cwd=cwd)
    offline = "NewConnectionError" in done.stderr or "NameResolutionError" in done.stderr
    if done.returncode and offline and not os.environ.get("CI"):
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr
    checked(*pip, "check", cwd=cwd)
