"""keycairn: an open threshold-signing vault whose keys survive disaster.

Packages form floors; imports only go down (see docs/architecture.md):

``errors, encoding, ports`` < ``curves`` < ``ers`` < ``protocols`` < ``vault`` <
``store, encryptors, links`` < ``backup`` < ``node`` < ``client`` < ``operations`` < ``cli``
"""

__version__ = "0.1.0"
