"""Malicious inputs of every kind that a user can be handed: data, checkpoints, templates, YAML, names. Of each: nothing
is executed, nothing is written outside the project, and what is wrong is told in one line.
"""

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bioquant import datasets, models, prompts
from bioquant.cli import main
from bioquant.compare import compare
from bioquant.config import DataFormat, Device, Dtype, ModelConfig, ModelSource, PromptConfig, TaskKind
from bioquant.engine.tokens import PromptTokenizer
from bioquant.errors import DataError, ModelError
from bioquant.evidence import gather
from bioquant.models import random
from bioquant.plan import plan
from bioquant.recommend import recommend
from bioquant.records import Message, Row
from bioquant.registry import card
from bioquant.report import Sources, write
from bioquant.shown import visible
from bioquant.tracking.content import run_tags
from generated import Cell, answered
from test_compose import composed
from test_datasets_load import task, write_lines
from test_models import MODELS, NONE
from test_plan import DATASET
from test_recipe import made
from test_registry_card import POLICY, told
from test_report import Elements

ESCAPE = "\x1b[2J\x1b]0;owned\x07"
BIDI = "safe\u202eexe.\u2066x"
SCRIPT = "<script>alert('owned')</script><img src=x onerror=alert(1)>"
LINK = "[click](javascript:alert(1)) ![](http://evil.example/?leak) [a][b]"
FORMULA = '=HYPERLINK("http://evil.example")'


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project of its own, and folders around it in which nothing may appear."""
    outside = tmp_path / "outside"
    inside = outside / "a" / "b" / "project"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    monkeypatch.setenv("BIOQUANT_ROOT", str(inside))
    monkeypatch.setenv("BIOQUANT_CACHE", str(inside / "cache"))
    yield inside
    assert {path for path in outside.rglob("*") if inside not in (path, *path.parents)} == {
        inside.parent,
        outside / "a",
    }
    assert not list(tmp_path.rglob("owned*"))


def assert_plain(message: str) -> None:
    """One line that a terminal only shows."""
    assert "\n" not in message
    assert message == visible(message)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command says of a mistake: one line, nothing else."""
    assert main(list(arguments)) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert_plain(shown.err.removesuffix("\n"))
    return shown.err.removeprefix("error: ").removesuffix("\n")


# Rows of a dataset

QA = task(TaskKind.qa, DataFormat.jsonl, "test.jsonl")

NAMES = {
    "traversal": "../../../owned",
    "absolute": "/owned",
    "null": "a\0b",
    "ansi": ESCAPE,
    "lines": "a\nb\r\nerror: fine",
    "bidi": BIDI,
    "script": SCRIPT,
    "link": LINK,
    "formula": FORMULA,
    "long": "x" * 200_000,
    "separator": "a\u2028b",
    "c1": "a\x9b31mb",
    "template": "{{ ''.__class__ }} ${oc.env:HOME} %s {0}",
}


def rows(folder: Path, *records: dict[str, Any]) -> tuple[Row, ...]:
    write_lines(
        folder / "test.jsonl", *({"question": f"{place}?", "answer": "yes"} | r for place, r in enumerate(records))
    )
    return datasets.load(QA, folder).test


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_an_id_becomes_a_name_that_can_be_printed_anywhere(project: Path, name: str) -> None:
    [row] = rows(project, {"id": name})
    assert_plain(row.id)
    assert set("<={/") & set(row.id) == set("<={/") & set(name)  # it is shown as it is, and escaped where it is shown


