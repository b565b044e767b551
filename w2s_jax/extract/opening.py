"""Which way a checkpoint is computed."""

from __future__ import annotations

import os

from w2s_jax._core.checks import require_choice
from w2s_jax.extract.bert import is_bert, open_bert
from w2s_jax.extract.checkpoint import find_checkpoint
from w2s_jax.extract.hugging_face import open_transformers
from w2s_jax.extract.models import Forward, LanguageModel


def open_model(model: str | os.PathLike, dtype: Forward = "float32") -> LanguageModel:
    """A Hugging Face checkpoint under JAX: encoders of the BERT family without torch, anything else by way of torchax.

    Args:
        model: a folder with `config.json`, weights and tokenizer, or a name on the hub.
        dtype: of weights and products. Norms, softmax and pooling of encoders are in float32 either way.

    Raises:
        InputError: there is no such model, it cannot be read, or needs packages that are not installed.

    >>> open_model("./nowhere")
    Traceback (most recent call last):
        ...
    w2s_jax._core.checks.InputError: model must be a Hugging Face folder or name, but there is no folder ./nowhere
    """
    require_choice("dtype", dtype, Forward)
    checkpoint = find_checkpoint(model)
    return open_bert(checkpoint, dtype) if is_bert(checkpoint) else open_transformers(checkpoint, dtype)
