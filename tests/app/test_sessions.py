"""Cancelling concerns one session only."""

from app.sessions import Sessions


def test_a_session_cancels_only_its_own_generations():
    sessions = Sessions()
    with sessions.generating("a") as mine, sessions.generating("b") as theirs:
        sessions.cancel("a")
        sessions.cancel("c")
        assert mine.is_set()
        assert not theirs.is_set()
    with sessions.generating("a") as again:
        assert not again.is_set()
