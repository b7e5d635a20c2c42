"""Reads the figures that the agent needs from vLLM's metrics page."""

from prometheus_client.parser import text_string_to_metric_families

from backend_agent.judgement import Sample

# Field of a sample -> vLLM's series, summed over labels.
SERIES = {
    "running": "vllm:num_requests_running",
    "waiting": "vllm:num_requests_waiting",
    "kv_usage": "vllm:kv_cache_usage_perc",
    "prompt_tokens": "vllm:prompt_tokens_total",
    "generated_tokens": "vllm:generation_tokens_total",
    "finished_requests": "vllm:request_success_total",
}
FIELDS = {series: field for field, series in SERIES.items()}


def read_sample(page: str, at_seconds: float) -> Sample:
    """Return one sample; figures that the page lacks are None.

    Raises:
        ValueError: the page is not in Prometheus' text format.
    """
    figures: dict[str, float] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            field = FIELDS.get(sample.name)
            if field is not None:
                figures[field] = figures.get(field, 0.0) + sample.value
    return Sample(
        at_seconds,
        reachable=True,
        running=figures.get("running"),
        waiting=figures.get("waiting"),
        kv_usage=figures.get("kv_usage"),
        prompt_tokens=figures.get("prompt_tokens"),
        generated_tokens=figures.get("generated_tokens"),
        finished_requests=figures.get("finished_requests"),
    )
