"""A valid configuration compiles; all mistakes of an invalid configuration are reported at once, with their positions."""

from pathlib import Path

import pytest

from router_service.config import BadConfig, load, redis_login
from router_service.routing.rules import Timeouts

CONFIG = Path(__file__).parents[2] / "config" / "local.yaml"
MINIMAL = "pools: {p: {models: [m], backends: {b: {url: 'http://h:1'}}}}\nrouting: {default_pool: p}\n"


def test_the_local_configuration_loads_with_its_rules() -> None:
    config = load(CONFIG)
    assert [rule.name for rule in config.policy.rules] == [
        "high_max_tokens",
        "long_prompt",
        "canary",
        "code_or_math",
    ]
    assert config.policy.rules[1].resume
    assert config.policy.fallback == {"general": ("long-form",), "long-form": ("general",)}
    assert len(config.files) == 2


def test_everything_but_pools_and_routing_may_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "router.yaml").write_text(MINIMAL)
    config = load(tmp_path / "router.yaml")
    assert config.values.timeouts.total_seconds == 600.0
    assert config.policy.timeouts == Timeouts()


def test_the_hash_changes_with_any_value_and_not_with_comments(tmp_path: Path) -> None:
    def hash_of(text: str) -> str:
        (tmp_path / "router.yaml").write_text(text)
        return load(tmp_path / "router.yaml").hash

    assert hash_of(MINIMAL) == hash_of("# comment\n" + MINIMAL)
    assert hash_of(MINIMAL) != hash_of(MINIMAL + "limits: {queue_size: 65}\n")


def test_a_rule_overrides_single_timeouts_and_keeps_the_others(tmp_path: Path) -> None:
    (tmp_path / "router.yaml").write_text(
        MINIMAL.replace("p}", "p, rules_file: r.yaml}", 1).replace("default_pool: p, ", "default_pool: p, ")
        if "rules_file" in MINIMAL
        else MINIMAL.replace("{default_pool: p}", "{default_pool: p, rules_file: r.yaml}")
        + "timeouts: {idle_seconds: 7}\n"
    )
    (tmp_path / "r.yaml").write_text(
        "rules: [{name: r, when: {stream: true}, route_to: p, timeouts: {total_seconds: 5}}]\n"
    )
    rule = load(tmp_path / "router.yaml").policy.rules[0]
    assert rule.timeouts == Timeouts(idle_seconds=7.0, total_seconds=5.0)


BAD_MAIN = """\
servr: {}
server: {port: "x"}
pools:
  general:
    policy: least_load
    models: [m]
    aliases: {a: zz}
    backends:
      backend-a: {url: "ftp://x", urll: 3}
  other: {models: [m], backends: {backend-a: {url: "http://x"}}, discover: {dns: x}}
routing:
  default_pool: generl
  fallback: {general: [general, q]}
  rules_file: rules.yaml
retries: {max_attempts: 0}
"""
BAD_RULES = """\
rules:
  - name: a
    when: {max_token_gte: 5, any: [{regex: "("}], not: {stream: 1}}
    route_to: [{pool: x, weight: 0}]
  - name: a
    when: {}
    route_to: generel
tests:
  - {name: t, request: {}, expect: {rule: zz, pol: 1}}
"""


