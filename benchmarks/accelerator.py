"""What a few minutes on a GPU or TPU allow, most important first: is everything right there, and how fast is it.

    python -m benchmarks.accelerator --out FILE.json [--minutes 8] [--only PART ...] [--quick]

One process and few programs, since most of the time goes to the compiler. FILE is replaced whole as each part ends, and says
which one is running: whatever ends this process, no earlier part is lost. A part that raises is recorded with its error, and the
next goes on. Each part has a limit of its own, which holds as soon as Python has its turn, not while a program compiles or runs;
once the minutes are over no further part starts. No cache of compiled programs is used. Peak memory is that of the process so
far, so the parts that need much come after the first ranking.

Needs what the package itself needs, and safetensors for the two parts with sweeps.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import w2s_jax as w2s
from benchmarks._common import (
    Part,
    compiled,
    first_and_again,
    floor_programs,
    latent_signal,
    machine,
    peak_memory,
    representation,
    timed,
)
from benchmarks.device_checks import (
    Skipped,
    batches,
    kernel,
    lost,
    norm,
    pair_accuracy,
    precision_report,
    precisions,
    ranking_accuracy,
    relative,
    require_sweeps,
    sweep_agrees,
    unit,
)
from benchmarks.large_d import family
from benchmarks.pairs import save_models
from benchmarks.streaming import flop, product_rates, widths
from w2s_jax._core.writing import write_text_atomically
from w2s_jax.studies.simulation import Trial, simulate
from w2s_jax.studies.synthetic import power_law
from w2s_jax.theory import deterministic_equivalent


class Models(NamedTuple):
    """Weak models of many widths, strong models, labels."""

    weak: dict[str, np.ndarray]
    strong: list[np.ndarray]
    y: np.ndarray


@cache
def models(quick: bool) -> Models:
    """150 weak models of 32 to 512 features, 8 strong ones of 512, 2,000 rows."""
    n, count, strong, low, high = (200, 6, 2, 16, 48) if quick else (2000, 150, 8, 32, 512)
    rng = np.random.default_rng(8)
    latent = latent_signal(rng, n)
    sizes = np.linspace(low, high, count).astype(int)
    weak = {f"weak{i}": representation(rng, latent, int(d), 2.0 * (1 - i / count)) for i, d in enumerate(sizes)}
    y = latent[:, 0] + 0.3 * rng.normal(size=n)
    return Models(weak, [representation(rng, latent, high, 0.1 * (1 + j)) for j in range(strong)], y.astype(np.float32))


def aim(name: str, value: float, sign: str, bound: float, unit: str = "") -> str:
    """A figure, its aim, and whether it is met."""
    met = value >= bound if sign == ">=" else value <= bound
    return f"{name} {value:.3g}{unit} (aim {sign} {bound:g}: {'met' if met else 'missed'})"


def first_ranking(quick: bool) -> dict[str, Any]:
    """150 weak models and one strong model without labels, from nothing compiled; and again."""
    weak, (strong, *_), y = models(quick)
    before = device_memory()
    jax.clear_caches()
    found = first_and_again(lambda: w2s.rank_supervisors(weak, strong)["gap_op"])
    memory = device_memory()
    table = w2s.rank_supervisors(weak, strong)
    aims = aim("first", found["first s"], "<=", 60, " s"), aim("again", found["again s"], "<=", 1, " s")
    return {
        "verdict": ", ".join(aims),
        "n, weak models, d_s": [len(y), len(weak), strong.shape[1]],
        **found,
        "error of the Frobenius norm, two models": [norm_error(table, weak, strong, i) for i in (0, -1)],
        "device memory MiB: peak before, peak after, limit": [*before[:1], *memory],
    }


def labelled_ranking(quick: bool) -> dict[str, Any]:
    """The same with labels, once the table without them has been made."""
    weak, (strong, *_), y = models(quick)
    w2s.rank_supervisors(weak, strong)
    found = first_and_again(lambda: w2s.rank_supervisors(weak, strong, y)["gap_op"])
    verdict = f"first {found['first s']:.3g} s, {aim('again', found['again s'], '<=', 1, ' s')}"
    return {"verdict": verdict} | found


def norm_error(table: w2s.SupervisorTable, weak: Mapping[str, np.ndarray], strong: np.ndarray, place: int) -> float:
    """Relative error of a model's `gap_fro` against rows in float64, at the ranking's own ridges."""
    name = list(weak)[place]
    exact = norm(lost(*(kernel(unit(h), ridge=1e-3) for h in (weak[name], strong))), "fro")
    return abs(float(table["gap_fro"][table.names.index(name)]) / exact - 1)


def device_memory() -> list[float | None]:
    """The most memory that has been in use on the device, and what there is, in MiB; None where it does not count."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return [stats[key] / 2**20 if key in stats else None for key in ("peak_bytes_in_use", "bytes_limit")]


