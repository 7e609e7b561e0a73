"""Which rows a condition holds for, as DuckDB finds it: SQL over the columns of rows, and over nothing else.

R rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from t5enc.errors import ConfigError

ROWS, CHOSEN = "rows", "chosen"
# No file, no variable of Python's, no extension is within reach of it.
SETTINGS = {
    "enable_external_access": False,
    "python_enable_replacements": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "lock_configuration": True,
}


class Condition:
    """A condition on rows of a schema; ConfigError where it is none, or needs what these do not have."""

    def __init__(self, where: str, schema: pa.Schema) -> None:
        import duckdb

        self.where = where
        self.schema = schema
        self._connection: Any = duckdb.connect(config=dict(SETTINGS))
        self._query = f"SELECT coalesce(CAST((\n{where}\n) AS BOOLEAN), false) AS {CHOSEN} FROM {ROWS}"
        try:
            statements = duckdb.extract_statements(self._query)
        except duckdb.Error as error:
            raise self._explain(error) from error
        if len(statements) != 1:
            raise ConfigError(f"where: expected one condition, got {len(statements)} statements: {where}")
        self.choose(schema.empty_table())

    def choose(self, table: pa.Table) -> NDArray[np.bool_]:
        """(R,) which rows it holds for; what is neither true nor false is left out."""
        import duckdb

        self._connection.register(ROWS, table)
        try:
            found = self._connection.execute(self._query).fetchnumpy()
        except duckdb.Error as error:
            raise self._explain(error) from error
        finally:
            self._connection.unregister(ROWS)
        chosen = np.asarray(found[CHOSEN], bool)
        if len(chosen) != len(table):
            raise ConfigError(f"where: expected a condition on each row, got {self.where}")
        return chosen

    def _explain(self, error: Exception) -> ConfigError:
        said = str(error).partition("\n")[0]
        return ConfigError(f"where: {self.where}: {said}; columns are {', '.join(self.schema.names)}")
