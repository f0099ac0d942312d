"""No source runs code from a file, and none downloads unchecked: whoever adds a way around must change this file too.

What hostile files do is in test_bad_input.py, test_device.py and test_mut1ny_data.py.
"""

import ast
import re

import pytest
from conftest import ROOT

SOURCES = [path for path in sorted(ROOT.glob("*/*.py")) if path.parent.name != "tests"]
CODE_FROM_DATA = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "code"}
SHELL = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "torch.hub.load"}
RUNS_CODE = {"eval", "exec", "compile", "__import__", *SHELL}
HIDDEN = {"torch.load", "subprocess.run", "subprocess.Popen", *SHELL}
DOWNLOADERS = {"torch.hub", "requests", "urllib3"}


def dotted(node: ast.AST) -> str:
    """torch.load -> "torch.load"; "" for what is no name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def problems(node: ast.AST) -> list[str]:
    """What of a node could run code from a file or a shell, or download unchecked."""
    if isinstance(node, ast.Import):
        return [a.name for a in node.names if a.name.split(".")[0] in CODE_FROM_DATA or a.name in DOWNLOADERS]
    if isinstance(node, ast.ImportFrom):  # from torch import load would hide what is called
        names = {f"{node.module}.{alias.name}" for alias in node.names} & HIDDEN
        return [*names, *({node.module} & DOWNLOADERS), *({str(node.module).split(".")[0]} & CODE_FROM_DATA)]
    if not isinstance(node, ast.Call):
        return []
    called, given = dotted(node.func), {k.arg: getattr(k.value, "value", None) for k in node.keywords}
    safe, checked = given.get("weights_only") is True, given.get("check_hash") is True
    found = {
        "torch.load without weights_only=True": called == "torch.load" and not safe,
        "runs code": called in RUNS_CODE or called.startswith(("os.exec", "os.spawn")) or "shell" in given,
        "np.load with allow_pickle": called in ("np.load", "numpy.load") and "allow_pickle" in given,
        "weights without a checked hash": called.endswith("get_state_dict") and not (safe and checked),
        "downloads": called.endswith(("load_state_dict_from_url", "download_url_to_file", "urlretrieve", "urlopen")),
    }
    return [problem for problem, is_one in found.items() if is_one]


def findings(source: str) -> list[str]:
    return [f"line {node.lineno}: {found}" for node in ast.walk(ast.parse(source)) for found in problems(node)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_source_runs_no_code_but_its_own(path):
    source = path.read_text()
    assert findings(source) == []
    if path.name != "prepare.py":  # which refuses a document type before it parses
        assert not re.search(r"^(import|from) l?xml", source, re.MULTILINE)


UNSAFE = (
    "torch.load(path)", "torch.load(path, weights_only=safe)", "from torch import load", "import pickle",
    "from joblib import load", "np.load(path, allow_pickle=True)", "exec(text)", "os.system('rm')",
    "subprocess.run('rm', shell=True)", "from os import system", "weights.get_state_dict(check_hash=True)",
    "torch.hub.load('a/b', 'c')", "torch.hub.load_state_dict_from_url(url)", "urllib.request.urlopen(url)",
)  # fmt: skip


@pytest.mark.parametrize("source", UNSAFE)
def test_the_search_finds_what_it_looks_for(source):
    assert len(findings(source)) == 1


def test_the_search_passes_what_is_safe():
    safe = "import os, torch\nmodel.eval()\ntorch.load(path, map_location='cpu', weights_only=True)\nnp.load(path)\n"
    assert findings(safe + "w.get_state_dict(progress=True, check_hash=True, weights_only=True)") == []
    assert len(SOURCES) > 30
