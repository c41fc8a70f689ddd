"""What is composed, and every mistake in what was asked for, word for word."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from bioquant import compose as ours
from bioquant.config import (
    EngineConfig,
    MeasureConfig,
    ModelConfig,
    PromptConfig,
    QuantConfig,
    RunConfig,
    TaskConfig,
    TrackingConfig,
    conf_dir,
)
from bioquant.errors import ConfigError

SCHEMAS = {
    "model": ModelConfig,
    "quant": QuantConfig,
    "task": TaskConfig,
    "prompt": PromptConfig,
    "engine": EngineConfig,
    "measure": MeasureConfig,
    "tracking": TrackingConfig,
}
FILES = sorted(path for group in SCHEMAS for path in (conf_dir() / group).glob("*.yaml"))
EXPERIMENTS = sorted((conf_dir() / "experiment").glob("*.yaml"))


def composed(*overrides: str) -> RunConfig:
    ours.register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return ours.to_run_config(compose("config", list(overrides)))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_option_composes_and_is_named_like_its_file(path: Path) -> None:
    config = composed(f"{path.parent.name}={path.stem}")
    assert getattr(config, path.parent.name).name == path.stem


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_composes(path: Path) -> None:
    assert composed(f"experiment={path.stem}").task.name


def test_a_configuration_survives_the_way_to_a_worker() -> None:
    config = composed("quant=bnb_nf4", "task=demo_ner", "limit=3")
    assert ours.from_mapping(ours.to_mapping(config)) == config


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra makes a job's folder before the job can find a mistake: not in the repository's own multirun/."""
    monkeypatch.setenv("BIOQUANT_ROOT", str(tmp_path))


SEE = "See all keys with: bioquant run --cfg job"
MISTAKES = [
    (
        ["quant=bnb_nf5"],
        f"quant 'bnb_nf5' is not known; did you mean 'bnb_nf4'? Choose from: {', '.join(ours.names('quant'))}.",
    ),
    (
        ["experiment=quickstrat"],
        "experiment 'quickstrat' is not known; did you mean 'quickstart'? Choose from: paper_grid, quickstart.",
    ),
    (["limt=4"], f"key 'limt' is not known; did you mean 'limit'? {SEE}"),
    (["quant.bitts=4"], f"key 'quant.bitts' is not known; did you mean 'quant.bits'? {SEE}"),
    (["+zzz=1"], f"key 'zzz' is not known. {SEE}"),
    (
        ["quant=hqq_int4", "quant.overrides.down_proj=int8"],
        "key 'quant.overrides.down_proj' is one of your own: add it with ++quant.overrides.down_proj=VALUE.",
    ),
    (["quant.bits=four"], "quant.bits='four' is not a whole number."),
    (["quant.int8_threshold=x"], "quant.int8_threshold='x' is not a number."),
    (["quant.double_quant=maybe"], "quant.double_quant='maybe' is not true or false."),
    (["engine.device=gpu"], "engine.device 'gpu' is not known; did you mean 'cpu'? Choose from: auto, cpu, cuda."),
    (["limit=0"], "limit=0 is not allowed: give a whole number of at least 1, or leave it out to take all."),
    (["engine.batch=0"], "engine.batch=0 is not allowed: give auto, or a whole number of at least 1."),
    (["prompt.num_shots=-1"], "prompt.num_shots=-1 is not allowed: give 0 or more."),
    (
        ["prompt.num_samples=5"],
        "prompt.num_samples=5 needs prompt.temperature above 0: greedy decoding gives the same answer each time.",
    ),
    (["prompt="], "prompt= is not allowed: choose from {prompts}."),
    (["foo"], "override 'foo' cannot be read: write key=value; quote values with special signs."),
]


@pytest.mark.parametrize(("overrides", "message"), MISTAKES, ids=[" ".join(overrides) for overrides, _ in MISTAKES])
def test_a_mistake_on_the_command_line_is_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ours.hydra_app(overrides, lambda config: ours.to_run_config(config))
    assert str(caught.value) == message.format(
        prompts=", ".join(ours.names("prompt")), quants=", ".join(ours.names("quant"))
    )


@pytest.mark.parametrize("group", ["model", "quant", "task", "prompt"])
def test_an_unknown_option_of_each_axis_lists_what_there_is(group: str) -> None:
    nearest = ours.names(group)[0]
    with pytest.raises(ConfigError) as caught:
        ours.hydra_app([f"{group}={nearest}x"], lambda _: None)
    choices = ", ".join(ours.names(group))
    assert str(caught.value) == f"{group} '{nearest}x' is not known; did you mean '{nearest}'? Choose from: {choices}."


