"""What a run holds: every param, metric and tag is named here and nowhere else. Pure; knows no server."""

import json
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from bioquant import quantization
from bioquant.config import EngineConfig, RunConfig
from bioquant.plan import RunPlan, versions
from bioquant.records import Audit, Footprint, Latency, Outcome, Percentiles, QuantCheck, RunResult
from bioquant.shown import markdown
from bioquant.tracking import owner
from bioquant.tracking.events import Input

NOT_IN_A_NAME = re.compile(r"[^\w ./:-]")
"""Characters that MLflow refuses in a metric's name."""


NO_TEXT = {"privacy.log_text": "false"}
"""The tag of a run that holds no text."""


def run_params(config: RunConfig, sweep_id: str | None) -> dict[str, str]:
    """The short whitelist of a run's params: what one filters and compares by. All else is in `config.yaml`."""
    model, quant, prompt = config.model, config.quant, config.prompt
    params: dict[str, object] = {
        "model": model.name,
        "quant": quant.name,
        "task": config.task.name,
        "prompt": prompt.name,
        "model.id": model.id,
        "model.source": model.source,
        "model.revision": model.revision or "",
        "model.dtype": model.dtype,
        "model.num_parameters": model.num_parameters or "",
        "model.domain": model.domain,
        "model.licence": model.licence,
        "quant.method": quant.method,
        "quant.weight_format": quant.weight_format,
        "quant.bits": quant.bits,
        "quant.double_quant": quant.double_quant,
        "quant.group_size": quantization.group(quant) or "",
        "quant.overrides": ", ".join(f"{name}: {found}" for name, found in quant.overrides.items()),
        "quant.compute_dtype": quantization.computed_in(model, quant),
        "task.kind": config.task.kind,
        "task.max_new_tokens": config.task.max_new_tokens,
        "prompt.num_shots": prompt.num_shots,
        "prompt.selection": prompt.selection,
        "prompt.chain_of_thought": prompt.chain_of_thought,
        "prompt.num_samples": prompt.num_samples,
        "prompt.temperature": prompt.temperature,
        **_engine_params(config.engine),
        "limit": "all" if config.limit is None else config.limit,
        "seed": config.seed,
    }
    if sweep_id:
        params["sweep_id"] = sweep_id
    return {key: str(value) for key, value in params.items()}


def _engine_params(engine: EngineConfig) -> dict[str, object]:
    """As it was asked for; what "auto" came to are the metrics batch/rows and batch/tokens."""
    return {
        "engine.name": engine.name,
        "engine.device": engine.device,
        "engine.batch": engine.batch if engine.batch_memory_gib is None else "auto",
        "engine.batch_memory_gib": engine.batch_memory_gib or "",
        "engine.prefill_tokens": engine.prefill_tokens,
        "engine.share_prefix": engine.share_prefix,
        "engine.compile": engine.compile,
        "engine.scoring": engine.scoring,
    }


def run_tags(plan: RunPlan, folder: Path, sweep_id: str | None) -> dict[str, str]:
    """What identifies a run and who owns it."""
    config = plan.config
    tags = {
        "bioquant.kind": "cell",
        "cell_id": plan.cell_id,
        "fingerprint": plan.fingerprint,
        "baseline_cell_id": plan.baseline_cell_id,
        "model": config.model.name,
        "quant": config.quant.name,
        "task": config.task.name,
        "prompt": config.prompt.name,
        "dataset_sha256": plan.dataset.digest,
        "folder": str(folder),
        "mlflow.note.content": _note(plan),
    }
    library_tags = {f"version.{library}": found for library, found in versions().items()}
    private = {} if config.privacy.log_text else NO_TEXT
    return tags | private | library_tags | owner_tags() | ({"sweep_id": sweep_id} if sweep_id else {})


def _note(plan: RunPlan) -> str:
    """The description shown at the top of a run's page."""
    config = plan.config
    return (
        f"**{config.task.name}** ({markdown(config.task.description)}) answered by **{config.model.name}** at "
        f"**{config.quant.name}**, prompted **{config.prompt.name}**: {plan.num_examples} of "
        f"{plan.dataset.num_test} test examples."
    )


def sweep_name(axes: Mapping[str, Sequence[str]]) -> str:
    """How a sweep reads in a list: `sweep · smollm2_135m · 3 quants · 4 tasks · zero_shot`."""
    parts = (values[0] if len(values) == 1 else f"{len(values)} {axis}s" for axis, values in axes.items())
    return " · ".join(("sweep", *parts))


def sweep_note(axes: Mapping[str, Sequence[str]], cells: str) -> str:
    """The description shown at the top of a sweep's page. cells: where its cells are."""
    lines = (f"- {axis}: {', '.join(values)}" for axis, values in axes.items())
    return "\n".join((f"A **sweep**; [its cells]({cells}).", "", *lines))


def owner_tags() -> dict[str, str]:
    """What every run says of the process that owns its status."""
    source = {"mlflow.source.name": "bioquant run", "mlflow.source.type": "LOCAL"}
    return source | owner.tags() | {"version.python": platform.python_version()}


