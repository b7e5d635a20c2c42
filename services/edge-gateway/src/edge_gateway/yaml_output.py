"""Writes YAML that a reviewer can read: block scalars, and shared parts once. Must not know Envoy."""

from typing import Any

import yaml


class SharedList(list[Any]):
    """Written once; every further use is a YAML alias."""


class SharedMapping(dict[str, Any]):
    """Written once; every further use is a YAML alias."""


class _Dumper(yaml.SafeDumper):
    """Writes scripts as block scalars, so that goldens are readable."""

    def ignore_aliases(self, data: Any) -> bool:
        return not isinstance(data, SharedList | SharedMapping)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(SharedList, yaml.SafeDumper.represent_list)
_Dumper.add_representer(SharedMapping, yaml.SafeDumper.represent_dict)


def dump(document: Any) -> str:
    """Return a document as YAML."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