def moments_rate(quick: bool) -> dict[str, Any]:
    """Moments of rows on the device, checks of them included, at every precision, against the best square product.

    Best among the algorithms whose error is within twice full float32's, as is the precision that is held against it.
    """
    n, side, (d_w, d_s) = (4096, 512, widths(quick)) if quick else (65536, 4096, widths(quick))
    keys = jax.random.split(jax.random.key(0))
    w, s = (jax.random.normal(key, (n, d), jnp.float32) for key, d in zip(keys, (d_w, d_s), strict=True))
    rates = product_rates(side)
    best = max(rates, key=lambda name: rates[name])
    exact = np.asarray(s[:, :64], float).T @ np.asarray(w, float) / n
    figures: dict[str, Any] = {"n, d_w, d_s": [n, d_w, d_s]}
    shares = {}
    for name, _, relative_error, _ in precision_report(quick).measured:
        call = partial(w2s.moments, w, s, precision=name)
        inside = jax.jit(partial(w2s.moments, precision=name))
        seconds, jitted = (timed(f, 5)[0] for f in (lambda call=call: call(), lambda inside=inside: inside(w, s)))
        share = flop(n, d_w, d_s) / seconds / 1e9 / rates[best]
        figures[f"{name}: s, s inside jit, rows/s"] = [seconds, jitted, n / seconds]
        figures[f"{name}: error, share of the best product's rate"] = [relative(call().sw[:64], exact), share]
        if relative_error <= 2:
            shares[name] = share
    figures |= {f"product of side {side}, {name}: GFLOP/s": rate for name, rate in rates.items()}
    fastest = max(shares, key=lambda name: shares[name])
    return {"verdict": aim(f"{fastest}: share of {best}'s rate", shares[fastest], ">=", 0.6)} | figures


def sweep_of_files(quick: bool) -> dict[str, Any]:
    """150 x 8 pairs from files to the table, without labels: a first sweep, and another one of the same files."""
    require_sweeps()
    weak, strong, _ = models(quick)
    with tempfile.TemporaryDirectory() as folder:
        config = save_models(folder, list(weak.values()), strong)
        tables: list[Any] = []

        def run() -> None:
            output = {"threshold": 1e-3, "output": f"{folder}/{len(tables)}"}
            tables.append(w2s.run_sweep(config | output))

        found = first_and_again(run)
    table = w2s.rank_supervisors(weak, strong[0])
    cka = dict(zip(table.names, table["cka"], strict=True))
    pairs = zip(*(tables[0][column] for column in ("strong", "weak", "cka")), strict=True)
    difference = max(abs(value / cka[name] - 1) for against, name, value in pairs if against == "strong0")
    return {
        "verdict": f"{len(weak)} x {len(strong)} pairs: first {found['first s']:.3g} s, again {found['again s']:.3g} s",
        **found,
        "largest relative difference of CKA from the ranking's": float(difference),
    }


