#!/usr/bin/env python3
"""scripts/gpu_check, gpu_bundle and gpu_peers.py without a GPU: made-up programs, archives and records."""
import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

sys.dont_write_bytecode = True
ROOT = Path(__file__).resolve().parent.parent.parent


def load(name):
    loader = importlib.machinery.SourceFileLoader(name, str(ROOT / "scripts" / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


check, bundle = load("gpu_check"), load("gpu_bundle")
GPU = '#!/bin/sh\necho "NVIDIA H200"\n'


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = Path(self.enter(tempfile.TemporaryDirectory()))
        self.script("nvidia-smi", GPU)
        self.enter(mock.patch.dict(os.environ, {"PATH": f"{self.folder}:{os.environ['PATH']}"}))
        self.enter(mock.patch.object(check, "BUNDLE", self.folder / "gpu_bundle"))
        self.enter(mock.patch.object(check, "say", lambda text: None))

    def enter(self, context):
        self.addCleanup(context.__exit__, None, None, None)
        return context.__enter__()

    def script(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def archive(self, commit="abc", programs=()):
        made = self.folder / "made/gpu_bundle"
        for name, text in {"jambalaya": GPU, "libjambalaya_cuda.so": "", **dict(programs)}.items():
            self.script(f"made/gpu_bundle/bin/{name}", text)
        if commit:
            (made / "commit.txt").write_text(commit + "\n")
        with tarfile.open(self.folder / "gpu_bundle.tar.xz", "w:xz") as packed:
            packed.add(made, "gpu_bundle")


class Commit(Case):
    def test_archive_of_another_commit_is_refused(self):
        self.archive("abc")
        with mock.patch.object(check, "checked_out", lambda: "def"), self.assertRaisesRegex(SystemExit, "commit abc.*def"):
            check.Machine()

    def test_archive_without_its_commit_is_refused(self):
        self.archive(None)
        with mock.patch.object(check, "checked_out", lambda: "abc"), self.assertRaisesRegex(SystemExit, "no commit.txt"):
            check.Machine()

    def test_record_names_the_archives_commit_and_its_changes(self):
        self.archive("abc+changes")
        for here in ("abc", "abc+changes", ""):  # without git nothing can be compared
            with mock.patch.object(check, "checked_out", lambda: here):
                self.assertEqual(check.Machine().commit, "abc+changes")

    def test_build_passes_the_archive_over(self):
        self.archive("abc")
        with mock.patch.object(check, "checked_out", lambda: "def"):
            machine = check.Machine(build=True)
        self.assertEqual((machine.commit, machine.bin), ("def", None))

    def test_changes_are_seen(self):
        def git(*arguments):
            subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=self.folder, check=True, stdout=subprocess.DEVNULL)

        git("init", "-q")
        git("add", "nvidia-smi")
        git("commit", "-qm", "one")
        for module in (check, bundle):
            with mock.patch.object(module, "ROOT", self.folder):
                clean = module.checked_out()
                self.assertRegex(clean, "^[0-9a-f]{40}$")
                self.script("nvidia-smi", GPU + "# more\n")
                self.assertEqual(module.checked_out(), clean + "+changes")
                self.script("nvidia-smi", GPU)


class Running(Case):
    def machine(self, **settings):
        self.archive(**settings)
        with mock.patch.object(check, "checked_out", lambda: ""):
            return check.Machine()

    def test_every_program_is_told_the_library(self):
        machine = self.machine()
        code, output, _ = machine.run(["sh", "-c", "echo $JAMBALAYA_CUDA_LIBRARY; echo $OTHER"], OTHER="seen")
        self.assertEqual((code, output.split()), (0, [str(machine.bin / "libjambalaya_cuda.so"), "seen"]))

    def test_a_build_without_the_library_is_refused(self):
        machine = self.machine()
        with self.assertRaisesRegex(SystemExit, "left the CUDA library out"):
            machine.use(self.folder)

    def test_nothing_outlives_its_time(self):
        """As under mpirun: a process group of its own, deaf to SIGTERM."""
        child = ("import os, signal, time; os.setpgid(0, 0); signal.signal(signal.SIGTERM, signal.SIG_IGN); "
                 "print('child', os.getpid(), flush=True); time.sleep(600)")
        machine = self.machine()
        with mock.patch.object(check, "end_session", lambda session, end=check.end_session: end(session, 0.5)):
            code, output, seconds = machine.run(["sh", "-c", f'{sys.executable} -c "{child}" & wait'], timeout=2)
        self.assertEqual(code, 124)
        self.assertLess(seconds, 30)
        self.assertIn("ended after 2 s", output)
        process = int(output.split("child ")[1].split()[0])
        stat = Path(f"/proc/{process}/stat")
        time.sleep(0.1)
        self.assertTrue(not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z")

    def test_tests_that_fail_or_are_missing_are_told(self):
        machine = self.machine(programs={"good_test": "#!/bin/sh\necho \"[  PASSED  ] 3 tests.\"\n[ \"$GTEST_FILTER\" = '*a*' ]\n",
                                         "bad_test": "#!/bin/sh\necho Failure; exit 1\n"})
        (machine.bin.parent / "tests.txt").write_text("good_test *a*\nbad_test\nno_test\n")
        record = check.tests(machine)
        self.assertEqual(record["programs"]["good_test *a*"]["passed"], 3)
        self.assertEqual([f.split()[0].rstrip(":") for f in record["failed"]], ["bad_test", "no_test"])

    def test_kernels_that_were_timed_are_kept_when_one_fails(self):
        row = '{"kernel": "a", "shape": "1", "seconds": 1e-3, "floor_seconds": 5e-4, "binds": "memory", "bytes": 2e9, "flops": 0}'
        bad = '{"kernel": "b", "shape": "2", "failed": "refused"}'
        text = '{"ops": "made up", "copy_bytes_per_second": 4e12, "product_flops": 7e14, "kernels": [%s, %s]}' % (row, bad)
        machine = self.machine(programs={"kernel_benchmark": f"#!/bin/sh\nfor last; do :; done\necho '{text}' > $last\nexit 1\n"})
        record = check.kernels(machine)
        self.assertEqual(record["failed"], ["b: refused"] * 2)
        self.assertEqual(len(record["kernels"]), 2)
        written = check.table({"gpu": "H200", "date": "today", "driver": "1", "commit": "abc", "seconds": 1, "parts": {"kernels": record}})
        self.assertIn("| a | 1 | 1.000 | 0.500 | 2.00 | memory | 2000 |  |", written)
        self.assertIn("| b | 2 | FAILED |", written)


class Bundle(Case):
    def test_chosen_tests_are_those_of_the_kernels(self):
        def test(program, environment, labels=("cuda",), arguments=()):
            return {"command": [str(self.folder / "tests" / program), *arguments],
                    "properties": [{"name": "ENVIRONMENT", "value": ["JAMBALAYA_TEST_DEVICE=cuda", *environment]},
                                   {"name": "LABELS", "value": list(labels)}]}

        stand_in = "JAMBALAYA_EMULATED_OPS=cpu"
        listing = {"tests": [test("op_test", ["GTEST_FILTER=-A.*"]), test("golden_test", [stand_in], ("cuda", "gpu")),
                             test("order_test", [stand_in]), test("emulator_x_test", []),
                             test("gradient_test", [], arguments=["--gtest_filter=*float64*"]),
                             test("both_test", [], arguments=["--gtest_filter=*a*"]), test("both_test", [stand_in], ("cuda", "gpu"))]}
        with mock.patch.object(bundle, "run", lambda command: json.dumps(listing)):
            lines, programs = bundle.cuda_tests(self.folder)
        self.assertEqual(lines, ["both_test", "golden_test", "gradient_test *float64*", "op_test -A.*"])
        self.assertEqual(programs, ["both_test", "golden_test", "gradient_test", "op_test"])


class Peers(Case):
    def test_a_peer_that_fails_does_not_take_the_others_along(self):
        self.script("torch.py", "__version__ = 'made up'\nbfloat16 = None\n"
                    "class cuda:\n    is_available = staticmethod(lambda: True)\n    empty_cache = staticmethod(lambda: None)\n"
                    "def randn(*a, **k):\n    raise RuntimeError('lost\\nmore')\n")
        self.script("transformers.py", "raise ImportError('no transformers')\n")
        done = subprocess.run([sys.executable, str(ROOT / "scripts/peers/gpu_peers.py")], stdout=subprocess.PIPE, text=True,
                              env={**os.environ, "PYTHONPATH": str(self.folder)})
        self.assertEqual(done.returncode, 0)
        record = json.loads([line for line in done.stdout.splitlines() if line.startswith("JSON ")][-1][5:])
        self.assertEqual(record["products"], "failed: RuntimeError: lost")
        self.assertEqual(record["attention"], "failed: RuntimeError: lost")
        self.assertEqual(record["transformers"], "not timed: no transformers")


if __name__ == "__main__":
    unittest.main()
