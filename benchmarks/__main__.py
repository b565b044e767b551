"""All benchmarks in one run; results by device are in benchmarks/README.md.

python -m benchmarks [--quick] [--out FILE.json] [--only PART ...]
"""

from benchmarks._common import run_parts

PARTS = (
    "streaming.rates",
    "streaming.resident",
    "streaming.streaming_short",
    "streaming.streaming_long",
    "spine.single_pair",
    "spine.many_models",
    "first_call.unlabelled",
    "first_call.labelled",
    "first_call.many",
    "first_call.pair",
    "first_call.busy",
    "first_call.label_free_predictors",
    "pairs.many_pairs",
    "pairs.few_rows",
    "spine.command_line",
    "large_d.leading_pairs",
    "large_d.overlaps",
    "experiment.trials",
    "experiment.logistic_heads",
    "experiment.penalty_path",
    "precision.precision_of_products",
    "precision.precision_of_moments",
    "verify_theory.verification",
)

if __name__ == "__main__":
    run_parts(__doc__, PARTS)
