"""Whether the artifact store belongs to this database. One that another database fills holds files
that only look like orphans."""

from __future__ import annotations

import logging

from jobs.ids import new_id
from jobs.repository import leases
from workers.context import Context

NAME = "owner"
DATABASE = "database"
CENTURY_S = 100 * 365 * 86400.0
log = logging.getLogger(__name__)


def owns_store(context: Context) -> bool:
    """Compares the name of this database with the one that lies in the store; the first database
    that looks puts its own there."""
    now, store = context.clock(), context.store
    with context.unit() as unit:
        leases.take(unit.session, DATABASE, new_id("dbs"), now, CENTURY_S)
        ours = leases.holder(unit.session, DATABASE, now) or ""
    if not store.exists(NAME):
        store.put(NAME, ours.encode())
    owner = store.get(NAME).decode(errors="replace")
    if owner != ours:
        log.warning(
            "the artifact store belongs to another database (%s), so no orphan in it is removed: "
            "give each database a store of its own, or remove the file %r to hand it over",
            owner[:80],
            NAME,
        )
    return owner == ours
