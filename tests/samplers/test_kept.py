"""What is kept is bounded in bytes, and forgetting changes nothing but the speed."""

from __future__ import annotations

import pickle
import threading

from trialrun.samplers._kept import Kept


def test_what_was_read_longest_ago_is_forgotten_first() -> None:
    kept: Kept[int, str] = Kept(30)
    for key in (1, 2, 3):
        kept.put(key, str(key), 10)
    assert kept.get(1) == "1"
    kept.put(4, "4", 10)
    assert [kept.get(key) for key in (1, 2, 3, 4)] == ["1", None, "3", "4"]
    kept.put(4, "four", 20)
    assert [kept.get(key) for key in (1, 3, 4)] == [None, "3", "four"]


def test_the_newest_value_is_kept_whatever_its_size() -> None:
    kept: Kept[int, str] = Kept(30)
    kept.put(1, "1", 10)
    kept.put(2, "2", 1000)
    assert [kept.get(key) for key in (1, 2)] == [None, "2"]
    kept.make_room(30)
    assert kept.get(2) is None


def test_a_copy_begins_empty() -> None:
    kept: Kept[int, str] = Kept(30)
    kept.put(1, "1", 30)
    copy = pickle.loads(pickle.dumps(kept))
    assert (kept.get(1), copy.get(1)) == ("1", None)
    copy.put(1, "1", 20)
    copy.put(2, "2", 20)
    assert (copy.get(1), copy.get(2)) == (None, "2")


def test_threads_may_use_it_together() -> None:
    kept: Kept[int, int] = Kept(30)
    wrong: list[int] = []

    def read(first: int) -> None:
        for number in range(first, first + 20_000):
            key = number % 7
            value = kept.get(key)
            if value is None:
                kept.put(key, -key, 10)
            elif value != -key:
                wrong.append(value)

    threads = [threading.Thread(target=read, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert sum(kept.get(key) is not None for key in range(7)) == 3
