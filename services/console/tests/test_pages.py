"""The pages of a real console over real routers: what they say, what they refuse, and what they must not show."""

import html
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from console.routers import SHARED_SECONDS
from console.shown import verdicts
from harness.ports import free_port
from harness.processes import answers, running
from harness.servers.router_fleet import BIN, MODEL
from harness.servers.running_console import Console, running_console
from harness.waiting import eventually

pytestmark = [pytest.mark.service, pytest.mark.untimed]

PAGES = (
    "/",
    "/requests",
    "/why",
    "/rules",
    "/changes",
    "/rules?model=" + MODEL,
    "/requests?slow=1&outcome=ok",
)
RECORDS, BATCH = 10_000, 100
MAX_MEMORY_BYTES = 120 * 1024 * 1024
CANARIES = ("prompt-canary-1942", "session-canary-1942", "sk-canary-1942")


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """A console with its routers, engines and Prometheus."""
    with running_console(tmp_path_factory.mktemp("console")) as found:
        yield found


def asked(console: Console, **more: object) -> str:
    """Send one request with canaries through the first router; return its id."""
    answer = console.fleet.routers[0].post(
        messages=[{"role": "user", "content": CANARIES[0]}],
        headers={
            "x-session-id": CANARIES[1],
            "authorization": f"Bearer {CANARIES[2]}",
            "x-client-id": "team-a",
        },
        **more,
    )
    assert answer.status_code == 200, answer.text
    request_id = answer.headers["x-request-id"]
    console.fleet.routers[0].record(request_id)
    return request_id


def listed(console: Console, **more: object) -> str:
    """Send a request as :func:`asked` does, and wait until no page shows an earlier reading."""
    request_id = asked(console, **more)
    time.sleep(SHARED_SECONDS)
    return request_id


