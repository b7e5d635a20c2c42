"""A change of the affinity store is reported once it has lasted, with the time at which it began."""

from router_service.change_watch import STORE_SECONDS, ChangeTimes, ChangeWatch


def test_a_store_that_is_late_once_is_no_change_and_one_that_is_away_is() -> None:
    now = [100.0]
    watch, times = ChangeWatch(lambda: now[0]), ChangeTimes(lambda: now[0])
    seen = []

    def look(up: bool, seconds: float) -> None:
        now[0] += seconds
        for change in watch.look((), up):
            times.note(change)
            seen.append((change["before"], change["after"]))

    for up in (True, False, True, False, True):
        look(up, STORE_SECONDS - 1)
    assert seen == []
    look(False, 1)
    look(False, STORE_SECONDS)
    look(False, 60)
    look(True, 1)
    look(True, STORE_SECONDS)
    assert seen == [("up", "lost"), ("lost", "up")]
    began = 100 + 5 * (STORE_SECONDS - 1) + 1
    assert dict(times.recent())["affinity_store", "", "", "lost"] == began
