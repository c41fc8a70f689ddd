"""The files of a version: MLflow's pyfunc from code, the recipe, and quantized weights where they are stored."""

from importlib.resources import as_file, files
from pathlib import Path

import mlflow.pyfunc
from mlflow.entities import LoggedModel
from mlflow.models import Model

from bioquant import recipe
from bioquant.errors import QuantError
from bioquant.files import write_json
from bioquant.recipe import Recipe
from bioquant.serving.answerer import RECIPE, STORED, WEIGHTS
from bioquant.serving.model import input_example, signature


def params(made: Recipe) -> dict[str, str]:
    """What one filters logged models by."""
    axes = {"model": made.model.name, "quant": made.quant.name, "task": made.task.name, "prompt": made.prompt.name}
    revision = {"model.revision": made.model.revision} if made.model.revision else {}
    return {**axes, "model.id": made.model.id, **revision}


def store_weights(made: Recipe, folder: Path) -> Path:
    """Quantize and store, proved by a reload. Raises QuantError, and what loading the model raises."""
    from bioquant import loading  # torch, which only this needs
    from bioquant.models import saved

    if made.engine.name != "transformers":
        raise QuantError(
            f"registry.save_weights=true: engine '{made.engine.name}' does not load weights that transformers has "
            "quantized. Leave it out: the version then quantizes the model when it is loaded."
        )
    source, quantized = loading.weights(made.config)
    saved.store(source, made.quant, made.engine.device, folder, quantized=quantized)
    return folder


def pack(folder: Path, made: Recipe, model: LoggedModel, *, card: str, weights: Path | None) -> None:
    """Write the version's folder. Nothing in it is pickled: code, JSON, safetensors, and MLflow's own YAML."""
    written = folder.with_name(RECIPE)
    recipe.write(made, written)
    with as_file(files("bioquant.serving") / "model_code.py") as code:
        mlflow.pyfunc.save_model(
            folder,
            python_model=code,
            artifacts={RECIPE: str(written)},
            signature=signature(made.task),
            input_example=input_example(made.task),
            pip_requirements=requirements(made),
            mlflow_model=Model(
                artifact_path=model.artifact_location,
                run_id=model.source_run_id,
                model_uuid=model.model_id,
                model_id=model.model_id,
            ),
        )
    (folder / "README.md").write_text(card, encoding="utf-8")
    if weights is not None:
        sizes = {path.name: path.stat().st_size for path in sorted(weights.iterdir())}
        write_json(folder / "artifacts" / STORED, sizes)
        weights.replace(folder / "artifacts" / WEIGHTS)


def requirements(made: Recipe) -> list[str]:
    """`torch==2.13.0`: versions of the evidence; a build's own suffix (+cpu) is on no package index."""
    from importlib.metadata import version

    pins = {"mlflow": version("mlflow"), **made.libraries}
    return [f"{name}=={pinned.partition('+')[0]}" for name, pinned in pins.items()]
