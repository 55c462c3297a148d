"""Disasters happen to vaults of real processes."""

from system.conftest import make_vault as make_vault
