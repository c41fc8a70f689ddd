"""A version's description: a model card in Markdown, and its tags. Pure."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from bioquant import quantization
from bioquant.answering import max_new_tokens
from bioquant.compare import Comparison
from bioquant.config import PolicyConfig, QuantMethod, TaskKind
from bioquant.evidence import LoggedRun
from bioquant.recipe import Recipe
from bioquant.registry.evidence import Evidence
from bioquant.report.appendix import FOOTPRINT
from bioquant.serving.answers import FIELD
from bioquant.serving.requests import example, fields_of
from bioquant.shown import markdown
from bioquant.wording import bounds, change, in_points, verdict_text

LONGEST = 5000
"""Characters of a description that MLflow's database takes."""

KINDS = {
    TaskKind.ner: "Named entities with their places",
    TaskKind.re: "One relation a text",
    TaskKind.mlc: "Any number of labels a text",
    TaskKind.qa: "One option a question",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """All that a card tells. recommendation: the run that chose the cell, where one did."""

    recipe: Recipe
    evidence: Evidence
    policy: PolicyConfig
    recommendation: str | None


def written(told: Told, *, stores_weights: bool) -> str:
    """The card, whole."""
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_harmless)
    template = (files("bioquant.registry") / "card.md.jinja").read_text(encoding="utf-8")
    return environment.from_string(template).render(_context(told, stores_weights=stores_weights)) + "\n"


