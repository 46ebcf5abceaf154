"""Pod and service networking of one node; the only package that changes kernel networking.

``cni`` writes what the distribution's plugins read, ``links`` makes the service link, ``servicemap`` and ``rules`` (pure) turn
Services into an nftables ruleset, ``nft`` applies it, ``proxy`` keeps it current, ``dns`` answers names, ``cleanup`` removes
all of it.
"""