def test_a_run_over_such_rows_stays_in_its_folder(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ids, units and texts alike, through the whole command, with its tables, its log and its tracking store."""
    records = [{"id": name, "unit": name, "question": f"{name} {place}?"} for place, name in enumerate(NAMES.values())]
    rows(project, *records)
    (project / "conf" / "task").mkdir(parents=True)
    described = {"name": "evil", "kind": "qa", "description": f"{SCRIPT} {LINK}", "licence": "l", "get": "g"}
    labels = [{"name": "yes"}, {"name": "no"}]
    settings = {"instruction": "Answer.", "max_new_tokens": 2, "labels": labels, "fields": {"unit": "unit"}}
    test = {"format": "jsonl", "paths": ["test.jsonl"]}
    (project / "conf" / "task" / "evil.yaml").write_text(json.dumps({**described, **settings, "test": test}))
    arguments = ["--config-dir", str(project / "conf"), "task=evil", "model=tiny_random", f"data.root={project}"]
    quick = ["measure.latency_examples=0", "measure.bootstrap_resamples=50", "model.context_length=512"]
    long = [place for place, name in enumerate(NAMES) if name == "long"]
    assert main(["run", *arguments, *quick]) == 2  # one question alone is longer than the context
    shown = capsys.readouterr()
    assert f"example {long[0]} has" in shown.err
    write_lines(project / "test.jsonl", *({"answer": "yes", **r} for r in records if r["id"] != NAMES["long"]))
    assert main(["run", *arguments, *quick]) == 0
    shown = capsys.readouterr()
    assert shown.out == visible(shown.out)
    assert shown.err == visible(shown.err)


BROKEN = {
    "deep": "[" * 100_000,
    "deep object": '{"a":' * 100_000,
    "number": '{"id": ' + "9" * 10_000 + "}",
    "no object": "[1]",
    "binary": "\x00\x01\x02",
    "surrogate": '{"question": "a\\ud800?", "answer": "yes"}',
    "surrogate id": '{"id": "\\udfff", "question": "a?", "answer": "\\ud800"}',
    "other type": '{"question": {"a": [1]}, "answer": ["yes", "no"]}',
    "infinite": '{"question": Infinity, "answer": NaN}',
}


@pytest.mark.parametrize("line", BROKEN.values(), ids=BROKEN)
def test_a_broken_line_is_told_in_one(project: Path, line: str) -> None:
    (project / "test.jsonl").write_text(line, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        datasets.load(QA, project)
    assert_plain(str(caught.value))


DOCUMENTS = {
    "far": {"id": "1", "passages": [{"offset": 10**12, "text": "a"}]},
    "negative": {"id": "1", "passages": [{"offset": "x", "text": "a"}]},
    "text": "no document",
    "nowhere": {"id": "1", "passages": [{"offset": 0, "text": "a", "annotations": [{"infons": {}, "locations": []}]}]},
    "list": {"id": "1", "passages": [{"offset": 0, "text": ["a"]}]},
}


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_a_broken_document_is_told_in_one(project: Path, document: object) -> None:
    (project / "x.json").write_text(json.dumps({"documents": [document]}), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        datasets.load(task(TaskKind.ner, DataFormat.bioc, "x.json", labels=["D"]), project)
    assert_plain(str(caught.value))


LAUGHS = '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><document>&b;</document>'
OUTSIDE = '<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]><document>&x;</document>'


@pytest.mark.parametrize("xml", [LAUGHS, OUTSIDE], ids=["billion laughs", "external entity"])
def test_xml_with_entities_is_refused(project: Path, xml: str) -> None:
    archived(project / "x.tar", {"d.xml": xml.encode()})
    with pytest.raises(DataError, match="the XML holds a document type, which is not read"):
        datasets.load(task(TaskKind.re, DataFormat.ddi_xml, "x.tar", labels=["false"]), project)


def archived(path: Path, files: dict[str, bytes], links: Sequence[tuple[str, str, bytes]] = ()) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, target, kind in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)


MEMBERS = {
    "traversal": ({"../../../owned.xml": b"<document/>"}, []),
    "absolute": ({"/tmp/owned.xml": b"<document/>"}, []),
    "symlink": ({}, [("d.xml", "/etc/passwd", tarfile.SYMTYPE)]),
    "hard link": ({}, [("d.xml", "../owned", tarfile.LNKTYPE)]),
    "device": ({}, [("d.xml", "", tarfile.CHRTYPE)]),
}


@pytest.mark.parametrize(("files", "links"), MEMBERS.values(), ids=MEMBERS)
def test_an_archive_is_never_unpacked(project: Path, files: dict[str, bytes], links: list[Any]) -> None:
    archived(project / "x.tar", files, links)
    with pytest.raises(DataError, match="the test split holds no records"):
        datasets.load(task(TaskKind.re, DataFormat.ddi_xml, "x.tar", labels=["false"]), project)


def test_a_file_name_with_escapes_is_shown_plainly(project: Path) -> None:
    (project / f"{ESCAPE}\n.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        datasets.load(task(TaskKind.qa, DataFormat.jsonl, f"{ESCAPE}\n.jsonl"), project)
    assert_plain(str(caught.value))


def test_a_text_of_thousands_of_sentences_is_shortened_at_once(project: Path) -> None:
    text = "It was so. " * 20_000
    config = composed("model=tiny_random", "limit=1")
    row = Row(id="1", inputs={"question": "q?", "context": text}, target="yes", choices=("yes", "no"))
    [example] = prompts.written([row], [()], config.task, PromptConfig(name="p"), system_prompt=None)
    counted: list[int] = []

    def fits(shown: prompts.Example) -> bool:
        counted.append(1)
        return len(shown.messages[-1].content) < 5_000

    found = prompts.fitting(example, config.task, config.prompt, fits)
    assert found is not None
    assert 4_980 < len(found.messages[-1].content) < 5_000
    assert len(counted) < 20


# What a model says, and what is shown of it


def test_a_report_shows_texts_and_runs_nothing(project: Path) -> None:
    targets = ["yes", "no"] * 50
    names = [f"{SCRIPT}{LINK}{place}" for place in range(100)]
    cells = [
        Cell(
            targets=targets,
            answers=answers,
            task="t",
            quant=quant,
            ids=names,
        )
        for quant, answers in (("none", targets), ("nf4", ["no"] * 100))
    ]
    found = compare(gather(answered(cell) for cell in cells), POLICY, resamples=100)
    texts = dict.fromkeys(names, (f"{SCRIPT}{ESCAPE}{BIDI}{LINK}", "out"))
    sources = Sources(texts={one.candidate.run_id: texts for one in found.comparisons}, environment={}, command="x")
    write(project, recommend(found, POLICY), found, sources)
    page = (project / "report.html").read_text(encoding="utf-8")
    assert not {"script", "img", "a", "iframe"} & set(Elements(page).tags)
    assert page == visible(page)
    markdown = (project / "report.md").read_text(encoding="utf-8")
    assert "<script" not in markdown
    assert "](javascript" not in markdown
    assert "![](http" not in markdown


def test_a_card_and_a_runs_description_hold_no_markup_of_a_tasks_own() -> None:
    recipe = made("task=demo_qa", "prompt=zero_shot", "quant=bnb_int8")
    evil = f"{SCRIPT}{LINK}`x`\n# title"
    told_ = told(replace(recipe, task=replace(recipe.task, description=evil, licence=evil)))
    note = run_tags(
        plan(replace(composed(), task=replace(composed().task, description=evil)), DATASET), Path("x"), None
    )
    for text in (card.written(told_, stores_weights=False), note["mlflow.note.content"]):
        assert "<script" not in text
        assert "<img" not in text
        assert "](javascript" not in text
        assert "![](http" not in text
        assert "\n# title" not in text


# Chat templates, which come with a checkpoint and are programs

TEMPLATES = {
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.system('touch owned') }}",
    "lipsum": "{{ lipsum.__globals__['os'].popen('touch owned').read() }}",
    "format": "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "attr": "{{ messages|attr('__class__')|attr('__base__')|attr('__subclasses__')() }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}{{ os.system('touch owned') }}",
    "append": "{{ messages.append(messages) }}",
    "range": "{% for i in range(10**9) %}x{% endfor %}",
    "zero": "{{ 1 / 0 }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "syntax": "{% for %}",
    "refusal": "{{ raise_exception('no ' + messages[0].content) }}",
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_template_cannot_leave_its_sandbox(template: str) -> None:
    tokenizer: Any = random.tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(ModelError) as caught:
        PromptTokenizer(tokenizer, None).text([Message(role="user", content="q?")])
    assert_plain(str(caught.value))
    assert str(caught.value).startswith("the chat template of the model's tokenizer fails (")


# Checkpoints


def checkpoint(folder: Path, **files: bytes | str) -> ModelConfig:
    """A local checkpoint of these files, `__` for a dot in their names."""
    folder.mkdir()
    architecture = dict(MODELS["tiny_random"].architecture)
    known: dict[str, bytes | str] = {"config__json": json.dumps(architecture), **files}
    for name, content in known.items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name.replace("__", ".")).write_bytes(data)
    return ModelConfig(
        name="own", source=ModelSource.local, id=str(folder), dtype=Dtype.float32, context_length=64, licence="x"
    )


PICKLE = b"cposix\nsystem\n(S'touch owned'\ntR."
INDEX = json.dumps({"weight_map": {"a": "../../../etc/passwd"}})
CODE = json.dumps({"model_type": "x", "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}})

CHECKPOINTS: dict[str, dict[str, bytes | str]] = {
    "a pickle": {"pytorch_model__bin": PICKLE},
    "a pickle named safetensors": {"model__safetensors": PICKLE},
    "a huge header": {"model__safetensors": (2**62).to_bytes(8, "little") + b"{}"},
    "no safetensors": {"model__safetensors": b"\0" * 64},
    "an index that leads out": {"model__safetensors__index__json": INDEX},
    "an index that is none": {"model__safetensors__index__json": "[1]"},
    "a broken index": {"model__safetensors__index__json": "{"},
    "a config that is no JSON": {"config__json": "{", "model__safetensors": b""},
    "a config that is a list": {"config__json": "[]", "model__safetensors": b""},
    "code of its own": {
        "config__json": CODE,
        "code__py": "open('owned', 'w')",
        "model__safetensors": (2).to_bytes(8, "little") + b"{}",
    },
}


@pytest.mark.parametrize("files", CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_a_checkpoint_is_weights_and_runs_nothing(project: Path, files: dict[str, bytes | str]) -> None:
    model = checkpoint(project / "checkpoint", **files)
    with pytest.raises(ModelError) as caught:
        models.load(model, NONE, Device.cpu)
    assert_plain(str(caught.value))
    assert str(caught.value).startswith("model 'own'")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"version": "1.0", "model": {"type": "Owned"}}'], ids=["cut", "list", "kind"]
)
def test_a_tokenizer_that_is_none_is_told_in_one_line(project: Path, text: str) -> None:
    model = checkpoint(project / "checkpoint", tokenizer__json=text)
    models.load(MODELS["tiny_random"], NONE, Device.cpu).model.save_pretrained(project / "checkpoint")
    with pytest.raises(ModelError) as caught:
        models.load(model, NONE, Device.cpu)
    assert_plain(str(caught.value))


# YAML

REST = "source: random\nid: x\ndtype: float32\ncontext_length: 9\nlicence: x\n"

YAML = {
    "python object": ("model", "name: !!python/object/apply:os.system ['touch owned']\n"),
    "python name": ("model", "name: !!python/name:os.system\n"),
    "own tag": ("model", "name: !owned x\n"),
    "target": ("model", "name: x\n_target_: os.system\ncommand: touch owned\n"),
    "target in an experiment": ("experiment", "# @package _global_\nhydra:\n  launcher:\n    _target_: os.system\n"),
    "callback": ("experiment", "# @package _global_\nhydra:\n  callbacks:\n    x:\n      _target_: os.system\n"),
    "laughs": (
        "model",
        "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)),
    ),
    "in itself": ("model", "a: &a [*a]\n"),
    "control characters": ("model", f"name: {ESCAPE}\n"),
    "no YAML": ("model", "name: [\n"),
    "deep": ("model", "a: " + "[" * 5_000),
    "a number": ("model", "5"),
    "unknown key": ("model", f"name: x\n{LINK[1:6]}: y\n"),
    "traversal": (
        "model",
        f"name: ../../../owned\n{REST}",
    ),
    "quotes": (
        "model",
        f"name: \"x' or '1'='1\"\n{REST}",
    ),
    "escapes": ("model", f'name: "\\e[2J"\n{REST}'),
    "secret": (
        "model",
        "name: x\nsource: random\nid: '${oc.env:OWN_TOKEN}'\ndtype: float32\ncontext_length: 9\nlicence: x\n",
    ),
}


@pytest.mark.parametrize(("group", "text"), YAML.values(), ids=YAML)
def test_a_configuration_file_holds_values_only(
    project: Path, group: str, text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OWN_TOKEN", "hf_tell_nobody")
    (project / "conf" / group).mkdir(parents=True)
    (project / "conf" / group / "evil.yaml").write_text(text, encoding="utf-8")
    for verb in ("run", "plan"):
        message = said(capsys, verb, "--config-dir", str(project / "conf"), f"{group}=evil")
        assert "hf_tell_nobody" not in message
    assert not (project / "mlruns").exists()


def test_a_linked_folder_is_looked_into_and_one_that_holds_itself_too(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "elsewhere").mkdir()
    (project / "elsewhere" / "evil.yaml").write_text("_target_: os.system\n", encoding="utf-8")
    (project / "conf").mkdir()
    (project / "conf" / "model").symlink_to(project / "elsewhere")
    (project / "conf" / "task").symlink_to(project / "conf")
    message = said(capsys, "run", "--config-dir", str(project / "conf"), "model=evil")
    assert message == (
        f"{project}/conf/model/evil.yaml, line 1: the key '_target_' is not allowed: files hold values only, and a "
        "launcher is chosen by its name (hydra/launcher=…)."
    )


@pytest.mark.parametrize(
    "override",
    [
        "tracking.experiment=../../../owned",
        "tracking.experiment=/owned",
        f"tracking.experiment='{ESCAPE}'",
        "task.name=../owned",
        "+model.architecture.x={_target_:os.system}",
        "hydra.launcher._target_=os.system",
        "--experimental-rerun=owned.pickle",
        "model='../../../../etc/passwd'",
        "task=../../owned",
        "model.id=${oc.env:OWN_TOKEN}",
        "prompt.name=${oc.env:OWN_TOKEN}",
    ],
)
def test_a_setting_that_leads_out_is_refused(
    override: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OWN_TOKEN", "hf_tell_nobody")
    assert "hf_tell_nobody" not in said(capsys, "run", "model=tiny_random", override)


@pytest.mark.parametrize("name", ["x' or '1'='1", "../x", ESCAPE, "a\nb", "-x", "x" * 300])
def test_a_registered_name_is_a_name(name: str) -> None:
    from bioquant.errors import ConfigError
    from bioquant.registry import versions

    wanted = versions.Wanted(name=name, label="l", card="c", tags={}, aliases=(), run_id="r")
    with pytest.raises(ConfigError) as caught:
        versions.check(wanted)
    assert_plain(str(caught.value))
