"""A process that no longer counts in the coordinator's store is lost, one that is done is not."""

from __future__ import annotations

import threading

import pytest

from w2s_jax.devices import watch
from w2s_jax.devices.watch import LOST, Watch


class Store:
    """What JAX's runtime keeps for all processes."""

    def __init__(self, **said: str) -> None:
        self.said = {f"w2s_jax/alive/{index[1:]}": what for index, what in said.items()}

    def key_value_set(self, key: str, value: str, allow_overwrite: bool) -> None:
        self.said[key] = value

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        return list(self.said.items())


class Silent(Store):
    """One that does not answer."""

    def key_value_set(self, key: str, value: str, allow_overwrite: bool) -> None:
        raise RuntimeError("deadline exceeded")


@pytest.mark.everything(but=1)
@pytest.mark.parametrize(("store", "lost"), [(Store(p1="5"), True), (Silent(), True), (Store(p1="done"), False)])
def test_silence_ends_the_process(monkeypatch, capsys, store, lost):
    """With one sentence; whoever has ended says that it is done."""
    monkeypatch.setattr(watch, "EVERY_SECONDS", 0.02)
    monkeypatch.setattr(watch, "SILENT_SECONDS", 1.0)
    codes, left = [], threading.Event()

    def leave(code: int) -> None:
        codes.append(code)
        watching.end(done=False)
        left.set()

    monkeypatch.setattr(watch.os, "_exit", leave)
    watching = Watch(store, 0)
    watching.start()
    assert left.wait(20 if lost else 2) == lost
    watching.end(done=not lost)
    assert (codes, capsys.readouterr().err) == (([2], f"{LOST}\n") if lost else ([], ""))
    assert lost or store.said["w2s_jax/alive/0"] == "done"