class _Balance(HTMLParser):
    """Counts elements that are opened and not closed."""

    VOID = frozenset({"meta", "link", "input", "br", "hr", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if tag == "option" or (self.open and self.open[-1] == "option" and tag == "select"):
            while self.open and self.open[-1] == "option":
                self.open.pop()
        if self.open and self.open[-1] == tag:
            self.open.pop()
        elif tag != "option":
            self.wrong.append(tag)


@pytest.mark.parametrize("path", PAGES)
def test_each_page_is_whole_and_loads_nothing_from_elsewhere(console: Console, path: str) -> None:
    asked(console, stream=True)
    answer = console.get(path)
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    checked = _Balance()
    checked.feed(answer.text)
    assert (checked.open, checked.wrong) == ([], [])
    assert 'aria-current="page"' in answer.text
    assert answer.text.count("<h1>") == 1
    assert not re.search(r'(?:src|href)="(?:https?:)?//(?!127\.0\.0\.1)', answer.text)
    assert 'style="' not in answer.text, "the policy forbids inline styles"


def test_now_shows_backends_and_what_is_not_known(console: Console) -> None:
    words = console.words("/")
    for name in console.fleet.engines:
        assert name in words
    assert "No verdict yet" in words
    assert "router configuration aaaa1111 -&gt; bbbb2222" in words


def series(verdict: str, times: list[float]) -> dict[str, object]:
    return {"metric": {"pool": "p", "verdict": verdict}, "values": [[at, "1"] for at in times]}


def test_a_pool_has_one_verdict_the_latest() -> None:
    before, now, old = (
        series("none", [900, 915, 960]),
        series("execution", [975, 990]),
        series("routing", [300]),
    )
    for found in ([before, now, old], [old, now, before]):
        now_is = {"pool": "p", "verdict": "execution", "since": 975.0, "ended": None}
        assert verdicts(found, 300.0, 1000.0, 15.0) == [now_is]


def test_a_verdict_without_a_recent_sample_is_past_and_one_of_a_whole_span_has_no_start() -> None:
    (past,) = verdicts([series("execution", [930.0, 945.0, 960.0])], 0.0, 1000.0, 15.0)
    assert (past["since"], past["ended"]) == (930.0, 960.0)
    (whole,) = verdicts([series("none", [900.0, 915.0, 930.0])], 900.0, 935.0, 15.0)
    assert (whole["since"], whole["ended"]) == (None, None)


def test_requests_are_filtered_and_bounded(console: Console) -> None:
    request_id = listed(console, max_tokens=9)
    assert request_id in console.page("/requests?rule=long&client=team-a")
    assert request_id not in console.page("/requests?rule=default")
    assert request_id not in console.page(f"/requests?after={request_id}")
    assert console.get("/requests?outcome=nonsense").status_code == 400
    assert console.get(f"/requests?id={request_id}").headers["location"] == f"/requests/{request_id}"


def test_one_request_of_any_router_is_shown_in_words_and_bars(console: Console) -> None:
    request_id = asked(console, stream=True, max_tokens=9)
    words = console.words(f"/requests/{request_id}")
    record = console.fleet.routers[1].record(request_id)
    assert f"Router replica {record['replica']} handled it." in words
    assert "Pool general: rule long matched." in words
    assert "prefill" in words
    assert "decode" in words
    assert "chosen" in words
    missing = console.get("/requests/nowhere")
    assert missing.status_code == 404
    assert "no record of nowhere" in missing.text


def test_a_copied_request_and_its_copy_link_to_each_other(console: Console) -> None:
    router = console.fleet.routers[0]
    path = Path(router.command[-1])
    before = path.read_text()
    rule = {"name": "all", "when": {}, "route_to": "general", "shadow": {"pool": "next", "percent": 100}}
    (console.fleet.folder / "shadow.yaml").write_text(json.dumps({"rules": [rule]}))
    pools = {
        pool: {"models": [MODEL], "backends": {f"{pool}-1": {"url": engine.url}}}
        for pool, engine in zip(("general", "next"), console.fleet.engines.values(), strict=True)
    }
    routing = {"default_pool": "general", "rules_file": "shadow.yaml"}
    console.fleet.rewrite(router, pools=pools, routing=routing)
    eventually(lambda: router.usable("general") == router.usable("next") == 1, "both pools are usable")
    try:
        request_id = asked(console)
        page = console.page(f"/requests/{request_id}")
        assert f'<a href="/requests/{request_id}-shadow">Its copy for next</a>' in page
        assert f"A copy for the shadow pool next: {request_id}-shadow." in page
        eventually(lambda: router.record(f"{request_id}-shadow")["outcome"] == "ok", "the copy ends")
        copy = console.page(f"/requests/{request_id}-shadow")
        assert f'<a href="/requests/{request_id}">The request that this is a copy of</a>' in copy
    finally:
        path.write_text(before)
        eventually(lambda: router.usable("general") == 2, "the pools are as before")


def test_a_running_request_says_what_it_waits_for(console: Console) -> None:
    for engine in console.fleet.engines.values():
        engine.fault("wedge")
    asker = threading.Thread(
        target=console.fleet.routers[0].post,
        kwargs={"stream": True, "headers": {"x-request-id": "held-two"}},
        daemon=True,
    )
    try:
        asker.start()
        eventually(
            lambda: (
                "for the first token of" in httpx.get(f"{console.url}/requests/held-two", timeout=30).text
            ),
            "the page shows the held request",
        )
    finally:
        for engine in console.fleet.engines.values():
            engine.heal()
        asker.join(30)


def test_rules_show_order_and_a_dry_run(console: Console) -> None:
    asked(console, max_tokens=9)
    words = console.words(f"/rules?model={MODEL}&max_tokens=20&prompt_chars=100")
    assert "max_tokens_gte: 9" in words
    assert "Pool general: rule long matched." in words
    assert "100 characters of prompt" in words


def replayed(console: Console, rules: str, **headers: str) -> httpx.Response:
    return httpx.post(f"{console.url}/rules/replay", data={"rules": rules}, headers=headers, timeout=30)


def hashes(console: Console) -> list[str]:
    """Return the hash of each router's configuration in use."""
    urls = [router.url for router in console.fleet.routers]
    return [httpx.get(f"{url}/debug/rules", timeout=10).json()["config_hash"] for url in urls]


def test_a_rules_file_is_replayed_on_recent_records_and_changes_nothing(console: Console) -> None:
    listed(console, max_tokens=9)
    before = hashes(console)
    new = "rules:\n- name: other\n  when: {max_tokens_gte: 9}\n  route_to: general\n"
    answer = replayed(console, new)
    assert answer.status_code == 200, answer.text
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.text))
    assert "What would move" in words
    assert re.search(r"\d+ general long general other", words), words
    assert new in html.unescape(answer.text), "the rules stay in the form"
    assert not [canary for canary in CANARIES if canary in answer.text]
    assert hashes(console) == before


def test_mistakes_of_a_rules_file_name_line_and_field(console: Console) -> None:
    asked(console)
    answer = replayed(console, "rules:\n- name: a\n  when: {max_token_gte: 9}\n  route_to: nowhere\n")
    assert answer.status_code == 400
    text = html.unescape(answer.text)
    assert re.search(r"rules\.yaml:3:\d+: \S*when\S*max_token_gte\S*: is not a condition", text), text
    assert re.search(r"rules\.yaml:4:\d+: \S*route_to", text), text
    assert "/tmp" not in text


# Each line is a list of ten times the line before: ten million rules in 300 bytes.
ALIASES = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 7))
ALIASES += f"rules: [{', '.join(['*a6'] * 10)}]\n"


@pytest.mark.parametrize(
    ("rules", "headers", "words"),
    [
        ("", {}, "rules: empty"),
        ("a" * 600_000, {}, "larger than 512 KiB"),
        ("a" * 3_000_000, {}, "larger than 512 KiB"),
        ("rules: []", {"sec-fetch-site": "cross-site"}, "another site"),
        ("rules: [", {}, "rules.yaml:"),
        (ALIASES, {}, "the replay "),  # took longer than 10 s, or failed at the limit of memory
    ],
)
def test_a_replay_is_bounded(console: Console, rules: str, headers: dict[str, str], words: str) -> None:
    asked(console)
    answer = replayed(console, rules, **headers)
    assert answer.status_code == 400
    assert words in answer.text


