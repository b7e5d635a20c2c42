"""A change of the affinity store is reported once it has lasted, with the time at which it began."""

from router_service.change_watch import MOST_SHOWN, SHOWN_SECONDS, STORE_SECONDS, ChangeTimes, ChangeWatch


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


def test_the_series_of_changes_end_and_are_bounded() -> None:
    now = 1000.0
    times = ChangeTimes(lambda: now)
    for number in range(MOST_SHOWN + 10):
        times.note({"kind": "backend_left", "pool": "general", "backend": f"pod-{number}"})
    assert len(times.recent()) == MOST_SHOWN
    now += SHOWN_SECONDS - 1
    times.note({"kind": "backend_left", "pool": "general", "backend": "pod-last"})
    now += 2
    assert [labels[2] for labels, _ in times.recent()] == ["pod-last"]
