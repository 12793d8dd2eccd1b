"""Arrays without transformers: strides, refusals, models by the engine, evaluations and the database."""

import doctest
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np

import sparsegauge as sg
import sparsegauge.core

SOURCE = Path(__file__).resolve().parents[3]
DEMO = str(SOURCE / "suites" / "demo" / "model")


def load_tests(loader, tests, ignore):
    tests.addTests(doctest.DocTestSuite(sparsegauge.core))
    return tests


def by_hand(q, k, v):
    """Causal attention in fp64, from the definition."""
    g, n, keys, d = q.shape[0] // k.shape[0], q.shape[1], k.shape[1], q.shape[2]
    s = np.einsum("hid,hjd->hij", q.astype(float), k.astype(float).repeat(g, 0)) / np.sqrt(d)
    s[:, np.arange(keys)[None, :] > np.arange(keys - n, keys)[:, None]] = -np.inf
    p = np.exp(s - s.max(-1, keepdims=True))
    return np.einsum("hij,hjd->hid", p / p.sum(-1, keepdims=True), v.astype(float).repeat(g, 0))


class Arrays(unittest.TestCase):
    def setUp(self):
        rng = np.random.default_rng(1)
        self.q, self.k, self.v = (rng.standard_normal((h, 300, 32), dtype=np.float32) for h in (4, 2, 2))

    def test_dense_by_definition_in_any_layout(self):
        want = by_hand(self.q, self.k, self.v)
        np.testing.assert_allclose(sg.attention(self.q, self.k, self.v), want, atol=2e-6)
        q, k, v = (np.ascontiguousarray(x.transpose(1, 0, 2)).transpose(1, 0, 2) for x in (self.q, self.k, self.v))
        self.assertFalse(q.flags["C_CONTIGUOUS"])
        out = np.zeros((300, 4, 64), dtype=np.float32)
        view = out.transpose(1, 0, 2)[:, :, 16:48]  # a part of something larger
        got = sg.attention(q, k, v, out=view)
        self.assertIs(got, view)
        np.testing.assert_allclose(view, want, atol=2e-6)
        self.assertEqual(float(np.abs(out[:, :, :16]).max() + np.abs(out[:, :, 48:]).max()), 0)
        last = sg.attention(self.q[:, -1:], self.k, self.v)
        np.testing.assert_allclose(last[:, 0], want[:, -1], atol=2e-6)

    def test_torch_and_numpy_are_one(self):
        try:
            import torch
        except ImportError:
            self.skipTest("torch is not installed")
        p = sg.Policy(1, 4, topk=.5)
        want = sg.attention(self.q, self.k, self.v, p)
        got = sg.attention(*(torch.from_numpy(x) for x in (self.q, self.k, self.v)), p)
        self.assertTrue(torch.equal(got, torch.from_numpy(want)))

    def test_refusals(self):
        q, k, v = self.q, self.k, self.v
        for args, kind, says in (
                ((q.astype(np.float64), k, v), sg.NotSupportedError, "q: found float64 on the CPU, expected float32"),
                ((q, k, [1]), sg.ArgumentError, "v: found list"),
                ((q[0], k, v), sg.ArgumentError, r"found the shape \(300, 32\), expected \[heads, tokens, head_dim\]"),
                ((q[:, :, ::2], k[:, :, ::2], v[:, :, ::2]), sg.ArgumentError, "stride of 2"),
                ((q[:, ::-1], k, v), sg.ArgumentError, "strides of -32"),
                ((q[:3], k, v), sg.ArgumentError, "a multiple of the latter"),
                ((q, k[:, :, :16], v), sg.ArgumentError, "one head_dim"),
                ((q, k[:, :200], v[:, :200]), sg.ArgumentError, "q_start -100"),
                ((q, k, v, sg.Policy(1, 8)), sg.ArgumentError, "n_heads: found 4, expected 8")):
            with self.subTest(says), self.assertRaisesRegex(kind, says):
                sg.attention(*args)
        with self.assertRaisesRegex(sg.ArgumentError, "layer: found 3"):
            sg.attention(q, k, v, sg.Policy(1, 4), layer=3)
        with self.assertRaisesRegex(sg.ArgumentError, 'block: found "64"'):
            sg.Policy(1, 4, block="64")
        with self.assertRaisesRegex(sg.ArgumentError, "method"):
            sg.Policy(1, 4, "magic")
        with self.assertRaises(ValueError):  # what others catch
            sg.Policy(0, 4)

    def test_a_policy_comes_back_from_its_text(self):
        p = sg.Policy(3, 2, layers="1-2", smooth_k="off")
        p.set_head(1, 0, simthreshd1=.25, cdfthreshd=.5, pvthreshd=7.5)
        p.set_head(2, 1, 0, 1, is_sparse=False)
        back = sg.Policy.parse(p.text)
        self.assertEqual(back.settings, p.settings | {"min_sparse_tokens": back.settings["min_sparse_tokens"]})
        for layer in (1, 2):
            for head in (0, 1):
                a, b = p.head(layer, head), back.head(layer, head)
                self.assertEqual({k: v for k, v in a.items() if v == v}, {k: v for k, v in b.items() if v == v})

    def test_what_a_notebook_shows(self):
        p, counted = sg.Policy(2, 4, topk=.5), sg.Ledger(2, 4)
        sg.attention(self.q, self.k, self.v, p, layer=1, ledger=counted)
        self.assertEqual(counted._repr_html_().count("<tr>"), 3)  # a heading and two layers
        self.assertIn(f"{100 * counted.sparsity:.1f} % left out", counted._repr_html_())
        try:
            import pandas
        except ImportError:
            self.skipTest("pandas is not installed")
        self.assertEqual(p._repr_html_().count("<tr"), 1 + 2 * 4)

    def test_a_forked_child_works(self):
        sg.attention(self.q, self.k, self.v)
        child = os.fork()
        if child == 0:
            try:
                want = by_hand(self.q, self.k, self.v)
                os._exit(0 if np.allclose(sg.attention(self.q, self.k, self.v), want, atol=2e-6) else 1)
            except BaseException:
                os._exit(2)
        self.assertEqual(os.waitpid(child, 0)[1], 0)


