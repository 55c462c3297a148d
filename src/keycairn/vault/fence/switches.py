"""A changed configuration is a change of the node's history.

Which operations a node may do, whom it may encrypt recovery documents to and what its policy asks
for stand in node.toml, not in the database. The history notes their digest whenever an active start
finds another one than it noted last.
"""

from __future__ import annotations

from keycairn.encoding import digest, tag
from keycairn.vault.api import VaultParameters
from keycairn.vault.ports import Store

_SWITCHES = tag("fence/switches")
_CONFIG = "config"
#: How far back the last note is looked for. Further back it is made again, which does no harm.
_BACK = 1000


async def note_switches(store: Store, params: VaultParameters) -> None:
    """Note the configured allow-lists and switches, unless they are what was noted last."""
    found = digest(
        _SWITCHES,
        sorted(params.operations),
        sorted(params.ers_allowed),
        params.policy,
        sorted(params.gate),
    )
    head = await store.history_head()
    events = await store.history(after=max(0, head.length - _BACK), limit=_BACK)
    noted = [row.detail.get("switches") for row in events if row.kind == _CONFIG]
    if not noted or noted[-1] != found:
        await store.note_history(_CONFIG, {"switches": found})
