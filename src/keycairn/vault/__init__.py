"""What a node *is*: key records, sessions, pair setups, allow-lists, coverage and policy.

Everything here works on ports (:mod:`keycairn.vault.ports`); adapters live on the next floor.
"""
