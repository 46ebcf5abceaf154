"""Why something of a pod could not be started: what a client sees as a waiting container's reason and message."""

from __future__ import annotations


class StartError(Exception):
    """``reason`` is upstream's (ErrImagePull, CreateContainerError, CrashLoopBackOff, ...), ``message`` its text.

    ``retry_seconds``: when trying again makes sense; None leaves it to the pod worker's own backoff.
    """

    def __init__(self, reason: str, message: str, retry_seconds: float | None = None) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
        self.retry_seconds = retry_seconds
