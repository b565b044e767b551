"""Where it runs: meshes of devices, processes, the precision of products, compiled programs on disk."""

from w2s_jax._core.cpu import one_lapack_thread
from w2s_jax.devices.hosts import Hosts, connected_hosts
from w2s_jax.devices.mesh import device_mesh, spread
from w2s_jax.devices.precision import MeasuredPrecision, PrecisionReport, fastest_precision, supported_precisions
from w2s_jax.devices.programs import cache_compiled_programs

__all__ = [
    "Hosts",
    "MeasuredPrecision",
    "PrecisionReport",
    "cache_compiled_programs",
    "connected_hosts",
    "device_mesh",
    "fastest_precision",
    "one_lapack_thread",
    "spread",
    "supported_precisions",
]
