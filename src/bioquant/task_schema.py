"""A task's part of the configuration: where its files are, how they are read, what its labels and wording are."""

from dataclasses import dataclass, field
from enum import StrEnum

from omegaconf import MISSING


class TaskKind(StrEnum):
    """The four kinds of task."""

    ner = "ner"
    re = "re"
    mlc = "mlc"
    qa = "qa"


class DataFormat(StrEnum):
    """A file format that `bioquant.datasets` reads."""

    jsonl = "jsonl"
    json = "json"
    tsv = "tsv"
    csv = "csv"
    last_tab = "last_tab"
    conll = "conll"
    pubtator = "pubtator"
    bioc = "bioc"
    ddi_xml = "ddi_xml"
    hoc_folder = "hoc_folder"


@dataclass(kw_only=True, slots=True)
class SplitConfig:
    """One split of a dataset.

    format: how the file is written.
    paths: candidates under `data.root`, of which the first that is there is read: a file (with or without a trailing
        .gz), a pattern with `*` for several files that are one split, or `demo:NAME` for a file inside this package.
    columns: names for the columns of a file without a header.
    quoted: whether TSV cells are CSV-quoted (pandas) or taken as they stand.
    keep_ids, drop_ids: a JSON file whose keys (or items) are the ids to keep or to leave out.
    only: field -> value: records that hold another value are left out.
    skip, take: leave out the first `skip` records, then read `take` of them (null: all), where a dataset has no split
        of its own for the few-shot pool.
    file_field: the field that gets the file's name without its ending, where several files make the split.
    entity_type: the type of all entities, where the tags carry none or sub-types are to count as one.
    pairs: for relations between the entities of a document: the pairs of types, as `Chemical/Disease`, whose entities
        are candidates. Each candidate pair is a record, both entities marked in the text; label "none" where no
        relation is annotated.
    """

    format: DataFormat = MISSING
    paths: list[str] = MISSING
    columns: list[str] = field(default_factory=list[str])
    quoted: bool = False
    keep_ids: str | None = None
    drop_ids: str | None = None
    only: dict[str, str] = field(default_factory=dict[str, str])
    skip: int = 0
    take: int | None = None
    file_field: str | None = None
    entity_type: str | None = None
    pairs: list[str] = field(default_factory=list[str])


@dataclass(kw_only=True, slots=True)
class HubConfig:
    """Where the `datasets` library finds the same data, read where the files are not under `data.root`.

    id: a repository, or a local folder of Parquet, JSON or CSV files.
    config: the dataset's configuration, where it has several.
    revision: a commit.
    test, pool: splits, as `test` or `train[:1000]`.
    fields: as the task's, where the column names differ from the files'.
    """

    id: str = MISSING
    config: str | None = None
    revision: str | None = None
    test: str = MISSING
    pool: str | None = None
    fields: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(kw_only=True, slots=True)
class LabelConfig:
    """A label: what the answer says, what it means, and other strings that stand for it.

    value: what the data file holds where that is not the name.
    description: shown to the model.
    aliases: other answers that count as this label.
    """

    name: str = MISSING
    value: str | None = None
    description: str = ""
    aliases: list[str] = field(default_factory=list[str])


@dataclass(kw_only=True, slots=True)
class TaskConfig:
    """A dataset, its kind and its wording.

    kind: what the model is asked for, how answers are parsed and scored.
    description: one line, for the list of tasks.
    licence: of the data.
    test: the split that is scored.
    pool: the split that few-shot examples come from; null has none.
    hub: where else the data are found.
    fields: our field name -> the file's (dots step into nested values). NER: id, text, entities. RE: id, text, label.
        MLC: id, text, labels. QA: id, question, context, options, answer. All: unit, what a row belongs to where rows
        are not independent (a document), over which intervals are then drawn. QA: group, a subject, say, over which the
        score `group_mean_accuracy` is an unweighted mean.
    labels: the label set; NER: the entity types. Empty for multiple-choice QA, whose choices are the row's letters.
    negative_label: RE: the label for "no relation", which micro-F1 leaves out.
    label_separator: MLC: between the labels of one cell.
    label_columns: MLC: each label is a column of its own, named by the label's value (or name), that holds 0 or 1.
    first_option: QA: the first option's number, where the file gives answers as numbers.
    instruction: what to do; `{labels}` becomes the list of labels with their descriptions.
    max_new_tokens: of an answer, without reasoning.
    get: where to obtain the files, for the error message where they are missing.
    """

    name: str = MISSING
    kind: TaskKind = MISSING
    description: str = MISSING
    licence: str = MISSING
    get: str = MISSING
    test: SplitConfig = MISSING
    pool: SplitConfig | None = None
    hub: HubConfig | None = None
    fields: dict[str, str] = field(default_factory=dict[str, str])
    labels: list[LabelConfig] = field(default_factory=list[LabelConfig])
    negative_label: str | None = None
    label_separator: str = ";"
    label_columns: bool = False
    first_option: int = 0
    instruction: str = MISSING
    max_new_tokens: int = MISSING
