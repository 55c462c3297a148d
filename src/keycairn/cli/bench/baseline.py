"""Figures of an earlier day, checked in, and whether today's are as good.

What is compared is a row's least ratio to the floor of its method: that is the same on a slow
machine and on a fast one, and a busy one changes it little. A row passes unless it is

* more than :data:`SLACK` times the baseline's ratio, or
* more than :data:`SLACK` times what its target comes to on the machine the targets were set for,

so that a run on a loaded machine with two cores holds it, and a change that costs half the speed
does not. The file is JSON; ``keycairn bench all --write-baseline FILE`` makes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from keycairn.cli.bench.sample import rounded
from keycairn.cli.bench.targets import REFERENCE_US
from keycairn.encoding.strict import decode_json
from keycairn.errors import KeycairnError, malformed
from keycairn.ports import Clock

#: How much worse than the target, or than the baseline, a figure may be: half the speed.
SLACK: Final = 2.0


def load(path: Path | None = None) -> dict[str, Any]:
    """A baseline: ``made`` (date), ``cpu``, ``python``, and ``rows``: ratios to the floor by name,
    in thousandths.

    Args:
        path: None takes the one that this version ships with.

    Raises:
        KeycairnError: E_MALFORMED.
    """
    try:
        raw = (
            files("keycairn.cli.bench").joinpath("baseline.json").read_bytes()
            if path is None
            else path.read_bytes()
        )
        value = decode_json(raw)
        rows = value["rows"]
        if not all(type(r) is int and r > 0 for r in rows.values()):
            raise malformed("a ratio of the baseline is not a positive number of thousandths")
    except OSError as exc:
        raise malformed(f"the baseline cannot be read: {exc.strerror}") from exc
    except (KeycairnError, KeyError, TypeError, AttributeError) as exc:
        raise malformed("this is no baseline of keycairn bench") from exc
    return dict(value)


def text(rows: Sequence[Mapping[str, Any]], machine: Mapping[str, Any], clock: Clock) -> str:
    """The file for these rows."""
    day = datetime.fromtimestamp(clock.now_us() / 1e6, UTC).date().isoformat()
    ratios = {
        r["name"]: round(1000 * r["least_ratio_to_floor"])
        for r in rows
        if "least_ratio_to_floor" in r
    }
    made = {"made": day, "cpu": machine["cpu"], "python": machine["python"], "rows": ratios}
    return json.dumps(made, indent=2) + "\n"


def compare(rows: Sequence[Mapping[str, Any]], baseline: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One verdict for every row that the baseline or a target knows: name, ratio, baseline's
    ratio, allowed, ok."""
    verdicts = []
    for row in rows:
        if "least_ratio_to_floor" not in row:
            continue
        ratio, thousandths = row["least_ratio_to_floor"], baseline["rows"].get(row["name"])
        then = None if thousandths is None else thousandths / 1000
        limits = [] if then is None else [SLACK * then]
        if row["target_ms"] is not None:
            # The target in this machine's milliseconds, by the speed of a multiplication.
            curve = row["curve"]
            scale = row["microseconds"]["constant_time_mult"] / REFERENCE_US[curve]
            limits.append(SLACK * row["target_ms"] * scale / row["floor_ms"])
        if limits:
            allowed = min(limits)
            verdicts.append(
                {
                    "name": row["name"],
                    "ratio": ratio,
                    "baseline": then,
                    "allowed": rounded(allowed),
                    "ok": ratio <= allowed,
                }
            )
    return verdicts
