"""Parallel text: two files or two columns, pairs kept together through cache and split, and a run on them."""

import gzip
import json

import numpy as np
import pytest

from pretrain_zoo.scripts.pretrain import main
from pretrain_zoo.training import split as split_module
from pretrain_zoo.training.corpora import CorpusArguments, CorpusError, open_corpus
from pretrain_zoo.training.documents import open_documents, split_documents, tokenize_corpus
from pretrain_zoo.training.translations import tokenize_translations

NUMBERS = {
    "en": ["one", "two", "three", "four", "five", "six", "seven"],
    "de": ["eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben"],
}


def sentence(language: str, i: int) -> str:
    """Sentence `i`, whose words spell its number in base 7."""
    digits = [i // 49, i // 7 % 7, i % 7]
    return " ".join(NUMBERS[language][d] for d in digits) + "."


PAIRS = [(sentence("en", i), sentence("de", i)) for i in range(120)]


@pytest.fixture
def folder(tmp_path):
    """The pairs in every form."""
    for side, language in enumerate(("en", "de")):
        text = "".join(pair[side] + "\n" for pair in PAIRS)
        (tmp_path / f"train.{language}").write_text(text, encoding="utf-8")
        with gzip.open(tmp_path / f"train.{language}.gz", "wt", encoding="utf-8") as file:
            file.write(text)
    rows = [f"{en}\t{de}\tCC-BY\n" for en, de in PAIRS]
    (tmp_path / "bare.tsv").write_text("".join(rows), encoding="utf-8")
    (tmp_path / "named.tsv").write_text("en\tde\tlicence\n" + "".join(rows), encoding="utf-8")
    nested = [json.dumps({"translation": {"en": en, "de": de}}) + "\n" for en, de in PAIRS]
    (tmp_path / "nested.jsonl").write_text("".join(nested))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("train.en,{}/train.de", None),
        ("train.en.gz,{}/train.de.gz", None),
        ("bare.tsv", "1,2"),
        ("named.tsv", "en, de"),
        ("nested.jsonl", "translation.en,translation.de"),
    ],
)
def test_every_form_gives_the_same_pairs(folder, name, columns):
    corpus = open_corpus(f"{folder}/{name.format(folder)}", language="en,de", translation_columns=columns)
    assert list(corpus.rows()) == PAIRS
    assert list(corpus) == [en for en, _ in PAIRS] + [de for _, de in PAIRS]  # both sides, for the tokenizer
    assert corpus.languages == ("en", "de")


def texts_of(documents, tokenizer) -> list[str]:
    words = [
        tokenizer.decode(documents.tokens[a : b - 1].tolist())
        for a, b in np.c_[documents.offsets, np.r_[documents.offsets[1:], 0]][:-1]
    ]
    return [text.replace(" .", ".").replace(" ", "") for text in words]


def test_pairs_survive_cache_and_split(folder, tmp_path, any_tokenizer):
    corpus = open_corpus(f"{folder}/train.en,{folder}/train.de", language="en,de")
    cache = tmp_path / "cache"
    documents = tokenize_corpus(corpus, any_tokenizer, cache)
    assert documents.translations.tolist() == [[i, 120 + i] for i in range(120)]
    assert documents.languages.tolist() == [0] * 120 + [1] * 120
    again = tokenize_corpus(corpus, any_tokenizer, cache)
    assert isinstance(again.translations, np.memmap) and np.array_equal(again.translations, documents.translations)

    in_memory = split_documents(documents, 0.1, 3)
    on_disk = split_documents(documents, 0.1, 3, cache)
    originals = texts_of(documents, any_tokenizer)
    held_out = set()
    for part, stored, count in zip(in_memory, on_disk, (108, 12), strict=True):
        assert part.fingerprint == stored.fingerprint
        for name in ("tokens", "offsets", "languages", "translations"):
            assert np.array_equal(getattr(part, name), getattr(stored, name)), name
        assert len(part.translations) == count and len(part) == 2 * count
        texts = texts_of(part, any_tokenizer)
        for a, b in part.translations.tolist():
            pair = originals.index(texts[a]), originals.index(texts[b])
            assert pair[1] == pair[0] + 120 and (part.languages[a], part.languages[b]) == (0, 1)
            held_out.add(pair[0])
    assert len(held_out) == 120  # every pair is in one of the parts


