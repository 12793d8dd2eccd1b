"""transformers models through our kernels: beside the engine's own runs, beside torch, and refused where they must be."""

import copy
import inspect
import os
import shutil
import tempfile
import unittest
import warnings
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM

import sparsegauge as sg

SOURCE = Path(__file__).resolve().parents[3]
DEMO = SOURCE / "suites" / "demo" / "model"
torch.set_num_threads(1)


def small(kind, **more):
    """A random model of a family, with the bundled model's vocabulary so that the engine can open it too."""
    config = getattr(transformers, kind + "Config")(
        hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        vocab_size=4096, max_position_embeddings=2048, tie_word_embeddings=False, **more)
    torch.manual_seed(3)
    model = getattr(transformers, kind + "ForCausalLM")(config).eval()
    with torch.no_grad():  # attention that looks somewhere: else all tiles are alike
        for m in model.modules():
            if hasattr(m, "q_proj"):
                m.q_proj.weight.mul_(12)
                m.k_proj.weight.mul_(12)
    return model


def text(n, seed=0):
    """Ids in runs of alike ones, as texts have topics."""
    rng = np.random.default_rng(seed)
    topic = rng.integers(0, 4000, (n + 63) // 64)
    return torch.from_numpy(((topic.repeat(64)[:n] + rng.integers(0, 90, n)) % 4096)[None])


def logits(model, ids, **more):
    with torch.no_grad():
        return model(ids, **more).logits


def distance(a, b):
    return float((a - b).norm() / b.norm())


class BesideTheEngine(unittest.TestCase):
    """The same checkpoint and policy: logits within the error that transformers and the engine have dense, ledgers and masks equal."""

    def compare(self, path, n, **settings):
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        engine, ids = sg.Model(path), text(n)
        ids %= engine.shape["vocab_size"]
        dense = distance(logits(model, ids)[0], torch.from_numpy(engine.logits(ids[0].numpy())))
        self.assertLess(dense, 2e-5)
        sg.patch(model, **settings)
        counted = engine.ledger()
        ours = torch.from_numpy(engine.logits(ids[0].numpy(), sg.policy(model), counted))
        sparse = distance(logits(model, ids)[0], ours)
        self.assertLess(sparse, max(5 * dense, 2e-5))
        self.assertEqual(sg.ledger(model).totals, counted.totals)
        self.assertTrue((sg.ledger(model).to_frame() == counted.to_frame()).all().all())
        self.assertGreater(counted.sparsity, .02)
        self.assertGreater(distance(ours, torch.from_numpy(engine.logits(ids[0].numpy()))), 10 * sparse)  # it is not dense
        return model

    def test_the_bundled_model(self):
        model = self.compare(str(DEMO), 1000, topk=.4)
        sg.unpatch(model)
        self.assertIsNone(sg.models._state_of(model))
        self.compare(str(DEMO), 777, layer_range=(2, 6), topk=.3, block="64x64")

    def test_every_family(self):
        for kind in ("Llama", "Mistral", "Qwen2", "Qwen3"):
            with self.subTest(kind), tempfile.TemporaryDirectory() as folder:
                more = {"sliding_window": None} if kind == "Mistral" else {}
                if kind == "Qwen2":
                    del more
                    more = {"use_sliding_window": False}
                small(kind, **more).save_pretrained(folder)
                for name in ("tokenizer.json", "tokenizer_config.json"):
                    shutil.copy(DEMO / name, folder)
                self.compare(folder, 600, topk=.35)

    def test_prediction_alone_is_what_runs(self):
        model = small("Llama")
        ids, n = text(640), 640
        sg.patch(model, method="sparge")
        p = sg.policy(model)
        for h in range(4):
            p.set_head(1, h, simthreshd1=-1, cdfthreshd=.5)
        state = sg.models._state_of(model)
        state.capture, state.last = {1: None}, 5
        logits(model, ids)
        (q, k, v), state.capture = state.capture[1], None
        tiles = sg.predict(q, k, p, layer=1)
        counted = sg.Ledger(3, 4)
        sg.attention(q, k, v, p, layer=1, ledger=counted)
        self.assertEqual(tiles.shape, (4, 5, 10))
        self.assertEqual([int(x.sum()) for x in tiles], [counted.head(1, h)["tiles_computed"] for h in range(4)])
        self.assertGreater(counted.layers[1], 0)


class BesideTorch(unittest.TestCase):
    def setUp(self):
        self.model = small("Llama")
        self.ids = text(700)

    def test_dense_is_torchs_attention(self):
        want = logits(self.model, self.ids)
        sg.patch(self.model, method="dense")
        self.assertLess(distance(logits(self.model, self.ids), want), 1e-5)
        sg.unpatch(self.model)
        self.assertEqual(self.model.config._attn_implementation, "sdpa")
        self.assertTrue(torch.equal(logits(self.model, self.ids), want))

    def test_generation_goes_on_as_torchs_does(self):
        options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
        want = self.model.generate(self.ids, **options)
        sg.patch(self.model, method="dense")
        self.assertTrue(torch.equal(self.model.generate(self.ids, **options), want))
        sg.patch(self.model, topk=.4)
        self.model.generate(self.ids, **options)
        totals = sg.ledger(self.model).totals
        self.assertEqual((totals["calls_sparse"], totals["calls_dense_short"], totals["calls_dense_masked"]), (12, 12 * 11, 0))

    def test_chunks_give_what_the_whole_gives(self):
        sg.patch(self.model, topk=.4)
        want = logits(self.model, self.ids)
        whole = sg.ledger(self.model, reset=True)
        cache, got = transformers.DynamicCache(), []
        name = "cache" if "cache" in inspect.signature(self.model.forward).parameters else "past_key_values"
        for part in (self.ids[:, :256], self.ids[:, 256:640], self.ids[:, 640:]):
            with torch.no_grad():
                got.append(self.model(part, **{name: cache}, use_cache=True).logits)
        self.assertLess(distance(torch.cat(got, 1), want), 1e-5)
        parts = sg.ledger(self.model).totals
        self.assertEqual(parts["calls_dense_masked"], 0)
        self.assertEqual((parts["tiles_computed"], parts["pv_units_computed"]),
                         (whole.totals["tiles_computed"], whole.totals["pv_units_computed"]))

    def test_padding_goes_to_torch_and_is_counted(self):
        batch = torch.cat([self.ids, text(700, 1)])
        mask = torch.ones_like(batch)
        mask[1, :100] = 0
        want = logits(self.model, batch, attention_mask=mask)
        sg.patch(self.model, topk=.4)
        self.assertLess(distance(logits(self.model, batch, attention_mask=mask)[:, 100:], want[:, 100:]), 1e-5)
        self.assertEqual(sg.ledger(self.model, reset=True).totals["calls_dense_masked"], 2 * 3 * 4)
        both = logits(self.model, batch, attention_mask=torch.ones_like(batch))  # which says nothing
        self.assertEqual(sg.ledger(self.model).totals["calls_sparse"], 2 * 3 * 4)
        self.assertLess(distance(both[:1], logits(self.model, self.ids)), 1e-5)

    def test_a_sliding_window_goes_to_torch(self):
        model, ids = small("Mistral", sliding_window=256), self.ids
        want = logits(model, ids)
        sg.patch(model, topk=.4)
        self.assertLess(distance(logits(model, ids), want), 1e-5)
        self.assertEqual(sg.ledger(model).totals["calls_dense_masked"], 3 * 4)

    def test_half_precision_on_the_cpu_is_widened(self):
        model = self.model.to(torch.bfloat16)
        want = logits(model, self.ids)
        sg.patch(model, method="dense")
        got = logits(model, self.ids)
        self.assertEqual(got.dtype, torch.bfloat16)
        self.assertLess(distance(got.float(), want.float()), .02)

    def test_what_cannot_be_done_is_said(self):
        model, ids = self.model, self.ids
        with self.assertRaisesRegex(sg.ArgumentError, "not patched"):
            sg.ledger(model)
        with self.assertRaisesRegex(sg.ArgumentError, "of 2 layers x 4 heads, the model has 3x4"):
            sg.patch(model, sg.Policy(2, 4))
        sg.patch(model)
        with self.assertRaisesRegex(sg.NotSupportedError, "no backward pass"):
            model(ids)
        other = copy.deepcopy(model)
        with self.assertRaisesRegex(sg.ArgumentError, "by name only"):
            logits(other, ids)
        with self.assertRaisesRegex(sg.NotSupportedError, "dropout"):
            sg.models._forward(next(iter(sg.models._attention_modules(model).values())), *[torch.zeros(1, 4, 8, 16)] * 3, None, dropout=.1)
        with self.assertRaisesRegex(OSError, "nowhere"):
            sg.load(model, "/nowhere/tuned.json")
        with self.assertRaisesRegex(sg.NotSupportedError, "BertModel"):
            sg.patch(transformers.BertModel(transformers.BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)))
        logits(model, ids)  # all is as it was


