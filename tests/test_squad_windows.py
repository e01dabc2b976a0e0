"""Windows over the paragraphs of questions: cover, answers inside them, long questions, batches."""

import itertools

import numpy as np
import pytest
from squad_questions import paragraph

from pretrain_zoo.evaluation.squad import WindowCollator, WindowDataset, check_tokenizer, make_windows
from pretrain_zoo.evaluation.squad_data import Question


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("kind", ["wordpiece", "byte_bpe", "unigram"])
def test_windows_cover_the_paragraph_and_find_the_answer(kind, left, request):
    """Every character is in a window; a window has the answer's tokens if and only if the whole answer is there."""
    tokenizer = request.getfixturevalue(f"{kind}_tokenizer")
    questions = []
    for i in range(8):
        text, words, starts = paragraph(60 + i, i)
        a, b = 5 * i + 3, 5 * i + 3 + i % 3
        answer = text[starts[a] : starts[b] + len(words[b])]
        questions.append(Question(str(i), "Who  mends the clock?", text, (answer,), (int(starts[a]),)))
    questions.append(Question("none", "Who?", "the miller", (), ()))
    side = tokenizer.padding_side
    tokenizer.padding_side = "left" if left else "right"
    try:
        windows = make_windows(questions, tokenizer, max_seq_length=48, doc_stride=10, max_query_length=20)
    finally:
        tokenizer.padding_side = side
    assert windows.lengths.max() <= 48 and len(windows) > 2 * len(questions)
    covered = [np.zeros(len(q.context), bool) for q in questions]
    held = np.zeros(len(questions), int)
    for row, (begin, end) in enumerate(itertools.pairwise(windows.splits)):
        question = questions[windows.question[row]]
        ids, first, last = windows.ids[begin:end], windows.begin[begin:end], windows.end[begin:end]
        for i, j in zip(first, last):
            if i >= 0:
                covered[windows.question[row]][i:j] = True
        assert ids[windows.cls[row]] == tokenizer.cls_token_id
        start, stop = windows.start_positions[row], windows.end_positions[row]
        low, high = first[first >= 0].min(), last.max()
        whole = question.answers and low <= question.starts[0] and question.starts[0] + len(question.answers[0]) <= high
        if whole:
            assert question.context[first[start] : last[stop]].strip() == question.answers[0]
            held[windows.question[row]] += 1
        else:
            assert start == stop == windows.cls[row]
    assert (held[:-1] >= 1).all() and held[-1] == 0
    for question, seen in zip(questions, covered):
        assert all(seen[i] for i, c in enumerate(question.context) if c != " ")


def test_an_answer_inside_a_word_takes_the_whole_token(wordpiece_tokenizer):
    text = "In winter the miller mends 42,000 clocks."
    windows = make_windows(
        [Question("a", "How many?", text, ("2,0",), (text.index("2,0"),))],
        wordpiece_tokenizer,
        max_seq_length=64,
        doc_stride=8,
        max_query_length=16,
    )
    start, stop = windows.start_positions[0], windows.end_positions[0]
    found = text[windows.begin[start] : windows.end[stop]]
    assert "2,0" in found and windows.cls[0] < start <= stop
    assert "2,0" not in text[windows.end[start] : windows.end[stop]]  # no token fewer would do
    assert "2,0" not in text[windows.begin[start] : windows.begin[stop]]


def test_long_questions_are_cut(wordpiece_tokenizer):
    text, words, starts = paragraph(50)
    long = Question("a", "Who mends the clock by the river? " * 30, text, (words[40],), (int(starts[40]),))
    windows = make_windows([long], wordpiece_tokenizer, max_seq_length=48, doc_stride=8, max_query_length=12)
    assert (windows.begin >= 0).sum() > 0 and windows.start_positions.max() > 12
    inside = windows.padded(windows.begin, slice(0, 1), 48)[0]
    assert (inside[1:13] == -1).all() and inside[14] == 0  # [CLS], twelve tokens, [SEP], the paragraph


def test_windows_that_cannot_be_are_refused(wordpiece_tokenizer, bpe_tokenizer):
    question = [Question("a", "Who?", "the miller", (), ())]
    with pytest.raises(ValueError, match="raise --max_seq_length"):
        make_windows(question, wordpiece_tokenizer, max_seq_length=100, doc_stride=40, max_query_length=60)
    with pytest.raises(ValueError, match="has no cls token"):
        make_windows(question, bpe_tokenizer)
    slow = type("SlowTokenizer", (), {"is_fast": False})()
    with pytest.raises(ValueError, match="slow tokenizer"):
        check_tokenizer(slow)


def test_collator_pads_on_the_right(wordpiece_tokenizer):
    questions = [Question(str(i), "Who?", paragraph(n, i)[0], (), ()) for i, n in enumerate((5, 30))]
    windows = make_windows(questions, wordpiece_tokenizer, max_seq_length=64, doc_stride=8, max_query_length=16)
    dataset = WindowDataset(windows)
    batch = WindowCollator(wordpiece_tokenizer.pad_token_id, 0, True, 8)([dataset[i] for i in range(len(dataset))])
    assert batch["input_ids"].shape[1] % 8 == 0
    assert batch["attention_mask"].sum(1).tolist() == windows.lengths.tolist()
    encoded = wordpiece_tokenizer("Who?", questions[0].context)
    count = len(encoded["input_ids"])
    assert batch["input_ids"][0, :count].tolist() == encoded["input_ids"]
    assert batch["token_type_ids"][0, :count].tolist() == encoded["token_type_ids"]
    assert (batch["input_ids"][0, count:] == wordpiece_tokenizer.pad_token_id).all()
    assert batch["labels"].tolist() == [[0, 0]] * len(dataset)
