"""What counts as an answer: a table of raw outputs, right and wrong, over the four kinds."""

import time

import pytest
from hypothesis import given, strategies as st

from bioquant.config import LabelConfig, TaskConfig, TaskKind
from bioquant.records import Answer, Row, Span
from bioquant.tasks import kind_of

TEXT = "Aspirin caused asthma; aspirin-induced asthma and colon cancer are rare. L - dopa helps cancer pain."


def labels(*names: str, **aliases: str) -> list[LabelConfig]:
    return [LabelConfig(name=name, aliases=[a for a, of in aliases.items() if of == name]) for name in names]


def task(kind: TaskKind, names: list[LabelConfig]) -> TaskConfig:
    return TaskConfig(name="t", kind=kind, labels=names, instruction="")


DDI = task(TaskKind.re, labels("DDI-effect", "DDI-mechanism", "DDI-advise", "DDI-false", effect="DDI-effect"))
CPR = task(TaskKind.re, labels("CPR:3", "CPR:4", "false"))
YESNO = task(TaskKind.qa, labels("yes", "no", "maybe", uncertain="maybe"))
LETTERS = task(TaskKind.qa, [])
TOPICS = task(
    TaskKind.mlc,
    labels("Treatment", "Diagnosis", "Case Report", "activating invasion and metastasis", therapy="Treatment"),
)
NER = task(TaskKind.ner, labels("Chemical", "Disease", disorder="Disease"))
ONE_TYPE = task(TaskKind.ner, labels("Disease"))

OPTIONS = ("Aspirin", "B cells", "Escherichia coli (E. coli)", "None of the above", "Myocardial infarction")
ROW = Row(id="1", inputs={"text": TEXT}, target="")
LETTER_ROW = Row(id="1", inputs={"question": "?"}, target="", choices=tuple("ABCDE"), options=OPTIONS)


