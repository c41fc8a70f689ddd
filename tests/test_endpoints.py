"""Settings of the registry and of the service: read, and refused, word for word."""

from dataclasses import replace
from pathlib import Path

import pytest

from bioquant import compose
from bioquant.endpoints import RegistryChoice, RegistryConfig, ServeConfig, check_serve
from bioquant.errors import ConfigError

SERVE = ServeConfig(name="t")


def test_the_files_hold_the_defaults_of_the_schema() -> None:
    assert compose.part("serve", ServeConfig, []) == replace(SERVE, name="default")
    assert compose.part("registry", RegistryConfig, []) == RegistryConfig(name="default")


def test_an_option_and_keys_are_put_together() -> None:
    given = ["registry=stored_weights", "registry.aliases=[a,b]", "registry.choice=overall"]
    found = compose.part("registry", RegistryConfig, given)
    assert (found.save_weights, found.aliases, found.choice) == (True, ["a", "b"], RegistryChoice.overall)


def test_an_option_of_ones_own_is_found(tmp_path: Path) -> None:
    (tmp_path / "serve").mkdir()
    (tmp_path / "serve" / "ward.yaml").write_text("name: ward\nport: 9000\n", encoding="utf-8")
    assert compose.part("serve", ServeConfig, ["serve=ward"], str(tmp_path)).port == 9000


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["serve=defalt"], "serve 'defalt' is not known; did you mean 'default'? Choose from: default."),
        (
            ["serve.prt=1"],
            "key 'serve.prt' is not known; did you mean 'serve.port'? There are: serve.host, serve.port, "
            "serve.batch_rows, serve.batch_wait_ms, serve.queue_rows, serve.request_rows, serve.text_chars, "
            "serve.body_mib, serve.shutdown_s.",
        ),
        (["serve.port=abc"], "serve.port='abc' is not a whole number."),
        (
            ["serve.host=[a"],
            "serve.host=[a cannot be read: expected ',' or ']', but got '<stream end>'; quote values with special "
            "signs.",
        ),
    ],
)
def test_what_does_not_compose_is_one_line(given: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose.part("serve", ServeConfig, given)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"queue_rows": 0}, "serve.queue_rows=0 is not allowed: give a whole number of at least 1."),
        ({"batch_rows": 0}, "serve.batch_rows=0 is not allowed: give a whole number of at least 1."),
        ({"port": 70000}, "serve.port=70000 is not allowed: give 1 to 65535, or 0 for any that is free."),
        ({"batch_wait_ms": -1.0}, "serve.batch_wait_ms=-1.0 is not allowed: give 0 or more."),
        ({"body_mib": 0.0}, "serve.body_mib=0.0 is not allowed: give a number above 0."),
        (
            {"request_rows": 300},
            "serve.request_rows=300 is more than serve.queue_rows=256: such a request would never find room.",
        ),
    ],
)
def test_a_value_outside_its_range_is_named(changed: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_serve(replace(SERVE, **changed))
    assert str(caught.value) == message
    check_serve(SERVE)
