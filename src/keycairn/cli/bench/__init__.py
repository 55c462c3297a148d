"""``keycairn bench``: what this machine makes of the protocols, and of a vault of processes.

Every figure stands beside the primitives that it is made of, measured in the same run, and beside
the floor of its method: what the library calls alone would cost. On another machine, or on one that
others use as well, the ratios hold where milliseconds don't::

    machine, sample       what ran, and how many runs become a figure
    lockstep, cast        all players of a protocol in this process, one after the other
    primitives, floors    what figures are compared with
    targets, baseline     what they shall be, and what they were
    setup, dkg, ecdsa,
    schnorr, ers          the figures of one party
    system                real processes, links, databases and a client

Nothing in here is fit for real keys: benches deal them.
"""
