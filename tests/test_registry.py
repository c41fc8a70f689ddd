"""Registration on a real store, of real cells of a tiny model: what a version is, and every refusal, word for word."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import yaml

from bioquant import models, plan, recipe, run
from bioquant.cli import main
from bioquant.config import Device, PolicyConfig
from bioquant.endpoints import RegistryChoice, RegistryConfig
from bioquant.errors import ConfigError, QuantError, RegistryError
from bioquant.registry import Order, Registered, packing, recommended, register, versions
from bioquant.serving.answerer import Answerer, check_weights
from bioquant.tracking import Store
from registered import ANY_LOSS, TINY, cell, frame, opened, predictions, project
from test_compose import composed

pytestmark = pytest.mark.slow

REGISTRY = RegistryConfig(name="t")
KINDS = {"demo_qa": "option", "demo_ner": "entities", "demo_re": "relation", "demo_mlc": "labels"}
SCORED = ("task=demo_qa", "prompt=one_shot", "engine.scoring=loglikelihood")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        yield project(tmp_path_factory, patch)


@pytest.fixture(scope="module")
def baseline(root: Path) -> str:
    return cell(root, *SCORED, "quant=none")


@pytest.fixture(scope="module")
def candidate(root: Path, baseline: str) -> str:
    assert baseline
    return cell(root, *SCORED, "quant=bnb_int8")


@pytest.fixture(scope="module")
def alone(root: Path) -> str:
    """A cell without a baseline."""
    return cell(root, *SCORED, "quant=bnb_nf4", "seed=3")


@pytest.fixture
def store(root: Path, baseline: str) -> Store:
    assert baseline
    return opened(root)


def order(run_id: str, *aliases: str, force: bool = False) -> Order:
    return Order(run_id=run_id, policy=ANY_LOSS, aliases=aliases, force=force)


def files(store: Store, made: Registered) -> Path:
    return versions.fetch(store, made.uri)[1]


def same_answers(found: pd.DataFrame, logged: pd.DataFrame, field: str) -> None:
    """Each answer as the evaluation logged it, texts and places alike."""
    assert len(found) == len(logged)
    for shown, kept, output in zip(found.to_dict("records"), logged["answer_json"], logged["output"], strict=True):
        answer = shown[field]
        if field == "entities" and answer is not None:
            answer = [[one["start"], one["end"], one["type"], one["text"]] for one in answer]
        assert answer == json.loads(kept)
        assert shown["outputs"][0] == output
        assert shown["invalid"] == (json.loads(kept) is None)


@pytest.mark.parametrize("task", KINDS)
def test_a_version_answers_as_its_run_did(root: Path, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scoring = "loglikelihood" if task in ("demo_qa", "demo_re") else "generate"
    overrides = (f"task={task}", "prompt=five_shot", f"engine.scoring={scoring}")
    run_id = cell(root, *overrides)
    store = opened(root)
    made = register(store, order(run_id, "recommended"), REGISTRY)
    assert made.uri == f"models:/bioquant-{task}@recommended"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    model = mlflow.pyfunc.load_model(made.uri)
    asked = frame(composed(*TINY, *overrides))
    same_answers(model.predict(asked), predictions(store, run_id), KINDS[task])
    assert list(model.metadata.get_input_schema().input_names()) == list(asked.columns)
    with pytest.raises(mlflow.exceptions.MlflowException, match=r"row 0: field '\w+' is empty"):
        model.predict(asked.map(lambda _: " "))


def test_the_same_recipe_makes_no_new_version_and_its_card_is_kept_up_to_date(store: Store, candidate: str) -> None:
    first = register(store, order(candidate, "recommended"), REGISTRY)
    again = register(store, order(candidate, "recommended", "recommended-24gb"), replace(REGISTRY, aliases=["ward"]))
    assert (again.version, again.is_new, first.is_new) == (first.version, False, True)
    registered = store.client.get_registered_model(first.name)
    named = {str(registered.aliases[name]) for name in ("recommended", "recommended-24gb", "ward")}
    assert named == {first.version}
    strict = replace(order(candidate), policy=PolicyConfig(name="strict", max_quality_loss=0.02))
    register(store, strict, REGISTRY)
    version = store.client.get_model_version(first.name, first.version)
    assert version.tags["policy"] == "strict"
    assert "policy strict: tolerates a loss of up to 2 points" in str(version.description)
    assert len(store.client.search_model_versions(f"name = '{first.name}' and tags.quant = 'bnb_int8'")) == 1


def test_a_version_holds_code_json_and_yaml_and_nothing_pickled(store: Store, candidate: str) -> None:
    made = register(store, order(candidate), REGISTRY)
    folder = files(store, made)
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found >= {"MLmodel", "model_code.py", "artifacts/recipe.json", "README.md", "requirements.txt"}
    assert {Path(name).suffix for name in found} <= {"", ".py", ".json", ".md", ".txt", ".yaml"}
    described = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
    assert described["flavors"]["python_function"]["loader_module"] == "mlflow.pyfunc.loaders.code_model"
    assert "python_model" not in described["flavors"]["python_function"]
    assert "lisinopril" in (folder / "input_example.json").read_text(encoding="utf-8")
    pins = (folder / "requirements.txt").read_text(encoding="utf-8").split()
    assert {pin.partition("==")[0] for pin in pins} == {
        "mlflow",
        "bioquant",
        "torch",
        "transformers",
        "accelerate",
        "bitsandbytes",
    }
    assert all("+" not in pin for pin in pins)
    version = store.client.get_model_version(made.name, made.version)
    assert version.run_id == candidate
    assert (folder / "README.md").read_text(encoding="utf-8").startswith("**demo_qa** answered by **tiny_random**")


def test_without_a_finished_baseline_nothing_is_made_unless_it_is_forced(store: Store, alone: str) -> None:
    before = len(store.client.search_model_versions("name = 'bioquant-demo_qa'"))
    with pytest.raises(RegistryError) as caught:
        register(store, order(alone), REGISTRY)
    assert str(caught.value) == (
        f"run {alone} (tiny_random · bnb_nf4 · one_shot on demo_qa) has no finished baseline pair: no finished run of "
        "its baseline: bioquant run model=tiny_random quant=none task=demo_qa prompt=one_shot limit=5 seed=3 (--force "
        "registers it all the same, and its card says so)"
    )
    assert len(store.client.search_model_versions("name = 'bioquant-demo_qa'")) == before
    made = register(store, order(alone, force=True), REGISTRY)
    version = store.client.get_model_version(made.name, made.version)
    assert version.tags["forced"] == "true"
    assert "Registered with `--force`" in str(version.description)


def test_stored_weights_answer_alike_once_the_original_is_gone(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = tmp_path / "full"
    loaded = models.load(composed("model=tiny_random").model, composed("quant=none").quant, Device.cpu)
    loaded.model.save_pretrained(full)
    loaded.tokenizer.save_pretrained(full)
    own = (*SCORED, "model.source=local", f"model.id={full}", "model.name=own")
    cell(root, *own, "quant=none")
    run_id = cell(root, *own, "quant=bnb_nf4")
    store = opened(root)
    made = register(store, order(run_id, "stored"), replace(REGISTRY, registered_model="own", save_weights=True))
    shutil.rmtree(full)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    found = mlflow.pyfunc.load_model("models:/own@stored").predict(frame(composed(*TINY, *own)))
    same_answers(found, predictions(store, run_id), "option")
    assert store.client.get_model_version("own", made.version).tags["weights"] == "stored"
    folder = files(store, made) / "artifacts"
    assert [path.suffix for path in (folder / "weights").iterdir() if path.stat().st_size > 100_000] == [".safetensors"]
    recipe_alone = register(store, order(run_id), replace(REGISTRY, registered_model="own"))
    assert recipe_alone.version != made.version
    check_weights(folder)
    (folder / "weights" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(
        RegistryError, match=r"not whole: .*model.safetensors has 3 bytes, not [\d,]+. Register it again."
    ):
        Answerer.load(folder)
    shutil.rmtree(folder / "weights")
    with pytest.raises(RegistryError, match=r"not whole: .*weights/.* is not there. Register it again."):
        Answerer.load(folder)


def test_what_cannot_be_stored_leaves_nothing_behind(store: Store, baseline: str) -> None:
    named = replace(REGISTRY, registered_model="unsavable", save_weights=True)
    with pytest.raises(Exception, match="quant 'none' cannot be stored: it quantizes nothing"):
        register(store, order(baseline), named)
    assert "unsavable" not in {model.name for model in store.client.search_registered_models()}
    assert not [
        model for model in store.client.search_logged_models([store.experiment_id]) if model.name == "unsavable"
    ]


def test_another_engines_weights_are_not_stored(tmp_path: Path) -> None:
    config = composed("model=smollm2_135m", "quant=bnb_nf4_dq", "engine=vllm", "task=demo_qa", "limit=2")
    with pytest.raises(QuantError) as caught:
        packing.store_weights(recipe.of_plan(plan.plan(config, run.read(config), ()), {}), tmp_path)
    assert str(caught.value) == (
        "registry.save_weights=true: engine 'vllm' does not load weights that transformers has quantized. Leave it "
        "out: the version then quantizes the model when it is loaded."
    )


def test_a_run_whose_prompts_would_now_be_others_is_refused(root: Path) -> None:
    run_id = cell(root, *SCORED, "quant=none", "seed=5")
    store = opened(root)
    uri = str(store.client.get_run(run_id).info.artifact_uri)
    path = Path(uri.removeprefix("file://")) / "predictions.parquet"
    table = predictions(store, run_id)
    table.loc[0, "prompt"] = "another wording"
    table.to_parquet(path)
    with pytest.raises(RegistryError) as caught:
        register(store, order(run_id), REGISTRY)
    assert str(caught.value) == (
        f"run {run_id} cannot be repeated here: 1 of 5 prompts would be others (first: example "
        f"'{table.loc[0, 'example_id']}'). The task's files, its wording or bioquant (then 0.1.0) have changed since: "
        "run the cell and its baseline again, or register where they are as they were."
    )


def test_only_a_finished_cell_is_registered(store: Store, candidate: str) -> None:
    client = store.client
    failed = client.create_run(store.experiment_id, tags={"bioquant.kind": "cell"}).info.run_id
    client.set_terminated(failed, "FAILED")
    sweep = client.create_run(store.experiment_id, tags={"bioquant.kind": "sweep"}).info.run_id
    advice = client.create_run(store.experiment_id, tags={"bioquant.kind": "recommendation"}).info.run_id
    for run_id, message in (
        (failed, f"run {failed} is FAILED, not FINISHED: only a finished cell is evidence."),
        (sweep, f"run {sweep} is no cell that was evaluated: name one of the runs that bioquant compare lists."),
        (advice, f"run {advice} is a recommendation: bioquant register recommendation={advice}"),
        (
            "abc",
            f"run 'abc' is not in the tracking store '{store.uri}': copy its id from the run's page, or name another "
            "store with --uri.",
        ),
    ):
        with pytest.raises(RegistryError) as caught:
            register(store, order(run_id), REGISTRY)
        assert str(caught.value) == message
    with pytest.raises(RegistryError) as caught:
        recommended.read(store, candidate, RegistryChoice.task, None)
    assert str(caught.value) == (
        f"run {candidate} is no recommendation: bioquant register run={candidate}, or make one with bioquant recommend."
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"registered_model": "a/b"},
            "registry.registered_model='a/b' is not allowed: a name has letters, digits, blanks and . _ + ( ) -, and "
            "begins with a letter or a digit.",
        ),
        (
            {"aliases": ["v3"]},
            "registry.aliases: 'v3' is not allowed: letters, digits, - and _, and neither latest nor v and a number, "
            "which MLflow keeps for itself.",
        ),
    ],
)
def test_a_name_that_mlflow_refuses_is_told_before_anything_is_made(
    store: Store, candidate: str, changed: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        register(store, order(candidate), replace(REGISTRY, **changed))
    assert str(caught.value) == message


def test_what_is_not_registered_is_named_with_its_nearest(store: Store, candidate: str, tmp_path: Path) -> None:
    register(store, order(candidate, "recommended"), replace(REGISTRY, registered_model="ward"))
    client = store.client
    client.create_registered_model("foreign")
    client.create_model_version("foreign", source=tmp_path.as_uri())
    for uri, message in (
        ("ward", "model 'ward' cannot be read: write models:/NAME@ALIAS or models:/NAME/NUMBER."),
        (
            "models:/ward@recomended",
            "model 'ward' has no alias 'recomended'; did you mean 'recommended'? It has: recommended.",
        ),
        ("models:/ward/7", "model 'ward' has no version 7."),
        (
            "models:/foreign/1",
            "model 'models:/foreign/1' was not registered by bioquant: it holds no recipe that could be served.",
        ),
    ):
        with pytest.raises(RegistryError) as caught:
            versions.fetch(store, uri)
        assert str(caught.value) == message
    with pytest.raises(
        RegistryError, match=r"model 'wards' is not registered in .*; did you mean 'ward'\? Registered: "
    ):
        versions.fetch(store, "models:/wards@recommended")


def test_files_that_were_deleted_are_told(store: Store, candidate: str) -> None:
    made = register(store, order(candidate), replace(REGISTRY, registered_model="deleted"))
    version = store.client.get_model_version("deleted", made.version)
    found = store.client.search_logged_models([store.experiment_id])
    model = next(model for model in found if model.name == "deleted")
    shutil.rmtree(model.artifact_location.removeprefix("file://"))
    with pytest.raises(RegistryError) as caught:
        versions.fetch(store, made.uri)
    assert str(caught.value) == (
        f"model 'models:/deleted/{made.version}' has no files where MLflow looks for them ({version.source}): were "
        "they moved or deleted? Register it again."
    )


def test_a_recommendation_gives_the_runs_it_chose_their_policy_and_an_alias(
    root: Path, store: Store, candidate: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert candidate
    only = ["task=demo_qa", "prompt=one_shot", "seed=0", "quant=none,bnb_int8", "model=tiny_random"]
    assert main(["recommend", *only, "policy.max_quality_loss=null", "--output", str(root / "report")]) == 0
    run_id = capsys.readouterr().err.split("logged as run ")[1].split()[0]
    found = recommended.read(store, run_id, RegistryChoice.task, None)
    record = json.loads((root / "report" / "recommendation.json").read_text(encoding="utf-8"))
    assert found.cells == {"demo_qa": record["tasks"][0]["chosen"]["run"]["run_id"]}
    assert (found.policy.max_quality_loss, found.alias) == (None, "recommended-default-adjusted")
    assert recommended.read(store, run_id, RegistryChoice.overall, "demo_qa").cells == found.cells
    with pytest.raises(RegistryError) as caught:
        recommended.read(store, run_id, RegistryChoice.task, "demo_na")
    assert str(caught.value) == "task 'demo_na' is not known; did you mean 'demo_qa'? Choose from: demo_qa."


def test_a_recommendation_that_chose_nothing_registers_nothing(
    root: Path, store: Store, candidate: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert candidate
    asked = ["recommend", "task=demo_qa", "prompt=one_shot", "seed=0", "policy.gpu_memory_gib=0.0001"]
    assert main([*asked, "--output", str(root / "none")]) == 0
    run_id = capsys.readouterr().err.split("logged as run ")[1].split()[0]
    with pytest.raises(RegistryError) as caught:
        recommended.read(store, run_id, RegistryChoice.task, None)
    assert str(caught.value) == (
        f"recommendation {run_id} chose nothing: no cell is shown to meet policy 'default, adjusted', which "
        "registering one would say. Its report names what comes nearest."
    )
    with pytest.raises(RegistryError, match=f"recommendation {run_id} found no one model for all tasks"):
        recommended.read(store, run_id, RegistryChoice.overall, None)


@pytest.mark.parametrize(
    ("policy", "alias"),
    [
        ("default", "recommended"),
        ("gpu_24gb", "recommended-24gb"),
        ("my_ward", "recommended-my-ward"),
        ("default, adjusted", "recommended-default-adjusted"),
    ],
)
def test_an_alias_is_named_after_its_policy(policy: str, alias: str) -> None:
    assert recommended.alias(policy) == alias
