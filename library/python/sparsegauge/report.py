"""Evaluations by the program, their files, and the database, for notebooks."""

import html
import json
import os
import subprocess
import tempfile
from pathlib import Path

from . import _native


class Report(dict):
    """What `sparsegauge eval --output FILE` writes, as a dictionary that shows itself in a notebook."""

    def __init__(self, content, path=None):
        super().__init__(content)
        self.path = path

    @classmethod
    def read(cls, path):
        with open(path, encoding="utf-8") as f:
            return cls(json.load(f), str(path))

    def _numbers(self):
        for group in ("output_accuracy", "sparsity"):
            for name, value in (self.get(group) or {}).items():
                if isinstance(value, (int, float)) and not isinstance(value, bool):
                    yield (name if group == "output_accuracy" else f"sparsity {name}"), value

    def __repr__(self):
        return "<Report: " + ", ".join(f"{name} {value:.5g}" for name, value in self._numbers()) + ">"

    def _repr_html_(self):
        config = self.get("config") or {}
        shown = {k: v for k, v in config.items() if isinstance(v, (str, int, float)) and not isinstance(v, bool)}
        head = ", ".join(f"{html.escape(str(k))} {html.escape(str(v))}" for k, v in list(shown.items())[:8])
        rows = "".join(f"<tr><th>{html.escape(name)}</th><td>{value:.6g}</td></tr>" for name, value in self._numbers())
        return f"<p>{head}</p><table>{rows}</table>"


def _option(name, value):
    name = "--" + name.replace("_", "-")
    if value is True:
        return [name]
    if value is False:
        return ["--no-" + name[2:]]
    values = value if isinstance(value, (list, tuple)) else [value]
    return [x for v in values for x in (name, str(v))]


def eval(model, *, texts=None, tuned=None, output=None, db=None, **options):
    """Run `sparsegauge eval` and return its Report.

    model: a directory, an id in the hub's cache, a GGUF file, or a transformers model that was loaded from one, patched or not:
    then its policy is what is evaluated. texts: a list of strings, given to the program's standard input; else suite="text:FILE" and
    the like. tuned: the path of a tuned file, or a Policy. Every option of the program may be given, "-" written as "_":
    max_length=2048, num_samples=10, l1=…, device="cuda". A failure raises Error with the program's own sentence."""
    with tempfile.TemporaryDirectory(prefix="sparsegauge-") as folder:
        if not isinstance(model, (str, os.PathLike)):
            from . import models

            state = models._state_of(model)
            if tuned is None and state is not None:
                tuned = state.policy
            if not model.name_or_path:
                raise _native.ArgumentError("the model was made in memory: save_pretrained() it, and give the directory")
            model = model.name_or_path
        if tuned is not None and not isinstance(tuned, (str, os.PathLike)):
            path = os.path.join(folder, "tuned.json")
            tuned.write(path)
            tuned = path
        path = str(output) if output else os.path.join(folder, "eval.json")
        command = [_native.program(), "eval", str(model), "--output", path, "--db", str(db or os.path.join(folder, "eval.db")), "-q"]
        if tuned is not None:
            command += ["--tuned", str(tuned)]
        given = None
        if texts is not None:
            if "suite" in options or "dataset" in options:
                raise _native.ArgumentError("texts are the data; drop suite and dataset")
            given = "".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts).encode()
            command += ["--suite", "text:-"]
        for name, value in options.items():
            if value is not None:
                command += _option(name, value)
        done = subprocess.run(command, input=given, capture_output=True, check=False)
        if done.returncode:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit code {done.returncode}"]
            raise _native.Error(lines[-1].removeprefix("sparsegauge: "))
        report = Report.read(path)
        if not output:
            report.path = None
        return report


class Database:
    """Results in sparsegauge.db as pandas DataFrames; opened for reading alone."""

    def __init__(self, path="sparsegauge.db"):
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: no such database; `sparsegauge eval --db {self.path}` makes one")

    def query(self, sql, parameters=()):
        """The rows of a SQL statement that reads; docs/schema.md has tables and views."""
        import sqlite3
        from contextlib import closing

        import pandas as pd

        with closing(sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            return pd.read_sql_query(sql, connection, params=parameters)

    def runs(self):
        """A row for every run, its headline numbers beside its settings."""
        return self.query("SELECT * FROM v_runs")

    def samples(self, run):
        """A row for every sample of a run."""
        return self.query("SELECT * FROM sample WHERE run = ? ORDER BY sample", (int(run),))

    def heads(self, run):
        """A row for every layer and head of a run."""
        return self.query("SELECT * FROM v_ledger WHERE run = ?", (int(run),))

    def _repr_html_(self):
        return self.runs()._repr_html_()
