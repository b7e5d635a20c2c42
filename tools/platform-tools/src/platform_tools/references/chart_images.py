"""Versions and digests of other projects' images in the charts, from versions.yaml.

Changes only these scalars, so that comments and form of the files stay.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from platform_tools.checkout import ROOT
from platform_tools.images.versions import Image, images
from platform_tools.references import chart_docs
from platform_tools.references.chart_docs import MARK

APP_VERSION = re.compile(r'^appVersion: "?[^"\n]*"?$', re.MULTILINE)
KEYS = {"registry", "repository", "tag", "digest"}


def files_of(chart: Path, known: Mapping[str, Image]) -> dict[Path, str]:
    """Return values.yaml and Chart.yaml with the versions and digests of ``known``.

    An image without a tag has the chart's appVersion, so its version is written there.
    """
    by_source = {image.source: image for image in known.values()}
    values, metadata = (chart / "values.yaml").read_text(), (chart / "Chart.yaml").read_text()
    found = [(fields, by_source[source]) for source, fields in _images_in(values) if source in by_source]
    changes: list[tuple[yaml.ScalarNode, str]] = []
    for fields, image in found:
        changes.append((fields["digest"], image.digest))
        if fields["tag"].value:
            changes.append((fields["tag"], image.version))
        else:
            metadata = APP_VERSION.sub(f'appVersion: "{image.version}"', metadata)
    for node, value in sorted(changes, key=lambda one: -one[0].start_mark.index):
        if node.value != value:
            values = values[: node.start_mark.index] + json.dumps(value) + values[node.end_mark.index :]
    return {chart / "values.yaml": values, chart / "Chart.yaml": metadata}


def _images_in(values: str) -> Iterator[tuple[str, dict[str, yaml.ScalarNode]]]:
    """Yield the source and the scalars of each image in the chart's own values."""
    waiting: list[yaml.Node | None] = [yaml.compose(values.partition(MARK)[0], yaml.SafeLoader)]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, yaml.MappingNode):
            continue
        fields = {key.value: value for key, value in node.value}
        waiting.extend(fields.values())
        if fields.keys() >= KEYS:
            yield f"{fields['registry'].value}/{fields['repository'].value}", fields


def main() -> int:
    """Write the versions and digests of versions.yaml into every chart."""
    known = images(ROOT / "versions.yaml")
    chart_docs.write(files_of(chart, known) for chart in chart_docs.charts())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
