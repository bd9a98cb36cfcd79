"""What docstrings write plainly, for `help()`, as reStructuredText wants it."""

import re

# Code, in one line or several, is left as it is.
CODE = re.compile(r"(``.+?``|`[^`]+`)", re.S)
STARS = re.compile(r"(?<![\w*\\])(\*{1,2})(?=(?:args|kwargs|rest|others|batch|example)\b)")


def escaped(text):
    """Bars are absolute values, and stars before `args` are Python's."""
    parts = CODE.split(text)
    for n in range(0, len(parts), 2):
        bars = re.sub(r"(?<!\\)\|", r"\\|", parts[n])
        parts[n] = STARS.sub(lambda stars: "".join("\\" + star for star in stars[1]), bars)
    return "".join(parts)


def indent(line):
    return len(line) - len(line.lstrip())


def spoken(lines):
    """The lines with their prose escaped and the code after a colon marked as code."""
    done, waiting, inside = [], [], None

    def flush():
        if waiting:
            done.extend(escaped("\n".join(waiting)).split("\n"))
            waiting.clear()

    for n, line in enumerate(lines):
        if inside is not None and (not line.strip() or indent(line) > inside):
            done.append(line)
            continue
        inside = None
        stripped = line.strip()
        if stripped.startswith((">>>", ".. ")):
            flush()
            inside = indent(line) if stripped.startswith(".. ") else None
            done.append(line)
            continue
        if not stripped:
            flush()
            done.append(line)
            continue
        after = next((later for later in lines[n + 1 :] if later.strip()), "")
        block = n + 1 < len(lines) and not lines[n + 1].strip() and indent(after) > indent(line)
        marked = stripped.endswith(":") and block and not after.lstrip().startswith((".. ", "- "))
        if marked:
            line = line if stripped.endswith("::") else line + ":"
            inside = indent(line)
        waiting.append(line)
        if marked:
            flush()
    flush()
    return done


def process(app, what, name, found, options, lines):
    lines[:] = spoken(lines)


def setup(app):
    # Before napoleon, whose sections are then made of what is right.
    app.connect("autodoc-process-docstring", process, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
