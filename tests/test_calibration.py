"""The text that a recipe is calibrated on: which it is, its digest in the cell's identity, and never a test example."""

from pathlib import Path

import pytest

from bioquant import calibration, datasets, run
from bioquant.errors import BioquantError, ConfigError, DataError, QuantError
from bioquant.plan import plan
from test_compose import composed
from test_sweep_cells import planned, reasons


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """gptqmodel is an extra, and nothing of it is needed here."""
    monkeypatch.setattr("bioquant.quantization.lacking_library", lambda _: None)


def cell(*overrides: str):
    return composed("model=tiny_random", "quant=gptq_int4", *overrides)


def refused(kind: type[BioquantError], *overrides: str) -> str:
    with pytest.raises(kind) as caught:
        calibration.decided(cell(*overrides))
    return str(caught.value)


def test_a_pools_examples_are_taken_with_their_gold_answers_in_a_seeded_order() -> None:
    config = calibration.decided(cell("quant.calibration.task=demo_qa"))
    texts = calibration.texts(config)
    assert len(texts) == 12
    assert all(text.splitlines()[-1].startswith("Answer: ") for text in texts)
    again = calibration.texts(calibration.decided(cell("quant.calibration.task=demo_qa")))
    assert again == texts
    other = calibration.texts(calibration.decided(cell("quant.calibration.task=demo_qa", "quant.calibration.seed=1")))
    assert other != texts
    assert sorted(other) == sorted(texts)


def test_a_files_paragraphs(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("One.\nStill one.\n\n  \n\nTwo.\n", encoding="utf-8")
    config = calibration.decided(cell(f"quant.calibration.file={path}"))
    assert sorted(calibration.texts(config)) == ["One.\nStill one.", "Two."]


def test_the_digest_and_the_windows_are_part_of_the_cell_and_where_the_text_lies_is_not(tmp_path: Path) -> None:
    def cell_id(*overrides: str) -> str:
        config = calibration.decided(cell(*overrides))
        return plan(config, datasets.load(config.task, None)).cell_id

    same = "One.\n\nTwo."
    for name, text in (("a", same), ("b", same), ("c", "Three.")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    first, second, third = (cell_id(f"quant.calibration.file={tmp_path / name}") for name in "abc")
    assert first == second != third
    for change in ("quant.calibration.num_samples=3", "quant.calibration.num_tokens=9", "quant.desc_act=true"):
        assert cell_id(f"quant.calibration.file={tmp_path / 'a'}", change) != first


def test_other_recipes_of_the_same_sweep_do_not_heed_it() -> None:
    text = ("quant.calibration.task=demo_qa", "quant.group_size=64", "quant.calibration.num_samples=2")
    found = planned(("quant=none", *text), ("quant=bnb_nf4", *text), ("quant=gptq_int4", *text), ("quant=bnb_nf4",))
    assert [cell.plan.config.quant.name for cell in found.cells] == ["none", "bnb_nf4", "gptq_int4"]
    assert reasons(found) == ["the same cell as tiny_random · bnb_nf4 · demo_qa · zero_shot"]


def test_a_planned_cell_is_not_read_again(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("One.", encoding="utf-8")
    config = calibration.decided(cell(f"quant.calibration.file={path}"))
    path.unlink()
    assert calibration.decided(config) is config
    plain = composed("model=tiny_random", "quant=bnb_nf4")
    assert calibration.decided(plain) is plain


def test_a_text_that_is_not_the_planned_one_is_refused() -> None:
    config = calibration.decided(cell("quant.calibration.task=demo_qa"))
    assert config.quant.calibration.sha256 is not None
    config.quant.calibration.task = "demo_re"
    other = calibration.decided(cell("quant.calibration.task=demo_re")).quant.calibration.sha256
    assert other is not None
    with pytest.raises(QuantError) as caught:
        calibration.texts(config)
    assert str(caught.value) == (
        f"quant 'gptq_int4': its calibration text here (digest {other[:12]}) is not what it was planned with "
        f"({config.quant.calibration.sha256[:12]}): point quant.calibration and $BIOQUANT_DATA to that one."
    )


def test_what_is_no_text_is_named(tmp_path: Path) -> None:
    assert refused(ConfigError, "quant.calibration.task=demo_qq").startswith(
        "quant.calibration.task 'demo_qq' is not known; did you mean 'demo_qa'? Choose from: "
    )
    absent = tmp_path / "none.txt"
    assert refused(DataError, f"quant.calibration.file={absent}") == (
        f"quant.calibration.file={absent} cannot be read as text: [Errno 2] No such file or directory: '{absent}'."
    )
    (tmp_path / "empty.txt").write_text("\n \n", encoding="utf-8")
    assert refused(DataError, f"quant.calibration.file={tmp_path}/empty.txt") == (
        f"quant.calibration.file={tmp_path}/empty.txt holds no text."
    )
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xfa")
    assert "cannot be read as text: 'utf-8' codec" in refused(DataError, f"quant.calibration.file={tmp_path}/bytes.txt")


def test_a_cell_whose_test_split_holds_what_is_calibrated_on_is_left_out() -> None:
    """The pool of one task is the test split of another."""
    other = ("task.name=turned", "task.test.paths=['demo:qa_pool.jsonl']", "task.pool=null")
    found = planned(("quant=gptq_int4", "quant.calibration.task=demo_qa", *other), ("quant=none", *other))
    assert len(found.cells) == 1
    [reason] = reasons(found)
    assert reason.startswith(
        "quant 'gptq_int4' is calibrated on the pool of task 'demo_qa', of which 12 examples stand in the test split "
        "of task 'turned' (pool '"
    )
    config = cell("quant.calibration.task=demo_qa", *other)
    with pytest.raises(ConfigError) as caught:
        run.prepare(config, run.read(config))
    assert str(caught.value) == f"{reason}: choose another quant.calibration.task."
    own = cell("quant.calibration.task=demo_qa")
    assert run.prepare(own, run.read(own)).config.quant.calibration.sha256 is not None
