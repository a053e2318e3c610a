"""The files of the recipes for systemd, Compose and Kubernetes, as far as this machine can use them."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from neoq.cli.main import command_of, parser_of
from tests.cli.workers import ROOT, Shop
from tests.test_docs import blocks_of

RECIPES = ROOT / "docs" / "recipes"


def file_of(page: str, name: str) -> str:
    """A file that a page shows."""
    (block,) = (block for block in blocks_of(RECIPES / f"{page}.md") if block.file == name)
    return "\n".join(block.lines) + "\n"


def parsed(words: list[str]) -> Any:
    """What our own parser makes of a command line."""
    assert words[0].endswith("neoq")
    return parser_of(words[1], command_of(words[1])).parse(words[2:])


def loaded(text: str) -> Any:
    """A file of YAML."""
    return pytest.importorskip("yaml").safe_load(text)


def unit() -> dict[str, str]:
    """The settings of the unit."""
    lines = file_of("systemd", "shop-worker.service").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("Environment="))


def test_the_unit_is_right(tmp_path: Path) -> None:
    """Systemd accepts the unit, where it is installed, and we accept its command."""
    args = parsed(unit()["ExecStart"].split())
    assert (args.app, args.processes, args.wait) == ("shop:backend", 2, 60)
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed here")
    binary = unit()["ExecStart"].split()[0]
    text = file_of("systemd", "shop-worker.service").replace(binary, "/bin/true")
    (tmp_path / "shop-worker.service").write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "shop-worker.service"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_runs_with_a_socket_in_the_place_of_systemd(shop: Shop) -> None:
    """The command of the unit becomes ready, reloads by the signal of ExecReload, and stops by TERM."""
    words = unit()["ExecStart"].split()[2:]
    assert "-HUP $MAINPID" in unit()["ExecReload"]
    path = str(shop.folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        systemd.settimeout(20)
        with shop.worker(*words[1:], app=words[0], NOTIFY_SOCKET=path) as worker:
            while "READY=1" not in systemd.recv(4096).decode():
                pass
            old = worker.claims(2)
            worker.signal(signal.SIGHUP)
            assert not set(worker.claims(4)[2:]) & set(old)
            worker.signal(signal.SIGTERM)
            assert worker.ends() == 0


def test_the_compose_file_is_right() -> None:
    """We accept the commands of the Compose file, and it waits longer than a shutdown lasts."""
    worker = loaded(file_of("containers", "compose.yaml"))["services"]["worker"]
    args = parsed(worker["command"])
    assert (args.app, args.processes, args.log_format) == ("shop:backend", 2, "json")
    assert parsed(worker["healthcheck"]["test"][1:]).question == "readyz"
    assert (
        int(worker["stop_grace_period"].rstrip("s"))
        >= int(worker["environment"]["NEOQ_SHUTDOWN_TIMEOUT"]) + 10
    )


def test_the_manifest_is_right() -> None:
    """We accept the command of the manifest, and its probes ask what we answer, where we answer."""
    spec = loaded(file_of("containers", "worker.yaml"))["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    args = parsed(container["args"])
    (port,) = container["ports"]
    assert args.port == f"0.0.0.0:{port['containerPort']}"
    probes = {
        name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert {probe["port"] for probe in probes.values()} == {port["name"]}
    assert [probe["path"] for probe in probes.values()] == ["/readyz", "/livez", "/readyz"]
    environment = {one["name"]: one.get("value") for one in container["env"]}
    assert spec["terminationGracePeriodSeconds"] >= int(environment["NEOQ_SHUTDOWN_TIMEOUT"]) + 10
    assert "kill -TSTP 1" in container["lifecycle"]["preStop"]["exec"]["command"][-1]
