"""placeholder replaced below"""

from typing import Any


def conform(obj: Any, type_: Any) -> list[str]:
    return []
