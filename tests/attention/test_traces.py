"""Traces survive the disk unchanged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_extraction import MODEL, N_TEST, PROFILE

from dontblink.attention.traces import pack_traces, unpack_traces
from dontblink.errors import NamedError
from dontblink.extraction.study import iterate_traces


def test_traces_survive_the_disk_unchanged(small: Path) -> None:
    traces = list(iterate_traces(PROFILE, MODEL, "visual_reference"))
    assert [trace.item_id for trace in traces] == [f"visual_reference-test-{k:04d}" for k in range(N_TEST)]
    for trace, again in zip(traces, unpack_traces(pack_traces(traces)), strict=True):
        for name, value in vars(trace).items():
            found = getattr(again, name)
            assert type(found) is type(value) and np.shape(found) == np.shape(value)
            assert np.array_equal(found, value) if isinstance(value, np.ndarray) else found == value
    with pytest.raises(NamedError, match="no shard of nobody x visual_reference, test, in traces"):
        next(iterate_traces(PROFILE, "nobody", "visual_reference"))
