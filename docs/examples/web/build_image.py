#!/usr/bin/python3
"""Build the sample application's image from Debian's static busybox: no registry, no container tools.

    build_image.py BUSYBOX ARCHIVE

The archive goes to <data>/agent/images/ (by default /var/lib/rancher/k3s/agent/images/), where k3sd imports it.
"""

import sys
from pathlib import Path

# The checkout this file is in, or the installed package.
for place in (*Path(__file__).resolve().parents, Path("/usr/share/k3sd")):
    if (place / "k3sd" / "__main__.py").is_file():
        sys.path.insert(0, str(place))
        break

from k3sd.kubelet.ociarchive import File, build_archive  # noqa: E402

NAME = "docker.io/library/web:1"
APPLETS = ("cat", "echo", "env", "hostname", "httpd", "ls", "nslookup", "ps", "sh", "sleep", "tar", "wget")
COMMAND = 'echo "Hello from $(hostname)" >/www/index.html && exec httpd -f -p 8080 -h /www'


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    busybox, archive = map(Path, sys.argv[1:])
    files = {
        "bin/busybox": File(busybox.read_bytes(), 0o755),
        **{f"bin/{applet}": File(link="busybox") for applet in APPLETS},
        "tmp/.keep": File(),
        "www/index.html": File(b"starting\n"),
    }
    config = {"Cmd": ["/bin/sh", "-c", COMMAND], "Env": ["PATH=/bin"], "ExposedPorts": {"8080/tcp": {}}}
    archive.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = archive.with_name(f".{archive.name}.part")
    part.write_bytes(build_archive(NAME, files, config))
    part.rename(archive)
    print(f"{NAME} is in {archive}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
