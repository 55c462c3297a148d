"""node.toml: what is refused, and that the text tells the operator what to change."""

from pathlib import Path

import pytest

from keycairn.curves import ED25519
from keycairn.errors import Code, KeycairnError
from keycairn.node.config import load_config
from keycairn.node.identity import create_identity, load_identity
from keycairn.ports.seeded import SeededRng

TWO, THREE = (ED25519.base_mul(k).encode().hex() for k in (2, 3))

GOOD = """
[vault]
id = "v1"
[player]
index = 1
identity_key_file = "identity.key"
[[peers]]
index = 2
public_key = "{two}"
address = "wss://127.0.0.1:9002"
[[peers]]
index = 3
public_key = "{three}"
address = "incoming"
[encryptor]
kind = "keyfile"
secret_file = "../operator1/master.key"
[api]
listen = "127.0.0.1:8081"
[links]
listen = "127.0.0.1:9001"
[management]
listen = "127.0.0.1:9091"
[[applications]]
name = "default"
key_sha256 = "{key}"
[operations.ecdsa]
sign = true
""".format(two=TWO, three=THREE, key="aa" * 32)


BACKUP = """[backup]
schedule = "6h"
targets = ["/mnt"]
recipients = ["age1x"]
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(text)
    path.chmod(0o600)
    return path


def refused(tmp_path: Path, text: str, environment: dict[str, str] | None = None) -> KeycairnError:
    with pytest.raises(KeycairnError) as caught:
        load_config(write(tmp_path, text), environment or {})
    return caught.value


def test_good_file_with_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD), {})
    assert config.players == (1, 2, 3)
    assert config.database == tmp_path / "data" / "node.db"
    assert config.data_directory == tmp_path / "data"
    assert config.encryptor.secret_file == tmp_path.parent / "operator1" / "master.key"
    assert config.profile == "production"
    assert config.backup.require == "ers or node_backup"
    assert config.backup.gate == ("address", "sign")
    assert config.api.url == "http://127.0.0.1:8081"


def test_operations_are_off_until_switched_on(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, GOOD), {}).operations == {"ecdsa.sign"}


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ('id = "v1"', 'id = "v1"\nidd = "x"', "idd"),
        ("[links]", "[linkz]\nx = 1\n[links]", "linkz"),
        ("sign = true", "sign = true\nsing = true", "sing"),
        ("sign = true", 'sign = "yes"', "sign"),
        ("index = 1", "index = true", "index"),
        ("index = 1", 'index = "1"', "index"),
        ("index = 1", "index = 0", "index"),
        ("index = 1", "index = 1.0", "index"),
        ('id = "v1"', 'id = ""', "id"),
        ('id = "v1"', 'id = "../etc"', "id"),
        ('listen = "127.0.0.1:9001"', "", "listen"),
        ('"127.0.0.1:8081"', '"127.0.0.1:80810"', "listen"),
        ('"127.0.0.1:8081"', '"127.0.0.1"', "listen"),
        ('"' + TWO + '"', '""', "public_key"),
        ('"' + TWO + '"', '"' + THREE + '"', "public key"),
        ('"' + TWO + '"', '"01' + "00" * 31 + '"', "prime-order"),
        ('"wss://127.0.0.1:9002"', '"http://127.0.0.1:9002"', "address"),
        ('"wss://127.0.0.1:9002"', '"wss://user:pw@127.0.0.1:9002"', "address"),
        ('"' + "aa" * 32 + '"', '"aa"', "key_sha256"),
        ('kind = "keyfile"', 'kind = "none"', "kind"),
        ('kind = "keyfile"', 'kind = "keyfile"\nsecret_env = "X"', "secret_env"),
        ("[links]", '[backup]\nkeep = "3"\n[links]', "keep"),
        ("[links]", "[backup]\nkeep = { hourly = 3 }\n[links]", "keep"),
        ("[links]", '[backup]\nschedule = "0 3 * * *"\n[links]', "schedule"),
        ("[links]", BACKUP.replace("6h", "often") + "[links]", "schedule"),
        ("[links]", BACKUP.replace("/mnt", "s3://B_ad") + "[links]", "targets"),
        ("[links]", BACKUP + '[[backup.external]]\nname = "dns"\n[links]', "external"),
        ("[links]", '[database]\nurl = "postgresql://x"\n[links]', "url"),
        ("[links]", '[database]\npassword_env = "P"\n[links]', "only a server"),
        (
            "[links]",
            '[database]\nurl = "mariadb://n@127.0.0.1/s"\npassword_env = "P"\n'
            'password_file = "f"\n[links]',
            "one of",
        ),
        ("[links]", "[limits]\nsession_seconds = 0\n[links]", "session_seconds"),
    ],
)
def test_what_it_does_not_understand_is_named(
    tmp_path: Path, old: str, new: str, names: str
) -> None:
    assert old in GOOD
    error = refused(tmp_path, GOOD.replace(old, new, 1))
    assert error.code is Code.MALFORMED
    assert names in error.message
    assert "node.toml" in error.message


@pytest.mark.parametrize(
    "policy",
    ['gate = ["sing"]', 'require = "ers or"', 'require = ""', 'require = "none or ers"'],
)
def test_backup_policy_that_says_nothing(tmp_path: Path, policy: str) -> None:
    error = refused(tmp_path, GOOD.replace("[links]", f"[backup.policy]\n{policy}\n[links]"))
    assert error.code is Code.MALFORMED
    assert "backup.policy" in error.detail["field"]


def test_backup_policy_that_this_vault_cannot_meet(tmp_path: Path) -> None:
    policy = '[backup.policy]\nrequire = "ers and redundancy >= 2"\n[links]'
    assert refused(tmp_path, GOOD.replace("[links]", policy)).code is Code.POLICY


def test_backup_section_is_read(tmp_path: Path) -> None:
    more = """jitter_seconds = 60
