"""For developers: ``pip install -e .``. Packages are made with ``make install``, which lists every installed file."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"', (HERE / "k3sd/__init__.py").read_text(), re.MULTILINE)

setup(
    name="k3sd",
    version=VERSION[1] if VERSION else "0",
    description="K3s, the lightweight Kubernetes, as a systemd-integrated daemon in Python",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["k3sd", "k3sd.*"]),
    package_data={"k3sd": ["**/*.yaml", "**/*.json", "**/*.tsv", "**/*.txt"]},
    install_requires=[
        "aiohttp",
        "configargparse",
        "cryptography",
        "dnslib",
        "grpcio",
        "hpack",
        "prometheus-client",
        "protobuf",
        "pyjwt",
        "pyroute2",
        "PyYAML",
        "sdnotify",
        "uvloop",
    ],
    extras_require={"mysql": ["mysqlclient"], "postgres": ["psycopg2"]},
    entry_points={"console_scripts": ["k3sd = k3sd.__main__:main"]},
)
