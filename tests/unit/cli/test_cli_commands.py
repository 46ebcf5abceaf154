"""The command line from the outside: what is printed, and the exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from k3sd.cli import completion, tools
from k3sd.cli.config import run as run_config
from k3sd.cli.main import COMMANDS, main

ROOT = Path(__file__).resolve().parents[3]


def k3sd(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = ["/usr/bin/python3", "-m", "k3sd", *words]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environ, capture_output=True, text=True, check=False)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("k3sd version v1.36.2+k3sd1 (")


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(f"  {command.name} " in text for command in COMMANDS)


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sever"]) == 2
    assert "there is no command 'sever'; did you mean server?" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["token", "certificate", "etcd-snapshot", "secrets-encrypt"])
def test_commands_without_their_part_are_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name]) == 1
    assert "not there yet; " in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_target_exists(command: object) -> None:
    import importlib

    module, _, function = command.target.partition(":")  # type: ignore[attr-defined]
    assert callable(getattr(importlib.import_module(module), function))


def test_global_flags_reach_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K3S_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("K3S_DEBUG", "")
    monkeypatch.setenv("K3S_DATA_DIR", "")
    assert main(["--debug", "--data-dir", "/tmp/x", "config", "show", "--node-ip=192.0.2.1"]) == 0
    out = capsys.readouterr().out
    assert "data-dir: /tmp/x" in out and "# K3S_DATA_DIR" in out
    assert "debug: true" in out


class TestConfig:
    def test_check_is_quiet_about_good_files(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "c.yaml"
        file.write_text("node-ip: 192.0.2.1\nnode-name: n\n")
        monkeypatch.setenv("K3S_CONFIG_FILE", str(file))
        assert run_config(["check"]) == 0
        assert capsys.readouterr().out == f"the configuration is good (read: {file})\n"

    def test_check_reports_all_and_exits_2(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "c.yaml"
        file.write_text("node-ip: 192.0.2.1\nnode-nam: n\ncluster-init: true\n")
        monkeypatch.setenv("K3S_CONFIG_FILE", str(file))
        assert run_config(["check", "server"]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert lines[0] == f"error: {file}:2: unknown option 'node-nam'; did you mean node-name?"
        assert lines[1].startswith(f"error: {file}:3: cluster-init cannot be used; ")

    def test_show_is_a_configuration_file(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import yaml

        monkeypatch.setenv("K3S_CONFIG_FILE", "/dev/null")
        assert run_config(["show", "--node-ip=192.0.2.1", "--token=geheim", "--tls-san=a,b"]) == 0
        shown = yaml.safe_load(capsys.readouterr().out)
        assert shown["token"] == "********"
        assert shown["tls-san"] == ["a", "b"]
        assert shown["https-listen-port"] == 6443
        assert shown["cluster-cidr"] == "10.42.0.0/16"


def test_kubectl_finds_the_admins_kubeconfig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "k3s.yaml"
    file.touch()
    monkeypatch.setattr(tools, "ADMIN_KUBECONFIG", file)
    assert tools.kubectl_environment({})["KUBECONFIG"] == str(file)
    assert tools.kubectl_environment({"KUBECONFIG": "mine"})["KUBECONFIG"] == "mine"
    file.unlink()
    assert "KUBECONFIG" not in tools.kubectl_environment({})


def test_a_missing_tool_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(tools, "find_tool", lambda name: None)
    assert tools.crictl([]) == 1
    assert "crictl is not installed; install cri-tools" in capsys.readouterr().err


def test_tools_pass_over_k3sd_under_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = tmp_path / "a", tmp_path / "b"
    for directory in (own, other):
        directory.mkdir()
    (own / "k3sd").write_text("#!/bin/sh\n")
    (own / "k3sd").chmod(0o755)
    (own / "kubectl").symlink_to("k3sd")
    (other / "kubectl").write_text("#!/bin/sh\n")
    (other / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{own}:{other}")
    monkeypatch.setattr(sys, "argv", [str(own / "k3sd")])
    assert tools.find_tool("kubectl") == str(other / "kubectl")


@pytest.mark.spawns
class TestProcess:
    def test_server_with_wrong_flags_exits_2_before_anything_is_changed(self, tmp_path: Path) -> None:
        data = tmp_path / "data"
        done = k3sd("server", "--data-dir", str(data), "--node-lable=x", "--cluster-init", K3S_CONFIG_FILE="/dev/null")
        assert done.returncode == 2
        assert "--node-lable: unknown flag 'node-lable'; did you mean node-label?" in done.stderr
        assert "--cluster-init: cluster-init cannot be used; " in done.stderr
        assert "Traceback" not in done.stderr
        assert not data.exists()

    def test_agent_is_refused(self) -> None:
        done = k3sd("agent", K3S_CONFIG_FILE="/dev/null")
        assert (done.returncode, "joining a server is not there yet" in done.stderr) == (2, True)

    @pytest.mark.parametrize("words", [["server", "--help"], ["help", "server"], ["agent", "-h"]])
    def test_help_of_the_roles(self, words: list[str]) -> None:
        done = k3sd(*words)
        assert done.returncode == 0 and "--node-label" in done.stdout and done.stderr == ""

    def test_the_parent_stays_small(self) -> None:
        # What is loaded before options are read stays resident on every node.
        heavy = ("yaml", "asyncio", "argparse", "ssl")
        code = f"import sys, k3sd.__main__, k3sd.server; print(*(m for m in {heavy} if m in sys.modules))"
        done = subprocess.run(["/usr/bin/python3", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == ""

    def test_a_closed_pipe_is_no_failure(self) -> None:
        done = subprocess.run(
            "/usr/bin/python3 -m k3sd completion bash | head -1",
            shell=True,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""

    def test_the_bash_completion_completes(self, tmp_path: Path) -> None:
        script = tmp_path / "k3sd"
        script.write_text(completion.build_bash())
        probe = f"source {script}; COMP_WORDS=(k3sd server --flannel-b); COMP_CWORD=2; _k3sd; echo ${{COMPREPLY[@]}}"
        done = subprocess.run(["bash", "-c", probe], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "--flannel-backend"
        probe = f"source {script}; COMP_WORDS=(k3sd config sh); COMP_CWORD=2; _k3sd; echo ${{COMPREPLY[@]}}"
        done = subprocess.run(["bash", "-c", probe], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "show"


def test_zsh_completion_quotes_every_help_text() -> None:
    for line in completion.build_zsh().splitlines():
        if line.lstrip().startswith("'*--"):
            assert line.count("'") == 2 and line.count("[") == line.count("]") == 1, line
