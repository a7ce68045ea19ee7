"""Parts of a vector: each value in one of them, whatever the number of threads."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward.privacy import parts
from fedward.privacy.parts import in_parts


@given(size=st.integers(0, 2000), threads=st.integers(1, 20), step=st.integers(1, 300))
def test_parts_cover_the_vector_in_order_and_begin_at_steps(
    size: int, threads: int, step: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "_WORTH_A_THREAD", 1)
        found = in_parts(lambda part: part, size, step=step, threads=threads)

    assert [i for part in found for i in range(part.start, part.stop)] == list(range(size))
    assert all(part.start % step == 0 for part in found)
    assert 1 <= len(found) <= threads


@pytest.mark.parametrize(
    ("size", "threads", "sizes"),
    [
        (0, 4, [0]),
        (1000, 4, [1000]),
        (2**18 - 1, 4, [2**18 - 1]),
        (2**18, 4, [2**17, 2**17]),
        (2**20, 4, [2**18] * 4),
        (2**20, 1, [2**20]),
        (2**20 + 5, 4, [2**18 + 4, 2**18 + 4, 2**18 + 4, 2**18 - 7]),
    ],
)
def test_a_vector_is_shared_out_evenly_if_it_is_long(
    size: int, threads: int, sizes: list[int]
) -> None:
    found = in_parts(lambda part: part.stop - part.start, size, step=4, threads=threads)

    assert found == sizes


def test_every_part_has_a_thread_and_the_first_is_the_caller_s() -> None:
    together = threading.Barrier(3, timeout=30)

    def work(_: slice) -> int:
        together.wait()
        return threading.get_ident()

    found = in_parts(work, 3 << 17, step=1, threads=3)

    assert found[0] == threading.get_ident()
    assert len(set(found)) == 3


def test_no_thread_is_left_behind() -> None:
    before = threading.active_count()
    in_parts(lambda part: part, 1 << 20, step=1, threads=4)

    assert threading.active_count() == before


def test_without_a_number_there_is_a_thread_for_each_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_cores", lambda: 3)

    assert len(in_parts(lambda part: part, 1 << 20, step=1)) == 3


def test_there_is_a_core() -> None:
    assert parts._cores() >= 1


@pytest.mark.parametrize("failing", [0, 1, 3])
def test_an_error_in_a_thread_is_raised(failing: int) -> None:
    def work(part: slice) -> None:
        if part.start == failing << 18:
            raise MemoryError(f"part {failing}")

    with pytest.raises(MemoryError, match=f"part {failing}"):
        in_parts(work, 1 << 20, step=1, threads=4)


def test_of_several_errors_the_first_part_s_is_raised() -> None:
    def work(part: slice) -> None:
        raise ValueError(f"from {part.start}")

    with pytest.raises(ValueError, match=r"from 0$"):
        in_parts(work, 1 << 20, step=1, threads=4)


@pytest.mark.parametrize("threads", [0, -1])
def test_no_thread_is_refused(threads: int) -> None:
    with pytest.raises(ValueError, match="thread"):
        in_parts(lambda part: part, 4, step=1, threads=threads)
