"""One node as a process: configuration, HTTP edge, daemon.

* :mod:`keycairn.node.config` reads ``node.toml`` and refuses what it doesn't understand.
* :mod:`keycairn.node.api` serves applications, :mod:`keycairn.node.management` the operator.
* :mod:`keycairn.node.daemon` puts store, links, service and both listeners together.
"""
