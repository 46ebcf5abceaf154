"""What is wrong with a configuration or a machine, in the form every message of k3sd has: where, what, and the remedy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault. ``where`` is a place to look at: ``/etc/rancher/k3s/config.yaml:3``, ``--node-ip``, ``K3S_TOKEN`` or a part of
    the machine; ``fatal`` is false for a warning."""

    where: str
    what: str
    remedy: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.remedy}" if self.remedy else f"{self.where}: {self.what}"


class ConfigError(Exception):
    """The configuration cannot be used. Carries every problem found, so that all can be mended at once; exit code 2."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)
