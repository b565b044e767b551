"""Which prediction to trust: all scores and published predictors judged by what teachers' students made of it."""

from w2s_jax.leaderboard.figures import draw_leaderboard, plot_leaderboard
from w2s_jax.leaderboard.judging import LEVEL, Contest, Leaderboard, Standing, judge, network_of
from w2s_jax.leaderboard.results import read_contests, write_contests
from w2s_jax.leaderboard.run import run_leaderboard
from w2s_jax.leaderboard.tasks import TASKS, Task, oriented

__all__ = [
    "LEVEL",
    "TASKS",
    "Contest",
    "Leaderboard",
    "Standing",
    "Task",
    "draw_leaderboard",
    "judge",
    "network_of",
    "oriented",
    "plot_leaderboard",
    "read_contests",
    "run_leaderboard",
    "write_contests",
]
