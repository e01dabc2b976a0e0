"""Small files in the true layouts of GLUE's nine tasks: headers, missing headers, quotes, a byte order mark."""

from pathlib import Path

TEXTS = ['A "quoted start and no end', "Don't\u2028stop", 'He said "yes".', "Ein naïver Satz", "plain words here"]
_PARSES = ["sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse", "sentence2_parse"]
_MNLI = ["index", "promptID", "pairID", "genre", *_PARSES, "sentence1", "sentence2"]
_STSB = ["index", "genre", "filename", "year", "old_index", "source1", "source2", "sentence1", "sentence2"]
LABELS = {
    "cola": ["0", "1"],
    "sst2": ["0", "1"],
    "mrpc": ["0", "1"],
    "stsb": ["0.000", "2.800", "5.000"],
    "qqp": ["0", "1"],
    "mnli": ["neutral", "entailment", "contradiction"],
    "qnli": ["entailment", "not_entailment"],
    "rte": ["not_entailment", "entailment"],
    "wnli": ["0", "1"],
}


def row(name: str, split: str, i: int) -> tuple[list[str], list[str], list[str]]:
    """Header, cells and the texts among them, of row i."""
    a, b = TEXTS[i % 5], f"{TEXTS[(i + 1) % 5]} {i}"
    label, n = LABELS[name][i % len(LABELS[name])], str(i)
    test = split.startswith("test")
    if name == "cola":
        return (["index", "sentence"], [n, a], [a]) if test else ([], ["gj04", label, "*" * (i % 2), a], [a])
    if name == "sst2":
        return (["index", "sentence"], [n, a], [a]) if test else (["sentence", "label"], [a, label], [a])
    if name == "mrpc":
        head = ["#1 ID", "#2 ID", "#1 String", "#2 String"]
        cells = ["70", "71", a, b]
        return (["index", *head], [n, *cells], [a, b]) if test else (["Quality", *head], [label, *cells], [a, b])
    if name == "stsb":
        cells = [n, "main-captions", "MSRvid", "2012test", "0001", "none", "none", a, b]
        return (_STSB, cells, [a, b]) if test else ([*_STSB, "score"], [*cells, label], [a, b])
    if name == "qqp":
        if test:
            return ["id", "question1", "question2"], [n, a, b], [a, b]
        return ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"], [n, "1", "2", a, b, label], [a, b]
    if name == "mnli":
        cells = [n, "31193", "31193n", "government", "( x )", "( y )", "(ROOT x)", "(ROOT y)", a, b]
        votes = {"train": 1, "dev": 5}.get(split.partition("_")[0], 0)
        ends = [f"label{k + 1}" for k in range(votes)]
        if test:
            return _MNLI, cells, [a, b]
        return [*_MNLI, *ends, "gold_label"], [*cells, *["neutral"] * votes, label], [a, b]
    first, second = ("question", "sentence") if name == "qnli" else ("sentence1", "sentence2")
    head, cells = ["index", first, second], [n, a, b]
    return (head, cells, [a, b]) if test else ([*head, "label"], [*cells, label], [a, b])


FILES = dict.fromkeys(LABELS, ("train", "dev", "test"))
FILES["mnli"] = ("train", "dev_matched", "dev_mismatched", "test_matched", "test_mismatched")
FOLDERS = {"cola": "CoLA", "sst2": "SST-2", "mrpc": "MRPC", "stsb": "STS-B", "qqp": "QQP", "mnli": "MNLI"}
FOLDERS |= {"qnli": "QNLI", "rte": "RTE", "wnli": "WNLI"}


def write_task(data_dir: Path, name: str, rows: int = 7) -> Path:
    """Write the files of a task; returns its folder."""
    folder = data_dir / FOLDERS[name]
    folder.mkdir(parents=True, exist_ok=True)
    for split in FILES[name]:
        found = [row(name, split, i) for i in range(rows)]
        lines = ["\t".join(cells) for _, cells, _ in found]
        if found[0][0]:
            lines.insert(0, "\t".join(found[0][0]))
        mark = "\ufeff" if name == "mrpc" and split == "train" else ""
        (folder / f"{split}.tsv").write_text(mark + "\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return folder
