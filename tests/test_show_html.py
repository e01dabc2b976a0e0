"""The page of objectives: well-formed, complete, escaped, the same by seed, and pictures of what models really see."""

import copy
from html.parser import HTMLParser

import numpy as np
import pytest

from pretrain_zoo.objectives import get_objective, list_objectives
from pretrain_zoo.scripts.show import main, paper
from pretrain_zoo.scripts.show_attention import describe, read
from pretrain_zoo.scripts.show_examples import examples, varied
from pretrain_zoo.scripts.show_html import Card, _squares, make_card, page, sketch
from pretrain_zoo.training.tokenizer import train_tokenizer

TEXTS = [
    "The cat sat on the mat. It saw the birds in the garden. Then the cat went to sleep on the old mat.",
    "A dog ran over the hill. The old man gave the dog some bread. The dog went home with the man.",
]
VOID = {"meta", "br"}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS * 10, "wordpiece", 200)


class Page(HTMLParser):
    """Elements that are open, ids, links and text; complains of tags that do not match."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.seen, self.ids, self.links, self.text = [], [], [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.seen.append((tag, values))
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values["href"]] if "href" in values else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def for_objective(tokenizer, name, **settings):
    """The objective, and the tokenizer with its special tokens."""
    objective, tokenizer = get_objective(name, **settings), copy.deepcopy(tokenizer)
    tokenizer.add_tokens(list(objective.special_tokens), special_tokens=True)
    return objective, tokenizer


def card_of(tokenizer, name, preset, texts=TEXTS, length=24, seed=0, settings=None, **overrides) -> Card:
    objective, tokenizer = for_objective(tokenizer, name, **(settings or {}))
    return make_card(name, objective, paper(type(objective)), tokenizer, preset, texts, length, seed, **overrides)


def attention_of(card: Card, example: int = 0, number: int = 0):
    return card.examples[example][1][number].attention


def test_every_objective_is_on_the_page(tokenizer):
    """All of them by what they say of themselves; each has examples, which `test_show` shows one by one."""
    cards = []
    for name in list_objectives():
        objective, with_tokens = for_objective(tokenizer, name)
        found = varied(examples(objective, with_tokens, TEXTS * 4, 32, 0, 2), 3)
        cards.append(Card(name, objective, paper(type(objective)), [(example, (), ()) for example in found]))
    text = page(cards, TEXTS, "small", 0)
    shown = Page(text)
    for card in cards:
        assert card.name in shown.ids and f"#{card.name}" in shown.links
        assert card.objective.summary in shown.text and card.paper in shown.text and card.examples
    assert "mlm_probability=0.15" in shown.text and "→" in sketch(type(get_objective("whole_word_mlm")))
    assert len(set(shown.ids)) == len(shown.ids)
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in shown.seen}
    assert not any("src" in values for _, values in shown.seen) and "url(" not in text and "@import" not in text


def test_texts_are_escaped(tokenizer):
    texts = ['<script>alert("x")</script> & the <b>cat</b> sat on the mat. It went home.', TEXTS[1]]
    card = card_of(tokenizer, "mlm", "bert-tiny", texts)
    text = page([card], texts, "<i>mine</i>", 0)
    shown = Page(text)
    assert texts[0] in shown.text and "<i>mine</i>" in shown.text
    assert "script" not in {tag for tag, _ in shown.seen} and "<script" not in text and "<b>" not in text


def test_the_same_by_seed(tokenizer):
    one, again, other = (page([card_of(tokenizer, "mlm", "bert-tiny", seed=s)], TEXTS, "small", 0) for s in (0, 0, 1))
    assert one == again != other


def test_trouble_is_said_on_its_card(tokenizer):
    card = card_of(tokenizer, "plm", "bert-tiny")
    assert not card.examples and "XLNet" in card.trouble
    assert "XLNet" in Page(page([card], TEXTS, "small", 0)).text


def test_roles(tokenizer):
    def roles(name, role, line="input_ids", **settings):
        objective, with_tokens = for_objective(tokenizer, name, **settings)
        example = next(examples(objective, with_tokens, TEXTS, 64, 1))
        return [t.text for t in example.lines[line] if t.role == role], example

    masked, example = roles("mlm", "masked", mask_replace_prob=1.0, random_replace_prob=0.0, selection="exact")
    assert set(masked) == {"[MASK]"} and len(masked) == round(0.15 * len(example.lines["text"]))
    assert [t.note for t in example.lines["input_ids"] if t.note] == [t.text for t in example.lines["predict"]]
    gaps, example = roles("span_corruption", "sentinel", noise_density=0.3)
    assert gaps == [f"<extra_id_{i}>" for i in range(len(gaps))] and gaps
    gone = [t.text for t in example.lines["text"] if t.role == "deleted"]
    targets = [t.text for t in example.lines["predict"] if not t.text.startswith(("<extra", "[SEP]"))]
    assert gone == targets and {t.role for t in example.lines["predict"]} == {"sentinel", "target"}
    masked, example = roles("unilm", "masked", mask_replace_prob=1.0, random_replace_prob=0.0)  # in a new frame
    assert len(masked) == len(example.lines["predict"]) > 3
    assert not any(t.role == "deleted" for t in example.lines["text"])
    kept, example = roles("prefix_lm", "kept")
    assert not kept and not any(t.note for t in example.lines["input_ids"])
    masked, example = roles("mass", "masked", mass_ratio=0.3)
    assert masked and len(example.lines["input_ids"]) == len(example.lines["text"])
    assert not any(t.role == "deleted" for t in example.lines["text"])
    moved, _ = roles("denoising", "moved", mask_ratio=0.0, permute_sentence_ratio=1.0)
    assert len(moved) > 5


def test_causal_attention(tokenizer):
    attention = attention_of(card_of(tokenizer, "clm", "gpt2-tiny"))
    assert len(attention.keys) == 24 and attention.layers == (1, 2)
    assert np.array_equal(attention.sees, [[j <= i for j in range(24)] for i in range(24)])


def test_documents_apart(tokenizer):
    card = card_of(tokenizer, "clm", "gpt2-tiny", length=40, settings={"document_attention": True})
    attention, tokens = attention_of(card), [t.text for t in card.examples[0][0].lines["text"]]
    end = tokens.index("[SEP]")  # belongs to the document that it closes
    expected = [[j <= i and (i <= end) == (j <= end) for j in range(40)] for i in range(40)]
    assert 0 < end < 39 and np.array_equal(attention.sees, expected)


def test_prefix_attention(tokenizer):
    card = card_of(tokenizer, "prefix_lm", "gpt2-tiny")
    predicted = len(card.examples[0][0].lines["predict"])
    prefix = 24 - predicted  # all that follow it are predicted, and only they
    expected = [[j <= i or j < prefix for j in range(24)] for i in range(24)]
    assert prefix > 1 and np.array_equal(attention_of(card).sees, expected)


def test_all_four_masks_of_unilm(tokenizer):
    card = card_of(tokenizer, "unilm", "bert-tiny", length=32)
    said = {describe(attention_of(card, i).sees).split(";")[0].rstrip("0123456789 ") for i in range(len(card.examples))}
    assert len(card.examples) == 4 and any(words.startswith("The first") for words in said)
    assert {"All see all.", "Each sees itself and what comes before.", "Each sees itself and what comes after."} < said


def test_sliding_window(tokenizer):
    card = card_of(tokenizer, "mlm", "modernbert-tiny", length=24, local_attention=8, num_hidden_layers=4)
    wide, narrow = (picture.attention for picture in card.examples[0][1])
    size = len(wide.keys)
    assert wide.sees.all() and set(wide.layers) | set(narrow.layers) == {1, 2, 3, 4}
    assert np.array_equal(narrow.sees, [[abs(i - j) <= 4 for j in range(size)] for i in range(size)])


def test_streams_of_permutation_lm(tokenizer):
    """From the order and the parts: what is seen, by the paper's rule, and the first part of the row before."""
    objective, _ = for_objective(tokenizer, "plm")
    found = varied(examples(objective, tokenizer, TEXTS, 24, 0), 4)
    readings = read(objective, "xlnet-tiny", tokenizer, [example.columns for example in found], 24)
    assert len(found) == 2
    for number, (example, reading) in enumerate(zip(found, readings)):
        content, query = reading.attention
        ranks, parts = (example.columns[name].row(0) for name in ("perm_ranks", "parts"))
        targets = example.columns["label_positions"].row(0).tolist()
        reused = int((parts == 0).sum())
        memory = reused if number else 0
        size = len(ranks)

        def sees(i, j, own, ranks=ranks, parts=parts, targets=targets):
            if parts[j] != parts[i]:
                return parts[j] < parts[i]
            if ranks[j] < 0:
                return True
            if i in targets or ranks[i] >= 0:  # in the order
                return ranks[j] < ranks[i] or (i == j and (own or i not in targets))
            return bool(own and i == j)

        for attention, rows, own in ((content, range(size), True), (query, targets, False)):
            assert attention.memory == memory and attention.sees[:, :memory].all()
            expected = [[sees(i, j, own) for j in range(size)] for i in rows]
            assert np.array_equal(attention.sees[:, memory:], expected)
        if number:
            assert content.keys[:memory] == found[0].columns["input_ids"].row(0)[:reused].tolist()