def dataset_input(plan: RunPlan) -> Input:
    """The dataset as a logged input. MLflow allows 36 characters of digest; the whole is the tag `dataset_sha256`."""
    profile = {
        "num_test": plan.dataset.num_test,
        "num_evaluated": plan.num_examples,
        "num_pool": len(plan.dataset.pool),
    }
    return Input(
        name=plan.config.task.name,
        digest=plan.dataset.digest[:36],
        source_type=plan.dataset.origin,
        source=json.dumps({"get": plan.config.task.get}),
        profile=json.dumps(profile),
    )


def result_tags(result: RunResult) -> dict[str, str]:
    """What is known of a run only at its end."""
    footprint = result.footprint
    tags = {
        "device": footprint.device,
        "device.name": footprint.device_name,
        "other_processes": None if footprint.other_processes is None else str(footprint.other_processes).lower(),
        "input_ids_sha256": result.input_ids_sha256,
        "headline": result.headline,
    }
    return {name: value for name, value in tags.items() if value is not None}


def outcome(result: RunResult) -> Outcome:
    """A result in short, for the tables."""
    return Outcome(metrics=metric_values(result), input_ids_sha256=result.input_ids_sha256)


def metric_values(result: RunResult) -> dict[str, float]:
    """Every figure of a result under its MLflow name. What was not measured is absent."""
    headline = next(score for score in result.scores if score.name == result.headline)
    values = {"quality": headline.value, "quality_ci_low": headline.ci_low, "quality_ci_high": headline.ci_high}
    for score in result.scores:
        values |= {
            score.name: score.value,
            f"{score.name}_ci_low": score.ci_low,
            f"{score.name}_ci_high": score.ci_high,
        }
    rates = ("invalid_rate", "empty_rate", "truncated_input_rate", "truncated_output_rate")
    values |= {rate: getattr(result, rate) for rate in rates}
    values |= {f"trivial/{NOT_IN_A_NAME.sub('', name)}": value for name, value in result.trivial.items()}
    values |= {"num_examples": float(result.num_examples)}
    return values | _audit_values(result.audit) | _check_values(result.check) | _footprint_values(result.footprint)


def _audit_values(audit: Audit | None) -> dict[str, float]:
    if audit is None:
        return {}
    return {
        "audit/num_examples": float(audit.num_examples),
        "audit/changed_rate": audit.num_changed / audit.num_examples,
        "audit/flip_rate": audit.num_flipped / audit.num_examples,
    }


def _check_values(check: QuantCheck | None) -> dict[str, float]:
    if check is None:
        return {}
    named = {
        "check/perplexity": check.perplexity,
        "check/baseline_perplexity": check.baseline_perplexity,
        "check/kl": check.kl,
        "check/num_tokens": float(check.num_tokens),
    }
    return {name: value for name, value in named.items() if value is not None}


def _footprint_values(footprint: Footprint) -> dict[str, float]:
    named: dict[str, float | None] = {
        "memory/weights_mib": footprint.weights_mib,
        "memory/load_peak_mib": footprint.load_peak_mib,
        "memory/peak_allocated_mib": footprint.peak_allocated_mib,
        "memory/peak_reserved_mib": footprint.peak_reserved_mib,
        "memory/peak_device_mib": footprint.peak_device_mib,
        "memory/predicted_mib": footprint.predicted_allocated_mib,
        "memory/predicted_device_mib": footprint.predicted_device_mib,
        "load/seconds": footprint.load_s,
        "load/compile_seconds": footprint.compile_s,
        "batch/rows": footprint.batch_rows,
        "batch/tokens": footprint.batch_tokens,
        "throughput/examples_per_s": footprint.examples_per_s,
        "throughput/output_tokens_per_s": footprint.output_tokens_per_s,
        "throughput/prompt_tokens_per_s": footprint.prompt_tokens_per_s,
        "energy/joules_per_example": footprint.joules_per_example,
    }
    if footprint.latency is not None:
        named |= _latency_values("latency", footprint.latency)
    if footprint.latency_batched is not None:
        named |= _latency_values("latency_batched", footprint.latency_batched)
        named |= {"latency_batched/batch_size": footprint.latency_batched.batch_size}
    return {key: value for key, value in named.items() if value is not None}


def _latency_values(group: str, latency: Latency) -> dict[str, float | None]:
    named = {f"{group}/num_examples": float(latency.example_ms.count)}
    named |= _percentile_values(f"{group}/ttft_ms", latency.ttft_ms)
    named |= _percentile_values(f"{group}/example_ms", latency.example_ms)
    return named if latency.tpot_ms is None else named | _percentile_values(f"{group}/tpot_ms", latency.tpot_ms)


def _percentile_values(name: str, percentiles: Percentiles) -> dict[str, float | None]:
    return {f"{name}_p50": percentiles.p50, f"{name}_p95": percentiles.p95, f"{name}_p99": percentiles.p99}
