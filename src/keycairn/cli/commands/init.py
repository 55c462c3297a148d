"""``keycairn init``: a local vault, or one node of a vault on several machines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from keycairn.cli.options import command, whole
from keycairn.cli.output import output
from keycairn.errors import malformed
from keycairn.ports.system import SystemClock, SystemRng
from keycairn.vault.policy import DEFAULT_REQUIRE, parse, warnings_for

_LOCAL = "sqlite:///data/node.db"


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "init")
    def init(
        directory: Annotated[Path, typer.Argument(help="a directory that doesn't exist yet")],
        nodes: Annotated[int, typer.Option("--nodes", parser=whole, help="how many nodes (n)")] = 3,
        threshold: Annotated[
            int,
            typer.Option("--threshold", parser=whole, help="how many may fall to an attacker (t)"),
        ] = 1,
        base_port: Annotated[
            int | None,
            typer.Option(
                "--base-port", parser=whole, help="first of 3 ports a node; default: free"
            ),
        ] = None,
        policy: Annotated[
            str, typer.Option("--policy", help="when a key counts as backed up")
        ] = DEFAULT_REQUIRE,
        database: Annotated[
            str,
            typer.Option(
                "--database",
                help="URL of each node's empty database on a server, {node} for its number",
            ),
        ] = _LOCAL,
        password_env: Annotated[
            str | None,
            typer.Option(
                "--database-password-env",
                help="environment variable with its password, {node} for the number",
            ),
        ] = None,
        node: Annotated[
            int | None,
            typer.Option("--node", parser=whole, help="begin one production node: its number"),
        ] = None,
        peer: Annotated[
            list[Path] | None,
            typer.Option("--peer", help="finish it: the card of another node; once for each"),
        ] = None,
        vault_id: Annotated[
            str | None, typer.Option("--vault-id", help="--node: the vault's name, at all nodes")
        ] = None,
        address: Annotated[
            str | None,
            typer.Option("--address", help="--node: wss://host:port for the others, or incoming"),
        ] = None,
        links: Annotated[
            str, typer.Option("--links", help="--node: host:port to listen on for the others")
        ] = "0.0.0.0:9000",
        api: Annotated[
            str, typer.Option("--api", help="--node: host:port to listen on for applications")
        ] = "127.0.0.1:8080",
        management: Annotated[
            str, typer.Option("--management", help="--node: host:port, on this machine only")
        ] = "127.0.0.1:9090",
        tls: Annotated[
            tuple[str, str] | None,
            typer.Option("--tls", help="--node: certificate and key (PEM) of the API"),
        ] = None,
        password_file: Annotated[
            str | None, typer.Option("--database-password-file", help="--node: file with it")
        ] = None,
        password_credential: Annotated[
            str | None,
            typer.Option("--database-password-credential", help="--node: systemd credential"),
        ] = None,
        encryptor: Annotated[
            str,
            typer.Option(
                "--encryptor", help="--node: keyfile, password, or TOML file with [encryptor]"
            ),
        ] = "keyfile",
        secret_file: Annotated[
            str | None,
            typer.Option("--secret-file", help="--node: master secret; a key file is made"),
        ] = None,
        secret_env: Annotated[
            str | None, typer.Option("--secret-env", help="--node: or environment variable")
        ] = None,
        secret_credential: Annotated[
            str | None, typer.Option("--secret-credential", help="--node: or systemd credential")
        ] = None,
        application: Annotated[
            str, typer.Option("--application", help="--node: who may call, at all nodes the same")
        ] = "default",
        operations: Annotated[
            str, typer.Option("--operations", help="--node: what is switched on")
        ] = "ecdsa,schnorr,ers",
        ers_allowed: Annotated[
            list[str] | None,
            typer.Option("--ers-allowed", help="--node: recovery key (SPKI SHA-256); repeatable"),
        ] = None,
        target: Annotated[
            list[str] | None,
            typer.Option("--backup-target", help="--node: directory or s3://…; repeatable"),
        ] = None,
        recipient: Annotated[
            list[str] | None,
            typer.Option("--backup-recipient", help="--node: age1… that opens bundles; repeatable"),
        ] = None,
        include: Annotated[
            list[str] | None,
            typer.Option("--backup-include", help="--node: launch file for bundles; repeatable"),
        ] = None,
        schedule: Annotated[
            str, typer.Option("--backup-schedule", help="--node: interval or cron line (UTC)")
        ] = "1d",
    ) -> None:
        """Make a local vault: n nodes, what their operators keep, and a client profile.

        threshold + 1 nodes sign. All nodes live in one directory of this machine: for trying it
        out, for tests and for the demo.

        With --node one node of a vault on several machines, on its own, in two steps. First
        --node NUMBER with what its operator decides: it makes the identity key, node.toml, and
        node.card for the other operators. Then --peer CARD for each of the other nodes: it enters
        them and makes the database. docs/operations/production.md goes through it.
        """
        if node is None and not peer:
            _local(directory, nodes, threshold, base_port, policy, database, password_env)
            return
        from keycairn.cli.production import Wishes, begin_node, finish_node

        results: list[Mapping[str, Any]] = []
        rng = SystemRng()
        if node is not None:
            if vault_id is None or address is None:
                raise malformed("--node needs --vault-id ID and --address wss://host:port")
            password = _one_of(
                "--database-password", password_file, password_env, password_credential
            )
            secret = _one_of("--secret", secret_file, secret_env, secret_credential)
            wishes = Wishes(
                directory=directory,
                index=node,
                vault=vault_id,
                nodes=nodes,
                threshold=threshold,
                address=address,
                links=links,
                api=api,
                management=management,
                tls=tls,
                database=database,
                password=password,
                encryptor=encryptor,
                secret=secret,
                application=application,
                operations=[word.strip() for word in operations.split(",") if word.strip()],
                ers_allowed=ers_allowed or [],
                targets=target or [],
                recipients=recipient or [],
                schedule=schedule,
                policy=policy,
                include=include or [],
            )
            for warning in warnings_for(parse(policy), ("address", "sign")):
                output.note(f"warning: {warning}")
            results.append(begin_node(wishes, rng))
        if peer:
            results.append(finish_node(directory, peer, SystemClock(), rng))
        result = {k: v for each in results for k, v in each.items()}
        output.result(result, "\n".join(_lines(result)))


def _one_of(
    option: str, file: str | None, env: str | None, credential: str | None
) -> tuple[str, str] | None:
    given = [
        (kind, where)
        for kind, where in (("file", file), ("env", env), ("credential", credential))
        if where is not None
    ]
    if len(given) > 1:
        raise malformed(f"give one of {option}-file, {option}-env and {option}-credential")
    return given[0] if given else None


def _lines(result: Mapping[str, Any]) -> list[str]:
    lines = [f"node {result['node']} of vault {result['vault']}: {result['config']}"]
    if "fingerprint" in result:
        lines += [
            f"card for the other operators: {result['card']}",
            f"  fingerprint {result['fingerprint']}",
            f"API key of the application: {result['api_key_file']}",
        ]
    if "vault_fingerprint" in result:
        lines += [
            f"node {n['node']} at {n['address']}: {n['fingerprint']}" for n in result["nodes"]
        ]
        lines += [
            "fingerprint of the vault, equal at all its operators:",
            f"  {result['vault_fingerprint']}",
        ]
    return [*lines, *(f"next: {n}" for n in result["next"])]


def _local(
    directory: Path,
    nodes: int,
    threshold: int,
    base_port: int | None,
    policy: str,
    database: str,
    password_env: str | None,
) -> None:
    from keycairn.cli.layout import check_plan, create_vault

    plan = check_plan(directory, nodes, threshold, base_port, policy, database, password_env)
    with output.working("making keys and databases"):
        profile = create_vault(plan, SystemClock(), SystemRng())
    quorum = f"{threshold + 1}-of-{nodes} (t={threshold})"
    for warning in warnings_for(parse(policy), ("address", "sign")):
        output.note(f"warning: {warning}")
    result = {
        "directory": str(plan.directory),
        "vault": str(profile),
        "quorum": quorum,
        "nodes": nodes,
        "threshold": threshold,
        "base_port": plan.base_port,
        "policy": policy,
        "next": [f"keycairn vault up {directory}", f"export KEYCAIRN_VAULT={profile}"],
    }
    text = (
        f"made a {quorum} vault in {plan.directory}\n"
        f"  up to {threshold} of {nodes} nodes may fall to an attacker; {threshold + 1} sign\n"
        f"  a key may be used once this holds: {policy}\n"
        f"next: keycairn vault up {directory}\n"
        f"      export KEYCAIRN_VAULT={profile}"
    )
    output.result(result, text)