def test_memory_of_segments(tokenizer):
    card = card_of(tokenizer, "recurrent_clm", "xlnet-tiny", length=20, settings={"mem_len": 7})
    first, second = attention_of(card, 0), attention_of(card, 1)
    assert first.memory == 0 and second.memory == 7
    causal = np.tri(20, dtype=bool)
    assert np.array_equal(first.sees, causal)
    assert np.array_equal(second.sees, np.concatenate([np.ones((20, 7), bool), causal], 1))
    before = card.examples[0][0].columns["input_ids"].row(0).tolist()
    assert second.keys == before[-7:] + card.examples[1][0].columns["input_ids"].row(0).tolist()
    assert "all of the memory" in page([card], TEXTS, "small", 0) and 'class="past" d="M' in page([card], TEXTS, "s", 0)


def test_encoder_and_decoder(tokenizer):
    card = card_of(tokenizer, "span_corruption", "t5-tiny")
    encoder, decoder, across = (attention_of(card, 0, i) for i in range(3))
    assert encoder.sees.all() and across.sees.all() and not decoder.sees.all()
    assert np.array_equal(decoder.sees, np.tri(len(decoder.keys), dtype=bool))
    assert across.sees.shape == (len(decoder.keys), len(encoder.keys))


def test_padding_in_a_decoder_sees_nothing(tokenizer):
    """MASS keeps a fragment's places: what comes before them is padding."""
    decoder = attention_of(card_of(tokenizer, "mass", "t5-tiny", length=40, settings={"edge_prob": 0.0}), 0, 1)
    before = next(i for i, key in enumerate(decoder.keys) if key != tokenizer.pad_token_id)
    expected = np.tri(len(decoder.keys), dtype=bool)
    expected[:, :before], expected[:before] = False, False
    assert before > 0 and np.array_equal(decoder.sees, expected)