def probes(quick: bool) -> dict[str, Any]:
    """Ensembles under `jax.vmap`: ridge heads of many label sets and of many penalties, logistic heads of many label sets."""
    n, d, count, logistic = (256, 32, 16, 4) if quick else (4096, 768, 256, 64)
    rng = np.random.default_rng(9)
    h = rng.standard_normal((n, d), np.float32)
    z = h @ rng.standard_normal((d, count), np.float32) / np.sqrt(d).astype(np.float32)
    y = np.ascontiguousarray((z + rng.standard_normal((n, count), np.float32)).T)
    penalties = np.geomspace(1e-4, 1, count).astype(np.float32)
    rows, labels, betas = map(jnp.asarray, (h, y, penalties))
    fit = jax.jit(jax.vmap(w2s.ridge_probe, in_axes=(None, 0, None)))
    of_penalty = jax.jit(jax.vmap(w2s.ridge_probe, in_axes=(None, None, 0)))
    train = jax.jit(jax.vmap(lambda h, y: w2s.train_probe(h, y, 1e-3, "logistic"), in_axes=(None, 0)))
    classes = (labels[:logistic] > 0).astype(jnp.float32)
    calls = {
        f"{count} label sets": lambda: fit(rows, labels, betas[count // 2]),
        f"{count} penalties": lambda: of_penalty(rows, labels[0], betas),
        f"{logistic} logistic heads": lambda: train(rows, classes),
    }
    figures = {f"{name}: s, compile s": list(timed(call, 3)) for name, call in calls.items()}
    of_labels, of_penalties, trained = (call() for call in calls.values())
    errors = [
        head_error(of_labels.kernel[...][-1], h, y[-1], penalties[count // 2]),
        *(head_error(of_penalties.kernel[...][i], h, y[0], penalties[i]) for i in (0, -1)),
    ]
    seconds = ", ".join(f"{name} {value[0]:.3g} s" for name, value in zip(calls, figures.values(), strict=True))
    return {
        "verdict": f"{seconds}; largest ridge error {max(errors):.2g}",
        "n, d": [n, d],
        **figures,
        "error of a ridge head: label sets, least and most penalty": errors,
        "logistic heads converged, most steps": [int(jnp.sum(trained.converged)), int(jnp.max(trained.steps))],
    }


def head_error(kernel: jax.Array, h: np.ndarray, y: np.ndarray, penalty: float) -> float:
    """Relative error of a ridge head with an intercept."""
    x, t = (a.astype(float) - a.mean(0, dtype=float) for a in (h, y))
    return relative(kernel, np.linalg.solve(x.T @ x / len(x) + float(penalty) * np.eye(x.shape[1]), x.T @ t / len(x)))


def pair_speed(quick: bool) -> dict[str, Any]:
    """One pair of many rows: overlap, norm and gap at one point and at 1,024, beside its products and eigensolves alone."""
    n, d_w, d_s, side = (512, 48, 64, 8) if quick else (20000, 768, 1024, 32)
    rng = np.random.default_rng(0)
    latent = latent_signal(rng, n)
    weak, strong = (jnp.asarray(representation(rng, latent, d, noise)) for d, noise in ((d_w, 1.0), (d_s, 0.5)))
    y = jnp.asarray(latent[:, 0], jnp.float32)

    def ours(head: w2s.Filter) -> Any:
        overlap = w2s.overlap(weak, strong, y)
        return w2s.gap_norm(overlap, head, head), w2s.prediction_gap(overlap, head, head)

    point = w2s.ridge(1e-2, 1e-3)
    grid = w2s.ridge(np.geomspace(1e-4, 1, side)[None, :], np.geomspace(1e-4, 0.3, side)[:, None])
    seconds, compiling = timed(lambda: ours(point), 5)
    grid_seconds, grid_compiling = timed(lambda: ours(grid), 3)
    programs = floor_programs()
    pairs = ((weak, weak), (strong, strong), (strong, weak))
    products = sum(timed(lambda a=a, b=b: programs["product"](a, b), 5)[0] for a, b in pairs)
    matrices = [programs["product"](h, h) / n for h in (weak, strong)]
    eigen = sum(timed(lambda m=m: programs["eigh"](m), 3)[0] for m in matrices)
    return {
        "verdict": f"{seconds:.3g} s, {seconds / (products + eigen):.3g} of the floor; {side**2} points {grid_seconds:.3g} s",
        "n, d_w, d_s": [n, d_w, d_s],
        "one point: s, compile s": [seconds, compiling],
        f"{side**2} points: s, compile s": [grid_seconds, grid_compiling],
        "floor s (products, eigensolves)": [products, eigen],
    }


def leading_part(quick: bool) -> dict[str, Any]:
    """The 64 leading eigenpairs at d = 4,096 against the full eigensolve."""
    figures = family(1.0, (256,), (8,)) if quick else family(1.0, (4096,), (64,))
    full, leading, ratio = next(value for name, value in figures.items() if "ratio" in name)
    return {"verdict": f"full {full:.3g} s, leading {leading:.3g} s, ratio {ratio:.3g}"} | figures


def theory(quick: bool) -> dict[str, Any]:
    """A phase diagram of the deterministic equivalent, and simulated trials at one of its points."""
    n, d, count, side = (100, 16, 64, 8) if quick else (500, 100, 1000, 64)
    laws, ridge = power_law(jax.random.key(0), 1.0, d, noise=0.1), 1e-2
    rows = jnp.geomspace(d / 2, 50 * d, side)
    diagram = lambda: deterministic_equivalent(laws.population, rows[:, None], rows, ridge, ridge).student_error
    seconds, compiling = timed(diagram, 3)
    keys = jax.random.split(jax.random.key(1), count)
    trials = partial(simulate, keys, laws, n, n, ridge, ridge, measure=student_error)
    figures = {}
    for name, batch in {"by default": None, f"{count // 4} at once": count // 4}.items():
        figures[f"{count} trials, {name}: s, compile s"] = list(timed(partial(trials, batch=batch), 3))
    errors = np.asarray(trials(), float)
    expected = float(deterministic_equivalent(laws.population, n, n, ridge, ridge).student_error)
    difference, noise = errors.mean() / expected - 1, errors.std(ddof=1) / np.sqrt(count) / expected
    return {
        "verdict": f"simulated over expected student error: {difference:+.2%} ± {2 * noise:.2%}",
        f"{side} x {side} phase diagram: s, compile s": [seconds, compiling],
        **figures,
        "relative difference of mean student error, its standard error": [float(difference), float(noise)],
    }


def student_error(trial: Trial) -> jax.Array:
    """What is kept of a trial."""
    return trial.student_error


LIMITS: dict[Part, float] = {  # seconds
    precisions: 60,
    pair_accuracy: 90,
    batches: 90,
    ranking_accuracy: 120,
    sweep_agrees: 90,
    first_ranking: 180,
    moments_rate: 60,
    labelled_ranking: 120,
    sweep_of_files: 120,
    probes: 60,
    pair_speed: 60,
    leading_part: 60,
    theory: 60,
}


def run(limits: Mapping[Part, float], out: Path, quick: bool, minutes: float, results: dict[str, Any]) -> list[str]:
    """Runs parts for so many minutes, and writes the results as each ends; the names of those that raised."""
    began, failed = time.perf_counter(), []
    write = lambda: write_text_atomically(out, json.dumps(results, indent=1) + "\n")
    for part, limit in limits.items():
        name = part.__name__
        at = time.perf_counter() - began
        if at >= 60 * minutes:
            results[name] = {"verdict": f"not started: {minutes:g} minutes were over"}
        else:
            results[name] = {"verdict": "running", "started at s": at}
            write()
            results[name] = measured(part, min(limit, 60 * minutes - at), quick) | {"started at s": at}
        write()
        failed += [name] if "error" in results[name] else []
        figures = results[name]
        took = f"{figures.get('took s', 0):.1f} s, {figures.get('compiled programs', 0)} programs"
        print(f"{at:6.1f} s  {name} ({took}): {figures['verdict']}", flush=True)
    return failed


def measured(part: Part, limit: float, quick: bool) -> dict[str, Any]:
    """A part's figures, or its error, with seconds, programs and memory."""
    started = time.perf_counter()
    with compiled() as programs:
        try:
            with limited(limit):
                figures = part(quick)
        except Skipped as reason:
            figures = {"verdict": f"skipped: {reason}"}
        except Exception as error:
            traceback.print_exc()
            lines = [line for line in str(error).splitlines() if line.strip()] or [""]
            last = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__}: {lines[-1]}"
            figures = {
                "verdict": f"failed: {text}",
                "error": text,
                "first line": lines[0],
                "at": f"{last.name}:{last.lineno}",
            }
    took = {"took s": time.perf_counter() - started, "compiled programs": len(programs), "compiling s": sum(programs)}
    return figures | took | peak_memory()


class OutOfTime(Exception):
    """No OSError, as TimeoutError is: the package turns those into sentences about files."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises OutOfTime in the main thread when so many seconds are over."""

    def over(*_: Any) -> None:
        raise OutOfTime(f"its {seconds:.3g} seconds were over")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def accelerator() -> dict[str, Any]:
    """`machine`, and what else a reader of figures from afar asks."""
    driver = Path("/proc/driver/nvidia/version")
    device = jax.devices()[0]
    found = {"platform": device.platform, "devices": jax.device_count(), "runtime": device.client.platform_version}
    found["driver"] = driver.read_text().splitlines()[0] if driver.exists() else None
    return machine() | found | {"device memory MiB": device_memory()[1]}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parts: dict[str, Callable] = {part.__name__: part for part in LIMITS}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, metavar="FILE", type=Path, help="results as JSON")
    parser.add_argument("--minutes", type=float, default=8, help="after which no further part starts (default 8)")
    parser.add_argument(
        "--only", nargs="+", metavar="PART", choices=list(parts), help="these parts; FILE keeps its others"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    args = parser.parse_args(arguments)
    same = {"machine": accelerator(), "quick": args.quick}
    results = json.loads(args.out.read_text()) if args.only and args.out.exists() else same
    if {key: results.get(key) for key in same} != same:
        sys.exit(f"{args.out} is of another machine or size: {results.get('machine')}")
    print(*(f"{name}: {value}" for name, value in results["machine"].items()), sep="\n", flush=True)
    chosen = {part: limit for part, limit in LIMITS.items() if part.__name__ in (args.only or parts)}
    failed = run(chosen, args.out, args.quick, args.minutes, results)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)
    main()
