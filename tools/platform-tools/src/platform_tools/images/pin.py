"""`scripts/pin-images`: reads the digests of the images in `versions.yaml` from their registries and writes
them to the file. `make generate` then writes them into the charts.

scripts/pin-images [NAME ...] all images, or only the named ones. Needs skopeo and access to the registries.
"""

import shutil
import subprocess
import sys

from platform_tools.checkout import ROOT
from platform_tools.images.versions import images, put_digest

VERSIONS = ROOT / "versions.yaml"


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
    if len(failed) < len(wanted or known):
        print("  `make generate` writes these digests into the charts")
    if failed:
        print(
            f"pin-images: nothing is known of {', '.join(failed)}; their entries are as before",
            file=sys.stderr,
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
