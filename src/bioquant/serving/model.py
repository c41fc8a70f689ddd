"""The MLflow pyfunc of a registered recipe: rows in a data frame, answers in a data frame."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array, Object, Property

from bioquant.config import TaskConfig, TaskKind
from bioquant.errors import RequestError
from bioquant.records import Row
from bioquant.serving.answerer import RECIPE, Answerer
from bioquant.serving.answers import FIELD, answers
from bioquant.serving.requests import example, fields_of, row


class TaskEndpoint(PythonModel):
    """Loads the recipe's model once, and answers."""

    def load_context(self, context: PythonModelContext) -> None:
        """From the files of a model version. Raises what `Answerer.load` raises."""
        self._answerer = Answerer.load(Path(context.artifacts[RECIPE]).parent)

    def predict(self, model_input: pd.DataFrame) -> pd.DataFrame:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One answer a row, in order. Raises MlflowException, which a server answers as 400, for what is no row."""
        task = self._answerer.recipe.task
        try:
            shown = answers(self._answerer.answer(rows_of(model_input, task)), task.kind)
        except RequestError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        return pd.DataFrame(shown, dtype=object)  # a None among texts must not become NaN


def rows_of(frame: pd.DataFrame, task: TaskConfig) -> list[Row]:
    """The frame's rows. Raises RequestError."""
    return [
        row({name: _plain(value) for name, value in values.items()}, task, number)
        for number, values in enumerate(frame.to_dict("records"))
    ]


def _plain(value: Any) -> Any:
    """A cell as JSON has it: arrays are lists, a missing value is None."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return None if (isinstance(value, float) and np.isnan(value)) or value is pd.NA else value


def signature(task: TaskConfig) -> ModelSignature:
    """What a version takes and gives, for MLflow to hold both against."""
    text = DataType.string
    asked = [
        ColSpec(Array(text) if field.is_list else text, field.name, required=field.required)
        for field in fields_of(task)
    ]
    entity = Object([Property("start", DataType.long), Property("end", DataType.long), *_texts("type", "text")])
    types = {TaskKind.ner: Array(entity), TaskKind.re: text, TaskKind.mlc: Array(text), TaskKind.qa: text}
    given = [
        ColSpec(types[task.kind], FIELD[task.kind], required=False),
        ColSpec(DataType.boolean, "invalid"),
        ColSpec(Array(text), "outputs"),
        ColSpec(DataType.boolean, "truncated_input"),
        ColSpec(DataType.boolean, "truncated_output"),
    ]
    return ModelSignature(inputs=Schema([*asked]), outputs=Schema([*given]))


def _texts(*names: str) -> list[Property]:
    return [Property(name, DataType.string) for name in names]


def input_example(task: TaskConfig) -> pd.DataFrame:
    """An invented row."""
    return pd.DataFrame([example(task)])
