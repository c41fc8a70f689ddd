"""One module a verb of the command line; each has `main(arguments)`."""

VERBS = {
    "run": "run one cell, or with -m a sweep of cells (a Hydra application)",
    "plan": "predict a cell's or a sweep's memory, time and disk; nothing is loaded",
    "compare": "each quantized cell beside its baseline: what it loses and saves, and how sure that is",
    "recommend": "which model, at which precision, prompted how: under a policy, with a report",
    "register": "make a recommendation, or a run, a version in the model registry that answers as it did",
    "serve": "a registered model version over HTTP: requests in batches, health, limits",
    "ui": "open the MLflow UI on this project's runs",
    "sync": "deliver what was logged while the tracking server was away",
    "doctor": "check this machine, say what to do about what is missing; --reap closes runs whose process is gone",
    "models": "list the models: size, licence, gated or not, cached or not",
    "quants": "list the quantization recipes: bits a weight, what each needs, and what works on this machine",
    "tasks": "list the tasks: kind, labels, licence, where their files are looked for",
    "completion": "print the script that makes bash, zsh or fish complete verbs, options and overrides",
}
