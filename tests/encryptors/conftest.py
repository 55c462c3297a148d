"""Services that the tests of this folder share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from encryptors.components import (
    Kms,
    OpenBao,
    SoftHsm,
    make_softhsm,
    running_kms,
    running_openbao,
)


@pytest.fixture(scope="session")
def openbao(free_ports: Callable[..., int]) -> Iterator[OpenBao]:
    with running_openbao(free_ports(2)) as server:
        yield server


@pytest.fixture(scope="session")
def kms(free_ports: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kms]:
    with running_kms(free_ports(), tmp_path_factory.mktemp("kms")) as server:
        yield server


@pytest.fixture(scope="session")
def softhsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHsm]:
    token = make_softhsm(tmp_path_factory.mktemp("softhsm"))
    before = os.environ.get("SOFTHSM2_CONF")
    # The library reads it once, when it is loaded into this process.
    os.environ["SOFTHSM2_CONF"] = str(token.conf)
    try:
        yield token
    finally:
        if before is None:
            del os.environ["SOFTHSM2_CONF"]
        else:
            os.environ["SOFTHSM2_CONF"] = before
