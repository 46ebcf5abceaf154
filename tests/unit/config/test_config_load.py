"""Options from flags, files and environment: every option means the same everywhere, and mistakes are told with their place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from k3sd.config.commandline import build_parser, normalize_arguments
from k3sd.config.load import Loaded, explain, load
from k3sd.config.options import BY_NAME, OPTIONS, Option, Role

EXAMPLES = {"bool": "true", "int": "1234", "list": "a=1", "duration": "90s", "string": "some-text", "file": "/some/file"}
SETTABLE = [option for option in OPTIONS if option.name != "config"]


def example(option: Option) -> str:
    if option.kind == "bool" and option.default == "true":
        return "false"
    return option.choices[-1] if option.choices else EXAMPLES[option.kind]


def read(tmp_path: Path, text: str, argv: list[str] | None = None, role: Role = "server", **environ: str) -> Loaded:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return load(role, argv or [], {"K3S_CONFIG_FILE": str(file), **environ})


def complaints(loaded: Loaded) -> list[str]:
    return [str(problem) for problem in loaded.problems]


@pytest.mark.parametrize("option", SETTABLE, ids=lambda option: option.name)
def test_flag_file_and_environment_agree(option: Option, tmp_path: Path) -> None:
    role, text = option.roles[0], example(option)
    by_flag = load(role, [f"{option.flag}={text}"], {"K3S_CONFIG_FILE": str(tmp_path / "none.yaml")})
    by_file = read(tmp_path, f"{option.name}: {json.dumps(text)}\n", role=role)
    assert by_flag.values[option.name].value == by_file.values[option.name].value
    assert by_flag.values[option.name].origin == option.flag
    assert by_file.values[option.name].origin == f"{tmp_path}/config.yaml:1"
    assert by_flag.values[option.name].explicit and by_file.values[option.name].explicit
    if option.env:
        by_env = load(role, [], {option.env: text, "K3S_CONFIG_FILE": str(tmp_path / "none.yaml")})
        assert by_env.values[option.name].value == by_flag.values[option.name].value
        assert by_env.values[option.name].origin == option.env


@pytest.mark.parametrize("option", [o for o in SETTABLE if o.needs], ids=lambda option: option.name)
def test_an_option_without_its_part_is_refused_with_a_sentence(option: Option) -> None:
    loaded = load(option.roles[0], [f"{option.flag}={example(option)}"], {})
    if option.refuses(example(option)):
        assert any(problem.fatal and problem.remedy == option.needs for problem in loaded.problems)
    fine = load(option.roles[0], [f"{option.flag}={option.default_text}"], {}) if option.default_text else loaded
    if option.default_text:
        assert not [problem for problem in fine.problems if problem.fatal]


@pytest.mark.parametrize("option", [o for o in SETTABLE if o.removed], ids=lambda option: option.name)
def test_a_removed_option_says_what_to_write(option: Option) -> None:
    loaded = load(option.roles[0], [f"{option.flag}={example(option)}"], {})
    assert [problem.remedy for problem in loaded.problems if problem.fatal] == [option.removed]


@pytest.mark.parametrize("short", ["c", "t", "d", "s", "o", "i", "l"])
def test_short_flags(short: str, tmp_path: Path) -> None:
    name = next(option.name for option in OPTIONS if option.short == short)
    loaded = load("server", [f"-{short}", str(tmp_path / "x")], {})
    shown = loaded.values[name].value
    assert shown == ((str(tmp_path / "x"),) if BY_NAME[name].kind == "list" else str(tmp_path / "x"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--debug", "--node-name", "x"], ["--debug=true", "--node-name=x"]),
        (["-debug=false"], ["--debug=false"]),
        (["-t=a=b"], ["--token=a=b"]),
        (["--node-label", "-odd=1"], ["--node-label=-odd=1"]),
        (["--unknown", "x"], ["--unknown", "x"]),
        (["-v", "2"], ["--v=2"]),
        (["--token"], ["--token"]),
    ],
)
def test_command_line_follows_gos_rules(words: list[str], expected: list[str]) -> None:
    assert normalize_arguments(words) == expected


class TestPrecedence:
    def test_flag_over_file_over_environment_over_default(self, tmp_path: Path) -> None:
        text = "node-name: from-file\n"
        environ = {"K3S_NODE_NAME": "from-env"}
        assert read(tmp_path, text, ["--node-name=from-flag"], **environ).text("node-name") == "from-flag"
        assert read(tmp_path, text, **environ).text("node-name") == "from-file"
        assert read(tmp_path, "", **environ).text("node-name") == "from-env"
        assert read(tmp_path, "").text("https-listen-port") == ""
        assert read(tmp_path, "").number("https-listen-port") == 6443

    def test_the_last_scalar_wins_and_flags_replace_a_files_list(self, tmp_path: Path) -> None:
        loaded = read(tmp_path, "tls-san: [a, b]\n", ["--tls-san=c", "--tls-san", "d,e", "--token=1", "--token=2"])
        assert loaded.items("tls-san") == ("c", "d", "e")
        assert loaded.text("token") == "2"

    def test_drop_ins_replace_or_append(self, tmp_path: Path) -> None:
        directory = tmp_path / "config.yaml.d"
        directory.mkdir()
        (directory / "20-b.yml").write_text("tls-san+:\n- c\nnode-label+: z=1\n")
        (directory / "10-a.YAML").write_text("node-taint: [k=v:NoSchedule]\ntls-san+: b\n")
        (directory / "30-ignored.txt").write_text("node-name: no\n")
        loaded = read(tmp_path, "tls-san: a\nnode-taint: [x=y:NoExecute]\n")
        assert loaded.items("tls-san") == ("a", "b", "c")
        assert loaded.items("node-taint") == ("k=v:NoSchedule",)
        assert loaded.items("node-label") == ("z=1",)
        assert [Path(file).name for file in loaded.files] == ["config.yaml", "10-a.YAML", "20-b.yml"]
        assert loaded.problems == ()
        main, first, second = loaded.files
        assert loaded.values["tls-san"].origins == f"{main}:1, {first}:2, {second}:2"
        assert [loaded.origin("tls-san", item) for item in "abc"] == [f"{main}:1", f"{first}:2", f"{second}:2"]
        assert loaded.values["node-taint"].origins == f"{first}:1"

    def test_environment_names_the_file_even_against_the_flag(self, tmp_path: Path) -> None:
        (tmp_path / "other.yaml").write_text("node-name: other\n")
        loaded = read(tmp_path, "node-name: env\n", ["--config", str(tmp_path / "other.yaml")])
        assert loaded.text("node-name") == "env"

    def test_environment_lists_split_at_commas_and_component_arguments_elsewhere_do_not(self, tmp_path: Path) -> None:
        loaded = read(tmp_path, "kubelet-arg: ['feature-gates=A=true,B=false']\ndisable: 'traefik, servicelb'\n")
        assert loaded.items("kubelet-arg") == ("feature-gates=A=true,B=false",)
        assert loaded.items("disable") == ("traefik", "servicelb")

    def test_yaml_words_and_octal_numbers(self, tmp_path: Path) -> None:
        loaded = read(tmp_path, "write-kubeconfig-mode: 0644\ndebug: yes\ndisable-agent: off\ntoken:\nv: 0x10\n")
        assert loaded.text("write-kubeconfig-mode") == "0644"
        assert loaded.flag("debug") is True
        assert loaded.flag("disable-agent") is False
        assert loaded.text("token") == ""
        assert loaded.number("v") == 16


class TestMistakes:
    def test_all_are_told_at_once_with_file_line_and_nearest_name(self, tmp_path: Path) -> None:
        loaded = read(
            tmp_path, "debug: true\nnode-lable: [a=b]\nhttps-listen-port: many\nflannel-backend: vxlam\n", ["--tls-sans=x"]
        )
        file = tmp_path / "config.yaml"
        assert complaints(loaded) == [
            "--tls-sans: unknown flag 'tls-sans'; did you mean tls-san?",
            f"{file}:2: unknown option 'node-lable'; did you mean node-label?",
            f"{file}:3: https-listen-port is 'many'; write a whole number",
            f"{file}:4: flannel-backend is 'vxlam'; write one of none, vxlan, host-gw, wireguard-native",
        ]

    @pytest.mark.parametrize(
        ("text", "line", "words"),
        [
            ("a: [\n", 2, "is not valid YAML"),
            ("- a\n- b\n", 1, "is not a mapping of options to values"),
            ("debug: true\ndebug: false\n", 2, "debug is already set in line 1"),
            ("token: {a: b}\n", 1, "token has a nested value"),
            ("token: [a, b]\n", 1, "token is a list of 2 values"),
            ("debug: maybe\n", 1, "debug is 'maybe'"),
            ("\tdebug: true\n", 1, "is not valid YAML"),
        ],
    )
    def test_malformed_files(self, text: str, line: int, words: str, tmp_path: Path) -> None:
        (complaint,) = complaints(read(tmp_path, text))
        assert complaint.startswith(f"{tmp_path}/config.yaml:{line}: ") and words in complaint

    def test_deep_nesting(self, tmp_path: Path) -> None:
        (complaint,) = complaints(read(tmp_path, "token: " + "[" * 5_000 + "\n"))
        assert "is nested too deeply" in complaint

    def test_not_text(self, tmp_path: Path) -> None:
        file = tmp_path / "config.yaml"
        file.write_bytes(b"token: \xff\n")
        (complaint,) = complaints(load("server", [], {"K3S_CONFIG_FILE": str(file)}))
        assert "is not UTF-8 text" in complaint

    def test_a_file_that_cannot_be_looked_at(self, tmp_path: Path) -> None:
        complaints_ = complaints(load("server", ["--config", f"{tmp_path}/{'x' * 300}"], {}))
        assert any(text.endswith("cannot be read: File name too long; mend or remove it") for text in complaints_)

    def test_a_directory_in_place_of_the_file(self, tmp_path: Path) -> None:
        (complaint,) = complaints(load("server", ["--config", str(tmp_path)], {}))
        assert complaint == f"{tmp_path}: cannot be read: Is a directory; mend or remove it"

    def test_a_named_file_must_exist(self, tmp_path: Path) -> None:
        (complaint,) = complaints(load("server", ["-c", str(tmp_path / "none")], {}))
        assert complaint.startswith(f"--config: no such file: {tmp_path}/none")

    def test_a_huge_file_is_refused(self, tmp_path: Path) -> None:
        (complaint,) = complaints(read(tmp_path, "# " + "x" * (1 << 20) + "\n"))
        assert "is larger than" in complaint

    def test_the_other_roles_options_warn_in_a_file_and_fail_as_a_flag(self, tmp_path: Path) -> None:
        (problem,) = read(tmp_path, "disable-apiserver-lb: true\n").problems
        assert not problem.fatal
        (problem,) = load("server", ["--disable-apiserver-lb"], {}).problems
        assert problem.fatal

    def test_words_that_are_no_flags(self) -> None:
        (complaint,) = complaints(load("server", ["start"], {}))
        assert complaint == "command line: unexpected argument 'start'; k3sd server takes only flags"

    def test_a_flag_without_its_value(self) -> None:
        (complaint,) = complaints(load("server", ["--token"], {}))
        assert "expected one argument" in complaint

    def test_credentials_of_other_programs_are_no_request(self) -> None:
        assert load("server", [], {"AWS_ACCESS_KEY_ID": "x"}).problems == ()


def test_show_masks_secrets_and_names_origins(tmp_path: Path) -> None:
    loaded = read(tmp_path, "token: geheim\n", K3S_AGENT_TOKEN="geheim2")
    rows = {value.option.name: (value.shown, value.origin) for value in explain(loaded)}
    assert rows["token"] == ("********", f"{tmp_path}/config.yaml:1")
    assert rows["agent-token"] == ("********", "K3S_AGENT_TOKEN")
    assert rows["https-listen-port"] == ("6443", "default")
    assert "geheim" not in str(rows)


@pytest.mark.parametrize("role", ["server", "agent"])
def test_help_names_every_visible_option_and_variable(role: Role) -> None:
    text = " ".join(build_parser(role).format_help().split())
    for option in OPTIONS:
        if role in option.roles and not option.hidden:
            assert option.flag in text
            assert option.env in text
        elif option.hidden:
            assert f"{option.flag} " not in text


def test_the_table_is_consistent() -> None:
    assert len(BY_NAME) == len(OPTIONS)
    shorts = [option.short for option in OPTIONS if option.short]
    assert len(shorts) == len(set(shorts))
    for option in OPTIONS:
        assert option.removed or option.help, option.name
        assert not option.help.endswith("."), option.name
        assert not option.choices or option.default in option.choices, option.name
        assert set(option.works) <= set(option.choices or option.works), option.name
