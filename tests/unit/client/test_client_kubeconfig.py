from __future__ import annotations

import re
from pathlib import Path

import pytest

from k3sd.client.kubeconfig import KubeconfigError, load_kubeconfig

GOOD = """
apiVersion: v1
kind: Config
current-context: default
clusters:
- {name: local, cluster: {server: "https://127.0.0.1:6443/", certificate-authority: ca.crt}}
contexts:
- {name: default, context: {cluster: local, user: me, namespace: shop}}
users:
- {name: me, user: {client-certificate-data: Q0VSVA==, client-key: /abs/key}}
"""


def test_reads_data_and_files_relative_to_the_kubeconfig(tmp_path: Path):
    path = tmp_path / "config"
    path.write_text(GOOD)
    config = load_kubeconfig(path)
    assert config.server == "https://127.0.0.1:6443"
    assert config.ca_file == str(tmp_path / "ca.crt")
    assert config.cert_data == b"CERT" and config.key_file == "/abs/key"
    assert config.namespace == "shop"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("current-context: default", ""), "current-context: not set"),
        (("cluster: local, user: me", "cluster: other, user: me"), "clusters: no entry named 'other'"),
        (("user: me, namespace", "user: you, namespace"), "users: no entry named 'you'"),
        (("https://127.0.0.1:6443/", "127.0.0.1:6443"), "expected a URL"),
        (("client-key: /abs/key", "exec: {command: x}"), "credential plugins are not supported"),
        (("client-certificate-data: ", "client-certificate-data: '*' #"), "client-certificate-data: not base64"),
        (("certificate-authority: ca.crt", "tls-server-name: x"), "tls-server-name: not supported"),
    ],
)
def test_refuses_with_a_sentence(tmp_path: Path, change: tuple[str, str], message: str):
    path = tmp_path / "config"
    text = GOOD.replace(*change)
    if "#" in text:
        text = re.sub(r"'\*' #\S+, client-key: /abs/key", "'*'", text)
    path.write_text(text)
    with pytest.raises(KubeconfigError, match=re.escape(message)):
        load_kubeconfig(path)


def test_names_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(KubeconfigError, match="No such file"):
        load_kubeconfig(tmp_path / "absent")
