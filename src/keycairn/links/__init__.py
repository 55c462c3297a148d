"""Adapters of the Link port (:mod:`keycairn.protocols.link`).

* :mod:`keycairn.links.inprocess` connects players inside one process, for tests and embedding.
* :mod:`keycairn.links.tls` connects nodes over websockets in mutual TLS 1.3 with pinned keys.
"""