def test_every_mistake_in_both_files_is_told_at_once_with_line_value_and_remedy(tmp_path: Path) -> None:
    (tmp_path / "router.yaml").write_text(BAD_MAIN)
    (tmp_path / "rules.yaml").write_text(BAD_RULES)
    with pytest.raises(BadConfig) as caught:
        load(tmp_path / "router.yaml")
    said = str(caught.value).replace(str(tmp_path) + "/", "").splitlines()
    expected = [
        "router.yaml:1:8: servr: is not a known key (did you mean server?",
        'router.yaml:2:16: server.port: "x" should be a valid integer',
        'router.yaml:5:13: pools.general.policy: "least_load" is not one of',
        'router.yaml:7:18: pools.general.aliases.a: "zz" is not a model of this pool (known: m)',
        'router.yaml:9:24: pools.general.backends.backend-a.url: "ftp://x" must match',
        "router.yaml:9:41: pools.general.backends.backend-a.urll: is not a known key (did you mean url?",
        "router.yaml:10:10: pools.other: needs exactly one of backends and discover",
        'router.yaml:10:46: pools.other.backends.backend-a: "backend-a" is already a backend of pool general',
        'router.yaml:12:17: routing.default_pool: "generl" is not a pool (did you mean general? known:',
        'router.yaml:13:24: routing.fallback.general[0]: "general" cannot be its own fallback',
        'router.yaml:13:33: routing.fallback.general[1]: "q" is not a pool (known: general, other)',
        "router.yaml:15:25: retries.max_attempts: 0 should be greater than or equal to 1",
        "rules.yaml:3:27: rules[0].when.max_token_gte: is not a condition (did you mean max_tokens_gte?",
        "rules.yaml:3:44: rules[0].when.any[0].regex: not an RE2 expression",
        "rules.yaml:3:65: rules[0].when.not.stream: 1 is neither true nor false",
        'rules.yaml:4:23: rules[0].route_to[0].pool: "x" is not a pool',
        "rules.yaml:4:34: rules[0].route_to[0].weight: 0 should be greater than 0",
        'rules.yaml:5:11: rules[1].name: "a" is the name of an earlier rule, too',
        'rules.yaml:7:15: rules[1].route_to: "generel" is not a pool (did you mean general?',
        'rules.yaml:9:43: tests[0].expect.rule: "zz" is not a rule (known: a)',
        "rules.yaml:9:52: tests[0].expect.pol: is not a known key (did you mean pool?",
    ]
    for line in expected:
        assert any(found.startswith(line) for found in said), line
    assert len(said) == len(expected)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pools: [\n", "not YAML"),
        ("pools: {}\npools: {}\n", "pools: is repeated"),
        ("- a\n", "must be a mapping with the keys api_version, server, pools"),
        ("", "pools: is missing and has no default"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_with_its_place(
    tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "router.yaml").write_text(text)
    with pytest.raises(BadConfig, match=rf"router\.yaml:\d+:\d+: .*{said}"):
        load(tmp_path / "router.yaml")


def test_mistakes_of_refusals_and_of_lists_of_models_are_told_with_their_place(tmp_path: Path) -> None:
    (tmp_path / "router.yaml").write_text(
        MINIMAL.replace("default_pool: p", "default_pool: p, rules_file: r.yaml")
        + "clients: {models: {team-a: [m, mm, x-*]}, hide: true}\n"
    )
    (tmp_path / "r.yaml").write_text(
        "rules:\n"
        "  - {name: a, when: {}}\n"
        "  - {name: b, when: {}, route_to: p, refuse: {message: not now}}\n"
        "  - {name: c, when: {}, policy: round_robin, refuse: {status: 500, message: ''}}\n"
    )
    with pytest.raises(BadConfig) as caught:
        load(tmp_path / "router.yaml")
    said = str(caught.value).replace(str(tmp_path) + "/", "").splitlines()
    expected = [
        "r.yaml:2:5: rules[0]: needs exactly one of route_to and refuse",
        "r.yaml:3:5: rules[1]: needs exactly one of route_to and refuse",
        "r.yaml:4:33: rules[2].policy: has no effect in a rule that refuses; remove it",
        "r.yaml:4:63: rules[2].refuse.status: 500 is not one of 403, 404 or 429",
        'r.yaml:4:77: rules[2].refuse.message: "": String should have at least 1 character',
        'router.yaml:3:32: clients.models.team-a[1]: "mm" is served by no pool (did you mean m? known: m)',
        "router.yaml:3:49: clients.hide: is not a known key (known: models, hide_forbidden)",
    ]
    for line in expected:
        assert any(found.startswith(line) for found in said), (line, said)
    assert len(said) == len(expected)


def test_mistakes_of_classes_are_told_with_their_place(tmp_path: Path) -> None:
    (tmp_path / "router.yaml").write_text(
        MINIMAL.replace("default_pool: p", "default_pool: p, rules_file: r.yaml")
        + "classes:\n"
        + "  one: {share: 0.7, clients: [a], service_tiers: [flex, cheap]}\n"
        + "  two: {share: 0.2, clients: [b, a], service_tiers: [flex]}\n"
        + "  three: {share: 0.2}\n"
    )
    (tmp_path / "r.yaml").write_text("rules:\n  - {name: a, when: {}, route_to: p, request_class: none}\n")
    with pytest.raises(BadConfig) as caught:
        load(tmp_path / "router.yaml")
    said = str(caught.value).replace(str(tmp_path) + "/", "").splitlines()
    expected = [
        'r.yaml:2:53: rules[0].request_class: "none" is not one of `classes` (known: one, three, two)',
        'router.yaml:4:57: classes.one.service_tiers[1]: "cheap" is not one of',
        'router.yaml:5:34: classes.two.clients[1]: "a" has the class one already; remove one',
        'router.yaml:5:54: classes.two.service_tiers[0]: "flex" has the class one already; remove one',
        "router.yaml:6:18: classes.three.share: all shares together are 1.1, over 1; lower some",
    ]
    for line in expected:
        assert any(found.startswith(line) for found in said), (line, said)
    assert len(said) == len(expected)


def test_a_hold_that_does_not_fit_into_the_other_timeouts_is_refused(tmp_path: Path) -> None:
    hold = "when_none_ready: {hold_seconds: 500, slots: 0, keep: 1}, "
    (tmp_path / "router.yaml").write_text(
        MINIMAL.replace("p: {models", "p: {" + hold + "models").replace(
            "pool: p", "pool: p, rules_file: r.yaml"
        )
        + "timeouts: {first_token_seconds: 101, edge_silence_seconds: 700}\n"
    )
    (tmp_path / "r.yaml").write_text(
        "rules:\n"
        "  - {name: a, when: {}, route_to: [{pool: p}], timeouts: {total_seconds: 900, first_token_seconds: 300}}\n"
        "  - {name: b, when: {}, route_to: p, timeouts: {total_seconds: 900}}\n"
    )
    with pytest.raises(BadConfig) as caught:
        load(tmp_path / "router.yaml")
    assert str(caught.value).replace(str(tmp_path) + "/", "").splitlines() == [
        "r.yaml:2:58: rules[0].timeouts: hold_seconds 500 of pool p and first_token_seconds 300 are 800 together, over "
        "edge_silence_seconds 700; lower them, or raise edge_silence_seconds",
        "router.yaml:1:45: pools.p.when_none_ready.hold_seconds: hold_seconds 500 and first_token_seconds 101 are 601 "
        "together, over total_seconds 600; lower them, or raise total_seconds",
        "router.yaml:1:57: pools.p.when_none_ready.slots: 0 should be greater than or equal to 1",
        "router.yaml:1:66: pools.p.when_none_ready.keep: is not a known key (known: hold_seconds, slots, comment_seconds)",
    ]


@pytest.mark.parametrize(("content", "said"), [(None, "cannot be read: No such file"), (" \n", "is empty")])
def test_a_password_file_that_gives_none_is_named_with_a_remedy(
    tmp_path: Path, content: str | None, said: str
) -> None:
    text = "pools: {p: {models: [m], backends: {a: {url: 'http://a'}}}}\nrouting: {default_pool: p}\n"
    path = tmp_path / "router.yaml"
    path.write_text(text + "redis: {url: redis://h, password_file: secret}\n")
    values = load(path).values
    assert values.redis is not None
    if content is not None:
        (tmp_path / "secret").write_text(content)
    with pytest.raises(BadConfig, match=f"secret:1:1: {said}.*; write the password of Redis into it"):
        redis_login(path, values.redis)
    (tmp_path / "secret").write_text("s3cret\n")
    assert redis_login(path, values.redis).password == "s3cret"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="cannot be read: No such file"):
        load(tmp_path / "none.yaml")


GOOD = "pools: {p: {models: [m], backends: {a: {url: 'http://a'}}}}\nrouting: {default_pool: p}\n"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("server: {port: !!int abc}\n", ':3:16: server.port: "abc" is not a valid value of its type'),
        ("server: {host: 2024-99-99}\n", ':3:16: server.host: "2024-99-99" is not a valid value of its type'),
        ("server: !foo {port: 1}\n", ":3:9: not YAML: could not determine a constructor for the tag '!foo'"),
        ("? [a]\n: b\n", ":3:3: not YAML: found unhashable key"),
        ("server: &x {host: *x}\n", "nested over 64 levels deep"),
        ("server: " + "[" * 3000 + "\n", "nested over 64 levels deep"),
        ("timeouts: {total_seconds: .inf}\n", ":3:27: timeouts.total_seconds: Infinity should be a finite"),
        ("retries: {on_status: [503, 429]}\n", ":3:28: retries.on_status[1]: 429 should be greater"),
        (
            "redis: {url: 'redis://:hunter2@h/0'}\n",
            ":3:14: redis.url: an address must not contain a user or password",
        ),
    ],
)
def test_values_that_yaml_takes_and_nobody_means_are_mistakes_with_a_place(
    tmp_path: Path, more: str, said: str
) -> None:
    (tmp_path / "router.yaml").write_text(GOOD + more)
    with pytest.raises(BadConfig) as problem:
        load(tmp_path / "router.yaml")
    assert said in str(problem.value)
    assert "hunter2" not in str(problem.value)


