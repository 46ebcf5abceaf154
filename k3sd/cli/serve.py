"""Commands whose work is elsewhere: ``server``, ``agent``, ``killall``."""

from __future__ import annotations

from collections.abc import Sequence

from k3sd.config.options import Role


def server(argv: Sequence[str]) -> int:
    """``k3sd server``, reached with global flags in front or for its help."""
    return _serve("server", argv)


def agent(argv: Sequence[str]) -> int:
    """``k3sd agent``, likewise."""
    return _serve("agent", argv)


def _serve(role: Role, argv: Sequence[str]) -> int:
    if {"-h", "--help", "-help"} & set(argv):
        from k3sd.config.commandline import build_parser

        build_parser(role).print_help()
        return 0
    from k3sd.server import main

    return main(role, argv)


def killall(argv: Sequence[str]) -> int:
    """``k3sd killall``."""
    if argv:
        print("usage: k3sd killall\n\nStop all pods and remove every process, mount, namespace, link and nft table k3sd made.")
        return 0 if argv[0] in ("-h", "--help") else 2
    from k3sd.killall import main

    return main()
