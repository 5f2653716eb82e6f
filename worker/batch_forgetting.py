"""How the fleet's queue forgets films: a shard is named by two paths, and a path may name a patient.

The queue is no truth: a shard that is taken back here is cut anew, around what is forgotten by then, by the next
``preread backfill``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, text

from worker.batches import OPEN, SCHEMA, TASK, applied

_OF_ROOTS = "task_name = :task AND (args->>'root_id')::bigint = ANY(:root_ids) AND args->>'until' <> ''"
# A stretch from nothing to nothing: whoever has such a shard in hand, or takes it up again, finds nothing to do in it.
_EMPTY = """args = args || '{"after": "", "until": ""}', queueing_lock = NULL"""
_JOBS = f"{SCHEMA}.procrastinate_jobs"
_EMPTY_ENDED = f"UPDATE {_JOBS} SET {_EMPTY} WHERE {_OF_ROOTS} AND status::text <> ALL(:open)"  # noqa: S608
_OPEN_ONES = f"""
SELECT id, (args->>'root_id')::bigint AS root_id, args->>'after' AS after, args->>'until' AS until FROM {_JOBS}
WHERE {_OF_ROOTS} AND status::text = ANY(:open)
"""  # noqa: S608
_TAKE_BACK = f"DELETE FROM {_JOBS} WHERE id = ANY(:ids) AND status = 'todo'"  # noqa: S608
_EMPTY_THESE = f"UPDATE {_JOBS} SET {_EMPTY} WHERE id = ANY(:ids)"  # noqa: S608
_WORD_AT_LEAST = 3


def forget_paths(connection: Connection, films: Sequence[Any]) -> int:
    """Have the queue name none of these films; return how many shards that were not done yet went with them.

    Of shards that are done both paths go, whatever they name. Of the others those go whose first or last path is a
    film's own, lies in or below a film's folder, or holds a patient's ID, a part of the name, or an accession number.

    Args:
        films: rows of ``root_id``, ``path``, ``patient_id``, ``patient_name`` and ``accession_number``. To be called
            last in a transaction: what follows would look for its tables in the queue's schema.
    """
    if not films or applied(connection) is None:
        return 0
    values = {"task": TASK, "root_ids": sorted({film.root_id for film in films}), "open": list(OPEN)}
    connection.execute(text(f"SET LOCAL search_path = {SCHEMA}"))  # for the triggers
    connection.execute(text(_EMPTY_ENDED), values)
    rows = connection.execute(text(_OPEN_ONES), values).all()
    named = {root_id: _Named([film for film in films if film.root_id == root_id]) for root_id in values["root_ids"]}
    ids = [row.id for row in rows if named[row.root_id].by(row.after) or named[row.root_id].by(row.until)]
    if ids:
        connection.execute(text(_TAKE_BACK), {"ids": ids})
        # one that a process took up meanwhile, or gave back, is emptied
        connection.execute(text(_EMPTY_THESE), {"ids": ids})
    return len(ids)


class _Named:
    """What names films of one root."""

    def __init__(self, films: Sequence[Any]) -> None:
        self._paths = {film.path for film in films}
        self._folders = {folder for path in self._paths if (folder := path.rpartition(b"/")[0])}
        said = (value for film in films for value in (film.patient_id, film.patient_name, film.accession_number))
        words = {part.casefold() for value in said if value for part in (value, *re.split(r"[\^=\s]+", value))}
        long_enough = sorted(re.escape(word) for word in words if len(word) >= _WORD_AT_LEAST)
        self._words = re.compile("|".join(long_enough)) if long_enough else None

    def by(self, boundary: str | None) -> bool:
        """Tell whether a path, one character a byte, names one of them."""
        if not boundary:
            return False
        path = boundary.encode("latin-1")
        parts = path.split(b"/")
        if path in self._paths or any(b"/".join(parts[:depth]) in self._folders for depth in range(1, len(parts))):
            return True
        texts = (boundary, path.decode("utf-8", errors="replace"))
        return self._words is not None and any(self._words.search(one.casefold()) for one in texts)