keep = { last = 3, daily = 7, weekly = 4 }
[[backup.external]]
name = "dns"
where = "zone example.org"
how = "write the record again"
check = "host node2.example.org"
[links]"""
    targets = BACKUP.replace('"/mnt"', '"/mnt", "s3://bucket/node2?region=eu-west-1", "beside"')
    text = GOOD.replace("[links]", targets + more, 1)
    found = load_config(write(tmp_path, text), {}).backup
    assert found.targets == (
        "/mnt",
        "s3://bucket/node2?region=eu-west-1",
        str(tmp_path / "beside"),
    )
    assert found.schedule is not None
    assert (found.schedule.seconds, found.jitter_seconds) == (6 * 3600, 60)
    assert (found.keep.last, found.keep.daily, found.keep.weekly) == (3, 7, 4)
    assert [item.name for item in found.external] == ["dns"]


def test_T028_threshold(tmp_path: Path) -> None:
    for t in (0, 3, 255):
        text = GOOD.replace('id = "v1"', f'id = "v1"\nthreshold = {t}')
        assert refused(tmp_path, text).code is Code.MALFORMED


def test_T006_peer_indices(tmp_path: Path) -> None:
    assert refused(tmp_path, GOOD.replace("index = 3", "index = 2")).code is Code.BAD_INDEX
    assert refused(tmp_path, GOOD.replace("index = 3", "index = 1")).code is Code.BAD_INDEX


def test_missing_file_and_broken_toml(tmp_path: Path) -> None:
    with pytest.raises(KeycairnError) as caught:
        load_config(tmp_path / "no.toml", {})
    assert caught.value.code is Code.MALFORMED
    assert "does not exist" in caught.value.message
    assert refused(tmp_path, "[vault\n").code is Code.MALFORMED


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_loose_mode_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path, GOOD)
    path.chmod(mode)
    with pytest.raises(KeycairnError) as caught:
        load_config(path, {})
    assert caught.value.code is Code.POLICY
    assert caught.value.next == f"chmod 600 {path}"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"127.0.0.1:8081"', '"0.0.0.0:8081"'),
        ('"127.0.0.1:9091"', '"0.0.0.0:9091"'),
        ("[links]", "[export]\nenabled = true\n[links]"),
    ],
)
def test_what_is_not_safe_or_not_here_yet_is_refused(tmp_path: Path, old: str, new: str) -> None:
    error = refused(tmp_path, GOOD.replace(old, new, 1))
    assert error.code is Code.POLICY
    assert error.next


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("memory", 32, 8)),
        ("target = 0", ("memory", 0, 0)),
        ("target = 5", ("memory", 5, 5)),
        ("target = 1000", ("memory", 1000, 8)),
        ("target = 100\nlow_water = 100", ("memory", 100, 100)),
        ("low_water = 0", ("memory", 32, 0)),
        ('storage = "database"', ("database", 32, 8)),
    ],
)
def test_presignatures(tmp_path: Path, text: str, expected: tuple[str, int, int]) -> None:
    section = f"[presignatures]\n{text}\n[links]" if text else "[links]"
    stock = load_config(write(tmp_path, GOOD.replace("[links]", section, 1)), {}).presignatures
    assert (stock.storage, stock.target, stock.low_water) == expected


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("target = 1001", "target"),
        ("target = -1", "target"),
        ("target = true", "target"),
        ('target = "32"', "target"),
        ("target = 1.0", "target"),
        ("target = 4\nlow_water = 5", "low_water"),
        ("low_water = 33", "low_water"),
        ("low_water = -1", "low_water"),
        ('storage = "disk"', "storage"),
        ("storage = 1", "storage"),
        ("high_water = 1", "high_water"),
    ],
)
def test_presignatures_that_are_refused(tmp_path: Path, text: str, named: str) -> None:
    error = refused(tmp_path, GOOD.replace("[links]", f"[presignatures]\n{text}\n[links]", 1))
    assert error.code is Code.MALFORMED
    assert named in error.message
    assert "[presignatures]" in error.message


def test_T120_test_hooks_refused_in_production(tmp_path: Path) -> None:
    hooks = {"KEYCAIRN_CRASH_AT": "spend"}
    error = refused(tmp_path, GOOD, hooks)
    assert error.code is Code.POLICY
    assert "KEYCAIRN_CRASH_AT" in error.message
    test = GOOD.replace('id = "v1"', 'id = "v1"\nprofile = "test"')
    assert load_config(write(tmp_path, test), hooks).profile == "test"


def test_identity_key_file(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    made = create_identity(path, SeededRng(1))
    assert path.stat().st_mode & 0o777 == 0o600
    read = load_identity(path)
    assert read.public == made.public
    assert read.private.reveal() == made.private.reveal()
    path.chmod(0o644)
    with pytest.raises(KeycairnError) as caught:
        load_identity(path)
    assert caught.value.code is Code.POLICY
    path.write_text("not a key")
    path.chmod(0o600)
    with pytest.raises(KeycairnError) as caught:
        load_identity(path)
    assert caught.value.code is Code.MALFORMED


def test_a_server_for_a_database(tmp_path: Path) -> None:
    text = GOOD.replace(
        "[links]",
        '[database]\nurl = "postgresql://n@127.0.0.1/s"\npassword_file = "../pw"\n[links]',
    )
    config = load_config(write(tmp_path, text))
    assert str(config.database) == "postgresql://127.0.0.1:5432/s"
    assert config.data_directory == tmp_path / "data"
    assert config.database_password is not None
    assert config.database_password.secret_file == tmp_path.parent / "pw"
    config = load_config(write(tmp_path, text.replace("password_file", "directory")))
    assert config.data_directory == tmp_path.parent / "pw"
    assert config.database_password is None
    for url in ("postgresql://n:pw@127.0.0.1/s", "postgresql://n@db.example/s"):
        bad = refused(tmp_path, text.replace("postgresql://n@127.0.0.1/s", url))
        assert bad.code is Code.POLICY
        assert "[database]" in bad.message
        assert bad.next
