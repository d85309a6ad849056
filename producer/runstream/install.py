"""How an extra is installed from where this runstream came from: it is in no package index."""

from __future__ import annotations

import json
import shlex
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit


def install_command(extra: str) -> str:
    """The command that adds an extra to this installation.

    A checkout, a folder, a wheel and a repository are recorded by pip (PEP 610); what runs from a source tree without
    having been installed is found beside this file.
    """
    return f"pip install {_what(extra)}"


def _what(extra: str) -> str:
    try:
        found = metadata.distribution("runstream").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        found = None
    origin = json.loads(found) if found else {}
    url = str(origin.get("url", ""))
    if "vcs_info" in origin:
        about = origin["vcs_info"]
        return _quoted(f"runstream[{extra}] @ {about['vcs']}+{_without_user(url)}@{about['commit_id']}")
    if url.startswith("file:"):
        path = unquote(urlsplit(url).path)
        is_editable = origin.get("dir_info", {}).get("editable", False)
        return f"{'-e ' if is_editable else ''}{_quoted(f'{path}[{extra}]')}"
    if url:
        return _quoted(f"runstream[{extra}] @ {_without_user(url)}")
    root = Path(__file__).resolve().parents[2]
    if (root / "pyproject.toml").is_file():
        return f"-e {_quoted(f'{root}[{extra}]')}"
    return _quoted(f"runstream[{extra}]")


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _quoted(requirement: str) -> str:
    """As a shell takes it; brackets are quoted everywhere."""
    quoted = shlex.quote(requirement)
    return quoted if quoted.startswith("'") else f"'{quoted}'"
