"""A janitor alone, with no supervisor: `python -m tests.support.janitor_process JSON`.

The JSON object: `toml`, the text of its configuration file or null; `cache`, its cache's directory; `record`,
what the supervisor would tell it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from regproxy.config.directories import Directories
from regproxy.config.sources import assembly
from regproxy.process import boot, janitor
from regproxy.process.boot import Record


def main(argument: str) -> int:
    told = json.loads(argument)
    config = assembly.load(os.environ, told["toml"], "test.toml")
    directories = Directories(Path(told["cache"]), Path(), Path(), ())
    return boot.run(Record(**told["record"]), config, directories, janitor.serve)


if __name__ == "__main__":
    boot.leave(main(sys.argv[1]))
