"""Compiled programs on disk: kept where asked, where the environment says, and refused in one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import w2s_jax
from w2s_jax import InputError
from w2s_jax.devices import cache_compiled_programs

PROGRAM = """
import sys
from pathlib import Path
import jax
import w2s_jax
assert jax.config.jax_compilation_cache_dir is None or "JAX_COMPILATION_CACHE_DIR" in __import__("os").environ
jax.jit(lambda x: x + 1)(1.0)
for folder in sys.argv[1:]:
    jax.clear_caches()
    used = w2s_jax.devices.cache_compiled_programs(None if folder == "default" else folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.jit(lambda x: x * 3 + 2)(1.0)
    print(used, used is not None and any(used.glob("*-cache")))
"""


def kept(folder: Path, *folders: str, **env: str) -> list[str]:
    """What a process that asks for these folders one after another prints: the folder in use, and whether it has programs."""
    here = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XDG_"))}
    here |= {
        "PYTHONPATH": str(Path(w2s_jax.__file__).parent.parent),
        "JAX_PLATFORMS": "cpu",
        "XDG_CACHE_HOME": str(folder),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *folders],
        capture_output=True,
        text=True,
        env=here | env,
        timeout=120,
        check=True,
    )
    return done.stdout.splitlines()


def test_programs_are_kept_where_asked(tmp_path):
    """By default in the user's cache; in a folder that is given, also after another one has been in use."""
    a, b = tmp_path / "a", tmp_path / "deep" / "b"
    default = tmp_path / "w2s_jax" / "compiled"
    assert kept(tmp_path, "default", str(a), str(b)) == [f"{default} True", f"{a} True", f"{b} True"]


@pytest.mark.everything(but=1)
@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"JAX_COMPILATION_CACHE_DIR": ""}, "None False"),
        ({"JAX_ENABLE_COMPILATION_CACHE": "0"}, "None False"),
        ({"JAX_COMPILATION_CACHE_DIR": "{}/mine"}, "{}/mine True"),
    ],
    ids=["no folder", "off", "own folder"],
)
def test_the_environment_decides(env, expected, tmp_path):
    """JAX's own variables turn the cache off or say where it is, and nothing is written elsewhere."""
    there = {name: value.format(tmp_path) for name, value in env.items()}
    assert kept(tmp_path, "default", **there) == [expected.format(tmp_path)]
    assert not (tmp_path / "w2s_jax").exists()


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    """A file stands in the way: nothing changes."""
    (tmp_path / "file").write_text("")
    before = jax.config.values["jax_compilation_cache_dir"]
    with pytest.raises(InputError, match=r"^folder .*file for compiled programs cannot be made: File exists$"):
        cache_compiled_programs(tmp_path / "file")
    assert jax.config.values["jax_compilation_cache_dir"] == before
