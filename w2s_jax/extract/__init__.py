"""Representations out of models: Hugging Face checkpoints under JAX, and any function that JAX can run."""

from w2s_jax.extract.extraction import extract_model
from w2s_jax.extract.functions import extract
from w2s_jax.extract.models import LanguageModel
from w2s_jax.extract.opening import open_model
from w2s_jax.extract.pooling import pooled
from w2s_jax.extract.representations import Representations
from w2s_jax.extract.texts import Texts, open_texts, texts_of

__all__ = [
    "LanguageModel",
    "Representations",
    "Texts",
    "extract",
    "extract_model",
    "open_model",
    "open_texts",
    "pooled",
    "texts_of",
]
