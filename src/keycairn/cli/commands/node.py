"""``keycairn node``: run, status, rejoin, peers, unban, digest, restore."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from keycairn.cli.options import command, each_operator, group, whole
from keycairn.cli.output import output
from keycairn.node.config import load_config

Config = Annotated[Path, typer.Option("--config", help="node.toml of the node")]
_PARTIAL = 7


def register(app: typer.Typer) -> None:
    """Add the group."""
    node = group("node", "Run one node, look at it, restore it.")
    app.add_typer(node)

    @command(node, "run")
    def run(config: Config) -> None:
        """Run a node in the foreground until SIGTERM or Ctrl-C.

        Prints {"event":"ready","node":…,"api":…} when it can take requests; "waiting" or
        "quarantined" with why and next when it may not. Its log goes to stderr, one JSON object
        a line.
        """
        # Imported here: only this command needs the web server.
        from keycairn.node.daemon import run_node

        run_node(load_config(config))

    @command(node, "status")
    def status(config: Config) -> None:
        """Show state (ACTIVE, WAITING or QUARANTINED) and why, incarnation, history and findings.

        A node that isn't ACTIVE takes part in nothing; what helps is in next.
        """
        [answer] = each_operator([load_config(config, {})], lambda n, _: n.status())
        output.result(answer)

    @command(node, "rejoin")
    def rejoin(
        config: Config,
        without_witnesses: Annotated[
            bool,
            typer.Option(
                "--without-witnesses",
                help="also if too few peers say what they know of this node, and its anchor is "
                "gone: bans and revocations since the backup may be missing",
            ),
        ] = False,
    ) -> None:
        """Let a node that is QUARANTINED (or WAITING for peers that are lost) act again.

        Its database is older than its last word, and stays so: know why before you run this, and
        that no copy of this node runs anywhere. Bans and revocations are taken over from the
        anchor and from peers; recovery keys that were added at run time are to be added again.
        """
        [result] = each_operator(
            [load_config(config, {})], lambda n, _: n.rejoin(without_witnesses=without_witnesses)
        )
        taken, gone = len(result["bans"]), len(result["revoked"])
        lines = [f"node {result['node']} is {result['state']}, in era {result['era']}"]
        asked = ", ".join(map(str, result["asked"])) or "nobody"
        lines.append(
            f"asked: {asked}; anchor: {'yes' if result['anchor'] else 'no'}; taken over: "
            f"{taken} ban{'' if taken == 1 else 's'}, {gone} "
            f"revocation{'' if gone == 1 else 's'}"
        )
        if result["missing"] is not None:
            when = datetime.fromtimestamp(result["missing"]["since_us"] // 1_000_000, UTC)
            lines.append(f"may be missing: {result['missing']['what']} (since {when.isoformat()})")
        lines.append("next: keycairn doctor shows keys that are behind; add recovery keys again")
        output.result(result, "\n".join(lines))

    @command(node, "peers")
    def peers(config: Config) -> None:
        """Show what a running node knows about its peers, bans in force and lifted ones."""
        [answer] = each_operator([load_config(config, {})], lambda n, _: n.peers())
        output.result({"peers": answer})

    @command(node, "unban")
    def unban(
        peer: Annotated[int, typer.Argument(parser=whole, help="player number of the peer")],
        config: Config,
    ) -> None:
        """Lift this node's ban of a peer: its operator's decision, and for this node only.

        The peer failed a check that only a cheater fails: know why before you run this. What was
        made with it is dropped and made anew. It may have learned bits of this node's shares:
        the keys that both hold ask for a refresh, and doctor says so until they had one.
        """
        [result] = each_operator([load_config(config, {})], lambda n, _: n.unban(peer))
        lifted, keys = len(result["lifted"]), len(result["refresh"])
        lines = [f"lifted {lifted} ban{'' if lifted == 1 else 's'} of player {peer}"]
        if not lifted:
            lines = [f"player {peer} was not banned by this node"]
        if result["banned"]:
            lines = [f"player {peer} was banned anew: it is still banned"]
        if keys:
            lines.append(f"{keys} key{'' if keys == 1 else 's'} should be refreshed: see doctor")
        output.result(result, "\n".join(lines))

    @command(node, "digest")
    def digest(config: Config) -> None:
        """Print the state digest: equal before and after what changed nothing.

        Asks the running node; reads the database itself if none runs.
        """
        from keycairn.cli.bundles import digest_of

        value = asyncio.run(digest_of(load_config(config, {})))
        output.result({"digest": value}, value)

    @command(node, "restore")
    def restore(
        bundle: Annotated[str, typer.Argument(help="a bundle of the node: a path, or s3://…")],
        into: Annotated[Path, typer.Option("--into", help="the node's directory, absent or empty")],
        identity: Annotated[
            Path, typer.Option("--identity", help="age identity that opens the bundle")
        ],
        mapping: Annotated[
            Path | None, typer.Option("--map", help="TOML with new addresses and paths")
        ] = None,
        secret_file: Annotated[
            Path | None, typer.Option("--secret-file", help="master secret, if it has moved")
        ] = None,
        public_key: Annotated[
            str | None,
            typer.Option("--public-key", help="the node's identity key as its peers pin it"),
        ] = None,
        player: Annotated[
            int | None, typer.Option("--node", parser=whole, help="refuse bundles of other nodes")
        ] = None,
        peer_config: Annotated[
            Path | None,
            typer.Option("--peer-config", help="node.toml of a peer, for the node's pin"),
        ] = None,
        put_back: Annotated[
            bool,
            typer.Option("--put-back", help="launch files to where they were, if none is there"),
        ] = False,
        skip_checks: Annotated[
            bool, typer.Option("--skip-checks", help="don't run the checks of external items")
        ] = False,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="check everything, write nothing")
        ] = False,
        vault: Annotated[
            Path | None,
            typer.Option("--vault", envvar="KEYCAIRN_VAULT", help="vault.toml, for the node's pin"),
        ] = None,
    ) -> None:
        """Bring a node's directory back from its bundle, in one step or not at all.

        Refuses to overwrite anything. No presignature or nonce comes back: the next start is a
        new incarnation.
        """
        from keycairn.cli.bundles import restore_node

        work = restore_node(
            bundle,
            into,
            identity,
            mapping=mapping,
            secret_file=secret_file,
            public_key=public_key,
            player=player,
            dry_run=dry_run,
            vault=vault,
            peer_config=peer_config,
            put_back=put_back,
            checks=not skip_checks,
        )
        with output.working("restoring"):
            result = asyncio.run(work)
        lines = [f"{s['step']}. {s['name']}: {s['answer']}, {s['words']}" for s in result["steps"]]
        password = result["database"]["password"]
        if password:
            lines.append(f"password of the database: {password['source']} {password['where']}")
        lines += [f"external: {e['name']}, {e['where']}: {e['words']}" for e in result["external"]]
        lines += [f"launch file: {x['original']} as {x['file']}" for x in result["launch"]]
        lines += [f"change: {c['key']} = {c['to']}" for c in result["changes"]]
        if result["peers"] is not None:
            told = result["peers"]
            words = {"yes": "the records fit", "no": "NOT all records fit"}
            lines.append(
                f"peers asked {told['asked']}: {words.get(told['answer'], 'none answered')} "
                f"({told['compared']} keys compared)"
            )
        lines += [f"finding: {f['words']}" for f in result["findings"]]
        lines += [f"next: {n}" for n in result["next"]]
        output.result(result, "\n".join(lines))
