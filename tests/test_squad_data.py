"""Reading questions in SQuAD's layout and in the Hub's rows, and holding out articles."""

import gzip
import json

import pytest
from squad_questions import write

from pretrain_zoo.evaluation.squad_data import Question, from_rows, read_squad, split_by_article

CONTEXT = "The miller mends the well-known clock in winter. Nobody forgot the ship's bell."


def layout(context=CONTEXT, answers=(("clock", 32),), **more):
    qa = {"id": "q1", "question": "What does the miller mend?"} | more
    qa["answers"] = [{"text": text, "answer_start": start} for text, start in answers]
    return {"version": "1.1", "data": [{"title": "T", "paragraphs": [{"context": context, "qas": [qa]}]}]}


def test_reading_the_official_layout(tmp_path):
    content = layout(answers=[("clock", 32), ("the well-known clock", 17)])
    content["data"][0]["paragraphs"][0]["qas"].append(
        {"id": "q2", "question": "Who sings?", "answers": [], "is_impossible": True, "plausible_answers": [1]}
    )
    path = tmp_path / "dev.json.gz"
    path.write_bytes(gzip.compress(json.dumps(content).encode()))
    first, second = read_squad(path)
    assert first == Question(
        "q1", "What does the miller mend?", CONTEXT, ("clock", "the well-known clock"), (32, 17), "T"
    )
    assert second.answers == () and second.context == CONTEXT


def test_rows_of_the_hub():
    row = {"id": "7", "title": "T", "context": "Ein Café.", "question": "Was?"}
    rows = [row | {"answers": {"text": ["Café"], "answer_start": [4]}}]
    assert from_rows(rows, "hub") == [Question("7", "Was?", "Ein Café.", ("Café",), (4,), "T")]
    with pytest.raises(ValueError, match="hub has no column context, answers; it has id, question"):
        from_rows([{"id": "1", "question": "?"}], "hub")
    with pytest.raises(ValueError, match="lists under text and answer_start"):
        from_rows([row | {"answers": ["Café"]}], "hub")


@pytest.mark.parametrize(
    "content, message",
    [
        ({"data": []}, "holds no questions"),
        ({"rows": []}, "has no 'data'"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, r"data\[0\].paragraphs\[0\] has no 'context'"),
        (layout(question=None), r"qas\[0\]: 'question' must be of type str"),
        (layout(answers=[("clock", 31)]), "1 answers do not stand at their answer_start.*'clock', and at 31 stands"),
        (layout(answers=[("clock", -40)]), "do not stand at their answer_start"),
        (layout(context="  ", answers=[]), "empty question or context"),
    ],
)
def test_bad_data_is_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_squad(write(tmp_path / "dev.json", content))


def test_damaged_files_are_refused(tmp_path):
    path = write(tmp_path / "dev.json", layout())
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match="damaged or no JSON"):
        read_squad(path)
    packed = tmp_path / "dev.json.xz"
    packed.write_bytes(b"\xfd7zXZ\x00 no")
    with pytest.raises(ValueError, match="damaged or no JSON"):
        read_squad(packed)
    double = layout()
    double["data"] *= 2
    with pytest.raises(ValueError, match="the id q1 occurs twice"):
        read_squad(write(tmp_path / "double.json", double))
    with pytest.raises(ValueError, match=r"end in \.json"):
        read_squad(tmp_path / "dev.txt")
    with pytest.raises(ValueError, match=r"there is no file .*none\.json"):
        read_squad(tmp_path / "none.json")


def test_articles_are_not_divided():
    questions = [Question(f"{i}", "?", "c", (), (), f"title {i % 10}") for i in range(100)]
    train, held_out = split_by_article(questions, 0.2, 0, "data")
    assert len(held_out) == 20 and not {q.title for q in train} & {q.title for q in held_out}
    assert held_out != split_by_article(questions, 0.2, 1, "data")[1]
    with pytest.raises(ValueError, match="one article only"):
        split_by_article(questions[:1], 0.2, 0, "data")
