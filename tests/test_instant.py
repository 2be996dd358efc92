"""Instants and datetimes: every instant comes back from its datetime, in any zone."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_bulk_middleware import Instant, from_datetime, to_datetime


@given(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-3, minutes=-30)), timezone(timedelta(hours=14))])))
def test_a_datetime_comes_back_from_its_instant(moment: datetime) -> None:
    assert to_datetime(from_datetime(moment)) == moment
    assert to_datetime(from_datetime(moment)).tzinfo is UTC


def test_a_datetime_without_a_zone_is_no_instant() -> None:
    assert to_datetime(Instant(0)) == datetime(1970, 1, 1, tzinfo=UTC)
    with pytest.raises(ValueError, match="needs a time zone"):
        from_datetime(datetime(2026, 1, 1))  # noqa: DTZ001 - the case
