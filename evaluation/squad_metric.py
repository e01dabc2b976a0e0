"""SQuAD's metrics as a module for `evaluate`, loaded by the path of this file, with no network:

    import evaluate
    metric = evaluate.load("evaluation/squad_metric.py")    # or with "korquad", whose F1 counts characters
    metric.compute(predictions=[{"id": "1", "prediction_text": "Denver Broncos"}],
                   references=[{"id": "1", "answers": {"text": ["The Denver Broncos"], "answer_start": [177]}}])

The layout of predictions and references is that of the Hub's `squad` metric; scores are in per cent.
"""

# evaluate copies this file elsewhere, where relative imports find nothing, and reads one module per import line.
import datasets
import evaluate

from pretrain_zoo.evaluation.squad_metrics import METRICS, squad_scores


class SquadMetric(evaluate.Metric):
    """Exact match and F1; those of answerable and other questions too, where there are such."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in (*METRICS, "default"):
            raise ValueError(f"there is no metric {self.config_name!r}; known: {', '.join(METRICS)}")
        text = datasets.Value("string")
        answers = {"text": datasets.Sequence(text), "answer_start": datasets.Sequence(datasets.Value("int32"))}
        return evaluate.MetricInfo(
            description="The official exact match and F1 of SQuAD 1.1 and 2.0, and KorQuAD 1.0.",
            citation="Rajpurkar et al. 2016, arXiv 1606.05250; Rajpurkar et al. 2018, arXiv 1806.03822",
            inputs_description="predictions: id and prediction_text, empty for no answer; references: id and answers.",
            features=datasets.Features(
                {
                    "predictions": {"id": text, "prediction_text": text},
                    "references": {"id": text, "answers": answers},
                }
            ),
        )

    def _compute(self, predictions, references) -> dict[str, float]:
        name = "squad" if self.config_name == "default" else self.config_name
        return squad_scores(
            {row["id"]: row["prediction_text"] for row in predictions},
            {row["id"]: row["answers"]["text"] for row in references},
            name,
        )
