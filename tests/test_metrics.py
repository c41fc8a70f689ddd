import csv
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import seqeval.metrics
import sklearn.metrics
from hypothesis import given, settings, strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from bioquant.errors import DataError
from bioquant.metrics import (
    LabelScore,
    entity_scores,
    entity_tally,
    label_scores,
    label_tally,
    labelset_scores,
    labelset_tally,
    num_overlapping_pairs,
    per_label,
)
from bioquant.records import Span
from bioquant.trivial import trivial_baselines

Spans = tuple[Span, ...]

# Neither ships types: what pyright infers of their arguments is wrong.
seq: Any = seqeval.metrics
sk: Any = sklearn.metrics


def span(start: int, end: int, label: str = "Disease") -> Span:
    return Span(start=start, end=end, label=label, text="x" * max(end - start, 1))


LOST = span(-1, -1)


# ---- entities, by hand


def test_entities_are_counted_over_the_corpus() -> None:
    targets = [(span(0, 4), span(6, 9)), (span(2, 5, "Chemical"),), ()]
    answers = [(span(0, 4), span(7, 9), LOST), (span(2, 5, "Disease"),), ()]
    # gold 3, predicted 4; right: 0-4. Overlapping: 0-4 and 6-9/7-9 (2-5 has the wrong type).
    assert entity_tally(targets, answers).values() == {
        "entity_f1": pytest.approx(2 / 7),
        "entity_precision": pytest.approx(1 / 4),
        "entity_recall": pytest.approx(1 / 3),
        "overlap_f1": pytest.approx(4 / 7),
        "hallucinated_span_rate": pytest.approx(1 / 4),
        "exact_match": pytest.approx(1 / 3),
    }


def test_repeats_and_positions_count() -> None:
    gold = [(span(0, 3), span(9, 12))]
    assert entity_tally(gold, [(span(0, 3),)]).values()["entity_recall"] == 0.5
    assert entity_tally(gold, [(span(0, 3), span(0, 3))]).values()["entity_precision"] == 0.5
    assert entity_tally(gold, [(span(9, 12), span(0, 3))]).values()["exact_match"] == 1.0


def test_an_invalid_answer_misses_all_and_is_never_right() -> None:
    values = entity_tally([(span(0, 3),), (span(0, 3),), ()], [(span(0, 3),), None, None]).values()
    assert values["entity_recall"] == 0.5
    assert values["entity_precision"] == 1.0
    assert values["exact_match"] == pytest.approx(1 / 3)


def test_a_corpus_of_nothing() -> None:
    right = entity_tally([(), ()], [(), ()]).values()
    assert right == {
        "entity_f1": 1.0, "entity_precision": 1.0, "entity_recall": 1.0, "overlap_f1": 1.0, "exact_match": 1.0
    }  # fmt: skip
    assert entity_tally([(), ()], [None, None]).values()["entity_f1"] == 0.0
    missed = entity_tally([(span(0, 3),)], [()]).values()
    assert (missed["entity_f1"], missed["entity_precision"], missed["entity_recall"]) == (0.0, 0.0, 0.0)
    invented = entity_tally([()], [(span(0, 3),)]).values()
    assert (invented["entity_f1"], invented["entity_precision"], invented["entity_recall"]) == (0.0, 0.0, 0.0)


def test_the_headline_leads_and_carries_its_interval() -> None:
    targets = [(span(0, 3),)] * 40
    answers: list[Spans | None] = [(span(0, 3),)] * 30 + [None] * 10
    scores = entity_scores(targets, answers, resamples=2000, seed=0)
    assert [score.name for score in scores] == [
        "entity_f1", "entity_precision", "entity_recall", "overlap_f1", "hallucinated_span_rate", "exact_match"
    ]  # fmt: skip
    assert scores[0].value == pytest.approx(60 / 70)
    assert scores[0].ci_low < scores[0].value < scores[0].ci_high
    assert {score.num_examples for score in scores} == {40}
    assert entity_scores(targets, answers, resamples=2000, seed=0) == scores
    assert entity_scores(targets, answers, resamples=2000, seed=1) != scores