class Engine(unittest.TestCase):
    def test_a_model_by_itself(self):
        m = sg.Model(DEMO)
        ids = m.encode("Ada keeps the red key in the blue box. " * 60)
        self.assertEqual(m.decode(m.encode("The red key.")).strip(), "The red key.")
        logits = m.logits(ids[:400]).astype(float)
        logp = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True)) - logits.max(-1, keepdims=True)
        self.assertAlmostEqual(m.loss(ids[:400]), -float(logp[np.arange(399), ids[1:400]].mean()), places=4)
        counted = m.ledger()
        words = m.generate("Ada keeps the red key in the blue box. " * 60, sg.Policy(8, m.shape["n_heads"], topk=.5)
                           if m.shape["n_layers"] == 8 else None, max_new=8, ledger=counted)
        self.assertTrue(words)
        with self.assertRaisesRegex(OSError, "nowhere"):
            sg.Model("/nowhere/at/all")

    def test_eval_texts_and_the_database(self):
        words = "the keeper of lamp went down to harbour and counted boats while red keys lay in blue boxes".split()
        texts = [" ".join(np.random.default_rng(i).choice(words, 500)) for i in range(3)]
        with tempfile.TemporaryDirectory() as folder:
            db = os.path.join(folder, "x.db")
            r = sg.eval(DEMO, texts=texts, topk=.5, max_length=300, db=db, cache="none")
            self.assertGreater(r["sparsity"]["mean"], 0)
            self.assertIn("<th>kl</th>", r._repr_html_())
            runs = sg.Database(db).runs()
            self.assertEqual(len(runs), 1)
            self.assertAlmostEqual(runs.kl_mean[0], r["output_accuracy"]["kl"], places=6)
            self.assertEqual(len(sg.Database(db).samples(runs.id[0])), len(r["detailed_results"]))
            self.assertGreaterEqual(len(r["detailed_results"]), 3)
            self.assertGreater(len(sg.Database(db).heads(runs.id[0])), 7)
            self.assertIn("<table", sg.Database(db)._repr_html_())
            with self.assertRaisesRegex(sg.Error, "--topk: found 7"):
                sg.eval(DEMO, topk=7, db=db)
            with self.assertRaises(FileNotFoundError):
                sg.Database(os.path.join(folder, "none.db"))


class Loading(unittest.TestCase):
    def test_structs_are_the_headers(self):
        """ctypes lays out what library/abi.txt has, which the C compiler is held to."""
        names = {"sg_" + name.lower(): getattr(sg._native, name)
                 for name in ("Ledger", "Setting", "Head", "Attention", "Sample", "Tuning", "Shape", "Generation")}
        promised = {name: [] for name in names}
        for line in (SOURCE / "library" / "abi.txt").read_text().splitlines():
            struct, *rest = line.split()
            promised[struct].append(rest)
        for name, kind in names.items():
            fields = [[member, str(getattr(kind, member).offset), str(getattr(kind, member).size)] for member, _ in kind._fields_]
            self.assertEqual([["sizeof", str(sg._native.c.sizeof(kind))], *fields], promised[name])

    def test_a_library_that_is_not_there_is_said(self):
        code = "import sparsegauge"
        done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"SPARSEGAUGE_LIBRARY": "/nowhere.so"}, capture_output=True, text=True)
        self.assertIn("/nowhere.so", done.stderr)
        self.assertIn("pip install .", done.stderr)


if __name__ == "__main__":
    unittest.main()
