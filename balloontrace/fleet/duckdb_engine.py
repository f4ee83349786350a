# SPDX-License-Identifier: GPL-2.0-or-later
"""DuckDB, in this process."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from balloontrace.fleet.engine import Engine

if TYPE_CHECKING:
    import ibis.expr.types as ir

# What DuckDB would take for a pattern in a file's name, or for its end.
_MAGIC = re.compile(r"[\[*?']")


class DuckDbEngine(Engine):
    """Views are made by its own SQL.

    ibis has an extension downloaded for object stores, which fsspec reads as well, and its `sql` needs a
    function that DuckDB 2 has no more.
    """

    def _is_one_query(self, text: str) -> bool:
        import duckdb

        found = self.connection.con.extract_statements(text)
        return len(found) == 1 and found[0].type == duckdb.StatementType.SELECT

    def _read(self, files: Sequence[str], name: str, *, is_mixed: bool) -> ir.Table:
        # Day and host are in the files, too: names of folders need not be looked at.
        names = ", ".join(f"'{_MAGIC.sub(_literally, file)}'" for file in files)
        what = f"read_parquet([{names}], hive_partitioning=false, union_by_name={str(is_mixed).lower()})"
        return self._name_sql(name, f"SELECT * FROM {what}")  # noqa: S608 - quoted

    def _name_sql(self, name: str, text: str) -> ir.Table:
        self.connection.raw_sql(f"CREATE OR REPLACE TEMPORARY VIEW {name} AS {text}")
        return self.connection.table(name)


def _literally(found: re.Match[str]) -> str:
    return "''" if found[0] == "'" else f"[{found[0]}]"
