"""The `nestor` command: studies and trials of a server, and the commands of other installed packages.

Results go to standard output, as JSON with --json. Errors are sentences on standard error. The exit status is 1 after
an error, 2 after a mistyped command, and 130 after Ctrl-C.

`application` joins the commands, which the other modules define by topic. `nestor …` loads all of them at each start,
so slow imports are inside the commands.
"""

from __future__ import annotations

from nestor.cli.application import main as main
