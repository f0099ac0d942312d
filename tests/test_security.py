"""No source runs code from a file, and none downloads unchecked: whoever adds a way around must change this file too.

What hostile files do is in test_bad_input.py, test_run.py, test_device.py and test_mut1ny_data.py.
"""

import ast

import pytest
from conftest import ROOT

SOURCES = [path for path in sorted(ROOT.glob("*/*.py")) if path.parent.name != "tests"]
CODE_FROM_DATA = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "code"}
RUNS_CODE = {"eval", "exec", "compile", "__import__"}
SHELL = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "torch.hub.load"}
XML = "mut1ny_fairness/prepare.py"  # refuses a document type before it parses


def dotted(node: ast.AST) -> str:
    """torch.load -> "torch.load"; "" for what is no name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def says(call: ast.Call, keyword: str, value) -> bool:
    given = [k.value for k in call.keywords if k.arg == keyword]
    return len(given) == 1 and isinstance(given[0], ast.Constant) and given[0].value is value


def findings(source: str, name: str = "file.py") -> list[str]:
    """What in a source could run code from a file or a shell, or download unchecked; one line each."""
    found = []

    def note(node: ast.AST, problem: str) -> None:
        found.append(f"{name}:{node.lineno}: {problem}")

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for module in names:
                if module.split(".")[0] in CODE_FROM_DATA or module in ("torch.hub", "requests", "urllib3"):
                    note(node, f"imports {module}")
                if module.split(".")[0] in ("xml", "lxml", "expat") and name != XML:
                    note(node, f"reads XML with {module}")
            if isinstance(node, ast.ImportFrom) and node.module in ("os", "subprocess", "torch", "builtins"):
                for alias in node.names:  # from torch import load would hide what follows
                    if f"{node.module}.{alias.name}" in SHELL | {"torch.load"} or alias.name in ("run", "Popen"):
                        note(node, f"imports {alias.name} from {node.module}")
        if not isinstance(node, ast.Call):
            continue
        called = dotted(node.func)
        if called == "torch.load" and not says(node, "weights_only", True):
            note(node, "torch.load without weights_only=True")
        if called in RUNS_CODE or called in SHELL or called.startswith(("os.exec", "os.spawn")):
            note(node, f"calls {called}")
        if called in ("np.load", "numpy.load") and any(k.arg == "allow_pickle" for k in node.keywords):
            note(node, "np.load with allow_pickle")
        if any(k.arg == "shell" for k in node.keywords):
            note(node, "gives a command to a shell")
        checked = says(node, "check_hash", True) and says(node, "weights_only", True)
        if called.endswith("get_state_dict") and not checked:
            note(node, "downloads weights without check_hash=True and weights_only=True")
        if called.endswith(("load_state_dict_from_url", "download_url_to_file", "urlretrieve")):
            note(node, f"downloads with {called}")
        if called.endswith("urlopen"):
            note(node, "reads from the network")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_source_runs_no_code_but_its_own(path):
    assert findings(path.read_text(), path.relative_to(ROOT).as_posix()) == []


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=safe)",
        "from torch import load",
        "import pickle",
        "from joblib import load",
        "np.load(path, allow_pickle=True)",
        "eval(text)",
        "exec(text)",
        "os.system('rm')",
        "os.execv('rm', [])",
        "from os import system",
        "subprocess.run('rm', shell=True)",
        "from subprocess import run",
        "weights.get_state_dict(progress=True)",
        "weights.get_state_dict(check_hash=True)",
        "torch.hub.load('a/b', 'c')",
        "torch.hub.load_state_dict_from_url(url)",
        "urllib.request.urlretrieve(url, path)",
        "urllib.request.urlopen(url)",
        "import xml.etree.ElementTree",
    ],
)
def test_the_search_finds_what_it_looks_for(source):
    assert len(findings(source)) == 1


def test_the_search_passes_what_is_safe():
    safe = "import os, torch\nmodel.eval()\ntorch.load(path, map_location='cpu', weights_only=True)\nnp.load(path)\n"
    assert findings(safe + "w.get_state_dict(progress=True, check_hash=True, weights_only=True)") == []
    assert len(SOURCES) > 30
