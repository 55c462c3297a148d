"""Adapters of the Store port (:mod:`keycairn.vault.ports`): a node's durable memory.

* ``schema``: tables, in types that SQLite, PostgreSQL and MariaDB all have.
* ``codec``: rows of these tables to and from the port's dataclasses.
* ``integrity``: keyed row index, table digests, audit chain (pure functions).
* ``transaction``: read and write rows so that index, digest and row never part.
* ``scan``: the check at open, the audit check, the state digest.
* ``core``: how writes are queued, grouped and run; ``keys`` and ``sql``: the port's methods in
  dialect-independent SQL.
* ``engine``: transactions in worker threads.
* ``sqlite``: what only SQLite needs: pragmas, transactions, snapshot, keyring, errors.
* ``documents``: ERS documents as files. ``lock``: one process per data directory.
"""
