"""GLUE's metrics as a module for `evaluate`, loaded by the path of this file, with no network:

    import evaluate
    metric = evaluate.load("evaluation/glue_metric.py", "stsb")
    metric.compute(predictions=[1.0, 2.5, 4.0], references=[1.2, 2.0, 5.0])    # pearson, spearmanr, score

The configuration is a task ("cola", "sst2", …) or a list of metrics ("accuracy,f1").
"""

# evaluate copies this file elsewhere, where relative imports find nothing, and reads one module per import line.
import datasets
import evaluate

from pretrain_zoo.evaluation.glue_tasks import TASKS
from pretrain_zoo.evaluation.metrics import METRICS, REGRESSION_METRICS, compute_metrics


class GlueMetric(evaluate.Metric):
    """The official metrics of the task that the configuration names, and "score", their mean."""

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics that are computed."""
        name = self.config_name
        names = TASKS[name].metrics if name in TASKS else tuple(part.strip() for part in name.split(","))
        unknown = [part for part in names if part not in METRICS]
        if unknown:
            raise ValueError(
                f"{unknown[0]!r} is neither a task ({', '.join(TASKS)}) nor a metric ({', '.join(METRICS)})"
            )
        return names

    def _info(self) -> evaluate.MetricInfo:
        kind = "float64" if set(self.names) <= set(REGRESSION_METRICS) else "int64"
        return evaluate.MetricInfo(
            description="The official metrics of GLUE, defined for constant predictions too.",
            citation="Wang et al. 2018, arXiv 1804.07461",
            inputs_description="predictions and references: label ids, or numbers for STS-B.",
            features=datasets.Features({"predictions": datasets.Value(kind), "references": datasets.Value(kind)}),
            format="numpy",
        )

    def _compute(self, predictions, references) -> dict[str, float]:
        return compute_metrics(self.names, predictions, references)
