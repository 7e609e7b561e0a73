"""Which rows a condition holds for, as DuckDB finds it: SQL over the columns of a row, and over nothing else.

R rows.
"""

from __future__ import annotations

import uuid
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from t5enc.errors import ConfigError

# No file, no variable of Python's, no extension is within reach of it.
SETTINGS = {
    "enable_external_access": False,
    "python_enable_replacements": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "lock_configuration": True,
}


class Condition:
    """A condition on rows of a schema; ConfigError where it is none, or needs what these do not have.

    `schema` has the columns that it may name: none of a type that DuckDB does not have, and no two whose names
    differ in capitals only.
    """

    def __init__(self, where: str, schema: pa.Schema) -> None:
        duckdb = _import_duckdb()
        self.where = where
        self._connection: Any = duckdb.connect(config=dict(SETTINGS))
        # No other row is within reach: WHERE knows no windows, and nobody can guess what the rows are called.
        self._rows, self._number = (f"{name}_{uuid.uuid4().hex}" for name in ("rows", "number"))
        self.schema = self._find_known(schema)
        self._unknown = [name for name in schema.names if name not in self.schema.names]
        self._query = f"SELECT {self._number} FROM {self._rows} WHERE CAST((\n{where}\n) AS BOOLEAN)"
        try:
            statements = duckdb.extract_statements(self._query)
        except duckdb.Error as error:
            raise self._explain(error) from error
        if len(statements) != 1:
            raise ConfigError(f"where: expected one condition, got {len(statements)} statements: {where}")
        self.choose(self.schema.empty_table())

    def choose(self, table: pa.Table) -> NDArray[np.bool_]:
        """(R,) which rows it holds for; what is neither true nor false is left out."""
        duckdb = _import_duckdb()
        numbered = table.append_column(self._number, pa.array(np.arange(len(table))))
        try:
            found = self._execute(self._query, numbered).fetchnumpy()[self._number]
        except duckdb.Error as error:
            raise self._explain(error) from error
        finally:
            self._connection.unregister(self._rows)
        chosen = np.zeros(len(table), bool)
        chosen[found] = True
        return chosen

    def _execute(self, query: str, table: pa.Table) -> Any:
        self._connection.register(self._rows, table)
        return self._connection.execute(query)

    def _find_known(self, schema: pa.Schema) -> pa.Schema:
        spellings = Counter(name.casefold() for name in schema.names)
        return pa.schema([field for field in schema if spellings[field.name.casefold()] == 1 and self._takes(field)])

    def _takes(self, field: pa.Field) -> bool:
        duckdb = _import_duckdb()
        try:
            self._execute(f"SELECT * FROM {self._rows}", pa.schema([field]).empty_table())
        except duckdb.Error:
            return False
        finally:
            self._connection.unregister(self._rows)
        return True

    def _explain(self, error: Exception) -> ConfigError:
        said = str(error).partition("\n")[0].replace(self._rows, "rows")
        unknown = f"; not for SQL are {', '.join(self._unknown)}" if self._unknown else ""
        return ConfigError(f"where: {self.where}: {said}; columns are {', '.join(self.schema.names)}{unknown}")


def _import_duckdb() -> Any:
    try:
        import duckdb
    except ImportError as error:
        raise ConfigError('where: needs DuckDB, which is not installed: pip install "t5enc[data]"') from error
    return duckdb
