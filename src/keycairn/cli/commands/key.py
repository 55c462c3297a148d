"""``keycairn key``: create, show, list, wait."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from keycairn.cli.options import (
    NodesOption,
    RequestOption,
    VaultOption,
    command,
    group,
    parse_nodes,
    whole,
    with_vault,
)
from keycairn.cli.output import output
from keycairn.errors import malformed

Key = Annotated[str, typer.Argument(help="key id")]


#: Said loudly behind a public key.
_UNSAFE = {"no": "   NOT BACKED UP", "cant_tell": "   CAN'T TELL WHETHER BACKED UP"}


def key_text(key: Mapping[str, Any]) -> str:
    """A key for a human; a public key without a backup says so."""
    t, n = key["threshold"], len(key["players"])
    lines = [
        f"{key['key_id']}  {key['scheme']} {key['curve']}  {t + 1}-of-{n} (t={t})  "
        f"generation {key['generation']}  {key['state']}",
        *([f"  child at     {key['path']}"] if "path" in key else []),
        f"  public key   {key['public_key']}" + _UNSAFE.get(key["backed_up"], ""),
    ]
    for name, address in key["addresses"].items():
        if address is not None:
            lines.append(f"  {name:<14} {address}")
    lines += [f"  missing      {m}" for m in key["missing"]]
    lines += [f"  next         {n}" for n in key["next"]]
    return "\n".join(lines)


def register(app: typer.Typer) -> None:
    """Add the group."""
    keys = group("key", "Create keys and look at them.")
    app.add_typer(keys)

    @command(keys, "create")
    def create(
        scheme: Annotated[str, typer.Option("--scheme", help="ecdsa or schnorr")],
        curve: Annotated[str, typer.Option("--curve", help="secp256k1, p256 or ed25519")],
        count: Annotated[
            int, typer.Option("--count", parser=whole, help="how many, 1 to 1000")
        ] = 1,
        variant: Annotated[
            str | None, typer.Option("--variant", help="bip340: named for schnorr on secp256k1")
        ] = None,
        threshold: Annotated[
            int | None, typer.Option("--threshold", parser=whole, help="t; default: the vault's")
        ] = None,
        request_id: RequestOption = None,
        nodes: NodesOption = None,
        vault: VaultOption = None,
    ) -> None:
        """Make keys that all nodes hold. Returns once every holder keeps its share durably."""
        with output.working(f"making {count} key(s) at all nodes"):
            made = with_vault(
                vault,
                lambda v: v.create_keys(
                    scheme,
                    curve,
                    threshold=threshold,
                    count=count,
                    variant=variant,
                    request_id=request_id,
                    nodes=parse_nodes(nodes),
                ),
            )
        output.result({"keys": made}, "\n".join(key_text(k) for k in made))

    @command(keys, "show")
    def show(
        key: Key,
        path: Annotated[str | None, typer.Option("--path", help="derivation path, m/…")] = None,
        vault: VaultOption = None,
    ) -> None:
        """Show a key, or with --path its child; addresses only once every holder's backup policy
        holds."""
        shown = with_vault(vault, lambda v: v.show_key(key, path))
        output.result(shown, key_text(shown))

    @command(keys, "list")
    def list_(vault: VaultOption = None) -> None:
        """List all keys of this application."""
        found = with_vault(vault, lambda v: v.list_keys())
        output.result({"keys": found}, "\n".join(key_text(k) for k in found) or "no keys")

    @command(keys, "wait")
    def wait(
        key: Key,
        timeout: Annotated[float, typer.Option("--timeout", help="seconds")] = 30.0,
        vault: VaultOption = None,
    ) -> None:
        """Wait until every holder has the key active."""
        if not 0 < timeout <= 86_400:
            raise malformed("--timeout must be between 0 and 86400 seconds")
        with output.working(f"waiting for {key}"):
            shown = with_vault(vault, lambda v: v.wait_key(key, timeout))
        output.result(shown, key_text(shown))