def parsed(config: TaskConfig, output: str) -> Answer | None:
    return kind_of(config.kind).parse(output, LETTER_ROW if config is LETTERS else ROW, config)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("DDI-effect", "DDI-effect"),
        ("  ddi-EFFECT.\n", "DDI-effect"),
        ("**DDI-effect**", "DDI-effect"),
        ('"DDI-effect"', "DDI-effect"),
        ("`DDI-false`", "DDI-false"),
        ("- DDI-advise", "DDI-advise"),
        ("1. DDI-advise", "DDI-advise"),
        ("DDI effect", "DDI-effect"),
        ("effect", "DDI-effect"),
        ("```\nDDI-effect\n```", "DDI-effect"),
        ('```json\n{"label": "DDI-effect"}\n```', "DDI-effect"),
        ('{"answer": "ddi-mechanism"}', "DDI-mechanism"),
        ('["DDI-false"]', "DDI-false"),
        ("Answer: DDI-effect", "DDI-effect"),
        ("**Answer:** DDI-effect.", "DDI-effect"),
        ("Label: DDI-mechanism\nThe first drug slows the other's clearance.", "DDI-mechanism"),
        ("The answer is DDI-false.", "DDI-false"),
        ("The relation between the two drugs is DDI-mechanism.", "DDI-mechanism"),
        ("The sentence describes a DDI-effect.", "DDI-effect"),
        ("DDI-effect\n\nIt is not DDI-mechanism, since no level changes.", "DDI-effect"),
        ("DDI-effect: the drugs add up.", "DDI-effect"),
        ("DDI-effect (effect)", "DDI-effect"),
        ("It may look like DDI-mechanism, but the answer is DDI-effect.", "DDI-effect"),
        ("Answer: DDI-effect. On reflection, the answer is DDI-false.", "DDI-false"),
        ("The label is DDI-effect, not DDI-mechanism.", "DDI-effect"),
        ("This is DDI-effect, not DDI-mechanism.", "DDI-effect"),
        ("<think>DDI-mechanism? No.</think>\n\nDDI-effect", "DDI-effect"),
        ("DDI-effect\n\nText: @DRUG$ and @DRUG$\nAnswer: DDI-false", "DDI-effect"),
        ("$\\boxed{\\text{DDI-effect}}$", "DDI-effect"),
        ("DDI-effect and DDI-mechanism", None),
        ("DDI-effect or DDI-false", None),
        ("DDI-effect/DDI-mechanism", None),
        ("Answer: DDI-effect or DDI-mechanism", None),
        ("It could be DDI-effect, though DDI-mechanism fits too.", None),
        ("This is not a DDI-effect.", None),
        ("The sentence does not describe any effect.", None),
        ("DDI-effect\nDDI-mechanism\nDDI-advise\nDDI-false", None),
        ("DDI-effect: an effect\nDDI-mechanism: a mechanism\nDDI-false: none", None),
        ("DDI-falsehood", None),
        ("no-effect", None),
        ("DDI", None),
        ("", None),
        ("   \n", None),
        ("<think>It is DDI-effect, because", None),
        ("The label DDI-effect would fit. But then", None),
    ],
)
def test_relation(output: str, expected: str | None) -> None:
    assert parsed(DDI, output) == expected


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("CPR:3", "CPR:3"),
        ("Answer: CPR:4", "CPR:4"),
        ("The label is CPR:4.", "CPR:4"),
        ("false", "false"),
        ("CPR:31", None),
        ("It would be false to say that they are related.", None),
        ("CPR:5", None),
    ],
)
def test_relation_with_short_labels(output: str, expected: str | None) -> None:
    assert parsed(CPR, output) == expected


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("yes", "yes"),
        ("Yes.", "yes"),
        ("**No**", "no"),
        ("[maybe]", "maybe"),
        ("uncertain", "maybe"),
        ("Yes, the trial showed a lower rate.", "yes"),
        ("No, because the difference was not significant.", "no"),
        ("Yes. No adverse effects were seen.", "yes"),
        ("Yes, no adverse effects were seen.", "yes"),
        ("No - the groups did not differ.", "no"),
        ("no\nThe groups did not differ.", "no"),
        ("The answer is yes.", "yes"),
        ("Yes, the answer is indeed yes.", "yes"),
        ("Indeed no.", "no"),
        ('The answer is "no".', "no"),
        ("Answer: maybe", "maybe"),
        ("The final answer is: **yes**", "yes"),
        ("The groups differed, so I would say so.\n\nyes", "yes"),
        ('{"answer": "yes"}', "yes"),
        ('{"answer": "yes", "reason": "no difference"}', "yes"),
        ("'no'", "no"),
        ("yes\n\nQuestion: Is it safe?\nAnswer: no", "yes"),
        ("There is no evidence for it.", None),
        ("No evidence was found.", None),
        ("not yes", None),
        ("The answer is not yes.", None),
        ("yes/no/maybe", None),
        ("yes, no, maybe", None),
        ("Yes and no.", None),
        ("Yes or no", None),
        ("Answer: yes or no", None),
        ("yes, no or maybe", None),
        ("yes, no or maybe\n\nThe", None),
        ("Yes, no doubt about it.", "yes"),
        ("Yes?", None),
        ("yes\nno", None),
        ("Yesterday", None),
        ("It depends.", None),
        ('{"reason": "yes", "doubt": "no"}', None),
    ],
)
def test_yes_no_maybe(output: str, expected: str | None) -> None:
    assert parsed(YESNO, output) == expected


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("C", "C"),
        ("c", "C"),
        ("(C)", "C"),
        ("C.", "C"),
        ("[C]", "C"),
        ("**C**", "C"),
        ("C) Escherichia coli (E. coli)", "C"),
        ("A. Aspirin", "A"),
        ("**A) Aspirin** because it blocks platelets.", "A"),
        ("Option C", "C"),
        ("Option C is correct.", "C"),
        ("Therefore option C is the correct one.", "C"),
        ("The answer is (C)", "C"),
        ("The answer is B cells.", "B"),
        ("The correct answer is option A: Aspirin.", "A"),
        ("Answer: A", "A"),
        ("The final answer is $\\boxed{D}$.", "D"),
        ("A\nPlatelets are blocked by it.", "A"),
        ("C, because the culture grew it.", "C"),
        ("A) is wrong. B) is wrong.\nAnswer: C", "C"),
        ("Aspirin", "A"),
        ("aspirin.", "A"),
        ("None of the above", "D"),
        ("The most likely diagnosis is myocardial infarction.", "E"),
        ('{"answer": "C"}', "C"),
        ('{"answer": "C", "confidence": 0.9', "C"),
        ("A patient with asthma should avoid it.", None),
        ("The answer is a beta blocker.", None),
        ("E. coli", None),
        ("The answer is C, E. coli.", "C"),
        ("Vitamin C is the most appropriate treatment.", None),
        ("A or B", None),
        ("A and B", None),
        ("Answer: A, B", None),
        ("B) Aspirin", None),
        ("A) Aspirin\nB) B cells\nC) Escherichia coli (E. coli)", None),
        ("F", None),
        ("I think so.", None),
        ("Option C is incorrect.", None),
        ("The answer is not A.", None),
    ],
)
def test_letters(output: str, expected: str | None) -> None:
    assert parsed(LETTERS, output) == expected


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("Treatment; Diagnosis", ("Treatment", "Diagnosis")),
        ("diagnosis, treatment.", ("Treatment", "Diagnosis")),
        ("- Treatment\n- Case report", ("Treatment", "Case Report")),
        ("1. Treatment\n2. Diagnosis", ("Treatment", "Diagnosis")),
        ("**Treatment**; **Diagnosis**", ("Treatment", "Diagnosis")),
        ("Labels: Treatment; Treatment", ("Treatment",)),
        ("Sure! Here are the topics:\n\nTreatment\nDiagnosis", ("Treatment", "Diagnosis")),
        ("The topics are: Treatment and Diagnosis.", ("Treatment", "Diagnosis")),
        ("activating invasion and metastasis", ("activating invasion and metastasis",)),
        ("Treatment, activating invasion and metastasis", ("Treatment", "activating invasion and metastasis")),
        ("Treatment: it tests a drug.\nDiagnosis: it tests a scan.", ("Treatment", "Diagnosis")),
        ("Treatment: 1\nDiagnosis: 0", ("Treatment",)),
        ('["Treatment", "therapy"]', ("Treatment",)),
        ('{"labels": ["Diagnosis"]}', ("Diagnosis",)),
        ('{"Treatment": 1, "Diagnosis": 0, "Case Report": 0}', ("Treatment",)),
        ('```json\n["Treatment"]\n```', ("Treatment",)),
        ("The abstract is about treatment and diagnosis.", ("Treatment", "Diagnosis")),
        ("This abstract covers treatment, diagnosis, but not a case report.", ("Treatment", "Diagnosis")),
        ("Treatment\n\nThe text says nothing about diagnosis.", ("Treatment",)),
        ("none", ()),
        ("None.", ()),
        ("[]", ()),
        ("None of the labels apply.", ()),
        ("Treatment; Prevention", None),
        ('["Prevention"]', None),
        ("Prevention", None),
        ("none; Treatment", None),
        ("The abstract is hard to understand.", None),
        ("It is not about treatment.", None),
        ('{"Treatment": "perhaps"}', None),
        ("", None),
    ],
)
def test_multilabel(output: str, expected: tuple[str, ...] | None) -> None:
    assert parsed(TOPICS, output) == expected


