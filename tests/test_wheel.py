"""What is installed is what was built: the wheel, in a fresh environment, serves its pages."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
import venv
import zipfile
from pathlib import Path

from realtime.embedded import Embedded
from tests.process import served

ROOT = Path(__file__).parent.parent


def test_the_wheel_serves(servers: Embedded, tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    wheel = next(tmp_path.glob("tornado_realtime-*.whl"))
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [path.relative_to(ROOT) for top in ("static", "templates") for path in (ROOT / top).rglob("*.*")]
    assert [str(path) for path in files if f"realtime/_web/{path}" not in names] == []
    assert {"realtime/py.typed", "realtime/stores/schema.sql"} <= names
    assert [name for name in names if name.endswith(".lua")] != []

    # The libraries are those of this environment: what is tested is our own package, from the wheel alone.
    fresh = tmp_path / "environment"
    venv.create(fresh, with_pip=False)
    site = next(fresh.glob("lib/python*/site-packages"))
    install = [sys.executable, "-m", "pip", "--python", str(fresh), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=60)
    libraries = Path(next(path for path in sys.path if path.endswith("site-packages")))
    (site / "libraries.pth").write_text(f"{libraries}\n")

    given = {"DATABASE_URL": servers.urls["postgres"], "REDIS_URL": servers.urls["redis"]}
    command = [str(fresh / "bin" / "realtime"), "serve"]
    with served(tmp_path / "data", command=command, MONGODB_URI=servers.urls["mongo"], **given) as service:
        base = service.address()
        for path in ("/", *(f"/{file}" for file in files if file.parts[0] == "static")):
            with urllib.request.urlopen(base + path, timeout=10) as answer:
                assert answer.status == 200
        assert service.end() == 0
