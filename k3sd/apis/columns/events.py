"""Columns and cells of events.k8s.io/v1: those of core events."""

from __future__ import annotations

from k3sd.apis.columns import core

COLUMNS = {"Event": core.COLUMNS["Event"]}
CELLS = {"Event": core.event}
