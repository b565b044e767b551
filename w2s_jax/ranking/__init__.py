"""Which weak model should teach: the table of supervisors."""

from w2s_jax.ranking.rank import rank_supervisors
from w2s_jax.ranking.table import SupervisorTable

__all__ = ["SupervisorTable", "rank_supervisors"]
