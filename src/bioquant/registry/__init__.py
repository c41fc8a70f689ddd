"""From a finished run to a registered model version that answers as that run did.

evidence      what is known of the cell: its run, its baseline, how the two compare
recommended   what a recommendation chose, and under which alias
reproduction  the recipe, checked to ask what the run asked
card          the version's description
packing       the version's files: an MLflow pyfunc of code, a recipe and, where asked for, quantized weights
versions      the calls to MLflow's registry
"""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bioquant import places
from bioquant.config import PolicyConfig
from bioquant.endpoints import RegistryConfig
from bioquant.recipe import Recipe
from bioquant.registry import card, evidence, packing, reproduction, versions
from bioquant.registry.card import Told
from bioquant.registry.versions import Registered
from bioquant.tracking import Store

__all__ = ["Order", "Registered", "register"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be registered. aliases: of the version. recommendation: the run that chose it, where one did."""

    run_id: str
    policy: PolicyConfig
    aliases: tuple[str, ...] = ()
    recommendation: str | None = None
    force: bool = False
    data_root: str | None = None


def register(store: Store, order: Order, config: RegistryConfig) -> Registered:
    """Make the version, or find that the same recipe has one; its card, tags and aliases are those of this evidence.

    Raises RegistryError (no finished pair and not forced, a run that cannot be repeated), TrackingError, QuantError
    where weights that are to be stored cannot be.
    """
    found = evidence.gather(store, order.run_id, order.policy, force=order.force)
    recipe = reproduction.recipe_of(store, found.run, order.data_root)
    stores_weights = config.save_weights
    told = Told(recipe=recipe, evidence=found, policy=order.policy, recommendation=order.recommendation)
    wanted = versions.Wanted(
        name=config.registered_model or f"bioquant-{recipe.task.name}",
        label=recipe.label,
        card=card.written(told, stores_weights=stores_weights),
        tags=card.tags(told, stores_weights=stores_weights),
        aliases=(*order.aliases, *config.aliases),
        run_id=found.run.run_id,
    )
    versions.check(wanted)
    existing = versions.same(store, wanted)
    if existing is not None:
        return versions.refresh(store, wanted, existing)
    with TemporaryDirectory(dir=_workshop()) as folder:
        return _publish(store, recipe, wanted, Path(folder), stores_weights=stores_weights)


def _publish(
    store: Store, recipe: Recipe, wanted: versions.Wanted, folder: Path, *, stores_weights: bool
) -> Registered:
    """Weights first: what cannot be stored must not leave half a version behind."""
    weights = packing.store_weights(recipe, folder / "weights") if stores_weights else None
    with versions.logged_model(store, wanted, packing.params(recipe)) as model:
        packing.pack(folder / "model", recipe, model, card=wanted.card, weights=weights)
        versions.upload(store, model, folder / "model")
    return versions.create(store, wanted, model)


def _workshop() -> Path:
    """Beside the caches, where there is room for weights; /tmp is often memory."""
    folder = places.cache_dir() / "registering"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