def test_a_rate_that_some_resamples_leave_undefined_keeps_an_interval() -> None:
    scores = entity_scores([()] * 3, [(LOST, span(0, 2)), (), ()], resamples=500)
    rate = next(score for score in scores if score.name == "hallucinated_span_rate")
    assert (rate.value, rate.ci_low, rate.ci_high) == (0.5, 0.5, 0.5)


def test_a_pair_is_given_up_where_that_makes_more_pairs() -> None:
    gold, predicted = (span(0, 10), span(8, 20)), (span(0, 9), span(1, 5))
    assert num_overlapping_pairs(gold, predicted) == 2  # 8-20 can only take 0-9, so 0-10 takes 1-5
    assert num_overlapping_pairs(gold, (span(0, 20),)) == 1
    assert num_overlapping_pairs((span(0, 3),), (span(3, 6), LOST, span(0, 3, "Chemical"))) == 0


def test_no_examples_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^there are no examples to score$"):
        entity_scores([], [])


# ---- entities, against the libraries

LENGTH = 12


@st.composite
def sentence_spans(draw: st.DrawFn) -> Spans:
    """Mentions that do not overlap, as IOB2 can hold them, in a sentence of LENGTH tokens."""
    spans: list[Span] = []
    place = draw(st.integers(0, 5))
    while place < LENGTH:
        end = draw(st.integers(place + 1, min(place + 4, LENGTH)))
        spans.append(span(place, end, draw(st.sampled_from(["Disease", "Chemical"]))))
        place = end + draw(st.integers(0, 6))
    return tuple(spans)


def iob2(spans: Spans) -> list[str]:
    tags = ["O"] * LENGTH
    for each in spans:
        tags[each.start : each.end] = [f"B-{each.label}"] + [f"I-{each.label}"] * (each.end - each.start - 1)
    return tags


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(sentence_spans(), sentence_spans()), min_size=1, max_size=8))
def test_entities_agree_with_seqeval(pairs: list[tuple[Spans, Spans]]) -> None:
    targets, answers = zip(*pairs, strict=True)
    gold, named = [iob2(spans) for spans in targets], [iob2(spans) for spans in answers]
    values = entity_tally(targets, answers).values()
    if any(targets) or any(answers):  # seqeval calls an empty corpus 0
        assert values["entity_f1"] == pytest.approx(seq.f1_score(gold, named, zero_division=0))
        assert values["entity_precision"] == pytest.approx(seq.precision_score(gold, named, zero_division=0))
        assert values["entity_recall"] == pytest.approx(seq.recall_score(gold, named, zero_division=0))
    for score in per_label(targets, answers, ["Disease", "Chemical"]):
        mine = [tuple(each for each in spans if each.label == score.label) for spans in targets]
        theirs = [tuple(each for each in spans if each.label == score.label) for spans in answers]
        expected = seq.f1_score([iob2(s) for s in mine], [iob2(s) for s in theirs], zero_division=0)
        assert score.f1 == pytest.approx(expected)
        assert score.support == sum(map(len, mine))


@st.composite
def any_spans(draw: st.DrawFn) -> Spans:
    starts = draw(st.lists(st.integers(0, 15), max_size=7))
    return tuple(span(start, start + draw(st.integers(1, 8)), draw(st.sampled_from("ab"))) for start in starts)


@settings(max_examples=100, deadline=None)
@given(any_spans(), any_spans())
def test_overlapping_pairs_are_a_maximum_matching(gold: Spans, predicted: Spans) -> None:
    near = np.zeros((len(gold) + 1, len(predicted) + 1))
    for row, one in enumerate(gold):
        for column, other in enumerate(predicted):
            shared = set(range(one.start, one.end)) & set(range(other.start, other.end))
            near[row, column] = one.label == other.label and bool(shared)
    expected = int((maximum_bipartite_matching(csr_array(near)) >= 0).sum())
    assert num_overlapping_pairs(gold, predicted) == expected
    assert num_overlapping_pairs(tuple(reversed(gold)), tuple(reversed(predicted))) == expected
    values = entity_tally([gold], [predicted]).values()
    assert values["overlap_f1"] >= values["entity_f1"]