def _harmless(value: object) -> object:
    """What the template is given is not to be Markdown of its own, unless it was made as such here."""
    return markdown(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def shortened(card: str) -> str:
    """The card where MLflow's database takes it, else its first sections, and where the rest is."""
    if len(card) <= LONGEST:
        return card
    rest = "\n\nThe whole card is README.md among the version's files.\n"
    return card[: card.rindex("\n\n", 0, LONGEST - len(rest))] + rest


def tags(told: Told, *, stores_weights: bool) -> dict[str, str]:
    """What one searches versions by."""
    recipe, run, comparison = told.recipe, told.evidence.run, told.evidence.comparison
    named = {
        "task": recipe.task.name,
        "model": recipe.model.name,
        "quant": recipe.quant.name,
        "prompt": recipe.prompt.name,
        "recipe_sha256": recipe.sha256,
        "weights": "stored" if stores_weights else "none",
        "evidence_run": run.run_id,
        "machine": run.machine,
        "quality": f"{run.metrics['quality']:.4f}",
        "policy": told.policy.name,
        "model_licence": recipe.model.licence,
        "data_licence": recipe.task.licence,
    }
    if comparison is not None:
        named |= {"baseline_run": comparison.baseline.run_id, "verdict": str(comparison.verdict)}
        named |= {} if comparison.retention is None else {"retention": f"{comparison.retention:.4f}"}
    if told.recommendation is not None:
        named["recommendation_run"] = told.recommendation
    return named | ({"forced": "true"} if told.evidence.gap else {})


def _context(told: Told, *, stores_weights: bool) -> dict[str, object]:
    recipe, run = told.recipe, told.evidence.run
    fields = [f"`{field.name}`{'' if field.required else ' (may be left out)'}" for field in fields_of(recipe.task)]
    footprint = ", ".join(_footprint(run))
    return {
        "told": told,
        "recipe": recipe,
        "run": run,
        "kind": KINDS[recipe.task.kind],
        "labels": ", ".join(label.name for label in recipe.task.labels),
        "fields": Markup(", ".join(fields)),
        "answer": FIELD[recipe.task.kind],
        "example": json.dumps({"dataframe_records": [example(recipe.task)]}, ensure_ascii=False),
        "quality": _quality(run),
        "comparison": list(_comparison(told)),
        "footprint": footprint,
        "limits": list(_limits(told)),
        "quant": _quant(recipe, stores_weights=stores_weights),
        "prompt": _prompt(recipe),
        "engine": f"batches of {recipe.engine.batch} rows, up to {max_new_tokens(recipe.config)} new tokens",
        "libraries": ", ".join(f"{name} {version}" for name, version in sorted(recipe.libraries.items())),
        "policy": _asked_for(told.policy),
    }


def _quality(run: LoggedRun) -> str:
    """The headline metric with its interval, and what an answer without reading gets."""
    metrics = run.metrics
    value = bounds(metrics["quality"], metrics["quality_ci_low"], metrics["quality_ci_high"])
    number = int(metrics["num_examples"])
    trivial = run.trivial
    best = max(trivial, key=trivial.__getitem__, default="")
    beside = f"; the best constant answer ('{best}') gets {trivial[best]:.3f}" if best else ""
    return f"{run.tags['headline']} {value} (95 %) on {number:,} of {run.num_test:,} test examples{beside}"


def _comparison(told: Told) -> Iterator[str]:
    """What quantization cost, beside the same model unquantized."""
    comparison = told.evidence.comparison
    if comparison is None:
        if not told.evidence.gap:
            yield "this is the unquantized model: its own baseline"
        return
    level = f"{told.policy.confidence:.0%}".replace("%", " %")
    yield f"against the unquantized model: {change(comparison)} ({level}), {_retained(comparison)}"
    flips = f"of {comparison.num_examples:,} examples {len(comparison.lost)} lost and {len(comparison.gained)} gained"
    judged = "" if told.policy.max_quality_loss is None else f"; {_tolerated(told.policy)}: {verdict_text(comparison)}"
    yield f"{flips}{judged}"
    yield from comparison.notes


def _retained(comparison: Comparison) -> str:
    if comparison.retention is None:
        return "retention unknown, for the baseline scores 0"
    if comparison.retention_low is None or comparison.retention_high is None:
        return f"retention {comparison.retention:.1%}"
    return f"retention {comparison.retention:.1%} [{comparison.retention_low:.1%}, {comparison.retention_high:.1%}]"


def _footprint(run: LoggedRun) -> Iterator[str]:
    """What was measured, and nothing else."""
    for heading, metric, form in FOOTPRINT:
        value = run.metrics.get(metric) if metric else run.peak_mib
        if value is not None:
            yield f"{heading} {form(value)}"


def _limits(told: Told) -> Iterator[str]:
    """What a reader should know before relying on it."""
    recipe, run = told.recipe, told.evidence.run
    if run.metrics["quality_ci_low"] <= max(run.trivial.values(), default=-1.0):
        yield "it is not shown to beat an answer that reads no text"
    rates = {
        "invalid_rate": "of the outputs could not be read as an answer",
        "truncated_input_rate": "of the prompts were shortened to fit the model's context",
        "truncated_output_rate": "of the outputs were cut at the token limit",
    }
    yield from (f"{run.metrics[rate]:.1%} {text}" for rate, text in rates.items() if run.metrics.get(rate))
    yield f"prompt and answer together have room for {recipe.model.context_length:,} tokens"
    yield "rows of one request are answered together as evaluated; with others beside it a row may be rounded otherwise"
    if recipe.prompt.temperature > 0:
        yield "answers are sampled: a row's depends on its place in the request"
    if recipe.dataset_sha256 is not None:
        yield "few-shot examples are taken from the pool, whose files must be where it is served ($BIOQUANT_DATA)"
    if not run.on_gpu:
        yield "evaluated on a CPU: judge speed and peak memory on the machine that will serve it"


def _quant(recipe: Recipe, *, stores_weights: bool) -> str:
    quant = recipe.quant
    if quant.method is QuantMethod.none:
        return "none"
    computed = quantization.computed_in(recipe.model, quant)
    where = "quantized weights stored with this version" if stores_weights else _made(recipe)
    return f"{quant.name} ({quant.method}, {quant.weight_format}, computed in {computed}), {where}"


def _made(recipe: Recipe) -> str:
    """Where the quantized weights of a version come from that stores none."""
    quant = recipe.quant
    if quantization.is_published(quant):
        return f"published as {recipe.model.calibrated[quant.name]}"
    if quantization.calibrates(quant):
        text = quant.calibration
        return f"calibrated where it is first loaded, on {text.task or text.file} (text {(text.sha256 or '')[:12]})"
    return "quantized when loaded"


def _prompt(recipe: Recipe) -> str:
    prompt = recipe.prompt
    shots = f"{prompt.num_shots} few-shot examples ({prompt.selection})" if prompt.num_shots else "no few-shot examples"
    reasoning = ["chain of thought"] if prompt.chain_of_thought else []
    drawn = f"majority of {prompt.num_samples} samples" if prompt.num_samples > 1 else "sampled"
    return f"{prompt.name}: {', '.join([shots, *reasoning, drawn if prompt.temperature else 'greedy'])}"


def _asked_for(policy: PolicyConfig) -> str:
    """What the evidence was held against."""
    budgets = {
        "{:g} GiB of GPU memory": policy.gpu_memory_gib,
        "{:g} ms p95 latency": policy.latency_p95_ms,
        "{:g} J an example": policy.joules_per_example,
    }
    allowed = [text.format(value) for text, value in budgets.items() if value is not None]
    return "; ".join([_tolerated(policy), *(f"allows {budget}" for budget in allowed)])


def _tolerated(policy: PolicyConfig) -> str:
    loss = "any loss" if policy.max_quality_loss is None else f"a loss of up to {in_points(policy.max_quality_loss)}"
    return f"tolerates {loss}"