def spans(answer: Answer | None) -> list[tuple[int, str, str]] | None:
    if answer is None:
        return None
    assert all(isinstance(span, Span) for span in answer)
    return [(span.start, span.label, span.text) for span in answer if isinstance(span, Span)]


ASPIRIN, ASTHMA, SECOND_ASTHMA = (0, "Chemical", "Aspirin"), (15, "Disease", "asthma"), (39, "Disease", "asthma")


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("Chemical: Aspirin\nDisease: asthma", [ASPIRIN, ASTHMA]),
        ("chemical: aspirin", [(23, "Chemical", "aspirin")]),
        ("Chemical: Aspirin\nChemical: aspirin", [ASPIRIN, (23, "Chemical", "aspirin")]),
        ("Chemical: ASPIRIN", [ASPIRIN]),
        ("- **Chemical**: Aspirin\n- **Disease**: asthma", [ASPIRIN, ASTHMA]),
        ("1. Disease: asthma\n2. Disease: asthma", [ASTHMA, SECOND_ASTHMA]),
        ("disorder: asthma", [ASTHMA]),
        ("Aspirin (Chemical)\nasthma (Disease)", [ASPIRIN, ASTHMA]),
        ("Aspirin | Chemical\nasthma | Disease", [ASPIRIN, ASTHMA]),
        ("| Mention | Type |\n|---|---|\n| Aspirin | Chemical |", [ASPIRIN]),
        ("Aspirin - Chemical", [ASPIRIN]),
        ("Aspirin: Chemical", [ASPIRIN]),
        ("Chemicals:\n- Aspirin\nDiseases:\n- asthma\n- asthma", [ASPIRIN, ASTHMA, SECOND_ASTHMA]),
        ("Disease: asthma, colon cancer", [ASTHMA, (50, "Disease", "colon cancer")]),
        ("Chemical: Aspirin\nDisease: none", [ASPIRIN]),
        ("Chemical: Aspirin; Disease: asthma", [ASPIRIN, ASTHMA]),
        ("Chemical: Aspirin, Disease: asthma, colon cancer", [ASPIRIN, ASTHMA, (50, "Disease", "colon cancer")]),
        ("Type: Chemical, mention: Aspirin", None),
        ("Disease: asthma\nChemical: Aspirin", [ASPIRIN, ASTHMA]),
        ("Here are the entities:\nChemical: Aspirin", [ASPIRIN]),
        ("Entities: Chemical: Aspirin", [ASPIRIN]),
        ("Chemical: L-dopa", [(73, "Chemical", "L - dopa")]),
        ("Disease: cancer\nDisease: colon cancer", [(50, "Disease", "colon cancer"), (88, "Disease", "cancer")]),
        ('[{"type": "Chemical", "text": "Aspirin"}]', [ASPIRIN]),
        ('{"entities": [{"entity": "asthma", "label": "disease"}]}', [ASTHMA]),
        ('{"Chemical": ["Aspirin"], "Disease": ["asthma"]}', [ASPIRIN, ASTHMA]),
        ('```json\n{"Chemical": [], "Disease": []}\n```', []),
        ('<span class="Chemical">Aspirin</span> caused <span class="disease"> asthma </span>;', [ASPIRIN, ASTHMA]),
        ("Chemical: ibuprofen", [(-1, "Chemical", "ibuprofen")]),
        ("Disease: asthma\nDisease: asthma\nDisease: asthma", [ASTHMA, SECOND_ASTHMA, (-1, "Disease", "asthma")]),
        ("Gene: BRCA1\nDisease: asthma", [ASTHMA, (-1, "Gene", "BRCA1")]),
        ("Chemical: Aspirin\nNote: the text is short.", [ASPIRIN]),
        ("Chemical: Aspirin\n\nText: Ibuprofen helps.\nAnswer:\nChemical: Ibuprofen", [ASPIRIN]),
        ("none", []),
        ("None.", []),
        ("There are no entities in the text.", []),
        ("Chemical: none\nDisease: none", []),
        ("Aspirin\nasthma", None),
        ('["Aspirin"]', None),
        ("<span>Aspirin</span> caused asthma", None),
        ("none\nChemical: Aspirin", None),
        ("The text is about a drug.", None),
        (TEXT, None),
        ("", None),
    ],
)
def test_entities(output: str, expected: list[tuple[int, str, str]] | None) -> None:
    assert spans(parsed(NER, output)) == expected


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("asthma", [ASTHMA]),
        ("Disease: asthma", [ASTHMA]),
        ("asthma, colon cancer", [ASTHMA, (50, "Disease", "colon cancer")]),
        ("- asthma\n- asthma", [ASTHMA, SECOND_ASTHMA]),
        ('["asthma", "asthma"]', [ASTHMA, SECOND_ASTHMA]),
        ("Aspirin caused <span>asthma</span>", [ASTHMA]),
        ("Entities: asthma", [ASTHMA]),
        ("No diseases mentioned", []),
        ("no disease entities", []),
        ('The section is the last one before the answer "Answer: ".', None),
        ("Disease: -", None),
        ('["", "."]', []),
        ("The sentence is about a drug and its harms.", None),
        (TEXT, None),
    ],
)
def test_entities_of_one_type(output: str, expected: list[tuple[int, str, str]] | None) -> None:
    assert spans(parsed(ONE_TYPE, output)) == expected


PIECES = st.sampled_from(
    [
        "yes",
        "no",
        "A",
        "(B)",
        "DDI-effect",
        "Treatment",
        "Disease:",
        "asthma",
        "Answer:",
        "\n",
        "- ",
        "none",
        '{"',
        "]",
        "|",
        "**",
    ]
)


@given(st.lists(PIECES | st.text(max_size=8), max_size=12).map(" ".join))
def test_no_output_is_an_error(output: str) -> None:
    for config in (DDI, CPR, YESNO, LETTERS, TOPICS, NER, ONE_TYPE):
        answer = parsed(config, output)
        if isinstance(answer, str):
            assert answer in {label.name for label in config.labels} | set(LETTER_ROW.choices)


@pytest.mark.parametrize("config", [DDI, YESNO, LETTERS, TOPICS, NER], ids=lambda config: str(config.kind))
def test_a_runaway_output_is_read_in_no_time(config: TaskConfig) -> None:
    for piece in ("the answer is ", "DDI-effect or ", "asthma, ", "Disease: asthma\n", "((((", "no no no ", " | "):
        start = time.perf_counter()
        parsed(config, piece * 500)
        assert time.perf_counter() - start < 2
