"""What an extraction gives: representations of the same rows by name, which show themselves as a table."""

from __future__ import annotations

from typing import Any

from w2s_jax._core.extras import data_frame
from w2s_jax._core.text import Printed


class Representations(dict[str, Any]):
    """Rows (n, d) by name, arrays in memory or `Rows` of a folder: a dict, as `rank_supervisors` takes it.

    >>> import numpy as np
    >>> Representations(layer0=np.ones((3, 8)), layer1=np.ones((3, 16)))
            rows  width
    layer0     3      8
    layer1     3     16
    """

    def to_dict(self) -> dict[str, dict[str, int]]:
        """Rows and width of each array, not their numbers."""
        return {name: {"rows": int(array.shape[0]), "width": int(array.shape[1])} for name, array in self.items()}

    def to_pandas(self) -> Any:
        """`to_dict` as a pandas DataFrame, one array a row.

        Raises:
            InputError: pandas is not installed.
        """
        return data_frame([{"representation": name, **shape} for name, shape in self.to_dict().items()])

    def __repr__(self) -> str:
        return str(self._printed())

    def _repr_html_(self) -> str:
        return self._printed()._repr_html_()

    def _printed(self) -> Printed:
        body = [(name, *(f"{size:,}" for size in shape.values())) for name, shape in self.to_dict().items()]
        return Printed(("", "rows", "width"), body, left=1)
