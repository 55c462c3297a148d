"""What the metrics say of presignatures and signatures."""

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from keycairn.node.metrics import Metrics


def row(key: str, players: list[int], count: int, protocol: str = "dkls23") -> dict[str, Any]:
    return {"key_id": key, "players": players, "protocol": protocol, "count": count}


def samples(metrics: Metrics, rows: list[dict[str, Any]], made: int, pool: int) -> dict[Any, float]:
    statistics = {"presignatures_made": made, "signatures": {"pool": pool, "full": 1}}
    body, _ = metrics.render({"ok": True}, [], rows, statistics)
    return {
        (s.name, *sorted(s.labels.items())): s.value
        for family in text_string_to_metric_families(body.decode())
        for s in family.samples
        if "created" not in s.name
    }


def stock(players: str, protocol: str = "dkls23") -> Any:
    return ("keycairn_presignatures", ("players", players), ("protocol", protocol))


def test_stock_is_a_sum_over_keys_and_names_none() -> None:
    metrics = Metrics()
    rows = [
        row("key-1", [1, 2], 3),
        row("key-2", [1, 2], 4),
        row("key-1", [1, 3], 5),
        row("key-3", [1, 2], 6, "frost"),
    ]
    found = samples(metrics, rows, 18, 0)
    assert found[stock("1,2")] == 7
    assert found[stock("1,3")] == 5
    assert found[stock("1,2", "frost")] == 6
    assert "key-" not in str(found)
    # What is gone is not remembered.
    found = samples(metrics, rows[:1], 18, 0)
    assert stock("1,3") not in found
    assert found[stock("1,2")] == 3


def test_counters_follow_the_services_totals() -> None:
    metrics = Metrics()
    how = {h: ("keycairn_signatures_total", ("how", h)) for h in ("pool", "full")}
    for made, pool in ((32, 0), (32, 5), (64, 40)):
        found = samples(metrics, [], made, pool)
        assert found[("keycairn_presignatures_made_total",)] == made
        assert found[how["pool"]] == pool
        assert found[how["full"]] == 1
