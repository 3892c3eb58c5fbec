#!/usr/bin/env python3
"""What the Tab key does in a real bash, and in zsh where there is one.

    completion_test.py PROGRAM
"""
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time

PROGRAM = os.path.abspath(sys.argv[1])
MARK = "=DONE="

# (what is typed before Tab, what the line then is); a blank at the end: the word is complete.
CASES = [
    ("jambalaya tok", "jambalaya tokenizer "),
    ("jambalaya tokenizer tr", "jambalaya tokenizer train "),
    ("jambalaya --quiet doc", "jambalaya --quiet doctor "),
    ("jambalaya train c.yaml --res", "jambalaya train c.yaml --resume "),
    ("jambalaya train c.yaml --resume no", "jambalaya train c.yaml --resume none "),
    ("jambalaya train c.yaml --device cu", "jambalaya train c.yaml --device cuda "),
    ("jambalaya train --set train.prec", "jambalaya train --set train.precision="),
    ("jambalaya train --set train.precision=b", "jambalaya train --set train.precision=bf16 "),
    ("jambalaya train some", "jambalaya train some\\ config.yaml "),
    ("jambalaya tokenizer decode --tokenizer unique", "jambalaya tokenizer decode --tokenizer unique.json "),
    ("jambalaya completion z", "jambalaya completion zsh "),
    ("jambalaya generate run --quiet --prec", "jambalaya generate run --quiet --precision "),
]
# What cannot be known stays as it is.
UNKNOWN = [("jambalaya generate run --max-tokens un", "jambalaya generate run --max-tokens un")]


class Shell:
    """An interactive shell on a terminal of its own; `line` types and tells what the line became."""

    def __init__(self, command, setup, folder, show_line):
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.environ.update(TERM="dumb", HOME=folder, PS1="> ", INPUTRC="/dev/null", HISTFILE="/dev/null")
            os.environ["PATH"] = os.path.dirname(PROGRAM) + ":" + os.environ["PATH"]
            os.execvp(command[0], command)
        self.show_line = show_line
        for words in setup:
            self.send(words + "\n")
        self.send("echo '='DONE=\n")  # quoted, so that the echo of this line is not the mark
        self.read_until(MARK)

    def send(self, text):
        os.write(self.terminal, text.encode())

    def read_until(self, mark):
        text, end = "", time.monotonic() + 60
        while mark not in text:
            if time.monotonic() > end or not select.select([self.terminal], [], [], 60)[0]:
                raise SystemExit(f"FAILED: no answer in a minute; so far: {text!r}")
            text += os.read(self.terminal, 65536).decode(errors="replace")
        return text

    def line(self, typed):
        """Control-X Control-P prints the line as it is between brackets and empties it."""
        self.send(typed + "\t\x18\x10")
        text = self.read_until(">>]")
        return re.search(r"\[<<(.*)>>\]", text, re.S).group(1)

    def close(self):
        os.close(self.terminal)
        os.waitpid(self.pid, 0)


def bash(folder):
    setup = [
        "bind 'set bell-style none'",
        "bind 'set show-all-if-ambiguous off'",
        "show() { printf '[%s%s%s]\\n' '<''<' \"$READLINE_LINE\" '>''>'; READLINE_LINE=; READLINE_POINT=0; }",
        "bind -x '\"\\C-x\\C-p\": show'",
        "source <(jambalaya completion bash)",
    ]
    return Shell(["bash", "--norc", "--noprofile", "-i"], setup, folder, "show")


def zsh(folder):
    functions = os.path.join(folder, "functions")
    os.mkdir(functions)
    with open(os.path.join(functions, "_jambalaya"), "w") as file:
        subprocess.run([PROGRAM, "completion", "zsh"], stdout=file, check=True)
    setup = [
        "unsetopt beep prompt_cr prompt_sp; setopt no_zle_bracketed_paste 2>/dev/null; unset zle_bracketed_paste",
        f"fpath=({functions} $fpath); autoload -Uz compinit; compinit -u -D",
        "show() { print -r -- '[<''<'\"$BUFFER\"'>''>]'; BUFFER=; }; zle -N show; bindkey '^X^P' show",
    ]
    return Shell(["zsh", "-f", "-i"], setup, folder, "show")


def check(name, shell, cases):
    wrong = 0
    for typed, want in cases:
        got = shell.line(typed)
        if got != want:
            print(f"FAILED: {name}: {typed!r} became {got!r}, not {want!r}")
            wrong += 1
    shell.close()
    print(f"{name}: {len(cases) - wrong} of {len(cases)} lines are completed")
    return wrong


def main():
    try:
        for end in os.openpty():
            os.close(end)
    except OSError as error:
        print(f"skipped: {error} (is /dev/pts mounted?)")
        return 77
    wrong = 0
    for name, start in [("bash", bash), ("zsh", zsh)]:
        if not shutil.which(name):
            print(f"{name}: not here, left out")
            continue
        with tempfile.TemporaryDirectory() as folder:
            for file in ["some config.yaml", "unique.json"]:
                open(os.path.join(folder, file), "w").close()
            wrong += check(name, start(folder), CASES + UNKNOWN)
    return 1 if wrong else 0


sys.exit(main())
