"""The recovery kit: one zip with all but the RSA private key (docs/operations/recovery-kit.md).

=============== ================================================================================
``offline``     the tool inside: standard library only, imports nothing else of keycairn
``pyz``         packs it into ``keycairn-offline.pyz``
``contents``    what goes into a kit: documents that verify, public data, path ledger
``steps``       the steps, for README.txt and the printed page alike
``page``        the printed page (PDF, QR codes)
``create``      the kit itself: manifest, signature, zip
``check``       ``keycairn kit verify``: the manifest, and each document by the library's verifier
=============== ================================================================================
"""
