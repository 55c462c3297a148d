"""Adapters of the Store port (:mod:`keycairn.vault.ports`): a node's durable memory.

* ``schema``: tables, in types (``types``) that SQLite, PostgreSQL and MariaDB all have.
* ``migrations``: how databases of older schema versions become this one's.
* ``codec``: rows of these tables to and from the port's dataclasses.
* ``integrity``: keyed row index, table digests, audit chain (pure functions).
* ``transaction``: read and write rows so that index, digest and row never part.
* ``scan``: the check of a table, the audit check, the state digest. ``patrol``: the check of large
  tables while the store is used.
* ``history``: the chain of state changes: extended, read, checked.
* ``core``: how writes are queued, grouped and run; ``keys``, ``incarnations`` and ``sql``: the
  port's methods in dialect-independent SQL.
* ``engine``: transactions in worker threads.
* ``database``: ``[database] url`` read and checked. ``opening``: the store that it names.
* ``sqlite``: what only SQLite needs: pragmas, transactions, snapshot, keyring, errors.
* ``server``: what database servers have in common; ``postgresql`` and ``mariadb``: what only each
  of them needs. ``embedded``: stores in memory and in one sealed file.
* ``image``: any store's rows as one SQLite file, which is what its copies are.
* ``documents``: ERS documents as files. ``lock``: one process per data directory.
"""
