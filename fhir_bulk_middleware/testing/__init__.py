"""For adapter authors: suites that prove a promise kept, and what tests of a protected server need."""