# ---- one label


def test_labels_by_hand() -> None:
    tally = label_tally(["a", "b", "a", "n"], ["a", None, "b", "n"], ["a", "b", "c", "n"], negative="n")
    # a: 1 of 1 predicted, 2 gold: 2/3; b: 0; n: 1; c is nowhere and left out
    assert tally.values() == {
        "accuracy": 0.5,
        "macro_f1": pytest.approx((2 / 3 + 0 + 1) / 3),
        "micro_f1": pytest.approx(2 * 2 / (3 + 4)),
        "micro_f1_positive": pytest.approx(2 * 1 / (2 + 3)),
    }


def test_the_headline_named_leads() -> None:
    scores = label_scores(["a", "b"], ["a", "a"], ["a", "b"], headline="macro_f1", resamples=100)
    assert [score.name for score in scores] == ["macro_f1", "accuracy", "micro_f1"]


def test_a_label_outside_the_set_is_invalid() -> None:
    outside = label_scores(["a", "b"], ["a", "z"], ["a", "b"], resamples=100)
    assert outside == label_scores(["a", "b"], ["a", None], ["a", "b"], resamples=100)
    some = labelset_scores([("a",), ("b",)], [("a",), ("b", "z")], ["a", "b"], resamples=100)
    assert some == labelset_scores([("a",), ("b",)], [("a",), None], ["a", "b"], resamples=100)


def test_a_target_outside_the_set_is_the_datas_mistake() -> None:
    with pytest.raises(DataError) as caught:
        label_scores(["yess"], ["yes"], ["yes", "no"])
    assert str(caught.value) == "target label 'yess' is not known; did you mean 'yes'? Choose from: no, yes."


def test_answers_and_targets_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="shorter"):
        label_scores(["a", "b"], ["a"], ["a", "b"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")), min_size=1, max_size=30))
def test_labels_agree_with_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    targets, answers = zip(*pairs, strict=True)
    values = label_tally(targets, answers, "abcd", negative="d").values()
    assert values["accuracy"] == pytest.approx(sk.accuracy_score(targets, answers))
    assert values["micro_f1"] == pytest.approx(values["accuracy"])
    assert values["macro_f1"] == pytest.approx(sk.f1_score(targets, answers, average="macro", zero_division=0))
    if set("abc") & {*targets, *answers}:
        expected = sk.f1_score(targets, answers, labels=["a", "b", "c"], average="micro", zero_division=0)
        assert values["micro_f1_positive"] == pytest.approx(expected)
    scores = per_label(targets, answers, "abcd")
    names = [score.label for score in scores]
    assert names == sorted({*targets, *answers})
    theirs = sk.precision_recall_fscore_support(targets, answers, labels=names, zero_division=0)
    mine = [[score.precision, score.recall, score.f1, score.support] for score in scores]
    assert np.array(mine) == pytest.approx(np.array(theirs).T)
    assert np.mean([score.f1 for score in scores]) == pytest.approx(values["macro_f1"])


# ---- label sets


def test_label_sets_by_hand() -> None:
    targets = [("a", "b"), ("a",), ("c",), ()]
    answers = [("b", "a"), ("a", "c"), None, ()]
    # a: 2 2 2 -> 1; b: 1 1 1 -> 1; c: 0 right, 1 predicted, 1 gold -> 0. Precisions 1 .5 0 1, recalls 1 1 0 1.
    assert labelset_tally(targets, answers, ["a", "b", "c", "d"]).values() == {
        "macro_f1": pytest.approx(2 / 3),
        "micro_f1": pytest.approx(2 * 3 / (4 + 4)),
        "instance_f1": pytest.approx((1 + 2 / 3 + 0 + 1) / 4),
        "instance_f1_of_means": pytest.approx(2 * 0.625 * 0.75 / (0.625 + 0.75)),
        "subset_accuracy": 0.5,
    }


def test_all_label_sets_wrong_is_zero_everywhere() -> None:
    assert set(labelset_tally([("a",)], [None], ["a"]).values().values()) == {0.0}


def test_label_sets_of_nothing() -> None:
    assert set(labelset_tally([()], [()], ["a"]).values().values()) == {1.0}
    assert set(labelset_tally([()], [None], ["a"]).values().values()) == {0.0}


def test_a_label_named_twice_counts_once() -> None:
    assert set(labelset_tally([("a",)], [("a", "a")], ["a"]).values().values()) == {1.0}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sets(st.sampled_from("abc"), min_size=1), st.sets(st.sampled_from("abc"))), min_size=1))
