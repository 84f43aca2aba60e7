"""`make audit` gives a verdict only where a database answered for every line of the lock."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from dontblink import paths

ROOT = paths.ROOT
PINS = map(Requirement, re.findall(r"^[a-z0-9].*?==[^\\]*", (ROOT / "requirements.lock").read_text(), re.M))
LOCKED = {pin.name: str(pin.specifier)[2:] for pin in PINS if pin.marker is None or pin.marker.evaluate()}


def audit(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command, by default with the pip-audit of this machine, or skip."""
    if path is None and shutil.which("pip-audit") is None:
        pytest.skip("pip-audit is not installed: pipx install pip-audit")
    environment = os.environ | {"PATH": path or os.environ["PATH"]}
    command = ["/bin/bash", str(ROOT / ".ci" / "audit"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@contextmanager
def serve_advisories(affected: str) -> Iterator[tuple[str, list[str]]]:
    """Serve one invented advisory for the locked version of a package, as OSV does; yield the URL and who was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = query["package"]["name"]
            asked.append(name)
            package = {"package": {"name": name, "ecosystem": "PyPI"}, "versions": [query["version"]]}
            advisory = {"id": "OSV-2026-1", "summary": "invented", "affected": [package]}
            body = json.dumps({"vulns": [advisory]} if name == affected else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query", asked
        server.shutdown()


def test_an_advisory_for_a_locked_version_fails_the_audit_and_is_named() -> None:
    with serve_advisories("pillow") as (url, asked):
        done = audit("-s", "osv", "--osv-url", url)
    assert done.returncode == 1 and "OSV-2026-1" in done.stdout
    assert re.search(rf"^pillow +{re.escape(LOCKED['pillow'])} ", done.stdout, re.M)
    assert set(asked) == set(LOCKED)


def test_without_an_advisory_the_audit_passes() -> None:
    with serve_advisories("nothing") as (url, asked):
        done = audit("-s", "osv", "--osv-url", url)
    assert done.returncode == 0 and "No known vulnerabilities found" in done.stdout
    assert set(asked) == set(LOCKED)


def test_a_database_that_does_not_answer_is_no_verdict() -> None:
    done = audit("-s", "osv", "--osv-url", "http://127.0.0.1:1/v1/query", "--timeout", "5")
    assert done.returncode == 2 and not done.stdout
    assert "audit: not done, no verdict: " in done.stderr and "Traceback" not in done.stderr


def test_without_pip_audit_it_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "dirname").symlink_to(shutil.which("dirname") or "dirname")
    done = audit(path=str(tmp_path))
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("audit: pip-audit not found; ") and "pipx install pip-audit" in done.stderr
