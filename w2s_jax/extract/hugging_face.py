"""Whatever transformers has: the PyTorch module, traced to JAX by torchax and compiled there, on CPU, GPU and TPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
from jax import Array

from w2s_jax._core.extras import needed
from w2s_jax.extract.checkpoint import Checkpoint, Tokenize
from w2s_jax.extract.models import LanguageModel
from w2s_jax.files.rows import listed


def open_transformers(checkpoint: Checkpoint, dtype: str = "float32") -> LanguageModel:
    """The model under JAX; of an encoder with a decoder the encoder.

    Raises:
        InputError: transformers, torch or torchax is missing, or transformers cannot read the checkpoint.
    """
    what = f"a model of type {checkpoint.kind!r}"
    torch = needed("torch", what, "hf")
    transformers = needed("transformers", what, "hf")
    torchax = needed("torchax", what, "hf")
    with checkpoint.readable("transformers"), _quiet(transformers):
        model = _loaded(torch, transformers, checkpoint, dtype)
        normed = _last_is_output(torch, model)
        weights, forward = torchax.extract_jax(_States(torch, model))
        tokenize = _tokenize(transformers, checkpoint)

    def apply(weights: Any, tokens: Array, mask: Array) -> list[Array]:
        with jax.default_matmul_precision("highest"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Explicitly requested dtype int64")  # of positions, which are small
            return list(forward(weights, (tokens, mask.astype(tokens.dtype))))

    config = getattr(model.config, "text_config", model.config)
    return LanguageModel(
        checkpoint.name,
        tokenize,
        apply,
        weights,
        longest=getattr(config, "max_position_embeddings", None),
        about={
            "architecture": checkpoint.kind,
            "revision": checkpoint.revision,
            "run by": f"transformers {transformers.__version__} and torchax",
            "last hidden states": f"{'after' if normed else 'before'} the last norm",
        },
        checksum=checkpoint.checksum,
    )


def _loaded(torch: Any, transformers: Any, checkpoint: Checkpoint, dtype: str) -> Any:
    """The module, all of whose weights came from the checkpoint; but for a pooler's, which no hidden state depends on."""
    model, said = transformers.AutoModel.from_pretrained(
        checkpoint.folder,
        dtype=getattr(torch, dtype),
        local_files_only=True,
        output_loading_info=True,
        attn_implementation="eager",  # torchax' fused one gives NaN for padding behind a sliding window, and hands it on
    )
    missing = sorted(name for name in said["missing_keys"] if "pooler" not in name)
    if missing:
        raise checkpoint.error(f"its weights have no {listed(missing)}")
    model = model.get_encoder() if model.config.is_encoder_decoder else model
    return model.eval()


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without its bars and reports."""
    logging = transformers.utils.logging
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _States(torch: Any, model: Any) -> Any:
    """A module whose result is the tuple of hidden states."""

    class States(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, tokens: Any, mask: Any) -> tuple:
            found = self.model(input_ids=tokens, attention_mask=mask, output_hidden_states=True, **uncached)
            return tuple(found.hidden_states)

    uncached = {"use_cache": False} if hasattr(model.config, "use_cache") else {}
    return States()


def _last_is_output(torch: Any, model: Any) -> bool:
    """Whether the last of the hidden states is what the model returns, behind its last norm."""
    tokens = torch.ones((1, 2), dtype=torch.long)
    with torch.no_grad():
        found = model(input_ids=tokens, attention_mask=tokens, output_hidden_states=True)
    return bool(torch.equal(found.hidden_states[-1], found.last_hidden_state))


def _tokenize(transformers: Any, checkpoint: Checkpoint) -> Tokenize:
    """The checkpoint's own tokenizer, whichever files it has."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True)

    def tokenize(texts: list[str], max_tokens: int | None) -> list[Sequence[int]]:
        return tokenizer(texts, truncation=max_tokens is not None, max_length=max_tokens)["input_ids"]

    return tokenize
