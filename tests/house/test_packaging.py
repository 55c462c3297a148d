"""The launch files that we ship: linted where the linter is here, and held to what they promise.

The compose file was not run: that needs a container engine.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

PACKAGING = Path(__file__).parents[2] / "packaging"
UNIT = PACKAGING / "systemd" / "keycairn@.service"
COMPOSE = PACKAGING / "compose" / "compose.yaml"
ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """An instance of the unit whose program exists, since the linter looks for it."""
    path = tmp_path / "keycairn@node2.service"
    path.write_text(UNIT.read_text().replace("/usr/bin/keycairn", shutil.which("true") or ""))
    return path


@needs_systemd
def test_systemd_understands_every_line_of_the_unit(unit: Path) -> None:
    done = subprocess.run(
        [ANALYZE or "", "verify", "--man=no", str(unit)], capture_output=True, text=True
    )
    ours = [line for line in done.stderr.splitlines() if "keycairn" in line]
    assert ours == []


@needs_systemd
def test_systemd_finds_the_unit_well_hardened(unit: Path) -> None:
    done = subprocess.run(
        [ANALYZE or "", "security", "--offline=true", "--no-pager", str(unit)],
        capture_output=True,
        text=True,
    )
    [level] = re.findall(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert float(level) <= 2.0, done.stdout[-2000:]


def compose() -> Any:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed (the set all)")
    return yaml.safe_load(COMPOSE.read_text())


def test_the_compose_file_gives_the_container_nothing_it_does_not_need() -> None:
    found = compose()
    node = found["services"]["node"]
    assert node["read_only"] is True
    assert node["cap_drop"] == ["ALL"]
    assert node["security_opt"] == ["no-new-privileges:true"]
    assert node["user"].split(":")[0] not in ("0", "root")
    assert node["ulimits"]["core"] == 0
    assert node["memswap_limit"] == node["mem_limit"]
    assert not {"privileged", "network_mode", "pid", "env_file", "environment"} & set(node)
    assert not any(port.endswith(":9090") for port in node["ports"])
    [backups] = [v for v in node["volumes"] if isinstance(v, dict)]
    assert backups["bind"]["create_host_path"] is False
    assert {s["source"] for s in node["secrets"]} == set(found["secrets"])


def test_the_launch_files_name_places_that_are_there() -> None:
    node = compose()["services"]["node"]
    build = COMPOSE.parent / node["build"]["context"]
    container = build / node["build"]["dockerfile"]
    for line in container.read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (build / source).exists(), source
    assert re.search(r"^ExecStart=\S+keycairn node run --config ", UNIT.read_text(), re.MULTILINE)
