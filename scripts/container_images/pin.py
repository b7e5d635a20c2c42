"""`scripts/pin-images`: asks the registries for the digests of the images in `versions.yaml` and writes them there.

scripts/pin-images [NAME ...]     all of them, or only those named. Needs skopeo and a way to the registries.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from container_images.versions import images, put_digest

VERSIONS = Path(__file__).resolve().parents[2] / "versions.yaml"


def main(wanted: list[str]) -> int:
    known = images(VERSIONS)
    if unknown := [name for name in wanted if name not in known]:
        print(f"pin-images: no image {', '.join(unknown)} (known: {', '.join(known)})", file=sys.stderr)
        return 2
    if shutil.which("skopeo") is None:
        print(
            "pin-images: skopeo is missing: apt-get install --no-install-recommends skopeo", file=sys.stderr
        )
        return 1
    failed = []
    for name in wanted or known:
        image = known[name]
        ask = ["skopeo", "inspect", "--format", "{{.Digest}}", f"docker://{image.source}:{image.version}"]
        done = subprocess.run(ask, capture_output=True, text=True, check=False)
        try:
            if done.returncode:
                raise ValueError(f"{name}: {(done.stderr.strip().splitlines() or ['no answer'])[-1]}")
            put_digest(VERSIONS, name, done.stdout.strip())
        except ValueError as error:
            failed.append(name)
            print(f"  {error}", file=sys.stderr)
            continue
        print(f"  {name}: {image.source}:{image.version} is {done.stdout.strip()}")
    if failed:
        print(
            f"pin-images: nothing is known of {', '.join(failed)}; their entries are as before",
            file=sys.stderr,
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
