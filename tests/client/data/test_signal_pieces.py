"""Filters, rates and pieces: known answers, and counts by formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedward.client.data.signal_pieces import (
    Prepared,
    fits,
    new_length,
    piece,
    prepared,
    rhythm,
    starts,
)
from fedward.study.errors import DataError, StudyError
from fedward.study.signal_data import SignalData
from tests.client.data.conftest import SignalStudy

RATE = 200.0


def data(**keys: object) -> SignalData:
    return SignalData.model_validate(
        {"kind": "signals", "channels": ("a",), "rate": RATE, "length": 8, **keys}
    )


def sine(hertz: float, seconds: float = 20, rate: float = RATE) -> NDArray[np.float64]:
    samples: NDArray[np.float64] = np.sin(
        2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate
    )[None]
    return samples


def middle(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    quarter = samples.shape[-1] // 4
    return samples[..., quarter:-quarter]


@pytest.mark.parametrize(
    ("band", "passing", "removed"),
    [
        ({"low": 0.5, "high": 40.0}, 10.0, (0.02, 80.0)),
        ({"low": 5.0}, 20.0, (0.5,)),
        ({"high": 20.0}, 3.0, (60.0,)),
    ],
)
def test_a_sine_in_the_band_passes_unshifted_and_one_outside_is_removed(
    band: dict[str, float], passing: float, removed: tuple[float, ...]
) -> None:
    wanted = data(band=band)

    kept = prepared(sine(passing), RATE, wanted).samples
    assert np.abs(middle(kept) - middle(sine(passing))).max() < 0.01
    for hertz in removed:
        gone = prepared(sine(hertz, seconds=120), RATE, wanted).samples
        assert np.abs(middle(gone)).max() < 0.02


def test_an_offset_is_removed_up_to_the_very_ends_by_a_slow_edge() -> None:
    found = prepared(np.full((1, 4000), 7.0), RATE, data(band={"low": 0.5})).samples

    assert np.abs(found).max() < 1e-6


def test_halving_the_rate_keeps_slow_waves_and_removes_what_would_fold() -> None:
    wanted = data(rate=100.0)

    slow = prepared(sine(7.0), RATE, wanted).samples
    assert slow.shape == (1, 2000)
    assert np.abs(middle(slow) - middle(sine(7.0, rate=100.0))).max() < 0.01
    fast = prepared(sine(80.0), RATE, wanted).samples  # would fold to 20 Hz
    assert np.abs(middle(fast)).max() < 0.01


@pytest.mark.parametrize("rate", [100.0, 128.0, 250.0, 257.3, 1000 / 3])
def test_any_rate_keeps_a_wave_and_its_place(rate: float) -> None:
    found = prepared(sine(5.0, rate=rate), rate, data()).samples

    time = np.arange(found.shape[-1]) / RATE
    assert np.abs(middle(found) - middle(np.sin(2 * np.pi * 5 * time)[None])).max() < 0.02
    assert found.shape[-1] == new_length(round(20 * rate), rate, data())


def test_a_constant_stays_constant_through_resampling() -> None:
    found = prepared(np.full((1, 500), 1e6), 360.0, data()).samples

    assert found == pytest.approx(1e6, rel=1e-6)


@pytest.mark.parametrize("rate", [0.0, -1.0, 1e-6, 1.9, 1e9, math.nan, math.inf])
def test_absurd_rates_are_refused_before_anything_is_allocated(rate: float) -> None:
    with pytest.raises(DataError, match="samples a second"):
        new_length(10**9, rate, data())


def test_a_rate_too_low_for_the_band_is_refused() -> None:
    with pytest.raises(DataError, match="too few for a band"):
        prepared(np.zeros((1, 500)), 70.0, data(band={"high": 40.0}))


@given(
    length=st.integers(1, 500),
    window=st.integers(1, 60),
    stride=st.integers(1, 70),
    pad=st.booleans(),
)
def test_windows_are_as_many_as_the_formula_says(
    length: int, window: int, stride: int, pad: bool
) -> None:
    wanted = data(
        length=window,
        cut={"by": "sliding", "stride": stride},
        shorter="pad" if pad else "refuse",
    )

    found = [s for s in starts(length, wanted) if pad or fits(s, length, wanted)]

    if pad:
        assert len(found) == 1 + math.ceil(max(length - window, 0) / stride)
        assert stride > window or found[-1] + window >= length  # the end is in a record
    else:
        assert len(found) == (0 if length < window else (length - window) // stride + 1)
    assert found == [n * stride for n in range(len(found))]


@given(start=st.integers(-12, 30), length=st.integers(1, 24))
def test_a_padded_piece_is_the_recording_where_it_is_and_says_where(
    start: int, length: int
) -> None:
    samples = 1.0 + np.arange(length, dtype=np.float64)[None]
    wanted = data(shorter="pad")

    found = piece(prepared(samples.copy(), RATE, wanted), start, wanted)

    for place in range(8):
        inside = 0 <= start + place < length
        expected = (samples[0, start + place], 1.0) if inside else (0.0, 0.0)
        assert tuple(found[:, place]) == expected


def test_centers_and_scales_belong_to_their_channels() -> None:
    wanted = data(channels=("a", "b"), center=(1.0, 10.0), scale=(2.0, 5.0))

    found = piece(prepared(np.stack([np.full(8, 5.0), np.full(8, 0.0)]), RATE, wanted), 0, wanted)

    assert found.dtype == np.float32
    assert found[0].tolist() == [2.0] * 8
    assert found[1].tolist() == [-2.0] * 8


def test_the_rhythm_of_a_beat_is_its_two_distances_whatever_the_unit() -> None:
    marks = np.array([0.0, 1.0, 1.5, 2.5, 3.5, 13.5, 13.6, 12.0])  # the sixth follows a long pause
    same = np.array([True, True, True, True, True, True, True])

    found = rhythm(marks, same)

    # No beat before the first; the last but one has none after it in time, nor the last before it.
    assert found == pytest.approx([0, 1, -1, 0, -2, 2, 0, 0])
    assert rhythm(360 * marks, same) == pytest.approx(found)
    assert not rhythm(marks, ~same).any()
    assert rhythm(marks, np.array([True, True, False, True, True, True, True]))[:4] == (
        pytest.approx([0, 1, 0, 0])
    )
    assert rhythm(marks[:1], same[:0]).tolist() == [0]
    assert rhythm(marks[:0], same[:0]).shape == (0,)


def test_all_of_a_piece_is_written_before_it_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Prepared(np.ones((3, 1, 8)), None)
    monkeypatch.setattr(np, "empty", lambda shape, dtype: np.full(shape, np.nan, dtype))

    records = piece(whole, 0, data(rhythm=True), np.array([-1, 0, 2], dtype=np.float32))

    assert records.tolist() == [[[1.0] * 8, [beat] * 8] for beat in (-1, 0, 2)]


def test_a_padded_piece_has_its_rhythm_where_the_recording_is() -> None:
    whole = Prepared(np.arange(1.0, 7.0)[None], None)

    record = piece(whole, 4, data(shorter="pad", rhythm=True), 0.5)

    assert record.tolist() == [[5, 6] + [0] * 6, [0.5, 0.5] + [0] * 6, [1, 1] + [0] * 6]


def test_a_gap_is_refused_or_zero_after_scaling_and_touches_nothing_else() -> None:
    samples = np.full((1, 400), 3.0)
    samples[0, 100:104] = np.nan
    refusing, zero = data(length=100), data(length=100, gaps="zero", center=(1.0,))

    whole = prepared(samples.copy(), RATE, refusing)
    assert (piece(whole, 0, refusing) == 3.0).all()
    with pytest.raises(DataError, match="missing in channel 'a'"):
        piece(whole, 100, refusing)
    found = piece(prepared(samples.copy(), RATE, zero), 98, zero)[0]
    assert found.tolist() == [2.0] * 2 + [0.0] * 4 + [2.0] * 94


@given(
    rate=st.sampled_from([50.0, 100.0, 200.0, 333.0, 800.0]),
    start=st.integers(0, 300),
    length=st.integers(1, 40),
)
def test_no_sample_that_a_gap_touches_survives_resampling(
    rate: float, start: int, length: int
) -> None:
    samples = np.zeros((1, 400))
    samples[0, start : start + length] = np.nan
    missing = np.flatnonzero(np.isnan(samples[0])) / rate

    gaps = prepared(samples, rate, data()).gaps

    assert gaps is not None
    times = np.arange(gaps.shape[-1]) / RATE
    near = np.abs(times[:, None] - missing).min(axis=1)
    reach = max(1 / rate, 1 / RATE)
    assert gaps[0][near < reach - 1e-9].all()
    assert not gaps[0][near > reach + 1e-9].any()


def test_a_gap_does_not_ring_in_a_filter() -> None:
    samples = np.full((1, 4000), 5.0)
    samples[0, 2000:2100] = np.nan

    found = prepared(samples, RATE, data(band={"low": 0.5, "high": 40.0}))

    assert np.abs(found.samples).max() < 1e-6
    assert found.gaps is not None
    assert int(found.gaps.sum()) == 100


def test_infinity_is_refused() -> None:
    with pytest.raises(DataError, match="infinite"):
        prepared(np.array([[0.0, np.inf] * 8]), RATE, data(gaps="zero"))


@pytest.mark.parametrize(
    "keys",
    [
        {"band": {"low": 60}},
        {"band": {"high": 50}},
        {"band": {"low": 5, "high": 4}},
        {"units": ["mV", "mV"]},
        {"center": [0, 0]},
        {"cut": {"by": "annotation", "before": 9}},
        {"cut": {"by": "sliding", "stride": 4}, "rhythm": True},
        {"channels": ["a", "a"]},
        {"gaps": "guess"},
    ],
)
def test_impossible_studies_are_refused(signal_study: SignalStudy, keys: dict[str, object]) -> None:
    with pytest.raises(StudyError):
        signal_study(**keys)
