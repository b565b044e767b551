"""`w2s extract`: a model's representations of texts, into files that `w2s rank` and `w2s sweep` read."""

from __future__ import annotations

import argparse
import os
from typing import Any

from w2s_jax._core.checks import InputError
from w2s_jax.devices.mesh import all_devices
from w2s_jax.devices.programs import cache_compiled_programs
from w2s_jax.extract.extraction import extract_model
from w2s_jax.extract.texts import open_texts


def add_extract(commands: Any) -> argparse.ArgumentParser:
    """Adds the command to the parser's commands."""
    extract = commands.add_parser(
        "extract",
        help="representations of texts out of a Hugging Face model; resumable",
        description="Writes OUT/NAME, NAME the model's: shards that w2s rank and w2s sweep read as OUT/NAME:layer4.",
    )
    extract.set_defaults(run=run)
    extract.add_argument("model", metavar="MODEL", help="a Hugging Face folder, or a name on the hub")
    extract.add_argument(
        "--texts",
        required=True,
        metavar="FILE",
        help=".txt (a text a line), .csv, .tsv, .jsonl (also .gz), .parquet, .arrow or a folder of a Hugging Face dataset",
    )
    extract.add_argument("--column", metavar="NAME", help="of the texts (default: text); a column id names the rows")
    extract.add_argument("--out", required=True, metavar="FOLDER", help="for the models' folders, made if need be")
    extract.add_argument(
        "--layers", default="all", help="all (default), or such as 0,4,-1: 0 the embeddings, -1 the last layer"
    )
    extract.add_argument(
        "--pool",
        nargs="+",
        action="extend",
        metavar="POOL",
        help="over a text's tokens: mean (default), last, cls, max",
    )
    extract.add_argument(
        "--max-tokens", type=int, metavar="N", help="texts are cut there (default: 512, or the model's)"
    )
    extract.add_argument("--dtype", default="float32", help="of the forward pass: float32 (default) or bfloat16")
    extract.add_argument("--batch-tokens", type=int, metavar="N", help="computed at once, padding included")
    extract.add_argument("--prefix", default="", metavar="TEXT", help='put before every text, as in "query: "')
    return extract


def run(args: argparse.Namespace) -> None:
    """Extracts; raises InputError with one sentence."""
    layers = _layers(args.layers)
    texts = open_texts(args.texts, args.column)
    cache_compiled_programs()
    found = extract_model(
        args.model,
        texts,
        args.out,
        layers=layers,
        pool=args.pool or "mean",
        max_tokens=args.max_tokens,
        dtype=args.dtype,
        batch_tokens=args.batch_tokens,
        prefix=args.prefix,
        mesh=all_devices(),
        progress=not args.quiet,
    )
    folder = os.path.join(args.out, os.path.basename(os.path.realpath(args.model)))
    for name, rows in found.items():
        print(f"{folder}:{name}  {rows.shape[0]} x {rows.shape[1]}")


def _layers(text: str) -> str | list[int]:
    try:
        return text if text == "all" else [int(number) for number in text.split(",")]
    except ValueError as error:
        raise InputError(f"--layers must be all, or numbers such as 0,4,-1, got {text!r}") from error
