"""A recipe: what it holds, that it comes back from its file, and when it must not be followed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bioquant import plan, recipe, run
from bioquant.config import ModelSource
from bioquant.errors import RegistryError
from bioquant.recipe import Recipe
from test_compose import composed

INSTALLED = {
    "bioquant": "0.1.0",
    "torch": "2.13.0+cpu",
    "bitsandbytes": "0.50.2",
    "optimum-quanto": "0.2.7",
    "vllm": "0.11.0",
    "python": "3.11",
}


def made(*overrides: str) -> Recipe:
    config = composed("model=tiny_random", "engine.batch=2", *overrides)
    return recipe.of_plan(run.prepare(config, run.read(config)), INSTALLED)


@pytest.mark.parametrize("task", ["demo_qa", "demo_ner", "demo_re", "demo_mlc"])
@pytest.mark.parametrize("prompt", ["zero_shot", "five_shot", "five_shot_cot"])
def test_a_recipe_comes_back_from_its_file(tmp_path: Path, task: str, prompt: str) -> None:
    found = made(f"task={task}", f"prompt={prompt}", "quant=bnb_nf4")
    recipe.write(found, tmp_path / "recipe.json")
    again = recipe.read(tmp_path / "recipe.json")
    assert again.sha256 == found.sha256
    assert again == found
    assert len(again.shots) == found.prompt.num_shots
    assert again.config.task == found.task


def test_it_pins_what_it_needs_and_nothing_else() -> None:
    assert made("quant=bnb_int8").libraries == {
        "bioquant": "0.1.0",
        "torch": "2.13.0+cpu",
        "bitsandbytes": "0.50.2",
    }
    assert "bitsandbytes" not in made("quant=none").libraries
    assert "vllm" not in made("quant=none").libraries
    assert "vllm" in made("quant=none", "engine=vllm", "engine.batch=2").libraries


def test_its_digest_is_of_all_that_decides_an_answer() -> None:
    first = made("prompt=five_shot")
    assert made("prompt=five_shot").sha256 == first.sha256
    others = [
        made("prompt=one_shot"),
        made("prompt=five_shot", "quant=bnb_int8"),
        made("prompt=five_shot", "engine.batch=3"),
        made("prompt=five_shot", "seed=1"),
        replace(first, libraries={**first.libraries, "torch": "2.14"}),
        replace(first, shots=first.shots[::-1]),
    ]
    assert len({first.sha256, *(other.sha256 for other in others)}) == 7


def test_shots_that_depend_on_the_question_are_not_kept_and_their_pool_is_named() -> None:
    found = made("prompt=knn_five_shot")
    assert found.shots == ()
    config = composed("task=demo_qa")
    assert found.dataset_sha256 == run.read(config).digest
    assert made("prompt=five_shot").dataset_sha256 is None


def test_stored_weights_stand_in_for_the_model(tmp_path: Path) -> None:
    found = recipe.with_weights(made("quant=bnb_nf4"), tmp_path)
    assert (found.model.source, found.model.id) == (ModelSource.local, str(tmp_path))
    assert found.quant.name == "bnb_nf4"


@pytest.mark.parametrize("key", ["format", "template_version"])
def test_a_recipe_of_another_version_is_not_followed(tmp_path: Path, key: str) -> None:
    path = tmp_path / "recipe.json"
    recipe.write(made(), path)
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**values, key: 99}), encoding="utf-8")
    with pytest.raises(RegistryError) as caught:
        recipe.read(path)
    assert str(caught.value) == (
        f"the recipe was made by bioquant 0.1.0, whose prompts this version ({plan.versions()['bioquant']}) does not "
        "write: its answers would not be those evaluated. Install bioquant==0.1.0, or register anew."
    )


def test_a_key_that_nobody_knows_is_told(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    recipe.write(made(), path)
    values = json.loads(path.read_text(encoding="utf-8"))
    values["quant"]["colour"] = "red"
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(
        RegistryError, match=r"the recipe .*recipe.json cannot be read: Key 'colour' not in 'QuantConfig'"
    ):
        recipe.read(path)


def test_libraries_that_have_changed_are_named() -> None:
    found = replace(made(), libraries={"torch": "1.0", "transformers": plan.versions()["transformers"]})
    here = plan.versions()["torch"]
    assert recipe.changed_libraries(found, ["torch", "transformers", "accelerate"]) == [f"torch 1.0, here {here}"]