def test_changes_are_listed_with_their_times(console: Console) -> None:
    assert "router configuration aaaa1111 -&gt; bbbb2222" in console.words("/changes?window=1h")
    assert "No change of configuration" in console.words("/changes?window=5m&until=2020-01-01T00:00:00Z")
    assert console.get("/changes?window=nonsense").status_code == 400
    assert console.get("/why?until=nonsense").status_code == 400


def test_only_get_is_answered(console: Console) -> None:
    for path in ("/", "/requests", "/rules", "/requests/x"):
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            assert httpx.request(method, console.url + path).status_code == 405


def test_text_of_a_client_is_escaped(console: Console) -> None:
    page = console.page("/requests?client=%22%3E%3Cscript%3Ealert(1)%3C/script%3E")
    assert "<script>alert" not in page
    assert console.get("/requests/%3Cscript%3Ealert(1)").text.count("<script>") == 0


def test_a_frozen_router_is_named_and_holds_nothing_up(console: Console) -> None:
    frozen = console.fleet.routers[1]
    frozen.freeze()
    time.sleep(SHARED_SECONDS)
    try:
        words = console.words("/requests")
        assert f"No answer from router {frozen.url}" in words
        assert console.fleet.routers[0].post().status_code == 200
    finally:
        frozen.thaw()


def test_without_prometheus_the_pages_say_what_is_not_known(console: Console, tmp_path: Path) -> None:
    port, nothing = free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        *(BIN / "python", "-m", "console.main", "serve", "--port", str(port)),
        *("--router", console.fleet.routers[0].url, "--prometheus", f"http://127.0.0.1:{nothing}"),
    ]
    with running(command, log=tmp_path / "log", ready=answers(f"{url}/healthz")):
        for path in PAGES:
            answer = httpx.get(url + path, timeout=30)
            assert answer.status_code == 200
            assert "requests" in path or "not known" in answer.text
        assert "two" in httpx.get(url).text


def test_memory_stays_bounded_while_records_are_looked_through(console: Console) -> None:
    router = console.fleet.routers[0]
    with httpx.Client() as client:
        for _ in range(400):
            client.post(f"{router.url}/v1/chat/completions", json={"model": "nothing"})
    for _ in range(50):
        console.page("/requests")
    print(f"peak memory of the console: {console.memory_bytes() / 1e6:.0f} MB")
    assert console.memory_bytes() < MAX_MEMORY_BYTES


@pytest.mark.full
@pytest.mark.timeout(400)
def test_memory_stays_bounded_with_ten_thousand_records(tmp_path: Path) -> None:
    """Every record is listed on a page, some are opened, and a replay reads as many as it may."""
    shown: set[str] = set()
    with running_console(tmp_path) as console, httpx.Client() as client:
        for batch in range(RECORDS // BATCH):
            router = console.fleet.routers[batch % 2]
            for number in range(BATCH):
                body = {"model": f"nothing-{number}", "messages": [{"role": "user", "content": "x" * 500}]}
                client.post(f"{router.url}/v1/chat/completions", json=body)
            time.sleep(SHARED_SECONDS)
            found = re.findall(r'href="/requests/([0-9a-f-]{32,36})"', console.page("/requests"))
            shown |= set(found)
            assert console.get(f"/requests/{found[0]}").status_code == 200
            console.page("/rules")
        assert len(shown) == RECORDS
        assert replayed(console, "rules: []\n").status_code == 200
        print(f"peak memory of the console: {console.memory_bytes() / 1e6:.0f} MB")
        assert console.memory_bytes() < MAX_MEMORY_BYTES


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_an_open_page_turns_grey_and_shows_its_age(console: Console, tmp_path: Path) -> None:
    def dumped(milliseconds: int) -> str:
        command = [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            *(f"--user-data-dir={tmp_path}/{milliseconds}", f"--virtual-time-budget={milliseconds}"),
        ]
        done = subprocess.run(
            [*command, f"{console.url}/requests"], capture_output=True, text=True, check=False, timeout=90
        )
        assert 'id="age"' in done.stdout, done.stderr
        return done.stdout

    assert '<body class="stale">' not in dumped(2_000)
    old = dumped(150_000)
    assert '<body class="stale">' in old
    assert "min ago)" in old


def test_watch_shows_backends_and_requests_in_a_terminal(console: Console) -> None:
    request_id = asked(console)
    command = [
        BIN / "python",
        "-m",
        "console.main",
        "watch",
        "--times",
        "1",
        "--router",
        console.fleet.routers[0].url,
    ]
    done = subprocess.run(
        [*command, "--prometheus", f"http://127.0.0.1:{free_port()}"],
        capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"}, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert request_id[:12] in done.stdout
    assert "two" in done.stdout
    assert "verdicts: unknown" in done.stdout
