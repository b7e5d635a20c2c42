"""Volumes of a pod as folders of this machine, laid out as by the kubelet. Knows no process."""

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from podrunner.images import Mount

Document = Mapping[str, Any]


def write_atomically(folder: Path, files: Mapping[str, str], group: int) -> None:
    """Write the files of a ConfigMap or Secret atomically: readers see all old or all new files."""
    version = f"..{time.time_ns()}"
    (folder / version).mkdir()
    for name, text in files.items():
        path = folder / version / name
        path.write_text(text)
        path.chmod(0o644)
        os.chown(path, 0, group)
    os.symlink(version, folder / "..data_tmp")
    old = os.readlink(folder / "..data") if (folder / "..data").is_symlink() else ""
    os.rename(folder / "..data_tmp", folder / "..data")
    for name in files:
        if not (folder / name).is_symlink():
            os.symlink(f"..data/{name}", folder / name)
    for path in folder.iterdir():
        if not path.name.startswith("..") and path.name not in files:
            path.unlink()
    if old:
        shutil.rmtree(folder / old)


class Volumes:
    """The volumes of one pod below ``folder``; ``objects`` finds ConfigMaps and Secrets by kind and name."""

    def __init__(self, spec: Document, folder: Path, objects: Mapping[tuple[str, str], Document]) -> None:
        self._folder = folder
        self._objects = objects
        self._group = spec.get("securityContext", {}).get("fsGroup", 0)
        self.places: dict[str, Path] = {}
        self.sources: dict[str, tuple[str, str]] = {}
        for volume in spec.get("volumes", []):
            self.places[volume["name"]] = self._make(volume)

    def _make(self, volume: Document) -> Path:
        name = str(volume["name"])
        place = self._folder / "volumes" / name
        place.mkdir(parents=True)
        if "configMap" in volume:
            self.sources[name] = ("ConfigMap", volume["configMap"]["name"])
            write_atomically(place, self._files(name, volume["configMap"]), self._group)
        elif "secret" in volume:
            self.sources[name] = ("Secret", volume["secret"]["secretName"])
            write_atomically(place, self._files(name, volume["secret"]), self._group)
        elif "hostPath" in volume:
            path = Path(str(volume["hostPath"]["path"]))
            if not path.exists():
                if volume["hostPath"].get("type") != "DirectoryOrCreate":
                    raise AssertionError(f"volume {name}: {path} is not on the node")
                path.mkdir(parents=True)  # as root, as the kubelet does
            return path
        elif "emptyDir" in volume or "persistentVolumeClaim" in volume:
            os.chown(place, 0, self._group)
            place.chmod(0o2777 if "emptyDir" in volume else 0o2775)
        else:
            raise NotImplementedError(f"volume {name}: {sorted(volume)}")
        return place

    def _files(self, name: str, volume: Document) -> dict[str, str]:
        kind, source = self.sources[name]
        if volume.get("optional") and (kind, source) not in self._objects:
            return {}
        if (kind, source) not in self._objects:
            raise AssertionError(f"volume {name}: there is no {kind} {source}")
        data = self._objects[kind, source].get("data", {})
        items = volume.get("items") or [{"key": key, "path": key} for key in data]
        return {item["path"]: data[item["key"]] for item in items}

    def refresh(self, kind: str, name: str) -> None:
        """Replace the files of a changed or deleted ConfigMap or Secret atomically."""
        for volume, source in self.sources.items():
            if source == (kind, name):
                data = self._objects.get((kind, name), {}).get("data", {})
                write_atomically(self.places[volume], data, self._group)

    def mounts(self, container: Document) -> list[Mount]:
        """Return the mounts of a container."""
        found = []
        for one in container.get("volumeMounts", []):
            if one["name"] not in self.places:
                raise AssertionError(
                    f"container {container['name']} mounts {one['name']}, which is no volume"
                )
            source = self.places[one["name"]] / one.get("subPath", "")
            found.append(Mount(str(source), one["mountPath"], bool(one.get("readOnly"))))
        return found
