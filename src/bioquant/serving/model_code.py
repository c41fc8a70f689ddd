"""Stored with each model version and run when it is loaded (MLflow's models from code); the rest is in the recipe."""

from mlflow.models import set_model

from bioquant.serving.model import TaskEndpoint

set_model(TaskEndpoint())