def test_translations_of_one_text_are_held_out_together(texts, wordpiece_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(split_module, "PART_TOKENS", 11)  # several parts
    source = ["the miller", "a letter", "the letter", "by the river"] * 5 + texts[:20]
    documents = tokenize_translations(source, [f"a {i}" for i in range(40)], wordpiece_tokenizer, tmp_path)
    sizes = set()
    for seed in range(8):
        train, validation = split_documents(documents, 0.1, seed)
        sides = [
            {part.tokens[part.offsets[a] : part.offsets[a + 1]].tobytes() for a in part.translations[:, 0]}
            for part in (train, validation)
        ]
        assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 24
        assert len(train.translations) + len(validation.translations) == 40
        sizes.add(len(validation.translations))
    assert min(sizes) == 4 and 4 < max(sizes) <= 8  # four pairs, and the rest of a text's five


def test_pairs_with_a_side_without_tokens_are_left_out(wordpiece_tokenizer, tmp_path):
    pairs = [("the miller", "der Müller"), ("\u200b", "nichts"), (" ", "leer"), ("a letter", "ein Brief")]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"x": x, "y": y}) + "\n" for x, y in pairs))
    arguments = CorpusArguments(str(tmp_path / "a.jsonl"), cache_dir=str(tmp_path), language="en,de")
    arguments.translation_columns = "x,y"
    documents = open_documents(arguments, wordpiece_tokenizer)
    assert len(documents) == 4 and documents.translations.tolist() == [[0, 2], [1, 3]]
    assert documents.languages.tolist() == [0, 0, 1, 1]
    first = documents.tokens[documents.offsets[1] : documents.offsets[2] - 1].tolist()
    assert first == wordpiece_tokenizer("a letter", add_special_tokens=False)["input_ids"]


def test_errors(folder):
    (folder / "short.de").write_text("eins\n")
    (folder / "bad.tsv").write_text("a\tb\nalone\n")
    two = f"{folder}/train.en,{folder}/train.de"
    for corpus, settings, message in [
        (f"{folder}/train.en,{folder}/short.de", {"language": "en,de"}, r"short\.de ends after 1 rows.*must translate"),
        (two, {}, "is parallel text, so name both languages: --language en,de"),
        (f"{folder}/bare.tsv", {"language": "en,de", "text_column": "1"}, "text of one language"),
        (f"{two},{folder}/short.de", {"language": "en,de"}, "two files with a comma between them, not 3"),
        (f"{folder}/train.en,nothing", {"language": "en,de"}, "no file 'nothing'.*one side"),
        (
            f"{folder}/named.tsv",
            {"language": "en,ko", "translation_columns": "en,ko"},
            "no column 'ko', only 'en', 'de'",
        ),
        (f"{folder}/bad.tsv", {"language": "en,de", "translation_columns": "1,2"}, "line 2: only 1 column, but"),
        (f"{folder}/bad.tsv", {"language": "en,de", "translation_columns": "1,2,3"}, "names two columns"),
    ]:
        with pytest.raises(CorpusError, match=message):
            list(open_corpus(corpus, **settings))


def test_a_bad_line_takes_its_translation_with_it(folder):
    lines = (folder / "train.de").read_bytes().split(b"\n")
    lines[3] = b"caf\xe9"
    (folder / "train.de").write_bytes(b"\n".join(lines))
    two = f"{folder}/train.en,{folder}/train.de"
    with pytest.raises(CorpusError, match=r"train\.de, line 4: .*not valid UTF-8.*--on_bad_rows skip"):
        list(open_corpus(two, language="en,de"))
    assert list(open_corpus(two, language="en,de", skip_bad_rows=True).rows()) == PAIRS[:3] + PAIRS[4:]


@pytest.mark.parametrize("objective", ["tlm", "mlm"])
def test_a_run_on_two_files(folder, tmp_path, objective, capsys):
    command = (
        f"--objective {objective} --corpus {folder}/train.en.gz,{folder}/train.de.gz --language en,de --use_cpu "
        f"--cache_dir {tmp_path / 'cache'} --output_dir {tmp_path / 'run'} --vocab_size 150 --max_seq_length 32 "
        "--per_device_train_batch_size 4 --max_steps 3 --validation_fraction 0.1"
    )
    assert main(command.split()) == 0, capsys.readouterr().err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (results["corpus"]["documents"], results["corpus"]["held_out_documents"]) == (216, 24)
    tokenizer = json.loads((tmp_path / "run" / "tokenizer.json").read_text())
    assert {"seven", "sieben"} <= set(tokenizer["model"]["vocab"])
