"""Walk through the READMEs as a new user would: every command of a block marked `<!-- walk -->` is run as it stands.

    python tests/walk.py                       about half an hour on two CPU cores
    python tests/walk.py --only lrn_headtorso  one README

It works in a fresh copy of the repository, so that nothing of yours is used or touched. Then comes a short training of
each paper's folder alone with common/, in another project and started from another folder. The two commands at the top
of README.md, with a virtual environment of their own, are run by .ci/run.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAPERS = ("nu_deeplabv3plus", "hair_transfer", "lrn_headtorso", "mut1ny_fairness", "masked_ssl")


def blocks(readme: Path) -> list[str]:
    """The commands of a README's marked blocks, in order; a backslash at the end of one goes on in the next line."""
    commands = []
    for block in re.findall(r"<!-- walk -->\n```bash\n(.*?)```", readme.read_text(encoding="utf-8"), flags=re.DOTALL):
        commands += [line for line in block.replace("\\\n", " ").splitlines() if line.strip() and line[0] != "#"]
    return commands


def scripts(root: Path) -> list[Path]:
    """Every script that a user starts."""
    found = [path for paper in PAPERS for path in sorted((root / paper).glob("*.py"))]
    return [path for path in found if "cli.run(main)" in path.read_text(encoding="utf-8")]


def copy_alone(root: Path, paper: str, project: Path) -> None:
    """A paper's folder and common/ in a project of their own, as in a course assignment."""
    for name in (paper, "common"):
        clean = shutil.ignore_patterns("__pycache__", "runs", "data", "results", "figures")
        shutil.copytree(root / name, project / name, ignore=clean)


def run(command: str, folder: Path, home: Path) -> None:
    """Run it in a shell there, `python` being this one; raises SystemExit with its output if it fails."""
    started = time.perf_counter()
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(home)}
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=folder, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)  # fmt: skip
    print(f"{time.perf_counter() - started:6.1f} s  {command}", flush=True)
    if done.returncode:
        raise SystemExit(f"exit code {done.returncode}:\n{done.stdout[-3000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PAPERS, help="one paper's folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        copy, home = Path(folder) / "copy", Path(folder) / "home"
        home.mkdir()
        for name in subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
        for command in () if args.only else blocks(copy / "README.md"):
            run(command, copy, home)
        for paper in [args.only] if args.only else PAPERS:
            for command in blocks(copy / paper / "README.md"):
                run(command, copy, home)
            project = Path(folder) / f"project-{paper}"
            copy_alone(copy, paper, project)
            script = project / paper / ("pretrain.py" if paper == "masked_ssl" else "train.py")
            run(f"python {script} --weights none --epochs 1 --size 32 --limit 30", home, home)
    print("every command ended well")


if __name__ == "__main__":
    main()
