"""``python3 -m k3sd``: choose the part to run before anything is imported, because the parent of a server must stay tiny."""

from __future__ import annotations

import sys


def main() -> int:
    """Run what the first word names; returns the exit code."""
    argv = sys.argv[1:]
    first = argv[0] if argv else ""
    if first in ("server", "agent") and not {"-h", "--help", "-help"} & set(argv):
        from k3sd.server import main as run_parent

        return run_parent(first, argv[1:])
    if first == "_control-plane":
        from k3sd.controlplane import main as run_control_plane

        return run_control_plane()
    if first == "_node":
        from k3sd.node import main as run_node

        return run_node()
    from k3sd.cli.main import main as run_cli

    return run_cli(argv)


if __name__ == "__main__":
    sys.exit(main())