def test_label_sets_agree_with_scikit_learn(pairs: list[tuple[set[str], set[str]]]) -> None:
    targets, answers = ([tuple(sorted(each)) for each in side] for side in zip(*pairs, strict=True))
    gold, named = (np.array([[label in each for label in "abc"] for each in side]) for side in (targets, answers))
    present = [place for place in range(3) if gold[:, place].any() or named[:, place].any()]
    values = labelset_tally(targets, answers, "abc").values()
    f1s = sk.f1_score(gold, named, average=None, zero_division=0)
    assert values["macro_f1"] == pytest.approx(np.mean(f1s[present]))
    assert values["micro_f1"] == pytest.approx(sk.f1_score(gold, named, average="micro", zero_division=0))
    assert values["instance_f1"] == pytest.approx(sk.f1_score(gold, named, average="samples", zero_division=0))
    assert values["subset_accuracy"] == pytest.approx(sk.accuracy_score(gold, named))


# ---- per label, trivial baselines


def test_per_label_leaves_out_what_is_nowhere() -> None:
    assert per_label([("a",), ("a", "b")], [("a",), None], ["a", "b", "c"]) == [
        LabelScore(label="a", precision=1.0, recall=0.5, f1=2 / 3, support=2),
        LabelScore(label="b", precision=0.0, recall=0.0, f1=0.0, support=1),
    ]


def test_a_mention_of_another_type_spoils_no_listed_type() -> None:
    targets, answers = [(span(0, 3),)], [(span(0, 3), span(4, 6, "Gene"))]
    assert per_label(targets, answers, ["Disease"]) == [
        LabelScore(label="Disease", precision=1.0, recall=1.0, f1=1.0, support=1)
    ]
    assert entity_tally(targets, answers).values()["entity_precision"] == 0.5


def test_trivial_baselines_of_labels() -> None:
    found = trivial_baselines(["yes", "yes", "no", "maybe"], ["no", "yes", "maybe"], headline="accuracy")
    assert found == {"majority (yes)": 0.5, "always no": 0.25, "always maybe": 0.25}
    assert trivial_baselines(["A", "B", "B"], ["A", "B", "C", "D"], headline="accuracy") == {
        "majority (B)": pytest.approx(2 / 3)
    }
    positive = trivial_baselines(["n", "n", "p"], ["n", "p"], headline="micro_f1_positive", negative="n")
    assert positive == {"majority (n)": 0.0, "always p": 0.5}


def test_trivial_baselines_of_label_sets() -> None:
    found = trivial_baselines([("a",), ("a", "b"), ()], ["a", "b"], headline="macro_f1")
    assert found == {
        "majority (a)": pytest.approx((0.8 + 0) / 2),
        "all labels": pytest.approx((0.8 + 0.5) / 2),
    }


def test_the_trivial_baseline_of_entities_is_zero() -> None:
    assert trivial_baselines([(span(0, 3),), ()], ["Disease"], headline="entity_f1") == {"no entities": 0.0}


# ---- real benchmark files


def rows(path: Path, delimiter: str, quoting: Literal[0, 3] = csv.QUOTE_MINIMAL) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter, quoting=quoting))


