"""Whether the processes of a run are all still there: each counts in the coordinator's store, and looks whether the others do.

A process that is stopped, or whose machine is, keeps its connections open: collectives would wait for it until JAX's runtime
aborts with a stack of its own. Here it ends the others after a while, with one sentence; so does a coordinator that no longer
answers.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from typing import Any

EVERY_SECONDS = 1.0
SILENT_SECONDS = 60.0  # a process that has not counted for so long is lost: one that is merely busy has
LOST = "another process of this run was lost: start all of them again, finished work is kept"
_PLACE = "w2s_jax/alive"
_DONE = "done"


class Watch:
    """Looks after the processes of a run from `start` to `end`, by a client of JAX's distributed runtime."""

    def __init__(self, client: Any, index: int) -> None:
        self._client, self._index = client, index
        self._ended = threading.Event()
        self._heard: dict[str, tuple[str, float]] = {}
        self._answered = time.monotonic()
        self._looking = threading.Thread(target=self._look, daemon=True)

    def start(self) -> None:
        self._looking.start()
        threading.Thread(target=self._judge, daemon=True).start()

    def end(self, done: bool) -> None:
        """Stops looking; the others need not wait for a process that is done."""
        self._ended.set()
        if done:
            self._looking.join(SILENT_SECONDS)
            with suppress(RuntimeError):
                self._say(_DONE)

    def _say(self, what: str) -> None:
        self._client.key_value_set(f"{_PLACE}/{self._index}", what, allow_overwrite=True)

    def _look(self) -> None:
        count = 0
        while not self._ended.wait(EVERY_SECONDS):
            with suppress(RuntimeError):  # the coordinator does not answer
                count += 1
                self._say(str(count))
                found = self._client.key_value_dir_get(_PLACE)
                self._answered = now = time.monotonic()
                for key, said in found:
                    if self._heard.get(key, ("", 0))[0] != said:
                        self._heard[key] = said, now

    def _judge(self) -> None:
        """Ends the process once another is lost. It may itself have been stopped for a while: then all times start again."""
        before = time.monotonic()
        while not self._ended.wait(EVERY_SECONDS):
            now = time.monotonic()
            if now - before > SILENT_SECONDS / 2:
                self._answered = now
                self._heard = {key: (said, now) for key, (said, _) in self._heard.items()}
            before = now
            times = [at for said, at in list(self._heard.values()) if said != _DONE]
            if now - min([self._answered, *times]) > SILENT_SECONDS:
                print(LOST, file=sys.stderr, flush=True)
                os._exit(2)
