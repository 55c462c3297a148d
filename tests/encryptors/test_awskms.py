"""AWS KMS: what the real service says, as its documentation has it, and the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from encryptors.components import Kms, configured, missing, private
from encryptors.test_contract import HERE, MASTER, fails, unwrap, wrap
from keycairn.encryptors import EncryptorConfig, Wrapped, encryptor_of
from keycairn.encryptors.awskms import KmsEncryptor
from keycairn.errors import Code
from keycairn.ports.seeded import SeededRng

KEY = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"


@pytest.fixture
def config(tmp_path: Path) -> EncryptorConfig:
    try:
        import boto3  # noqa: F401
    except ImportError:
        missing("boto3", "pip install boto3")
    return configured(
        {
            "kind": "aws-kms",
            "key": KEY,
            "region": "eu-central-1",
            "access_key_id": "AKIDEXAMPLE",
            "secret_file": str(private(tmp_path / "secret", "wJalrXUtnFEMI")),
        }
    )


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("InvalidCiphertextException", Code.STORE_INTEGRITY),
        ("IncorrectKeyException", Code.STORE_INTEGRITY),
        ("AccessDeniedException", Code.AUTHN),
        ("ExpiredTokenException", Code.AUTHN),
        ("UnrecognizedClientException", Code.AUTHN),
        ("InvalidClientTokenId", Code.AUTHN),
        ("NotFoundException", Code.NOT_FOUND),
        ("DisabledException", Code.UNAVAILABLE),
        ("KMSInvalidStateException", Code.UNAVAILABLE),
        ("InvalidKeyUsageException", Code.POLICY),
        ("KMSInternalException", Code.UNAVAILABLE),
        ("DependencyTimeoutException", Code.UNAVAILABLE),
        ("ThrottlingException", Code.UNAVAILABLE),
        ("SomethingNew", Code.UNAVAILABLE),
    ],
)
def test_what_the_service_says_and_what_it_means(
    config: EncryptorConfig, monkeypatch: pytest.MonkeyPatch, said: str, code: Code
) -> None:
    from botocore.stub import Stubber

    real = KmsEncryptor._client

    def stubbed(self: KmsEncryptor, ca_file: Path | None = None) -> Any:
        client = real(self, ca_file)
        stubber = Stubber(client)
        for operation in ("encrypt", "decrypt"):
            stubber.add_client_error(operation, said, "words of the service", 400)
        stubber.activate()
        client.encrypt = lambda **_: stubber.client._make_api_call("Encrypt", _)
        return client

    monkeypatch.setattr(KmsEncryptor, "_client", stubbed)
    error = fails(code, lambda: wrap(config))
    assert "wJalrXUtnFEMI" not in error.message


def test_the_request_names_key_context_and_algorithm(
    config: EncryptorConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decryption names the configured key: a ciphertext under somebody else's must not open."""
    from botocore.stub import Stubber

    context = {"keycairn-vault": "vault-a", "keycairn-node": "3"}
    asked = {"KeyId": KEY, "EncryptionContext": context, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}
    real = KmsEncryptor._client

    def stubbed(self: KmsEncryptor, ca_file: Path | None = None) -> Any:
        client = real(self, ca_file)
        stubber = Stubber(client)
        stubber.add_response(
            "decrypt",
            {"Plaintext": MASTER.reveal(), "KeyId": KEY},
            {**asked, "CiphertextBlob": b"c" * 100},
        )
        stubber.activate()
        return client

    monkeypatch.setattr(KmsEncryptor, "_client", stubbed)
    assert unwrap(config, Wrapped({"key": KEY}, b"c" * 100)) == MASTER.reveal()


def test_a_key_that_is_going_to_be_deleted_is_noted(
    config: EncryptorConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.stub import Stubber

    real = KmsEncryptor._client
    state = "Enabled"

    def stubbed(self: KmsEncryptor, ca_file: Path | None = None) -> Any:
        client = real(self, ca_file)
        stubber = Stubber(client)
        answer = {"KeyMetadata": {"KeyId": KEY, "KeyState": state}}
        stubber.add_response("describe_key", answer, {"KeyId": KEY})
        stubber.activate()
        return client

    monkeypatch.setattr(KmsEncryptor, "_client", stubbed)
    encryptor = encryptor_of(config, SeededRng(1))
    assert encryptor.notes() == []
    state = "PendingDeletion"
    [note] = encryptor.notes()
    assert "going to be deleted" in note


def test_an_alias_and_a_bare_id_name_the_key_too(kms: Kms, tmp_path: Path) -> None:
    key = kms.make_key()
    kms.client().create_alias(AliasName="alias/node3", TargetKeyId=key)
    secret = private(tmp_path / "s", "x")
    wrapped = wrap(configured(kms.section(key, secret)))
    assert wrapped.parameters["key"] == key
    for name in ("alias/node3", key.rpartition("/")[2]):
        assert unwrap(configured(kms.section(name, secret)), wrapped) == MASTER.reveal()


def test_without_credentials_it_says_what_to_give(
    config: EncryptorConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    section = {"kind": "aws-kms", "key": KEY, "region": "eu-central-1"}
    error = fails(Code.NOT_FOUND, lambda: wrap(configured(section)))
    assert "access_key_id" in error.next


def test_half_of_the_credentials_is_refused(tmp_path: Path) -> None:
    section = {"kind": "aws-kms", "key": KEY, "region": "eu-central-1"}
    half = {**section, "secret_file": str(private(tmp_path / "s", "x"))}
    for values in (half, {**section, "access_key_id": "AKIDEXAMPLE"}):
        config = configured(values)
        fails(Code.POLICY, lambda config=config: encryptor_of(config, SeededRng(1)))


def test_an_endpoint_in_the_clear_is_only_for_this_machine() -> None:
    section = {"kind": "aws-kms", "key": KEY, "region": "eu-central-1"}
    config = configured({**section, "endpoint": "http://kms.example.org"})
    fails(Code.POLICY, lambda: encryptor_of(config, SeededRng(1)))


def test_the_binding_is_the_context_that_key_policies_see() -> None:
    assert HERE.labels() == {"keycairn-vault": "vault-a", "keycairn-node": "3"}
