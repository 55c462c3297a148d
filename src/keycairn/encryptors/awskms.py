"""Kind "aws-kms": a symmetric key of AWS KMS, or of a service that speaks the same.

The key never leaves the service. Vault and node are the *encryption context*: the service
authenticates it, writes it to its log, and key policies can ask for it. Decryption names the
configured key, so that a database somebody else wrote is not opened with a key of theirs.

Credentials: with ``access_key_id`` the secret is the secret access key; without, what the
machine gives (boto3's usual chain: environment, profile, role of the machine). Permissions:
``kms:Encrypt`` and ``kms:Decrypt`` on the key.

Parameters kept: key (its ARN). Body: the service's ciphertext.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from keycairn.encoding import SecretBytes
from keycairn.encryptors.config import EncryptorConfig, read_secret
from keycairn.encryptors.faults import absent, away, denied, lacks_extra, refused, sealed, shown
from keycairn.encryptors.port import Binding, Environ, Kind, Option, Wrapped
from keycairn.encryptors.transit import require_safe_url
from keycairn.errors import KeycairnError
from keycairn.ports import Rng

_SECONDS = 10
_MAX_CIPHERTEXT = 6144
_ALGORITHM = "SYMMETRIC_DEFAULT"
_DENIED = {
    "AccessDeniedException", "ExpiredTokenException", "IncompleteSignature", "InvalidClientTokenId",
    "MissingAuthenticationToken", "SignatureDoesNotMatch", "UnrecognizedClientException",
}  # fmt: skip
_STATE = {"DisabledException", "KMSInvalidStateException", "InvalidStateException"}
_UNFIT = {"InvalidKeyUsageException", "UnsupportedOperationException", "ValidationException"}


class KmsEncryptor:
    """See the module."""

    def __init__(self, config: EncryptorConfig, rng: Rng, environ: Environ | None) -> None:
        self._config = config
        self._environ = environ
        options = config.options
        self._key: str = options["key"]
        self._endpoint: str | None = options["endpoint"]
        if self._endpoint is not None:
            self._endpoint = require_safe_url(self._endpoint, "endpoint")
        if (options["access_key_id"] is None) != (config.source == ""):
            raise refused(
                "[encryptor] takes `access_key_id` and a source of the secret access key "
                "together, or neither"
            )

    # -- the port

    def wrap(self, master: SecretBytes, binding: Binding) -> Wrapped:
        answer = self._call(
            "encrypt",
            KeyId=self._key,
            Plaintext=master.reveal(),
            EncryptionContext=binding.labels(),
            EncryptionAlgorithm=_ALGORITHM,
        )
        body, key = answer.get("CiphertextBlob"), answer.get("KeyId")
        if not isinstance(body, bytes) or not 0 < len(body) <= _MAX_CIPHERTEXT:
            raise self._odd()
        return Wrapped({"key": str(key)}, body)

    def unwrap(self, wrapped: Wrapped, binding: Binding) -> SecretBytes:
        if not 0 < len(wrapped.body) <= _MAX_CIPHERTEXT:
            raise sealed()
        was = wrapped.parameters.get("key")
        if self._is_other_key(was):
            error = sealed()
            error.message += f"; the database says that it was sealed under key {shown(was)}"
            raise error
        answer = self._call(
            "decrypt",
            KeyId=self._key,
            CiphertextBlob=wrapped.body,
            EncryptionContext=binding.labels(),
            EncryptionAlgorithm=_ALGORITHM,
        )
        plain = answer.get("Plaintext")
        if not isinstance(plain, bytes):
            raise self._odd()
        return SecretBytes(plain)

    def describe(self) -> dict[str, str]:
        options = self._config.options
        found = {"kind": "aws-kms", "region": options["region"], "key": self._key}
        if self._endpoint:
            found["endpoint"] = self._endpoint
        if options["access_key_id"]:
            found["access_key_id"] = options["access_key_id"]
        return found | {"secret": self._config.source}

    def notes(self) -> list[str]:
        try:
            data = self._call("describe_key", KeyId=self._key).get("KeyMetadata")
        except KeycairnError:
            return []  # kms:DescribeKey need not be allowed.
        said = data if isinstance(data, dict) else {}
        state = said.get("KeyState")
        if state == "PendingDeletion":
            return [
                f"KMS key {self._key} is going to be deleted: without it this node's database and "
                "all its bundles are lost"
            ]
        return []

    def _is_other_key(self, recorded: object) -> bool:
        """Whether another key is recorded than is configured, as far as names tell: an alias says
        nothing, and the regions of one key have different ARNs with the same end."""
        configured = self._key.rpartition("/")[2]
        if "alias/" in self._key or not isinstance(recorded, str):
            return False
        return recorded.rpartition("/")[2] != configured

    # -- the service

    def _client(self, ca_file: Path | None = None) -> Any:
        try:
            import boto3
            from botocore.config import Config
        except ImportError as exc:
            raise lacks_extra("boto3", "cloud", "aws-kms") from exc
        options = self._config.options
        known: dict[str, Any] = {}
        if options["access_key_id"] is not None:
            secret = read_secret(self._config, environ=self._environ).reveal()
            known = {
                "aws_access_key_id": options["access_key_id"],
                "aws_secret_access_key": secret.decode("ascii", "replace"),
            }
        return boto3.session.Session().client(
            "kms",
            region_name=options["region"],
            endpoint_url=self._endpoint,
            verify=None if ca_file is None else str(ca_file),
            config=Config(
                connect_timeout=_SECONDS,
                read_timeout=_SECONDS,
                retries={"total_max_attempts": 2, "mode": "standard"},
            ),
            **known,
        )

    def _call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        try:
            with self._config.file("ca_file") as ca_file:
                if ca_file is not None and not ca_file.is_file():
                    raise absent(
                        f"[encryptor] ca_file {ca_file} does not exist",
                        "put the certificate of the service's authority there, in PEM",
                    )
                client = self._client(ca_file)
                try:
                    answer: dict[str, Any] = getattr(client, operation)(**arguments)
                    return answer
                finally:
                    client.close()
        except KeycairnError:
            raise
        except Exception as exc:  # botocore is imported lazily: its errors are told by name
            self._explain(exc, operation)

    def _explain(self, error: Exception, operation: str) -> NoReturn:
        names = {cls.__name__ for cls in type(error).__mro__}
        if "ClientError" in names:
            self._explain_answer(error, operation)
        if names & {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"}:
            raise absent(
                "there are no credentials for AWS KMS on this machine",
                "give the machine a role that may use the key, or set access_key_id and a source "
                "of its secret access key in [encryptor]",
            ) from error
        if "BotoCoreError" not in names:
            raise error
        where = self._endpoint or f"region {self._config.options['region']}"
        raise away(
            f"AWS KMS ({where}) can't be reached: {type(error).__name__}",
            "check network, [encryptor] region and endpoint; the node starts when it answers",
        ) from error

    def _explain_answer(self, error: Any, operation: str) -> NoReturn:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code == "NotFoundException":
            raise absent(
                f"AWS KMS has no key {self._key} in region {self._config.options['region']}",
                "correct [encryptor] key and region; a key that was deleted is gone for good",
                code=code,
            ) from error
        if code in _DENIED:
            raise denied(
                f"AWS KMS refuses to {operation.replace('_', ' ')} with key {self._key}: the "
                "credentials are wrong or expired, or they lack the permission",
                "allow kms:Encrypt and kms:Decrypt on the key to this node",
                code=code,
            ) from error
        if code in _STATE:
            raise away(
                f"KMS key {self._key} is disabled or going to be deleted",
                "enable the key (or cancel its deletion), then try again",
                code=code,
            ) from error
        if code in _UNFIT:
            raise refused(
                f"KMS key {self._key} is not a symmetric key for encryption ({code})",
                "use a key of spec SYMMETRIC_DEFAULT and usage ENCRYPT_DECRYPT",
            ) from error
        if code in ("InvalidCiphertextException", "IncorrectKeyException"):
            raise sealed() from error
        raise away(
            f"AWS KMS fails: {code or 'unknown error'} (status {status})",
            "try again; if it stays, look at the service's status page",
            code=code,
        ) from error

    def _odd(self) -> KeycairnError:
        return away("AWS KMS gave an answer that makes no sense", "check [encryptor] endpoint")


AWS_KMS = Kind(
    "aws-kms",
    KmsEncryptor,
    (
        Option("key", required=True),
        Option("region", required=True),
        Option("endpoint"),
        Option("ca_file", path=True),
        Option("access_key_id"),
    ),
    source="optional",
    source_is="secret access key",
)
