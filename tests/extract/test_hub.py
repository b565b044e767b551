"""A model by its name: the real client and the whole command against a hub of one model on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlparse

import numpy as np
import pytest
from tiny_models import save_encoder

from w2s_jax.files import open_rows

pytest.importorskip("huggingface_hub")
pytestmark = pytest.mark.everything

NAME, COMMIT = "some/model", "c0ffee" + 34 * "0"


class Hub(BaseHTTPRequestHandler):
    """What the hub answers about one model, its files beside others that nobody needs."""

    folder: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlparse(self.path).path
        self.asked.append(path)
        if path.startswith(f"/api/models/{NAME}/revision/"):
            files = [{"rfilename": file.name} for file in sorted(self.folder.iterdir())]
            return self.answer(json.dumps({"id": NAME, "modelId": NAME, "sha": COMMIT, "siblings": files}).encode())
        if path.startswith(f"/api/models/{NAME}/tree/"):
            files = [
                {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": tag(f)} for f in self.folder.iterdir()
            ]
            return self.answer(json.dumps(files).encode())
        file = self.folder / path.rsplit("/", 1)[-1]
        if path.startswith(f"/{NAME}/resolve/") and file.is_file():
            return self.answer(file.read_bytes(), {"ETag": f'"{tag(file)}"', "X-Repo-Commit": COMMIT})
        self.answer(b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"}, 404)

    def answer(self, body: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Length": str(len(body)),
            "Content-Type": "application/json",
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def tag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    Hub.folder, Hub.asked = save_encoder(tmp_path / "hub"), []
    (Hub.folder / "pytorch_model.bin").write_bytes(b"not needed")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def extract(server: ThreadingHTTPServer, tmp_path: Path, out: str, model: str = NAME) -> subprocess.CompletedProcess:
    """`w2s extract` as on a machine that has never seen the model."""
    (tmp_path / "texts.txt").write_text("w1 w2 w3\nw4 w2\nw3\n")
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    home, alone = str(tmp_path / "home"), "127.0.0.1"
    own = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": home,
        "HF_HUB_CACHE": home,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
    }
    own |= {"HF_TOKEN": "", "NO_PROXY": alone, "no_proxy": alone}
    command = [sys.executable, "-m", "w2s_jax", "extract", model, "--texts", str(tmp_path / "texts.txt")]
    command += ["--out", str(tmp_path / out), "--quiet"]
    return subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True, timeout=300, check=False)


def test_a_model_is_downloaded_once(hub, tmp_path):
    """By name it gives what its folder gives, says which commit it is of, and fetches weights, configuration and tokenizer alone;
    from then on it needs no hub."""
    ran = extract(hub, tmp_path, "first")
    assert ran.returncode == 0, ran.stderr
    fetched = {path.rsplit("/", 1)[-1] for path in Hub.asked if "/resolve/" in path}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= fetched and "pytorch_model.bin" not in fetched
    hub.shutdown()
    hub.server_close()
    again = extract(hub, tmp_path, "again")
    assert again.returncode == 0, again.stderr
    folder = extract(hub, tmp_path, "folder", str(Hub.folder))
    assert folder.returncode == 0, folder.stderr
    first, second, local = (tmp_path / out for out in ("first/model:layer2", "again/model:layer2", "folder/hub:layer2"))
    assert COMMIT in (tmp_path / "first" / "model" / "extraction.json").read_text()
    assert len(open_rows(str(first))) == 3
    for other in (second, local):
        np.testing.assert_array_equal(open_rows(str(other))[:], open_rows(str(first))[:])


def test_a_model_that_the_hub_does_not_know(hub, tmp_path):
    ran = extract(hub, tmp_path, "none", "other/model")
    assert ran.returncode == 2
    assert "model 'other/model' is no folder" in ran.stderr and "Traceback" not in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1
