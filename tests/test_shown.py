"""What may be printed and kept: control characters, reordering marks and secrets are not."""

import logging
from pathlib import Path

import pytest

from bioquant import files, privacy, shown, tracking
from bioquant.cli import main
from bioquant.config import PrivacyConfig
from bioquant.errors import BioquantError, CellsFailedError, ConfigError, UserError
from bioquant.tracking.spool import Spool
from test_compose import composed

SECRETS = {
    "HF_TOKEN": "hf_tell_nobody",
    "MLFLOW_TRACKING_PASSWORD": "s3cret of the ward",
    "PGPASSWORD": "pg",
    "MLFLOW_TRACKING_URI": "http://me:open%2Fsesame@tracking.example:5000",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "true",
}


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("plain, äöü, 中文, 🙂", "plain, äöü, 中文, 🙂"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("a\x9bb\x00c\x7f", "a\\x9bb\\x00c\\x7f"),
        ("safe\u202egpj.exe", "safe\\u202egpj.exe"),
        ("half \ud800", "half \\ud800"),
        ("a\u2028b", "a\\u2028b"),
    ],
)
def test_what_a_terminal_obeys_is_escaped(text: str, kept: str) -> None:
    assert shown.visible(text) == kept


def test_a_name_is_one_line() -> None:
    assert shown.one_line("a\r\n  error: b\u2028c\vd") == "a error: b c d"


def test_markdown_of_somebody_elses_is_text() -> None:
    assert shown.markdown("<b>[a](b) ![c][d]\n# `e`") == "&lt;b>[a]\\(b) ![c]\\[d] # 'e'"
    assert shown.markdown("+0.5 [-0.1, 1.0] (95 %)") == "+0.5 [-0.1, 1.0] (95 %)"


@pytest.mark.usefixtures("secrets")
def test_the_environments_secrets_are_masked_and_no_switches() -> None:
    text = "false true hf_tell_nobody, 's3cret of the ward', open/sesame, http://a:b@c/ http://h/?password=pw&x=1"
    assert shown.masked(text) == "false true ***, '***', ***, http://a:***@c/ http://h/?password=***&x=1"


@pytest.mark.usefixtures("secrets")
def test_an_error_holds_no_secret_and_is_one_line_unless_it_is_a_list() -> None:
    assert str(BioquantError("token hf_tell_nobody\nat http://a:b@c")) == "token *** at http://a:***@c"
    assert str(CellsFailedError("1 of 2\n  hf_tell_nobody\x1b")) == "1 of 2\n  ***\\x1b"
    assert len(str(UserError("x" * 100_000))) == 4001


@pytest.mark.usefixtures("secrets")
def test_a_log_a_tag_and_a_configuration_hold_no_secret(tmp_path: Path) -> None:
    privacy.withhold(PrivacyConfig())
    config = composed("model=tiny_random", "tracking.uri=${oc.env:MLFLOW_TRACKING_URI}")
    files.write_config(config, tmp_path)

    def fail() -> None:
        logging.getLogger("somebody").error("with %s", "hf_tell_nobody")
        raise ValueError("at http://me:open%2Fsesame@tracking.example:5000 with hf_tell_nobody")

    with pytest.raises(ValueError, match="hf_tell"), files.logged(tmp_path):
        fail()
    kept = "".join(path.read_text(encoding="utf-8") for path in tmp_path.iterdir())
    assert "uri: http://me:***@tracking.example:5000" in kept
    assert not [secret for secret in ("hf_tell_nobody", "open%2Fsesame", "open/sesame") if secret in kept]
    store = tracking.Store("sqlite:///x", "1", Spool(tmp_path / "spool"), None)
    run_id = tracking.start_sweep(store, "s", tmp_path, {})
    tracking.end_run(store, run_id, "FAILED", ValueError("hf_tell_nobody"))
    assert store.spool.summary(store.spool.key_of(run_id)).tags["error.message"] == "***"


@pytest.mark.usefixtures("secrets")
def test_a_password_in_an_override_is_refused_before_anything_keeps_it(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("run", "plan", "compare"):
        assert main([verb, "tracking.uri=http://me:hidden@h:5000"]) == 2
        assert capsys.readouterr().err == (
            "error: tracking.uri holds a password, which the command's history, and what Hydra keeps of it, would "
            "show: set the variable MLFLOW_TRACKING_URI, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.\n"
        )


@pytest.mark.usefixtures("secrets")
def test_a_configuration_that_would_log_a_secret_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        composed("task.description='${oc.env:HF_TOKEN}'")
    assert (
        str(caught.value)
        == "task.description holds the value of $HF_TOKEN, which would be logged with it: leave it out."
    )
