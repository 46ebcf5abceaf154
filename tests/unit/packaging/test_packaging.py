"""What must agree with each other: package lists, imports, units, the sample configuration, the manual, versions."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

from k3sd import __version__
from k3sd.config.options import OPTIONS

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "scripts"))

import build_docs  # noqa: E402

PACKAGE_OF = {
    "aiohttp": "python3-aiohttp",
    "configargparse": "python3-configargparse",
    "cryptography": "python3-cryptography",
    "dnslib": "python3-dnslib",
    "etcd3": "python3-etcd3",
    "google": "python3-protobuf",
    "grpc": "python3-grpcio",
    "hpack": "python3-hpack",
    "jwt": "python3-jwt",
    "multidict": "python3-aiohttp",
    "MySQLdb": "python3-mysqldb",
    "nftables": "python3-nftables",
    "prometheus_client": "python3-prometheus-client",
    "psycopg2": "python3-psycopg2",
    "pyroute2": "python3-pyroute2",
    "sdnotify": "python3-sdnotify",
    "systemd": "python3-systemd",
    "uvloop": "python3-uvloop",
    "yaml": "python3-yaml",
    "yarl": "python3-aiohttp",
}


def listed(kind: str) -> set[str]:
    lines = (ROOT / "scripts/packages.txt").read_text().splitlines()
    return {line.split()[1] for line in lines if line.startswith(f"{kind} ")}


def depends(name: str) -> set[str]:
    text = (ROOT / "debian/control").read_text().split("\nPackage: k3sd\n")[1]
    field = re.search(rf"^{name}: (.*?)^\S", text, re.MULTILINE | re.DOTALL)
    assert field
    return {entry.split()[0] for entry in field[1].split(",") if not entry.strip().startswith("$")}


def imports() -> set[str]:
    found = set()
    for path in (ROOT / "k3sd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add((node.module or "").split(".")[0])
    return found - set(sys.stdlib_module_names) - {"k3sd"}


def test_the_packages_run_time_list_is_the_control_files() -> None:
    assert depends("Depends") == listed("run")
    assert listed("database") <= depends("Suggests")


def test_every_import_has_its_package() -> None:
    missing = {module: PACKAGE_OF.get(module, "a package Debian 12 has?") for module in imports()}
    assert {module: package for module, package in missing.items() if package not in listed("run") | listed("database")} == {}


def test_the_rpm_requires_the_same() -> None:
    fedora = {
        "python3-yaml": "python3-pyyaml",
        "iptables": "iptables-nft",
        "python3-prometheus-client": "python3-prometheus_client",
    }
    text = (ROOT / "rpm/k3sd.spec").read_text()
    required = {line.split()[1] for line in text.splitlines() if line.startswith("Requires:")}
    assert required == {fedora.get(name, name) for name in listed("run")}


def test_one_version() -> None:
    assert (ROOT / "debian/changelog").read_text().startswith(f"k3sd ({__version__}) ")
    assert f"global k3sd_version {__version__}" in (ROOT / "rpm/k3sd.spec").read_text()
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_sample_configuration_is_current() -> None:
    assert (ROOT / "etc/config.yaml").read_text() == build_docs.build_sample(), "run: make sample"


def test_the_sample_configuration_is_valid_when_uncommented(tmp_path: Path) -> None:
    from k3sd.config.load import load

    text = re.sub(r"^#(?=[a-z ])", "", "\n".join(
        line for line in build_docs.build_sample().splitlines() if re.match(r"#([a-z-]+:|  - )", line)
    ), flags=re.MULTILINE)  # fmt: skip
    file = tmp_path / "config.yaml"
    file.write_text(text)
    assert [str(problem) for problem in load("server", [], {"K3S_CONFIG_FILE": str(file)}).problems] == []


@pytest.mark.parametrize("role", ["server", "agent"])
def test_the_manual_describes_every_visible_option(role: str) -> None:
    text = build_docs.build_role(role)  # type: ignore[arg-type]
    for option in OPTIONS:
        if role in option.roles and not option.hidden:
            assert build_docs.roff(option.flag) in text


@pytest.mark.spawns
def test_the_manual_is_clean_roff(tmp_path: Path) -> None:
    build_docs.main(["man", str(tmp_path)])
    for page in tmp_path.iterdir():
        done = subprocess.run(
            ["man", "--warnings", "-l", str(page)], capture_output=True, text=True, env={"MANROFFSEQ": "", "LANG": "C"}
        )
        assert (done.returncode, done.stderr) == (0, ""), page.name


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment]
    parser.read(ROOT / "systemd" / name)
    return parser


@pytest.mark.parametrize(("role", "port", "descriptor"), [("server", "6443", "apiserver"), ("agent", "10250", "kubelet")])
def test_units(role: str, port: str, descriptor: str) -> None:
    service, listener = unit(f"k3sd-{role}.service"), unit(f"k3sd-{role}.socket")
    # Names that k3sd.prepare gives its listeners.
    assert (listener["Socket"]["ListenStream"], listener["Socket"]["FileDescriptorName"]) == (port, descriptor)
    assert f'listen["{descriptor}"]' in (ROOT / "k3sd/prepare.py").read_text()
    assert service["Service"]["Type"] == "notify"
    # Shims live in the unit's group: any other KillMode would end every pod.
    assert service["Service"]["KillMode"] == "process"
    assert service["Service"]["RestartPreventExitStatus"] == "2"
    assert f"k3sd-{role}.socket" in service["Install"]["Also"]
    assert f"k3sd {role}" in service["Service"]["ExecStart"]


def test_the_stop_timeout_leaves_the_parent_its_time() -> None:
    from k3sd.procs.parent import STOP_SECONDS

    assert float(unit("k3sd-server.service")["Service"]["TimeoutStopSec"]) > STOP_SECONDS


def test_every_file_of_systemd_and_etc_is_installed() -> None:
    text = (ROOT / "Makefile").read_text()
    for path in [*(ROOT / "systemd").iterdir(), *(p for p in (ROOT / "etc").rglob("*") if p.is_file())]:
        relative = str(path.relative_to(ROOT))
        assert relative in text or f"systemd/*{path.suffix}" in text, f"make install does not install {relative}"


@pytest.mark.spawns
def test_make_install_runs_from_its_destination(tmp_path: Path) -> None:
    subprocess.run(["make", "-s", "install", f"DESTDIR={tmp_path}"], cwd=ROOT, check=True, capture_output=True)
    share = tmp_path / "usr/share/k3sd"
    code = f"import sys; sys.path[0] = '{share}'; from k3sd.__main__ import main; sys.argv = ['k3sd', '--version']; main()"
    done = subprocess.run(["/usr/bin/python3", "-B", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("k3sd version")
    installed = {path.relative_to(share) for path in share.rglob("*") if path.is_file()}
    assert Path("k3sd/__main__.py") in installed
    assert not [path for path in installed if path.suffix == ".pyc"]
