"""Emergency recovery (ERS): verifiable encryption of key shares under an external RSA key.

Each holder of a batch of keys makes a :class:`~keycairn.ers.document.Part`; the parts of all
holders are a :class:`~keycairn.ers.document.Document`. Anyone can check with public data that
whoever holds the RSA private key can compute every key of the document; t+1 parts and a few RSA
decryptions bring the keys back, with no node left. docs/ers-format.md is the specification.

Reading order: ``statement`` and ``context`` (what is claimed), ``params``, ``tree`` and
``merkle`` (the two trees), ``leaf`` (one leaf), ``challenge`` (Fiat-Shamir), ``prove``,
``verify``, ``recover``. ``rsa``, ``oaep`` and ``possession`` are about the recovery key, ``cli``
is the offline tool ``keycairn-recover``. This package needs no server package and no node.

What it does not do: refreshing the shares of a key does not revoke its old documents.
"""
