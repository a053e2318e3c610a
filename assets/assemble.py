"""Assemble the dashboard's script of htmx, idiomorph and our own: ``python assets/assemble.py``.

htmx and idiomorph are here as their npm packages have them (``npm pack htmx.org@2 idiomorph``). For a newer
one, put its file here, name it below with its hash, run this, and commit the result: users need no build.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
STATIC = HERE.parent / "neoq" / "dashboard" / "static"


class Vendored(NamedTuple):
    """A file of an npm package: what it is, and the SHA-256 of the package and of the file."""

    name: str
    version: str
    home: str
    file: str
    package_hash: str
    file_hash: str


VENDORED = (
    Vendored(
        "htmx",
        "2.0.11",
        "https://htmx.org",
        "htmx-2.0.11.min.js",
        "165a2655073e9e6e55e307a7c74e8ebcdb76afb7701f9c16cfd106a13add408e",
        "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717",
    ),
    Vendored(
        "idiomorph",
        "0.8.0",
        "https://github.com/bigskysoftware/idiomorph",
        "idiomorph-ext-0.8.0.min.js",
        "c2b48584153f0167b5c98cb815576338ccd82a97378e53fbf29d139dfd67207e",
        "5811b9a7eda14878b7dab4378bf60432e1bb6f11fcfb970cc26540642650181e",
    ),
)
OURS = "neoq.js"


def script() -> str:
    """The whole script."""
    parts = [f"/* {one.name} {one.version}, 0BSD: see LICENSES.txt */\n{_source(one)}" for one in VENDORED]
    return "\n".join([*parts, (HERE / OURS).read_text(encoding="utf-8")])


def licenses() -> str:
    """What is said of the files of others."""
    lines = [
        "neoq.js holds these, as their npm packages have them; what follows them is part of neoq (MIT).",
        "",
    ]
    for one in VENDORED:
        lines += [
            f"{one.name} {one.version}, {one.home}",
            f"  file     {one.file}",
            f"  SHA-256  {one.file_hash}",
            f"  package  {one.package_hash} (SHA-256)",
            "",
        ]
    return (
        "\n".join(lines)
        + "\nBoth have the same licence:\n\n"
        + (HERE / "LICENSE.0BSD.txt").read_text(encoding="utf-8")
    )


def _source(one: Vendored) -> str:
    found = (HERE / one.file).read_bytes()
    if hashlib.sha256(found).hexdigest() != one.file_hash:
        raise SystemExit(f"{one.file} is not the file whose hash stands in assemble.py")
    return found.decode().rstrip() + "\n"


if __name__ == "__main__":
    (STATIC / "neoq.js").write_text(script(), encoding="utf-8")
    (STATIC / "LICENSES.txt").write_text(licenses(), encoding="utf-8")
