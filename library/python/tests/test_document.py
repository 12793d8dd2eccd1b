"""The code of docs/library.md, as it stands there."""

import doctest
import os
import sys
import tempfile
import unittest
from pathlib import Path

from test_models import SOURCE, small, text


def load_tests(loader, tests, ignore):
    folder = tempfile.TemporaryDirectory()
    here = os.getcwd()
    tests.addTests(doctest.DocFileSuite(
        str(SOURCE / "docs" / "library.md"), module_relative=False,
        globs={"small_model": lambda: small("Llama"), "texts": [text(400 + 8 * i, i)[0] for i in range(4)], "prompt": text(512)},
        setUp=lambda test: os.chdir(folder.name), tearDown=lambda test: (os.chdir(here), folder.cleanup())))
    return tests


class Document(unittest.TestCase):
    def test_the_guides_blocks_are_there(self):
        blocks = (SOURCE / "docs" / "library.md").read_text().count("```python\n>>>")
        self.assertGreaterEqual(blocks, 5)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    unittest.main()
