"""The unit file that lets systemd run the watch: `runner watch --systemd`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from runner.queue.home import Home

UNIT = """\
# runner watch --systemd > ~/.config/systemd/user/runner-watch.service
# systemctl --user daemon-reload && systemctl --user enable --now runner-watch
[Unit]
Description=runner watch {home}
StartLimitIntervalSec=0

[Service]
ExecStart={command}
WorkingDirectory={home}
Environment=PYTHONUNBUFFERED=1
# A restart or an upgrade of the watch leaves the runs alone; the next watch takes them up.
KillMode=process
Restart=always
RestartSec=5
# 75: another watch holds this home. 2, 5: it can't start here, and trying again won't help.
RestartPreventExitStatus=75 2 5
OOMScoreAdjust=-500

[Install]
WantedBy=default.target
"""


def unit(home: Home, arguments: Sequence[str]) -> str:
    command = [sys.executable, "-m", "runner.cli", "watch", "--home", str(home.path), *arguments]
    return UNIT.format(home=str(home.path).replace("%", "%%"), command=shlex.join(command).replace("%", "%%"))
