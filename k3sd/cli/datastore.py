"""``k3sd datastore``: serve the store as etcd, move it, back it up, restore and check it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from k3sd.datastore.backend import DatastoreError
from k3sd.datastore.endpoint import TLS

_ENDPOINT = "the datastore, in the syntax of --datastore-endpoint (default: the configured one)"


def run(argv: Sequence[str]) -> int:
    """Exit code 1 when the store refuses or is damaged, 2 for a wrong command line or configuration."""
    parser = _parser()
    args = parser.parse_args(argv)
    if not hasattr(args, "act"):
        parser.print_help()
        return 2
    try:
        _configure(args)
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return int(runner.run(_until_signal(args.act(args))))
    except DatastoreError as e:
        print(f"k3sd datastore {args.action}: {e}", file=sys.stderr)
        return 1
    except asyncio.CancelledError:
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="k3sd datastore", description="Serve, move, back up and check the datastore.")
    actions = parser.add_subparsers(dest="action", metavar="ACTION")

    def action(
        name: str, act: Callable[[argparse.Namespace], Coroutine[Any, Any, int]], text: str, endpoint: bool = True
    ) -> argparse.ArgumentParser:
        sub = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(act=act)
        sub.add_argument("--data-dir", "-d", default="", help="K3s's data directory (default: the configured one)")
        if endpoint:
            sub.add_argument("--endpoint", default=None, help=_ENDPOINT)
            for kind in ("cafile", "certfile", "keyfile"):
                sub.add_argument(f"--datastore-{kind}", default="", metavar="FILE", help=f"TLS {kind} for the datastore")
        return sub

    serve = action("serve", _serve, "serve the datastore as etcd v3, for an upstream kube-apiserver")
    serve.add_argument(
        "--listen", default="", help="unix:///path, http://host:port or https://host:port (default: server/kine.sock)"
    )
    serve.add_argument("--cert", default="", metavar="FILE", help="certificate for https")
    serve.add_argument("--key", default="", metavar="FILE", help="its key")
    serve.add_argument("--client-ca", default="", metavar="FILE", help="ask clients for a certificate of this CA")
    move = action("migrate", _migrate, "copy everything to another datastore; goes on where it was interrupted", False)
    for side in ("from", "to"):
        move.add_argument(f"--{side}", required=True, metavar="URL", dest=f"{side}_", help=_ENDPOINT.partition(" (")[0])
        for kind in ("cafile", "certfile", "keyfile"):
            move.add_argument(f"--{side}-{kind}", default="", metavar="FILE", help=f"TLS {kind} for it")
    save = action("backup", _backup, "write a consistent backup while servers run")
    save.add_argument("file", nargs="?", type=Path, help="default: server/db/backups/<time>.db below the data directory")
    restore = action("restore", _restore, "make the datastore what a backup holds; no server may run")
    restore.add_argument("file", type=Path)
    action("check", _check, "look for damage, changing nothing")
    return parser


def _configure(args: argparse.Namespace) -> None:
    """Fill in what the configuration files and the environment say. Raises DatastoreError when they are wrong."""
    if args.data_dir and getattr(args, "endpoint", "") is not None:
        return
    from k3sd.config.load import load
    from k3sd.config.paths import DEFAULT_DATA_DIR

    loaded = load("server", [], os.environ)
    if fatal := [str(problem) for problem in loaded.problems if problem.fatal]:
        raise DatastoreError("; ".join(fatal))
    args.data_dir = args.data_dir or loaded.text("data-dir") or str(DEFAULT_DATA_DIR)
    if getattr(args, "endpoint", "") is None:
        args.endpoint = loaded.text("datastore-endpoint")
        for kind in ("cafile", "certfile", "keyfile"):
            name = f"datastore_{kind}"
            setattr(args, name, getattr(args, name) or loaded.text(f"datastore-{kind}"))


async def _until_signal(work: Coroutine[Any, Any, int]) -> int:
    """SIGTERM ends the work as SIGINT does."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    return await task


def _tls(args: argparse.Namespace) -> TLS:
    return TLS(args.datastore_cafile, args.datastore_certfile, args.datastore_keyfile)


async def _serve(args: argparse.Namespace) -> int:
    from k3sd.etcdface.server import ServerTLS, serve

    data_dir = Path(args.data_dir)
    tls = ServerTLS(args.cert, args.key, args.client_ca) if args.cert and args.key else None
    listen = args.listen or f"unix://{data_dir / 'server' / 'kine.sock'}"
    if (args.cert or args.key or args.client_ca) and not listen.startswith("https://"):
        raise DatastoreError(f"--cert, --key and --client-ca have no meaning for {listen!r}; listen on https://host:port")
    with contextlib.suppress(asyncio.CancelledError):
        await serve(
            args.endpoint,
            listen,
            data_dir=data_dir,
            cafile=args.datastore_cafile,
            certfile=args.datastore_certfile,
            keyfile=args.datastore_keyfile,
            tls=tls,
            ready=lambda: print(f"serving on {listen}", flush=True),
        )
    return 0


async def _migrate(args: argparse.Namespace) -> int:
    from k3sd.datastore.migrate import migrate

    def progress(done: int, total: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{done} of {total} keys", end="", file=sys.stderr, flush=True)

    report = await migrate(
        args.from_,
        args.to_,
        data_dir=Path(args.data_dir),
        source_tls=TLS(args.from_cafile, args.from_certfile, args.from_keyfile),
        target_tls=TLS(args.to_cafile, args.to_certfile, args.to_keyfile),
        progress=progress,
    )
    if sys.stderr.isatty():
        print(file=sys.stderr)
    counts = f"{report.copied} copied, {report.kept} were there, {report.removed} removed"
    print(f"{report.keys} keys: {counts}; sha256 {report.digest}")
    return 0


async def _backup(args: argparse.Namespace) -> int:
    from k3sd.datastore.backup import backup

    saved = await backup(args.endpoint, args.file, data_dir=Path(args.data_dir), tls=_tls(args))
    print(f"{saved.path}: revision {saved.revision}, {saved.rows} rows, {saved.size} bytes; keep server/token with it")
    return 0


async def _restore(args: argparse.Namespace) -> int:
    from k3sd.datastore.backup import restore

    restored = await restore(args.endpoint, args.file, data_dir=Path(args.data_dir), tls=_tls(args))
    print(f"restored revision {restored.revision}, {restored.rows} rows")
    return 0


async def _check(args: argparse.Namespace) -> int:
    from k3sd.datastore.backup import check

    report = await check(args.endpoint, data_dir=Path(args.data_dir), tls=_tls(args))
    for problem in report.problems:
        print(f"problem: {problem}", file=sys.stderr)
    print(f"revision {report.revision}, compacted up to {report.compact_revision}, {report.keys} keys")
    return 1 if report.problems else 0
