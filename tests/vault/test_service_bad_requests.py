"""Impossible requests to a node: a typed error, nothing stored (T-006, T-028, T-040)."""

from __future__ import annotations

from typing import Any

import pytest

from keycairn.errors import Code
from keycairn.protocols import frost, keygen
from keycairn.vault.api import SessionNames
from vault.nodes import APP, Vault, with_players

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"threshold": 0}, Code.MALFORMED),
        ({"threshold": 3}, Code.MALFORMED),
        ({"threshold": -1}, Code.MALFORMED),
        ({"threshold": 1.0}, Code.MALFORMED),
        ({"threshold": True}, Code.MALFORMED),
        ({"count": 0}, Code.MALFORMED),
        ({"count": keygen.MAX_COUNT + 1}, Code.MALFORMED),
        ({"curve": "secp256k1"}, Code.MALFORMED),
        ({"curve": "p384"}, Code.MALFORMED),
        ({"scheme": "rsa"}, Code.MALFORMED),
        ({"variant": "odd"}, Code.MALFORMED),
        ({"players": (1, 2)}, Code.BAD_INDEX),
        ({"players": (3, 2, 1)}, Code.BAD_INDEX),
        ({"players": (1, 2, 3, 4)}, Code.BAD_INDEX),
        ({"players": (0, 1, 2)}, Code.BAD_INDEX),
        ({"players": (1, 2, 2)}, Code.BAD_INDEX),
        ({"players": (-1, 2, 3)}, Code.BAD_INDEX),
        ({"players": ("1", "2", "3")}, Code.BAD_INDEX),
        ({"players": (1.0, 2, 3)}, Code.BAD_INDEX),
        ({"players": (True, 2, 3)}, Code.BAD_INDEX),
        ({"players": (1, 2, 2**256 + 3)}, Code.BAD_INDEX),
        ({"session": "a b"}, Code.MALFORMED),
        ({"session": "a" * 65}, Code.MALFORMED),
        ({"session": "setup/1-2/x"}, Code.MALFORMED),
        ({"session": "é"}, Code.MALFORMED),
        ({"session": "a\n"}, Code.MALFORMED),
        ({"request": "a/b"}, Code.MALFORMED),
        ({"request": None}, Code.MALFORMED),
        ({"request": 7}, Code.MALFORMED),
    ],
    ids=str,
)
async def test_t006_t028_impossible_creations_are_refused_and_change_nothing(
    module_vault: Vault, more: dict[str, Any], code: Code
) -> None:
    before = await module_vault.digests()
    names = module_vault.names()
    if "players" in more:
        names = with_players(names, more["players"])
    if "session" in more:
        names = SessionNames(more["session"], names.request_id, names.players)
    if "request" in more:
        names = SessionNames(names.session_id, more["request"], names.players)
    rest = {k: v for k, v in more.items() if k not in ("players", "session", "request")}
    assert (await module_vault.create(names=names, **rest)).only(code)
    assert await module_vault.digests() == before


@pytest.mark.parametrize(
    ("scheme", "more", "code"),
    [
        ("ecdsa", {"digest": b""}, Code.MALFORMED),
        ("ecdsa", {"digest": bytes(31)}, Code.MALFORMED),
        ("ecdsa", {"digest": bytes(33)}, Code.MALFORMED),
        ("ecdsa", {"digest": None, "message": b"m"}, Code.MALFORMED),
        ("ecdsa", {"message": b"m"}, Code.MALFORMED),
        ("schnorr", {"digest": bytes(32)}, Code.MALFORMED),
        ("schnorr", {"digest": bytes(32), "message": None}, Code.MALFORMED),
        ("schnorr", {"message": None}, Code.MALFORMED),
        ("schnorr", {"message": bytes(frost.MAX_MESSAGE + 1)}, Code.TOO_LARGE),
        ("schnorr", {"path": "m/0'"}, Code.MALFORMED),
        ("ecdsa", {"path": "m/2147483648"}, Code.MALFORMED),
        ("ecdsa", {"path": "m" + "/0" * 9}, Code.MALFORMED),
        ("ecdsa", {"path": ""}, Code.MALFORMED),
        ("ecdsa", {"presignature": "0g" * 32}, Code.MALFORMED),
        ("ecdsa", {"presignature": "AB" * 32}, Code.MALFORMED),
        ("ecdsa", {"presignature": "00" * 32}, Code.PRESIG_UNKNOWN),
        ("schnorr", {"players": (1,)}, Code.BAD_INDEX),
        ("schnorr", {"players": ()}, Code.BAD_INDEX),
        ("schnorr", {"players": (2, 1)}, Code.BAD_INDEX),
        ("schnorr", {"players": (1, 1)}, Code.BAD_INDEX),
        ("schnorr", {"players": (1, 4)}, Code.BAD_INDEX),
        ("schnorr", {"players": (1, "2")}, Code.BAD_INDEX),
        ("schnorr", {"players": (True, 2)}, Code.BAD_INDEX),
        ("schnorr", {"players": (2, 3)}, Code.BAD_INDEX),  # at node 1
    ],
    ids=str,
)
async def test_t006_t040_impossible_signatures_are_refused_and_spend_nothing(
    module_vault: Vault, scheme: str, more: dict[str, Any], code: Code
) -> None:
    keys = {k.scheme: k for k in await module_vault.services[1].list_keys(APP, "", 10)}
    key = keys.get(scheme) or await module_vault.key(scheme)
    names = module_vault.names((1, 2))
    if "players" in more:
        names = with_players(names, more["players"])
    rest = {k: v for k, v in more.items() if k != "players"}
    answers = await module_vault.sign(key, (1,), names=names, **rest)
    assert answers.only(code)
    assert not await module_vault.stores[1].spends()