MODEL = "name: mine\nsource: hub\nid: a/b\ndtype: float32\ncontext_length: 10\nlicence: x\n"
BAD_FILES = [
    (
        MODEL + "revison: main\n",
        f"model/mine.yaml: key 'model.revison' is not known; did you mean 'model.revision'? {SEE}",
    ),
    (
        MODEL.replace("hub", "hubb"),
        "model/mine.yaml: model.source 'hubb' is not known; did you mean 'hub'? "
        "Choose from: gguf, hub, local, random, wheel.",
    ),
    (MODEL.replace("10", "ten"), "model/mine.yaml: model.context_length='ten' is not a whole number."),
    (MODEL.replace("id: a/b\n", ""), "key 'model.id' has no value: give one in the YAML or on the command line."),
    (MODEL + " x: y\n", "{file}, line 7: mapping values are not allowed here; this is not valid YAML."),
]


@pytest.mark.parametrize(("text", "message"), BAD_FILES)
def test_a_mistake_in_a_file_names_the_file(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "model" / "mine.yaml"
    file.parent.mkdir()
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        ours.hydra_app(["--config-dir", str(tmp_path), "model=mine"], lambda config: ours.to_run_config(config))
    assert str(caught.value) == message.format(file=file)


def test_a_mistake_in_a_sweep_is_found_before_its_first_cell() -> None:
    started: list[object] = []
    with pytest.raises(ConfigError, match=r"^quant 'bnb_nf5' is not known; did you mean 'bnb_nf4'\?"):
        ours.hydra_app(["-m", "quant=none,bnb_nf5", "hydra/launcher=basic"], started.append)
    assert started == []


def test_an_option_read_alone_is_held_against_its_schema(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nmethodd: none\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^mine\.yaml: key 'methodd' is not known"):
        ours.load_option(file, QuantConfig)


def test_known_keys_cover_the_schema() -> None:
    keys = set(ours.known_keys())
    assert {"limit", "model.dtype", "quant.compute_dtype", "task.test.paths", "engine.batch"} <= keys
    assert OmegaConf.structured(RunConfig).keys() <= keys


def axes(config: RunConfig) -> tuple[str, ...]:
    return config.model.name, config.quant.name, config.task.name, str(config.limit), str(config.seed)


SWEEPS = [
    ["model=tiny_random,smollm2_135m", "quant=none,bnb_nf4", "task=demo_qa,demo_re", "limit=3"],
    ["model=tiny_random", "model.dtype=float16,bfloat16", "seed=range(1,4)"],
    ["task=glob(demo_*)", "engine.batch=1,2", "engine.max_new_tokens=3,4"],
    ["experiment=quickstart", "quant=none"],
]


@pytest.mark.parametrize("overrides", SWEEPS, ids=" ".join)
def test_the_cells_of_a_sweep_are_those_that_hydra_would_run(overrides: list[str], tmp_path: Path) -> None:
    ran: list[RunConfig] = []
    places = [f"hydra.sweep.dir={tmp_path}", f"hydra.run.dir={tmp_path}", "hydra/launcher=basic"]
    ours.hydra_app(["-m", *overrides, *places], lambda config: ran.append(ours.to_run_config(config)))
    assert ours.compose_all(overrides) == ran


def test_one_cell_is_a_sweep_of_one() -> None:
    assert ours.compose_all(["model=tiny_random"]) == [composed("model=tiny_random")]


def test_options_that_refer_to_other_parts_are_composed_cell_by_cell(tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    text = (conf_dir() / "task" / "demo_qa.yaml").read_text(encoding="utf-8")
    (tmp_path / "task" / "told.yaml").write_text(
        text.replace("name: demo_qa", "name: told_${model.name}"), encoding="utf-8"
    )
    cells = ours.compose_all(["model=tiny_random,smollm2_135m", "task=told,demo_qa"], str(tmp_path))
    assert [cell.task.name for cell in cells] == ["told_tiny_random", "demo_qa", "told_smollm2_135m", "demo_qa"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["quant=none,bnb_nf5"], "quant 'bnb_nf5' is not known; did you mean 'bnb_nf4'? Choose from: "),
        (
            ["seed=interval(0,1)"],
            "seed=interval(0,1): only a list can be swept: seed=a,b or ",
        ),
        (["limit=2,0"], "limit=0 is not allowed: give a whole number of at least 1, or leave it out to take all."),
        (["limt=3"], f"key 'limt' is not known; did you mean 'limit'? {SEE}"),
    ],
)
def test_a_mistake_in_a_planned_sweep_is_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ours.compose_all(overrides)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("override", ["model.calibrated.gptq=org/name", "model.calibrated={gptq: org/name}"])
def test_a_key_of_ones_own_is_added(override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ours.compose_one([override])
    assert (
        str(caught.value)
        == "key 'model.calibrated.gptq' is one of your own: add it with ++model.calibrated.gptq=VALUE."
    )
    added = ours.compose_one(["++model.calibrated.gptq=org/name@0123abc", "model=qwen2_5_7b"]).model.calibrated
    assert added["gptq"] == "org/name@0123abc"
