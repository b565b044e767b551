"""Sweeps of many weak with many strong models, from files, resumable: `run_sweep` (run.py) and its table (table.py).

config.py says what is asked for, inputs.py opens its files and label_sets.py lays out their rows, whose sums per cell are those
of rankings; pairs.py makes scores of them on the device, kernels.py where kernels take less, predictor_columns.py has predictors
of them, and pair_rows.py makes rows of the table; workers.py is what the processes compute of all that together; store.py keeps
what is done; cli.py is `w2s sweep`.
"""

from w2s_jax.sweep.config import Setting, SweepConfig, read_config, sweep_config
from w2s_jax.sweep.run import run_sweep
from w2s_jax.sweep.table import Sweep, read_sweep

__all__ = ["Setting", "Sweep", "SweepConfig", "read_config", "read_sweep", "run_sweep", "sweep_config"]