class Tuning(unittest.TestCase):
    def setUp(self):
        self.model = small("Llama")
        self.texts = [text(400 + 8 * i, i)[0] for i in range(4)]

    def test_tune_extract_and_load(self):
        model, options = self.model, {"layer_range": (1, 3), "min_sparsity": 0, "l1": .2, "pv_l1": .25, "smooth_k": "global"}
        tuned = sg.tune(model, self.texts, **options)
        self.assertEqual(tuned.settings["layers"], "1-2")
        frame = tuned.to_frame()
        sparse = frame[frame.is_sparse]
        self.assertGreater(len(sparse), 2)
        self.assertTrue((sparse.error <= .25).all() and (sparse.error_check <= .25).all())
        self.assertIn("pairs of a head and a text", tuned.verdict)
        # One layer at a time finds the same: the model's inputs are the dense ones either way.
        again = sg.tune(model, self.texts, memory=1, **options)
        self.assertTrue(frame.equals(again.to_frame()))
        want = logits(model, text(512))
        self.assertGreater(sg.ledger(model).sparsity, 0)
        with tempfile.TemporaryDirectory() as folder:
            for name in ("tuned.json", "tuned.pt"):
                path = os.path.join(folder, name)
                sg.save(model, path)
                fresh = small("Llama")
                sg.load(fresh, path)
                self.assertTrue(torch.equal(logits(fresh, text(512)), want), name)
            public = torch.load(path, weights_only=True)
            state = sg.extract(model)
            self.assertEqual(sorted(public), sorted(state))
            self.assertTrue(all(torch.equal(public[k], state[k]) and public[k].dtype == state[k].dtype for k in public))
            fresh = small("Llama")
            sg.load(fresh, state)
            self.assertTrue(torch.equal(logits(fresh, text(512)), want))
            # Names of modules: never a silent nothing.
            sg.save(model, path, module="inner_attention")
            self.assertIn("model.layers.1.self_attn.inner_attention.cdfthreshd", torch.load(path, weights_only=True))
            sg.load(fresh, path, module="inner_attention")
            with self.assertRaisesRegex(sg.FormatError, "inner_attention, which the file has"):
                sg.load(fresh, path, module="sparse_attn")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            sg.policy(model).set(smooth_k="running")
            sg.extract(model)
        self.assertIn("neither block nor smooth_k", str(said[-1].message))

    def test_what_cannot_be_tuned_is_said(self):
        with self.assertWarnsRegex(UserWarning, "1 of 4 texts have under 256 tokens"):
            sg.tune(self.model, [*self.texts[:3], text(100)[0]], layers="0", check=1, held_out=1)
        with self.assertRaisesRegex(sg.ArgumentError, "two of the texts are equal"):
            sg.tune(self.model, [self.texts[0]] * 3)
        with self.assertRaisesRegex(sg.ArgumentError, "expected at least 3"):
            sg.tune(self.model, self.texts[:2])
        with self.assertRaisesRegex(sg.ArgumentError, "one string"):
            sg.tune(self.model, "a text")
        with self.assertRaisesRegex(sg.ArgumentError, "no tokenizer"):
            sg.tune(self.model, ["a text"] * 4)
        with self.assertRaisesRegex(sg.ArgumentError, "training mode"):
            sg.tune(self.model.train(), self.texts)
        with self.assertRaisesRegex(sg.ArgumentError, "layers the model lacks|expected|layer"):
            sg.tune(self.model.eval(), self.texts, layer_range=(3, 9))


if __name__ == "__main__":
    unittest.main()
