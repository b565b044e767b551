"""Stand-ins: labels show in words and nowhere else, checkpoints are read as any other, the same seed gives the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from w2s_jax import InputError
from w2s_jax.studies import made_up_texts, random_checkpoint

pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")


def test_words_tell_the_labels():
    """A count of words sorts most texts, not all; the same seed gives the same texts."""
    texts, labels = made_up_texts(1000)
    assert (made_up_texts(1000)[0], set(labels)) == (texts, {0, 1})
    words = sorted({word for text in texts for word in text.split()})
    counts = np.array([[text.split().count(word) for word in words] for text in texts], float)
    head = np.linalg.lstsq(counts[:500], 2.0 * labels[:500] - 1, rcond=None)[0]
    accuracy = np.mean((counts[500:] @ head > 0) == labels[500:])
    assert 0.8 < accuracy < 0.97


def test_checkpoints_tell_texts_apart(tmp_path: Path):
    """Every layer has rows that differ, of a size that neither grows nor vanishes; another seed is another network."""
    from w2s_jax.extract import extract_model

    texts, _ = made_up_texts(40)
    folders = [random_checkpoint(tmp_path / f"seed{seed}", texts, width=16, layers=3, seed=seed) for seed in (0, 0, 1)]
    first, again, other = (extract_model(folder, texts) for folder in folders)
    assert list(first) == ["layer0", "layer1", "layer2", "layer3"]
    for name, rows in first.items():
        assert len(np.unique(rows, axis=0)) == len(set(texts))
        assert 0.1 < rows.std() < 2
        np.testing.assert_array_equal(rows, again[name])
        assert np.abs(rows - other[name]).max() > 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 10}, "width must be a multiple of the 4 heads, got 10"),
        ({"layers": 0}, "layers must be an integer of at least 1, got 0"),
        ({"heads": 0}, "heads must be an integer of at least 1, got 0"),
    ],
)
def test_bad_input_is_one_sentence(arguments: dict[str, int], message: str, tmp_path: Path):
    with pytest.raises(InputError, match=message):
        random_checkpoint(tmp_path / "made", ["one"], **({"width": 8, "layers": 1} | arguments))
    assert not (tmp_path / "made").exists()
    with pytest.raises(InputError, match="number must be an integer of at least 1, got 0"):
        made_up_texts(0)