@pytest.mark.parametrize(
    "url", ["http://h:99999", "http://[::1", "http://:80", "http://u:hunter2@h:80", "http://h:0"]
)
def test_an_address_that_nothing_can_be_sent_to_is_refused(tmp_path: Path, url: str) -> None:
    (tmp_path / "router.yaml").write_text(GOOD.replace("http://a", url))
    with pytest.raises(BadConfig, match=r"router\.yaml:1:\d+: pools\.p\.backends\.a\.url: ") as problem:
        load(tmp_path / "router.yaml")
    assert "hunter2" not in str(problem.value)


def test_a_rules_file_that_is_not_there_is_named_where_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "router.yaml").write_text(
        GOOD.replace("{default_pool: p}", "{default_pool: p, rules_file: x.yaml}")
    )
    with pytest.raises(BadConfig, match=r'router\.yaml:2:40: routing\.rules_file: "x\.yaml"'):
        load(tmp_path / "router.yaml")


def test_a_rule_test_that_can_never_fail_or_never_pass_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "router.yaml").write_text(
        GOOD.replace("{default_pool: p}", "{default_pool: p, rules_file: r.yaml}")
    )
    (tmp_path / "r.yaml").write_text(
        "rules: [{name: a, when: {not: {}}, route_to: p}]\n"
        "tests:\n"
        "  - {name: t, request: {}, expect: {}}\n"
        "  - {name: u, request: {}, expect: {reason: banana}}\n"
    )
    with pytest.raises(BadConfig) as problem:
        load(tmp_path / "router.yaml")
    said = str(problem.value)
    assert "r.yaml:1:31: rules[0].when.not: is empty" in said
    assert "r.yaml:3:36: tests[0].expect: is empty; name a pool, a rule or a reason" in said
    assert 'r.yaml:4:45: tests[1].expect.reason: "banana" is not a reason (known: only_candidate' in said