def test_the_litcovid_organisers_own_figures(data_root: Path) -> None:
    """Their published scores of their metric sample, to all four published digits."""
    gold = rows(data_root / "litcovid/eval_sample/goldstandard_label_samples.csv.gz", ",")
    named = rows(data_root / "litcovid/eval_sample/prediction_label_samples.csv.gz", ",")
    labels = [name for name in gold[0] if name != "PMID"]
    assert [row["PMID"] for row in gold] == [row["PMID"] for row in named]

    def sets(table: Sequence[dict[str, str]]) -> list[tuple[str, ...]]:
        return [tuple(label for label in labels if float(row[label]) >= 0.5) for row in table]

    targets, answers = sets(gold), sets(named)
    values = labelset_tally(targets, answers, labels).values()
    assert len(targets) == 2551
    assert {name: round(value, 4) for name, value in values.items() if name != "subset_accuracy"} == {
        "macro_f1": 0.8186, "micro_f1": 0.8619, "instance_f1": 0.8435, "instance_f1_of_means": 0.8616
    }  # fmt: skip
    scores = per_label(targets, answers, labels)
    assert {score.label: round(score.f1, 4) for score in scores} == {
        "Treatment": 0.8780, "Diagnosis": 0.7500, "Prevention": 0.9230, "Mechanism": 0.8422,
        "Transmission": 0.7896, "Epidemic Forecasting": 0.7475, "Case Report": 0.8000,
    }  # fmt: skip
    assert round(float(np.mean([score.precision for score in scores])), 4) == 0.9102
    assert round(float(np.mean([score.recall for score in scores])), 4) == 0.7483


def test_a_constant_no_interaction_is_not_half_right_on_ddi(data_root: Path) -> None:
    """A published harness gives this answer 0.485 by splitting labels into characters."""
    table = rows(data_root / "ddi2013/bids/test.tsv.gz", "\t", csv.QUOTE_NONE)
    targets = [row["label"] for row in table]
    labels = ["DDI-false", "DDI-effect", "DDI-mechanism", "DDI-advise", "DDI-int"]

    def constant(label: str) -> dict[str, float]:
        return label_tally(targets, [label] * len(targets), labels, negative="DDI-false").values()

    assert len(targets) == 5761
    assert {name: round(value, 3) for name, value in constant("DDI-false").items()} == {
        "accuracy": 0.830, "macro_f1": 0.181, "micro_f1": 0.830, "micro_f1_positive": 0.0
    }  # fmt: skip
    assert round(constant("DDI-int")["macro_f1"], 3) == 0.007
    assert trivial_baselines(targets, labels, headline="macro_f1", negative="DDI-false") == {
        "majority (DDI-false)": pytest.approx(0.181, abs=5e-4)
    }


def test_always_yes_on_pubmedqa(data_root: Path) -> None:
    with gzip.open(data_root / "pubmedqa/original/test_ground_truth.json.gz", "rt", encoding="utf-8") as file:
        targets = list(json.load(file).values())
    found = trivial_baselines(targets, ["yes", "no", "maybe"], headline="accuracy")
    assert found == {"majority (yes)": 0.552, "always no": 0.338, "always maybe": 0.11}


def conll_sentences(path: Path) -> list[Spans]:
    """Each sentence's entities, in tokens."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        blocks = [block.split("\n") for block in file.read().strip().split("\n\n")]
    sentences: list[Spans] = []
    for block in blocks:
        tags = [line.split("\t")[-1] for line in block]
        starts = [place for place, tag in enumerate(tags) if tag == "B"]
        ends = [next((end for end in range(s + 1, len(tags)) if tags[end] != "I"), len(tags)) for s in starts]
        sentences.append(tuple(span(start, end) for start, end in zip(starts, ends, strict=True)))
    return sentences


def test_a_spurious_entity_a_sentence_costs_precision_on_ncbi(data_root: Path) -> None:
    """A published harness gives this 1.000: it drops predicted strings that are not gold."""
    targets = conll_sentences(data_root / "ncbi_disease/bids/test.tsv.gz")
    values = entity_tally(targets, [(*gold, span(1000, 1001)) for gold in targets]).values()
    assert (len(targets), sum(map(len, targets))) == (940, 960)
    assert round(values["entity_f1"], 3) == 0.671
    assert values["entity_recall"] == 1.0
    assert entity_tally(targets, targets).values()["entity_f1"] == 1.0
