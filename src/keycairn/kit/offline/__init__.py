"""The offline tool of the recovery kit: verifies ERS documents and recovers keys, on bare Python.

Python 3.8 or newer and its standard library are all that it needs: in ten years nobody has today's
wheels. It is packed as ``keycairn-offline.pyz`` into every kit (:mod:`keycairn.kit.pyz`) and
imports nothing but the standard library and itself, which a test holds.

**This package has its own primitives** (curves, RSA-OAEP, AES, Keccak, RIPEMD-160), because the
standard library has none. It is the one exception from the project's rule to use well-kept
libraries for them; everything else in keycairn keeps to the rule. They are written to be read, one
file each, and tests compare every one of them with those libraries. **None of it takes constant
time**: it is for the owner's own machine, disconnected, with nobody else on it. Nodes never run it.

To read it in order:

=================== ==========================================================================
``errors``          the one exception, its codes and exit codes
``encoding``        hashes of the proof, canonical CBOR
``curves``          secp256k1, P-256, Ed25519
``rsa``, ``pem``    the RSA key's checks, OAEP, private keys from PEM files
``aes``             AES, CBC and GCM
``document``        the two byte forms of a document, strictly
``proof``           the verifier (docs/ers-format.md, section 9)
``expect``          what the caller knows from elsewhere (section 9, step 2)
``recover``         the way back to the keys (section 10)
``derivation``      child keys
``addresses``       addresses and wallet formats
``forms``           the files that come out
``eddsa``           Ed25519 signatures: a kit's signer, and signing with a recovered scalar
``meeting``         a document and its RSA private key meet only in recovery
``network``         is this machine connected?
``kitfile``         the kit: zip or folder, manifest, public data
``files``           reading and writing with care
``tool``            the command line
=================== ==========================================================================
"""