def test_what_the_discriminator_reads(tokenizer):
    card = card_of(tokenizer, "rtd", "electra-tiny", settings={"mlm_probability": 0.4})
    example, _, after = card.examples[0]
    places = set(example.columns["label_positions"].row(0).tolist())
    before = [t.text for t in example.lines["text"]]
    changed = {i for i, token in enumerate(after) if token.role == "replaced"}
    assert changed == {i for i, token in enumerate(after) if token.text != before[i]} <= places and len(changed) > 3
    assert "the discriminator reads" in Page(page([card], TEXTS, "small", 0)).text


@pytest.mark.parametrize(
    ("filled", "expected"),
    [
        ([[1, 1, 0], [0, 0, 0], [1, 0, 1]], "M0 0h20v10h-20zM0 20h10v10h-10zM20 20h10v10h-10z"),
        ([[0, 0]], ""),
    ],
)
def test_squares(filled, expected):
    assert _squares(np.array(filled, bool)) == expected


def test_descriptions():
    i, j = np.indices((5, 5))
    assert describe(np.abs(i - j) <= 1) == "Each sees itself and 1 to either side."
    assert describe((j <= i) & (i - j <= 2)) == "Each sees itself and the 2 before."
    assert describe((j <= i) | (j < 3)).startswith("The first 3 see each other;")
    assert describe(np.array([[1, 0], [1, 0]], bool)) == ""
    assert describe(np.concatenate([np.zeros((2, 3), bool), np.tri(2, dtype=bool)], 1), 3) == ""


def test_command(tokenizer, tmp_path, capsys):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "my.txt").write_text(f"{TEXTS[0]}\n\nThe man <b>sat</b> on the hill.\n")
    path = tmp_path / "new" / "page.html"
    command = ["--html", str(path), "--tokenizer", str(tmp_path / "tokenizer"), "--text_file", str(tmp_path / "my.txt")]
    assert main([*command, "--objective", "clm", "--packing", "documents", "--text", "One more dog."]) == 0
    assert "page.html: 1 objective" in capsys.readouterr().out.replace("\n", "")
    shown = Page(path.read_text())
    assert "The man <b>sat</b> on the hill." in shown.text and "One more dog." in shown.text
    assert ("li", {"class": "changed"}) in shown.seen and "packing=documents" in shown.text
    assert main([*command, "--packing", "documents"]) == 2
    assert "give --objective" in capsys.readouterr().err
    assert main([*command[:-1], str(tmp_path / "none.txt")]) == 2
    assert "no file" in capsys.readouterr().err
