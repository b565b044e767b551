"""Sentence classification: layers of small language models and plain text features as teachers of language models."""
