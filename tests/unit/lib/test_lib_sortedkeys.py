from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from k3sd.lib import sortedkeys
from k3sd.lib.sortedkeys import SortedKeys

KEYS = st.text(st.sampled_from("ab/-"), min_size=1, max_size=5)


@given(st.lists(st.tuples(st.booleans(), KEYS), max_size=200), KEYS, KEYS, st.integers(0, 5))
def test_behaves_like_a_sorted_set(changes: list[tuple[bool, str]], start: str, end: str, limit: int) -> None:
    chunk, sortedkeys.CHUNK = sortedkeys.CHUNK, 4
    try:
        keys, model = SortedKeys(), set[str]()
        for add, key in changes:
            if not add:
                keys.discard(key)
                model.discard(key)
            elif key not in model:
                keys.add(key)
                model.add(key)
        wanted = [k for k in sorted(model) if start <= k < end]
        assert keys.range(start, end) == wanted
        assert keys.range(start, end, limit) == (wanted[:limit] if limit else wanted)
        assert keys.count(start, end) == len(wanted)
        assert len(keys) == len(model)
    finally:
        sortedkeys.CHUNK = chunk


def test_a_hundred_thousand_keys() -> None:
    keys = SortedKeys()
    for i in range(100_000):
        keys.add(f"/registry/pods/default/{i * 7919 % 100_000:06}")
    assert keys.range("/", "0", 3) == [f"/registry/pods/default/{i:06}" for i in range(3)]
    assert keys.count("/registry/pods/default/000100", "/registry/pods/default/050000") == 49_900
