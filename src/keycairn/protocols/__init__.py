"""Sans-IO protocols and the one driver that runs them (docs/protocols)."""
