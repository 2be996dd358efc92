"""Jobs of any kind: kick-off, poll, cancel, work, sweep."""
