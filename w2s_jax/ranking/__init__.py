"""Which weak model should teach: the table of supervisors."""

from w2s_jax.ranking.figures import plot_layers, plot_ranking
from w2s_jax.ranking.mixture import Mixture
from w2s_jax.ranking.rank import rank_supervisors
from w2s_jax.ranking.table import SupervisorTable

__all__ = ["Mixture", "SupervisorTable", "plot_layers", "plot_ranking", "rank_supervisors"]
